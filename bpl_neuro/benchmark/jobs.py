"""Jobs in processes of their own, so many at a time; they leave their results in files."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bpl_neuro.checks import a_text, instance, mapping, positive_int
from bpl_neuro.checks import function as callable_
from bpl_neuro.errors import BplError

__all__ = ["run_jobs"]

#: one core a job: as many jobs run beside one another as there are cores, and the numbers do not depend on how many
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def run_jobs(function: Callable[..., None], calls: Mapping[str, tuple[Any, ...]], jobs: int, title: str) -> None:
    """Call a function with each of the arguments, each time in a new process with one thread.

    A job that fails does not stop the others. All jobs end with the process that started them, however that ends.

    Parameters
    ----------
    function : callable
        Of a module: the processes import it. What it returns is lost; it writes files.
    calls : mapping of str to tuple
        Name of a job → its arguments, which must be picklable.
    jobs : int
        Processes at a time.
    title : str
        Beside the progress bar.

    Raises
    ------
    BplError
        When all have ended, if some of them failed; names them.
    """
    positive_int("jobs", jobs), a_text("title", title)
    callable_("function", function, "a function of a module")
    calls = mapping("calls", calls, "names to arguments")
    for name, arguments in calls.items():
        instance(f"calls[{name!r}]", arguments, tuple, "a tuple of arguments")
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the threads and the memory of this process
    waiting, failed = list(calls.items()), []
    running: dict[Any, SpawnProcess] = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as bar, _environment(ONE_THREAD):
        task = bar.add_task(title, total=len(calls))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name, arguments = waiting.pop(0)
                    process = spawn.Process(target=_alone, args=(function, arguments), name=name)
                    process.start()
                    running[process.sentinel] = process
                for sentinel in connection.wait(list(running)):
                    ended = running.pop(sentinel)
                    ended.join()
                    if ended.exitcode:
                        failed.append(f"{ended.name} (exit status {ended.exitcode})")
                    bar.advance(task)
        finally:
            for process in running.values():
                process.terminate()
                process.join()
    if failed:
        raise BplError(f"{len(failed)} of {len(calls)} jobs failed; --resume tries them again: {', '.join(failed)}")


def _alone(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What a process does: the job, as long as the process that started it lives."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function(*arguments)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its jobs; a resumed run would meet them at work on the same files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that the processes start with."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
