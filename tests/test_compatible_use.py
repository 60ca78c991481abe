"""A synthesiser that is compatible with the circuit, in use: interventions, causality, recordings, wrong arguments."""

import numpy as np
import pytest
import xarray as xr
from compatible import CURRENT, RATES, RULES, error_of_learning, error_of_sums, learned, make, setting, several
from dense import run_densely
from truth import case, off

import bpl_neuro as bpl
from bpl_neuro import analysis, interventions
from bpl_neuro.rules.compatible import CompatibleBPLambda
from bpl_neuro.train.loop import watched_steps

SQUARES = {"psi": bpl.SGD(0.05), "phi": bpl.SGD(0.03), "theta": bpl.RLS(0.9, 1e-2)}
FORMS = [
    *(("alone", lam, trace) for lam, traces in ((1.0, ("full", "lazy")), (0.0, ("local",))) for trace in traces),
    ("late", 0.7, "lazy"), ("residual", 0.7, "full"), ("residual", 1.0, "lazy"),
]  # fmt: skip


# Interventions.


@pytest.mark.parametrize("kind", ["alone", "late, discounted", "residual"])
@pytest.mark.parametrize("what", ["scramble", "rotate", "lesion"])
def test_the_pathway_is_between_the_prediction_and_the_circuit_alone(what, kind):
    """It has the size of the currents; what θ learns from is not the pathway's business."""
    circuit, readout, unit, _, theta = setting("lstm")
    data = several(circuit, readout, 0, B=2, T=8)
    rule = make(unit, kind, lam=0.7, gamma=0.9, sg_weight=0.8, trace="full")
    learner = bpl.Learner(circuit, readout, rule, SQUARES, bpl.Schedule(1))
    state = interventions.apply(learner.initial(theta=theta).replace(noise_rng=None), what, seed=3)
    pathway, frozen = state.pathway.copy(), state.frozen
    assert pathway.shape == (unit.n, unit.n) == (4 * 3, 4 * 3)
    if what == "lesion":
        assert not pathway.any() and frozen == {"theta"}
        state, _ = bpl.run_batch(learner, state, data)
        without = make(unit, kind, lam=0.7, gamma=0.9, sg_weight=0.0, trace="full")
        alike = learned(without, circuit, readout, data, theta, {k: v for k, v in SQUARES.items() if k != "theta"})
        assert (state.theta == theta).all() and off(state.psi, alike.psi) < 1e-14
        return
    assert np.abs(pathway @ pathway.T - np.eye(unit.n)).max() < 1e-12 and not frozen
    errors = error_of_learning(rule, circuit, readout, data, theta, squares=(0.9, 1e-2), pathway=pathway)
    assert max(errors.values()) < 1e-9
    sums = [
        bpl.run_batch(other, other.initial(theta=theta).replace(noise_rng=None, pathway=path), data)[0].sums
        for other in [bpl.Learner(circuit, readout, rule, {}, bpl.Schedule(moves=False))]
        for path in (None, pathway)
    ]
    assert (sums[0]["theta"] == sums[1]["theta"]).all() and off(sums[1]["psi"], sums[0]["psi"]) > 1e-3


def test_clamped_neurons_and_frozen_parameters():
    circuit, readout, unit, data, theta = setting("ei", "gaps")
    held = circuit.clamped_at("exc", [1], 0.3)
    for kind in RULES:
        for trace in ("full", "lazy", "sweep"):
            rule = make(unit, kind, lam=0.7, trace=trace)
            assert max(error_of_sums(rule, held, readout, data, theta).values()) < 1e-11
    for name in ("psi", "phi", "theta"):
        learner = bpl.Learner(circuit, readout, make(unit, trace="full"), SQUARES, bpl.Schedule(1))
        before = learner.initial(theta=theta)
        start = {key: before.parameter(key).copy() for key in RATES}
        state, _ = bpl.run_batch(learner, interventions.freeze(before, name), data)
        assert {key for key in start if (state.parameter(key) != start[key]).any()} == start.keys() - {name}


@pytest.mark.parametrize("what", ["lesion", "scramble", "silence:exc->inh"])
def test_a_checkpoint_in_the_middle_of_a_stream_and_of_an_update(what, tmp_path):
    """R, its sums, the pathway and the trace are all in it: to the bit."""
    rng = np.random.default_rng(0)
    pieces = [bpl.Batch(*rng.normal(size=(2, 2, T, 2)), stream=True) for T in (4, 5, 3)]

    def trainer():
        circuit, readout, unit, *_ = setting("ei")
        rule = make(unit, "residual", lam=0.9, trace="full")
        return bpl.Trainer(circuit, readout, rule, schedule="step", update_every=3, optimiser=SQUARES)

    found = []
    for saved in (False, True):
        own = trainer()
        for k, piece in enumerate(pieces):
            own.train_batch(piece)
            if k == 1:
                interventions.apply(own, what)
            if saved:
                own.save(tmp_path / "c.npz")
                own = trainer().restore(tmp_path / "c.npz")
        found.append(own)
    for name in RATES:
        assert (found[0].parameter(name) == found[1].parameter(name)).all()
    if what != "lesion":  # where θ's optimiser is gone, it may be any
        circuit, readout, unit, *_ = setting("ei")
        rule, other = make(unit, "residual", lam=0.9, trace="full"), {**SQUARES, "theta": bpl.Adam()}
        adam = bpl.Trainer(circuit, readout, rule, schedule="step", update_every=3, optimiser=other)
        with pytest.raises(bpl.ValidationError, match=r"`optimisers\.theta` is RLS in the file"):
            adam.restore(tmp_path / "c.npz")
        adam.restore(tmp_path / "c.npz", allow=["optimisers.theta"])  # no sums are under way
        assert not adam.state.moments["theta"]["m"].any()


# Causality.


@pytest.mark.parametrize(("kind", "lam", "trace"), FORMS)
@pytest.mark.parametrize("model", ["cerebellar", "lstm"])
def test_nothing_that_comes_later_changes_a_bit_before(model, kind, lam, trace):
    circuit, readout, unit, *_ = setting(model)
    rule = make(unit, kind, lam=lam, trace=trace)
    assert rule.online
    data = bpl.Batch(*np.random.default_rng(1).normal(size=(2, 3, 9, 2)))
    trainer = bpl.Trainer(circuit, readout, rule, schedule="step", optimiser=SQUARES)
    found = analysis.causality(trainer, data, 5)
    early, late = found["difference"].sel(step=slice(None, 5)), found["difference"].sel(step=slice(6, None))
    assert (early == 0).all() and (late.max("step") > 0).all()
    assert (found["moved"].sel(step=5) > 0).all()


@pytest.mark.parametrize("kind", ["alone", "residual"])
def test_the_sweep_waits_for_the_end(kind):
    circuit, readout, unit, *_ = setting("lstm")
    rule = make(unit, kind, trace="sweep")
    assert not rule.online and rule.schedules == ("trial",) and not rule.streams
    data = bpl.Batch(*np.random.default_rng(1).normal(size=(2, 3, 9, 2)))
    found = analysis.causality(bpl.Trainer(circuit, readout, rule, schedule="trial", optimiser=SQUARES), data, 5)
    assert (found["moved"].sel(step=slice(None, 8)) == 0).all() and (found["moved"].sel(step=9) > 0).all()


# What it holds, and which form "auto" takes.


@pytest.mark.parametrize(
    ("kind", "trace"),
    [*((kind, trace) for kind in RULES for trace in ("full", "lazy")), ("alone", "local"), ("late", "local")],
)
def test_what_it_holds_is_what_it_says(kind, trace):
    circuit, _, unit, *_ = setting("ei")

    def size(tree):
        if isinstance(tree, dict | list):
            return sum(map(size, tree.values() if isinstance(tree, dict) else tree))
        return tree.size if tree.dtype == circuit.dtype else 0

    rule = make(unit, kind, lam=0.0 if trace == "local" else 1.0, trace=trace)
    assert size(rule.init(3, 7)) == rule.kept(3, 7)
    assert set(rule.leaner(3, 7)) == {'trace="sweep" per trial', 'trace="lazy"'} - {f'trace="{trace}"'}


def test_auto_takes_a_form_of_the_same_numbers():
    circuit, readout, unit, data, _ = setting("lstm")
    for kind, lam, schedule, forms in (
        ("alone", 1.0, "trial", {"sweep"}), ("alone", 0.5, "step", {"lazy", "full"}),
        ("alone", 0.0, "step", {"lazy", "full", "local"}), ("residual", 0.0, "step", {"lazy", "full"}),
    ):  # fmt: skip
        trainer = bpl.Trainer(circuit, readout, make(unit, kind, lam=lam), schedule=schedule, optimiser=SQUARES)
        trainer.train_batch(data)
        assert trainer.settled_rule.form in forms
        assert trainer.settled_rule.trace.exact


# What looks on.


def test_a_recording_of_the_predictions_names_the_currents(tmp_path):
    for model, units in (("lstm", [0, 1]), ("ei", None), ("adapting", None)):
        circuit, readout, unit, data, theta = setting(model)
        trainer = bpl.Trainer(circuit, readout, make(unit, trace="full"), schedule="trial", optimiser={})
        trainer.state = trainer.learner.initial(theta=theta)
        with bpl.Recorder(trainer, tmp_path / model, ["q", "theta", "c"], units=units) as recorder:
            recorder.batch_done(trainer, trainer.train_batch(data, watch=recorder.watch))
        steps, _ = run_densely(circuit, readout, data)
        found = xr.open_zarr(tmp_path / model)
        expected = np.stack([s.Y @ theta for s in steps]) * ~data.end.T[..., None]
        chosen = found["current"].values
        assert list(chosen) == ([0, 3, 6, 9] if units else list(range(unit.n)))
        assert off(found["q"].values[0], expected[..., chosen]) < 1e-12
        names = [str(name) for name in found["current_input"].values]
        if units:
            neuron = circuit.model.populations[found["current_population"].values[0]].neuron
            assert names == list(neuron.inputs) and (found["current_neuron"] == 0).all()
        assert (found["theta"].values[0] == theta).all()


def test_what_only_a_synthesiser_of_the_states_has_is_refused_by_name(tmp_path):
    circuit, readout, unit, data, theta = setting("adapting")
    rule = make(unit, trace="full")
    for look in (
        lambda: analysis.alignment(circuit, readout, rule, data, theta),
        lambda: analysis.synapse_trace(circuit, readout, rule, data, theta, (0, 0)),
        lambda: watched_steps(circuit, readout, rule, data, theta, watch=lambda step: step.trace(0, 0)),
    ):
        with pytest.raises(bpl.ValidationError, match=r'`target` = "state".*CompatibleBPL'):
            look()
    trainer = bpl.Trainer(circuit, readout, rule, schedule="step")
    with pytest.raises(bpl.ValidationError, match='`target` = "state"'):
        bpl.Recorder(trainer, tmp_path / "r", ["trace"], synapses=[(0, 0)])
    for name in ("g", "delta", "credit"):
        with pytest.raises(bpl.ValidationError, match=f"must be some of state, rate, c, q, .*got \\['{name}'\\]"):
            bpl.Recorder(trainer, tmp_path / "r", [name])
    with pytest.raises(bpl.ValidationError, match=r'`target` = "state".*BPTT'):
        analysis.alignment(circuit, readout, bpl.rules.BPTT(circuit), data, None)


def test_side_by_side_with_other_rules():
    """At the least-squares θ it has the true gradient; there is no credit of states to compare."""
    circuit, readout, unit, *_ = setting("lstm")
    data = several(circuit, readout, 1, B=24, T=6)
    rules = {kind: make(unit, kind, trace="sweep") for kind in ("alone", "residual")}
    theta = {label: analysis.least_squares_theta(circuit, readout, rule, data) for label, rule in rules.items()}
    found = bpl.compare(circuit, readout, data, rules, theta=theta)
    assert (found["cosine"].sel(parameter="psi") > 1 - 1e-6).all() and np.isnan(found["credit_cosine"]).all()
    assert np.abs(found["norm_ratio"].sel(parameter="psi") - 1).max() < 1e-4
    later = analysis.least_squares_theta(circuit, readout, rules["alone"], several(circuit, readout, 2, B=24, T=6))
    away = bpl.compare(circuit, readout, data, {"alone": rules["alone"]}, theta=later)
    assert float(away["cosine"].sel(parameter="psi").max()) < 1 - 1e-6


# Wrong arguments.

OPTIONS = {
    "expansion": 5, "fan_in": 2, "plastic_expansion": True, "subspace": "random", "dimension": 2, "sees_input": False,
    "anything": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_other_synthesisers(name):
    circuit = case("adapting")[0]
    with pytest.raises(bpl.ValidationError, match=f'`{name}` is no option of a synthesiser with `target` = "current"'):
        bpl.Synthesiser(circuit, target="current", **{name: OPTIONS[name]})


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"target": "state", "sees": "synapses"}, '`sees` = "synapses" goes with `target` = "current", got \'state\''),
        ({"target": "current", "sees": "rate"}, '`target` = "current" goes with `sees` = "synapses", got \'rate\''),
        ({"target": "currents"}, "`target` must be \"state\" or \"current\", got 'currents'"),
        ({"target": None}, '`target` must be "state" or "current"'), ({"sees": "synapse"}, '"synapses" with `target`'),
        ({"target": "current", "seed": "x"}, "`seed`"),
    ],
    ids=str,
)  # fmt: skip
def test_what_it_predicts_and_sees(keywords, text):
    with pytest.raises(bpl.ValidationError, match=text):
        bpl.Synthesiser(case("adapting")[0], **keywords)
    assert bpl.Synthesiser(case("adapting")[0], sees="synapses").target == "current"


class Own(bpl.BPLambda):
    """A rule of somebody's own, for the paper's class."""


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda s, u: bpl.BPLambdaEProp(s, residual=True), '`residual` needs .*"current", got one with "state"'),
        (lambda s, u: bpl.BPLambdaEProp(s.circuit, residual=True), "`synthesiser` must be a Synthesiser, got Circuit"),
        (lambda s, u: bpl.BPLambdaEProp(u, residual=1), "`residual` must be True or False"),
        (lambda s, u: bpl.BPLambdaEProp(u, discounted=1), "`discounted` must be True or False"),
        (lambda s, u: bpl.BPLambdaEProp(u, residual=True, trace="local"), '`trace` = "local" does not go with `resid'),
        (lambda s, u: bpl.BPLambda(u, trace="full", window=3), "`window` belongs to `trace` = \"lazy\", got 'full'"),
        (lambda s, u: bpl.BPLambda(u, trace="lazy", window=0), "`window` must be a whole number ≥ 1, got 0"),
        (lambda s, u: bpl.BPLambda(u, trace="leak"), "must be one of auto, full, lazy, sweep, local, got 'leak'"),
        (lambda s, u: bpl.BPLambda(u, trace="reduced"), "got 'reduced'"),
        (lambda s, u: bpl.BPLambda(u, lam=1.2), "`lam` must lie in"),
        (lambda s, u: bpl.BPLambda(u, gamma=-1), "`gamma` must lie in"),
        (lambda s, u: bpl.BPLambda(u, sg_weight=-1), "`sg_weight` must be a number ≥ 0"),
        (lambda s, u: bpl.BPLambda(u, feedback="none"), "`feedback` must be one of"),
        (lambda s, u: bpl.rules.NStepSG(u), 'NStepSG needs a `synthesiser` with `target` = "state", got .*"current"'),
        (lambda s, u: bpl.make_rule("lambda_sg", u), "LambdaSG needs a `synthesiser` with `target`"),
        (lambda s, u: Own(u), 'Own needs a `synthesiser` with `target` = "state", got one with "current"'),
        (lambda s, u: CompatibleBPLambda(s), 'needs a `synthesiser` with `target` = "current", got one with "state"'),
        (lambda s, u: CompatibleBPLambda(s.circuit), "`synthesiser` must be a Synthesiser"),
    ],
)  # fmt: skip
def test_rules_for_it(made, text):
    circuit = case("adapting")[0]
    with pytest.raises(bpl.ValidationError, match=text):
        made(bpl.Synthesiser(circuit), bpl.Synthesiser(circuit, **CURRENT))


def test_theta_of_another_shape_a_stream_and_another_circuit():
    circuit, readout, unit, data, theta = setting("adapting")
    with pytest.raises(bpl.ValidationError, match=r"`theta` must have shape \(18,\), got \(3,\)"):
        bpl.batch_updates(circuit, readout, make(unit, trace="full"), data, theta[:3])
    stream = bpl.Batch(data.x, data.y, stream=True)
    for options in ({"trace": "lazy"}, {"trace": "sweep"}):
        rule = make(unit, **options)
        trainer = bpl.Trainer(circuit, readout, rule, schedule=rule.schedules[0])
        with pytest.raises(bpl.ValidationError, match="a stream needs a rule"):
            trainer.train_batch(stream)
    with pytest.raises(bpl.ValidationError, match="`schedule` must be 'trial'"):
        bpl.Trainer(circuit, readout, make(unit, trace="sweep"), schedule="step")
    other = setting("adapting", seed=1)[0]
    with pytest.raises(bpl.ValidationError, match="another circuit"):
        bpl.Trainer(other, bpl.Readout(other, 2), make(unit))
