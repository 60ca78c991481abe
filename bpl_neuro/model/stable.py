"""Rewriting what overflows: 1/(1 + exp(x)) and log(1 + exp(x)), in whatever way they were written."""

from __future__ import annotations

import sympy as sp

from bpl_neuro.model.functions import absolute, log1p, sigmoid, softplus

__all__ = ["stabilise"]


def stabilise(expr: sp.Expr) -> sp.Expr:
    """Rewrite a negative power or the logarithm of a + b·exp(x), for numbers a, b > 0, as `sigmoid` and `softplus`.

        (a + b exp(x))^−n = a^−n σ(−x − log(b/a))^n          log(a + b exp(x)) = log a + softplus(x + log(b/a))

    Neither they nor their derivatives overflow then. And |x|, which SymPy makes of sqrt(x**2), as our `absolute`.
    """
    expr = expr.replace(sp.Abs, absolute)
    expr = expr.replace(_is_sigmoid, _to_sigmoid)
    expr = expr.replace(_is_softplus, _to_softplus)
    return expr.replace(lambda e: isinstance(e, sp.Mul), _without_growth)


def _parts(e: sp.Expr) -> tuple[sp.Expr, sp.Expr] | None:
    """(a, x + log(b/a)) where e is a + b·exp(x)."""
    if not (isinstance(e, sp.Add) and len(e.args) == 2):
        return None
    a, grown = e.args if e.args[0].is_number else e.args[::-1]
    b, exponential = grown.as_coeff_Mul()
    if not (isinstance(exponential, sp.exp) and a.is_positive and b.is_positive):
        return None
    ratio = sp.Float(b) / sp.Float(a)
    return a, exponential.args[0] + (0 if ratio == sp.Float(1) else sp.log(ratio))


def _is_sigmoid(e: sp.Expr) -> bool:
    return isinstance(e, sp.Pow) and e.exp.could_extract_minus_sign() and _parts(e.base) is not None


def _to_sigmoid(e: sp.Expr) -> sp.Expr:
    a, x = _parts(e.base)  # type: ignore[misc]
    value = sigmoid(-x) ** -e.exp
    return value if sp.Float(a) == sp.Float(1) else a**e.exp * value


def _is_softplus(e: sp.Expr) -> bool:
    return isinstance(e, sp.log | log1p) and _parts(_inside(e)) is not None


def _to_softplus(e: sp.Expr) -> sp.Expr:
    a, x = _parts(_inside(e))  # type: ignore[misc]
    return softplus(x) if sp.Float(a) == sp.Float(1) else sp.log(a) + softplus(x)


def _inside(e: sp.Expr) -> sp.Expr:
    """What the logarithm is taken of."""
    return e.args[0] + 1 if isinstance(e, log1p) else e.args[0]


def _without_growth(product: sp.Expr) -> sp.Expr:
    """exp(y) σ(x), where x + y is a number c, as exp(c) σ(−x): neither factor overflows."""
    for grown in [f for f in product.args if isinstance(f, sp.exp)]:
        for bounded in [f for f in product.args if isinstance(f, sigmoid)]:
            c = sp.expand(grown.args[0] + bounded.args[0])
            if c.is_number:
                return sp.exp(c) * sigmoid(-bounded.args[0]) * product / (grown * bounded)
    return product
