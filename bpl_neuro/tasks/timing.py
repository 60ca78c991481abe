"""Steps in time: that of a task and of a model, and trials of different lengths in one batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bpl_neuro.checks import instance, number, positive_int, shown, word
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.spec import Model
from bpl_neuro.model.units import seconds
from bpl_neuro.tasks.base import SPLITS, Batch, Task

__all__ = ["LONGEST", "batches_of", "check_batches", "check_step", "check_task", "join_trials", "step_size"]

#: steps of a trial that are taken: with more no array of one is made
LONGEST = 10**7

_UNITS = {"second": 1.0, "ms": 1e-3, "us": 1e-6}


def step_size(text: str) -> float:
    """`dt` in seconds; ValidationError unless it is positive."""
    value = seconds("dt", text)
    if value <= 0:
        raise ValidationError(f"`dt` must be positive, got {text!r}")
    return value


def check_task(task: Any) -> None:
    """ValidationError unless it is a task."""
    what = "a task: an object with `batches`, `input_size`, `output_size`, `loss` and `name`"
    if isinstance(instance("task", task, Task, what), type):
        raise ValidationError(f"`task` must be {what}, got the class {task.__name__}; make one of it")


def batches_of(task: Any, rng: np.random.Generator, size: int, split: str) -> Iterator[Batch]:
    """One epoch of a task, which may be anybody's: batches, and at least one.

    Raises
    ------
    ValidationError
        For a task that gives what is no iterator, what are no batches, or nothing at all: an epoch without a batch
        would be followed by the next, without end.
    """
    name, empty = shown(getattr(task, "name", type(task).__name__)), True
    given = task.batches(rng, size, split)
    if not isinstance(given, Iterable):
        raise ValidationError(f"`task` {name} must give batches for {split!r}, got {shown(given)}")
    for batch in given:
        empty = False
        yield instance("batches", batch, Batch, f"what the task {name} gives: Batch after Batch")
    if empty:
        raise ValidationError(
            f"`task` {name} gave no batch for {split!r}: an epoch needs one at least; if its `batches` returns an "
            "iterator that it keeps, it is used up after one epoch: make a new one at each call"
        )


def check_step(task: Any, model: Model) -> None:
    """A task in time and a model must step alike; one without `dt`, or whose `dt` is None, is in bare steps and fits.

    Raises
    ------
    ValidationError
        If the steps differ (by more than 1e-9 of themselves), the model's steps last no time, or the task's `dt` is
        no number of seconds.
    """
    dt = getattr(task, "dt", None)
    if dt is None:
        return
    name = getattr(task, "name", type(task).__name__)
    try:
        dt = number("dt", dt, above=True)
    except ValidationError:
        raise ValidationError(f"`dt` of the task {name!r} must be a positive number of seconds, got {dt!r}") from None
    step = _as_text(dt)
    start = f"the task {name!r} steps by {step.replace('*', ' ')}, the model {model.title!r} by"
    if model.spec.time is None:
        raise ValidationError(
            f'{start} bare steps that last no time: give the model [time] dt = "{step}", or choose a task in bare steps'
        )
    if not math.isclose(dt, model.dt, rel_tol=1e-9):
        model_step = _as_text(model.dt)
        raise ValidationError(f'{start} {model_step.replace("*", " ")}: make the task with dt="{model_step}"')


def _as_text(time: float) -> str:
    """A time in seconds as the text that a task or a model takes: in the largest unit that it holds, or else in us."""
    unit = next((unit for unit, size in _UNITS.items() if time >= size * (1 - 1e-9)), "us")
    return f"{time / _UNITS[unit]:.12g}*{unit}"


def check_batches(rng: np.random.Generator, size: int, split: str) -> None:
    """The arguments of `Task.batches`."""
    if not isinstance(rng, np.random.Generator):
        raise ValidationError(f"`rng` must be a numpy.random.Generator, got {shown(rng)}")
    positive_int("size", size), word("split", split, SPLITS)


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
