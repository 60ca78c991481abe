"""Text to numbers and trees, safely: limits on size and one evaluator for ``"10*ms"``.

A model text is data and nothing here runs it. Brian2 evaluates unit strings with Python's `eval`, so every text is
checked here before Brian2 sees it.
"""

from __future__ import annotations

import ast
import functools
import logging
import math
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from bpl_neuro.errors import ModelError

__all__ = ["brian2_parts", "check_text", "parse_expression", "quantity"]

MAX_TEXT = 20_000
MAX_NODES = 2_000
MAX_DEPTH = 60
MAX_POWER = 16

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Constant, ast.Load,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd,
)  # fmt: skip
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_REFUSED_NODES = {
    ast.Compare: "a comparison has no derivative; write a threshold as clip(x, 0, inf)",
    ast.BoolOp: "a logical operation has no derivative; write a threshold as clip(x, 0, inf)",
    ast.IfExp: "a conditional has no derivative; write a threshold as clip(x, 0, inf)",
    ast.Mod: "% has jumps",
    ast.FloorDiv: "// has derivative 0 everywhere",
    ast.Attribute: "a model text has no attributes",
    ast.Subscript: "a model text has no subscripts",
    ast.Lambda: "a model text defines no functions",
}


#: one import at a time: each puts back what it has found
_importing = threading.RLock()


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Leave the handlers of signals as they are, which any thread but the main one must."""
    real, here = signal.signal, threading.get_ident()

    def kept(number: Any, handler: Any) -> Any:
        return signal.getsignal(number) if threading.get_ident() == here else real(number, handler)

    signal.signal = kept  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = real


@functools.cache
def brian2_parts() -> SimpleNamespace:
    """The parts of Brian2 we use, imported on first use (1–2 s), in any thread.

    Brian2 takes over `sys.excepthook`, the display of warnings and the handler of SIGINT; all are as they were after.
    """
    hook = sys.excepthook
    with _importing, _handlers_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from brian2.core.functions import DEFAULT_FUNCTIONS, Function
            from brian2.core.namespace import DEFAULT_CONSTANTS, DEFAULT_UNITS
            from brian2.core.variables import Variable
            from brian2.equations.equations import Equations
            from brian2.equations.unitcheck import check_dimensions
            from brian2.units.fundamentalunits import DIMENSIONLESS, get_unit_for_display
            from brian2.units.stdunits import ms  # noqa: F401 - registers the short names
        finally:
            sys.excepthook = hook
            logging.captureWarnings(False)
    return SimpleNamespace(
        FUNCTIONS=DEFAULT_FUNCTIONS,
        CONSTANTS={k: float(v.get_value()) for k, v in DEFAULT_CONSTANTS.items()},
        CONSTANT_VARIABLES=DEFAULT_CONSTANTS,
        UNITS=DEFAULT_UNITS,
        Function=Function,
        Variable=Variable,
        Equations=Equations,
        check_dimensions=check_dimensions,
        DIMENSIONLESS=DIMENSIONLESS,
        SECOND=DEFAULT_UNITS["second"].dim,
        unit_name=lambda dim: str(get_unit_for_display(dim)),
    )


def check_text(text: Any, where: str) -> str:
    """Refuse a text that is no text, too long, nested too deeply, or whose unit part could hang Brian2."""
    if not isinstance(text, str):
        raise ModelError(f"{where}: expected text, got {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise ModelError(f"{where}: the text has {len(text)} characters; at most {MAX_TEXT} are read")
    if "\0" in text:
        raise ModelError(f"{where}: the text contains a NUL character")
    depth = deepest = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise ModelError(f"{where}: parentheses are nested {deepest} deep; at most {MAX_DEPTH} are read")
    for unit in re.findall(r":([A-Za-z0-9*/.\- \t]*)", re.sub(r"#[^\n]*", "", text)):
        for power in re.findall(r"\*\*\s*([^*/]*)", unit):
            if not re.fullmatch(r"\s*-?\d(\.\d+)?\s*", power):
                raise ModelError(f"{where}: the power {power.strip()!r} in the unit {unit.strip()!r} is not one digit")
        if re.search(r"\*\*[^*/]*\*\*", unit):
            raise ModelError(f"{where}: the unit {unit.strip()!r} has a power of a power")
    return text


def parse_expression(text: str, where: str) -> ast.expr:
    """The checked syntax tree of an arithmetic expression.

    Raises
    ------
    ModelError
        For text that is not arithmetic on names, numbers and function calls, is too large, or has a literal
        power beyond ±16.
    """
    check_text(text, where)
    try:
        tree = ast.parse(" ".join(text.split()), mode="eval")
    except (RecursionError, MemoryError):
        raise ModelError(f"{where}: {_short(text)!r} is too large") from None
    except (SyntaxError, ValueError) as error:
        message = getattr(error, "msg", None) or str(error)
        raise ModelError(f"{where}: cannot read {_short(text)!r}: {message}") from None
    check_tree(tree, text, where)
    return tree.body


def check_tree(tree: ast.AST, text: str, where: str) -> None:
    """Walk a tree without recursion and refuse what is not plain arithmetic."""
    level: list[ast.AST] = [tree]
    nodes = depth = 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > 2 * MAX_DEPTH or nodes > MAX_NODES:
            raise ModelError(
                f"{where}: {_short(text)!r} is too large (over {MAX_NODES} parts, or nested over {2 * MAX_DEPTH} deep)"
            )
        for node in level:
            _check_node(node, text, where)
        level = [child for node in level for child in _parts_of(node, text, where)]


def _parts_of(node: ast.AST, text: str, where: str) -> list[ast.AST]:
    """The nodes below one; for the comparison in ``where(x < y, a, b)``, the only one there may be, its two sides."""
    parts = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "where" and node.args:
        condition = node.args[0]
        if not isinstance(condition, ast.Compare) or len(condition.ops) > 1:
            raise ModelError(
                f"{where}: where() in {_short(text)!r} needs one comparison first, like where(x > 0, a, b)"
            )
        if not isinstance(condition.ops[0], _COMPARISONS):
            raise ModelError(f"{where}: {_short(text)!r} may compare by <, <=, > or >= only")
        parts.remove(condition)
        parts += [condition.left, *condition.comparators]
    return parts


def _check_node(node: ast.AST, text: str, where: str) -> None:
    reason = _REFUSED_NODES.get(type(node))
    if reason or not isinstance(node, _NODES):
        raise ModelError(
            f"{where}: {_short(text)!r} uses {type(node).__name__}, which is not allowed"
            + (f": {reason}" if reason else "; only + - * / **, numbers, names and function calls are")
        )
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise ModelError(f"{where}: {node.value!r} in {_short(text)!r} is not a number")
        too_large = abs(node.value) > 10**300 if isinstance(node.value, int) else not abs(node.value) <= 1e300
        if too_large:
            raise ModelError(f"{where}: the number {str(node.value)[:40]} in {_short(text)!r} is too large")
    if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.keywords):
        raise ModelError(f"{where}: {_short(text)!r} calls something that is not a plain function of its arguments")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        power = literal(node.right)
        if power is None and not any(isinstance(n, ast.Name) for n in ast.walk(node.right)):
            raise ModelError(f"{where}: the power in {_short(text)!r} must be one number or a parameter")
        if power is not None and abs(power) > MAX_POWER:
            raise ModelError(f"{where}: the power {power:g} in {_short(text)!r} lies beyond ±{MAX_POWER}")


def literal(node: ast.AST) -> float | None:
    """The value of a number, or of minus a number; else None."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = literal(node.operand)
        return None if value is None else (-value if isinstance(node.op, ast.USub) else value)
    return node.value if isinstance(node, ast.Constant) else None  # type: ignore[return-value]


def quantity(value: Any, where: str) -> tuple[float, Any]:
    """A number in SI units and its dimensions, from ``"10*ms"``, a number, or a Brian2 quantity.

    Examples
    --------
    >>> quantity("10*ms", "tau")[0]
    0.01
    """
    b2 = brian2_parts()
    if isinstance(value, str):
        number, dim = _evaluate(parse_expression(value, where), value, where)
    elif isinstance(value, bool) or (not isinstance(value, int | float) and not hasattr(value, "dim")):
        try:
            number, dim = float(value), b2.DIMENSIONLESS
        except (TypeError, ValueError):
            raise ModelError(f'{where}: expected a number or a text like "10*ms", got {value!r}') from None
    else:
        number, dim = float(value), getattr(value, "dim", b2.DIMENSIONLESS)
    if not math.isfinite(number):
        raise ModelError(f"{where}: must be finite, got {value!r}")
    return number, dim


def _evaluate(node: ast.expr, text: str, where: str) -> tuple[float, Any]:
    b2 = brian2_parts()
    if isinstance(node, ast.Constant):
        return float(node.value), b2.DIMENSIONLESS  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        if node.id in b2.UNITS:
            unit = b2.UNITS[node.id]
            return float(unit), unit.dim
        if node.id in b2.CONSTANTS:
            return b2.CONSTANTS[node.id], b2.DIMENSIONLESS
        raise ModelError(f'{where}: {node.id!r} in {_short(text)!r} is not a unit; write for example "10*ms" or "2*Hz"')
    if isinstance(node, ast.UnaryOp):
        number, dim = _evaluate(node.operand, text, where)
        return (-number if isinstance(node.op, ast.USub) else number), dim
    if not isinstance(node, ast.BinOp):
        raise ModelError(f"{where}: {_short(text)!r} must be a number with a unit, without function calls")
    (a, dim_a), (b, dim_b) = _evaluate(node.left, text, where), _evaluate(node.right, text, where)
    try:
        if isinstance(node.op, ast.Mult):
            return a * b, dim_a * dim_b
        if isinstance(node.op, ast.Div):
            return a / b, dim_a / dim_b
        if isinstance(node.op, ast.Pow):
            return float(a**b), dim_a**b
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ModelError(f"{where}: cannot compute {_short(text)!r}: {error}") from None
    if dim_a is not dim_b:
        raise ModelError(f"{where}: {_short(text)!r} adds {b2.unit_name(dim_a)} and {b2.unit_name(dim_b)}")
    return (a + b if isinstance(node.op, ast.Add) else a - b), dim_a


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
