"""Properties that hold for whatever comes in: causality, order, additivity, reset, padding, types."""

from collections.abc import Mapping

import numpy as np
import pytest
from helpers import TEXTS, learned_online, random_trials, with_trials
from hypothesis import given, settings
from hypothesis import strategies as st
from truth import MODELS, case, off

import bpl_neuro as bpl
from bpl_neuro.train.loop import watched_steps

ONLINE = ("full", "local", "leak")


def updates_in_order(circuit, readout, rule, data, theta):
    """Every update of a per-step run, with the parameters moving at each one."""
    learner = bpl.Learner(
        circuit, readout, rule, dict.fromkeys(("psi", "phi", "theta"), bpl.SGD(0.05)), bpl.Schedule(1)
    )
    seen = []

    def watch(step):
        seen.append({name: step.parameter(name) for name in ("psi", "phi", "theta")})

    bpl.run_batch(learner, learner.initial(theta=theta).replace(noise_rng=None), data, watch=watch)
    return seen


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from(ONLINE), st.integers(1, 5), st.integers(0, 99))
def test_later_inputs_change_no_earlier_update(model, trace, t, seed):
    circuit, readout, unit, data, theta = case(model, seed=seed)
    rule = bpl.BPLambda(unit, lam=0.8, trace=trace)
    x, y = data.x.copy(), data.y.copy()
    x[:, t:] += 1
    y[:, t:] -= 1
    before = updates_in_order(circuit, readout, rule, data, theta)
    after = updates_in_order(circuit, readout, rule, bpl.Batch(x, y, data.mask, data.end), theta)
    for k in range(t):
        for name in before[k]:
            assert (before[k][name] == after[k][name]).all()
    # What has changed is seen then, if not by Ψ (units below their threshold hear nothing) then by φ.
    assert any((before[t][name] != after[t][name]).any() for name in before[t])


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)), st.sampled_from(["full", "sweep"]))
def test_the_order_of_trials_changes_nothing(order, trace):
    circuit, readout, unit, data, theta = case("adapting", "gaps", B=4)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    one = bpl.batch_updates(circuit, readout, rule, data, theta)
    other = bpl.batch_updates(circuit, readout, rule, data[np.array(order)], theta)
    for name in one.gradients:
        assert off(other.gradients[name], one.gradients[name]) < 1e-12


@pytest.mark.parametrize("trace", ["full", "sweep", "local"])
def test_gradients_of_two_batches_add_up_to_that_of_both(trace):
    """With the 1/B of the mean: B g(both) = B₁ g(first) + B₂ g(second), for ψ and φ at θ = 0; θ scales with 1/B."""
    circuit, readout, unit, data, theta = case("adapting", "gaps", B=5)
    readout = bpl.Readout(circuit, 2, reduction="sum", seed=1)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    both, first, second = (
        bpl.batch_updates(circuit, readout, rule, part, theta).gradients for part in (data, data[:2], data[2:])
    )
    for name in both:
        assert off(first[name] + second[name], both[name]) < 1e-12


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 10))
def test_the_first_update_of_the_synthesiser_is_linear_in_the_loss(factor):
    circuit, readout, unit, data, _ = case("lstm", "gaps")
    rule = bpl.BPLambda(unit, lam=0.9, trace="full")
    one = bpl.batch_updates(circuit, readout, rule, data).gradients["theta"]
    scaled = bpl.Batch(data.x, data.y, factor * data.mask, data.end)
    assert off(bpl.batch_updates(circuit, readout, rule, scaled).gradients["theta"], factor * one) < 1e-12


@pytest.mark.parametrize("trace", ["full", "sweep", "local", "leak"])
@pytest.mark.parametrize("model", MODELS)
def test_trials_in_a_row_are_trials_in_rows(model, trace):
    """Two trials one after the other equal the same two side by side: nothing is carried over an end."""
    circuit, readout, unit, data, theta = case(model, B=2, T=5)
    readout = bpl.Readout(circuit, 2, reduction="sum", seed=1)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    joined = bpl.Batch(*(a.reshape(1, 10, *a.shape[2:]) for a in (data.x, data.y, data.mask, data.end)))
    one = bpl.batch_updates(circuit, readout, rule, data, theta)
    other = bpl.batch_updates(circuit, readout, rule, joined, theta)
    for name in one.gradients:
        assert off(other.gradients[name], one.gradients[name]) < 1e-12


@pytest.mark.parametrize("trace", ["full", "sweep", "local", "leak"])
def test_padding_teaches_nothing(trace):
    circuit, readout, unit, data, theta = case("adapting", B=3, T=5)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    longer = bpl.Batch(
        np.concatenate([data.x, np.full((3, 4, 2), 7.0)], axis=1),
        np.concatenate([data.y, np.full((3, 4, 2), -7.0)], axis=1),
        np.ones((3, 9)),
        np.concatenate([data.end, np.zeros((3, 4), bool)], axis=1),
    )
    one = bpl.batch_updates(circuit, readout, rule, data, theta)
    other = bpl.batch_updates(circuit, readout, rule, longer, theta)
    assert other.loss == pytest.approx(one.loss, rel=1e-12)
    for name in one.gradients:
        assert off(other.gradients[name], one.gradients[name]) < 1e-12


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["lstm", "ei", "adapting"]),
    st.sampled_from(["full", "sweep", "local", "leak"]),
    st.integers(0, 999),
)
def test_every_trial_counts_for_itself(model, trace, seed):
    """Rows of random trials, cut into one batch per trial: the gradients add up; nothing passes from trial to trial."""
    circuit, readout, unit, *_ = case(model, seed=seed)
    readout = bpl.Readout(circuit, 2, reduction="sum", seed=1)
    rng = np.random.default_rng(seed)
    data, theta = with_trials(circuit, readout, unit, rng)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, sg_weight=0.7, trace=trace)
    together = bpl.batch_updates(circuit, readout, rule, data, theta).gradients
    apart = {name: np.zeros_like(value) for name, value in together.items()}
    for row in range(data.size):
        start = 0
        for stop in np.flatnonzero(data.end[row]) + 1:
            x, y, mask = (a[row : row + 1, start:stop] for a in (data.x, data.y, data.mask))
            for name, value in bpl.batch_updates(
                circuit, readout, rule, bpl.Batch(x, y, mask), theta
            ).gradients.items():
                apart[name] += value
            start = stop
    for name, value in together.items():
        assert np.abs(value - apart[name]).max() <= 1e-11 * max(np.abs(value).max(), 1e-3)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 999))
def test_the_order_of_trials_changes_nothing_online(order, seed):
    """While every parameter moves at every step."""
    circuit, readout, unit, *_ = case("adapting", seed=seed)
    data, theta = with_trials(circuit, readout, unit, np.random.default_rng(seed), B=4)
    rates = {"psi": 0.05, "phi": 0.03, "theta": 0.05}
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace="full")
    one = learned_online(rule, circuit, readout, data, theta, rates)
    other = learned_online(rule, circuit, readout, data[np.array(order)], theta, rates)
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-9, atol=1e-11)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
def test_the_mean_over_a_batch_weights_its_parts_by_their_trials(first, second, seed):
    """B g(both) = B₁ g(first) + B₂ g(second) with the 1/B of the mean, where everything is linear in c: at θ = 0."""
    circuit, readout, unit, *_ = case("threshold_linear", seed=seed)
    data = random_trials(np.random.default_rng(seed), B=first + second)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace="full")
    both, one, other = (
        bpl.batch_updates(circuit, readout, rule, part).gradients for part in (data, data[:first], data[first:])
    )
    for name in both:
        total = first * one[name] + second * other[name]
        np.testing.assert_allclose((first + second) * both[name], total, rtol=1e-9, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 999))
def test_the_first_update_of_the_synthesiser_is_linear_in_c(a, b, seed):
    """A user's own loss whose gradient is a weighted sum of two: so is the update at θ = 0, and that of ψ."""
    circuit, _, unit, *_ = case("lstm", seed=seed)
    data = random_trials(np.random.default_rng(seed))
    rule = bpl.BPLambda(unit, lam=0.9, trace="full")

    def mixed(weight_a, weight_b):
        def loss(xp, output, target):
            gradient = weight_a * (output - target) + weight_b * xp.tanh(output)
            return (gradient * gradient).sum(axis=1), gradient

        return bpl.batch_updates(circuit, bpl.Readout(circuit, 2, loss, seed=1), rule, data).gradients

    one, other, both = mixed(1, 0), mixed(0, 1), mixed(a, b)
    for name in both:
        scale = np.abs(one[name]).max() + np.abs(other[name]).max()
        assert np.abs(both[name] - (a * one[name] + b * other[name])).max() < 1e-11 * scale


def arrays_in(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from arrays_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from arrays_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            if name not in ("wiring",):
                yield from arrays_in(getattr(value, name))


@pytest.mark.parametrize("trace", ["full", "sweep", "local", "leak"])
@pytest.mark.parametrize("model", MODELS)
def test_a_float32_run_is_float32_everywhere(model, trace):
    populations = bpl.Model.load(model).populations
    circuit = bpl.Circuit(model, dict.fromkeys(populations, 3), 2, dtype="float32")
    readout = bpl.Readout(circuit, 2)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), lam=0.9, gamma=0.9, sg_weight=0.5, trace=trace)
    rng = np.random.default_rng(0)
    data = bpl.Batch(rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 4, 2)))
    kinds = set()

    def watch(step):
        for array in arrays_in([step.transition, step.c, step.signals, step.carry]):
            kinds.add(array.dtype)

    _, outcome = watched_steps(circuit, readout, rule, data, keep=False, watch=watch)
    assert kinds <= {np.dtype("float32"), np.dtype(bool)}
    assert {gradient.dtype for gradient in outcome.gradients.values()} == {np.dtype("float32")}
    for optimiser in (bpl.Adam(), bpl.SGD(0.1)):
        learner = bpl.Learner(circuit, readout, rule, dict.fromkeys(("psi", "phi", "theta"), optimiser), bpl.Schedule())
        learned = bpl.run_batch(learner, learner.initial(), data)[0]
        assert {a.dtype for a in arrays_in([learned.psi, learned.phi, learned.theta, learned.moments])} == {
            np.dtype("float32")
        }
        moved, state = optimiser.step(
            circuit.backend, circuit.psi, circuit.psi, optimiser.init(circuit.backend, circuit.psi)
        )
        assert {a.dtype for a in [moved, *state.values()] if np.ndim(a)} == {np.dtype("float32")}


@pytest.mark.parametrize("model", MODELS)
def test_float32_follows_float64(model):
    populations = bpl.Model.load(model).populations
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 20, 2))
    single, double = (
        bpl.Circuit(model, dict.fromkeys(populations, 5), 2, dtype=dtype, seed=3, radius=0.8).run(x)[0]
        for dtype in ("float32", "float64")
    )
    assert np.abs(single - double).max() < 1e-4
    assert (single != double).any()


# A function of parameters alone, as in "assignments in order", still widens what it meets.
@pytest.mark.parametrize("name", [name for name in TEXTS if name != "assignments in order"])
def test_a_users_own_model_stays_float32(name):
    model = bpl.Model.from_equations(rate="r", dt="1*ms", **TEXTS[name])
    circuit = bpl.Circuit(model, 3, 2, dtype="float32")
    x = np.ones((2, 2), np.float32)
    transition = circuit.step(circuit.step(circuit.initial_state(2), x).new, x)
    v = np.ones((2, circuit.n), np.float32)
    found = [transition, transition.jacobian(), transition.vjp(v), transition.jvp(v[:, :, None])]
    found += [transition.parameter_gradient(v), circuit.rate_credit(transition.new, v[:, :3]), *circuit.run(x[None])]
    kinds = {array.dtype for array in arrays_in(found)}
    factors = [*transition.A, *transition.C, *transition.new.D, *transition.previous.D]
    # a factor that is no array must be a Python number: a NumPy scalar of 64 bits would widen what it meets
    loose = {type(f) for factor in factors for f in factor.values() if not isinstance(f, np.ndarray)}
    assert kinds == {np.dtype("float32")} and loose <= {int, float}
