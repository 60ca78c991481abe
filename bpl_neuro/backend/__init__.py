"""Array backends: the array namespace and the few in-place operations circuits and rules are written against."""

from __future__ import annotations

from bpl_neuro.backend.numpy_backend import NumpyBackend
from bpl_neuro.errors import BackendError

__all__ = ["NumpyBackend", "get_backend"]


def get_backend(name: str | NumpyBackend) -> NumpyBackend:
    """The backend of a name.

    Raises
    ------
    BackendError
        For a name that is not a backend.
    """
    if isinstance(name, NumpyBackend):
        return name
    if name == "numpy":
        return NumpyBackend()
    raise BackendError(f'`backend` must be "numpy", got {name!r}')
