"""Shared by the tests of the synthesiser that is compatible with the circuit: cases, and how far off a rule is."""

import numpy as np
from dense import PlainSquares, block_diagonal, learned_by_hand, run_densely, sums_by_definition, trials_of
from helpers import random_trials
from truth import case, off

import bpl_neuro as bpl

CURRENT = {"target": "current"}
RULES = {
    "alone": ("bp_lambda", {}),
    "late": ("bp_lambda_eprop", {}),
    "late, discounted": ("bp_lambda_eprop", {"discounted": True}),
    "residual": ("bp_lambda_eprop", {"residual": True}),
    "residual, discounted": ("bp_lambda_eprop", {"residual": True, "discounted": True}),
}
RATES = {"psi": 0.05, "phi": 0.03, "theta": 0.03}


def setting(model, loss="every", seed=0, **keywords):
    """Circuit, readout, synthesiser, batch, and a θ that is not zero, also where there is no synapse."""
    return case(model, loss, seed=seed, **CURRENT, **keywords)


def make(unit, kind="alone", **options):
    name, own = RULES[kind]
    return bpl.make_rule(name, unit, **own, **options)


def several(circuit, readout, seed=0, B=3, T=10):
    """Trials of random lengths, several in a row, and padding."""
    return random_trials(np.random.default_rng(seed), B, T, circuit.input_size, readout.output_size)


def error_of_sums(rule, circuit, readout, data, theta):
    """How far the sums of a batch with frozen parameters are off their definition, by name."""
    expected = sums_by_definition(rule, circuit, readout, data, theta)
    found = bpl.batch_updates(circuit, readout, rule, data, theta).gradients
    return {name: off(found[name], expected[name]) for name in expected}


def error_of_local(model, lam, gamma=0.9):
    """How far the local trace is off the trace with each neuron's own block of A + λO alone."""
    circuit, readout, unit, data, theta = setting(model, "gaps")
    rule = make(unit, lam=lam, gamma=gamma, trace="local")
    assert rule.local and not rule.trace.exact
    steps, c = run_densely(circuit, readout, data)
    expected, e = np.zeros(circuit.layout.size), np.zeros((data.size, circuit.n, circuit.layout.size))
    for t, s in enumerate(steps):
        q = (s.Y @ theta) * ~data.end[:, t, None]
        said = np.einsum("bi,bij->bj", c[t], s.A + s.O) + gamma * (1 - lam) * np.einsum("bq,bqi->bi", q, s.U)
        expected += np.einsum("bq,bqw->w", q, s.Y) - np.einsum("bi,biw->w", said, e)
        e = gamma * block_diagonal(circuit, s.A + lam * s.O) @ e + s.C @ s.Y
        e[data.end[:, t]] = 0
    return off(bpl.batch_updates(circuit, readout, rule, data, theta).gradients["theta"], expected)


def learned(rule, circuit, readout, data, theta, optimisers, every=1, pathway=None):
    learner = bpl.Learner(circuit, readout, rule, optimisers, bpl.Schedule(every))
    start = learner.initial(theta=theta).replace(noise_rng=None, pathway=pathway)
    return bpl.run_batch(learner, start, data)[0]


def error_of_learning(rule, circuit, readout, data, theta, every=1, squares=None, pathway=None):
    """How far each parameter's change is off that by hand, relative; `squares` = (forget, ridge) for θ."""
    plain = None if squares is None else PlainSquares(*squares).of(circuit)
    expected = learned_by_hand(rule, circuit, readout, data, theta, RATES, every, plain, pathway)
    optimisers = {name: bpl.SGD(rate) for name, rate in RATES.items()}
    if squares is not None:
        optimisers["theta"] = bpl.RLS(*squares)
    state = learned(rule, circuit, readout, data, theta, optimisers, every, pathway)
    start = {"psi": circuit.psi, "phi": readout.phi, "theta": theta}
    return {name: off(state.parameter(name) - start[name], expected[name] - start[name]) for name in start}


def targets(circuit, readout, data, rule):
    """What q̂ is to predict at λ = γ = 1 and exact feedback, and what it sees: lists of (target, Y) of all steps."""
    steps, c = run_densely(circuit, readout, data)
    pairs = []
    for b, first, last in trials_of(data.end.T):
        G = own = np.zeros(circuit.n)
        for t in range(last, first - 1, -1):
            s = steps[t].at(b)
            if t != last:
                pairs.append(((G - own if getattr(rule, "residual", False) else G) @ s.C, s.Y))
            G, own = (c[t, b] + G) @ (s.A + s.C @ s.U), (c[t, b] + own) @ s.A
    return pairs


def fitted(circuit, readout, data, rule):
    """The least-squares θ by `numpy.linalg.lstsq`, current by current, and the R² of the fit."""
    pairs = targets(circuit, readout, data, rule)
    theta, missed, total = np.zeros(circuit.layout.size), 0.0, 0.0
    for row in range(len(pairs[0][0])):
        y, q = np.stack([Y[row] for _, Y in pairs]), np.array([target[row] for target, _ in pairs])
        there = np.flatnonzero(y.any(axis=0))
        solution = np.linalg.lstsq(y[:, there], q, rcond=1e-13)[0]
        theta[there] = solution
        missed, total = missed + ((q - y[:, there] @ solution) ** 2).sum(), total + (q**2).sum()
    return theta, 1 - missed / total
