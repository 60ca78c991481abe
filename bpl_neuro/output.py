"""Printing that cannot end a run: characters a terminal lacks, a reader that has gone, no output at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ["lenient_output", "open_standard_files"]


class _Lenient:
    """A text stream that replaces what its encoding lacks, and drops what nobody takes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self.write(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError):  # a closed pipe, a full disk; a closed stream
            self._lose()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._lose()

    def _lose(self) -> None:
        """Into the void from here on: what the stream still holds would fail again when Python ends."""
        with contextlib.suppress(OSError, ValueError, AttributeError):  # not every stream has a number
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lenient_output() -> Iterator[None]:
    """Within it, nothing that is printed raises an error."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as null:
        sys.stdout, sys.stderr = (_Lenient(null if stream is None else stream) for stream in before)  # type: ignore
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = before


def open_standard_files() -> None:
    """Where a shell closed 0, 1 or 2, a file of ours would get that number, and what is printed with it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
