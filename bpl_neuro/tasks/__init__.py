"""Tasks: seeded generators of batches, each following `bpl_neuro.tasks.base.Task`."""

from __future__ import annotations

from bpl_neuro.tasks.base import Task
from bpl_neuro.tasks.copy_repeat import CopyRepeat
from bpl_neuro.tasks.cue_outcome import CueOutcome
from bpl_neuro.tasks.delayed_reach import DelayedReach
from bpl_neuro.tasks.interval_timing import IntervalTiming
from bpl_neuro.tasks.row_mnist import RowMNIST
from bpl_neuro.tasks.target_reaching import TargetReaching

__all__ = ["TASKS", "CopyRepeat", "CueOutcome", "DelayedReach", "IntervalTiming", "RowMNIST", "TargetReaching"]

#: task classes by their `name`, as a command line or a configuration file refers to them
TASKS: dict[str, type[Task]] = {
    task.name: task for task in (TargetReaching, RowMNIST, CopyRepeat, DelayedReach, IntervalTiming, CueOutcome)
}
