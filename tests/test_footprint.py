"""What is planned against what is then held."""

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro.rules import RULES

FORMS = [
    *((name, {}) for name in RULES if name not in ("nstep_sg", "truncated_bptt", "immediate", "bp_lambda")),
    ("nstep_sg", {"steps": 2}),
    *(("bp_lambda", {"trace": trace}) for trace in ("full", "lazy", "sweep", "local", "leak")),
    ("bp_lambda", {"trace": "lazy", "window": 4}),
]


def numbers_in(held, seen):
    """Floating-point numbers in a carry; an array that is held twice counts once, and a view as what it shows."""
    if isinstance(held, np.ndarray):
        key = (held.__array_interface__["data"][0], held.shape, held.strides)
        if held.dtype.kind != "f" or held.ndim == 0 or key in seen:
            return 0
        seen.add(key)
        return held.size
    if isinstance(held, dict):
        return sum(numbers_in(part, seen) for part in held.values())
    if isinstance(held, list | tuple):
        return sum(numbers_in(part, seen) for part in held)
    if hasattr(held, "__dataclass_fields__") and type(held).__name__ in ("Transition", "State"):
        return sum(numbers_in(getattr(held, name), seen) for name in held.__dataclass_fields__ if name != "x")
    return 0


@pytest.mark.parametrize("model", ["lstm", "adapting"])
@pytest.mark.parametrize(("name", "options"), FORMS, ids=str)
def test_a_rule_keeps_what_it_says(name, options, model):
    circuit = bpl.Circuit(model, 6, 2, seed=0)
    schedule = "step" if "step" in bpl.make_rule(name, circuit, **options).schedules else "trial"
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), bpl.make_rule(name, circuit, **options), schedule=schedule)
    rng = np.random.default_rng(0)
    end = np.zeros((9, 12), bool)
    end[1:, -1] = end[0, -2] = True  # a trial ends before the last step, so that not everything is let go of
    held = []
    trainer.train_batch(
        bpl.Batch(*rng.normal(size=(2, 9, 12, 2)), end=end), lambda step: held.append(numbers_in(step.carry, set()))
    )
    planned = trainer.plan(9, 12)["rule"] / circuit.dtype.itemsize
    assert 0.9 * max(held) <= planned <= 2 * max(held), (planned, max(held))
