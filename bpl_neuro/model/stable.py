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
    if not (isinstance(exponential, sp.exp) and _positive(a) and _positive(b)):
        return None
    ratio = sp.Float(b) / sp.Float(a)
    return a, exponential.args[0] + (0 if ratio == sp.Float(1) else sp.log(ratio))


def _positive(value: sp.Expr) -> bool:
    return bool(value.is_number and value.is_positive)


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
    """exp(c − k x) σ(x)^n, for numbers c and 0 < k ≤ n, as exp(c) σ(−x)^k σ(x)^(n−k): no factor overflows."""
    for grown in [f for f in product.args if isinstance(f, sp.exp)]:
        for bounded in product.args:
            base, n = bounded.as_base_exp()
            k = _ratio(grown.args[0], base.args[0]) if isinstance(base, sigmoid) and n.is_number else None
            if k is not None and 0 < k <= n:
                x, rest = base.args[0], product / (grown * bounded)
                c = sp.expand(grown.args[0] + k * x)
                return sp.exp(c) * sigmoid(-x) ** k * base ** (n - k) * rest
    return product


def _ratio(y: sp.Expr, x: sp.Expr) -> sp.Expr | None:
    """The number k for which y + k x is a number, if there is one."""
    symbols = sorted(x.free_symbols, key=str)
    if not symbols:
        return None
    slope = sp.expand(x).coeff(symbols[0], 1)
    k = sp.nsimplify(sp.simplify(-sp.expand(y).coeff(symbols[0], 1) / slope), rational=True) if slope != 0 else None
    return k if k is not None and k.is_number and sp.expand(y + k * x).is_number else None
