"""A synthesiser that is compatible with the circuit: its equations, against dense matrices and finite differences."""

import numpy as np
import pytest
from compatible import (
    CURRENT,
    RULES,
    error_of_learning,
    error_of_local,
    error_of_sums,
    fitted,
    learned,
    make,
    setting,
    several,
)
from dense import dense, run_densely
from helpers import TEXTS
from truth import MODELS, of_plastic, off

import bpl_neuro as bpl
from bpl_neuro import reference
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.rules.compatible import CompatibleBPLambda, CompatibleBPLambdaEProp
from bpl_neuro.rules.traces.influence import carried
from bpl_neuro.train.loop import score, watched_steps

GRID = [(0.0, 0.8, 0.6), (0.5, 1.0, 0.6), (0.5, 0.8, 1.0), (1.0, 1.0, 1.0), (1.0, 0.8, 0.6)]

OTHERS = [model for model in MODELS if model not in ("cerebellar", "lstm")]
#: all forms of the rule with two models, the most intricate ones with all, and the patterns of losses
CASES = [
    *((model, kind, "gaps") for model in ("cerebellar", "lstm") for kind in RULES),
    *(
        (m, kind, "gaps")
        for m in MODELS
        if m not in ("cerebellar", "lstm")
        for kind in ("alone", "residual, discounted")
    ),
    *(("adapting", kind, loss) for kind in ("late", "residual") for loss in ("end", "every")),
]


def traces(kind, lam):
    exact = ["full", "lazy", "sweep"]
    return [*exact, "local"] if lam == 0 and "residual" not in kind else exact


# The dense matrices themselves.


@pytest.mark.parametrize("model", MODELS)
def test_the_dense_step_is_what_finite_differences_say(model):
    """A + C U of the next state, U and Y of the currents: no derivative of the package takes part."""
    circuit, *_ = setting(model, seed=3)
    rng = np.random.default_rng(0)
    s, x = circuit.initial_state(2).s + rng.uniform(0.1, 1, (2, circuit.n)), rng.normal(size=(2, 2))
    found = dense(circuit, circuit.step(circuit.state(s), x))

    def currents(at, weights=None):
        own = circuit if weights is None else circuit.with_psi(weights)
        return np.concatenate([u.reshape(2, -1) for u in own.step(own.state(at), x).u], axis=1)

    def columns(function, size, step=1e-6):
        moves = step * np.eye(size)
        return np.stack([(function(move) - function(-move)) / (2 * step) for move in moves], axis=-1)

    assert np.abs(columns(lambda move: currents(s + move), circuit.n) - found.U).max() < 1e-7
    Y = columns(lambda move: currents(s, circuit.psi + move), circuit.layout.size)
    plastic = np.ones(circuit.layout.size) if circuit.mask is None else circuit.mask
    assert np.abs(Y * plastic - found.Y).max() < 1e-7
    assert np.abs(reference.finite_difference_jacobian(circuit, s, x) - found.A - found.O).max() < 1e-7
    state = columns(lambda move: circuit.with_psi(circuit.psi + move).step(circuit.state(s), x).new.s, Y.shape[-1])
    assert np.abs(state * plastic - found.C @ found.Y).max() < 1e-7


@pytest.mark.parametrize("model", MODELS)
def test_what_it_predicts_is_theta_times_what_the_synapses_see(model):
    circuit, readout, unit, data, theta = setting(model)
    steps, _ = run_densely(circuit, readout, data)
    run = reference.slow_run(circuit, readout, data)
    assert unit.n == steps[0].Y.shape[1] and unit.initial_theta().shape == circuit.psi.shape
    for transition, step in zip(run.transitions, steps, strict=True):
        assert off(unit.flat(unit(unit.z(transition), theta)), step.Y @ theta) < 1e-13
        q = np.random.default_rng(0).normal(size=(data.size, unit.n))
        found = transition.back_from_inputs(unit.parts(q))
        assert np.abs(found - np.einsum("bq,bqi->bi", q, step.U)).max() < 1e-13


# The forward view.


@pytest.mark.parametrize(("model", "kind", "loss"), CASES)
def test_the_sums_are_the_forward_view_by_definition(model, kind, loss):
    """Of every form of the trace, for every model, λ, γ and κ; losses anywhere, several trials in a row, padding."""
    circuit, readout, unit, data, theta = setting(model, loss, T=5)
    for lam, gamma, kappa in GRID:
        for trace in traces(kind, lam):
            rule = make(unit, kind, lam=lam, gamma=gamma, sg_weight=kappa, trace=trace)
            assert type(rule) in (CompatibleBPLambda, CompatibleBPLambdaEProp)
            assert max(error_of_sums(rule, circuit, readout, data, theta).values()) < 1e-11, (lam, gamma, trace)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_trials_of_random_lengths_are_the_forward_view(seed, kind):
    circuit, readout, unit, _, theta = setting(("ei", "lstm", "cerebellar")[seed], seed=seed)
    data = several(circuit, readout, seed, T=7)
    for trace in ("full", "lazy", "sweep"):
        rule = make(unit, kind, lam=0.6, gamma=0.9, sg_weight=0.7, trace=trace)
        assert max(error_of_sums(rule, circuit, readout, data, theta).values()) < 1e-11, trace


@pytest.mark.parametrize("text", ["exact, rotating", "two inputs", "exact, coupled", "assignments in order"])
def test_other_equations_are_the_forward_view(text):
    model = bpl.Model.from_equations(**{"rate": "r", "inputs": ["u"], "dt": "1*ms", **TEXTS[text]})
    circuit, readout, unit, data, theta = setting(model, "gaps")
    for kind in RULES:
        for trace in ("full", "lazy", "sweep"):
            rule = make(unit, kind, lam=0.5, gamma=0.8, trace=trace)
            assert max(error_of_sums(rule, circuit, readout, data, theta).values()) < 1e-11, (kind, trace)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("feedback", ["sign", "random", "noisy"])
def test_errors_go_back_through_the_feedback_and_the_trace_through_the_circuit(feedback, kind):
    for model in ("ei", "lstm"):
        circuit, readout, unit, data, theta = setting(model, "gaps")
        for trace in ("full", "lazy", "sweep"):
            rule = make(unit, kind, lam=0.5, gamma=0.9, trace=trace, feedback=bpl.Feedback(feedback, seed=3))
            expected = sums_through(rule, circuit, readout, data, theta)
            assert max(expected.values()) < 1e-11, (model, trace)


def sums_through(rule, circuit, readout, data, theta):
    """`error_of_sums` with c as it comes through the readout's feedback."""
    credit = readout.credit
    found = bpl.batch_updates(circuit, readout, rule, data, theta).gradients
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(readout), "credit", lambda self, *a: credit(*a[:3], rule.feedback))
        expected = error_of_sums.__globals__["sums_by_definition"](rule, circuit, readout, data, theta)
    return {name: off(found[name], expected[name]) for name in expected}


@pytest.mark.parametrize("lam", [0.4, 1.0])
@pytest.mark.parametrize("model", ["adapting", "ei", "lstm", "cerebellar"])
def test_the_local_trace_is_each_neurons_own_block(model, lam):
    assert error_of_local(model, lam) < 1e-12


def test_in_continuous_time_the_correlation_is_weighted_by_dt():
    circuit, readout, unit, data, theta = setting("adapting", "gaps")
    for trace in ("full", "lazy", "sweep"):
        rule = make(unit, lam="20*ms", gamma="50*ms", trace=trace, continuous_time=True)
        assert rule.gain == circuit.model.dt != 1
        assert max(error_of_sums(rule, circuit, readout, data, theta).values()) < 1e-11


# Learning at every step.


@pytest.mark.parametrize(("model", "kind"), dict.fromkeys((model, kind) for model, kind, _ in CASES))
def test_learning_online_is_the_algorithm_written_out(model, kind):
    """Ψ, φ and θ move at every step, or every three, of trials of random lengths; θ by gradients and least squares."""
    circuit, readout, unit, _, theta = setting(model, seed=1)
    data = several(circuit, readout, 0, B=2, T=8)
    for lam, squares, every in ((0.0, (0.9, 1e-2), 1), (0.6, None, 1), (1.0, (0.8, 1e-2), 3)):
        for trace in ("full", "lazy", *(["local"] if "local" in traces(kind, lam) else [])):
            rule = make(unit, kind, lam=lam, gamma=0.9, sg_weight=0.6, trace=trace)
            errors = error_of_learning(rule, circuit, readout, data, theta, every, squares)
            assert max(errors.values()) < (1e-12 if squares is None else 1e-9), (lam, trace)


@pytest.mark.parametrize("feedback", ["sign", "random"])
@pytest.mark.parametrize("kind", ["alone", "late", "residual"])
def test_learning_online_through_a_feedback(kind, feedback, monkeypatch):
    circuit, readout, unit, _, theta = setting("ei", seed=1)
    data = several(circuit, readout, 2, B=2, T=8)
    credit = type(readout).credit
    for trace in ("full", "lazy"):
        rule = make(unit, kind, lam=0.6, gamma=0.9, trace=trace, feedback=feedback)
        monkeypatch.setattr(type(readout), "credit", lambda self, *a, r=rule: credit(self, *a[:3], r.feedback))
        assert max(error_of_learning(rule, circuit, readout, data, theta).values()) < 1e-12


# Identities.


@pytest.mark.parametrize("model", MODELS)
def test_at_lambda_one_the_trace_is_rtrls_influence_and_at_zero_eprops(model):
    circuit, readout, unit, data, theta = setting(model, "gaps")
    rtrl, eprop = bpl.rules.RTRL(circuit), bpl.rules.EProp(circuit)
    one, none = (make(unit, lam=lam, trace="full") for lam in (1.0, 0.0))
    rules = (one, none, rtrl, eprop)
    carries = [rule.init(data.size, data.steps) for rule in rules]
    run = reference.slow_run(circuit, readout, data)
    for t, transition in enumerate(run.transitions):
        arguments = (transition, run.c[t], run.end[t], theta)
        carries = [rule.step(carry, *arguments)[0] for rule, carry in zip(rules, carries, strict=True)]
        assert np.abs(carried(carries[0]["trace"]) - carried(carries[2])).max() < 1e-13
        e = carried(carries[1]["trace"])
        plastic = 1 if circuit.mask is None else circuit.mask
        for v in np.random.default_rng(t).normal(size=(3, data.size, circuit.n)):
            found = v.reshape(-1) @ e.reshape(-1, e.shape[-1])
            assert np.abs(found - eprop.eligibility.sum(carries[3], v) * plastic).max() < 1e-12


def true_gradient(circuit, readout, data):
    """By finite differences of the loss: independent of every derivative."""
    found = reference.finite_difference(
        lambda psi: score(circuit.with_psi(psi), readout, data).loss, circuit.psi.copy()
    )
    return of_plastic(circuit, found)


@pytest.mark.parametrize("kind", ["alone", "residual"])
@pytest.mark.parametrize("model", MODELS)
def test_at_the_least_squares_fit_the_circuits_gradient_is_exact_however_poor_the_fit(model, kind):
    circuit, readout, unit, _, _ = setting(model)
    data = several(circuit, readout, 4, B=24, T=6)
    rule = make(unit, kind, trace="sweep")
    by_lstsq, r2 = fitted(circuit, readout, data, rule)
    assert r2 < 0.9  # a poor fit
    state = learned(rule, circuit, readout, data, np.zeros(unit.layout.size), {"theta": bpl.RLS(1.0, 1e-13)}, None)
    true = bpl.batch_updates(circuit, readout, bpl.rules.BPTT(circuit), data).gradients["psi"]
    difference = true_gradient(circuit, readout, data)
    for theta in (by_lstsq, state.theta):
        found = bpl.batch_updates(circuit, readout, rule, data, theta).gradients["psi"]
        assert off(found, true) < 1e-6
        assert off(found, difference) < 1e-5
    assert off(bpl.batch_updates(circuit, readout, rule, data, by_lstsq).gradients["psi"], true) < 1e-9
    others = several(circuit, readout, 5, B=24, T=6)
    found, true = (
        bpl.batch_updates(circuit, readout, r, others, theta).gradients["psi"]
        for r, theta in ((rule, by_lstsq), (bpl.rules.BPTT(circuit), None))
    )
    assert off(found, true) > 1e-3  # on other trials it is not exact


def test_below_lambda_one_the_fit_is_not_the_gradient():
    circuit, readout, unit, _, _ = setting("lstm")
    data = several(circuit, readout, 4, B=24, T=6)
    for kind in ("alone", "residual"):
        rule = make(unit, kind, lam=0.5, trace="sweep")
        theta = np.zeros(unit.layout.size)
        for _ in range(20):  # to the fixed point of the biased targets
            theta = learned(rule, circuit, readout, data, theta, {"theta": bpl.RLS(0.0, 1e-9)}, None).theta
        outcome = bpl.batch_updates(circuit, readout, rule, data, theta)
        assert np.abs(outcome.gradients["theta"]).max() < 1e-5
        true = bpl.batch_updates(circuit, readout, bpl.rules.BPTT(circuit), data).gradients["psi"]
        assert off(outcome.gradients["psi"], true) > 1e-4  # 1e-6 or less at λ = 1


@pytest.mark.parametrize("kind", RULES)
def test_a_lazy_trace_with_a_window(kind):
    """As long as the trial it is exact; shorter, it cuts, and says by how much."""
    circuit, readout, unit, data, theta = setting("adapting", T=6)
    for window, exact in ((6, True), (9, True), (2, False)):
        rule = make(unit, kind, lam=0.7, gamma=0.9, trace="lazy", window=window)
        error = error_of_sums(rule, circuit, readout, data, theta)["theta"]
        assert (error < 1e-12) == exact
        report = bpl.batch_updates(circuit, readout, rule, data, theta).report
        assert (report["window_error"] > 0) == (not exact)


def test_frozen_and_online_have_the_same_sums_where_nothing_moves():
    """What watching steps of the sweep shows is what the online forms show."""
    circuit, readout, unit, data, theta = setting("ei", "gaps")
    seen = {}
    for trace in ("full", "sweep"):
        steps, _ = watched_steps(circuit, readout, make(unit, lam=0.5, trace=trace), data, theta)
        seen[trace] = np.stack([step.signals["q"] for step in steps])
        assert (seen[trace][data.end.T] == 0).all() and seen[trace].shape == (*data.end.T.shape, unit.n)
    assert (seen["full"] == seen["sweep"]).all()


def test_synapses_that_are_not_there_have_no_theta_and_no_gradient():
    model = bpl.Model.load("ei")
    circuit = bpl.Circuit(model, dict.fromkeys(model.populations, 4), 2, seed=0)
    key = next(name for name in circuit.layout if name.startswith("exc->"))
    exists = np.random.default_rng(0).random(circuit.layout[key]) < 0.5
    circuit = bpl.Circuit(model, dict.fromkeys(model.populations, 4), 2, connectivity={key: exists}, seed=0)
    assert isinstance(circuit, Circuit) and circuit.mask is not None
    unit, readout = bpl.Synthesiser(circuit, **CURRENT), bpl.Readout(circuit, 2)
    theta = np.random.default_rng(1).normal(size=circuit.layout.size)
    data = several(circuit, readout, 3)
    for kind in RULES:
        for trace in ("full", "lazy", "sweep"):
            rule = make(unit, kind, lam=0.6, trace=trace)
            assert max(error_of_sums(rule, circuit, readout, data, theta).values()) < 1e-11
            found = bpl.batch_updates(circuit, readout, rule, data, theta).gradients
            other = bpl.batch_updates(circuit, readout, rule, data, theta + 5 * (circuit.mask == 0)).gradients
            for name in ("theta", "psi"):
                assert (found[name][circuit.mask == 0] == 0).all()
                assert off(other[name], found[name]) < 1e-12


@pytest.mark.parametrize(("kind", "gamma", "one"), [
    ("late", 1.0, True), ("late", 0.9, False), ("late, discounted", 0.9, True), ("residual", 1.0, None),
])  # fmt: skip
def test_at_lam_zero_one_trace_serves_the_synthesiser_and_the_circuit(kind, gamma, one):
    circuit, readout, unit, data, theta = setting("lstm")
    if one is None:
        with pytest.raises(bpl.ValidationError, match="residual"):
            make(unit, kind, lam=0, gamma=gamma, trace="local")
        return
    rule = make(unit, kind, lam=0, gamma=gamma, trace="local")
    eprop = bpl.rules.EProp(circuit).kept(3, 7)
    assert rule.kept(3, 7) == (1 if one else 2) * eprop
    assert ("eligibility" in rule.init(3, 7)) != one
    assert max(error_of_sums(rule, circuit, readout, data, theta).values()) < 1e-12
    assert max(error_of_learning(rule, circuit, readout, data, theta).values()) < 1e-12
