"""Onlineness: change everything after step t of a trial, and no update up to t changes by a single bit.

Two copies of a learner see the same trial up to step t; from then on one of them sees other inputs and targets. An
online rule cannot tell the two apart before that. The circuit is an E–I circuit with Dale's law, noise and 5 ms delays.

Written down before the run: for every rule that calls itself online, and every parameter, the difference up to step t
is exactly 0 although the parameter has moved by then, and it is not 0 after.

summary.json
    RULE.PARAMETER.difference_before     largest difference up to step t
    RULE.PARAMETER.moved_before          how far the parameter had moved at step t
    RULE.PARAMETER.difference_after      largest difference after step t
    claim.online                         whether what was written down came out
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import analysis, plotting
from bpl_neuro.experiment import RunFolder, SimulationConfig
from bpl_neuro.rules import RULES

#: BP(1) with a compatible synthesiser, taught by recursive least squares
COMPATIBLE = "compatible BP(1)"


class Config(SimulationConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"exc": 10, "inh": 4}}

    model: str = "cerebellar"
    exc: int = 24
    inh: int = 6
    expansion: int = 30
    steps: int = 40
    changed_after: int = 20
    trials: int = 5
    traces: list[str] = ["full", "local", "leak", "model", "sweep"]
    rules: list[str] = ["bp_lambda_eprop", COMPATIBLE, "eprop", "rflo", "snap1", "rtrl", "immediate", "bptt"]


def learner(config: Config, name: str, **options: Any) -> bpl.Trainer:
    """A trainer that updates at every step, where its rule can."""
    circuit = bpl.Circuit(config.model, {"exc": config.exc, "inh": config.inh}, 3, radius=0.9, seed=config.seed)
    readout = bpl.Readout(circuit, 2, population="exc", seed=config.seed + 1)
    if name == COMPATIBLE:
        rule: bpl.Rule = bpl.BPLambda(bpl.Synthesiser(circuit, target="current"), **options)
        optimiser: Any = {"psi": bpl.Adam(), "phi": bpl.Adam(), "theta": bpl.RLS(0.99)}
    else:
        if RULES[name].needs_synthesiser:
            options |= {"gamma": "100*ms", "lam": "100*ms"}
        rule = bpl.make_rule(name, bpl.Synthesiser(circuit, expansion=config.expansion), **options)
        optimiser = bpl.Adam()
    schedule = "step" if "step" in rule.schedules else "trial"
    return bpl.Trainer(circuit, readout, rule, optimiser=optimiser, schedule=schedule)


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    rng = np.random.default_rng(config.seed)
    shape = (config.trials, config.steps)
    batch = bpl.Batch(rng.normal(size=(*shape, 3)), rng.normal(size=(*shape, 2)))
    found, online = {}, {}
    trainers = {f"BP(λ), {trace} trace": learner(config, "bp_lambda", trace=trace) for trace in config.traces}
    trainers |= {name: learner(config, name) for name in config.rules}
    for name, trainer in trainers.items():
        found[name] = analysis.causality(trainer, batch, config.changed_after, config.seed)
        online[name] = trainer.rule.online
    record = xr.concat(found.values(), xr.IndexVariable("rule", list(found)), join="outer")
    folder.save_recording(record)
    t = config.changed_after
    table = Table("rule", "online", f"Ψ moved by step {t}", f"θ moved by step {t}", "difference by then", "… after")
    holds = True
    for name, one in found.items():
        before, after = one.sel(step=slice(None, t)), one.sel(step=slice(t + 1, None))
        moved, early, late = before["moved"][-1], before["difference"].max("step"), after["difference"].max("step")
        for parameter in one["parameter"].values:
            for key, values in (("moved_before", moved), ("difference_before", early), ("difference_after", late)):
                folder.add_summary({f"{name}.{parameter}.{key}": float(values.sel(parameter=parameter))})
        if online[name]:
            holds &= bool((moved > 0).all() and (early == 0).all() and (late > 0).all())
        table.add_row(
            name, "yes" if online[name] else "no: waits",
            *(f"{moved.sel(parameter=p):.3g}" if p in moved["parameter"] else "–" for p in ("psi", "theta")),
            f"{early.max():.3g}", f"{late.max():.3g}",
        )  # fmt: skip
    folder.add_summary({"claim.online": holds})
    draw(config, folder, found)
    console = Console(width=120)
    console.print(table)
    console.print(f"claim.online: {'yes' if holds else 'no'}")


def draw(config: Config, folder: RunFolder, found: dict[str, xr.Dataset]) -> None:
    """Difference between the two copies against step, for Ψ and θ."""
    fig, axes = plotting.figure(1, 2, figsize=(11, 3.6))
    for ax, parameter, symbol in zip(axes[0], ("psi", "theta"), ("Ψ, circuit", "θ, synthesiser"), strict=True):
        for k, (name, one) in enumerate(found.items()):
            if parameter not in one["parameter"]:
                continue
            line = one["difference"].sel(parameter=parameter)
            style = "o-" if k < len(plotting.COLOURS) else "x--"
            ax.plot(one["step"], line, style, ms=3, color=plotting.COLOURS[k % len(plotting.COLOURS)], label=name)
        ax.set_yscale("symlog", linthresh=1e-6)
        ax.set_ylim(-2e-7, 1)
        ax.axvline(config.changed_after + 0.5, color="grey", ls=":", lw=1)
        ax.set(xlabel="step", title=symbol)
    axes[0, 0].set_ylabel("largest difference between the copies")
    axes[0, 0].text(config.changed_after, 0.9, "same trial  ", transform=axes[0, 0].get_xaxis_transform(), ha="right")
    axes[0, 0].text(config.changed_after + 1, 0.9, "  other trial", transform=axes[0, 0].get_xaxis_transform())
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 1].legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    folder.save_figure(fig, "causality")
