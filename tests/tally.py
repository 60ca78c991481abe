"""What attacks came to: tried, refused clearly, raw errors from inside, wrong results, hung; printed when pytest ends.

An attack gives something wrong to the package. What must come back is one of the package's own errors, or a result
that is right; anything else is counted, with an example, and fails the test that asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from bpl_neuro import BplError

COLUMNS = ("tried", "refused", "right", "raw", "wrong", "hung")
TALLIES: dict[str, Tally] = {}


class Tally:
    """The count of one kind of attack."""

    def __init__(self, name: str) -> None:
        self.name, self.counts, self.examples = name, Counter(), []

    def count(self, result: str, example: str = "") -> None:
        """One more of "refused", "right", "raw", "wrong" or "hung"."""
        assert result in COLUMNS[1:], result
        self.counts.update(["tried", result])
        if result in ("raw", "wrong", "hung"):
            self.examples.append(f"{result}: {example}")

    def attempt(self, what: str, call: Callable[[], Any], right: Callable[[Any], bool] | None = None) -> None:
        """Try one: refused by a `BplError`, or a result that `right` accepts (without it every result is wrong)."""
        try:
            result = call()
        except BplError:
            self.count("refused")
        except Exception as error:
            self.count("raw", f"{what}: {type(error).__name__}: {error}"[:300])
        else:
            fine = right is not None and right(result)
            self.count("right" if fine else "wrong", f"{what}: taken"[:300])

    def check(self) -> None:
        """Fail with examples if anything was raw, wrong or hung, or nothing was tried."""
        assert self.counts["tried"], f"{self.name}: nothing was tried"
        assert not self.examples, f"{self.name}: {len(self.examples)} failed:\n" + "\n".join(self.examples[:20])


def tally(name: str) -> Tally:
    """The tally of that name; tests that share one add to it."""
    return TALLIES.setdefault(name, Tally(name))


def lines() -> list[str]:
    """A table of all tallies so far."""
    if not TALLIES:
        return []
    width = max(map(len, TALLIES))
    rows = [" ".join([" " * width, *(f"{column:>8}" for column in COLUMNS)])]
    rows += [
        " ".join([f"{name:{width}}", *(f"{each.counts[column]:>8}" for column in COLUMNS)])
        for name, each in sorted(TALLIES.items())
    ]
    return rows
