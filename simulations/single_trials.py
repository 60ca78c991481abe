"""Single trials, one after another: a stream that never stops, in which everything moves at every step.

Target reaching in a linear circuit, with a loss at the end of each trial only: no batches to average over, no waiting
for a trial's end. RTRL and e-prop are the controls. A compatible synthesiser (BP(1), alone and in the residual form
beside e-prop; and BP(0) with local traces, speaking to e-prop's) is taught by recursive least squares, which here has
to be the average over trials: it forgets a hundredth with each trial. Rates, β₂ and f of a trial are shared out among
its steps: η/T, β₂^(1/T), f^(1/T), and β₁ = 0 for all.

Written down before the runs: the loss over the last tenth of the trials, median over seeds, is for BP(1) at most twice
RTRL's, and for BP(0) with local traces lower than e-prop's in every seed.

summary.json
    RULE.loss.median, .min, .max    over the last tenth of the trials; infinite (null) where a number stopped being
                                    finite
    claim.as_rtrl, .local_gain      whether what was written down came out
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import track
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import plotting
from bpl_neuro.experiment import RunFolder, SimulationConfig


def compatible(kind: type[bpl.BPLambda], **options: Any) -> Callable[[bpl.Circuit], bpl.Rule]:
    """BP(λ) with a compatible synthesiser."""
    return lambda circuit: kind(bpl.Synthesiser(circuit, target="current"), **options)


RULES: dict[str, Callable[[bpl.Circuit], bpl.Rule]] = {
    "RTRL": bpl.rules.RTRL,
    "e-prop": bpl.rules.EProp,
    "compatible BP(1)": compatible(bpl.BPLambda, trace="full"),
    "compatible BP(1) + e-prop": compatible(bpl.BPLambdaEProp, residual=True, trace="full"),
    "compatible BP(0), local, + e-prop": compatible(bpl.BPLambdaEProp, lam=0, trace="local"),
}


class Config(SimulationConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"trials": 60, "seeds": 1, "units": 8, "steps": 5},
    }

    model: str = "linear"
    units: int = 30
    patterns: int = 4
    steps: int = 10
    trials: int = 3000
    seeds: int = 5
    eta: float = 1e-3
    forget: float = 0.99
    ridge: float = 1e-3
    radius: float = 0.95


def one(config: Config, rule: str, seed: int) -> np.ndarray:
    """The loss of every trial; infinite from a divergence on."""
    weights, trials = np.random.SeedSequence([config.seed, seed]).spawn(2)
    rng, T = np.random.default_rng(weights), config.steps
    task = bpl.tasks.TargetReaching(config.patterns, T, batches_per_epoch=config.trials, seed=rng)
    circuit = bpl.Circuit(config.model, config.units, task.input_size, radius=config.radius, seed=rng)
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=rng)
    adam = bpl.Adam(config.eta / T, beta1=0.0, beta2=0.98 ** (1 / T))
    optimiser = {"psi": adam, "phi": adam, "theta": bpl.RLS(config.forget ** (1 / T), config.ridge)}
    learner = bpl.Learner(circuit, readout, RULES[rule](circuit), optimiser, bpl.Schedule(1))
    state, losses = learner.initial(), np.full(config.trials, np.inf)
    for k, trial in enumerate(task.batches(np.random.default_rng(trials), 1)):
        try:
            piece = bpl.Batch(trial.x, trial.y, trial.mask, trial.end, stream=True)
            state, outcome = bpl.run_batch(learner, state, piece)
        except bpl.DivergenceError:
            break
        losses[k] = outcome.loss
    return losses


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    one(config.model_copy(update={"trials": 1}), "e-prop", 0)  # what is wrong with the settings is an error now
    jobs = [(rule, seed) for rule in RULES for seed in range(config.seeds)]
    found = {
        (rule, seed): folder.remember(
            f"{list(RULES).index(rule)},seed={seed}", lambda rule=rule, seed=seed: {"loss": one(config, rule, seed)}
        )["loss"]
        for rule, seed in track(jobs, "single trials")
    }
    record = xr.Dataset(
        {"loss": (("rule", "seed", "trial"), [[found[rule, s] for s in range(config.seeds)] for rule in RULES])},
        {"rule": list(RULES), "seed": np.arange(config.seeds), "trial": np.arange(config.trials) + 1},
    )
    folder.save_recording(record)
    last = record.loss.isel(trial=slice(-max(config.trials // 10, 1), None)).mean("trial")
    table = Table("rule, at every step", "loss over the last tenth, median", "range")
    for rule in RULES:
        values = last.sel(rule=rule).values
        figures = {"median": np.median(values), "min": values.min(), "max": values.max()}
        folder.add_summary({f"{rule}.loss.{key}": float(value) for key, value in figures.items()})
        table.add_row(rule, f"{figures['median']:.2g}", f"{figures['min']:.2g}–{figures['max']:.2g}")
    median, (local, eprop) = last.median("seed"), (last.sel(rule=r).values for r in (list(RULES)[-1], "e-prop"))
    claims = {
        "claim.as_rtrl": bool(median.sel(rule="compatible BP(1)") <= 2 * median.sel(rule="RTRL")),
        "claim.local_gain": bool((local < eprop).all()),
    }
    folder.add_summary(claims)
    console = Console()
    console.print(table)
    for claim, holds in claims.items():
        console.print(f"{claim}: {'yes' if holds else 'no'}")
    width = max(config.trials // 60, 1)
    fig, axes = plotting.figure(figsize=(9, 4))
    for colour, rule in zip(plotting.COLOURS, RULES, strict=False):
        rows = [np.convolve(row, np.ones(width) / width, "valid") for row in record.loss.sel(rule=rule).values]
        axes[0, 0].plot(np.arange(len(rows[0])) + width, np.median(rows, axis=0), color=colour, label=rule)
    axes[0, 0].set(xlabel="trial", ylabel=f"loss, mean of {width} trials (median over seeds)", yscale="log")
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    folder.save_figure(fig, "learning")
