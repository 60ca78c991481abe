"""Mistakes of a newcomer: each is named, with what would be right; nothing that was given is ignored."""

import json

import numpy as np
import pytest
import xarray as xr
from truth import case

import bpl_neuro as bpl
from bpl_neuro import interventions, plotting
from bpl_neuro.experiment import run_simulation

TASK = bpl.tasks.TargetReaching(steps=4, input_size=2, batches_per_epoch=3)


def trainer(rule="bp_lambda", schedule="trial", **options):
    circuit = bpl.Circuit("leaky_tanh", 4, 2, seed=0)
    made = bpl.make_rule(rule, circuit, **options)
    return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), made, schedule=schedule)


def circuit():
    return bpl.Circuit("leaky_tanh", 4, 2)


def comparing(**changed):
    c, readout, _, data, _ = case("leaky_tanh")
    arguments = {"circuit": c, "readout": readout, "batch": data, "rules": [bpl.rules.EProp(c)]} | changed
    return bpl.compare(**arguments)


def parts():
    c = circuit()
    return c, bpl.Readout(c, 2), bpl.rules.BPTT(c)


def passive(**keywords):
    on = trainer()
    return bpl.PassiveRules(on, [bpl.rules.EProp(on.circuit)], **keywords)


P = np.eye(4)[:, :2]
MISTAKES = {
    "a label of theta": (lambda: comparing(theta={"epop": np.zeros(3)}), "epop"),
    "a name as rules": (lambda: comparing(rules="eprop"), "list of rules"),
    "names as rules": (lambda: comparing(rules=["eprop"]), "make_rule"),
    "one rule as rules": (lambda: comparing(rules=bpl.rules.EProp(circuit())), "list of rules"),
    "no readout": (lambda: comparing(readout=None), "readout"),
    "a list as name": (lambda: bpl.make_rule(["eprop"], circuit()), "bptt"),
    "an option": (lambda: bpl.make_rule("eprop", circuit(), trce="sweep"), "trce.*trace, feedback"),
    "an option handed on": (lambda: bpl.make_rule("bp_lambda_eprop", circuit(), lm=1), "discounted, residual, gamma"),
    "a trace for the forward view": (lambda: bpl.make_rule("lambda_sg", circuit(), trace="full"), "no option 'trace'"),
    "no end": (lambda: trainer().fit(TASK, epochs=None), "stop_at"),
    "discounted": (lambda: bpl.make_rule("bp_lambda_eprop", circuit(), discounted="no"), "discounted"),
    "noise that has no use": (lambda: bpl.Feedback("random", noise=0.3), "noisy"),
    "plastic nothing": (lambda: bpl.Synthesiser(circuit(), plastic_expansion=True), "expansion"),
    "fan-in of nothing": (lambda: bpl.Synthesiser(circuit(), fan_in=3), "fan_in"),
    "dimension of an array": (lambda: bpl.Synthesiser(circuit(), subspace=P, dimension=2), "dimension"),
    "fan-in of a learned one": (
        lambda: bpl.Synthesiser(circuit(), subspace="learned", dimension=2, fan_in=2), "fan_in",
    ),
    "a granule layer lost": (
        lambda: bpl.Synthesiser(bpl.Circuit("cerebellar", {"exc": 4, "inh": 2}, 2), subspace="learned", dimension=2),
        "expansion=0",
    ),
    "a subspace of NaN": (lambda: bpl.Synthesiser(circuit(), subspace=P * np.nan), "finite"),
    "sees_input": (lambda: bpl.Synthesiser(circuit(), sees_input="no"), "sees_input"),
    "updates within a trial": (
        lambda: bpl.Trainer(*parts(), update_every=3), "update_every",
    ),
    "per step with BPTT": (lambda: trainer("bptt", "step"), "'trial' for BPTT.*end"),
    "stop_at": (lambda: trainer().fit(TASK, stop_at="x"), "stop_at"),
    "no task": (lambda: trainer().fit(None), "task"),
    "a path as recorder": (lambda: trainer().fit(TASK, recorder="r.zarr"), "recorder"),
    "callbacks": (lambda: trainer().fit(TASK, callbacks=3), "callbacks"),
    "a passive rule of another circuit": (lambda: bpl.PassiveRules(trainer(), [bpl.rules.EProp(circuit())]), "another"),
    "a number as optimiser": (lambda: passive(optimiser=1e-3), "optimiser"),
    "a circuit to lesion": (lambda: interventions.lesion_synthesiser(circuit()), "LearnerState or a Trainer"),
    "no synthesiser to lesion": (lambda: interventions.lesion_synthesiser(trainer("eprop")), "no synthesiser"),
    "a seed": (lambda: interventions.scramble_synthesiser(trainer(), seed="x"), "seed"),
    "a circuit to record": (lambda: bpl.Recorder(circuit(), "r.zarr", "g"), "trainer"),
    "quantities": (lambda: bpl.Recorder(trainer(), "r.zarr", 3), "quantities"),
    "one axis": (lambda: bpl.plotting.plot_comparison(plotting.figure()[1], comparing()), "two Axes"),
    "no comparison": (lambda: bpl.comparison_table({}), "compare"),
    "an array to draw": (lambda: bpl.plotting.plot_traces(plotting.figure()[1][0, 0], np.ones(3)), "DataArray"),
    "complex weights": (lambda: bpl.plotting.plot_weights(plotting.figure()[1][0, 0], np.eye(3) * 1j), "real"),
    "what exists": (lambda: plotting.plot_weights(plotting.figure()[1][0, 0], np.eye(3), exists=np.ones(2)), "exists"),
    "curves": (
        lambda: plotting.plot_learning(plotting.figure()[1][0, 0], range(3), [1, 2], xlabel="", ylabel=""), "mapping",
    ),
    "points of a curve": (
        lambda: plotting.plot_learning(plotting.figure()[1][0, 0], range(3), {"a": [1, 2]}, xlabel="", ylabel=""),
        "points",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_it_is_named(name):
    call, message = MISTAKES[name]
    with pytest.raises(bpl.ValidationError, match=message):
        call()


def test_every_curve_is_drawn_and_can_be_told_apart():
    _, axes = plotting.figure()
    curves = {f"rule {k}": np.arange(3) + k for k in range(11)}
    ax = bpl.plotting.plot_learning(axes[0, 0], range(3), curves, xlabel="x", ylabel="y")
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
    assert len(ax.lines) == len(looks) == len(ax.get_legend().get_texts()) == 11


def test_passive_rules_refuse_streams_and_other_trainers():
    on, rng = trainer("eprop", "step"), np.random.default_rng(0)
    passive = bpl.PassiveRules(on, [bpl.rules.EProp(on.circuit)])
    piece = bpl.Batch(rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 5, 2)), stream=True)
    outcome = on.train_batch(piece, passive.watch)
    with pytest.raises(bpl.ValidationError, match="stream"):
        passive.batch_done(on, outcome)
    with pytest.raises(bpl.ValidationError, match="made for"):
        on.fork().fit(TASK, batch_size=2, progress=False, recorder=passive)


def test_what_passive_rules_found_is_shown_like_a_comparison():
    on = trainer()
    passive = bpl.PassiveRules(on, {"e-prop": bpl.rules.EProp(on.circuit), "BPTT": bpl.rules.BPTT(on.circuit)})
    on.fit(TASK, batch_size=2, progress=False, recorder=passive)
    found = passive.result()
    assert bpl.comparison_table(found).row_count == 2
    left, right = bpl.plotting.plot_comparison(plotting.figure(1, 2)[1], found)
    assert len(left.patches) == 2 and right.get_xlabel() == "batch"
    both = xr.concat([found, found], "seed", combine_attrs="override")
    assert bpl.comparison_table(both).row_count == 2


def test_a_comparison_without_credit_draws_norms():
    on = trainer()
    batch = next(TASK.batches(np.random.default_rng(0), 2))
    found = bpl.compare(on.circuit, on.readout, batch, [bpl.rules.EProp(on.circuit)])
    _, right = bpl.plotting.plot_comparison(plotting.figure(1, 2)[1], found)
    assert len(right.patches) == 1 and "norm" in right.get_xlabel()


def test_a_fit_with_nothing_to_do_forgets_nothing():
    on = trainer().fit(TASK, epochs=1, batch_size=2, progress=False)
    on.fit(TASK, epochs=1, batch_size=2, progress=False)
    assert on.fork(trial=0).batches == 0 and on.fork(trial=4).batches == 2


def test_interventions_reach_n_step_synthetic_gradients():
    intact, lesioned = trainer("nstep_sg", steps=2), interventions.lesion_synthesiser(trainer("nstep_sg", steps=2))
    for on in (intact, lesioned):
        on.set_parameters(theta=on.theta + 0.3)
        on.fit(TASK, batch_size=2, progress=False)
    assert (intact.parameter("psi") != lesioned.parameter("psi")).any() and (lesioned.theta == 0.3).all()
    cut = trainer("truncated_bptt", steps=2).fit(TASK, batch_size=2, progress=False)
    np.testing.assert_allclose(lesioned.parameter("psi"), cut.parameter("psi"), atol=1e-14)


def test_a_rules_repr_says_what_it_is():
    c = circuit()
    assert repr(bpl.make_rule("lambda_sg", c)).startswith("LambdaSG(")
    assert "window=2" in repr(bpl.make_rule("bp_lambda", c, trace="lazy", window=2))
    assert "noise=0.3" in repr(bpl.rules.EProp(c, feedback=bpl.Feedback("noisy", noise=0.3)))


@pytest.mark.parametrize(
    "settings",
    [{"interventions": ["lesions"]}, {"record": ["g"], "record_options": {"evry": 1}, "batches": 2, "fork_at": 1}],
)
def test_a_wrong_setting_leaves_nothing_behind(tmp_path, settings):
    with pytest.raises(bpl.ValidationError, match=r"lesion|every"):
        run_simulation("delayed-reach", size="quick", settings=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists(), json.dumps(settings)
