"""Circuits that a user might write: their derivatives, also from an initial state of exactly 0, and that they learn."""

import warnings

import numpy as np
import pytest
from truth import of_plastic, off
from typer.testing import CliRunner

import bpl_neuro as bpl
from bpl_neuro import reference
from bpl_neuro.cli import app

STABILISED_SUPRALINEAR = """
[populations.exc]
equations = '''
dr/dt = (-r + k * clip(u, 0, inf)**n) / tau : 1
u : 1
k : 1 (constant)
n : 1 (constant)
tau : second (constant)
'''
rate = "r"
inputs = ["u"]
parameters = { tau = "20*ms", k = 0.5, n = 2 }
[populations.inh]
equations = '''
dr/dt = (-r + k * relu(u)**n) / tau : 1
u : 1
k : 1 (constant)
n : 1 (constant)
tau : second (constant)
'''
rate = "r"
inputs = ["u"]
parameters = { tau = "10*ms", k = 0.5, n = 2.2 }
[[projections]]
from = "exc"
to = "exc"
sign = "+"
[[projections]]
from = "exc"
to = "inh"
sign = "+"
[[projections]]
from = "inh"
to = "exc"
sign = "-"
[[projections]]
from = "inh"
to = "inh"
sign = "-"
[time]
dt = "2*ms"
"""

#: PyTorch's GRU: the reset gate multiplies what W h has summed to, which comes by a port of its own
GRU = """
[populations.cell]
equations = '''
h : 1
reset = sigmoid(u_reset) : 1
update_gate = sigmoid(u_update) : 1
candidate = tanh(u_new + reset * u_gated) : 1
u_reset : 1
u_update : 1
u_new : 1
u_gated : 1
'''
update = "h = (1 - update_gate) * candidate + update_gate * h"
rate = "h"
inputs = ["u_reset", "u_update", "u_new", "u_gated"]
[[projections]]
from = "cell"
to = "cell.u_reset"
[[projections]]
from = "cell"
to = "cell.u_update"
[[projections]]
from = "cell"
to = "cell.u_gated"
[[projections]]
from = "input"
to = "cell.u_reset"
[[projections]]
from = "input"
to = "cell.u_update"
[[projections]]
from = "input"
to = "cell.u_new"
"""

DEPRESSION_AND_FACILITATION = {
    "equations": """dr/dt = (-r + relu(u)) / tau : 1
                    dx/dt = (1 - x) / tau_d - p * x * r * gain / second : 1
                    dp/dt = (U - p) / tau_f + U * (1 - p) * r * gain / second : 1
                    sent = p * x * r : 1
                    u : 1
                    U : 1
                    gain : 1
                    tau : second
                    tau_d : second
                    tau_f : second""",
    "rate": "sent", "dt": "2*ms", "initial": {"x": 1, "p": 0.3},
    "parameters": {"tau": "10*ms", "tau_d": "200*ms", "tau_f": "300*ms", "U": 0.3, "gain": 10},
}  # fmt: skip

HILL = {
    "equations": """dr/dt = (-r + relu(u)**n / (K**n + relu(u)**n)) / tau : 1
                    y = r**n / (K**n + r**n) : 1
                    u : 1
                    n : 1
                    K : 1
                    tau : second""",
    "rate": "y", "dt": "2*ms", "parameters": {"tau": "10*ms", "n": 2.5, "K": 0.3},
}  # fmt: skip

SWITCHES = {
    "equations": """dx/dt = (-x + where(u > 0.2, sqrt(u), 0.5 * u) + minimum(x, 0.5) * u) / where(x < u, tau, 2*tau) : 1
                    r = maximum(x, 0.1 * x) : 1
                    u : 1
                    tau : second""",
    "rate": "r", "dt": "2*ms", "parameters": {"tau": "10*ms"},
}  # fmt: skip

ERROR_FUNCTION = {
    "equations": """dx/dt = (-x + u) / tau : 1
                    r = 0.5 * (1 + erf(x / sigma)) : 1
                    u : 1
                    sigma : 1
                    tau : second""",
    "rate": "r", "dt": "2*ms", "method": "exponential_euler", "parameters": {"tau": "10*ms", "sigma": 0.8},
}  # fmt: skip

SOFT = {
    "equations": """dr/dt = (-r + softplus(beta * u) / beta + abs(r)**0.5 * sigmoid(u)) / tau : 1
                    u : 1
                    beta : 1
                    tau : second""",
    "rate": "r", "dt": "2*ms", "parameters": {"tau": "10*ms", "beta": 3.0},
}  # fmt: skip

MODELS = {
    "stabilised supralinear": STABILISED_SUPRALINEAR, "gated recurrent unit": GRU,
    "depression and facilitation": DEPRESSION_AND_FACILITATION, "Hill": HILL, "switches": SWITCHES,
    "error function": ERROR_FUNCTION, "soft": SOFT,
}  # fmt: skip


def circuit_of(name, size=4, inputs=3, **keywords):
    text = MODELS[name]
    model = bpl.Model.from_toml(text) if isinstance(text, str) else bpl.Model.from_equations(**text)
    return bpl.Circuit(model, dict.fromkeys(model.populations, size), inputs, seed=3, **keywords)


def readout_of(circuit):
    return bpl.Readout(circuit, 2, seed=4)


def batch_of(inputs, seed=0, B=8, T=12):
    """Follow a smoothed sum of the inputs: what a circuit of any kind can learn a part of."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, T, inputs)) + 0.5
    y = np.stack([0.3 * np.tanh(x.cumsum(axis=1).mean(axis=2) / 4) + 0.4, np.full((B, T), 0.5)], axis=2)
    end = np.zeros((B, T), bool)
    end[:, -1] = True
    return bpl.Batch(x, y, np.ones((B, T)), end)


def loss_and_gradient(circuit, readout, batch):
    """The loss of a batch and its gradient with respect to Ψ, with everything frozen."""
    run = reference.slow_run(circuit, readout, batch)
    return run.loss, reference.bptt(run)[1]


@pytest.mark.parametrize("name", MODELS)
def test_the_jacobian(name):
    """A and C W D, away from kinks."""
    circuit, rng = circuit_of(name), np.random.default_rng(1)
    s, x = rng.uniform(0.15, 0.9, (5, circuit.n)), rng.normal(size=(5, 3)) + 0.3
    found = circuit.step(circuit.state(s), x).jacobian()
    assert off(found, reference.finite_difference_jacobian(circuit, s, x)) < 1e-7


@pytest.mark.parametrize("name", MODELS)
def test_each_factor(name):
    """A, C and D one by one: by a state, by a bias of each port, and by what is sent."""
    circuit, rng = circuit_of(name), np.random.default_rng(2)
    s, x = rng.uniform(0.15, 0.9, (3, circuit.n)), rng.normal(size=(3, 3)) + 0.3
    step = circuit.step(circuit.state(s), x)
    h = 1e-6
    for q, pop in enumerate(circuit.populations):
        own = slice(pop.state_slice.start, pop.state_slice.stop)
        for p in range(pop.P):
            moved = []
            for change in (h, -h):
                psi = circuit.psi.copy()
                circuit.layout.views(psi)[f"bias->{pop.name}"][p] += change
                moved.append(circuit.with_psi(psi).step(circuit.state(s), x).new.s[:, own].reshape(3, pop.N, pop.S))
            expected = (moved[0] - moved[1]) / (2 * h)
            found = np.zeros_like(expected)
            for (k, port), c in step.C[q].items():
                if port == p:
                    found[:, :, k] = c
            np.testing.assert_allclose(found, expected, atol=1e-7, rtol=1e-6)
    dr = rng.normal(size=(3, circuit.rates))
    expected = reference.finite_difference(
        lambda flat: float((circuit.state(flat.reshape(s.shape)).rate * dr).sum()), s.reshape(-1).copy()
    )
    assert off(circuit.rate_credit(circuit.state(s), dr).reshape(-1), expected) < 1e-7


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_of_a_batch(name):
    """Through several steps from the initial state."""
    circuit = circuit_of(name)
    readout, batch = readout_of(circuit), batch_of(3, B=2, T=5)
    loss, gradient = loss_and_gradient(circuit, readout, batch)

    def value(p):
        return loss_and_gradient(circuit.with_psi(p), readout, batch)[0]

    expected = reference.finite_difference(value, circuit.psi.copy())
    assert loss > 0 and np.isfinite(gradient).all()
    assert off(of_plastic(circuit, gradient), of_plastic(circuit, expected)) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_at_exactly_zero_everything_is_a_number(name, dtype):
    """No input, no weights, a state of 0: where powers and roots divide by 0 if derived carelessly."""
    drawn = circuit_of(name, dtype=dtype)
    for circuit in (drawn, drawn.with_psi(0 * drawn.psi)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step = circuit.step(circuit.state(np.zeros((2, circuit.n), dtype)), np.zeros((2, 3), dtype))
        for values in (step.new.s, step.jacobian(), step.parameter_gradient(np.ones((2, circuit.n), dtype))):
            assert values.dtype == np.dtype(dtype)
            assert np.isfinite(values).all()


@pytest.mark.parametrize("rule", ["bptt", "bp_lambda"])
@pytest.mark.parametrize("name", MODELS)
def test_it_learns(name, rule):
    """Twenty batches from the initial state: the loss on the first falls by a tenth at least."""
    circuit = circuit_of(name, size=8)
    readout = readout_of(circuit)
    trainer = bpl.Trainer(circuit, readout, bpl.make_rule(rule, circuit), optimiser=bpl.Adam(1e-2))
    losses = [trainer.train_batch(batch_of(3, seed=k % 2)).loss for k in range(20)]
    psi = trainer.parameter("psi")
    assert np.isfinite(losses).all() and np.isfinite(psi).all()
    assert losses[-1] < 0.9 * losses[1]
    assert (psi != circuit.psi).any()


def test_the_gated_recurrent_unit_against_its_formulas():
    circuit = circuit_of("gated recurrent unit", size=5)
    w, x = circuit.weights, np.random.default_rng(0).normal(size=(7, 3))
    bias, h = w["bias->cell"], np.zeros(5)
    for x_t, found in zip(x, circuit.run(x[None])[0][0], strict=True):
        W = {port: w[f"cell->cell.u_{port}"][0] for port in ("reset", "update", "gated")}
        V = {port: w[f"input->cell.u_{port}"][0] for port in ("reset", "update", "new")}
        reset = 1 / (1 + np.exp(-(W["reset"] @ h + V["reset"] @ x_t + bias[0])))
        update = 1 / (1 + np.exp(-(W["update"] @ h + V["update"] @ x_t + bias[1])))
        candidate = np.tanh(V["new"] @ x_t + bias[2] + reset * (W["gated"] @ h + bias[3]))
        h = (1 - update) * candidate + update * h
        np.testing.assert_allclose(found, h, rtol=1e-13)


def test_the_supralinear_network_keeps_dales_signs_while_it_learns():
    circuit = circuit_of("stabilised supralinear", size=8)
    trainer = bpl.Trainer(circuit, readout_of(circuit), bpl.make_rule("bptt", circuit), optimiser=bpl.Adam(1e-2))
    for k in range(5):
        trainer.train_batch(batch_of(3, seed=k))
    assert (trainer.parameter("psi") != circuit.psi).any()
    for key, weights in trainer.weights.items():
        if key.startswith("exc->"):
            assert (weights >= 0).all()
        if key.startswith("inh->"):
            assert (weights <= 0).all()


@pytest.mark.parametrize(("text", "finite"), [("sqrt(u)", False), ("sqrt(clip(u, 0, inf))", True), ("u**n", True)])
def test_a_derivative_that_is_no_number_at_the_start_is_found(text, finite, tmp_path):
    """`bpl-neuro check` looks there, too, not only at random states."""
    equations = f"dr/dt = (-r + {text}) / tau : 1\nu : 1\ntau : second\nn : 1"
    parameters = {"tau": "10*ms", "n": 1.5 if "clip" in text else 2.0}
    model = bpl.Model.from_equations(equations, rate="r", parameters=parameters, dt="1*ms")
    assert np.isfinite(reference.derivative_error(model)) == finite
    (tmp_path / "m.toml").write_text(model.to_toml(), encoding="utf-8")
    result = CliRunner().invoke(app, ["check", str(tmp_path / "m.toml")])
    assert (result.exit_code == 0) == finite
    assert finite or "initial state" in str(result.exception)
