"""A, C, D, every parameter gradient, every loss and every allowed function against finite differences."""

import warnings

import mpmath
import numpy as np
import pytest
import sympy as sp
from helpers import TEXTS
from truth import MODELS, of_plastic, off

import bpl_neuro as bpl
from bpl_neuro import reference
from bpl_neuro.circuit.losses import LOSSES
from bpl_neuro.circuit.trajectory import stack, unroll
from bpl_neuro.model.codegen import array_function
from bpl_neuro.model.derivative import derivative
from bpl_neuro.model.functions import FUNCTIONS, written_functions
from bpl_neuro.model.stable import stabilise

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
    state = circuit.state(s)

    def value(p):
        return float((circuit.with_psi(p).step(state, x).new.s * v).sum())

    expected = reference.finite_difference(value, circuit.psi.copy(), step=1e-6)
    assert off(transition.parameter_gradient(v), of_plastic(circuit, expected)) < 1e-7


def test_between_is_what_the_definition_says(setting):
    """O = Σ_p C_p W_p Dᵀ, assembled here from the factors; with blockdiag(A) it is the whole J."""
    circuit, _, _, transition, _ = setting
    expected = np.zeros((4, circuit.n, circuit.n))
    for synapses in transition.wiring.synapses:
        if synapses.pre is None:
            continue
        post, pre = (circuit.populations[q] for q in (synapses.post, synapses.pre))
        full = np.zeros((4, post.N, post.S, pre.N, pre.S))
        for (k, p), c in transition.C[synapses.post].items():
            for j, d in transition.wiring.slopes(synapses, transition.previous).items():
                if p in synapses.ports:
                    W = circuit.weights[synapses.key][synapses.ports.index(p)]
                    c, d = (np.broadcast_to(f, (4, pop.N)) for f, pop in ((c, post), (d, pre)))
                    full[:, :, k, :, j] += np.einsum("bi,ij,bj->bij", c, W, d)
        expected[:, post.state_slice, pre.state_slice] += full.reshape(4, post.N * post.S, pre.N * pre.S)
    np.testing.assert_allclose(transition.between(), expected, rtol=1e-12, atol=1e-15)


def test_a_whole_row_of_steps_gives_the_sum_of_their_parameter_gradients(setting):
    circuit, s, x, transition, rng = setting
    other = circuit.step(circuit.state(s[::-1]), 2 * x)
    credits = rng.normal(size=(2, 4, circuit.n))
    both = stack([transition, other], np.zeros((2, 4, circuit.n)), np.zeros((2, 4), bool))
    expected = transition.parameter_gradient(credits[0]) + other.parameter_gradient(credits[1])
    assert off(both.parameter_gradient(credits), expected) < 1e-12


def test_steps_that_are_linearised_together_are_the_steps_one_by_one(setting):
    """Every factor, every product and where trials begin again, of both ways to make a trajectory."""
    circuit, s, x, _, rng = setting
    xs = np.stack([x, 2 * x])
    end = np.array([[True, False, True, False], [True] * 4])
    together = unroll(circuit, circuit.state(s), xs, end)
    now, steps = circuit.state(s), []
    for x_t, end_t in zip(xs, end, strict=True):
        steps.append(circuit.step(now, x_t))
        now = circuit.reset(steps[-1].new, end_t)
    v = rng.normal(size=(4, circuit.n))
    for one in (together, stack(steps, 0 * together.c, end)):
        assert len(one) == 2
        for t, step in enumerate(steps):
            assert off(one[t].new.s, step.new.s) < 1e-13 and off(one[t].jacobian(), step.jacobian()) < 1e-12
            parts = circuit.wiring.split(v)
            assert off(circuit.wiring.join(one.back(t, parts)), step.vjp(v)) < 1e-12
            assert off(one[t].parameter_gradient(v), step.parameter_gradient(v)) < 1e-12


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

    def by_phi(p):
        return float(readout.with_phi(p).credit(state, target, weight)[0].sum())

    assert off(gradient, reference.finite_difference(by_phi, readout.phi.copy())) < 1e-7

    def by_state(flat):
        return float(readout.credit(circuit.state(flat.reshape(state.s.shape)), target, weight)[0].sum())

    assert off(c.reshape(-1), reference.finite_difference(by_state, state.s.reshape(-1).copy())) < 1e-7


def test_losses_at_large_outputs_stay_finite():
    big = np.array([[1e4, -1e4, 0.0]])
    for name, target in [("cross_entropy", np.array([1])), ("binary_cross_entropy", np.array([[0.0, 1.0, 1.0]]))]:
        loss, gradient = LOSSES[name](np, big, target)
        assert np.isfinite(loss).all() and np.isfinite(gradient).all()


#: what each function is, by others than ours
KNOWN = {
    "abs": abs, "clip": lambda x, a, b: min(max(x, a), b), "exprel": lambda x: mpmath.expm1(x) / x,
    "relu": lambda x: max(x, 0), "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)), "erf": mpmath.erf,
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)), "where": lambda x, a, b: a if x else b,
}  # fmt: skip
KNOWN |= {name: getattr(np, name) for name in written_functions() if name not in KNOWN}


@pytest.mark.parametrize("name", written_functions())
def test_allowed_functions(name):
    symbols = sp.symbols(f"x0:{FUNCTIONS[name].arguments}", real=True)
    expr = FUNCTIONS[name].form(*symbols)
    f = array_function("f", [symbols], [expr, *(derivative(expr, s) for s in symbols)], np)
    inside = [(0.3,), (0.7,), (0.02,)]
    points = {
        "clip": [(0.3, 0.1, 0.9), (0.05, 0.1, 0.9), (0.95, 0.1, 0.9), (-2.0, -3.0, -1.0)]
        + [(x, 0.9, 0.1) for x in (-0.3, 0.05, 0.4, 1.3)],  # bounds that cross: the upper one, wherever x is
        "maximum": [(0.3, 0.1), (-0.3, 0.1)],
        "minimum": [(0.3, 0.1), (-0.3, 0.1)],
        "where": [(1.0, 0.3, 0.7), (0.0, 0.3, 0.7)],
        **{key: [*inside, (40.0,)] for key in ("log", "log10", "sqrt")},
        **{key: [*inside, (-0.4,)] for key in ("arcsin", "arccos", "log1p")},
    }.get(name, [*inside, (-0.4,), (-3.0,), (2.9,)])
    for point in points:
        value, *slopes = f(point)
        expected = reference.finite_difference(lambda p: float(f(p)[0]), np.array(point), step=1e-5)
        np.testing.assert_allclose(np.array(slopes, float), expected, rtol=1e-7, atol=1e-9)
        assert value == pytest.approx(float(KNOWN[name](*point)), rel=1e-13)


@pytest.mark.parametrize(
    ("name", "point", "slopes"),
    [
        ("clip", (0.0, 0.0, 1.0), (0, 1, 0)),  # at a bound, it is the bound that counts
        ("clip", (1.0, 0.0, 1.0), (0, 0, 1)),
        ("clip", (0.5, 0.0, 1.0), (1, 0, 0)),
        ("clip", (0.0, 0.0, np.inf), (0, 1, 0)),
        ("clip", (0.0, -np.inf, np.inf), (1, 0, 0)),
        ("abs", (0.0,), (0,)),
        ("abs", (-0.0,), (0,)),
        ("sign", (0.0,), (0,)),
        ("exprel", (0.0,), (0.5,)),
        ("clip", (0.2, 0.5, 0.5), (0, 0, 1)),  # bounds that meet: the upper one
        ("clip", (0.5, 0.5, 0.5), (0, 0, 1)),
        ("relu", (0.0,), (0,)),
        ("maximum", (0.3, 0.3), (0, 1)),  # as for clip: the second is the bound
        ("minimum", (0.3, 0.3), (0, 1)),
        ("sqrt", (1.0,), (0.5,)),
    ],
)
def test_values_at_kinks(name, point, slopes):
    symbols = sp.symbols(f"x0:{FUNCTIONS[name].arguments}", real=True)
    expr = FUNCTIONS[name].form(*symbols)
    f = array_function("f", [symbols], [derivative(expr, s) for s in symbols], np)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = f([np.array([p]) for p in point])
    assert [float(np.squeeze(slope)) for slope in found] == list(slopes)


@pytest.mark.parametrize("model", MODELS)
def test_no_model_overflows_far_out(model):
    """Huge inputs saturate; they give no warning, no NaN, and derivatives that are still finite."""
    circuit = bpl.Circuit(model, dict.fromkeys(bpl.Model.load(model).populations, 3), 2)
    x = np.array([[1e3, -1e3], [-1e5, -1e5], [1e5, 1e5]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transition = circuit.step(circuit.initial_state(3), x)
        again = circuit.step(transition.new, -x)
    for t in (transition, again):
        assert np.isfinite(t.new.s).all() and np.isfinite(t.jacobian()).all()


def test_a_decay_of_exactly_zero():
    """dr/dt = −a u r + …, with u = 0: exponential Euler divides by the decay only in its textbook form."""
    model = bpl.Model.from_equations(rate="r", dt="1*ms", **TEXTS["a decay that passes 0"])
    circuit = bpl.Circuit(model, 3, 2)
    circuit = circuit.with_psi(0 * circuit.psi).with_weights("input->cortex", np.eye(3, 2))
    s = np.random.default_rng(0).normal(size=(3, 3))
    x = np.array([[0.0, 0.0], [1e-9, -1e-9], [1e-5, 1e-3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transition = circuit.step(circuit.state(s), x)
    assert (transition.new.s[0] == s[0]).all()
    assert off(transition.jacobian(), reference.finite_difference_jacobian(circuit, s, x)) < 1e-7
    v = np.ones((3, 3))

    def by_weights(p):
        return float(circuit.with_psi(p).step(circuit.state(s), x).new.s.sum())

    expected = reference.finite_difference(by_weights, circuit.psi.copy())
    assert off(transition.parameter_gradient(v), expected) < 1e-7


@pytest.mark.parametrize(
    "keywords", [{}, {"sees": "rate"}, {"sees_input": True}, {"expansion": 6, "fan_in": 2}], ids=str
)
@pytest.mark.parametrize("equation", ["v", "tanh(v)", "a * tanh(v / a)", "a * v", "log(1 + exp(v))", "clip(v, -1, 1)"])
def test_the_synthesisers_derivatives(equation, keywords):
    """Its slope and Σ v ∂g/∂θ, for whatever it sees."""
    synthesiser = {"equations": f"g = {equation} : 1\nv : 1\na : 1", "parameters": {"a": 0.4}}
    model = bpl.Model.from_equations(rate="r", dt="1*ms", synthesiser=synthesiser, **TEXTS["exact, coupled"])
    circuit = bpl.Circuit(model, 3, 2, seed=1)
    unit = bpl.Synthesiser(circuit, **keywords)
    rng = np.random.default_rng(0)
    z = unit.z(circuit.step(circuit.state(rng.normal(size=(4, circuit.n))), rng.normal(size=(4, 2))))
    theta, v = rng.normal(size=unit.n * unit.m) * 0.4, rng.normal(size=(4, unit.n))
    expected = reference.finite_difference(lambda flat: float((v * unit(z, flat)[0]).sum()), theta)
    assert off(unit.gradient(v, unit(z, theta)), expected) < 1e-7


def test_sigmoid_and_softplus_never_overflow():
    x = sp.Symbol("x", real=True)
    for text in (1 / (1 + sp.exp(-x)), 1 / (1 + sp.exp(3 * x)) ** 2, sp.log(1 + sp.exp(x))):
        expr = stabilise(text)
        f = array_function("f", [[x]], [expr, derivative(expr, x)], np)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = f([np.array([-1000.0, -3.0, 0.0, 3.0, 1000.0])])
        assert np.isfinite(values).all()
        for k, point in enumerate((-3.0, 0.0, 3.0)):
            assert values[0][k + 1] == pytest.approx(float(text.subs(x, point)), rel=1e-12)
            assert values[1][k + 1] == pytest.approx(float(text.diff(x).subs(x, point)), rel=1e-12)


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


def test_the_root_of_a_square_is_an_absolute_value_also_for_the_exact_method():
    equations = "dx/dt = (-x + sqrt(u**2)) / tau : 1\nu : 1\ntau : second"
    model = bpl.Model.from_equations(equations, rate="x", parameters={"tau": "5*ms"}, dt="1*ms", method="exact")
    assert reference.derivative_error(model) < 1e-7
    with pytest.raises(bpl.ModelError, match="linear in the states"):
        bpl.Model.from_equations(
            equations.replace("u**2", "x**2"), rate="x", parameters={"tau": "5*ms"}, dt="1*ms", method="exact"
        )
