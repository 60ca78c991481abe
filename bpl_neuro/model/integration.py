"""Differential equations → the update map of one step, by each method, and their noise."""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from bpl_neuro.errors import ModelError
from bpl_neuro.model.budget import Budget
from bpl_neuro.model.derivative import derivative
from bpl_neuro.model.functions import FLAT, exprel
from bpl_neuro.model.names import DT, exact_entry, is_noise, symbol

__all__ = ["METHODS", "exact_symbols", "integrate", "split_noise"]

METHODS = ("euler", "exponential_euler", "exact")


def exact_symbols(S: int) -> list[sp.Symbol]:
    """Symbols of expm(M dt) and ∫₀^dt expm(M τ) dτ, row by row."""
    return [symbol(exact_entry(kind, k, j)) for kind in ("E", "I") for k in range(S) for j in range(S)]


def split_noise(
    slopes: list[sp.Expr], states: tuple[str, ...], inputs: Sequence[str], method: str, budget: Budget, where: str
) -> tuple[list[sp.Expr], tuple[tuple[sp.Expr, ...], ...]]:
    """Deterministic slopes, and the coefficients of each noise source (``xi``, ``xi_name``) in each of them."""
    sources = sorted({s for f in slopes for s in f.free_symbols if is_noise(str(s))}, key=str)
    if not sources:
        return slopes, ()
    if method != "euler":
        raise ModelError(f"{where}: noise ('xi') needs `method` = 'euler' (Euler–Maruyama), got {method!r}")
    if any(
        e.free_symbols & set(sources) for f in slopes for e in f.atoms(*FLAT)
    ):  # whose derivative says nothing of it
        raise ModelError(f"{where}: the noise is inside sign() or a comparison; only additive noise is possible")
    moving = {symbol(name) for name in (*states, *inputs)} | set(sources)
    budget.differentiate(slopes, sources, where, "its noise")
    coefficients = [tuple(derivative(f, s) for s in sources) for f in slopes]
    for row in coefficients:
        for coefficient in row:
            if bad := coefficient.free_symbols & moving:
                raise ModelError(
                    f"{where}: the noise is multiplied by {sorted(map(str, bad))[0]!r}; only additive noise, scaled by "
                    "parameters, is possible"
                )
    return [_without(f, sources) for f in slopes], tuple(coefficients)


def _without(expr: sp.Expr, symbols: Sequence[sp.Symbol]) -> sp.Expr:
    """With 0 for these symbols, in which the expression is linear."""
    return expr.xreplace(dict.fromkeys(symbols, sp.Integer(0)))


def integrate(
    states: tuple[str, ...], slopes: list[sp.Expr], inputs: Sequence[str], method: str, budget: Budget, where: str
) -> tuple[tuple[sp.Expr, ...], sp.Matrix | None]:
    """The update map of ds/dt = slopes."""
    if method not in METHODS:
        raise ModelError(f"{where}: `method` must be one of {', '.join(METHODS)}, got {method!r}")
    symbols = [symbol(name) for name in states]
    if method == "euler":
        return tuple(s + DT * f for s, f in zip(symbols, slopes, strict=True)), None
    if method == "exponential_euler":
        for s, f in zip(symbols, slopes, strict=True):
            budget.differentiate([f], [s], where, "'exponential_euler'")
        return tuple(_exponential_euler(s, f, where) for s, f in zip(symbols, slopes, strict=True)), None
    budget.differentiate(slopes, symbols, where, "'exact'")
    M = sp.Matrix([[derivative(f, s) for s in symbols] for f in slopes])
    moving = set(symbols) | {symbol(name) for name in inputs}
    if M.free_symbols & moving:
        raise ModelError(
            f"{where}: method 'exact' needs equations that are linear in the states; use 'exponential_euler' or 'euler'"
        )
    if M.is_diagonal():
        return tuple(s + DT * exprel(DT * M[k, k]) * slopes[k] for k, s in enumerate(symbols)), None
    S = len(symbols)
    budget.spend(S * (S * S + sum(budget.size(f)[0] for f in slopes)), where, f"'exact' of {S} coupled states")
    E, Int = (sp.Matrix(S, S, exact_symbols(S)[o : o + S * S]) for o in (0, S * S))
    b = sp.Matrix([_without(f, symbols) for f in slopes])
    return tuple(E * sp.Matrix(symbols) + Int * b), M


def _exponential_euler(s: sp.Symbol, slope: sp.Expr, where: str) -> sp.Expr:
    """Brian2's rule for ds/dt = a s + b with a and b held: s + dt exprel(a dt)(a s + b).

    As in Brian2, a nonlinear function of s (``tanh(u + s)``) counts as part of b; `exprel` is safe where a passes 0.
    """
    frozen: dict[sp.Symbol, sp.Expr] = {}

    def freeze(e: sp.Expr) -> sp.Expr:
        dummy = sp.Dummy(real=True)
        frozen[dummy] = e
        return dummy

    linear = slope.replace(lambda e: isinstance(e, sp.Function | sp.exp) and e.has(s), freeze)
    a = derivative(linear, s)
    if a.has(s):
        raise ModelError(
            f"{where}: method 'exponential_euler' needs d{s}/dt to be linear in {s} outside function calls; use 'euler'"
        )
    return s + DT * exprel(DT * a.xreplace(frozen)) * slope
