"""Damages of files and edits of their content, for attacks."""

import copy
import random

import numpy as np


def damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Bytes with a bit flipped, an end cut off, a range zeroed, two blocks swapped, noise, or something added."""
    kind, n = rng.choice(["bit", "byte", "cut", "zeros", "swap", "noise", "more", "twice"]), len(content)
    start, size = rng.randrange(max(n, 1)), rng.choice([1, 4, 16, 64, 512])
    stop, data = min(start + size, n), bytearray(content)
    if not n or kind == "more":
        data += rng.randbytes(size)
    elif kind == "bit":
        data[start] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[start] = rng.randrange(256)
    elif kind == "cut":
        del data[start:]
    elif kind == "zeros":
        data[start:stop] = bytes(stop - start)
    elif kind == "swap":
        other = rng.randrange(max(n - size, 1))
        a, b = bytes(data[start:stop]), bytes(data[other : other + stop - start])
        data[start : start + len(b)], data[other : other + len(a)] = b, a
    elif kind == "noise":
        data[start:stop] = rng.randbytes(stop - start)
    else:
        data[start:start] = content[start:stop]
    return f"{kind} at {start} of {n}, {size} bytes", bytes(data)


#: of no type that could be meant
WRONG = {
    bool: [None, "yes", 3, []],
    int: [-1, 1.5, "1", None, 10**40, True, [], {}, float("nan")],
    float: [float("nan"), float("inf"), "0.5", None, True, []],
    str: ["", "other", None, 3, []],
    type(None): [0, "", [], {}, "psi"],
    list: [None, {}, "psi", [None], [[]]],
    dict: [None, [], 0, "x", {"x": 0}],
}


def leaves(tree, path=()):
    """Every value of nested dicts and lists, the containers too, by path."""
    if path:
        yield path, tree
    if isinstance(tree, dict | list):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(part, (*path, key))


def edited(tree, path, value, *, delete=False):
    """A copy with another value at a path, or without it."""
    other = copy.deepcopy(tree)
    part = other
    for key in path[:-1]:
        part = part[key]
    if delete:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return other


def nearby(value):
    """Values of the same type that could be meant."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(value - 1, 0), 0] if value else [1]
    if isinstance(value, float):
        return [value * 1.5 + 0.1, 0.0]
    return [f"{value}x"] if isinstance(value, str) else []


def array_edits(arrays):
    """Sets of arrays with one that is gone, renamed, too many, of another type or shape, or with other values."""
    for name, array in arrays.items():
        others = {key: value for key, value in arrays.items() if key != name}
        yield f"{name} gone", others
        yield f"{name} renamed", others | {f"{name}_": array}
        yield f"{name} twice", arrays | {f"{name}/0": array}
        yield f"{name} of another type", arrays | {name: array.astype(np.float16 if array.dtype != bool else np.int8)}
        yield f"{name} with one axis more", arrays | {name: array[None]}
        yield (
            f"{name} longer",
            arrays | {name: np.concatenate([array, array[:1]]) if array.ndim else np.stack([array] * 2)},
        )
        if array.size and array.dtype.kind == "f":
            for value in (np.nan, np.inf):
                other = array.copy()
                other.reshape(-1)[slice(None) if "/trace/" in name else -1] = value  # of a ring not all places are held
                yield f"{name} with {value}", arrays | {name: other}
        if array.size and array.dtype.kind == "i":
            yield f"{name} negative", arrays | {name: -array - 1}


def array_values(arrays):
    """Sets of arrays with one whose values could be meant."""
    for name, array in arrays.items():
        if array.size and array.dtype.kind in "fi":
            other = array.copy()
            other.reshape(-1)[0] += 1
            yield f"{name}, one value", arrays | {name: other}
        if array.ndim and len(array) > 1 and (array[::-1] != array).any():
            yield f"{name} reversed", arrays | {name: array[::-1].copy()}
