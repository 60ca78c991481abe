"""What training shows: a bar while an epoch runs and a line for each epoch done."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

__all__ = ["epoch_line", "training_progress"]


def epoch_line(entry: Mapping[str, float]) -> str:
    """Losses, accuracies and errors of an epoch."""
    keys = [key for key in entry if key.endswith(("loss", "accuracy", "error"))]
    return ", ".join(f"{key.replace('_', ' ')} {entry[key]:.4g}" for key in keys)


def training_progress(shown: bool) -> Progress:
    """A bar while an epoch runs, and a line for each epoch done; nothing at all where it is not wanted."""
    console = Console(quiet=not shown)
    state = TextColumn("{task.completed} batches, {task.fields[loss]}")
    return Progress(TextColumn("{task.description}"), BarColumn(), state, console=console, disable=not shown)
