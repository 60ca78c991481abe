"""The identities of the algorithm, in float64, over models × λ × γ × loss pattern."""

import numpy as np
import pytest
from helpers import NONLINEAR, errors_of_learning_online, with_trials
from truth import (
    LOSSES,
    MODELS,
    case,
    error_of_online_learning,
    error_of_summed_updates,
    of_plastic,
    off,
    online_theta,
)

import bpl_neuro as bpl
from bpl_neuro import reference

UNITS = {"nonlinear": NONLINEAR, "scaled": NONLINEAR.replace("a * tanh(v / a)", "a * v")}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("model", MODELS)
def test_summed_updates_are_the_forward_view(model, lam, gamma, loss):
    circuit, readout, unit, data, theta = case(model, loss)
    for trace in ("full", "sweep"):
        rule = bpl.BPLambda(unit, gamma=gamma, lam=lam, sg_weight=0.7, trace=trace)
        assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, gamma, lam) < 1e-10


@pytest.mark.parametrize("trace", ["full", "sweep"])
@pytest.mark.parametrize("keywords", [{"sees": "rate"}, {"sees_input": True}, {"sees": "rate", "sees_input": True}])
def test_whatever_the_synthesiser_sees(keywords, trace):
    for model in ("adapting", "ei", "lstm"):
        circuit, readout, unit, data, theta = case(model, "gaps", **keywords)
        rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
        assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, 0.9, 0.8) < 1e-10


@pytest.mark.parametrize("trace", ["full", "sweep"])
def test_a_nonlinear_synthesiser(trace):
    circuit, readout, unit, data, theta = case(bpl.Model.from_toml(NONLINEAR), "gaps")
    assert not unit.linear
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, 0.9, 0.8) < 1e-10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_the_sweep_is_the_full_trace(model, loss):
    circuit, readout, unit, data, theta = case(model, loss)
    full, sweep = (
        bpl.batch_updates(circuit, readout, bpl.BPLambda(unit, gamma=0.95, lam=0.7, trace=trace), data, theta)
        for trace in ("full", "sweep")
    )
    for name in ("theta", "psi", "phi"):
        assert off(sweep.gradients[name], full.gradients[name]) < 1e-12


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_the_recursion_of_the_targets_is_their_definition(lam, gamma, model):
    circuit, readout, unit, data, theta = case(model)
    run = reference.slow_run(circuit, readout, data)
    g = np.stack([unit(unit.z(t), theta)[0] for t in run.transitions])
    recursive = reference.lambda_targets(run.jacobians, run.c, g, run.end, gamma, lam)
    assert off(recursive, reference.lambda_target_terms(run.jacobians, run.c, g, gamma, lam)) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_bptt_is_the_derivative_of_the_loss(model, loss):
    circuit, readout, _unit, data, _theta = case(model, loss)
    run = reference.slow_run(circuit, readout, data)
    _, gradient = reference.bptt(run)
    expected = reference.finite_difference(
        lambda psi: reference.slow_run(circuit.with_psi(psi), readout, data).loss, circuit.psi.copy()
    )
    assert off(gradient, of_plastic(circuit, expected)) < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_with_lambda_and_gamma_one_the_targets_are_the_true_gradient(model):
    circuit, readout, unit, data, theta = case(model, "gaps")
    run = reference.slow_run(circuit, readout, data)
    g = np.stack([unit(unit.z(t), theta)[0] for t in run.transitions])
    targets = reference.lambda_targets(run.jacobians, run.c, g, run.end, 1.0, 1.0)
    assert off(targets, reference.later_gradient(run.jacobians, run.c, run.end)) < 1e-12


@pytest.mark.parametrize("lam", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("model", ["linear", "leaky_tanh", "adapting", "lstm"])
def test_theorem_1(model, lam):
    """Online learning approaches online λ-SG linearly in α: slope 1 on log-log axes."""
    circuit, readout, unit, data, theta = case(model, T=8)
    rule = bpl.BPLambda(unit, gamma=0.95, lam=lam, trace="full")
    alphas = np.logspace(-5, -3, 5)
    errors = [error_of_online_learning(rule, circuit, readout, unit, data, theta, 0.95, lam, a) for a in alphas]
    slope = np.polyfit(np.log(alphas), np.log(errors), 1)[0]
    assert 0.9 < slope < 1.1


@pytest.mark.parametrize("model", MODELS)
def test_theorem_1_at_lambda_zero_is_an_equality(model):
    circuit, readout, unit, data, theta = case(model, T=8)
    rule = bpl.BPLambda(unit, gamma=0.95, lam=0.0, trace="full")
    assert error_of_online_learning(rule, circuit, readout, unit, data, theta, 0.95, 0.0, alpha=0.1) < 1e-10


def test_an_update_for_every_step_but_the_first():
    circuit, readout, unit, data, theta = case("leaky_tanh", T=5)
    seen = []

    class Counting(bpl.BPLambda):
        def collect(self, carry, transition, c, end, theta):
            seen.append(super().collect(carry, transition, c, end, theta))
            return seen[-1]

    online_theta(Counting(unit, trace="full"), circuit, readout, data, theta, 0.01)
    assert seen[0] is None
    assert min(np.abs(gradient).max() for gradient in seen[1:]) > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_the_true_gradient_is_what_a_kick_to_the_state_does(model, loss):
    """G_t by its meaning: move s_t, run on, and see how the later losses change; no Jacobian is used."""
    circuit, readout, _unit, data, _theta = case(model, loss)
    run = reference.slow_run(circuit, readout, data)
    expected = reference.later_gradient(run.jacobians, run.c, run.end)
    weight = data.mask * readout.trial_weight(data.size)

    def later_loss(s, t):
        state, total = circuit.reset(circuit.state(s), data.end[:, t]), 0.0
        for k in range(t + 1, data.steps):
            new = circuit.step(state, data.x[:, k]).new
            total += readout.credit(new, data.y[:, k], weight[:, k])[0].sum()
            state = circuit.reset(new, data.end[:, k])
        return total

    for t in (0, 2, data.steps - 2):
        s = run.transitions[t].new.s
        found = reference.finite_difference(lambda flat, s=s, t=t: later_loss(flat.reshape(s.shape), t), s.reshape(-1))
        assert np.abs(found.reshape(s.shape) - expected[t]).max() < 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("model", MODELS)
def test_learning_online_is_the_algorithm_written_out(model, lam):
    """Ψ, φ and θ move at every step of trials of random lengths; each ends where the six lines by hand end."""
    for seed in range(3):
        circuit, readout, unit, *_ = case(model, seed=seed)
        data, theta = with_trials(circuit, readout, unit, np.random.default_rng(seed))
        for trace in ("full", "lazy"):
            rule = bpl.BPLambda(unit, gamma=0.9, lam=lam, sg_weight=0.6, trace=trace)
            assert max(errors_of_learning_online(rule, circuit, readout, unit, data, theta).values()) < 1e-12


@pytest.mark.parametrize("keywords", [{}, {"sees": "rate", "sees_input": True}, {"expansion": 6, "fan_in": 2}])
@pytest.mark.parametrize("text", UNITS.values(), ids=UNITS)
def test_learning_online_with_other_synthesisers(text, keywords):
    """∂g/∂θ is that at the θ after the step's update: for a nonlinear unit this is another number than before it."""
    circuit, readout, unit, *_ = case(bpl.Model.from_toml(text), **keywords)
    data, theta = with_trials(circuit, readout, unit, np.random.default_rng(7))
    for trace in ("full", "lazy"):
        rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, sg_weight=0.6, trace=trace)
        assert max(errors_of_learning_online(rule, circuit, readout, unit, data, theta).values()) < 1e-12


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_trials_of_random_lengths_are_the_forward_view(seed, lam):
    """Trials of one step, several trials in a row, padding: for the full trace and the sweep."""
    circuit, readout, unit, *_ = case("ei" if seed % 2 else "lstm", seed=seed)
    data, theta = with_trials(circuit, readout, unit, np.random.default_rng(seed), B=4)
    for trace in ("full", "sweep"):
        rule = bpl.BPLambda(unit, gamma=0.9, lam=lam, trace=trace)
        assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, 0.9, lam) < 1e-10


@pytest.mark.parametrize("lam", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("model", ["threshold_linear", "ei", "nonlinear"])
def test_theorem_1_over_five_decades(model, lam):
    """The slope is 1 everywhere, not in the mean: between each pair of learning rates."""
    circuit, readout, unit, data, theta = case(bpl.Model.from_toml(NONLINEAR) if model == "nonlinear" else model, T=8)
    rule = bpl.BPLambda(unit, gamma=1.0, lam=lam, trace="full")
    alphas = np.logspace(-7, -2, 6)
    errors = [error_of_online_learning(rule, circuit, readout, unit, data, theta, 1.0, lam, a) for a in alphas]
    slopes = np.diff(np.log10(errors))
    assert np.abs(slopes - 1).max() < 0.1


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_online_and_offline_lambda_sg_agree_for_small_steps(lam):
    """Two references that share no loop: (θ^online − θ_0)/α tends to the offline sum as α does to 0."""
    circuit, readout, unit, data, theta = case("adapting")
    run = reference.slow_run(circuit, readout, data)
    offline = reference.offline_lambda_sg(run, unit, theta, 0.9, lam)
    found = [(reference.online_lambda_sg(run, unit, theta, 0.9, lam, a) - theta) / a for a in (1e-3, 1e-5)]
    errors = [off(f, offline) for f in found]
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)
