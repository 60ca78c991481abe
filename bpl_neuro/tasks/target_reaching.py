"""Target reaching: a brief cue, a delay, and a point in the plane to have reached at the end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bpl_neuro.checks import generator, instance, positive_int
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described
from bpl_neuro.tasks.base import Batch, register
from bpl_neuro.tasks.timing import check_batches

__all__ = ["TargetReaching"]


@register
class TargetReaching(Described):
    """Reach the point on the unit circle that belongs to the pattern seen at the first step.

    One of P random binary patterns is the input at step 1; the input is zero afterwards. The loss falls
    due at the last step, so every earlier step has to be credited over the delay; with `line` it is due
    at every step t = 1 … T, and the target moves from the origin along t/T · (x*, y*).

    Patterns and targets belong to the task: they are drawn once, from `seed`, and stay the same in every
    epoch and split. Patterns are distinct and never all zero. Target angles are spread evenly over the
    circle from a random offset, 2πp/P + φ, so that P targets are as far apart as they can be.

    Parameters
    ----------
    patterns : int
        Number of patterns, P; at most 2^input_size - 1.
    steps : int
        Length of a trial, T, in time steps.
    line : bool
        A target at every step (the straight line to the point) instead of at the last only.
    input_size : int
        Number of input units, K.
    batches_per_epoch : int
        Batches in an epoch of "train", whatever their size: 100 of 10 are the paper's 1000 trials.
    seed : int or numpy.random.Generator
        Of the patterns and targets. (Which pattern a trial shows comes from the generator that is
        handed to `batches`.)

    Attributes
    ----------
    cues : array of float32, (P, K)
        The patterns, of zeros and ones.
    targets : array of float32, (P, 2)
        Their points on the unit circle.

    Raises
    ------
    ValidationError
        For a count that is not a whole number ≥ 1, a `line` that is no boolean, a seed that is none, or more patterns
        than exist.

    Source: the toy task of the BP(λ) paper: one pattern, T = 10, trained in batches of 10.
    """

    name: str = "target-reaching"
    loss: str = "squared_error"
    output_size: int = 2
    identified = {"patterns": "targets", "seed": "cues"}

    def __init__(
        self,
        patterns: int = 1,
        steps: int = 10,
        line: bool = False,
        input_size: int = 10,
        batches_per_epoch: int = 100,
        seed: int | np.random.Generator = 0,
    ) -> None:
        patterns, self.steps = positive_int("patterns", patterns), positive_int("steps", steps)
        self.input_size = positive_int("input_size", input_size)
        self.batches_per_epoch = positive_int("batches_per_epoch", batches_per_epoch)
        self.line = bool(instance("line", line, bool | np.bool_, "True or False"))
        available = 2**self.input_size - 1
        if patterns > available:
            raise ValidationError(
                f"`patterns` must be at most {available}, the number of distinct non-zero binary patterns of "
                f"{input_size} inputs, got {patterns}"
            )
        rng = generator("seed", seed)
        self.cues = _distinct_patterns(rng, patterns, self.input_size)
        angles = 2 * np.pi * (np.arange(patterns) / patterns + rng.random())
        self.targets = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        """One epoch of batches.

        "train" draws each trial's pattern from `rng`, uniformly. "validation" and "test" show every
        pattern once, in order, and leave `rng` alone; their last batch may be smaller than `size`.

        Parameters
        ----------
        rng : numpy.random.Generator
            The data stream; the same state gives the same trials.
        size : int
            Trials in a batch, B.
        split : str
            ``"train"``, ``"validation"`` or ``"test"``.

        Yields
        ------
        Batch
            x (B, T, K), y (B, T, 2), mask (B, T); x and y float32. Without `line`, y holds the end point
            at every step, and the mask is 1 at the last only.

        Raises
        ------
        ValidationError
            For an `rng` that is no Generator, an unknown split, or a size that is not a positive integer; at the
            call, not at the first batch.
        """
        check_batches(rng, size, split)
        return self._draw(rng, size) if split == "train" else self._each_once(size)

    def _draw(self, rng: np.random.Generator, size: int) -> Iterator[Batch]:
        for _ in range(self.batches_per_epoch):
            yield self._trials(rng.integers(len(self.cues), size=size))

    def _each_once(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self.cues), size):
            yield self._trials(np.arange(start, min(start + size, len(self.cues))))

    def _trials(self, rows: NDArray) -> Batch:
        B, T = len(rows), self.steps
        x = np.zeros((B, T, self.input_size), np.float32)
        x[:, 0] = self.cues[rows]
        progress = np.ones(T, np.float32)
        mask = np.zeros((B, T), np.float32)
        if self.line:
            progress = np.arange(1, T + 1, dtype=np.float32) / np.float32(T)
            mask[:] = 1
        else:
            mask[:, -1] = 1
        y = progress[None, :, None] * self.targets[rows][:, None, :]
        return Batch(x, y, mask)


def _distinct_patterns(rng: np.random.Generator, count: int, input_size: int) -> NDArray:
    """`count` binary patterns (count, input_size), distinct and not zero, every such set equally likely."""
    patterns = np.zeros((0, input_size), np.uint8)
    while len(patterns) < count:
        # Redraw until enough are distinct; a pattern keeps the place where it was drawn first, because
        # taking them in sorted order would favour small ones.
        patterns = np.concatenate([patterns, rng.integers(2, size=(count, input_size), dtype=np.uint8)])
        patterns = patterns[patterns.any(axis=1)]
        _, first_rows = np.unique(patterns, axis=0, return_index=True)
        patterns = patterns[np.sort(first_rows)]
    return patterns[:count].astype(np.float32)
