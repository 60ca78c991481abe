"""Training: schedules, optimisers, epochs, evaluation, the best parameters, checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bpl_neuro.build import positive_int
from bpl_neuro.circuit import Circuit
from bpl_neuro.data import Batch, Task
from bpl_neuro.errors import ValidationError
from bpl_neuro.loop import Outcome, Position, Step, check_finite, run_batch
from bpl_neuro.optimisers import Adam, Optimiser
from bpl_neuro.quantities import brian2_parts
from bpl_neuro.readout import Readout
from bpl_neuro.rules.base import Gradients, Rule
from bpl_neuro.spec import checked_quantity
from bpl_neuro.storage import read_arrays, write_arrays

__all__ = ["Trainer"]

PARAMETERS = ("psi", "phi", "theta")


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
    seed : int
        For the order and choice of trials, and, in a stream of its own, for the model's noise.

    Attributes
    ----------
    theta : array or None
        The rule's own parameters.
    history : list of dict
        One entry per epoch.
    batches : int
        Batches trained so far.
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
        seed: int = 0,
    ) -> None:
        if schedule not in rule.schedules:
            raise ValidationError(
                f"`schedule` must be one of {', '.join(rule.schedules)} for this rule (and its trace), got {schedule!r}"
            )
        if readout.circuit is not circuit:
            raise ValidationError("`readout` was made for another circuit")
        self.circuit, self.readout, self.rule, self.schedule = circuit, readout, rule, schedule
        self.theta = rule.initial_theta()
        self.optimisers = _optimisers(optimiser)
        self._moments = {
            name: o.init(circuit.xp, self.parameter(name))
            for name, o in self.optimisers.items()
            if self.parameter(name) is not None
        }
        self.update_every = positive_int("update_every", update_every)
        self.error_delay = whole_steps("error_delay", error_delay, circuit.model.dt)
        self.rng = np.random.default_rng(seed)
        self.noise_rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self._steps = 0
        self._position: Position | None = None
        self._sums: Gradients = {}
        self.history: list[dict[str, float]] = []
        self.batches = 0
        self.best: dict[str, Any] | None = None

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
        """
        if batch.stream and not self.rule.streams:
            raise ValidationError('a stream needs a trace that never looks back, like trace="full" or "local"')
        start = self._position if batch.stream else None
        if start is None:
            self._sums = {}

        def receive(name: str, gradient: Any) -> Any:
            self._sums[name] = self._sums[name] + gradient if name in self._sums else gradient
            if self.schedule == "step" and (self._steps + 1) % self.update_every == 0:
                self._descend(name, self._sums.pop(name))
            return self.parameter(name)

        def counted(step: Step) -> None:
            self._steps += 1
            if watch:
                watch(step)

        outcome = run_batch(
            self.circuit, self.readout, self.rule, batch, self.theta, receive, watch=counted, index=self.batches,
            start=start, noise=self.noise_rng if self.circuit.noisy else None, error_delay=self.error_delay,
        )  # fmt: skip
        self._position = outcome.at_end if batch.stream else None
        if self.schedule == "trial" or not batch.stream:
            for name in list(self._sums):
                self._descend(name, self._sums.pop(name))
        self.batches += 1
        return outcome

    def fit(
        self,
        task: Task,
        *,
        epochs: int = 1,
        batch_size: int = 50,
        validate: bool = True,
        callbacks: Iterable[Callable[[Trainer, Outcome], None]] = (),
        progress: bool = True,
        checkpoint: str | Path | None = None,
    ) -> Trainer:
        """Train until `epochs` epochs are in the history.

        Parameters
        ----------
        task : Task
        epochs : int
            Total; a trainer restored from a checkpoint goes on to this number.
        batch_size : int
        validate : bool
            After each epoch evaluate on the "validation" split, and keep the parameters with the lowest loss in
            `best`.
        callbacks : iterable of callable (trainer, outcome)
            Called after every batch.
        progress : bool
            Show a progress bar.
        checkpoint : path, optional
            File written after every epoch.

        Returns
        -------
        Trainer
            Itself.
        """
        positive_int("epochs", epochs), positive_int("batch_size", batch_size)
        callbacks = list(callbacks)
        with _progress(progress) as bar:
            for epoch in range(len(self.history), epochs):
                totals, count = Outcome(), 0
                job = bar.add_task(f"epoch {epoch + 1}/{epochs}", total=None, loss="")
                for batch in task.batches(self.rng, batch_size, "train"):
                    outcome = self.train_batch(batch)
                    _add(totals, outcome, batch.size)
                    count += batch.size
                    bar.update(job, advance=1, loss=f"loss {outcome.loss:.4g}")
                    for callback in callbacks:
                        callback(self, outcome)
                entry = {"epoch": epoch + 1, "batches": self.batches, **_figures(totals, count, "train_")}
                if validate:
                    found = self.evaluate(task, "validation", batch_size=500)
                    entry |= {f"validation_{key}": value for key, value in found.items()}
                    self._keep_best(found["loss"])
                self.history.append(entry)
                bar.remove_task(job)
                bar.console.print(f"epoch {epoch + 1}/{epochs}: {_line(entry)}", soft_wrap=True)
                if checkpoint is not None:
                    self.save(checkpoint)
        return self

    def evaluate(self, task: Task, split: str = "test", *, batch_size: int = 500, seed: int = 0) -> dict[str, float]:
        """Loss (mean per trial) and, for class labels, accuracy on a split; nothing learns."""
        totals, count = Outcome(), 0
        noise = np.random.default_rng([seed, 1]) if self.circuit.noisy else None
        for batch in task.batches(np.random.default_rng(seed), batch_size, split):
            outcome = run_batch(self.circuit, self.readout, None, batch, None, lambda name, gradient: None, noise=noise)
            _add(totals, outcome, batch.size)
            count += batch.size
        return _figures(totals, count, "")

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
        """Everything needed to go on, in one file, atomically and without pickle."""
        arrays = {name: self.parameter(name) for name in PARAMETERS if self.parameter(name) is not None}
        for name, moments in self._moments.items():
            arrays |= {f"moments/{name}/{key}": value for key, value in moments.items()}
        if self.best is not None:
            arrays |= {f"best/{name}": v for name, v in self.best.items() if v is not None and name != "loss"}
        meta = {
            "kind": "checkpoint",
            "history": self.history,
            "batches": self.batches,
            "steps": self._steps,
            "rng": self.rng.bit_generator.state,
            "noise_rng": self.noise_rng.bit_generator.state,
            "best_loss": self.best["loss"] if self.best else None,
        }
        write_arrays(path, {k: self.circuit.backend.to_host(v) for k, v in arrays.items()}, meta)

    def restore(self, path: str | Path) -> Trainer:
        """Continue from a file that `save` wrote, with a circuit, readout and rule of the same shapes.

        Raises
        ------
        ValidationError
            If the file is damaged or does not fit; nothing is changed then.
        """
        arrays, meta = read_arrays(path, "checkpoint")
        expected = {name: self.parameter(name) for name in PARAMETERS if self.parameter(name) is not None}
        for name, value in expected.items():
            if name not in arrays or arrays[name].shape != value.shape or arrays[name].dtype != value.dtype:
                found = f"{arrays[name].dtype} {arrays[name].shape}" if name in arrays else "nothing"
                raise ValidationError(f"{path}: `{name}` must be {value.dtype} {value.shape}, found {found}")
        moments: dict[str, dict[str, Any]] = {name: {} for name in self._moments}
        for name, state in self._moments.items():
            for key in state:
                if f"moments/{name}/{key}" not in arrays:
                    raise ValidationError(f"{path}: the optimiser state of `{name}` is missing; was another one used?")
                moments[name][key] = arrays[f"moments/{name}/{key}"]
        self.circuit.psi, self.readout.phi = arrays["psi"], arrays["phi"]
        self.theta = self.circuit.xp.asarray(arrays["theta"]) if "theta" in arrays else None
        self._moments = moments
        self.history, self.batches = meta["history"], meta["batches"]
        self._steps = meta["steps"]
        self.rng.bit_generator.state = meta["rng"]
        self.noise_rng.bit_generator.state = meta["noise_rng"]
        self.best = None
        if meta["best_loss"] is not None:
            self.best = {name: arrays.get(f"best/{name}") for name in PARAMETERS} | {"loss": meta["best_loss"]}
        return self

    def _descend(self, name: str, gradient: Any) -> None:
        optimiser = self.optimisers.get(name)
        if optimiser is None:
            return
        xp, old = self.circuit.xp, self.parameter(name)
        check_finite(xp, f"gradient of {name}", gradient, old, 0, self.batches)
        new, moments = optimiser.step(xp, old, gradient, self._moments[name])
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
            self.best = {name: copy.copy(self.parameter(name)) for name in PARAMETERS} | {"loss": loss}


def whole_steps(name: str, value: int | str, dt: float) -> int:
    """A number of steps, given as such or as a time."""
    if isinstance(value, str):
        steps = checked_quantity(value, brian2_parts().SECOND, f"`{name}`") / dt
        if steps < 0 or abs(steps - round(steps)) > 1e-6:
            raise ValidationError(f"`{name}` must be a whole number of steps of {dt:g} s, got {value!r}")
        return round(steps)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValidationError(f'`{name}` must be a whole number ≥ 0 or a time like "20*ms", got {value!r}')
    return value


def _optimisers(given: Optimiser | Mapping[str, Optimiser | None] | None) -> dict[str, Optimiser]:
    if given is None:
        given = Adam()
    if not isinstance(given, Mapping):
        return dict.fromkeys(PARAMETERS, given)
    for name in given:
        if name not in PARAMETERS:
            raise ValidationError(f"`optimiser` has {name!r}; known: {', '.join(PARAMETERS)}")
    return {name: optimiser for name, optimiser in given.items() if optimiser is not None}


def _add(totals: Outcome, outcome: Outcome, size: int) -> None:
    totals.loss += outcome.loss * size
    totals.correct += outcome.correct
    totals.scored += outcome.scored


def _figures(totals: Outcome, count: int, prefix: str) -> dict[str, float]:
    figures = {f"{prefix}loss": totals.loss / max(count, 1)}
    if totals.scored:
        figures[f"{prefix}accuracy"] = totals.correct / totals.scored
    return figures


def _line(entry: Mapping[str, float]) -> str:
    keys = [key for key in entry if key.endswith(("loss", "accuracy"))]
    return ", ".join(f"{key.replace('_', ' ')} {entry[key]:.4g}" for key in keys)


def _progress(shown: bool) -> Progress:
    """A bar while an epoch runs, and a line for each epoch done; nothing at all where it is not wanted."""
    console = Console(quiet=not shown)
    state = TextColumn("{task.completed} batches, {task.fields[loss]}")
    return Progress(TextColumn("{task.description}"), BarColumn(), state, console=console, disable=not shown)
