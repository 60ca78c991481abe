"""Interventions: functions from a learner's state to another state. Lesions, freezing, rewiring, clamping, silencing.

The state that one is given is spent (`LearnerState`). A `Trainer` may be given in its place: then its state is changed,
and it is returned. Fork first to keep the intact one:

    lesioned = interventions.lesion_synthesiser(trainer.fork())
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from bpl_neuro.checks import generator, shown, word
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.errors import ValidationError
from bpl_neuro.train.state import PARAMETERS, LearnerState
from bpl_neuro.train.trainer import Trainer

__all__ = [
    "INTERVENTIONS",
    "apply",
    "clamp_units",
    "freeze",
    "freeze_synthesiser",
    "lesion_synthesiser",
    "rotate_synthesiser",
    "scramble_synthesiser",
    "silence_projection",
]

_Target = TypeVar("_Target", LearnerState, Trainer)
_Options = ParamSpec("_Options")


def _also_on_trainers(
    change: Callable[Concatenate[LearnerState, _Options], LearnerState],
) -> Callable[Concatenate[_Target, _Options], _Target]:
    """An intervention that takes a state or a trainer, and returns what it was given."""

    @functools.wraps(change)
    def changed(target: _Target, *options: _Options.args, **keywords: _Options.kwargs) -> _Target:
        if isinstance(target, Trainer):
            target.state = change(target.state, *options, **keywords)
            return target
        if isinstance(target, LearnerState):
            return change(target, *options, **keywords)
        raise ValidationError(
            f"`target` of an intervention must be a LearnerState or a Trainer, got {type(target).__name__}"
        )

    return changed


@_also_on_trainers
def lesion_synthesiser(state: LearnerState, seed: int = 0) -> LearnerState:
    """The synthesiser is gone: nothing of it reaches the circuit, and θ no longer changes."""
    generator("seed", seed)
    n = _with_synthesiser(state).synthesiser.n
    return freeze(_pathway(state, np.zeros((n, n))), "theta")


@_also_on_trainers
def freeze_synthesiser(state: LearnerState, seed: int = 0) -> LearnerState:
    """θ no longer changes; its output goes on."""
    generator("seed", seed), _with_synthesiser(state)
    return freeze(state, "theta")


@_also_on_trainers
def scramble_synthesiser(state: LearnerState, seed: int = 0) -> LearnerState:
    """Its outputs reach the wrong state variables: a random permutation of g, its norm as it was."""
    n = _with_synthesiser(state).synthesiser.n
    return _pathway(state, np.eye(n)[generator("seed", seed).permutation(n)])


@_also_on_trainers
def rotate_synthesiser(state: LearnerState, seed: int = 0) -> LearnerState:
    """A random rotation of g, its norm as it was."""
    n = _with_synthesiser(state).synthesiser.n
    Q, R = np.linalg.qr(generator("seed", seed).normal(size=(n, n)))
    return _pathway(state, Q * np.sign(np.diag(R)))


@_also_on_trainers
def freeze(state: LearnerState, name: str) -> LearnerState:
    """A parameter, "psi", "phi" or "theta", no longer changes."""
    word("name", name, PARAMETERS)
    moments = {key: value for key, value in state.moments.items() if key != name}
    return state.replace(frozen=state.frozen | {name}, moments=moments)


@_also_on_trainers
def clamp_units(state: LearnerState, population: str, units: Any, value: float | None) -> LearnerState:
    """Hold the first state variable of some neurons at a value, at every step from now on; None lets them go.

    Their Jacobian rows vanish: nothing they do can be changed.
    """
    return _with_circuit(state, state.circuit.clamped_at(population, units, value))


@_also_on_trainers
def silence_projection(state: LearnerState, projection: str) -> LearnerState:
    """Put the weights of a projection (``"exc->inh"``) at zero, and keep them there."""
    return _with_circuit(state, state.circuit.silenced(projection))


#: by name, for the command line; each takes a state or a trainer, and a seed
INTERVENTIONS: dict[str, Callable[..., Any]] = {
    "lesion": lesion_synthesiser,
    "freeze": freeze_synthesiser,
    "scramble": scramble_synthesiser,
    "rotate": rotate_synthesiser,
}


def apply(target: _Target, what: str, seed: int = 0) -> _Target:
    """An intervention written as a text, as the command line takes it.

    Parameters
    ----------
    target : LearnerState or Trainer
    what : str
        ``"lesion"``, ``"freeze"``, ``"scramble"``, ``"rotate"``; ``"clamp:exc:0,1:0.2"`` (population, units, value);
        ``"silence:inh->exc"`` (projection).
    seed : int
        For those that are random.

    Raises
    ------
    ValidationError
        If it is none of these.
    """
    kind, *rest = what.split(":") if isinstance(what, str) else [""]
    if kind in INTERVENTIONS and not rest:
        return INTERVENTIONS[kind](target, seed=seed)  # type: ignore[no-any-return]
    if kind == "silence" and len(rest) == 1:
        return silence_projection(target, rest[0])
    if kind == "clamp" and len(rest) == 3:
        try:
            units, value = [int(unit) for unit in rest[1].split(",")], float(rest[2])
        except ValueError:
            raise ValidationError(
                f"`clamp` takes population:units:value, like clamp:exc:0,1:0.2; got {what!r}"
            ) from None
        return clamp_units(target, rest[0], units, value)
    known = [*INTERVENTIONS, "clamp:POPULATION:UNITS:VALUE", "silence:PROJECTION"]
    raise ValidationError(f"`what`: an intervention is one of {', '.join(known)}; got {shown(what)}")


def _with_circuit(state: LearnerState, circuit: Circuit) -> LearnerState:
    """The state with what differs in a circuit of its own."""
    values = {"psi": circuit.psi.copy(), "mask": circuit.mask, "clamped": dict(circuit.clamped)}
    return state.replace(**values, spare={})


def _pathway(state: LearnerState, matrix: np.ndarray) -> LearnerState:
    circuit = state.learner.circuit
    return state.replace(pathway=circuit.backend.asarray(matrix, circuit.dtype))


def _with_synthesiser(state: LearnerState) -> Any:
    """The state's rule, if it has a synthesiser."""
    rule = state.learner.rule
    if not rule.needs_synthesiser:
        raise ValidationError(f"the rule has no synthesiser: {rule!r}")
    return rule
