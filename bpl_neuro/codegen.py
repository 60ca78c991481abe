"""Symbolic expressions to array functions.

The source text is generated only from SymPy trees that `equations` built from a checked text, every symbol is renamed,
and the only names it can reach are array functions listed here and in `functions.ARRAY_FUNCTIONS`. The text stays on
the function as ``.source``, for whoever wants to read it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from bpl_neuro.functions import ARRAY_FUNCTIONS

__all__ = ["array_function"]

#: SymPy function name → array namespace name
_XP_NAMES = {
    "exp": "exp", "log": "log", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "arcsin", "acos": "arccos",
    "atan": "arctan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "expm1": "expm1", "log1p": "log1p",
}  # fmt: skip


def array_function(
    name: str,
    arguments: Sequence[Sequence[sp.Symbol]],
    results: Sequence[sp.Expr],
    xp: Any,
    *,
    first: int | None = None,
) -> Callable[..., tuple[Any, ...]]:
    """Compile ``(tuple, tuple, …) → tuple of arrays``, one tuple argument per group of symbols.

    Common subexpressions are computed once. Results that do not depend on an array argument come back as scalars.

    Parameters
    ----------
    name : str
        Name of the generated function.
    arguments : sequence of sequences of Symbol
        Groups of arguments: states, inputs, parameters.
    results : sequence of Expr
        What to compute.
    xp : module
        Array namespace (``numpy``).
    first : int, optional
        Return the first results only, computed as they would be for all: the same bits, without the work for the rest.
    """
    groups = [f"group{k}" for k in range(len(arguments))]
    names = {symbol: f"a{k}_{j}" for k, group in enumerate(arguments) for j, symbol in enumerate(group)}
    temporaries = (sp.Symbol(f"t{k}") for k in itertools.count())
    shared, reduced = sp.cse(list(results), symbols=temporaries, order="none")
    reduced = reduced[:first]
    used = set().union(*(e.free_symbols for e in reduced))
    for symbol, expr in reversed(shared):
        if symbol in used:
            used |= expr.free_symbols
    shared = [(symbol, expr) for symbol, expr in shared if symbol in used]
    lines = [f"def {name}({', '.join(groups)}):"]
    for k, group in enumerate(arguments):
        lines += [f"    {names[s]} = group{k}[{j}]" for j, s in enumerate(group) if s in used]
    for symbol, expr in shared:
        names[symbol] = str(symbol)
        lines.append(f"    {symbol} = {_emit(expr, names)}")
    lines.append(f"    return ({''.join(_emit(e, names) + ', ' for e in reduced)})")
    source = "\n".join(lines) + "\n"
    space: dict[str, Any] = {"__builtins__": {}, "inf": float("inf")}
    space |= {f"f_{key}": _bind(function, xp) for key, function in ARRAY_FUNCTIONS.items()}
    space |= {f"x_{key}": _plain(getattr(xp, key)) for key in ("sqrt", *_XP_NAMES.values())}
    exec(compile(source, f"<generated {name}>", "exec"), space)
    function = space[name]
    function.source = source
    return function


def _bind(function: Callable[..., Any], xp: Any) -> Callable[..., Any]:
    return _plain(lambda *arguments: function(xp, *arguments))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, but a scalar comes back as a Python float: a NumPy one would widen float32 arrays."""

    def call(*arguments: Any) -> Any:
        value = function(*arguments)
        return float(value) if isinstance(value, np.generic) else value

    return call


def _emit(expr: sp.Expr, names: dict[sp.Symbol, str]) -> str:
    """One Python expression, fully parenthesised."""
    if isinstance(expr, sp.Symbol):
        return names[expr]
    if expr is sp.oo:
        return "inf"
    if expr is -sp.oo:
        return "(-inf)"
    if expr.is_Integer:
        return f"({int(expr)})" if expr < 0 else str(int(expr))
    if expr.is_number:
        return f"({float(expr)!r})"
    if isinstance(expr, sp.Add):
        return _emit_sum(expr, names)
    if isinstance(expr, sp.Mul):
        return _emit_product(expr, names)
    if isinstance(expr, sp.Pow):
        return _emit_power(expr, names)
    head = type(expr).__name__
    call = f"f_{head}" if head in ARRAY_FUNCTIONS else f"x_{_XP_NAMES[head]}"
    return f"{call}({', '.join(_emit(a, names) for a in expr.args)})"


def _emit_sum(expr: sp.Add, names: dict[sp.Symbol, str]) -> str:
    """Subtracting saves the pass over an array that its negation would be."""
    less = [a for a in expr.args if a.could_extract_minus_sign()]
    more = [a for a in expr.args if a not in less]
    if not more:
        more, less = [less[0]], less[1:]
    text = " + ".join(_emit(a, names) for a in more)
    return "(" + "".join([text, *(f" - {_emit(-a, names)}" for a in less)]) + ")"


def _emit_product(expr: sp.Mul, names: dict[sp.Symbol, str]) -> str:
    above, below = [], []
    for factor in expr.args:
        if isinstance(factor, sp.Pow) and factor.exp.is_number and factor.exp.is_negative:
            below.append(factor.base ** (-factor.exp))
        else:
            above.append(factor)
    sign = "-" if above and above[0] == -1 else ""
    above = above[1:] if sign else above
    top = " * ".join(_emit(a, names) for a in above) or "1"
    bottom = " * ".join(_emit(b, names) for b in below)
    return f"({sign}{top} / ({bottom}))" if below else f"({sign}{top})"


def _emit_power(expr: sp.Pow, names: dict[sp.Symbol, str]) -> str:
    base, power = expr.args
    if power == sp.Rational(1, 2):
        return f"x_sqrt({_emit(base, names)})"
    if power.is_number and power.is_negative:
        return f"(1 / {_emit(base ** (-power), names)})"
    if power.is_Integer and base.is_Symbol and power <= 4:
        return "(" + " * ".join([names[base]] * int(power)) + ")"
    return f"({_emit(base, names)} ** {_emit(power, names)})"
