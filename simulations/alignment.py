"""Alignment against trial length: λ, rules and classes of synthesisers, always beside the best their class can do.

A linear circuit on target reaching with 64 patterns. With the circuit frozen, BP(λ) for several λ and n-step SG learn
from the same trials, the same number of time steps at every length; then, from the same start, the circuit learns with
BP(λ), too. Beside them the least-squares optimum: the best fit of the true gradient from the same states.

The second part asks how far other classes of synthesisers raise that optimum: seeing the input, with fixed expansion
layers, and with a plastic one (fitted to the true gradient by Adam: a lower bound of what it could do).

summary.json
    T=T.KIND.frozen, .learning       mean cosine of g + c with the true gradient, median over seeds
    T=T.optimum                      of a linear synthesiser of the state
    T=T.class=CLASS                  optimum of other classes, from as many points as `T=T.points`
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

CLASSES: dict[str, dict[str, Any]] = {
    "linear": {},
    "linear, sees input": {"sees_input": True},
    "100 fixed units": {"expansion": 100, "fan_in": 4},
    "400 fixed units": {"expansion": 400, "fan_in": 4},
    "100 plastic units": {"expansion": 100, "fan_in": 4, "plastic_expansion": True},
}


class Config(SimulationConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"lengths": [10], "seeds": 1, "time_steps": 1500, "fits": 100, "patterns": 16, "units": 10}
    }

    lengths: list[int] = [10, 30, 100, 500]
    lams: list[float] = [0.0, 0.9, 1.0]
    windows: list[int] = [3]
    seeds: int = 3
    time_steps: int = 30000
    batch_size: int = 16
    patterns: int = 64
    units: int = 20
    radius: float = 0.95
    eta: float = 1e-4
    eta_synthesiser: float = 1e-3
    fits: int = 2000
    model: str = "linear"


def build(config: Config, seed: int, T: int) -> tuple[bpl.tasks.TargetReaching, bpl.Circuit, bpl.Readout]:
    """Task, circuit and readout of one seed; the same at every length."""
    weights, task_seed = np.random.SeedSequence([config.seed, seed]).spawn(2)
    task = bpl.tasks.TargetReaching(config.patterns, T, seed=np.random.default_rng(task_seed))
    rng = np.random.default_rng(weights)
    circuit = bpl.Circuit(config.model, config.units, task.input_size, radius=config.radius, seed=rng)
    return task, circuit, bpl.Readout(circuit, task.output_size, task.loss, reduction="sum", seed=rng)


def kinds(config: Config, circuit: bpl.Circuit) -> dict[str, bpl.Rule]:
    """The rules compared."""
    unit = bpl.Synthesiser(circuit)
    rules: dict[str, bpl.Rule] = {f"BP({lam:g})": bpl.BPLambda(unit, lam=lam, trace="sweep") for lam in config.lams}
    return rules | {f"{n}-step SG": bpl.rules.NStepSG(unit, steps=n) for n in config.windows}


def one(config: Config, seed: int, T: int) -> dict[str, Any]:
    """Mean cosines of one seed and length."""
    task, circuit, readout = build(config, seed, T)
    batches = max(1, config.time_steps // T)
    learn = {
        "epochs": None, "stop_at": batches, "batch_size": config.batch_size,
        "validate": False, "progress": False,
    }  # fmt: skip
    rules = kinds(config, circuit)
    frozen = bpl.Trainer(circuit, readout, bpl.rules.BPTT(circuit), optimiser={}, seed=seed)
    passive = bpl.PassiveRules(frozen, rules, optimiser=bpl.Adam(config.eta_synthesiser))
    frozen.fit(task, recorder=passive, **learn)
    probe = next(task.batches(np.random.default_rng(0), config.patterns, "test"))
    results: dict[str, Any] = {}
    for name, rule in rules.items():
        aligned = analysis.alignment(circuit, readout, rule, probe, passive.theta[name])
        results[f"{name}.frozen"] = float(aligned["cosine"].mean())
        results["optimum"] = float(aligned["optimum"].mean())
    results["points"] = config.patterns * (T - 1)
    for name, keywords in CLASSES.items():
        results[f"class={name}"] = best(config, circuit, readout, probe, keywords)
    for name in rules:
        task, circuit, readout = build(config, seed, T)
        adam = {"psi": bpl.Adam(config.eta), "phi": bpl.Adam(config.eta), "theta": bpl.Adam(config.eta_synthesiser)}
        rule = kinds(config, circuit)[name]
        trainer = bpl.Trainer(circuit, readout, rule, optimiser=adam, seed=seed).fit(task, **learn)
        learned = (trainer.trained_circuit(), trainer.trained_readout())
        aligned = analysis.alignment(*learned, rule, probe, trainer.theta)
        results[f"{name}.learning"] = float(aligned["cosine"].mean())
    return results


def best(
    config: Config, circuit: bpl.Circuit, readout: bpl.Readout, probe: bpl.Batch, keywords: dict[str, Any]
) -> float:
    """The best a class can do: least squares, or for a plastic layer what Adam finds."""
    unit = bpl.Synthesiser(circuit, **keywords)
    rule, theta = bpl.BPLambda(unit, trace="sweep"), unit.initial_theta()
    if unit.hidden is None:
        return float(analysis.alignment(circuit, readout, rule, probe, theta)["optimum"].mean())
    steps, _ = watched_steps(circuit, readout, rule, probe, theta)
    G = np.concatenate(analysis.true_later_gradient(steps)[:-1])
    z = np.concatenate([unit.z(step.transition) for step in steps[:-1]])
    adam = bpl.Adam(bpl.CosineDecay(3e-3, config.fits))
    moments = adam.init(circuit.backend, theta)
    for _ in range(config.fits):
        response = unit(z, theta)
        theta, moments = adam.step(circuit.backend, theta, unit.gradient(response.g - G, response) / len(z), moments)
    return float(analysis.alignment(circuit, readout, rule, probe, theta)["cosine"].mean())


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    jobs = [(T, seed) for T in config.lengths for seed in range(config.seeds)]
    found = {
        (T, seed): folder.remember(f"T={T},seed={seed}", lambda T=T, seed=seed: one(config, seed, T))
        for T, seed in track(jobs, "alignment")
    }
    keys = list(found[jobs[0]])
    values = np.array(
        [[[float(found[T, seed][key]) for key in keys] for seed in range(config.seeds)] for T in config.lengths]
    )
    record = xr.Dataset(
        {"cosine": (("length", "seed", "kind"), values)},
        {"length": config.lengths, "seed": np.arange(config.seeds), "kind": keys},
    )
    folder.save_recording(record)
    median = record["cosine"].median("seed")
    for T in config.lengths:
        folder.add_summary({f"T={T}.{key}": float(median.sel(length=T, kind=key)) for key in keys})
    names = [key.removesuffix(".frozen") for key in keys if key.endswith(".frozen")]
    first = Table("T", "batches", *(f"{name}" for name in names), "linear optimum", title="circuit frozen / learning")
    second = Table("T", "points", *CLASSES, title="optimum of other classes")
    for T in config.lengths:
        at = median.sel(length=T)
        get = {key: float(at.sel(kind=key)) for key in keys}
        cells = [f"{get[f'{name}.frozen']:.2f} / {get[f'{name}.learning']:.2f}" for name in names]
        first.add_row(str(T), str(max(1, config.time_steps // T)), *cells, f"{get['optimum']:.2f}")
        second.add_row(str(T), f"{get['points']:.0f}", *(f"{get[f'class={name}']:.2f}" for name in CLASSES))
    console = Console(width=130)
    console.print(first)
    console.print(second)
    draw(config, folder, record, names)


def draw(config: Config, folder: RunFolder, record: xr.Dataset, names: list[str]) -> None:
    """Cosine against length: rules left, classes right."""
    fig, axes = plotting.figure(1, 2, figsize=(12, 4))

    def curve(key: str) -> np.ndarray:
        return record["cosine"].sel(kind=key).values.T

    plotting.plot_learning(
        axes[0, 0], config.lengths, {name: curve(f"{name}.frozen") for name in names},
        xlabel="length of a trial, T", ylabel="cosine with the true gradient",
    )  # fmt: skip
    axes[0, 0].plot(config.lengths, np.median(curve("optimum"), axis=0), "k--", label="linear optimum")
    plotting.plot_learning(
        axes[0, 1], config.lengths, {name: curve(f"class={name}") for name in CLASSES},
        xlabel="length of a trial, T", ylabel="optimum",
    )  # fmt: skip
    for ax, title in zip(axes[0], ("Circuit frozen", "What a class could reach"), strict=True):
        ax.set_xscale("log")
        plotting.readable_log(ax.xaxis)
        ax.set_ylim(-0.05, 1.05)
        ax.set_title(title, loc="left")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    folder.save_figure(fig, "alignment")
