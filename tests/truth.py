"""Shared by the oracle tests and their negative controls: cases, and checks that return how far off a rule is.

A check returns a relative error instead of asserting, so that the controls can demand that a wrong rule is far off.
"""

import numpy as np

import bpl_neuro as bpl
from bpl_neuro import reference

MODELS = bpl.available_models()
LOSSES = ("end", "every", "gaps")


def case(model, loss="every", seed=0, B=3, T=6, **synthesiser):
    """Circuit, readout, synthesiser, batch and a θ that is not zero."""
    named = isinstance(model, str)
    sizes = dict.fromkeys((bpl.Model.load(model) if named else model).populations, 3 if named else 4)
    circuit = bpl.Circuit(model, sizes, 2, seed=seed)
    readout = bpl.Readout(circuit, 2, seed=seed + 1)
    unit = bpl.Synthesiser(circuit, **synthesiser)
    rng = np.random.default_rng(seed + 2)
    mask, end = np.ones((B, T)), np.zeros((B, T), bool)
    end[:, -1] = True
    if loss == "end":
        mask[:, :-1] = 0
    elif loss == "gaps":  # random weights; two trials in row 0, a short trial and padding in row 1
        mask = rng.random((B, T)) * (rng.random((B, T)) < 0.6)
        end[0, 2] = end[1, T - 3] = True
        end[1, -1] = False
    data = bpl.Batch(rng.normal(size=(B, T, 2)), rng.normal(size=(B, T, 2)), mask, end)
    theta = unit.initial_theta()
    output = theta if unit.target == "current" else unit.weights(theta)
    output[...] = rng.normal(size=output.shape) * 0.3
    return circuit, readout, unit, data, theta


def off(found, expected):
    """Largest difference over the largest entry."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def of_plastic(circuit, gradient):
    """A gradient with the entries of synapses that do not exist, or are not plastic, put at 0."""
    return gradient if circuit.mask is None else gradient * circuit.mask


def error_of_summed_updates(rule, circuit, readout, unit, data, theta, gamma, lam):
    """|Σ δ e − offline λ-SG|, relative, with everything frozen."""
    found = -bpl.batch_updates(circuit, readout, rule, data, theta).gradients["theta"]
    run = reference.slow_run(circuit, readout, data)
    return off(found, reference.offline_lambda_sg(run, unit, theta, gamma, lam))


def online_theta(rule, circuit, readout, data, theta, alpha):
    """θ after one batch of per-step updates of size α, with Ψ frozen."""
    learner = bpl.Learner(circuit, readout, rule, {"theta": bpl.SGD(alpha)}, bpl.Schedule(1))
    start = learner.initial(theta=theta).replace(noise_rng=None)  # the references have none
    state, _ = bpl.run_batch(learner, start, data)
    return state.theta


def error_of_online_learning(rule, circuit, readout, unit, data, theta, gamma, lam, alpha):
    """‖θ^BP − θ^onlineλ‖ / ‖θ^onlineλ − θ_0‖ after one batch."""
    run = reference.slow_run(circuit, readout, data)
    expected = reference.online_lambda_sg(run, unit, theta, gamma, lam, alpha)
    found = online_theta(rule, circuit, readout, data, theta, alpha)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - theta))
