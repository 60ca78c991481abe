"""Expressions that fold to numbers, texts and arguments of the wrong kind: faults that were found and mended."""

import warnings

import numpy as np
import pytest
import sympy as sp
from wrong_inputs import BASE, TAU, batch, changed, circuit, equations, guarded, parts, toml

import bpl_neuro as bpl
from bpl_neuro import reference

__all__ = ["guarded", "sp"]


def slope(expression, **keywords):
    return equations(f"dr/dt = (-r + {expression})/tau : 1\nu : 1\n{TAU}", **keywords)


def check_jacobian(model):
    c = bpl.Circuit(model, 3, 2, seed=1)
    rng = np.random.default_rng(0)
    s, x = rng.uniform(0.1, 1, (2, c.n)), rng.normal(size=(2, 2))
    J, expected = c.step(c.state(s), x).jacobian(), reference.finite_difference_jacobian(c, s, x)
    assert np.abs(J - expected).max() < 1e-7 * np.abs(expected).max()


GOOD = ["sqrt(u**2)", "(u**2)**1.5", "abs(-3)*u", "clip(5, 0, 1)*u", "exprel(0)*u", "exprel(1/3)*u"]


@pytest.mark.parametrize("expression", GOOD)
def test_an_expression_that_folds(expression):
    check_jacobian(slope(expression)())


@pytest.mark.parametrize("method", ["exact", "exponential_euler"])
def test_a_perfect_integrator(method):
    check_jacobian(changed(equations=f"dr/dt = u/tau : 1\nu : 1\n{TAU}", method=method)())


REFUSE = {
    "log(-1)": slope("log(-1)"), "sqrt(-1)": slope("sqrt(-1)"), "arcsin(2)": slope("arcsin(2)"),
    "400 digits": slope("9" * 400 + "*u"),
    "300 subexpressions": equations("dr/dt = (-r+a0)/tau : 1\n" + "\n".join(
        f"a{k} = tanh(a{k + 1}) + u : 1" for k in range(300)) + f"\na300 = u : 1\nu : 1\n{TAU}"),
    "update that doubles": equations("\n".join(f"h{k} : 1" for k in range(30)) + "\nu : 1", rate="h0", parameters={},
        update="\n".join(f"h{k} = tanh(h{k - 1}) + sin(h{k - 1})" if k else "h0 = u" for k in range(30))),
    "a rate that is constant": lambda: bpl.Circuit(
        equations(f"dx/dt = (-x + u)/tau : 1\nr = 0*x + 1 : 1\nu : 1\n{TAU}")(), 3, 2),
    "tau of zero": lambda: bpl.Circuit(changed(parameters={"tau": "0*ms"})(), 3, 2).run(np.ones((1, 2, 2))),
    "10 MB": toml(BASE + "\n#" + "a" * 10_000_000),
    "bytes": toml(b"a = 1"), "no text": toml(3), "load 3": lambda: bpl.Model.load(3),
    "NUL in a path": lambda: bpl.Model.load("a\0.toml"),
    "parameters a list": changed(parameters=[1]), "synthesiser a text": changed(synthesiser="g = v"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSE)
def test_refused(name):
    with pytest.raises(bpl.BplError):
        REFUSE[name]()


def test_an_exponent_is_taken_as_written():
    power = next(e for e in slope("abs(u)**0.33333333")().populations["cortex"].neuron.update[0].atoms(sp.Pow)
                 if e.base.atoms(sp.Symbol) == {sp.Symbol("u", real=True)})  # fmt: skip
    assert float(power.exp) == 0.33333333


def test_a_scaled_synthesiser_is_linear():
    unit = {"equations": "g = a*v : 1\nv : 1\na : 1", "parameters": {"a": 2}}
    assert bpl.Synthesiser(circuit(model=changed(synthesiser=unit)())).linear


@pytest.mark.parametrize("update", ["h = h*exp(-dt/tau) + u", "h = h*tanh(b) + u", "h = clip(b, 0, 1)*h + u"])
def test_functions_of_parameters_stay_float32(update):
    model = equations(f"h : 1\nu : 1\nb : 1\n{TAU}", rate="h", update=update, parameters={"tau": "5*ms", "b": 0.5})()
    c = bpl.Circuit(model, 3, 2, dtype="float32")
    t = c.step(c.initial_state(2), np.ones((2, 2), np.float32))
    factors = [f for d in (*t.A, *t.C, *t.new.D) for f in d.values()]
    assert all((isinstance(f, int | float) and not isinstance(f, np.generic)) or f.dtype == "float32" for f in factors)


def test_warnings_as_errors_do_not_make_a_model_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bpl.Model.load("leaky_tanh")


X = np.zeros((2, 4, 2))
P = parts()
ARGUMENTS = {
    "`circuit`": lambda: bpl.Readout(3, 2), "`circuit`.": lambda: bpl.Synthesiser(3),
    "`synthesiser`": lambda: bpl.BPLambda(3), "`trace`": lambda: bpl.BPLambda(parts()[2], trace=["full"]),
    "`seed`": lambda: circuit(seed="a"), "`seed`.": lambda: circuit(seed=-1), "`radius`": lambda: circuit(radius="1"),
    "`input_scale`": lambda: circuit(input_scale=None), "`parameters`": lambda: circuit(parameters=[1]),
    "`parameters tau`": lambda: circuit(parameters={"tau": ["a", "b", "c"]}),
    "`psi`": lambda: circuit().with_psi(np.full(18, np.nan)), "`psi`.": lambda: circuit().with_psi("abc"),
    "`loss`": lambda: bpl.Readout(circuit(), 2, ["squared_error"]),
    "`population`": lambda: bpl.Readout(circuit(), 2, population=["cortex"]),
    "`x`": lambda: bpl.Batch([[[1, 2]], [[1]]], X), "`mask`": lambda: batch(mask=np.full((2, 4), "a")),
    "`mask`.": lambda: batch(mask=np.ones((2, 4), complex)), "`batch`": lambda: bpl.batch_updates(
        P[0], P[1], bpl.BPLambda(P[2]), X),
    "`rule`": lambda: bpl.batch_updates(P[0], P[1], None, batch()),
    "`readout`": lambda: bpl.batch_updates(
        P[0], bpl.Readout(circuit(size=4), 2), bpl.BPLambda(P[2]), batch()),
    "`rule`.": lambda: bpl.batch_updates(
        P[0], P[1], bpl.BPLambda(bpl.Synthesiser(circuit(size=4))), batch()),
    "`noise_seed`": lambda: bpl.batch_updates(P[0], P[1], bpl.BPLambda(P[2]), batch(), noise_seed="a"),
    "`beta1`": lambda: bpl.Adam(beta1="a"), "`norm`": lambda: bpl.Clip(bpl.SGD(1.0), "a"),
    "`half_life`": lambda: bpl.ExponentialDecay(1.0, "a"), "`steps`": lambda: bpl.CosineDecay(1.0, "a"),
    "`validation`": lambda: bpl.ArrayTask(batch(), validation="a"), "`data`": lambda: bpl.ArrayTask(X),
    "`projection`": lambda: circuit().silenced("a->b"),
    "`optimiser`": lambda: bpl.Trainer(P[0], P[1], bpl.BPLambda(P[2]), optimiser=3),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_argument(name):
    with pytest.raises(bpl.BplError, match=name.rstrip(".")):
        ARGUMENTS[name]()
