"""Whether two results are the same, whatever they are made of."""

from __future__ import annotations

import types
from collections.abc import Mapping

import numpy as np
import xarray as xr


def same(first, second, seen=None) -> bool:
    """Equal numbers to the bit, in equal places; functions and modules by name."""
    seen = set() if seen is None else seen
    if first is second or (id(first), id(second)) in seen:
        return True
    seen.add((id(first), id(second)))
    if isinstance(first, np.ndarray | np.generic) or isinstance(second, np.ndarray | np.generic):
        a, b = np.asarray(first), np.asarray(second)
        if a.dtype.kind == "O":
            return a.shape == b.shape and all(same(x, y, seen) for x, y in zip(a.flat, b.flat, strict=True))
        return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc")
    if isinstance(first, float | int) and isinstance(second, float | int):
        return float(first) == float(second) or (first != first and second != second)
    if type(first) is not type(second):
        return False
    if isinstance(first, xr.Dataset | xr.DataArray):
        return first.identical(second)
    if isinstance(first, np.random.Generator):
        return same(first.bit_generator.state, second.bit_generator.state, seen)
    if isinstance(first, Mapping):
        return [*first] == [*second] and all(same(first[key], second[key], seen) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(x, y, seen) for x, y in zip(first, second, strict=True))
    if isinstance(first, types.FunctionType | types.MethodType | types.BuiltinFunctionType | type | types.ModuleType):
        return getattr(first, "__qualname__", first) == getattr(second, "__qualname__", second)
    if type(first).__module__.startswith("matplotlib"):
        return True  # drawn: what is in a figure has tests of its own
    if hasattr(first, "__dict__") and not isinstance(first, BaseException):
        # in whatever order they were set; without what making it took, and what is kept to be had again
        a, b = (
            {k: v for k, v in vars(x).items() if k not in ("seconds", "_budget", "_identity")} for x in (first, second)
        )
        return a.keys() == b.keys() and all(same(a[name], b[name], seen) for name in a)
    if hasattr(first, "__slots__"):
        return all(same(getattr(first, n, None), getattr(second, n, None), seen) for n in first.__slots__)
    return str(first) == str(second) if isinstance(first, BaseException) else first == second
