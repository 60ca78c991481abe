"""Attacks on the reader of model texts: whatever is in one, reading ends within 5 processor seconds and 500 MB.

Reading is a model, its derivatives and a circuit of two neurons a population. What comes back is a ModelError, or a
circuit whose Jacobian is that of finite differences.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile_texts import HOSTILE, dense
from hypothesis import HealthCheck, Phase, given, seed, settings
from model_grammar import texts
from reading import Readers
from tally import tally

import bpl_neuro as bpl
from bpl_neuro.model.isolated import run_isolated

pytestmark = pytest.mark.attack


@pytest.fixture(scope="module")
def readers():
    made = Readers()
    yield made
    made.close()


def attack(readers, text, name):
    outcome = readers.read(text)
    tally("model texts").count(outcome.kind, f"{name}: {outcome.message}")
    return outcome


def test_hostile_texts(readers):
    """The table, with the slowest and the largest of them printed."""
    outcomes = {name: attack(readers, text, name) for name, text in HOSTILE.items()}
    report("hostile texts", outcomes)
    assert len(HOSTILE) >= 60
    tally("model texts").check()


@pytest.mark.parametrize("method", ["euler", "exponential_euler"])
@pytest.mark.parametrize("term", ["tanh(x{j})", "sin(x{j} + u)", "{j}*clip(x{j}, 0, 1)"])
def test_thirty_dense_states_are_read(readers, term, method):
    """What one does in earnest at the most: every state's equation depends on all thirty."""
    outcome = attack(readers, dense(term, 30, method), f"30 dense states of {term}")
    assert outcome.kind == "right", outcome.message


def generated(readers, seconds, number):
    outcomes = {}
    ends = time.monotonic() + seconds

    @seed(number)
    @settings(
        max_examples=100_000, deadline=None, database=None, phases=[Phase.generate], print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(texts())
    def one(text):
        if time.monotonic() > ends:
            raise TimeUp
        outcomes[text] = attack(readers, text, text)

    with contextlib.suppress(TimeUp):
        one()
    return outcomes


class TimeUp(BaseException):
    """So that Hypothesis stops, and takes it for no failure."""


def report(what, outcomes):
    kinds = [outcome.kind for outcome in outcomes.values()]
    slowest = max(outcomes, key=lambda name: outcomes[name].seconds)
    print(
        f"\n{what}: {len(kinds)} tried, {kinds.count('refused')} refused, {kinds.count('right')} right; slowest "
        f"{outcomes[slowest].seconds:.2f} s ({slowest[:60]!r}); largest "
        f"{max(outcome.memory for outcome in outcomes.values()) / 1e6:.0f} MB"
    )


def test_generated_texts(readers):
    outcomes = generated(readers, 10, 0)
    report("generated texts", outcomes)
    kinds = [outcome.kind for outcome in outcomes.values()]
    assert kinds.count("right") > len(kinds) / 5, "the generator makes too few models"
    tally("model texts").check()


@pytest.mark.slow
def test_many_generated_texts(readers):
    """Ten minutes of them."""
    report("generated texts", generated(readers, 600, 1))
    tally("model texts").check()


def test_an_isolated_check_is_bounded(tmp_path):
    """The processor and the clock of a process of its own."""
    with pytest.raises(bpl.ModelError, match="endless: the check took more than 1 s of processor time"):
        run_isolated([sys.executable, "-c", "while True: pass"], "endless", processor=1)
    with pytest.raises(bpl.ModelError, match=r"asleep: the check took longer than 0\.5 s"):
        run_isolated([sys.executable, "-c", "import time; time.sleep(60)"], "asleep", clock=0.5)
    assert run_isolated([sys.executable, "-c", "bytearray(10**11)"], "large") == 1  # a MemoryError there
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(HOSTILE["nested powers"])
    command = [sys.executable, "-m", "bpl_neuro.cli", "check", "--isolated", str(wrong)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "at most 256 is possible" in done.stderr and len(done.stderr.splitlines()) == 1


def special_files(folder):
    """Files that have no end, or no beginning, by name; and links to them."""
    os.mkfifo(folder / "pipe.toml")
    (folder / "folder.toml").mkdir()
    (folder / "large.toml").write_bytes(b"#" * 10_000_000)
    with open(folder / "sparse.toml", "wb") as file:
        file.truncate(2**40)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket.toml"))
    yield from ("pipe", "folder", "large", "sparse", "socket")
    targets = {name: f"{name}.toml" for name in ("pipe", "folder", "socket", "sparse", "circle")}
    targets |= {"zero": "/dev/zero", "tty": "/dev/tty", "random": "/dev/urandom", "none": "/nowhere"}
    for name, target in targets.items():
        link = f"link-{name}" if name != "circle" else name
        os.symlink(target, folder / f"{link}.toml")
        yield link
    listening.close()


def test_special_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may have 100 characters only
    for name in special_files(Path(".")):
        began = time.monotonic()
        tally("special files").attempt(name, lambda name=name: bpl.Model.load(f"{name}.toml"))
        assert time.monotonic() - began < 5
    tally("special files").check()
