"""Numbers of a text where a plain form of it overflows, cancels, or is 0 · ∞: held to mpmath, and to values by hand."""

import warnings

import mpmath
import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro import reference


def unit(expression, **parameters):
    """r' = expression of u, one neuron: as a function of u, its value and its derivative with respect to u."""
    text = "\n".join(["r : 1", "u : 1", *(f"{name} : 1" for name in parameters)])
    model = bpl.Model.from_equations(text, rate="r", update=f"r = {expression}", parameters=parameters)

    def at(u, dtype="float64"):
        circuit = bpl.Circuit(model, 1, 1, dtype=dtype)
        circuit = circuit.with_psi(0 * circuit.psi).with_weights("input->cortex", np.ones((1, 1)))
        x = np.asarray(u, dtype)[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step = circuit.step(circuit.initial_state(len(x)), x)
        slope = step.C[0].get((0, 0), 0.0)
        assert step.new.s.dtype == np.dtype(dtype) and getattr(slope, "dtype", dtype) == np.dtype(dtype)
        return step.new.s[:, 0], np.broadcast_to(slope, (len(x), 1))[:, 0]

    return at


def assert_close(found, expected, ulps, dtype="float64"):
    """Relative to each value itself."""
    expected = np.array([float(e) for e in expected])
    np.testing.assert_array_less(np.abs(found - expected), ulps * np.finfo(dtype).eps * np.abs(expected) + 1e-323)


def logistic(x):
    return 1 / (1 + mpmath.exp(-x))


FAR = [*np.linspace(-700, 700, 57), -37.1, -30.0, -1.0, -1e-9, 0.0, 1e-300, 0.3, 17.0, 36.9]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(200):
        yield


@pytest.mark.parametrize("form", ["sigmoid(u)", "1/(1 + exp(-u))", "1.0/(1.0 + exp(-u))", "1/(exp(-u) + 1)"])
def test_a_sigmoid_and_its_slope_to_a_few_ulp(form):
    value, slope = unit(form)(FAR)
    x = [mpmath.mpf(float(u)) for u in FAR]
    assert_close(value, map(logistic, x), 4)
    assert_close(slope, [logistic(u) * logistic(-u) for u in x], 6)


def test_a_sigmoid_in_single_precision():
    x = np.float32([-80, -30, -1, 0, 1, 30, 80])
    value, slope = unit("sigmoid(u)")(x, "float32")
    assert_close(value, [logistic(mpmath.mpf(float(u))) for u in x], 4, "float32")
    assert_close(slope, [logistic(mpmath.mpf(float(u))) * logistic(-mpmath.mpf(float(u))) for u in x], 6, "float32")


def test_a_sigmoid_beyond_all_bounds():
    for dtype in ("float64", "float32"):
        value, slope = unit("sigmoid(u)")([-1e5, 1e5], dtype)
        np.testing.assert_allclose(value, [0, 1], atol=1e-37)
        np.testing.assert_allclose(slope, 0, atol=1e-37)


def test_the_loss_of_bits_has_the_same_sigmoid():
    from bpl_neuro.circuit.losses import LOSSES

    x = np.array([FAR])
    gradient = LOSSES["binary_cross_entropy"](np, x, np.zeros_like(x))[1]
    assert_close(gradient[0], [logistic(mpmath.mpf(float(u))) for u in FAR], 4)


#: text → what it is
STABLE = {
    "1/(1 + exp(-4*(u - 0.3)))": lambda u: logistic(4 * (u - mpmath.mpf("0.3"))),
    "2/(1.0 + exp(-u))**2": lambda u: 2 * logistic(u) ** 2,
    "1/(2 + 3*exp(u))": lambda u: 1 / (2 + 3 * mpmath.exp(u)),
    "a/(1 + exp(-(u - b)/c))": lambda u: 3 * logistic((u - mpmath.mpf("0.7")) / mpmath.mpf("0.2")),
    "(1 + exp(-u))**(-a)": lambda u: logistic(u) ** 3,
    "exp(u)/(1 + exp(u))": logistic,
    "exp(3*u)/(1.0 + exp(3*u - 0.5))": lambda u: mpmath.exp(3 * u) / (1 + mpmath.exp(3 * u - mpmath.mpf("0.5"))),
    "log(1 + exp(10*(u - 0.5)))/10": lambda u: mpmath.log(1 + mpmath.exp(10 * u - 5)) / 10,
    "log(2.0 + 0.5*exp(u))": lambda u: mpmath.log(2 + mpmath.exp(u) / 2),
    "log1p(exp(u))": lambda u: mpmath.log(1 + mpmath.exp(u)),
    "softplus(u)": lambda u: mpmath.log(1 + mpmath.exp(u)),
}


@pytest.mark.parametrize("form", STABLE)
def test_however_a_sigmoid_or_a_softplus_is_written(form):
    points = [-20.0, -3.3, -0.4, 0.0, 0.31, 1.7, 15.0]
    value, slope = unit(form, a=3.0, b=0.7, c=0.2)(points)
    known = STABLE[form]
    np.testing.assert_allclose(value, [float(known(mpmath.mpf(p))) for p in points], rtol=2e-13)
    np.testing.assert_allclose(slope, [float(mpmath.diff(known, mpmath.mpf(p))) for p in points], rtol=2e-13)
    far = unit(form, a=3.0, b=0.7, c=0.2)([-1e5, 1e5])
    assert np.isfinite(far).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_exprel_and_its_slope_to_a_few_ulp(sign):
    points = sign * np.array([1e-320, 1e-17, 1e-9, 9.9e-6, 1e-5, 1.1e-5, 1e-3, 1e-2, 0.3, 0.99, 1.0, 1.1, 5, 50, 690])
    value, slope = unit("exprel(u)")(points)
    with mpmath.workdps(700):
        x = [mpmath.mpf(float(p)) for p in points]
        assert_close(value, [mpmath.expm1(u) / u for u in x], 6)
        assert_close(slope, [(mpmath.exp(u) * (u - 1) + 1) / u**2 for u in x], 8)


def test_exprel_where_its_exponential_overflows():
    """exp(x)/x is a number up to 716, exp(x) up to 709; and 1/|x| far to the left."""
    points = [0.0, 712.0, -1e5]
    value, slope = unit("exprel(u)")(points)
    x = [mpmath.mpf(10) ** -40, mpmath.mpf(712), mpmath.mpf(-100000)]
    np.testing.assert_allclose(value, [float(mpmath.expm1(u) / u) for u in x], rtol=1e-14)
    np.testing.assert_allclose(slope, [float((mpmath.exp(u) * (u - 1) + 1) / u**2) for u in x], rtol=1e-14)
    assert unit("exprel(a) + 0*u", a=712.0)([0.0])[0] == pytest.approx(value[1], rel=1e-14)


def test_exprel_in_single_precision():
    points = np.float32([-1e-6, 1e-6, 0.5, -3, 20])
    value, slope = unit("exprel(u)")(points, "float32")
    x = [mpmath.mpf(float(p)) for p in points]
    assert_close(value, [mpmath.expm1(u) / u for u in x], 8, "float32")
    assert_close(slope, [(mpmath.exp(u) * (u - 1) + 1) / u**2 for u in x], 12, "float32")


#: expression → its derivative at u = −1, 0 and 4
POWERS = {
    "clip(u, 0, inf)**n": [0, 0, 8],
    "relu(u)**n": [0, 0, 8],
    "clip(u, 0, inf)**half": [0, 0, 0.25],
    "clip(u, 0, inf)**0.5": [0, 0, 0.25],
    "sqrt(clip(u, 0, inf))": [0, 0, 0.25],
    "u**n": [-2, 0, 8],
    "u**one": [1, 1, 1],
    "u**zero": [0, 0, 0],
    "abs(u)**n": [-2, 0, 8],
    "abs(u)**half": [-0.5, 0, 0.25],
    "tanh(u)**n": [2 * np.tanh(-1) * (1 - np.tanh(1) ** 2), 0, 2 * np.tanh(4) * (1 - np.tanh(4) ** 2)],
    "relu(u)**n/(1 + relu(u)**n)": [0, 0, 8 / 17**2],
    "where(u > 0, sqrt(u), 0)": [0, 0, 0.25],
    "where(u <= 0, u, u**half)": [1, 1, 0.25],
    "where(u > 0, log(u), 3*u)": [3, 3, 0.25],
    "relu(sqrt(abs(u)))": [-0.5, 0, 0.25],
    "maximum(sqrt(relu(u)), 0)": [0, 0, 0.25],
    "minimum(2*u, u)": [2, 1, 1],  # where both are equal, the second
    "arcsin(clip(u/4, -1, 1))": [-0.25 / np.sqrt(1 - 1 / 16) * -1, 0.25, 0],
    "sqrt(u**2)": [-1, 0, 1],
}


@pytest.mark.parametrize("form", POWERS)
def test_powers_and_kinks_at_exactly_zero(form):
    parameters = {"n": 2.0, "half": 0.5, "one": 1.0, "zero": 0.0}
    for dtype in ("float64", "float32"):
        value, slope = unit(form, **parameters)([-1.0, 0.0, 4.0], dtype)
        assert np.isfinite(value).all()
        np.testing.assert_allclose(slope, POWERS[form], rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-300)


def test_the_derivative_by_an_exponent():
    """b^p log(b), and 0 at b = 0."""
    model = bpl.Model.from_equations(
        "r : 1\np : 1\nu : 1", rate="r", update="r = relu(u)**p\np = p", initial={"p": 1.5, "r": 0.0}
    )
    circuit = bpl.Circuit(model, 1, 1)
    circuit = circuit.with_psi(0 * circuit.psi).with_weights("input->cortex", np.ones((1, 1)))
    step = circuit.step(circuit.initial_state(3), np.array([[-1.0], [0.0], [4.0]]))
    column = step.jacobian()[:, 0, list(model.populations["cortex"].neuron.states).index("p")]
    np.testing.assert_allclose(column, [0, 0, 8 * np.log(4)])


def test_bounds_that_cross():
    """min(max(x, a), b) with a > b is b, wherever x is."""
    for x in (-2.0, 0.1, 0.5, 3.0):
        model = bpl.Model.from_equations(
            "r : 1\na : 1\nb : 1\nu : 1", rate="r", update="r = clip(u, a, b)\na = a\nb = b",
            initial={"a": 1.0, "b": 0.2},
        )  # fmt: skip
        circuit = bpl.Circuit(model, 1, 1)
        circuit = circuit.with_psi(0 * circuit.psi).with_weights("input->cortex", np.ones((1, 1)))
        step = circuit.step(circuit.initial_state(1), np.array([[x]]))
        states = model.populations["cortex"].neuron.states
        assert dict(zip(states, step.jacobian()[0, states.index("r")], strict=True)) == {"r": 0, "a": 0, "b": 1}
        assert step.C[0][0, 0] == 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("sqrt(exp(u)/(1+exp(u)))", lambda u: mpmath.sqrt(1 / (1 + mpmath.exp(-u)))),
        ("(exp(u)/(1+exp(u)))**2", lambda u: 1 / (1 + mpmath.exp(-u)) ** 2),
        ("exp(2*u)/(1+exp(u))**2", lambda u: 1 / (1 + mpmath.exp(-u)) ** 2),
        ("exp(u)/(1+exp(u))**2", lambda u: mpmath.exp(-abs(u)) / (1 + mpmath.exp(-abs(u))) ** 2),
        ("exp(0.7*(u-1))/(1+exp(0.7*(u-1)))", lambda u: 1 / (1 + mpmath.exp(-0.7 * (u - 1)))),
    ],
)
def test_powers_and_quotients_of_exponentials_overflow_nowhere(text, exact, dtype):
    equations = f"dr/dt = (-r + {text}) / tau : 1\nu : 1\ntau : second"
    model = bpl.Model.from_equations(equations, rate="r", parameters={"tau": "1*ms"}, dt="1*ms")
    circuit = bpl.Circuit(model, 1, 1, dtype=dtype)
    circuit = circuit.with_psi(np.zeros(circuit.layout.size)).with_weights("input->cortex", [[1.0]])
    u = np.array([-300.0, -80.0, -3.0, 0.0, 2.0, 50.0, 90.0, 400.0, 1000.0])
    step = circuit.step(circuit.initial_state(len(u)), u[:, None].astype(dtype))
    (slope,) = step.C[0].values()
    value = [float(exact(mpmath.mpf(x))) for x in u]
    derivative = [float(mpmath.diff(exact, mpmath.mpf(x))) if x else slope[k, 0] for k, x in enumerate(u)]
    bounds = {"float64": (1e-12, 1e-300), "float32": (1e-5, 1e-18)}[dtype]
    np.testing.assert_allclose(step.new.s[:, 0], value, rtol=bounds[0], atol=bounds[1])
    np.testing.assert_allclose(slope[:, 0], derivative, rtol=1e3 * bounds[0], atol=bounds[1])


@pytest.mark.parametrize(
    "text", ["1/(exp(u)+exp(-u))", "exp(u)/(exp(u)+exp(r))", "log(exp(u)+exp(-u))", "(exp(u)-exp(-u))/(exp(u)+exp(-u))"]
)
def test_sums_of_exponentials_are_taken_as_they_are(text):
    model = bpl.Model.from_equations(
        f"dr/dt = (-r + {text}) / tau : 1\nu : 1\ntau : second", rate="r", parameters={"tau": "1*ms"}, dt="1*ms"
    )
    assert reference.derivative_error(model) < 1e-7
