"""A circuit in one file: its model, sizes, parameters and weights, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import BplError, ValidationError
from bpl_neuro.identity import say_differences, seal
from bpl_neuro.model.spec import Model
from bpl_neuro.storage import read_arrays, write_arrays

__all__ = ["FORMAT", "check_read", "read_circuit", "write_circuit"]

#: of the file; other ones are refused by name
FORMAT = 2


def write_circuit(path: str | Path, circuit: Any, parameters: Mapping[str, Any]) -> None:
    """A `Circuit` made with these `parameters`: model, sizes, weights."""
    meta = {
        "kind": "circuit",
        "format": FORMAT,
        "identity": circuit.identity(),
        "model": circuit.model.to_toml(),
        "sizes": circuit.sizes,
        "input_size": circuit.input_size,
        "dtype": circuit.dtype.name,
        "clamped": [[*key, value] for key, value in circuit.clamped.items()],
        "parameters": {key: _plain(value) for key, value in parameters.items()},
    }
    arrays = {"psi": circuit.psi, "mask": circuit.mask, "exists": circuit.exists}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    arrays = {name: circuit.backend.to_host(array) for name, array in arrays.items()}
    write_arrays(path, arrays, {**meta, "seal": seal(meta, arrays)})


def _plain(value: Any) -> Any:
    """A parameter as JSON has it: arrays in SI units, and one quantity of Brian2 as a text in base units, exactly."""
    if np.ndim(value) == 0 and getattr(value, "is_dimensionless", True) is False:
        return f"{float(value)!r}*{value.dim!r}"
    return np.asarray(value).tolist()


def read_circuit(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Arrays, arguments of `Circuit`, and the rest of what `write_circuit` wrote: ``clamped`` and ``identity``.

    Raises
    ------
    ValidationError
        If something is missing, too much, or of another type; what it all comes to is left to `check_read`.
    """
    arrays, meta = read_arrays(path, "circuit")
    if meta.get("format") != FORMAT:
        raise ValidationError(f"{path}: a circuit file of format {meta.get('format')!r}; this version reads {FORMAT}")
    if meta.get("seal") != seal(meta, arrays):
        raise ValidationError(f"{path}: its parts do not belong together; was it edited?")
    try:
        arguments = {
            "model": Model.from_toml(meta["model"], f"{path}: model"),
            "size": meta["sizes"],
            "input_size": meta["input_size"],
            "parameters": meta["parameters"],
            "dtype": meta["dtype"],
        }
        rest = {"clamped": {(q, unit): value for q, unit, value in meta["clamped"]}, "identity": meta["identity"]}
        psi = arrays["psi"]
    except KeyError as error:
        raise ValidationError(f"{path}: {error} is missing from the file") from None
    except (TypeError, ValueError) as error:
        raise ValidationError(f"{path}: `clamped` must be a list of [population, neuron, value]: {error}") from None
    if (odd := arrays.keys() - {"psi", "mask", "exists"}) or (odd := meta.keys() - _KNOWN):
        raise ValidationError(f"{path}: holds `{min(odd)}`, which is no part of a circuit")
    sizes = [meta["input_size"], *(meta["sizes"].values() if isinstance(meta["sizes"], dict) else [None])]
    if not all(isinstance(size, int) and 0 < size <= psi.size for size in sizes):
        raise ValidationError(f"{path}: `sizes` and `input_size` are those of no circuit with {psi.size} weights")
    if str(psi.dtype) != meta["dtype"] or any(array.shape != psi.shape for array in arrays.values()):
        raise ValidationError(f"{path}: `psi`, `mask` and `exists` must have one shape, and `psi` the circuit's dtype")
    return arrays, arguments, rest


_KNOWN = {"kind", "format", "identity", "model", "sizes", "input_size", "dtype", "clamped", "parameters", "seal"}


def check_read(path: str | Path, circuit: Any, identity: Any) -> None:
    """ValidationError unless a circuit that was read is what the file says it was.

    But for the equations, which are in the file as text: another version may write their meaning otherwise.
    """
    try:
        found = say_differences(identity, circuit.identity(), allow=["model"])
        signs = None if circuit.signs is None else circuit.signs * circuit.psi < 0
    except BplError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ValidationError(f"{path}: the file contradicts itself: {error}") from None
    if found:
        raise ValidationError(
            f"{path}: the file contradicts itself, or this version reads the model otherwise: {found[0]}"
        )
    if signs is not None and signs.any():
        raise ValidationError(f"{path}: `psi` has weights of another sign than the model gives them")
