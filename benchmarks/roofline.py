"""Bytes and operations of each kernel in a step, and the least time on an H100: python benchmarks/roofline.py.

Counted, not measured: each array once (twice where it is read and written), operations from the expressions that the
kernels are generated from, a function call as one. The bound is the larger of bytes over the memory's rate and
operations over the processor's (H100 SXM5, NVIDIA's data sheet). Arrays of a few MiB stay in its 50 MiB of L2, so where
the bytes are fewer than that the bound from memory is not a strict one; and a launch alone takes some 3 µs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from kernels import Collecting
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro.model.codegen import reduced
from bpl_neuro.rules.traces.local import LocalTrace

BYTES_PER_SECOND = 3.35e12
OPERATIONS_PER_SECOND = 67e12  # float32, without tensor cores

SHAPES = {
    "row MNIST: LSTM of 30, batch 50": ("lstm", 30, 28, 50, ("full", "local")),
    "copy–repeat: LSTM of 100, batch 100": ("lstm", 100, 10, 100, ("full", "local")),
    "a large circuit: 4096 leaky tanh neurons, one trial": ("leaky_tanh", 4096, 10, 1, ("local",)),
}


@dataclass
class Load:
    """What one launch moves and computes."""

    bytes: float
    operations: float

    @property
    def seconds(self) -> float:
        """The least time."""
        return max(self.bytes / BYTES_PER_SECOND, self.operations / OPERATIONS_PER_SECOND)


class Counting(Collecting):
    """Counts what each launch would move and compute."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: dict[str, Load] = {}
        self.counts: dict[str, int] = {}

    def elementwise(self, name, arguments, results, *, first=None):
        shared, wanted, _ = reduced(list(results)[:first])
        self.counts[f"map_{name}"] = sum(int(e.count_ops()) for e in (*(e for _, e in shared), *wanted))
        return super().elementwise(name, arguments, results, first=first)

    def launch(self, name, source, like, size, arguments):
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        moved = sum(unique(a) for a in arrays)
        if name == "add_outer" or (name == "local_pass" and not self.note):
            moved += unique(arrays[0])  # read and written
        operations = size * self.counts.get(name, {"add_outer": 2, "adam": 13}.get(name, 0))
        if name == "local_pass":
            S, B, N, P, m = like.shape
            operations = B * N * m * P * (2 * S if self.note else 2 * source.count("const REAL f") + 2)
        self.loads.setdefault(f"{name}{self.note}", Load(moved, operations))


def unique(array: np.ndarray) -> float:
    """Bytes of an array, a broadcast axis counted once."""
    return array.itemsize * float(np.prod([n for n, s in zip(array.shape, array.strides, strict=True) if s or n == 1]))


def product(rows: int, inner: int, columns: int, times: int = 1) -> Load:
    """A matrix product in float32, or several."""
    return Load(4.0 * times * (rows * inner + inner * columns + rows * columns), 2.0 * times * rows * inner * columns)


def loads(model: str, N: int, K: int, B: int, traces: tuple[str, ...]) -> dict[str, Load]:
    """Every kernel and matrix product of a step of BP(λ)."""
    backend = Counting()
    circuit = bpl.Circuit(model, N, K, dtype="float32", backend=backend)
    synthesiser, n, P = bpl.Synthesiser(circuit), circuit.n, circuit.populations[0].P
    theta, delta = synthesiser.initial_theta(), np.zeros((B, n), np.float32)
    with np.errstate(all="ignore"):
        step = circuit.step(circuit.initial_state(B), np.zeros((B, K), np.float32))
        step.vjp(delta)
        response = synthesiser(synthesiser.z(step), theta)
        local = LocalTrace(synthesiser, 0.9)
        local.collect(local.step(local.init(B, 1), step, response), delta)
    backend.adam(theta, theta, theta, theta, rate=0.1, beta1=0.9, beta2=0.9, correction2=0.5, epsilon=1e-9)
    found = {
        "product: W r": product(B, N, P * N),
        "product: (v C) W": product(B, P * N, N),
        "product: θ z": product(B, synthesiser.m, n),
        "product: (v C)ᵀ r, the gradient of W": product(P * N, B, N),
        **{name: load for name, load in backend.loads.items() if name != "map_step"},
    }
    if "full" in traces:
        width = synthesiser.layout.size
        found["product: J e (full)"] = product(n, n, width, B)
        found["product: δ e (full)"] = product(1, B * n, width)
    return found


def main() -> None:
    """Print a table for each shape."""
    console = Console(width=110)
    for title, (model, N, K, B, traces) in SHAPES.items():
        table = Table("kernel", "MiB", "10⁶ operations", "operations a byte", "bound by", "at least (µs)", title=title)
        for name, load in loads(model, N, K, B, traces).items():
            memory = load.bytes / BYTES_PER_SECOND >= load.operations / OPERATIONS_PER_SECOND
            bound = "memory" if memory else "arithmetic"
            table.add_row(
                name, f"{load.bytes / 2**20:.3g}", f"{load.operations / 1e6:.3g}",
                f"{load.operations / load.bytes:.3g}", bound, f"{1e6 * load.seconds:.3g}",
            )  # fmt: skip
        console.print(table)


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(__doc__)
    main()
