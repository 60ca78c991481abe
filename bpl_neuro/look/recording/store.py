"""Stores on disk: written at once, or batch by batch such that a kill at any moment leaves whole batches.

A `BatchStore` is a zarr store of format 2. Its ``.zmetadata``, which readers go by, says how many batches there are; it
is replaced atomically once their chunks are on disk. So a reader sees whole batches only, and what a killed process
left beyond them is no part of the recording.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.storage import LocalStore

from bpl_neuro.errors import BplError, ValidationError
from bpl_neuro.storage import atomic_write

__all__ = ["BatchStore", "clear_recording", "write_recording"]

#: with a checksum in every chunk, by which damage is known
_COMPRESSOR: dict[str, Any] = {"id": "zstd", "level": 1, "checksum": True}
_METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata")


def write_recording(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset as ``recording.zarr``; its arrays appear whole or not at all.

    Recordings of trainings, written while running, may already lie in that folder, each in one of its own.

    Raises
    ------
    ValidationError
        If there already are arrays, or something that is no recording, at `path`.
    """
    path = Path(path)
    if (path / ".zmetadata").exists() or (path.exists() and not path.is_dir()):
        raise ValidationError(f"{path}: there already is a recording; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        dataset.to_zarr(scratch / path.name, mode="w", zarr_format=2, consolidated=True)
        if not path.exists():
            (scratch / path.name).rename(path)
            return
        for part in sorted((scratch / path.name).iterdir(), key=lambda part: part.name == ".zmetadata"):
            if part.is_dir() and (path / part.name).exists():  # left over by a kill in the middle of this
                shutil.rmtree(path / part.name)
            part.replace(path / part.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def clear_recording(path: str | Path) -> None:
    """Take away what `write_recording` wrote; recordings of trainings in the same folder stay."""
    path = Path(path)
    for name in (".zmetadata", ".zgroup", ".zattrs"):  # the first makes it unread at once
        (path / name).unlink(missing_ok=True)
    for part in path.iterdir() if path.exists() else ():
        if (part / ".zarray").exists():
            shutil.rmtree(part)


class BatchStore:
    """Arrays with a leading dimension ``batch`` that grows.

    Attributes
    ----------
    path : Path
    rows : int
        Batches it holds.
    chunk : int
        Batches in a chunk; 0 before the store was made.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.chunk = path, 0, 0
        self._arrays: dict[str, Any] = {}

    def create(
        self,
        row: Mapping[str, np.ndarray],
        dims: Mapping[str, Sequence[str]],
        labels: xr.Dataset,
        attrs: Mapping[str, Mapping[str, str]],
        chunks: Mapping[str, int],
    ) -> None:
        """Make the store, without a batch in it; it appears whole or not at all.

        Parameters
        ----------
        row : mapping of str to array
            One batch: names, shapes, types.
        dims, attrs : mapping
            Of each name: its dimensions after ``batch``, and its attributes.
        labels : xarray.Dataset
            Coordinates and attributes of the whole; ``chunk_batches`` among the latter.
        chunks : mapping of str to int
            Sizes of chunks along dimensions; the others are not cut.
        """
        scratch = self.path.with_name(f".{self.path.name}.part")
        shutil.rmtree(scratch, ignore_errors=True)
        with self._failure_named():
            try:
                labels.to_zarr(scratch, mode="w", zarr_format=2, consolidated=False)
                group = zarr.open_group(scratch, mode="r+", zarr_format=2, use_consolidated=False)
                for name, array in row.items():
                    size = dict(zip(dims[name], array.shape, strict=True)) | {"batch": labels.attrs["chunk_batches"]}
                    group.create_array(
                        name,
                        shape=(0, *array.shape),
                        chunks=tuple(
                            max(min(size[dim], chunks.get(dim, size[dim])), 1) for dim in ("batch", *dims[name])
                        ),
                        dtype=array.dtype,
                        compressors=_COMPRESSOR,
                        fill_value=np.nan if array.dtype.kind == "f" else None,
                        attributes={"_ARRAY_DIMENSIONS": ["batch", *dims[name]], **attrs[name]},
                    )
                zarr.consolidate_metadata(group.store, zarr_format=2)
                scratch.rename(self.path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            self._open(row)

    def append(self, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Add batches; all of them are readable afterwards, or none.

        Raises
        ------
        BplError
            If they cannot be written (a full disk, no permission).
        """
        rows = self.rows + len(batches)
        with self._failure_named():
            for name, array in self._arrays.items():
                array.resize((rows, *array.shape[1:]))
                array[self.rows :] = np.stack([batch[name] for batch in batches])
            self._commit(rows)

    def reopen(self, rows: int, batches: Sequence[int]) -> None:
        """Go on with an existing store, cut back to its first `rows` batches, which should have these numbers."""
        with damage_named(self.path):
            metadata = read_metadata(self.path)
            for leftover in self.path.rglob(".*"):
                if leftover.is_file() and leftover.name not in _METADATA:
                    leftover.unlink()
            self._open([key.removesuffix("/.zarray") for key in metadata if _grows(metadata, key)])
            self._verify(rows)
            if self._arrays["batch"][:rows].tolist() != list(batches):
                raise ValidationError(f"{self.path}: the recording is damaged: its batches should be {list(batches)}")
        with self._failure_named():
            self._commit(rows)
            for array in self._arrays.values():
                array.resize((rows, *array.shape[1:]))

    def labels(self, name: str) -> list[int]:
        """A coordinate's numbers; none where it has no such coordinate."""
        group = zarr.open_group(self.path, mode="r", zarr_format=2, use_consolidated=False)
        return np.asarray(group[name]).tolist() if name in group else []

    def _open(self, names: Any) -> None:
        # A chunk that is all NaN is written too, so that a missing one is known to be damage.
        with zarr.config.set({"array.write_empty_chunks": True}):
            group = zarr.open_group(_AtomicStore(self.path), mode="r+", zarr_format=2, use_consolidated=False)
            self._arrays = {name: group[name] for name in names}
        self.chunk = int(group.attrs["chunk_batches"])  # type: ignore[arg-type]

    def _commit(self, rows: int) -> None:
        """From now on the recording has this many batches."""
        metadata = read_metadata(self.path)
        for name, array in self._arrays.items():
            metadata[f"{name}/.zarray"]["shape"] = [rows, *array.shape[1:]]
        whole = {"metadata": metadata, "zarr_consolidated_format": 1}
        atomic_write(self.path / ".zmetadata", json.dumps(whole, indent=4))
        self.rows = rows

    def _verify(self, rows: int) -> None:
        """Every chunk of the first `rows` batches is there and can be decoded; reads one at a time."""
        for name, array in self._arrays.items():
            sizes = (rows, *array.shape[1:])
            for index in np.ndindex(*(-(-size // chunk) for size, chunk in zip(sizes, array.chunks, strict=True))):
                file = self.path / name / ".".join(map(str, index))
                if array.shape[0] < rows or not file.is_file():
                    raise ValidationError(f"{file}: the recording is damaged: this chunk is missing")
                with damage_named(file):
                    array.blocks[index]

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, BplError) as error:
            kept = f"the {self.rows} batches in it stay readable" if self.rows else "it holds none yet"
            raise BplError(f"{self.path}: cannot add to the recording ({kept}): {error}") from error


class _AtomicStore(LocalStore):
    """Replaces files, never writes into them: a chunk that gets one more batch holds the others at any moment."""

    async def set(self, key: str, value: Any) -> None:
        atomic_write(self.root / key, value.to_bytes())


def read_metadata(path: Path) -> dict[str, Any]:
    """What a store's ``.zmetadata`` says: file → its content."""
    if not path.exists():
        raise ValidationError(f"{path}: there is no recording to go on with")
    return json.loads((path / ".zmetadata").read_bytes())["metadata"]


@contextlib.contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Errors that a damaged or foreign file leads to, as ValidationError."""
    try:
        yield
    except BplError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise ValidationError(f"{path}: the recording is damaged, or not a recorder's: {error!r}") from error


def _grows(metadata: Mapping[str, Any], key: str) -> bool:
    name, _, file = key.rpartition("/")
    return file == ".zarray" and metadata[f"{name}/.zattrs"]["_ARRAY_DIMENSIONS"][:1] == ["batch"]
