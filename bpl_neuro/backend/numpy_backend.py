"""NumPy on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bpl_neuro.errors import ValidationError

__all__ = ["NumpyBackend"]


@dataclass(frozen=True)
class NumpyBackend:
    """Array namespace `xp` and conversions to and from host arrays."""

    name: str = "numpy"

    @property
    def xp(self) -> Any:
        """The array namespace."""
        return np

    def dtype(self, dtype: Any) -> np.dtype[Any]:
        """float32 or float64.

        Raises
        ------
        ValidationError
            For any other type.
        """
        try:
            kind = np.dtype(dtype)
        except TypeError:
            kind = None
        if kind not in (np.float32, np.float64):
            raise ValidationError(f"`dtype` must be float32 or float64, got {dtype!r}")
        return kind

    def to_host(self, array: Any) -> np.ndarray:
        """A NumPy array with the same values."""
        return np.asarray(array)
