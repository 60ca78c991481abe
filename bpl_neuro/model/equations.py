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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from bpl_neuro.errors import ModelError
from bpl_neuro.model.derivative import derivative
from bpl_neuro.model.expressions import DT, ExpressionReader, is_noise, reason, symbol
from bpl_neuro.model.functions import FLAT, absolute, exprel, written_functions
from bpl_neuro.model.quantities import brian2_parts, check_text, parse_expression
from bpl_neuro.model.stable import stabilise

__all__ = ["METHODS", "NeuronEquations", "read_equations"]

MAX_OPERATIONS = 5_000
MAX_EQUATIONS = 100
METHODS = ("euler", "exponential_euler", "exact")


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
        names = tuple(f"_delay_{k + 1}" for k in range(steps))  # as no name in a text begins
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
    A = {(k, j): derivative(f, s) for k, f in enumerate(update) for j, s in enumerate(states)}
    C = {(k, p): derivative(f, u) for k, f in enumerate(update) for p, u in enumerate(inputs)}
    D = {j: derivative(rate, s) for j, s in enumerate(states)}
    return _nonzero(A), _nonzero(C), _nonzero(D)


def _nonzero(entries: dict[Any, sp.Expr]) -> dict[Any, sp.Expr]:
    return {key: value for key, value in entries.items() if value != 0}


def exact_symbols(S: int) -> list[sp.Symbol]:
    """Symbols of expm(M dt) and ∫₀^dt expm(M τ) dτ, row by row."""
    return [sp.Symbol(f"_{kind}{k}_{j}", real=True) for kind in ("E", "I") for k in range(S) for j in range(S)]


def read_equations(
    text: str,
    *,
    rate: str,
    inputs: Sequence[str],
    method: str | None = None,
    update: str | None = None,
    where: str = "equations",
    stateless: bool = False,
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

    Raises
    ------
    ModelError
        For anything that is not a differentiable rate neuron with consistent units; says what would be right.
    """
    b2 = brian2_parts()
    equations = _parse(check_text(text, where), where)
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
    reader = ExpressionReader({n: eq.dim for n, eq in equations.items()}, known, where)
    bodies = {
        name: reader.read(str(equations[name].expr.code), equations[name].dim, name, derivative=name in differential)
        for name in differential + kinds["subexpression"]
    }
    subexpressions = _resolve({n: bodies[n] for n in kinds["subexpression"]}, where)

    noise_scale: tuple[tuple[sp.Expr, ...], ...] = ()
    if update is not None:
        if differential:
            raise ModelError(f"{where}: give either differential equations or `update`, not both")
        if method is not None:
            raise ModelError(
                f"{where}: `method` = {method!r} integrates differential equations; with `update` leave it out"
            )
        assignments = _read_update(update, reader, parameters, inputs, where)
        current: dict[sp.Symbol, sp.Expr] = {}
        for name, expr in assignments:
            written_out = expr.subs(subexpressions, simultaneous=True).subs(current, simultaneous=True)
            current[symbol(name)] = _limited(written_out, name, where)
        states = tuple(name for name in parameters if symbol(name) in current)
        new = tuple(current[symbol(name)] for name in states)
        system = None
    else:
        states = tuple(differential)
        slopes = [bodies[name].subs(subexpressions, simultaneous=True).replace(sp.Abs, absolute) for name in states]
        slopes, noise_scale = _split_noise(slopes, states, inputs, method or "euler", where)
        new, system = _integrate(states, slopes, inputs, method or "euler", where)
    _check_memory(states, stateless, where)
    if rate not in equations:
        raise ModelError(f"{where}: `rate` = {rate!r} is not in the equations; known: {', '.join(equations)}")
    if rate in parameters and rate not in states:
        raise ModelError(f"{where}: `rate` = {rate!r} is a parameter; it must be a state or a subexpression of states")
    rate_expr = symbol(rate) if rate in states else subexpressions[symbol(rate)]
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
    *finished, rate_expr = (stabilise(expr) for expr in (*new, rate_expr))
    return NeuronEquations(
        states, tuple(inputs), constants, tuple(finished), rate_expr, dimensions, sent, system, noise_scale
    )


def _parse(text: str, where: str) -> Any:
    """Brian2's own parser, its errors turned into ours."""
    if not text.strip():
        raise ModelError(f"{where}: the equations are empty")
    _check_expressions(text, where)
    try:
        with warnings.catch_warnings():  # Brian2's parser warns of its own library's old names
            warnings.simplefilter("ignore", DeprecationWarning)
            equations = brian2_parts().Equations(textwrap.dedent(text))
    except Exception as error:  # Brian2 raises half a dozen kinds here; all mean "this text is wrong"
        raise ModelError(f"{where}: Brian2 cannot read the equations: {reason(error)}") from None
    for name in equations:
        if name == "dt" or name.startswith("_"):
            raise ModelError(f"{where}: {name!r} is reserved; choose another name")
        if name in written_functions():
            raise ModelError(f"{where}: {name!r} is the name of a function; choose another name")
    return equations


def _check_expressions(text: str, where: str) -> None:
    """Our own limits on every right-hand side before Brian2 sees it: Brian2 evaluates expressions with SymPy."""
    bare = re.sub(r"#[^\n]*", "", text)
    if bare.count(":") > MAX_EQUATIONS:
        raise ModelError(f"{where}: the text has {bare.count(':')} equations; at most {MAX_EQUATIONS} are read")
    for chunk in bare.split(":"):
        left, equals, right = chunk.partition("=")
        if equals:
            parse_expression(right, f"{where}, {left.split()[-1]!r}" if left.split() else where)


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


def _resolve(bodies: dict[str, sp.Expr], where: str) -> dict[sp.Symbol, sp.Expr]:
    """Substitute subexpressions into one another until only states, inputs and parameters are left."""
    resolved: dict[sp.Symbol, sp.Expr] = {}
    left = {symbol(name): expr for name, expr in bodies.items()}
    while left:
        ready = [s for s, expr in left.items() if not expr.free_symbols & left.keys()]
        if not ready:
            raise ModelError(f"{where}: the subexpressions {sorted(map(str, left))} depend on one another in a circle")
        for s in ready:
            resolved[s] = left.pop(s).subs(resolved, simultaneous=True)
            _limited(resolved[s], str(s), where)
    return resolved


def _limited(expr: sp.Expr, name: str, where: str) -> sp.Expr:
    if expr.count_ops() > MAX_OPERATIONS:
        raise ModelError(f"{where}: {name!r} grows beyond {MAX_OPERATIONS} operations when written out")
    return expr


def _read_update(
    text: str, reader: ExpressionReader, parameters: Sequence[str], inputs: Sequence[str], where: str
) -> list[tuple[str, sp.Expr]]:
    where = f"{where}, update"
    check_text(text, where)
    try:
        statements = ast.parse(textwrap.dedent(text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{where}: cannot read it: {getattr(error, 'msg', None) or error}") from None
    assigned: list[tuple[str, sp.Expr]] = []
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
        if name in dict(assigned):
            raise ModelError(f"{where}: {name!r} is assigned twice")
        source = ast.get_source_segment(textwrap.dedent(text), statement.value) or ""
        assigned.append((name, reader.read(source, reader.names[name], name)))
    if not assigned:
        raise ModelError(f"{where}: there are no assignments")
    return assigned


def _split_noise(
    slopes: list[sp.Expr], states: tuple[str, ...], inputs: Sequence[str], method: str, where: str
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
    coefficients = [tuple(derivative(f, s) for s in sources) for f in slopes]
    for row in coefficients:
        for coefficient in row:
            if bad := coefficient.free_symbols & moving:
                raise ModelError(
                    f"{where}: the noise is multiplied by {sorted(map(str, bad))[0]!r}; only additive noise, scaled by "
                    "parameters, is possible"
                )
    return [f.subs(dict.fromkeys(sources, 0), simultaneous=True) for f in slopes], tuple(coefficients)


def _integrate(
    states: tuple[str, ...], slopes: list[sp.Expr], inputs: Sequence[str], method: str, where: str
) -> tuple[tuple[sp.Expr, ...], sp.Matrix | None]:
    """The update map of ds/dt = slopes."""
    if method not in METHODS:
        raise ModelError(f"{where}: `method` must be one of {', '.join(METHODS)}, got {method!r}")
    symbols = [symbol(name) for name in states]
    if method == "euler":
        return tuple(s + DT * f for s, f in zip(symbols, slopes, strict=True)), None
    if method == "exponential_euler":
        return tuple(_exponential_euler(s, f, where) for s, f in zip(symbols, slopes, strict=True)), None
    M = sp.Matrix([[derivative(f, s) for s in symbols] for f in slopes])
    moving = set(symbols) | {symbol(name) for name in inputs}
    if M.free_symbols & moving:
        raise ModelError(
            f"{where}: method 'exact' needs equations that are linear in the states; use 'exponential_euler' or 'euler'"
        )
    if M.is_diagonal():
        return tuple(s + DT * exprel(DT * M[k, k]) * slopes[k] for k, s in enumerate(symbols)), None
    S = len(symbols)
    E, Int = (sp.Matrix(S, S, exact_symbols(S)[o : o + S * S]) for o in (0, S * S))
    b = sp.Matrix([f.subs(dict.fromkeys(symbols, 0), simultaneous=True) for f in slopes])
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
    return s + DT * exprel(DT * a.subs(frozen)) * slope
