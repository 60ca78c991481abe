"""Interrupted at any operation on files, by a kill or a full disk, a run goes on to the same bits."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tally import tally

from bpl_neuro.experiment import TrainingConfig, available_simulations, load_simulation

HERE = Path(__file__).parent / "interruption"
KILL, TEAR, FULL_ONCE, FULL = range(1, 5)
REACH = {
    "batches": 2, "fork_at": 1, "exc": 3, "inh": 2, "expansion": 3, "batch_size": 1, "targets": 1, "hold": 0.02,
    "reaction": "5*ms", "longest_delay": "55*ms", "interventions": [], "record": ["loss"], "checkpoint_every": 1,
}  # fmt: skip
COPY = {
    "batches": 2, "units": 2, "bits": 1, "batch_size": 1, "seeds": 1, "lams": [1.0], "record": ["loss", "theta"],
    "record_options": {"every": 2}, "checkpoint_every": 1,
}  # fmt: skip
#: with recordings that grow along steps and trials, forks, and jobs
RICH = {
    "delayed-reach": REACH | {"interventions": ["lesion"], "batches": 3, "record": ["g", "loss"]},
    "copy-repeat": COPY | {"batches": 6, "threshold": 9.0, "record": ["state", "loss"], "checkpoint_every": 2},
    "association-reach": {
        "batches": 3, "fork_at": [1], "exc": 3, "inh": 2, "motor": 2, "batch_size": 1, "seeds": 1, "record": ["loss"],
        "checkpoint_every": 1, "interventions": ["lesion"],
    },
    "copy-repeat-rules": {"batches": 4, "units": 2, "batch_size": 1, "checkpoint_every": 2, "labels": ["bptt"]},
    "row-mnist-rules": {"train_size": 100, "checkpoint_every": 1, "labels": ["bptt"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """The library that interrupts."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


def serve(shim, folder, simulation, settings, modes, **more):
    """What the server says of every operation of these modes, or of a sample."""
    spec = {"simulation": simulation, "settings": settings, "folder": str(folder), "modes": modes, **more}
    environment = os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    ended = subprocess.run(
        [sys.executable, HERE / "server.py", json.dumps(spec)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"mode"')]
    assert [result["mode"] for result in results] == list(modes)
    return results


def interrupt(shim, folder, simulation, settings, modes, sample=None):
    """What came of it, which goes to the tally of the simulation."""
    results = serve(shim, folder, simulation, settings, modes, sample=sample)
    for result in results:
        print(simulation, {key: value for key, value in result.items() if key not in ("raw", "wrong")})
        count = tally(f"interrupted, {result['mode']}: {simulation}")
        for _ in range(result["right"]):
            count.count("right")
        for kind in ("raw", "wrong"):
            for example in result[kind]:
                count.count(kind, example)
        count.check()
        assert result["right"] == result["tried"]
    return results


@pytest.mark.attack
def test_killed_at_every_operation(tmp_path, shim):
    (result,) = interrupt(shim, tmp_path, "delayed-reach", REACH, {"kill": KILL})
    assert result["tried"] == result["operations"] > 200


@pytest.mark.attack
def test_a_disk_full_from_an_operation_on_or_for_one_and_torn_writes(tmp_path, shim):
    modes = {"full": FULL, "full once": FULL_ONCE, "torn": TEAR, "kill": KILL}
    interrupt(shim, tmp_path, "copy-repeat", COPY, modes, sample=20)


@pytest.mark.attack
def test_a_writer_with_a_fault_is_found(tmp_path, shim):
    """Where files are written in place, a kill in the middle of config.toml, one of the first, leaves a trace."""
    (result,) = serve(shim, tmp_path, "delayed-reach", REACH, {"torn": TEAR}, first=12, fault="in place")
    assert result["wrong"] and result["right"] < result["tried"] == 12
    assert "config.toml: cannot read what is to be resumed" in result["wrong"][0]


@pytest.mark.attack
@pytest.mark.slow
@pytest.mark.parametrize(("simulation", "settings"), [("delayed-reach", REACH), ("copy-repeat", COPY)])
def test_interrupted_in_every_way_at_every_operation(tmp_path, shim, simulation, settings):
    modes = {"kill": KILL, "torn": TEAR, "full once": FULL_ONCE, "full": FULL}
    for result in interrupt(shim, tmp_path, simulation, settings, modes):
        assert result["tried"] == result["operations"] > 200


@pytest.mark.attack
@pytest.mark.slow
@pytest.mark.parametrize("simulation", list(RICH))
def test_larger_runs_and_jobs_interrupted_at_many_operations(tmp_path, shim, simulation, request):
    if "mnist" in simulation:
        request.getfixturevalue("mnist_folder")
    modes = {"kill": KILL, "torn": TEAR, "full once": FULL_ONCE, "full": FULL}
    interrupt(shim, tmp_path, simulation, RICH[simulation], modes, sample=60)


def command(name, out, recorded, *more):
    """A run at its quick size through the real command line."""
    found = [sys.executable, "-m", "bpl_neuro.cli", "run", name, "--quick", "--out", str(out), *more]
    return found + (["--set", 'record=["loss"]', "--set", "checkpoint_every=20"] if recorded else [])


def said(folder):
    """What a complete run says: its summary and arrays, but for how long jobs took."""
    found = {"summary": (folder / "summary.json").read_bytes()}
    for path in folder.glob("jobs/*.json"):
        found[path.name] = re.sub(r'"ms_per_batch": [^,}]+', "", path.read_text())
    for store in (folder / "recording.zarr", *(p.parent for p in folder.glob("recording.zarr/*/.zmetadata"))):
        with xr.open_zarr(store) as recording:
            found |= {f"{store.name}/{k}": v.values.tobytes() for k, v in recording.load().variables.items()}
    for path in folder.glob("checkpoint/*.npz"):
        with np.load(path) as arrays:
            found |= {f"{path.name}/{k}": np.asarray(arrays[k]).tobytes() for k in arrays.files if k != "meta.json"}
    return found


@pytest.mark.attack
@pytest.mark.slow
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", list(available_simulations()))
def test_every_simulation_killed_at_random_moments(tmp_path, name, recorded, request):
    """kill −9 of the command, which takes its jobs with it; then --resume, which is killed as well."""
    if "mnist" in name:
        request.getfixturevalue("mnist_folder")
    if recorded and not issubclass(load_simulation(name).Config, TrainingConfig):
        pytest.skip("it records nothing while it runs")
    count = tally(f"killed at a random moment: {name}")
    begun = time.monotonic()
    subprocess.run(command(name, tmp_path / "whole", recorded), check=True, capture_output=True)
    took, expected = time.monotonic() - begun, said(tmp_path / "whole")
    rng, kills = random.Random(f"{name} {recorded}"), 0
    while not (tmp_path / "part" / "summary.json").exists():
        process = subprocess.Popen(
            command(name, tmp_path / "part", recorded, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, errors = process.communicate(timeout=rng.uniform(0, took * (kills + 1) / 4) if kills < 4 else None)
            assert process.returncode == 0, errors
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    wrong = [key for key in expected if expected[key] != said(tmp_path / "part").get(key)]
    for _ in range(kills):
        count.count("wrong" if wrong else "right", f"{name}: {wrong[:3]}")
    count.check()
