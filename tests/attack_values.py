"""Wrong values by the dozen, and oracles that know which of them mean something for a kind of argument.

An oracle gives the plain value that a hostile one stands for, or raises `Wrong`. It knows nothing of the package: what
is taken though it is `Wrong`, or taken with another result than its plain value gives, was taken with a wrong meaning.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import brian2
import numpy as np
import xarray as xr

try:
    import pandas
except ImportError:  # not one of the package's own libraries
    pandas = None


class Wrong(Exception):
    """A value that means nothing here."""


class Argument(NamedTuple):
    """A right value, the oracle, and by what names an error may call it."""

    right: Any
    means: Callable[[Any], Any]
    names: tuple[str, ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()


class Own(np.ndarray):
    """A subclass of ndarray: the same numbers."""


class Hostile:
    """Fails at whatever it is asked."""

    def __repr__(self):
        raise RuntimeError("repr")

    def __len__(self):
        raise RuntimeError("len")

    def __iter__(self):
        raise RuntimeError("iter")

    def __array__(self, *_, **__):
        raise RuntimeError("array")

    def __float__(self):
        raise RuntimeError("float")

    def __bool__(self):
        raise RuntimeError("bool")

    def __eq__(self, other):
        raise RuntimeError("eq")

    __hash__ = None


class UsersError(Exception):
    """Of a function that the user gave: it comes out as it is."""


class Quiet:
    """A class that takes anything."""

    def __init__(self, *_, **__):
        pass


def raises(*_, **__):
    raise UsersError("a function of the user's")


def gives_nan(*_, **__):
    return float("nan")


def plain_values() -> list[tuple[str, Any]]:
    """What is tried for every argument, whatever its kind."""
    masked = np.ma.array([0.1, 0.2, 0.3], mask=[False, True, False])
    values = {
        "None": None, "True": True, "False": False, "np.True_": np.True_, "0": 0, "1": 1, "-1": -1, "3": 3,
        "10**30": 10**30, "-10**30": -(10**30), "10**5000": 10**5000, "0.5": 0.5, "1.0": 1.0, "-0.5": -0.5,
        "2.7": 2.7, "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1e300": 1e300, "complex": 1 + 2j,
        "empty text": "", "text": "no such thing", "number as text": "3", "text with NUL": "a\0b", "a time": "10*ms",
        "bytes": b"exc", "object": object(), "class": Quiet, "Hostile": Hostile(), "empty list": [], "list": [1, 2],
        "uneven": [[1, 2], [3]], "list of texts": ["a", "b"], "list of None": [None], "tuple": (1.5, 2),
        "dict": {1: 2}, "dict of texts": {"a": 1}, "empty dict": {}, "set": {1, 2}, "range": range(3),
        "slice": slice(2),
        "lambda": lambda *_: None, "raises": raises, "nan function": gives_nan,
        "decimal": decimal.Decimal("0.5"), "fraction": fractions.Fraction(1, 2), "date": datetime.date(2020, 1, 1),
        "path": Path("nowhere/at all"), "int32": np.int32(2), "uint8": np.uint8(2), "float32": np.float32(0.5),
        "float16": np.float16(0.5), "complex64": np.complex64(1), "np.str_": np.str_("exc"),
        "datetime64": np.datetime64("2020-01-01"), "0-d": np.array(2), "0-d float": np.array(0.5), "1-d": np.ones(3),
        "2-d": np.ones((2, 3)), "empty array": np.zeros(0), "masked": masked, "masked constant": np.ma.masked,
        "structured": np.zeros(3, [("a", float)]), "objects": np.array([object(), None]), "texts": np.array(["a"]),
        "dates": np.array(["2020-01-01"], "M8[D]"), "complex array": np.ones(3, complex),
        "quantity": 3 * brian2.ms, "quantities": [1, 2, 3] * brian2.mV, "list of quantities": [1 * brian2.ms] * 3,
        "DataArray": xr.DataArray(np.ones(3)), "Dataset": xr.Dataset({"a": ("x", np.ones(3))}),
        "memoryview": memoryview(b"abc"), "huge": np.full(3, 1e300),
    }  # fmt: skip
    if pandas is not None:
        values |= {"Series": pandas.Series([1.0, 2.0, 3.0]), "DataFrame": pandas.DataFrame({"a": [1.0, 2.0]})}
    # made anew for each call, for they are used up
    return [
        *values.items(),
        ("generator", _Fresh(lambda: (k for k in range(3)))),
        ("iterator", _Fresh(lambda: iter([1]))),
    ]


class _Fresh(NamedTuple):
    make: Callable[[], Any]


def fresh(value: Any) -> Any:
    return value.make() if isinstance(value, _Fresh) else value


def like_array(right: np.ndarray) -> list[tuple[str, Any]]:
    """The right array in strange clothes, and nearly right ones."""
    a = np.asarray(right)
    read_only = a.copy()
    read_only.flags.writeable = False
    spaced = np.empty((*a.shape, 2), a.dtype)[..., 0]
    spaced[...] = a
    hole = np.zeros(a.shape, bool)
    hole.flat[0] = True
    with_nan, with_inf = (np.array(a, float) for _ in range(2))
    with_nan.flat[-1], with_inf.flat[-1] = np.nan, -np.inf
    values = {
        "read-only": read_only, "spaced": spaced, "fortran": np.asfortranarray(a),
        "other end": a.astype(a.dtype.newbyteorder()),
        "own class": a.view(Own), "list of it": a.tolist(), "float16": a.astype(np.float16), "int of it": a.astype(int),
        "objects of it": a.astype(object), "texts of it": a.astype(str), "complex of it": a + 1j * a,
        "masked of it": np.ma.array(a, mask=hole), "masked nothing": np.ma.array(a), "nan in it": with_nan,
        "list with a masked": [np.ma.array(part) if np.ndim(part) else part for part in a], "inf in it": with_inf,
        "quantity of it": np.array(a, float) * brian2.mV, "DataArray of it": xr.DataArray(a),
        "masked DataArray": xr.DataArray(np.ma.array(a, mask=hole)), "one axis more": a[None], "flat": a.ravel(),
        "one too few": a[:-1], "one too many": np.concatenate([a, a[:1]]), "none of it": a[:0], "transposed": a.T,
        "dates of it": np.array(a, int).astype("M8[s]"), "structured of it": np.zeros(a.shape, [("a", float)]),
        "huge of it": np.array(a, float) + 1e300,
    }  # fmt: skip
    if pandas is not None and a.ndim in (1, 2):
        values["pandas of it"] = (pandas.Series if a.ndim == 1 else pandas.DataFrame)(a)
    return [*values.items()]


# Oracles


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False):
    """A finite number in [low, high], or without the ends."""

    def means(value):
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise Wrong
        try:
            plain = float(value)
        except OverflowError:
            raise Wrong from None
        inside = (low < plain if above else low <= plain) and (plain < high if below else plain <= high)
        if not inside or not math.isfinite(plain):
            raise Wrong
        return plain

    return means


def count(least: int = 1, most: int = 2**31):
    """A whole number."""

    def means(value):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
            raise Wrong
        return int(value)

    return means


def flag(value):
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise Wrong
    return bool(value)


def seed(value):
    """A whole number ≥ 0, or a generator."""
    return value if isinstance(value, np.random.Generator) else count(0, 10**40)(value)


def one_of(*known):
    """Texts."""

    def means(value):
        if not isinstance(value, str) or value not in known:
            raise Wrong
        return str(value)

    return means


def text(value):
    """Any text without a NUL."""
    if not isinstance(value, str) or "\0" in value:
        raise Wrong
    return str(value)


def file(value):
    """A path; nothing needs to be there."""
    if not isinstance(value, str | os.PathLike) or "\0" in str(value) or not str(value).strip():
        raise Wrong
    return Path(value)


def optional(means):
    """None, or that."""
    return lambda value: None if value is None else means(value)


def either(*choices):
    """The first that takes it."""

    def means(value):
        for choice in choices:
            try:
                return choice(value)
            except Wrong:
                continue
        raise Wrong

    return means


def a(kind, *, but=()):
    """An object of a kind."""

    def means(value):
        if not isinstance(value, kind) or isinstance(value, but):
            raise Wrong
        return value

    return means


def nothing(value):
    """Of what is tried nothing is right."""
    raise Wrong


def anything(value):
    """Whatever it is."""
    return value


def function(value):
    """Something to call."""
    if not callable(value):
        raise Wrong
    return value


def steps(least: int = 1):
    """A number of steps; times are tried by other tests."""
    return either(count(least), one_of("10*ms"))


def items(means, least: int = 0):
    """A list or tuple, each of whose items means something."""

    def of(value):
        if not isinstance(value, list | tuple) or len(value) < least:
            raise Wrong
        return [means(item) for item in value]

    return of


def mapping(keys, means):
    """A mapping of names."""

    def of(value):
        if not isinstance(value, Mapping) or any(not isinstance(key, str) or key not in keys for key in value):
            raise Wrong
        return {key: means(item) for key, item in value.items()}

    return of


def hides(value) -> bool:
    """Whether making it a plain array would lose something."""
    if isinstance(value, list | tuple):
        return any(hides(part) for part in value)
    data = getattr(value, "data", None) if isinstance(value, xr.DataArray) else None
    return isinstance(value, np.ma.MaskedArray | brian2.Quantity) or isinstance(data, np.ma.MaskedArray)


def array(*shape, finite: bool = True, kinds: str = "fiub", within=lambda x: True):
    """Real numbers of a shape; None as a size is any from 1 on, and no shape at all any shape."""

    def means(value):
        if hides(value):
            raise Wrong
        try:
            plain = np.asarray(value)
        except Exception:
            raise Wrong from None
        if plain.dtype.kind not in kinds:
            raise Wrong
        right = len(plain.shape) == len(shape) and all(
            m == n if n is not None else m > 0 for m, n in zip(plain.shape, shape, strict=True)
        )
        if shape and not right:
            raise Wrong
        if (finite and not np.isfinite(plain).all()) or not within(plain):
            raise Wrong
        return np.array(plain, plain.dtype.newbyteorder("="))

    return means


def either_value(argument: Argument) -> Sequence[tuple[str, Any]]:
    """What is tried for an argument."""
    own = like_array(argument.right) if isinstance(argument.right, np.ndarray) and argument.right.ndim else []
    return [*plain_values(), *own, *argument.extra]
