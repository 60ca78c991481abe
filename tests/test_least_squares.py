"""Recursive least squares for θ, against `numpy.linalg.lstsq` and a few lines of NumPy."""

import numpy as np
import pytest
from compatible import CURRENT, error_of_learning, fitted, learned, make, setting, several
from dense import PlainSquares, run_densely
from helpers import NONLINEAR
from truth import case, off

import bpl_neuro as bpl
from bpl_neuro import analysis, interventions, reference
from bpl_neuro.circuit.regression import Family, Regression
from bpl_neuro.train.optimisers import without_momentum

TINY = 1e-12


def solved(rule, circuit, readout, data, size, ridge=TINY, **keywords):
    """θ of one update by least squares from θ = 0, per trial."""
    return learned(rule, circuit, readout, data, np.zeros(size), {"theta": bpl.RLS(0.0, ridge)}, None, **keywords).theta


# The formula.


def regression_of(rng):
    """Two families of rows in a shuffled θ: 3 rows of 4 features, 2 rows of 6."""
    places = rng.permutation(24)
    return Regression([Family((0,), places[:12].reshape(3, 4)), Family((1,), places[12:].reshape(2, 6))])


@pytest.mark.parametrize("forget", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(forget, masked):
    """R ← f R + Σ z zᵀ, θ ← θ + c (R + ρ tr(R)/m I)⁻¹, with the features that a row has, and m their number."""
    rng, backend = np.random.default_rng(0), bpl.Circuit("linear", 2, 1).backend
    regression, rls = regression_of(rng), bpl.RLS(forget, 0.03)
    mask = (rng.random(24) < 0.6).astype(float) if masked else None
    theta, R = rng.normal(size=24), {}
    state, expected = rls.init(backend, theta, regression), theta.copy()
    assert not state["R"].any() and state["R"].size == 16 + 36
    for _ in range(4):
        z = [rng.normal(size=(5, 4)), rng.normal(size=(5, 6))]
        correlation = rng.normal(size=24) * (1 if mask is None else mask)
        for family, seen in zip(regression.families, z, strict=True):
            for row in family.index:
                there = np.ones(len(row), bool) if mask is None else mask[row] == 1
                key, features = tuple(row), seen[:, there]
                R[key] = forget * R.get(key, 0) + features.T @ features
                m = there.sum()
                if m:
                    inverse = np.linalg.inv(R[key] + 0.03 * np.trace(R[key]) / m * np.eye(m))
                    expected[row[there]] += correlation[row[there]] @ inverse
        moment = regression.moments(z, np)
        before = theta.copy(), state["R"].copy()
        new, state = rls.step(backend, theta, -correlation, state, moment=moment, regression=regression, mask=mask)
        assert (theta == before[0]).all() and new is not theta
        theta = new
        assert off(theta, expected) < 1e-11
        if mask is not None:
            assert (theta[mask == 0] == expected[mask == 0]).all()


def test_it_does_not_depend_on_the_scale_of_the_loss_nor_of_what_is_seen():
    circuit, readout, unit, data, _ = setting("lstm", B=8)
    rule = make(unit, trace="sweep")
    one = solved(rule, circuit, readout, data, unit.layout.size, 1e-2)
    louder = bpl.Batch(data.x, data.y, 100 * data.mask, data.end)
    assert off(solved(rule, circuit, readout, louder, unit.layout.size, 1e-2), 100 * one) < 1e-9
    rng, backend = np.random.default_rng(0), circuit.backend
    regression = Regression([Family((0,), np.arange(12).reshape(3, 4))])
    z, correlation = rng.normal(size=(7, 4)), rng.normal(size=12)
    found = []
    for scale in (1.0, 50.0):
        rls = bpl.RLS(0.5, 0.1)
        theta, _ = rls.step(
            backend, np.zeros(12), -scale * correlation, rls.init(backend, np.zeros(12), regression),
            moment=regression.moments([scale * z], np), regression=regression,
        )  # fmt: skip
        found.append(theta)
    assert off(50 * found[1], found[0]) < 1e-12


def test_staleness_says_how_long_ago_it_was_seen():
    """Seen alike in every update, n updates with forgetting f: Σ f^k k / Σ f^k."""
    backend, regression = bpl.Circuit("linear", 2, 1).backend, Regression([Family((0,), np.arange(4)[None])])
    rls, theta = bpl.RLS(0.8, 0.1), np.zeros(4)
    state = rls.init(backend, theta, regression)
    for n in range(1, 6):
        theta, state = rls.step(backend, theta, theta, state, moment=np.ones(16), regression=regression)
        shares = 0.8 ** np.arange(n)
        assert float(state["staleness"]) == pytest.approx((shares * np.arange(n)).sum() / shares.sum())
        assert state["steps"] == n


def test_a_bounded_correlation_is_that_of_its_like_before_times_the_bound():
    """By hand, for the errors 1, 10 and 100 of one feature with f = 0.5, and a bound of 3."""
    backend, regression = bpl.Circuit("linear", 2, 1).backend, Regression([Family((0,), np.arange(2)[:, None])])
    direction, sizes = np.array([0.6, -0.8]), []
    for bound in (None, 3.0):
        rls, theta = bpl.RLS(0.5, 1e-12, bound=bound), np.zeros(2)
        state = rls.init(backend, theta, regression)
        for size in (0.0, 1.0, 10.0, 100.0):
            before, (theta, state) = theta, rls.step(
                backend, theta, -size * direction, state, moment=np.ones(1), regression=regression
            )  # fmt: skip
            change = (theta - before) * float(state["R"][0])
            sizes.append(change @ direction)
            assert np.allclose(change, sizes[-1] * direction, rtol=1e-9)
    second = 3 * np.sqrt(1 / 1.5)  # Σ f^(k−j) g²: 1; Σ f^(k−j): 1.5, as the first was seen, too
    third = 3 * np.sqrt((0.5 + second**2) / 1.75)
    assert np.allclose(sizes, [0, 1, 10, 100, 0, 1, second, third], rtol=1e-9)
    assert (state["bounded"], state["steps"]) == (2, 4)


def test_how_often_a_correlation_was_bounded_is_in_the_history():
    task = bpl.tasks.TargetReaching(patterns=2, steps=4)
    circuit = bpl.Circuit("lstm", 3, task.input_size, seed=0)
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit, target="current", sees="synapses"))
    found = {}
    for bound in (None, 1e6, 1e-3):
        trainer = bpl.Trainer(circuit, readout, rule, optimiser={"theta": bpl.RLS(bound=bound)}, seed=0)
        found[bound] = trainer.fit(task, epochs=1, batch_size=5)
    assert "theta_bounded" not in found[None].history[-1]
    assert found[1e6].history[-1]["theta_bounded"] == 0
    assert (found[1e6].state.theta == found[None].state.theta).all()
    # θ is 0 and c is not: only the first correlation has none before it to be held against
    shares = [k / (k + 1) for k in range(len(found[1e-3].losses))]
    assert found[1e-3].history[-1]["theta_bounded"] == pytest.approx(np.mean(shares), rel=1e-6)


# In training.


@pytest.mark.parametrize("kind", ["alone", "residual"])
@pytest.mark.parametrize("model", ["cerebellar", "ei", "lstm", "adapting"])
def test_of_one_batch_it_is_lstsq(model, kind):
    """cerebellar has missing synapses, delays, and neurons of one population that lack different ones."""
    circuit, readout, unit, *_ = setting(model)
    data = several(circuit, readout, 2, B=30)
    rule = make(unit, kind, trace="sweep")
    expected, r2 = fitted(circuit, readout, data, rule)
    assert 0 < r2 < 0.9
    for trace in ("full", "lazy", "sweep"):
        found = solved(make(unit, kind, trace=trace), circuit, readout, data, unit.layout.size)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max(), trace
    if kind == "alone":
        found = analysis.least_squares_theta(circuit, readout, make(unit, trace="local", lam=0.2), data, ridge=TINY)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("keywords", [{}, {"sees": "rate", "sees_input": True}, {"subspace": "random", "dimension": 3}])
def test_the_papers_class_by_lstsq(keywords):
    """Also the first step of a trial, which no δ has met yet, is among what was seen; also where dt weights all."""
    circuit, readout, unit, *_ = case("adapting", **keywords)
    data = bpl.Batch(*np.random.default_rng(0).normal(size=(2, 30, 5, 2)))
    run = reference.slow_run(circuit, readout, data)
    G = reference.later_gradient(run.jacobians, run.c, run.end)[:-1].reshape(-1, circuit.n)
    z = np.concatenate([unit.z(t) for t in run.transitions[:-1]])
    P = getattr(unit, "P", None)
    target = G if P is None else G @ P
    expected = np.linalg.lstsq(z, target, rcond=None)[0].T.ravel()
    for trace in ("full", "lazy", "sweep"):
        for continuous in (False, True):
            rule = bpl.BPLambda(unit, trace=trace, continuous_time=continuous)
            assert off(solved(rule, circuit, readout, data, unit.layout.size), expected) < 1e-4, (trace, continuous)
    offline = bpl.rules.LambdaSG(unit, continuous_time=True)
    assert off(solved(offline, circuit, readout, data, unit.layout.size), expected) < 1e-4


def test_a_unit_that_scales_its_input():
    """g = a θ z: least squares of G on a z."""
    model = bpl.Model.from_toml(NONLINEAR.replace("a * tanh(v / a)", "a * v"))
    circuit, readout, unit, *_ = case(model)
    data = bpl.Batch(*np.random.default_rng(0).normal(size=(2, 30, 5, 2)))
    run = reference.slow_run(circuit, readout, data)
    G = reference.later_gradient(run.jacobians, run.c, run.end)[:-1].reshape(-1, circuit.n)
    z = np.concatenate([unit.z(t) for t in run.transitions[:-1]])
    expected = np.linalg.lstsq(0.5 * z, G, rcond=None)[0].T.ravel()
    assert off(solved(bpl.BPLambda(unit, trace="full"), circuit, readout, data, unit.layout.size), expected) < 1e-7


@pytest.mark.parametrize("trace", ["full", "sweep"])
def test_passive_rules_learn_by_least_squares_in_every_form(trace):
    circuit, readout, unit, *_ = case("adapting")
    compatible = bpl.Synthesiser(circuit, **CURRENT)
    rules = {"paper's": bpl.BPLambda(unit, trace=trace), "compatible": make(compatible, trace=trace)}
    trainer = bpl.Trainer(circuit, readout, bpl.rules.BPTT(circuit), optimiser={})
    passive = bpl.PassiveRules(trainer, rules, optimiser=dict.fromkeys(rules, bpl.RLS(0.0, TINY)))
    data = bpl.Batch(*np.random.default_rng(0).normal(size=(2, 30, 5, 2)))
    passive.batch_done(trainer, trainer.train_batch(data, watch=passive.watch))
    for label, rule in rules.items():
        expected = solved(rule, circuit, readout, data, rule.synthesiser.layout.size)
        assert off(passive.theta[label], expected) < 1e-9, label


def test_rows_that_see_the_same_share_a_matrix_and_others_do_not():
    """One family a population where all inputs of its neurons see the same; a port that sees less has its own."""
    expected = {
        "lstm": [(12, 3 + 2 + 1)],
        "ei": 2 * [(3, 3 + 3 + 2 + 1)],
        "cerebellar": [(3, 3 + 3 + 2 + 1), (3, 3 + 1)],
    }
    for model, shapes in expected.items():
        circuit, _, unit, *_ = setting(model)
        assert [family.index.shape for family in unit.regression.families] == shapes
        index = np.concatenate([family.index.ravel() for family in unit.regression.families])
        assert (np.sort(index) == np.arange(circuit.layout.size)).all()


@pytest.mark.parametrize("model", ["cerebellar", "ei", "lstm"])
def test_the_matrices_are_the_moments_of_what_each_current_sees(model):
    circuit, readout, unit, data, theta = setting(model, "gaps")
    rule = make(unit, trace="sweep")
    state = learned(rule, circuit, readout, data, theta, {"theta": bpl.RLS(0.9, 1e-2)}, None)
    steps, _ = run_densely(circuit.holding(mask=None), readout, data)
    seen = [s.Y[b] for t, s in enumerate(steps) for b in range(data.size) if not data.end[b, t]]
    for family, R in zip(unit.regression.families, unit.regression.matrices(state.moments["theta"]["R"]), strict=True):
        for row in family.index:
            current = next(k for k in range(unit.n) if seen[0][k, row[-1]] == 1)
            y = np.stack([Y[current, row] for Y in seen])
            assert off(R, y.T @ y) < 1e-12


def test_a_port_that_sees_less_has_a_regression_of_its_own():
    """Two inputs to a neuron: what its own population sends arrives at one, what another sends at the other."""
    text = """
[populations.cortex]
equations = "dr/dt = (-r + tanh(u) * (1 + tanh(gain))) / tau : 1\\nu : 1\\ngain : 1\\ntau : second"
rate = "r"
inputs = ["u", "gain"]
parameters = { tau = "5*ms" }
[populations.thalamus]
equations = "dr/dt = (-r + tanh(u)) / tau : 1\\nu : 1\\ntau : second"
rate = "r"
inputs = ["u"]
parameters = { tau = "5*ms" }
[[projections]]
from = "cortex"
to = "cortex.u"
[[projections]]
from = "thalamus"
to = "cortex.gain"
[[projections]]
from = "cortex"
to = "thalamus"
[[projections]]
from = "input"
to = "thalamus"
[time]
dt = "1*ms"
"""
    circuit, readout, unit, _, theta = setting(bpl.Model.from_toml(text))
    assert len(unit.regression.families) == 3
    data = several(circuit, readout, 0, B=2, T=8)
    for kind in ("alone", "residual"):
        for trace in ("full", "lazy"):
            rule = make(unit, kind, lam=0.7, trace=trace)
            assert max(error_of_learning(rule, circuit, readout, data, theta, 1, (0.9, 1e-2)).values()) < 1e-9


def test_a_silenced_projection_is_left_out_of_what_is_solved():
    """As if its synapses had never been there; θ of them stays as it was."""
    circuit, readout, unit, _, theta = setting("ei")
    data = several(circuit, readout, 0, B=2, T=8)
    silent = circuit.silenced("exc->inh")
    rule = make(unit, lam=0.7, trace="full")
    optimisers = {"psi": bpl.SGD(0.05), "phi": bpl.SGD(0.03), "theta": bpl.RLS(0.9, 1e-2)}
    learner = bpl.Learner(circuit, readout, rule, optimisers, bpl.Schedule(1))
    state = interventions.silence_projection(learner.initial(theta=theta).replace(noise_rng=None), "exc->inh")
    state, _ = bpl.run_batch(learner, state, data)
    alike = learned(rule, silent, readout, data, theta, optimisers)
    assert max(error_of_learning(rule, silent, readout, data, theta, 1, (0.9, 1e-2)).values()) < 1e-9
    for name in ("psi", "theta"):
        assert off(state.parameter(name), alike.parameter(name)) < 1e-12
    views = [circuit.layout.views(v)["exc->inh"] for v in (state.theta, theta)]
    assert (views[0] == views[1]).all()


def test_in_single_precision_the_matrices_are_in_double():
    found = {}
    for dtype in ("float64", "float32"):
        circuit = bpl.Circuit("lstm", 5, 3, seed=0, dtype=dtype)
        readout, unit = bpl.Readout(circuit, 2, seed=1), bpl.Synthesiser(circuit, **CURRENT)
        data = several(circuit, readout, 0, B=10)
        state = learned(
            make(unit, trace="full"), circuit, readout, data, None, {"theta": bpl.RLS(0.9, 1e-3), "psi": bpl.SGD(0.01)}
        )
        assert state.theta.dtype == dtype and state.moments["theta"]["R"].dtype == np.float64
        found[dtype] = state.theta
    assert off(found["float32"], found["float64"]) < 1e-3


def test_plain_squares_are_the_least_squares_that_numpy_has():
    """The truth of the online tests itself: without forgetting, at a tiny ridge, from θ = 0."""
    circuit, readout, unit, *_ = setting("cerebellar")
    data = several(circuit, readout, 2, B=30)
    rule = make(unit, trace="sweep")
    expected, _ = fitted(circuit, readout, data, rule)
    correlation = -bpl.batch_updates(circuit, readout, rule, data).gradients["theta"]
    steps, _ = run_densely(circuit, readout, data)
    seen = [s.Y[b] for t, s in enumerate(steps) for b in range(data.size) if not data.end[b, t]]
    assert off(PlainSquares(1.0, TINY).of(circuit).step(0 * expected, correlation, seen), expected) < 1e-5


def test_a_ridge_that_is_lost_in_rounding_is_named():
    """Two inputs that are always the same: what is seen is linearly dependent, and R has no inverse without a ridge."""
    circuit, readout, unit, data, theta = setting("linear")
    same = bpl.Batch(np.sign(data.x[..., :1]).repeat(2, axis=2), data.y)
    rule = make(unit, trace="full")
    learner = bpl.Learner(circuit, readout, rule, {"theta": bpl.RLS(1.0, 1e-30)}, bpl.Schedule(1))
    state = learner.initial(theta=theta)
    with pytest.raises(bpl.ValidationError, match="`ridge` = 1e-30 is lost in rounding"):
        bpl.run_batch(learner, state, same)
    assert (state.theta == theta).all()  # given back
    ridged = learned(rule, circuit, readout, same, theta, {"theta": bpl.RLS(1.0, 1e-6)})
    assert np.isfinite(ridged.theta).all()


# What goes with it.


def test_adam_of_the_circuit_has_no_momentum_beside_it_unless_it_is_given():
    circuit, readout, unit, *_ = setting("lstm")
    clip = bpl.Clip(bpl.Adam(), 1.0)

    def beta1(psi, theta, rule=None):
        optimisers = {"psi": psi, "phi": bpl.Adam(), "theta": theta}
        learner = bpl.Learner(circuit, readout, rule or make(unit, trace="full"), optimisers, bpl.Schedule(1))
        found = learner.optimisers["psi"]
        assert learner.optimisers["phi"].beta1 is None
        return getattr(found, "optimiser", found).beta1

    assert beta1(bpl.Adam(), bpl.RLS()) == 0
    assert beta1(clip, bpl.RLS()) == 0
    assert beta1(bpl.Adam(beta1=0.5), bpl.RLS()) == 0.5
    assert beta1(bpl.Adam(beta1=0.9), bpl.RLS()) == 0.9
    assert beta1(bpl.Adam(), bpl.Adam()) is None
    assert beta1(bpl.Adam(), bpl.RLS(), bpl.rules.EProp(circuit)) is None  # which has no θ
    assert clip.optimiser.beta1 is None and without_momentum(bpl.SGD(1.0)) == bpl.SGD(1.0)
    backend, p, g = circuit.backend, np.zeros(2), np.array([1.0, -2.0])
    found = []
    for adam in (bpl.Adam(0.1), bpl.Adam(0.1, beta1=0.9), bpl.Adam(0.1, beta1=0.0)):
        new, state = adam.step(backend, p, g, adam.init(backend, p))
        found.append(adam.step(backend, new, -g, state)[0])
    assert (found[0] == found[1]).all() and (found[0] != found[2]).all()


@pytest.mark.parametrize("place", ["psi", "phi"])
def test_it_solves_for_theta_alone(place):
    circuit, readout, unit, *_ = setting("lstm")
    for optimisers in ({place: bpl.RLS()}, bpl.RLS()):
        with pytest.raises(bpl.ValidationError, match=r"RLS\(.*solves for θ of a synthesiser; give p[sh]i another"):
            bpl.Trainer(circuit, readout, make(unit), optimiser=optimisers)


def test_what_is_not_linear_in_theta_is_refused():
    lstm = case("lstm")
    nonlinear = case(bpl.Model.from_toml(NONLINEAR))
    plastic = case("lstm", expansion=4, fan_in=2, plastic_expansion=True)
    rules = [bpl.BPLambda(part[2]) for part in (nonlinear, plastic)] + [bpl.rules.NStepSG(lstm[2], steps=2)]
    for (circuit, readout, *_), rule in zip((nonlinear, plastic, lstm), rules, strict=True):
        with pytest.raises(bpl.ValidationError, match="needs a synthesiser that is linear in θ"):
            bpl.Trainer(circuit, readout, rule, optimiser={"theta": bpl.RLS()}, schedule="trial")
    with pytest.raises(bpl.ValidationError, match="Clip must follow a gradient"):
        bpl.Clip(bpl.RLS(), 1.0)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"forget": 1.01}, "`forget` must be a number in"), ({"forget": -0.1}, "`forget`"),
        ({"forget": "x"}, "`forget`"),
        ({"forget": float("nan")}, "`forget`"), ({"ridge": 0}, "`ridge` must be a number > 0"),
        ({"ridge": -1}, "`ridge`"), ({"ridge": None}, "`ridge`"), ({"ridge": float("inf")}, "`ridge`"),
        ({"forget": True}, "`forget`"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_options(keywords, text):
    with pytest.raises(bpl.ValidationError, match=text):
        bpl.RLS(**keywords)


def test_theta_that_is_frozen_is_left_alone():
    circuit, readout, unit, data, theta = setting("ei")
    optimisers = {"psi": bpl.Adam(1e-2), "theta": bpl.RLS()}
    learner = bpl.Learner(circuit, readout, make(unit, trace="full"), optimisers, bpl.Schedule(1))
    state = interventions.freeze_synthesiser(learner.initial(theta=theta))
    state, outcome = bpl.run_batch(learner, state, data)
    assert (state.theta == theta).all() and (state.psi != circuit.psi).any()
    assert "moment" not in state.sums and "theta_staleness" not in outcome.figures
