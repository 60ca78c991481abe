"""The identities of the algorithm, in float64, over models × λ × γ × loss pattern."""

import numpy as np
import pytest
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

NONLINEAR = """
[populations.cortex]
equations = "dr/dt = (-r + tanh(u)) / tau : 1\\nu : 1\\ntau : second"
rate = "r"
inputs = ["u"]
parameters = { tau = "3*ms" }
[time]
dt = "1*ms"
[synthesiser]
equations = "g = tanh(v) : 1\\nv : 1"
"""


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


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_the_recursion_of_the_targets_is_their_definition(lam, gamma):
    circuit, readout, unit, data, theta = case("adapting")
    run = reference.trajectory(circuit, readout, data)
    g = np.stack([unit(unit.z(t), theta)[0] for t in run.transitions])
    recursive = reference.lambda_targets(run.jacobians, run.c, g, run.end, gamma, lam)
    assert off(recursive, reference.lambda_target_terms(run.jacobians, run.c, g, gamma, lam)) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_bptt_is_the_derivative_of_the_loss(model, loss):
    circuit, readout, _unit, data, _theta = case(model, loss)
    run = reference.trajectory(circuit, readout, data)
    _, gradient = reference.bptt(run)
    psi = circuit.psi

    def loss_at(value):
        circuit.psi = value
        return reference.trajectory(circuit, readout, data).loss

    expected = reference.finite_difference(loss_at, psi.copy())
    circuit.psi = psi
    assert off(gradient, of_plastic(circuit, expected)) < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_with_lambda_and_gamma_one_the_targets_are_the_true_gradient(model):
    circuit, readout, unit, data, theta = case(model, "gaps")
    run = reference.trajectory(circuit, readout, data)
    g = np.stack([unit(unit.z(t), theta)[0] for t in run.transitions])
    targets = reference.lambda_targets(run.jacobians, run.c, g, run.end, 1.0, 1.0)
    assert off(targets, reference.later_gradient(run.jacobians, run.c, run.end)) < 1e-12


@pytest.mark.parametrize("lam", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("model", ["linear", "leaky_tanh", "adapting", "lstm"])
def test_theorem_1(model, lam):
    """Online learning approaches online λ-SG linearly in α: slope 1 on log-log axes."""
    circuit, readout, unit, data, theta = case(model, T=8)
    rule = bpl.BPLambda(unit, gamma=0.95, lam=lam)
    alphas = np.logspace(-5, -3, 5)
    errors = [error_of_online_learning(rule, circuit, readout, unit, data, theta, 0.95, lam, a) for a in alphas]
    slope = np.polyfit(np.log(alphas), np.log(errors), 1)[0]
    assert 0.9 < slope < 1.1


@pytest.mark.parametrize("model", MODELS)
def test_theorem_1_at_lambda_zero_is_an_equality(model):
    circuit, readout, unit, data, theta = case(model, T=8)
    rule = bpl.BPLambda(unit, gamma=0.95, lam=0.0)
    assert error_of_online_learning(rule, circuit, readout, unit, data, theta, 0.95, 0.0, alpha=0.1) < 1e-10


def test_an_update_for_every_step_but_the_first():
    circuit, readout, unit, data, theta = case("leaky_tanh", T=5)
    seen = []

    class Counting(bpl.BPLambda):
        def step(self, carry, transition, c, end, theta, learn):
            def counted(gradient):
                seen.append(np.abs(gradient).max())
                return learn(gradient)

            return super().step(carry, transition, c, end, theta, counted)

    online_theta(Counting(unit), circuit, readout, data, theta, 0.01)
    assert seen[0] == 0
    assert min(seen[1:]) > 0
