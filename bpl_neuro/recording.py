"""Recordings: labelled arrays on disk that open with `xarray.open_zarr`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import xarray as xr

from bpl_neuro.errors import ValidationError

__all__ = ["write_recording"]


def write_recording(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset as ``recording.zarr``; the folder appears whole or not at all.

    Raises
    ------
    ValidationError
        If there already is something at `path`.
    """
    path = Path(path)
    if path.exists():
        raise ValidationError(f"{path}: there already is a recording; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        dataset.to_zarr(scratch / path.name, mode="w", zarr_format=2, consolidated=True)
        (scratch / path.name).rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
