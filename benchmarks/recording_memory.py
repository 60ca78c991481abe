"""Peak memory against the length of a recorded run: python benchmarks/recording_memory.py [batches …].

Each run is a process of its own; its peak is what the operating system says. Beside it the same run, not recorded.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from memory import peak_of_this_process
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl


def one(batches: int, folder: str | None) -> None:
    """Train so many batches, recording if there is a folder, and print the peak in MiB."""
    task = bpl.tasks.TargetReaching(patterns=2, steps=20, batches_per_epoch=100)
    circuit = bpl.Circuit("leaky_tanh", 30, task.input_size, seed=0, dtype="float32")
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), lam=0.9, trace="local")
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, task.output_size, seed=1), rule, schedule="step")
    common = {"epochs": None, "batch_size": 20, "stop_at": batches, "validate": False, "progress": False}
    if folder:
        with bpl.Recorder(trainer, Path(folder) / "r.zarr", ["state", "g", "delta", "theta", "loss"]) as recorder:
            trainer.fit(task, recorder=recorder, **common)
    else:
        trainer.fit(task, **common)
    print(peak_of_this_process())


def peak(batches: int, record: bool) -> tuple[float, float]:
    """Peak memory and size on disk, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", str(batches), *([folder] if record else [])]
        found = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return found, sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 2**20


def main(lengths: list[int]) -> None:
    """Print the table."""
    table = Table("batches", "recorded: peak memory (MiB)", "on disk (MiB)", "not recorded: peak memory (MiB)")
    for batches in lengths:
        (recorded, disk), (plain, _) = peak(batches, True), peak(batches, False)
        table.add_row(str(batches), f"{recorded:.0f}", f"{disk:.0f}", f"{plain:.0f}")
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
    else:
        main([int(arg) for arg in sys.argv[1:]] or [100, 400, 1600, 6400])
