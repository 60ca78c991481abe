"""Copy–repeat with its curriculum: an LSTM sees a pattern and a number, and says the pattern that many times.

A batch whose loss falls under 0.15 bits per output bit makes the task longer: one more repeat while there are fewer
repeats than pattern steps, else one more pattern step. Everything else is the paper's: LSTM of 100 units, batches of
100, γ = 0.9, κ = 1, Adam 1e-3 for circuit and readout and 1e-5 for the synthesiser.

Written down before the run: the longest length solved is larger with λ = 1 than with λ = 0, in every seed.

summary.json
    lam=L.solved.median, .min, .max   longest pattern solved, over seeds
    lam=L.steps.median                steps of the trials reached
    claim.longer_with_lambda          whether what was written down came out
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import track
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import plotting
from bpl_neuro.experiment import RunFolder, TrainingConfig


class Config(TrainingConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"batches": 400, "units": 20, "bits": 2, "batch_size": 20, "seeds": 1, "eta": 1e-2, "threshold": 0.5}
    }

    model: str = "lstm"
    units: int = 100
    bits: int = 8
    batches: int = 5000
    batch_size: int = 100
    seeds: int = 2
    lams: list[float] = [0.0, 1.0]
    gamma: float = 0.9
    sg_weight: float = 1.0
    eta: float = 1e-3
    eta_synthesiser: float = 1e-5
    threshold: float = 0.15
    dtype: str = "float32"


def one(config: Config, folder: RunFolder, lam: float, seed: int) -> dict[str, Any]:
    """Loss, longest length solved and steps of the trials after every batch."""
    weights, trials = np.random.SeedSequence([config.seed, seed]).spawn(2)
    rng = np.random.default_rng(weights)
    task = bpl.tasks.CopyRepeat(bits=config.bits, threshold=config.threshold)
    circuit = bpl.Circuit(
        config.model, config.units, task.input_size, seed=rng, dtype=config.dtype, backend=config.backend
    )
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=rng)
    rule = bpl.BPLambda(
        bpl.Synthesiser(circuit), gamma=config.gamma, lam=lam, sg_weight=config.sg_weight, trace="sweep"
    )
    optimiser = {"psi": bpl.Adam(config.eta), "phi": bpl.Adam(config.eta), "theta": bpl.Adam(config.eta_synthesiser)}
    trainer = bpl.Trainer(circuit, readout, rule, optimiser=optimiser, seed=int(trials.generate_state(1)[0]))
    task_before = task.state()
    folder.fit(
        trainer, task, f"lam={lam:g},seed={seed}", epochs=None,
        batch_size=config.batch_size, stop_at=config.batches, validate=False, progress=False, **config.recorded,
    )  # fmt: skip
    task.restore(task_before)  # the curriculum follows from the losses alone
    rows = []
    for loss in trainer.losses:
        task.advance(loss)
        rows.append((task.solved, task.steps))
    solved, steps = np.array(rows).T
    return {"loss": np.array(trainer.losses), "solved": solved, "steps": steps}


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    jobs = [(lam, seed) for lam in config.lams for seed in range(config.seeds)]
    found = {
        (lam, seed): folder.remember(
            f"result,lam={lam:g},seed={seed}", lambda lam=lam, seed=seed: one(config, folder, lam, seed)
        )
        for lam, seed in track(jobs, "copy–repeat")
    }
    dims = ("lam", "seed", "batch")
    data = {
        key: (dims, np.array([[found[lam, seed][key] for seed in range(config.seeds)] for lam in config.lams]))
        for key in ("loss", "solved", "steps")
    }
    coords = {"lam": config.lams, "seed": np.arange(config.seeds), "batch": np.arange(config.batches) + 1}
    record = xr.Dataset(data, coords)
    record["loss"].attrs["units"] = "nat per trial"
    folder.save_recording(record)
    final = record.isel(batch=-1)
    table = Table("λ", "longest length solved, median", "range", "steps of a trial then")
    for lam in config.lams:
        solved, steps = final["solved"].sel(lam=lam), final["steps"].sel(lam=lam)
        folder.add_summary(
            {
                f"lam={lam:g}.solved.median": float(solved.median()),
                f"lam={lam:g}.solved.min": int(solved.min()),
                f"lam={lam:g}.solved.max": int(solved.max()),
                f"lam={lam:g}.steps.median": float(steps.median()),
            }
        )
        table.add_row(
            f"{lam:g}", f"{float(solved.median()):g}", f"{int(solved.min())}–{int(solved.max())}",
            f"{float(steps.median()):g}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    if {0.0, 1.0} <= set(config.lams):
        holds = bool((final["solved"].sel(lam=1.0) > final["solved"].sel(lam=0.0)).all())
        folder.add_summary({"claim.longer_with_lambda": holds})
        console.print(f"claim.longer_with_lambda: {'yes' if holds else 'no'}")
    fig, axes = plotting.figure(figsize=(7, 4))
    curves = {f"λ = {lam:g}": record["steps"].sel(lam=lam).values for lam in config.lams}
    for colour, (label, rows) in zip(plotting.COLOURS, curves.items(), strict=False):
        for k, row in enumerate(rows):
            axes[0, 0].plot(record["batch"], row, color=colour, lw=1, label=label if k == 0 else None)
    axes[0, 0].set(xlabel="batch", ylabel="steps of a trial")
    axes[0, 0].legend(frameon=False)
    axes[0, 0].set_title("How far the curriculum came, one line a seed", loc="left")
    folder.save_figure(fig, "curriculum")
