"""Files that are either whole or absent: atomic writes, and arrays with text beside them, without pickle."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import BplError, ValidationError

__all__ = ["atomic_write", "read_arrays", "write_arrays"]

_META = "meta.json"


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part of it.

    Raises
    ------
    BplError
        If it cannot be written (a full disk, no permission); what was there before is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        _replace(path, data)
    except OSError as error:
        kept = "; the file that was there is intact" if path.exists() else ""
        raise BplError(f"{path}: cannot write {len(data)} bytes: {error.strerror or error}{kept}") from error


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
