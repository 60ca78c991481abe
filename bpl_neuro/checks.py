"""Checks of arguments: each returns the value, or raises an error that names it and says what would be right.

One helper for each kind of argument. None of them guesses: a boolean is no number, a text is no list of names, and
what would silently lose something on its way to a plain array (a mask, a unit, an imaginary part) is refused.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import ValidationError

__all__ = [
    "a_text", "finite_array", "flag", "function", "generator", "index", "indices", "instance", "mapping", "number",
    "path", "plain_seed", "positive_int", "real_array", "shown", "whole", "word", "words",
]  # fmt: skip

#: the largest count that is taken: beyond it lie overflows of what is allocated, not experiments
MOST = 2**31 - 1

#: NumPy takes seeds of any size, files keep those of 128 bits
MOST_SEED = 2**128 - 1


def shown(value: Any) -> str:
    """A short text of any value, for an error; never fails."""
    try:
        text = repr(value) if isinstance(value, str | float | np.generic) else reprlib.repr(value)
    except Exception:  # whatever a stranger's __repr__ does, or an int of too many digits
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 200 else text[:197] + "…"


def number(name: str, value: Any, low: float = 0.0, high: float = math.inf, *, above: bool = False) -> float:
    """A finite number in [low, high), or in (low, high) with `above`."""
    _without_hidden(name, value)
    right = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if right:
        try:
            value = float(value)
        except OverflowError:
            right = False
    if not right or not (low < value if above else low <= value) or not value < high:
        start = f"> {low:g}" if above else f"≥ {low:g}"
        start = "that is finite" if low == -math.inf else start
        bound = start if high == math.inf else f"{start} and < {high:g}"
        raise ValidationError(f"`{name}` must be a number {bound}, got {shown(value)}")
    return float(value)


def whole(name: str, value: Any, least: int = 0, most: int = MOST) -> int:
    """A whole number in least … most; a boolean or a float is none."""
    right = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not right or not least <= value <= most:
        bound = f"≥ {least}" + (f" and ≤ {most}" if right and value > most else "")
        raise ValidationError(f"`{name}` must be a whole number {bound}, got {shown(value)}")
    return int(value)


def positive_int(name: str, value: Any, most: int = MOST) -> int:
    """`value` as an int ≥ 1, or ValidationError."""
    return whole(name, value, 1, most)


def index(name: str, value: Any, last: int) -> int:
    """A whole number in 0 … last."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value <= last:
        raise ValidationError(f"`{name}` must lie in 0 … {last}, got {shown(value)}")
    return int(value)


def indices(name: str, value: Any, last: int) -> list[int]:
    """One or more whole numbers in 0 … last; a mask of booleans is none."""
    try:
        units = np.atleast_1d(real_array(name, value))
    except ValidationError:
        units = np.array([0.5])
    if (
        units.ndim != 1
        or not units.size
        or units.dtype.kind not in "iu"
        or units.min(initial=0) < 0
        or units.max(initial=0) > last
    ):
        raise ValidationError(f"`{name}` must be indices in 0 … {last}, got {shown(value)}")
    return [int(unit) for unit in units]


def plain_seed(name: str, value: Any) -> int:
    """A seed that can be written to a file: a whole number ≥ 0, not a generator."""
    return whole(name, value, most=MOST_SEED)


def flag(name: str, value: Any) -> bool:
    """True or False; nothing that merely counts as one of them."""
    return bool(instance(name, value, bool | np.bool_, "True or False"))


def word(name: str, value: Any, known: Iterable[str]) -> str:
    """One of some texts."""
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise ValidationError(f"`{name}` must be one of {', '.join(known) or 'none'}, got {shown(value)}")
    return value


def a_text(name: str, value: Any) -> str:
    """A text for people, without a NUL character."""
    if not isinstance(value, str) or "\0" in value:
        raise ValidationError(f"`{name}` must be a text without a NUL character, got {shown(value)}")
    return value


def words(name: str, value: Any) -> list[str]:
    """A name, or a list or tuple of names; a text is one name, not a list of letters."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Sequence) or isinstance(value, bytes) or any(not isinstance(part, str) for part in value):
        raise ValidationError(f"`{name}` must be a name or a list of names, got {shown(value)}")
    return list(value)


def instance(name: str, value: Any, kind: Any, what: str) -> Any:
    """An object of a kind."""
    if not isinstance(value, kind):
        raise ValidationError(f"`{name}` must be {what}, got {type(value).__name__} {shown(value)}")
    return value


def mapping(name: str, value: Any, what: str) -> dict[str, Any]:
    """A mapping whose keys are texts, as a dict; empty for None."""
    value = instance(name, {} if value is None else value, Mapping, f"a mapping of {what}")
    for key in value:
        if not isinstance(key, str):
            raise ValidationError(f"`{name}` must be a mapping of {what}: {shown(key)} is no name")
    return dict(value)


def function(name: str, value: Any, what: str) -> Callable[..., Any]:
    """Something to call."""
    if not callable(value):
        raise ValidationError(f"`{name}` must be {what}, got {shown(value)}")
    return value  # type: ignore[no-any-return]


def path(name: str, value: Any) -> Path:
    """The path of a file or folder, given as a text or a path."""
    if not isinstance(value, str | os.PathLike) or not isinstance(text := os.fspath(value), str) or not text.strip():
        raise ValidationError(f"`{name}` must be a path, got {shown(value)}")
    if "\0" in text:
        raise ValidationError(f"`{name}` must be a path, got {shown(value)} with a NUL character")
    return Path(text)


def generator(name: str, seed: Any) -> np.random.Generator:
    """A generator, given as such or by a seed."""
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MOST_SEED:
        raise ValidationError(f"`{name}` must be a whole number ≥ 0 or a numpy.random.Generator, got {shown(seed)}")
    return np.random.default_rng(int(seed))


def real_array(name: str, value: Any) -> np.ndarray:
    """A NumPy array of real numbers or booleans, of the plain kind.

    Refused is what would lose something on the way: the mask of a masked array, whose hidden values would come to
    light; the unit of a Brian2 quantity; the imaginary part of a complex number; and what is no number at all.
    """
    for part in _parts(value):
        _without_hidden(name, part)
    try:
        array = np.asarray(value)
    except ValidationError:
        raise
    except Exception as error:  # whatever a stranger's __array__ does
        uneven = isinstance(value, list | tuple)
        reason = "its rows differ in length" if uneven else f"it cannot be made one ({type(error).__name__})"
        raise ValidationError(f"`{name}` must be an array, but {reason}; got {shown(value)}") from None
    if array.dtype.kind not in "fiub":
        raise ValidationError(f"`{name}` must be an array of real numbers, got dtype {array.dtype}: {shown(value)}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def finite_array(name: str, value: Any, ndim: int | None = None) -> np.ndarray:
    """A NumPy array of finite float64 numbers, with so many axes."""
    array = real_array(name, value)
    if ndim is not None and array.ndim != ndim:
        raise ValidationError(f"`{name}` must have {ndim} axes, got shape {array.shape}")
    array = array.astype(float)
    if not np.isfinite(array).all():
        raise ValidationError(f"`{name}` must be finite, got {shown(value)}")
    return array


def _parts(value: Any) -> list[Any]:
    """A value, and what lists and tuples within it hold, three deep."""
    found, level = [value], [value]
    for _ in range(3):
        level = [part for each in level if isinstance(each, list | tuple) for part in each]
        found += level
    return found


def _without_hidden(name: str, value: Any) -> None:
    """ValidationError for what holds more than its numbers: a mask, or a unit."""
    inner = value if isinstance(value, np.ndarray) else getattr(value, "data", None)  # of a DataArray
    if isinstance(inner, np.ma.MaskedArray):
        raise ValidationError(
            f"`{name}` must be a plain array, got a masked one, whose hidden values would be taken for data; fill them "
            "in with its `filled`, or leave them out"
        )
    if (unit := getattr(value, "dim", None)) is not None and hasattr(value, "in_best_unit"):
        raise ValidationError(
            f"`{name}` must be plain numbers, got a quantity with the unit {unit}, which would be lost; divide it by "
            f"the unit that is meant, like x/ms: {shown(value)}"
        )
