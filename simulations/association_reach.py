"""Association reach: the area that must remember is not read out, and only a synthesiser tells it what it did wrong.

An association area (E–I, Dale's law) sees a cue and, after a random delay of 50–150 ms, a go signal; over 10 ms delays
it drives a motor area, and the readout sees that one alone (models/association.toml). No loss is due before the reach.
So immediate and e-prop's credit of the association area's synapses are 0, to the bit, and what they learn comes from
the synthesiser: the compatible one, in the residual form beside e-prop, with θ by recursive least squares. BPTT and
e-prop alone are the controls. The run is forked after each of `fork_at` batches; the forks see the same later trials
and the same noise as the intact one, and differ by one intervention each.

Written down before the runs, for seeds that no setting was chosen on. Staying at the centre costs the baseline; a seed
is solved if its test loss ends under a fifth of that, and a run that diverges has failed.
    bptt        solves it in 9 of 10 seeds
    eprop       ends above four fifths of the baseline in every seed
    intact      solves it in 9 of 10 seeds
    lesion      from the first fork on, while it is being learned, the training loss is higher than intact, in 9 of 10
                seeds; the later forks show when it no longer matters
    scramble    it is, too, where the prediction reaches the wrong currents

Without a momentum Adam now and then loses again what had been learned, with BPTT's gradient as well: hence a bound on
its steps, `max_step` η, and one on what a batch may tell the synthesiser, `bound` times the usual; both were chosen on
other seeds than these (null: none).

summary.json, for KIND of bptt, eprop, intact, and INTERVENTION@BATCH for every fork
    baseline                              loss of staying at the centre
    KIND.test_loss.median, .min, .max     at the end, over seeds; infinite (null) where a run diverged
    KIND.solved, .diverged                seeds
    KIND.spikes                           batches above half the baseline after ten had been under a fifth: all seeds
    FORK.training_loss.median             mean loss since the fork
    FORK.difference.median, .low, .high   that minus the intact run's, in pairs, with its 95 % bootstrap interval
    FORK.worse                            seeds in which it is positive
    claim.NAME                            whether what was written down came out
"""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from pydantic import Field
from rich.console import Console
from rich.progress import track
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import interventions, plotting
from bpl_neuro.benchmark import run_jobs
from bpl_neuro.experiment import RunFolder, TrainingConfig

CONTROLS = ("bptt", "eprop")


class Config(TrainingConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"seeds": 2, "batches": 30, "fork_at": [10, 20], "exc": 20, "inh": 5, "motor": 8}
    }

    seeds: int = 10
    batches: int = 600
    fork_at: list[int] = [40, 150]
    batch_size: int = 20
    exc: int = 60
    inh: int = 15
    motor: int = 20
    targets: int = 4
    eta: float = 1e-3
    beta1: float = 0.0
    max_step: float | None = 2.0
    forget: float = 0.9
    ridge: float = 1e-3
    bound: float | None = 3.0
    interventions: list[str] = ["lesion", "scramble"]
    model: str = "association"
    jobs: int = Field(1, ge=1, exclude=True)  # processes that share the seeds; a run may go on with more, or fewer


def build_task(config: Config) -> bpl.tasks.AssociationReach:
    """The task."""
    return bpl.tasks.AssociationReach(config.targets)


def build(config: Config, seed: int, kind: str) -> bpl.Trainer:
    """The trainer of one seed: the same circuit, readout and trials, whatever the rule."""
    weights, trials = np.random.SeedSequence([config.seed, seed]).spawn(2)
    task, rng = build_task(config), np.random.default_rng(weights)
    sizes = {"exc": config.exc, "inh": config.inh, "motor": config.motor}
    circuit = bpl.Circuit(
        config.model, sizes, task.input_size, radius=0.9, seed=rng, dtype="float32", backend=config.backend
    )
    readout = bpl.Readout(circuit, task.output_size, task.loss, population="motor", seed=rng)
    adam = bpl.Adam(config.eta, beta1=config.beta1, max_step=config.max_step)
    optimiser: dict[str, Any] = {"psi": adam, "phi": adam}
    if kind in CONTROLS:
        rule = bpl.rules.RULES[kind](circuit)
    else:
        synthesiser = bpl.Synthesiser(circuit, target="current", sees="synapses")
        rule = bpl.BPLambdaEProp(synthesiser, residual=True, trace="sweep")
        optimiser["theta"] = bpl.RLS(config.forget, config.ridge, config.bound)
    return bpl.Trainer(circuit, readout, rule, optimiser=optimiser, seed=int(trials.generate_state(1)[0]))


class Training:
    """A trainer on its way through the batches; once it has diverged it stands still."""

    def __init__(self, config: Config, folder: RunFolder, trainer: bpl.Trainer, diverged: bool = False) -> None:
        self.config, self.folder, self.task = config, folder, build_task(config)
        self.trainer, self.diverged = trainer, diverged

    def to(self, batch: int, key: str) -> Training:
        """Train until so many batches are done."""
        if not self.diverged:
            try:
                self.folder.fit(
                    self.trainer, self.task, key, epochs=None, stop_at=batch, batch_size=self.config.batch_size,
                    validate=False, progress=False, **self.config.recorded,
                )  # fmt: skip
            except bpl.DivergenceError:
                self.diverged = True
        return self

    def fork(self, kind: str, seed: int) -> Training:
        """A copy with an intervention."""
        fork = interventions.apply(self.trainer.fork(), kind, seed=seed)
        return Training(self.config, self.folder, fork, self.diverged)

    def results(self, kind: str) -> dict[str, Any]:
        """Losses of every batch, and of the test; infinite from a divergence on."""
        losses, missing = self.trainer.losses, self.config.batches - len(self.trainer.losses)
        test = np.inf
        if not self.diverged:
            with contextlib.suppress(bpl.DivergenceError):  # parameters that are finite, and yet too large
                test = self.trainer.evaluate(self.task, "test", batch_size=50 * self.config.targets)["loss"]
        return {f"{kind}.loss": losses + [np.inf] * missing, f"{kind}.test_loss": test}


def one(config: Config, folder: RunFolder, seed: int) -> dict[str, Any]:
    """Losses of the controls, of the intact run and of each fork."""
    results: dict[str, Any] = {}
    for kind in CONTROLS:
        training = Training(config, folder, build(config, seed, kind))
        results |= training.to(config.batches, f"seed={seed},{kind}").results(kind)
    intact = Training(config, folder, build(config, seed, "intact"))
    for batch in config.fork_at:
        intact.to(batch, f"seed={seed},{batch}")
        for kind in config.interventions:
            fork = intact.fork(kind, seed).to(config.batches, f"seed={seed},{kind}@{batch}")
            results |= fork.results(f"{kind}@{batch}")
    return results | intact.to(config.batches, f"seed={seed},intact").results("intact")


def remembered(config: Config, folder: RunFolder, seed: int) -> dict[str, np.ndarray]:
    """What `one` gives; computed once."""
    return folder.remember(f"seed={seed}", lambda: one(config, folder, seed))


def run(config: Config, folder: RunFolder) -> None:
    """Run it and write everything."""
    if config.fork_at != sorted({*config.fork_at} & {*range(1, config.batches)}):
        raise bpl.ValidationError(
            f"`fork_at` must be batches in order, from 1 to {config.batches - 1}; got {config.fork_at}"
        )
    for kind in config.interventions:  # a wrong one is an error now, not after the training
        interventions.apply(build(config, 0, "intact"), kind)
    if config.jobs > 1:  # they leave what they find where it is looked for below
        calls = {f"seed={seed}": (config, folder, seed) for seed in range(config.seeds)}
        run_jobs(remembered, calls, config.jobs, "association reach")
    found = [remembered(config, folder, seed) for seed in track(range(config.seeds), "association reach")]
    forks = [f"{kind}@{batch}" for batch in config.fork_at for kind in config.interventions]
    kinds = [*CONTROLS, "intact", *forks]
    record = xr.Dataset(
        {
            "loss": (("kind", "seed", "batch"), np.array([[f[f"{kind}.loss"] for f in found] for kind in kinds])),
            "test_loss": (("kind", "seed"), np.array([[f[f"{kind}.test_loss"] for f in found] for kind in kinds])),
        },
        {"kind": kinds, "seed": np.arange(config.seeds), "batch": np.arange(config.batches) + 1},
        {"baseline": build_task(config).baseline, "units": "squared error per trial"},
    )
    folder.save_recording(record)
    summary = summarise(config, record, forks)
    folder.add_summary(summary)
    draw(config, folder, record)
    show(summary, kinds)


def summarise(config: Config, record: xr.Dataset, forks: list[str]) -> dict[str, Any]:
    """The flat figures; the bootstrap has its own seed."""
    baseline, rng = record.baseline, np.random.default_rng(config.seed)
    summary: dict[str, Any] = {"baseline": baseline}
    for kind in record.kind.values:
        test = record.test_loss.sel(kind=kind).values
        summary |= {
            f"{kind}.test_loss.median": np.median(test),
            f"{kind}.test_loss.min": test.min(),
            f"{kind}.test_loss.max": test.max(),
            f"{kind}.solved": int((test < 0.2 * baseline).sum()),
            f"{kind}.diverged": int(np.isinf(test).sum()),
            f"{kind}.spikes": sum(spikes(row, baseline) for row in record.loss.sel(kind=kind).values),
        }
    for fork in forks:
        since = record.loss.sel(batch=slice(int(fork.rpartition("@")[2]) + 1, None)).mean("batch")
        its, intact = since.sel(kind=fork).values, since.sel(kind="intact").values
        with np.errstate(invalid="ignore"):
            difference = np.where(np.isinf(its) & np.isinf(intact), 0, its - intact)  # both diverged: neither is worse
        medians = np.median(rng.choice(difference, (2000, len(difference))), axis=1)
        low, high = np.percentile(medians, [2.5, 97.5], method="nearest")  # of numbers that may be infinite
        summary |= {
            f"{fork}.training_loss.median": np.median(its),
            f"{fork}.difference.median": np.median(difference),
            f"{fork}.difference.low": low,
            f"{fork}.difference.high": high,
            f"{fork}.worse": int((difference > 0).sum()),
        }
    most = 0.9 * config.seeds
    for kind in ("bptt", "intact"):
        summary[f"claim.{kind}"] = summary[f"{kind}.solved"] >= most
    summary["claim.eprop"] = bool(summary["eprop.test_loss.min"] > 0.8 * baseline)
    for kind in {"lesion", "scramble"} & set(config.interventions) if config.fork_at else ():
        summary[f"claim.{kind}"] = summary[f"{kind}@{config.fork_at[0]}.worse"] >= most
    return summary


def spikes(loss: np.ndarray, baseline: float) -> int:
    """Batches above half the baseline after the mean of ten was under a fifth of it."""
    smooth = np.convolve(loss, np.ones(10) / 10, "valid")
    solved = np.flatnonzero(smooth < 0.2 * baseline)
    return int((loss[solved[0] + 10 :] > 0.5 * baseline).sum()) if solved.size else 0


def show(summary: dict[str, Any], kinds: list[str]) -> None:
    """The table, and what became of the claims."""
    table = Table("", "test loss, median", "range", "solved", "spikes", "since the fork, minus intact", "worse")
    for kind in kinds:
        median, low, high = (summary[f"{kind}.test_loss.{part}"] for part in ("median", "min", "max"))
        row = [kind, f"{median:.2f}", f"{low:.2f}–{high:.2f}", str(summary[f"{kind}.solved"])]
        row.append(str(summary[f"{kind}.spikes"]))
        if f"{kind}.worse" in summary:
            median, low, high = (summary[f"{kind}.difference.{part}"] for part in ("median", "low", "high"))
            row += [f"{median:.2f} ({low:.2f}–{high:.2f})", str(summary[f"{kind}.worse"])]
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(f"staying at the centre costs {summary['baseline']:.2f}")
    for key in sorted(summary):
        if key.startswith("claim."):
            console.print(f"{key}: {'yes' if summary[key] else 'no'}")


def draw(config: Config, folder: RunFolder, record: xr.Dataset) -> None:
    """Loss of the rules, and of the forks beside them: a panel for each batch at which it was forked."""
    width = min(10, config.batches)
    batch = record.batch.values[width - 1 :] - (width - 1) / 2
    fig, axes = plotting.figure(1, max(len(config.fork_at), 1), figsize=(11, 4))
    for ax, forked in zip(axes[0], config.fork_at or [None], strict=True):
        kinds = [*CONTROLS, "intact"] + [f"{kind}@{forked}" for kind in config.interventions if forked]
        for colour, kind in zip(plotting.COLOURS, kinds, strict=False):
            rows = record.loss.sel(kind=kind).values
            smooth = np.stack([np.convolve(row, np.ones(width) / width, "valid") for row in rows])
            shown = batch >= (forked if "@" in kind else 0)
            ax.plot(batch[shown], np.median(smooth, axis=0)[shown], color=colour, label=kind.partition("@")[0])
        ax.axhline(record.baseline, color="grey", ls="--", lw=1, label="staying at the centre")
        if forked:
            ax.axvline(forked, color="grey", ls=":", lw=1)
            ax.set_title(f"Forked at batch {forked}", loc="left")
        ax.set(xlabel="batch", yscale="log")
        if ax is not axes[0, 0]:
            ax.sharey(axes[0, 0])
    axes[0, 0].set_ylabel("loss per trial (median over seeds)")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    folder.save_figure(fig, "association")
