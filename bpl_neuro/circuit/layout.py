"""One flat vector with named views: what an optimiser updates in one pass and a person reads by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bpl_neuro.errors import ValidationError

__all__ = ["Layout"]


class Layout(Mapping[str, tuple[int, ...]]):
    """Names and shapes of the blocks of a flat vector, in order.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Block name → shape.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = dict(shapes)
        self._slices: dict[str, slice] = {}
        start = 0
        for name, shape in self._shapes.items():
            self._slices[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        self.size = start

    def views(self, flat: Any) -> dict[str, Any]:
        """Name → view of `flat` (leading axes of `flat` are kept).

        Raises
        ------
        ValidationError
            If the last axis of `flat` has another size than the layout.
        """
        if flat.shape[-1] != self.size:
            raise ValidationError(f"expected {self.size} values, got {flat.shape[-1]}")
        return {name: self.view(flat, name) for name in self._shapes}

    def view(self, flat: Any, name: str) -> Any:
        """One of `views`."""
        return flat[..., self._slices[name]].reshape(flat.shape[:-1] + self._shapes[name])

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
