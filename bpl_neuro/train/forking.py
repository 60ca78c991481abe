"""Going back: where a `fit` began, and how far to train again from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bpl_neuro.checks import number
from bpl_neuro.errors import ValidationError
from bpl_neuro.tasks.base import Task
from bpl_neuro.train.state import LearnerState

__all__ = ["Beginning", "find"]


@dataclass(frozen=True)
class Beginning:
    """A learner's state as it was when the latest `fit` began, and what that was given."""

    state: LearnerState
    task: Task
    batch_size: int
    validate: bool


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
    begun = beginning.state
    possible = [begun.trials, *ends[len(begun.log.ends) :]]
    if trial not in possible:
        number("trial", trial)
        near = min(possible, key=lambda end: abs(end - trial))
        raise ValidationError(
            f"`trial` must be the end of a batch of the latest `fit`, from {possible[0]} to {possible[-1]}; "
            f"got {trial!r}, the nearest is {near}"
        )
    return beginning, begun.batches + possible.index(trial)
