"""Benchmarks: merging results, choosing rates, tables, the documentation, and jobs in processes of their own."""

import importlib.util
import json
import multiprocessing
import os
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import bpl_neuro as bpl
from bpl_neuro import benchmark
from bpl_neuro.benchmark import Job, JobFile, choose, difference, figures, markdown, merge, summarise

ROOT = Path(bpl.__file__).parents[1]


def record(seed, curve, tests=None, *, diverged=None, ms=4.0, **options):
    return {
        "seed": seed, "options": options or {"eta": 1e-3}, "validation_accuracy": curve, "test_accuracy": tests or {},
        "diverged": diverged, "ms_per_batch": ms,
    }  # fmt: skip


def entry(runs=(), tuning=(), *, rule="bptt", circuit="LSTM", place=0, also=()):
    return {
        "place": place, "title": rule.upper(), "circuit": circuit, "rule": rule, "also": list(also),
        "tuning": list(tuning), "runs": list(runs),
    }  # fmt: skip


def results(**labels):
    return {"benchmark": "digits", "settings": {"batch_size": 50}, "labels": labels}


BLEW_UP = {"epoch": 2, "quantity": "psi"}


# Merging.


def test_other_labels_and_other_seeds_are_added():
    a = results(eprop=entry([record(0, [0.8])], rule="eprop", place=1))
    b = results(eprop=entry([record(1, [0.7])], rule="eprop", place=1), bptt=entry([record(0, [0.9])]))
    before = deepcopy((a, b))
    merged = merge(a, b)
    assert list(merged["labels"]) == ["bptt", "eprop"]  # by place, not by when they came
    assert [run["seed"] for run in merged["labels"]["eprop"]["runs"]] == [0, 1]
    assert (a, b) == before
    assert merge(b, a) == merged == merge(merged, a) == merge(a, merged)


def test_the_longer_training_stays_whichever_comes_first():
    short = results(bptt=entry([record(0, [0.5, 0.6], {"2": 0.61}, ms=9)]))
    long = results(bptt=entry([record(0, [0.5, 0.6, 0.7], {"3": 0.71})]))
    for merged in (merge(short, long), merge(long, short)):
        (run,) = merged["labels"]["bptt"]["runs"]
        assert run["validation_accuracy"] == [0.5, 0.6, 0.7] and run["test_accuracy"] == {"2": 0.61, "3": 0.71}
    ended = results(bptt=entry([record(0, [0.5, 0.6], diverged=BLEW_UP)]))
    under_way = results(bptt=entry([record(0, [0.5, 0.6])]))
    for merged in (merge(ended, under_way), merge(under_way, ended)):
        assert merged["labels"]["bptt"]["runs"][0]["diverged"] == BLEW_UP


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (record(0, [0.5, 0.61], {"2": 0.6}), "bptt, seed 0: two trainings of it gave different numbers"),
        (record(0, [0.5, 0.6, 0.7], {"2": 0.62}), "different numbers"),
        (record(0, [0.5, 0.6], {"2": 0.6}, eta=3e-3), r"trained with \{'eta': 0.001\} and with \{'eta': 0.003\}"),
    ],
)
def test_two_trainings_that_disagree_are_not_merged(other, message):
    one = results(bptt=entry([record(0, [0.5, 0.6], {"2": 0.6})]))
    with pytest.raises(bpl.ValidationError, match=message):
        merge(one, results(bptt=entry([other])))


def test_results_of_other_settings_are_not_merged():
    other = results() | {"settings": {"batch_size": 100}}
    with pytest.raises(bpl.ValidationError, match="different settings"):
        merge(results(), other)


def test_candidates_of_one_seed_stay_apart():
    a = results(bptt=entry(tuning=[record(9, [0.5], eta=1e-3)]))
    b = results(bptt=entry(tuning=[record(9, [0.6], eta=1e-2), record(9, [0.5], eta=1e-3)]))
    assert [r["options"]["eta"] for r in merge(a, b)["labels"]["bptt"]["tuning"]] == [1e-3, 1e-2]


def test_results_as_text_have_a_line_for_each_record():
    many = results(bptt=entry([record(seed, [0.5, 0.6]) for seed in range(3)], [record(9, [0.5])]))
    text = benchmark.results_text(many)
    assert json.loads(text) == many
    assert sum('"validation_accuracy": [0.5, 0.6]' in line for line in text.splitlines()) == 3


# Choosing.


def test_the_best_mean_over_seeds_and_the_last_three_epochs_is_chosen():
    tuning = [
        record(8, [0.9, 0.7, 0.7, 0.70], eta=1e-3), record(9, [0.9, 0.7, 0.7, 0.72], eta=1e-3),
        record(8, [0.1, 0.8, 0.8, 0.80], eta=3e-3), record(9, [0.1, 0.7, 0.7, 0.55], eta=3e-3),
        record(8, [0.1, 0.9, 0.9, 0.99], eta=1e-2), record(9, [0.2], diverged=BLEW_UP, eta=1e-2),
    ]  # fmt: skip
    # .725 against .703; neither the best single one, nor the best at first or in the last epoch
    assert choose(tuning) == {"eta": 3e-3}
    assert choose(tuning[::-1]) == {"eta": 3e-3}


def test_where_all_diverge_the_smallest_is_chosen():
    tuning = [record(8, [], diverged=BLEW_UP, eta=eta, forget=f) for eta in (1e-2, 1e-3) for f in (0.9, 0.8)]
    assert choose(tuning) == {"eta": 1e-3, "forget": 0.8}


# Tables.


def test_differences_are_paired_by_seed():
    first, second = {0: 0.9, 1: 0.8, 2: 0.85}, {1: 0.7, 2: 0.72, 3: 0.1}
    found = difference(first, second)
    expected = stats.ttest_rel([0.8, 0.85], [0.7, 0.72]).confidence_interval(0.95)
    assert found.n == 2 and found.mean == pytest.approx(0.115)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert difference(first, {3: 0.1}) is None
    assert np.isnan(difference({0: 0.9}, {0: 0.8}).low)


def test_a_summary_has_the_spread_of_a_sample():
    found = summarise([0.9, 0.8, 0.7])
    assert found == pytest.approx((0.8, 0.1, 0.7, 0.9, 3))
    assert np.isnan(summarise([0.9]).sd)


def some_results():
    rates = [record(9, [0.5], eta=eta) for eta in (1e-4, 1e-3, 1e-2)]
    blown_up = record(1, [0.1], {"1": None, "2": None}, diverged=BLEW_UP, eta=1e-2)
    return results(
        bptt=entry(
            [record(0, [0.9], {"1": 0.91, "2": 0.95}), record(1, [0.9], {"1": 0.93, "2": 0.97})], rates, also=["RTRL"]
        ),
        eprop=entry(
            [record(0, [0.8], {"1": 0.85}, eta=1e-2), blown_up], rates, rule="eprop"
        ),
        tanh=entry([record(0, [0.5], {"1": 0.5})], rule="eprop", circuit="tanh"),
    )  # fmt: skip


def test_tables_say_what_came_out_and_what_did_not():
    text = markdown(some_results())
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()[::-1] if line.startswith("| ")}
    assert "0.9200 ± 0.0141 (0.9100–0.9300), 2 | 0.9600 ± 0.0141 (0.9500–0.9700), 2" in rows["BPTT"]
    assert "| the numbers of BPTT |" in rows["RTRL"]
    lines = [line for line in text.splitlines() if line.startswith("| EPROP")]
    assert "η 0.01 (edge)" in lines[0] and "(edge)" not in rows["BPTT"]
    assert "0.8500, 1; 1 diverged | 1 diverged" in lines[0]
    assert "-0.0600, 1 | – | – | –" in lines[1]
    assert lines[3].split("|")[2:-1] == [" – "] * 4  # the other circuit has no BPTT of its own


def test_the_summary_has_the_same_figures():
    found = figures(some_results())
    assert found["eprop.epochs=1.minus_bptt.mean"] == pytest.approx(-0.06)
    assert found["eprop.epochs=2.diverged"] == 1 and found["eprop.eta"] == 1e-2
    assert found["bptt.epochs=2.test_accuracy.mean"] == pytest.approx(0.96)
    assert not [key for key in found if key.startswith("tanh") and "minus" in key]


# Files of jobs, and the documentation.


ABOUT = {
    "benchmark": "digits",
    "settings": {},
    "place": 0,
    "title": "BPTT",
    "circuit": "LSTM",
    "rule": "bptt",
    "also": [],
}


def write(folder, seed, tests):
    file = JobFile(folder, Job("runs", "bptt", seed, {"eta": 1e-3}), ABOUT)
    file.record |= {"validation_accuracy": [0.5] * 10, "test_accuracy": tests}
    file.write()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"dtype": "float32"}}, "is of settings"),
        ({"job": {"stage": "runs", "label": "eprop", "seed": 0, "options": {"eta": 1e-3}}}, "is of job"),
        ({"record": {}}, "its record must have seed, options"),
        ({"record": None}, "its record must have seed, options"),
    ],
)
def test_a_job_does_not_go_on_with_another_ones_record(tmp_path, change, message):
    write(tmp_path, 0, {"10": 0.5})
    (path,) = (tmp_path / "jobs").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(bpl.ValidationError, match=message):
        write(tmp_path, 0, {})
    path.write_text("[]")
    with pytest.raises(bpl.ValidationError, match="no record of a job"):
        write(tmp_path, 0, {})


def script():
    path = ROOT / "docs" / "make_results.py"
    if not path.is_file():
        pytest.skip("not in a source tree")
    spec = importlib.util.spec_from_file_location("make_results", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_unfinished_run_can_be_taken_in_and_its_rest_later(tmp_path):
    docs, first, second = tmp_path / "docs", tmp_path / "first", tmp_path / "second"
    docs.mkdir()
    make = script()
    page = docs / "results.md"
    page.write_text("before\n<!-- tables of digits -->\nold\n<!-- end of digits -->\nafter\n")
    write(first, 0, {"10": 0.97})
    write(second, 1, {"10": 0.95})
    for folder in (first, second, first):
        make.take_in(folder, docs)
    text = make.page_with_tables(docs)
    assert "0.9600 ± 0.0141 (0.9500–0.9700), 2" in text and "old" not in text
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    page.write_text(text)
    assert make.page_with_tables(docs) == text
    page.write_text("no marks")
    with pytest.raises(bpl.ValidationError, match="no place for digits"):
        make.page_with_tables(docs)
    with pytest.raises(bpl.ValidationError, match="no results of jobs"):
        make.take_in(tmp_path / "elsewhere", docs)


def test_the_tables_of_the_documentation_are_those_of_its_results():
    make = script()
    assert make.page_with_tables() == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


# Processes.


def leave_a_note(path, fails):
    Path(path).write_text(os.environ["OMP_NUM_THREADS"])
    if fails:
        sys.exit(3)


def wait_long(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.stage
def test_a_job_that_fails_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    calls = {f"job {k}": (tmp_path / str(k), k == 0) for k in range(3)}
    with pytest.raises(bpl.BplError, match=r"1 of 3 jobs failed.*job 0 \(exit status 3\)"):
        benchmark.run_jobs(leave_a_note, calls, 1, "notes")
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["1"] * 3
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.stage
def test_jobs_end_with_a_parent_that_is_killed(tmp_path):
    note = tmp_path / "note"
    parent = multiprocessing.get_context("spawn").Process(
        target=benchmark.run_jobs, args=(wait_long, {"long": (note,)}, 1, "x")
    )
    parent.start()
    until(lambda: note.exists() and note.read_text())
    parent.kill()
    until(lambda: not is_running(int(note.read_text())))


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
