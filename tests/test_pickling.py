# ruff: noqa: E501 - a table
"""Copies, deep copies and pickles of everything public are the same things; what cannot be pickled says so."""

import copy
import io
import pickle

import numpy as np
import pytest
from attack_same import same

import bpl_neuro as bpl
from bpl_neuro import errors

CIRCUIT = bpl.Circuit("leaky_tanh", 3, 2, parameters={"tau": "20*ms"})
CLAMPED = CIRCUIT.silenced("input->cortex").clamped_at("cortex", [1], 0.5)
READOUT = bpl.Readout(CIRCUIT, 2)
UNIT = bpl.Synthesiser(CIRCUIT)
TRACED = bpl.Synthesiser(bpl.Circuit("cerebellar", {"exc": 4, "inh": 2}, 2))
BATCH = bpl.Batch(np.ones((2, 4, 2)), np.zeros((2, 4, 2)))
TASK = bpl.tasks.TargetReaching(steps=3, input_size=2, batches_per_epoch=2)
TRAINER = bpl.Trainer(CIRCUIT, READOUT, bpl.BPLambda(UNIT, trace="full"), schedule="step")
TRAINER.fit(TASK, batch_size=2, progress=False)
P = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 2)))[0]
THINGS = {
    "model": CIRCUIT.model, "circuit": CIRCUIT, "clamped": CLAMPED, "ei": bpl.Circuit("ei", {"exc": 3, "inh": 2}, 2),
    "readout": READOUT, "synthesiser": UNIT, "granules": bpl.Synthesiser(CIRCUIT, expansion=5, fan_in=2),
    "plastic": bpl.Synthesiser(CIRCUIT, expansion=5, fan_in=2, plastic_expansion=True),
    "subspace": bpl.Synthesiser(CIRCUIT, subspace=P), "learned": bpl.Synthesiser(CIRCUIT, subspace="learned", dimension=2),
    "current": bpl.Synthesiser(CIRCUIT, target="current"), "model's trace": bpl.BPLambda(TRACED, trace="model"),
    "lazy": bpl.BPLambda(UNIT, trace="lazy", window=2), "feedback": bpl.Feedback("noisy", noise=0.3), "batch": BATCH,
    "learner": TRAINER.learner, "state": TRAINER.state, "trainer": TRAINER, "schedule": bpl.Schedule(2),
    "optimiser": bpl.Clip(bpl.Adam(bpl.ExponentialDecay(0.1, 10)), 1.0), "rls": bpl.RLS(bound=3), "sgd": bpl.SGD(0.1),
    "decay": bpl.CosineDecay(0.1, 10), "arrays": bpl.ArrayTask(bpl.Batch(np.ones((9, 2, 2)), np.ones((9, 2, 2)))),
    "task": TASK, "outcome": TRAINER.fork().train_batch(BATCH), "passive": bpl.PassiveRules(TRAINER, [bpl.rules.EProp(CIRCUIT)]),
}  # fmt: skip
THINGS |= {f"rule {name}": bpl.make_rule(name, CIRCUIT) for name in bpl.rules.RULES}
THINGS |= {f"task {name}": bpl.make_task(name) for name in bpl.tasks.TASKS if name != "row-mnist"}
WAYS = {"pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", THINGS)
def test_a_copy_is_the_same(name, way):
    assert same(WAYS[way](THINGS[name]), THINGS[name])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [getattr(errors, name) for name in errors.__all__])
def test_an_error_is_the_same(kind, way):
    error = kind(3, 1, "psi", 0.5) if kind is bpl.DivergenceError else kind("`x` is wrong")
    made = WAYS[way](error)
    assert type(made) is kind and str(made) == str(error) and made.args == error.args and vars(made) == vars(error)


def test_a_divergence_keeps_its_state():
    large = bpl.Trainer(CIRCUIT, READOUT, bpl.rules.BPTT(CIRCUIT), optimiser=bpl.SGD(1e300))
    with pytest.raises(bpl.DivergenceError) as caught:
        for _ in range(5):
            large.train_batch(BATCH)
    assert same(pickle.loads(pickle.dumps(caught.value)).state, caught.value.state)


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_copied_trainer_goes_on_to_the_same_bits(way):
    one, other = TRAINER.fork(), WAYS[way](TRAINER.fork())
    assert other.circuit.fits(other.readout) and other.circuit.fits(other.rule)
    for trainer in (one, other):
        trainer.fit(TASK, epochs=3, batch_size=2, progress=False)
    assert one.losses == other.losses and (one.state.psi == other.state.psi).all()


def test_a_recorder_says_that_it_is_bound_to_its_file(tmp_path):
    recorder = bpl.Recorder(TRAINER.fork(), tmp_path / "r.zarr", "loss")
    with pytest.raises(TypeError, match=r"Recorder.*resume"):
        pickle.dump(recorder, io.BytesIO())
    with pytest.raises(TypeError, match=r"Recorder.*resume"):
        copy.deepcopy(recorder)


def test_a_loss_of_ones_own_that_cannot_be_pickled_is_named():
    readout = bpl.Readout(CIRCUIT, 2, lambda xp, y, target: ((y - target).sum(axis=1), y))
    assert same(copy.deepcopy(readout), readout)
    with pytest.raises(bpl.ValidationError, match="`loss`"):
        pickle.dumps(readout)
