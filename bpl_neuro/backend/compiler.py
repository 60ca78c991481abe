"""The C compiler of this machine, and the folder of what it compiled.

A library is found again by a hash of all that it depends on: its source, the flags, the version of the package, and
what the compiler says of itself and of the processor (its predefined macros). Files are written whole or not at all, so
that several processes may compile at once, and carry a checksum, so that a damaged one is compiled again.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from bpl_neuro.errors import BackendError, BplError
from bpl_neuro.storage import atomic_write

__all__ = ["FLAGS", "cache_folder", "command", "compiled"]

#: never -ffast-math, which changes floating point for the whole process; products and sums stay apart (no contraction)
#: unless the source says fma
FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-ffp-contract=off", "-fPIC",
)  # fmt: skip
#: seconds for one library
PATIENCE = 120


@functools.cache
def compiled(source: str) -> ctypes.CDLL:
    """A C text as a loaded library, compiled unless it was before.

    Raises
    ------
    BackendError
        If there is no compiler, it fails, the cache cannot be used, or the library does not load.
    """
    folder, compiler = cache_folder(), command()
    key = "\0".join([source, *FLAGS, *compiler, importlib.metadata.version("bpl_neuro"), _described(compiler)])
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    if not _whole(path):
        _compile(source, compiler, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(f'`backend` = "c": a library that was compiled does not load ({error})') from None


def command() -> tuple[str, ...]:
    """How the compiler is called: ``$CC``, else gcc, clang, or the one of the package ziglang.

    Raises
    ------
    BackendError
        If there is none.
    """
    own = os.environ.get("CC", "")
    try:
        words = shlex.split(own)
    except ValueError as error:
        raise BackendError(f"`CC` must be a command, got {own!r} ({error})") from None
    if words:
        if shutil.which(words[0]) is None:
            raise BackendError(f"`CC` must be a C compiler; {words[0]!r} is not found")
        return tuple(words)
    for name in ("gcc", "clang"):
        if shutil.which(name):
            return (name,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    raise BackendError(
        '`backend` = "c" needs a C compiler: set CC, put gcc or clang on the PATH, or pip install ziglang'
    )


def cache_folder() -> Path:
    """Where compiled libraries are kept: a folder that is the user's own and closed to others.

    What lies in it is loaded into the process, so a folder that somebody else can write to is refused.

    Raises
    ------
    BackendError
        If it cannot be made, or belongs to somebody else, or is open to others.
    """
    folder = user_cache_path("bpl_neuro") / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise BackendError(
            f'`backend` = "c" keeps what it compiles in {folder}, which cannot be made: {error}'
        ) from None
    own = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077)
    if not (stat.S_ISDIR(found.st_mode) and own):
        raise BackendError(
            f'`backend` = "c" keeps what it compiles in {folder}, which must be a folder of your own that is closed to '
            "others (chmod 700)"
        )
    return folder


@functools.cache
def _described(compiler: tuple[str, ...]) -> str:
    """What a compiler defines by itself: its version, and what the processor can do."""
    found = _run([*compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])
    if found.returncode:
        raise BackendError(f"the C compiler {shlex.join(compiler)} fails: {_last_words(found)}")
    return found.stdout


def _compile(source: str, compiler: tuple[str, ...], path: Path) -> None:
    """Compile a text into `path`."""
    with tempfile.TemporaryDirectory(prefix="bpl_neuro") as made:
        text, library = Path(made, "source.c"), Path(made, "library.so")
        try:
            text.write_text(source, encoding="utf-8")
            found = _run([*compiler, *FLAGS, "-shared", str(text), "-o", str(library), "-lm"])
            if found.returncode or not library.exists():
                raise BackendError(f"the C compiler {shlex.join(compiler)} fails: {_last_words(found)}")
            content = library.read_bytes()
        except OSError as error:
            raise BackendError(f'`backend` = "c" cannot compile in {made}: {error}') from None
    try:  # whoever loads a library reads nothing behind its end
        atomic_write(path, content + hashlib.sha256(content).digest())
    except BplError as error:
        raise BackendError(f'`backend` = "c" cannot keep what it compiled: {error}') from None


def _whole(path: Path) -> bool:
    """Whether a library is there as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"the C compiler {shlex.join(words[:1])} cannot be run: {error}") from None


def _last_words(found: subprocess.CompletedProcess[str]) -> str:
    """The first error that a compiler names, or the end of what it said."""
    lines = [line.strip() for line in (found.stderr or found.stdout).splitlines() if line.strip()]
    named = [line for line in lines if "error" in line.lower()]
    return (named or lines or [f"exit status {found.returncode}"])[0][:400]
