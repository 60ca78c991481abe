"""Benchmarks: merging results, choosing rates, tables, jobs that are interrupted, and the one of row-by-row MNIST."""

import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import bpl_neuro as bpl
from bpl_neuro import benchmark
from bpl_neuro.benchmark import Job, JobFile, choose, collect, difference, figures, markdown, merge, summarise
from bpl_neuro.experiment import RunFolder, load_simulation, run_simulation
from bpl_neuro.simulations._row_mnist_labels import AveragedAndLate

simulation = load_simulation("row-mnist-rules")
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


def test_the_best_mean_over_seeds_at_the_end_is_chosen():
    tuning = [
        record(8, [0.9, 0.70], eta=1e-3), record(9, [0.9, 0.72], eta=1e-3),
        record(8, [0.1, 0.80], eta=3e-3), record(9, [0.1, 0.66], eta=3e-3),
        record(8, [0.1, 0.99], eta=1e-2), record(9, [0.2], diverged=BLEW_UP, eta=1e-2),
    ]  # fmt: skip
    assert choose(tuning) == {"eta": 3e-3}  # .73 against .71; not the best single, nor the best at first
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


# The benchmark itself, on digits that are no digits.


class Digits:
    """A task of the shape of `RowMNIST`, small."""

    name, loss, input_size, output_size = "digits", "cross_entropy", 3, 10

    def batches(self, rng, size, split="train"):
        for _ in range(6):
            y = rng.integers(0, 10, (size, 1)).repeat(4, axis=1)
            yield bpl.Batch(np.sin(y[..., None] * [1, 2, 3]).astype("float32"), y, np.tile([0, 0, 0, 1.0], (size, 1)))


@pytest.fixture
def digits(monkeypatch, undrawn):
    """No files, and jobs one after another in this process."""
    monkeypatch.setattr(simulation, "load_task", lambda data, train_size: Digits())

    def one_by_one(function, calls, jobs, title):
        for arguments in calls.values():
            function(*arguments)

    monkeypatch.setattr(simulation, "run_jobs", one_by_one)


SMALL = {"rates": [1e-3, 1e-2], "tuning_epochs": 1, "epochs": [1, 3], "seeds": [0, 1], "batch_size": 10}


def without_times(found):
    found = deepcopy(found)
    for label in found["labels"].values():
        for run in [*label["runs"], *label["tuning"]]:
            del run["ms_per_batch"]
    return found


@pytest.mark.parametrize("label", list(simulation.LABELS))
def test_every_label_trains(label, digits):
    rule = simulation.RULES[simulation.LABELS[label][1]]
    options = rule.candidates([1e-3], [0.9])[0]
    trainer = simulation.build(simulation.Config(), label, 0, options)
    before = {name: trainer.parameter(name) for name in ("psi", "phi", "theta")}
    trainer.fit(Digits(), batch_size=10, progress=False)
    for name, value in before.items():
        assert value is None or not np.array_equal(value, trainer.parameter(name)), name


def test_labels_start_from_the_same_weights_and_see_the_same_trials(digits):
    first, second = (simulation.build(simulation.Config(), label, 3, {"eta": 1e-3}) for label in ("bptt", "bp-0"))
    other = simulation.build(simulation.Config(), "bptt", 4, {"eta": 1e-3})
    assert first.seed == second.seed != other.seed
    np.testing.assert_array_equal(first.circuit.psi, second.circuit.psi)
    assert not np.array_equal(first.circuit.psi, other.circuit.psi)


def test_a_run_chooses_trains_and_leaves_everything_behind(tmp_path, digits):
    labels = ["bptt", "eprop", "bp-1-paper"]
    folder = run_simulation("row-mnist-rules", settings={**SMALL, "labels": labels}, out=tmp_path / "whole")
    found = collect(folder.path)
    assert list(found["labels"]) == ["bptt", "bp-1-paper", "eprop"]
    for label, what in found["labels"].items():
        assert [run["seed"] for run in what["runs"]] == [0, 1]
        assert all(len(run["validation_accuracy"]) == 3 and len(run["test_accuracy"]) == 2 for run in what["runs"])
        expected = {"eta": 3e-4} if label == "bp-1-paper" else choose(what["tuning"])
        assert all(run["options"] == expected for run in what["runs"])
        assert len(what["tuning"]) == (0 if label == "bp-1-paper" else 2)
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["eprop.epochs=3.minus_bptt.n"] == 2
    # In pieces: the same results.
    for piece in (labels[:1], labels[1:]):
        run_simulation("row-mnist-rules", settings={**SMALL, "labels": piece}, out=tmp_path / piece[0])
    pieces = merge(collect(tmp_path / "eprop"), collect(tmp_path / "bptt"))
    assert without_times(pieces) == without_times(found)


def test_test_accuracy_is_that_of_a_shorter_run(tmp_path, digits):
    runs = []
    for epochs in ([1, 3], [1]):
        settings = {**SMALL, "labels": ["bptt"], "rates": [1e-2], "epochs": epochs}
        folder = run_simulation("row-mnist-rules", settings=settings, out=tmp_path / str(epochs[-1]))
        runs.append(collect(folder.path)["labels"]["bptt"]["runs"][0]["test_accuracy"])
    assert runs[0]["1"] == runs[1]["1"]


def test_rates_may_be_given(tmp_path, digits):
    settings = {**SMALL, "labels": ["bptt"], "chosen": {"bptt": {"eta": 0.02}}}
    folder = run_simulation("row-mnist-rules", settings=settings, out=tmp_path / "run")
    found = collect(folder.path)["labels"]["bptt"]
    assert found["tuning"] == [] and found["runs"][0]["options"] == {"eta": 0.02}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["btpt"]}, "`labels` has 'btpt'; known: bptt, "),
        ({"chosen": {"btpt": {"eta": 1}}}, "`chosen` has 'btpt'"),
        ({"chosen": {"bptt": {"rate": 1}}}, "`chosen` must have eta for bptt"),
        ({"tuning_seeds": [1]}, "`tuning_seeds` must not be among `seeds`"),
        ({"group": "rats"}, "`group`"),
    ],
)
def test_wrong_settings_say_what_would_be_right(tmp_path, digits, settings, message):
    with pytest.raises(bpl.ValidationError, match=message):
        run_simulation("row-mnist-rules", settings={**SMALL, **settings}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_job_goes_on_where_it_was(tmp_path, digits, monkeypatch):
    config = simulation.Config(**SMALL, checkpoint_every=2)
    job = Job("runs", "bptt-late", 0, {"eta": 1e-2})
    whole = RunFolder(tmp_path / "whole", "x", config)
    simulation.train(config, whole, job)
    original, trained = bpl.Trainer.train_batch, []

    def counted(trainer, *arguments):
        if len(trained) in stops:
            stops.remove(len(trained))
            raise KeyboardInterrupt
        trained.append(trainer.batches)
        return original(trainer, *arguments)

    stops = [3, 11]  # within the first epoch, and after the first test
    monkeypatch.setattr(bpl.Trainer, "train_batch", counted)
    part = RunFolder(tmp_path / "part", "x", config)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            simulation.train(config, part, job)
    assert collect(part.path)["labels"]["bptt-late"]["runs"][0]["test_accuracy"].keys() == {"1"}
    simulation.train(config, part, job)
    # What lies behind the last checkpoint is trained twice, and nothing else.
    assert trained == [0, 1, 2, 2, *range(3, 10), *range(10, 18)]
    assert without_times(collect(part.path)) == without_times(collect(whole.path))


def test_a_job_that_diverges_is_told(tmp_path, digits, monkeypatch):
    original = bpl.Trainer.train_batch

    def diverging(trainer, *arguments):
        if trainer.batches == 8:
            raise bpl.DivergenceError(0, 8, "psi", 1e30)
        return original(trainer, *arguments)

    monkeypatch.setattr(bpl.Trainer, "train_batch", diverging)
    settings = {**SMALL, "labels": ["bptt"], "seeds": [0]}
    folder = run_simulation("row-mnist-rules", settings=settings, out=tmp_path / "run")
    (run,) = collect(folder.path)["labels"]["bptt"]["runs"]
    assert run["diverged"] == {"epoch": 2, "quantity": "psi"}
    assert len(run["validation_accuracy"]) == 1 and run["test_accuracy"]["3"] is None
    assert json.loads((folder.path / "summary.json").read_text())["bptt.epochs=3.diverged"] == 1


def test_averaged_and_late_is_adam_on_the_average_before():
    circuit = bpl.Circuit("linear", 2, 2)
    gradients = np.random.default_rng(0).normal(size=(4, 5))
    late, adam = AveragedAndLate(bpl.Adam(0.1, beta1=0.0), 0.5), bpl.Adam(0.1, beta1=0.0)
    p, state = np.zeros(5), late.init(circuit.backend, np.zeros(5))
    q, inner = np.zeros(5), adam.init(circuit.backend, np.zeros(5))
    for k, gradient in enumerate(gradients):
        p, state = late.step(circuit.backend, p, gradient, state)
        if k == 0:
            assert (p == 0).all()
            continue
        weights = 0.5 ** np.arange(k)[::-1]
        q, inner = adam.step(circuit.backend, q, weights @ gradients[:k] / weights.sum(), inner)
        np.testing.assert_allclose(p, q, rtol=1e-12)


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


@pytest.mark.stage
def test_killed_and_resumed_with_other_jobs_to_the_same_summary(tmp_path, mnist_folder):
    settings = [f"data={json.dumps(str(mnist_folder))}", "train_size=2000", 'labels=["bptt"]', "rates=[3e-3]"]
    settings += ["epochs=[1, 2]", "seeds=[0, 1]", "checkpoint_every=3"]
    command = [sys.executable, "-m", "bpl_neuro.cli", "run", "row-mnist-rules", "--quick"]
    command += [f"--set={pair}" for pair in settings]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MPLBACKEND": "agg"}
    whole, part = tmp_path / "whole", tmp_path / "part"
    subprocess.run([*command, "--out", whole], env=environment, check=True, capture_output=True)
    process = subprocess.Popen([*command, "--jobs", "2", "--out", part], env=environment, stdout=subprocess.DEVNULL)
    until(lambda: list(part.glob("checkpoint/*.npz")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (part / "summary.json").exists()
    subprocess.run([*command, "--out", part, "--resume"], env=environment, check=True, capture_output=True)
    assert (part / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
