"""What a run can be asked: alignment with the true gradient, the best a synthesiser could do, one synapse's trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from bpl_neuro.checks import generator, index, instance, number, positive_int, real_array, shown, whole
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.circuit.subspace import SubspaceSynthesiser
from bpl_neuro.errors import ValidationError
from bpl_neuro.look.current_synapse import current_synapse_trace
from bpl_neuro.look.least_squares import least_squares_theta
from bpl_neuro.rules.bp_lambda import BPLambda
from bpl_neuro.rules.traces import LocalTrace
from bpl_neuro.tasks.base import Batch
from bpl_neuro.train.loop import run_batch, watched_steps
from bpl_neuro.train.schedule import PER_TRIAL
from bpl_neuro.train.state import PARAMETERS, Learner
from bpl_neuro.train.step import Step
from bpl_neuro.train.trainer import Trainer

__all__ = [
    "alignment",
    "causality",
    "cosine",
    "current_synapse_trace",
    "least_squares_theta",
    "principal_subspace",
    "synapse_trace",
    "trial_mean",
    "true_later_gradient",
]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine along the last axis; NaN where either vector is zero."""
    a, b = real_array("a", a).astype(float), real_array("b", b).astype(float)
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValidationError(f"`b` must have the shape of `a`, {a.shape}, got {b.shape}") from None
    if not a.ndim or not b.ndim:
        raise ValidationError("`a` and `b` must be vectors, or rows of vectors, got a number")
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (a * b).sum(axis=-1) / norms, np.nan)


def true_later_gradient(steps: Sequence[Step], gamma: float = 1.0) -> list[Any]:
    """G_t = (c_{t+1} + γ G_{t+1}) J_{t+1} of every step, (B, n) each; 0 at a trial's end. Costs one backward sweep."""
    if not isinstance(steps, list | tuple) or not steps or not all(isinstance(step, Step) for step in steps):
        raise ValidationError(f"`steps` must be the steps of a batch, as a watcher sees them, got {shown(steps)}")
    if number("gamma", gamma) > 1:
        raise ValidationError(f"`gamma` must lie in [0, 1], got {gamma!r}")
    later = [0 * steps[-1].c]
    for now, ahead in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
        later.append(~now.end[:, None] * ahead.transition.vjp(ahead.c + gamma * later[-1]))
    return later[::-1]


def alignment(circuit: Circuit, readout: Readout, rule: BPLambda, batch: Batch, theta: Any) -> xr.Dataset:
    """How well g_t + c_t points along the true gradient, step by step, beside the least-squares optimum.

    The optimum is the best linear map of the same z_t to the true gradient of the later losses, fitted over all steps
    and trials of the batch: what a linear synthesiser could reach at most.

    Returns
    -------
    xarray.Dataset
        Over ``step`` (1 …): ``cosine`` and ``optimum`` (means over trials, zero vectors left out) and ``zero_vectors``
        (how many were left out of ``cosine``). Steps at which every trial ends are not included: nothing is predicted
        there.
    """
    _predicts_states(rule)
    seen, _ = watched_steps(circuit, readout, rule, batch, theta)
    host = circuit.backend.to_host
    G = np.stack([host(g) for g in true_later_gradient(seen)]).astype(float)
    c = np.stack([host(s.c) for s in seen]).astype(float)
    g = np.stack([host(s.signals["g"]) for s in seen]).astype(float)
    z = np.stack([host(rule.synthesiser.z(s.transition)) for s in seen]).astype(float)
    going_on = ~np.stack([host(s.end) for s in seen])
    s = rule.synthesiser
    P = host(s.P).astype(float) if isinstance(s, SubspaceSynthesiser) else np.eye(G.shape[-1])
    fit = np.linalg.lstsq(z[going_on], G[going_on] @ P, rcond=None)[0] @ P.T
    best = np.where(going_on[..., None], z @ fit, 0)
    keep = going_on.any(axis=1)
    cosines, optimum = (np.where(going_on, cosine(v + c, G + c), np.nan)[keep] for v in (g, best))
    return xr.Dataset(
        {
            "cosine": ("step", trial_mean(cosines)),
            "optimum": ("step", trial_mean(optimum)),
            "zero_vectors": ("step", (np.isnan(cosines) & going_on[keep]).sum(axis=1)),
        },
        {"step": np.flatnonzero(keep) + 1},
    )


def _predicts_states(rule: Any) -> None:
    """ValidationError unless the rule has a synthesiser that predicts the credit of states."""
    if getattr(rule, "target", None) != "state":
        raise ValidationError(
            '`rule` must have a synthesiser with `target` = "state", which predicts gradients of states; got '
            f"{shown(rule)}"
            + ("; for one synapse there is `current_synapse_trace`" if getattr(rule, "target", None) else "")
        )


def trial_mean(values: np.ndarray) -> np.ndarray:
    """Mean over trials, of values (steps, trials), without NaNs; NaN where there is none."""
    values = real_array("values", values).astype(float)
    if values.ndim != 2:
        raise ValidationError(f"`values` must be (steps, trials), got shape {values.shape}")
    count = (~np.isnan(values)).sum(axis=1)
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)


def causality(trainer: Trainer, batch: Batch, step: int, seed: int = 0) -> xr.Dataset:
    """What a learner does differently, and when, if everything after `step` of a batch is another.

    Two forks learn, one from the batch, one from the same batch with other inputs and targets after `step`. A rule that
    is online cannot tell the two apart until then: every parameter is the same to the bit.

    Parameters
    ----------
    trainer : Trainer
        It is forked, not changed.
    batch : Batch
    step : int
        From 1 to the last but one.
    seed : int
        For what takes the place of the later inputs and targets.

    Returns
    -------
    xarray.Dataset
        Over ``step`` and ``parameter`` ("psi", "phi", "theta"): ``difference``, the largest between the two after each
        step, and ``moved``, how far the parameter of the first had then moved. After the last step counts what is only
        learned at the trial's end.
    """
    instance("trainer", trainer, Trainer, "a Trainer"), instance("batch", batch, Batch, "a Batch")
    step, rng = whole("step", step, 1), generator("seed", seed)
    if step >= batch.steps:
        raise ValidationError(f"`step` must lie in 1 … {batch.steps - 1}, got {step!r}")
    x, y = batch.x.copy(), batch.y.copy()
    x[:, step:] = rng.permuted(x[:, step:] + rng.normal(size=x[:, step:].shape), axis=0)
    y[:, step:] = y[:, step:] + rng.normal(size=y[:, step:].shape) if y.ndim == 3 else rng.permuted(y[:, step:], axis=0)
    names = [name for name in PARAMETERS if trainer.parameter(name) is not None]
    other = Batch(x, y, batch.mask, batch.end, batch.stream, batch.padding)
    after = [_parameters_after_each_step(trainer, data, names) for data in (batch, other)]
    start = [trainer.parameter(name) for name in names]

    def largest(rows: Sequence[Any], others: Sequence[Any]) -> list[float]:
        return [float(trainer.circuit.xp.abs(a - b).max()) for a, b in zip(rows, others, strict=True)]

    difference = [largest(rows, others) for rows, others in zip(*after, strict=True)]
    return xr.Dataset(
        {
            "difference": (("step", "parameter"), difference),
            "moved": (("step", "parameter"), [largest(row, start) for row in after[0]]),
        },
        {"step": np.arange(1, batch.steps + 1), "parameter": names},
        {"changed_after": step},
    )


def _parameters_after_each_step(trainer: Trainer, batch: Batch, names: Sequence[str]) -> list[list[Any]]:
    """Copies of the parameters of a fork after each step of a batch, the trial's end included."""
    copies: list[list[Any]] = []

    def watch(step: Step) -> None:
        copies.append([step.parameter(name).copy() for name in names])

    state, _ = run_batch(trainer.learner, trainer.state.copy(), batch, watch=watch)
    copies[-1] = [state.parameter(name) for name in names]
    return copies


def principal_subspace(errors: Any, dimension: int) -> np.ndarray:
    """The directions in which errors vary most: P (n, d) for `Synthesiser(circuit, subspace=P)`.

    Parameters
    ----------
    errors : (…, n) array
        Observed errors, like `true_later_gradient` of some trials (from a GPU through ``circuit.backend.to_host``);
        zero vectors do not count.
    dimension : int
        d.

    Returns
    -------
    (n, d) array
        The first right singular vectors (not centred: g must reach the errors themselves), largest first.
    """
    rows = real_array("errors", errors).astype(float)
    if not rows.ndim or not rows.size:
        raise ValidationError(f"`errors` must be (…, n) with at least one of each, got shape {rows.shape}")
    rows = rows.reshape(-1, rows.shape[-1])
    if positive_int("dimension", dimension) > rows.shape[1]:
        raise ValidationError(f"`dimension` must lie in 1 … {rows.shape[1]}, got {dimension!r}")
    if not np.isfinite(rows).all():
        raise ValidationError("`errors` must be finite")
    largest = np.abs(rows).max()
    if largest > 1e100:  # whose squares would overflow
        rows = rows / largest
    return np.linalg.svd(rows.T @ rows, hermitian=True)[0][:, :dimension]


def synapse_trace(
    circuit: Circuit,
    readout: Readout,
    rule: BPLambda,
    batch: Batch,
    theta: Any,
    synapse: tuple[int, int],
    trial: int = 0,
) -> xr.Dataset:
    """Everything about one synthesiser synapse (output a, input j) in one trial, with parameters frozen.

    Parameters
    ----------
    rule : BPLambda
        With ``trace="full"``.
    synapse : (a, j)
        Output and input index of θ.
    trial : int
        Which trial of the batch.

    Returns
    -------
    xarray.Dataset
        Over ``step``: ``presynaptic`` z_j; ``own`` e[a, a, j]; ``norm`` ‖e[·, a, j]‖; ``local`` the local trace;
        ``delta`` δ_{t−1} of the synapse's own unit, NaN where there is none; ``product`` Σ_i δ_{t−1,i}
        e_{t−1}[i, a, j];
        ``cumulative`` its running sum, Δθ/α. The attribute ``forward_view`` is Σ_t (G_t^λ − g_t)_a φ'_a z_j, which
        ``cumulative`` ends on.
    """
    _predicts_states(rule)
    s = rule.synthesiser
    instance("batch", batch, Batch, "a Batch")
    if not isinstance(synapse, tuple | list) or len(synapse) != 2:
        raise ValidationError(f"`synapse` must be (a, j), output and input of θ, got {shown(synapse)}")
    if not s.own_units:
        raise ValidationError("in a subspace a synthesiser unit belongs to no state of the circuit: nothing to draw")
    try:
        a, j = index("a", synapse[0], s.n - 1), index("j", synapse[1], s.m - 1)
    except ValidationError:
        raise ValidationError(f"`synapse` must lie in 0 … {s.n - 1}, 0 … {s.m - 1}; got {shown(synapse)}") from None
    trial = index("trial", trial, batch.size - 1)
    if rule.form != "full":
        raise ValidationError('`rule` must hold the full trace: BPLambda(…, trace="full")')
    single = batch[trial : trial + 1]
    theta = Learner(circuit, readout, rule, {}, PER_TRIAL).initial(theta=theta).theta
    local = LocalTrace(s, rule.gamma * rule.lam, rule.gain)
    local_carry = local.init(1, batch.steps)
    rows: list[list[Any]] = []
    e_prev = np.zeros(s.n)

    def watch(step: Step) -> None:
        nonlocal local_carry, e_prev
        z = s.z(step.transition)
        response = s(z, theta)
        local_carry = local.restart(local.step(local_carry, step.transition, response), step.end)
        delta = circuit.backend.to_host(step.signals["delta"])[0]
        e = circuit.backend.to_host(step.trace(a, j)[1])[0]
        states, local_e = local.column(local_carry, a, j)
        local_value = float(local_e[0, a - states.start])
        rows.append([float(response.z[0, j]), e[a], float(np.linalg.norm(e)), local_value, delta[a], delta @ e_prev])
        e_prev = e.copy()

    seen, _ = watched_steps(circuit, readout, rule, single, theta, watch=watch)
    columns = np.array(rows).T
    columns[4, 0] = np.nan
    names = ("presynaptic", "own", "norm", "local", "delta", "product")
    data = {name: ("step", column) for name, column in zip(names, columns, strict=True)}
    data["cumulative"] = ("step", np.cumsum(columns[5]))
    forward = _forward_view(seen, rule, theta)[a, j]
    return xr.Dataset(
        data,
        {"step": np.arange(1, len(rows) + 1)},
        {"synapse": [a, j], "forward_view": float(forward), "gamma": rule.gamma, "lam": rule.lam},
    )


def _forward_view(seen: Sequence[Step], rule: BPLambda, theta: Any) -> Any:
    """gain · Σ_t v_t ∂g_t/∂θ of the output weights, (n, m), from a sweep back over the steps.

    v_t = δ_t + γλ v_{t+1} J_{t+1}, which is G_t^λ − g_t where errors go back through the circuit's own weights.
    """
    s = rule.synthesiser
    responses = [s(s.z(step.transition), theta) for step in seen]
    g = [~step.end[:, None] * response.g for step, response in zip(seen, responses, strict=True)]
    error, total = 0 * g[-1], 0 * theta
    for t in reversed(range(len(seen) - 1)):
        ahead = seen[t + 1]
        delta = rule.feedback.transition(ahead.transition).vjp(ahead.c + rule.gamma * g[t + 1]) - g[t]
        error = ~seen[t].end[:, None] * (delta + rule.gamma * rule.lam * ahead.transition.vjp(error))
        total += s.gradient(error, responses[t], rule.gain)
    return s.weights(total)
