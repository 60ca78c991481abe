"""Shared by the tests of wrong models and arguments: a right one to spoil, and a guard around each test."""

import os
import signal
import sys

import numpy as np
import pytest

import bpl_neuro as bpl

GOOD = {
    "equations": "dr/dt = (-r + tanh(u)) / tau : 1\nu : 1\ntau : second (constant)",
    "rate": "r",
    "parameters": {"tau": "10*ms"},
    "dt": "1*ms",
}


def equations(text, **keywords):
    return lambda: bpl.Model.from_equations(**{**GOOD, "equations": text, **keywords})


def changed(**keywords):
    return lambda: bpl.Model.from_equations(**{**GOOD, **keywords})


def toml(text):
    return lambda: bpl.Model.from_toml(text)


BASE = bpl.Model.from_equations(**GOOD).to_toml()
CANARY = "__import__('os').system('touch canary')"
TAU = "tau : second (constant)"


@pytest.fixture(autouse=True)
def guarded(tmp_path, monkeypatch):
    """Ten seconds, an empty folder, and nothing left in it afterwards."""
    monkeypatch.chdir(tmp_path)

    def give_up(*_):
        raise TimeoutError("took longer than ten seconds")

    old = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    hook = sys.excepthook
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
    assert not os.path.exists("canary")
    assert sys.excepthook is hook


def circuit(**keywords):
    return bpl.Circuit(**{"model": "leaky_tanh", "size": 3, "input_size": 2, **keywords})


def parts():
    c = circuit()
    return c, bpl.Readout(c, 2), bpl.Synthesiser(c)


def batch(**keywords):
    x = np.zeros((2, 4, 2))
    return bpl.Batch(**{"x": x, "y": np.zeros((2, 4, 2)), **keywords})


def updates(data=None, theta=None, **keywords):
    c, readout, unit = parts()
    return bpl.batch_updates(c, readout, bpl.BPLambda(unit), data or batch(**keywords), theta)
