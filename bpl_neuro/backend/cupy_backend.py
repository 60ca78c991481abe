"""CuPy on an NVIDIA GPU: the only importer of cupy.

Arrays, matrix products and reductions are CuPy's; what is done at every step of every neuron or synapse are kernels of
our own (kernels.cu and `cuda_source`), one for each map, trace and update. Nothing moves between host and device but by
`asarray` and `to_host`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sympy as sp

from bpl_neuro.backend.cuda_source import COMMON, elementwise_source, local_pass_source
from bpl_neuro.backend.numpy_backend import real_dtype
from bpl_neuro.backend.step_loops import StepLoops
from bpl_neuro.errors import BackendError
from bpl_neuro.model.codegen import array_function

__all__ = ["CupyBackend"]

#: threads of a block
THREADS = 256
OPTIONS = ("-std=c++14",)
C_NAMES = {"float32": "float", "float64": "double"}


class CupyBackend(StepLoops):
    """Array namespace `xp`, conversions to and from host arrays, and the operations with a kernel of their own.

    `NumpyBackend` has the same methods, and says what they do.

    Parameters
    ----------
    cupy : module, optional
        CuPy; imported by default.

    Raises
    ------
    BackendError
        If CuPy is not installed, or finds no GPU.
    """

    name = "cupy"
    #: bytes of a product of matrices, trial by trial, that is made at once
    chunk = 2**28

    def __init__(self, cupy: Any = None) -> None:
        self.xp = _cupy() if cupy is None else cupy
        self._kernels: dict[tuple[str, str, str], Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> CupyBackend:
        return self  # compiled kernels are shared

    def __repr__(self) -> str:
        return "CupyBackend()"

    def dtype(self, dtype: Any) -> np.dtype[Any]:
        """float32 or float64."""
        return real_dtype(dtype)

    def owns(self, values: Any) -> bool:
        """Whether these are arrays on the device already."""
        return isinstance(values, self.xp.ndarray)

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        """An array on the device from host values, or from one there."""
        return self.xp.asarray(values, dtype)

    def to_host(self, array: Any) -> np.ndarray:
        """A NumPy array with the same values."""
        return self.xp.asnumpy(array)

    def read_only(self, array: Any) -> Any:
        """The array itself: CuPy has no read-only views."""
        return array

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated on the device: free there, or held by CuPy's pool and unused."""
        return int(self.xp.cuda.runtime.memGetInfo()[0] + self.xp.get_default_memory_pool().free_bytes())

    def elementwise(
        self,
        name: str,
        arguments: Sequence[Sequence[sp.Symbol]],
        results: Sequence[sp.Expr],
        *,
        first: int | None = None,
    ) -> Callable[..., tuple[Any, ...]]:
        """Compile expressions to one kernel for all results."""
        return _Elementwise(self, name, arguments, list(results)[:first])

    def write(self, function: Callable[..., tuple[Any, ...]], out: Sequence[Any], *groups: Sequence[Any]) -> Any:
        """Call what `elementwise` made, and have its first results written where `out` says; returns all of them."""
        return function(*groups, out=out)

    def side_by_side(
        self, function: Callable[..., tuple[Any, ...]], shape: tuple[int, int, int], dtype: Any, *groups: Sequence[Any]
    ) -> Any:
        """Call what `elementwise` made: its P results for (B, N) places in one array of shape (B, P, N)."""
        made = self.xp.empty(shape, dtype)
        function(*groups, out=[made[:, p] for p in range(shape[1])])
        return made

    def add_outer(self, target: Any, slope: Any, z: Any) -> None:
        """target[b, a, j] += slope[b, a] z[b, j], in place; `slope` may be a number."""
        size = target.shape
        if _has_axes(slope):
            slope_arguments = [*self.pointer(slope, size[:2]), target.dtype.type(0)]
        else:
            slope_arguments = [np.uintp(0), np.int64(0), np.int64(0), target.dtype.type(slope)]
        where = (size[0], size[2])
        self.launch("add_outer", COMMON, target, target.size, [
            *map(np.int64, size), *self.pointer(target, size), *slope_arguments, *self.pointer(z, where),
        ])  # fmt: skip

    def local_pass(
        self,
        e: Any,
        F: Mapping[tuple[int, int], Any],
        G: Mapping[tuple[int, int], Any],
        z: Any,
        out: Any = None,
        *,
        late: Sequence[Any] | None = None,
        now: Sequence[Any] | None = None,
    ) -> None:
        """Move traces on and sum what errors make of them: each trace is read once and written once."""
        S, B, N, P, m = e.shape
        entries = [tuple((*key, _has_axes(value)) for key, value in part.items()) for part in (F, G)]
        source = local_pass_source("local_pass", S, P, *entries, late is not None, now is not None)
        arguments = [*map(np.int64, (B, N, m)), *self.pointer(e, e.shape)[:4], *self.pointer(z, (B, m))]
        for entry in (*F.values(), *G.values(), *(late or ()), *(now or ())):
            arguments += self.pointer(entry, (B, N)) if _has_axes(entry) else [e.dtype.type(entry)]
        if late is not None or now is not None:
            arguments += self.pointer(out, (P, N, m))
        self.launch("local_pass", source, e, N * m, arguments)

    def trace_sum(self, e: Any, signal: Sequence[Any], out: Any) -> None:
        """Σ_B Σ_l signal_l e_l; e stays."""
        self.local_pass(e, {}, {}, e[0, :, 0, 0], out, now=signal)  # the kernel wants some z, and makes nothing of it

    def adam(
        self, parameter: Any, gradient: Any, m: Any, v: Any, out: tuple[Any, Any, Any] | None = None, *,
        rate: float, beta1: float, beta2: float, correction2: float, epsilon: float, most: float = math.inf,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        """New parameter and moments, in one pass."""
        # in C order, as the kernel goes through them, whatever the order of the arguments
        new = out or tuple(self.xp.empty(parameter.shape, parameter.dtype) for _ in range(3))
        real = parameter.dtype.type
        arrays = [self.xp.ascontiguousarray(a) for a in (parameter, gradient, m, v)]
        numbers = map(real, (rate, beta1, 1 - beta1, beta2, 1 - beta2, correction2, epsilon, most))
        self.launch("adam", COMMON, parameter, parameter.size, [np.int64(parameter.size), *arrays, *numbers, *new])
        return new

    def launch(self, name: str, source: str, like: Any, size: int, arguments: Sequence[Any]) -> None:
        """Run a kernel of a source text, in the precision of `like`, with a thread for each of `size` places."""
        key = (name, source, like.dtype.name)
        if key not in self._kernels:
            options = (*OPTIONS, f"-DREAL={C_NAMES[like.dtype.name]}")
            self._kernels[key] = self.xp.RawModule(code=source, options=options).get_function(name)
        if size:
            blocks = min(-(-size // THREADS), 2**20)
            self._kernels[key]((blocks,), (THREADS,), tuple(arguments))

    def pointer(self, array: Any, shape: Sequence[int]) -> list[Any]:
        """An array as a kernel takes it: itself, and a stride for each axis of `shape`, 0 where it is broadcast.

        Raises
        ------
        BackendError
            For an array of the host.
        """
        if not self.owns(array):
            raise BackendError(f"a kernel was given a {type(array).__name__} of the host in the place of a CuPy array")
        missing = len(shape) - array.ndim
        strides = [0] * missing + [
            0 if size == 1 and wanted != 1 else stride // array.itemsize
            for size, wanted, stride in zip(array.shape, shape[missing:], array.strides, strict=True)
        ]
        if any(size not in (1, wanted) for size, wanted in zip(array.shape, shape[missing:], strict=True)):
            raise BackendError(f"a kernel over {tuple(shape)} was given an array of shape {array.shape}")
        return [array, *map(np.int64, strides)]


class _Elementwise:
    """Expressions as one kernel; those that depend on no array come back as numbers, computed on the host."""

    def __init__(
        self, backend: CupyBackend, name: str, groups: Sequence[Sequence[sp.Symbol]], results: Sequence[sp.Expr]
    ) -> None:
        self.backend, self.name, self.results = backend, f"map_{name}", results
        self.groups = groups
        self.symbols = [symbol for group in groups for symbol in group]
        self._made: dict[tuple[bool, ...], tuple[list[int], str, Callable[..., tuple[Any, ...]]]] = {}

    def __call__(self, *groups: Sequence[Any], out: Sequence[Any] = ()) -> tuple[Any, ...]:
        inputs: list[Any] = [  # a group that no result needs may be left empty
            values[j] if j < len(values) else 0.0
            for symbols, values in zip(self.groups, groups, strict=True)
            for j in range(len(symbols))
        ]
        arrays = tuple(_has_axes(value) for value in inputs)
        if arrays not in self._made:
            self._made[arrays] = self._compile(arrays)
        computed, source, on_host = self._made[arrays]
        outputs: list[Any] = [None] * len(self.results)
        numbers = iter(on_host([0.0 if array else value for array, value in zip(arrays, inputs, strict=True)]))
        for k in range(len(outputs)):
            if k not in computed:
                outputs[k] = next(numbers)
                if k < len(out):
                    out[k][...] = outputs[k]
        if computed:
            xp, like = self.backend.xp, next(value for value, array in zip(inputs, arrays, strict=True) if array)
            shape = np.broadcast_shapes(*(value.shape for value, array in zip(inputs, arrays, strict=True) if array))
            rows, columns = (1, *shape)[-2:]
            arguments = [np.int64(rows), np.int64(columns)]
            for value, array in zip(inputs, arrays, strict=True):
                arguments += self.backend.pointer(value, (rows, columns)) if array else [like.dtype.type(value)]
            made = xp.empty((sum(k >= len(out) for k in computed), *shape), like.dtype)
            fresh = iter(made)
            for k in computed:
                outputs[k] = out[k] if k < len(out) else next(fresh)
                arguments += self.backend.pointer(outputs[k], (rows, columns))
            self.backend.launch(self.name, source, like, rows * columns, arguments)
        return tuple(outputs)

    def _compile(self, arrays: tuple[bool, ...]) -> tuple[list[int], str, Callable[..., tuple[Any, ...]]]:
        """Which results depend on an array, the kernel that computes them, and a function for the others."""
        moving = {symbol for symbol, array in zip(self.symbols, arrays, strict=True) if array}
        computed = [k for k, expr in enumerate(self.results) if expr.free_symbols & moving]
        source = elementwise_source(self.name, self.symbols, [self.results[k] for k in computed], arrays)
        others = [expr for k, expr in enumerate(self.results) if k not in computed]
        return computed, source, array_function(self.name, [self.symbols], others, np)


def _has_axes(value: Any) -> bool:
    """Whether an argument is an array rather than a number."""
    return getattr(value, "ndim", 0) > 0


def _cupy() -> Any:
    """CuPy, if it is there and finds a GPU."""
    try:
        import cupy
    except Exception as error:  # a broken installation raises anything, not an ImportError alone
        what = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise BackendError(
            f'`backend` = "cupy" needs CuPy, which cannot be imported ({what}): pip install "bpl_neuro[cuda]"'
        ) from None
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except AttributeError as error:  # a module of that name, without what CuPy has
        raise BackendError(f'`backend` = "cupy": what is imported as cupy is not CuPy, or broken: {error}') from None
    except Exception as error:
        raise BackendError(f'`backend` = "cupy" needs an NVIDIA GPU and its driver: {error}') from None
    if not devices:
        raise BackendError('`backend` = "cupy" needs an NVIDIA GPU, and CuPy finds none')
    return cupy
