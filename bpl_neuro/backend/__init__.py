"""Array backends: an array namespace, and the few operations that circuits, rules and optimisers leave to it."""

from __future__ import annotations

import logging
from typing import Any

from bpl_neuro.backend.c_backend import CBackend
from bpl_neuro.backend.cupy_backend import CupyBackend
from bpl_neuro.backend.numpy_backend import NumpyBackend, keep_freed_memory
from bpl_neuro.checks import shown
from bpl_neuro.errors import BackendError

__all__ = ["Backend", "CBackend", "CupyBackend", "NumpyBackend", "get_backend"]

Backend = NumpyBackend | CupyBackend


def get_backend(name: Any) -> Backend:
    """A backend by name, or as it is.

    Parameters
    ----------
    name : {"numpy", "c", "cupy", "auto"} or a backend
        "c" compiles what is slow in NumPy, with the C compiler of this machine; "cupy" runs on an NVIDIA GPU.
        "auto" takes CuPy where it is installed and finds a GPU, else NumPy, and logs which (logger ``bpl_neuro``). By
        name nothing falls back.

    Raises
    ------
    BackendError
        For a name that is not a backend, "cupy" without CuPy or a GPU, or "c" without a compiler; says what is missing.
    """
    if isinstance(name, Backend):
        return name
    if not isinstance(name, str):
        raise BackendError(f'`backend` must be "numpy", "cupy" or "auto", got {shown(name)}')
    if name == "numpy":
        keep_freed_memory()
        return NumpyBackend()
    if name == "c":
        keep_freed_memory()
        return CBackend()
    if name == "cupy":
        return CupyBackend()
    if name == "auto":
        log = logging.getLogger("bpl_neuro")
        try:
            backend = CupyBackend()
        except BackendError as error:
            log.info("backend: numpy (%s)", error)
            return get_backend("numpy")
        log.info("backend: cupy")
        return backend
    raise BackendError(f'`backend` must be "numpy", "c", "cupy" or "auto", got {name!r}')
