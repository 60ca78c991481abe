"""Copy–repeat with several rules, each to the end: how far a curriculum comes that grows with every length passed.

The LSTM of 100 units and the curriculum of `copy-repeat`. A run goes on until its curriculum has not advanced for
`patience` batches, or to `batches` in all. Lengths are given as the steps of a trial, (R + 1)·N + 3 for a pattern of N
steps repeated R times, with N and R beside them: "33 (N = 5, R = 5)" is the last length that was reached.

Every training is a job in a process of its own, ``--jobs`` at a time; killed, the run goes on with ``--resume`` from
each job's last checkpoint.

summary.json
    LABEL.seed=S.steps, .length, .repeats     the longest trial that was reached, and its pattern and repeats
    LABEL.seed=S.batches_to_12                batches until trials of 12 steps were reached
    LABEL.seed=S.batches                      batches trained in all
jobs/*.json
    what each training found: every advance of its curriculum
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from pydantic import Field
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import plotting
from bpl_neuro.benchmark import read_record, run_jobs
from bpl_neuro.experiment import RunFolder, TrainingConfig
from bpl_neuro.simulations._row_mnist_labels import AveragedAndLate
from bpl_neuro.storage import atomic_write


@dataclass(frozen=True)
class Label:
    """How a rule is trained: its title, circuit → rule, and circuit's and synthesiser's optimisers."""

    title: str
    make: Callable[[bpl.Circuit], bpl.Rule]
    psi: Any
    theta: Any = None


def paper(kind: type[bpl.BPLambda], **options: Any) -> Callable[[bpl.Circuit], bpl.Rule]:
    """The paper's class of synthesiser."""
    return lambda circuit: kind(bpl.Synthesiser(circuit), trace="sweep", **options)


def compatible(kind: type[bpl.BPLambda], **options: Any) -> Callable[[bpl.Circuit], bpl.Rule]:
    """A synthesiser that is compatible with the circuit."""
    return lambda circuit: kind(bpl.Synthesiser(circuit, target="current"), trace="sweep", **options)


ADAM, SLOW = bpl.Adam(1e-3), bpl.Adam(1e-5)
RLS = bpl.RLS(0.9, 1e-3)
LABELS = {
    "bptt": Label("BPTT", bpl.rules.BPTT, ADAM),
    "bptt-2e-3": Label("BPTT, η 2e-3", bpl.rules.BPTT, bpl.Adam(2e-3)),
    "bptt-late": Label(
        "BPTT, averaged and one batch late", bpl.rules.BPTT, AveragedAndLate(bpl.Adam(1e-3, beta1=0.0))
    ),
    "compatible-1": Label("compatible BP(1)", compatible(bpl.BPLambda), ADAM, RLS),
    "compatible-1-guarded": Label(
        "compatible BP(1), bounded", compatible(bpl.BPLambda), bpl.Adam(1e-3, max_step=2.0), bpl.RLS(0.9, 1e-3, 3.0)
    ),
    "compatible-1-eprop": Label(
        "compatible BP(1) + e-prop", compatible(bpl.BPLambdaEProp, residual=True), ADAM, RLS
    ),
    "compatible-1-f.8": Label("compatible BP(1), f .8", compatible(bpl.BPLambda), ADAM, bpl.RLS(0.8, 1e-3)),
    "compatible-1-ridge1e-2": Label("compatible BP(1), ρ 1e-2", compatible(bpl.BPLambda), ADAM, bpl.RLS(0.9, 1e-2)),
    "compatible-1-2e-3": Label("compatible BP(1), η 2e-3", compatible(bpl.BPLambda), bpl.Adam(2e-3), RLS),
    "compatible-.9-eprop": Label(
        "compatible BP(.9) + e-prop", compatible(bpl.BPLambdaEProp, lam=0.9, residual=True), ADAM, RLS
    ),
    "bp-1-eprop": Label(
        "BP(1) + e-prop, γ 1, κ .3", paper(bpl.BPLambdaEProp, sg_weight=0.3), ADAM, SLOW
    ),
    "bp-1": Label("BP(1), the paper's γ .9, κ 1", paper(bpl.BPLambda, gamma=0.9), ADAM, SLOW),
    "eprop": Label("e-prop", lambda circuit: bpl.rules.EProp(circuit, trace="sweep"), ADAM),
    "snap1": Label("SnAp-1", lambda circuit: bpl.rules.SnAp1(circuit, trace="sweep"), ADAM),
}  # fmt: skip


class Config(TrainingConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {
            "labels": ["bptt", "compatible-1"], "seeds": [0], "units": 12, "bits": 2, "batch_size": 10, "batches": 60,
            "patience": 30, "checkpoint_every": 20, "threshold": 1.1,
        }
    }  # fmt: skip

    labels: list[str] = list(LABELS)
    seeds: list[int] = [0, 1]
    units: int = 100
    bits: int = 8
    batches: int = 150_000
    patience: int = 20_000
    batch_size: int = 100
    threshold: float = 0.15
    dtype: str = "float32"
    checkpoint_every: int = 500
    jobs: int = Field(1, ge=1, exclude=True)  # a run may go on with more of them, or fewer


def build(config: Config, label: str, seed: int) -> tuple[bpl.tasks.CopyRepeat, bpl.Trainer]:
    """Task and trainer of a job; weights and patterns follow from the seed alone."""
    weights, trials = np.random.SeedSequence([config.seed, seed]).spawn(2)
    rng, how = np.random.default_rng(weights), LABELS[label]
    task = bpl.tasks.CopyRepeat(bits=config.bits, threshold=config.threshold)
    circuit = bpl.Circuit("lstm", config.units, task.input_size, seed=rng, dtype=config.dtype, backend=config.backend)
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=rng)
    optimiser = {"psi": how.psi, "phi": bpl.Adam(1e-3), "theta": how.theta}
    return task, bpl.Trainer(
        circuit, readout, how.make(circuit), optimiser=optimiser, seed=int(trials.generate_state(1)[0])
    )


def advances(config: Config, losses: list[float]) -> list[list[int]]:
    """[batches, steps of a trial, N, R] each time that the curriculum moved on, from the losses alone."""
    task, found = bpl.tasks.CopyRepeat(bits=config.bits, threshold=config.threshold), []
    for batch, loss in enumerate(losses, 1):
        if task.advance(loss):
            found.append([batch, task.steps, task.length, task.repeats])
    return found


def path_of(folder: RunFolder, label: str, seed: int) -> Any:
    """Where a job's record is."""
    return folder.path / "jobs" / f"{label},seed={seed}.json"


def about(config: Config, label: str, seed: int) -> dict[str, Any]:
    """What a job's record says of the job."""
    names = ("seed", "units", "bits", "batch_size", "threshold", "dtype")
    return {
        "benchmark": "copy_repeat", "settings": {name: getattr(config, name) for name in names}, "label": label,
        "title": LABELS[label].title, "place": list(LABELS).index(label), "seed": seed,
    }  # fmt: skip


def train(config: Config, folder: RunFolder, label: str, seed: int) -> None:
    """A job: train until the curriculum stands still; its record is kept on the way."""
    key, (task, trainer) = f"{label},seed={seed}", build(config, label, seed)
    if (checkpoint := folder.path / "checkpoint" / f"{key}.npz").exists():
        trainer.restore(checkpoint)
    before, begun, ms = trainer.batches, time.process_time(), None
    stopped = why_stopped(config, trainer)  # killed after its last checkpoint, and before its record said so
    while stopped is None:
        try:
            folder.fit(
                trainer, task, key, epochs=None, batch_size=config.batch_size, validate=False, progress=False,
                stop_at=min(config.batches, trainer.batches + config.checkpoint_every), **config.recorded,
            )  # fmt: skip
            stopped = why_stopped(config, trainer)
        except bpl.DivergenceError as error:
            stopped = f"{error.quantity} stopped being finite"
        ms = round(1e3 * (time.process_time() - begun) / max(trainer.batches - before, 1), 2)
        if stopped is None:
            write(config, folder, label, seed, trainer, None, ms)
    write(config, folder, label, seed, trainer, stopped, ms)


def why_stopped(config: Config, trainer: bpl.Trainer) -> str | None:
    """What ends a training that went well; None where it goes on."""
    moved = advances(config, trainer.losses)
    if trainer.batches >= config.batches:
        return f"{config.batches} batches"
    if trainer.batches - (moved[-1][0] if moved else 0) >= config.patience:
        return f"{config.patience} batches without advance"
    return None


def write(
    config: Config,
    folder: RunFolder,
    label: str,
    seed: int,
    trainer: bpl.Trainer,
    stopped: str | None,
    ms: float | None,
) -> None:
    """Keep a job's record."""
    found = {"batches": trainer.batches, "stopped": stopped, "ms_per_batch": ms}
    record = about(config, label, seed) | found | {"advances": advances(config, trainer.losses)}
    atomic_write(path_of(folder, label, seed), json.dumps(record, ensure_ascii=False) + "\n")


def read(config: Config, folder: RunFolder, label: str, seed: int) -> Mapping[str, Any] | None:
    """A job's record, or None before there was one."""
    if not (path := path_of(folder, label, seed)).exists():
        return None
    record, whose = read_record(path), about(config, label, seed)
    if other := [key for key in whose if record.get(key) != whose[key]]:
        raise bpl.ValidationError(f"{path}: is of another {other[0]}; take it away to have the job done again")
    return record


def run(config: Config, folder: RunFolder) -> None:
    """Train all, and write everything."""
    if unknown := [label for label in config.labels if label not in LABELS]:
        raise bpl.ValidationError(f"`labels` has {unknown[0]!r}; known: {', '.join(LABELS)}")
    pairs = [(label, seed) for seed in config.seeds for label in config.labels]
    left = [pair for pair in pairs if not (record := read(config, folder, *pair)) or record["stopped"] is None]
    run_jobs(train, {f"{label},seed={seed}": (config, folder, label, seed) for label, seed in left}, config.jobs,
             "copy–repeat")  # fmt: skip
    records = [record for pair in pairs if (record := read(config, folder, *pair))]
    table = Table("rule", "seed", "steps of a trial reached", "N", "R", "batches to 12 steps", "batches", "stopped by")
    fig, axes = plotting.figure(figsize=(8, 4.5))
    rows = []
    for record in records:
        _, steps, length, repeats = record["advances"][-1] if record["advances"] else (0, 5, 1, 1)
        to_12 = next((move[0] for move in record["advances"] if move[1] >= 12), None)
        figures = {"steps": steps, "length": length, "repeats": repeats, "batches": record["batches"]}
        figures |= {} if to_12 is None else {"batches_to_12": to_12}
        folder.add_summary({f"{record['label']}.seed={record['seed']}.{key}": v for key, v in figures.items()})
        table.add_row(
            record["title"], str(record["seed"]), str(steps), str(length), str(repeats),
            "–" if to_12 is None else str(to_12), str(record["batches"]), record["stopped"],
        )  # fmt: skip
        place = config.labels.index(record["label"])
        moves = [[0, 5], *([move[0], move[1]] for move in record["advances"]), [record["batches"], steps]]
        x, y = np.array(moves).T
        first = record["seed"] == config.seeds[0]
        axes[0, 0].step(
            x, y, where="post", lw=1, color=f"C{place % 10}", ls="-" if place < 10 else "--",
            label=record["title"] if first else None,
        )  # fmt: skip
        rows += [(place, record["seed"], *move) for move in record["advances"]]
    Console(width=140).print(table)
    axes[0, 0].set(xlabel="batch", ylabel="steps of a trial")
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 0].set_title("How far the curriculum came, one line a seed", loc="left")
    folder.save_figure(fig, "curriculum")
    columns = ("label", "seed", "batch", "steps", "length", "repeats")
    values = np.array(rows or np.empty((0, 6)), int).T
    folder.save_recording(xr.Dataset(
        {name: ("advance", column) for name, column in zip(columns, values, strict=True)},
        attrs={"labels": ", ".join(config.labels)},
    ))  # fmt: skip
