"""Times as texts (``"200*ms"``) to whole steps, and trials of different lengths to one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bpl_neuro.checks import positive_int
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.units import seconds
from bpl_neuro.tasks.base import SPLITS, Batch

__all__ = ["check_batches", "join_trials", "step_size"]


def step_size(text: str) -> float:
    """`dt` in seconds; ValidationError unless it is positive."""
    value = seconds("dt", text)
    if value <= 0:
        raise ValidationError(f"`dt` must be positive, got {text!r}")
    return value


def check_batches(rng: np.random.Generator, size: int, split: str) -> None:
    """The arguments of `Task.batches`."""
    if not isinstance(rng, np.random.Generator):
        raise ValidationError(f"`rng` must be a numpy.random.Generator, got {rng!r}")
    positive_int("size", size)
    if split not in SPLITS:
        raise ValidationError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}")


def join_trials(trials: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Batch:
    """Trials (x (T, K), y (T, M), mask (T,)) of different lengths, side by side; the short ones are padded."""
    T = max(len(x) for x, _, _ in trials)
    x, y = (np.zeros((len(trials), T, trials[0][k].shape[1]), np.float32) for k in (0, 1))
    mask, end = np.zeros((len(trials), T), np.float32), np.zeros((len(trials), T), bool)
    for row, (x_trial, y_trial, mask_trial) in enumerate(trials):
        length = len(x_trial)
        x[row, :length], y[row, :length], mask[row, :length] = x_trial, y_trial, mask_trial
        end[row, length - 1] = True
    return Batch(x, y, mask, end)
