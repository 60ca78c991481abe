"""Brian2 equation text → the discrete update map of one neuron, its units, and its symbolic derivatives.

A neuron's new state depends on its own old state s, its summed inputs u and parameters: s' = F(s, u), r = R(s). This
file reads F and R from text, checks their units with Brian2, and `derivatives` gives A = ∂F/∂s, C = ∂F/∂u and
D = ∂R/∂s of the *discrete* map. Everything downstream differentiates nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import sympy as sp

from bpl_neuro.errors import ModelError
from bpl_neuro.model.budget import Budget, free_symbols
from bpl_neuro.model.derivative import derivative
from bpl_neuro.model.expressions import ExpressionReader, reason
from bpl_neuro.model.functions import absolute, written_functions
from bpl_neuro.model.integration import exact_symbols, integrate, split_noise
from bpl_neuro.model.names import DT, delay_state, is_reserved, symbol
from bpl_neuro.model.quantities import brian2_parts, check_text, parse_expression
from bpl_neuro.model.stable import stabilise

__all__ = ["NeuronEquations", "read_equations"]

MAX_EQUATIONS = 100


@dataclass(frozen=True)
class NeuronEquations:
    """One neuron's update map, symbolically.

    Attributes
    ----------
    states, inputs, parameters : tuple of str
        Names, in the order in which they appear in the text (inputs: as listed).
    update : tuple of Expr
        F, one expression per state.
    rate : Expr
        R(s) (or, for a population without states, a function of its inputs).
    dimensions : dict
        Brian2 dimensions of every name.
    rate_dimensions : Dimension
        Brian2 dimensions of what is sent.
    system : (Matrix M, tuple b) or None
        With ``method="exact"`` and coupled states: ds/dt = M s + b(u); F then uses the symbols `exact_symbols`,
        which stand for expm(M dt) and its integral.
    noise_scale : tuple of tuple of Expr
        Per state, the coefficients of the independent noise sources: a step adds coefficient · √dt · N(0, 1). Free of
        states and inputs, so J is as it is without noise. Empty without noise.
    delays : int
        How many of the last states are a delay line of the rate: state −delays holds R(s) one step ago, and so on.
    """

    states: tuple[str, ...]
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    update: tuple[sp.Expr, ...]
    rate: sp.Expr
    dimensions: Mapping[str, Any] = field(repr=False)
    rate_dimensions: Any = field(repr=False)
    system: sp.Matrix | None = None
    noise_scale: tuple[tuple[sp.Expr, ...], ...] = ()
    delays: int = 0

    @property
    def symbols(self) -> tuple[tuple[sp.Symbol, ...], tuple[sp.Symbol, ...], tuple[sp.Symbol, ...]]:
        """Symbols of states, of inputs, and of parameters (with dt and the exact-integration constants last)."""
        constants = [symbol(p) for p in self.parameters] + [DT]
        if self.system is not None:
            constants += exact_symbols(len(self.states) - self.delays)
        return tuple(map(symbol, self.states)), tuple(map(symbol, self.inputs)), tuple(constants)

    def identity(self) -> dict[str, Any]:
        """The map itself, however its text was written: for people, and to the last bit as a hash of all of it."""
        everything = (self.update, self.rate, self.system, self.noise_scale)
        names = (*self.states[: len(self.states) - self.delays], *self.inputs, *self.parameters)
        unit = brian2_parts().unit_name
        return {
            "states": list(self.states), "inputs": list(self.inputs), "delays": self.delays,
            "update": {name: str(f) for name, f in zip(self.states, self.update, strict=True)}, "rate": str(self.rate),
            "noise": [[str(f) for f in row] for row in self.noise_scale],
            "units": {name: unit(self.dimensions[name]) for name in names} | {"": unit(self.rate_dimensions)},
            "exactly": hashlib.sha256(sp.srepr(everything).encode()).hexdigest(),
        }  # fmt: skip

    def derivatives(self) -> tuple[dict[tuple[int, int], sp.Expr], dict[tuple[int, int], sp.Expr], dict[int, sp.Expr]]:
        """A[k, l] = ∂F_k/∂s_l, C[k, p] = ∂F_k/∂u_p and D[l] = ∂R/∂s_l, without the entries that are 0."""
        return _derivatives(*self.symbols[:2], self.update, self.rate)

    def with_delay_line(self, steps: int) -> NeuronEquations:
        """The same neuron carrying its last rates: a transmission delay is exact with no new theory."""
        names = tuple(delay_state(k + 1) for k in range(steps))
        line = (self.rate, *map(symbol, names[:-1])) if steps else ()
        noise_scale = self.noise_scale and self.noise_scale + ((sp.Integer(0),) * len(self.noise_scale[0]),) * steps
        dimensions = {**self.dimensions, **dict.fromkeys(names, self.rate_dimensions)}
        return replace(
            self,
            states=self.states + names,
            update=self.update + line,
            noise_scale=noise_scale,
            delays=steps,
            dimensions=dimensions,
        )

    def rate_slope(self) -> sp.Expr:
        """∂R/∂u of a population without states (a synthesiser unit), which has one input."""
        return derivative(self.rate, symbol(self.inputs[0]))


@functools.lru_cache(maxsize=64)
def _derivatives(
    states: tuple[sp.Symbol, ...], inputs: tuple[sp.Symbol, ...], update: tuple[sp.Expr, ...], rate: sp.Expr
) -> tuple[dict[tuple[int, int], sp.Expr], dict[tuple[int, int], sp.Expr], dict[int, sp.Expr]]:
    """`NeuronEquations.derivatives`, for each text once."""
    free: dict[sp.Basic, frozenset[sp.Symbol]] = {}

    def row(f: sp.Expr, symbols: tuple[sp.Symbol, ...]) -> dict[int, sp.Expr]:
        moving = free_symbols(f, free)
        entries = {j: derivative(f, s, free) for j, s in enumerate(symbols) if s in moving}
        return {j: entry for j, entry in entries.items() if entry != 0}

    A = {(k, j): entry for k, f in enumerate(update) for j, entry in row(f, states).items()}
    C = {(k, p): entry for k, f in enumerate(update) for p, entry in row(f, inputs).items()}
    return A, C, row(rate, states)


def read_equations(
    text: str,
    *,
    rate: str,
    inputs: Sequence[str],
    method: str | None = None,
    update: str | None = None,
    where: str = "equations",
    stateless: bool = False,
    budget: Budget | None = None,
) -> NeuronEquations:
    """Read one neuron's equations.

    Parameters
    ----------
    text : str
        Brian2 equations: differential equations, subexpressions, and parameters (``tau : second (constant)``).
    rate : str
        Name of the state or subexpression that the neuron sends.
    inputs : sequence of str
        Names of the summed synaptic inputs.
    method : {"euler", "exponential_euler", "exact"}, optional
        How differential equations become the update map; "euler" if there are any and no method is named.
    update : str, optional
        Assignments in order, ``c = …`` then ``h = …``, for a discrete-time model; instead of differential equations.
    where : str
        Named in errors: the file and key.
    stateless : bool
        True for a synthesiser unit, which has no memory of its own.
    budget : Budget, optional
        What may be spent on the model; one of these equations' own by default.

    Raises
    ------
    ModelError
        For anything that is not a differentiable rate neuron with consistent units; says what would be right.
    """
    b2 = brian2_parts()
    budget = budget or Budget()
    equations, codes = _parse(check_text(text, where), where)
    kinds: dict[str, list[str]] = {"differential equation": [], "subexpression": [], "parameter": []}
    for name, equation in equations.items():
        kinds[equation.type].append(name)
        if str(equation.var_type) != "float":
            raise ModelError(
                f"{where}: {name!r} is declared {equation.var_type}; rate neurons have real variables only"
            )
    _check_flags(equations, where)
    differential, parameters = kinds["differential equation"], kinds["parameter"]
    for name in inputs:
        if name not in parameters:
            raise ModelError(
                f"{where}: input {name!r} must be declared in the equations as a parameter, like '{name} : 1'"
            )
    if len(set(inputs)) != len(inputs):
        raise ModelError(f"{where}: inputs must differ, got {list(inputs)}")
    known = {n: b2.Variable(n, dimensions=eq.dim) for n, eq in equations.items()}
    reader = ExpressionReader({n: eq.dim for n, eq in equations.items()}, known, where, budget)
    order = _order({name: codes[name] for name in kinds["subexpression"]}, where)
    for name in order:
        reader.values[name] = reader.read(codes[name], equations[name].dim, name)
    rate_values = dict(reader.values)  # of the states as they are, not as an assignment left them

    noise_scale: tuple[tuple[sp.Expr, ...], ...] = ()
    if update is not None:
        if differential:
            raise ModelError(f"{where}: give either differential equations or `update`, not both")
        if method is not None:
            raise ModelError(
                f"{where}: `method` = {method!r} integrates differential equations; with `update` leave it out"
            )
        written = {name: parse_expression(codes[name], where) for name in order}
        current = _read_update(update, reader, written, parameters, inputs, where)
        states = tuple(name for name in parameters if name in current)
        new = tuple(current[name] for name in states)
        system = None
    else:
        states = tuple(differential)
        slopes = [reader.read(codes[name], equations[name].dim, name, derivative=True) for name in states]
        slopes = [slope.replace(sp.Abs, absolute) for slope in slopes]
        slopes, noise_scale = split_noise(slopes, states, inputs, method or "euler", budget, where)
        new, system = integrate(states, slopes, inputs, method or "euler", budget, where)
    _check_memory(states, stateless, where)
    if rate not in equations:
        raise ModelError(f"{where}: `rate` = {rate!r} is not in the equations; known: {', '.join(equations)}")
    if rate in parameters and rate not in states:
        raise ModelError(f"{where}: `rate` = {rate!r} is a parameter; it must be a state or a subexpression of states")
    rate_expr = symbol(rate) if rate in states else rate_values[rate]
    constants = tuple(n for n in parameters if n not in inputs and n not in states)
    if not stateless and (bad := rate_expr.free_symbols & set(map(symbol, inputs))):
        raise ModelError(
            f"{where}: `rate` = {rate!r} depends on the input {sorted(map(str, bad))[0]!r}; what a neuron sends must "
            "be a function of its own state alone (add a state that holds it)"
        )
    if not stateless and not rate_expr.free_symbols & set(map(symbol, states)):
        raise ModelError(f"{where}: `rate` = {rate!r} does not depend on the state, so the neuron sends nothing")
    sent = equations[rate].dim
    dimensions = {name: equation.dim for name, equation in equations.items()}
    *finished, rate_expr = (budget.checked(stabilise(expr), where) for expr in (*new, rate_expr))
    budget.differentiate(
        [*finished, rate_expr], map(symbol, (*states, *inputs)), where, f"the derivatives of {len(states)} state(s)"
    )
    return NeuronEquations(
        states, tuple(inputs), constants, tuple(finished), rate_expr, dimensions, sent, system, noise_scale
    )


def _parse(text: str, where: str) -> tuple[Any, dict[str, str]]:
    """Brian2's own parser, its errors turned into ours; and the right-hand sides, by name."""
    if not text.strip():
        raise ModelError(f"{where}: the equations are empty")
    outline, right_hand_sides = _outline(text, where)
    try:
        with warnings.catch_warnings():  # Brian2's parser warns of its own library's old names
            warnings.simplefilter("ignore")
            equations = brian2_parts().Equations(textwrap.dedent(outline))
    except Exception as error:  # Brian2 raises half a dozen kinds here; all mean "this text is wrong"
        raise ModelError(f"{where}: Brian2 cannot read the equations: {reason(error)}") from None
    written = [name for name in equations if equations[name].type != "parameter"]
    if len(written) != len(right_hand_sides):
        raise ModelError(f"{where}: cannot read the equations: a line is not like 'x = … : unit'")
    codes = dict(zip(written, right_hand_sides, strict=True))
    for name in equations:
        if is_reserved(name):
            raise ModelError(f"{where}: {name!r} is reserved; choose another name")
        if name in written_functions():
            raise ModelError(f"{where}: {name!r} is the name of a function; choose another name")
    return equations, codes


def _outline(text: str, where: str) -> tuple[str, list[str]]:
    """The text with a sum of the names in it for every right-hand side, and these, which are checked.

    Brian2 hands every right-hand side to SymPy as it reads, which never comes back from some.
    """
    bare = re.sub(r"#[^\n]*", "", text)
    if bare.count(":") > MAX_EQUATIONS:
        raise ModelError(f"{where}: the text has {bare.count(':')} equations; at most {MAX_EQUATIONS} are read")
    outline, right_hand_sides = [], []
    for chunk in bare.split(":"):
        left, equals, right = chunk.partition("=")
        if equals:
            tree = parse_expression(right, f"{where}, {left.split()[-1]!r}" if left.split() else where)
            called = {part.func for part in ast.walk(tree) if isinstance(part, ast.Call)}
            names = {part.id for part in ast.walk(tree) if isinstance(part, ast.Name) and part not in called}
            right_hand_sides.append(" ".join(right.split()))
            chunk = f"{left}= {' + '.join(sorted(names)) or '1'} "
        outline.append(chunk)
    return ":".join(outline), right_hand_sides


def _check_flags(equations: Any, where: str) -> None:
    for name, equation in equations.items():
        for flag in equation.flags:
            if flag not in ("constant", "shared", "clock-driven", "constant over dt"):
                reason = "; spikes, thresholds and refractoriness have no derivative" if "refractory" in flag else ""
                raise ModelError(f"{where}: flag ({flag}) of {name!r} is not supported{reason}")


def _check_memory(states: tuple[str, ...], stateless: bool, where: str) -> None:
    if stateless and states:
        raise ModelError(f"{where}: a synthesiser has no memory of its own, but {states[0]!r} is a state")
    if not stateless and not states:
        raise ModelError(f"{where}: there is no state; write a differential equation, or assignments in `update`")


def _order(codes: Mapping[str, str], where: str) -> list[str]:
    """Subexpressions, each after those that it needs."""
    needs = {
        name: {n.id for n in ast.walk(parse_expression(code, where)) if isinstance(n, ast.Name)} & codes.keys()
        for name, code in codes.items()
    }
    try:
        return list(TopologicalSorter({name: sorted(needed) for name, needed in needs.items()}).static_order())
    except CycleError as error:
        raise ModelError(
            f"{where}: the subexpressions {', '.join(sorted(set(error.args[1])))} depend on one another in a circle"
        ) from None


def _read_update(
    text: str,
    reader: ExpressionReader,
    subexpressions: Mapping[str, ast.expr],
    parameters: Sequence[str],
    inputs: Sequence[str],
    where: str,
) -> dict[str, sp.Expr]:
    """New values by name; in each assignment the subexpressions see those before it."""
    where = f"{where}, update"
    check_text(text, where)
    try:
        statements = ast.parse(textwrap.dedent(text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{where}: cannot read it: {getattr(error, 'msg', None) or error}") from None
    if len(statements) > MAX_EQUATIONS:
        raise ModelError(f"{where}: there are {len(statements)} assignments; at most {MAX_EQUATIONS} are read")
    assigned: dict[str, sp.Expr] = {}
    for statement in statements:
        if not (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(statement.targets[0], ast.Name)
        ):
            raise ModelError(f"{where}: line {statement.lineno} is not an assignment like 'h = tanh(u)'")
        name = statement.targets[0].id
        if name not in parameters or name in inputs:
            raise ModelError(f"{where}: {name!r} is assigned but not declared as a state, like '{name} : 1'")
        if name in assigned:
            raise ModelError(f"{where}: {name!r} is assigned twice")
        source = ast.get_source_segment(textwrap.dedent(text), statement.value) or ""
        assigned[name] = reader.values[name] = reader.read(source, reader.names[name], name)
        for changed, written in _depending(subexpressions, name):
            reader.values[changed] = reader.tree(written, changed)
    if not assigned:
        raise ModelError(f"{where}: there are no assignments")
    return assigned


def _depending(subexpressions: Mapping[str, ast.expr], name: str) -> Iterator[tuple[str, ast.expr]]:
    """The subexpressions, in order, in which a name stands, or one of these."""
    changed = {name}
    for key, written in subexpressions.items():
        if any(isinstance(part, ast.Name) and part.id in changed for part in ast.walk(written)):
            changed.add(key)
            yield key, written
