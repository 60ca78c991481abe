"""Every rule on row-by-row MNIST: labels, choices, jobs that are interrupted, what a run leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro.benchmark import Job, choose, collect, merge
from bpl_neuro.experiment import RunFolder, load_simulation, run_simulation
from bpl_neuro.simulations._row_mnist_labels import AveragedAndLate

simulation = load_simulation("row-mnist-rules")


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
    end = time.monotonic() + 60
    while not list(part.glob("checkpoint/*.npz")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (part / "summary.json").exists()
    subprocess.run([*command, "--out", part, "--resume"], env=environment, check=True, capture_output=True)
    assert (part / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
