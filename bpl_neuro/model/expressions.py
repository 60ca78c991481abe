"""One expression of a model text → a SymPy tree, with its names, functions and units checked."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sympy as sp

from bpl_neuro.errors import ModelError
from bpl_neuro.model.brian2_functions import brian2_functions
from bpl_neuro.model.budget import Budget
from bpl_neuro.model.functions import FUNCTIONS, REFUSED_FUNCTIONS, above, below, written_functions
from bpl_neuro.model.names import DT, is_noise, symbol
from bpl_neuro.model.quantities import brian2_parts, literal, parse_expression
from bpl_neuro.model.unit_check import UnitError, dimensions_of

__all__ = ["ExpressionReader", "reason"]

#: where `inf` may stand
WITH_BOUNDS = ("clip", "maximum", "minimum")


class ExpressionReader:
    """Turns expression text into a SymPy tree, checking names, functions, units and sizes.

    Attributes
    ----------
    values : dict of str to Expr
        What stands for a name: the trees of subexpressions, and of states that have a new value. SymPy so never has to
        substitute, and no tree exists before it is measured.
    """

    def __init__(self, dimensions: Mapping[str, Any], variables: Mapping[str, Any], where: str, budget: Budget) -> None:
        b2 = brian2_parts()
        self.names, self.where, self.budget = dimensions, where, budget
        self.values: dict[str, sp.Expr] = {}
        self.variables = {**b2.FUNCTIONS, **brian2_functions(), **b2.CONSTANT_VARIABLES, **b2.UNITS, **variables}
        self.variables[DT.name] = b2.Variable(DT.name, dimensions=b2.SECOND)
        self._noise = b2.Variable("xi", dimensions=b2.SECOND**-0.5)

    def read(self, text: str, dim: Any, name: str, *, derivative: bool = False) -> sp.Expr:
        """The tree of `text`, which must have the dimensions `dim` (those of dname/dt for a derivative)."""
        where = f"{self.where}, {name!r}"
        node = parse_expression(text, where)
        expr = self.tree(node, name)
        noise = [used for used in _names(node) if is_noise(used)]
        if noise and not derivative:
            raise ModelError(f"{where}: noise ({noise[0]!r}) may stand in differential equations only")
        b2 = brian2_parts()
        dim = dim / b2.SECOND if derivative else dim
        try:
            found = dimensions_of(node, {**self.variables, **dict.fromkeys(noise, self._noise)})
        except UnitError as error:
            raise ModelError(f"{where}: the units do not fit: {error}") from None
        if found is not dim:
            raise ModelError(
                f"{where}: the units do not fit: it must have {b2.unit_name(dim)}, and has {b2.unit_name(found)}"
            )
        return expr

    def tree(self, node: ast.expr, name: str) -> sp.Expr:
        """The tree of what was parsed and checked already, with `values` as they are now."""
        where = f"{self.where}, {name!r}"
        expr = self._tree(node, where)
        self.budget.spend(self.budget.size(expr)[0], where, "it")
        return expr

    def _tree(self, node: ast.expr, where: str) -> sp.Expr:
        """One part; measured before anything is made of it."""
        made = self._part(node, where)
        if made.is_number and not made.is_Rational:
            made = _number(made, where)
        for part in made.args:
            if part.is_number and part.is_extended_real is False:
                raise ModelError(f"{where}: it contains {str(part)[:40]}, which is not a real number")
        return self.budget.checked(made, where)

    def _part(self, node: ast.expr, where: str) -> sp.Expr:
        if isinstance(node, ast.Constant):
            value = node.value
            return sp.Integer(value) if isinstance(value, int) and abs(value) < 10**6 else sp.Float(value)  # type: ignore[arg-type]
        if isinstance(node, ast.Name):
            return self._name(node.id, where)
        if isinstance(node, ast.UnaryOp):
            operand = self._tree(node.operand, where)
            return -operand if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.Call):
            return self._call(node, where)
        assert isinstance(node, ast.BinOp)  # `parse_expression` let nothing else through
        left = self._finite(node.left, where)
        if isinstance(node.op, ast.Pow):
            return self._power(left, node.right, where)
        right = self._finite(node.right, where)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if right.is_number and right.is_zero:
            raise ModelError(f"{where}: {ast.unparse(node)[:80]!r} divides by zero")
        return left / right

    def _finite(self, node: ast.expr, where: str) -> sp.Expr:
        value = self._tree(node, where)
        if value in (sp.oo, -sp.oo):
            raise ModelError(f"{where}: 'inf' may be a bound of {', '.join(WITH_BOUNDS)} only; it divides by zero else")
        return value

    def _power(self, base: sp.Expr, exponent: ast.expr, where: str) -> sp.Expr:
        value = literal(exponent)
        power = self._finite(exponent, where) if value is None else _exact(value)
        if base.is_number and power.is_number:
            try:
                return sp.Float(float(base) ** float(power))
            except (ArithmeticError, TypeError) as error:
                raise ModelError(f"{where}: cannot compute a power: {error}") from None
        return base**power

    def _name(self, name: str, where: str) -> sp.Expr:
        b2 = brian2_parts()
        if name == DT.name:
            return DT
        if name in self.values:
            return self.values[name]
        if name in self.names or is_noise(name):
            return symbol(name)
        if name == "inf":
            return sp.oo
        if name in b2.CONSTANTS:
            return sp.Float(b2.CONSTANTS[name])
        if name in b2.UNITS:
            return sp.Float(float(b2.UNITS[name]))
        if name == "t":
            raise ModelError(f"{where}: the time 't' may not appear; give a time course as an input instead")
        raise ModelError(f"{where}: the name {name!r} is not defined; known: {', '.join(self.names)}")

    def _call(self, node: ast.Call, where: str) -> sp.Expr:
        name = node.func.id  # type: ignore[attr-defined]
        allowed = written_functions()
        if name not in allowed:
            reason = f": {REFUSED_FUNCTIONS[name]}" if name in REFUSED_FUNCTIONS else ""
            raise ModelError(
                f"{where}: the function {name!r} is not allowed{reason}; allowed: {', '.join(sorted(allowed))}"
            )
        function = FUNCTIONS[name]
        if len(node.args) != function.arguments:
            raise ModelError(f"{where}: {name}() takes {function.arguments} argument(s), got {len(node.args)}")
        read = self._tree if name in WITH_BOUNDS else self._finite
        arguments = [self._condition(a, where) if isinstance(a, ast.Compare) else read(a, where) for a in node.args]
        if all(a.is_number for a in arguments):
            return _computed(function.of(np), arguments, f"{where}: {ast.unparse(node)[:80]!r}")
        return function.form(*arguments)

    def _condition(self, node: ast.Compare, where: str) -> sp.Expr:
        """1 where the comparison holds, else 0."""
        left, right = self._finite(node.left, where), self._finite(node.comparators[0], where)
        operation = node.ops[0]
        if isinstance(operation, ast.Lt | ast.GtE):
            return (below if isinstance(operation, ast.Lt) else above)(left, right)
        return (below if isinstance(operation, ast.Gt) else above)(right, left)


def _names(node: ast.expr) -> Iterable[str]:
    return (part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def _exact(power: float) -> sp.Expr:
    """A literal power, 0.3 as 3/10; one of many digits as it is, since SymPy computes with all of them."""
    exact = sp.Rational(str(power)) if abs(power) > 1e-6 or power == 0 else None
    return exact if exact is not None and exact.q <= 10**6 else sp.Float(power)


def _number(value: sp.Expr, where: str) -> sp.Expr:
    """Constants as numbers: SymPy would go on with roots and logarithms of them, to any number of digits."""
    if value.is_Float or value in (sp.oo, -sp.oo):
        return value
    if value in (sp.zoo, sp.nan):
        raise ModelError(f"{where}: a part of it divides by zero")
    if value.is_extended_real is False:
        raise ModelError(f"{where}: it contains {str(value)[:40]}, which is not a real number")
    return sp.Float(value)


def _computed(function: Any, arguments: Iterable[sp.Expr], what: str) -> sp.Expr:
    """A function of constants, as a number."""
    try:
        with np.errstate(all="ignore"):
            value = float(function(*(float(a) for a in arguments)))
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ModelError(f"{what} cannot be computed: {error}") from None
    if math.isnan(value):
        raise ModelError(f"{what} is not a real number")
    if math.isinf(value) and sp.oo not in arguments and -sp.oo not in arguments:
        raise ModelError(f"{what} divides by zero, or overflows")
    return sp.Integer(int(value)) if value.is_integer() and abs(value) < 10**6 else sp.Float(value)


def reason(error: BaseException) -> str:
    """What an exception and its causes say, in one line."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 3:
        message = str(seen.args[0]) if seen.args else type(seen).__name__
        parts.append(" ".join(message.split()))
        seen = seen.__cause__
    return ": ".join(dict.fromkeys(parts))
