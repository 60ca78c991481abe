"""Theorem 1: online learning by BP(λ) approaches online λ-SG linearly as the learning rate goes to zero.

For each model and λ, θ after one batch of per-step updates of size α is compared with the forward view's, which redoes
all updates at every step with the targets known by then: ‖θ^BP − θ^SG‖ / ‖θ^SG − θ_0‖ against α, in float64.

Written down before the run: for λ > 0 the slope on log-log axes is 1 ± .1 for every model, and at λ = 0 the two are
equal to 1e-10.

summary.json
    MODEL.lam=L.slope                fitted slope, median over seeds
    MODEL.lam=L.difference           largest relative difference, at λ = 0
    claim.slope_one, claim.equality  whether what was written down came out
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import plotting, reference
from bpl_neuro.experiment import RunFolder, SimulationConfig


class Config(SimulationConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"seeds": 1, "lams": [0.0, 0.9]}}

    models: list[str] = ["linear", "leaky_tanh", "lstm"]
    lams: list[float] = [0.0, 0.5, 0.9, 1.0]
    gamma: float = 0.95
    alphas: list[float] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
    seeds: int = 5
    units: int = 4
    steps: int = 8
    trials: int = 3


def difference(config: Config, model: str, lam: float, seed: int) -> list[float]:
    """The relative difference at every α."""
    circuit = bpl.Circuit(model, config.units, 2, seed=seed)
    readout = bpl.Readout(circuit, 2, seed=seed + 1)
    rng = np.random.default_rng([config.seed, seed])
    shape = (config.trials, config.steps, 2)
    batch = bpl.Batch(rng.normal(size=shape), rng.normal(size=shape))
    synthesiser = bpl.Synthesiser(circuit)
    start = rng.normal(size=synthesiser.initial_theta().shape) * 0.3
    rule = bpl.BPLambda(synthesiser, gamma=config.gamma, lam=lam, trace="full")
    trajectory = reference.slow_run(circuit, readout, batch)
    found = []
    for alpha in config.alphas:
        expected = reference.online_lambda_sg(trajectory, synthesiser, start, config.gamma, lam, alpha)
        online = learned(circuit, readout, rule, batch, start, alpha)
        found.append(float(np.linalg.norm(online - expected) / np.linalg.norm(expected - start)))
    return found


def learned(
    circuit: bpl.Circuit, readout: bpl.Readout, rule: bpl.Rule, batch: bpl.Batch, theta: Any, alpha: float
) -> Any:
    """θ after one batch of per-step updates of size α, with Ψ frozen."""
    learner = bpl.Learner(circuit, readout, rule, {"theta": bpl.SGD(alpha)}, bpl.Schedule(every=1))
    state, _ = bpl.run_batch(learner, learner.initial(theta=theta), batch)
    return state.theta


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    seeds = [config.seed + 10 * k for k in range(config.seeds)]
    found = np.array(
        [[[difference(config, model, lam, seed) for seed in seeds] for lam in config.lams] for model in config.models]
    )
    coords = {"model": config.models, "lam": config.lams, "seed": seeds, "alpha": config.alphas}
    record = xr.Dataset({"difference": (("model", "lam", "seed", "alpha"), found)}, coords)
    folder.save_recording(record)
    table = Table("model", *(f"λ = {lam:g}" for lam in config.lams))
    straight, equal = True, True
    for i, model in enumerate(config.models):
        cells = []
        for j, lam in enumerate(config.lams):
            if lam == 0:
                largest = float(found[i, j].max())
                folder.add_summary({f"{model}.lam=0.difference": largest})
                equal &= largest < 1e-10
                cells.append(f"equal to {largest:.0e}")
                continue
            slopes = [np.polyfit(np.log(config.alphas), np.log(row), 1)[0] for row in found[i, j]]
            folder.add_summary({f"{model}.lam={lam:g}.slope": float(np.median(slopes))})
            straight &= bool((np.abs(np.array(slopes) - 1) < 0.1).all())
            cells.append(f"slope {np.median(slopes):.2f} ({min(slopes):.2f}–{max(slopes):.2f})")
        table.add_row(model, *cells)
    folder.add_summary({"claim.slope_one": straight, "claim.equality": equal})
    console = Console(width=120)
    console.print(table)
    console.print(f"claim.slope_one: {'yes' if straight else 'no'}\nclaim.equality: {'yes' if equal else 'no'}")
    fig, axes = plotting.figure(1, len(config.models), figsize=(4 * len(config.models), 3.6))
    for i, model in enumerate(config.models):
        ax = axes[0, i]
        for j, lam in enumerate(config.lams):
            shown = np.maximum(np.median(found[i, j], axis=0), 1e-17)
            ax.loglog(config.alphas, shown, "o-", ms=4, color=plotting.COLOURS[j], label=f"λ = {lam:g}")
        ax.set(xlabel="learning rate α", title=model)
    axes[0, 0].set_ylabel("difference to online λ-SG,\nrelative to what was learned")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    folder.save_figure(fig, "theorem1")
