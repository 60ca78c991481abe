"""Array forms of functions that an array library lacks, or has in a form that overflows or is inexact.

Each takes the array namespace `xp` first. Arguments are arrays of one real type, or Python numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special

__all__ = [
    "as_number", "erf", "exprel", "exprel_slope", "sigmoid", "sigmoid_slope", "sigmoids", "softplus", "switch", "where",
]  # fmt: skip

#: exp(x) and exp(−x) are normal numbers for x up to this
FURTHEST = {np.dtype("float32"): 87.0, np.dtype("float64"): 708.0}
_DOUBLE = np.dtype(float)

#: (j + 1)/(j + 2)!, the series of `exprel_slope`; the next term is below half an ulp for |x| < 1
SLOPE_SERIES = [(j + 1) / math.factorial(j + 2) for j in range(19)]


def as_number(value: Any) -> Any:
    """An array without axes as a Python float, since it would widen float32 arrays; anything else as it is."""
    return float(value) if getattr(value, "ndim", 1) == 0 else value


def switch(condition: Any, *like: Any) -> Any:
    """A condition as 1 and 0, in the real type of the arrays it was made of."""
    kind = next((value.dtype for value in like if hasattr(value, "dtype")), None)
    return float(condition) if kind is None else condition.astype(kind)


def where(xp: Any, condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition is not 0, else `b`."""
    if not hasattr(condition, "dtype"):
        return a if condition else b
    chosen = xp.where(condition != 0, a, b)
    if condition.dtype.kind == "f" and not (hasattr(a, "dtype") or hasattr(b, "dtype")):
        return chosen.astype(condition.dtype)  # two numbers would make it float64
    return chosen


def sigmoid(xp: Any, x: Any) -> Any:
    """exp(x)/(1 + exp(x)), to an ulp or two. It stops at 1e-37 (float64: 1e-307) on its way to 0."""
    E = _exp_within(xp, x)
    return E / (E + 1)


def sigmoid_slope(xp: Any, x: Any) -> Any:
    """σ(x) σ(−x)."""
    return sigmoids(xp, (("sigmoid_slope", 0),), [x])[0]


def sigmoids(xp: Any, wanted: Sequence[tuple[str, int]], xs: Sequence[Any]) -> list[Any]:
    """σ or its slope of several arrays: one exponential for both, and fewer passes, each over more.

    `wanted` says of each result which it is, and of which of the arrays. The same bits as one by one.
    """
    slopes: Any = ()
    shape = getattr(xs[0], "shape", ())
    if shape and all([getattr(x, "shape", ()) == shape for x in xs]):  # a list: faster than a generator
        E: Any = xp.empty((len(xs), *shape), xs[0].dtype)
        for k, x in enumerate(xs):
            E[k] = x
        furthest = FURTHEST[E.dtype]
        E.clip(-furthest, furthest, out=E)
        xp.exp(E, out=E)
        below = E + 1
        values = xp.divide(E, below, out=E)
        if any([name == "sigmoid_slope" for name, _ in wanted]):
            slopes = xp.divide(values, below, out=below)
    else:
        E = [_exp_within(xp, x) for x in xs]
        values = [as_number(e / (e + 1)) for e in E]
        slopes = [as_number(e / (e + 1) / (e + 1)) for e in E]
    return [values[k] if name == "sigmoid" else slopes[k] for name, k in wanted]


def _exp_within(xp: Any, x: Any) -> Any:
    furthest = FURTHEST[getattr(x, "dtype", _DOUBLE)]
    return xp.exp(xp.minimum(xp.maximum(x, -furthest), furthest))


def softplus(xp: Any, x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


def exprel(xp: Any, x: Any) -> Any:
    """(exp(x) − 1)/x by halves, (h/x)(h + 2) with h = exp(x/2) − 1: finite wherever the value is."""
    if isinstance(x, float | int) and abs(x) < 700:
        return math.expm1(x) / x if x else 1.0
    small = xp.abs(x) < 1e-30
    safe = xp.where(small, xp.ones_like(x), x)
    half = xp.expm1(safe / 2)
    return xp.where(small, xp.ones_like(x), half / safe * (half + 2))


def exprel_slope(xp: Any, x: Any) -> Any:
    """(exp(x)(x − 1) + 1)/x²; within ±1, where its terms cancel, a series."""
    small = xp.abs(x) < 1
    near, far = xp.where(small, x, xp.zeros_like(x)), xp.where(small, xp.ones_like(x), x)
    series = SLOPE_SERIES[-1]
    for coefficient in SLOPE_SERIES[-2::-1]:
        series = coefficient + near * series
    half = xp.exp(far / 2)
    return xp.where(small, series, half * ((far - 1) / far) * (half / far) + 1 / far / far)


def erf(xp: Any, x: Any) -> Any:
    """The error function; on the host, since a device has it in its kernels only."""
    return scipy.special.erf(x)
