"""Row-by-row MNIST with every rule: learning rates chosen on validation, several seeds, test accuracy.

The LSTM of 30 units of `row-mnist` (group "rules"), or rate circuits with four of the rules (group "circuits"); the
labels are in `_row_mnist_labels.py`. First, each label is trained for ten epochs with each of its candidates
(learning rates; for compatible synthesisers, how fast they forget, too), with seeds of their own; the best by
validation accuracy over the last three of them is taken. Then it is trained with every seed; all labels see the same
initial weights and the same trials of a seed, so differences are paired. Test accuracy is that of the parameters at
the end of an epoch, not of those with the lowest validation loss.

Every training is a job in a process of its own, ``--jobs`` at a time; killed, the run goes on with ``--resume`` from
each job's last checkpoint. `docs/make_results.py` takes the results of a run, finished or not, into the documentation.

summary.json
    LABEL.eta, .forget                               what was chosen
    LABEL.epochs=E.test_accuracy.mean, .sd, .low, .high, .n       over seeds
    LABEL.epochs=E.minus_bptt.mean, .low, .high, .n               paired difference, 95 % interval; minus_compatible-1
    LABEL.epochs=E.diverged                          seeds in which a number stopped being finite
jobs/*.json
    what each training found
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import Field
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import plotting
from bpl_neuro.benchmark import Job, JobFile, choose, collect, figures, run_jobs, tables
from bpl_neuro.experiment import RunFolder, TrainingConfig
from bpl_neuro.simulations._row_mnist_labels import CIRCUITS, GROUPS, LABELS, RULES, Options


class Config(TrainingConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {
            # one rate, so there is none to choose: every job costs seconds to start
            "labels": ["bptt", "bp-1"], "rates": [3e-3], "seeds": [0], "epochs": [1], "train_size": 500
        }
    }  # fmt: skip

    group: Literal["rules", "circuits", "all"] = "rules"
    labels: list[str] | None = None  # all of the group
    seeds: list[int] = [0, 1, 2, 3, 4]
    epochs: list[int] = [10, 30]
    rates: list[float] = [1e-3, 3e-3, 1e-2]
    forgets: list[float] = [0.9, 0.95]
    tuning_seeds: list[int] = [1000]
    tuning_epochs: int = 10
    chosen: dict[str, dict[str, float]] = {}  # label → options: without tuning
    batch_size: int = 50
    train_size: int | None = None
    dtype: str = "float32"
    data: str | None = None
    checkpoint_every: int = 500
    jobs: int = Field(1, ge=1, exclude=True)  # a run may go on with more of them, or fewer


def chosen_labels(config: Config) -> list[str]:
    """Labels of the settings; a ValidationError for one that is unknown."""
    groups = GROUPS.values() if config.group == "all" else [GROUPS[config.group]]
    members = {pair for group in groups for pair in group}
    labels = config.labels or [label for label, pair in LABELS.items() if pair in members]
    for name, given in (("labels", labels), ("chosen", config.chosen)):
        if unknown := [label for label in given if label not in LABELS]:
            raise bpl.ValidationError(f"`{name}` has {unknown[0]!r}; known: {', '.join(LABELS)}")
    return labels


@functools.cache
def load_task(data: str | None, train_size: int | None) -> bpl.tasks.RowMNIST:
    """The digits, once in a process."""
    return bpl.tasks.RowMNIST(data, train_size=train_size)


def build(config: Config, label: str, seed: int, options: Options) -> bpl.Trainer:
    """The trainer of a job. Weights and trials follow from the seed alone, so labels can be compared in pairs."""
    circuit_name, rule_name = LABELS[label]
    rule, task = RULES[rule_name], load_task(config.data, config.train_size)
    weights, trials = np.random.SeedSequence([config.seed, seed]).spawn(2)
    rng = np.random.default_rng(weights)
    circuit = CIRCUITS[circuit_name].make(task.input_size, seed=rng, dtype=config.dtype, backend=config.backend)
    readout = bpl.Readout(circuit, task.output_size, task.loss, reduction=rule.reduction, seed=rng)
    made = rule.make(circuit)
    optimiser = {"psi": rule.psi(options), "phi": bpl.Adam(options["eta"])}
    if made.needs_synthesiser:
        optimiser["theta"] = rule.theta(options)
    return bpl.Trainer(
        circuit, readout, made, optimiser=optimiser, schedule=rule.schedule, seed=int(trials.generate_state(1)[0])
    )


def job_file(config: Config, folder: RunFolder, job: Job) -> JobFile:
    """Where a job's record is, with what a table says of its label."""
    circuit, rule = LABELS[job.label]
    about = {
        "benchmark": "row_mnist",
        "settings": {key: getattr(config, key) for key in ("seed", "batch_size", "train_size", "dtype")},
        "place": list(LABELS).index(job.label), "title": RULES[rule].title, "circuit": CIRCUITS[circuit].title,
        "rule": rule, "also": list(RULES[rule].also),
    }  # fmt: skip
    return JobFile(folder.path, job, about)


def train(config: Config, folder: RunFolder, job: Job) -> None:
    """A job: train, test where `epochs` says so, and keep what was found; goes on where it was interrupted."""
    file = job_file(config, folder, job)
    record, trainer = file.record, build(config, job.label, job.seed, job.options)
    task, moments = load_task(config.data, config.train_size), [time.process_time()]
    common = {"batch_size": config.batch_size, "progress": False, **config.recorded}
    common["callbacks"] = [lambda trainer, outcome: moments.append(time.process_time())]
    ends = [config.tuning_epochs] if job.stage == "tuning" else sorted(config.epochs)
    for epochs in ends:
        if str(epochs) in record["test_accuracy"]:
            continue  # tested before an interruption, and the checkpoint is further
        try:
            folder.fit(trainer, task, job.key, epochs=epochs, **common)
        except bpl.DivergenceError as error:
            record["diverged"] = {"epoch": trainer.epoch + 1, "quantity": error.quantity}
        record["validation_accuracy"] = [round(entry["validation_accuracy"], 5) for entry in trainer.history]
        if len(moments) > 1:
            record["ms_per_batch"] = round(1e3 * float(np.median(np.diff(moments))), 2)
        if record["diverged"]:
            record["test_accuracy"] |= {str(end): None for end in ends if end >= epochs and job.stage == "runs"}
            break
        if job.stage == "runs":
            record["test_accuracy"][str(epochs)] = round(trainer.evaluate(task, "test")["accuracy"], 5)
            file.write()
    file.write(done=True)


def finish_jobs(config: Config, folder: RunFolder, jobs: list[Job], title: str) -> None:
    """Run those that are not done, so many at a time."""
    left = {job.key: (config, folder, job) for job in jobs if not job_file(config, folder, job).done}
    if left:
        run_jobs(train, left, config.jobs, title)


def run(config: Config, folder: RunFolder) -> None:
    """Choose, train, and write everything."""
    if both := set(config.seeds) & set(config.tuning_seeds):
        raise bpl.ValidationError(f"`tuning_seeds` must not be among `seeds`: {both.pop()} is")
    labels, tuning, options = chosen_labels(config), [], dict(config.chosen)
    for label in labels:
        candidates = RULES[LABELS[label][1]].candidates(config.rates, config.forgets)
        if options.get(label, candidates[0]).keys() != candidates[0].keys():
            raise bpl.ValidationError(
                f"`chosen` must have {', '.join(candidates[0])} for {label}, got {options[label]}"
            )
        build(config, label, 0, options.get(label, candidates[0]))  # what else is wrong is an error now, too
        if label not in options and len(candidates) == 1:
            options[label] = candidates[0]
        elif label not in options:
            tuning += [Job("tuning", label, seed, each) for seed in config.tuning_seeds for each in candidates]
    finish_jobs(config, folder, tuning, "choosing rates")
    for label in dict.fromkeys(job.label for job in tuning):
        records = [job_file(config, folder, job).record for job in tuning if job.label == label]
        options[label] = choose(records)
    # Seed by seed, so that a run that is cut short has all labels.
    runs = [Job("runs", label, seed, options[label]) for seed in config.seeds for label in labels]
    finish_jobs(config, folder, runs, "training")
    results = collect(folder.path)
    folder.add_summary(figures(results))
    record = as_dataset(results, config)
    folder.save_recording(record)
    draw(folder, results, record)
    console = Console(width=160)
    for found in tables(results):
        table = Table(*found.header, title=found.title, title_justify="left")
        for row in found.rows:
            table.add_row(*row)
        console.print(table)


def as_dataset(results: Mapping[str, Any], config: Config) -> xr.Dataset:
    """Accuracies as arrays, NaN where a run diverged."""
    labels, epoch = list(results["labels"]), np.arange(max(config.epochs)) + 1
    validation = np.full((len(labels), len(config.seeds), len(epoch)), np.nan)
    test = np.full((len(labels), len(config.seeds), len(config.epochs)), np.nan)
    for k, entry in enumerate(results["labels"].values()):
        for run in entry["runs"]:
            s, curve = config.seeds.index(run["seed"]), run["validation_accuracy"]
            validation[k, s, : len(curve)] = curve
            test[k, s] = [run["test_accuracy"].get(str(epochs), np.nan) for epochs in config.epochs]
    return xr.Dataset(
        {
            "validation_accuracy": (("label", "seed", "epoch"), validation),
            "test_accuracy": (("label", "seed", "tested"), test),
        },
        {"label": labels, "seed": config.seeds, "epoch": epoch, "tested": config.epochs},
    )  # fmt: skip


def draw(folder: RunFolder, results: Mapping[str, Any], record: xr.Dataset) -> None:
    """Test accuracy, a dot for each seed; and learning curves."""
    entries = results["labels"]
    several = len({entry["circuit"] for entry in entries.values()}) > 1
    titles = [f"{e['circuit'].split(',')[0]}: {e['title']}" if several else e["title"] for e in entries.values()]
    y = np.arange(len(titles))[::-1]
    fig, axes = plotting.figure(figsize=(8, 1.2 + 0.27 * len(titles)))
    for colour, epochs in zip(plotting.COLOURS, record["tested"].values, strict=False):
        values = record["test_accuracy"].sel(tested=epochs)
        for seed in record["seed"].values:
            axes[0, 0].plot(values.sel(seed=seed), y, "o", ms=4, alpha=0.6, mew=0, color=colour)
        axes[0, 0].plot(values.mean("seed"), y, "|", ms=12, mew=2, color=colour, label=int(epochs))
    axes[0, 0].set(yticks=y, yticklabels=titles, ylim=(-0.7, len(y) - 0.3))
    axes[0, 0].set(xlabel="test accuracy (dots: seeds, bars: means)")
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="epochs")
    folder.save_figure(fig, "accuracy")
    fig, axes = plotting.figure(figsize=(10, 6))
    curves = dict(zip(titles, record["validation_accuracy"].values, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # epochs that no seed came to
        plotting.plot_learning(axes[0, 0], record["epoch"].values, curves, xlabel="epoch", ylabel="validation accuracy")
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    folder.save_figure(fig, "learning")
