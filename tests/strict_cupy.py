"""A stand-in for the module cupy on machines without a GPU: as strict as CuPy, with NumPy beneath it.

Arrays refuse to mix with those of the host and to become one, as CuPy's do; functions are those that CuPy has
(`FUNCTIONS`, held to CuPy itself where it is installed); reductions give arrays without axes. `RawModule` compiles our
kernels for the CPU, see `host_shim`, and refuses an argument whose type is not the one declared.
"""

import types

import numpy as np
from host_shim import HostModule

FUNCTIONS = [
    "abs", "arange", "argmax", "ascontiguousarray", "broadcast_to", "concatenate", "copyto", "diagonal", "empty",
    "empty_like", "exp", "expm1", "eye", "isfinite", "log", "log1p", "logical_and", "matmul", "maximum", "mean",
    "minimum", "moveaxis", "multiply", "ones", "ones_like", "sign", "sqrt", "stack", "subtract", "sum", "tanh", "vdot",
    "where", "zeros", "zeros_like",
]  # fmt: skip


class Mixed(TypeError):
    """Host and device were mixed."""


def open_up(value):
    """What NumPy is to see of an argument."""
    if isinstance(value, Array):
        return value.held
    if isinstance(value, np.ndarray):
        raise Mixed(f"Unsupported type {type(value)}")  # CuPy's words
    if isinstance(value, list | tuple):
        return type(value)(open_up(part) for part in value)
    return value


def wrapped(value):
    """Arrays, also those without axes, as the device's."""
    return Array(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def _unary(name):
    return lambda self: wrapped(getattr(self.held, name)())


def _binary(name):
    def method(self, other):
        if not isinstance(other, Array | int | float | bool | np.generic):
            if isinstance(other, np.ndarray):
                raise Mixed(f"Unsupported type {type(other)}")
            return NotImplemented
        return wrapped(getattr(self.held, name)(open_up(other)))

    return method


def _in_place(name):
    def method(self, other):
        getattr(self.held, name)(open_up(other))
        return self

    return method


def _method(name):
    def method(self, *args, **kwargs):
        return wrapped(getattr(self.held, name)(*map(open_up, args), **{k: open_up(v) for k, v in kwargs.items()}))

    return method


class Array:
    """An array of the device."""

    __array_priority__ = 100

    def __init__(self, held):
        self.held = held

    def __array__(self, *args, **kwargs):
        raise Mixed("Implicit conversion to a NumPy array is not allowed.")  # CuPy's words

    def __array_ufunc__(self, *args, **kwargs):
        raise Mixed("a NumPy function was given an array of the device")

    __array_function__ = __array_ufunc__

    shape = property(lambda self: self.held.shape)
    dtype = property(lambda self: self.held.dtype)
    ndim = property(lambda self: self.held.ndim)
    size = property(lambda self: self.held.size)
    itemsize = property(lambda self: self.held.itemsize)
    strides = property(lambda self: self.held.strides)
    nbytes = property(lambda self: self.held.nbytes)
    T = property(lambda self: Array(self.held.T))

    def get(self):
        """The way out, as a method."""
        return self.held.copy()

    def __len__(self):
        return len(self.held)

    def __iter__(self):
        return (Array(np.asarray(part)) for part in self.held)

    def __getitem__(self, key):
        return wrapped(self.held[open_up(key)])

    def __setitem__(self, key, value):
        self.held[open_up(key)] = open_up(value)

    def __deepcopy__(self, memo):
        return Array(self.held.copy())

    def __float__(self):
        return float(self.held)

    def __int__(self):
        return int(self.held)

    def __bool__(self):
        return bool(self.held)

    def __repr__(self):
        return f"strict({self.held!r})"


ARITHMETIC = ["add", "sub", "mul", "truediv", "pow", "matmul", "mod"]
for _name in [*ARITHMETIC, *(f"r{name}" for name in ARITHMETIC), "lt", "le", "gt", "ge", "eq", "ne", "and", "or"]:
    setattr(Array, f"__{_name}__", _binary(f"__{_name}__"))
for _name in ["iadd", "isub", "imul", "itruediv"]:
    setattr(Array, f"__{_name}__", _in_place(f"__{_name}__"))
for _name in ["neg", "invert", "abs"]:
    setattr(Array, f"__{_name}__", _unary(f"__{_name}__"))
for _name in [
    "reshape",
    "transpose",
    "sum",
    "mean",
    "max",
    "min",
    "any",
    "all",
    "copy",
    "astype",
    "argmax",
    "swapaxes",
    "trace",
]:
    setattr(Array, _name, _method(_name))


class RawModule:
    """Kernels from source text."""

    def __init__(self, *, code, options):
        self._module = HostModule(code, options)

    def get_function(self, name):
        def launch(grid, block, args):
            self._module.launch(name, grid, block, [arg.held if isinstance(arg, Array) else arg for arg in args])

        return launch


class StrictCupy(types.ModuleType):
    """The module itself."""

    ndarray = Array
    RawModule = RawModule

    def __init__(self, free=2**34):
        super().__init__("cupy")
        runtime = types.SimpleNamespace(memGetInfo=lambda: (free, 2**35), getDeviceCount=lambda: 1)
        self.cuda = types.SimpleNamespace(runtime=runtime)
        self.linalg = types.SimpleNamespace(solve=lambda A, b: wrapped(np.linalg.solve(open_up(A), open_up(b))))
        self.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)

    def __deepcopy__(self, memo):
        return self

    @staticmethod
    def asarray(values, dtype=None):
        """The way in."""
        return Array(np.array(values.held if isinstance(values, Array) else values, dtype))

    @staticmethod
    def asnumpy(array):
        """The way out."""
        return array.held.copy() if isinstance(array, Array) else np.asarray(array)

    def __getattr__(self, name):
        if name not in FUNCTIONS:
            raise AttributeError(f"the stand-in for cupy has no {name!r}; if CuPy has, add it to FUNCTIONS")

        def function(*args, **kwargs):
            return wrapped(getattr(np, name)(*map(open_up, args), **{k: open_up(v) for k, v in kwargs.items()}))

        return function
