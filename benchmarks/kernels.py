"""Compile every CUDA kernel for sm_80 and sm_90: python benchmarks/kernels.py [--json FILE] [model …].

With NVRTC itself (package nvidia-cuda-nvrtc-cu12), which needs neither a GPU nor its driver. Printed are the registers
of a thread and the bytes it spills; both depend on the model's equations, so each shipped model's kernels are compiled.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro.backend.cuda_source import COMMON
from bpl_neuro.backend.cupy_backend import C_NAMES, OPTIONS, CupyBackend
from bpl_neuro.rules.traces.local import LocalTrace

ARCHITECTURES = ("sm_80", "sm_90")


class Collecting(CupyBackend):
    """Notes which kernels would be launched, and launches none."""

    def __init__(self) -> None:
        super().__init__(np)
        self.sources: dict[str, str] = {}
        self.model = self.note = ""

    def launch(self, name, source, like, size, arguments):
        shared = name in ("add_outer", "adam")
        self.sources.setdefault(name if shared else f"{name}, {self.model}{self.note}", source)

    def trace_sum(self, e, signal, out):
        self.note = ", sum alone"  # `local_pass` without its moving on
        super().trace_sum(e, signal, out)
        self.note = ""


def kernels(models: list[str]) -> dict[str, str]:
    """Every kernel's source, by name and model."""
    backend = Collecting()
    for name in models:
        backend.model = name
        model = bpl.Model.load(name)
        circuit = bpl.Circuit(model, dict.fromkeys(model.populations, 3), 2, backend=backend)
        synthesiser = bpl.Synthesiser(circuit)
        with np.errstate(all="ignore"):
            step = circuit.step(circuit.initial_state(2), np.zeros((2, 2)))
            circuit.step(step.new, np.zeros((2, 2)), linearise=False)
            step.vjp(np.zeros((2, circuit.n)))
            response = synthesiser(synthesiser.z(step), synthesiser.initial_theta())
            trace = LocalTrace(synthesiser, 0.9)
            carry = trace.step(trace.init(2, 1), step, response)
            trace.collect(carry, np.zeros((2, circuit.n)))
            synthesiser.add_jacobian(np.zeros((2, synthesiser.n, synthesiser.layout.size)), response, 1.0)
            eligibility = bpl.rules.EProp(circuit).eligibility
            ones = np.ones((2, circuit.n))
            backend.model = f"{name}, e-prop"
            eligibility.advance(eligibility.init(2), step, now=ones, late=ones)
    bpl.Adam().step(backend, circuit.psi, circuit.psi, bpl.Adam().init(backend, circuit.psi))
    return backend.sources


class NVRTC:
    """NVIDIA's run-time compiler."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("nvidia")
        found = [path for place in (spec.submodule_search_locations if spec else ()) for path in library(place)]
        if not found:
            raise SystemExit("needs NVRTC: pip install nvidia-cuda-nvrtc-cu12")
        self.lib = ctypes.CDLL(str(found[0]))

    def compile(self, source: str, options: list[str]) -> str:
        """What the assembler says of it; SystemExit if it does not compile."""
        program = ctypes.c_void_p()
        self.lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = self.lib.nvrtcCompileProgram(program, len(options), given)
        size = ctypes.c_size_t()
        self.lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.lib.nvrtcGetProgramLog(program, log)
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        if failed:
            raise SystemExit(f"{' '.join(options)}:\n{log.value.decode()}")
        return log.value.decode()


def library(place: str) -> list[Path]:
    """NVRTC in a folder of NVIDIA's packages."""
    return sorted(Path(place).glob("cuda_nvrtc/lib/libnvrtc.so.*[0-9]"))


def usage(log: str, kernel: str) -> dict[str, int]:
    """Registers of a thread, and bytes spilled, from the assembler's words."""
    own = log[log.index(f"Compiling entry function '{kernel}'") :]
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", own)
    registers = re.search(r"Used (\d+) registers", own)
    if not (spilled and registers):
        raise SystemExit(f"no registers in the log of {kernel}:\n{log}")
    return {"registers": int(registers[1]), "spilled": int(spilled[1]) + int(spilled[2])}


def main(path: str | None, models: list[str]) -> None:
    """Print the table, and write JSON."""
    nvrtc, results, console = NVRTC(), {}, Console(width=100)
    columns = [(architecture, real) for architecture in ARCHITECTURES for real in C_NAMES.values()]
    table = Table(
        "kernel, model",
        *(f"{architecture} {real}" for architecture, real in columns),
        title="registers (bytes spilled)",
    )
    together: dict[str, dict[str, str]] = {}  # of a model: each kernel without what all have in common
    for label, source in kernels(models or bpl.available_models()).items():
        together.setdefault(label.partition(", ")[2], {})[label] = source.removeprefix(COMMON)
    for own in together.values():
        logs = []
        for architecture, real in columns:
            options = [*OPTIONS, f"-DREAL={real}", f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
            logs.append(nvrtc.compile(COMMON + "".join(own.values()), options))
        for label in own:
            row = []
            for (architecture, real), log in zip(columns, logs, strict=True):
                found = usage(log, label.split(",")[0])
                results[f"{label}, {architecture}, {real}"] = found
                row.append(f"{found['registers']} ({found['spilled']})")
            table.add_row(label, *row)
    console.print(table)
    if path:
        Path(path).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    written = sys.argv[2] if sys.argv[1:2] == ["--json"] else None
    main(written, sys.argv[3 if written else 1 :])
