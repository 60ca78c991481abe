"""The lazy trace gives the numbers of the full one, under every schedule; a window cuts what is old."""

import numpy as np
import pytest
from helpers import NONLINEAR
from truth import LOSSES, MODELS, case, error_of_summed_updates, off

import bpl_neuro as bpl
from bpl_neuro.train.loop import watched_steps


def learned(model, trace, keywords, schedule, rule=bpl.BPLambda, batches=2, **options):
    """Every parameter after some batches in which all of them move."""
    circuit, readout, unit, data, theta = case(model, "gaps", T=9, **keywords)
    trainer = bpl.Trainer(
        circuit, readout, rule(unit, gamma=0.95, lam=0.9, sg_weight=0.7, trace=trace, **options),
        optimiser=bpl.SGD(0.02), schedule=schedule,
    )  # fmt: skip
    trainer.set_parameters(theta=theta)
    for _ in range(batches):
        trainer.train_batch(data)
    return {name: trainer.parameter(name) for name in ("psi", "phi", "theta")}


@pytest.mark.parametrize("schedule", ["step", "trial"])
@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_full_trace_with_everything_moving(model, schedule):
    full, lazy = (learned(model, trace, {}, schedule) for trace in ("full", "lazy"))
    for name in full:
        assert off(lazy[name], full[name]) < 1e-10, name


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        ({"expansion": 7, "fan_in": 2}, {}),
        ({"expansion": 7, "fan_in": 2, "plastic_expansion": True}, {}),
        ({"subspace": "random", "dimension": 3}, {}),
        ({"sees": "rate", "sees_input": True}, {"feedback": "sign"}),
        ({}, {"continuous_time": True}),
        ({}, {"rule": bpl.rules.BPLambdaEProp, "discounted": True}),
        ({}, {"window": 9}),
    ],
)
@pytest.mark.parametrize("nonlinear", [False, True])
def test_with_every_option(keywords, options, nonlinear):
    model = bpl.Model.from_toml(NONLINEAR) if nonlinear else "leaky_tanh"
    full = learned(model, "full", keywords, "step", **{k: v for k, v in options.items() if k != "window"})
    lazy = learned(model, "lazy", keywords, "step", **options)
    for name in full:
        assert off(lazy[name], full[name]) < 1e-10, name


@pytest.mark.parametrize("loss", LOSSES)
def test_the_forward_view(loss):
    circuit, readout, unit, data, theta = case("ei", loss)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace="lazy")
    assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, 0.9, 0.8) < 1e-10


def test_a_window_cuts_what_is_old_with_an_error_that_falls():
    circuit, readout, unit, data, theta = case("leaky_tanh", T=30)

    def found(**options):
        rule = bpl.BPLambda(unit, gamma=0.8, lam=0.8, **options)
        return bpl.batch_updates(circuit, readout, rule, data, theta).gradients["theta"]

    full = found(trace="full")
    errors = [off(found(trace="lazy", window=K), full) for K in (1, 3, 6, 12, 30)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1e-2 and errors[-1] < 1e-12
    # J of this circuit is nearly the identity: each step back costs at most a factor γλ‖J‖.
    norm = max(np.linalg.norm(circuit.step(circuit.initial_state(1), x[None]).jacobian()[0], 2) for x in data.x[0])
    assert errors[3] < 10 * (0.64 * norm) ** 12


def reported(keywords, loss="end", T=30, **options):
    """What is reported of a window, and what it ought to be: products of dense Jacobians."""
    circuit, readout, unit, data, theta = case("adapting", loss, T=T, **keywords)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace="lazy", **options)
    steps, outcome = watched_steps(circuit, readout, rule, data, theta)
    largest, bound, K = 0.0, 0.0, rule.trace.window
    for b in range(data.size):
        for t in range(len(steps)):  # δ of steps[t] is carried back through the K steps before it
            begun = max((k + 1 for k in range(t) if steps[k].end[b]), default=0)
            delta = steps[t].signals["delta"][b]
            if t - begun <= K or not delta.any():
                continue
            product, norms = np.eye(circuit.n), 1.0
            for k in reversed(range(t - K, t)):
                J = 0.72 * steps[k].transition.jacobian()[b]
                product, norms = product @ J, norms * np.linalg.norm(J, 2)
            share = np.linalg.norm(delta @ product) / np.linalg.norm(delta)
            largest, bound = max(largest, share), max(bound, norms)
    return outcome.report["window_error"], largest, bound


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("window", [1, 4, 9])
def test_what_a_window_cuts_is_reported(loss, window):
    found, expected, bound = reported({}, loss, window=window)
    assert found == pytest.approx(expected, rel=1e-10) and 0 < found <= bound


def test_a_window_that_cuts_nothing_reports_nothing(capsys):
    assert reported({}, T=8, window=8)[0] == 0
    task = bpl.tasks.TargetReaching(patterns=2, steps=9, batches_per_epoch=2)
    circuit = bpl.Circuit("leaky_tanh", 4, task.input_size, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), trace="lazy", window=3)
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), rule, schedule="step")
    trainer.fit(task, batch_size=3, epochs=2)
    assert all(entry["window_error"] > 0 for entry in trainer.history) and "window error" in capsys.readouterr().out


def test_streams_need_a_window_and_what_they_keep_is_bounded(tmp_path):
    circuit = bpl.Circuit("leaky_tanh", 4, 2, seed=0)
    rng = np.random.default_rng(0)
    piece = bpl.Batch(rng.normal(size=(2, 20, 2)), rng.normal(size=(2, 20, 2)), stream=True)

    def make(**options):
        rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, trace="lazy", **options)
        return bpl.Trainer(circuit, bpl.Readout(circuit, 2), rule, schedule="step")

    with pytest.raises(bpl.ValidationError, match="window"):
        make().train_batch(piece)
    trainer = make(window=5)
    for _ in range(3):
        trainer.train_batch(piece)
    carry = trainer.state.position["carry"]["trace"]
    rings = [*(carry[key] for key in ("z", "end", "ended", "number")), *carry["weights"]]
    assert {len(ring) for ring in rings} == {5} and carry["held"] == 5
    assert {len(part) for key in ("A", "C", "D") for part in carry[key]} == {5}
    trainer.save(tmp_path / "c.npz")
    again = make(window=5).restore(tmp_path / "c.npz")
    for each in (trainer, again):
        each.train_batch(piece)
    for name in ("psi", "phi", "theta"):
        assert (again.parameter(name) == trainer.parameter(name)).all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": 0}, "window"), ({"trace": "full", "window": 3}, "lazy"), ({"window": 2.5}, "window")],
)
def test_wrong_windows(options, message):
    with pytest.raises(bpl.ValidationError, match=message):
        bpl.BPLambda(bpl.Synthesiser(bpl.Circuit("linear", 3, 2)), **({"trace": "lazy"} | options))


@pytest.mark.parametrize(
    ("schedule", "steps", "stream", "taken"),
    [("trial", 9, False, "sweep"), ("step", 9, False, "lazy"), ("step", 400, False, "full"), ("step", 9, True, "full")],
)
def test_auto_takes_the_cheapest_exact_form_and_says_so(schedule, steps, stream, taken):
    def make(trace):
        circuit = bpl.Circuit("leaky_tanh", 4, 2, seed=0)
        rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.9, trace=trace)
        return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule=schedule)

    rng = np.random.default_rng(0)
    piece = bpl.Batch(rng.normal(size=(2, steps, 2)), rng.normal(size=(2, steps, 2)), stream=stream)
    auto, full = make("auto"), make("full")
    for trainer in (auto, full):
        trainer.train_batch(piece), trainer.train_batch(piece)
    assert "trace='auto'" in repr(auto.rule)  # what was given stays as it is
    settled = auto.settled_rule
    assert f"trace='{taken}'" in repr(settled) and settled.exact is False and settled.trace.exact
    np.testing.assert_allclose(auto.theta, full.theta, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(auto.parameter("psi"), full.parameter("psi"), rtol=1e-8, atol=1e-12)
