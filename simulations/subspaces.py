"""Low-dimensional synthesisers: alignment and cost when the error is predicted in d dimensions only.

A frozen linear circuit on target reaching. Synthesisers that predict in a random subspace, in that of the principal
components of the errors seen in some first trials, or in one that they learn themselves, learn from the same trials by
BP(λ): with the reduced trace (d·|θ| numbers a trial) and with the exact one (n·|θ|), where a subspace is fixed.

Written down before the run: at every d < n the principal components align better than a random subspace.

summary.json
    d=D.KIND                   mean cosine of g + c with the true gradient, median over seeds
    d=D.KIND.optimum           the least-squares optimum within the subspace
    d=D.reduced.numbers, .full.numbers, .reduced.operations, .full.operations
                               of the trace, per trial: what is kept, and multiplications per step
    claim.principal            whether what was written down came out
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
from bpl_neuro.train.loop import watched_steps

KINDS = ("random", "random, exact trace", "principal", "principal, exact trace", "learned")


class Config(SimulationConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"dimensions": [1, 4], "seeds": 1, "batches": 40, "units": 10}
    }

    dimensions: list[int] = [1, 2, 4, 8, 20]
    seeds: int = 3
    batches: int = 2000
    batch_size: int = 16
    first_batches: int = 10
    patterns: int = 8
    steps: int = 10
    units: int = 20
    radius: float = 0.95
    lam: float = 1.0
    eta_synthesiser: float = 1e-3


def synthesisers(
    config: Config, circuit: bpl.Circuit, errors: np.ndarray, d: int, seed: int
) -> dict[str, bpl.BPLambda]:
    """The rules compared at one d."""
    random = bpl.Synthesiser(circuit, subspace="random", dimension=d, seed=seed)
    principal = bpl.Synthesiser(circuit, subspace=analysis.principal_subspace(errors, d))
    learned = bpl.Synthesiser(circuit, subspace="learned", dimension=d, seed=seed)
    units = (random, random, principal, principal, learned)
    traces = ("reduced", "sweep", "reduced", "sweep", "sweep")
    return {k: bpl.BPLambda(u, lam=config.lam, trace=t) for k, u, t in zip(KINDS, units, traces, strict=True)}


def one(config: Config, seed: int, d: int) -> dict[str, Any]:
    """Mean cosines of one seed and d."""
    weights, task_seed = np.random.SeedSequence([config.seed, seed]).spawn(2)
    task = bpl.tasks.TargetReaching(config.patterns, config.steps, seed=np.random.default_rng(task_seed))
    rng = np.random.default_rng(weights)
    circuit = bpl.Circuit("linear", config.units, task.input_size, radius=config.radius, seed=rng)
    readout = bpl.Readout(circuit, task.output_size, task.loss, reduction="sum", seed=rng)
    seen = []
    for _, batch in zip(range(config.first_batches), task.batches(rng, config.batch_size), strict=False):
        steps, _ = watched_steps(circuit, readout, bpl.rules.BPTT(circuit), batch, None)
        seen.append(np.stack(analysis.true_later_gradient(steps)))
    rules = synthesisers(config, circuit, np.stack(seen), d, seed)
    frozen = bpl.Trainer(circuit, readout, bpl.rules.BPTT(circuit), optimiser={}, seed=seed)
    passive = bpl.PassiveRules(frozen, rules, optimiser=bpl.Adam(config.eta_synthesiser))
    frozen.fit(
        task, epochs=None, stop_at=config.batches, batch_size=config.batch_size,
        validate=False, progress=False, recorder=passive,
    )  # fmt: skip
    probe = next(task.batches(rng, config.patterns, "test"))
    results: dict[str, Any] = {}
    for kind, rule in rules.items():
        aligned = analysis.alignment(circuit, readout, rule, probe, passive.theta[kind])
        results[kind] = float(aligned["cosine"].mean())
        results[f"{kind}.optimum"] = float(aligned["optimum"].mean())
    return results


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    if max(config.dimensions) > config.units:
        raise bpl.ValidationError(f"`dimensions` must lie in 1 … units = {config.units}, got {config.dimensions}")
    jobs = [(d, seed) for d in config.dimensions for seed in range(config.seeds)]
    found = {
        (d, seed): folder.remember(f"d={d},seed={seed}", lambda d=d, seed=seed: one(config, seed, d))
        for d, seed in track(jobs, "subspaces")
    }
    keys = [*KINDS, *(f"{kind}.optimum" for kind in KINDS)]
    values = [[[float(found[d, s][key]) for key in keys] for s in range(config.seeds)] for d in config.dimensions]
    record = xr.Dataset(
        {"cosine": (("d", "seed", "kind"), np.array(values))},
        {"d": config.dimensions, "seed": np.arange(config.seeds), "kind": keys},
    )
    folder.save_recording(record)
    median, n, m = record["cosine"].median("seed"), config.units, config.units + 1
    table = Table("d", *KINDS, "optimum: random", "principal", "trace: numbers", "operations a step")
    for d in config.dimensions:
        cost = {
            "reduced.numbers": d * d * m, "full.numbers": n * d * m,
            "reduced.operations": d * d * d * m + d * n * n, "full.operations": n * n * d * m,
        }  # fmt: skip
        folder.add_summary({f"d={d}.{key}": float(median.sel(d=d, kind=key)) for key in keys})
        folder.add_summary({f"d={d}.{key}": value for key, value in cost.items()})
        shown = [f"{float(median.sel(d=d, kind=key)):.2f}" for key in (*KINDS, "random.optimum", "principal.optimum")]
        ratios = [cost[f"reduced.{what}"] / cost[f"full.{what}"] for what in ("numbers", "operations")]
        table.add_row(str(d), *shown, *(f"{ratio:.2g} of exact" for ratio in ratios))
    below = [d for d in config.dimensions if d < n]
    holds = bool((median.sel(d=below, kind="principal") > median.sel(d=below, kind="random")).all())
    folder.add_summary({"claim.principal": holds})
    console = Console(width=150)
    console.print(table)
    console.print(f"claim.principal: {'yes' if holds else 'no'}")
    fig, axes = plotting.figure(figsize=(7.5, 4))
    curves = {kind: record["cosine"].sel(kind=kind).values.T for kind in KINDS}
    ax = plotting.plot_learning(
        axes[0, 0], config.dimensions, curves, xlabel="dimensions d", ylabel="cosine with the true gradient"
    )
    ax.plot(config.dimensions, median.sel(kind="principal.optimum"), "k--", label="optimum, principal")
    ax.plot(config.dimensions, median.sel(kind="random.optimum"), "k:", label="optimum, random")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    folder.save_figure(fig, "subspaces")
