"""Cue–outcome: learn what follows a cue after a delay, when outcomes are uncertain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpl_neuro.checks import finite_array, flag, index, positive_int, shown, whole
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described
from bpl_neuro.model.units import whole_steps
from bpl_neuro.tasks.base import Batch, register
from bpl_neuro.tasks.timing import LONGEST, check_batches, join_trials, step_size

__all__ = ["CueOutcome"]


@register
class CueOutcome(Described):
    """One of several cues; after a fixed delay an outcome of the cue's magnitude comes with the cue's probability.

        time from cue (ms)   −100 … −10    0         50              250         300
                             |-- wait ---|-- cue --|---- delay ----|-- outcome --|
        x: cue k             0           1         0               0
        y                    0           0         0               magnitude_k, or 0
        loss                 –           –         –               due

    The best prediction is magnitude · probability; `floor` is the loss that even it cannot avoid.

    Parameters
    ----------
    magnitudes, probabilities : sequences of float
        Of each cue.
    cue, delay, outcome, wait : str
        Durations; the wait before the cue is random between one step and this.
    dt : str
        Step; must be the model's.
    batches_per_epoch : int

    Attributes
    ----------
    dt : float
        The step in seconds.

    Raises
    ------
    ValidationError
        For a duration that is not a whole number of steps, or magnitudes and probabilities that do not match.
    ModelError
        For a duration that is not a time.
    """

    name = "cue-outcome"
    loss = "squared_error"
    output_size = 1

    def __init__(
        self,
        magnitudes: Sequence[float] = (1.0, 0.5, -1.0),
        probabilities: Sequence[float] = (0.75, 1.0, 0.75),
        *,
        cue: str = "50*ms",
        delay: str = "200*ms",
        outcome: str = "50*ms",
        wait: str = "100*ms",
        dt: str = "10*ms",
        batches_per_epoch: int = 50,
    ) -> None:
        self.magnitudes = finite_array("magnitudes", magnitudes, ndim=1)
        self.probabilities = finite_array("probabilities", probabilities, ndim=1)
        if self.magnitudes.size == 0:
            raise ValidationError(f"`magnitudes` must be a list of numbers, got {shown(magnitudes)}")
        if (
            self.probabilities.shape != self.magnitudes.shape
            or not ((self.probabilities >= 0) & (self.probabilities <= 1)).all()
        ):
            raise ValidationError(
                f"`probabilities` must be {self.magnitudes.size} numbers in [0, 1], got {shown(probabilities)}"
            )
        self.dt = step_size(dt)
        self._cue, self._delay = (
            whole_steps("cue", cue, self.dt, least=1),
            whole_steps("delay", delay, self.dt, least=1),
        )
        self._outcome, self._wait = (
            whole_steps("outcome", outcome, self.dt, least=1),
            whole_steps("wait", wait, self.dt, least=1),
        )
        self.batches_per_epoch = positive_int("batches_per_epoch", batches_per_epoch)
        self.input_size = self.magnitudes.size

    @property
    def floor(self) -> float:
        """Mean loss per trial of the best prediction: ½ magnitude² p (1 − p) for every step of the outcome."""
        variance = self.magnitudes**2 * self.probabilities * (1 - self.probabilities)
        return float(0.5 * variance.mean() * self._outcome)

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        """One epoch; "validation" and "test" are one batch with every cue. See `Task.batches`."""
        check_batches(rng, size, split)
        return self._batches(rng, size, split)

    def _batches(self, rng: np.random.Generator, size: int, split: str) -> Iterator[Batch]:
        count = self.input_size
        for _ in range(self.batches_per_epoch if split == "train" else 1):
            rows = rng.integers(0, count, size) if split == "train" else np.resize(np.arange(count), max(size, count))
            trials = []
            for k in rows:
                wait = int(rng.integers(1, self._wait + 1))
                trials.append(self.trial(int(k), wait, bool(rng.random() < self.probabilities[k])))
            yield join_trials(trials)

    def trial(self, cue: int, wait: int, comes: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One trial: x (T, cues), y (T, 1), mask (T,)."""
        cue, wait = index("cue", cue, self.input_size - 1), whole("wait", wait, most=LONGEST)
        comes = flag("comes", comes)
        onset = wait + self._cue + self._delay
        T = onset + self._outcome
        x, y, mask = np.zeros((T, self.input_size)), np.zeros((T, 1)), np.zeros(T)
        x[wait : wait + self._cue, cue] = 1
        y[onset:] = self.magnitudes[cue] * comes
        mask[onset:] = 1
        return x, y, mask
