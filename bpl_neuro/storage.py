"""Files that are either whole or absent: atomic writes, and arrays with text beside them, without pickle."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import BplError, ValidationError

__all__ = [
    "atomic_write",
    "clean_leftovers",
    "is_leftover",
    "make_folder",
    "read_arrays",
    "scratch_path",
    "sync_folder",
    "sync_tree",
    "write_arrays",
]

#: how names end of what is not whole yet
UNFINISHED = ".part"
_META = "meta.json"


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part of it.

    A symbolic link is written through: what it points to is replaced. A new file gets the mode that the umask leaves,
    one that was there keeps its own. When this returns, the file survives a power cut.

    Raises
    ------
    BplError
        If it cannot be written (a full disk, no permission); what was there before is as it was.
    """
    data, target = content.encode() if isinstance(content, str) else content, Path(os.path.realpath(path))
    try:
        _replace(target, data)
    except OSError as error:
        kept = "; the file that was there is intact" if os.path.exists(target) else ""
        raise BplError(f"{path}: cannot write {len(data)} bytes: {error.strerror or error}{kept}") from error
    try:
        sync_folder(target.parent)
    except OSError as error:
        raise BplError(f"{path}: written, but a power cut could lose it: {error.strerror or error}") from error


def _replace(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    scratch = scratch_path(path)
    try:
        # the kernel takes the umask off, which tempfile does not leave to it
        with open(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as file:
            if os.path.exists(path):
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path).st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def scratch_path(path: Path) -> Path:
    """A name beside `path` for what is not whole yet; `clean_leftovers` knows it."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{UNFINISHED}")


def clean_leftovers(folder: Path) -> None:
    """Take away what killed processes left unfinished, at any depth."""
    for root, folders, files in os.walk(folder):
        for name in (name for name in files if is_leftover(name)):
            Path(root, name).unlink()
        for name in (name for name in folders if is_leftover(name)):
            shutil.rmtree(Path(root, name))
        folders[:] = [name for name in folders if not is_leftover(name)]


def is_leftover(name: str) -> bool:
    """Whether this is the name of something that was never finished."""
    return name.startswith(".") and name.endswith(UNFINISHED)


def make_folder(path: Path) -> None:
    """Make a folder, and those it is in, such that they survive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Have the disk keep the names in a folder; some file systems keep them without being asked, and refuse."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Have the disk keep all files and folders under `path`."""
    for root, _, files in os.walk(path):
        for name in files:
            with open(Path(root, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def write_arrays(path: str | Path, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Arrays by name and a JSON-able `meta`, in one ``.npz`` file, atomically."""
    buffer = BytesIO()
    content: dict[str, Any] = {_META: np.array(json.dumps(meta))} | {k: np.asarray(v) for k, v in arrays.items()}
    np.savez(buffer, **content)
    atomic_write(Path(path), buffer.getvalue())


def read_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write_arrays` wrote.

    Raises
    ------
    ValidationError
        If the file is missing, damaged, or was not written as `kind` (``meta["kind"]``).
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop(_META)))
    except FileNotFoundError:
        raise ValidationError(f"{path}: there is no such file") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValidationError(f"{path}: the file is damaged or not a bpl_neuro {kind} file: {error}") from None
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        stored = meta.get("kind") if isinstance(meta, dict) else type(meta).__name__
        raise ValidationError(f"{path}: expected a bpl_neuro {kind} file, found {stored!r}")
    return arrays, meta
