"""Target reaching: does the synthetic gradient point along the true one, and how much does λ help? (paper, Figs. 2–3)

A linear rate circuit sees a pattern at step 1 and must be at a target point at the last step. First the circuit is
frozen and only the synthesiser learns; then, from the same start, circuit, readout and synthesiser learn together.

summary.json
    alignment.lam=L.step=t.mean      cosine of g + c with the true gradient, mean over seeds (circuit frozen)
    alignment.lam=L.median           over seeds of the mean over steps
    alignment.lam=L.low, .high       95 % bootstrap interval of that median
    optimum.step=t.mean              the same cosine for the least-squares fit of the true gradient
    optimum.mean                     mean over steps and seeds
    fraction_of_optimum.lam=L        mean alignment over mean optimum
    zero_vectors.lam=L               trials and steps left out because a vector was zero
    learning.lam=L.loss.first, .last loss of the learning circuit in its first and last epoch, median over seeds
    learning.lam=L.alignment         cosine while it learns, mean over steps, seeds and epochs
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import track
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import analysis, plotting
from bpl_neuro.experiment import RunFolder, SimulationConfig


class Config(SimulationConfig):
    """Settings; the defaults are the paper's protocol."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"lams": [1.0], "seeds": 1, "batches": 3000, "radius": 0.95, "eta_synthesiser": 1e-3,
                  "learning_epochs": 3},
        "demo": {"seeds": 3},
        "eight": {"patterns": 8, "seeds": 3, "lams": [0.0, 1.0], "batches": 20000, "batch_size": 16, "radius": 0.95,
                  "eta_synthesiser": 1e-3, "learning_epochs": 1},
    }  # fmt: skip

    lams: list[float] = [0.0, 0.5, 0.9, 1.0]
    seeds: int = 20
    batches: int = 1000
    batch_size: int = 10
    learning_epochs: int = 10
    batches_per_epoch: int = 100
    patterns: int = 1
    steps: int = 10
    line: bool = False
    units: int = 30
    radius: float | None = None
    gamma: float = 1.0
    sg_weight: float = 1.0
    eta_synthesiser: float = 1e-4
    eta_circuit: float = 1e-4
    model: str = "linear"


def build(
    config: Config, seed: int, lam: float, trace: str = "sweep"
) -> tuple[bpl.tasks.TargetReaching, Any, Any, Any]:
    """Task, circuit, readout and rule of one seed; weights, data and task have streams of their own."""
    weights, task_seed = np.random.SeedSequence([config.seed, seed]).spawn(2)
    task = bpl.tasks.TargetReaching(
        patterns=config.patterns, steps=config.steps, line=config.line, seed=np.random.default_rng(task_seed),
        batches_per_epoch=config.batches_per_epoch,
    )  # fmt: skip
    rng = np.random.default_rng(weights)
    model = bpl.Model.load(config.model)
    if len(model.populations) > 1:
        raise bpl.ValidationError(
            f"`model` must have one population here, whose size is `units`; {config.model} has "
            f"{', '.join(model.populations)}"
        )
    circuit = bpl.Circuit(model, config.units, task.input_size, radius=config.radius, seed=rng)
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=rng)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=config.gamma, lam=lam, sg_weight=config.sg_weight, trace=trace)
    return task, circuit, readout, rule


def frozen(config: Config, seed: int, lam: float) -> tuple[xr.Dataset, Any]:
    """Alignment after the synthesiser alone has learned, and θ as it was after the first tenth of the batches."""
    task, circuit, readout, rule = build(config, seed, lam)
    trainer = bpl.Trainer(circuit, readout, rule, optimiser={"theta": bpl.Adam(config.eta_synthesiser)}, seed=seed)
    learn = {"epochs": None, "batch_size": config.batch_size, "validate": False, "progress": False}
    early = trainer.fit(task, stop_at=max(1, config.batches // 10), **learn).theta
    trainer.fit(task, stop_at=config.batches, **learn)
    return analysis.alignment(circuit, readout, rule, probe(config, task), trainer.theta), early


def one(config: Config, seed: int, lam: float) -> dict[str, Any]:
    """Both parts for one seed and λ."""
    aligned, early = frozen(config, seed, lam)
    losses, cosines = learning(config, seed, lam)
    arrays = {name: aligned[name].values for name in ("step", "cosine", "optimum", "zero_vectors")}
    return arrays | {"early": early, "loss": losses, "learning_cosine": cosines}


def learning(config: Config, seed: int, lam: float) -> tuple[list[float], list[float]]:
    """Loss in, and alignment after, each epoch when everything learns."""
    task, circuit, readout, rule = build(config, seed, lam)
    optimiser = {
        "psi": bpl.Adam(config.eta_circuit), "phi": bpl.Adam(config.eta_circuit),
        "theta": bpl.Adam(config.eta_synthesiser),
    }  # fmt: skip
    trainer = bpl.Trainer(circuit, readout, rule, optimiser=optimiser, seed=seed)
    cosines = []
    for epoch in range(1, config.learning_epochs + 1):
        trainer.fit(task, epochs=epoch, batch_size=config.batch_size, validate=False, progress=False)
        learned = (trainer.trained_circuit(), trainer.trained_readout())
        aligned = analysis.alignment(*learned, rule, probe(config, task), trainer.theta)
        cosines.append(float(aligned["cosine"].mean()))
    return [entry["train_loss"] for entry in trainer.history], cosines


def probe(config: Config, task: bpl.tasks.TargetReaching) -> bpl.Batch:
    """Every pattern once."""
    return next(task.batches(np.random.default_rng(0), config.patterns, "test"))


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    jobs = [(lam, seed) for lam in config.lams for seed in range(config.seeds)]
    found = {
        (lam, seed): folder.remember(f"lam={lam:g},seed={seed}", lambda lam=lam, seed=seed: one(config, seed, lam))
        for lam, seed in track(jobs, "target reaching")
    }
    synapse = trace_of_one_synapse(config, found[config.lams[-1], 0]["early"], config.lams[-1])
    step = found[jobs[0]]["step"]
    cosine, optimum, zeros, loss, learned = (
        np.stack([found[job][name] for job in jobs]).reshape(len(config.lams), config.seeds, -1)
        for name in ("cosine", "optimum", "zero_vectors", "loss", "learning_cosine")
    )
    record = xr.Dataset(
        {
            "alignment": (("lam", "seed", "step"), cosine),
            "optimum": (("seed", "step"), optimum[0]),
            "zero_vectors": (("lam", "seed", "step"), zeros),
            "loss": (("lam", "seed", "epoch"), loss),
            "learning_alignment": (("lam", "seed", "epoch"), learned),
            **{f"synapse_{name}": ("trial_step", v.values) for name, v in synapse.data_vars.items()},
        },
        {"lam": config.lams, "seed": np.arange(config.seeds), "step": step, "epoch": np.arange(loss.shape[2]) + 1,
         "trial_step": synapse.step.values},
        {"description": "cosine of g + c with the true gradient; loss is per trial"},
    )  # fmt: skip
    folder.save_recording(record)
    folder.add_summary(summarise(config, record))
    draw(config, folder, record, synapse)
    show(config, folder)


def trace_of_one_synapse(config: Config, theta: Any, lam: float) -> xr.Dataset:
    """The trace of the synapse that would change most, at a θ early in learning, when δ is not yet 0."""
    task, circuit, readout, rule = build(config, 0, lam, trace="full")
    batch = next(iter(task.batches(np.random.default_rng(0), 1, "test")))
    updates = rule.synthesiser.weights(bpl.batch_updates(circuit, readout, rule, batch, theta).gradients["theta"])
    a, j = np.unravel_index(np.abs(updates[:, : circuit.n]).argmax(), (circuit.n, circuit.n))
    return analysis.synapse_trace(circuit, readout, rule, batch, theta, (int(a), int(j)))


def summarise(config: Config, record: xr.Dataset) -> dict[str, float]:
    """The flat figures; the bootstrap has its own seed."""
    summary: dict[str, float] = {}
    rng = np.random.default_rng(config.seed)
    best = record.optimum.mean("seed")
    for t in record.step.values:
        summary[f"optimum.step={t}.mean"] = float(best.sel(step=t))
    summary["optimum.mean"] = float(record.optimum.mean())
    for lam in config.lams:
        values = record.alignment.sel(lam=lam)
        for t in record.step.values:
            summary[f"alignment.lam={lam:g}.step={t}.mean"] = float(values.sel(step=t).mean())
        per_seed = values.mean("step").values
        medians = np.median(rng.choice(per_seed, (2000, len(per_seed))), axis=1)
        low, high = np.percentile(medians, [2.5, 97.5])
        summary |= {
            f"alignment.lam={lam:g}.median": float(np.median(per_seed)),
            f"alignment.lam={lam:g}.min": float(values.min()),
            f"alignment.lam={lam:g}.low": float(low),
            f"alignment.lam={lam:g}.high": float(high),
            f"fraction_of_optimum.lam={lam:g}": float(per_seed.mean() / record.optimum.mean()),
            f"zero_vectors.lam={lam:g}": int(record.zero_vectors.sel(lam=lam).sum()),
            f"learning.lam={lam:g}.loss.first": float(record.loss.sel(lam=lam)[:, 0].median()),
            f"learning.lam={lam:g}.loss.last": float(record.loss.sel(lam=lam)[:, -1].median()),
            f"learning.lam={lam:g}.alignment": float(record.learning_alignment.sel(lam=lam).mean()),
        }
    return summary


def draw(config: Config, folder: RunFolder, record: xr.Dataset, synapse: xr.Dataset) -> None:
    """Three figures."""
    label = {lam: f"λ = {lam:g}" for lam in config.lams}
    fig, axes = plotting.figure(figsize=(8, 4.2))
    plotting.plot_alignment(
        axes[0, 0], record.step.values, {label[lam]: record.alignment.sel(lam=lam).values for lam in config.lams},
        record.optimum.values,
    )  # fmt: skip
    axes[0, 0].set_title(f"Circuit frozen, {config.batches} batches, {config.seeds} seed(s)", loc="left")
    folder.save_figure(fig, "alignment")
    fig, axes = plotting.figure(1, 2, figsize=(10, 4))
    panels = {"loss": "loss per trial", "learning_alignment": "cosine, mean over steps"}
    for ax, (name, ylabel) in zip(axes[0], panels.items(), strict=True):
        curves = {label[lam]: record[name].sel(lam=lam).values for lam in config.lams}
        plotting.plot_learning(ax, record.epoch.values, curves, xlabel="epoch", ylabel=ylabel)
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_title("Circuit, readout and synthesiser learning", loc="left")
    folder.save_figure(fig, "learning")
    fig, axes = plotting.figure(5, 1, figsize=(7, 8))
    plotting.plot_synapse(axes[:, 0], synapse)
    folder.save_figure(fig, "trace")


def show(config: Config, folder: RunFolder) -> None:
    """The small table at the end."""
    table = Table(
        "λ",
        "cosine",
        "95 % interval",
        "of optimum",
        "loss learnt",
        "cosine then",
        title="medians over seeds; of optimum, cosine then (all epochs): means",
    )
    s = folder.summary
    for lam in config.lams:
        key, learning_key = f"alignment.lam={lam:g}", f"learning.lam={lam:g}"
        table.add_row(
            f"{lam:g}",
            f"{s[f'{key}.median']:.3f}",
            f"{s[f'{key}.low']:.3f}–{s[f'{key}.high']:.3f}",
            f"{s[f'fraction_of_optimum.lam={lam:g}']:.1%}",
            f"{s[f'{learning_key}.loss.last']:.1e}",
            f"{s[f'{learning_key}.alignment']:.3f}",
        )
    Console().print(table)
