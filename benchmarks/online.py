"""What learning at every step costs: memory and time of the online rules, side by side.

    python benchmarks/online.py [ROUNDS] [--smoke] [--json FILE]

The LSTM of 30 units on row MNIST's shapes (batches of 50, 28 steps of 28 inputs), float32, updates of Ψ, φ and θ at
every step. Rounds alternate between all rules; time is CPU time, the median over rounds, and a ratio to e-prop's.
Memory is what the rule holds from step to step, at its largest: numbers for each trial, and as a ratio to |Ψ|.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from arguments import benchmark_parser
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl


def compatible(kind: type[bpl.BPLambda], **options: Any) -> Callable[[bpl.Circuit], bpl.Rule]:
    """BP(λ) with a compatible synthesiser."""
    return lambda circuit: kind(bpl.Synthesiser(circuit, target="current"), **options)


def forms(windows: tuple[int, ...]) -> dict[str, Callable[[bpl.Circuit], bpl.Rule]]:
    """Rules by what the table calls them."""
    return {
        "immediate": bpl.rules.Immediate,
        "e-prop": bpl.rules.EProp,
        "SnAp-1": bpl.rules.SnAp1,
        "compatible BP(0), local": compatible(bpl.BPLambda, lam=0, trace="local"),
        "compatible BP(0) + e-prop, local": compatible(bpl.BPLambdaEProp, lam=0, trace="local"),
        "compatible BP(1), local": compatible(bpl.BPLambda, trace="local"),
        **{
            f"compatible BP(1), lazy, K = {window}": compatible(bpl.BPLambda, trace="lazy", window=window)
            for window in windows
        },
        "compatible BP(1), lazy": compatible(bpl.BPLambda, trace="lazy"),
        "compatible BP(1) + e-prop, residual, lazy": compatible(bpl.BPLambdaEProp, residual=True, trace="lazy"),
        "compatible BP(1), full": compatible(bpl.BPLambda, trace="full"),
        "RTRL, lazy": lambda circuit: bpl.rules.RTRL(circuit, trace="lazy"),
        "RTRL": bpl.rules.RTRL,
        "BP(1), the paper's class, lazy": lambda circuit: bpl.BPLambda(bpl.Synthesiser(circuit), trace="lazy"),
    }


def main(rounds: int, smoke: bool, path: str | None) -> None:
    """Print the table, and write JSON."""
    units, B, T = (4, 3, 5) if smoke else (30, 50, 28)
    rng, runs, held = np.random.default_rng(0), {}, {}
    batch = bpl.Batch(rng.normal(size=(B, T, 28)).astype("f4"), rng.integers(0, 10, (B, T)), np.eye(T)[[-1] * B])
    for name, make in forms((1, 4, 8)).items():
        circuit = bpl.Circuit("lstm", units, 28, dtype="float32", seed=0)
        rule = make(circuit)
        optimiser = {"psi": bpl.Adam(1e-5), "phi": bpl.Adam(1e-5), "theta": bpl.RLS(0.996, 1e-3)}
        readout = bpl.Readout(circuit, 10, "cross_entropy", seed=1)
        runs[name] = bpl.Trainer(circuit, readout, rule, optimiser=optimiser, schedule="step")
        held[name] = rule.kept(B, T) / B
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, trainer in runs.items():
            begun = time.process_time()
            trainer.train_batch(batch)
            seconds[name].append(time.process_time() - begun)
    psi = circuit.layout.size
    found = {
        name: {
            "numbers_per_trial": held[name], "times_psi": held[name] / psi, "ms": 1e3 * float(np.median(seconds[name])),
            "times_eprop": float(np.median(np.array(seconds[name]) / np.array(seconds["e-prop"]))),
        }
        for name in runs
    }  # fmt: skip
    table = Table("rule, per step", "numbers held, a trial", "of |Ψ|", "ms a batch", "ratio to e-prop")
    for name, f in found.items():
        table.add_row(
            name, f"{f['numbers_per_trial']:,.0f}", f"{f['times_psi']:.2f}", f"{f['ms']:.0f}", f"{f['times_eprop']:.2f}"
        )
    Console(width=120).print(table)
    if path:
        Path(path).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = benchmark_parser(__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    given = parser.parse_args()
    main(1 if given.smoke else given.rounds, given.smoke, given.json)
