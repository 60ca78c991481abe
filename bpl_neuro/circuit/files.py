"""A circuit in one file: its model, sizes, parameters and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import ValidationError
from bpl_neuro.model.spec import Model
from bpl_neuro.storage import read_arrays, write_arrays

__all__ = ["read_circuit", "write_circuit"]


def write_circuit(path: str | Path, circuit: Any, parameters: Mapping[str, Any]) -> None:
    """A `Circuit` made with these `parameters`: model, sizes, weights."""
    meta = {
        "kind": "circuit",
        "model": circuit.model.to_toml(),
        "sizes": circuit.sizes,
        "input_size": circuit.input_size,
        "dtype": circuit.dtype.name,
        "clamped": [[*key, value] for key, value in circuit.clamped.items()],
        "parameters": {key: np.asarray(value).tolist() for key, value in parameters.items()},
    }
    arrays = {"psi": circuit.psi, "mask": circuit.mask, "exists": circuit.exists}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    write_arrays(path, {name: circuit.backend.to_host(array) for name, array in arrays.items()}, meta)


def read_circuit(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[tuple[int, int], float]]:
    """Arrays, arguments of `Circuit`, and what is clamped, of what `write_circuit` wrote."""
    arrays, meta = read_arrays(path, "circuit")
    try:
        arguments = {
            "model": Model.from_toml(meta["model"], f"{path}: model"),
            "size": meta["sizes"],
            "input_size": meta["input_size"],
            "parameters": meta["parameters"],
            "dtype": meta["dtype"],
        }
        clamped = {(q, unit): value for q, unit, value in meta["clamped"]}
        arrays["psi"]
    except KeyError as error:
        raise ValidationError(f"{path}: {error} is missing from the file") from None
    return arrays, arguments, clamped
