"""Tasks: seeded generators of batches, each following `bpl_neuro.data.Task`."""

from __future__ import annotations

from bpl_neuro.data import Task
from bpl_neuro.tasks.row_mnist import RowMNIST
from bpl_neuro.tasks.target_reaching import TargetReaching

__all__ = ["TASKS", "RowMNIST", "TargetReaching"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (TargetReaching, RowMNIST)}
"""Task classes by their `name`, as a command line or a configuration file refers to them."""
