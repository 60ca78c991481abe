"""The rates of the full and the local trace against what they are made of.

    python benchmarks/rates.py [--smoke] [--json FILE]

Full trace: operations per second of a step (collecting δ e, e ← γλ J e, adding ∂g/∂θ, and making J) over those of the
same matrix products alone, on blocks that stay in cache. Local trace: time over that of a copy of the trace. Rounds
alternate between the two; printed are medians of the ratios.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from arguments import benchmark_parser
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro.rules.traces import FullTrace, LocalTrace


def ratio(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median time of ours, in seconds, and of its ratio to the other's of the same round."""
    times = []
    for _ in range(rounds):
        row = []
        for run in (ours, other):
            begun = time.perf_counter()
            run()
            row.append(time.perf_counter() - begun)
        times.append(row)
    mine, others = np.array(times).T
    return float(np.median(mine)), float(np.median(mine / others))


def moving(n: int, B: int, dtype: str) -> tuple[bpl.Synthesiser, object, object]:
    """A synthesiser on n units, a step of its circuit, and what it answers."""
    circuit = bpl.Circuit("leaky_tanh", n, 3, dtype=dtype, radius=0.9)
    synthesiser = bpl.Synthesiser(circuit)
    x = np.random.default_rng(0).normal(size=(B, 3)).astype(dtype)
    step = circuit.step(circuit.initial_state(B), x)
    return synthesiser, step, synthesiser(synthesiser.z(step), synthesiser.initial_theta())


def full(n: int, B: int, dtype: str, rounds: int) -> dict[str, float]:
    """Rates, in operations per second."""
    synthesiser, step, response = moving(n, B, dtype)
    trace = FullTrace(synthesiser, 0.9)
    carry = trace.init(B, 1)
    delta = np.random.default_rng(1).normal(size=(B, n)).astype(dtype)

    def ours() -> None:
        nonlocal carry
        trace.collect(carry, delta)
        carry = trace.step(carry, step, response)

    width = synthesiser.layout.size
    columns = max(1, min(width, 2**18 // (n * np.dtype(dtype).itemsize)))  # 256 KiB
    J, e = step.jacobian()[0], np.ones((n, columns), dtype)
    out, times = np.empty_like(e), round(B * width / columns)

    def alone() -> None:
        for _ in range(times):
            np.matmul(J, e, out=out)

    ours()
    seconds, slower = ratio(ours, alone, rounds)
    share = B * width / (times * columns) / slower
    return {"operations per second": 2 * n**2 * width * B / seconds, "rate over the products' alone": share}


def local(n: int, dtype: str, rounds: int) -> dict[str, float]:
    """Times over that of a copy: of moving the trace on, and with the sum Σ δ e, which is as large as the trace."""
    synthesiser, step, response = moving(n, 1, dtype)
    trace = LocalTrace(synthesiser, 0.9)
    carry = trace.step(trace.init(1, 1), step, response)
    delta = np.random.default_rng(1).normal(size=(1, n)).astype(dtype)
    e = carry["e"][0]
    out = np.empty_like(e)

    def copy() -> None:
        np.copyto(out, e)

    def sum_and_move() -> None:
        trace.collect(carry, delta)
        trace.step(carry, step, response)

    copy()
    _, moved = ratio(lambda: trace.step(carry, step, response), copy, rounds)
    _, both = ratio(sum_and_move, copy, rounds)
    return {"moving on, over a copy": moved, "moving on and summing, over a copy": both}


def main(smoke: bool, path: str | None) -> None:
    """Print the tables, and write JSON."""
    results: dict[str, dict[str, float]] = {}
    rounds = 3 if smoke else 15
    for dtype in ("float32", "float64"):
        for n in (8,) if smoke else (60, 128):
            results[f"full, n = {n}, {dtype}"] = full(n, 20 if n < 100 else 8, dtype, rounds)
        n = 64 if smoke else 4096
        results[f"local, {n} × {n}, {dtype}"] = local(n, dtype, rounds)
    table = Table("trace", "what", "found")
    for name, row in results.items():
        for what, value in row.items():
            table.add_row(name, what, f"{value:.3g}")
    Console().print(table)
    if path:
        Path(path).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    given = benchmark_parser(__doc__).parse_args()
    main(given.smoke, given.json)
