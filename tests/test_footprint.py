"""What is planned against what is then held."""

from collections.abc import Mapping

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import State, Transition
from bpl_neuro.rules import RULES

FORMS = [
    *((name, {}) for name in RULES if name not in ("nstep_sg", "truncated_bptt", "immediate", "bp_lambda")),
    ("nstep_sg", {"steps": 2}),
    *(("bp_lambda", {"trace": trace}) for trace in ("full", "lazy", "sweep", "local", "leak")),
    ("bp_lambda", {"trace": "lazy", "window": 4}),
]


def numbers_in(held, seen):
    """Floating-point numbers in a carry or a trajectory; memory that is held twice, or shown in part, counts once."""
    if isinstance(held, np.ndarray):
        while isinstance(held.base, np.ndarray):
            held = held.base
        if held.dtype.kind != "f" or held.ndim == 0 or id(held) in seen:
            return 0
        seen[id(held)] = held
        return held.size
    if isinstance(held, Mapping):
        return sum(numbers_in(part, seen) for part in held.values())
    if isinstance(held, list | tuple):
        return sum(numbers_in(part, seen) for part in held)
    if isinstance(held, Trajectory | Transition | State):
        return sum(numbers_in(getattr(held, name), seen) for name in held.__dataclass_fields__ if name != "x")
    return 0


@pytest.mark.parametrize("model", ["lstm", "adapting"])
@pytest.mark.parametrize(("name", "options"), FORMS, ids=str)
def test_a_rule_keeps_what_it_says(name, options, model):
    """In its carry, or in the trajectory of all steps that it looks back over."""
    circuit = bpl.Circuit(model, 6, 2, seed=0)
    rule = bpl.make_rule(name, circuit, **options)
    trainer = bpl.Trainer(
        circuit, bpl.Readout(circuit, 2), rule, schedule="step" if "step" in rule.schedules else "trial"
    )
    rng = np.random.default_rng(0)
    end = np.zeros((9, 12), bool)
    end[1:, -1] = end[0, -2] = True  # a trial ends before the last step, so that not everything is let go of
    held, finish = [], rule.finish

    def finished(carry, trajectory, theta):
        held.append(numbers_in([carry, trajectory], {}))
        return finish(carry, trajectory, theta)

    rule.finish = finished
    trainer.train_batch(
        bpl.Batch(*rng.normal(size=(2, 9, 12, 2)), end=end), lambda step: held.append(numbers_in(step.carry, {}))
    )
    planned = trainer.plan(9, 12)["rule"] / circuit.dtype.itemsize
    assert 0.9 * max(held) <= planned <= 2 * max(held), (planned, max(held))


@pytest.mark.parametrize(
    "keywords", [{}, {"expansion": 7, "fan_in": 2, "plastic_expansion": True}, {"subspace": "random", "dimension": 2}]
)
@pytest.mark.parametrize("options", [{}, {"window": 3}])
@pytest.mark.parametrize("model", ["adapting", "ei", "lstm"])
def test_the_lazy_trace_keeps_what_it_says_to_the_number(model, options, keywords):
    circuit = bpl.Circuit(model, dict.fromkeys(bpl.Model.load(model).populations, 4), 2, seed=0)
    trace = bpl.BPLambda(bpl.Synthesiser(circuit, **keywords), trace="lazy", **options).trace
    assert trace.kept(5, 12) == numbers_in(trace.init(5, 12), {})
