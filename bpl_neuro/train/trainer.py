"""The friendly face: a learner, its state, epochs, evaluation, the best parameters, checkpoints, forks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.checks import instance, plain_seed, positive_int, whole, word
from bpl_neuro.checks import path as checked_path
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import say_differences
from bpl_neuro.rules.base import Rule
from bpl_neuro.tasks.base import SPLITS, Batch, Task
from bpl_neuro.tasks.timing import batches_of, check_step, check_task
from bpl_neuro.train import checkpoint as checkpoints
from bpl_neuro.train.fitting import Fit
from bpl_neuro.train.forking import Beginning, find
from bpl_neuro.train.loop import run_batch, score
from bpl_neuro.train.memory import check_fits, plan
from bpl_neuro.train.optimisers import Adam, Optimiser
from bpl_neuro.train.schedule import Schedule
from bpl_neuro.train.state import INTERVENED, PARAMETERS, Learner, LearnerState, Totals, copied
from bpl_neuro.train.step import Outcome, Recording, Watch
from bpl_neuro.train.trained import Trained

__all__ = ["Trainer"]


class Trainer(Trained):
    """Trains a circuit, its readout and the rule's own parameters on a task.

    It holds one `LearnerState`, which is all that changes; the circuit, the readout and the rule stay as they were
    given. What was learned: `weights`, `parameter`, `trained_circuit`.

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
    learner : Learner
        Circuit, readout, rule, optimisers and schedule: what does not change.
    state : LearnerState
        What does.
    allowed : tuple of str
        What `restore` was allowed to find different.
    """

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
        if isinstance(seed, np.random.Generator):
            raise ValidationError("`seed` of a Trainer must be a whole number ≥ 0: it is written to checkpoints")
        plain_seed("seed", seed)
        self.learner = Learner(
            circuit, readout, rule, Adam() if optimiser is None else optimiser, Schedule.of(schedule, update_every),
            error_delay, rate_penalty, weight_penalty,
        )  # fmt: skip
        self.seed = int(seed)
        self.state = self.learner.initial(self.seed)
        self._beginning: Beginning | None = None
        self._continued: dict[str, Any] | None = None  # what the first `fit` after `restore` is held to
        self.allowed: tuple[str, ...] = ()
        self._fitting: set[tuple[int, int, bool]] = set()  # shapes of batches that the backend has memory for

    def __repr__(self) -> str:
        return f"<Trainer: {self.rule!r}, updates per {self.schedule}; {self.state!r}>"

    # Training.

    def set_parameters(self, **values: Any) -> Trainer:
        """Go on with other values of ``psi``, ``phi`` or ``theta``; moments of the optimisers stay.

        Raises
        ------
        ValidationError
            For an unknown name, a wrong shape, values that are not finite, or weights against the sign of their
            projection; nothing is changed then.

        Notes
        -----
        What is not plastic keeps the weights that it has, and so does what an intervention has silenced.
        """
        made = self.learner.parameters(values)
        if "psi" in made:
            circuit = self.state.circuit
            if circuit.signs is not None and (circuit.signs * made["psi"] < 0).any():
                raise ValidationError("`psi` has weights against the sign of their projection")
            circuit.constrain(made["psi"])
        self.state = self.state.replace(**made, spare={})
        return self

    def train_batch(self, batch: Batch, watch: Watch | None = None) -> Outcome:
        """Learn from one batch, or from the next piece of a stream (``Batch(…, stream=True)``).

        Raises
        ------
        ValidationError
            If the rule's trace needs whole trials and the batch is a piece of a stream.
        DivergenceError
            When the state or a parameter stops being finite; parameters keep their last finite values, and a stream
            starts again.
        BackendError
            If the batch cannot fit the device's memory; says what would.
        """
        instance("batch", batch, Batch, "a Batch")
        if (shape := (batch.size, batch.steps, batch.stream)) not in self._fitting:
            if not self._fitting:
                self._say_what_is_dear(batch)
            check_fits(self, *shape)
            self._fitting.add(shape)
        self.state, outcome = run_batch(self.learner, self.state, batch, watch=watch)
        return outcome

    def _say_what_is_dear(self, batch: Batch) -> None:
        """Warn once of a trace that takes much longer than another one with the same numbers."""
        ask = getattr(self.rule, "cheaper", None)
        cheaper = ask(self.learner.schedule.frozen, batch.size, batch.steps, batch.stream) if ask else None
        if cheaper:
            form, times = cheaper
            warnings.warn(
                f'{self.rule!r} takes about {times:.0f} times the multiplications that trace="{form}" takes for '
                "the same numbers",
                stacklevel=3,
            )

    def fit(
        self,
        task: Task,
        *,
        epochs: int | None = 1,
        batch_size: int = 50,
        stop_at: int | None = None,
        validate: bool = True,
        callbacks: Iterable[Callable[[Trainer, Outcome], None]] = (),
        watch: Watch | None = None,
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
            Sees every step; see `bpl_neuro.train.step.Step`.
        recorder : Recorder, optional
            Records every batch, and is flushed before each checkpoint.
        progress : bool
            Show a progress bar.
        checkpoint : path, optional
            File written after every epoch; what is kept of every batch is added to one beside it, ``NAME.history``.
        checkpoint_every : int, optional
            Also write it after every so many batches.

        Returns
        -------
        Trainer
            Itself.

        Raises
        ------
        ValidationError
            For a wrong argument; for a task with another step in time than the model's, or another loss than the
            readout's; after `restore`, for another task or batch size than the checkpoint's, unless that was allowed.
        """
        fit = Fit(
            task, epochs, batch_size, stop_at, validate, callbacks, watch, recorder, progress, checkpoint,
            checkpoint_every,
        )  # fmt: skip
        check_step(task, self.circuit.model)
        self._check_task(task, fit.fitted())
        if not fit.is_done(self):
            self.state.log.fitted, self._continued = fit.fitted(), None
            self._beginning = Beginning(fit.started(self).copy(), task, batch_size, validate)
        fit.run(self)
        return self

    def _check_task(self, task: Task, fitted: dict[str, Any]) -> None:
        """ValidationError for another loss than the readout's, or another task than a restored training had."""
        loss = self.readout.loss
        if isinstance(loss, str) and task.loss != loss:
            raise ValidationError(
                f'the task {task.name!r} is scored by "{task.loss}", the readout has loss="{loss}"; make it with '
                f'Readout(circuit, {task.output_size}, "{task.loss}")'
            )
        if self._continued and (found := say_differences(self._continued, fitted, self.allowed)):
            raise ValidationError(
                f"this training was restored, and its checkpoint goes on otherwise: {found[0]}; if that is meant, "
                f"`restore(…, allow=[{found[1]}])`"
            )

    def evaluate(self, task: Task, split: str = "test", *, batch_size: int = 500, seed: int = 0) -> dict[str, float]:
        """Loss (mean per trial) and, for class labels, accuracy on a split; nothing learns."""
        check_task(task)
        check_step(task, self.circuit.model)
        positive_int("batch_size", batch_size), word("split", split, SPLITS)
        totals, rng = Totals(), np.random.default_rng([plain_seed("seed", seed), 1])
        for batch in batches_of(task, np.random.default_rng(int(seed)), batch_size, split):
            totals.add(score(self.state.circuit, self.state.readout, batch, rng), batch.size)
        return totals.figures("")

    def plan(self, batch_size: int, steps: int) -> dict[str, int]:
        """Bytes that training on such batches will take, by what they are for; see `bpl_neuro.train.memory.plan`."""
        return plan(self, positive_int("batch_size", batch_size), positive_int("steps", steps))

    def restore_best(self) -> Trainer:
        """Set the parameters with the lowest validation loss."""
        best = self.best
        if best is None:
            raise ValidationError("there is no best model yet; call fit(…, validate=True) first")
        return self.set_parameters(**{name: best[name] for name in PARAMETERS if best[name] is not None})

    # Files, forks, and a fresh start.

    def save(self, path: str | Path) -> None:
        """Everything needed to go on to the same bits, and what it belongs to, in one file, atomically, without pickle.

        It holds 16 bytes for each batch trained. The checkpoints of `fit` keep these in a file beside them, which they
        only add to.
        """
        checkpoints.save(self.state, self.seed, checked_path("path", path))

    def restore(self, path: str | Path, allow: Sequence[str] = ()) -> Trainer:
        """Continue from a file that `save`, or `fit` with a `checkpoint`, wrote.

        The trainer must be what it was then: model, circuit, readout, rule, optimisers, schedule, seed, precision and
        backend; and the next `fit` must be of the same task and batch size. It warns of what cannot be compared
        (functions), and of other versions, processors or numbers of threads, with which numbers may differ at rounding.

        Parameters
        ----------
        path : path
        allow : sequence of str
            What may be another than in the file, as dotted paths: ``["optimisers.psi", "task", "batch_size"]``. An
            optimiser of another kind begins with moments of its own.

        Raises
        ------
        ValidationError
            If the file is damaged, by another version, or of something else: names the first differences, and how to
            allow them. Nothing is changed then.
        """
        state = checkpoints.restore(self.learner, self.seed, checked_path("path", path), allow)
        self.state, self._beginning, self.allowed = state, None, tuple(allow)
        self._continued = copied(state.log.fitted)
        return self

    def fork(self, trial: int | None = None) -> Trainer:
        """An independent copy that goes on with the same later trials and the same noise.

        Train one and the other differs by nothing; change one (see `bpl.interventions`) and what follows is due to
        that change alone.

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
            return self._with(self.state.copy())
        begun, stop_at = find(self._beginning, whole("trial", trial), self.state.log.ends)
        fork = self._with(begun.state.copy())
        if stop_at == fork.batches:
            return fork
        return fork.fit(
            begun.task, epochs=None, stop_at=stop_at, batch_size=begun.batch_size, validate=begun.validate,
            progress=False,
        )  # fmt: skip

    def _with(self, state: LearnerState) -> Trainer:
        other = object.__new__(Trainer)
        vars(other).update(vars(self) | {"state": state, "_fitting": set(self._fitting)})
        return other

    def reset(self) -> None:
        """Forget all but the weights Ψ, φ, θ and interventions: moments, stream, noise, history, best parameters."""
        kept = {name: getattr(self.state, name) for name in (*PARAMETERS, *INTERVENED)}
        self.state = self.learner.initial(self.seed).replace(**kept)
        self._beginning = self._continued = None
