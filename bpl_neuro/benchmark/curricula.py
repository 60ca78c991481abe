"""Results of curricula: how far each training came, in files of their own, merged into one value, and as a table.

    {"benchmark": name, "settings": {…}, "runs": [record, …]}

A record is what one training found: ``label``, ``title``, ``place``, ``seed``, ``batches`` trained, ``stopped`` (None
while it goes on, or by what), ``ms_per_batch`` and ``advances``: [batch, steps of a trial, N, R] each time that the
curriculum moved on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bpl_neuro.benchmark.results import check_same_benchmark, read_record
from bpl_neuro.benchmark.tables import Table
from bpl_neuro.checks import path as checked_path
from bpl_neuro.checks import shown
from bpl_neuro.errors import ValidationError

__all__ = ["collect_curricula", "curriculum_table", "merge_curricula"]

Record = dict[str, Any]
Results = dict[str, Any]
RECORDED = {"label", "title", "place", "seed", "batches", "stopped", "ms_per_batch", "advances"}
#: steps of a trial: the first that all rules take some time for
MILESTONES = (12, 19, 33)


def collect_curricula(paths: Sequence[Path]) -> Results:
    """The results in the files of jobs, finished or not."""
    results: Results | None = None
    if not isinstance(paths, list | tuple) or not paths:
        raise ValidationError(f"`paths` must be a list of one file or more, got {shown(paths)}")
    for path in paths:
        content = read_record(checked_path("paths", path))
        if not {"benchmark", "settings"} <= content.keys():
            raise ValidationError(f"`paths`: {path} holds no results of a curriculum")
        one = {key: content.pop(key) for key in ("benchmark", "settings")} | {"runs": [content]}
        results = one if results is None else merge_curricula(results, one)
    assert results is not None
    return results


def merge_curricula(first: Results, second: Results) -> Results:
    """Both in one; of two records of one training the longer. Neither is changed.

    Raises
    ------
    ValidationError
        If they are of different settings, or disagree on the same training; says which.
    """
    check_same_benchmark(_checked("first", first), _checked("second", second))
    records: dict[tuple[str, int], Record] = {}
    for record in [*first["runs"], *second["runs"]]:
        run = (record["label"], record["seed"])
        records[run] = _longer(records[run], record) if run in records else record
    return first | {"runs": sorted(records.values(), key=lambda record: (record["place"], record["seed"]))}


def _checked(name: str, results: Any) -> Results:
    """ValidationError unless these are results as this module describes them."""
    what = "results of curricula, as `collect_curricula` gives them"
    if not isinstance(results, dict) or not {"benchmark", "settings", "runs"} <= results.keys():
        raise ValidationError(f"`{name}` must be {what}, got {shown(results)}")
    for record in results["runs"]:
        if not isinstance(record, dict) or not record.keys() >= RECORDED:
            raise ValidationError(f"`{name}` must hold records with {', '.join(sorted(RECORDED))}, got {shown(record)}")
    return results


def _longer(first: Record, second: Record) -> Record:
    short, long = sorted((first, second), key=lambda record: record["batches"])
    if short["advances"] != [move for move in long["advances"] if move[0] <= short["batches"]]:
        raise ValidationError(f"{first['label']}, seed {first['seed']}: two trainings of it differ; keep one")
    return long


def curriculum_table(results: Results) -> Table:
    """A row for each rule and seed."""
    header = ["rule", "seed", "steps of a trial reached", "pattern N × repeats R", "last advance at batch"]
    header += [f"batches to {steps} steps" for steps in MILESTONES] + ["batches trained", "stopped by"]
    rows = []
    for record in _checked("results", results)["runs"]:
        batch, steps, N, R = record["advances"][-1] if record["advances"] else (0, 5, 1, 1)
        firsts = [_first(record, milestone) for milestone in MILESTONES]
        rows.append([
            record["title"], str(record["seed"]), str(steps), f"{N} × {R}", f"{batch:,}", *firsts,
            f"{record['batches']:,}", record["stopped"] or "still going on",
        ])  # fmt: skip
    return Table("Copy–repeat: how far the curriculum came", header, rows)


def _first(record: Mapping[str, Any], steps: int) -> str:
    """The batch after which trials of so many steps were reached."""
    return next((f"{move[0]:,}" for move in record["advances"] if move[1] >= steps), "–")
