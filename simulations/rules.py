"""Every credit rule on target reaching: what it costs, how well it points along the gradient, how well it learns.

The same circuits, trials and seeds for all. First the circuit is frozen while the synthesisers learn, as passive
on-lookers of BPTT without a learning rate; then each rule's gradient is compared with the true one. After that each
rule trains circuit and readout from the same start. All update per trial; traces are summed by the sweep, which gives
the numbers of the online form that the table describes.

summary.json
    RULE.cosine.median, .low, .high     cosine of the whole gradient with the true one, over seeds: median and range
    RULE.norm_ratio.median
    RULE.loss.median, .low, .high       loss after learning, over seeds
    start.loss.median                   loss before
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
from bpl_neuro.experiment import RunFolder, SimulationConfig
from bpl_neuro.rules import RULES, rule_options


class Config(SimulationConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"seeds": 1, "units": 10, "batches": 60, "frozen_batches": 60, "rules": ["bptt", "eprop", "bp_lambda"]}
    }

    model: str = "leaky_tanh"
    units: int = 20
    patterns: int = 4
    steps: int = 20
    seeds: int = 5
    frozen_batches: int = 2000
    batches: int = 1000
    batch_size: int = 10
    rules: list[str] = list(RULES)
    window: int = 3
    lam: float = 1.0
    gamma: float = 1.0
    sg_weight: float = 1.0
    feedback: str | None = None
    eta: float = 1e-3
    eta_synthesiser: float = 1e-3
    radius: float = 1.2


def make(config: Config, name: str, circuit: bpl.Circuit, trace: str | None = None) -> bpl.Rule:
    """A rule with the settings that it takes; with its own form of the trace, or another."""
    if name == "rtrl" and trace == "sweep":
        trace = "lazy"  # a sweep is what it is an alternative to
    settings = {
        "gamma": config.gamma, "lam": config.lam, "sg_weight": config.sg_weight, "steps": config.window, "trace": trace,
        "feedback": config.feedback,
    }  # fmt: skip
    known = rule_options(name)
    return bpl.make_rule(name, circuit, **{k: v for k, v in settings.items() if k in known and v is not None})


def build(config: Config, seed: int) -> tuple[bpl.tasks.TargetReaching, bpl.Circuit, bpl.Readout]:
    """Task, circuit and readout of one seed."""
    weights, task_seed = np.random.SeedSequence([config.seed, seed]).spawn(2)
    task = bpl.tasks.TargetReaching(config.patterns, config.steps, seed=np.random.default_rng(task_seed))
    rng = np.random.default_rng(weights)
    circuit = bpl.Circuit(config.model, config.units, task.input_size, radius=config.radius, seed=rng)
    return task, circuit, bpl.Readout(circuit, task.output_size, task.loss, seed=rng)


def one(config: Config, seed: int) -> dict[str, Any]:
    """Comparison and losses of one seed."""
    task, circuit, readout = build(config, seed)
    rules = {name: make(config, name, circuit, "sweep") for name in config.rules}
    learn = {"epochs": None, "batch_size": config.batch_size, "validate": False, "progress": False}
    with_theta = {name: rule for name, rule in rules.items() if rule.needs_synthesiser}
    theta: dict[str, Any] = {}
    if with_theta:
        frozen = bpl.Trainer(circuit, readout, bpl.rules.BPTT(circuit), optimiser={}, seed=seed)
        passive = bpl.PassiveRules(frozen, with_theta, optimiser=bpl.Adam(config.eta_synthesiser))
        frozen.fit(task, stop_at=config.frozen_batches, recorder=passive, **learn)
        theta = passive.theta
    probe = next(task.batches(np.random.default_rng(0), config.patterns, "test"))
    found = bpl.compare(circuit, readout, probe, rules, theta=theta)
    results: dict[str, Any] = {key: found[key].values for key in ("cosine", "norm_ratio", "credit_cosine")}
    for name in config.rules:
        task, circuit, readout = build(config, seed)
        optimiser = {
            "psi": bpl.Adam(config.eta),
            "phi": bpl.Adam(config.eta),
            "theta": bpl.Adam(config.eta_synthesiser),
        }
        trainer = bpl.Trainer(circuit, readout, make(config, name, circuit, "sweep"), optimiser=optimiser, seed=seed)
        results["start"] = trainer.evaluate(task)["loss"]
        trainer.fit(task, stop_at=config.batches, **learn)
        results[f"loss.{name}"] = trainer.evaluate(task)["loss"]
    return results


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    _, circuit, _ = build(config, 0)
    online = {name: "full" if name in RULES and RULES[name].needs_synthesiser else None for name in config.rules}
    said = {name: make(config, name, circuit, trace) for name, trace in online.items()}  # a wrong name is an error now
    found = [
        folder.remember(f"seed={seed}", lambda seed=seed: one(config, seed))
        for seed in track(range(config.seeds), "rules")
    ]
    blocks = ["psi", *circuit.layout]
    loss = np.array([[float(f[f"loss.{name}"]) for name in config.rules] for f in found])
    record = xr.Dataset(
        {
            "cosine": (("seed", "rule", "parameter"), np.stack([f["cosine"] for f in found])),
            "norm_ratio": (("seed", "rule", "parameter"), np.stack([f["norm_ratio"] for f in found])),
            "credit_cosine": (("seed", "rule", "step"), np.stack([f["credit_cosine"] for f in found])),
            "loss": (("seed", "rule"), loss),
        },
        {
            "seed": np.arange(config.seeds), "rule": config.rules, "parameter": blocks,
            "step": np.arange(config.steps) + 1,
        },
    )  # fmt: skip
    folder.save_recording(record)
    start = float(np.median([f["start"] for f in found]))
    folder.add_summary({"start.loss.median": start})
    table = Table(
        "rule", "online", "exact", "local", "memory", "time per step", "cosine", "norm", "loss after learning"
    )
    for k, (name, rule) in enumerate(said.items()):
        cosines, ratios = record["cosine"].sel(rule=name, parameter="psi").values, record["norm_ratio"].sel(rule=name)
        ratio = float(ratios.sel(parameter="psi").median())
        for key, values in (("cosine", cosines), ("loss", loss[:, k])):
            for part, figure in (("median", np.median), ("low", np.min), ("high", np.max)):
                folder.add_summary({f"{name}.{key}.{part}": float(figure(values))})
        folder.add_summary({f"{name}.norm_ratio.median": ratio})
        yes = ["yes" if getattr(rule, key) else "no" for key in ("online", "exact", "local")]
        table.add_row(
            name, *yes, rule.memory, rule.time, f"{np.median(cosines):.2f}", f"{ratio:.2g}",
            f"{np.median(loss[:, k]):.2g} ({loss[:, k].min():.2g}–{loss[:, k].max():.2g})",
        )  # fmt: skip
    fig, axes = plotting.figure(1, 2, figsize=(12, 4.5))
    plotting.plot_comparison(axes[0], record)
    folder.save_figure(fig, "rules")
    console = Console(width=150)
    console.print(table)
    console.print(f"loss before learning {start:.3f}; medians over {config.seeds} seeds, range in brackets")
