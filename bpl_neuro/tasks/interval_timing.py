"""Interval timing (ready–set–go): measure the time between two pulses and produce it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpl_neuro.checks import positive_int, shown, whole
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described
from bpl_neuro.model.units import whole_steps
from bpl_neuro.tasks.base import Batch, register
from bpl_neuro.tasks.timing import LONGEST, check_batches, join_trials, step_size

__all__ = ["IntervalTiming"]


@register
class IntervalTiming(Described):
    """Two pulses an interval apart; a ramp must then reach 1 after the same interval.

        time from ready (ms)   −100 … −10     0             I             2 I       2 I + 50      I = 200, 300 or 400
                               |--- wait ---|-- interval --|-- interval --|-- after --|
        x: ready               0            1 for 20 ms    0              0
        x: set                 0            0              1 for 20 ms    0
        y                      0            0              ramp 0 → 1     1

    The loss runs along the whole trial; trials of a batch differ in length.

    Parameters
    ----------
    intervals : sequence of str
        Possible intervals, from onset of ready to onset of set.
    pulse, wait, after : str
        Duration of a pulse; time before ready (random between one step and this); time after the interval is over.
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
        For a duration that is not a whole number of steps, or an interval no longer than a pulse.
    ModelError
        For a duration that is not a time.
    """

    name = "interval-timing"
    loss = "squared_error"
    input_size = 2
    output_size = 1

    def __init__(
        self,
        intervals: Sequence[str] = ("200*ms", "300*ms", "400*ms"),
        *,
        pulse: str = "20*ms",
        wait: str = "100*ms",
        after: str = "50*ms",
        dt: str = "10*ms",
        batches_per_epoch: int = 50,
    ) -> None:
        self.dt = step_size(dt)
        if not isinstance(intervals, list | tuple) or not intervals:
            raise ValidationError(f'`intervals` must be a list of times like ["200*ms"], got {shown(intervals)}')
        self._pulse, self._wait = (
            whole_steps("pulse", pulse, self.dt, least=1),
            whole_steps("wait", wait, self.dt, least=1),
        )
        self._after = whole_steps("after", after, self.dt, least=1)
        self.intervals = [whole_steps("intervals", text, self.dt, least=self._pulse + 1) for text in intervals]
        self.batches_per_epoch = positive_int("batches_per_epoch", batches_per_epoch)

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        """One epoch; "validation" and "test" are one batch with every interval. See `Task.batches`."""
        check_batches(rng, size, split)
        return self._batches(rng, size, split)

    def _batches(self, rng: np.random.Generator, size: int, split: str) -> Iterator[Batch]:
        count = len(self.intervals)
        for _ in range(self.batches_per_epoch if split == "train" else 1):
            rows = rng.integers(0, count, size) if split == "train" else np.resize(np.arange(count), max(size, count))
            yield join_trials([self.trial(self.intervals[k], int(rng.integers(1, self._wait + 1))) for k in rows])

    def trial(self, interval: int, wait: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One trial of an interval and a wait in steps: x (T, 2), y (T, 1), mask (T,)."""
        interval, wait = whole("interval", interval, self._pulse + 1, LONGEST), whole("wait", wait, most=LONGEST)
        start = wait + interval
        T = start + interval + self._after
        x, y = np.zeros((T, 2)), np.zeros((T, 1))
        x[wait : wait + self._pulse, 0] = 1
        x[start : start + self._pulse, 1] = 1
        y[start:, 0] = np.minimum(np.arange(T - start) / interval, 1)
        return x, y, np.ones(T)
