"""kill −9 at any moment, a full disk, damaged files: the run resumes to the same bits or says what is wrong."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import run_script

import bpl_neuro as bpl
from bpl_neuro import storage
from bpl_neuro.experiment import run_simulation

SCRIPT = """
import sys
import bpl_neuro as bpl
from biology import SIZES, TEXT

out, slow = sys.argv[1], len(sys.argv) > 2
import os, time
task = bpl.tasks.TargetReaching(patterns=3, steps=6, input_size=4, batches_per_epoch=8)
circuit = bpl.Circuit(bpl.Model.from_toml(TEXT), SIZES, 4, seed=0)
rule = bpl.BPLambda(bpl.Synthesiser(circuit), lam=0.9, trace="local")
trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule="step", seed=3)
if os.path.exists(out + "/c.npz"):
    trainer.restore(out + "/c.npz")
print("ready", flush=True)
pause = [lambda trainer, outcome: time.sleep(0.02)] if slow else []
often = {"checkpoint": out + "/c.npz", "checkpoint_every": 3}
trainer.fit(task, epochs=4, batch_size=2, progress=False, callbacks=pause, **often)
trainer.trained_circuit().save(out + "/final.npz")
"""


def start(folder):
    """The script as a process that may be killed; slow."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder), "slow"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def final(folder):
    return bpl.Circuit.load(folder / "final.npz").psi


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_script(SCRIPT, folder)
    return final(folder)


def kill_and_resume(folder, after, expected):
    process = start(folder)
    assert process.stdout.readline() == "ready\n"
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "final.npz").exists()
    run_script(SCRIPT, folder)
    assert (final(folder) == expected).all()
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")] != []


@pytest.mark.stage
@pytest.mark.parametrize("after", [0.0, 0.33])
def test_killed_and_resumed(tmp_path, uninterrupted, after):
    kill_and_resume(tmp_path, after, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_killed_at_twenty_random_moments(tmp_path, uninterrupted, moment):
    kill_and_resume(tmp_path, random.Random(moment).uniform(0, 0.6), uninterrupted)


TINY = {"batches": 20, "learning_epochs": 1, "batches_per_epoch": 5, "units": 5, "seeds": 2, "lams": [0.0, 1.0]}


def test_a_simulation_interrupted_between_jobs_resumes_to_the_same_summary(tmp_path, monkeypatch, undrawn):
    whole = run_simulation("target-reaching", settings=TINY, out=tmp_path / "whole")
    original, calls = storage.write_arrays, []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("bpl_neuro.run_folder.write_arrays", dying)
        with pytest.raises(KeyboardInterrupt):
            run_simulation("target-reaching", settings=TINY, out=tmp_path / "part")
    assert not (tmp_path / "part" / "summary.json").exists()
    with pytest.raises(bpl.ValidationError, match="not empty"):
        run_simulation("target-reaching", settings=TINY, out=tmp_path / "part")
    with pytest.raises(bpl.ValidationError, match="was run with batches = 20, not 21"):
        run_simulation("target-reaching", settings={**TINY, "batches": 21}, out=tmp_path / "part", resume=True)
    with pytest.raises(bpl.ValidationError, match="holds a run of 'target-reaching'"):
        run_simulation("row-mnist", out=tmp_path / "part", resume=True)
    resumed = run_simulation("target-reaching", settings=TINY, out=tmp_path / "part", resume=True)
    for folder in (whole, resumed):
        assert json.loads((folder.path / "summary.json").read_text())
    assert (whole.path / "summary.json").read_bytes() == (resumed.path / "summary.json").read_bytes()
    with pytest.raises(bpl.ValidationError, match="complete"):
        run_simulation("target-reaching", settings=TINY, out=tmp_path / "part", resume=True)


def test_a_full_disk_is_said_and_the_last_checkpoint_is_intact(tmp_path, monkeypatch):
    circuit = bpl.Circuit("leaky_tanh", 4, 2)
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), bpl.BPLambda(bpl.Synthesiser(circuit)))
    path = tmp_path / "c.npz"
    trainer.save(path)
    good = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bpl_neuro.storage.os.fsync", full)
    trainer.train_batch(bpl.Batch(np.ones((1, 3, 2)), np.ones((1, 3, 2))))
    with pytest.raises(bpl.BplError, match=r"c\.npz: cannot write \d+ bytes: No space left.*intact"):
        trainer.save(path)
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_a_really_full_disk(tmp_path):
    """A 64 KiB tmpfs, where one may be mounted."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        circuit = bpl.Circuit("leaky_tanh", 10, 2)
        trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), bpl.BPLambda(bpl.Synthesiser(circuit)))
        trainer.save(tmp_path / "c.npz")
        (tmp_path / "filler").write_bytes(b"x" * (40 * 1024))
        with pytest.raises(bpl.BplError, match="No space left"):
            for _ in range(3):
                trainer.state.log.losses += [0.123456789] * 3000
                trainer.save(tmp_path / "c.npz")
        (tmp_path / "filler").unlink()
        trainer.restore(tmp_path / "c.npz")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
