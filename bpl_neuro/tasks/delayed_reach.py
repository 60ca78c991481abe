"""Delayed reach: remember a cued target over a delay of random length, and go there when told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpl_neuro.checks import index, number, positive_int, shown, whole
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described
from bpl_neuro.model.units import whole_steps
from bpl_neuro.tasks.base import Batch, register
from bpl_neuro.tasks.timing import LONGEST, check_batches, join_trials, step_size

__all__ = ["DelayedReach"]


@register
class DelayedReach(Described):
    """A cue shows one of P targets on the unit circle; after a random delay a go signal asks for it.

        time (ms)     0         100              200 … 400             400 … 600
                      |-- cue ---|---- delay ----|------- reach -------|
        x: cue p      1          0               0
        x: go         0          0               1                           (P + 1 inputs)
        y             centre     centre          the target                  (2 outputs)
        loss          hold       hold            0 for 50 ms, then 1

    The loss runs along the whole trial: stay at the centre, then be at the target from `reaction` after the go signal
    on. Trials of a batch differ in length.

    Parameters
    ----------
    targets : int
        P.
    cue, reach, reaction : str
        Durations.
    delay : (str, str)
        Shortest and longest delay; drawn evenly in whole steps.
    hold : float
        Weight of the loss while waiting; 1 while reaching.
    dt : str
        Step; must be the model's.
    batches_per_epoch : int

    Attributes
    ----------
    dt : float
        The step in seconds.
    baseline : float
        Loss of a trial spent at the centre: ½ for every step in which the target is due.

    Raises
    ------
    ValidationError
        For a duration that is not a whole number of steps, and other values out of range.
    ModelError
        For a duration that is not a time.
    """

    name = "delayed-reach"
    loss = "squared_error"
    output_size = 2

    def __init__(
        self,
        targets: int = 4,
        *,
        cue: str = "100*ms",
        delay: tuple[str, str] = ("100*ms", "300*ms"),
        reach: str = "200*ms",
        reaction: str = "50*ms",
        hold: float = 0.3,
        dt: str = "5*ms",
        batches_per_epoch: int = 50,
    ) -> None:
        self.targets = positive_int("targets", targets, 10**6)
        self.input_size = self.targets + 1
        self.batches_per_epoch = positive_int("batches_per_epoch", batches_per_epoch)
        self.dt = step_size(dt)
        self._cue, self._reach = (
            whole_steps("cue", cue, self.dt, least=1),
            whole_steps("reach", reach, self.dt, least=1),
        )
        self._reaction = whole_steps("reaction", reaction, self.dt, least=0)
        if not isinstance(delay, tuple | list) or len(delay) != 2:
            raise ValidationError(f"`delay` must be (shortest, longest), got {shown(delay)}")
        self._delay = tuple(whole_steps("delay", d, self.dt, least=1) for d in delay)
        if self._delay[0] > self._delay[1]:
            raise ValidationError(f"`delay` must be (shortest, longest), got {delay!r}")
        if self._reaction >= self._reach:
            raise ValidationError(f"`reaction` must be shorter than `reach`, got {reaction!r} and {reach!r}")
        self.hold = number("hold", hold)
        angles = 2 * np.pi * np.arange(self.targets) / self.targets
        self.points = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        self.baseline = 0.5 * (self._reach - self._reaction)

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        """One epoch; "validation" and "test" are one batch with every target and fresh delays. See `Task.batches`."""
        check_batches(rng, size, split)
        return self._batches(rng, size, split)

    def _batches(self, rng: np.random.Generator, size: int, split: str) -> Iterator[Batch]:
        if split != "train":
            rows = np.resize(np.arange(self.targets), max(size, self.targets))
            yield join_trials([self.trial(int(p), self._draw(rng)) for p in rows])
            return
        for _ in range(self.batches_per_epoch):
            yield join_trials([self.trial(int(p), self._draw(rng)) for p in rng.integers(0, self.targets, size)])

    def _draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self._delay[0], self._delay[1] + 1))

    def trial(self, target: int, delay: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One trial with a delay of that many steps: x (T, P + 1), y (T, 2), mask (T,)."""
        target, delay = index("target", target, self.targets - 1), whole("delay", delay, most=LONGEST)
        go = self._cue + delay
        T = go + self._reach
        x, y, mask = np.zeros((T, self.input_size)), np.zeros((T, 2)), np.full(T, self.hold)
        x[: self._cue, target] = 1
        x[go:, -1] = 1
        y[go:] = self.points[target]
        mask[go : go + self._reaction] = 0
        mask[go + self._reaction :] = 1
        return x, y, mask
