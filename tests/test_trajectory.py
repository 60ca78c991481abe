"""A trajectory is its steps: unrolled at once or stacked, it holds what `Circuit.step` gives one by one."""

import numpy as np
import pytest
from helpers import NONLINEAR
from truth import MODELS

import bpl_neuro as bpl
from bpl_neuro.circuit.trajectory import stack, unroll

EXACT = 1e-13


def off(found, expected):
    """Largest difference over the largest entry, or over 1."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1))


def setting(model, dtype="float64", clamped=False):
    model = bpl.Model.from_toml(NONLINEAR) if model == "nonlinear" else bpl.Model.load(model)
    circuit = bpl.Circuit(model, dict.fromkeys(model.populations, 3), 2, seed=0, dtype=dtype)
    if clamped:
        circuit = circuit.clamped_at(next(iter(model.populations)), [1], 0.3)
    rng = np.random.default_rng(1)
    end = rng.random((7, 4)) < 0.2
    end[-1] = True
    return circuit, rng.normal(size=(7, 4, 2)).astype(dtype), end


def steps_of(circuit, x, end, rng):
    """One by one, from the initial state, with trials that end on the way."""
    state, transitions = circuit.initial_state(x.shape[1]), []
    for now, ends in zip(x, end, strict=True):
        transitions.append(circuit.step(state, now, noise=circuit.draw_noise(rng, len(now))))
        state = circuit.reset(transitions[-1].new, ends)
    return transitions


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("model", [*MODELS, "nonlinear"])
def test_unrolled_it_holds_its_steps(model, clamped, restarts):
    circuit, x, end = setting(model, clamped=clamped)
    end[:-1] &= restarts
    transitions = steps_of(circuit, x, end, np.random.default_rng(3))
    trajectory = unroll(circuit, circuit.initial_state(4), x, end, rng=np.random.default_rng(3))
    v = np.random.default_rng(4).normal(size=(7, 4, circuit.n))
    for t, expected in enumerate(transitions):
        found = trajectory[t]
        for a, b in ((found.previous, expected.previous), (found.new, expected.new)):
            assert off(a.s, b.s) < EXACT and off(a.rate, b.rate) < EXACT
        assert off(found.jacobian(), expected.jacobian()) < EXACT
        for part in ("both", "within", "between"):
            assert np.abs(found.vjp(v[t], part) - expected.vjp(v[t], part)).max() < EXACT * np.abs(v).max()
            back = circuit.wiring.join(trajectory.back(t, circuit.wiring.split(v[t]), part))
            assert (back == found.vjp(v[t], part)).all()
        dr = np.ones_like(expected.new.rate)
        assert off(circuit.rate_credit(trajectory.after(t), dr), circuit.rate_credit(expected.new, dr)) < EXACT
    summed = sum(step.parameter_gradient(credit) for step, credit in zip(transitions, v, strict=True))
    assert off(trajectory.parameter_gradient(v), summed) < EXACT
    assert off(stack(transitions, v, end).parameter_gradient(v), summed) < EXACT


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_running_is_stepping(dtype):
    circuit, x, end = setting("cerebellar", dtype)
    states, rates = circuit.run(x.transpose(1, 0, 2), noise_seed=5)
    transitions = steps_of(circuit, x, np.zeros_like(end), np.random.default_rng(5))
    tolerance = EXACT if dtype == "float64" else 1e-5
    assert off(states.transpose(1, 0, 2), np.stack([step.new.s for step in transitions])) < tolerance
    assert off(rates.transpose(1, 0, 2), np.stack([step.new.rate for step in transitions])) < tolerance


def test_steps_whose_weights_moved_keep_their_own():
    circuit, x, end = setting("leaky_tanh")
    rng, state, transitions = np.random.default_rng(2), circuit.initial_state(4), []
    for now, ends in zip(x, end, strict=True):
        transitions.append(circuit.step(state, now))
        state = circuit.reset(transitions[-1].new, ends)
        circuit = circuit.with_psi(circuit.psi + 0.3 * rng.normal(size=circuit.psi.shape))
    v = rng.normal(size=(7, 4, circuit.n))
    trajectory = stack(transitions, v, end)
    for t, expected in enumerate(transitions):
        assert (trajectory[t].vjp(v[t]) == expected.vjp(v[t])).all()
        assert off(trajectory.vjp(v)[t], expected.vjp(v[t])) < EXACT
    first = transitions[0].vjp(v[3])
    assert off(transitions[3].vjp(v[3]), first) > 1e-2  # the weights did move


def test_there_are_no_steps_beyond_the_last():
    circuit, x, end = setting("linear")
    trajectory = unroll(circuit, circuit.initial_state(4), x, end)
    assert len(trajectory) == 7 and len(list(trajectory)) == 7
    with pytest.raises(IndexError):
        trajectory[7]
