"""Every CUDA kernel compiles for both architectures and spills nothing, by the command in the documentation."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import bpl_neuro as bpl

COMMAND = Path(__file__).resolve().parents[1] / "benchmarks" / "kernels.py"
needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec("nvidia") is None or not COMMAND.exists(), reason="needs nvidia-cuda-nvrtc-cu12"
)


def compiled(tmp_path, models):
    written = tmp_path / "kernels.json"
    command = [sys.executable, str(COMMAND), "--json", str(written), *models]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    return json.loads(written.read_text())


def assert_small(found):
    assert {key.rsplit(", ", 2)[1] for key in found} == {"sm_80", "sm_90"}
    # 65536 registers are there: for two blocks of 256 threads at 128 each, and for eight at 32
    assert {key: v for key, v in found.items() if v["spilled"] or v["registers"] > 128} == {}


@pytest.mark.stage
@needs_nvrtc
def test_the_kernels_of_a_model(tmp_path):
    found = compiled(tmp_path, ["lstm"])
    kernels = {key.split(",")[0] for key in found}
    assert {"map_linearised", "map_input_credit", "map_own_past", "local_pass", "add_outer", "adam"} <= kernels
    assert_small(found)


@needs_nvrtc
@pytest.mark.slow
def test_the_kernels_of_every_model(tmp_path):
    assert_small(compiled(tmp_path, bpl.available_models()))
