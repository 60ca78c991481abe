"""A right call of batches, learners, trainers, recorders, interventions and what looks at them."""

# ruff: noqa: E501 - a table
# fmt: off

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
from attack_recipes_core import (
    UNITS,
    VALUE,
    A,
    X,
    batch,
    circuit,
    readout,
    recipe,
    rule,
    the_circuit,
    theta,
)
from attack_values import (
    Wrong,
    a,
    array,
    count,
    either,
    file,
    flag,
    function,
    items,
    mapping,
    nothing,
    number,
    one_of,
    optional,
    seed,
    steps,
)

import bpl_neuro as bpl
from bpl_neuro import analysis, interventions

ROOM = Path(tempfile.mkdtemp(prefix="attack-"))
names = iter(range(10**9))
B, T = 2, 4


def new_file(suffix=""):
    return ROOM / f"{next(names)}{suffix}"


@functools.cache
def task():
    return bpl.tasks.TargetReaching(steps=3, input_size=2, batches_per_epoch=2)


@functools.cache
def learner():
    return bpl.Learner(circuit(), readout(), rule(), bpl.Adam(), bpl.Schedule(1))


@functools.cache
def _trained():
    return bpl.Trainer(circuit(), readout(), rule(), schedule="step").fit(task(), batch_size=2, progress=False)


def trainer():
    return _trained().fork()


def finite_labels(y):
    return np.isfinite(y).all()


ZERO_ONE = lambda x: np.isin(x, (0, 1)).all()  # noqa: E731
ENDS = np.tile([False, True, False, True], (B, 1))
recipe(
    "Batch", bpl.Batch, x=A(batch().x, array(B, T, None), ("x", "y")), y=A(batch().y, array(B, T, None)),
    mask=A(np.ones((B, T)), optional(array(B, T, within=lambda m: (m >= 0).all()))),
    end=A(ENDS, optional(array(B, T, within=lambda e: ZERO_ONE(e) and e.any(axis=1).all()))),
    stream=A(False, flag), padding=A(np.zeros((B, T), bool), optional(array(B, T, within=ZERO_ONE))),
)
recipe("Batch.labels", lambda y: bpl.Batch(batch().x, y), y=A(np.ones((B, T), int), either(
    array(B, T, kinds="iu"), array(B, T, None))))
recipe("Batch.__getitem__", lambda rows: batch()[rows], rows=A(np.array([0, 1]), either(
    a(slice), array(None, kinds="iu", within=lambda r: (abs(r + 0.5) < B).all()))))
LEARNER = {"circuit": the_circuit(), "readout": A(readout(), a(bpl.Readout)), "rule": A(rule(), a(bpl.Rule))}
OPTIMISERS = either(optional(nothing), mapping({"psi", "phi", "theta"}, optional(nothing)))
KNOBS = {
    "error_delay": A(1, either(count(0), one_of("10*ms"))), "rate_penalty": A(0.1, number(0)),
    "weight_penalty": A(0.1, number(0)),
}
recipe("Learner", bpl.Learner, **LEARNER, optimisers=A(bpl.Adam(), OPTIMISERS, ("optimiser",)), schedule=A(bpl.Schedule(1), nothing), **KNOBS)
THETA = A(theta(), optional(array(theta().size)))
recipe("Learner.initial", lambda **k: learner().initial(**k), seed=A(0, count(0, 10**40)), theta=THETA)
PSI, PHI = A(circuit().psi + 1, array(circuit().psi.size)), A(readout().phi + 1, array(readout().phi.size))
recipe("Learner.parameters", lambda **k: learner().parameters(k), psi=PSI, phi=PHI, theta=THETA)
recipe("Learner.parameters.values", lambda values: learner().parameters(values), values=A({"psi": PSI.right}, mapping({}, nothing)))
NAME = A("psi", one_of("psi", "phi", "theta"))
recipe("LearnerState.copy", lambda: learner().initial().copy())
recipe("LearnerState.parameter", lambda name: learner().initial().parameter(name), name=NAME)
recipe("LearnerState.replace", lambda **k: learner().initial().replace(**k), psi=PSI, phi=PHI, theta=THETA,
       noise_rng=A(np.random.default_rng(0), optional(a(np.random.Generator))))
recipe(
    "LearnerState.rule_for", lambda **k: learner().initial().rule_for(**k), steps=A(3, count()), stream=A(False, flag)
)
recipe("run_batch", lambda learner, **k: bpl.run_batch(learner, _state(), **k), learner=A(learner(), a(bpl.Learner)),
       batch=A(batch(), a(bpl.Batch)), watch=A(None, optional(lambda v: _watcher(v))))
recipe("run_batch.state", lambda state: bpl.run_batch(learner(), state, batch()), state=A(None, nothing))


def _state():
    return learner().initial()


def _watcher(value):
    if not callable(value) or getattr(value, "__name__", "") in ("raises", "int"):
        raise Wrong  # a watcher that raises is the user's own error
    return value


GRADIENTS = {"batch": A(batch(), a(bpl.Batch)), "theta": THETA}
recipe(
    "batch_updates", bpl.batch_updates, **LEARNER, **GRADIENTS, signals=A(True, flag), noise_seed=A(0, optional(seed))
)

# The trainer

recipe(
    "Trainer", bpl.Trainer, **LEARNER, optimiser=A(bpl.Adam(), OPTIMISERS),
    schedule=A("step", one_of("step")), update_every=A(2, count()), seed=A(0, count(0, 10**40)), **KNOBS,
)
recipe("Trainer.parameter", lambda name: trainer().parameter(name), name=NAME)
recipe("Trainer.set_parameters", lambda **k: trainer().set_parameters(**k).state, psi=PSI, phi=PHI, theta=THETA)
for name in ("trained_circuit", "trained_readout", "reset"):
    recipe(f"Trainer.{name}", lambda name=name: getattr(trainer(), name)())
recipe("Trainer.restore_best", lambda: trainer().restore_best())
recipe("Trainer.run", lambda **k: trainer().run(**k), x=X, noise_seed=A(0, optional(seed)))
recipe("Trainer.predict", lambda x: trainer().predict(x), x=X)
recipe("Trainer.train_batch", lambda **k: trainer().train_batch(**k), batch=A(batch(), a(bpl.Batch)), watch=A(None, optional(_watcher)))
recipe(
    "Trainer.fit", lambda task, **k: trainer().fit(task, **{"epochs": 2, "progress": False} | k).losses,
    task=A(task(), nothing), epochs=A(2, optional(count(1, 10))), batch_size=A(2, count(1, 100)),
    stop_at=A(3, optional(count(1, 100))), validate=A(False, flag),
    callbacks=A([], items(_watcher)), watch=A(None, optional(_watcher)), recorder=A(None, optional(nothing)),
    progress=A(False, flag), checkpoint=A(None, optional(file)), checkpoint_every=A(None, optional(count())),
)
recipe(
    "Trainer.evaluate", lambda **k: trainer().evaluate(**k), task=A(task(), nothing),
    split=A("test", one_of("train", "validation", "test")), batch_size=A(2, count(1, 1000)), seed=A(0, count(0, 10**40)),
)
recipe("Trainer.plan", lambda **k: trainer().plan(**k), batch_size=A(2, count()), steps=A(3, count()))
recipe("Trainer.save", lambda path: trainer().save(path), path=A(new_file(), file))
recipe("Trainer.restore", lambda path: trainer().restore(path), path=A(new_file(), nothing))
recipe("Trainer.fork", lambda trial: trainer().fork(trial).state, trial=A(2, optional(lambda v: _among(v, (0, 2, 4)))))


def _among(value, known):
    if count(0)(value) not in known:
        raise Wrong
    return int(value)


recipe("Circuit.save", lambda path: circuit().save(path), path=A(new_file(".npz"), file))
recipe("Circuit.load", lambda path, backend: bpl.Circuit.load(path, backend=backend), path=A("nowhere.npz", nothing),
       backend=A("numpy", nothing, ("backend", "path", "nowhere.npz")))

# Looking on


def step(of=lambda step: None):
    """What a watcher gives, and the error that it met."""
    found = []
    trainer().train_batch(batch(), lambda step: found.append(of(step)) if not found else None)
    return found[0]


recipe("Step.parameter", lambda name: step(lambda s: s.parameter(name)), name=NAME)
recipe("Step.trace", lambda **k: step(lambda s: s.trace(**k)), a=A(1, count(0, 2)), j=A(1, count(0, 3)))
recipe("Step.close", lambda: step(lambda s: s.close()))
WRITES = {"trainer": A(trainer(), nothing), "path": A(new_file(), file)}


def _recorder(**k):
    made = bpl.Recorder(**{"trainer": _trained(), "path": new_file(), "quantities": ["g", "loss"]} | k)
    return made._settings | {"every": made._every, "chunk": made._chunk_steps}


SLICES = a(slice)
CHOSEN = lambda low: lambda v: _distinct(v, low)  # noqa: E731


def _distinct(value, low):
    if isinstance(value, range | list | tuple | set | np.ndarray | bytes) and not isinstance(value, bytes | str):
        plain = array(None, kinds="iu")(value if isinstance(value, np.ndarray) else list(value))
        if len(set(plain.tolist())) == len(plain) and (plain >= low).all():
            return sorted(plain.tolist())
    raise Wrong


recipe(
    "Recorder", _recorder, trainer=A(_trained(), nothing), path=A(new_file(), lambda v: v if _unused(file(v)) else None),
    quantities=A(["g", "loss"], either(one_of("g"), items(one_of("g", "loss"), 1))), every=A(1, count()),
    steps=A([1, 2], either(optional(SLICES), CHOSEN(1))), trials=A([0], either(optional(SLICES), CHOSEN(0))),
    units=A([0, 2], either(optional(SLICES), one_of("cortex"), lambda v: _below(v, 3))),
    flush_every=A(1, optional(count())), chunk_steps=A(2, optional(count())), buffer_bytes=A(2**20, count()),
    resume_at=A(None, optional(nothing), ("resume_at", "recording")),
)


def _unused(path):
    return True


def _below(value, most):
    found = _distinct(value, 0)
    if not found or max(found) >= most:
        raise Wrong
    return found


recipe(
    "Recorder.synapses", lambda synapses: _recorder(quantities=["trace"], synapses=synapses),
    synapses=A([(0, 1)], nothing),
)
recipe("Recorder.resume", bpl.Recorder.resume, trainer=A(_trained(), nothing, ("trainer", "path", "recording")), path=A("nowhere", nothing, ("path", "recording")),
       batches=A(1, nothing, ("batches", "recording", "nowhere")), flush_every=A(1, nothing, ("flush_every", "recording", "nowhere")))


def recorder():
    return bpl.Recorder(trainer(), new_file(), "loss")


recipe("Recorder.watch", lambda step: recorder().watch(step), step=A(None, nothing))
recipe("Recorder.batch_done", lambda **k: recorder().batch_done(**k), trainer=A(None, nothing), outcome=A(None, nothing, ("trainer",)))
recipe("Recorder.flush", lambda: recorder().flush())
recipe("Recorder.close", lambda: recorder().close())


def passive(**k):
    return bpl.PassiveRules(**{"trainer": trainer(), "rules": [bpl.rules.EProp(circuit())]} | k)


recipe(
    "PassiveRules", passive, trainer=A(trainer(), nothing), rules=A([bpl.rules.EProp(circuit())], nothing),
    every=A(1, count()), optimiser=A(bpl.Adam(), either(optional(nothing), mapping({}, nothing))),
    window=A(2, optional(count())), drift=A(bpl.Adam(), either(optional(nothing), mapping((), nothing))),
)
recipe("PassiveRules.watch", lambda step: passive().watch(step), step=A(None, nothing))
recipe("PassiveRules.batch_done", lambda **k: passive().batch_done(**k), trainer=A(None, nothing), outcome=A(None, nothing, ("trainer",)))
recipe("PassiveRules.flush", lambda: passive().flush())
recipe("PassiveRules.result", lambda: passive().result() if False else None)

# Interventions

INTO = {"target": A(_trained(), nothing)}


def intervene(change):
    return lambda target, **k: change(target.fork() if isinstance(target, bpl.Trainer) else target, **k).state


for change in ("lesion_synthesiser", "freeze_synthesiser", "scramble_synthesiser", "rotate_synthesiser"):
    recipe(f"interventions.{change}", intervene(getattr(interventions, change)), **INTO, seed=A(0, seed))
recipe("interventions.freeze", intervene(interventions.freeze), **INTO, name=NAME)
recipe("interventions.clamp_units", intervene(interventions.clamp_units), **INTO, population=A("cortex", one_of("cortex")), units=UNITS, value=VALUE)
recipe("interventions.silence_projection", intervene(interventions.silence_projection), **INTO, projection=A("cortex->cortex", one_of("cortex->cortex")))
recipe(
    "interventions.apply",
    intervene(interventions.apply),
    **INTO,
    what=A("scramble", one_of("scramble")),
    seed=A(0, seed),
)

# Analysis

AT = {**LEARNER, **GRADIENTS}
recipe("analysis.alignment", analysis.alignment, **AT)
recipe("analysis.causality", lambda trainer, **k: analysis.causality(trainer, **k), trainer=A(_trained(), nothing), batch=A(batch(), a(bpl.Batch)),
       step=A(2, count(1, 3)), seed=A(0, seed))
OURS = object()
ROWS = either(array(None, None), array(None), array(None, None, None))
recipe(
    "analysis.cosine",
    analysis.cosine,
    a=A(np.ones((2, 3)), array(finite=False)),
    b=A(np.ones((2, 3)), array(finite=False)),
)
recipe("analysis.least_squares_theta", analysis.least_squares_theta, **LEARNER, batch=A(batch(), a(bpl.Batch)), ridge=A(1e-6, number(0, above=True)),
       noise_seed=A(0, optional(seed)))
recipe("analysis.principal_subspace", analysis.principal_subspace, errors=A(np.random.default_rng(0).normal(size=(5, 3)), ROWS, ("errors", "dimension")), dimension=A(2, count(1, 3)))
recipe(
    "analysis.synapse_trace",
    analysis.synapse_trace,
    **AT,
    synapse=A((1, 2), lambda v: _pair(v)),
    trial=A(0, count(0, 1)),
)
CURRENT = bpl.BPLambda(bpl.Synthesiser(circuit(), target="current"), trace="full")
recipe(
    "analysis.current_synapse_trace",
    analysis.current_synapse_trace,
    circuit=the_circuit(), readout=A(readout(), a(bpl.Readout)), rule=A(CURRENT, nothing), batch=A(batch(), a(bpl.Batch)),
    theta=A(np.ones(CURRENT.initial_theta().size), array(CURRENT.initial_theta().size)),
    synapse=A(("cortex->cortex", 0, 1, 2), nothing), trial=A(0, count(0, 1)), state=A(0, count(0, 0)),
)
recipe("analysis.trial_mean", analysis.trial_mean, values=A(np.ones((4, 2)), either(array(None, None, finite=False), array(0, 2))))
recipe("analysis.true_later_gradient", lambda **k: analysis.true_later_gradient(**k | ({"steps": _steps()} if k["steps"] is OURS else {})), steps=A(OURS, nothing), gamma=A(0.9, number(0, 1)))
recipe(
    "compare", bpl.compare, circuit=the_circuit(), readout=A(readout(), a(bpl.Readout)), batch=A(batch(), a(bpl.Batch)),
    rules=A([rule()], nothing), theta=A(theta(), optional(either(mapping({"bp_lambda"}, nothing), array(theta().size)))),
    noise_seed=A(0, optional(seed)), fitted_on=A(batch(), optional(a(bpl.Batch))),
)
recipe("comparison_table", bpl.comparison_table, found=A(bpl.compare(circuit(), readout(), batch(), [bpl.rules.EProp(circuit())]), nothing),
       title=A("what", optional(one_of("text", "exc", "3", "no such thing", "", "10*ms", "a\0b"))))


def _pair(value):
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Wrong
    return count(0, 2)(value[0]), count(0, 3)(value[1])


def _steps():
    found = []
    trainer().train_batch(batch(), found.append)
    return found


__all__ = ["array", "function", "steps"]
