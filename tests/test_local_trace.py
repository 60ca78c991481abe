"""The local trace is the full one with J cut down to each neuron's own past."""

import numpy as np
import pytest
from helpers import TEXTS
from truth import MODELS, case, off

import bpl_neuro as bpl
from bpl_neuro.train.loop import watched_steps


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
    watched_steps(circuit, readout, rule, data, theta, keep=False, watch=watch)
    return total.ravel()


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


def test_a_piece_that_fails_loses_the_place_in_the_stream_but_no_parameter():
    circuit = bpl.Circuit("adapting", 4, 2, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.8, trace="local")
    readout = bpl.Readout(circuit, 2)
    trainer = bpl.Trainer(circuit, readout, rule, schedule="step")
    rng = np.random.default_rng(0)
    good, later = (bpl.Batch(rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 5, 2)), stream=True) for _ in range(2))
    trainer.train_batch(good)
    kept, seen = trainer.fork(), []

    def fail_at_3(step):
        seen.append({name: step.parameter(name) for name in ("psi", "phi", "theta")})
        1 // (3 - step.t)

    with pytest.raises(ZeroDivisionError):
        trainer.train_batch(later, fail_at_3)
    assert trainer.state.position is None and kept.state.position is not None
    for name, value in seen[-1].items():  # as the last step left them
        assert (trainer.parameter(name) == value).all(), name
    # From here it begins a stream anew, as one with these weights would that has seen nothing.
    fresh = bpl.Trainer(circuit, readout, rule, schedule="step", optimiser=bpl.SGD(0.1))
    fresh.set_parameters(**seen[-1])
    states = []
    for other in (trainer, fresh):
        other.train_batch(later, lambda step: states.append(step.transition.previous.s) if step.t == 1 else None)
    assert (states[0] == states[1]).all()
    # And a copy that was kept goes on from where it stood.
    kept.train_batch(later, lambda step: states.append(step.transition.previous.s) if step.t == 1 else None)
    assert (states[2] != states[0]).any()
