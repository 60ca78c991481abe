"""What a description is: a readable tree of plain values, its fingerprint, and where two such trees differ.

A file that goes on with something holds the tree of what it was made with, so that it can say what is another now.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import platform
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bpl_neuro.errors import ValidationError

__all__ = [
    "NOT_COMPARED", "Described", "array_hash", "check_allowed", "describe", "differences", "fingerprint", "made_with",
    "say_differences", "seal", "uncompared",
]  # fmt: skip

#: key of what stands for something that cannot be told from another of its kind, like a function
NOT_COMPARED = "not compared"
_MISSING = object()


class Described:
    """A description that is what its options are: the parameters of its constructor, as attributes of those names.

    What a parameter became may be kept under another name, or with a leading underscore. A parameter of which nothing
    is kept is said to be not compared. `circuit` is left out: whatever was made for a circuit stands beside it.
    """

    #: parameter → the attribute with what became of it; None where others have that already, or it makes no difference
    identified: ClassVar[Mapping[str, str | None]] = {}

    def identity(self) -> dict[str, Any]:
        """Class and options, as a tree of plain values."""
        tree: dict[str, Any] = {"is": type(self).__name__}
        kind: Any = type(self)
        for name in _options(kind):
            attribute = self.identified.get(name, name)
            if attribute is None or name == "circuit":
                continue
            held = getattr(self, attribute, getattr(self, f"_{attribute}", _MISSING))
            tree[name] = {NOT_COMPARED: f"{type(self).__name__}.{name}"} if held is _MISSING else describe(held)
        return tree


@functools.cache
def _options(kind: Any) -> tuple[str, ...]:
    """Parameters of a constructor, and of those above it to which it hands on keywords."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names |= {p.name: None for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return tuple(names)


def describe(value: Any) -> Any:
    """The tree of a value: its own `identity()`, the fields of a dataclass, hashes of arrays, plain values.

    Anything else, like a function or an object of a user's own, becomes ``{"not compared": its name}``.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):  # 1 and 1.0 are the same option
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if callable(own := getattr(value, "identity", None)) and not isinstance(value, type):
        return own()
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": type(value).__name__, **{f.name: describe(getattr(value, f.name)) for f in fields(value)}}
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return array_hash(value)
    if isinstance(value, Mapping):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, slice):
        return f"{value.start}:{value.stop}"
    if isinstance(value, Path):
        return str(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return {NOT_COMPARED: f"{named.__module__}.{named.__qualname__}"}


def array_hash(array: Any) -> str:
    """Type, shape and SHA-256 of an array's values in C order, as one text."""
    host = array.get() if hasattr(array, "get") else np.asarray(array)
    digest = hashlib.sha256(np.ascontiguousarray(host).tobytes()).hexdigest()
    return f"{host.dtype} {host.shape} sha256:{digest}"


def fingerprint(tree: Any) -> str:
    """SHA-256 of a tree's canonical JSON: the order of keys makes no difference."""
    return hashlib.sha256(_canonical(tree).encode()).hexdigest()


def seal(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """What holds the parts of a file together: one that was edited and written anew has another seal than it says."""
    sums = {name: f"{a.dtype} {a.shape} {zlib.crc32(a.tobytes()):08x}" for name, a in arrays.items()}
    return fingerprint({"meta": {key: value for key, value in meta.items() if key != "seal"}, "arrays": sums})


def _canonical(tree: Any) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def differences(stored: Any, here: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where two trees differ: dotted path, and a sentence with both values. What is another class is named once."""
    if isinstance(stored, Mapping) and isinstance(here, Mapping):
        if stored.get("is") != here.get("is"):
            yield path, _sentence(path, stored, here)
            return
        for key in [*stored, *(key for key in here if key not in stored)]:
            below = f"{path}.{key}" if path else str(key)
            yield from differences(stored.get(key, _MISSING), here.get(key, _MISSING), below)
    elif isinstance(stored, list) and isinstance(here, list) and len(stored) == len(here):
        for k, (old, new) in enumerate(zip(stored, here, strict=True)):
            yield from differences(old, new, f"{path}.{k}")
    elif stored is _MISSING or here is _MISSING or _canonical(stored) != _canonical(here):
        yield path, _sentence(path, stored, here)


def _sentence(path: str, stored: Any, here: Any) -> str:
    return f"`{path}` is {_shown(stored)} in the file, {_shown(here)} here"


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "not there"
    if isinstance(value, Mapping) and ("is" in value or NOT_COMPARED in value):
        return str(value.get("is", value.get(NOT_COMPARED)))
    text = value if isinstance(value, str) and "sha256:" in value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}…"


def uncompared(tree: Any, path: str = "") -> Iterator[str]:
    """Paths of what cannot be compared."""
    if isinstance(tree, Mapping):
        if NOT_COMPARED in tree:
            yield path
            return
        for key, part in tree.items():
            yield from uncompared(part, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for k, part in enumerate(tree):
            yield from uncompared(part, f"{path}.{k}")


def check_allowed(allow: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Dotted paths that may differ; ValidationError unless each begins with something known."""
    if isinstance(allow, str) or not isinstance(allow, Sequence) or any(not isinstance(path, str) for path in allow):
        raise ValidationError(f'`allow` must be a list of paths like ["optimisers.psi"], got {allow!r}')
    if unknown := [path for path in allow if path.split(".")[0] not in known]:
        raise ValidationError(f"`allow` has {unknown[0]!r}; a path begins with one of {', '.join(known)}")
    return tuple(allow)


def say_differences(stored: Any, here: Any, allow: Sequence[str] = ()) -> tuple[str, str] | None:
    """The first differences that are not allowed, in words, and the path to allow; None where there are none."""
    found = [
        (path, sentence)
        for path, sentence in differences(stored, here)
        if not any(path == prefix or path.startswith(f"{prefix}.") for prefix in allow)
    ]
    if not found:
        return None
    more = f", and {len(found) - 3} more differences" if len(found) > 3 else ""
    paths = ", ".join(dict.fromkeys(f'"{path}"' for path, _ in found))
    return "; ".join(sentence for _, sentence in found[:3]) + more, paths


@functools.cache
def _made_with() -> Mapping[str, Any]:
    return {"python": platform.python_version(), "cpu": processor(), **versions("bpl_neuro", "numpy", "scipy")}


def versions(*packages: str) -> dict[str, str]:
    """Of packages, by name."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def made_with() -> dict[str, Any]:
    """Versions, processor and threads: what numbers depend on at rounding."""
    return {**_made_with(), "threads": threads()}


def threads() -> dict[str, str]:
    """What the environment says of numbers of threads."""
    return {key: os.environ[key] for key in sorted(os.environ) if key.endswith("_NUM_THREADS")}


def processor() -> str:
    """Its name: a BLAS takes other kernels, and gives other last bits, on another one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
