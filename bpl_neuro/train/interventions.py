"""Interventions on a trainer, usually on a fork of it: lesions, freezing, rewiring, clamping, silencing.

Each changes the trainer that it is given and returns it. Fork first to keep the intact one:

    lesioned = interventions.lesion_synthesiser(trainer.fork())
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bpl_neuro.checks import generator, instance
from bpl_neuro.errors import ValidationError
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


def lesion_synthesiser(trainer: Trainer, seed: int = 0) -> Trainer:
    """The synthesiser is gone: nothing of it reaches the circuit, and θ no longer changes."""
    rule = _with_synthesiser(trainer)
    rule.pathway = trainer.circuit.xp.zeros((trainer.circuit.n, trainer.circuit.n), trainer.circuit.dtype)
    return freeze_synthesiser(trainer)


def freeze_synthesiser(trainer: Trainer, seed: int = 0) -> Trainer:
    """θ no longer changes; its output goes on."""
    _with_synthesiser(trainer)
    return freeze(trainer, "theta")


def scramble_synthesiser(trainer: Trainer, seed: int = 0) -> Trainer:
    """Its outputs reach the wrong state variables: a random permutation of g, its norm as it was."""
    _with_synthesiser(trainer)
    order = generator("seed", seed).permutation(trainer.circuit.n)
    return _pathway(trainer, np.eye(trainer.circuit.n)[order])


def rotate_synthesiser(trainer: Trainer, seed: int = 0) -> Trainer:
    """A random rotation of g, its norm as it was."""
    _with_synthesiser(trainer)
    Q, R = np.linalg.qr(generator("seed", seed).normal(size=(trainer.circuit.n, trainer.circuit.n)))
    return _pathway(trainer, Q * np.sign(np.diag(R)))


def freeze(trainer: Trainer, name: str) -> Trainer:
    """A parameter, "psi", "phi" or "theta", no longer changes."""
    if name not in ("psi", "phi", "theta"):
        raise ValidationError(f"`name` must be psi, phi or theta, got {name!r}")
    trainer.optimisers.pop(name, None)
    trainer._moments.pop(name, None)
    return trainer


def clamp_units(trainer: Trainer, population: str, units: Any, value: float) -> Trainer:
    """Hold the first state variable of some neurons at a value, at every step from now on.

    Their Jacobian rows vanish: nothing they do can be changed.
    """
    instance("trainer", trainer, Trainer, "a Trainer").circuit.clamp(population, units, value)
    return trainer


def silence_projection(trainer: Trainer, projection: str) -> Trainer:
    """Put the weights of a projection (``"exc->inh"``) at zero, and keep them there."""
    instance("trainer", trainer, Trainer, "a Trainer").circuit.silence(projection)
    return trainer


#: by name, for the command line; each takes a trainer and a seed
INTERVENTIONS = {
    "lesion": lesion_synthesiser,
    "freeze": freeze_synthesiser,
    "scramble": scramble_synthesiser,
    "rotate": rotate_synthesiser,
}


def apply(trainer: Trainer, what: str, seed: int = 0) -> Trainer:
    """An intervention written as a text, as the command line takes it.

    Parameters
    ----------
    trainer : Trainer
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
    kind, *rest = what.split(":") if isinstance(what, str) else [str(what)]
    if kind in INTERVENTIONS and not rest:
        return INTERVENTIONS[kind](trainer, seed=seed)
    if kind == "silence" and len(rest) == 1:
        return silence_projection(trainer, rest[0])
    if kind == "clamp" and len(rest) == 3:
        try:
            units, value = [int(unit) for unit in rest[1].split(",")], float(rest[2])
        except ValueError:
            raise ValidationError(
                f"`clamp` takes population:units:value, like clamp:exc:0,1:0.2; got {what!r}"
            ) from None
        return clamp_units(trainer, rest[0], units, value)
    known = [*INTERVENTIONS, "clamp:POPULATION:UNITS:VALUE", "silence:PROJECTION"]
    raise ValidationError(f"an intervention is one of {', '.join(known)}; got {what!r}")


def _pathway(trainer: Trainer, matrix: np.ndarray) -> Trainer:
    _with_synthesiser(trainer).pathway = trainer.circuit.backend.asarray(matrix, trainer.circuit.dtype)
    return trainer


def _with_synthesiser(trainer: Trainer) -> Any:
    """The trainer's rule, if it has a synthesiser."""
    rule = instance("trainer", trainer, Trainer, "a Trainer").rule
    if not hasattr(rule, "pathway"):
        raise ValidationError(f"the rule has no synthesiser: {rule!r}")
    return rule
