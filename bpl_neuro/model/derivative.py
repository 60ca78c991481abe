"""Derivatives of symbolic expressions that are numbers wherever the expression has one.

SymPy's own differ in form only, but some of those forms have no value at a place where the derivative has: b**n as
n·b**n/b at b = 0; sqrt(clip(x, 0, inf)) as 0 · ∞ at x = 0.
"""

from __future__ import annotations

import sympy as sp

from bpl_neuro.model.budget import free_symbols
from bpl_neuro.model.functions import HEADS, where

__all__ = ["derivative"]


def derivative(expr: sp.Expr, s: sp.Symbol, free: dict[sp.Basic, frozenset[sp.Symbol]] | None = None) -> sp.Expr:
    """∂expr/∂s, by the slopes in the table of functions.

    Where the derivative of an argument is exactly 0, so is the product with the slope, whatever the slope. `free` holds
    the symbols of parts that were looked at before; it serves many derivatives of the same trees.
    """
    free = {} if free is None else free
    derivatives: dict[sp.Expr, sp.Expr] = {s: sp.Integer(1)}

    def of(e: sp.Expr) -> sp.Expr:
        if e not in derivatives:
            derivatives[e] = rule(e) if s in free_symbols(e, free) else sp.Integer(0)
        return derivatives[e]

    def rule(e: sp.Expr) -> sp.Expr:
        if isinstance(e, sp.Add):
            return sp.Add(*map(of, e.args))
        if isinstance(e, sp.Mul):
            moving = [(k, of(a)) for k, a in enumerate(e.args) if s in free_symbols(a, free)]
            return sp.Add(*(sp.Mul(*e.args[:k], d, *e.args[k + 1 :]) for k, d in moving))
        if isinstance(e, sp.Pow):
            return _of_power(*e.args, *map(of, e.args))
        return _of_call(e, [of(a) for a in e.args])

    return of(expr)


def _of_power(base: sp.Expr, power: sp.Expr, d_base: sp.Expr, d_power: sp.Expr) -> sp.Expr:
    """p b^(p−1) db + b^p log(b) dp; the first is 0 where db is, the second where b is."""
    total = sp.Integer(0)
    if d_base != 0:
        finite = power.is_Integer or (power.is_number and power >= 1) or base.is_positive
        safe = base if finite else where(power * d_base, base, 1)
        total += power * safe ** (power - 1) * d_base
    if d_power != 0:
        safe = base if base.is_positive else where(base, base, 1)
        total += base**power * sp.log(safe) * d_power
    return total


def _of_call(call: sp.Expr, inner: list[sp.Expr]) -> sp.Expr:
    function = HEADS[type(call).__name__]
    if function.slopes is None:
        raise NotImplementedError(f"{function.name} has no derivative in the table of functions")
    if function.form is where:
        return where(call.args[0], *inner[1:])
    arguments = call.args
    if function.finite_at is not None and not inner[0].is_number:
        arguments = (where(inner[0], arguments[0], function.finite_at),)
    terms = []
    for slope, moved in zip(map(sp.sympify, function.slopes(*arguments)), inner, strict=True):
        select = function.switches and not moved.is_number
        terms.append(where(slope, moved, 0) if select else slope * moved)
    return sp.Add(*terms)
