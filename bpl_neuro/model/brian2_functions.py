"""The functions of a text that Brian2 does not know, as Brian2's own `Function` objects."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bpl_neuro.model.functions import FUNCTIONS, Function
from bpl_neuro.model.quantities import brian2_parts

__all__ = ["brian2_functions"]


def brian2_functions() -> dict[str, Any]:
    """By name: what Brian2 needs to check their units, and to run them, as a ``namespace`` with the target numpy."""
    return {name: _made(function) for name, function in FUNCTIONS.items() if function.units is not None}


@functools.cache
def _made(function: Function) -> Any:
    k, computed = function.unit_of, function.of(np)

    def call(*arguments: Any) -> Any:
        return computed(*arguments)

    made = brian2_parts().Function(
        call,
        arg_units=list(function.units or ()),
        arg_names=list("xab"[: function.arguments]),
        return_unit=1 if k is None else lambda *units: units[k],
    )
    made.implementations.add_numpy_implementation(call, discard_units=False)
    return made
