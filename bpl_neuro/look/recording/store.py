"""Stores on disk: written at once, or batch by batch such that a kill at any moment leaves whole batches.

A `BatchStore` is a zarr store of format 2. Its ``.zmetadata``, which readers go by, says how many batches there are; it
is replaced atomically once their chunks are on disk. So a reader sees whole batches only, and what a killed process
left beyond them is no part of the recording.

It says in the same way how many steps and trials there are, which grow as longer and larger batches come. What was
written stays as it is: growth adds chunks, and only from the batch on that brought it. Where an earlier one has none,
zarr reads the fill value, NaN. The attribute ``sizes`` keeps from which batch on there were how many, so that a chunk
that was never written is told from a lost one, and a recording that is cut back shrinks to what it was.

Every file has a checksum, in ``checksums.log`` (`checksums`), and going on verifies all of them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.storage import LocalStore

from bpl_neuro.errors import BplError, ValidationError
from bpl_neuro.look.recording.checksums import (
    LOG,
    WRITTEN,
    Log,
    Verified,
    check_written,
    files_of,
    write_checksums,
)
from bpl_neuro.storage import clean_leftovers, clean_scratch, make_folder, scratch_path, sync_folder, sync_tree

__all__ = ["BatchStore", "clear_recording", "verify_recording", "write_recording"]

#: with a checksum in every chunk, by which damage is known
_COMPRESSOR: dict[str, Any] = {"id": "zstd", "level": 1, "checksum": True}
#: dimensions that grow with a batch longer or larger than those before
_WITHIN = ("step", "trial")


def write_recording(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset as ``recording.zarr``; its arrays appear whole or not at all.

    Recordings of trainings, written while running, may already lie in that folder, each in one of its own.

    Raises
    ------
    ValidationError
        If there already are arrays, or something that is no recording, at `path`.
    BplError
        If it cannot be written.
    """
    path = Path(path)
    if (path / ".zmetadata").exists() or (path.exists() and not path.is_dir()):
        raise ValidationError(f"{path}: there already is a recording; remove it or choose another folder")
    scratch = scratch_path(path)
    try:
        make_folder(path.parent)
        dataset.to_zarr(scratch, mode="w", zarr_format=2, consolidated=True)
        write_checksums(scratch)
        sync_tree(scratch)
        if path.exists():
            _move_into(scratch, path)
        else:
            scratch.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise BplError(f"{path}: cannot write the recording: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move_into(scratch: Path, path: Path) -> None:
    """What readers go by comes last."""
    for part in sorted(scratch.iterdir(), key=lambda part: part.name == ".zmetadata"):
        if part.is_dir() and (path / part.name).exists():  # left over by a kill in the middle of this
            shutil.rmtree(path / part.name)
        part.replace(path / part.name)
    sync_folder(path)


def clear_recording(path: str | Path) -> None:
    """Take away what `write_recording` wrote; recordings of trainings in the same folder stay."""
    path = Path(path)
    for name in (".zmetadata", ".zgroup", ".zattrs", WRITTEN):  # the first makes it unread at once
        (path / name).unlink(missing_ok=True)
    for part in path.iterdir() if path.exists() else ():
        if (part / ".zarray").exists():
            shutil.rmtree(part)


class BatchStore:
    """Arrays with a leading dimension ``batch`` that grows; ``step`` and ``trial`` may grow as well.

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
        self._log = Log(path)
        self._arrays: dict[str, Any] = {}  # those that grow, coordinates among them
        self._dims: dict[str, list[str]] = {}
        self._growth: list[tuple[int, dict[str, int]]] = []  # from which row on which sizes

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
            Sizes of chunks along dimensions; the others are not cut. No chunk is larger than `row`.
        """
        clean_scratch(self.path)
        scratch = scratch_path(self.path)
        growth = [(0, {dim: labels.sizes[dim] for dim in _WITHIN if dim in labels.sizes})]
        with self._failure_named():
            try:
                with _every_chunk():
                    labels.assign_attrs(sizes=json.dumps(growth)).to_zarr(
                        scratch, mode="w", zarr_format=2, consolidated=False
                    )
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
                self._log = Log(scratch)
                self._log.begin({f.as_posix(): zlib.crc32((scratch / f).read_bytes()) for f in files_of(scratch)})
                sync_tree(scratch)
                scratch.rename(self.path)
                sync_folder(self.path.parent)
                self._log.path = self.path
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            self._open(read_metadata(self.path))

    def append(self, batches: Sequence[Mapping[str, np.ndarray]], labels: Mapping[str, np.ndarray]) -> None:
        """Add batches; all of them are readable afterwards, or none.

        Parameters
        ----------
        batches : sequence of mapping of str to array
            None has fewer steps or trials than those before it.
        labels : mapping of str to array
            The coordinates along steps and trials, as far as they are known.

        Raises
        ------
        BplError
            If they cannot be written (a full disk, no permission).
        """
        rows, growth = self.rows, list(self._growth)
        runs = []
        for sizes, alike in itertools.groupby(batches, self._sizes):
            run = list(alike)
            if sizes != growth[-1][1]:
                growth.append((rows, sizes))
            runs.append((rows, run))
            rows += len(run)
        with self._failure_named():
            for name, array in self._arrays.items():
                before, shape = (
                    self._shape(name, self.rows, self._growth[-1][1]),
                    self._shape(name, rows, growth[-1][1]),
                )
                array.resize(shape)
                if name in labels and shape != before:
                    array[before[0] :] = labels[name][before[0] : shape[0]]
            for start, run in runs:
                for name in run[0]:
                    values = np.stack([arrays[name] for arrays in run])
                    self._arrays[name][(slice(start, start + len(run)), *map(slice, values.shape[1:]))] = values
            self._commit(rows, growth)

    def verify(self) -> Verified:
        """Read every file of an existing store and compare it with its checksum; nothing is changed.

        Raises
        ------
        ValidationError
            Naming the first file that is damaged, missing, or no part of it.
        """
        return self._verified()[0]

    def _verified(self, rows: int | None = None) -> tuple[Verified, dict[str, int]]:
        with damage_named(self.path):
            metadata = checked_metadata(self.path)
            found = self._log.verify(dict(_growing(metadata)))
            self._open(metadata)
            self._check_whole(metadata["batch/.zarray"]["shape"][0] if rows is None else rows)
        return found

    def reopen(self, rows: int, batches: Sequence[int]) -> Verified:
        """Go on with an existing store, cut back to its first `rows` batches, which should have these numbers.

        All of it is verified first; returns what that came to.
        """
        verified, sums = self._verified(rows)
        with damage_named(self.path):
            if self._arrays["batch"][:rows].tolist() != list(batches):
                raise ValidationError(f"{self.path}: the recording is damaged: its batches should be {list(batches)}")
        with self._failure_named():
            clean_leftovers(self.path)
            self._log.begin(sums)
            self._commit(rows, [entry for entry in self._growth if entry[0] < max(rows, 1)])
            for name, array in self._arrays.items():
                shape = self._shape(name, rows, self._growth[-1][1])
                # A kept chunk may hold parts of batches that are cut off. The next batches replace them as far as those
                # reach; what lies beyond would come back once the recording grows again.
                if self._dims[name][0] == "batch" and array.shape[1:] != shape[1:]:
                    array[rows : -(-rows // self.chunk) * self.chunk] = np.nan
                array.resize(shape)
        return verified

    def labels(self, name: str) -> list[int]:
        """The numbers of ``step`` or ``trial``; none where it has no such coordinate."""
        return self._arrays[name][:].tolist() if name in self._arrays else []

    def _open(self, metadata: Mapping[str, Any]) -> None:
        self._dims = dict(_growing(metadata))
        self._growth = [(start, sizes) for start, sizes in json.loads(metadata[".zattrs"]["sizes"])]
        with _every_chunk():
            store = _AtomicStore(self.path)
            store.log = self._log
            group = zarr.open_group(store, mode="r+", zarr_format=2, use_consolidated=False)
            self._arrays = {name: group[name] for name in self._dims}
        self.chunk = int(group.attrs["chunk_batches"])  # type: ignore[arg-type]

    def _sizes(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The steps and trials of a batch."""
        sizes = {dim: n for name in arrays for dim, n in zip(self._dims[name][1:], arrays[name].shape, strict=True)}
        return {dim: sizes[dim] for dim in _WITHIN if dim in sizes}

    def _shape(self, name: str, rows: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of an array when there are so many batches, steps and trials."""
        sizes = {"batch": rows, **sizes}
        shape = self._arrays[name].shape
        return tuple(sizes.get(dim, size) for dim, size in zip(self._dims[name], shape, strict=True))

    def _commit(self, rows: int, growth: list[tuple[int, dict[str, int]]]) -> None:
        """From now on the recording has this many batches, and these sizes."""
        metadata = read_metadata(self.path)
        for name in self._arrays:
            metadata[f"{name}/.zarray"]["shape"] = self._shape(name, rows, growth[-1][1])
        metadata[".zattrs"]["sizes"] = json.dumps(growth)
        # zarr takes the attributes of the whole from here, though it has them in .zmetadata; nothing goes by them
        attributes = json.dumps(metadata[".zattrs"], indent=4)
        if (self.path / ".zattrs").read_text(encoding="utf-8") != attributes:
            self._log.put(".zattrs", attributes.encode())
        whole = {"metadata": metadata, "zarr_consolidated_format": 1}
        self._log.put(".zmetadata", json.dumps(whole, indent=4).encode())
        self.rows, self._growth = rows, growth

    def _check_whole(self, rows: int) -> None:
        """Every chunk of the first `rows` batches is there."""
        for name, array in self._arrays.items():
            shape = self._shape(name, rows, self._at(rows))
            too_small = any(size < needed for size, needed in zip(array.shape, shape, strict=True))
            for index in np.ndindex(*(-(-size // chunk) for size, chunk in zip(shape, array.chunks, strict=True))):
                if self._dims[name][0] == "batch":
                    reached = self._shape(name, rows, self._at(min(rows, (index[0] + 1) * self.chunk)))
                    if any(k * chunk >= n for k, chunk, n in zip(index, array.chunks, reached, strict=True)):
                        continue  # no batch in this chunk was as long, or as large
                file = self.path / name / ".".join(map(str, index))
                if too_small or not file.is_file():
                    raise ValidationError(f"{file}: the recording is damaged: this chunk is missing")

    def _at(self, rows: int) -> dict[str, int]:
        """The steps and trials there were when it held so many batches."""
        return [sizes for start, sizes in self._growth if start < max(rows, 1)][-1]

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, BplError) as error:
            kept = f"the {self.rows} batches in it stay readable" if self.rows else "it holds none yet"
            raise BplError(f"{self.path}: cannot add to the recording ({kept}): {error}") from error


def _every_chunk() -> Any:
    """A chunk that is all NaN, or all 0, is written too, so that a missing one is known to be damage."""
    return zarr.config.set({"array.write_empty_chunks": True})


class _AtomicStore(LocalStore):
    """Replaces files, never writes into them: a chunk that gets one more batch holds the others at any moment."""

    log: Log

    async def set(self, key: str, value: Any) -> None:
        self.log.put(key, value.to_bytes())


def read_metadata(path: Path) -> dict[str, Any]:
    """What a store's ``.zmetadata`` says: file → its content."""
    if not path.exists():
        raise ValidationError(f"{path}: there is no recording to go on with")
    return json.loads((path / ".zmetadata").read_bytes())["metadata"]


def checked_metadata(path: Path) -> dict[str, Any]:
    """The same of a store that grows, whose ``.zmetadata`` has its checksum."""
    metadata = read_metadata(path)
    Log(path).read()
    return metadata


def verify_recording(path: str | Path) -> Verified:
    """Read every file of a recording and compare it with its checksum, be it written at once or batch by batch.

    Recordings of trainings in the same folder, each in one of its own, are verified too.

    Returns
    -------
    Verified
        ``files``, ``bytes`` and ``seconds``.

    Raises
    ------
    ValidationError
        Naming the first file that is damaged, missing, or no part of it; for a folder without checksums.
    """
    path, found = Path(path), []
    if not path.is_dir():
        raise ValidationError(f"{path}: there is no recording")
    if (path / LOG).exists():
        found.append(BatchStore(path).verify())
    elif (path / WRITTEN).exists():
        found.append(check_written(path))
    elif (path / ".zmetadata").exists() or (path / ".zgroup").exists():
        raise ValidationError(f"{path}: has neither {LOG} nor {WRITTEN}: it is damaged, or by an earlier version")
    found += [verify_recording(part) for part in sorted(path.iterdir()) if (part / ".zgroup").exists()]
    if not found:
        raise ValidationError(f"{path}: there is no recording")
    files, sizes, seconds = zip(*found, strict=True)
    return Verified(sum(files), sum(sizes), sum(seconds))


@contextlib.contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Errors that a damaged or foreign file leads to, as ValidationError."""
    try:
        yield
    except BplError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise ValidationError(f"{path}: the recording is damaged, or not a recorder's: {error!r}") from error


def _growing(metadata: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Arrays that grow, and their dimensions."""
    for key in metadata:
        name, _, file = key.rpartition("/")
        if file == ".zarray":
            dims = metadata[f"{name}/.zattrs"]["_ARRAY_DIMENSIONS"]
            if dims and dims[0] in ("batch", *_WITHIN):
                yield name, dims
