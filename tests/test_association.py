"""Two areas, one read out: what local credit can and cannot reach, and what a synthesiser brings there."""

import numpy as np
import pytest

import bpl_neuro as bpl

SIZES = {"exc": 8, "inh": 4, "motor": 5}
#: of the area that the readout does not see
ASSOCIATION = ["input->exc", "exc->exc", "exc->inh", "inh->exc", "bias->exc", "bias->inh"]


@pytest.fixture(scope="module")
def setting():
    """Circuit, readout of the motor area, and a batch."""
    task = bpl.tasks.AssociationReach()
    circuit = bpl.Circuit("association", SIZES, task.input_size, radius=0.9, seed=1)
    readout = bpl.Readout(circuit, task.output_size, task.loss, population="motor", seed=2)
    return circuit, readout, next(task.batches(np.random.default_rng(0), 6))


def credit(setting, rule, theta=None):
    """A rule's gradient of Ψ, by projection."""
    circuit, readout, batch = setting
    return circuit.layout.views(bpl.batch_updates(circuit, readout, rule, batch, theta).gradients["psi"])


def compatible(circuit):
    synthesiser = bpl.Synthesiser(circuit, target="current", sees="synapses")
    return bpl.BPLambdaEProp(synthesiser, residual=True, trace="sweep")


@pytest.mark.parametrize("rule", [bpl.rules.Immediate, bpl.rules.EProp, bpl.rules.RFLO, bpl.rules.BPTT])
def test_local_credit_does_not_reach_the_association_area(setting, rule):
    found = credit(setting, rule(setting[0]))
    assert set(found) == {*ASSOCIATION, "exc->motor", "motor->motor", "bias->motor"}
    for projection, gradient in found.items():
        reached = projection not in ASSOCIATION or rule is bpl.rules.BPTT
        assert bool(gradient.any()) is reached, projection


def test_the_synthesiser_reaches_it(setting):
    """Nothing at θ = 0; then what it predicts: at the least-squares fit of the batch itself, the true gradient."""
    circuit, readout, batch = setting
    exact, local = (credit(setting, rule(circuit)) for rule in (bpl.rules.BPTT, bpl.rules.EProp))
    rule = compatible(circuit)
    for projection, gradient in credit(setting, rule, rule.initial_theta()).items():
        np.testing.assert_allclose(gradient, local[projection], rtol=1e-9, atol=1e-14)
    learner = bpl.Learner(circuit, readout, rule, {"theta": bpl.RLS(forget=0.0, ridge=1e-12)}, bpl.Schedule())
    state, _ = bpl.run_batch(learner, learner.initial().replace(noise_rng=None), batch)  # as the others: without noise
    for projection, gradient in credit(setting, rule, state.theta).items():
        scale = np.abs(exact[projection]).max()
        np.testing.assert_allclose(gradient, exact[projection], rtol=0, atol=1e-9 * scale)
