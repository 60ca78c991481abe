"""Peak memory of a process."""

from __future__ import annotations

from pathlib import Path

__all__ = ["peak_of_this_process"]


def peak_of_this_process() -> float:
    """MiB. From Linux's VmHWM where there is one: ru_maxrss starts from the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
