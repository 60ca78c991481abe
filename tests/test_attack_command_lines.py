# ruff: noqa: E501 - a table
"""Hostile command lines: one line on stderr and an exit status; never a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from tally import tally

from bpl_neuro import cli
from bpl_neuro.errors import DivergenceError, ValidationError

pytestmark = pytest.mark.attack
#: texts that are no name, no number and no file
TEXTS = (
    "", " ", "nonsense", "-1", "1e999", "nan", "../../etc/passwd", "/", ".", "..", "a" * 5000, "a\nb", "\x1b[31mred",
    "[bold]x[/bold]", "ünïcödé", "\udcff", "--", "-", "none.toml", "/dev/null", "*", "%s{}", "$HOME", "row-mnist.py",
)  # fmt: skip
SETTINGS = (
    "", "=", "=3", "seed", "nonsense=1", "batches=", "batches=nonsense", "batches=-1", "batches=0", "batches=1.5",
    "batches=true", "batches=null", "batches=[1]", "batches={}", "batches=1e999", "batches=NaN", f"batches={10**30}",
    "batches=" + "9" * 5000, "batches=" + "[" * 5000, "seed=-1", "seed=nonsense", 'model="nonsense"', "model=3", "units=-5",
    "__class__=3", "batches=\udcff", " =3",
)  # fmt: skip
LINES: dict[str, tuple[list[str], int]] = {
    "nothing": ([], 2), "unknown command": (["nonsense"], 2), "unknown option": (["--nonsense"], 2), "run nothing": (["run"], 2),
    "two names": (["run", "target-reaching", "causality"], 2), "check nothing": (["check"], 2), "list more": (["list", "x"], 2),
    "doctor more": (["doctor", "--quick"], 2), "quick and size": (["run", "target-reaching", "--quick", "--size", "full"], 2),
    "quick and quick": (["run", "target-reaching", "--quick", "--size", "quick"], 2), "size": (["run", "target-reaching", "--size", "huge"], 1),
    "no size": (["run", "target-reaching", "--size"], 2), "resume": (["run", "target-reaching", "--resume"], 1), "jobs": (["run", "target-reaching", "--jobs", "2"], 1),
    "names and more": (["list", "--names", "--quick"], 2), "quick=": (["run", "target-reaching", "--quick=yes"], 2),
}  # fmt: skip
LINES |= {f"command {text[:20]!r}": ([text], 2) for text in TEXTS if text != "--"}
LINES |= {f"run {text[:20]!r}": (["run", text], 2 if text.startswith("-") and text != "-" else 1) for text in TEXTS}
LINES |= {f"check {text[:20]!r}": (["check", text], 2 if text.startswith("-") and text != "-" else 1) for text in TEXTS}
QUICK = ["run", "target-reaching", "--quick"]
LINES |= {f"set {text[:20]!r}": ([*QUICK, f"--set={text}"], 1) for text in SETTINGS}
LINES |= {
    f"seed {text[:20]!r}": ([*QUICK, f"--seed={text}"], 2) for text in ("", "x", "1.5", "nan", "true", "0x10", "\udcff")
}
LINES |= {
    f"jobs {text!r}": (["run", "row-mnist-rules", "--quick", f"--jobs={text}"], s)
    for text, s in (("x", 2), ("0", 1), ("-3", 1))
}
LINES |= {
    f"out {text!r}": ([*QUICK, "--out", text], 1) for text in ("", " ", "/dev/null/x", "/proc/x", "a\0b", "a" * 5000)
}


def run(capfd, arguments):
    """Exit status, and what was written to stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code, capfd.readouterr().err


@pytest.mark.parametrize("name", LINES)
def test_a_hostile_line(name, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, expected = LINES[name]
    counts = tally("command lines")
    try:
        status, said = run(capfd, arguments)
    except BaseException as error:
        counts.count("raw", f"{arguments}: {error!r}"[:300])
        raise
    clean = (
        status == expected and "Traceback" not in said and said.count("\n") == (1 if arguments else said.count("\n"))
    )
    counts.count("refused" if clean else "wrong", f"{arguments}: {status}, {said}"[:300])
    assert clean, (status, said[:600])


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ValidationError("`x` is wrong:\n  - here\n  - and here"), 1, "error: `x` is wrong: - here - and here"),
        (DivergenceError(3, 0, "psi", 1.0), 1, "error: `psi` stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "run/summary.json"), 1, "No space left"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "Permission denied"), (MemoryError(), 1, "out of memory"),
        (UnicodeEncodeError("ascii", "ü", 0, 1, "ordinal not in range"), 1, "ascii"), (RecursionError(), 1, "nested"),
        (KeyboardInterrupt(), 130, "interrupted"), (RuntimeError("a bug"), 1, "RuntimeError: a bug"),
        (ZeroDivisionError(), 1, "ZeroDivisionError"), (SystemExit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_whatever_reaches_main(error, status, says, capfd, monkeypatch):
    def fails():
        raise error

    monkeypatch.setattr(cli, "available_simulations", fails)
    found, said = run(capfd, ["list"])
    assert found == status and says in said and said.count("\n") == bool(says) and "Traceback" not in said


def test_a_traceback_for_who_asks(capfd, monkeypatch):
    monkeypatch.setenv(cli.DEBUG, "")
    status, said = run(capfd, ["--debug", "run", "nonsense"])
    assert status == 1 and "Traceback" in said and said.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "line", [["run", "nonsense"], ["--nonsense"], ["check", "/dev/null"], ["run", "target-reaching", "--set=x"]]
)
def test_a_process_of_its_own(line, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "bpl_neuro.cli", *line], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode in (1, 2) and "Traceback" not in ended.stderr and ended.stderr.count("\n") == 1


def test_a_reader_that_has_gone(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "bpl_neuro.cli", "list", "--names"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert ended.returncode == 0 and not ended.stderr  # nothing that is printed ends a run


def test_enough_lines():
    assert len(LINES) >= 120
