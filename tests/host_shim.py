"""Our CUDA kernels on a CPU: a few macros, a loop over blocks and threads, and the C++ compiler."""

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")

PRELUDE = """
#include <cmath>
using namespace std;
#define __global__
#define __device__ static
struct place { unsigned x; };
static place blockIdx, threadIdx, blockDim, gridDim;
"""

KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')

#: as declared → (ctypes, NumPy scalar that a launch must be given)
NUMBERS = {"index_t": (ctypes.c_longlong, np.int64), "float": (ctypes.c_float, np.float32)}
NUMBERS["double"] = (ctypes.c_double, np.float64)


@functools.cache
def folder():
    """For compiled kernels, as long as the tests run."""
    return tempfile.TemporaryDirectory(prefix="bpl_neuro_kernels")


def parameters(text):
    """(type, name, whether a pointer) of each parameter."""
    found = []
    for declared in text.split(","):
        *kind, name = declared.replace("*", " * ").split()
        found.append((next(word for word in kind if word not in ("const", "*")), name, "*" in kind))
    return found


class HostModule:
    """Compiled kernels of a source text."""

    def __init__(self, code, options):
        self.real = next(option.split("=")[1] for option in options if option.startswith("-DREAL="))
        self.kernels = {name: parameters(text) for name, text in KERNEL.findall(code)}
        launchers = []
        for name, own in self.kernels.items():
            declared = ", ".join(f"{kind} {'*' * pointer}{p}" for kind, p, pointer in own)
            called = ", ".join(p for _, p, _ in own)
            launchers.append(
                f'extern "C" void host_{name}(unsigned blocks, unsigned threads, {declared}) {{\n'
                "    gridDim.x = blocks; blockDim.x = threads;\n"
                "    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)\n"
                "        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)\n"
                f"            {name}({called});\n}}\n"
            )
        self.library = ctypes.CDLL(_compiled("\n".join([PRELUDE, code, *launchers]), self.real))

    def launch(self, name, grid, block, args):
        """As CuPy's: ``kernel(grid, block, args)``, with pointers for arrays."""
        own = self.kernels[name]
        assert len(own) == len(args), f"{name} takes {len(own)} arguments, got {len(args)}"
        values = [ctypes.c_uint(grid[0]), ctypes.c_uint(block[0])]
        real = np.dtype(NUMBERS[self.real][1])
        for (kind, parameter, pointer), value in zip(own, args, strict=True):
            kind = self.real if kind == "REAL" else kind
            if pointer and isinstance(value, np.ndarray):
                assert value.dtype == real, f"{name}: {parameter} must be {real}, got {value.dtype}"
                values.append(ctypes.c_void_p(value.ctypes.data))
            elif pointer:
                assert isinstance(value, np.uintp) and value == 0, (
                    f"{name}: {parameter} must be an array, got {value!r}"
                )
                values.append(ctypes.c_void_p(0))
            else:
                declared, scalar = NUMBERS[kind]
                assert type(value) is scalar, f"{name}: {parameter} must be {scalar}, got {type(value)}"
                values.append(declared(value))
        getattr(self.library, f"host_{name}")(*values)


@functools.cache
def _compiled(source, real):
    path = Path(folder().name) / hashlib.sha256(f"{real}{source}".encode()).hexdigest()[:24]
    path.with_suffix(".cpp").write_text(source, encoding="utf-8")
    command = [COMPILER, "-std=c++14", "-O1", "-w", "-shared", "-fPIC", f"-DREAL={real}", "-x", "c++"]
    subprocess.run([*command, str(path.with_suffix(".cpp")), "-o", str(path)], check=True)
    return str(path)
