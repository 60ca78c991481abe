"""What a task yields (`Batch`), and what it must be (`Task`) and may be (`Curriculum`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bpl_neuro.checks import flag, real_array, shown
from bpl_neuro.errors import ValidationError

__all__ = ["SPLITS", "TASKS", "Batch", "Curriculum", "Task", "register"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Batch:
    """Trials side by side: inputs, targets, where a loss is due and where trials end.

    Parameters
    ----------
    x : array, (B, T, K)
        Inputs; ``x[:, t]`` arrives at step t + 1.
    y : array, (B, T, M) or (B, T) of integers
        Targets; integers are class labels (cross-entropy).
    mask : array, (B, T), optional
        Weight of the loss at each step; 0 where none is due. Default: 1 everywhere.
    end : array of bool, (B, T), optional
        True at a trial's last step. Several trials may follow one another in a row. Default: True at
        the last step only. Steps after a row's last end are padding: they carry no loss, nothing is
        learned in them, and `end` is set there.
    stream : bool
        True for a piece of an endless stream: the next piece goes on where this one stops, `end` is False everywhere
        by default, and there is no padding.
    padding : array of bool, (B, T), optional
        True in steps that are of no trial; by default those after a row's last end.

    Raises
    ------
    ValidationError
        For shapes that do not match, values that are hidden (masked arrays) or not finite, a negative mask, a row
        without an end, or a `stream` that is no boolean.
    """

    x: NDArray
    y: NDArray
    mask: Any = None
    end: Any = None
    stream: bool = False
    padding: Any = None

    def __post_init__(self) -> None:
        stream = flag("stream", self.stream)
        x, y = real_array("x", self.x), real_array("y", self.y)
        if x.ndim != 3 or 0 in x.shape:
            raise ValidationError(f"`x` must be (trials, steps, inputs) with at least one of each, got shape {x.shape}")
        B, T = x.shape[:2]
        if x.dtype.kind != "f":
            x = x.astype(np.float32)
        if y.ndim not in (2, 3) or y.shape[:2] != (B, T):
            raise ValidationError(f"`y` must be ({B}, {T}, outputs), or ({B}, {T}) class labels; got shape {y.shape}")
        if y.ndim == 2 and y.dtype.kind not in "iu":
            raise ValidationError(
                f"`y` of shape ({B}, {T}) must hold integer class labels, got dtype {y.dtype}; "
                f"real-valued targets have shape ({B}, {T}, outputs)"
            )
        if y.ndim == 3 and y.dtype.kind != "f":
            y = y.astype(np.float32)
        mask = np.ones((B, T), x.dtype) if self.mask is None else real_array("mask", self.mask)
        if mask.shape != (B, T):
            raise ValidationError(f"`mask` must be ({B}, {T}), got shape {mask.shape}")
        mask = mask.astype(x.dtype)
        if self.end is None:
            end = np.zeros((B, T), bool)
            end[:, -1] = not stream
        else:
            end = _booleans("end", self.end, (B, T))
            if not stream and not end.any(axis=1).all():
                row = int(np.argmin(end.any(axis=1)))
                raise ValidationError(f"`end` has no True in row {row}; every trial needs a last step")
        for name, array in (("x", x), ("y", y), ("mask", mask)):
            if not np.isfinite(array).all():
                where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise ValidationError(f"`{name}` must be finite, got {array[where]} at index {where}")
        if (mask < 0).any():
            raise ValidationError(f"`mask` must not be negative, got {mask.min()}")
        padding = np.zeros((B, T), bool)
        if self.padding is not None:
            padding = _booleans("padding", self.padding, (B, T))
        elif not stream:
            padding = np.cumsum(end[:, ::-1], axis=1)[:, ::-1] == 0
        mask = np.where(padding, 0, mask).astype(x.dtype)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "end", end | padding)
        object.__setattr__(self, "stream", stream)
        object.__setattr__(self, "padding", padding)

    @property
    def size(self) -> int:
        """Number of trials side by side, B."""
        return self.x.shape[0]

    @property
    def steps(self) -> int:
        """Number of time steps, T."""
        return self.x.shape[1]

    def __getitem__(self, rows: slice | NDArray) -> Batch:
        """Some of the trials, by slice or index array (of whole numbers, or one boolean a trial)."""
        if not isinstance(rows, slice):
            rows = real_array("rows", rows)
            mask = rows.dtype == bool and rows.shape == (self.size,)
            within = rows.dtype.kind in "iu" and not ((rows < -self.size) | (rows >= self.size)).any()
            if rows.ndim != 1 or not rows.size or not (mask or within):
                raise ValidationError(f"`rows` must be a slice or an array of indices below {self.size}, got {rows!r}")
        elif not all(end is None or isinstance(end, int | np.integer) for end in (rows.start, rows.stop, rows.step)):
            raise ValidationError(f"`rows` must be a slice of whole numbers, got {rows!r}")
        return Batch(self.x[rows], self.y[rows], self.mask[rows], self.end[rows], self.stream, self.padding[rows])


def _booleans(name: str, value: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Booleans (B, T), or zeros and ones."""
    array = real_array(name, value)
    if array.shape != shape:
        raise ValidationError(f"`{name}` must be {shape}, got shape {array.shape}")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValidationError(f"`{name}` must hold booleans, or 0 and 1")
    return array.astype(bool)


@runtime_checkable
class Task(Protocol):
    """A seeded source of batches. `batches` yields one epoch; the same generator state gives the same trials.

    A task in time also has `dt`, its step in seconds; it must be the model's. One without, or with None, is in bare
    steps and fits every model.
    """

    name: str
    input_size: int
    output_size: int
    loss: str

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        """One epoch of batches of `size` trials from "train", "validation" or "test"."""
        ...


@runtime_checkable
class Curriculum(Protocol):
    """A task that grows harder as it is learned; `Trainer.fit` moves it on after every batch.

    `state` is what a checkpoint keeps: plain numbers and texts by name.
    """

    def advance(self, loss: float) -> Any:
        """After a batch of that loss."""
        ...

    def state(self) -> dict[str, Any]:
        """Where it stands."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        ...


#: task classes by their `name`, as a command line or a configuration file refers to them; filled by `register`
TASKS: dict[str, type[Task]] = {}

_TaskClass = TypeVar("_TaskClass", bound="type[Task]")


def register(task: _TaskClass) -> _TaskClass:
    """Put a task's class into `TASKS` by its `name`; a decorator.

    Raises
    ------
    ValidationError
        If it is no class with a `name` and `batches`, or another class has its name.
    """
    if not isinstance(task, type):
        raise ValidationError(f"only a class can be registered as a `task`, got {shown(task)}")
    name = getattr(task, "name", None)
    if not isinstance(name, str) or not name:
        raise ValidationError(f"the task {task.__name__} needs a text as `name`, got {shown(name)}")
    if not callable(getattr(task, "batches", None)):
        raise ValidationError(f"the task {task.__name__} needs a method `batches`; see `bpl_neuro.tasks.base.Task`")
    if (holder := TASKS.setdefault(name, task)) is not task:
        raise ValidationError(
            f"the name {name!r} of the task {task.__name__} is that of {holder.__module__}.{holder.__qualname__}; "
            "give it another `name`"
        )
    return task
