"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
import warnings
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from bpl_neuro.errors import BplError
from bpl_neuro.storage import make_folder

__all__ = ["LOCK", "FolderLock"]

#: name of the file that is locked
LOCK = ".lock"
#: seconds within which the jobs of a process that was killed notice it
ENDING = 10.0


class FolderLock:
    """Holds a folder, which is made if need be, until `release`, or until the process ends, however it does.

    The lock is the kernel's, on an open file (flock): a process that was killed holds none. Handed to the processes of
    `bpl_neuro.benchmark.run_jobs`, it is held by them as well, so that nobody meets them at work after the process that
    started them was killed.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    BplError
        If another process holds it; says which, and on what host.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        make_folder(folder)
        until = time.monotonic() + ENDING
        while not self._take(until):
            pass

    def _take(self, until: float) -> bool:
        """Whether it is ours now; False to try again."""
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, host = os.pread(self.handle, 300, 0).decode(errors="replace").strip().partition(" ")
            os.close(self.handle)
            if time.monotonic() > until or _lives(pid, host):
                raise BplError(
                    f"{self.path.parent}: process {pid or '?'} on {host or '?'} is at work in this folder; wait for "
                    "it, or end it"
                ) from None
            time.sleep(0.05)
            return False
        except OSError as error:
            warnings.warn(
                f"{self.path}: this file system has no locks ({error.strerror}): see to it yourself that only one "
                "process works in the folder",
                stacklevel=2,
            )
        if not self._is_current():  # whoever held it took the folder away
            os.close(self.handle)
            make_folder(self.path.parent)
            return False
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        return True

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go of it, and take the file away; whoever waits for that one finds that it is no longer current."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(self.handle)

    def __reduce__(self) -> Any:
        return _inherited, (self.path, DupFd(self.handle))


def _inherited(path: Path, handle: Any) -> FolderLock:
    """The lock in a process that was started by its holder."""
    lock = object.__new__(FolderLock)
    lock.path, lock.handle = path, handle.detach()
    return lock


def _lives(pid: str, host: str) -> bool:
    """Whether this process may be there; False where it was on this host and is not."""
    if not pid.isdigit():
        return False  # it holds the lock, and is about to write its name
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
