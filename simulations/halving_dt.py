"""Continuous time: halving dt changes what is learned only to first order.

The same input, as a function of time, is shown to the same leaky-tanh circuit simulated at ever smaller dt; γ and λ are
time constants, running losses and the trace's input are weighted by dt, α is per second. What one trial teaches Ψ and θ
is compared between dt and dt / 2.

Written down before the run, on log-log axes:
    first_order        the relative change falls with a slope of 1 ± .2, for Ψ and for θ
    weighting_matters  without the weighting by dt it does not, for Ψ and for θ

summary.json
    PARAMETER.dt=D.change             relative change of the update from D to D / 2
    PARAMETER.slope                   fitted slope
    unweighted.PARAMETER.slope        the same without the weighting by dt
    claim.first_order.PARAMETER, claim.weighting_matters.PARAMETER   whether what was written down came out
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import plotting
from bpl_neuro.experiment import RunFolder, SimulationConfig

PARAMETERS = ("psi", "theta")


class Config(SimulationConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"halvings": 4, "seeds": 1}}

    units: int = 10
    seconds: float = 0.2
    largest_dt_ms: float = 4.0
    halvings: int = 7
    seeds: int = 5
    gamma: str = "50*ms"
    lam: str = "80*ms"


def learned(config: Config, seed: int, dt_ms: float, weighted: bool) -> dict[str, Any]:
    """Updates of one trial of the same continuous-time input and target at a step of `dt_ms`."""
    text = bpl.Model.load("leaky_tanh").to_toml().replace('dt = "1*ms"', f'dt = "{dt_ms}*ms"')
    circuit = bpl.Circuit(bpl.Model.from_toml(text), config.units, 2, seed=seed)
    readout = bpl.Readout(circuit, 2, seed=seed + 1, continuous_time=weighted)
    t = (np.arange(round(config.seconds / (dt_ms * 1e-3))) + 1) * dt_ms * 1e-3
    x = np.stack([np.sin(40 * t), np.cos(25 * t)], axis=-1)[None]
    y = np.stack([np.cos(10 * t), t], axis=-1)[None]
    synthesiser = bpl.Synthesiser(circuit)
    rule = bpl.BPLambda(synthesiser, gamma=config.gamma, lam=config.lam, trace="sweep", continuous_time=weighted)
    theta = np.random.default_rng(seed + 2).normal(size=synthesiser.layout.size) * 0.1
    return bpl.batch_updates(circuit, readout, rule, bpl.Batch(x, y), theta).gradients


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    dts = config.largest_dt_ms / 2.0 ** np.arange(config.halvings + 1)
    change = np.empty((2, len(PARAMETERS), config.seeds, config.halvings))
    for w, weighted in enumerate((True, False)):
        for seed in range(config.seeds):
            found = [learned(config, config.seed + 10 * seed, dt, weighted) for dt in dts]
            for p, name in enumerate(PARAMETERS):
                for k in range(config.halvings):
                    coarse, fine = found[k][name], found[k + 1][name]
                    change[w, p, seed, k] = np.linalg.norm(coarse - fine) / np.linalg.norm(fine)
    median = np.median(change, axis=2)
    slope = np.array([[np.polyfit(np.log(dts[:-1]), np.log(row), 1)[0] for row in rows] for rows in median])
    folder.save_recording(
        xr.Dataset(
            {
                "change": (
                    ("weighting", "parameter", "seed", "dt"),
                    change,
                    {"long_name": "relative change, dt to dt / 2"},
                )
            },
            {"weighting": ["by dt", "none"], "parameter": list(PARAMETERS), "dt": ("dt", dts[:-1], {"units": "ms"})},
        )
    )
    table = Table("dt (ms)", *(f"{name}: change to dt / 2" for name in PARAMETERS))
    for k, dt in enumerate(dts[:-1]):
        table.add_row(f"{dt:g}", *(f"{median[0, p, k]:.2g}" for p in range(len(PARAMETERS))))
        for p, name in enumerate(PARAMETERS):
            folder.add_summary({f"{name}.dt={dt:g}.change": median[0, p, k]})
    for p, name in enumerate(PARAMETERS):
        folder.add_summary({f"{name}.slope": slope[0, p], f"unweighted.{name}.slope": slope[1, p]})
    near_one = np.abs(slope - 1) < 0.2
    claims = {f"claim.first_order.{name}": bool(near_one[0, p]) for p, name in enumerate(PARAMETERS)}
    claims |= {f"claim.weighting_matters.{name}": not near_one[1, p] for p, name in enumerate(PARAMETERS)}
    folder.add_summary(claims)
    fig, axes = plotting.figure(figsize=(6.5, 4))
    ax = axes[0, 0]
    for p, symbol in enumerate(("Ψ", "θ")):
        colour = plotting.COLOURS[p]
        ax.loglog(dts[:-1], median[0, p], "o-", color=colour, label=f"{symbol}, slope {slope[0, p]:.2f}")
        ax.loglog(dts[:-1], median[1, p], "x:", color=colour, label=f"{symbol}, not weighted by dt")
    ax.loglog(dts[:-1], median[0, 0, -1] * dts[:-1] / dts[-2], "k--", lw=0.8, label="∝ dt")
    ax.set(xlabel="dt (ms)", ylabel="relative change of an update, dt → dt / 2")
    plotting.readable_log(ax.xaxis)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    folder.save_figure(fig, "halving-dt")
    console = Console()
    console.print(table)
    for p, name in enumerate(PARAMETERS):
        console.print(f"slope of {name}: {slope[0, p]:.2f}, without the weighting {slope[1, p]:.2f}")
    for key, holds in claims.items():
        console.print(f"{key}: {'yes' if holds else 'no'}")
