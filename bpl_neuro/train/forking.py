"""Going back: where a `fit` began, and how far to train again from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bpl_neuro.checks import number
from bpl_neuro.errors import ValidationError
from bpl_neuro.tasks.base import Task

__all__ = ["Beginning", "find"]


@dataclass(frozen=True)
class Beginning:
    """A trainer as it was when its latest `fit` began, and what that was given."""

    trainer: Any
    task: Task
    batch_size: int
    validate: bool

    def __deepcopy__(self, memo: dict[int, Any]) -> Beginning:
        return self  # never changes, and a task may hold a whole data set


def find(beginning: Beginning | None, trial: int, ends: Sequence[int]) -> tuple[Beginning, int]:
    """Where to begin, and after how many batches in all so many trials had been trained.

    Parameters
    ----------
    beginning : Beginning or None
    trial : int
    ends : sequence of int
        Trials trained after each batch of every `fit`.

    Raises
    ------
    ValidationError
        If `trial` is not the end of a batch of the latest `fit`; names the nearest that is.
    """
    if beginning is None:
        raise ValidationError("`trial` goes back into the latest `fit`, and there was none; fork() forks from now")
    begun = beginning.trainer
    possible = [begun.trials, *ends[len(begun._ends) :]]
    if trial not in possible:
        number("trial", trial)
        near = min(possible, key=lambda end: abs(end - trial))
        raise ValidationError(
            f"`trial` must be the end of a batch of the latest `fit`, from {possible[0]} to {possible[-1]}; "
            f"got {trial!r}, the nearest is {near}"
        )
    return beginning, begun.batches + possible.index(trial)
