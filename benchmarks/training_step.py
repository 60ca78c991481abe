"""A whole training step (forward, credit, Adam) of each rule against torch.nn.LSTM's and a jitted JAX one's.

    python benchmarks/training_step.py [rounds] [--smoke] [--json FILE] [--backend c]

Row MNIST's shapes (LSTM of 30 units, batch 50, 28 steps of 28 inputs) and copy–repeat's (LSTM of 100, batch 100), in
float32, one thread. Rounds alternate between the contestants; printed are the median over rounds, its ratio to torch's
of the same rounds, and the peak memory of a process of its own. With ``--backend c`` the contestants are NumPy and the
compiled loops, rule by rule, in CPU time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from arguments import benchmark_parser
from memory import peak_of_this_process
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl

SHAPES = {
    "row MNIST": {"units": 30, "batch": 50, "steps": 28, "inputs": 28, "outputs": 10},
    "copy–repeat, T = 5": {"units": 100, "batch": 100, "steps": 5, "inputs": 10, "outputs": 9},
    "copy–repeat, T = 19": {"units": 100, "batch": 100, "steps": 19, "inputs": 10, "outputs": 9},
}
RULES = {
    "BPTT": ("bptt", "trial", {}),
    "BP(1), per trial": ("bp_lambda", "trial", {"trace": "sweep"}),
    "BP(1) + e-prop, per trial": ("bp_lambda_eprop", "trial", {"trace": "sweep"}),
    "e-prop, per trial": ("eprop", "trial", {"trace": "sweep"}),
    "BP(1), per step": ("bp_lambda", "step", {"trace": "lazy"}),
    "BP(1), per step, local trace": ("bp_lambda", "step", {"trace": "local"}),
}
#: beside them where backends are compared: the synthesiser that is compatible with the circuit
MORE_RULES = {
    "compatible BP(1), per trial": ("bp_lambda", "trial", {"trace": "sweep"}),
    "e-prop, per step": ("eprop", "step", {}),
}


def data(shape: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels."""
    rng = np.random.default_rng(0)
    x = rng.random((shape["batch"], shape["steps"], shape["inputs"])).astype(np.float32)
    return x, rng.integers(0, shape["outputs"], shape["batch"])


def ours(shape: dict[str, int], rule: str, backend: str = "numpy") -> Callable[[], object]:
    """One of our training steps."""
    name, schedule, options = (RULES | MORE_RULES)[rule]
    x, labels = data(shape)
    y = np.repeat(labels[:, None], shape["steps"], axis=1)
    mask = np.zeros(y.shape, np.float32)
    mask[:, -1] = 1
    circuit = bpl.Circuit("lstm", shape["units"], shape["inputs"], dtype="float32", backend=backend)
    readout = bpl.Readout(circuit, shape["outputs"], "cross_entropy")
    compatible = rule.startswith("compatible")
    on = bpl.Synthesiser(circuit, target="current", sees="synapses") if compatible else circuit
    optimiser = {"psi": bpl.Adam(), "phi": bpl.Adam(), "theta": bpl.RLS(forget=0.9, ridge=1e-2)} if compatible else None
    trainer = bpl.Trainer(circuit, readout, bpl.make_rule(name, on, **options), optimiser=optimiser, schedule=schedule)
    batch = bpl.Batch(x, y, mask)
    return lambda: trainer.train_batch(batch)


def torchs(shape: dict[str, int]) -> Callable[[], object]:
    """torch.nn.LSTM's, by backpropagation through time."""
    import torch

    torch.set_num_threads(1)
    x, labels = (torch.from_numpy(part) for part in data(shape))
    lstm = torch.nn.LSTM(shape["inputs"], shape["units"], batch_first=True)
    readout = torch.nn.Linear(shape["units"], shape["outputs"])
    adam = torch.optim.Adam([*lstm.parameters(), *readout.parameters()], lr=1e-3)

    def step() -> None:
        adam.zero_grad()
        loss = torch.nn.functional.cross_entropy(readout(lstm(x)[0][:, -1]), labels)
        loss.backward()
        adam.step()

    return step


def jaxs(shape: dict[str, int]) -> Callable[[], object]:
    """An LSTM in JAX, by backpropagation through time, compiled as a whole, Adam included."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax
    import jax.numpy as jnp

    x, labels = (jnp.asarray(part) for part in data(shape))
    N, rng = shape["units"], np.random.default_rng(0)
    sizes = {"W": (N, 4 * N), "W_in": (shape["inputs"], 4 * N), "b": (4 * N,), "out": (N, shape["outputs"])}
    parameters = {name: jnp.asarray(rng.uniform(-0.1, 0.1, size), jnp.float32) for name, size in sizes.items()}

    def loss(p: dict) -> jax.Array:
        drive = x.transpose(1, 0, 2) @ p["W_in"] + p["b"]

        def cell(state: tuple, u: jax.Array) -> tuple:
            h, c = state
            i, f, g, o = jnp.split(u + h @ p["W"], 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zero = jnp.zeros((x.shape[0], N), jnp.float32)
        (h, _), _ = jax.lax.scan(cell, (zero, zero), drive)
        return -jnp.take_along_axis(jax.nn.log_softmax(h @ p["out"]), labels[:, None], axis=1).mean()

    @jax.jit
    def update(p: dict, m: dict, v: dict, t: jax.Array) -> tuple:
        g = jax.grad(loss)(p)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g * g, v, g)
        scale = 1e-3 * jnp.sqrt(1 - 0.98**t) / (1 - 0.9**t)
        return jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-9), p, m, v), m, v

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    held = [parameters, zeros, zeros, 0.0]

    def step() -> None:
        held[3] += 1.0
        held[:3] = jax.block_until_ready(update(*held))

    return step


#: what is measured beside ours, where it is installed
OTHERS = {"torch.nn.LSTM, BPTT": torchs, "JAX, jitted BPTT": jaxs}


def contestants(shape: dict[str, int]) -> dict[str, Callable[[], object]]:
    """All of them, torch first where it is installed."""
    found: dict[str, Callable[[], object]] = {}
    for name, make in OTHERS.items():
        with contextlib.suppress(ImportError):
            found[name] = make(shape)
    return found | {rule: ours(shape, rule) for rule in RULES}


def medians(
    steps: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median time of a step, in ms."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()  # warm
            begun = clock()
            step()
            times[name].append(1e3 * (clock() - begun))
    return {name: float(np.median(values)) for name, values in times.items()}


def peak(name: str, shape: dict[str, int]) -> float:
    """MiB of a process of its own that takes three steps."""
    command = [sys.executable, __file__, "--peak", name, json.dumps(shape)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(rounds: int, path: str | None, shapes: dict[str, dict[str, int]]) -> None:
    """Print the tables, and write JSON."""
    results = {}
    console = Console(width=100)
    for title, shape in shapes.items():
        steps = contestants(shape)
        found = medians(steps, rounds)
        reference = next(iter(found))
        table = Table("", "ms", f"ratio to {reference}", "peak memory (MiB)", title=title)
        for name, value in found.items():
            memory = peak(name, shape)
            results[f"{title}: {name}"] = {"ms": value, "ratio": value / found[reference], "peak_mib": memory}
            table.add_row(name, f"{value:.2f}", f"{value / found[reference]:.2f}", f"{memory:.0f}")
        console.print(table)
    if path:
        Path(path).write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")


def compare_backends(rounds: int, path: str | None, shapes: dict[str, dict[str, int]], backend: str) -> None:
    """Print how many times the CPU time of a backend NumPy takes, and write JSON."""
    table, results = Table("NumPy's time over that of the compiled loops", *shapes), {}
    for rule in RULES | MORE_RULES:
        row = []
        for title, shape in shapes.items():
            steps = {name: ours(shape, rule, name) for name in ("numpy", backend)}
            found = medians(steps, rounds, time.process_time)
            results[f"{title}: {rule}"] = found | {"ratio": found["numpy"] / found[backend]}
            row.append(f"{found['numpy'] / found[backend]:.2f}")
        table.add_row(rule, *row)
    Console(width=120).print(table)
    if path:
        Path(path).write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        shape = json.loads(sys.argv[3])
        step = OTHERS[sys.argv[2]](shape) if sys.argv[2] in OTHERS else ours(shape, sys.argv[2])
        for _ in range(3):
            step()
        print(peak_of_this_process())
    else:
        parser = benchmark_parser(__doc__)
        parser.add_argument("rounds", nargs="?", type=int, default=30)
        parser.add_argument("--backend", choices=["c"], help="compare it with NumPy, in the place of torch and JAX")
        given = parser.parse_args()
        shapes = dict([next(iter(SHAPES.items()))]) if given.smoke else SHAPES
        rounds = 1 if given.smoke else given.rounds
        if given.backend:
            compare_backends(rounds, given.json, shapes, given.backend)
        else:
            main(rounds, given.json, shapes)
