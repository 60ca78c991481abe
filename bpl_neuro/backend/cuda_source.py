"""CUDA source text: kernels.cu, the table of functions, and after them a kernel made from expressions or a shape.

Text only: nothing here needs CUDA. A kernel takes each array as a pointer and its strides, and each number as it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sympy as sp

from bpl_neuro.model.codegen import Dialect, emit, reduced
from bpl_neuro.model.functions import FUNCTIONS
from bpl_neuro.model.names import argument, device_function, temporary

__all__ = ["COMMON", "elementwise_source", "local_pass_source", "local_terms"]

#: fixed kernels, and what a model's text may call; every generated kernel is appended to it
COMMON = "\n".join(
    [
        Path(__file__).with_name("kernels.cu").read_text(encoding="utf-8"),
        *(function.device_code for function in FUNCTIONS.values()),
    ]
)


CUDA = Dialect(
    number=lambda value: f"REAL({float(value)!r})",
    infinity="REAL(1.0 / 0.0)",
    call=device_function,
    power=lambda base, power: f"pow({base}, {power})",
)


def elementwise_source(
    name: str, arguments: Sequence[sp.Symbol], results: Sequence[sp.Expr], arrays: Sequence[bool]
) -> str:
    """A kernel over (rows, columns): every result at every place.

    Parameters
    ----------
    name : str
    arguments : sequence of Symbol
    results : sequence of Expr
    arrays : sequence of bool
        Which arguments are arrays, with strides; the others are numbers.

    Returns
    -------
    str
        Its parameters: rows, columns; of each argument a pointer and two strides, or a number; of each result a
        pointer and two strides.
    """
    shared, wanted, used = reduced(results)
    names = {symbol: argument(k) for k, symbol in enumerate(arguments)}
    parameters = ["index_t rows", "index_t columns"]
    body = []
    for k, (symbol, array) in enumerate(zip(arguments, arrays, strict=True)):
        if array:
            parameters.append(f"const REAL *A{k}, index_t A{k}_r, index_t A{k}_c")
            if symbol in used:
                body.append(f"const REAL a{k} = A{k}[r * A{k}_r + c * A{k}_c];")
        else:
            parameters.append(f"REAL a{k}")
    for k, (symbol, expr) in enumerate(shared):
        names[symbol] = temporary(k)
        body.append(f"const REAL {temporary(k)} = {emit(expr, names, CUDA)};")
    for k, expr in enumerate(wanted):
        parameters.append(f"REAL *R{k}, index_t R{k}_r, index_t R{k}_c")
        # read before anything is written: a result may stand in an argument's place
        body.append(f"const REAL r{k} = {emit(expr, names, CUDA)};")
    body += [f"R{k}[r * R{k}_r + c * R{k}_c] = r{k};" for k in range(len(wanted))]
    return _kernel(name, parameters, ["const index_t r = q / columns, c = q % columns;", *body], "rows * columns")


@functools.cache
def local_pass_source(
    name: str,
    states: int,
    ports: int,
    F: tuple[tuple[int, int, bool], ...],
    G: tuple[tuple[int, int, bool], ...],
    late: bool,
    now: bool,
) -> str:
    """The kernel of `NumpyBackend.local_pass`: a thread for each synapse j → i, its ports and states unrolled.

    A thread goes through the trials one after another, so that the sum over them needs no atomics. Each trace is read
    once and written once.

    Parameters
    ----------
    name : str
    states, ports : int
    F, G : tuples of (l, q, array), (l, p, array)
        Entries that are not identically 0, and whether each is an array or a number.
    late, now : bool
        Whether there are such signals.

    Returns
    -------
    str
        Its parameters: B, N, m; e and its five strides but the last two (S, B, N; ports and synapses are contiguous);
        z and two strides; of each entry of F and G a pointer and two strides, or a number; of each signal and state a
        pointer and two strides; out and three strides (port, neuron, synapse), where there is a signal.
    """
    parameters = ["index_t B, index_t N, index_t m", "REAL *e, index_t e_l, index_t e_b, index_t e_i"]
    parameters.append("const REAL *z, index_t z_b, index_t z_j")
    load: list[str] = ["const REAL z_here = z[b * z_b + j * z_j];"]
    for letter, entries in (("F", F), ("G", G)):
        for row, column, array in entries:
            key = f"{letter}{row}_{column}"
            if array:
                parameters.append(f"const REAL *{key}, index_t {key}_b, index_t {key}_i")
                load.append(f"const REAL {key.lower()} = {key}[b * {key}_b + i * {key}_i];")
            else:
                parameters.append(f"REAL {key.lower()}")
    signals = [letter for letter, there in (("late", late), ("now", now)) if there]
    for letter in signals:
        for k in range(states):
            parameters.append(f"const REAL *{letter}{k}, index_t {letter}{k}_b, index_t {letter}{k}_i")
            load.append(f"const REAL {letter}{k}_here = {letter}{k}[b * {letter}{k}_b + i * {letter}{k}_i];")
    if signals:
        parameters.append("REAL *out, index_t out_p, index_t out_i, index_t out_j")
    inner = []
    for p in range(ports):
        there = f"e + b * e_b + i * e_i + {p} * m + j"
        inner += [f"REAL *at = {there};"] if p == 0 else [f"at = {there};"]
        inner += [f"const REAL old{k}_{p} = at[{k} * e_l];" for k in range(states)]
        new, met = local_terms(p, states, F, G, late, now)
        inner += [f"const REAL new{k}_{p} = {term};" for k, term in enumerate(new)]
        inner += [f"at[{k} * e_l] = new{k}_{p};" for k in range(len(new))]
        if met:
            inner.append(f"sum{p} += {met};")
    body = ["const index_t i = q / m, j = q % m;"]
    body += [f"REAL sum{p} = 0;" for p in range(ports) if signals]
    body += ["for (index_t b = 0; b < B; ++b) {", *[f"    {line}" for line in (*load, *inner)], "}"]
    body += [f"out[{p} * out_p + i * out_i + j * out_j] = sum{p};" for p in range(ports) if signals]
    return _kernel(name, parameters, body, "N * m")


def local_terms(
    p: int, states: int, F: Sequence[tuple[int, int, bool]], G: Sequence[tuple[int, int, bool]], late: bool, now: bool
) -> tuple[list[str], str]:
    """Of the traces of port p: what each becomes, nothing if they stay, and what errors make of them."""
    new = []
    for k in range(states if F or G else 0):
        terms = [f"f{k}_{q} * old{q}_{p}" for row, q, _ in F if row == k]
        terms += [f"g{k}_{p} * z_here" for row, port, _ in G if (row, port) == (k, p)]
        new.append(" + ".join(terms) or "REAL(0)")
    met = [f"late{k}_here * old{k}_{p}" for k in range(states) if late]
    met += [f"now{k}_here * {'new' if F or G else 'old'}{k}_{p}" for k in range(states) if now]
    return new, " + ".join(met)


def _kernel(name: str, parameters: Iterable[str], body: Iterable[str], size: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"not a name for a kernel: {name!r}")
    lines = "\n".join(f"        {line}" for line in body)
    head = ",\n    ".join(parameters)
    return (
        f'{COMMON}\nextern "C" __global__ void {name}(\n    {head})\n{{\n    EACH(q, {size}) {{\n{lines}\n    }}\n}}\n'
    )
