"""Rules side by side, at once and passively."""

import numpy as np
import pytest
from truth import case, off

import bpl_neuro as bpl
from bpl_neuro import plotting, reference
from bpl_neuro.circuit.trajectory import stack
from bpl_neuro.look.analysis import cosine
from bpl_neuro.rules import RULES


def some(circuit, unit):
    return {
        "BPTT": bpl.rules.BPTT(circuit),
        "RTRL": bpl.rules.RTRL(circuit),
        "now": bpl.rules.Immediate(circuit),
        "e-prop": bpl.rules.EProp(circuit),
        "BP(1)": bpl.BPLambda(unit, trace="sweep"),
        "BP(0)": bpl.BPLambda(unit, lam=0),
    }


@pytest.mark.parametrize("model", ["adapting", "ei", "lstm"])
def test_against_the_true_gradient(model):
    circuit, readout, unit, data, theta = case(model, "gaps")
    rules = some(circuit, unit)
    found = bpl.compare(circuit, readout, data, rules, theta={"BP(1)": theta})
    assert found["parameter"].values.tolist() == ["psi", *circuit.layout]
    for exact in ("BPTT", "RTRL"):
        np.testing.assert_allclose(found["cosine"].sel(rule=exact), 1, atol=1e-9)
        np.testing.assert_allclose(found["norm_ratio"].sel(rule=exact), 1, atol=1e-9)
    run = reference.slow_run(circuit, readout, data)
    true_credit, true = reference.bptt(run)
    for label, own in (("now", None), ("BP(1)", theta), ("BP(0)", None)):
        outcome = bpl.batch_updates(circuit, readout, rules[label], data, own, signals=True)
        gradient = outcome.gradients["psi"]
        one = found.sel(rule=label)
        assert float(one["cosine"].sel(parameter="psi")) == pytest.approx(float(cosine(gradient, true)))
        ratio = np.linalg.norm(gradient) / np.linalg.norm(true)
        assert float(one["norm_ratio"].sel(parameter="psi")) == pytest.approx(ratio)
        each = cosine(outcome.signals["credit"], true_credit)
        for t, row in enumerate(each):
            assert (one["credit_cosine"][t].isnull() and np.isnan(row).all()) or float(
                one["credit_cosine"][t]
            ) == pytest.approx(row[~np.isnan(row)].mean())
    assert found["credit_cosine"].sel(rule="BPTT").isnull().all()
    assert found.attrs["e-prop.local"] == "True" and found.attrs["BPTT.online"] == "False"
    text = bpl.comparison_table(found)
    assert text.row_count == len(rules)
    _, axes = plotting.figure(1, 2)
    left, right = bpl.plotting.plot_comparison(axes[0], found)
    assert len(left.patches) == len(rules) and len(right.get_legend().get_texts()) == 3


def test_the_noise_is_the_same_for_all():
    circuit, readout, _, data, _ = case("cerebellar", "gaps")
    rules = {"BPTT": bpl.rules.BPTT(circuit), "RTRL": bpl.rules.RTRL(circuit)}
    found = bpl.compare(circuit, readout, data, rules, noise_seed=3)
    np.testing.assert_allclose(found["cosine"].sel(rule="RTRL", parameter="psi"), 1, atol=1e-12)
    quiet, noisy = (
        bpl.compare(circuit, readout, data, [bpl.rules.Immediate(circuit)], noise_seed=noise)["cosine"]
        for noise in (None, 3)
    )
    assert not quiet.equals(noisy)


@pytest.mark.parametrize("schedule", ["step", "trial"])
def test_passive_rules_see_what_they_would_have_done(schedule):
    def make():
        circuit = bpl.Circuit("adapting", 4, 2, seed=0)
        rule = bpl.BPLambda(bpl.Synthesiser(circuit), lam=0.5)
        return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule=schedule)

    task = bpl.tasks.TargetReaching(steps=5, input_size=2, batches_per_epoch=6)
    common = {"batch_size": 3, "validate": False, "progress": False}
    watched, alone = make(), make()
    rules = some(watched.circuit, watched.rule.synthesiser)
    passive = bpl.PassiveRules(watched, rules, every=2)
    watched.fit(task, recorder=passive, **common)
    alone.fit(task, **common)
    assert (watched.parameter("psi") == alone.parameter("psi")).all()  # it only looks on
    found = passive.result()
    assert found["batch"].values.tolist() == [1, 3, 5]
    psi = found.sel(parameter="psi")
    np.testing.assert_allclose(psi["cosine"].sel(rule="BPTT"), 1, atol=1e-12)
    if schedule == "trial":
        np.testing.assert_allclose(psi["cosine"].sel(rule="RTRL"), 1, atol=1e-12)
        before = make()
        batch = next(task.batches(np.random.default_rng([0, 0]), 3, "train"))
        first = bpl.compare(before.circuit, before.readout, batch, some(before.circuit, before.rule.synthesiser))
        np.testing.assert_allclose(psi["cosine"].isel(batch=0), first["cosine"].sel(parameter="psi"), atol=1e-12)
    assert (passive.theta["BP(1)"] != 0).any()


def test_what_passive_rules_see_has_each_steps_own_weights():
    """Under the per-step schedule Ψ moves between the steps that a rule looks back over."""
    circuit = bpl.Circuit("adapting", 4, 2, seed=0)
    rng, steps = np.random.default_rng(0), []
    data = bpl.Batch(rng.normal(size=(3, 6, 2)), rng.normal(size=(3, 6, 2)))
    readout, rule = bpl.Readout(circuit, 2, seed=1), bpl.rules.Immediate(circuit)
    bpl.Trainer(circuit, readout, rule, optimiser=bpl.SGD(1.0), schedule="step").train_batch(data, steps.append)
    run = stack([step.transition for step in steps], [step.c for step in steps], [step.end for step in steps])
    later, true = np.zeros((3, circuit.n)), 0
    for step in reversed(steps):  # BPTT written out
        true = true + step.transition.parameter_gradient(step.c + later)
        later = np.einsum("bi,bij->bj", step.c + later, step.transition.jacobian())
    assert off(steps[-1].transition.weights["cortex->cortex"], steps[0].transition.weights["cortex->cortex"]) > 0.01
    assert off(bpl.rules.BPTT(circuit).finish({}, run, None)["psi"], true) < 1e-12
    unit = bpl.Synthesiser(circuit)
    theta = rng.normal(size=unit.layout.size) * 0.3
    own = stack([steps[2].transition], [steps[2].c], [steps[2].end])  # a step by itself has one set of weights
    for feedback in ("exact", "sign", "noisy"):
        way = bpl.Feedback(feedback).transition
        assert (run.back_through(way)[2].vjp(steps[2].c) == own.back_through(way)[0].vjp(steps[2].c)).all()
        assert (run.back_through(way).vjp(run.c)[2] == own.back_through(way).vjp(own.c)[0]).all()
        full, swept = (bpl.BPLambda(unit, gamma=0.9, lam=0.7, trace=t, feedback=feedback) for t in ("full", "sweep"))
        carry, total = full.init(3, 6), 0
        for step in steps:
            arguments = (step.transition, step.c, step.end, theta)
            gradient = full.collect(carry, *arguments)
            total = total if gradient is None else total + gradient
            carry, *_ = full.step(carry, *arguments)
        assert off(swept.finish({}, run, theta)["theta"], total) < 1e-12


def test_wrong_use():
    circuit, readout, unit, data, _ = case("adapting")
    with pytest.raises(bpl.ValidationError, match="same name"):
        bpl.compare(circuit, readout, data, [bpl.rules.BPTT(circuit), bpl.rules.BPTT(circuit)])
    with pytest.raises(bpl.ValidationError, match="Rule"):
        bpl.compare(circuit, readout, data, {"a": 3})
    with pytest.raises(bpl.ValidationError, match="another circuit"):
        bpl.compare(circuit, readout, data, [bpl.rules.BPTT(bpl.Circuit("linear", 4, 2))])
    late = bpl.Trainer(circuit, readout, bpl.BPLambda(unit), error_delay=1)
    with pytest.raises(bpl.ValidationError, match="error_delay"):
        bpl.PassiveRules(late, [bpl.rules.BPTT(circuit)])
    trainer = bpl.Trainer(circuit, readout, bpl.BPLambda(unit))
    with pytest.raises(bpl.ValidationError, match="train first"):
        bpl.PassiveRules(trainer, [bpl.rules.BPTT(circuit)]).result()
    assert set(RULES) == {rule.name for rule in RULES.values()}
