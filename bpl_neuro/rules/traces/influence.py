"""What is carried forwards whole: M_t = J_t M_{t−1} + …, with n rows for each trial, in one array and little beside it.

The array has a few trials' room to spare. A step moves every trial into the room before or after it, a few at a time,
so the product needs no array of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.rules.base import Carry

__all__ = ["carried", "influence", "influence_size", "move_on"]


def influence(circuit: Circuit, trials: int, width: int) -> Carry:
    """M = 0: (B, n, width), with room to spare."""
    spare = room(circuit, trials, width)
    rows = circuit.xp.zeros((trials + spare, circuit.n, width), circuit.dtype)
    return {"rows": rows, "first": np.int64(0), "spare": np.int64(spare)}


def influence_size(circuit: Circuit, trials: int, width: int) -> int:
    """Numbers in it."""
    return (trials + room(circuit, trials, width)) * circuit.n * width


def room(circuit: Circuit, trials: int, width: int) -> int:
    """Trials that are multiplied at once."""
    return max(1, min(trials, circuit.backend.chunk // (circuit.n * width * circuit.dtype.itemsize)))


def carried(carry: Carry) -> Any:
    """M, (B, n, width): a view."""
    first, spare = int(carry["first"]), int(carry["spare"])
    return carry["rows"][first : len(carry["rows"]) - spare + first]


def move_on(carry: Carry, J: Any, circuit: Circuit) -> Carry:
    """M ← J M for J (B, n, n), in place: 2 n² · width operations for each trial."""
    rows, spare, up = carry["rows"], int(carry["spare"]), not carry["first"]
    B = len(J)
    starts = range(0, B, spare)
    for start in reversed(starts) if up else starts:
        stop = min(start + spare, B)
        low, high = rows[start:stop], rows[start + spare : stop + spare]
        circuit.xp.matmul(J[start:stop], low if up else high, out=high if up else low)
    return carry | {"first": np.int64(spare if up else 0)}
