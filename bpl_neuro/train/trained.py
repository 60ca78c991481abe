"""What can be asked of a trainer: what it was given, what it has learned, what its training has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Rule
from bpl_neuro.tasks.base import Batch
from bpl_neuro.train.state import Learner, LearnerState, copied

__all__ = ["Trained"]


class Trained:
    """A learner and its state, to be looked at."""

    learner: Learner
    state: LearnerState

    # What was given, and what was learned.

    @property
    def circuit(self) -> Circuit:
        """The circuit as it was given, with its initial Ψ."""
        return self.learner.circuit

    @property
    def readout(self) -> Readout:
        """The readout as it was given."""
        return self.learner.readout

    @property
    def rule(self) -> Rule:
        """The rule as it was given; `settled_rule` is the form in which it learns."""
        return self.learner.rule

    @property
    def settled_rule(self) -> Rule:
        """The rule in the form that it took with the first batch, with the pathway as it is now."""
        return self.state.rule

    @property
    def schedule(self) -> str:
        """The name, "step" or "trial"."""
        return self.learner.schedule.name

    @property
    def weights(self) -> Mapping[str, Any]:
        """The circuit's weights as they are now, by projection: copies, read-only."""
        return self.trained_circuit().weights

    @property
    def theta(self) -> Any:
        """The rule's own parameters as they are now, flat (a copy), or None."""
        return self.parameter("theta")

    def parameter(self, name: str) -> Any:
        """The parameter "psi", "phi" or "theta" as it is now: a copy, or None."""
        value = self.state.parameter(name)
        return None if value is None else value.copy()

    def trained_circuit(self) -> Circuit:
        """The circuit with what it has learned and what was done to it: to run, to look at, to save."""
        return self.state.circuit.holding(self.state.psi.copy())

    def trained_readout(self) -> Readout:
        """The readout with what it has learned."""
        return self.readout.holding(self.state.phi.copy())

    def run(self, x: Any, *, noise_seed: int | np.random.Generator | None = None) -> tuple[Any, Any]:
        """States and rates of the trained circuit for inputs (B, T, K); see `Circuit.run`."""
        return self.state.circuit.run(x, noise_seed=noise_seed)

    def predict(self, x: Any) -> Any:
        """Outputs of the trained readout for inputs (B, T, K): (B, T, M)."""
        if isinstance(x, Batch):
            raise ValidationError("`x` must be an array (trials, steps, inputs), got a Batch; give its `x`")
        return self.state.readout.output(self.run(x)[1])

    # What a training has seen.

    @property
    def history(self) -> list[dict[str, float]]:
        """One entry per epoch; a copy."""
        return copied(self.state.log.history)

    @property
    def losses(self) -> list[float]:
        """Loss of every batch trained by `fit`; a copy."""
        return list(self.state.log.losses)

    @property
    def best(self) -> dict[str, Any] | None:
        """The parameters with the lowest validation loss, and that loss (a copy); None before there was any."""
        return copied(self.state.log.best)

    @property
    def batches(self) -> int:
        """Batches trained so far."""
        return self.state.batches

    @property
    def trials(self) -> int:
        """Trials trained so far."""
        return self.state.trials

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.state.log.epoch

    @property
    def within_epoch(self) -> int:
        """Batches of the epoch under way."""
        return self.state.log.within_epoch
