"""A flat θ as the regressions that it consists of: rows that predict from the same features share a matrix Σ z zᵀ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Family", "Regression"]


@dataclass(frozen=True, eq=False)
class Family:
    """Rows of θ with the same features.

    Attributes
    ----------
    sees : tuple
        What the features are made of, as the synthesiser has it.
    index : (rows, m) array of int
        Where their parameters are in the flat θ.
    """

    sees: tuple[int, ...]
    index: np.ndarray

    @property
    def m(self) -> int:
        """Number of features."""
        return int(self.index.shape[1])


class Regression:
    """The families of a θ, and where their matrices are in a flat vector of Σ m².

    Parameters
    ----------
    families : sequence of Family
        Together they have every parameter once.
    """

    def __init__(self, families: Sequence[Family]) -> None:
        self.families = tuple(families)
        sizes = [family.m**2 for family in self.families]
        stops = np.cumsum(sizes).tolist()
        self._places = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
        self.size = sum(sizes)
        self._masked: tuple[Any, list[list[tuple[Any, Any]]]] | None = None

    def matrices(self, flat: Any) -> list[Any]:
        """The (m, m) matrices of the families: views of a flat vector."""
        return [flat[place].reshape(f.m, f.m) for place, f in zip(self._places, self.families, strict=True)]

    def moments(self, features: Sequence[Any], xp: Any) -> Any:
        """Σ z zᵀ of features (rows, m), family by family, flat and in float64."""
        flat = xp.empty(self.size, float)
        for R, z in zip(self.matrices(flat), features, strict=True):
            z = z.astype(float)
            xp.matmul(z.T, z, out=R)
        return flat

    def systems(self, mask: Any, backend: Any) -> list[list[tuple[Any, Any]]]:
        """For each family, groups of rows with the same features that exist: their places in θ, and these features.

        Parameters
        ----------
        mask : (|θ|,) array or None
            1 where a parameter exists.

        Returns
        -------
        list of list of (index (rows, features), features or None for all)
        """
        if self._masked is None or self._masked[0] is not mask:
            self._masked = mask, [self._groups(family, mask, backend) for family in self.families]
        return self._masked[1]

    @staticmethod
    def _groups(family: Family, mask: Any, backend: Any) -> list[tuple[Any, Any]]:
        exists = np.ones(family.index.shape, bool) if mask is None else backend.to_host(mask)[family.index] != 0
        if exists.all():
            return [(backend.asarray(family.index), None)]
        patterns, which = np.unique(exists, axis=0, return_inverse=True)
        groups = []
        for k, pattern in enumerate(patterns):
            if pattern.any():
                features = np.flatnonzero(pattern)
                rows = family.index[np.flatnonzero(which.reshape(-1) == k)]
                groups.append((backend.asarray(rows[:, features]), backend.asarray(features)))
        return groups
