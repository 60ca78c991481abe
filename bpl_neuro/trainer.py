"""The time loop: a rule, a circuit and a readout go through a batch step by step; two schedules move the parameters.

`batch_updates` is the pure function: what a rule would do with one batch, nothing changed. `Trainer` is the object that
changes things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpl_neuro.circuit import Circuit, positive_int
from bpl_neuro.data import Batch
from bpl_neuro.errors import DivergenceError, ValidationError
from bpl_neuro.losses import check_targets
from bpl_neuro.optimisers import Optimiser
from bpl_neuro.readout import Readout
from bpl_neuro.rules.base import Gradients, Rule

__all__ = ["Outcome", "batch_updates", "run_batch"]

#: (name, gradient) → the parameter as it is afterwards
Receive = Callable[[str, Any], Any]
#: called after every step: (step, transition, signals, c)
Watch = Callable[[int, Any, Mapping[str, Any], Any], None]


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
    signals : dict of str to (T, B, n) array
        Per-step signals, on request.
    """

    loss: float = 0.0
    correct: float = 0.0
    scored: float = 0.0
    gradients: Gradients = field(default_factory=dict)
    signals: dict[str, Any] = field(default_factory=dict)


def run_batch(
    circuit: Circuit,
    readout: Readout,
    rule: Rule | None,
    batch: Batch,
    theta: Any,
    receive: Receive,
    *,
    watch: Watch | None = None,
    index: int = 0,
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

    Raises
    ------
    ValidationError
        If the batch does not fit the circuit or the readout.
    DivergenceError
        When the state, θ or a gradient stops being finite.
    """
    if batch.x.shape[2] != circuit.inputs:
        raise ValidationError(f"the batch has {batch.x.shape[2]} inputs, the circuit {circuit.inputs}")
    check_targets(readout.loss if isinstance(readout.loss, str) else "", batch.y, readout.outputs)
    xp, dtype, B = circuit.xp, circuit.dtype, batch.size
    x = xp.asarray(batch.x, dtype)
    y = xp.asarray(batch.y, dtype if batch.y.ndim == 3 else None)
    weight = xp.asarray(batch.mask, dtype)
    end = xp.asarray(batch.end)
    due = batch.mask.any(axis=0)
    silent = xp.zeros((B, circuit.n), dtype)
    state = circuit.initial_state(B)
    carry = rule.init(B) if rule else {}
    outcome = Outcome()

    def learn(gradient: Any) -> Any:
        nonlocal theta
        theta = receive("theta", gradient)
        return theta

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for t in range(batch.steps):
            transition = circuit.step(state, x[:, t], linearise=rule is not None)
            _check_finite(xp, "state", transition.new.s, state.s, t, index)
            c, readout_gradient = silent, None
            if due[t]:
                loss, c, readout_gradient, output = readout.credit(transition.new, y[:, t], weight[:, t] / B)
                outcome.loss += float(loss.sum())
                if y.ndim == 2:
                    right = output.argmax(axis=1) == y[:, t]
                    outcome.correct += float((right * weight[:, t]).sum())
                    outcome.scored += float(weight[:, t].sum())
            if rule is not None:
                carry, signals, gradient = rule.step(carry, transition, c, end[:, t], theta, learn)
                if gradient is not None:
                    _check_finite(xp, "gradient of psi", gradient, circuit.psi, t, index)
                    receive("psi", gradient)
                if readout_gradient is not None:
                    receive("phi", readout_gradient)
                if watch:
                    watch(t, transition, signals, c)
            state = circuit.reset(transition.new, end[:, t])
        if rule is not None:
            for name, gradient in rule.finish(carry, theta).items():
                _check_finite(xp, f"gradient of {name}", gradient, circuit.psi, batch.steps - 1, index)
                receive(name, gradient)
    return outcome


def _check_finite(xp: Any, quantity: str, array: Any, before: Any, t: int, index: int) -> None:
    if not xp.isfinite(array).all():
        raise DivergenceError(t + 1, index, quantity, float(xp.abs(before).max()))


def batch_updates(
    circuit: Circuit, readout: Readout, rule: Rule, batch: Batch, theta: Any = None, *, signals: bool = False
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

    Returns
    -------
    Outcome
    """
    theta = rule.initial_theta() if theta is None else theta
    current = {"psi": circuit.psi, "phi": readout.phi, "theta": theta}
    sums: Gradients = {}

    def receive(name: str, gradient: Any) -> Any:
        sums[name] = gradient if name not in sums else sums[name] + gradient
        return current[name]

    steps: list[dict[str, Any]] = []

    def watch(t: int, transition: Any, seen: Mapping[str, Any], c: Any) -> None:
        steps.append({**seen, "c": c, "state": transition.new.s})

    outcome = run_batch(circuit, readout, rule, batch, theta, receive, watch=watch if signals else None)
    outcome.gradients = sums
    if signals:
        outcome.signals = {name: circuit.xp.stack([s[name] for s in steps]) for name in steps[0]}
    return outcome
