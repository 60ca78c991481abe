"""Training: schedules, optimisers, epochs, evaluation, the best parameters, checkpoints."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.checks import generator, instance, number, positive_int
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.units import whole_steps
from bpl_neuro.rules.base import Gradients, Rule, add_gradient
from bpl_neuro.tasks.base import Batch, Curriculum, Task
from bpl_neuro.train import checkpoint as checkpointing
from bpl_neuro.train.forking import Beginning, find
from bpl_neuro.train.loop import Outcome, Position, Recording, Step, Totals, check_finite, run_batch
from bpl_neuro.train.memory import check_fits, plan
from bpl_neuro.train.optimisers import Optimiser, by_name
from bpl_neuro.train.progress import epoch_line, training_progress

__all__ = ["Trainer"]


class Trainer:
    """Trains a circuit, its readout and the rule's own parameters on a task.

    Parameters
    ----------
    circuit, readout, rule : Circuit, Readout, Rule
    optimiser : Optimiser or mapping, optional
        One for everything, or by name: ``{"psi": Adam(1e-3), "theta": Adam(1e-4)}``; a name left out, or None, is
        frozen. Names: "psi" (circuit), "phi" (readout), "theta" (synthesiser). Default: Adam(1e-3) for all.
    schedule : {"trial", "step"}
        "step": parameters move at every step, fully online. "trial": gradients are summed over the batch's trials and
        applied at their end.
    update_every : int
        With the per-step schedule: gradients are summed over this many steps before they are applied.
    error_delay : int or str
        Steps, or a time like ``"20*ms"``, by which the error reaches the circuit late.
    rate_penalty : float
        ρ: adds ½ ρ Σ r² to every step's loss, per trial, as part of c.
    weight_penalty : float
        ω: adds ½ ω Σ W² over the plastic weights (biases not) to the loss of every update of Ψ.
    seed : int
        For the order and choice of trials (of each epoch on its own), and, in a stream of its own, for the noise.

    Attributes
    ----------
    theta : array or None
        The rule's own parameters.
    history : list of dict
        One entry per epoch.
    trials, batches, epoch, within_epoch : int
        Trials and batches trained so far, epochs completed, batches of the epoch under way.
    losses : list of float
        Loss of every batch trained by `fit`.
    """

    history: list[dict[str, float]]
    losses: list[float]
    best: dict[str, Any] | None
    trials: int
    batches: int
    epoch: int
    within_epoch: int
    _steps: int
    _moments: dict[str, dict[str, Any]]
    _sums: Gradients
    _position: Position | None
    _epoch_totals: Totals
    _ends: list[int]
    _task_state: dict[str, Any] | None
    _beginning: Beginning | None

    def __init__(
        self,
        circuit: Circuit,
        readout: Readout,
        rule: Rule,
        *,
        optimiser: Optimiser | Mapping[str, Optimiser | None] | None = None,
        schedule: str = "trial",
        update_every: int = 1,
        error_delay: int | str = 0,
        rate_penalty: float = 0.0,
        weight_penalty: float = 0.0,
        seed: int = 0,
    ) -> None:
        if schedule not in rule.schedules:
            raise ValidationError(
                f"`schedule` must be {' or '.join(map(repr, rule.schedules))} for {rule!r}, got {schedule!r}"
                + ("; it knows its gradient only at a trial's end" if schedule == "step" else "")
            )
        for name, part in (("readout", readout), ("rule", rule)):
            if getattr(part, "circuit", circuit) is not circuit:
                raise ValidationError(f"`{name}` was made for another circuit")
        generator("seed", seed)
        self.circuit, self.readout, self.rule, self.schedule = circuit, readout, rule, schedule
        self.theta = rule.initial_theta()
        self.optimisers = by_name(optimiser, checkpointing.PARAMETERS)
        self.update_every = positive_int("update_every", update_every)
        if schedule == "trial" and self.update_every > 1:
            raise ValidationError(
                '`update_every` counts steps of `schedule` = "step"; per trial there is one update a batch'
            )
        self.error_delay = whole_steps("error_delay", error_delay, circuit.model.dt)
        for name, value in (("rate_penalty", rate_penalty), ("weight_penalty", weight_penalty)):
            number(name, value)
        self.rate_penalty, self.weight_penalty = float(rate_penalty), float(weight_penalty)
        self.seed = seed
        self.noise_rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self.reset()

    def parameter(self, name: str) -> Any:
        """The parameter "psi", "phi" or "theta" as it is now."""
        if name == "psi":
            return self.circuit.psi
        return self.readout.phi if name == "phi" else self.theta

    def train_batch(self, batch: Batch, watch: Callable[[Step], None] | None = None) -> Outcome:
        """Learn from one batch, or from the next piece of a stream (``Batch(…, stream=True)``).

        Raises
        ------
        ValidationError
            If the rule's trace needs whole trials and the batch is a piece of a stream.
        DivergenceError
            When the state or a parameter stops being finite; parameters keep their last finite values.
        BackendError
            If the batch cannot fit the device's memory; says what would.
        """
        self.rule.settle(self.schedule, batch.steps, batch.stream)
        if batch.stream and not self.rule.streams:
            raise ValidationError(
                'a stream needs a rule that keeps a bounded past, like BPLambda with trace="full", "local", or "lazy" '
                "with a window"
            )
        if (shape := (batch.size, batch.steps, batch.stream)) not in self._fitting:
            check_fits(self, *shape)
            self._fitting.add(shape)
        start = self._position if batch.stream else None
        if start is None:
            self._sums = {}

        def receive(name: str, gradient: Any) -> Any:
            add_gradient(self._sums, name, gradient)
            if self.schedule == "step" and (self._steps + 1) % self.update_every == 0:
                self._descend(name, self._sums.pop(name))
            return self.parameter(name)

        def counted(step: Step) -> None:
            self._steps += 1
            if watch:
                watch(step)

        if self.schedule == "trial":  # nobody asks for the number of a step then
            self._steps += batch.steps
        outcome = run_batch(
            self.circuit, self.readout, self.rule, batch, self.theta, receive, index=self.batches,
            watch=counted if self.schedule == "step" else watch,
            start=start, noise=self.noise_rng if self.circuit.noisy else None, error_delay=self.error_delay,
            rate_penalty=self.rate_penalty, frozen=self.schedule == "trial",
        )  # fmt: skip
        self._position = outcome.at_end if batch.stream else None
        if self.schedule == "trial" or not batch.stream:
            for name in list(self._sums):
                self._descend(name, self._sums.pop(name))
        self.batches += 1
        self.trials += batch.size
        return outcome

    def fit(
        self,
        task: Task,
        *,
        epochs: int | None = 1,
        batch_size: int = 50,
        stop_at: int | None = None,
        validate: bool = True,
        callbacks: Iterable[Callable[[Trainer, Outcome], None]] = (),
        watch: Callable[[Step], None] | None = None,
        recorder: Recording | None = None,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
    ) -> Trainer:
        """Train until `epochs` epochs are in the history.

        The trials of epoch E depend on the seed and E alone, so a run that was stopped, restored or forked in the
        middle of an epoch goes on with the trials it would have had. Where a task's curriculum stands (`Curriculum`)
        belongs to the trainer: it is part of its checkpoints and forks, and the task is put there first.

        Parameters
        ----------
        task : Task
        epochs : int or None
            Total; a trainer restored from a checkpoint goes on to this number. None: as many as `stop_at` takes.
        batch_size : int
        stop_at : int, optional
            Stop when this many batches have been trained in all, also in the middle of an epoch.
        validate : bool
            After each epoch evaluate on the "validation" split, and keep the parameters with the lowest loss in
            `best`.
        callbacks : iterable of callable (trainer, outcome)
            Called after every batch.
        watch : callable, optional
            Sees every step; see `bpl_neuro.train.loop.Step`.
        recorder : Recorder, optional
            Records every batch, and is flushed before each checkpoint.
        progress : bool
            Show a progress bar.
        checkpoint : path, optional
            File written after every epoch.
        checkpoint_every : int, optional
            Also write it after every so many batches.

        Returns
        -------
        Trainer
            Itself.
        """
        if stop_at is not None:
            positive_int("stop_at", stop_at)
        elif epochs is None:
            raise ValidationError("`epochs` = None needs `stop_at`: there would be no end")
        last = math.inf if epochs is None else positive_int("epochs", epochs)
        positive_int("batch_size", batch_size)
        instance("task", task, Task, "a task: an object with `batches`, `input_size`, `output_size`, `loss` and `name`")
        if recorder is not None:
            instance("recorder", recorder, Recording, "a Recorder or PassiveRules")
        if not isinstance(callbacks, Iterable):
            raise ValidationError(f"`callbacks` must be a list of functions of (trainer, outcome), got {callbacks!r}")
        if checkpoint_every is not None:
            positive_int("checkpoint_every", checkpoint_every)
        callbacks = [*([recorder.batch_done] if recorder else []), *callbacks]
        watch = _both(watch, recorder.watch if recorder else None)
        curriculum = task if isinstance(task, Curriculum) else None
        if curriculum and self._task_state is not None:
            curriculum.restore(self._task_state)
        elif curriculum:
            self._task_state = curriculum.state()
        if self.epoch < last and self.batches != stop_at:
            self._beginning = None
            self._beginning = Beginning(self.fork(), task, batch_size, validate)
        of = "" if epochs is None else f"/{epochs}"
        with training_progress(progress) as bar:
            while self.epoch < last and self.batches != stop_at:
                job = bar.add_task(f"epoch {self.epoch + 1}{of}", total=None, loss="")
                trials = task.batches(np.random.default_rng([self.seed, self.epoch]), batch_size, "train")
                for batch in itertools.islice(trials, self.within_epoch, None):
                    outcome = self.train_batch(batch, watch)
                    self.losses.append(outcome.loss)
                    self._ends.append(self.trials)
                    self._epoch_totals.add(outcome, batch.size)
                    self.within_epoch += 1
                    if curriculum:
                        curriculum.advance(outcome.loss)
                        self._task_state = curriculum.state()
                    bar.update(job, advance=1, loss=f"loss {outcome.loss:.4g}")
                    for callback in callbacks:
                        callback(self, outcome)
                    if checkpoint is not None and checkpoint_every and self.batches % checkpoint_every == 0:
                        self._save_with(recorder, checkpoint)
                    if self.batches == stop_at:
                        break
                else:
                    entry = self._end_epoch(task, validate)
                    bar.console.print(f"epoch {self.epoch}{of}: {epoch_line(entry)}", soft_wrap=True)
                    if checkpoint is not None:
                        self._save_with(recorder, checkpoint)
                bar.remove_task(job)
        return self

    def _end_epoch(self, task: Task, validate: bool) -> dict[str, float]:
        entry = {"epoch": self.epoch + 1, "batches": self.batches, **self._epoch_totals.figures("train_")}
        if validate:
            found = self.evaluate(task, "validation", batch_size=500)
            entry |= {f"validation_{key}": value for key, value in found.items()}
            self._keep_best(found["loss"])
        self.history.append(entry)
        self.epoch, self.within_epoch, self._epoch_totals = self.epoch + 1, 0, Totals()
        return entry

    def evaluate(self, task: Task, split: str = "test", *, batch_size: int = 500, seed: int = 0) -> dict[str, float]:
        """Loss (mean per trial) and, for class labels, accuracy on a split; nothing learns."""
        totals = Totals()
        noise = np.random.default_rng([seed, 1]) if self.circuit.noisy else None
        for batch in task.batches(np.random.default_rng(seed), batch_size, split):
            outcome = run_batch(
                self.circuit, self.readout, None, batch, None, lambda name, gradient: None, noise=noise, frozen=True
            )
            totals.add(outcome, batch.size)
        return totals.figures("")

    def plan(self, batch_size: int, steps: int) -> dict[str, int]:
        """Bytes that training on such batches will take, by what they are for; see `bpl_neuro.train.memory.plan`."""
        return plan(self, positive_int("batch_size", batch_size), positive_int("steps", steps))

    def predict(self, x: Any) -> Any:
        """Outputs of the readout for inputs (B, T, K): (B, T, M)."""
        return self.readout.output(self.circuit.run(x)[1])

    def restore_best(self) -> None:
        """Set the parameters with the lowest validation loss."""
        if self.best is None:
            raise ValidationError("there is no best model yet; call fit(…, validate=True) first")
        self.circuit.psi, self.readout.phi = self.best["psi"], self.best["phi"]
        self.theta = self.best["theta"]

    def save(self, path: str | Path) -> None:
        """Everything needed to go on to the same bits, in one file, atomically and without pickle."""
        checkpointing.save(self, path)

    def restore(self, path: str | Path) -> Trainer:
        """Continue from a file that `save` wrote, with a circuit, readout and rule of the same shapes.

        Raises
        ------
        ValidationError
            If the file is damaged or does not fit; nothing is changed then.
        """
        checkpointing.restore(self, path)
        return self

    def fork(self, trial: int | None = None) -> Trainer:
        """An independent copy that goes on with the same later trials and the same noise.

        Train one and the other differs by nothing; change one (see `bpl.interventions`) and what follows is due
        to that change alone.

        Parameters
        ----------
        trial : int, optional
            Fork from the past: where so many trials had been trained, within the latest `fit` and between two of its
            batches. That `fit` is run again up to there, to the same bits (callbacks and recorders are not).

        Raises
        ------
        ValidationError
            If `trial` lies elsewhere; says where it could.
        """
        if trial is None:
            return copy.deepcopy(self)
        begun, stop_at = find(self._beginning, trial, self._ends)
        fork = begun.trainer.fork()
        if stop_at == fork.batches:
            return fork
        common = {"batch_size": begun.batch_size, "validate": begun.validate, "progress": False}
        return fork.fit(begun.task, epochs=None, stop_at=stop_at, **common)

    def reset(self) -> None:
        """Forget everything but the weights Ψ, φ, θ: optimiser moments, stream, history, best parameters."""
        self._moments = self._fresh_moments()
        self._position, self._sums, self._steps = None, {}, 0
        self.history, self.losses, self.best, self._ends = [], [], None, []
        self.trials, self.batches, self.epoch, self.within_epoch = 0, 0, 0, 0
        self._fitting: set[tuple[int, int, bool]] = set()  # shapes of batches that the backend has memory for
        self._task_state = self._beginning = None
        self._epoch_totals = Totals()

    def _save_with(self, recorder: Recording | None, checkpoint: str | Path) -> None:
        """The recording first: it can be cut back to a checkpoint, but not made longer."""
        if recorder:
            recorder.flush()
        self.save(checkpoint)

    def _fresh_moments(self) -> dict[str, dict[str, Any]]:
        return {
            name: optimiser.init(self.circuit.backend, self.parameter(name))
            for name, optimiser in self.optimisers.items()
            if self.parameter(name) is not None
        }

    def _descend(self, name: str, gradient: Any) -> None:
        optimiser = self.optimisers.get(name)
        if optimiser is None:
            return
        xp, old = self.circuit.xp, self.parameter(name)
        check_finite(xp, f"gradient of {name}", gradient, old, 0, self.batches)
        if name == "psi" and self.weight_penalty:
            gradient = gradient + self.weight_penalty * self.circuit.plastic_weights()
        with np.errstate(over="ignore", invalid="ignore"):
            new, moments = optimiser.step(self.circuit.backend, old, gradient, self._moments[name])
        for key, moment in moments.items():
            if getattr(moment, "ndim", 0):
                check_finite(xp, f"{key} (optimiser) of {name}", moment, self._moments[name][key], 0, self.batches)
        if name == "psi":
            new = self.circuit.constrain(new)
        check_finite(xp, name, new, old, 0, self.batches)
        self._moments[name] = moments
        if name == "psi":
            self.circuit.psi = new
        elif name == "phi":
            self.readout.phi = new
        else:
            self.theta = new

    def _keep_best(self, loss: float) -> None:
        if self.best is None or loss < self.best["loss"]:
            self.best = {name: copy.copy(self.parameter(name)) for name in checkpointing.PARAMETERS} | {"loss": loss}


def _both(first: Callable[[Step], None] | None, second: Callable[[Step], None] | None) -> Callable[[Step], None] | None:
    if first is None or second is None:
        return first or second

    def watch(step: Step) -> None:
        first(step)
        second(step)

    return watch
