"""SymPy's questions about what it makes (is it zero? positive?), bounded while a model is read.

SymPy asks them of every new part, and answers by asking them of the parts of parts, some of which it makes for that.
For chained products and sums that takes time exponential in their depth, and how long differs from run to run. An
answer may always be "unknown", so a question that leads too far is answered so. A question is also where SymPy can be
told that time is up.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy  # noqa: F401 - loads the module below, whose name `sympy.core` gives to a function

from bpl_neuro.model.budget import Budget

__all__ = ["bounded_questions"]

#: how far a question may lead: parts inside one another, and questions in all
FAR, MANY = 6, 300
#: what is answered of parts, by which of SymPy's own answers: their symbols are finite, and so are they where they are
#: anything. Everything else is unknown
ANSWERS = {
    "commutative": "commutative",
    **{
        f"{prefix}{fact}": f"extended_{fact}"
        for fact in ("real", "positive", "negative")
        for prefix in ("", "extended_")
    },
    **{fact: "extended_nonnegative" for fact in ("nonnegative", "extended_nonnegative")},
}


class _Reader(threading.local):
    """What the thread reads now: nothing, or a model with its budget."""

    budget: Budget | None = None
    where = ""
    depth = count = 0


_reader = _Reader()


@contextmanager
def bounded_questions(budget: Budget, where: str) -> Iterator[None]:
    """Bound SymPy's questions in this thread, and end it with a ModelError once the budget's time is up."""
    _install()
    outside = _reader.budget, _reader.where
    _reader.budget, _reader.where = budget, where
    try:
        yield
    finally:
        _reader.budget, _reader.where = outside


@functools.cache
def _install() -> None:
    """Put two functions of SymPy's behind ours, which do the same where no model is read."""
    assumptions: Any = sys.modules["sympy.core.assumptions"]
    ask, shuffle = assumptions._ask, assumptions.shuffle

    def bounded_ask(fact: str, obj: Any) -> bool | None:
        budget = _reader.budget
        if budget is None or not obj.args or obj.is_number:
            return ask(fact, obj)
        budget.check_time(_reader.where)
        if _reader.depth == 0:
            _reader.count = 0
        _reader.count += 1
        known = budget.answers.get((fact, obj))
        if known is not None or fact not in ANSWERS or _reader.depth >= FAR or _reader.count > MANY:
            return known
        _reader.depth += 1
        try:
            answer = budget.answers[fact, obj] = _answer(ANSWERS[fact], obj)
        finally:
            _reader.depth -= 1
        return answer

    def settled_shuffle(facts: list[str]) -> None:
        """In an order that is the same in every run, so that the same questions are given up."""
        shuffle(facts) if _reader.budget is None else facts.sort()

    assumptions._ask, assumptions.shuffle = bounded_ask, settled_shuffle


def _answer(fact: str, part: Any) -> bool | None:
    handler = part._prop_handler.get(fact)
    answer = handler(part) if handler else None
    if answer is None and fact == "extended_nonnegative" and part.is_extended_real:
        return True if part.is_extended_positive or part.is_extended_negative is False else None
    return answer
