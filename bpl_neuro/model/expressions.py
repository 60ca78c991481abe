"""One expression of a model text → a SymPy tree, with its names, functions and units checked."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import sympy as sp

from bpl_neuro.errors import ModelError
from bpl_neuro.model.brian2_functions import brian2_functions
from bpl_neuro.model.functions import FUNCTIONS, REFUSED_FUNCTIONS, above, below, written_functions
from bpl_neuro.model.quantities import brian2_parts, literal, parse_expression

__all__ = ["DT", "ExpressionReader", "is_noise", "reason", "symbol"]

DT = sp.Symbol("dt", real=True, positive=True)


def symbol(name: str) -> sp.Symbol:
    """The real symbol of a name."""
    return sp.Symbol(name, real=True)


def is_noise(name: str) -> bool:
    """Whether a name is a noise source, ``xi`` or ``xi_…``."""
    return name == "xi" or name.startswith("xi_")


class ExpressionReader:
    """Turns expression text into a SymPy tree, checking names, functions and units."""

    def __init__(self, dimensions: Mapping[str, Any], variables: Mapping[str, Any], where: str) -> None:
        b2 = brian2_parts()
        self.names, self.where = dimensions, where
        self.variables = {**b2.FUNCTIONS, **brian2_functions(), **b2.CONSTANT_VARIABLES, **b2.UNITS, **variables}
        self.variables["dt"] = b2.Variable("dt", dimensions=b2.SECOND)
        self._noise = b2.Variable("xi", dimensions=b2.SECOND**-0.5)

    def read(self, text: str, dim: Any, name: str, *, derivative: bool = False) -> sp.Expr:
        """The tree of `text`, which must have the dimensions `dim` (those of dname/dt for a derivative)."""
        b2 = brian2_parts()
        where = f"{self.where}, {name!r}"
        tree = parse_expression(text, where)
        expr = self._tree(tree, where)
        sources = [s for s in map(str, expr.free_symbols) if is_noise(s)]
        if sources and not derivative:
            raise ModelError(f"{where}: noise ({sources[0]!r}) may stand in differential equations only")
        self.variables |= dict.fromkeys(sources, self._noise)
        if expr.has(sp.zoo, sp.nan):
            raise ModelError(f"{where}: {text!r} divides by zero")
        for part in sp.preorder_traversal(expr):
            if part.is_number and part.is_extended_real is False:
                raise ModelError(f"{where}: {text!r} contains {part}, which is not a real number")
        if derivative:
            dim = dim / b2.SECOND
        try:
            b2.check_dimensions(" ".join(text.split()), dim, self.variables)
        except Exception as error:  # Brian2's unit checker raises several kinds
            raise ModelError(f"{where}: the units do not fit: {reason(error)}") from None
        return expr

    def _tree(self, node: ast.expr, where: str) -> sp.Expr:
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
        if isinstance(node, ast.Compare):
            return self._condition(node, where)
        assert isinstance(node, ast.BinOp)  # `parse_expression` let nothing else through
        left = self._tree(node.left, where)
        if isinstance(node.op, ast.Pow):
            return self._power(left, node.right, where)
        right = self._tree(node.right, where)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        return left * right if isinstance(node.op, ast.Mult) else left / right

    def _power(self, base: sp.Expr, exponent: ast.expr, where: str) -> sp.Expr:
        value = literal(exponent)
        power = self._tree(exponent, where) if value is None else sp.Rational(str(value))
        if base.is_number and power.is_number:
            try:
                return sp.Float(float(base) ** float(power))
            except (ArithmeticError, TypeError) as error:
                raise ModelError(f"{where}: cannot compute a power: {error}") from None
        return base**power

    def _name(self, name: str, where: str) -> sp.Expr:
        b2 = brian2_parts()
        if name == "dt":
            return DT
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
        return function.form(*(self._tree(a, where) for a in node.args))

    def _condition(self, node: ast.Compare, where: str) -> sp.Expr:
        """1 where the comparison holds, else 0."""
        left, right = self._tree(node.left, where), self._tree(node.comparators[0], where)
        operation = node.ops[0]
        if isinstance(operation, ast.Lt | ast.GtE):
            return (below if isinstance(operation, ast.Lt) else above)(left, right)
        return (below if isinstance(operation, ast.Gt) else above)(right, left)


def reason(error: BaseException) -> str:
    """What an exception and its causes say, in one line."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 3:
        message = str(seen.args[0]) if seen.args else type(seen).__name__
        parts.append(" ".join(message.split()))
        seen = seen.__cause__
    return ": ".join(dict.fromkeys(parts))
