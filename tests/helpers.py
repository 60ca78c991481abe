"""Shared by several test files: models of all kinds, trials of random lengths, and the algorithm written out."""

import contextlib
import io
import sys

import numpy as np
from truth import off

import bpl_neuro as bpl

#: a synthesiser whose output saturates, with a parameter of its own
NONLINEAR = """
[populations.cortex]
equations = "dx/dt = (-x + u) / tau : 1\\nr = tanh(x) : 1\\nu : 1\\ntau : second"
rate = "r"
inputs = ["u"]
parameters = { tau = "3*ms" }
[time]
dt = "1*ms"
[synthesiser]
equations = "g = a * tanh(v / a) : 1\\nv : 1\\na : 1"
parameters = { a = 0.5 }
"""

#: one population each, with the keywords of `Model.from_equations`; all send "r"
TEXTS = {
    "exact, coupled": {
        "equations": """dx/dt = (-x - w + u) / tau : 1
                        dw/dt = (-w + x) / tau_w : 1
                        r = tanh(x) : 1
                        u : 1
                        tau : second
                        tau_w : second""",
        "method": "exact", "parameters": {"tau": "10*ms", "tau_w": "10*ms"},
    },
    "exact, one state": {
        "equations": "dr/dt = (-r + tanh(u)) / tau : 1\nu : 1\ntau : second",
        "method": "exact", "parameters": {"tau": "7*ms"},
    },
    "divided by its slow average": {
        "equations": """dx/dt = (-x + u) / tau : 1
                        da/dt = (-a + clip(x, 0, inf)) / tau_a : 1
                        r = clip(x, 0, inf) / (1 + a) : 1
                        u : 1
                        tau : second
                        tau_a : second""",
        "method": "exponential_euler", "parameters": {"tau": "5*ms", "tau_a": "50*ms"},
    },
    "a decay that passes 0": {
        "equations": "dr/dt = -a * u * r / tau + tanh(u) / tau : 1\nu : 1\ntau : second\na : 1",
        "method": "exponential_euler", "parameters": {"tau": "5*ms", "a": 1},
    },
    "a frozen nonlinearity": {
        "equations": "dr/dt = (-r + tanh(u + r)) / tau : 1\nu : 1\ntau : second",
        "method": "exponential_euler", "parameters": {"tau": "5*ms"},
    },
    "rates in Hz": {
        "equations": """dv/dt = (-v + w_unit * u) / tau : volt
                        r = 20*Hz * exp(v / w_unit) : Hz
                        u : 1
                        w_unit : volt
                        tau : second""",
        "parameters": {"tau": "5*ms", "w_unit": "1*mV"},
    },
    "subexpressions in a chain": {
        "equations": """dr/dt = (-r + b) / tau : 1
                        b = a * tanh(a) : 1
                        a = u + sqrt(1 + u**2) : 1
                        u : 1
                        tau : second""",
        "parameters": {"tau": "5*ms"},
    },
    "two inputs": {
        "equations": """dr/dt = (-r + tanh(u) * (1 + tanh(gain))) / tau : 1
                        u : 1
                        gain : 1
                        tau : second""",
        "inputs": ["u", "gain"], "parameters": {"tau": "5*ms"},
    },
    "exact, rotating": {
        "equations": "dr/dt = (w + u) / tau : 1\ndw/dt = -r / tau : 1\nu : 1\ntau : second",
        "method": "exact", "parameters": {"tau": "3*ms"},
    },
    "exact, a matrix without an inverse": {
        "equations": "dr/dt = w / tau : 1\ndw/dt = tanh(u) / tau : 1\nu : 1\ntau : second",
        "method": "exact", "parameters": {"tau": "3*ms"},
    },
    "powers and roots": {
        "equations": """dr/dt = (-r + abs(u)**p / (1 + u**2)**0.3 - sqrt(1 + r**4)**-2 + 2**u) / tau : 1
                        u : 1
                        p : 1 (constant)
                        tau : second (constant)""",
        "parameters": {"tau": "5*ms", "p": 1.5},
    },
    "bounds that move": {
        "equations": "dr/dt = (-r + clip(u, -abs(r), 0.3 + r**2) + clip(r, -inf, inf)) / tau : 1\nu : 1\ntau : second",
        "parameters": {"tau": "5*ms"},
    },
    "names that generated code and SymPy use": {
        "equations": """dt0/dt = (-t0 + S*tanh(S) + E*sin(S) + group0 + xp) / tau : 1
                        S = a0_0 * t0 + t1 : 1
                        r = f_sign * sin(t0) : 1
                        t1 : 1
                        E : 1
                        a0_0 : 1
                        xp : 1
                        group0 : 1
                        f_sign : 1
                        tau : second""",
        "inputs": ["t1"],
        "parameters": {"tau": "5*ms", "E": 0.5, "a0_0": 0.7, "xp": 0.1, "group0": 0.2, "f_sign": 1.1},
    },
    "assignments in order": {
        "equations": "h : 1\nc : 1\nq = h + c**2 : 1\nr = tanh(h) : 1\nu : 1\ntau : second",
        "update": "c = c * exp(-dt / tau) + u\nh = tanh(q) - h * c",
        "parameters": {"tau": "5*ms"},
    },
}  # fmt: skip


def random_trials(rng, B=3, T=10, K=2, M=2):
    """Rows of several trials, some a single step long, with padding and losses of any weight."""
    end = rng.random((B, T)) < 0.2
    end[np.arange(B), rng.integers(0, T, B)] = True  # at least one in a row
    end[0] = np.arange(T) == T - 1  # and one long trial
    mask = rng.random((B, T)) * (rng.random((B, T)) < 0.7)
    mask[:, 0] = 1  # at least one loss in the batch
    return bpl.Batch(rng.normal(size=(B, T, K)), rng.normal(size=(B, T, M)), mask, end)


def with_trials(circuit, readout, unit, rng, B=3):
    """A batch of random trials for a setting, and a θ that is not zero."""
    data = random_trials(rng, B, K=circuit.input_size, M=readout.output_size)
    return data, rng.normal(size=unit.n * unit.m) * 0.3


def learned_by_hand(circuit, readout, unit, data, theta, gamma, lam, kappa, rates):
    """Ψ, φ and θ after one batch in which all of them move at every step: the six lines, in dense matrices.

    `rates` are the learning rates of "psi", "phi" and "theta". Nothing is shared with the rules: the trace is the whole
    ∂/∂θ of every state, carried by J, and a trial's own masks are Python `if`s. The models' noise is left out.
    """
    B, n, m = data.size, unit.n, unit.m
    state = circuit.initial_state(B)
    e, z_prev = np.zeros((B, n, n, m)), np.zeros((B, m))
    first = np.ones(B, bool)
    for t in range(data.steps):
        end = data.end[:, t]
        step = circuit.step(state, data.x[:, t])
        _, c, phi_gradient, _ = readout.credit(step.new, data.y[:, t], data.mask[:, t] / B)
        J, z = step.jacobian(), unit.z(step)
        ahead, before = unit(z, theta).g, unit(z_prev, theta).g
        change = np.zeros((n, m))
        for b in range(B):
            if not first[b]:
                target = c[b] if end[b] else c[b] + gamma * ahead[b]
                change += np.einsum("i,iaj->aj", target @ J[b] - before[b], e[b])
        theta = theta + rates["theta"] * change.ravel()
        g, slope = unit(z, theta)[:2]
        slope = np.broadcast_to(slope, g.shape)
        credit = np.empty_like(c)
        for b in range(B):
            e[b] = gamma * lam * np.einsum("ik,kaj->iaj", J[b], e[b])
            for a in range(n):
                e[b, a, a] += slope[b, a] * z[b]
            credit[b] = c[b] if end[b] else c[b] + kappa * g[b]
        psi = circuit.psi - rates["psi"] * step.parameter_gradient(credit)
        if circuit.signs is not None:  # a weight that would cross zero stops there
            psi = np.where(circuit.signs * psi < 0, 0, psi)
        circuit = circuit.with_psi(psi)
        readout = readout.with_phi(readout.phi - rates["phi"] * phi_gradient)
        e[end] = 0
        first, z_prev, state = end, z, circuit.reset(step.new, end)
    return {"psi": circuit.psi, "phi": readout.phi, "theta": theta}


def learned_online(rule, circuit, readout, data, theta, rates):
    """The same by the rule in the time loop."""
    optimisers = {name: bpl.SGD(rate) for name, rate in rates.items()}
    learner = bpl.Learner(circuit, readout, rule, optimisers, bpl.Schedule(1))
    start = learner.initial(theta=theta).replace(noise_rng=None)
    state, _ = bpl.run_batch(learner, start, data)
    return {name: state.parameter(name) for name in ("psi", "phi", "theta")}


def errors_of_learning_online(rule, circuit, readout, unit, data, theta, kappa=None):
    """How far each parameter's change is off, relative to the change by hand; `rule` says γ and λ, and κ if not given.

    The learning rates are large enough for a wrong term to show within a batch; that of θ is shared among the z.
    """
    rates = {"psi": 0.05, "phi": 0.03, "theta": 0.7 / unit.m}
    start = {"psi": circuit.psi, "phi": readout.phi, "theta": theta}
    gamma, lam, kappa = rule.gamma, rule.lam, rule.sg_weight if kappa is None else kappa
    expected = learned_by_hand(circuit, readout, unit, data, theta, gamma, lam, kappa, rates)
    found = learned_online(rule, circuit, readout, data, theta, rates)
    return {name: off(found[name] - start[name], expected[name] - start[name]) for name in start}


def run_script(script, *arguments):
    """A script that other tests start as a process of its own, here and now: no second start of Python."""
    before = sys.argv
    sys.argv = ["-c", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
    finally:
        sys.argv = before
    return printed.getvalue()
