"""Rewriting what overflows: 1/(1 + exp(x)) and log(1 + exp(x)), in whatever way they were written."""

from __future__ import annotations

import math

import sympy as sp

from bpl_neuro.model.functions import absolute, log1p, sigmoid, softplus

__all__ = ["stabilise"]

#: products of sums are written out up to so many terms
MAX_TERMS = 32


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
                c = _linear(grown.args[0] + k * x).get(sp.Integer(1), sp.Integer(0))
                return sp.exp(c) * sigmoid(-x) ** k * base ** (n - k) * rest
    return product


def _ratio(y: sp.Expr, x: sp.Expr) -> sp.Expr | None:
    """The number k for which y + k x is a number, if there is one."""
    of_x, of_y = ({part: c for part, c in _linear(e).items() if part != 1} for e in (x, y))
    part = next(iter(of_x), None)
    if part is None or of_x.keys() != of_y.keys():
        return None
    k = sp.nsimplify(-of_y[part] / of_x[part], rational=True)
    return k if all(abs(sp.Float(of_y[p] + k * c)) <= 1e-12 * abs(sp.Float(c)) for p, c in of_x.items()) else None


def _linear(expr: sp.Expr) -> dict[sp.Expr, sp.Expr]:
    """A sum as numbers times parts, the number alone as that of 1. Large products of sums stay as they are."""
    if _terms(expr) <= MAX_TERMS:
        expr = sp.expand_mul(expr)
    return {part: c for c, part in (term.as_coeff_Mul() for term in sp.Add.make_args(expr))}


def _terms(e: sp.Basic) -> int:
    """How many terms expanding makes; counted up to one more than `MAX_TERMS`."""
    counts = [_terms(a) for a in e.args]
    if e.is_Mul:
        count = math.prod(counts)
    elif e.is_Pow and e.exp.is_Integer:
        count = counts[0] ** min(abs(int(e.exp)), MAX_TERMS)
    else:
        count = sum(counts) if e.is_Add else max(counts, default=1)
    return min(count, MAX_TERMS + 1)
