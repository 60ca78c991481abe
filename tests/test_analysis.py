"""Alignment, the least-squares optimum and the single-synapse trace against the slow truth."""

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro import analysis, reference
from bpl_neuro.train.loop import run_batch


def setting(trace="sweep", gamma=1.0, lam=1.0, model="adapting"):
    circuit = bpl.Circuit(model, 4, 3, seed=0)
    readout = bpl.Readout(circuit, 2, seed=1)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=gamma, lam=lam, trace=trace)
    rng = np.random.default_rng(2)
    end = np.zeros((6, 7), bool)
    end[:, -1] = True
    end[1, 3] = True
    data = bpl.Batch(rng.normal(size=(6, 7, 3)), rng.normal(size=(6, 7, 2)), end=end)
    return circuit, readout, rule, data, rng.normal(size=circuit.n * (circuit.n + 1)) * 0.1


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_swept_gradient_is_the_dense_one(gamma):
    circuit, readout, rule, data, theta = setting()
    run = reference.slow_run(circuit, readout, data)
    steps, _ = analysis.watched_steps(circuit, readout, rule, data, theta)
    np.testing.assert_allclose(
        np.stack(analysis.true_later_gradient(steps, gamma)),
        reference.later_gradient(run.jacobians, run.c, run.end, gamma),
        atol=1e-14,
    )


def test_alignment_is_the_cosine_with_the_true_gradient():
    circuit, readout, rule, data, theta = setting()
    found = analysis.alignment(circuit, readout, rule, data, theta)
    run = reference.slow_run(circuit, readout, data)
    G = reference.later_gradient(run.jacobians, run.c, run.end)
    W = rule.synthesiser.weights(theta)
    assert list(found["step"].values) == [1, 2, 3, 4, 5, 6]
    for t in range(6):
        z = rule.synthesiser.z(run.transitions[t])
        rows = ~run.end[t]
        a, b = (z @ W.T + run.c[t])[rows], (G[t] + run.c[t])[rows]
        cosines = [u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in zip(a, b, strict=True)]
        assert found["cosine"].values[t] == pytest.approx(np.mean(cosines), rel=1e-10)


def test_the_optimum_is_reached_where_it_can_be_and_bounds_the_squared_error():
    circuit, readout, rule, data, _ = setting(model="linear")
    found = analysis.alignment(circuit, readout, rule, data[:1], np.zeros(20))
    # Fewer states than inputs of the synthesiser cannot happen with 6 steps and 5 inputs; 4 steps it can memorise.
    short = bpl.Batch(data.x[:1, :4], data.y[:1, :4])
    memorised = analysis.alignment(circuit, readout, rule, short, np.zeros(20))
    np.testing.assert_allclose(memorised["optimum"], 1, atol=1e-9)
    assert float(found["optimum"].min()) < 1 - 1e-6


def test_zero_vectors_are_counted_and_left_out():
    circuit, readout, rule, data, theta = setting()
    silent = bpl.Batch(data.x, data.y, mask=np.zeros((6, 7)))
    found = analysis.alignment(circuit, readout, rule, silent, theta)
    assert found["zero_vectors"].values.tolist() == [6] * 6
    assert np.isnan(found["cosine"].values).all()


def test_cosine_of_zero_is_nan():
    assert np.isnan(analysis.cosine(np.zeros(3), np.ones(3)))
    assert analysis.cosine(np.array([1.0, 2.0]), np.array([-2.0, -4.0])) == pytest.approx(-1)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.5), (0.9, 0.0)])
@pytest.mark.parametrize("model", ["adapting", "lstm", "leaky_tanh"])
def test_one_synapse_ends_on_the_forward_view(gamma, lam, model):
    circuit, readout, rule, data, theta = setting("full", gamma, lam, model)
    for trial, synapse in [(0, (2, 1)), (1, (0, circuit.n)), (2, (circuit.n - 1, 0))]:
        trace = analysis.synapse_trace(circuit, readout, rule, data, theta, synapse, trial)
        run = reference.slow_run(circuit, readout, data[trial : trial + 1])
        expected = reference.offline_lambda_sg(run, rule.synthesiser, theta, gamma, lam)
        expected = rule.synthesiser.weights(expected)[synapse]
        assert trace.attrs["forward_view"] == pytest.approx(expected, rel=1e-10)
        assert trace["cumulative"].values[-1] == pytest.approx(expected, rel=1e-10)
        assert np.isnan(trace["delta"].values[0])


def test_a_synapse_that_does_not_exist_is_an_error():
    circuit, readout, rule, data, theta = setting("full")
    for synapse in [(circuit.n, 0), (0, circuit.n + 1), (-1, 0)]:
        with pytest.raises(bpl.ValidationError, match="`synapse`"):
            analysis.synapse_trace(circuit, readout, rule, data, theta, synapse)
    with pytest.raises(bpl.ValidationError, match="`trial`"):
        analysis.synapse_trace(circuit, readout, rule, data, theta, (0, 0), trial=6)
    with pytest.raises(bpl.ValidationError, match="full"):
        analysis.synapse_trace(circuit, readout, setting("local")[2], data, theta, (0, 0))


def test_without_synapses_between_units_the_local_trace_is_the_exact_one():
    circuit, readout, rule, data, theta = setting("full", 0.9, 0.8)
    circuit = circuit.with_weights("cortex->cortex", np.zeros(circuit.layout["cortex->cortex"]))
    trace = analysis.synapse_trace(circuit, readout, rule, data, theta, (3, 1))
    np.testing.assert_allclose(trace["local"], trace["own"], atol=1e-14)
    local = bpl.BPLambda(rule.synthesiser, gamma=0.9, lam=0.8, trace="local")
    full = bpl.batch_updates(circuit, readout, rule, data, theta).gradients["theta"]
    np.testing.assert_allclose(
        bpl.batch_updates(circuit, readout, local, data, theta).gradients["theta"], full, atol=1e-14
    )


def test_the_leak_and_the_models_own_trace_follow_their_equations():
    circuit = bpl.Circuit("leaky_tanh", 4, 3, seed=0)
    readout = bpl.Readout(circuit, 2, seed=1)
    rng = np.random.default_rng(3)
    data = bpl.Batch(rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 2)))
    theta = rng.normal(size=20) * 0.1
    decays = {"leak": (0.9 * 0.8, 1.0), "model": (np.exp(-1 / 20), -np.expm1(-1 / 20))}
    for form, (decay, gain) in decays.items():
        rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.8, trace=form)
        found = bpl.batch_updates(circuit, readout, rule, data, theta, signals=True)
        e, total = np.zeros((2, 5)), np.zeros((4, 5))
        for t in range(5):
            total += found.signals["delta"][t].T @ e
            e = decay * e + gain * np.hstack([found.signals["state"][t], np.ones((2, 1))])
        np.testing.assert_allclose(-found.gradients["theta"], total.reshape(-1), rtol=1e-12, atol=1e-15)


def test_the_models_own_trace_needs_an_equation():
    with pytest.raises(bpl.ValidationError, match="synapses"):
        bpl.BPLambda(bpl.Synthesiser(bpl.Circuit("linear", 3, 2)), trace="model")


@pytest.mark.parametrize("trace", ["full", "local", "leak", "sweep"])
def test_nothing_online_knows_what_comes(trace):
    circuit = bpl.Circuit("ei", {"exc": 6, "inh": 3}, 2, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.8, trace=trace)
    schedule = "trial" if trace == "sweep" else "step"
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule=schedule)
    rng = np.random.default_rng(0)
    batch = bpl.Batch(rng.normal(size=(3, 8, 2)), rng.normal(size=(3, 8, 2)))
    found = analysis.causality(trainer, batch, step=5)
    before, after = found.sel(step=slice(None, 5)), found.sel(step=slice(6, None))
    assert (before["difference"] == 0).all() and (after["difference"].max("step") > 0).all()
    assert (before["moved"].max("step") > 0).all() == rule.online
    assert trainer.batches == 0
    for step in (0, 8, 2.5, True):
        with pytest.raises(bpl.ValidationError, match="step"):
            analysis.causality(trainer, batch, step=step)


def test_a_rule_that_looks_ahead_is_caught():
    class Clairvoyant(bpl.BPLambda):
        """Each update is scaled by an input that comes two steps later."""

        def step(self, *arguments):
            ahead = self.batch.x[:, min(self.now + 2, 7)].sum()
            self.now += 1
            new, signals, gradient = super().step(*arguments)
            return new, signals, ahead * gradient

    circuit = bpl.Circuit("leaky_tanh", 4, 2, seed=0)
    trainer = bpl.Trainer(
        circuit, bpl.Readout(circuit, 2), Clairvoyant(bpl.Synthesiser(circuit), trace="full"), optimiser=bpl.SGD(0.1),
        schedule="step",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    batch = bpl.Batch(rng.normal(size=(3, 8, 2)), rng.normal(size=(3, 8, 2)))
    learn = run_batch

    def peeking(learner, state, data, **keywords):
        learner.rule.batch, learner.rule.now = data, 0
        return learn(learner, state, data, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "run_batch", peeking)
        found = analysis.causality(trainer, batch, step=5)
    assert found["difference"].sel(step=5, parameter="psi") > 0
