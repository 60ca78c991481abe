"""NumPy on the CPU."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from bpl_neuro.backend.step_loops import StepLoops
from bpl_neuro.checks import shown
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.codegen import array_function

__all__ = ["NumpyBackend", "real_dtype"]

#: bytes of a trace that are worked on at once, so that several passes over them stay in cache
BLOCK = 2**19


@dataclass(frozen=True)
class NumpyBackend(StepLoops):
    """Array namespace `xp`, conversions to and from host arrays, and operations with kernels of their own on a GPU.

    `CupyBackend` has the same methods.
    """

    name: str = "numpy"
    #: bytes of a product of matrices, trial by trial, that is made at once
    chunk: int = 2**21

    @property
    def xp(self) -> Any:
        """The array namespace."""
        return np

    def dtype(self, dtype: Any) -> np.dtype[Any]:
        """float32 or float64.

        Raises
        ------
        ValidationError
            For any other type.
        """
        return real_dtype(dtype)

    def owns(self, values: Any) -> bool:
        """Whether these are arrays of this backend already."""
        return isinstance(values, np.ndarray)

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        """An array of this backend from host values, or from one of its own."""
        return np.asarray(values, dtype)

    def to_host(self, array: Any) -> np.ndarray:
        """A NumPy array with the same values."""
        return np.asarray(array)

    def read_only(self, array: Any) -> Any:
        """The same numbers, in a view that refuses to be written to."""
        view = array.view()
        view.flags.writeable = False
        return view

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated; None where the operating system takes care of it."""
        return None

    def elementwise(
        self,
        name: str,
        arguments: Sequence[Sequence[sp.Symbol]],
        results: Sequence[sp.Expr],
        *,
        first: int | None = None,
    ) -> Callable[..., tuple[Any, ...]]:
        """Compile expressions to a function of groups of (B, N) or (N,) arrays and numbers; see `array_function`."""
        return array_function(name, arguments, results, np, first=first)

    def write(self, function: Callable[..., tuple[Any, ...]], out: Sequence[Any], *groups: Sequence[Any]) -> Any:
        """Call what `elementwise` made, and write its first results where `out` says; returns all of them."""
        results = function(*groups)
        for place, result in zip(out, results, strict=False):
            place[...] = result
        return results

    def side_by_side(
        self, function: Callable[..., tuple[Any, ...]], shape: tuple[int, int, int], dtype: Any, *groups: Sequence[Any]
    ) -> Any:
        """Call what `elementwise` made: its P results for (B, N) places in one array of shape (B, P, N)."""
        results = function(*groups)
        if not all([hasattr(result, "shape") for result in results]):  # a list: faster than a generator
            results = tuple(np.broadcast_to(np.asarray(result, dtype), (shape[0], shape[2])) for result in results)
        return np.concatenate(results, axis=1).reshape(shape)

    def add_outer(self, target: Any, slope: Any, z: Any) -> None:
        """target[b, a, j] += slope[b, a] z[b, j], in place; `slope` may be a number."""
        target += (slope[:, :, None] if np.ndim(slope) else slope) * z[:, None, :]

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
        """Move traces on and sum what errors make of them, in one pass over the memory, in place.

            new e_l = Σ_q F_lq e_q + G_lp z_j          out_p = Σ_B Σ_l late_l e_l + now_l new e_l

        Parameters
        ----------
        e : (S, B, N, P, m) array
            e_l of synapse j → p of neuron i, changed; the last two axes contiguous.
        F, G : dict (l, q), (l, p) → (B, N) or (N,) array, or number
            Entries that are not identically 0.
        z : (B, m) array
        out : (P, N, m) array, optional
            Written, where there is a signal.
        late, now : S arrays (B, N), optional
            Errors that meet the old traces, and the new.
        """
        S, B, N, P, m = e.shape
        row = S * P * m * e.itemsize
        wide, high = max(1, min(N, BLOCK // row)), max(1, min(B, BLOCK // (row * N)))
        for b in range(0, B, high):
            for i in range(0, N, wide):
                cut = slice(b, b + high), slice(i, i + wide)
                block = e[:, *cut]
                if late is not None:
                    _sum(block, late, cut, out, first=b == 0)
                _move(block, F, G, z, cut)
                if now is not None:
                    _sum(block, now, cut, out, first=b == 0 and late is None)

    def trace_sum(self, e: Any, signal: Sequence[Any], out: Any) -> None:
        """out (P, N, m) = Σ_B Σ_l signal_l e_l of traces (S, B, N, P, m), which stay as they are."""
        _sum(e, signal, (slice(None), slice(None)), out, first=True)

    def adam(
        self, parameter: Any, gradient: Any, m: Any, v: Any, out: tuple[Any, Any, Any] | None = None, *,
        rate: float, beta1: float, beta2: float, correction2: float, epsilon: float, most: float = math.inf,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        """New parameter and moments: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p − rate·m / (√(v/correction2) + ε).

        No parameter moves by more than `most`.

        They are written into the arrays of `out`, if there are any, which must be none of the others.
        """
        new, new_m, new_v = out or (np.empty_like(parameter), np.empty_like(m), np.empty_like(v))
        part = (1 - beta1) * gradient
        np.multiply(m, beta1, out=new_m)
        new_m += part
        np.multiply(gradient, 1 - beta2, out=part)
        part *= gradient
        np.multiply(v, beta2, out=new_v)
        new_v += part
        np.divide(new_v, correction2, out=part)
        np.sqrt(part, out=part)
        part += epsilon
        np.multiply(new_m, rate, out=new)
        new /= part
        if most < math.inf:
            np.clip(new, -most, most, out=new)
        return np.subtract(parameter, new, out=new), new_m, new_v


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep what is freed, as it does by itself once a large block was freed.

    Until then glibc gives every larger block back to the system, and arrays that come and go with each batch are
    mapped in again page by page (mallopt(3), M_MMAP_THRESHOLD): a third of the time of a row-MNIST batch.
    """
    np.empty(2**25 - 2**13, np.uint8)  # never touched, so it costs nothing


def real_dtype(dtype: Any) -> np.dtype[Any]:
    """float32 or float64, or ValidationError."""
    kind = None
    if isinstance(dtype, str | type | np.dtype):  # None would be float64, and an array its own type
        with contextlib.suppress(TypeError, ValueError):
            kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise ValidationError(f"`dtype` must be float32 or float64, got {shown(dtype)}")
    return kind


#: trials and neurons that are worked on at once
Cut = tuple[slice, slice]


def _move(block: Any, F: Mapping[tuple[int, int], Any], G: Mapping[tuple[int, int], Any], z: Any, cut: Cut) -> None:
    """The new traces of some neurons and trials, in the place of the old."""
    if not F and not G:
        return
    rows = {k: {q: f for (row, q), f in F.items() if row == k} for k in range(len(block))}
    old = block
    while rows:  # a row at a time, each after all that are made of it; with a copy only where there is no order
        free = [k for k in rows if not any(k in rows[other] for other in rows if other != k)]
        if not free:
            old, free = block.copy(), list(rows)
        for k in free:
            _make_row(block, old, k, rows.pop(k), cut)
    for (k, p), g in G.items():
        block[k][:, :, p] += _part(g, cut, 1) * z[cut[0], None, :]


def _make_row(block: Any, old: Any, k: int, factors: Mapping[int, Any], cut: Cut) -> None:
    """block_k = Σ_q factor_q old_q; what stands there itself is read first."""
    order = sorted(factors, key=lambda q: q != k)
    if not order:
        block[k] = 0
    for q in order:
        if q == order[0]:
            np.multiply(old[q], _part(factors[q], cut, 2), out=block[k])
        else:
            block[k] += old[q] * _part(factors[q], cut, 2)


def _sum(block: Any, signal: Sequence[Any], cut: Cut, out: Any, first: bool) -> None:
    """out (P, N, m) += Σ_B Σ_l signal_l e_l over some neurons and trials, in place; = for the first."""
    part = out[:, cut[1]]
    for e, v in zip(block, signal, strict=True):
        trials, neurons, ports, m = e.shape
        if trials == 1 and first:
            np.multiply(e[0].transpose(1, 0, 2), v[cut].T, out=part)
            first = False
            continue
        if trials == 1:
            met = e[0].transpose(1, 0, 2) * v[cut].T
        else:  # neuron by neuron a row of errors times the traces of its synapses
            errors = np.ascontiguousarray(v[cut].T)[:, None]
            traces = e.reshape(trials, neurons, ports * m).transpose(1, 0, 2)
            met = np.matmul(errors, traces).reshape(neurons, ports, m).transpose(1, 0, 2)
        if first:
            part[...] = met
        else:
            part += met
        first = False


def _part(factor: Any, cut: Cut, axes: int) -> Any:
    """What of a factor (B, N), (N,) or number belongs to a block, with so many axes added."""
    if not np.ndim(factor):
        return factor
    chosen = factor[cut] if factor.ndim == 2 else factor[cut[1]]
    return chosen[..., *[None] * axes]
