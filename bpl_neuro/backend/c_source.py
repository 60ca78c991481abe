"""C source text: vector_math.h, the table of functions, and after them a kernel made from expressions or a shape.

Text only: nothing here needs a compiler. `loops.c` says how a kernel is called.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import sympy as sp

from bpl_neuro.backend.cuda_source import local_terms
from bpl_neuro.model.codegen import Dialect, emit, reduced
from bpl_neuro.model.functions import FUNCTIONS

__all__ = ["kernel_source", "local_pass_source", "loops_source"]

HERE = Path(__file__).parent
#: functions that vector_math.h has a form of its own of; all others are the C library's, element by element
OWN = ("exp", "expm1", "log", "log1p", "tanh", "erf")
#: texts of functions that differ from the table's
OWN_FORMS = {"sigmoid": "return own_sigmoid(x);"}
#: whole powers up to this are products
MOST_PRODUCTS = 64


def _power(base: str, power: str) -> str:
    whole = re.fullmatch(r"REAL\((\d+)\.0\)", power)
    if whole and 0 < int(whole[1]) <= MOST_PRODUCTS:
        return f"whole_power({base}, {whole[1]})"
    return f"pow({base}, {power})"


C = Dialect(
    number=lambda value: f"REAL({float(value)!r})",
    infinity="INFINITE",
    call=lambda name: f"bpl_{name}",
    power=_power,
)


def common(single: bool) -> str:
    """What every text starts with, in one of the two precisions."""
    return _common(single, tuple(FUNCTIONS))


@functools.cache
def _common(single: bool, names: tuple[str, ...]) -> str:
    parts = [f"#define REAL_IS_FLOAT {int(single)}", (HERE / "vector_math.h").read_text(encoding="utf-8")]
    parts += [f"#undef {name}\n#define {name}(x) own_{name}(x)" for name in OWN]
    for function in map(FUNCTIONS.__getitem__, names):
        parameters = ", ".join(f"REAL {name}" for name in "xab"[: function.arguments])
        body = OWN_FORMS.get(function.name, function.cuda)
        parts.append(f"static inline REAL bpl_{function.name}({parameters}) {{ {body} }}")
    return "\n".join([*parts, (HERE / "views.h").read_text(encoding="utf-8")])


def loops_source(single: bool) -> str:
    """The loops that do not depend on a model."""
    return "\n".join([common(single), *((HERE / name).read_text(encoding="utf-8") for name in ("loops.c", "trials.c"))])


@functools.lru_cache(maxsize=256)
def kernel_source(
    arguments: tuple[sp.Symbol, ...], results: tuple[sp.Expr, ...], arrays: tuple[bool, ...], first: int | None,
    single: bool,
) -> str:  # fmt: skip
    """A kernel, ``kernel``: the (first) results at each of `size` places that lie side by side.

    Parameters
    ----------
    arguments : tuple of Symbol
    results : tuple of Expr
    arrays : tuple of bool
        Which arguments are arrays; the others are numbers, and what they alone decide is computed once.
    first : int, optional
        Only so many results.
    single : bool
        float or double.
    """
    shared, wanted, used = reduced(results, first)
    names = {symbol: f"a{k}" for k, symbol in enumerate(arguments)}
    fixed = {symbol for symbol, array in zip(arguments, arrays, strict=True) if not array}
    before, body = [], []
    places = {True: 0, False: 0}
    for k, (symbol, array) in enumerate(zip(arguments, arrays, strict=True)):
        if symbol in used:
            if array:
                before.append(f"const REAL *A{k} = in[{places[array]}];")
                body.append(f"const REAL a{k} = A{k}[q];")
            else:
                before.append(f"const REAL a{k} = numbers[{places[array]}];")
        places[array] += 1
    for k, (symbol, expr) in enumerate(shared):
        names[symbol] = f"t{k}"
        line = f"const REAL t{k} = {emit(expr, names, C)};"
        if expr.free_symbols <= fixed:
            fixed.add(symbol)
            before.append(line)
        else:
            body.append(line)
    before += [f"REAL *R{k} = out[{k}];" for k in range(len(wanted))]
    # read before anything is written: a result may stand in an argument's place
    body += [f"const REAL r{k} = {emit(expr, names, C)};" for k, expr in enumerate(wanted)]
    body += [f"R{k}[q] = r{k};" for k in range(len(wanted))]
    lines = [
        "void kernel(index_t size, const REAL *const *in, const REAL *numbers, REAL *const *out)", "{",
        *(f"    {line}" for line in before), "    (void)in, (void)numbers;", "    #pragma omp simd",
        "    for (index_t q = 0; q < size; ++q) {", *(f"        {line}" for line in body), "    }", "}", "",
    ]  # fmt: skip
    return "\n".join([common(single), *lines])


@functools.cache
def local_pass_source(
    states: int,
    ports: int,
    F: tuple[tuple[int, int, bool], ...],
    G: tuple[tuple[int, int, bool], ...],
    late: bool,
    now: bool,
    single: bool,
) -> str:
    """The kernel of `NumpyBackend.local_pass`, ``local_pass``: neuron by neuron its trials, each trace read once.

    Parameters
    ----------
    states, ports : int
    F, G : tuples of (l, q, array), (l, p, array)
        Entries that are not identically 0, and whether each is an array or a number.
    late, now : bool
        Whether there are such signals.
    single : bool

    Returns
    -------
    str
        Parameters: sizes B, N, m; e with the steps of its states, trials and neurons; views of z (m side by side), the
        entries that are arrays, the signals, and out (its steps are of ports, neurons and synapses); the numbers.
    """
    load, place, number = [], 1, 0
    for letter, entries in (("f", F), ("g", G)):
        for row, column, array in entries:
            if array:
                value, place = f"AT(v[{place}], b, i)", place + 1
            else:
                value, number = f"numbers[{number}]", number + 1
            load.append(f"const REAL {letter}{row}_{column} = {value};")
    for letter in (name for name, there in (("late", late), ("now", now)) if there):
        for k in range(states):
            load.append(f"const REAL {letter}{k}_here = AT(v[{place}], b, i);")
            place += 1
    inner = []
    for p in range(ports):
        inner += [f"const REAL old{k}_{p} = at[{k} * e_l + {p} * m + j];" for k in range(states)]
        new, met = local_terms(p, states, F, G, late, now)
        inner += [f"const REAL new{k}_{p} = {term};" for k, term in enumerate(new)]
        inner += [f"at[{k} * e_l + {p} * m + j] = new{k}_{p};" for k in range(len(new))]
        if met:
            inner.append(f"sum[{p}][j - from] += {met};")
    signals = late or now
    lines = [
        "void local_pass(index_t B, index_t N, index_t m, REAL *e, index_t e_l, index_t e_b, index_t e_i,",
        "    const view *v, const REAL *numbers)", "{", "    (void)numbers;",
        "    for (index_t i = 0; i < N; ++i)", "    for (index_t from = 0; from < m; from += TILE) {",
        "        const index_t to = from + TILE < m ? from + TILE : m;",
        *([
            f"        REAL sum[{ports}][TILE];",
            f"        for (index_t p = 0; p < {ports}; ++p) for (index_t j = from; j < to; ++j) sum[p][j - from] = 0;",
        ] if signals else []),
        "        for (index_t b = 0; b < B; ++b) {",
        *(f"            {line}" for line in load),
        "            REAL *at = e + b * e_b + i * e_i;",
        "            const REAL *z = v[0].at + b * v[0].row;", "            (void)z;",
        "            #pragma omp simd", "            for (index_t j = from; j < to; ++j) {",
        *(["                const REAL z_here = z[j];"] if G else []),
        *(f"                {line}" for line in inner), "            }", "        }",
        *([
            f"        for (index_t p = 0; p < {ports}; ++p) for (index_t j = from; j < to; ++j)",
            f"            v[{place}].at[p * v[{place}].step + i * v[{place}].row + j * v[{place}].column]"
            " = sum[p][j - from];",
        ] if signals else []),
        "    }", "}", "",
    ]  # fmt: skip
    return "\n".join([common(single), *lines])
