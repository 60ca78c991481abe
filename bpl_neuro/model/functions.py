"""The functions a model text may call: their symbolic form, derivative and array form.

A function is allowed when it has a derivative almost everywhere and a stated value at its kinks
(``clip`` and ``abs``: 0 at the kink; ``sign``: 0 everywhere). Everything else is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

__all__ = ["ALLOWED_FUNCTIONS", "ARRAY_FUNCTIONS", "REFUSED_FUNCTIONS", "TOGETHER", "clip", "exprel", "stabilise"]


class _Real(sp.Function):
    """Base of our symbolic functions: real for real arguments, never rewritten by SymPy.

    SymPy functions are classes named like functions.
    """

    @classmethod
    def eval(cls, *arguments: sp.Expr) -> sp.Expr | None:
        """The value, where all arguments are numbers."""
        if all(a.is_number and not a.free_symbols for a in arguments) and cls.__name__ in ARRAY_FUNCTIONS:
            with np.errstate(all="ignore"):
                return sp.Float(float(ARRAY_FUNCTIONS[cls.__name__](np, *(float(a) for a in arguments))))
        return None

    def _eval_is_extended_real(self) -> bool:
        return True


class sign(_Real):
    """sgn(x); derivative 0."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(0)


class absolute(_Real):
    """|x|; derivative sgn(x), 0 at 0."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sign(self.args[0])


class between(_Real):
    """1 where a < x < b, else 0; derivative 0."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(0)


class above(_Real):
    """1 where x >= a, else 0; derivative 0."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(0)


class clip(_Real):
    """min(max(x, a), b); ∂/∂x is 1 strictly inside, 0 at and beyond the bounds."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, a, b = self.args
        return (between(x, a, b), above(a, x), above(x, b))[argindex - 1]


class exprel(_Real):
    """(exp(x) − 1)/x, 1 at x = 0."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return exprel_slope(self.args[0])


class exprel_slope(_Real):
    """Derivative of `exprel`: (exp(x)(x − 1) + 1)/x², 1/2 at x = 0."""


class expm1(_Real):
    """exp(x) − 1."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.exp(self.args[0])


class log1p(_Real):
    """log(1 + x)."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return 1 / (1 + self.args[0])


class sigmoid(_Real):
    """1/(1 + exp(−x)), computed without overflow."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        value = sigmoid(self.args[0])
        return value * (1 - value)


class softplus(_Real):
    """log(1 + exp(x)), computed without overflow."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sigmoid(self.args[0])


#: Brian2 name → (number of arguments, symbolic constructor)
ALLOWED_FUNCTIONS: dict[str, tuple[int, Callable[..., sp.Expr]]] = {
    "exp": (1, sp.exp),
    "log": (1, sp.log),
    "log10": (1, lambda x: sp.log(x) / sp.log(10).evalf()),
    "sqrt": (1, sp.sqrt),
    "sin": (1, sp.sin),
    "cos": (1, sp.cos),
    "tan": (1, sp.tan),
    "arcsin": (1, sp.asin),
    "arccos": (1, sp.acos),
    "arctan": (1, sp.atan),
    "sinh": (1, sp.sinh),
    "cosh": (1, sp.cosh),
    "tanh": (1, sp.tanh),
    "expm1": (1, expm1),
    "log1p": (1, log1p),
    "exprel": (1, exprel),
    "abs": (1, absolute),
    "sign": (1, sign),
    "clip": (3, clip),
}

#: functions Brian2 knows and we refuse, with the reason a person needs
REFUSED_FUNCTIONS = {
    "floor": "its derivative is 0 everywhere, so nothing could be learned through it",
    "ceil": "its derivative is 0 everywhere, so nothing could be learned through it",
    "int": "its derivative is 0 everywhere; write a threshold as clip(x, 0, inf)",
    "rand": "a random number has no derivative and would break repeatability",
    "randn": "a random number has no derivative and would break repeatability",
    "poisson": "a random number has no derivative and would break repeatability",
    "timestep": "it is not a function of a neuron's state",
}


def stabilise(expr: sp.Expr) -> sp.Expr:
    """Rewrite 1/(1+exp(x)) and log(1+exp(x)) so that neither they nor their derivatives overflow.

    And |x|, which SymPy makes of sqrt(x**2), as our `absolute`.
    """
    expr = expr.replace(sp.Abs, absolute)

    def exponent(base: sp.Expr) -> sp.Expr | None:
        """X when `base` is 1 + exp(x)."""
        if base.is_Add and len(base.args) == 2:
            one, other = sorted(base.args, key=lambda a: not a.is_Number)
            if one == 1 and isinstance(other, sp.exp):
                return other.args[0]
        return None

    def is_sigmoid(e: sp.Expr) -> bool:
        return bool(e.is_Pow and e.exp.is_Integer and e.exp < 0 and exponent(e.base) is not None)

    def is_softplus(e: sp.Expr) -> bool:
        return isinstance(e, sp.log) and exponent(e.args[0]) is not None

    expr = expr.replace(is_sigmoid, lambda e: sigmoid(sp.Integer(-1) * exponent(e.base)) ** -e.exp)
    return expr.replace(is_softplus, lambda e: softplus(exponent(e.args[0])))


def _array_exprel(xp: Any, x: Any) -> Any:
    if isinstance(x, float | int):  # a parameter: stays a Python number, so that it does not widen float32 arrays
        return math.expm1(x) / x if x else 1.0
    small = xp.abs(x) < 1e-5
    safe = xp.where(small, 1, x)
    return xp.where(small, 1 + x / 2, xp.expm1(safe) / safe)


def _array_exprel_slope(xp: Any, x: Any) -> Any:
    if isinstance(x, float | int):
        return float(_array_exprel_slope(xp, xp.asarray(float(x))))
    small = xp.abs(x) < 1e-2
    safe = xp.where(small, 1, x)
    series = 0.5 + x * (1 / 3 + x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x / 840))))
    return xp.where(small, series, (safe * xp.exp(safe) - xp.expm1(safe)) / (safe * safe))


def _array_sigmoid(xp: Any, x: Any) -> Any:
    """(1 + tanh(x/2)) / 2, which overflows nowhere; in one array."""
    y = xp.tanh(0.5 * x)
    y *= 0.5
    y += 0.5
    return y


def _array_sigmoids(xp: Any, *xs: Any) -> Any:
    """`_array_sigmoid` of several arrays of one shape, in one array: fewer passes, each over more."""
    if len({getattr(x, "shape", ()) for x in xs}) > 1 or not getattr(xs[0], "ndim", 0):
        return [_array_sigmoid(xp, x) for x in xs]
    y = xp.empty((len(xs), *xs[0].shape), xs[0].dtype)
    for x, row in zip(xs, y, strict=True):
        xp.multiply(x, 0.5, out=row)
    xp.tanh(y, out=y)
    y *= 0.5
    y += 0.5
    return y


def _float(condition: Any, like: Any) -> Any:
    return condition.astype(getattr(like, "dtype", float))


#: symbolic function name → array function of (xp, *arguments); names not here are `xp` functions themselves
ARRAY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sign": lambda xp, x: xp.sign(x),
    "expm1": lambda xp, x: xp.expm1(x),
    "log1p": lambda xp, x: xp.log1p(x),
    "absolute": lambda xp, x: xp.abs(x),
    "between": lambda xp, x, a, b: _float(xp.logical_and(x > a, x < b), x),
    "above": lambda xp, x, a: _float(xp.greater_equal(x, a), x),
    "clip": lambda xp, x, a, b: xp.minimum(xp.maximum(x, a), b),
    "exprel": _array_exprel,
    "exprel_slope": _array_exprel_slope,
    "sigmoid": _array_sigmoid,
    "softplus": lambda xp, x: xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x))),
}

#: functions with a cheaper array form for several arguments at once: the same bits as one by one
TOGETHER: dict[str, Callable[..., Any]] = {"sigmoid": _array_sigmoids}
