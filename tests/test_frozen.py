"""Files that an earlier version wrote load, and go on, to the numbers that they led to then; see frozen/make.py."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import bpl_neuro as bpl
from bpl_neuro.look.recording import Recorder, verify_recording

FOLDER = Path(__file__).parent / "frozen"
SPEC = importlib.util.spec_from_file_location("frozen_make", FOLDER / "make.py")
frozen = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(frozen)
EXPECTED = json.loads((FOLDER / "1" / "expected.json").read_text(encoding="utf-8"))
pytestmark = pytest.mark.filterwarnings("ignore:.*numbers may differ at rounding:UserWarning")


@pytest.fixture
def files(tmp_path):
    return shutil.copytree(FOLDER / "1", tmp_path / "files")


def close(found, expected):
    """The same but for what another machine rounds otherwise."""
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["beside.npz", "whole.npz"])
def test_a_checkpoint_goes_on(files, name):
    trainer = frozen.trainer().restore(files / name)
    assert trainer.losses == EXPECTED["losses at 5"] and trainer.parameter("psi").tolist() == EXPECTED["psi at 5"]
    trainer.fit(frozen.TASK, stop_at=9, checkpoint=files / name, checkpoint_every=2, **frozen.FIT)
    close(trainer.losses, EXPECTED["losses at 9"]), close(trainer.parameter("psi"), EXPECTED["psi at 9"])
    assert frozen.trainer().restore(files / name).losses == trainer.losses[:8]


def test_a_circuit_loads(files):
    circuit = bpl.Circuit.load(files / "circuit.npz")
    assert circuit.psi.tolist() == EXPECTED["psi at 5"] and circuit.model.title == "Frozen"
    assert circuit.identity()["parameters"] == frozen.trainer().circuit.identity()["parameters"]


def test_a_recording_is_whole_and_goes_on(files):
    trainer, path = frozen.trainer().restore(files / "whole.npz"), files / "recording.zarr"
    with Recorder.resume(trainer, path, 5) as recorder:
        assert recorder.verified.files == verify_recording(path).files > 10
        trainer.fit(frozen.TASK, stop_at=9, recorder=recorder, **frozen.FIT)
    with xr.open_zarr(path) as recording:
        close(recording["loss"].values, EXPECTED["losses at 9"])


def test_a_written_recording_is_what_it_was(files):
    assert verify_recording(files / "written.zarr").files > 3
    with xr.open_zarr(files / "written.zarr") as recording:
        assert recording.load().identical(frozen.written())


def test_the_files_are_small():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 100_000
