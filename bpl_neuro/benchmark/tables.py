"""Tables of a benchmark's results: every cell a mean over seeds with its spread, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from bpl_neuro.benchmark.results import check_results
from bpl_neuro.checks import finite_array, instance, number, whole
from bpl_neuro.errors import ValidationError

__all__ = ["Difference", "Summary", "Table", "as_markdown", "difference", "figures", "markdown", "summarise", "tables"]

#: rules that the others are compared with, seed by seed
BASELINES = {"bptt": "BPTT", "compatible-1": "compatible BP(1)"}
#: how options are written in a table
SIGNS = {"eta": "η", "forget": "f"}


class Summary(NamedTuple):
    """Mean, standard deviation (n − 1; NaN for one value), smallest, largest, and number of values."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """Mean of paired differences, its 95 % interval (t; NaN for one pair), and number of pairs."""

    mean: float
    low: float
    high: float
    n: int


class Table(NamedTuple):
    """A title, names of columns, and rows of texts."""

    title: str
    header: list[str]
    rows: list[list[str]]


def summarise(values: Sequence[float]) -> Summary:
    """Figures of at least one value."""
    a = finite_array("values", values, ndim=1)
    if not a.size:
        raise ValidationError("`values` must be one number or more, got none")
    return Summary(a.mean(), a.std(ddof=1) if len(a) > 1 else np.nan, a.min(), a.max(), len(a))


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """first − second over the seeds that both have; None where there is none."""
    for name, given in (("first", first), ("second", second)):
        for seed, value in instance(name, given, Mapping, "a mapping of seeds to numbers").items():
            whole(f"{name}` by seed; `seed", seed), number(f"{name}[{seed}]", value, low=-math.inf, above=True)
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    a = np.array([first[seed] - second[seed] for seed in seeds])
    n = len(a)
    half = stats.t.ppf(0.975, n - 1) * a.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return Difference(a.mean(), a.mean() - half, a.mean() + half, n)


def accuracies(entry: Mapping[str, Any], epochs: int) -> dict[int, float]:
    """Seed → test accuracy after so many epochs, of the runs that came so far."""
    key = str(epochs)
    return {run["seed"]: value for run in entry["runs"] if (value := run["test_accuracy"].get(key)) is not None}


def stops(results: Mapping[str, Any]) -> list[int]:
    """The numbers of epochs after which runs were tested."""
    runs = [run for entry in results["labels"].values() for run in entry["runs"]]
    return sorted({int(epochs) for run in runs for epochs in run["test_accuracy"]})


def _diverged(entry: Mapping[str, Any], epochs: int) -> int:
    return sum(run["test_accuracy"].get(str(epochs), "not yet") is None for run in entry["runs"])


def _baselines(results: Mapping[str, Any], label: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rules to compare a label with, and their entries of the same circuit, where there are any."""
    own = results["labels"][label]
    for entry in results["labels"].values():
        if entry["circuit"] == own["circuit"] and entry["rule"] in BASELINES and entry["rule"] != own["rule"]:
            yield entry["rule"], entry


def figures(results: Mapping[str, Any]) -> dict[str, float | int]:
    """Flat figures by name: ``LABEL.epochs=E.test_accuracy.mean``, ``….minus_bptt.low``, ``LABEL.eta``, …."""
    check_results("results", results)
    found: dict[str, float | int] = {}
    for label, entry in results["labels"].items():
        for epochs in stops(results):
            name, values = f"{label}.epochs={epochs}", accuracies(entry, epochs)
            found[f"{name}.diverged"] = _diverged(entry, epochs)
            if values:
                found |= {f"{name}.test_accuracy.{k}": v for k, v in summarise([*values.values()])._asdict().items()}
            for rule, other in _baselines(results, label):
                if apart := difference(values, accuracies(other, epochs)):
                    found |= {f"{name}.minus_{rule}.{k}": v for k, v in apart._asdict().items()}
        for run in entry["runs"][:1]:
            found |= {f"{label}.{option}": value for option, value in run["options"].items()}
    return found


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Two tables for each circuit: accuracies, and differences to the rules that others are compared with.

    Parameters
    ----------
    results : mapping
        Of `collect` or `merge`; runs may be missing.
    """
    found, entries = [], check_results("results", results)["labels"]
    for circuit in dict.fromkeys(entry["circuit"] for entry in entries.values()):
        labels = [label for label, entry in entries.items() if entry["circuit"] == circuit]
        found += [_accuracy_table(results, circuit, labels), _difference_table(results, circuit, labels)]
    return found


def _accuracy_table(results: Mapping[str, Any], circuit: str, labels: Sequence[str]) -> Table:
    ends = stops(results)
    header = ["rule", "chosen", *(f"{_epochs(e)}: mean ± SD (range), seeds" for e in ends), "ms a batch"]
    rows = []
    for label in labels:
        entry = results["labels"][label]
        times = [run["ms_per_batch"] for run in entry["runs"] if run["ms_per_batch"]]
        cells = [_accuracy(entry, epochs) for epochs in ends]
        rows.append([entry["title"], _chosen(entry), *cells, f"{np.median(times):.1f}" if times else "–"])
        rows += [[other, f"the numbers of {entry['title']}", *("" for _ in ends), ""] for other in entry["also"]]
    return Table(f"{circuit}: test accuracy", header, rows)


def _difference_table(results: Mapping[str, Any], circuit: str, labels: Sequence[str]) -> Table:
    ends = stops(results)
    header = ["rule", *(f"minus {title}, {_epochs(e)}" for title in BASELINES.values() for e in ends)]
    rows = []
    for label in labels:
        entry, others = results["labels"][label], dict(_baselines(results, label))
        cells = []
        for rule in BASELINES:
            other = others.get(rule)
            pairs = [difference(accuracies(entry, e), accuracies(other, e)) if other else None for e in ends]
            cells += [_apart(pair) for pair in pairs]
        rows.append([entry["title"], *cells])
    return Table(f"{circuit}: paired differences, 95 % intervals, pairs of seeds", header, rows)


def _epochs(epochs: int) -> str:
    return f"{epochs} epoch" if epochs == 1 else f"{epochs} epochs"


def _accuracy(entry: Mapping[str, Any], epochs: int) -> str:
    """A cell: what came out, and what did not."""
    values, diverged = [*accuracies(entry, epochs).values()], _diverged(entry, epochs)
    parts = [f"{diverged} diverged"] if diverged else []
    if values:
        s = summarise(values)
        spread = f" ± {s.sd:.4f} ({s.low:.4f}–{s.high:.4f})" if s.n > 1 else ""
        parts.insert(0, f"{s.mean:.4f}{spread}, {s.n}")
    return "; ".join(parts) or "–"


def _apart(found: Difference | None) -> str:
    if found is None:
        return "–"
    interval = f" ({found.low:+.4f} to {found.high:+.4f})" if found.n > 1 else ""
    return f"{found.mean:+.4f}{interval}, {found.n}"


def _chosen(entry: Mapping[str, Any]) -> str:
    """Options of the runs; one at the edge of what was tried is marked, since a better one may lie beyond."""
    texts = []
    for run in entry["runs"]:
        parts = []
        for name, value in run["options"].items():
            tried = {record["options"][name] for record in entry["tuning"]}
            edge = " (edge)" if len(tried) > 1 and value in (min(tried), max(tried)) else ""
            parts.append(f"{SIGNS.get(name, name)} {value:g}{edge}")
        texts.append(", ".join(parts))
    return " / ".join(dict.fromkeys(texts)) or "–"


def markdown(results: Mapping[str, Any]) -> str:
    """All tables as a page has them."""
    return as_markdown(tables(results))


def as_markdown(found: Sequence[Table]) -> str:
    """Tables as a page has them."""
    lines = []
    for table in instance("found", found, list | tuple, "a list of tables"):
        instance("found", table, Table, "a list of tables, as `tables` gives")
        lines += [f"**{table.title}**", "", "| " + " | ".join(table.header) + " |", "|---" * len(table.header) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows] + [""]
    return "\n".join(lines)
