"""Training for epochs: batches from a task, a curriculum, evaluation, the best parameters, checkpoints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.checks import flag, function, instance, path, positive_int, shown
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import describe
from bpl_neuro.tasks.base import Batch, Curriculum, Task
from bpl_neuro.tasks.timing import batches_of, check_task
from bpl_neuro.train.checkpoint import save_beside, warn_of_another
from bpl_neuro.train.history_file import HistoryFile
from bpl_neuro.train.progress import epoch_line, training_progress
from bpl_neuro.train.state import PARAMETERS, LearnerState, Totals
from bpl_neuro.train.step import Outcome, Recording, Step, Watch

__all__ = ["Fit"]


@dataclass(frozen=True)
class Fit:
    """What `Trainer.fit` was asked for; its parameters are described there.

    Raises
    ------
    ValidationError
        For a wrong one.
    """

    task: Task
    epochs: int | None
    batch_size: int
    stop_at: int | None
    validate: bool
    callbacks: Iterable[Callable[[Any, Outcome], None]]
    watch: Watch | None
    recorder: Recording | None
    progress: bool
    checkpoint: str | Path | None
    checkpoint_every: int | None
    history: HistoryFile | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.stop_at is not None:
            positive_int("stop_at", self.stop_at)
        elif self.epochs is None:
            raise ValidationError("`epochs` = None needs `stop_at`: there would be no end")
        positive_int("batch_size", self.batch_size)
        for name in ("epochs", "checkpoint_every"):
            if getattr(self, name) is not None:
                positive_int(name, getattr(self, name))
        if self.checkpoint_every is not None and self.checkpoint is None:
            raise ValidationError("`checkpoint_every` needs `checkpoint`, the file to write")
        check_task(self.task)
        for name in ("validate", "progress"):
            flag(name, getattr(self, name))
        if self.watch is not None:
            function("watch", self.watch, "a function of a step")
        if self.checkpoint is not None:
            object.__setattr__(self, "history", HistoryFile(path("checkpoint", self.checkpoint)))
        if self.recorder is not None:
            instance("recorder", self.recorder, Recording, "a Recorder or PassiveRules")
        if not isinstance(self.callbacks, list | tuple) or not all(map(callable, self.callbacks)):
            raise ValidationError(
                f"`callbacks` must be a list of functions of (trainer, outcome), got {shown(self.callbacks)}"
            )
        first = [] if self.recorder is None else [self.recorder.batch_done]
        object.__setattr__(self, "callbacks", [*first, *self.callbacks])

    def fitted(self) -> dict[str, Any]:
        """What a checkpoint is to know of this; where a curriculum stands is not part of what a task is."""
        task = describe(self.task)
        if isinstance(self.task, Curriculum):
            task |= {"curriculum": sorted(self.task.state())}
        return {"task": task, "batch_size": self.batch_size}

    def is_done(self, trainer: Any) -> bool:
        """Whether there is nothing left to train."""
        last = math.inf if self.epochs is None else self.epochs
        return trainer.epoch >= last or self._has_stopped(trainer)

    def _has_stopped(self, trainer: Any) -> bool:
        return self.stop_at is not None and trainer.batches >= self.stop_at

    def started(self, trainer: Any) -> LearnerState:
        """The trainer's state, with the task's curriculum and the state's at one place: that of the state, if any."""
        state: LearnerState = trainer.state
        if isinstance(self.task, Curriculum) and state.curriculum is not None:
            self.task.restore(state.curriculum)
        elif isinstance(self.task, Curriculum):
            state.curriculum = self.task.state()
        return state

    def run(self, trainer: Any) -> None:
        """Train until `is_done`."""
        self.started(trainer)
        if self.checkpoint is not None and not self.is_done(trainer):
            warn_of_another(trainer.state, trainer.seed, self.checkpoint)
        of = "" if self.epochs is None else f"/{self.epochs}"
        with training_progress(self.progress) as bar:
            if verified := getattr(self.recorder, "verified", None):
                bar.console.print(f"the recording was verified: {verified}", soft_wrap=True)
            if self.is_done(trainer):
                bar.console.print(
                    f"nothing to train: {trainer.epoch} epochs and {trainer.batches} batches are done; `epochs` and "
                    "`stop_at` are totals",
                    soft_wrap=True,
                )
            while not self.is_done(trainer):
                job = bar.add_task(f"epoch {trainer.epoch + 1}{of}", total=None, loss="")
                rng = np.random.default_rng([trainer.seed, trainer.epoch])
                trials = batches_of(self.task, rng, self.batch_size, "train")
                for batch in itertools.islice(trials, trainer.within_epoch, None):
                    outcome = self._train(trainer, batch)
                    bar.update(job, advance=1, loss=f"loss {outcome.loss:.4g}")
                    if self._has_stopped(trainer):
                        break
                else:
                    entry = self._end_epoch(trainer)
                    bar.console.print(f"epoch {trainer.epoch}{of}: {epoch_line(entry)}", soft_wrap=True)
                    self._save(trainer)
                bar.remove_task(job)

    def _train(self, trainer: Any, batch: Batch) -> Outcome:
        """Learn from a batch, and all that follows from that."""
        outcome: Outcome = trainer.train_batch(batch, self._watch)
        log = trainer.state.log
        log.losses.append(outcome.loss)
        log.ends.append(trainer.trials)
        log.totals.add(outcome, batch.size)
        log.within_epoch += 1
        if isinstance(self.task, Curriculum):
            self.task.advance(outcome.loss)
            trainer.state.curriculum = self.task.state()
        for callback in self.callbacks:
            callback(trainer, outcome)
        if self.checkpoint_every and trainer.batches % self.checkpoint_every == 0:
            self._save(trainer)
        return outcome

    @property
    def _watch(self) -> Watch | None:
        """Everybody who sees the steps."""
        watchers = [watch for watch in (self.watch, self.recorder and self.recorder.watch) if watch]
        if len(watchers) < 2:
            return watchers[0] if watchers else None

        def watch_all(step: Step) -> None:
            for watch in watchers:
                watch(step)

        return watch_all

    def _end_epoch(self, trainer: Any) -> dict[str, float]:
        log = trainer.state.log
        entry = {"epoch": log.epoch + 1, "batches": trainer.batches, **log.totals.figures("train_")}
        if self.validate:
            figures = trainer.evaluate(self.task, "validation", batch_size=500)
            entry |= {f"validation_{key}": value for key, value in figures.items()}
            if math.isfinite(figures["loss"]) and (log.best is None or figures["loss"] < log.best["loss"]):
                log.best = {name: trainer.parameter(name) for name in PARAMETERS} | {"loss": figures["loss"]}
        log.history.append(entry)
        log.epoch, log.within_epoch, log.totals = log.epoch + 1, 0, Totals()
        return entry

    def _save(self, trainer: Any) -> None:
        """The recording first: it can be cut back to a checkpoint, but not made longer."""
        if self.checkpoint is None or self.history is None:
            return
        if self.recorder:
            self.recorder.flush()
        save_beside(trainer.state, trainer.seed, self.checkpoint, self.history)
