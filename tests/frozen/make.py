"""Writes the frozen files: `python tests/frozen/make.py FOLDER`, a new folder for each format; earlier ones stay.

What is written here is read by `tests/test_frozen.py` for ever.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import xarray as xr

import bpl_neuro as bpl
from bpl_neuro.look.recording import Recorder, write_recording

FOLDER = Path(__file__).parent / "1"
MODEL = """
title = "Frozen"
[populations.exc]
equations = "dr/dt = (-r + tanh(u)) / tau : 1\\nu : 1\\ntau : second"
method = "euler"
rate = "r"
inputs = ["u"]
parameters = { tau = "5*ms" }
[time]
dt = "1*ms"
"""
TASK = bpl.tasks.TargetReaching(patterns=2, steps=4, input_size=3, batches_per_epoch=4)
FIT = {"epochs": None, "batch_size": 2, "progress": False}


def trainer() -> bpl.Trainer:
    """The one whose files these are."""
    circuit = bpl.Circuit(bpl.Model.from_toml(MODEL), 4, 3, parameters={"tau": [0.004, 0.005, 0.006, 0.007]}, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), lam=0.9, trace="full")
    return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule="step", seed=3)


def written() -> xr.Dataset:
    """What `write_recording` wrote."""
    return xr.Dataset({"a": (("x", "y"), np.arange(6.0).reshape(2, 3))}, coords={"x": ["one", "two"]})


def main(folder: Path) -> None:
    """Write all of them, and what must come of them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = trainer()
    options = {"flush_every": 5, "buffer_bytes": 100_000}
    with Recorder(made, folder / "recording.zarr", ["g", "loss"], **options) as recorder:
        made.fit(TASK, stop_at=5, recorder=recorder, checkpoint=folder / "beside.npz", checkpoint_every=5, **FIT)
    made.save(folder / "whole.npz")
    made.trained_circuit().save(folder / "circuit.npz")
    write_recording(written(), folder / "written.zarr")
    found = {"losses at 5": made.losses, "psi at 5": made.parameter("psi").tolist()}
    made.fit(TASK, stop_at=9, **FIT)
    found |= {"losses at 9": made.losses, "psi at 9": made.parameter("psi").tolist()}
    (folder / "expected.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
