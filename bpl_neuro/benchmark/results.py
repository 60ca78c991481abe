"""What the jobs of a benchmark found: a file each, collected into one value that can be merged with others.

    {"benchmark": name, "settings": {…},
     "labels": {label: {"place": …, "title": …, "circuit": …, "rule": …, "also": […],
                        "tuning": [record, …], "runs": [record, …]}}}

``place`` is where a table has the label, and ``also`` names rules that need no training: their numbers are these.
A record is what one training found: ``seed``, ``options`` (learning rates), ``validation_accuracy`` after each epoch,
``test_accuracy`` by the number of epochs (as text: JSON has no other keys; None where it had diverged by then),
``diverged`` (None, or where and what) and ``ms_per_batch``. "tuning" holds the trainings that options are chosen by,
"runs" those that count; their seeds differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.checks import flag, instance, mapping, number, plain_seed, shown, word
from bpl_neuro.checks import path as checked_path
from bpl_neuro.errors import ValidationError
from bpl_neuro.storage import atomic_write

__all__ = ["Job", "JobFile", "check_same_benchmark", "choose", "collect", "merge", "read_record", "results_text"]

Record = dict[str, Any]
Results = dict[str, Any]
RECORDED = {"seed", "options", "validation_accuracy", "test_accuracy", "diverged", "ms_per_batch"}
STAGES = ("tuning", "runs")
DESCRIBING = ("place", "title", "circuit", "rule", "also")


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes
    ----------
    stage : {"tuning", "runs"}
    label : str
    seed : int
    options : mapping of str to float
        Learning rates and the like.
    """

    stage: str
    label: str
    seed: int
    options: Mapping[str, float]

    def __post_init__(self) -> None:
        word("stage", self.stage, STAGES), instance("label", self.label, str, "a text"), plain_seed("seed", self.seed)
        if any(part in self.label for part in ("/", "\\", "\0")):
            raise ValidationError(f"`label` must be part of a file's name, without a separator, got {self.label!r}")
        for name, value in mapping("options", self.options, "names to numbers").items():
            number(f"options[{name!r}]", value, low=-math.inf, above=True)

    @property
    def key(self) -> str:
        """A name for files. That of a run says nothing of its options: there is one for each seed."""
        if self.stage == "runs":
            return f"{self.label},seed={self.seed}"
        options = [f"{name}={value:g}" for name, value in self.options.items()]
        return ",".join([self.stage, self.label, f"seed={self.seed}", *options])


class JobFile:
    """The record of a job, in a file of its own that is whole at any moment.

    Parameters
    ----------
    folder : Path
        Of the run; files are in its ``jobs``.
    job : Job
    about : mapping
        ``benchmark``, ``settings``, and what describes the label (`DESCRIBING`).

    Attributes
    ----------
    record : dict
        As it stands; `write` keeps it.
    done : bool
        Nothing is left to train.

    Raises
    ------
    ValidationError
        If the file is damaged, or of another job.
    """

    def __init__(self, folder: Path, job: Job, about: Mapping[str, Any]) -> None:
        self.job, self.about = instance("job", job, Job, "a Job"), mapping("about", about, "names to texts")
        self.path = checked_path("folder", folder) / "jobs" / f"{job.key}.json"
        self.done = False
        self.record: Record = {
            "seed": job.seed, "options": dict(job.options), "validation_accuracy": [], "test_accuracy": {},
            "diverged": None, "ms_per_batch": None,
        }  # fmt: skip
        if self.path.exists():
            content, whose = read_record(self.path), {**self.about, "job": asdict(job)}
            if other := [key for key in whose if content.get(key) != json.loads(json.dumps(whose[key]))]:
                raise ValidationError(
                    f"{self.path}: is of {other[0]} = {content.get(other[0])!r}, not {whose[other[0]]!r}; take it away "
                    "to have the job done again"
                )
            if not isinstance(content.get("record"), dict) or content["record"].keys() != self.record.keys():
                raise ValidationError(f"{self.path}: is damaged: its record must have {', '.join(self.record)}")
            self.done, self.record = content.get("done") is True, content["record"]

    def write(self, *, done: bool = False) -> None:
        """Keep the record."""
        self.done = flag("done", done)
        content = self.about | {"job": asdict(self.job), "done": self.done, "record": self.record}
        atomic_write(self.path, json.dumps(content, ensure_ascii=False) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """What a job left in a file; ValidationError if it is damaged."""
    path = checked_path("path", path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValidationError(f"{path}: cannot read it: {error}") from None
    if not isinstance(content, dict):
        raise ValidationError(f"{path}: is damaged, or no record of a job")
    return content


def collect(folder: str | Path) -> Results:
    """The results of a run folder, finished or not.

    Raises
    ------
    ValidationError
        If there are none, or a file is damaged.
    """
    paths = sorted((checked_path("folder", folder) / "jobs").glob("*.json"))
    if not paths:
        raise ValidationError(f"{folder}: no results of jobs in it; give the folder of a benchmark's run")
    results: Results | None = None
    for content in map(read_record, paths):
        entry = {key: content[key] for key in DESCRIBING} | {stage: [] for stage in STAGES}
        entry[content["job"]["stage"]].append(content["record"])
        one = {key: content[key] for key in ("benchmark", "settings")} | {"labels": {content["job"]["label"]: entry}}
        results = one if results is None else merge(results, one)
    assert results is not None
    return results


def merge(first: Results, second: Results) -> Results:
    """Both results in one: other labels, other seeds, and longer trainings of the same ones. Neither is changed.

    Raises
    ------
    ValidationError
        If they are of different benchmarks or settings, or give different numbers for the same training; says which.
    """
    check_same_benchmark(check_results("first", first), check_results("second", second))
    labels = dict(first["labels"])
    for label, entry in second["labels"].items():
        labels[label] = _merged_entry(label, labels[label], entry) if label in labels else entry
    return first | {"labels": dict(sorted(labels.items(), key=lambda item: item[1]["place"]))}


def check_results(name: str, results: Any) -> Results:
    """Results as this module describes them; ValidationError for anything else."""
    what = "results of a benchmark, as `collect` or `merge` gives them"
    if not isinstance(results, dict) or not {"benchmark", "settings", "labels"} <= results.keys():
        raise ValidationError(f"`{name}` must be {what}, got {shown(results)}")
    for entry in mapping(name, results["labels"], "labels to what they found").values():
        if not isinstance(entry, dict) or not {*DESCRIBING, *STAGES} <= entry.keys():
            raise ValidationError(f"`{name}` must be {what}, got for a label {shown(entry)}")
        for stage in STAGES:
            for record in entry[stage]:
                _check_record(name, record)
    return results


def _check_record(name: str, record: Any) -> None:
    if not isinstance(record, dict) or not record.keys() >= RECORDED:
        raise ValidationError(f"`{name}` must hold records with {', '.join(sorted(RECORDED))}, got {shown(record)}")


def check_same_benchmark(first: Results, second: Results) -> None:
    """ValidationError for results of different benchmarks or settings."""
    for key in ("benchmark", "settings"):
        if first[key] != second[key]:
            raise ValidationError(f"results of different {key} cannot be merged: {first[key]!r} and {second[key]!r}")


def _merged_entry(label: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Titles are the second's: it is the newer one."""
    merged = {key: second[key] for key in DESCRIBING}
    for stage in STAGES:
        records: dict[Any, Record] = {}
        for record in [*first[stage], *second[stage]]:
            # A seed has one run, whatever its options; candidates differ in them.
            key = (record["seed"], *(sorted(record["options"].items()) if stage == "tuning" else ()))
            records[key] = _longer(label, records[key], record) if key in records else record
        merged[stage] = [records[key] for key in sorted(records)]
    return merged


def _longer(label: str, first: Record, second: Record) -> Record:
    """Of two records of one training that which went on longer; where both have been, they must agree."""
    where = f"{label}, seed {first['seed']}"
    if first["options"] != second["options"]:
        raise ValidationError(f"{where}: trained with {first['options']} and with {second['options']}; keep one")
    short, long = sorted((first, second), key=_length)
    curve, tests = short["validation_accuracy"], short["test_accuracy"]
    both = tests.keys() & long["test_accuracy"].keys()
    if curve != long["validation_accuracy"][: len(curve)] or any(tests[k] != long["test_accuracy"][k] for k in both):
        raise ValidationError(f"{where}: two trainings of it gave different numbers; keep one")
    return long | {"test_accuracy": tests | long["test_accuracy"]}


def _length(record: Record) -> tuple[int, bool]:
    return len(record["validation_accuracy"]), record["diverged"] is not None


def choose(tuning: Sequence[Record]) -> dict[str, float]:
    """The options with the best validation accuracy over the last three epochs and all seeds; one that diverged is out.

    Where all diverged it is those with the smallest values: the run then shows it.
    """
    for record in instance("tuning", tuning, list | tuple, "a list of records"):
        _check_record("tuning", record)
    if not tuning:
        raise ValidationError("`tuning` must be one or more records, got none")
    by_options: dict[tuple[tuple[str, float], ...], list[float]] = {}
    for record in tuning:
        # the last epoch alone may be a bad one of good options
        score = -np.inf if record["diverged"] else float(np.mean(record["validation_accuracy"][-3:]))
        by_options.setdefault(tuple(sorted(record["options"].items())), []).append(score)
    best = max(sorted(by_options), key=lambda options: float(np.mean(by_options[options])))
    return dict(best)


def results_text(results: Results) -> str:
    """Results as JSON with one line for each record, labels in their places."""
    if not isinstance(results, dict) or "runs" not in results:  # those of curricula have runs
        check_results("results", results)
    return _text(results, 4, "") + "\n"


def _text(value: Any, levels: int, indent: str) -> str:
    """JSON whose outer levels are broken into lines."""
    if not levels or not value or not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {_text(v, levels - 1, inner)}" for key, v in value.items()]
        opening, closing = "{", "}"
    else:
        parts = [_text(v, levels - 1, inner) for v in value]
        opening, closing = "[", "]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{closing}"
