"""C on the CPU, compiled on the user's machine: NumPy's arrays, and loops made from the equations.

What is compiled: a population's map, linearisation, rates and what takes errors back through it; traces and Adam; the
loops over whole trials, forth and back. Everything else, and every case that these do not cover, is NumPy's.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from bpl_neuro.backend.c_arguments import PYTHON, address, gemm, several, views
from bpl_neuro.backend.c_loops import carry_back, carry_kept, carry_within, roll
from bpl_neuro.backend.c_source import kernel_source, local_pass_source, loops_source
from bpl_neuro.backend.compiler import compiled
from bpl_neuro.backend.numpy_backend import NumpyBackend
from bpl_neuro.backend.step_loops import Factors, Run
from bpl_neuro.model.codegen import array_function

__all__ = ["CBackend", "Elementwise"]

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


@dataclass(frozen=True)
class CBackend(NumpyBackend):
    """`NumpyBackend`, which says what the methods do, with compiled loops in the place of NumPy's.

    NumPy's form is taken by `elementwise` for arrays of more than two axes or of several types, by `roll` where a state
    or a rate depends on no state and no input, and by `carry_back` where weights moved on the way.

    Raises
    ------
    BackendError
        Where there is no compiler, or it fails.
    """

    name: str = "c"

    def __post_init__(self) -> None:
        loops(DOUBLE)  # so that what is missing is said at once

    def elementwise(
        self,
        name: str,
        arguments: Sequence[Sequence[sp.Symbol]],
        results: Sequence[sp.Expr],
        *,
        first: int | None = None,
    ) -> Callable[..., tuple[Any, ...]]:
        """Expressions as one loop for all results, compiled when it is first called."""
        return Elementwise(name, arguments, results, first)

    def write(self, function: Callable[..., tuple[Any, ...]], out: Sequence[Any], *groups: Sequence[Any]) -> Any:
        """Call what `elementwise` made, and have its first results written where `out` says; returns all of them."""
        return function(*groups, out=out)

    def side_by_side(
        self, function: Callable[..., tuple[Any, ...]], shape: tuple[int, int, int], dtype: Any, *groups: Sequence[Any]
    ) -> Any:
        """Call what `elementwise` made: its P results for (B, N) places in one array of shape (B, P, N)."""
        made = np.empty(shape, dtype)
        function(*groups, out=[made[:, p] for p in range(shape[1])])
        return made

    def add_outer(self, target: Any, slope: Any, z: Any) -> None:
        """target[b, a, j] += slope[b, a] z[b, j], in place; `slope` may be a number."""
        B, R, m = target.shape
        if target.strides[2] != target.itemsize or z.dtype != target.dtype:
            return super().add_outer(target, slope, z)
        slope, z = np.broadcast_to(np.asarray(slope, target.dtype), (B, R)), np.ascontiguousarray(z)
        places = views(with_python(target.dtype), [target, slope, z])
        loops(target.dtype).add_outer(*map(ctypes.c_int64, (B, R, m)), places)
        return None

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
        values = [*F.values(), *G.values()]
        there = [value for value in (*values, *(late or ()), *(now or ()), z) if np.ndim(value)]
        inside = e.strides[3] == m * e.itemsize and e.strides[4] == e.itemsize
        if any(value.dtype != e.dtype for value in there) or not inside or not e.size:
            return super().local_pass(e, F, G, z, out, late=late, now=now)
        entries = [tuple((*key, np.ndim(value) > 0) for key, value in part.items()) for part in (F, G)]
        source = local_pass_source(S, P, *entries, late is not None, now is not None, e.dtype == SINGLE)
        arrays = [np.ascontiguousarray(z), *(value for value in values if np.ndim(value)), *(late or ()), *(now or ())]
        if late is not None or now is not None:
            arrays.append(out)
        numbers = np.array([value for value in values if not np.ndim(value)] or [0], e.dtype)
        steps = (stride // e.itemsize for stride in e.strides[:3])
        compiled(source).local_pass(
            *map(ctypes.c_int64, (B, N, m)), ctypes.c_void_p(address(e)), *map(ctypes.c_int64, steps),
            views(with_python(e.dtype), arrays), ctypes.c_void_p(address(numbers)),
        )  # fmt: skip
        return None

    def trace_sum(self, e: Any, signal: Sequence[Any], out: Any) -> None:
        """Σ_B Σ_l signal_l e_l; e stays."""
        self.local_pass(e, {}, {}, e[0, :, 0, 0], out, now=signal)  # some z, of which nothing is made

    def adam(
        self, parameter: Any, gradient: Any, m: Any, v: Any, out: tuple[Any, Any, Any] | None = None, *,
        rate: float, beta1: float, beta2: float, correction2: float, epsilon: float, most: float = math.inf,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        """New parameter and moments, in one pass."""
        dtype = parameter.dtype
        new = out or tuple(np.empty(parameter.shape, dtype) for _ in range(3))
        if any(array.dtype != dtype for array in (gradient, m, v, *new)):
            return super().adam(
                parameter, gradient, m, v, out, rate=rate, beta1=beta1, beta2=beta2, correction2=correction2,
                epsilon=epsilon, most=most,
            )  # fmt: skip
        numbers = np.array([rate, beta1, 1 - beta1, beta2, 1 - beta2, correction2, epsilon, most], dtype)
        arrays = [*map(np.ascontiguousarray, (parameter, gradient, m, v)), *new, numbers]
        pointers = [ctypes.c_void_p(place.at) for place in views(with_python(dtype), arrays)]
        loops(dtype).adam(ctypes.c_int64(parameter.size), *pointers)
        return new  # type: ignore[return-value]

    def roll(
        self,
        circuit: Any,
        run: Run,
        x: Any,
        *,
        end: Any = None,
        rng: np.random.Generator | None = None,
        linearise: bool = True,
    ) -> Factors:
        """All steps of a run in one call, linearised on the way."""
        made = roll(self, circuit, run, end, rng, linearise)
        return super().roll(circuit, run, x, end=end, rng=rng, linearise=linearise) if made is None else made

    def carry_back(
        self, ways: Any, errors: Any, going_on: Any, decay: float = 1.0, part: str = "both", *, give: str = "sums"
    ) -> Any:
        """Errors back through whole trials in one call."""
        if ways.moved is not None:
            return super().carry_back(ways, errors, going_on, decay, part, give=give)
        return carry_back(self, ways, errors, going_on, decay, part, give)

    def carry_within(
        self,
        ways: Any,
        errors: Any,
        going_on: Any,
        decay: float,
        blocks: Sequence[Mapping[tuple[int, int], Any]],
        *,
        give: str = "sums",
    ) -> Any:
        """The same within neurons."""
        return carry_within(self, ways, errors, going_on, decay, blocks, give)

    def carry_kept(self, kept: Any, carry: Any, errors: Any, visited: range, part: str = "both") -> Any:
        """The same through kept steps."""
        return carry_kept(self, kept, carry, errors, visited, part)

    def loops(self, dtype: np.dtype[Any]) -> ctypes.CDLL:
        """`loops.c` in a precision."""
        return loops(dtype)

    def views(self, arrays: Sequence[np.ndarray], dtype: np.dtype[Any]) -> Any:
        """Views of arrays, all of one type."""
        return views(with_python(dtype), arrays)

    def gemm(self, dtype: np.dtype[Any]) -> int:
        """The address of BLAS's matrix product."""
        return gemm(dtype)


@functools.cache
def loops(dtype: np.dtype[Any]) -> ctypes.CDLL:
    """`loops.c` in a precision."""
    return compiled(loops_source(dtype == SINGLE))


@functools.cache
def with_python(dtype: np.dtype[Any]) -> ctypes.PyDLL:
    """The same, for functions that look at Python's objects."""
    return ctypes.PyDLL(loops(dtype)._name)


class Elementwise:
    """Expressions as compiled loops, one for each pattern of arrays and numbers that they are called with.

    What depends on arrays of the most axes is computed there; the rest, of parameters alone, by NumPy.
    """

    def __init__(
        self, name: str, groups: Sequence[Sequence[sp.Symbol]], results: Sequence[sp.Expr], first: int | None
    ) -> None:
        self.name, self.groups, self.results, self.first = name, groups, tuple(results), first
        self.symbols = [symbol for group in groups for symbol in group]
        self.size = len(self.results[:first])
        self._made: dict[Any, Compiled] = {}
        #: where there is nothing to compute, NumPy's form costs least
        self.plain = all(expr.is_Symbol or not expr.free_symbols for expr in self.results[:first])

    def __call__(self, *groups: Sequence[Any], out: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Results for groups of (B, N) or (N,) arrays and numbers; the first are written into `out`."""
        if self.plain:
            return self._by_numpy(groups, out)
        inputs: list[Any] = [value for values in groups for value in values]
        if len(inputs) != len(self.symbols):
            inputs = self._filled(groups)
        axes = tuple([getattr(value, "ndim", 0) for value in inputs])
        arrays = [value for value in inputs if getattr(value, "ndim", 0)]
        kinds = [array.dtype for array in (*arrays, *out)]
        top, kind = max(axes, default=0), kinds[0] if arrays else None
        if top not in (1, 2) or kind not in (SINGLE, DOUBLE) or kinds.count(kind) != len(kinds):
            return self._by_numpy(groups, out)
        made = self.compiled(axes, kind == SINGLE, passing=True)
        outputs: list[Any] = [None] * self.size
        for k, place in made.passed:
            outputs[k] = inputs[place]
            if k < len(out):
                out[k][...] = outputs[k]
        if made.others:
            for k, value in zip(made.others, made.on_host(inputs), strict=True):
                outputs[k] = value
                if k < len(out):
                    out[k][...] = value
        if made.computed:
            shape = inputs[axes.index(top)].shape
            wanted = [k for k in made.computed if k >= len(out)]
            outputs[: len(out)] = [out[k] if k in made.computed else outputs[k] for k in range(len(out))]
            for k, place in zip(wanted, np.empty((len(wanted), *shape), kind), strict=True):
                outputs[k] = place
            fits = with_python(kind).elementwise_of(
                PYTHON, made.kernel, made.numbers(inputs), ctypes.c_int64(shape[-2] if top == 2 else 1),
                ctypes.c_int64(shape[-1]), made.arguments, made.wanted,
                ctypes.py_object((*arrays, *[outputs[k] for k in made.computed])),
            )  # fmt: skip
            if not fits:
                return self._by_numpy(groups, out)
        return tuple(outputs)

    def _filled(self, groups: Sequence[Sequence[Any]]) -> list[Any]:
        """The arguments, with zeros for a group that no result needs and that was left empty."""
        return [
            values[j] if j < len(values) else 0.0
            for symbols, values in zip(self.groups, groups, strict=True)
            for j in range(len(symbols))
        ]

    def compiled(self, axes: tuple[int, ...], single: bool, passing: bool = False) -> Compiled:
        """The loop for arguments of so many axes (0: numbers); with `passing` but for results that are arguments."""
        key = axes, single, passing
        if key not in self._made:
            self._made[key] = Compiled(self, axes, single, passing)
        return self._made[key]

    @functools.cached_property
    def by_numpy(self) -> Callable[..., tuple[Any, ...]]:
        """NumPy's form."""
        return array_function(self.name, self.groups, self.results, np, first=self.first)

    def _by_numpy(self, groups: Sequence[Sequence[Any]], out: Sequence[Any]) -> tuple[Any, ...]:
        results = self.by_numpy(*groups)
        for place, result in zip(out, results, strict=False):
            place[...] = result
        return results


class Compiled:
    """An `Elementwise` for one pattern of arguments.

    Attributes
    ----------
    computed, others : list of int
        Results that the kernel computes, and those that NumPy does.
    passed : list of (int, int)
        Results that are arguments, and which.
    kernel, address : function, int
        The kernel, and where it is.
    arguments, wanted : c_int64
        How many arrays go in and come out.
    dtype : dtype
    """

    def __init__(self, of: Elementwise, axes: tuple[int, ...], single: bool, passing: bool) -> None:
        top = max(axes)
        moving = {symbol for symbol, there in zip(of.symbols, axes, strict=True) if there == top}
        passed = {k: of.symbols.index(e) for k, e in enumerate(of.results) if passing and e in moving}
        all_moving = [k for k, e in enumerate(of.results) if e.free_symbols & moving and k not in passed]
        self.passed = [(k, place) for k, place in passed.items() if k < of.size]
        self.computed = [k for k in all_moving if k < of.size]
        self.others = [k for k in range(of.size) if k not in all_moving and k not in passed]
        self._is_number = [not there for there in axes]
        self.dtype = SINGLE if single else DOUBLE
        self._on_host = array_function(of.name, [of.symbols], [of.results[k] for k in self.others], np)
        self._moving = [there == top for there in axes]
        self.address = 0
        self.arguments, self.wanted = ctypes.c_int64(sum(map(bool, axes))), ctypes.c_int64(len(self.computed))
        self._numbers: tuple[Any, Any] = (None, None)
        if self.computed:
            # all results that move are told, and the first returned: the same subexpressions, and so the same bits
            results = tuple(of.results[k] for k in all_moving)
            arrays = tuple(there > 0 for there in axes)
            library = compiled(kernel_source(tuple(of.symbols), results, arrays, len(self.computed), single))
            self.kernel = library.kernel
            self.address = ctypes.cast(self.kernel, ctypes.c_void_p).value or 0

    def on_host(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Results that depend on parameters alone."""
        return self._on_host([0.0 if moves else value for value, moves in zip(inputs, self._moving, strict=True)])

    def numbers(self, inputs: Sequence[Any]) -> Any:
        """The arguments that are numbers, for the kernel; mostly those of the last time."""
        values = [value for value, number in zip(inputs, self._is_number, strict=True) if number]
        if values != self._numbers[0]:
            self._numbers = values, (ctypes.c_float if self.dtype == SINGLE else ctypes.c_double)
            self._numbers = values, several(self._numbers[1], len(values) or 1)(*map(float, values))
        return self._numbers[1]
