"""A command in a process of its own, which the operating system ends when it takes too much."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from bpl_neuro.errors import BplError, ModelError

__all__ = ["run_isolated"]

#: processor seconds, imports and finite differences included; bytes of address space; seconds by the clock
PROCESSOR, MEMORY, CLOCK = 20, 4 * 10**9, 60


def run_isolated(command: Sequence[str], what: str, *, processor: int = PROCESSOR, clock: float = CLOCK) -> int:
    """Run a command that prints what it finds, and return its exit status.

    Raises
    ------
    ModelError
        If it exceeded the limits; `what` is named.
    BplError
        On a system without such limits (Windows).
    """
    try:
        import resource
    except ImportError:
        raise BplError("--isolated needs resource limits, which this operating system does not have") from None

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (processor, processor + 1))
        # macOS bounds no address space; time is bounded there all the same
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    # each thread of a linear algebra library reserves address space
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        # `preexec_fn` runs between fork and exec: it calls into the kernel only
        status = subprocess.run(
            command, preexec_fn=limit, timeout=clock, env={**os.environ, **threads}, stdin=subprocess.DEVNULL
        ).returncode
    except subprocess.TimeoutExpired:
        raise ModelError(f"{what}: the check took longer than {clock:g} s and was ended") from None
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        raise ModelError(f"{what}: the check took more than {processor} s of processor time and was ended")
    if status < 0:
        raise ModelError(f"{what}: the check was ended by signal {-status}; at most {MEMORY / 1e9:g} GB are allowed")
    return status
