"""The time loop: a circuit, a readout and a rule go through a batch step by step.

`run_batch` is the loop; what happens with the gradients is its caller's business. `batch_updates` is the pure function:
what a rule would do with one batch, nothing changed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bpl_neuro.checks import generator, instance
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.losses import check_targets
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.circuit.transition import State, Transition
from bpl_neuro.errors import DivergenceError, ValidationError
from bpl_neuro.rules.base import Carry, Gradients, Rule, add_gradient
from bpl_neuro.tasks.base import Batch

__all__ = [
    "Outcome",
    "Position",
    "Recording",
    "Step",
    "Totals",
    "batch_updates",
    "check_finite",
    "collect_steps",
    "run_batch",
]

#: (name, gradient) → the parameter as it is afterwards
Receive = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Step:
    """What a watcher sees after each step; nothing in it may be changed.

    Attributes
    ----------
    t : int
        Step within the batch, from 1.
    transition : Transition
    c : (B, n) array
        Immediate loss gradient.
    end : (B,) array of bool
    signals : dict of str to array
        What the rule reports.
    carry : dict
        What the rule remembers after the step.
    """

    t: int
    transition: Transition
    c: Any
    end: Any
    signals: Mapping[str, Any]
    carry: Carry


@dataclass(frozen=True)
class Position:
    """Where a stream stands between two pieces: the circuit's state, the rule's carry, errors still on their way."""

    state: State
    carry: Carry
    pending: tuple[Any, ...] = ()


@dataclass
class Outcome:
    """What one batch gave.

    Attributes
    ----------
    loss : float
        Mean over trials of the summed loss.
    correct, scored : float
        Weight of the steps classified rightly, and of all steps with a class label.
    gradients : dict of str to array
        "psi", "phi" and, where the rule has parameters, "theta": gradients to descend (filled by `batch_updates`).
    at_end : Position
        Where the loop stopped: from there a stream goes on.
    report : dict of str to float
        What the rule says of its exactness: ``window_error`` of a trace that a window cut.
    signals : dict of str to (T, B, n) array
        Per-step signals, on request.
    """

    loss: float = 0.0
    correct: float = 0.0
    scored: float = 0.0
    gradients: Gradients = field(default_factory=dict)
    at_end: Position | None = None
    report: dict[str, float] = field(default_factory=dict)
    signals: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Recording(Protocol):
    """What `Trainer.fit` asks of a recorder; see `bpl_neuro.look.recording.Recorder`."""

    def watch(self, step: Step) -> None:
        """See a step."""

    def batch_done(self, trainer: Any, outcome: Outcome) -> None:
        """A batch has ended."""

    def flush(self) -> None:
        """Put on disk what a checkpoint made now counts on."""


@dataclass
class Totals:
    """Sums over the batches of an epoch or a split."""

    loss: float = 0.0
    correct: float = 0.0
    scored: float = 0.0
    trials: int = 0
    largest: dict[str, float] = field(default_factory=dict)

    def add(self, outcome: Outcome, size: int) -> None:
        """Count one batch of `size` trials."""
        self.loss += outcome.loss * size
        self.correct += outcome.correct
        self.scored += outcome.scored
        self.trials += size
        for name, value in outcome.report.items():
            self.largest[name] = max(value, self.largest.get(name, 0.0))

    def figures(self, prefix: str) -> dict[str, float]:
        """Mean loss per trial, accuracy where there were class labels, and the largest of what the rule reported."""
        figures = {f"{prefix}loss": self.loss / max(self.trials, 1)}
        if self.scored:
            figures[f"{prefix}accuracy"] = self.correct / self.scored
        return figures | self.largest


def run_batch(
    circuit: Circuit,
    readout: Readout,
    rule: Rule | None,
    batch: Batch,
    theta: Any,
    receive: Receive,
    *,
    watch: Callable[[Step], None] | None = None,
    index: int = 0,
    start: Position | None = None,
    noise: np.random.Generator | None = None,
    error_delay: int = 0,
    rate_penalty: float = 0.0,
    frozen: bool = False,
) -> Outcome:
    """Go through a batch once.

    Parameters
    ----------
    circuit, readout : Circuit, Readout
    rule : Rule or None
        None only runs and scores.
    batch : Batch
    theta : array or None
        The rule's own parameters.
    receive : callable
        Gets each gradient as it becomes known, ``("theta" | "psi" | "phi", gradient)``, and returns the parameter.
    watch : callable, optional
        Sees every step.
    index : int
        Batches done before; named in errors.
    start : Position, optional
        Where to go on; a trial's start by default.
    noise : Generator, optional
        Of the model's noise; without it there is none.
    error_delay : int
        Steps by which c_t reaches the rule late. An error still on its way when its trial ends is lost.
    rate_penalty : float
        ρ: adds ½ ρ Σ r² per trial to every step's loss in c, never late; not to the loss that is reported.

    frozen : bool
        The circuit's parameters stay as they are until the batch has ended: what comes from the input is computed for
        all steps at once.

    Raises
    ------
    ValidationError
        If the batch does not fit the circuit or the readout, or `theta` the rule.
    DivergenceError
        When the state stops being finite.
    """
    instance("batch", batch, Batch, "a Batch")
    for name, part in (("readout", readout), ("rule", rule)):
        if getattr(part, "circuit", circuit) is not circuit:
            raise ValidationError(f"`{name}` was made for another circuit")
    if batch.x.shape[2] != circuit.input_size:
        raise ValidationError(f"the batch has {batch.x.shape[2]} inputs, the circuit {circuit.input_size}")
    _check_theta(rule, theta, circuit.xp)
    check_targets(readout.loss if isinstance(readout.loss, str) else "", batch.y, readout.output_size)
    xp, dtype, B = circuit.xp, circuit.dtype, batch.size
    put = circuit.backend.asarray
    x = xp.ascontiguousarray(put(batch.x, dtype).transpose(1, 0, 2))  # step by step
    y = put(batch.y, dtype if batch.y.ndim == 3 else None)
    trial_weight = readout.trial_weight(B)
    weight = put(batch.mask, dtype)
    end = put(batch.end)
    due, ending = batch.mask.any(axis=0), batch.end.any(axis=0)  # on the host: known without asking the device
    silent = xp.zeros((B, circuit.n), dtype)
    if start is not None:
        # A rule may work on its carry in place; if this piece fails, the stream still stands where it did.
        start = replace(start, carry=copy.deepcopy(start.carry))
    else:
        start = Position(circuit.initial_state(B), rule.init(B) if rule else {}, (silent,) * error_delay)
    if start.state.s.shape[0] != B:
        raise ValidationError(f"the stream has {start.state.s.shape[0]} rows, this piece {B}")
    state, carry, pending = start.state, start.carry, list(start.pending)
    outcome = Outcome()
    drives = circuit.drive(x) if frozen else None

    def deliver(name: str, gradient: Any, step: int) -> Any:
        try:
            return receive(name, gradient)
        except DivergenceError as error:
            raise DivergenceError(step, index, error.quantity, error.last_finite) from None

    def learn(gradient: Any) -> Any:
        nonlocal theta
        theta = deliver("theta", gradient, t + 1)
        return theta

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for t in range(batch.steps):
            added = None if noise is None else circuit.draw_noise(noise, B)
            drive = None if drives is None else [own[t] for own in drives]
            transition = circuit.step(state, x[t], noise=added, linearise=rule is not None, drive=drive)
            check_finite(xp, "state", transition.new.s, state.s, t + 1, index)
            c, readout_gradient = silent, None
            if due[t]:
                loss, c, readout_gradient, output = readout.credit(
                    transition.new, y[:, t], weight[:, t] * trial_weight, None if rule is None else rule.feedback
                )
                outcome.loss += float(loss.sum()) / (B if readout.reduction == "sum" else 1)
                if y.ndim == 2:
                    right = output.argmax(axis=1) == y[:, t]
                    outcome.correct += float((right * weight[:, t]).sum())
                    outcome.scored += float(weight[:, t].sum())
            if error_delay:
                pending.append(c)
                c = pending.pop(0)
                pending = [~end[:, t, None] * late for late in pending]
            if rate_penalty and rule is not None:
                c = c + circuit.rate_credit(transition.new, (rate_penalty * trial_weight) * transition.new.rate)
            if rule is not None:
                carry, signals, gradient = rule.step(carry, transition, c, end[:, t], theta, learn)
                if gradient is not None:
                    deliver("psi", gradient, t + 1)
                if readout_gradient is not None:
                    deliver("phi", readout_gradient, t + 1)
                if watch:
                    watch(Step(t + 1, transition, c, end[:, t], signals, carry))
            state = circuit.reset(transition.new, end[:, t]) if ending[t] else transition.new
        if rule is not None:
            for name, gradient in rule.finish(carry, theta).items():
                deliver(name, gradient, 0)
            outcome.report = rule.report(carry)
    outcome.at_end = Position(state, carry, tuple(pending))
    return outcome


def _check_theta(rule: Rule | None, theta: Any, xp: Any) -> None:
    expected = rule.initial_theta() if rule else None
    if expected is None:
        return
    if getattr(theta, "shape", None) != expected.shape or theta.dtype != expected.dtype:
        found = f"{theta.dtype} {theta.shape}" if hasattr(theta, "shape") else repr(theta)
        raise ValidationError(f"`theta` must have shape {expected.shape} and type {expected.dtype}, got {found}")
    if not xp.isfinite(theta).all():
        raise ValidationError("`theta` must be finite")


def check_finite(xp: Any, quantity: str, array: Any, before: Any, step: int, index: int) -> None:
    """DivergenceError unless `array` is finite; `before` is the same quantity one step earlier."""
    if math.isfinite(float(xp.vdot(array, array))):  # in one pass; where the squares overflow it says nothing
        return
    if not xp.isfinite(array).all():
        raise DivergenceError(step, index, quantity, float(xp.abs(before).max()))


def batch_updates(
    circuit: Circuit,
    readout: Readout,
    rule: Rule,
    batch: Batch,
    theta: Any = None,
    *,
    signals: bool = False,
    noise: int | None = None,
) -> Outcome:
    """The gradients a rule would give for one batch with all parameters frozen; nothing is changed.

    Parameters
    ----------
    circuit, readout, rule : Circuit, Readout, Rule
    batch : Batch
    theta : array, optional
        The rule's own parameters; its initial ones by default.
    signals : bool
        Also return the per-step signals, (T, B, n), ``c`` and ``state`` among them.
    noise : int, optional
        Seed of the model's noise; none by default.

    Returns
    -------
    Outcome
    """
    instance("rule", rule, Rule, "a Rule")
    steps, outcome = collect_steps(circuit, readout, rule, batch, theta, noise, keep=signals)
    if signals:
        seen = [{**step.signals, "c": step.c, "state": step.transition.new.s} for step in steps]
        outcome.signals = {name: circuit.xp.stack([s[name] for s in seen]) for name in seen[0]}
    return outcome


def collect_steps(
    circuit: Circuit,
    readout: Readout,
    rule: Rule,
    batch: Batch,
    theta: Any = None,
    noise: int | None = None,
    *,
    keep: bool = True,
) -> tuple[list[Step], Outcome]:
    """The steps of a batch, if they are to be kept, and what `batch_updates` gives."""
    theta = rule.initial_theta() if theta is None else theta
    current = {"psi": circuit.psi, "phi": readout.phi, "theta": theta}
    sums: Gradients = {}
    steps: list[Step] = []

    def receive(name: str, gradient: Any) -> Any:
        add_gradient(sums, name, gradient)
        return current[name]

    rng = None if noise is None else generator("noise", noise)
    watch = steps.append if keep else None
    outcome = run_batch(circuit, readout, rule, batch, theta, receive, watch=watch, noise=rng, frozen=True)
    outcome.gradients = sums
    return steps, outcome
