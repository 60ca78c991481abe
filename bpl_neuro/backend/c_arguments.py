"""How arrays, kernels and BLAS are handed to compiled code: the structures of views.h and loops.c."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg.cython_blas

from bpl_neuro.errors import BackendError

__all__ = [
    "PYTHON",
    "Map",
    "Neurons",
    "Product",
    "RunArguments",
    "Sweep",
    "Term",
    "View",
    "Way",
    "address",
    "gemm",
    "views",
]

Index, Pointer = ctypes.c_int64, ctypes.c_void_p


def _structure(name: str, **fields: Any) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


View = _structure("View", at=Pointer, step=Index, row=Index, column=Index)
Map = _structure(
    "Map", kernel=Pointer, numbers=Pointer, columns=Index, arguments=Index, results=Index, views=ctypes.POINTER(View)
)
Product = _structure("Product", sent=View, u=View, w=Pointer, m=Index, k=Index)
RunArguments = _structure(
    "RunArguments", T=Index, B=Index, n=Index, N=Index, populations=Index, products=Index, held=Index,
    advance=ctypes.POINTER(Map), send=ctypes.POINTER(Map), product=ctypes.POINTER(Product), gemm=Pointer,
    starts=Pointer, sent=Pointer, states=Pointer, rates=Pointer, noise=Pointer, held_at=Pointer, held_value=Pointer,
    end=Pointer, fresh=Pointer, fresh_rate=Pointer, work=Pointer,
)  # fmt: skip
Term = _structure("Term", source=Index, to=Index, factor=View)
Neurons = _structure(
    "Neurons", N=Index, S=Index, P=Index, offset=Index, own=Index, credit=Index, A=Pointer, C=Pointer, v=Pointer,
    carried=Pointer, received=Pointer, received_step=Index,
)  # fmt: skip
Way = _structure(
    "Way", post=Index, pre=Index, port=Index, k=Index, m=Index, slopes=Index, direct=Index, w=Pointer, w_step=Index,
    D=Pointer,
)  # fmt: skip


@functools.cache
def Sweep(real: Any) -> Any:
    """The arguments of `carry_back`, in a precision: ctypes' float or double."""
    return _structure(
        "Sweep", T=Index, B=Index, n=Index, populations=Index, ways=Index, give=Index, neurons=ctypes.POINTER(Neurons),
        way=ctypes.POINTER(Way), gemm=Pointer, errors=Pointer, last_alone=Index, going_on=Pointer, place=Pointer,
        weights=Pointer, decay=real, out=Pointer, work=Pointer,
    )  # fmt: skip


@functools.cache
def several(kind: Any, count: int) -> Any:
    """The type of an array of structures or numbers; made once, as ctypes keeps a type while it is in use only."""
    return kind * count


class Python(ctypes.Structure):
    """Those of Python's own functions that loops.c calls."""

    _fields_ = [(name, Pointer) for name in ("get", "release", "item", "clear_error")]


PYTHON = ctypes.pointer(
    Python(
        *(
            ctypes.cast(getattr(ctypes.pythonapi, name), Pointer)
            for name in ("PyObject_GetBuffer", "PyBuffer_Release", "PyTuple_GetItem", "PyErr_Clear")
        )
    )
)


def address(array: np.ndarray) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


def views(library: Any, arrays: Sequence[np.ndarray]) -> Any:
    """The views of arrays of up to three axes, (step, row, column); an axis that is missing is the first.

    Raises
    ------
    ValueError
        If their type is not the library's.
    """
    made = several(View, len(arrays))()
    if not library.views(PYTHON, ctypes.py_object(tuple(arrays)), Index(len(arrays)), made):
        raise ValueError("arrays of another type than the compiled loops'")
    return made


@functools.cache
def gemm(dtype: np.dtype[Any]) -> int:
    """The address of BLAS's matrix product in a precision: the one that SciPy brings; BackendError if it is another."""
    capsule = scipy.linalg.cython_blas.__pyx_capi__["sgemm" if dtype == np.float32 else "dgemm"]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = name(capsule)
    if b"int *" not in signature:
        raise BackendError(f'`backend` = "c" needs a BLAS whose sizes are of type int, got {signature.decode()}')
    return int(pointer(capsule, signature))
