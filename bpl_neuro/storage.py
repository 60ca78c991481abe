"""Files that are either whole or absent: atomic writes, and arrays with text beside them, without pickle."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import lzma
import os
import secrets
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import BplError, ValidationError

__all__ = [
    "atomic_write",
    "clean_leftovers",
    "clean_scratch",
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
_META, _META_SUM = "meta.json", "meta.sha256"
#: what reading a damaged zip file leads to
_DAMAGE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, OverflowError, SyntaxError,
    zipfile.BadZipFile, struct.error, zlib.error, lzma.LZMAError, MemoryError, RecursionError,
)  # fmt: skip


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


def clean_scratch(path: Path) -> None:
    """Take away what killed processes left of `path` alone, a folder, before it was whole."""
    for leftover in path.parent.glob(f".{glob.escape(path.name[:40])}.*{UNFINISHED}"):
        shutil.rmtree(leftover, ignore_errors=True)


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
    """Arrays by name and a JSON-able `meta`, in one ``.npz`` file, atomically.

    The member ``meta.json`` also holds the SHA-256 of every array's bytes, ``meta.sha256`` that of ``meta.json``.
    """
    members: dict[str, bytes] = {}
    for name, array in arrays.items():
        buffer = BytesIO()
        np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=False)
        members[f"{name}.npy"] = buffer.getvalue()
    sums = {member: _sha256(content) for member, content in members.items()}
    members[_META] = json.dumps({"meta": meta, "sha256": sums}).encode()
    members[_META_SUM] = _sha256(members[_META]).encode()
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w") as file:  # without times: the same content is the same file
        for member, content in members.items():
            file.writestr(zipfile.ZipInfo(member), content)
    atomic_write(Path(path), whole.getvalue())


def read_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write_arrays` wrote; nothing is read from bytes whose checksum is not right.

    Raises
    ------
    ValidationError
        If the file is missing, damaged, was not written as `kind` (``meta["kind"]``), or by an earlier version.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            _no_earlier_version(file, names, path, kind)
            members = {name: file.read(name) for name in names}
        if len(names) != len(members):
            raise ValueError(f"the member {max(names, key=names.count)!r} is there twice")
        arrays, meta = _checked(members)
    except FileNotFoundError:
        raise ValidationError(f"{path}: there is no such file") from None
    except BplError:
        raise
    except _DAMAGE as error:
        raise ValidationError(f"{path}: the file is damaged or not a bpl_neuro {kind} file: {error}") from None
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        stored = meta.get("kind") if isinstance(meta, dict) else type(meta).__name__
        raise ValidationError(f"{path}: expected a bpl_neuro {kind} file, found {stored!r}")
    return arrays, meta


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checked(members: dict[str, bytes]) -> tuple[dict[str, np.ndarray], Any]:
    """Arrays and meta of a file's members; ValueError where a checksum is wrong or a member too many or too few."""
    text = members.pop(_META)
    if members.pop(_META_SUM).decode() != _sha256(text):
        raise ValueError(f"the checksum of {_META} is wrong")
    whole = json.loads(text)
    sums = whole["sha256"]
    if odd := sums.keys() ^ members.keys():
        raise ValueError(f"{min(odd)!r} is {'missing' if min(odd) in sums else 'no part of it'}")
    for member, content in members.items():
        if _sha256(content) != sums[member]:
            raise ValueError(f"the checksum of {member!r} is wrong")
    arrays = {
        member.removesuffix(".npy"): np.lib.format.read_array(BytesIO(content), allow_pickle=False)
        for member, content in members.items()
    }
    return arrays, whole["meta"]


def _no_earlier_version(file: zipfile.ZipFile, names: list[str], path: Path, kind: str) -> None:
    """ValidationError for a file from before there were checksums, whose ``meta.json`` was an array."""
    if f"{_META}.npy" in names:
        meta = json.loads(str(np.lib.format.read_array(BytesIO(file.read(f"{_META}.npy")), allow_pickle=False)))
        number = meta.get("format", 1) if isinstance(meta, dict) else 1
        raise ValidationError(
            f"{path}: a {kind} file of format {number}, by an earlier version of bpl_neuro, without checksums; this "
            "version does not read it: make it again, or go on with the version that wrote it"
        )
