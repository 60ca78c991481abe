"""Tasks: one file each, following `base.Task` and registered by `base.register`, and one import here."""

from __future__ import annotations

import inspect
from typing import Any

from bpl_neuro.checks import word
from bpl_neuro.errors import ValidationError
from bpl_neuro.tasks.arrays import ArrayTask
from bpl_neuro.tasks.association_reach import AssociationReach
from bpl_neuro.tasks.base import TASKS, Batch, Task, register
from bpl_neuro.tasks.copy_repeat import CopyRepeat
from bpl_neuro.tasks.cue_outcome import CueOutcome
from bpl_neuro.tasks.delayed_reach import DelayedReach
from bpl_neuro.tasks.interval_timing import IntervalTiming
from bpl_neuro.tasks.row_mnist import RowMNIST
from bpl_neuro.tasks.target_reaching import TargetReaching

__all__ = [
    "TASKS",
    "ArrayTask",
    "AssociationReach",
    "Batch",
    "CopyRepeat",
    "CueOutcome",
    "DelayedReach",
    "IntervalTiming",
    "RowMNIST",
    "TargetReaching",
    "Task",
    "make_task",
    "register",
    "task_options",
]


def make_task(name: str, **options: Any) -> Task:
    """A task by its name.

    Parameters
    ----------
    name : str
        One of `TASKS`.
    **options
        Of the task.

    Raises
    ------
    ValidationError
        For an unknown task or option, or one that is missing; says which there are.
    """
    known = task_options(name)
    parameters = inspect.signature(TASKS[name]).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if (unknown := options.keys() - known) and not takes_any:
        raise ValidationError(f"{name} has no option {sorted(unknown)[0]!r}; it has {', '.join(known)}")
    for option in known:
        if option not in options and parameters[option].default is inspect.Parameter.empty:
            raise ValidationError(f"{name} needs `{option}`")
    return TASKS[name](**options)


def task_options(name: str) -> list[str]:
    """Names of the options that a task takes, those without a default among them."""
    parameters = inspect.signature(TASKS[word("name", name, TASKS)]).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
