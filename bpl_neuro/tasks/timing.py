"""Times as texts (``"200*ms"``) to whole steps, and trials of different lengths to one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bpl_neuro.data import SPLITS, Batch
from bpl_neuro.errors import ValidationError
from bpl_neuro.quantities import brian2_parts
from bpl_neuro.spec import checked_quantity

__all__ = ["check_batches", "join_trials", "seconds", "steps"]


def seconds(name: str, text: str) -> float:
    """A time in seconds."""
    return checked_quantity(text, brian2_parts().SECOND, f"`{name}`")


def steps(name: str, text: str, dt: float, least: int = 1) -> int:
    """A time as a whole number of steps.

    Raises
    ------
    ValidationError
        If it is not a multiple of dt, or fewer than `least` steps.
    """
    value = seconds(name, text) / dt
    if abs(value - round(value)) > 1e-6 or round(value) < least:
        raise ValidationError(f"`{name}` must be a whole number (≥ {least}) of steps of {dt:g} s, got {text!r}")
    return round(value)


def check_batches(rng: np.random.Generator, size: int, split: str) -> None:
    """The arguments of `Task.batches`."""
    if not isinstance(rng, np.random.Generator):
        raise ValidationError(f"`rng` must be a numpy.random.Generator, got {rng!r}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValidationError(f"`size` must be a whole number ≥ 1, got {size!r}")
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
