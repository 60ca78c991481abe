"""A user's own arrays as a task: three splits that share no trial."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpl_neuro.checks import generator, instance, number, positive_int, shown, word
from bpl_neuro.circuit.losses import LOSSES, check_targets
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described
from bpl_neuro.tasks.base import SPLITS, Batch
from bpl_neuro.tasks.timing import check_batches

__all__ = ["ArrayTask"]


class ArrayTask(Described):
    """A user's own trials, parted at random into "train", "validation" and "test".

    A trial stays in its split. Which split that is depends on `seed` and the number of trials and, where targets are
    class labels, on these: every class is spread over the splits in proportion. Sainte-Laguë's divisor method says how:
    the trials of a class of n stand, in random order, at (i + ½)/n, and those that stand first are held out. A class
    too small for its share of a split stays in "train".

    Parameters
    ----------
    data : Batch
        All trials, or, where `validation` and `test` are batches too, those for training.
    loss : str
        ``"squared_error"``, ``"cross_entropy"`` or ``"binary_cross_entropy"``.
    output_size : int, optional
        Read off the targets; for class labels the largest label + 1.
    validation, test : float or Batch
        Fraction of `data` to hold out, in [0, 1): rounded to whole trials, but at least one unless it is 0. Or trials
        of the user's own, which keep their order.
    seed : int or numpy.random.Generator
        Of the splits. (The order of training trials comes from the generator that is handed to `batches`.)

    Attributes
    ----------
    rows : dict of split to array of int
        Which rows of `data` form a split, in ascending order. Without the splits that are batches of the user's own.

    Raises
    ------
    ValidationError
        If nothing is left to train on, for a piece of a stream, or batches that do not match.

    Notes
    -----
    A trial's class is its label at the last step with a loss.

    Examples
    --------
    >>> import numpy as np
    >>> import bpl_neuro as bpl
    >>> task = bpl.ArrayTask(bpl.Batch(np.zeros((50, 8, 3)), np.zeros((50, 8, 2))), validation=0.2, test=0.1)
    >>> {split: len(rows) for split, rows in task.rows.items()}
    {'train': 35, 'validation': 10, 'test': 5}
    """

    name = "arrays"
    identified = {"data": "_batches", "validation": "rows", "test": None, "seed": None}

    def __init__(
        self,
        data: Batch,
        loss: str = "squared_error",
        output_size: int | None = None,
        *,
        validation: float | Batch = 0.1,
        test: float | Batch = 0.1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        self.data = _whole_trials("data", instance("data", data, Batch, "a Batch"))
        self.loss = word("loss", loss, LOSSES)
        self.input_size = data.x.shape[2]
        fractions: dict[str, float] = {}
        self._batches = {"train": data}
        for split, part in (("validation", validation), ("test", test)):
            if isinstance(part, Batch):
                self._batches[split] = _alike(split, part, data)
            else:
                self._batches[split], fractions[split] = data, _fraction(split, part)
        self.output_size = _output_size(output_size, list(self._batches.values()))
        for part in self._batches.values():
            check_targets(self.loss, part.y, self.output_size)
        self.rows = _part(data, fractions, generator("seed", seed))

    def identity(self) -> dict[str, Any]:
        """Hashes of all trials and of the splits, computed once."""
        return dict(self._identity)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return super().identity()

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        """One epoch: every trial of the split once; the last batch may be smaller.

        "train" is shuffled by `rng`; "validation" and "test" keep their order and leave `rng` alone.

        Raises
        ------
        ValidationError
            For wrong arguments (see `Task.batches`), or a split that holds no trials; at the call.
        """
        check_batches(rng, size, split)
        rows = self.rows.get(split, np.arange(self._batches[split].size))
        if not len(rows):
            raise ValidationError(
                f'the task holds no trials out for "{split}": make it with {split}=0.1, or another fraction, or '
                f"{split}=a Batch of trials of your own; training without validation is `fit(…, validate=False)`"
            )
        return self._epoch(self._batches[split], rng.permutation(rows) if split == "train" else rows, size)

    def _epoch(self, trials: Batch, order: NDArray, size: int) -> Iterator[Batch]:
        for start in range(0, len(order), size):
            yield trials[order[start : start + size]]


def _part(data: Batch, fractions: dict[str, float], rng: np.random.Generator) -> dict[str, NDArray]:
    """Rows of every split that is taken from `data`."""
    counts = {split: max(1, round(f * data.size)) if f else 0 for split, f in fractions.items()}
    if sum(counts.values()) >= data.size:
        raise ValidationError(
            f"`data` has {data.size} trial{'s' if data.size > 1 else ''}: {counts.get('validation', 0)} for validation "
            f"and {counts.get('test', 0)} for the test leave none for training; give more trials, or hold fewer out "
            "(`validation` = 0 and `test` = 0 hold none out)"
        )
    order = _held_out_first(data, rng)
    rows, start = {}, 0
    for split in SPLITS[:0:-1]:  # the test first: it does not change with the fraction for validation
        if split in counts:
            rows[split] = np.sort(order[start : start + counts[split]])
            start += counts[split]
    rows["train"] = np.sort(order[start:])
    return {split: rows[split] for split in SPLITS if split in rows}


def _held_out_first(data: Batch, rng: np.random.Generator) -> NDArray:
    """Rows in random order, classes spread evenly: any first part of it has them in proportion."""
    order = rng.permutation(data.size)
    if data.y.ndim == 3:
        return order
    last_scored = data.steps - 1 - np.argmax(data.mask[:, ::-1] > 0, axis=1)
    labels = data.y[np.arange(data.size), last_scored][order]
    place = np.empty(data.size)
    for label in np.unique(labels):
        members = labels == label
        place[members] = (np.arange(members.sum()) + 0.5) / members.sum()
    return order[np.argsort(place, kind="stable")]  # stable: classes at the same place stand in random order


def _fraction(name: str, value: float) -> float:
    try:
        return number(name, value, high=1.0)
    except ValidationError:
        raise ValidationError(
            f"`{name}` must be a fraction ≥ 0 and < 1, or a Batch of trials of your own; got {shown(value)}"
        ) from None


def _whole_trials(name: str, trials: Batch) -> Batch:
    if trials.stream:
        raise ValidationError(
            f"`{name}` must hold whole trials, not a piece of a stream; `Trainer.train_batch` takes pieces in turn"
        )
    return trials


def _alike(name: str, trials: Batch, data: Batch) -> Batch:
    """Trials with inputs and targets like those for training."""
    _whole_trials(name, trials)
    if trials.y.ndim != data.y.ndim:
        targets = "class labels" if data.y.ndim == 2 else "real-valued targets"
        raise ValidationError(f"`{name}` must have {targets} like `data`")
    for units, array, reference in (("inputs", trials.x, data.x), ("outputs", trials.y, data.y)):
        if array.shape[2:] != reference.shape[2:]:
            raise ValidationError(f"`{name}` must have {reference.shape[2]} {units} like `data`, got {array.shape[2]}")
    return trials


def _output_size(size: int | None, batches: list[Batch]) -> int:
    if batches[0].y.ndim == 3:
        return batches[0].y.shape[2] if size is None else positive_int("output_size", size)
    label = max(int(batch.y.max()) for batch in batches)
    if size is not None and positive_int("output_size", size) <= label:
        raise ValidationError(f"`output_size` must be at least {label + 1}, for there is a label {label}; got {size}")
    return positive_int("output_size", label + 1 if size is None else size)
