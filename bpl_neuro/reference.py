"""The slow truth: finite differences, BPTT and the forward view of BP(λ), written for clarity in dense matrices.

It imports no rule and no trace. Every fast path of the package is held to these functions in float64 by the tests.
Time is the leading axis: jacobians (T, B, n, n), c, g and targets (T, B, n), end (T, B). Index t − 1 holds step t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.plastic import PlasticSynthesiser
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.model.spec import Model
from bpl_neuro.tasks.base import Batch

__all__ = [
    "SlowRun",
    "bptt",
    "derivative_error",
    "finite_difference",
    "finite_difference_jacobian",
    "lambda_target_terms",
    "lambda_targets",
    "later_gradient",
    "offline_lambda_sg",
    "online_lambda_sg",
    "slow_run",
]


@dataclass(frozen=True)
class SlowRun:
    """A batch run with frozen parameters: its transitions, dense Jacobians, immediate gradients and loss."""

    transitions: Sequence[Transition]
    jacobians: np.ndarray
    c: np.ndarray
    end: np.ndarray
    loss: float
    readout_gradient: np.ndarray


def slow_run(circuit: Circuit, readout: Readout, batch: Batch, noise_seed: int | None = None) -> SlowRun:
    """Run a batch step by step; parameters stay as they are. `noise_seed` is the seed of the model's noise, if any."""
    rng = None if noise_seed is None else np.random.default_rng(noise_seed)
    state = circuit.initial_state(batch.size)
    transitions, c, loss = [], [], 0.0
    readout_gradient = np.zeros_like(readout.phi)
    x = batch.x.astype(circuit.dtype)
    for t in range(batch.steps):
        added = None if rng is None else circuit.draw_noise(rng, batch.size)
        transition = circuit.step(state, x[:, t], noise=added)
        step_loss, step_c, step_gradient, _ = readout.credit(
            transition.new, batch.y[:, t], batch.mask[:, t].astype(circuit.dtype) * readout.trial_weight(batch.size)
        )
        transitions.append(transition)
        c.append(step_c)
        loss += float(step_loss.sum())
        readout_gradient += step_gradient
        state = circuit.reset(transition.new, batch.end[:, t])
    jacobians = np.stack([t.jacobian() for t in transitions])
    return SlowRun(transitions, jacobians, np.stack(c), batch.end.T, loss, readout_gradient)


def finite_difference(f: Callable[[np.ndarray], float], p: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a number with respect to each entry of the vector `p`."""
    gradient = np.empty_like(p)
    for k in range(p.size):
        up, down = p.copy(), p.copy()
        up[k] += step
        down[k] -= step
        gradient[k] = (f(up) - f(down)) / (2 * step)
    return gradient


def finite_difference_jacobian(circuit: Circuit, s: np.ndarray, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """∂s_t/∂s_{t−1} at the flat state `s` (B, n) and input `x` (B, K), by central differences: (B, n, n)."""
    columns = []
    for k in range(circuit.n):
        move = np.zeros(circuit.n)
        move[k] = step
        up = circuit.step(circuit.state(s + move), x).new.s
        down = circuit.step(circuit.state(s - move), x).new.s
        columns.append((up - down) / (2 * step))
    return np.stack(columns, axis=-1)


def derivative_error(model: Model, seed: int = 0) -> float:
    """Largest difference between J_t and finite differences at random states, over the largest entry of J_t.

    Infinite if J_t at the initial state, without input, is not finite: there such a circuit could not begin to learn.
    """
    circuit = Circuit(model, dict.fromkeys(model.populations, 3), 2, seed=seed)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        first = circuit.with_psi(np.zeros(circuit.layout.size)).step(circuit.initial_state(1), np.zeros((1, 2)))
        if not np.isfinite(first.jacobian()).all():
            return math.inf
    s, x = circuit.initial_state(4).s + rng.uniform(0.1, 1, (4, circuit.n)), rng.normal(size=(4, 2))
    J = circuit.step(circuit.state(s), x).jacobian()
    return float(np.abs(J - finite_difference_jacobian(circuit, s, x)).max() / np.abs(J).max())


def later_gradient(jacobians: np.ndarray, c: np.ndarray, end: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """G_t = (c_{t+1} + γ G_{t+1}) J_{t+1}, 0 at a trial's end: the discounted gradient of all later losses."""
    G = np.zeros_like(c)
    for t in reversed(range(len(c) - 1)):
        arriving = _row(c[t + 1] + gamma * G[t + 1], jacobians[t + 1])
        G[t] = np.where(end[t][:, None], 0, arriving)
    return G


def bptt(run: SlowRun) -> tuple[np.ndarray, np.ndarray]:
    """Backpropagation through time.

    Returns
    -------
    credit : (T, B, n) array
        ∂L/∂s_t of this and all later losses, c_t + G_t.
    gradient : (|Ψ|,) array
        ∂L/∂Ψ.
    """
    credit = run.c + later_gradient(run.jacobians, run.c, run.end)
    gradient = sum(t.parameter_gradient(v) for t, v in zip(run.transitions, credit, strict=True))
    return credit, np.asarray(gradient)


def lambda_targets(
    jacobians: np.ndarray, c: np.ndarray, g: np.ndarray, end: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    """G_t^λ = [c_{t+1} + γ((1−λ) g(s_{t+1}) + λ G_{t+1}^λ)] J_{t+1}; G^λ and g are 0 at a trial's end."""
    target = np.zeros_like(c)
    for t in reversed(range(len(c) - 1)):
        ahead = (1 - lam) * g[t + 1] + lam * target[t + 1]
        ahead = np.where(end[t + 1][:, None], 0, ahead)
        arriving = _row(c[t + 1] + gamma * ahead, jacobians[t + 1])
        target[t] = np.where(end[t][:, None], 0, arriving)
    return target


def lambda_target_terms(jacobians: np.ndarray, c: np.ndarray, g: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """The same targets from their definition, for trials that all end at step T.

    G_t^λ = (1−λ) Σ_{n=1..T−t−1} λ^{n−1} G_t^(n) + λ^{T−t−1} G_t,
    G_t^(n) = Σ_{k=1..n} γ^{k−1} ∂L_{t+k}/∂s_t + γ^n g(s_{t+n}) ∂s_{t+n}/∂s_t.
    """
    T = len(c)
    target = np.zeros_like(c)

    def back(v: np.ndarray, start: int, stop: int) -> np.ndarray:
        for t in range(start, stop, -1):
            v = _row(v, jacobians[t])
        return v

    for t in range(T - 1):
        for n in range(1, T - t):
            G_n = sum(gamma ** (k - 1) * back(c[t + k], t + k, t) for k in range(1, n + 1))
            last = n == T - t - 1
            if not last:
                G_n = G_n + gamma**n * back(g[t + n], t + n, t)
            target[t] += (lam ** (n - 1) if last else (1 - lam) * lam ** (n - 1)) * G_n
    return target


def offline_lambda_sg(
    run: SlowRun, synthesiser: Synthesiser, theta: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    """Σ_t Σ_B (G_t^λ − g(s_t)) ∂g(s_t)/∂θ with θ fixed: what offline λ-SG adds to θ, over α."""
    z = [synthesiser.z(t) for t in run.transitions]
    outputs = [synthesiser(z_t, theta) for z_t in z]
    g = np.stack([response.g for response in outputs])
    target = lambda_targets(run.jacobians, run.c, g, run.end, gamma, lam)
    total = np.zeros_like(theta)
    for t in range(len(z)):
        error = np.where(run.end[t][:, None], 0, target[t] - g[t])
        total += synthesiser_gradient(synthesiser, error, z[t], theta)
    return total


def online_lambda_sg(
    run: SlowRun, synthesiser: Synthesiser, theta_0: np.ndarray, gamma: float, lam: float, alpha: float
) -> np.ndarray:
    """θ after online λ-SG by gradient steps of size α, with Ψ frozen and trials that all end at step T.

    At every horizon H = 2 … T restart from θ_0 and redo all updates t < H in order with the interim targets; inside
    the targets, g(s_k) uses the θ that horizon k − 1 ended with.
    """
    T = len(run.c)
    z = [synthesiser.z(t) for t in run.transitions]
    ended_with = {1: theta_0}
    for H in range(2, T + 1):
        ahead = {k: synthesiser(z[k - 1], ended_with[k - 1]).g for k in range(2, H + 1)}
        ahead[T] = np.zeros_like(run.c[0])
        target = {H - 1: _row(run.c[H - 1] + gamma * ahead[H], run.jacobians[H - 1])}
        for t in range(H - 2, 0, -1):
            mixed = (1 - lam) * ahead[t + 1] + lam * target[t + 1]
            target[t] = _row(run.c[t] + gamma * mixed, run.jacobians[t])
        theta = theta_0
        for t in range(1, H):
            error = target[t] - synthesiser(z[t - 1], theta).g
            theta = theta + alpha * synthesiser_gradient(synthesiser, error, z[t - 1], theta)
        ended_with[H] = theta
    return ended_with[T]


def _row(v: np.ndarray, J: np.ndarray) -> np.ndarray:
    """Row vectors times matrices, trial by trial."""
    return np.einsum("bi,bij->bj", v, J)


def synthesiser_gradient(synthesiser: Synthesiser, error: np.ndarray, z: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Σ_B error ∂g/∂θ, written out: [a, j] = Σ_b error[b, a] φ'[b, a] z[b, j], and the chain rule once more for Q."""
    response = synthesiser(z, theta)
    P = getattr(synthesiser, "P", None)
    error = (error if P is None else np.einsum("bi,ia->ba", error, P)) * response.slope
    output = np.einsum("ba,bj->aj", error, response.z).ravel()
    if not isinstance(synthesiser, PlasticSynthesiser):
        return output
    weights = synthesiser.layout.views(theta)["output"]
    at_hidden = np.einsum("ba,ah->bh", error, weights[:, :-1]) * response.hidden_slope
    hidden = np.einsum("bh,bk->hk", at_hidden, z) * synthesiser.exists
    return np.concatenate([output, hidden.ravel()])
