"""Copy–repeat: see a pattern and a number, say the pattern that many times, and then stop (Graves et al. 2014)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from bpl_neuro.checks import flag, number, positive_int, real_array, shown, whole
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described
from bpl_neuro.tasks.base import Batch, register
from bpl_neuro.tasks.timing import check_batches

__all__ = ["CopyRepeat"]


@register
class CopyRepeat(Described):
    """Pattern of N random bit vectors, R repeats; (R + 1)·N + 3 steps.

        step          1        2 … N+1      N+2              N+3 … N+2+RN     N+3+RN
        input bits    0        pattern      0                0                0
        start flag    1        0            0                0                0
        repeat count  0        0            R / 10           0                0
        target bits   –        –            –                pattern, R ×     0
        end flag      –        –            –                0                1

    Ten inputs (8 bits, start flag, repeat count), nine outputs (8 bits, end flag). The loss, binary cross-entropy in
    nats, is due at the R·N + 1 steps of the answer.

    Parameters
    ----------
    length, repeats : int
        N and R at the start.
    bits : int
    batches_per_epoch : int
    threshold : float
        Bits per output bit under which a batch counts as passed; see `advance`.
    grows : bool
        False leaves N and R as they are.

    Attributes
    ----------
    length, repeats : int
        N and R as the curriculum has them now; see `bpl_neuro.tasks.base.Curriculum`.
    solved : int
        The last length passed; 0 before the first.

    Raises
    ------
    ValidationError
        For a count that is not a whole number ≥ 1, a threshold that is not a positive number, or a `grows` that is no
        boolean.
    """

    name = "copy-repeat"
    loss = "binary_cross_entropy"
    identified = {"length": None, "repeats": None}  # where the curriculum stands is the learner's

    def __init__(
        self,
        length: int = 1,
        repeats: int = 1,
        *,
        bits: int = 8,
        batches_per_epoch: int = 10,
        threshold: float = 0.15,
        grows: bool = True,
    ) -> None:
        self.length, self.repeats = positive_int("length", length), positive_int("repeats", repeats)
        self.bits = positive_int("bits", bits)
        self.batches_per_epoch = positive_int("batches_per_epoch", batches_per_epoch)
        self.threshold = number("threshold", threshold, above=True)
        self.grows = flag("grows", grows)
        self.input_size, self.output_size = self.bits + 2, self.bits + 1
        self.solved = 0

    @property
    def steps(self) -> int:
        """(R + 1)·N + 3."""
        return (self.repeats + 1) * self.length + 3

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        """One epoch at the length the curriculum has reached; it may grow between two batches. See `Task.batches`."""
        check_batches(rng, size, split)
        return self._batches(rng, size, split)

    def _batches(self, rng: np.random.Generator, size: int, split: str) -> Iterator[Batch]:
        # A seed per batch: what a batch shows must not depend on how long the patterns before it were, or a run that is
        # restored in the middle of an epoch would go on with other trials.
        for seed in rng.integers(0, 2**63, self.batches_per_epoch if split == "train" else 1):
            yield self.make(np.random.default_rng(int(seed)).integers(0, 2, (size, self.length, self.bits)))

    def make(self, pattern: np.ndarray) -> Batch:
        """The batch of given patterns (B, N, bits); N is the length as it is now."""
        pattern = real_array("pattern", pattern)
        if pattern.ndim != 3 or pattern.shape[1:] != (self.length, self.bits):
            raise ValidationError(f"`pattern` must be (trials, {self.length}, {self.bits}), got shape {pattern.shape}")
        if not len(pattern) or not np.isin(pattern, (0, 1)).all():
            raise ValidationError("`pattern` must hold one trial of zeros and ones, or more")
        B, N = pattern.shape[:2]
        T = self.steps
        x = np.zeros((B, T, self.input_size), np.float32)
        y, mask = np.zeros((B, T, self.output_size), np.float32), np.zeros((B, T), np.float32)
        x[:, 0, self.bits] = 1
        x[:, 1 : N + 1, : self.bits] = pattern
        x[:, N + 1, self.bits + 1] = self.repeats / 10
        y[:, N + 2 : -1, : self.bits] = np.tile(pattern, (1, self.repeats, 1))
        y[:, -1, self.bits] = 1
        mask[:, N + 2 :] = 1
        return Batch(x, y, mask)

    def bits_per_bit(self, loss: float) -> float:
        """A loss in nats per trial as bits per output bit at the current length."""
        return number("loss", loss) / math.log(2) / ((self.repeats * self.length + 1) * self.output_size)

    def advance(self, loss: float) -> bool:
        """After a batch of that loss (nats per trial): if it was passed, R += 1 while R < N, else N += 1.

        R stays where it is when N grows. True if the batch was passed; one whose loss is NaN was not.
        """
        if isinstance(loss, float | np.floating) and not math.isfinite(loss):
            return False
        if not self.bits_per_bit(loss) < self.threshold:
            return False
        self.solved = max(self.solved, self.length)
        if not self.grows:
            return True
        if self.repeats < self.length:
            self.repeats += 1
        else:
            self.length += 1
        return True

    def state(self) -> dict[str, int]:
        """Where the curriculum stands; for a checkpoint."""
        return {"length": self.length, "repeats": self.repeats, "solved": self.solved}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from a `state`; ValidationError, and nothing changed, if it is none."""
        if not isinstance(state, Mapping) or set(state) != set(self.state()):
            raise ValidationError(f"`state` must have the keys {', '.join(self.state())}, got {shown(state)}")
        length, repeats = (positive_int(name, state[name]) for name in ("length", "repeats"))
        self.length, self.repeats, self.solved = length, repeats, whole("solved", state["solved"])
