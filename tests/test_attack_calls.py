"""Every public callable with one argument wrong at a time: an error that names it, or the right meaning."""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import warnings
from pathlib import Path

import attack_recipes_rooms
import attack_recipes_train
import numpy as np
import pytest
from attack_recipes_core import RECIPES
from attack_same import same
from attack_surface import without_recipe
from attack_values import UsersError, Wrong, either_value, fresh
from tally import tally

import bpl_neuro as bpl

assert attack_recipes_rooms and attack_recipes_train  # they fill RECIPES
pytestmark = pytest.mark.attack
#: what an error says where the harm shows only while the numbers run
RUNS = (bpl.DivergenceError,)
PASSED = object()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """And a minute for each callable: a call that hangs is counted, and ends."""
    monkeypatch.chdir(tmp_path)

    def give_up(*_):
        raise TimeoutError("hung")

    old = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def attack(counts, name, key, label, value):
    """One call with one wrong argument."""
    call, arguments = RECIPES[name]
    others = {other: argument.right for other, argument in arguments.items() if other != key}
    argument = arguments[key]
    what = f"{name}({key}={label})"

    def right(result):
        if result is PASSED:
            return True
        try:
            plain = argument.means(fresh(value))
        except Wrong:
            return False
        with np.errstate(all="ignore"):
            return same(result, call(**others, **{key: plain}))

    def checked():
        try:
            with np.errstate(all="ignore"):
                return call(**others, **{key: fresh(value)})
        except UsersError:  # of a function that was called as it was meant to be
            return PASSED
        except bpl.BplError as error:
            names = (key, *argument.names)
            said = (
                isinstance(value, str | Path) and str(value) and str(value) in str(error)
            )  # of a file that is not there
            if (
                not said
                and not isinstance(error, RUNS)
                and not any(re.search(rf"`?\b{re.escape(n)}\b", str(error)) for n in names)
            ):
                raise AssertionError(f"names no argument: {error}") from None
            raise

    counts.attempt(what, checked, right)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_one_wrong_argument(name):
    counts = tally("wrong calls")
    arguments = RECIPES[name][1]
    before = len(counts.examples)
    for key, argument in arguments.items():
        for label, value in either_value(argument):
            attack(counts, name, key, label, value)
    failed = counts.examples[before:]
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:40])


def test_every_public_callable_has_a_recipe():
    assert without_recipe(RECIPES) == []


def test_enough_was_tried():
    counts = tally("wrong calls")
    if counts.counts["tried"] > 4000:  # the whole file was run
        assert counts.counts["tried"] >= 5000


def passed(call, arguments):
    with contextlib.suppress(UsersError), np.errstate(all="ignore"):
        return call(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name, (_, arguments) in RECIPES.items() if len(arguments) > 1))
def test_two_wrong_arguments(name):
    """Whichever of the two is named, nothing raw comes out."""
    counts = tally("wrong pairs")
    call, arguments = RECIPES[name]
    failed = len(counts.examples)
    for first, second in itertools.combinations(arguments, 2):
        for (la, va), (lb, vb) in zip(
            either_value(arguments[first]), reversed(either_value(arguments[second])), strict=False
        ):
            both = {key: argument.right for key, argument in arguments.items()} | {first: fresh(va), second: fresh(vb)}
            counts.attempt(
                f"{name}({first}={la}, {second}={lb})", lambda both=both: passed(call, both), lambda result: True
            )
    assert len(counts.examples) == failed, "\n".join(counts.examples[failed:][:20])
