"""Checks of arguments: each returns the value, or raises an error that names it and says what would be right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpl_neuro.errors import ValidationError

__all__ = ["generator", "instance", "number", "positive_int", "real_array"]


def number(name: str, value: Any, low: float = 0.0, high: float = math.inf, *, above: bool = False) -> float:
    """A finite number in [low, high), or in (low, high) with `above`."""
    right = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not right or not (low < value if above else low <= value) or not value < high:
        start = f"> {low:g}" if above else f"≥ {low:g}"
        bound = start if high == math.inf else f"{start} and < {high:g}"
        raise ValidationError(f"`{name}` must be a number {bound}, got {value!r}")
    return float(value)


def instance(name: str, value: Any, kind: Any, what: str) -> Any:
    """An object of a kind."""
    if not isinstance(value, kind):
        raise ValidationError(f"`{name}` must be {what}, got {type(value).__name__}")
    return value


def generator(name: str, seed: Any) -> np.random.Generator:
    """A generator, given as such or by a seed."""
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValidationError(f"`{name}` must be a whole number ≥ 0 or a numpy.random.Generator, got {seed!r}")
    return np.random.default_rng(int(seed))


def real_array(name: str, value: Any) -> np.ndarray:
    """A NumPy array of real numbers or booleans; a masked one is refused, for what it hides would come to light."""
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise ValidationError(
            f"`{name}` must be a plain array, got a masked one, whose hidden values would be taken for data; fill them "
            "in with its `filled`, or leave them out"
        )
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValidationError(f"`{name}` must be an array, but its rows differ in length") from None
    if array.dtype.kind not in "fiub":
        raise ValidationError(f"`{name}` must be an array of real numbers, got dtype {array.dtype}")
    return array


def positive_int(name: str, value: Any) -> int:
    """`value` as an int ≥ 1, or ValidationError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValidationError(f"`{name}` must be a whole number ≥ 1, got {value!r}")
    return int(value)
