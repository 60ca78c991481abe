"""Names of a user's text that the package itself might use: each is just a name."""

import builtins
import keyword

import numpy as np
import pytest
import scipy.special
import sympy as sp
from tally import tally
from truth import off

import bpl_neuro as bpl
from bpl_neuro import reference
from bpl_neuro.model import names
from bpl_neuro.model.functions import FUNCTIONS

#: a text with places for three names: a state, a parameter and an input
TEXT = """
[populations.cortex]
equations = '''
dr/dt = (-r + tanh({input}) + {parameter} * {state}) / tau : 1
d{state}/dt = (r - {state}) / tau : 1
{input} : 1
{parameter} : 1
tau : second
'''
method = "{method}"
rate = "r"
inputs = ["{input}"]
parameters = {{ tau = "4*ms", {parameter} = -0.4 }}
initial = {{ {state} = 0.7 }}
[time]
dt = "1*ms"
[[projections]]
from = "cortex"
to = "cortex"
delay = "3*ms"
"""
NAMES = ["delay_1", "delay_2", "rate", "state", "t0", "a0_0", "group0", "E0_0", "I0_0", "v0", "A0_0", "x0", "inputs"]


def circuit(state="q", parameter="w", drive="u", method="euler"):
    text = TEXT.format(state=state, parameter=parameter, input=drive, method=method)
    return bpl.Circuit(bpl.Model.from_toml(text), 3, 2, seed=1)


@pytest.mark.parametrize("method", ["euler", "exact"])
@pytest.mark.parametrize("place", ["state", "parameter", "drive"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_changes_no_number(name, place, method):
    plain, named = circuit(method=method), circuit(method=method, **{place: name})
    x = np.random.default_rng(0).normal(size=(2, 8, 2))
    np.testing.assert_allclose(named.run(x)[0], plain.run(x)[0], rtol=1e-12, atol=1e-15)  # SymPy orders terms by name
    s, x = np.random.default_rng(1).normal(size=(2, plain.n)), x[:, 0]
    jacobian = named.step(named.state(s), x).jacobian()
    assert off(jacobian, reference.finite_difference_jacobian(named, s, x)) < 1e-7


@pytest.mark.parametrize("declared", ["second", "volt"])
def test_a_parameter_called_rate_keeps_its_unit(declared):
    text = f"dx/dt = (-x + u)/rate0 : 1\nr = x : 1\nu : 1\nrate0 : second\nrate : {declared}"
    value = {"second": "3*ms", "volt": "2*mV"}[declared]
    keywords = {"rate": "r", "dt": "1*ms"}
    model = bpl.Model.from_equations(text, parameters={"rate0": "4*ms", "rate": value}, **keywords)
    neuron = model.populations["cortex"].neuron
    assert model.populations["cortex"].parameters["rate"] == pytest.approx({"second": 3e-3, "volt": 2e-3}[declared])
    assert str(neuron.rate_dimensions) == "1"
    assert neuron.with_delay_line(2).dimensions[neuron.with_delay_line(2).states[-1]] is neuron.rate_dimensions
    with pytest.raises(bpl.ModelError, match="rate: must have the unit"):
        bpl.Model.from_equations(text, parameters={"rate0": "4*ms", "rate": 3}, **keywords)


@pytest.mark.parametrize("name", ["_delay_1", "_E0_0", "dt", "t", "xi", "xi_a", "relu", "where", "sigmoid"])
def test_names_that_mean_something_are_refused(name):
    with pytest.raises(bpl.ModelError, match=f"{name}'?"):
        circuit(parameter=name)


#: a text with every kind of name in it: a state, a subexpression, an input, a parameter and a population
EVERYWHERE = """
[populations.{population}]
equations = '''
dr/dt = (-r + tanh({drive}) + {parameter} * {sub} + exp(-{state}**2)) / tau : 1
d{state}/dt = (r - sin({state}) + log(1 + exp({drive}))) / tau : 1
{sub} = where({state} > {parameter}, sqrt(1 + r**2), {state} / 3) : 1
{drive} : 1
{parameter} : 1
tau : second
'''
rate = "{sub}"
inputs = ["{drive}"]
parameters = {{ tau = "4*ms", {parameter} = -0.4 }}
initial = {{ {state} = 0.7 }}
[time]
dt = "1*ms"
[[projections]]
from = "{population}"
to = "{population}.{drive}"
delay = "3*ms"
"""
PLACES = {"state": "q", "sub": "w", "drive": "u", "parameter": "z", "population": "cortex"}
CUDA_WORDS = (
    "int double float char void const static inline auto extern struct union register volatile restrict long short "
    "unsigned switch case goto typename class namespace operator new delete this bool true nullptr threadIdx blockIdx "
    "blockDim gridDim warpSize __global__ __device__ REAL EACH index_t rows columns c A0 R0 r0 INFINITY NAN"
)
SYMPY_WORDS = "S E I N O Q pi oo nan zoo beta gamma zeta Lambda lambda Symbol Function Add Mul Pow Eq Abs diff Integer"
TRIED = sorted(
    {
        *names.generated(),
        *NAMES,
        *FUNCTIONS,
        *keyword.kwlist,
        *keyword.softkwlist,
        *CUDA_WORDS.split(),
        *SYMPY_WORDS.split(),
    }
    | set([name for name in dir(np) if name.islower()][::12])
    | {
        "dtype",
        "xp",
        "np",
        "math",
        "os",
        "sys",
        "self",
        "__builtins__",
        "__import__",
        "eval",
        "exec",
        "print",
        "u",
        "d",
    }
)


def everywhere(**chosen):
    return bpl.Circuit(bpl.Model.from_toml(EVERYWHERE.format(**{**PLACES, **chosen})), 2, 2, seed=1)


def of_names(tried):
    """Each name in each place: refused by a ModelError, or the numbers and derivatives of the plain model."""
    plain, rng = everywhere(), np.random.default_rng(2)
    s, x = rng.normal(size=(2, plain.n)), rng.normal(size=(2, 2))
    expected = plain.step(plain.state(s), x)

    def right(circuit):
        step = circuit.step(circuit.state(s), x)
        return (
            off(step.new.s, expected.new.s) < 1e-12
            and off(step.jacobian(), expected.jacobian()) < 1e-12
            and off(step.parameter_gradient(s), expected.parameter_gradient(s)) < 1e-12
        )

    assert off(expected.jacobian(), reference.finite_difference_jacobian(plain, s, x)) < 1e-7
    for name in tried:
        for place in PLACES:
            tally("names").attempt(f"{name} as {place}", lambda n=name, p=place: everywhere(**{p: n}), right)
    tally("names").check()


def test_a_few_names_everywhere():
    of_names([*names.generated(), "S", "int", "lambda", "threadIdx"])


@pytest.mark.attack
def test_every_name_everywhere():
    """Names of the package, of Python, NumPy, SciPy, SymPy, C and CUDA."""
    of_names([*TRIED, *dir(scipy.special)[::60], *dir(builtins)[::12], *dir(sp)[::80]])
