"""Feedback through other weights: δ and c go back through them, the trace by the circuit's own; in every form alike."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import NONLINEAR
from truth import case, off

import bpl_neuro as bpl
from bpl_neuro import reference
from bpl_neuro.backend import NumpyBackend
from bpl_neuro.circuit.feedback import Feedback

KINDS = ["sign", "random", "noisy"]
SETTINGS = {"adapting": {}, "ei": {"sees": "rate"}, "lstm": {"sees_input": True}, "cerebellar": {"expansion": 7}}
SETTINGS |= {"nonlinear": {}, "plastic": {"expansion": 5, "fan_in": 2, "plastic_expansion": True}}
GAMMA, KAPPA = 0.9, 0.6


def setting(name, loss="gaps"):
    models = {"nonlinear": bpl.Model.from_toml(NONLINEAR), "plastic": "leaky_tanh"}
    return case(models.get(name, name), loss, T=8, **SETTINGS[name])


def other_weights(kind, name, W):
    """What the feedback has in the place of W, written out; of the draws only their seed is taken from the package."""
    if kind == "sign":
        return np.sign(W) * np.abs(W).mean()
    drawn = Feedback("random").weights(name, W, NumpyBackend())
    if kind == "random":
        return drawn
    return Feedback("noisy", noise=0.5).weights(name, np.ones_like(W), NumpyBackend()) * W


def by_hand(circuit, readout, unit, data, theta, kind, lam, trace_through="own", delta_through="other"):
    """Gradients of θ and Ψ, dense: v_t = δ_t + γλ v_{t+1} J_{t+1}, δ_t = (c_{t+1} + γ g_{t+1}) Ĵ_{t+1} − g_t.

    J is the circuit's own, Ĵ has the feedback's weights, and c is the readout's error through those.
    """
    run = reference.slow_run(circuit, readout, data)
    T, B, n = run.c.shape
    changed = [
        replace(
            step,
            weights={
                s.key: step.weights[s.key] if s.pre is None else other_weights(kind, s.key, step.weights[s.key])
                for s in circuit.synapses
            },
        ).jacobian()
        for step in run.transitions
    ]
    ways = {"own": run.jacobians, "other": np.stack(changed)}
    back = other_weights(kind, "readout", readout.weights["weights"])
    c, g, z = np.zeros((T, B, n)), np.zeros((T, B, n)), []
    for t, step in enumerate(run.transitions):
        y = step.new.rate @ readout.weights["weights"].T + readout.weights["bias"]
        error = (y - data.y[:, t]) * data.mask[:, t, None] / B
        c[t] = circuit.rate_credit(step.new, error @ back)
        z.append(unit.z(step))
        g[t] = unit(z[t], theta).g * ~data.end[:, t, None]
    v, dtheta, dpsi = np.zeros((T, B, n)), np.zeros_like(theta), np.zeros_like(circuit.psi)
    for t in reversed(range(T)):
        for b in range(B):
            if t < T - 1 and not data.end[b, t]:
                delta = (c[t + 1, b] + GAMMA * g[t + 1, b]) @ ways[delta_through][t + 1, b] - g[t, b]
                v[t, b] = delta + GAMMA * lam * v[t + 1, b] @ ways[trace_through][t + 1, b]
        dtheta -= reference.synthesiser_gradient(unit, v[t], z[t], theta)
        dpsi += run.transitions[t].parameter_gradient(c[t] + KAPPA * g[t])
    return {"theta": dtheta, "psi": dpsi}


def rules(unit, kind, lam):
    options = {"gamma": GAMMA, "lam": lam, "sg_weight": KAPPA, "feedback": kind}
    yield from (bpl.BPLambda(unit, trace=trace, **options) for trace in ("full", "lazy", "sweep"))
    yield bpl.rules.LambdaSG(unit, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_exact_form_is_the_dense_computation(name, lam, kind):
    circuit, readout, unit, data, theta = setting(name)
    expected = by_hand(circuit, readout, unit, data, theta, kind, lam)
    for rule in rules(unit, kind, lam):
        found = bpl.batch_updates(circuit, readout, rule, data, theta).gradients
        for key, value in expected.items():
            assert off(found[key], value) < 1e-10, (rule, key)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["adapting", "ei", "lstm"])
def test_a_trace_through_the_feedback_or_a_delta_through_the_own_weights_is_far_off(name, kind):
    circuit, readout, unit, data, theta = setting(name)
    right, trace, delta, exact = (
        by_hand(circuit, readout, unit, data, theta, kind, 0.8, *ways)["theta"]
        for ways in (("own", "other"), ("other", "other"), ("own", "own"), ("other", "own"))
    )
    for wrong in (trace, delta, exact):
        assert off(wrong, right) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("discounted", [False, True])
@pytest.mark.parametrize("name", ["adapting", "ei", "cerebellar"])
def test_both_credits_through_other_weights_by_trace_and_by_sweep(name, discounted, kind):
    circuit, readout, unit, data, theta = setting(name)
    full, lazy, sweep = (
        bpl.batch_updates(
            circuit, readout,
            bpl.rules.BPLambdaEProp(unit, discounted=discounted, gamma=GAMMA, lam=0.8, feedback=kind, trace=trace),
            data, theta,
        ).gradients
        for trace in ("full", "lazy", "sweep")
    )  # fmt: skip
    for other in (lazy, sweep):
        for key in ("theta", "psi"):
            assert off(other[key], full[key]) < 1e-10, key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["adapting", "nonlinear"])
def test_learning_at_every_step_through_other_weights_is_the_same_by_every_trace(name, kind):
    """While W moves, "sign" and "noisy" follow it; the lazy trace goes back through each step's own weights."""
    circuit, readout, unit, data, theta = setting(name)
    found = {}
    for trace in ("full", "lazy"):
        rule = bpl.BPLambda(unit, gamma=GAMMA, lam=0.8, sg_weight=KAPPA, feedback=kind, trace=trace)
        optimisers = dict.fromkeys(("psi", "phi", "theta"), bpl.SGD(0.05))
        learner = bpl.Learner(circuit, readout, rule, optimisers, bpl.Schedule(1))
        found[trace], _ = bpl.run_batch(learner, learner.initial(theta=theta), data)
    for key, start in (("psi", circuit.psi), ("phi", readout.phi), ("theta", theta)):
        full, lazy = (found[trace].parameter(key) - start for trace in ("full", "lazy"))
        assert off(lazy, full) < 1e-10, key
