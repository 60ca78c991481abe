"""The table of functions: every entry agrees with itself in NumPy, in CUDA and in Brian2; adding one is one entry."""

import re
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from host_shim import COMPILER
from strict_cupy import StrictCupy
from truth import off

import bpl_neuro as bpl
from bpl_neuro import reference
from bpl_neuro.backend.cupy_backend import CupyBackend
from bpl_neuro.model import functions
from bpl_neuro.model.brian2_functions import brian2_functions
from bpl_neuro.model.codegen import array_function
from bpl_neuro.model.derivative import derivative
from bpl_neuro.model.functions import FUNCTIONS, HEADS, Function, register, written_functions

DOCS = Path(__file__).resolve().parents[1] / "docs" / "models.md"
RNG = np.random.default_rng(0)
#: where a function is defined, if not everywhere; kinks and both sides of them are among the points
DOMAIN = {
    **dict.fromkeys(("log", "log10", "sqrt"), (0.1, 5)),
    **dict.fromkeys(("arcsin", "arccos"), (-0.9, 0.9)), "log1p": (-0.9, 5),
}  # fmt: skip


def points(function):
    low, high = DOMAIN.get(function.name, (-4, 4))
    x = RNG.uniform(low, high, (function.arguments, 1, 200))
    x[:, 0, :6] = np.clip(0.0, low, high)
    x[0, 0, 3:6] = np.clip([-1e-3, 1e-3, 1e-9], low, high)
    if function.name == "where":
        x[0] = x[0] > 0
    return list(x)


def with_slopes(function):
    """Its symbols, and itself with its derivatives."""
    symbols = sp.symbols(f"s0:{function.arguments}", real=True)
    expr = function.form(*symbols)
    slopes = [] if function.name != "sqrt" and function.slopes is None else [derivative(expr, s) for s in symbols]
    return symbols, [expr, *slopes]


@pytest.mark.stage
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_and_cuda_agree(name, dtype):
    device = CupyBackend(StrictCupy())
    symbols, results = with_slopes(FUNCTIONS[name])
    x = [value.astype(dtype) for value in points(FUNCTIONS[name])]
    on_host = array_function("f", [symbols], results, np)(x)
    on_device = device.elementwise("f", [symbols], results)([device.asarray(value) for value in x])
    tolerance = {"float64": 3e-14, "float32": 3e-6}[dtype]
    for ours, theirs in zip(on_host, on_device, strict=True):
        if hasattr(ours, "dtype"):
            assert ours.dtype == np.dtype(dtype)
            np.testing.assert_allclose(device.to_host(theirs), ours, rtol=tolerance, atol=tolerance)
        else:
            assert theirs == ours


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_number_and_an_array_of_it_give_the_same(name):
    symbols, results = with_slopes(FUNCTIONS[name])
    f = array_function("f", [symbols], results, np)
    for k in range(5):
        x = [float(value[0, k + 1]) for value in points(FUNCTIONS[name])]
        numbers, arrays = f(x), f([np.array([[value]]) for value in x])
        for number, array in zip(numbers, arrays, strict=True):
            assert isinstance(number, float | int)
            assert number == pytest.approx(np.squeeze(array).item(), rel=1e-14)


@pytest.mark.parametrize("method", ["euler", "exponential_euler"])
def test_brian2_runs_what_it_does_not_know(method):
    import brian2 as b2

    b2.prefs.codegen.target = "numpy"
    b2.start_scope()
    slope = (
        "relu(a) - sigmoid(2*x) + softplus(a) - erf(x + a) + maximum(x, 0.1) * minimum(a, 0.2) + where(x > a, a, 0.3)"
    )
    text = f"dx/dt = (-x + {slope}) / tau : 1\ny = 2*where(x <= 0.3, x*mV, relu(-x*mV)) : volt\na : 1\ntau : second"
    assert {call for call in re.findall(r"(\w+)\(", text)} == set(brian2_functions())
    model = bpl.Model.from_equations(
        text, rate="y", inputs=["a"], method=method, dt="1*ms", parameters={"tau": "10*ms"}, initial={"x": 0.4}
    )
    circuit = bpl.Circuit(model, 20, 1)
    a = np.linspace(-1, 1, 20)
    circuit = circuit.with_psi(0 * circuit.psi).with_weights("bias->cortex", a[None])
    group = b2.NeuronGroup(20, text, method=method, dt=1 * b2.ms, namespace=brian2_functions())
    group.x, group.a, group.tau = 0.4, a, 10 * b2.ms
    b2.Network(group).run(100 * b2.ms)
    ours = circuit.run(np.zeros((1, 100, 1)))[0]
    np.testing.assert_allclose(ours[0, -1], np.asarray(group.x), rtol=1e-12)
    rate = circuit.state(ours[:, -1]).rate[0]
    np.testing.assert_allclose(rate, np.asarray(group.y), rtol=1e-12, atol=1e-15)


def test_a_new_function_is_one_entry():
    softsign = register(
        Function(
            "softsign", 1, lambda x: (1 / (1 + functions.absolute(x)) ** 2,), lambda xp, x: x / (1 + xp.abs(x)),
            "return x / (1 + fabs(x));", units=(1,),
        )
    )  # fmt: skip
    try:
        text = "dr/dt = (-r + softsign(u + r)) / tau : 1\nu : 1\ntau : second"
        model = bpl.Model.from_equations(text, rate="r", dt="1*ms", parameters={"tau": "3*ms"})
        circuit = bpl.Circuit(model, 3, 2)
        s, x = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 2))
        found = circuit.step(circuit.state(s), x).jacobian()
        assert off(found, reference.finite_difference_jacobian(circuit, s, x)) < 1e-7
        assert model.populations["cortex"].neuron.update[0].has(softsign)
        with pytest.raises(ValueError, match="'softsign' already"):
            register(FUNCTIONS["softsign"])
    finally:
        del FUNCTIONS["softsign"], HEADS["softsign"]


def test_calls_that_are_cheaper_together_are_made_together_and_give_the_same_bits():
    circuit = bpl.Circuit("lstm", 5, 3)
    pop = circuit.populations[0]
    assert pop.step.source.count("sigmoid(") == 1
    symbols = circuit.model.populations["cell"].neuron.symbols
    groups = [RNG.normal(size=(len(group), 4, 5)) for group in symbols[:2]]
    for u, symbol in zip(groups[1], symbols[1], strict=True):
        for form in (functions.sigmoid, functions.sigmoid_slope):
            both = [form(s) for s in symbols[1]] + [functions.sigmoid(symbol)]
            together = array_function("f", symbols, both, np)([], groups[1], [])
            alone = array_function("f", [[symbol]], [form(symbol)], np)([u])[0]
            np.testing.assert_array_equal(together[symbols[1].index(symbol)], alone)


def test_the_documentation_lists_the_table():
    text = DOCS.read_text(encoding="utf-8")
    listed = re.search(r"^Functions: `([\w\s]+)`", text, re.MULTILINE)
    assert sorted(listed[1].split()) == sorted(written_functions())
    for name, function in FUNCTIONS.items():
        if function.kink:
            assert re.search(rf"^\| `{name}\(.*\| {re.escape(function.kink)}", text, re.MULTILINE), name
