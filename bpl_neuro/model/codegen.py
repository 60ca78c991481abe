"""Symbolic expressions to program text: array functions in Python, and the same in another language by its `Dialect`.

The text is generated only from SymPy trees that `equations` built from a checked text, every symbol is renamed, and the
only names it can reach are those of the table of functions. It stays on an array function as ``.source``, for whoever
wants to read it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from bpl_neuro.model.array_forms import as_number
from bpl_neuro.model.functions import FUNCTIONS, HEADS, where
from bpl_neuro.model.names import argument, calls_together, group, host_function, temporary

__all__ = ["PYTHON", "Dialect", "array_function", "emit", "reduced"]


@dataclass(frozen=True)
class Dialect:
    """How a language writes what SymPy trees are made of.

    Attributes
    ----------
    number : callable float or int → str
    infinity : str
    call : callable str → str
        The name of a function, by its name in the table.
    power : callable (str, str) → str
    """

    number: Callable[[float], str]
    infinity: str
    call: Callable[[str], str]
    power: Callable[[str, str], str]


PYTHON = Dialect(
    number=lambda value: f"({value!r})" if value < 0 else repr(value),
    infinity="inf",
    call=host_function,
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
    return _array_function(name, tuple(map(tuple, arguments)), tuple(results), xp, first)


@functools.lru_cache(maxsize=256)
def _array_function(
    name: str, arguments: tuple[tuple[sp.Symbol, ...], ...], results: tuple[sp.Expr, ...], xp: Any, first: int | None
) -> Callable[..., tuple[Any, ...]]:
    """`array_function`, compiled once for each text: what it gives holds no state."""
    names = {symbol: argument(k, j) for k, symbols in enumerate(arguments) for j, symbol in enumerate(symbols)}
    shared, wanted, used = reduced(results, first)
    lines = [f"def {name}({', '.join(map(group, range(len(arguments))))}):"]
    for k, symbols in enumerate(arguments):
        lines += [f"    {names[s]} = {group(k)}[{j}]" for j, s in enumerate(symbols) if s in used]
    names |= {symbol: str(symbol) for symbol, _ in shared}
    for assigned, exprs in _together(shared, arguments):
        called = emit(exprs[0], names) if len(exprs) == 1 else _emit_together(exprs, names)
        lines.append(f"    {', '.join(names[s] for s in assigned)} = {called}")
    lines.append(f"    return ({''.join(emit(e, names) + ', ' for e in wanted)})")
    source = "\n".join(lines) + "\n"
    space: dict[str, Any] = {"__builtins__": {}, "inf": float("inf")}
    for key, function in FUNCTIONS.items():
        space[host_function(key)] = _plain(function.of(xp))
        if function.together:
            space[calls_together(key)] = functools.partial(function.together, xp)
    exec(compile(source, f"<generated {name}>", "exec"), space)
    made = _quiet(space[name]) if any(e.has(where) for e in results) else space[name]
    made.source = source
    return made


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
    """SymPy's search for common subexpressions: most of the time that compiling takes, for each text once.

    Calls that are cheaper together become subexpressions of their own, so that `_together` finds them.
    """
    temporaries = (sp.Symbol(temporary(k)) for k in itertools.count())
    shared, wanted = sp.cse(list(results), symbols=temporaries, order="none")
    ordered: list[tuple[sp.Symbol, sp.Expr]] = []

    def taken_out(expr: sp.Expr) -> sp.Expr:
        calls = sorted((e for e in expr.atoms(sp.Function) if _is_together(e) and e != expr), key=str)
        names = {call: next(temporaries) for call in calls}
        ordered.extend((name, call) for call, name in names.items())
        return expr.xreplace(names)

    for symbol, expr in shared:
        rest = taken_out(expr)
        ordered.append((symbol, rest))
    return ordered, [taken_out(expr) for expr in wanted]


def _is_together(e: sp.Expr) -> bool:
    """Whether a call is one that may be made together with others: of a name, not of something to compute first."""
    function = HEADS.get(type(e).__name__)
    return function is not None and function.together is not None and e.args[0].is_Symbol


def _together(
    shared: Sequence[tuple[sp.Symbol, sp.Expr]], arguments: Sequence[Sequence[sp.Symbol]]
) -> list[tuple[list[sp.Symbol], list[sp.Expr]]]:
    """The assignments in order, with calls on arguments of one group, or on the same value, made at once."""
    group_of = {symbol: k for k, group in enumerate(arguments) for symbol in group}
    calls: dict[Any, tuple[list[sp.Symbol], list[sp.Expr]]] = {}
    for symbol, expr in shared:
        key: Any = symbol
        if _is_together(expr):
            key = (HEADS[type(expr).__name__].together, group_of.get(expr.args[0], expr.args[0]))
        symbols, exprs = calls.setdefault(key, ([], []))
        symbols.append(symbol)
        exprs.append(expr)
    return list(calls.values())


def _emit_together(calls: Sequence[sp.Expr], names: Mapping[sp.Symbol, str]) -> str:
    distinct = list(dict.fromkeys(call.args[0] for call in calls))
    wanted = tuple((HEADS[type(call).__name__].name, distinct.index(call.args[0])) for call in calls)
    return f"{calls_together(wanted[0][0])}({wanted!r}, [{', '.join(names[symbol] for symbol in distinct)}])"


def _quiet(function: Callable[..., Any]) -> Any:
    """Without NumPy's warnings: the branch of a `where` that is not taken may be infinite, or no number."""

    def call(*groups: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*groups)

    return call


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, but a scalar comes back as a Python float."""
    return lambda *arguments: as_number(function(*arguments))


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
    return f"{to.call(HEADS[type(expr).__name__].name)}({', '.join(emit(a, names, to) for a in expr.args)})"


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
        return f"{to.call('sqrt')}({emit(base, names, to)})"
    if power.is_number and power.is_negative:
        return f"({to.number(1)} / {emit(base ** (-power), names, to)})"
    if power.is_Integer and base.is_Symbol and power <= 4:
        return "(" + " * ".join([names[base]] * int(power)) + ")"
    return to.power(emit(base, names, to), emit(power, names, to))
