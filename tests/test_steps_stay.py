"""What a watcher was shown stays as it was, whatever the rule makes of it afterwards."""

import numpy as np
import pytest
from truth import case

import bpl_neuro as bpl
from bpl_neuro.rules import RULES
from bpl_neuro.train.loop import watched_steps


@pytest.mark.parametrize("model", ["linear", "lstm"])  # linear: one state a neuron, so that a slice is a view
@pytest.mark.parametrize("name", RULES)
def test_nothing_in_a_step_changes_afterwards(name, model):
    circuit, readout, unit, data, _ = case(model, "gaps")
    kept = []

    def watch(step):
        arrays = [step.c, step.end, step.transition.new.s, step.transition.previous.s, *step.signals.values()]
        kept.append((arrays, [array.copy() for array in arrays]))

    watched_steps(circuit, readout, bpl.make_rule(name, unit), data, None, watch=watch)
    assert len(kept) == data.steps
    for arrays, copies in kept:
        for array, copy in zip(arrays, copies, strict=True):
            np.testing.assert_array_equal(array, copy)


def test_what_looks_on_learns_as_it_would_alone():
    """The trainer's rule sweeps back over the same steps before the passive one does."""
    task = bpl.tasks.TargetReaching(4, 10)
    circuit = bpl.Circuit("linear", 6, task.input_size, radius=0.95, seed=0)
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=1)
    learn = {"epochs": None, "stop_at": 3, "batch_size": 5, "validate": False, "progress": False}
    for name in ("bp_lambda", "lambda_sg", "nstep_sg"):
        rule = bpl.make_rule(name, circuit)
        alone = bpl.Trainer(circuit, readout, rule, optimiser={"theta": bpl.SGD(0.1)}).fit(task, **learn)
        frozen = bpl.Trainer(circuit, readout, bpl.rules.BPTT(circuit), optimiser={})
        passive = bpl.PassiveRules(frozen, [rule], optimiser=bpl.SGD(0.1))
        frozen.fit(task, recorder=passive, **learn)
        np.testing.assert_allclose(passive.theta[name], alone.theta, rtol=1e-12, atol=1e-15)
