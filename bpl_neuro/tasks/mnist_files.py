"""The four MNIST files: found on disk or downloaded once, and never used unless their checksums hold."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import logging
import math
import os
import queue
import tempfile
import threading
import time
import urllib.request
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from bpl_neuro.checks import flag
from bpl_neuro.checks import path as checked_path
from bpl_neuro.errors import ValidationError

__all__ = ["FILES", "MIRRORS", "MNIST", "MNISTFile", "load_mnist"]


class MNIST(NamedTuple):
    """The data as the files hold it, read-only: uint8 images (N, 28, 28) and labels (N,)."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


class MNISTFile(NamedTuple):
    """What an unpacked IDX file must be: its array's shape and the SHA-256 of all its bytes."""

    shape: tuple[int, ...]
    sha256: str

    @property
    def header(self) -> bytes:
        """IDX header: type 8 (unsigned byte), number of axes, then each axis, big-endian."""
        return bytes([0, 0, 8, len(self.shape)]) + b"".join(n.to_bytes(4, "big") for n in self.shape)

    @property
    def size(self) -> int:
        """Length in bytes, header included."""
        return len(self.header) + math.prod(self.shape)


# In the order of the fields of `MNIST`.
FILES = {
    "train-images-idx3-ubyte": MNISTFile(
        (60_000, 28, 28), "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte": MNISTFile((60_000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": MNISTFile(
        (10_000, 28, 28), "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte": MNISTFile((10_000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

_TIMEOUT = 30.0  # seconds without a byte
_DEADLINE = 300.0  # seconds for one file, so that a trickle ends too
_CHUNK = 1 << 16

_log = logging.getLogger(__name__)


def load_mnist(path: str | os.PathLike[str] | None = None, download: bool = True) -> MNIST:
    """MNIST from the first of these places that has all four files, each as it is or as .gz.

    1. `path`, if given; then nowhere else.
    2. ``$BPL_NEURO_DATA/mnist``, if the variable is set.
    3. ``mnist`` in the user's cache folder of bpl_neuro (on Linux ``~/.cache/bpl_neuro/mnist``).
    4. The mirrors: what is missing in the cache folder is downloaded into it (11 MB, once).

    Every file is checked against the SHA-256 of its unpacked bytes. The arrays of the last folder read are
    kept (55 MB), so that loading them again costs nothing.

    Parameters
    ----------
    path : path, optional
        A folder.
    download : bool
        False stops after the third place.

    Returns
    -------
    MNIST
        Read-only uint8 arrays.

    Raises
    ------
    ValidationError
        When a file is damaged: names it, the expected checksum and what to do. A damaged file is never
        passed over for one from another place. When the files are nowhere: lists the places looked in.
    """
    flag("download", download)
    if path is not None:
        folders = [checked_path("path", path).expanduser()]
    else:
        folders = [user_cache_path("bpl_neuro") / "mnist"]
        if variable := os.environ.get("BPL_NEURO_DATA"):
            folders.insert(0, Path(variable).expanduser() / "mnist")
    places = []
    for folder in folders:
        missing = [name for name in FILES if _find(folder, name) is None]
        if not missing:
            return _read_folder(folder.resolve())
        places.append(f"{folder} (without {', '.join(missing)})")
    if path is None and download:
        # `folder` and `missing` are now those of the last place looked in: the cache.
        failures = _download(missing, folder)
        if not failures:
            return _read_folder(folder.resolve())
        places += failures
    raise ValidationError(
        "the MNIST files were not found. Looked in:\n"
        + "".join(f"  - {place}\n" for place in places)
        + f"Put {', '.join(FILES)} (each as it is, or packed as .gz) into {folders[0]}"
        + (", or into $BPL_NEURO_DATA/mnist." if path is None and len(folders) == 1 else ".")
    )


def _find(folder: Path, name: str) -> Path | None:
    """The file itself, or else its .gz."""
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


@lru_cache(maxsize=1)
def _read_folder(folder: Path) -> MNIST:
    return MNIST(*(_read_file(folder, name) for name in FILES))


def _read_file(folder: Path, name: str) -> NDArray[np.uint8]:
    file = _find(folder, name)
    if file is None:
        raise ValidationError(f"{folder / name} disappeared while it was about to be read")
    try:
        with file.open("rb") as stream:
            content = _unpacked(stream, name, packed=file.suffix == ".gz")
    except (_DamagedError, OSError) as error:
        raise ValidationError(
            f"{file} cannot be used: {error}. Unpacked, its SHA-256 must be "
            f"{FILES[name].sha256}. Delete or replace it; bpl_neuro downloads a file that is missing from its cache "
            f"folder, and {MIRRORS[0]}{name}.gz is a good copy."
        ) from error
    expected = FILES[name]
    return np.frombuffer(content, np.uint8, offset=len(expected.header)).reshape(expected.shape)


class _DamagedError(Exception):
    """What is wrong with the content of a file; the caller knows which file, and what to do about it."""


def _unpacked(stream: BinaryIO, name: str, packed: bool) -> bytes:
    """The unpacked bytes of the file `name`, checked; reads at most one byte more than it should have."""
    expected = FILES[name]
    try:
        content = (gzip.GzipFile(fileobj=stream) if packed else stream).read(expected.size + 1)
    except EOFError:
        raise _DamagedError("its gzip stream ends too early (truncated)") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _DamagedError(f"its gzip stream is damaged ({error})") from None
    magic, expected_magic = content[:4], expected.header[:4]
    if len(magic) == 4 and magic != expected_magic:
        raise _DamagedError(f"it starts with the magic number 0x{magic.hex()}, not 0x{expected_magic.hex()}")
    if len(content) != expected.size:
        amount = "more" if len(content) > expected.size else f"only {len(content)}"
        raise _DamagedError(f"it must hold {expected.size} bytes unpacked, and holds {amount}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected.sha256:
        raise _DamagedError(f"its SHA-256 is {digest}")
    return content


def _download(names: list[str], folder: Path) -> list[str]:
    """Download files into a folder. Returns what went wrong, one line a mirror; nothing when all arrived."""
    for name in names:
        failures = []
        for mirror in MIRRORS:
            url = f"{mirror}{name}.gz"
            _log.info("downloading %s to %s", url, folder)
            try:
                packed = _fetch(url, limit=FILES[name].size + 1024)
                _unpacked(io.BytesIO(packed), name, packed=True)
            except (OSError, http.client.HTTPException, _DamagedError) as error:
                failures.append(f"{url} ({str(error) or type(error).__name__})")
                continue
            try:
                _write(folder / f"{name}.gz", packed)
            except OSError as error:
                return [f"{url} (arrived, but could not be written to {folder}: {error})"]
            break
        else:
            return failures
    return []


def _fetch(url: str, limit: int) -> bytes:
    """The bytes behind a URL, refusing more than `limit` of them or more than `_DEADLINE` seconds.

    The deadline is for all of it: looking the name up, being led elsewhere, headers and bytes. None of these ends by
    itself as long as something trickles in, so they happen in a thread that nobody waits for any longer then.
    """
    found: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
    until = time.monotonic() + _DEADLINE

    def fetch() -> None:
        try:
            found.put(_read_url(url, limit, until))
        except BaseException as error:  # to be raised where somebody waits
            found.put(error)

    threading.Thread(target=fetch, name=f"download of {url}", daemon=True).start()
    try:
        content = found.get(timeout=max(_DEADLINE, 0))
    except queue.Empty:
        content = TimeoutError(f"it took longer than {_DEADLINE:.0f} s")
    if isinstance(content, BaseException):
        raise content
    return content


def _read_url(url: str, limit: int, until: float) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        while chunk := response.read1(_CHUNK):  # what is there, not as much as was asked for
            content += chunk
            if len(content) > limit:
                raise _DamagedError(f"it sent more than {limit} bytes")
            if time.monotonic() > until:
                raise TimeoutError(f"it took longer than {_DEADLINE:.0f} s")
    return bytes(content)


def _write(file: Path, content: bytes) -> None:
    """Write a file whole or not at all: two processes may be downloading, and either may be killed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
