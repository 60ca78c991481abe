"""From gradients to parameters: sums, the schedule, optimisers, constraints, and what must stay finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpl_neuro.checks import shown
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import DivergenceError, ValidationError
from bpl_neuro.rules.base import Rule, add_gradient
from bpl_neuro.train.optimisers import regresses
from bpl_neuro.train.state import LearnerState

__all__ = ["Updates", "check_finite"]


class Updates:
    """Takes gradients by name and moves the parameters of a state when the schedule says so.

    New parameters and moments are written into spare buffers, checked, and only then take the place of the old, which
    become the spare ones: a parameter that diverges leaves its last finite value behind.

    Parameters
    ----------
    state : LearnerState
    keep : bool
        Leave the arrays of earlier parameters as they are, because somebody may look at them later.
    """

    def __init__(self, state: LearnerState, keep: bool) -> None:
        self.state, self.schedule, self.keep = state, state.learner.schedule, keep
        self.circuit: Circuit = state.circuit

    def receive(self, name: str, gradient: Any, step: int) -> None:
        """A gradient, or None, at step `step` of the batch (0: after its end)."""
        if gradient is not None:
            wanted = getattr(self.state.parameter(name), "shape", None)
            if getattr(gradient, "shape", None) != wanted:
                raise ValidationError(
                    f"`rule` {self.state.learner.rule!r} gave no gradient {wanted} for {name}: {shown(gradient)}"
                )
            add_gradient(self.state.sums, name, gradient)
        if step and name in self.state.sums and self.schedule.due(self.state.steps + 1):
            self.descend(name, step)

    def receive_theta(self, rule: Rule, gradient: Any, transition: Transition, end: Any, step: int) -> None:
        """The gradient of θ, or None; for least squares with the moment of what is seen, also where no error is yet."""
        if self.state.learner.least_squares and "theta" not in self.state.frozen:
            add_gradient(self.state.sums, "moment", rule.moment(transition, end))
        self.receive("theta", gradient, step)

    def end_batch(self) -> None:
        """Apply what is left, where gradients are not summed on."""
        if self.schedule.moves:
            for name in [name for name in self.state.sums if name != "moment"]:
                self.descend(name, 0)

    def descend(self, name: str, step: int) -> None:
        """Give a sum of gradients to its optimiser."""
        state, gradient = self.state, self.state.sums.pop(name)
        moment = state.sums.pop("moment", None) if name == "theta" else None
        optimiser = state.learner.optimisers.get(name)
        if optimiser is None or name in state.frozen:
            return
        old, moments, xp = state.parameter(name), state.moments[name], self.circuit.xp

        def finite(quantity: str, array: Any, before: Any) -> None:
            check_finite(xp, quantity, array, before, step, state.batches)

        finite(f"gradient of {name}", gradient, old)
        if name == "psi" and state.learner.weight_penalty:
            gradient = gradient + state.learner.weight_penalty * self.circuit.plastic_weights()
        in_place = getattr(optimiser, "in_place", False)
        further: dict[str, Any] = {"out": state.spare.pop(name, None)} if in_place else {}
        if regresses(optimiser):
            regression = state.learner.rule.regression
            further |= {"moment": moment, "regression": regression, "mask": state.mask}
        with np.errstate(over="ignore", invalid="ignore"):
            new, new_moments = optimiser.step(self.circuit.backend, old, gradient, moments, **further)
        new = new if in_place else new.copy()  # a user's optimiser may give back what it was given
        for key, value in new_moments.items():
            if getattr(value, "ndim", 0):
                finite(f"{key} (optimiser) of {name}", value, moments[key])
        if name == "psi":
            self.circuit.constrain(new)
        finite(name, new, old)
        state.moments[name] = new_moments
        setattr(state, name, new)
        if name == "psi":
            self.circuit = self.circuit.holding(new)
        if in_place and not self.keep:
            state.spare[name] = {"parameter": old} | {k: m for k, m in moments.items() if getattr(m, "ndim", 0)}


def check_finite(xp: Any, quantity: str, array: Any, before: Any, step: int, batch: int) -> None:
    """DivergenceError unless `array` is finite; `before` is the same quantity one step earlier."""
    if math.isfinite(float(xp.vdot(array, array))):  # in one pass; where the squares overflow it says nothing
        return
    if not xp.isfinite(array).all():
        raise DivergenceError(step, batch, quantity, float(xp.abs(before).max()))
