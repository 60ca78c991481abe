"""The time loop: a learner goes through a batch.

`run_batch` takes a state and gives the next one. `batch_updates` is what a rule would do with one batch, nothing
changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bpl_neuro.checks import flag, generator, instance, shown
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.losses import check_targets
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.circuit.trajectory import Trajectory, unroll
from bpl_neuro.circuit.wiring import State
from bpl_neuro.errors import DivergenceError, ValidationError
from bpl_neuro.rules.base import Rule
from bpl_neuro.tasks.base import Batch
from bpl_neuro.train.schedule import SUM_ONLY
from bpl_neuro.train.state import Learner, LearnerState
from bpl_neuro.train.step import Outcome, Step, Watch
from bpl_neuro.train.updates import Updates, check_finite

__all__ = ["batch_updates", "run_batch", "score", "watched_steps"]


class _Trials:
    """A batch where the circuit's arrays are: inputs and targets step by step, what is due, where trials end."""

    def __init__(self, batch: Batch, circuit: Circuit, readout: Readout, batches: int = 0) -> None:
        self.batches = batches  # trained before this one
        self.errors: dict[int, Any] = {}  # at the readout's outputs, of the steps so far
        instance("batch", batch, Batch, "a Batch")
        if batch.x.shape[2] != circuit.input_size:
            raise ValidationError(f"the `batch` has {batch.x.shape[2]} inputs, the circuit {circuit.input_size}")
        check_targets(readout.loss if isinstance(readout.loss, str) else "", batch.y, readout.output_size)
        xp, dtype, put = circuit.xp, circuit.dtype, circuit.backend.asarray
        self.B, self.T = batch.size, batch.steps
        self.x = xp.ascontiguousarray(put(batch.x, dtype).transpose(1, 0, 2))
        self.y = put(batch.y, dtype if batch.y.ndim == 3 else None)
        self.end = xp.ascontiguousarray(put(batch.end).T)
        self.share = readout.trial_weight(self.B)
        self.mask = put(batch.mask, dtype)
        # on the host: known without asking the device
        self.due, self.ending = batch.mask.any(axis=0), batch.end.any(axis=0)
        self.going_on = put(~batch.padding.T[:, :, None], dtype) if batch.padding.any() else None

    def credit(self, t: int, state: State, readout: Readout, outcome: Outcome, feedback: Any) -> tuple[Any, Any]:
        """c_t and the gradient of φ at a step where a loss is due; the loss goes to `outcome`."""
        weight = self.mask[:, t]
        loss, errors, output = readout.errors(state, self.y[:, t], weight * self.share)
        self.errors[t] = errors
        total = float(loss.sum()) / (self.B if readout.reduction == "sum" else 1)
        if not math.isfinite(total):
            raise DivergenceError(t + 1, self.batches, "loss", outcome.loss)
        outcome.loss += total
        if self.y.ndim == 2:
            right = output.argmax(axis=1) == self.y[:, t]
            outcome.correct += float((right * weight).sum())
            outcome.scored += float(weight.sum())
        return readout.sent_back(state, errors, feedback), readout.gradient(state, errors)

    def penalty(self, t: int, state: State, circuit: Circuit, rho: float) -> Any:
        """∂/∂s of ½ ρ Σ r², 0 where there is only padding."""
        share = rho * self.share
        rates = share * state.rate if self.going_on is None else (share * self.going_on[t]) * state.rate
        return circuit.rate_credit(state, rates)


def run_batch(
    learner: Learner, state: LearnerState, batch: Batch, *, watch: Watch | None = None
) -> tuple[LearnerState, Outcome]:
    """Learn from one batch, or from the next piece of a stream.

    Parameters
    ----------
    learner : Learner
    state : LearnerState
        Of this learner. It is spent: go on with the one that is returned.
    batch : Batch
    watch : callable, optional
        Sees every step.

    Returns
    -------
    state : LearnerState
    outcome : Outcome

    Raises
    ------
    ValidationError
        If the state is spent, or of another learner; if the batch does not fit the circuit or the readout; if the rule
        cannot follow a stream. Nothing is changed then, and the state is as it was.
    DivergenceError
        When the circuit's state or a parameter stops being finite. The error has the state with the last finite
        parameters, without its place in a stream, as ``.state``.
    """
    instance("learner", learner, Learner, "a Learner")
    instance("state", state, LearnerState, "a LearnerState")
    if watch is not None and not callable(watch):
        raise ValidationError(f"`watch` must be a function of a step, got {shown(watch)}")
    if state.learner is not learner:
        raise ValidationError(
            "`state` is the state of another learner; to go on from what it has learned, give that learner's own state "
            "the same parameters: `learner.initial().replace(psi=…, phi=…, theta=…)`"
        )
    trials = _Trials(batch, learner.circuit, learner.readout, state.batches)
    position = state.position if batch.stream else None
    if position is not None and len(position["s"]) != trials.B:
        raise ValidationError(f"the stream has {len(position['s'])} rows, this piece {trials.B}")
    rule, form = state.rule_for(batch.steps, batch.stream)
    if batch.stream and not rule.streams:
        raise ValidationError(
            'a stream needs a rule that keeps a bounded past, like BPLambda with trace="full", "local", or "lazy" '
            "with a window"
        )
    owner, state = state, state.take()
    state.form = form
    try:
        if position is None:
            state.position, state.sums = None, {}
        updates = Updates(state, keep=watch is not None)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            go = _whole_trials if rule.deferred else _step_by_step
            outcome = go(rule, trials, updates, watch, batch.stream)
        if learner.schedule.frozen or not batch.stream:
            updates.end_batch()
    except BaseException as error:
        _part_from(watch, state)
        state.give_back(owner)
        if isinstance(error, DivergenceError):
            error.state = owner
        raise
    _part_from(watch, state)
    if learner.least_squares and (moments := state.moments.get("theta", {})):
        outcome.figures["theta_staleness"] = float(moments["staleness"])
        if "bounded" in moments:
            outcome.figures["theta_bounded"] = float(moments["bounded"]) / max(int(moments["steps"]), 1)
    if (moments := state.moments.get("psi", {})) and "capped" in moments:
        outcome.figures["psi_capped"] = float(moments["capped"]) / max(int(moments["steps"]), 1)
    state.batches += 1
    state.trials += trials.B
    return state, outcome


def _step_by_step(rule: Rule, trials: _Trials, updates: Updates, watch: Watch | None, stream: bool) -> Outcome:
    """Every step is linearised as it is taken, and learned from at once."""
    state, learner = updates.state, updates.state.learner
    circuit, readout, outcome = updates.circuit, state.readout, Outcome()
    xp, B = circuit.xp, trials.B
    silent = xp.zeros((B, circuit.n), circuit.dtype)
    begun = state.position or {"s": None, "carry": rule.init(B, trials.T), "late": [silent] * learner.error_delay}
    now = circuit.initial_state(B) if begun["s"] is None else circuit.state(begun["s"])
    carry, late = begun["carry"], list(begun["late"])
    drives = circuit.drive(trials.x) if learner.schedule.frozen else None
    for t in range(trials.T):
        end, x = trials.end[t], trials.x[t]
        drive = None if drives is None else [u[t] for u in drives]
        transition = circuit.step(now, x, noise=circuit.draw_noise(state.noise_rng, B), drive=drive)
        check_finite(xp, "state", transition.new.s, now.s, t + 1, state.batches)
        c, of_readout = silent, None
        if trials.due[t]:
            readout = readout if learner.schedule.frozen else state.readout
            c, of_readout = trials.credit(t, transition.new, readout, outcome, rule.feedback)
        if learner.error_delay:
            late.append(c)
            c, *late = late
            late = [~end[:, None] * error for error in late]
        if learner.rate_penalty:
            c = c + trials.penalty(t, transition.new, circuit, learner.rate_penalty)
        seen = rule.observe(carry, transition, c, end, state.theta) if watch else {}
        of_theta = rule.collect(carry, transition, c, end, state.theta)
        updates.receive_theta(rule, of_theta, transition, end, t + 1)
        carry, signals, of_circuit = _moved(rule, rule.step(carry, transition, c, end, state.theta))
        updates.receive("psi", of_circuit, t + 1)
        updates.receive("phi", of_readout, t + 1)
        circuit = updates.circuit
        state.steps += 1
        if watch:
            _show(
                watch,
                Step(
                    t + 1, trials.T, transition, c, end, {**signals, **seen}, rule, carry, state, trials.errors.get(t)
                ),
            )
        now = circuit.reset(transition.new, end) if trials.ending[t] else transition.new
    outcome.report, outcome.figures = rule.report(carry), rule.figures(carry)
    if stream:
        state.position = {"s": now.s, "carry": carry, "late": late}
    return outcome


def _whole_trials(rule: Rule, trials: _Trials, updates: Updates, watch: Watch | None, stream: bool) -> Outcome:
    """All steps are taken, then linearised together: for a rule that gives its gradients at the end."""
    state, learner, circuit = updates.state, updates.state.learner, updates.circuit
    outcome, readout = Outcome(), state.readout
    begun = circuit.initial_state(trials.B)
    trajectory = unroll(circuit, begun, trials.x, trials.end, rng=state.noise_rng)
    _check_states(trajectory, trials, state.batches)
    for t in np.flatnonzero(trials.due):
        c, of_readout = trials.credit(t, trajectory.after(t), readout, outcome, rule.feedback)
        trajectory.c[t] = c
        updates.receive("phi", of_readout, 0)
    _delay(trajectory.c, trials, learner.error_delay)
    if learner.rate_penalty:
        for t in range(trials.T):
            trajectory.c[t] += trials.penalty(t, trajectory.after(t), circuit, learner.rate_penalty)
    carry = rule.init(trials.B, trials.T)
    if watch:
        for t in range(trials.T):
            arguments = (trajectory[t], trajectory.c[t], trials.end[t], state.theta)
            seen = rule.observe(carry, *arguments)
            carry, signals, _ = _moved(rule, rule.step(carry, *arguments))
            _show(
                watch,
                Step(t + 1, trials.T, *arguments[:3], {**signals, **seen}, rule, carry, state, trials.errors.get(t)),
            )
    gradients = rule.finish(carry, trajectory, state.theta)
    if not isinstance(gradients, dict):
        raise ValidationError(f"`finish` of {rule!r} must give gradients by name, got {shown(gradients)}")
    updates.receive_theta(rule, gradients.pop("theta", None), trajectory.rows, trials.end.reshape(-1), 0)
    for name, gradient in gradients.items():
        updates.receive(name, gradient, 0)
    state.steps += trials.T
    outcome.report, outcome.figures = rule.report(carry), rule.figures(carry)
    return outcome


def _moved(rule: Rule, given: Any) -> tuple[Any, Any, Any]:
    """What `Rule.step` gives, if it is that."""
    if not isinstance(given, tuple) or len(given) != 3 or not isinstance(given[1], Mapping):
        raise ValidationError(f"`step` of {rule!r} must give (carry, signals by name, gradient), got {shown(given)}")
    return given


def _part_from(watch: Watch | None, state: LearnerState) -> None:
    """Go on with another array for Ψ than a watcher may have seen, which must not become a spare buffer."""
    if watch:
        state.psi = state.psi.copy()


def _show(watch: Watch, step: Step) -> None:
    try:
        watch(step)
    finally:
        step.close()


def _check_states(trajectory: Trajectory, trials: _Trials, batches: int) -> None:
    """DivergenceError at the first step whose state is not finite."""
    rows, xp = trajectory.rows, trajectory.rows.wiring.xp
    states = rows.new.s.reshape(trials.T, trials.B, -1)
    try:
        check_finite(xp, "state", rows.new.s, rows.previous.s, 0, batches)
    except DivergenceError:
        before = rows.previous.s.reshape(states.shape)
        for t in range(trials.T):
            check_finite(xp, "state", states[t], before[t], t + 1, batches)


def _delay(c: Any, trials: _Trials, steps: int) -> None:
    """Move errors (T, B, n) so many steps on, in place; one still on its way when its trial ends is lost."""
    for _ in range(steps):
        for t in reversed(range(1, trials.T)):
            c[t] = ~trials.end[t - 1][:, None] * c[t - 1]
        c[0] = 0


def score(circuit: Circuit, readout: Readout, batch: Batch, rng: np.random.Generator | None = None) -> Outcome:
    """Loss and accuracy of a batch; nothing is linearised, nothing learns. `rng` is that of the model's noise."""
    trials, outcome = _Trials(batch, circuit, readout), Outcome()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        begun = circuit.initial_state(trials.B)
        trajectory = unroll(circuit, begun, trials.x, trials.end, rng=rng, linearise=False)
        _check_states(trajectory, trials, 0)
        for t in np.flatnonzero(trials.due):
            trials.credit(t, circuit.state(trajectory.after(t).s), readout, outcome, None)
    return outcome


def batch_updates(
    circuit: Circuit,
    readout: Readout,
    rule: Rule,
    batch: Batch,
    theta: Any = None,
    *,
    signals: bool = False,
    noise_seed: int | None = None,
) -> Outcome:
    """The gradients a rule would give for one batch with all parameters frozen; nothing is changed.

    Parameters
    ----------
    circuit, readout, rule : Circuit, Readout, Rule
        With the weights at which the gradients are wanted; of a `Trainer`, `trained_circuit()` and
        `trained_readout()`.
    batch : Batch
    theta : array, optional
        The rule's own parameters; its initial ones by default.
    signals : bool
        Also return the per-step signals, (T, B, n), ``c`` and ``state`` among them.
    noise_seed : int, optional
        Seed of the model's noise; none by default.

    Returns
    -------
    Outcome
    """
    seen, outcome = watched_steps(circuit, readout, rule, batch, theta, noise_seed, keep=signals)
    if signals:
        rows = [{**step.signals, "c": step.c, "state": step.transition.new.s} for step in seen]
        outcome.signals = {name: circuit.xp.stack([s[name] for s in rows]) for name in rows[0]}
    return outcome


def watched_steps(
    circuit: Circuit,
    readout: Readout,
    rule: Rule,
    batch: Batch,
    theta: Any = None,
    noise_seed: int | None = None,
    *,
    keep: bool = True,
    watch: Watch | None = None,
) -> tuple[list[Step], Outcome]:
    """The steps of a batch with all parameters frozen, if they are to be kept, and what `batch_updates` gives."""
    instance("circuit", circuit, Circuit, "a Circuit")
    instance("readout", readout, Readout, "a Readout")
    instance("rule", rule, Rule, "a Rule")
    flag("signals", keep)
    learner = Learner(circuit, readout, rule, {}, SUM_ONLY)
    state = learner.initial(theta=theta)
    state.noise_rng = None if noise_seed is None else generator("noise_seed", noise_seed)
    seen: list[Step] = []
    watchers = [*([seen.append] if keep else []), *([watch] if watch else [])]

    def see(step: Step) -> None:
        for watcher in watchers:
            watcher(step)

    state, outcome = run_batch(learner, state, batch, watch=see if watchers else None)
    outcome.gradients = state.sums
    if state.theta is not None and "theta" not in state.sums:  # no trial had a δ
        outcome.gradients["theta"] = circuit.xp.zeros_like(state.theta)
    return seen, outcome
