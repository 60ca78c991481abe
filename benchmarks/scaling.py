"""How the cost of a training step grows with n, T and B, for every form of the trace and every rule.

    python benchmarks/scaling.py [--smoke] [--json FILE]

Time is the median over rounds, memory the peak of the arrays made meanwhile (tracemalloc), both of a whole training
step of a leaky tanh circuit in float32 on one core. Printed are slopes on log–log axes, with what is expected of the
time in brackets: the work of the rule, as its documentation has it. `--smoke` takes sizes too small to say anything.
"""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from arguments import benchmark_parser
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro.rules import RULES


@dataclass(frozen=True)
class Case:
    """A rule, how it is run, and the powers of n and T that its work grows with."""

    rule: str
    n: int
    T: int = 1
    schedule: str = "step"
    options: dict[str, Any] = field(default_factory=dict)


#: of paper's table: full n²|θ|, lazy P·N² + |θ| for each step back, local |θ|; |θ| ~ n² and one state for each neuron
FORMS = {
    "full": Case("bp_lambda", 4, options={"trace": "full"}),
    "lazy": Case("bp_lambda", 2, 2, options={"trace": "lazy"}),
    "lazy, window 8": Case("bp_lambda", 2, options={"trace": "lazy", "window": 8}),
    "sweep": Case("bp_lambda", 2, schedule="trial", options={"trace": "sweep"}),
    "local": Case("bp_lambda", 2, options={"trace": "local"}),
    "leak": Case("bp_lambda", 2, options={"trace": "leak"}),
}
OTHERS = {
    name: Case(name, 4 if name == "rtrl" else 2, schedule="trial" if rule.deferred else "step")
    for name, rule in RULES.items()
    if name not in ("bp_lambda", "bp_lambda_eprop", "lambda_sg")
}
OTHERS["bp_lambda_eprop"] = Case("bp_lambda_eprop", 2, options={"trace": "local"})
OTHERS["lambda_sg"] = Case("lambda_sg", 2, schedule="trial")
CASES = FORMS | OTHERS

#: n by the power it grows with; what is held meanwhile
SIZES = {
    "n": {4: (72, 96, 128, 171), 2: (512, 768, 1152, 1728)},
    "T": (48, 96, 192, 384),
    "B": (64, 128, 256, 512),
}
HELD = {"n": {"T": 4, "B": 4}, "T": {"n": 32, "B": 4}, "B": {"n": 48, "T": 12}}
SMOKE = {"n": {4: (4, 6), 2: (4, 6)}, "T": (10, 20), "B": (2, 4)}


def step_of(case: Case, n: int, T: int, B: int) -> Any:
    """A training step of a rule at a size."""
    circuit = bpl.Circuit("leaky_tanh", n, 10, dtype="float32", radius=0.9)
    rule = bpl.make_rule(case.rule, circuit, **case.options)
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), rule, schedule=case.schedule)
    rng = np.random.default_rng(0)
    batch = bpl.Batch(rng.normal(size=(B, T, 10)).astype("f4"), rng.normal(size=(B, T, 2)).astype("f4"))
    return lambda: trainer.train_batch(batch)


def cost(case: Case, rounds: int, **size: int) -> dict[str, float]:
    """Seconds, and bytes at the peak."""
    step = step_of(case, **size)
    step()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"seconds": float(np.median(times)), "bytes": float(peak)}


def slope(sizes: Any, values: list[float]) -> float:
    """On log–log axes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measured(case: Case, sizes: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Costs against each size, and their slopes."""
    found: dict[str, Any] = {}
    for axis in ("n", "T", "B"):
        values = sizes[axis][case.n] if axis == "n" else sizes[axis]
        costs = [cost(case, rounds, **(HELD[axis] | {axis: value})) for value in values]
        found[axis] = {"sizes": list(values), "held": HELD[axis]}
        for what in ("seconds", "bytes"):
            found[axis][what] = [entry[what] for entry in costs]
            found[axis][f"slope of {what}"] = slope(values, found[axis][what])
    return found


def main(smoke: bool, path: str | None) -> None:
    """Print the table, and write JSON."""
    results = {name: measured(case, SMOKE if smoke else SIZES, 1 if smoke else 5) for name, case in CASES.items()}
    table = Table("trace or rule", "time: n", "T", "B", "memory: n", "T", "B", title="slopes")
    for name, found in results.items():
        case = CASES[name]
        expected = {"n": f" ({case.n})", "T": f" ({case.T})", "B": ""}
        time_slopes = [f"{found[axis]['slope of seconds']:.2f}{expected[axis]}" for axis in expected]
        table.add_row(name, *time_slopes, *(f"{found[axis]['slope of bytes']:.2f}" for axis in expected))
    Console().print(table)
    if path:
        Path(path).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    given = benchmark_parser(__doc__).parse_args()
    main(given.smoke, given.json)
