"""Bias and variance of the synthetic gradient against λ, γ and input noise, and what helps.

A frozen linear circuit on target reaching, with Gaussian noise on the input at every step. Several synthesisers learn
from the same task, each from its own trials; at the noise-free states their outputs g are compared with the true
gradient G (γ = 1), relative to ‖G‖²:

    bias² = ‖mean g − G‖² / ‖G‖²       variance = mean ‖g − mean g‖² / ‖G‖²

The paper states the limitation: at λ near 1 the targets are those of whole noisy trials, and have a high variance.
Written down before the run, at the largest noise and γ = 1: variance is larger at λ = 1 than at λ = 0, and bias²
smaller. And for what helps, at λ = 1: larger batches, and a learning rate that decays, each lower the variance.

summary.json
    noise=S.gamma=G.lam=L.bias2, .variance
    helps.WHAT.bias2, .variance         at the largest noise, γ = λ = 1
    claim.variance, .bias, .batches, .decay
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import track
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import analysis, plotting
from bpl_neuro.experiment import RunFolder, SimulationConfig
from bpl_neuro.train.loop import watched_steps


class Config(SimulationConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"repeats": 2, "batches": 40, "noises": [0.3], "lams": [0.0, 1.0], "gammas": [1.0], "units": 10}
    }

    noises: list[float] = [0.0, 0.1, 0.3]
    gammas: list[float] = [0.9, 1.0]
    lams: list[float] = [0.0, 0.5, 0.9, 1.0]
    repeats: int = 8
    batches: int = 1000
    batch_size: int = 10
    patterns: int = 8
    steps: int = 10
    units: int = 20
    radius: float = 0.95
    eta_synthesiser: float = 3e-3


class NoisyReaching(bpl.tasks.TargetReaching):
    """Target reaching with noise on the input; the test split has none."""

    noise = 0.0

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[bpl.Batch]:
        """See `Task.batches`."""
        for batch in super().batches(rng, size, split):
            if split == "train" and self.noise:
                x = batch.x + self.noise * rng.normal(size=batch.x.shape).astype(batch.x.dtype)
                batch = bpl.Batch(x, batch.y, batch.mask, batch.end)
            yield batch


def one(
    config: Config, noise: float, gamma: float, lam: float, batch_size: int | None = None, decay: bool = False
) -> dict[str, Any]:
    """Bias² and variance over repeats."""
    weights, task_seed = np.random.SeedSequence(config.seed).spawn(2)
    task = NoisyReaching(config.patterns, config.steps, seed=np.random.default_rng(task_seed))
    task.noise = noise
    rng = np.random.default_rng(weights)
    circuit = bpl.Circuit("linear", config.units, task.input_size, radius=config.radius, seed=rng)
    readout = bpl.Readout(circuit, task.output_size, task.loss, reduction="sum", seed=rng)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=gamma, lam=lam, trace="sweep")
    probe = next(task.batches(np.random.default_rng(0), config.patterns, "test"))
    outputs = []
    for repeat in range(config.repeats):
        rate = bpl.CosineDecay(config.eta_synthesiser, config.batches) if decay else config.eta_synthesiser
        trainer = bpl.Trainer(circuit, readout, rule, optimiser={"theta": bpl.Adam(rate)}, seed=repeat)
        trainer.fit(
            task, epochs=None, stop_at=config.batches,
            batch_size=batch_size or config.batch_size, validate=False, progress=False,
        )  # fmt: skip
        steps, _ = watched_steps(circuit, readout, rule, probe, trainer.theta)
        outputs.append(np.stack([step.signals["g"] for step in steps]))
    G, g = np.stack(analysis.true_later_gradient(steps)), np.stack(outputs)
    size = (G**2).sum()
    return {
        "bias2": ((g.mean(axis=0) - G) ** 2).sum() / size,
        "variance": ((g - g.mean(axis=0)) ** 2).sum() / len(g) / size,
    }


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    grid = [(noise, gamma, lam) for noise in config.noises for gamma in config.gammas for lam in config.lams]
    found = {
        key: folder.remember("noise={:g},gamma={:g},lam={:g}".format(*key), lambda key=key: one(config, *key))
        for key in track(grid, "bias and variance")
    }
    loudest, gamma, lam = max(config.noises), max(config.gammas), max(config.lams)
    helps = {
        "as above": {},
        "10 times the batch": {"batch_size": 10 * config.batch_size},
        "a learning rate that decays": {"decay": True},
    }
    helped = {
        what: folder.remember(f"helps,{k}", lambda keywords=keywords: one(config, loudest, gamma, lam, **keywords))
        for k, (what, keywords) in enumerate(helps.items())
    }
    shape = (len(config.noises), len(config.gammas), len(config.lams))
    dims = ("noise", "gamma", "lam")
    data = {
        name: (dims, np.array([float(found[k][name]) for k in grid]).reshape(shape)) for name in ("bias2", "variance")
    }
    record = xr.Dataset(data, {"noise": config.noises, "gamma": config.gammas, "lam": config.lams})
    folder.save_recording(record)
    table = Table("noise", "γ", *(f"λ = {lam:g}: bias², variance" for lam in config.lams))
    for noise in config.noises:
        for g in config.gammas:
            cells = []
            for lam_ in config.lams:
                one_ = found[noise, g, lam_]
                figures = {key: float(one_[key]) for key in ("bias2", "variance")}
                folder.add_summary({f"noise={noise:g}.gamma={g:g}.lam={lam_:g}.{k}": v for k, v in figures.items()})
                cells.append(f"{figures['bias2']:.2g}, {figures['variance']:.2g}")
            table.add_row(f"{noise:g}", f"{g:g}", *cells)
    second = Table(f"noise {loudest:g}, γ = {gamma:g}, λ = {lam:g}", "bias²", "variance")
    for what, figures in helped.items():
        folder.add_summary({f"helps.{what}.{key}": float(value) for key, value in figures.items()})
        second.add_row(what, f"{float(figures['bias2']):.2g}", f"{float(figures['variance']):.2g}")
    low, high = found[loudest, gamma, min(config.lams)], found[loudest, gamma, lam]
    plain, batches, decay = helped.values()
    claims = {
        "claim.variance": bool(high["variance"] > low["variance"]),
        "claim.bias": bool(high["bias2"] < low["bias2"]),
        "claim.batches": bool(batches["variance"] < plain["variance"]),
        "claim.decay": bool(decay["variance"] < plain["variance"]),
    }
    folder.add_summary(claims)
    console = Console(width=130)
    console.print(table)
    console.print(second)
    for key, holds in claims.items():
        console.print(f"{key}: {'yes' if holds else 'no'}")
    fig, axes = plotting.figure(1, 2, figsize=(10, 3.8))
    for ax, name, title in zip(axes[0], ("bias2", "variance"), ("bias²", "variance"), strict=True):
        for k, noise in enumerate(config.noises):
            for g, style in zip(config.gammas, ("--", "-") if len(config.gammas) > 1 else ("-",), strict=False):
                line = np.maximum(record[name].sel(noise=noise, gamma=g).values, 1e-12)
                label = f"noise {noise:g}, γ = {g:g}"
                ax.semilogy(config.lams, line, "o" + style, ms=4, color=plotting.COLOURS[k], label=label)
        ax.set(xlabel="λ", ylabel=f"{title} / ‖G‖²")
        plotting.readable_log(ax.yaxis)
    axes[0, 1].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    folder.save_figure(fig, "bias-variance")
