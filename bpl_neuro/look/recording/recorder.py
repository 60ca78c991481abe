"""The recorder: what was asked for, written to disk while a trainer learns."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bpl_neuro.checks import instance, positive_int, whole, words
from bpl_neuro.checks import path as checked_path
from bpl_neuro.errors import BplError, ValidationError
from bpl_neuro.identity import say_differences
from bpl_neuro.look.recording.checksums import Verified
from bpl_neuro.look.recording.names import in_words
from bpl_neuro.look.recording.quantities import (
    PARAMETERS,
    Choice,
    Units,
    chosen_synapses,
    describe,
    trace_values,
)
from bpl_neuro.look.recording.store import BatchStore, checked_metadata, damage_named
from bpl_neuro.rules.traces import TracedRule
from bpl_neuro.train.checkpoint import identity
from bpl_neuro.train.step import Outcome, Step
from bpl_neuro.train.trainer import Trainer

__all__ = ["Recorder"]

SELECTION = ("every", "steps", "trials", "units", "synapses", "chunk_steps", "buffer_bytes")


class Recorder:
    """Writes what was asked for while a trainer learns; memory does not grow with the number of batches.

    ``with Recorder(trainer, "r.zarr", ["g", "loss"]) as r: trainer.fit(task, watch=r.watch, callbacks=[r.batch_done])``

    Parameters
    ----------
    trainer : Trainer
    path : path
        The store; it appears with the first batches that are flushed.
    quantities : str or sequence of str
        Per step: ``"state"``, ``"rate"``, ``"c"``, the rule's signals (``"g"``, ``"delta"``, ``"credit"``; ``"q"``),
        and ``"trace"``: for each chosen synapse j → a of the synthesiser ``trace_own`` e[a, a, j], ``trace_norm``
        ‖e[·, a, j]‖ (full and local trace) and ``trace_product`` Σ_i δ_{t−1,i} e_{t−1}[i, a, j]. The trace is the one
        after the step: 0 where a trial has just ended. Per batch: ``"loss"``; ``"psi"``, ``"phi"``, ``"theta"`` as they
        are after it.
    every : int
        Record batches 1, 1 + every, 1 + 2·every, …
    steps : slice or sequence of int, optional
        Steps within the batch, counted from 1. All by default. Those of a longer batch than before are added, unless
        they are beyond a list or the end of a slice; what a batch lacks is NaN.
    trials : slice or sequence of int, optional
        Rows of the batch. All by default. Those of a larger batch are added likewise.
    units : str, slice, or sequence of int or str, optional
        Indices of the flat state, or names of populations. All by default. ``rate`` is recorded for the neurons that
        the units belong to.
    synapses : sequence of (a, j), optional
        For ``"trace"``: output and input index of θ.
    flush_every : int, optional
        Flush when a multiple of so many batches was trained: what `Trainer.fit` has as `checkpoint_every`.
    chunk_steps : int, optional
        Steps per chunk on disk; by default, and at most, as many as the first batch has.
    buffer_bytes : int
        Most that is held before it is written. A batch must fit.
    resume_at : int, optional
        Go on with the recording at `path`, cut back to the first so many trained batches. All of it is read once and
        compared with its checksums: damage shows now. The learner must be the one that it was made with, but for what
        `Trainer.restore` was allowed to find different.
    begun_at : int, optional
        With `resume_at`: how many batches had been trained when the recording began. There need be nothing yet at
        `path` if none since then was to be recorded.

    Attributes
    ----------
    verified : Verified or None
        What verifying a recording that goes on came to: ``files``, ``bytes``, ``seconds``.

    Raises
    ------
    ValidationError
        For something that does not exist, naming what does; for a batch too large to hold; for a recording that cannot
        be continued, with the reason.
    BplError
        When it cannot be written, as on a full disk; what was flushed before stays readable.
    """

    def __init__(
        self,
        trainer: Trainer,
        path: str | Path,
        quantities: str | Sequence[str],
        *,
        every: int = 1,
        steps: slice | Sequence[int] | None = None,
        trials: slice | Sequence[int] | None = None,
        units: str | slice | Sequence[int] | Sequence[str] | None = None,
        synapses: Sequence[tuple[int, int]] | None = None,
        flush_every: int | None = None,
        chunk_steps: int | None = None,
        buffer_bytes: int = 64 * 2**20,
        resume_at: int | None = None,
        begun_at: int = 0,
    ) -> None:
        instance("trainer", trainer, Trainer, "a Trainer")
        names = words("quantities", quantities)
        self.trainer, self.path, circuit = trainer, checked_path("path", path), trainer.circuit
        self._every, self._buffer_bytes = positive_int("every", every), positive_int("buffer_bytes", buffer_bytes)
        self._flush_every = None if flush_every is None else positive_int("flush_every", flush_every)
        self._chunk_steps = sys.maxsize if chunk_steps is None else positive_int("chunk_steps", chunk_steps)
        self._chosen_steps, self._chosen_trials = Choice("steps", steps, 1), Choice("trials", trials, 0)
        self._units = Units(circuit, units)
        self._synapses = chosen_synapses(trainer.state.rule_for(1)[0], "trace" in names, synapses)
        self._variables = describe(trainer, names, self._units, self._synapses)
        self._per_step = {name: v for name, v in self._variables.items() if "step" in v.dims}
        values = (
            self._every, self._chosen_steps.plain(), self._chosen_trials.plain(), self._units.states,
            self._synapses or None, chunk_steps, self._buffer_bytes,
        )  # fmt: skip
        self._settings = {"quantities": names, **dict(zip(SELECTION, values, strict=True))} | {
            "populations": circuit.sizes, "model": circuit.model.title, "rule": trainer.rule.name,
            "trace": getattr(trainer.state.rule_for(1)[0], "form", None), "dtype": circuit.dtype.name,
        }  # fmt: skip
        self._held: list[dict[str, np.ndarray]] = []  # steps of the batch under way
        self._pending: list[dict[str, np.ndarray]] = []  # batches that have ended
        self._steps: list[int] = []  # so far; none before a batch was recorded
        self._trials: list[int] = []
        self._rows: list[int] = []  # the trials once the batch under way has ended
        self._going_on = self._columns()
        self._before: list[Any] | None = None  # the trace one step earlier
        self._bytes = self._chunk = self._under_way = self._last = 0
        self._first = self._done = trainer.batches
        self._closed = False
        self.verified: Verified | None = None
        self._store = BatchStore(self.path)
        if resume_at is not None:
            self._reopen(whole("resume_at", resume_at), whole("begun_at", begun_at))
        elif self.path.exists():
            raise ValidationError(f"{self.path}: there already is a recording; go on with `resume_at`, or remove it")

    @classmethod
    def resume(cls, trainer: Trainer, path: str | Path, batches: int, *, flush_every: int | None = None) -> Recorder:
        """Go on with a recording as it was set up, cut back to the first `batches` trained batches."""
        instance("trainer", trainer, Trainer, "a Trainer"), whole("batches", batches)
        path = checked_path("path", path)
        with damage_named(path):
            settings = json.loads(checked_metadata(Path(path))[".zattrs"]["settings"])
            chosen = {key: settings[key] for key in SELECTION}
            chosen |= {key: slice(*value["slice"]) for key, value in chosen.items() if isinstance(value, dict)}
            quantities = settings["quantities"]
        return cls(trainer, path, quantities, **chosen, flush_every=flush_every, resume_at=batches)

    @property
    def buffered_bytes(self) -> int:
        """Bytes held that are not yet written; at most `buffer_bytes`."""
        return self._bytes

    def watch(self, step: Step) -> None:
        """See a step: the `watch` of `Trainer.fit` and `Trainer.train_batch`."""
        if instance("step", step, Step, "a Step, as a watcher sees it").t == 1:
            self._begin(step)
        self._last = step.t
        if not self._due(self._under_way):
            return
        values: dict[str, Any] = {}
        if self._synapses:  # at every step: the next one needs it
            values, self._before = trace_values(self._synapses, step, self._before)
        if not self._per_step or step.t not in self._chosen_steps.numbers:
            return
        there = [row for row in self._rows if row < step.c.shape[0]]
        held = {"step": np.array(step.t)}
        for name, variable in self._per_step.items():
            value = variable.look(step) if variable.look else values[name]
            held[name] = np.full((len(self._rows), *variable.shape), np.nan, variable.dtype)
            held[name][: len(there)] = self.trainer.circuit.backend.to_host(value[there])
        self._held.append(self._counted(held, self._under_way))

    def batch_done(self, trainer: Trainer, outcome: Outcome) -> None:
        """Complete a batch: one of the `callbacks` of `Trainer.fit`, or called after `Trainer.train_batch`."""
        if trainer is not self.trainer:
            raise ValidationError("`trainer` is not the one that the recorder was made for")
        index, under_way, self._under_way = trainer.batches, self._under_way, 0
        self._check_next(index)
        if self._due(index):
            if self._per_step and under_way != index:
                raise ValidationError(f"no step of batch {index} was seen; give `watch=recorder.watch` as well")
            row = self._stacked() | {"batch": np.array(index), "loss": np.array(float(outcome.loss))}
            for name in PARAMETERS.keys() & self._variables.keys():
                value = trainer.circuit.backend.to_host(trainer.parameter(name))
                row[name] = np.array(value).reshape(self._variables[name].shape)
            self._pending.append(self._counted({name: row[name] for name in self._variables}, index))
            # A chunk is an eighth of the buffer at most, unless a batch is more: a flush rewrites the last chunk.
            self._chunk = self._chunk or min(max(self._buffer_bytes // 8 // _size(self._pending), 1), 1024)
        self._done, self._going_on = index, self._columns()
        if self._chunk_is_full() or (self._flush_every and index % self._flush_every == 0):
            self.flush()

    def flush(self) -> None:
        """Write all whole batches. Call it when a checkpoint is made, so that the recording can be cut back to it."""
        if not self._pending:
            return
        if not self._store.chunk:
            self._create(self._pending[0])
        self._store.append(self._pending, {name: values for name, (_, values, _) in self._labels().items()})
        self._bytes -= _size(self._pending)
        self._pending = []

    def close(self) -> None:
        """Flush and stop. A batch that has not ended is left out."""
        self._drop_held()
        self.flush()
        self._closed = True

    def __reduce__(self) -> Any:
        """Two of it would write into one file."""
        raise TypeError("a Recorder cannot be pickled or copied: it is bound to its file; see `Recorder.resume`")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        # An error on its way, such as a full disk, is not hidden by the same one here.
        with contextlib.suppress(BplError) if kind else contextlib.nullcontext():
            self.close()

    def _begin(self, step: Step) -> None:
        """Get ready for a batch; one that never ended, because it diverged, is forgotten."""
        self._drop_held()
        self._check_next(step.batch + 1)
        self._under_way, B = step.batch + 1, step.c.shape[0]
        if not self._due(self._under_way):
            return
        if self._chunk_is_full():  # the disk was full when it was due
            self.flush()
        self._rows = self._trials
        if not self._trials or self._chosen_trials.goes_on(len(self._trials), B - 1):
            self._rows = self._chosen_trials.up_to(B - 1)
        going_on, self._before = self._going_on, None
        if going_on and len(going_on[0]) == B:  # of a stream, whose trace goes on
            self._before = going_on

    def _columns(self) -> list[Any]:
        """The traces that a stream goes on with; none where there is no stream."""
        position, rule = self.trainer.state.position, self.trainer.settled_rule
        if position is None or not isinstance(rule, TracedRule):
            return []
        return [rule.trace.column(position["carry"]["trace"], *pair)[1] for pair in self._synapses]

    def _due(self, index: int) -> bool:
        return index > 0 and (index - 1) % self._every == 0

    def _check_next(self, index: int) -> None:
        if self._closed:
            raise ValidationError(f"{self.path}: the recorder was closed")
        if index != self._done + 1:
            raise ValidationError(
                f"batch {index} cannot follow batch {self._done}: `batch_done` must be called after every batch, and a "
                "trainer that was restored needs a recorder made after it was"
            )

    def _counted(self, row: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        size = _size([row])
        if self._bytes + size > self._buffer_bytes:  # as batches grow, fewer than a chunk has fit
            self.flush()
        if self._bytes + size > self._buffer_bytes:
            raise ValidationError(
                f"batch {index} takes more than `buffer_bytes` = {self._buffer_bytes}; choose fewer quantities, "
                "`steps`, `trials` or `units`, or allow more bytes"
            )
        self._bytes += size
        return row

    def _drop_held(self) -> None:
        self._bytes -= _size(self._held)
        self._held = []

    def _chunk_is_full(self) -> bool:
        return bool(self._chunk) and (self._store.rows + len(self._pending)) % self._chunk == 0

    def _stacked(self) -> dict[str, np.ndarray]:
        """The steps held, (steps, trials, …) each, NaN after the end of a short batch."""
        if self._per_step:
            self._trials = self._rows
            if not self._steps or self._chosen_steps.goes_on(len(self._steps), self._last):
                self._steps = self._chosen_steps.up_to(self._last)
        stacked = {}
        for name, variable in self._per_step.items():
            shape = (len(self._steps), len(self._trials), *variable.shape)
            stacked[name] = np.full(shape, np.nan, variable.dtype)
            for k, held in enumerate(self._held):
                stacked[name][k] = held[name]
        self._drop_held()
        return stacked

    def _labels(self) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
        """The coordinates that grow: dimension, values, attributes."""
        if not self._per_step:
            return {}
        numbers, model = np.array(self._steps), self.trainer.circuit.model
        trials = np.array(self._trials)
        coords: dict[str, tuple[str, np.ndarray, dict[str, str]]] = {
            "step": ("step", numbers, in_words("step")),
            "trial": ("trial", trials, in_words("trial")),
        }
        if model.spec.time is not None:
            coords["time"] = ("step", numbers * model.dt, in_words("time") | {"units": "s"})
        return coords

    def _create(self, row: dict[str, np.ndarray]) -> None:
        model, used = self.trainer.circuit.model, {dim for v in self._variables.values() for dim in v.dims}
        # of this batch, though there may already be longer ones
        sizes = {dim: n for name in row for dim, n in zip(self._variables[name].dims, row[name].shape, strict=True)}
        coords = self._units.coordinates(used)
        coords |= {name: (dim, values[: sizes[dim]], attrs) for name, (dim, values, attrs) in self._labels().items()}
        if self._synapses:
            a, j = np.array(self._synapses).T
            ends = {"synapse_output": a, "synapse_input": j}
            coords |= {name: ("synapse", values, in_words(name)) for name, values in ends.items()}
        attrs = {
            "model": model.title, "dt": model.dt, "dt_units": "step" if model.spec.time is None else "s",
            "first_batch": self._first, "chunk_batches": self._chunk, "settings": json.dumps(self._settings),
            "identity": json.dumps(identity(self.trainer.learner, self.trainer.seed)),
        }  # fmt: skip
        dims = {name: v.dims for name, v in self._variables.items()}
        attributes = {
            name: in_words(name) | self._units.units_of(name) | dict(v.attrs) for name, v in self._variables.items()
        }
        self._store.create(row, dims, xr.Dataset(coords=coords, attrs=attrs), attributes, {"step": self._chunk_steps})

    def _reopen(self, batches: int, begun_at: int) -> None:
        """Check an existing recording and cut it back."""
        if batches != self.trainer.batches:
            raise ValidationError(
                f"`resume_at` is {batches}, but {self.trainer.batches} batches were trained; restore the trainer first"
            )
        if not self.path.exists() and not any(map(self._due, range(begun_at + 1, batches + 1))):
            self._first = begun_at
            return
        with damage_named(self.path):
            metadata = checked_metadata(self.path)
            attrs, rows = metadata[".zattrs"], metadata["batch/.zarray"]["shape"][0]
            before = json.loads(attrs["settings"])
            for key, now in json.loads(json.dumps(self._settings)).items():
                if before[key] != now:
                    raise ValidationError(f"{self.path}: was made with {key} = {before[key]!r}, not {now!r}")
            trainer = self.trainer
            learner = identity(trainer.learner, trainer.seed)
            if found := say_differences(json.loads(attrs["identity"]), learner, trainer.allowed):
                raise ValidationError(f"{self.path}: was made with another learner: {found[0]}")
            self._first = attrs["first_batch"]
            wanted = [index for index in range(self._first + 1, batches + 1) if self._due(index)]
            if batches < self._first or rows < len(wanted):
                raise ValidationError(
                    f"{self.path}: holds {rows} batches, begun when {self._first} had been trained; up to batch "
                    f"{batches} it should hold {len(wanted)}. It was not flushed then, or belongs to another run"
                )
        self.verified = self._store.reopen(len(wanted), wanted)
        self._chunk, self._trials, self._steps = self._store.chunk, *map(self._store.labels, ("trial", "step"))


def _size(rows: Sequence[dict[str, np.ndarray]]) -> int:
    return sum(array.nbytes for row in rows for array in row.values())
