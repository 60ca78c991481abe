"""Symbolic expressions to program text: array functions in Python, and the same in another language by its `Dialect`.

The text is generated only from SymPy trees that `equations` built from a checked text, every symbol is renamed, and the
only names it can reach are functions listed here and in `functions.ARRAY_FUNCTIONS`. It stays on an array function as
``.source``, for whoever wants to read it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from bpl_neuro.model.functions import ARRAY_FUNCTIONS, TOGETHER

__all__ = ["PYTHON", "XP_NAMES", "Dialect", "array_function", "emit", "reduced"]

#: SymPy function name → array namespace name
XP_NAMES = {
    "exp": "exp", "log": "log", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "arcsin", "acos": "arccos",
    "atan": "arctan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "expm1": "expm1", "log1p": "log1p",
}  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """How a language writes what SymPy trees are made of.

    Attributes
    ----------
    number : callable float or int → str
    infinity : str
    call : callable str → str
        The name of a function, by its SymPy name.
    root : str
        The name of the square root.
    power : callable (str, str) → str
    """

    number: Callable[[float], str]
    infinity: str
    call: Callable[[str], str]
    root: str
    power: Callable[[str, str], str]


PYTHON = Dialect(
    number=lambda value: f"({value!r})" if value < 0 else repr(value),
    infinity="inf",
    call=lambda head: f"f_{head}" if head in ARRAY_FUNCTIONS else f"x_{XP_NAMES[head]}",
    root="x_sqrt",
    power=lambda base, power: f"({base} ** {power})",
)


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
    names = {symbol: f"a{k}_{j}" for k, group in enumerate(arguments) for j, symbol in enumerate(group)}
    shared, wanted, used = reduced(results, first)
    lines = [f"def {name}({', '.join(f'group{k}' for k in range(len(arguments)))}):"]
    for k, group in enumerate(arguments):
        lines += [f"    {names[s]} = group{k}[{j}]" for j, s in enumerate(group) if s in used]
    names |= {symbol: str(symbol) for symbol, _ in shared}
    for symbols, expr in _together(shared, arguments):
        called = emit(expr[0], names) if len(expr) == 1 else _emit_together(expr, names)
        lines.append(f"    {', '.join(names[s] for s in symbols)} = {called}")
    lines.append(f"    return ({''.join(emit(e, names) + ', ' for e in wanted)})")
    source = "\n".join(lines) + "\n"
    space: dict[str, Any] = {"__builtins__": {}, "inf": float("inf")}
    space |= {f"f_{key}": _bind(function, xp) for key, function in ARRAY_FUNCTIONS.items()}
    space |= {f"all_{key}": functools.partial(function, xp) for key, function in TOGETHER.items()}
    space |= {f"x_{key}": _plain(getattr(xp, key)) for key in ("sqrt", *XP_NAMES.values())}
    exec(compile(source, f"<generated {name}>", "exec"), space)
    function = space[name]
    function.source = source
    return function


def reduced(
    results: Sequence[sp.Expr], first: int | None = None
) -> tuple[list[tuple[sp.Symbol, sp.Expr]], list[sp.Expr], set[sp.Symbol]]:
    """Common subexpressions in order, the (first) results in terms of them, and the symbols that these need."""
    shared, wanted = _common(tuple(results))
    wanted = wanted[:first]
    used = set().union(*(e.free_symbols for e in wanted))
    for symbol, expr in reversed(shared):
        if symbol in used:
            used |= expr.free_symbols
    return [(symbol, expr) for symbol, expr in shared if symbol in used], wanted, used


@functools.lru_cache(maxsize=64)
def _common(results: tuple[sp.Expr, ...]) -> tuple[list[tuple[sp.Symbol, sp.Expr]], list[sp.Expr]]:
    """SymPy's search for common subexpressions: most of the time that compiling takes, for each text once."""
    temporaries = (sp.Symbol(f"t{k}") for k in itertools.count())
    return sp.cse(list(results), symbols=temporaries, order="none")


def _together(
    shared: Sequence[tuple[sp.Symbol, sp.Expr]], arguments: Sequence[Sequence[sp.Symbol]]
) -> list[tuple[list[sp.Symbol], list[sp.Expr]]]:
    """The assignments in order, with calls of a `TOGETHER` function on arguments of one group made at once."""
    group_of = {symbol: k for k, group in enumerate(arguments) for symbol in group}
    found: dict[Any, tuple[list[sp.Symbol], list[sp.Expr]]] = {}
    for symbol, expr in shared:
        key: Any = symbol
        if type(expr).__name__ in TOGETHER and expr.args[0] in group_of:
            key = (type(expr).__name__, group_of[expr.args[0]])
        symbols, exprs = found.setdefault(key, ([], []))
        symbols.append(symbol)
        exprs.append(expr)
    return list(found.values())


def _emit_together(calls: Sequence[sp.Expr], names: Mapping[sp.Symbol, str]) -> str:
    return f"all_{type(calls[0]).__name__}({', '.join(names[call.args[0]] for call in calls)})"


def _bind(function: Callable[..., Any], xp: Any) -> Callable[..., Any]:
    return _plain(lambda *arguments: function(xp, *arguments))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, but a scalar comes back as a Python float: a NumPy one would widen float32 arrays."""

    def call(*arguments: Any) -> Any:
        value = function(*arguments)
        return float(value) if isinstance(value, np.generic) else value

    return call


def emit(expr: sp.Expr, names: Mapping[sp.Symbol, str], to: Dialect = PYTHON) -> str:
    """One expression of the language, fully parenthesised."""
    if isinstance(expr, sp.Symbol):
        return names[expr]
    if expr is sp.oo:
        return to.infinity
    if expr is -sp.oo:
        return f"(-{to.infinity})"
    if expr.is_number:
        return to.number(int(expr) if expr.is_Integer else float(expr))
    if isinstance(expr, sp.Add):
        return _emit_sum(expr, names, to)
    if isinstance(expr, sp.Mul):
        return _emit_product(expr, names, to)
    if isinstance(expr, sp.Pow):
        return _emit_power(expr, names, to)
    return f"{to.call(type(expr).__name__)}({', '.join(emit(a, names, to) for a in expr.args)})"


def _emit_sum(expr: sp.Add, names: Mapping[sp.Symbol, str], to: Dialect) -> str:
    """Subtracting saves the pass over an array that its negation would be."""
    less = [a for a in expr.args if a.could_extract_minus_sign()]
    more = [a for a in expr.args if a not in less]
    if not more:
        more, less = [less[0]], less[1:]
    text = " + ".join(emit(a, names, to) for a in more)
    return "(" + "".join([text, *(f" - {emit(-a, names, to)}" for a in less)]) + ")"


def _emit_product(expr: sp.Mul, names: Mapping[sp.Symbol, str], to: Dialect) -> str:
    above, below = [], []
    for factor in expr.args:
        if isinstance(factor, sp.Pow) and factor.exp.is_number and factor.exp.is_negative:
            below.append(factor.base ** (-factor.exp))
        else:
            above.append(factor)
    sign = "-" if above and above[0] == -1 else ""
    above = above[1:] if sign else above
    top = " * ".join(emit(a, names, to) for a in above) or to.number(1)
    bottom = " * ".join(emit(b, names, to) for b in below)
    return f"({sign}{top} / ({bottom}))" if below else f"({sign}{top})"


def _emit_power(expr: sp.Pow, names: Mapping[sp.Symbol, str], to: Dialect) -> str:
    base, power = expr.args
    if power == sp.Rational(1, 2):
        return f"{to.root}({emit(base, names, to)})"
    if power.is_number and power.is_negative:
        return f"({to.number(1)} / {emit(base ** (-power), names, to)})"
    if power.is_Integer and base.is_Symbol and power <= 4:
        return "(" + " * ".join([names[base]] * int(power)) + ")"
    return to.power(emit(base, names, to), emit(power, names, to))
