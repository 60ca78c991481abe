"""The local trace is the full one with J cut down to each neuron's own past."""

import numpy as np
import pytest
from helpers import TEXTS
from truth import MODELS, case, off

import bpl_neuro as bpl
from bpl_neuro.train.loop import run_batch


def by_hand(circuit, readout, unit, data, theta, gamma, lam):
    """Σ δ e in dense matrices: e ← γλ blockdiag(A) e + ∂g/∂θ."""
    B, n, m = data.size, unit.n, unit.m
    e, total = np.zeros((B, n, n, m)), np.zeros((n, m))

    def watch(step):
        nonlocal e, total
        total = total + np.einsum("bi,biaj->aj", step.signals["delta"], e)
        response = unit(unit.z(step.transition), theta)
        e = gamma * lam * np.einsum("bik,bkaj->biaj", step.transition.within(), e)
        slope = np.broadcast_to(response.slope, (B, n))
        for a in range(n):
            e[:, a, a] += slope[:, a, None] * response.z
        e[step.end] = 0

    rule = bpl.BPLambda(unit, gamma=gamma, lam=lam, trace="full")
    run_batch(
        circuit, readout, rule, data, theta, lambda name, gradient: theta if name == "theta" else None, watch=watch
    )
    return total


def error(model):
    circuit, readout, unit, data, theta = case(model, "gaps", T=8)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace="local")
    found = -bpl.batch_updates(circuit, readout, rule, data, theta).gradients["theta"]
    return off(found, by_hand(circuit, readout, unit, data, theta, 0.9, 0.8))


@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_trace_of_the_own_past(model):
    assert error(model) < 1e-10


@pytest.mark.parametrize("name", ["exact, rotating", "exact, coupled", "divided by its slow average"])
def test_states_that_are_made_of_each_other(name):
    assert error(bpl.Model.from_equations(rate="r", dt="1*ms", **TEXTS[name])) < 1e-10


def test_a_piece_that_fails_leaves_the_stream_where_it_was():
    circuit = bpl.Circuit("adapting", 4, 2, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.8, trace="local")
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), rule, schedule="step")
    rng = np.random.default_rng(0)
    good, later = (bpl.Batch(rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 5, 2)), stream=True) for _ in range(2))
    trainer.train_batch(good)
    before = [e.copy() for e in trainer._position.carry["trace"]["e"]]
    with pytest.raises(ZeroDivisionError):
        trainer.train_batch(later, lambda step: 1 // (3 - step.t))
    for now, then in zip(trainer._position.carry["trace"]["e"], before, strict=True):
        assert (now == then).all()
