"""The text of a model file, and its TOML: never more than a file may have, and never a file that has no end."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from bpl_neuro.errors import ModelError
from bpl_neuro.model.quantities import MAX_TEXT

__all__ = ["MAX_FILE", "parse_toml", "read_text"]

#: bytes of a model file
MAX_FILE = 4 * MAX_TEXT
#: parts of a TOML key; a model's have five at most. The time that `tomllib` takes goes with their square
MAX_KEY_PARTS = 16
_PART = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"(?:{_PART}\.[ \t]*+){{{MAX_KEY_PARTS}}}")


def read_text(path: Path) -> str:
    """The text of a regular file of at most `MAX_FILE` bytes.

    It is opened without waiting, and asked for its kind after that: so a pipe that nobody writes to is refused as well
    as a device without an end, also behind a link or where the file was exchanged meanwhile.

    Raises
    ------
    ModelError
        Naming the file.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
        with open(number, "rb") as file:
            found = os.fstat(number)
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(f"{path}: cannot read the file: it is {_kind(found.st_mode)}, not a regular file")
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            size = max(found.st_size, len(content))
            raise ModelError(f"{path}: the file has {size} bytes; at most {MAX_FILE} are read")
        return content.decode("utf-8")
    except OSError as error:
        raise ModelError(f"{path}: cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: the file is not UTF-8 text") from None
    except ValueError as error:
        raise ModelError(f"{str(path)!r}: not a path: {error}") from None


def parse_toml(text: str, where: str) -> Any:
    """The tables of a TOML text."""
    if long := _LONG_KEY.search(text):
        raise ModelError(
            f"{where}: not a model file: a key of over {MAX_KEY_PARTS} parts, {long.group()[:40]!r}…; a model's have "
            "five at most"
        )
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:  # a ValueError that is none of TOML's: an integer of 5000 digits
        message = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ModelError(f"{where}: not valid TOML: {message}") from None


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "a special file")
