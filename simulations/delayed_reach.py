"""Delayed reach in ms: an E–I circuit with Dale's law, noise and delays learns; then its synthesiser is disturbed.

A cue shows a target; after a random delay of 50–100 ms a go signal asks for it. The circuit is models/cerebellar.toml:
5 ms delays, sparse E → E, signs kept, noise; its synthesiser has a granule layer. At `fork_at` batches the run is
forked: the forks see the same later trials and the same noise, and differ by one intervention each: those of
`bpl.interventions.apply`, or "task:KEY=VALUE", which goes on with another task (longest_delay, hold, reaction).

Written down before the runs:
    learns       the intact circuit's test loss ends under half of what staying at the centre costs
    lesion       without the synthesiser the loss during the rest of training is higher than intact, in every seed
    scramble     with its output sent to the wrong neurons it is, too, in every seed

summary.json
    baseline                          loss of staying at the centre
    KIND.test_loss.median, .min, .max of intact, lesion, freeze, scramble, rotate, over seeds
    KIND.training_loss.median         mean loss per trial from the fork on
    KIND.diverged                     seeds in which a number stopped being finite; their loss counts as infinite
    claim.learns, .lesion, .scramble  whether what was written down came out
    signs_hold, sparsity_holds        at the end, every seed and fork
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import track
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import interventions, plotting
from bpl_neuro.experiment import RunFolder, TrainingConfig, parse_settings


class Config(TrainingConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"seeds": 1, "batches": 60, "fork_at": 30, "exc": 20, "inh": 5, "expansion": 40}
    }

    seeds: int = 5
    batches: int = 600
    fork_at: int = 300
    batch_size: int = 20
    exc: int = 80
    inh: int = 20
    expansion: int = 200
    targets: int = 4
    longest_delay: str = "100*ms"
    tau_exc: str = "100*ms"
    gamma: str = "100*ms"
    lam: str = "100*ms"
    hold: float = 0.3
    reaction: str = "50*ms"
    sg_weight: float = 0.1
    eta: float = 3e-3
    eta_synthesiser: float = 1e-3
    interventions: list[str] = ["lesion", "freeze", "scramble", "rotate"]
    model: str = "cerebellar"


def build_task(config: Config) -> bpl.tasks.DelayedReach:
    """The task, by the model's steps."""
    model, delay = bpl.Model.load(config.model), ("50*ms", config.longest_delay)
    step = {"dt": f"{model.dt!r}*second"} if model.spec.time else {}  # a model without is refused later, by name
    return bpl.tasks.DelayedReach(config.targets, delay=delay, hold=config.hold, reaction=config.reaction, **step)


def build(config: Config, seed: int) -> bpl.Trainer:
    """The trainer of one seed."""
    weights, granule, trials = np.random.SeedSequence([config.seed, seed]).spawn(3)
    task, rng = build_task(config), np.random.default_rng(weights)
    circuit = bpl.Circuit(
        config.model, {"exc": config.exc, "inh": config.inh}, task.input_size, radius=0.9, input_scale=6.0,
        parameters={"exc.tau": config.tau_exc}, seed=rng, dtype="float32", backend=config.backend,
    )  # fmt: skip
    readout = bpl.Readout(circuit, task.output_size, task.loss, population="exc", reduction="sum", seed=rng)
    synthesiser = bpl.Synthesiser(circuit, expansion=config.expansion, seed=np.random.default_rng(granule))
    rule = bpl.BPLambda(synthesiser, gamma=config.gamma, lam=config.lam, sg_weight=config.sg_weight, trace="sweep")
    optimiser = {"psi": bpl.Adam(config.eta), "phi": bpl.Adam(config.eta), "theta": bpl.Adam(config.eta_synthesiser)}
    return bpl.Trainer(circuit, readout, rule, optimiser=optimiser, seed=int(trials.generate_state(1)[0]))


def changed(config: Config, kind: str) -> Config:
    """The settings with those of a "task:KEY=VALUE"."""
    if not kind.startswith("task:"):
        return config
    settings = parse_settings([kind.removeprefix("task:")])
    if unknown := settings.keys() - {"longest_delay", "hold", "reaction"}:
        raise bpl.ValidationError(f"task: can change longest_delay, hold, reaction; got {unknown.pop()!r}")
    return config.model_copy(update=settings)


def one(config: Config, folder: RunFolder, seed: int) -> dict[str, Any]:
    """Losses of the intact run and of each fork, and whether the constraints held."""
    task, trainer = build_task(config), build(config, seed)
    common = {"epochs": None, "batch_size": config.batch_size, "validate": False, "progress": False}
    absent = trainer.circuit.psi == 0  # as it was given
    folder.fit(trainer, task, f"seed={seed}", stop_at=config.fork_at, **common, **config.recorded)
    results: dict[str, Any] = {}
    for kind in ["intact", *config.interventions]:
        fork, own_task = trainer.fork(), build_task(changed(config, kind))
        if kind != "intact" and not kind.startswith("task:"):
            interventions.apply(fork, kind, seed=seed)
        name = re.sub(r"[^\w.=+-]", "_", kind)
        try:
            folder.fit(fork, own_task, f"seed={seed},{name}", stop_at=config.batches, **common, **config.recorded)
            test = fork.evaluate(own_task, "test", batch_size=20 * config.targets)["loss"]
        except bpl.DivergenceError:
            test = np.inf
        circuit = fork.trained_circuit()
        results |= {
            f"{kind}.loss": fork.losses + [np.inf] * (config.batches - len(fork.losses)),
            f"{kind}.test_loss": test,
            f"{kind}.signs": circuit.signs is None or bool((circuit.signs * circuit.psi >= 0).all()),
            f"{kind}.sparsity": bool((circuit.psi[absent] == 0).all()),
        }
    return results


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    for kind in config.interventions:  # a wrong one is an error now, not after the training
        build_task(changed(config, kind))
        if not kind.startswith("task:"):
            interventions.apply(build(config, 0), kind)
    kinds = ["intact", *config.interventions]
    found = [
        folder.remember(f"seed={seed}", lambda seed=seed: one(config, folder, seed))
        for seed in track(range(config.seeds), "delayed reach")
    ]
    baseline = build_task(config).baseline
    loss = np.array([[f[f"{kind}.loss"] for f in found] for kind in kinds])
    test = np.array([[f[f"{kind}.test_loss"] for f in found] for kind in kinds])
    after = loss[:, :, config.fork_at :].mean(axis=2)
    folder.save_recording(
        xr.Dataset(
            {"loss": (("kind", "seed", "batch"), loss), "test_loss": (("kind", "seed"), test)},
            {"kind": kinds, "seed": np.arange(config.seeds), "batch": np.arange(loss.shape[2]) + 1},
            {"baseline": baseline, "fork_at": config.fork_at, "units": "squared error per trial"},
        )
    )
    summary: dict[str, Any] = {"baseline": baseline}
    for k, kind in enumerate(kinds):
        summary |= {
            f"{kind}.test_loss.median": np.median(test[k]),
            f"{kind}.test_loss.min": test[k].min(),
            f"{kind}.test_loss.max": test[k].max(),
            f"{kind}.training_loss.median": np.median(after[k]),
            f"{kind}.diverged": int(np.isinf(test[k]).sum()),
        }
    summary["claim.learns"] = bool(np.median(test[0]) < 0.5 * baseline)
    for kind in {"lesion", "scramble"} & set(kinds):
        summary[f"claim.{kind}"] = bool((after[kinds.index(kind)] > after[0]).all())
    for name, key in (("signs_hold", "signs"), ("sparsity_holds", "sparsity")):
        summary[name] = all(bool(f[f"{kind}.{key}"]) for f in found for kind in kinds)
    folder.add_summary(summary)
    draw(config, folder, kinds, loss, baseline)
    table = Table("", "test loss, median", "range", "training loss since the fork")
    for k, kind in enumerate(kinds):
        table.add_row(
            kind, f"{np.median(test[k]):.2f}", f"{test[k].min():.2f}–{test[k].max():.2f}", f"{np.median(after[k]):.2f}"
        )
    console = Console()
    console.print(table)
    console.print(f"staying at the centre costs {baseline:.2f}")
    for key in sorted(summary):
        if key.startswith("claim.") or key.endswith(("hold", "holds")):
            console.print(f"{key}: {'yes' if summary[key] else 'no'}")


def draw(config: Config, folder: RunFolder, kinds: list[str], loss: np.ndarray, baseline: float) -> None:
    """Loss of every fork, smoothed over ten batches."""
    width = min(10, loss.shape[2])
    smooth = np.apply_along_axis(lambda row: np.convolve(row, np.ones(width) / width, "valid"), 2, loss)
    batch = np.arange(smooth.shape[2]) + width / 2
    fig, axes = plotting.figure(figsize=(8, 4.2))
    ax = axes[0, 0]
    for colour, kind, rows in zip(plotting.COLOURS, kinds, smooth, strict=False):
        shown = batch >= (0 if kind == "intact" else config.fork_at)
        ax.plot(batch[shown], np.median(rows, axis=0)[shown], color=colour, label=kind)
    ax.axvline(config.fork_at, color="grey", ls=":", lw=1)
    ax.axhline(baseline, color="grey", ls="--", lw=1, label="staying at the centre")
    ax.set(xlabel="batch", ylabel="loss per trial (median over seeds)", yscale="log")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    plotting.readable_log(ax.yaxis)
    ax.set_title(f"Forked at batch {config.fork_at}", loc="left")
    folder.save_figure(fig, "interventions")
