"""What reading a model may cost, and how much of it is spent.

SymPy's time is no function of the length of a text: chained subexpressions double, powers of powers have astronomical
constants, products differentiate into squares. So the trees that SymPy is given are measured first, and whatever would
take longer than reading any model in earnest is refused, by the name of the variable that it is about.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import sympy as sp

from bpl_neuro.errors import ModelError

__all__ = ["MAX_DEPTH_WRITTEN_OUT", "MAX_OPERATIONS", "Budget", "derivative_size", "free_symbols"]

#: operations of one expression, its subexpressions written out
MAX_OPERATIONS = 5_000
#: parts inside one another, likewise
MAX_DEPTH_WRITTEN_OUT = 100
#: operations of all of a model's expressions and derivatives
MAX_WORK = 300_000
#: processor seconds; work is bounded so that a model comes near them on a slow machine only
MAX_SECONDS = 4.0
#: numbers that a text makes lie within this and its inverse
LARGEST = 1e300
#: numerators and denominators beyond it become floating-point numbers
LONGEST = 10**15
#: the power that powers of powers come to
MAX_TOTAL_POWER = 256


class Budget:
    """What is spent on one model: operations, and as a last resort processor time.

    Parameters
    ----------
    seconds : float
        Processor time that is spent already.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.work, self._started = 0, time.thread_time() - seconds
        #: what SymPy was told of the model's parts; see `questions`
        self.answers: dict[tuple[str, sp.Basic], bool | None] = {}
        self._sizes: dict[sp.Basic, tuple[int, int]] = {}

    def spend(self, operations: int, where: str, what: str) -> None:
        """Count operations before they are done.

        Raises
        ------
        ModelError
            If the model comes to more than `MAX_WORK`, or has taken longer than `MAX_SECONDS` so far.
        """
        self.work += operations
        if self.work > MAX_WORK:
            raise ModelError(
                f"{where}: {what} would bring the model to {_about(self.work)} operations; at most {MAX_WORK} are "
                "worked out: write fewer or shorter equations"
            )
        self.check_time(where)

    @property
    def seconds(self) -> float:
        """Processor time spent so far."""
        return time.thread_time() - self._started

    def check_time(self, where: str) -> None:
        """ModelError once reading has taken longer than `MAX_SECONDS`."""
        if self.seconds > MAX_SECONDS:
            raise ModelError(
                f"{where}: the model takes longer than {MAX_SECONDS:g} s to read; write fewer or shorter equations"
            )

    def size(self, expr: sp.Basic) -> tuple[int, int]:
        """Operations of a tree, and how deep it is; every distinct part is looked at once."""
        known = self._sizes.get(expr)
        if known is None:
            parts = [self.size(a) for a in expr.args]
            operations = max(1, len(parts) - 1) + sum(p[0] for p in parts) if parts else 0
            known = self._sizes[expr] = operations, 1 + max((p[1] for p in parts), default=0)
        return known

    def checked(self, expr: sp.Expr, where: str) -> sp.Expr:
        """A new tree, if it is small enough to work with.

        Raises
        ------
        ModelError
            If it has too many operations, is too deep, or a number in it too long.
        """
        self.check_time(where)
        operations, depth = self.size(expr)
        if operations > MAX_OPERATIONS:
            raise ModelError(
                f"{where}: it comes to {operations} operations when written out; at most {MAX_OPERATIONS} are read"
            )
        if depth > MAX_DEPTH_WRITTEN_OUT:
            raise ModelError(
                f"{where}: it is nested {depth} deep when written out; at most {MAX_DEPTH_WRITTEN_OUT} are read"
            )
        return _with_short_numbers(expr, where)

    def differentiate(self, exprs: Iterable[sp.Expr], symbols: Iterable[sp.Symbol], where: str, what: str) -> None:
        """Count what the derivatives of all of these with respect to all of those will be, before they are made."""
        free: dict[sp.Basic, frozenset[sp.Symbol]] = {}
        symbols = list(symbols)
        for expr in exprs:
            moving = free_symbols(expr, free)
            for s in symbols:
                if s in moving:
                    self.spend(1 + derivative_size(expr, s, free, self), where, what)


def free_symbols(expr: sp.Basic, known: dict[sp.Basic, frozenset[sp.Symbol]]) -> frozenset[sp.Symbol]:
    """The symbols in a tree. SymPy's own walks through equal parts again each time; here they are in `known`."""
    found = known.get(expr)
    if found is None:
        parts = [free_symbols(a, known) for a in expr.args]
        found = known[expr] = frozenset({expr}) if expr.is_Symbol else frozenset().union(*parts)
    return found


def derivative_size(expr: sp.Basic, s: sp.Symbol, free: dict[sp.Basic, frozenset[sp.Symbol]], budget: Budget) -> int:
    """Operations that ∂expr/∂s has at most, as `derivative` makes it; without making it."""
    sizes: dict[sp.Basic, int] = {}

    def of(e: sp.Basic) -> int:
        if e not in sizes:
            moving = [a for a in e.args if s in free_symbols(a, free)]
            times = len(moving) if e.is_Add else len(moving) * budget.size(e)[0]
            if not (e.is_Add or e.is_Mul):  # a power has its logarithm as well, a slope up to two calls an argument
                times = 3 * times + 4
            sizes[e] = times + sum(map(of, moving))
        return sizes[e]

    return of(expr) if s in free_symbols(expr, free) else 0


def _with_short_numbers(expr: sp.Expr, where: str) -> sp.Expr:
    """The same, where numbers that SymPy computed at the top of the tree are not longer than floating point."""
    if expr.is_Pow:
        _check_power(expr, where)
        return expr
    if expr.is_Number:
        return _short(expr, where)
    if expr.is_Mul:
        for factor in expr.args:
            _check_power(factor, where)
        first = expr.args[0]
        short = _short(first, where) if first.is_Number else first
        return expr if short is first else short * sp.Mul(*expr.args[1:])
    if expr.is_Add:
        terms = [_with_short_numbers(a, where) if a.is_Number or a.is_Mul else a for a in expr.args]
        return expr if all(a is b for a, b in zip(terms, expr.args, strict=True)) else sp.Add(*terms)
    return expr


def _short(value: sp.Expr, where: str) -> sp.Expr:
    if value.is_Rational and abs(value.p) <= LONGEST and value.q <= LONGEST:
        return value
    if value in (sp.oo, -sp.oo):
        return value
    if value.is_zero:
        return sp.Integer(0)
    size = abs(sp.Float(value))
    if value.is_finite is False or not 1 / LARGEST < size < LARGEST:
        raise ModelError(f"{where}: a constant in it comes to about 10**{_exponent(size)}; that is beyond 10**±300")
    return sp.Float(value) if value.is_Rational else value


def _check_power(e: sp.Expr, where: str) -> None:
    if e.is_Pow and e.exp.is_Number and abs(e.exp) > MAX_TOTAL_POWER:
        raise ModelError(f"{where}: its powers come to {_about(abs(e.exp))}; at most {MAX_TOTAL_POWER} is possible")


def _exponent(size: sp.Float) -> str:
    """The decimal exponent of a positive number, however large."""
    return f"{int(size._mpf_[2] + size._mpf_[3]) * 0.30103:.3g}" if size.is_finite else "∞"


def _about(number: sp.Expr | int) -> str:
    """A count to three digits."""
    if number < 10**6:
        return f"{float(number):g}"
    return f"{float(number):.2e}" if number < 10**300 else "over 1e300"
