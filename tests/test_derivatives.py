"""A, C, D, every parameter gradient, every loss and every allowed function against finite differences."""

import warnings

import mpmath
import numpy as np
import pytest
import sympy as sp
from truth import MODELS, of_plastic, off

import bpl_neuro as bpl
from bpl_neuro import reference
from bpl_neuro.codegen import array_function
from bpl_neuro.functions import ALLOWED_FUNCTIONS, stabilise
from bpl_neuro.losses import LOSSES

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
}  # fmt: skip

SUBSET = """
[populations.a]
equations = "dr/dt = (-r + tanh(u) + v**3) / tau : 1\\nu : 1\\nv : 1\\ntau : second"
rate = "r"
inputs = ["u", "v"]
parameters = { tau = "3*ms" }
[populations.b]
equations = "x : 1\\nr = x**2 : 1\\nu : 1"
update = "x = tanh(u) + 0.5 * x"
rate = "r"
inputs = ["u"]
[[projections]]
from = "a"
to = "b"
[[projections]]
from = "b"
to = "a.v"
[[projections]]
from = "input"
to = "a.u"
[time]
dt = "1*ms"
"""


def circuits():
    for name in MODELS:
        yield name, bpl.Model.load(name), None
    for name, keywords in TEXTS.items():
        yield name, bpl.Model.from_equations(rate="r", dt="1*ms", **keywords), None
    yield "projections to some inputs", bpl.Model.from_toml(SUBSET), None
    tau = {"tau": np.array([0.005, 0.01, 0.02])}
    yield "a parameter per neuron", bpl.Model.load("leaky_tanh"), tau
    yield "exact, per neuron", bpl.Model.from_equations(rate="r", dt="1*ms", **TEXTS["exact, coupled"]), tau


CIRCUITS = {
    name: bpl.Circuit(model, dict.fromkeys(model.populations, 3), 2, parameters=parameters, seed=4)
    for name, model, parameters in circuits()
}


@pytest.fixture(params=CIRCUITS)
def setting(request):
    circuit = CIRCUITS[request.param]
    rng = np.random.default_rng(5)
    s = circuit.initial_state(4).s + rng.uniform(0.05, 0.9, (4, circuit.n)) * (0.001 if "Hz" in request.param else 1)
    x = rng.normal(size=(4, 2))
    return circuit, s, x, circuit.step(circuit.state(s), x), rng


def test_jacobian(setting):
    circuit, s, x, transition, _ = setting
    scale = 1e-9 if np.abs(s).max() < 0.01 else 1e-6
    expected = reference.finite_difference_jacobian(circuit, s, x, step=scale)
    assert off(transition.jacobian(), expected) < 1e-7


def test_products_agree_with_the_dense_matrix(setting):
    circuit, _, _, transition, rng = setting
    v, M = rng.normal(size=(4, circuit.n)), rng.normal(size=(4, circuit.n, 5))
    J = transition.jacobian()
    assert off(transition.vjp(v), np.einsum("bi,bij->bj", v, J)) < 1e-12
    assert off(transition.jvp(M), J @ M) < 1e-12
    np.testing.assert_allclose(transition.within() + transition.between(), J, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        transition.vjp(v, "within") + transition.vjp(v, "between"), transition.vjp(v), rtol=1e-12, atol=1e-12
    )


def test_within_touches_the_own_neuron_only(setting):
    circuit, _, _, transition, _ = setting
    allowed = np.zeros((circuit.n, circuit.n), bool)
    for pop in circuit.populations:
        for i in range(pop.N):
            own = slice(pop.state_slice.start + i * pop.S, pop.state_slice.start + (i + 1) * pop.S)
            allowed[own, own] = True
    assert not transition.within()[:, ~allowed].any()


def test_parameter_gradient(setting):
    circuit, s, x, transition, rng = setting
    v = rng.normal(size=(4, circuit.n))
    psi, state = circuit.psi, circuit.state(s)

    def value(p):
        circuit.psi = p
        return float((circuit.step(state, x).new.s * v).sum())

    expected = reference.finite_difference(value, psi.copy(), step=1e-6)
    circuit.psi = psi
    assert off(transition.parameter_gradient(v), of_plastic(circuit, expected)) < 1e-7


def test_rate_credit(setting):
    circuit, s, _, _, rng = setting
    dr = rng.normal(size=(4, circuit.rates))
    step = 1e-9 if np.abs(s).max() < 0.01 else 1e-6
    expected = reference.finite_difference(
        lambda flat: float((circuit.state(flat.reshape(s.shape)).rate * dr).sum()), s.reshape(-1).copy(), step=step
    )
    assert off(circuit.rate_credit(circuit.state(s), dr).reshape(-1), expected) < 1e-6


def test_running_without_learning_is_the_same_map(setting):
    circuit, s, x, transition, _ = setting
    assert (circuit.step(circuit.state(s), x, linearise=False).new.s == transition.new.s).all()


def own_loss(xp, output, target):
    return (output - target).__abs__().sum(axis=1) ** 1.5, 1.5 * np.sqrt(np.abs(output - target).sum(axis=1))[
        :, None
    ] * np.sign(output - target)


@pytest.mark.parametrize("loss", [*LOSSES, "labels", own_loss], ids=str)
def test_losses_and_the_readout(loss):
    circuit = bpl.Circuit("adapting", 4, 2)
    readout = bpl.Readout(circuit, 3, "cross_entropy" if loss == "labels" else loss)
    rng = np.random.default_rng(0)
    state = circuit.state(rng.normal(size=(5, circuit.n)))
    target = rng.integers(0, 3, 5) if loss == "labels" else rng.dirichlet(np.ones(3), 5)
    weight = rng.random(5)
    _, c, gradient, _ = readout.credit(state, target, weight)
    phi = readout.phi

    def by_phi(p):
        readout.phi = p
        return float(readout.credit(state, target, weight)[0].sum())

    assert off(gradient, reference.finite_difference(by_phi, phi.copy())) < 1e-6
    readout.phi = phi

    def by_state(flat):
        return float(readout.credit(circuit.state(flat.reshape(state.s.shape)), target, weight)[0].sum())

    assert off(c.reshape(-1), reference.finite_difference(by_state, state.s.reshape(-1).copy())) < 1e-6


def test_losses_at_large_outputs_stay_finite():
    big = np.array([[1e4, -1e4, 0.0]])
    for name, target in [("cross_entropy", np.array([1])), ("binary_cross_entropy", np.array([[0.0, 1.0, 1.0]]))]:
        loss, gradient = LOSSES[name](np, big, target)
        assert np.isfinite(loss).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ALLOWED_FUNCTIONS)
def test_allowed_functions(name):
    count, build = ALLOWED_FUNCTIONS[name]
    symbols = sp.symbols(f"x0:{count}", real=True)
    expr = build(*symbols)
    f = array_function("f", [symbols], [expr, *(expr.diff(s) for s in symbols)], np)
    points = {"clip": [(0.3, 0.1, 0.9), (0.05, 0.1, 0.9), (0.95, 0.1, 0.9)]}.get(name, [(0.3,), (0.7,), (0.02,)])
    for point in points:
        value, *slopes = f(point)
        expected = reference.finite_difference(lambda p: float(f(p)[0]), np.array(point), step=1e-6)
        np.testing.assert_allclose(np.array(slopes, float), expected, rtol=1e-6, atol=1e-8)
        if hasattr(np, name) and name != "clip":
            assert value == pytest.approx(getattr(np, name)(*point), rel=1e-14)


def test_values_at_kinks():
    x, a, b = sp.symbols("x a b", real=True)
    clip, absolute = ALLOWED_FUNCTIONS["clip"][1], ALLOWED_FUNCTIONS["abs"][1]
    slope = array_function("f", [[x, a, b]], [clip(x, a, b).diff(x), absolute(x).diff(x)], np)
    for point in (0.0, 1.0):
        assert slope([np.array([point]), 0.0, 1.0])[0] == 0
    assert slope([np.array([0.5]), 0.0, 1.0])[0] == 1
    assert slope([np.array([0.0]), 0.0, 1.0])[1] == 0


def test_sigmoid_and_softplus_never_overflow():
    x = sp.Symbol("x", real=True)
    for text in (1 / (1 + sp.exp(-x)), 1 / (1 + sp.exp(3 * x)) ** 2, sp.log(1 + sp.exp(x))):
        expr = stabilise(text)
        f = array_function("f", [[x]], [expr, expr.diff(x)], np)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = f([np.array([-1000.0, -3.0, 0.0, 3.0, 1000.0])])
        assert np.isfinite(values).all()
        for k, point in enumerate((-3.0, 0.0, 3.0)):
            assert values[0][k + 1] == pytest.approx(float(text.subs(x, point)), rel=1e-12)
            assert values[1][k + 1] == pytest.approx(float(text.diff(x).subs(x, point)), rel=1e-12)


@pytest.mark.parametrize("x", [0.0, 1e-12, -1e-6, 1e-4, -5e-3, 9.9e-3, 1.1e-2, 0.5, -3.0])
def test_exprel_and_its_derivative_to_high_precision(x):
    s = sp.Symbol("s", real=True)
    expr = ALLOWED_FUNCTIONS["exprel"][1](s)
    value, slope = array_function("f", [[s]], [expr, expr.diff(s)], np)([np.array([x])])
    with mpmath.workdps(200):
        z = mpmath.mpf(x) if x else mpmath.mpf(10) ** -40
        assert value[0] == pytest.approx(float(mpmath.expm1(z) / z), rel=1e-14)
        assert slope[0] == pytest.approx(float((mpmath.exp(z) * (z - 1) + 1) / z**2), rel=1e-11)


def test_the_lstm_against_its_textbook_formulas():
    circuit = bpl.Circuit("lstm", 5, 3, seed=1)
    rng = np.random.default_rng(0)
    s, x = rng.normal(size=(4, 10)), rng.normal(size=(4, 3))
    h, c = s.reshape(4, 5, 2)[..., 0], s.reshape(4, 5, 2)[..., 1]
    w = circuit.weights
    u = [h @ w["cell->cell"][p].T + x @ w["input->cell"][p].T + w["bias->cell"][p] for p in range(4)]
    gate_in, gate_forget, gate_out = (1 / (1 + np.exp(-u[p])) for p in (0, 1, 3))
    c_new = gate_forget * c + gate_in * np.tanh(u[2])
    expected = np.stack([gate_out * np.tanh(c_new), c_new], axis=-1)
    np.testing.assert_allclose(circuit.step(circuit.state(s), x).new.s.reshape(4, 5, 2), expected, atol=1e-15)
