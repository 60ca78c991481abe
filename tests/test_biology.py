"""Noise, delays, sparse and signed projections, streams, updates every K steps, late errors."""

import numpy as np
import pytest
from biology import SIZES, TEXT
from helpers import NONLINEAR
from truth import case, error_of_online_learning, error_of_summed_updates, off

import bpl_neuro as bpl
from bpl_neuro import reference


def circuit(seed=0, **keywords):
    return bpl.Circuit(bpl.Model.from_toml(TEXT), SIZES, 2, seed=seed, **keywords)


def data(seed=0, B=3, T=8, **keywords):
    rng = np.random.default_rng(seed)
    return bpl.Batch(rng.normal(size=(B, T, 2)), rng.normal(size=(B, T, 2)), **keywords)


def test_derivatives_with_delays():
    c = circuit()
    rng = np.random.default_rng(1)
    s, x = rng.normal(size=(3, c.n)) * 0.5, rng.normal(size=(3, 2))
    transition = c.step(c.state(s), x)
    assert off(transition.jacobian(), reference.finite_difference_jacobian(c, s, x)) < 1e-7
    M, v = rng.normal(size=(3, c.n, 4)), rng.normal(size=(3, c.n))
    assert off(transition.jvp(M), transition.jacobian() @ M) < 1e-12

    def value(p):
        return float((c.with_psi(p).step(c.state(s), x).new.s * v).sum())

    expected = reference.finite_difference(value, c.psi.copy()) * c.mask
    assert off(transition.parameter_gradient(v), expected) < 1e-7


def test_a_delay_is_a_delay():
    """u at step t holds the rate of d steps before the last one, and the initial rate before the trial."""
    c = circuit()
    states, rates = c.run(data(T=6).x)
    start = np.tanh(0.3)
    pops = c.populations
    x = data(T=6).x
    state = c.initial_state(3)
    for t in range(6):
        transition = c.step(state, x[:, t])
        for d, post, key in [(2, 0, "exc->exc"), (1, 1, "exc->inh")]:
            late = rates[:, t - 1 - d, pops[0].rate_slice] if t - 1 - d >= 0 else np.full((3, 5), start)
            u = transition.u[post][:, 0] - c.weights[f"bias->{pops[post].name}"][0] - late @ c.weights[key][0].T
            inh = rates[:, t - 1, pops[1].rate_slice] if t else np.zeros((3, 3))
            u = u - inh @ c.weights[f"inh->{pops[post].name}"][0].T
            if post == 0:
                u = u - x[:, t] @ c.weights["input->exc"][0].T
            assert np.abs(u).max() < 1e-14
        state = transition.new
    assert off(states[:, -1], state.s) < 1e-15


@pytest.mark.parametrize("trace", ["full", "sweep"])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_the_forward_view_with_delays_and_noise(lam, trace):
    c = circuit()
    readout = bpl.Readout(c, 2, seed=1)
    unit = bpl.Synthesiser(c)
    theta = np.random.default_rng(2).normal(size=unit.n * unit.m) * 0.2
    rule = bpl.BPLambda(unit, gamma=0.9, lam=lam, trace=trace)
    found = -bpl.batch_updates(c, readout, rule, data(), theta, noise_seed=5).gradients["theta"]
    run = reference.slow_run(c, readout, data(), noise_seed=5)
    assert off(found, reference.offline_lambda_sg(run, unit, theta, 0.9, lam)) < 1e-10
    quiet = reference.slow_run(c, readout, data())
    assert abs(run.loss - quiet.loss) > 1e-6
    assert error_of_summed_updates(rule, c, readout, unit, data(), theta, 0.9, lam) < 1e-10


def test_bptt_with_delays_and_noise_is_the_derivative_of_the_loss():
    c = circuit()
    readout = bpl.Readout(c, 2, seed=1)
    _, gradient = reference.bptt(reference.slow_run(c, readout, data(), noise_seed=5))

    def loss(p):
        return reference.slow_run(c.with_psi(p), readout, data(), noise_seed=5).loss

    expected = reference.finite_difference(loss, c.psi.copy()) * c.mask
    assert off(gradient, expected) < 1e-6


def test_noise_has_the_variance_of_the_equation():
    """Euler–Maruyama of an Ornstein–Uhlenbeck process: stationary variance σ²/2 / (1 − dt/2τ)."""
    model = bpl.Model.from_equations(
        "dx/dt = -x/tau + sigma*xi/tau**0.5 + 0*u/tau : 1\nu : 1\ntau : second\nsigma : 1",
        rate="x", parameters={"tau": "10*ms", "sigma": 0.5}, dt="1*ms",
    )  # fmt: skip
    c = bpl.Circuit(model, 50, 1)
    states, _ = c.run(np.zeros((20, 400, 1)), noise_seed=3)
    late = states[:, 100:]
    expected = 0.25 / 2 / (1 - 0.05)
    assert abs(late.var() / expected - 1) < 0.05
    assert abs(np.corrcoef(late[0, :, 0], late[0, :, 1])[0, 1]) < 0.4
    again, _ = c.run(np.zeros((20, 400, 1)), noise_seed=3)
    assert (again == states).all()
    assert (c.run(np.zeros((20, 400, 1)), noise_seed=4)[0] != states).any()


def test_initial_weights_keep_sign_and_sparsity():
    c = circuit(radius=0.8)
    W = {key: view[0] for key, view in c.weights.items() if "->" in key and not key.startswith("bias")}
    assert (W["exc->exc"] >= 0).all() and not np.diag(W["exc->exc"]).any()
    assert 0.3 < (W["exc->exc"] > 0).sum() / 20 < 1
    assert (W["exc->inh"] > 0).all() and (W["inh->exc"] < 0).all() and (W["inh->inh"] < 0).all()
    assert (W["input->exc"] > 0).any() and (W["input->exc"] < 0).any()
    for key in ("exc->exc", "inh->inh"):
        assert np.abs(np.linalg.eigvals(W[key])).max() == pytest.approx(0.8)


@pytest.mark.parametrize("schedule", ["trial", "step"])
def test_signs_sparsity_and_frozen_projections_hold_through_learning(schedule):
    c = circuit(seed=3)
    readout = bpl.Readout(c, 2, seed=1)
    before = {key: view.copy() for key, view in c.weights.items()}
    trainer = bpl.Trainer(
        c, readout, bpl.BPLambda(bpl.Synthesiser(c), trace="local"), optimiser=bpl.Adam(0.1), schedule=schedule
    )
    for k in range(30):
        trainer.train_batch(data(k))
    W = trainer.weights
    assert (W["exc->exc"] >= 0).all() and (W["exc->inh"] >= 0).all() and (W["inh->exc"] <= 0).all()
    assert (W["exc->exc"][before["exc->exc"] == 0] == 0).all()
    assert (W["inh->inh"] == before["inh->inh"]).all()
    zero = {key: (W[key] == 0).sum() - (before[key] == 0).sum() for key in ("exc->exc", "exc->inh", "inh->exc")}
    assert sum(zero.values()) > 0  # some were stopped at zero
    assert (W["exc->inh"] != before["exc->inh"]).any()


def test_a_sparse_circuit_file_keeps_its_mask(tmp_path):
    c = circuit(seed=7)
    c.save(tmp_path / "c.npz")
    again = bpl.Circuit.load(tmp_path / "c.npz")
    assert (again.mask == c.mask).all() and (again.psi == c.psi).all() and (again.signs == c.signs).all()


def stream_setting(trace="full", **keywords):
    c = bpl.Circuit("adapting", 4, 2, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(c), gamma=0.9, lam=0.8, trace=trace)
    return bpl.Trainer(c, bpl.Readout(c, 2, reduction="sum", seed=1), rule, schedule="step", **keywords)


@pytest.mark.parametrize("trace", ["full", "local", "leak"])
@pytest.mark.parametrize("keywords", [{}, {"update_every": 3}, {"error_delay": 2}])
def test_a_stream_in_pieces_is_the_stream(trace, keywords):
    """Pieces of any length give the updates of one long batch, to the bit."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 2)), rng.normal(size=(2, 30, 2))
    end = rng.random((2, 30)) < 0.1
    end[:, -1] = False
    whole, pieces = (stream_setting(trace, optimiser=bpl.SGD(0.02), **keywords) for _ in range(2))
    whole.train_batch(bpl.Batch(x, y, end=end, stream=True))
    for a, b in [(0, 1), (1, 8), (8, 9), (9, 24), (24, 30)]:
        pieces.train_batch(bpl.Batch(x[:, a:b], y[:, a:b], end=end[:, a:b], stream=True))
    for name in ("psi", "phi", "theta"):
        np.testing.assert_allclose(pieces.parameter(name), whole.parameter(name), rtol=1e-12, atol=1e-14)


def test_updates_every_k_steps_sum_the_gradients_in_between():
    one, three = stream_setting(optimiser=bpl.SGD(0.02)), stream_setting(optimiser=bpl.SGD(0.02), update_every=3)
    seen = []
    rng = np.random.default_rng(0)
    piece = bpl.Batch(rng.normal(size=(2, 9, 2)), rng.normal(size=(2, 9, 2)), stream=True)
    three.train_batch(piece, watch=lambda step: seen.append(step.parameter("psi")))
    moved = [k for k in range(1, 9) if (seen[k] != seen[k - 1]).any()]
    assert moved == [2, 5, 8]
    one.train_batch(piece)
    assert (one.parameter("psi") != three.parameter("psi")).any()


def test_a_sum_of_gradients_is_applied_when_it_is_due_also_at_a_step_that_adds_none():
    """At a trial's first step θ has no gradient, at a step without a loss φ has none: the sum so far still counts."""
    end, mask = np.zeros((2, 9), bool), np.ones((2, 9))
    end[:, [1, 4, 8]] = True  # steps 3 and 6, from 1, are due, and trials' first
    mask[:, [2, 5]] = 0
    batch = data(B=2, T=9, mask=mask, end=end)
    seen = []
    trainer = stream_setting(optimiser=bpl.SGD(0.02), update_every=3)
    before = {name: trainer.parameter(name) for name in ("psi", "phi", "theta")}
    trainer.train_batch(batch, watch=lambda step: seen.append({name: step.parameter(name) for name in before}))
    for name, start in before.items():
        values = [start, *(parameters[name] for parameters in seen)]
        assert [t for t in range(1, 10) if (values[t] != values[t - 1]).any()] == [3, 6, 9], name
    # The first update is the sum of the first three steps' gradients; Ψ hears of the θ that has just moved.
    first = bpl.Batch(batch.x[:, :3], batch.y[:, :3], mask[:, :3], end[:, :3])
    sums = bpl.batch_updates(trainer.circuit, trainer.readout, trainer.rule, first).gradients
    for name in ("theta", "phi"):
        np.testing.assert_allclose(seen[2][name], before[name] - 0.02 * sums[name], rtol=1e-12, atol=1e-15)


def test_a_stream_refuses_a_trace_that_looks_back():
    c = bpl.Circuit("linear", 3, 2)
    trainer = bpl.Trainer(c, bpl.Readout(c, 2), bpl.BPLambda(bpl.Synthesiser(c), trace="sweep"))
    with pytest.raises(bpl.ValidationError, match="bounded past"):
        trainer.train_batch(bpl.Batch(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), stream=True))


@pytest.mark.parametrize("delay", [1, 3])
def test_a_late_error_is_the_error_moved(delay):
    circuit_, readout, unit, batch, theta = case("leaky_tanh", T=8)
    rule = bpl.BPLambda(unit, lam=0.9, trace="full")
    seen = {}
    for late in (0, delay):
        seen[late] = []
        learner = bpl.Learner(circuit_, readout, rule, {}, bpl.Schedule(1), error_delay=late)
        bpl.run_batch(
            learner, learner.initial(theta=theta), batch, watch=lambda step, late=late: seen[late].append(step.c)
        )
    assert not np.any(seen[delay][:delay])
    for t in range(8 - delay):
        assert (seen[delay][t + delay] == seen[0][t]).all()


def test_a_late_error_is_lost_with_its_trial():
    c = bpl.Circuit("leaky_tanh", 3, 2, seed=0)
    end = np.zeros((2, 8), bool)
    end[:, -1] = True
    end[0, 3] = True
    for trace in ("full", "sweep"):
        rule = bpl.BPLambda(bpl.Synthesiser(c), trace=trace)
        trainer = bpl.Trainer(c, bpl.Readout(c, 2), rule, error_delay="2*ms")
        seen = []
        trainer.train_batch(data(B=2, end=end), watch=lambda step, seen=seen: seen.append(step.c))
        assert trainer.learner.error_delay == 2
        assert not seen[4][0].any() and not seen[5][0].any() and seen[6][0].any()
        assert seen[4][1].any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (('delay = "2*ms"', 'delay = "2.5*ms"'), "whole number of steps"),
        (('delay = "2*ms"', 'delay = "2*mV"'), "unit"),
        (('delay = "2*ms"', 'delay = "2*second"'), "at most 200"),
        (("probability = 0.7", "probability = 1.7"), "probability"),
        (('sign = "-"', 'sign = "inhibitory"'), "sign"),
        (('from = "input"', 'from = "input"\ndelay = "1*ms"'), "shift the stimulus"),
        (('to = "inh"\nsign = "+"', 'to = "inh"\nself = false'), "`self`"),
    ],
)
def test_wrong_projections(changed, message):
    with pytest.raises(bpl.ModelError, match=message):
        bpl.Model.from_toml(TEXT.replace(*changed, 1))


@pytest.mark.parametrize("keywords", [{"update_every": 0}, {"error_delay": -1}, {"error_delay": "1.5*ms"}])
def test_wrong_schedules(keywords):
    with pytest.raises(bpl.ValidationError, match=next(iter(keywords))):
        stream_setting(**keywords)


@pytest.mark.parametrize("trace", ["full", "sweep"])
def test_the_forward_view_with_an_expansion_layer(trace):
    for keywords in ({"expansion": 12, "fan_in": 2}, {"expansion": 7, "fan_in": 3, "sees": "rate", "sees_input": True}):
        circuit_, readout, unit, batch, theta = case("adapting", "gaps", **keywords)
        assert unit.m == keywords["expansion"] + 1
        assert ((unit.Q[:, :-1] != 0).sum(axis=1) == keywords["fan_in"]).all()
        rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
        assert error_of_summed_updates(rule, circuit_, readout, unit, batch, theta, 0.9, 0.8) < 1e-10


def test_an_expansion_layer_from_the_model_file():
    text = bpl.Model.load("adapting").to_toml() + "\n[synthesiser.expansion]\nsize = 20\nfan_in = 3\n"
    text += 'equations = "q = tanh(v)**2 : 1\\nv : 1"\n'
    circuit_ = bpl.Circuit(bpl.Model.from_toml(text), 5, 2)
    unit, again = bpl.Synthesiser(circuit_), bpl.Synthesiser(circuit_)
    assert unit.m == 21 and (unit.Q == again.Q).all()
    assert (bpl.Synthesiser(circuit_, seed=1).Q != unit.Q).any()
    transition = circuit_.step(circuit_.initial_state(2), np.ones((2, 2)))
    expected = np.tanh(transition.new.s @ unit.Q[:, :-1].T + unit.Q[:, -1]) ** 2
    np.testing.assert_allclose(unit.z(transition)[:, :-1], expected, atol=1e-15)
    assert bpl.Synthesiser(circuit_, expansion=0).m == circuit_.n + 1


def plastic(model="adapting", **keywords):
    """A setting whose expansion layer learns."""
    if model == "nonlinear":
        model = bpl.Model.from_toml(
            NONLINEAR + '[synthesiser.expansion]\nsize = 6\nfan_in = 2\nequations = "q = tanh(v) : 1\\nv : 1"'
        )
    return case(model, "gaps", expansion=6, fan_in=2, plastic_expansion=True, **keywords)


@pytest.mark.parametrize("model", ["nonlinear", "adapting"])
def test_the_gradient_of_a_plastic_expansion_layer(model):
    circuit_, _, unit, batch, theta = plastic(model)
    z = unit.z(circuit_.step(circuit_.initial_state(3), batch.x[:, 0]))
    v = np.random.default_rng(0).normal(size=(3, unit.n))
    expected = reference.finite_difference(lambda t: float((unit(z, t).g * v).sum()), theta.copy())
    expected = unit.join(*unit.layout.views(expected).values())
    e = np.zeros((3, unit.n, theta.size))
    unit.add_jacobian(e, unit(z, theta), 1.0)
    for found in (
        unit.gradient(v, unit(z, theta)),
        np.einsum("bi,bip->p", v, e),
        reference.synthesiser_gradient(unit, v, z, theta),
    ):
        assert off(found, expected) < 1e-7


@pytest.mark.parametrize("model", ["nonlinear", "adapting"])
@pytest.mark.parametrize("trace", ["full", "sweep"])
def test_the_forward_view_with_a_plastic_expansion_layer(trace, model):
    circuit_, readout, unit, batch, theta = plastic(model)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    assert error_of_summed_updates(rule, circuit_, readout, unit, batch, theta, 0.9, 0.8) < 1e-10


@pytest.mark.parametrize("trace", ["local", "leak"])
def test_without_a_past_the_local_traces_of_a_plastic_layer_are_exact(trace):
    circuit_, readout, unit, batch, theta = plastic("nonlinear")
    found, expected = (
        bpl.batch_updates(circuit_, readout, bpl.BPLambda(unit, gamma=0.9, lam=0, trace=t), batch, theta).gradients[
            "theta"
        ]
        for t in (trace, "full")
    )
    assert off(found, expected) < 1e-12


def test_online_learning_with_a_plastic_expansion_layer_is_online_lambda_sg_at_lambda_zero():
    circuit_, readout, unit, batch, theta = case("leaky_tanh", expansion=6, fan_in=2, plastic_expansion=True)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0, trace="full")
    assert error_of_online_learning(rule, circuit_, readout, unit, batch, theta, 0.9, 0, 0.1) < 1e-12
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace="full")
    errors = [error_of_online_learning(rule, circuit_, readout, unit, batch, theta, 0.9, 0.8, a) for a in (1e-4, 1e-5)]
    assert 8 < errors[0] / errors[1] < 12


@pytest.mark.parametrize("schedule", ["step", "trial"])
@pytest.mark.parametrize("trace", ["full", "sweep", "local", "leak", "model"])
def test_a_plastic_expansion_layer_learns_where_it_has_synapses(tmp_path, trace, schedule):
    if (trace, schedule) == ("sweep", "step"):
        return
    circuit_ = bpl.Circuit("cerebellar", {"exc": 6, "inh": 3}, 2)
    unit = bpl.Synthesiser(circuit_, expansion=10, fan_in=2, plastic_expansion=True)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    trainer = bpl.Trainer(circuit_, bpl.Readout(circuit_, 2), rule, schedule=schedule)
    before = trainer.theta.copy()
    for seed in range(3):
        trainer.train_batch(data(seed))
    Q, Q_before = (unit.layout.views(theta)["expansion"] for theta in (trainer.theta, before))
    assert (Q[unit.Q == 0] == 0).all() and (Q[unit.Q != 0] != Q_before[unit.Q != 0]).mean() > 0.5
    trainer.save(tmp_path / "c.npz")
    again = bpl.Trainer(circuit_, bpl.Readout(circuit_, 2), rule, schedule=schedule).restore(tmp_path / "c.npz")
    assert (again.theta == trainer.theta).all()


@pytest.mark.parametrize("keywords", [{"expansion": -1}, {"expansion": 5, "fan_in": 0}, {"expansion": 5, "fan_in": 99}])
def test_wrong_expansions(keywords):
    with pytest.raises(bpl.ValidationError, match=list(keywords)[-1]):
        bpl.Synthesiser(bpl.Circuit("adapting", 3, 2), **keywords)
