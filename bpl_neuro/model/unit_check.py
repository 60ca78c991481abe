"""The unit of an expression, by Brian2's rules, with every part looked at once.

Brian2's own check looks at the arguments of `abs`, `clip` and `sqrt` again for every call around them, so that thirty
calls inside one another take for ever.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from bpl_neuro.model.quantities import brian2_parts, literal

__all__ = ["UnitError", "dimensions_of"]


class UnitError(Exception):
    """What does not fit, in one line."""


def dimensions_of(node: ast.expr, variables: Mapping[str, Any]) -> Any:
    """The dimensions of a checked tree, given Brian2's variables, units and functions by name.

    Raises
    ------
    UnitError
        Where they do not fit.
    """
    if isinstance(node, ast.Name):
        dim = getattr(variables.get(node.id), "dim", None)
        if dim is None:
            raise UnitError(f"{node.id!r} is not a variable")
        return dim
    if isinstance(node, ast.UnaryOp):
        return dimensions_of(node.operand, variables)
    if isinstance(node, ast.Call):
        return _of_call(node, variables)
    if isinstance(node, ast.Compare):
        _same([node.left, *node.comparators], variables, "compares")
        return brian2_parts().DIMENSIONLESS
    if isinstance(node, ast.BinOp):
        return _of_operation(node, variables)
    return brian2_parts().DIMENSIONLESS  # a number


def _of_operation(node: ast.BinOp, variables: Mapping[str, Any]) -> Any:
    if isinstance(node.op, ast.Add | ast.Sub):
        return _same([node.left, node.right], variables, "adds" if isinstance(node.op, ast.Add) else "subtracts")
    left, right = dimensions_of(node.left, variables), dimensions_of(node.right, variables)
    if isinstance(node.op, ast.Mult):
        return left * right
    if isinstance(node.op, ast.Div):
        return left / right
    none = brian2_parts().DIMENSIONLESS
    if right is not none:
        raise UnitError(f"the power {_text(node.right)} has the unit {_name(right)}")
    power = literal(node.right)
    if left is none or power == 1:
        return left
    if power is None:
        raise UnitError(f"{_text(node.left)} has the unit {_name(left)}; its power must be a number")
    return left**power


def _of_call(node: ast.Call, variables: Mapping[str, Any]) -> Any:
    name = node.func.id  # type: ignore[attr-defined]
    function = variables[name]
    found = [dimensions_of(argument, variables) for argument in node.args]
    for argument, dim, expected in zip(node.args, found, function._arg_units, strict=True):
        if isinstance(expected, str):
            as_that = found[function._arg_names.index(expected)]
            if dim is not as_that:
                raise UnitError(f"{name}() is given {_name(as_that)} and {_text(argument)}, which has {_name(dim)}")
        elif expected is not None and expected is not bool and dim is not _dim(expected):
            raise UnitError(f"{name}() takes {_name(_dim(expected))}, but {_text(argument)} has {_name(dim)}")
    sent = function._return_unit
    return _dim(sent(*found)) if callable(sent) and not hasattr(sent, "dim") else _dim(sent)


def _same(nodes: list[ast.expr], variables: Mapping[str, Any], does: str) -> Any:
    first, *others = [dimensions_of(node, variables) for node in nodes]
    for node, dim in zip(nodes[1:], others, strict=True):
        if dim is not first:
            raise UnitError(
                f"it {does} {_text(nodes[0])}, which has {_name(first)}, and {_text(node)}, which has {_name(dim)}"
            )
    return first


def _dim(unit: Any) -> Any:
    """Dimensions of a unit, of dimensions, or of a number."""
    return getattr(unit, "dim", unit if hasattr(unit, "_dims") else brian2_parts().DIMENSIONLESS)


def _name(dim: Any) -> str:
    none = dim is brian2_parts().DIMENSIONLESS
    return "no unit" if none else f"the unit {brian2_parts().unit_name(dim)}"


def _text(node: ast.expr) -> str:
    text = ast.unparse(node)
    return repr(text if len(text) <= 60 else text[:57] + "...")
