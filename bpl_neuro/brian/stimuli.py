"""Stimuli made with Brian2 as inputs of a circuit."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpl_neuro.checks import positive_int, whole
from bpl_neuro.errors import ModelError, ValidationError
from bpl_neuro.model.units import seconds, whole_steps
from bpl_neuro.tasks.timing import LONGEST

__all__ = ["from_timed_array"]


def from_timed_array(stimulus: Any, *, dt: str, duration: str, trials: int = 1) -> np.ndarray:
    """The inputs x of a `Batch` from a Brian2 ``TimedArray``.

    Step t + 1 takes the state from time t·dt to (t + 1)·dt and sees the stimulus at t·dt, as in Brian2; beyond its end
    the stimulus keeps its last value.

    Parameters
    ----------
    stimulus : brian2.TimedArray
        Values over time, or over time × inputs. Values with a unit are taken in SI units.
    dt : str
        The model's step, like ``"1*ms"``; it may differ from the stimulus's own.
    duration : str
        A whole number of steps.
    trials : int
        Rows, all alike.

    Returns
    -------
    (trials, steps, inputs) array

    Raises
    ------
    ValidationError
        If `stimulus` is no TimedArray, or a time is wrong.
    """
    try:
        values, own_dt = np.asarray(stimulus.values, float), float(stimulus.dt)
    except Exception:  # whatever a stranger says when it is asked
        values, own_dt = np.zeros(0), 0.0
    if not own_dt > 0 or values.ndim not in (1, 2) or not values.size:
        raise ValidationError(f"`stimulus` must be a brian2.TimedArray, got {type(stimulus).__name__}")
    if not np.isfinite(values).all():
        raise ValidationError("`stimulus` must be finite")
    try:
        step = seconds("dt", dt)
        if not step > 0:
            raise ValidationError(f"`dt` must be a time > 0, got {dt!r}")
        steps = whole("duration", whole_steps("duration", duration, step, least=1), most=LONGEST)
    except ModelError as error:
        raise ValidationError(str(error)) from None
    # The small shift keeps t = k·own_dt from falling under k by rounding.
    index = np.floor(np.arange(steps) * step / own_dt + 1e-6).astype(int)
    shown = values[np.minimum(index, len(values) - 1)]
    shown = shown[:, None] if shown.ndim == 1 else shown
    return np.repeat(shown[None], positive_int("trials", trials), axis=0)
