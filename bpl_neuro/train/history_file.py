"""What a checkpoint keeps of every batch, in a file beside it that is only added to: ``c.npz`` has ``c.history``.

A record is the loss of a batch, the trials trained after it, and the CRC-32 of everything up to there. A checkpoint
says how many records are its own, and the checksum of the last. Records are on disk before the checkpoint that counts
them takes the place of the one before, so a kill at any moment leaves a checkpoint with all its records; what lies
beyond them is not read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bpl_neuro.errors import BplError, ValidationError
from bpl_neuro.storage import atomic_write

__all__ = ["HistoryFile", "history_path", "read_history"]

_MAGIC = b"bpl_neuro history 1\n"
_RECORD = np.dtype([("loss", "<f8"), ("end", "<i8"), ("sum", "<u4")])
_CONTENT = 16  # bytes of a record before its checksum


def history_path(checkpoint: str | Path) -> Path:
    """Where the history of a checkpoint is."""
    checkpoint = Path(checkpoint)
    return checkpoint.with_name(f"{checkpoint.name.removesuffix('.npz')}.history")


def read_history(checkpoint: str | Path, records: int, checksum: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses and ends of a checkpoint's own records.

    Raises
    ------
    ValidationError
        If the file is missing, has fewer, is damaged, or belongs to another run.
    """
    path = history_path(checkpoint)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValidationError(
            f"{path}: is missing; {checkpoint} keeps the losses of its {records} batches there. Move both together, or "
            "use `Trainer.save`, which writes one file"
        ) from None
    except OSError as error:
        raise ValidationError(f"{path}: cannot read it: {error.strerror or error}") from None
    rows = _rows(content)[:records]
    if (sound := _sound(rows, content)) < len(rows):
        raise ValidationError(f"{path}: the file is damaged: the checksum of record {sound + 1} is wrong")
    if len(rows) < records:
        raise ValidationError(f"{path}: holds {len(rows)} records, the checkpoint counts {records}; it was cut off")
    if checksum != (int(rows["sum"][-1]) if records else zlib.crc32(_MAGIC)):
        raise ValidationError(f"{path}: is the history of another run than {checkpoint}")
    return rows["loss"].astype(float), rows["end"].astype(np.int64)


class HistoryFile:
    """Adds to the history of one checkpoint; each record is written once.

    Attributes
    ----------
    records, checksum : int
        What is in the file, and is the beginning of what is to be in it.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        self.path = history_path(checkpoint)
        self.records, self.checksum, self._begun = 0, zlib.crc32(_MAGIC), False

    def follows(self, losses: Sequence[float], ends: Sequence[int], needed: Callable[[], int]) -> bool:
        """Whether what is there may be added to; found out once.

        Parameters
        ----------
        losses, ends : sequences
            Of all batches so far.
        needed : callable
            Gives the records that the checkpoint beside it counts, which must not be lost before it is replaced.
        """
        if not self._begun and self.path.is_file():
            content = self.path.read_bytes()
            rows = _rows(content)
            rows = rows[: min(_sound(rows, content), len(losses))]
            known = np.array(losses[: len(rows)], "<f8"), np.array(ends[: len(rows)], "<i8")
            same = _same(rows, *known)
            common = len(rows) if same.all() else int(np.argmin(same))
            if common >= needed():
                self.records, self._begun = common, True
                self.checksum = int(rows["sum"][common - 1]) if common else zlib.crc32(_MAGIC)
        return self._begun and len(losses) >= self.records

    def begin(self) -> None:
        """Begin anew, with no record."""
        atomic_write(self.path, _MAGIC)
        self.records, self.checksum, self._begun = 0, zlib.crc32(_MAGIC), True

    def add(self, losses: Sequence[float], ends: Sequence[int]) -> None:
        """Write what is new of all batches so far, and wait until it is on disk; what a kill left behind it goes.

        Raises
        ------
        BplError
            If it cannot be written; the records before stay.
        """
        rows = np.zeros(len(losses) - self.records, _RECORD)
        rows["loss"], rows["end"] = losses[self.records :], ends[self.records :]
        checksum = self.checksum
        for row in rows:
            checksum = row["sum"] = zlib.crc32(row.tobytes()[:_CONTENT], checksum)
        try:
            with self.path.open("r+b") as file:
                file.seek(len(_MAGIC) + self.records * _RECORD.itemsize)
                file.truncate()
                file.write(rows.tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BplError(f"{self.path}: cannot write {rows.nbytes} bytes: {error.strerror or error}") from error
        self.records, self.checksum = len(losses), int(checksum)


def _rows(content: bytes) -> np.ndarray:
    """All whole records."""
    body = content[len(_MAGIC) :]
    return np.frombuffer(body[: len(body) // _RECORD.itemsize * _RECORD.itemsize], _RECORD)


def _sound(rows: np.ndarray, content: bytes) -> int:
    """How many records from the first on have their checksum."""
    checksum = zlib.crc32(_MAGIC) if content.startswith(_MAGIC) else -1
    if checksum < 0:
        return 0
    body, size = memoryview(rows.tobytes()), _RECORD.itemsize
    for k, stored in enumerate(rows["sum"].tolist()):
        checksum = zlib.crc32(body[k * size : k * size + _CONTENT], checksum)
        if checksum != stored:
            return k
    return len(rows)


def _same(rows: np.ndarray, losses: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which records are these, to the bit."""
    return (np.ascontiguousarray(rows["loss"]).view("<i8") == losses.view("<i8")) & (rows["end"] == ends)
