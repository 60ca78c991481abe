"""A right call of everything at the top: models, circuits, readouts, synthesisers, rules and optimisers."""

# ruff: noqa: E501 - a table
# fmt: off

from __future__ import annotations

import functools
import inspect
import math

import numpy as np
from attack_values import (
    Argument,
    Wrong,
    a,
    anything,
    array,
    count,
    either,
    file,
    flag,
    function,
    hides,
    items,
    mapping,
    nothing,
    number,
    one_of,
    optional,
    seed,
    steps,
    text,
)

import bpl_neuro as bpl
from bpl_neuro import rules
from bpl_neuro.backend import NumpyBackend, get_backend
from bpl_neuro.circuit.losses import get_loss
from bpl_neuro.rules import traces

RECIPES: dict[str, tuple] = {}
rng = np.random.default_rng(0)
A = Argument


def recipe(name, call, /, **arguments):
    """What is called, and its arguments with their oracles."""
    assert name not in RECIPES, name
    RECIPES[name] = call, arguments


# Parts, made once: they never change.


@functools.cache
def circuit(model="leaky_tanh"):
    names = bpl.Model.load(model).populations
    return bpl.Circuit(model, dict.fromkeys(names, 3), 2, seed=0)


@functools.cache
def readout():
    return bpl.Readout(circuit(), 2, seed=1)


@functools.cache
def synthesiser(**options):
    return bpl.Synthesiser(circuit(), **options)


@functools.cache
def rule(trace="full"):
    return bpl.BPLambda(synthesiser(), trace=trace)


@functools.cache
def batch(seed=2, **options):
    rng = np.random.default_rng(seed)
    return bpl.Batch(rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 4, 2)), **options)


def theta():
    return np.random.default_rng(3).normal(size=rule().initial_theta().size)


def the_circuit(name="circuit"):
    return A(circuit(), a(bpl.Circuit))


FEEDBACK = A("exact", either(one_of(*["exact", "sign", "random", "noisy"]), a(bpl.Feedback)))
GAMMA = A(0.9, either(number(0, 1), one_of("10*ms")))
RADII = A(0.9, optional(number(0, 1e200)))
DTYPES = A("float64", either(one_of("float32", "float64"), lambda v: _dtype(v)), ("dtype",))


def _dtype(value):
    if not (isinstance(value, type | np.dtype) and value in (np.float32, np.float64, float)):
        raise Wrong
    return value


def _taus(value):
    """One time, as text or quantity, or three."""
    import brian2

    if isinstance(value, brian2.Quantity) and value.dim is brian2.second.dim and value.shape in ((), (3,)):
        return np.asarray(value) if value.shape else float(value) * brian2.second
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, brian2.Quantity) for each in value):
        return np.array([float(_taus(each) / brian2.second) for each in value])
    if isinstance(value, str):
        return one_of("10*ms", "0.5*second")(value)
    return array(3)(value)


def _override(value):
    return mapping({"tau", "cortex.tau"}, _taus)(value)


EQUATIONS = "dr/dt = (-r + tanh(u)) / tau : 1\nu : 1\ntau : second (constant)"
MODEL = {"equations": EQUATIONS, "rate": "r", "parameters": {"tau": "10*ms"}, "dt": "1*ms"}

recipe("Model", bpl.Model, spec=A(bpl.Model.load("linear").spec, nothing), where=A("here", text))
recipe("Model.load", bpl.Model.load, source=A("linear", one_of(*bpl.available_models())))
recipe(
    "Model.from_toml", bpl.Model.from_toml,
    text=A(bpl.Model.from_equations(**MODEL).to_toml(), nothing, ("text", "TOML", "populations")), where=A("here", text),
)
recipe(
    "Model.from_equations", bpl.Model.from_equations,
    equations=A(EQUATIONS, nothing, ("equations", "text", "empty", "declared", "read", "rate")), rate=A("r", one_of("r"), ("rate", "equations")), inputs=A(("u",), items(one_of("u"), 1), ("inputs", "input")),
    method=A("euler", optional(one_of("euler", "exact", "exponential_euler"))), update=A(None, optional(nothing)),
    parameters=A({"tau": "10*ms"}, mapping({"tau"}, _taus), ("parameters", "parameter")), initial=A({"r": 0.5}, optional(mapping({"r"}, number())), ("initial", "parameter")),
    dt=A("1*ms", either(one_of("10*ms"), lambda v: _taus(v) if getattr(v, "shape", 1) == () else nothing(v))), synthesiser=A({"sees": "rate"}, optional(mapping({"sees"}, one_of("rate")))),
    name=A("cortex", one_of("exc")), title=A("mine", text),
)
recipe("Model.to_toml", lambda: circuit().model.to_toml())
recipe("available_models", bpl.available_models)

W = rng.normal(size=(1, 3, 3))
PROJECTIONS = tuple(circuit().layout)
recipe(
    "Circuit", bpl.Circuit,
    model=A("leaky_tanh", either(one_of("leaky_tanh", "linear"), a(bpl.Model))),
    size=A(3, either(count(1, 10**4), mapping({"cortex"}, count(1, 10**4))), ("size", "connectivity")), input_size=A(2, count(1, 10**4), ("connectivity",)),
    radius=RADII, input_scale=A(0.5, number(0, 1e290)), parameters=A({"tau": "20*ms"}, optional(_override)),
    connectivity=A({"cortex->cortex": np.ones((3, 3))}, optional(mapping(PROJECTIONS, nothing))),
    weights=A({"cortex->cortex": W}, optional(mapping(PROJECTIONS, nothing))), seed=A(0, seed),
    dtype=DTYPES, backend=A("numpy", either(one_of("numpy"), a(NumpyBackend))),
)
recipe("Circuit.weights_of", lambda W: bpl.Circuit("leaky_tanh", 3, 2, weights={"cortex->cortex": W}), W=A(
    W, either(array(1, 3, 3), array(3, 3)), ("W", "weights")))
recipe(
    "Circuit.connectivity_of",
    lambda connectivity: bpl.Circuit("leaky_tanh", 3, 2, connectivity={"cortex->cortex": connectivity}).exists,
    connectivity=A(
        np.eye(3), either(array(3, 3, within=lambda x: np.isin(x, (0, 1)).all()),
                          array(1, 3, 3, within=lambda x: np.isin(x, (0, 1)).all())),
    ),
)
recipe(
    "Circuit.tau_of", lambda tau: bpl.Circuit("leaky_tanh", 3, 2, parameters={"tau": tau}).run(batch().x), tau=A(
        "20*ms", _taus, ("parameters",))
)
recipe("Circuit.with_psi", lambda psi: circuit().with_psi(psi).psi, psi=A(circuit().psi + 1, array(circuit().psi.size)))
recipe(
    "Circuit.with_weights", lambda projection, W: circuit().with_weights(projection, W).psi,
    projection=A("cortex->cortex", one_of("cortex->cortex")), W=A(W, either(array(1, 3, 3), array(3, 3))),
)
recipe("Circuit.silenced", lambda projection: circuit().silenced(projection).psi, projection=A(
    "cortex->cortex", one_of(*PROJECTIONS)))
UNITS = A(np.array([0, 2]), either(count(0, 2), array(None, kinds="iu", within=lambda u: (u >= 0).all() and (u < 3).all()),
          lambda v: _no_units(v)))


def _no_units(value):
    if (
        isinstance(value, np.ndarray)
        and value.ndim == 0
        and value.dtype.kind in "iu"
        and value < 3
        and not hides(value)
    ):
        return int(value)
    raise Wrong


VALUE = A(0.5, optional(number(-1e300, 1e300)))
recipe(
    "Circuit.clamped_at", lambda **k: dict(circuit().clamped_at(**k).clamped),
    population=A("cortex", one_of("cortex")), units=UNITS, value=VALUE,
)
recipe("Circuit.fits", lambda part: circuit().fits(part), part=A(readout(), anything))
X = A(batch().x, array(None, None, 2), ("x", "state"))
recipe(
    "Circuit.run", lambda **k: circuit().run(**k),
    x=X, state=A(circuit().initial_state(2), optional(nothing)), noise_seed=A(0, optional(seed)),
)
recipe("Circuit.population_states", lambda s: circuit().population_states(s), s=A(np.ones((2, 3)), either(
    array(None, 3, finite=False), array(3, finite=False), array(None, None, 3, finite=False))))

recipe(
    "Readout", bpl.Readout, circuit=the_circuit(), output_size=A(2, count(1, 10**6)),
    loss=A("squared_error", either(one_of("squared_error", "cross_entropy", "binary_cross_entropy"), function)),
    reduction=A("mean", one_of("mean", "sum")), continuous_time=A(False, flag),
    population=A("cortex", optional(one_of("cortex"))), seed=A(0, seed),
)
recipe("Readout.with_phi", lambda phi: readout().with_phi(phi).phi, phi=A(readout().phi + 1, array(readout().phi.size)))
recipe("Readout.output", lambda rate: readout().output(rate), rate=A(np.ones((2, 3)), either(
    array(3), array(None, 3), array(None, None, 3))))
recipe("Readout.trial_weight", lambda trials: readout().trial_weight(trials), trials=A(2, count()))
recipe("get_loss", get_loss, loss=A("squared_error", either(
    one_of("squared_error", "cross_entropy", "binary_cross_entropy"), function)))

P = np.linalg.qr(rng.normal(size=(3, 2)))[0]


def orthonormal(p):
    return len(p) == 3 and 1 <= p.shape[1] <= 3 and np.allclose(p.T @ p, np.eye(p.shape[1]), atol=1e-6)


recipe(
    "Synthesiser", bpl.Synthesiser, circuit=the_circuit(), target=A("state", one_of("state", "current")),
    sees=A("state", optional(one_of("state", "rate"))), sees_input=A(True, optional(flag)),
    expansion=A(6, optional(count(1, 10**4))), fan_in=A(2, optional(count(1, 5))),
    plastic_expansion=A(True, optional(flag)), seed=A(0, seed),
)
recipe("Synthesiser.subspace", lambda **k: bpl.Synthesiser(circuit(), **k), subspace=A(
    P, either(optional(nothing), array(None, None, within=orthonormal))))
recipe("Synthesiser.random", lambda **k: bpl.Synthesiser(circuit(), **k),
       subspace=A("random", one_of("random", "learned")), dimension=A(2, count(1, 3)), seed=A(0, seed))
recipe("Synthesiser.current", lambda **k: bpl.Synthesiser(circuit(), **k), target=A("current", one_of("current")),
       sees=A("synapses", optional(one_of("synapses"))), sees_input=A(None, optional(nothing)),
       expansion=A(None, optional(count(0, 0))), fan_in=A(None, optional(nothing)), subspace=A(None, optional(nothing)),
       plastic_expansion=A(None, optional(lambda v: flag(v) and nothing(v))), dimension=A(None, optional(nothing)))
recipe("Synthesiser.initial_theta", lambda: synthesiser().initial_theta())
recipe(
    "Feedback", bpl.Feedback, kind=A("noisy", one_of("noisy"), ("feedback",)), noise=A(0.5, optional(number(0))),
    seed=A(0, count(0, 10**40)),
)
recipe("Feedback.of", bpl.Feedback.of, given=A("exact", FEEDBACK.means, ("feedback",)))

# Rules

SG = {"gamma": GAMMA, "sg_weight": A(0.5, number(0)), "feedback": FEEDBACK}
TRACED = {"lam": GAMMA, "continuous_time": A(False, flag), **SG}
FORMS = one_of("auto", "full", "lazy", "sweep", "local", "leak")
OF_STATES = A(synthesiser(), a(bpl.Synthesiser))
OF_CURRENTS = A(bpl.Synthesiser(circuit(), target="current"), a(bpl.Synthesiser))
recipe("BPLambda", bpl.BPLambda, synthesiser=OF_STATES, trace=A("full", FORMS), **TRACED)
recipe("BPLambda.lazy", lambda **k: bpl.BPLambda(synthesiser(), **k), trace=A("lazy", one_of("lazy")), window=A(2, optional(count())))
recipe("BPLambdaEProp", bpl.BPLambdaEProp, synthesiser=OF_STATES, discounted=A(True, flag), residual=A(False, lambda v: flag(v) and nothing(v)), **TRACED)
OF_CURRENT_FORMS = A("full", one_of("auto", "full", "lazy", "sweep", "local"))
recipe("CompatibleBPLambda", rules.CompatibleBPLambda, synthesiser=OF_CURRENTS, trace=OF_CURRENT_FORMS, **TRACED)
recipe("CompatibleBPLambdaEProp", rules.CompatibleBPLambdaEProp, synthesiser=OF_CURRENTS, trace=OF_CURRENT_FORMS,
       discounted=A(False, flag), residual=A(True, flag), **TRACED)
recipe("LambdaSG", rules.LambdaSG, synthesiser=OF_STATES, lam=GAMMA, **SG)
recipe("NStepSG", rules.NStepSG, synthesiser=OF_STATES, steps=A(3, count()), **SG)
for kind in (rules.BPTT, rules.Immediate):
    recipe(kind.__name__, kind, circuit=the_circuit(), feedback=FEEDBACK)
recipe("TruncatedBPTT", rules.TruncatedBPTT, circuit=the_circuit(), steps=A(3, count()), feedback=FEEDBACK)
for kind in (rules.EProp, rules.RFLO, rules.SnAp1):
    recipe(kind.__name__, kind, circuit=the_circuit(), trace=A("local", one_of("local", "sweep")),
           feedback=A("exact", optional(FEEDBACK.means)))
recipe("RTRL", rules.RTRL, circuit=the_circuit(), trace=A("lazy", one_of("lazy")), window=A(2, optional(count())), feedback=FEEDBACK)
recipe(
    "make_rule", bpl.make_rule, name=A("bptt", one_of(*rules.RULES)), on=A(circuit(), a(bpl.Circuit | bpl.Synthesiser))
)
recipe("rules.register", rules.register, rule=A(rules.BPTT, nothing))
recipe("rule_options", rules.rule_options, name=A("bptt", one_of(*rules.RULES)))
DECAY = {"decay": A(0.9, number(0, 1)), "gain": A(1.0, number(0))}
for name in traces.TRACES:
    unit = bpl.Synthesiser(circuit(), subspace=P) if name == "reduced" else synthesiser()
    unit = bpl.Synthesiser(circuit("cerebellar")) if name == "model" and circuit("cerebellar").model.synapse else unit
    if name == "model" and unit.circuit.model.synapse is None:
        continue
    kind, window = traces.TRACES[name], {"window": A(2, optional(count()))} if name == "lazy" else {}
    fits = nothing if name in ("reduced", "model") else a(bpl.Synthesiser)
    recipe(kind.__name__, kind, synthesiser=A(unit, fits), **DECAY, **window)

# Optimisers and schedules

RATE = A(0.1, either(number(0), function))
recipe("SGD", bpl.SGD, eta=RATE)
recipe("Adam", bpl.Adam, eta=RATE, beta1=A(0.9, optional(number(0, 1, below=True))), beta2=A(0.9, number(0, 1, below=True)),
       epsilon=A(1e-8, number(0)), max_step=A(2.0, optional(number(0, above=True))))
recipe("RLS", bpl.RLS, forget=A(0.9, number(0, 1)), ridge=A(1e-3, number(0, above=True)), bound=A(3.0, optional(number(0, above=True))))
recipe("Clip", bpl.Clip, optimiser=A(bpl.SGD(0.1), nothing), norm=A(1.0, number(0, above=True)))
recipe("ExponentialDecay", bpl.ExponentialDecay, eta=A(0.1, number(0)), half_life=A(10.0, number(0, above=True)))
recipe("ExponentialDecay.__call__", bpl.ExponentialDecay(0.1, 10), step=A(3, number(0)))
recipe("CosineDecay", bpl.CosineDecay, eta=A(0.1, number(0)), steps=A(10, count()), floor=A(0.1, number(0, 1)))
recipe("CosineDecay.__call__", bpl.CosineDecay(0.1, 10), step=A(3, number(0)))
recipe("Schedule", bpl.Schedule, every=A(2, optional(count())), moves=A(True, flag))
recipe("Schedule.of", bpl.Schedule.of, name=A("step", one_of("step"), ("schedule",)), update_every=A(2, count()))
recipe("get_backend", get_backend, name=A("numpy", either(one_of("numpy", "auto"), a(NumpyBackend)), ("backend",)))

__all__ = ["RECIPES", "file", "inspect", "items", "math", "recipe", "steps"]
