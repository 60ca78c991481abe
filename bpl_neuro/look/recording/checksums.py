"""Checksums of every file of a recording: of one written at once, and of one that grows.

``checksums.sha256`` of a recording that was written at once is what ``sha256sum`` makes, and checks.

``checksums.log`` of a recording that grows has a line for each file that is about to be written, with its CRC-32, on
disk before that file is: ``state/0.0.0.0 1c291ca3 9be06221``. The last number is the CRC-32 of all lines up to there. A
kill may come between a line and its file; so what a file may hold is what it had when ``.zmetadata``, which is written
last, became what it is now, or what any later line says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bpl_neuro.errors import ValidationError
from bpl_neuro.storage import atomic_write, is_leftover

__all__ = ["LOG", "WRITTEN", "Log", "Verified", "check_written", "files_of", "write_checksums"]

LOG, WRITTEN = "checksums.log", "checksums.sha256"
_METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata")
_COMMIT, _DONE = ".zmetadata", "done"


class Verified(NamedTuple):
    """What verifying a recording came to: files and bytes that were read, and seconds."""

    files: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.files} files, {self.bytes / 2**20:.1f} MiB, {self.seconds:.2f} s"


def files_of(path: Path) -> Iterator[Path]:
    """The files of the store itself, as paths within it: of its arrays, and its own metadata; no stores below it."""
    for part in sorted(path.iterdir()):
        if part.is_file() and part.name not in (LOG, WRITTEN) and not is_leftover(part.name):
            yield Path(part.name)
        elif part.is_dir() and not part.name.startswith(".") and not (part / ".zgroup").exists():
            yield from (file.relative_to(path) for file in sorted(part.rglob("*")) if file.is_file())


def write_checksums(path: Path) -> None:
    """Sums of a store that is complete."""
    atomic_write(path / WRITTEN, _sums(path))


def _sums(path: Path) -> str:
    return "".join(f"{hashlib.sha256((path / f).read_bytes()).hexdigest()}  {f.as_posix()}\n" for f in files_of(path))


def check_written(path: Path) -> Verified:
    """Verify a recording that was written at once.

    Raises
    ------
    ValidationError
        Naming the first file that is damaged, missing or too many.
    """
    begun = time.perf_counter()
    try:
        stored = (path / WRITTEN).read_text(encoding="ascii")
        now = _sums(path)
        size = sum((path / file).stat().st_size for file in files_of(path))
    except (OSError, ValueError) as error:
        raise ValidationError(f"{path}: the recording is damaged: {error}") from None
    if stored != now:
        raise ValidationError(_named(path, _by_name(stored), _by_name(now)))
    return Verified(len(now.splitlines()), size, time.perf_counter() - begun)


def _by_name(sums: str) -> dict[str, str]:
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in sums.splitlines())}


def _named(path: Path, stored: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first file that is not as it was."""
    for name in sorted(stored.keys() | now.keys()):
        if stored.get(name) != now.get(name):
            what = "no part of it" if name not in stored else "damaged" if name in now else "missing"
            return f"{path / name}: the recording is damaged: by its {WRITTEN} this file is {what}"
    return f"{path / WRITTEN}: the recording is damaged: this file is not as it was written"


class Log:
    """The checksums of a recording that grows; see above."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = self._running = self._lines = 0
        self._latest: dict[str, int] = {}
        self._failed: set[str] = set()

    def begin(self, sums: Mapping[str, int]) -> None:
        """Write the log anew, with these files and their checksums; the metadata last."""
        text, self._running = b"", 0
        for name in sorted(sums, key=lambda name: name == _COMMIT):
            line, self._running = _line(name, sums[name], self._running)
            text += line
        atomic_write(self.path / LOG, text)
        self._size, self._lines, self._latest = len(text), len(sums), dict(sums)

    def put(self, name: str, content: bytes) -> None:
        """Write a file atomically, its checksum before it."""
        if name == _COMMIT:  # of what was not written, as on a full disk, what is there counts
            for other in [other for other in sorted(self._failed) if (self.path / other).is_file()]:
                self._note(other, (self.path / other).read_bytes())
            self._failed = set()
        self._failed.add(name)
        self._note(name, content)
        atomic_write(self.path / name, content)
        self._failed.discard(name)
        if name == _COMMIT:  # so that an earlier one in its place is told from one that was not replaced yet
            with contextlib.suppress(OSError):
                self._note(_DONE, content)
        if name == _COMMIT and self._lines > 8 * len(self._latest) + 1000:  # most lines were replaced by later ones
            self.begin({name: value for name, value in self._latest.items() if (self.path / name).is_file()})

    def _note(self, name: str, content: bytes) -> None:
        checksum = zlib.crc32(content)
        line, running = _line(name, checksum, self._running)
        with (self.path / LOG).open("r+b") as file:
            file.seek(self._size)
            file.truncate()  # what a full disk left of a line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._size, self._running, self._lines = self._size + len(line), running, self._lines + 1
        self._latest[name] = checksum

    def read(self) -> dict[str, set[int]]:
        """Which checksums each file may have now.

        Raises
        ------
        ValidationError
            If the log is missing or damaged.
        """
        file = self.path / LOG
        try:
            lines = file.read_bytes().splitlines(keepends=True)
            commit = zlib.crc32((self.path / _COMMIT).read_bytes())
        except OSError as error:
            raise ValidationError(
                f"{self.path}: the recording is damaged, or not a recorder's of this version: {error}"
            ) from None
        entries, running = [], 0
        for number, line in enumerate(lines, 1):
            try:
                name, checksum = line.decode().rsplit(" ", 2)[0], int(line.split(b" ")[-2], 16)
                expected, running = _line(name, checksum, running)
            except (ValueError, IndexError):
                expected = b""
            if line != expected:
                if number == len(lines) and not line.endswith(b"\n"):
                    break  # cut off by a kill
                raise ValidationError(f"{file}: the recording is damaged: line {number} has another checksum")
            entries.append((name, checksum))
        commits = [k for k, entry in enumerate(entries) if entry == (_COMMIT, commit)]
        if not commits or _DONE in [name for name, checksum in entries[commits[-1] :] if checksum != commit]:
            raise ValidationError(f"{self.path / _COMMIT}: the recording is damaged: it has another checksum")
        allowed: dict[str, set[int]] = {name: {checksum} for name, checksum in entries[: commits[-1] + 1]}
        for name, checksum in entries[commits[-1] + 1 :]:
            allowed.setdefault(name, set()).add(checksum)
        return allowed

    def verify(self, growing: Container[str]) -> tuple[Verified, dict[str, int]]:
        """Read every file, and compare; what was found, and the checksums.

        Parameters
        ----------
        growing : container of str
            Arrays whose chunks may be gone, because the recording was cut back; those of others may not.

        Raises
        ------
        ValidationError
            Naming the first file that is damaged, or was never written by the recorder, or missing metadata.
        """
        begun, allowed, size = time.perf_counter(), self.read(), 0
        found: dict[str, int] = {}
        for file in files_of(self.path):
            name = file.as_posix()
            if is_leftover(file.name):
                continue
            try:
                content = (self.path / file).read_bytes()
            except OSError as error:
                raise ValidationError(f"{self.path / file}: the recording is damaged: {error}") from None
            found[name], size = zlib.crc32(content), size + len(content)
            if name not in allowed:
                raise ValidationError(f"{self.path / file}: the recording is damaged: this file is no part of it")
            if found[name] not in allowed[name]:
                raise ValidationError(f"{self.path / file}: the recording is damaged: it has another checksum")
        for name in allowed:
            folder, _, file_name = name.rpartition("/")
            if name not in found and name != _DONE and (file_name in _METADATA or folder not in growing):
                raise ValidationError(f"{self.path / name}: the recording is damaged: this file is missing")
        return Verified(len(found), size, time.perf_counter() - begun), found


def _line(name: str, checksum: int, running: int) -> tuple[bytes, int]:
    """A line, and the CRC-32 of all lines up to it."""
    body = f"{name} {checksum:08x} ".encode()
    running = zlib.crc32(body, running)
    return body + f"{running:08x}\n".encode(), running
