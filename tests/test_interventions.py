"""Forks and interventions; schedules, clipping, penalties, continuous time."""

import numpy as np
import pytest
from biology import SIZES, TEXT
from truth import off

import bpl_neuro as bpl
from bpl_neuro import interventions, reference
from bpl_neuro.backend import NumpyBackend
from bpl_neuro.train.optimisers import rate_at

TASK = bpl.tasks.TargetReaching(patterns=3, steps=6, input_size=4, batches_per_epoch=5)
NAMES = ("psi", "phi", "theta")


def trainer(schedule="step", text=TEXT, **keywords):
    circuit = bpl.Circuit(bpl.Model.from_toml(text), SIZES, 4, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), lam=0.9, trace="local")
    return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule=schedule, seed=3, **keywords)


def fit(t, stop_at):
    return t.fit(TASK, epochs=4, batch_size=2, stop_at=stop_at, progress=False)


@pytest.mark.parametrize("schedule", ["trial", "step"])
@pytest.mark.parametrize("at", [5, 7])
def test_a_fork_with_no_change_is_the_uninterrupted_run(schedule, at):
    whole = fit(trainer(schedule), 15)
    first = fit(trainer(schedule), at)
    fork = first.fork()
    fit(fork, 15)
    assert first.batches == at
    fit(first, 15)
    for name in NAMES:
        assert (whole.parameter(name) == fork.parameter(name)).all(), name
        assert (whole.parameter(name) == first.parameter(name)).all(), name
    assert whole.losses == fork.losses == first.losses


@pytest.mark.parametrize("trial", [0, 6, 10, 14, 26])
def test_a_fork_from_the_past_is_the_run_as_it_was(trial):
    whole = fit(trainer(), 13)
    fork = whole.fork(trial=trial)
    then = trainer() if trial == 0 else fit(trainer(), trial // 2)
    assert fork.trials == trial and fork.losses == then.losses and whole.batches == 13
    fit(fork, 13)
    for name in NAMES:
        assert (whole.parameter(name) == fork.parameter(name)).all(), name
    assert fork.history == whole.history and (fork.state.noise_rng.random() == whole.state.noise_rng.random())


def test_a_fork_goes_back_no_further_than_the_latest_fit():
    whole = fit(fit(trainer(), 5), 9)
    fork = whole.fork(trial=12)
    assert fork.batches == 6 and (fork.parameter("psi") == fit(trainer(), 6).parameter("psi")).all()
    for trial, message in ((8, "from 10 to 18"), (13, "nearest is 12"), (20, "from 10 to 18"), ("x", "number")):
        with pytest.raises(bpl.ValidationError, match=message):
            whole.fork(trial=trial)
    with pytest.raises(bpl.ValidationError, match="latest `fit`"):
        trainer().fork(trial=2)


def test_each_fork_has_its_own_curriculum():
    task = bpl.tasks.CopyRepeat(batches_per_epoch=3, threshold=1.1)  # passes every batch
    circuit = bpl.Circuit("lstm", 5, task.input_size, seed=0)
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=1)
    first = bpl.Trainer(circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit), trace="sweep"))
    common = {"epochs": 4, "batch_size": 2, "validate": False, "progress": False}
    first.fit(task, stop_at=4, **common)
    fork, past = first.fork(), first.fork(trial=4)
    for it in (first, past, fork):  # one task, taken to where each of them stands
        it.fit(task, stop_at=7, **common)
    assert first.losses == fork.losses == past.losses and len(first.losses) == 7
    assert (first.parameter("psi") == past.parameter("psi")).all()


@pytest.mark.parametrize("what", [*interventions.INTERVENTIONS, "clamp:exc:0,2:0.4", "silence:inh->exc"])
def test_a_checkpoint_keeps_interventions(tmp_path, what):
    changed = fit(interventions.apply(fit(trainer(), 5), what), 7)
    changed.save(tmp_path / "c.npz")
    restored = trainer().restore(tmp_path / "c.npz")
    fit(changed, 12), fit(restored, 12)
    assert changed.losses == restored.losses and (changed.parameter("psi") == restored.parameter("psi")).all()
    assert (changed.theta == restored.theta).all()
    changed.trained_circuit().save(tmp_path / "circuit.npz")
    x = np.ones((2, 5, 4))
    assert (bpl.Circuit.load(tmp_path / "circuit.npz").run(x)[0] == changed.run(x)[0]).all()
    untouched = fit(trainer(), 5)
    untouched.save(tmp_path / "c.npz")
    again = (
        interventions.apply(trainer(), what).restore(tmp_path / "c.npz") if what not in ("lesion", "freeze") else None
    )
    if again:  # and brings back what was whole
        assert fit(again, 9).losses == fit(untouched, 9).losses


@pytest.mark.parametrize("what", ["burn", "lesion:exc", "clamp:exc:x:1", "clamp:exc", "silence", "silence:a->b", 3])
def test_wrong_texts(what):
    with pytest.raises(bpl.ValidationError):
        interventions.apply(trainer(), what)


def test_a_fork_shares_nothing():
    first = fit(trainer(), 5)
    before = {name: first.parameter(name).copy() for name in NAMES}
    fork = interventions.lesion_synthesiser(first.fork())
    fit(fork, 15)
    assert first.state.pathway is None and "theta" not in first.state.frozen and "theta" in first.state.moments
    for name in NAMES:
        assert (first.parameter(name) == before[name]).all()


@pytest.mark.parametrize("name", interventions.INTERVENTIONS)
def test_after_an_intervention_the_trials_and_the_noise_are_the_same(name):
    seen = {}
    for change in (lambda t: t, interventions.INTERVENTIONS[name]):
        t = change(fit(trainer(), 5).fork())
        inputs, noise = [], []
        t.fit(
            TASK, epochs=4, batch_size=2, stop_at=9, progress=False,
            watch=lambda step, inputs=inputs: inputs.append(step.transition.x),
        )  # fmt: skip
        noise = t.state.noise_rng.bit_generator.state
        seen[len(seen)] = (np.stack(inputs), noise, t.parameter("psi"))
    assert (seen[0][0] == seen[1][0]).all() and seen[0][1] == seen[1][1]
    if name != "freeze":
        assert (seen[0][2] != seen[1][2]).any()


def test_a_lesion_leaves_the_immediate_gradient_alone():
    t = interventions.lesion_synthesiser(fit(trainer(), 5))
    theta = t.theta.copy()
    seen = []
    fit_watch = lambda step: seen.append((step.signals["credit"], step.c, step.signals["g"]))  # noqa: E731
    t.fit(TASK, epochs=4, batch_size=2, stop_at=7, progress=False, watch=fit_watch)
    assert all((credit == c).all() for credit, c, _ in seen)
    assert any(g.any() for *_, g in seen)
    assert (t.theta == theta).all()


def test_scrambling_and_rotating_keep_the_norm():
    for change in (interventions.scramble_synthesiser, interventions.rotate_synthesiser):
        t = change(fit(trainer(), 5), seed=2)
        Q = t.state.pathway
        assert t.settled_rule.pathway is Q and t.rule.pathway is None
        np.testing.assert_allclose(Q @ Q.T, np.eye(len(Q)), atol=1e-12)
        assert off(Q, np.eye(len(Q))) > 0.5


def test_clamped_units_stay_and_pass_nothing_on():
    t = trainer(text=TEXT.replace("sigma = 0.2", "sigma = 0"))
    interventions.clamp_units(t, "exc", [1, 3], 0.25)
    circuit = t.trained_circuit()
    states, _ = circuit.run(np.random.default_rng(0).normal(size=(2, 5, 4)))
    exc = circuit.population_states(states)["exc"]
    assert (exc[:, :, [1, 3], 0] == 0.25).all() and (exc[:, :, 0, 0] != 0.25).all()
    rng = np.random.default_rng(1)
    s, x = rng.normal(size=(2, circuit.n)), rng.normal(size=(2, 4))
    transition = circuit.step(circuit.state(s), x)
    assert off(transition.jacobian(), reference.finite_difference_jacobian(circuit, s, x)) < 1e-7
    interventions.clamp_units(t, "exc", [1, 3], None)
    assert (circuit.population_states(t.run(np.ones((1, 3, 4)))[0])["exc"] != 0.25).all()


def test_a_silenced_projection_stays_silent():
    t = interventions.silence_projection(fit(trainer(optimiser=bpl.Adam(0.05)), 5), "inh->exc")
    fit(t, 15)
    assert not t.weights["inh->exc"].any()
    assert t.weights["exc->inh"].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: interventions.silence_projection(t, "exc->nowhere"), "`projection`.*exc->exc"),
        (lambda t: interventions.clamp_units(t, "pyr", [0], 1.0), "`population`"),
        (lambda t: interventions.clamp_units(t, "exc", [5], 1.0), "`units`"),
        (lambda t: interventions.clamp_units(t, "exc", [0.5], 1.0), "`units`"),
        (lambda t: interventions.clamp_units(t, "exc", [0], float("nan")), "`value`"),
        (lambda t: interventions.freeze(t, "omega"), "`name`"),
    ],
)
def test_wrong_interventions(call, message):
    with pytest.raises(bpl.ValidationError, match=message):
        call(trainer())


def test_reset_forgets_everything_but_the_weights():
    t = fit(trainer(), 7)
    kept = {name: t.parameter(name) for name in NAMES}
    t.reset()
    assert t.batches == 0 and t.history == [] and t.losses == []
    assert len(t.state.moments) == 3 and not any(moments["m"].any() for moments in t.state.moments.values())
    assert all((t.parameter(name) == kept[name]).all() for name in NAMES)


def test_reset_rewinds_the_noise_and_keeps_interventions():
    t = interventions.silence_projection(interventions.lesion_synthesiser(fit(trainer(), 7)), "inh->exc")
    assert t.state.noise_rng.bit_generator.state != trainer().state.noise_rng.bit_generator.state
    t.reset()
    assert t.state.noise_rng.bit_generator.state == trainer().state.noise_rng.bit_generator.state
    assert "theta" in t.state.frozen and not t.state.pathway.any()
    fresh = interventions.silence_projection(interventions.lesion_synthesiser(trainer()), "inh->exc")
    fresh.set_parameters(**{name: t.parameter(name) for name in NAMES})
    fit(t, 4), fit(fresh, 4)
    assert t.losses == fresh.losses and all((t.parameter(name) == fresh.parameter(name)).all() for name in NAMES)
    assert not t.weights["inh->exc"].any()


def test_schedules():
    assert bpl.ExponentialDecay(0.8, 10)(20) == pytest.approx(0.2)
    cosine = bpl.CosineDecay(1.0, 10, floor=0.1)
    assert [cosine(0), cosine(5), cosine(10), cosine(99)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    sgd, p = bpl.SGD(bpl.ExponentialDecay(0.5, 1)), np.zeros(1)
    state = sgd.init(NumpyBackend(), p)
    for _ in range(3):
        p, state = sgd.step(NumpyBackend(), p, np.ones(1), state)
    assert p[0] == pytest.approx(-0.5 - 0.25 - 0.125)
    assert rate_at(0.3, 5) == 0.3
    adam, q, moments = bpl.Adam(lambda k: 0.1 if k == 0 else 0.0), np.zeros(1), None
    moments = adam.init(NumpyBackend(), q)
    for _ in range(2):
        q, moments = adam.step(NumpyBackend(), q, np.ones(1), moments)
    assert q[0] == pytest.approx(-0.1, rel=1e-6)


def test_clipping_acts_where_asked_and_is_counted():
    clip, p = bpl.Clip(bpl.SGD(1.0), 2.0), np.zeros(2)
    state = clip.init(NumpyBackend(), p)
    p, state = clip.step(NumpyBackend(), p, np.array([3.0, 4.0]), state)
    np.testing.assert_allclose(p, [-1.2, -1.6])
    p, state = clip.step(NumpyBackend(), p, np.array([0.3, 0.4]), state)
    np.testing.assert_allclose(p, [-1.5, -2.0])
    assert state["clipped"] == 1


def test_penalties_are_gradients_of_what_they_say():
    circuit = bpl.Circuit("adapting", 4, 2, seed=0)
    readout = bpl.Readout(circuit, 2, seed=1)
    rng = np.random.default_rng(0)
    data = bpl.Batch(rng.normal(size=(3, 1, 2)), rng.normal(size=(3, 1, 2)))
    psi = circuit.psi.copy()

    def loss(p):
        moved = circuit.with_psi(p)
        rate = moved.run(data.x)[1]
        value = reference.slow_run(moved, readout, data).loss + 0.5 * 0.3 * (rate**2).sum() / 3
        weights = np.concatenate([v.reshape(-1) for k, v in moved.weights.items() if not k.startswith("bias")])
        return value + 0.5 * 0.2 * (weights**2).sum()

    expected = reference.finite_difference(loss, psi.copy())
    t = bpl.Trainer(
        circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit)), optimiser={"psi": bpl.SGD(1.0)}, rate_penalty=0.3,
        weight_penalty=0.2,
    )  # fmt: skip
    t.train_batch(data)
    assert off(psi - t.parameter("psi"), expected) < 1e-6


def learned(dt, loss, seconds=0.2):
    """Δθ and ΔΨ of one trial of the same continuous-time input at a step of dt ms."""
    circuit = bpl.Circuit(
        bpl.Model.from_toml(bpl.Model.load("leaky_tanh").to_toml().replace('dt = "1*ms"', f'dt = "{dt}*ms"')),
        5,
        2,
        seed=0,
    )
    readout = bpl.Readout(circuit, 2, seed=1, continuous_time=loss)
    t = (np.arange(round(seconds / (dt * 1e-3))) + 1) * dt * 1e-3
    x = np.stack([np.sin(40 * t), np.cos(25 * t)], axis=-1)[None]
    y = np.stack([np.cos(10 * t), t], axis=-1)[None]
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma="50*ms", lam="80*ms", trace="sweep", continuous_time=loss)
    theta = np.random.default_rng(2).normal(size=30) * 0.1
    return bpl.batch_updates(circuit, readout, rule, bpl.Batch(x, y), theta).gradients


@pytest.mark.parametrize("name", ["theta", "psi"])
def test_halving_dt_changes_what_is_learned_only_to_first_order(name):
    found = {dt: learned(dt, True)[name] for dt in (2, 1, 0.5, 0.25)}
    steps = [np.abs(found[a] - found[b]).max() for a, b in ((2, 1), (1, 0.5), (0.5, 0.25))]
    assert 1.6 < steps[0] / steps[1] < 2.5 and 1.6 < steps[1] / steps[2] < 2.5
    assert off(found[0.25], found[0.5]) < 0.1


def test_without_the_weighting_halving_dt_changes_it_by_a_factor():
    found = {dt: learned(dt, False)["theta"] for dt in (1, 0.5)}
    assert np.abs(found[0.5]).max() / np.abs(found[1]).max() > 1.5
