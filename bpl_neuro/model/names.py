"""Every name that the package itself puts beside a user's, in one place.

A user's name is a letter and then letters, digits and underscores; it stands in a symbol of its own, which is real and
nothing else. What the package adds to a model's equations begins with an underscore, which no user's name may. In
program text users' names do not occur at all: every symbol is renamed there, by the second half of this file.
"""

from __future__ import annotations

import sympy as sp

__all__ = [
    "BIAS", "DT", "INPUT", "TRACE", "TRACE_GIVEN", "argument", "calls_together", "delay_state",
    "device_function", "exact_entry", "generated", "group", "host_function", "is_noise", "is_reserved",
    "symbol", "temporary",
]  # fmt: skip

#: what a projection may come from beside populations, and what every population receives: no population's name
INPUT, BIAS = "input", "bias"
#: the state of a synapse's trace, and what its equation is given
TRACE, TRACE_GIVEN = "trace", ("r_pre", "theta")
#: the step
DT = sp.Symbol("dt", real=True, positive=True)


def symbol(name: str) -> sp.Symbol:
    """The real symbol of a name."""
    return sp.Symbol(name, real=True)


def is_noise(name: str) -> bool:
    """Whether a name is a noise source, ``xi`` or ``xi_…``."""
    return name == "xi" or name.startswith("xi_")


def is_reserved(name: str) -> bool:
    """Whether no variable of a text may be called so, since the package might be."""
    return name == DT.name or name.startswith("_")


def delay_state(k: int) -> str:
    """The state that holds the rate k steps ago."""
    return f"_delay_{k}"


def exact_entry(kind: str, row: int, column: int) -> str:
    """An entry of expm(M dt) (kind E) or of its integral (kind I)."""
    return f"_{kind}{row}_{column}"


# Names in program text, where no user's name occurs.


def temporary(k: int) -> str:
    """A common subexpression."""
    return f"t{k}"


def group(k: int) -> str:
    """A tuple argument of an array function."""
    return f"group{k}"


def argument(k: int, entry: int | None = None) -> str:
    """An entry of an array function's k-th tuple, or a kernel's k-th argument at one place."""
    return f"a{k}" if entry is None else f"a{k}_{entry}"


def host_function(name: str) -> str:
    """A function of the table, in Python."""
    return f"f_{name}"


def calls_together(name: str) -> str:
    """Several calls of it at once."""
    return f"all_{name}"


def device_function(name: str) -> str:
    """A function of the table, in CUDA."""
    return f"bpl_{name}"


def generated() -> list[str]:
    """One or two of every kind of name above, and the fixed ones: what a test tries as names of a user's own."""
    made = [delay_state(1), exact_entry("E", 0, 0), exact_entry("I", 0, 1)]
    made += [temporary(k) for k in (0, 1)] + [group(0), group(1), argument(0, 0), argument(1, 0), argument(0)]
    made += [host_function("tanh"), calls_together("sigmoid"), device_function("tanh")]
    return [*made, INPUT, BIAS, TRACE, *TRACE_GIVEN, DT.name, "xi", "xi_a", "inf"]
