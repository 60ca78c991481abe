"""What several test files share: where the MNIST files are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tally

# Data too big for the repository may lie beside it.
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def data_folder() -> Iterator[None]:
    """Point BPL_NEURO_DATA at the data beside the repository, unless it is set already."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("BPL_NEURO_DATA") and SHARED_DATA.is_dir():
            patch.setenv("BPL_NEURO_DATA", str(SHARED_DATA))
        yield


@pytest.fixture(scope="session")
def mnist_folder(data_folder: None) -> Path:
    """A folder with the real MNIST files; tests that ask for it are skipped where there is none."""
    candidates = [SHARED_DATA / "mnist"]
    if variable := os.environ.get("BPL_NEURO_DATA"):
        candidates.insert(0, Path(variable).expanduser() / "mnist")
    for folder in candidates:
        if any(folder.glob("train-images-idx3-ubyte*")):
            return folder
    pytest.skip(f"needs the MNIST files, in $BPL_NEURO_DATA/mnist or {candidates[-1]}")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations make their figures and write none: where figures are not the point, rendering takes the time."""
    monkeypatch.setattr("bpl_neuro.run_folder.save_figure", lambda fig, path: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--gpu runs the tests of the CuPy backend on a GPU; they fail, rather than skip, where there is none."""
    parser.addoption("--gpu", action="store_true", help="run the tests of the CuPy backend on a GPU")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the attacks that were run."""
    if rows := tally.lines():
        terminalreporter.section("attacks")
        for row in rows:
            terminalreporter.line(row)
