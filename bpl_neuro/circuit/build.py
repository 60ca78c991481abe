"""Building a circuit from a model: wiring, parameter values, initial weights and the constraints on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg
import sympy as sp

from bpl_neuro.backend import Backend
from bpl_neuro.checks import number, positive_int, real_array
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.transition import Local, Synapses, Wiring
from bpl_neuro.errors import ModelError, ValidationError
from bpl_neuro.model.codegen import array_function
from bpl_neuro.model.equations import NeuronEquations
from bpl_neuro.model.spec import INPUT, Model, Population, checked_quantity

__all__ = [
    "constraints",
    "initial_weights",
    "of_step",
    "population_sizes",
    "scale_to_radius",
    "wire",
]


def population_sizes(model: Model, size: int | Mapping[str, int]) -> dict[str, int]:
    """Neurons of each population."""
    names = list(model.populations)
    if not isinstance(size, Mapping):
        if len(names) > 1:
            example = ", ".join(f'"{n}": 20' for n in names)
            raise ValidationError(f"`size` must name each population, like {{{example}}}; got {size!r}")
        size = {names[0]: size}
    if set(size) != set(names):
        raise ValidationError(f"`size` must have exactly the populations {', '.join(names)}; got {', '.join(size)}")
    return {name: positive_int(f"size of {name}", size[name]) for name in names}


def wire(
    model: Model, sizes: Mapping[str, int], inputs: int, overrides: Mapping[str, Any], dtype: Any, backend: Backend
) -> Wiring:
    """Compile every population at its size and lay out every group of synapses."""
    populations: list[Local] = []
    n = rates = 0
    unused = set(overrides)
    for name, population in model.populations.items():
        N = sizes[name]
        values = _parameter_values(population, N, overrides, unused)
        longest = max((p.delay for p in model.projections if p.pre == name), default=0)
        delayed = replace(population, neuron=population.neuron.with_delay_line(longest))
        populations.append(_local(delayed, N, n, rates, values, model.dt, dtype, backend))
        n, rates = n + N * populations[-1].S, rates + N
    if unused:
        known = [f"{p.name}.{k}" for p in model.populations.values() for k in p.parameters]
        raise ValidationError(f"`parameters` has {sorted(unused)[0]!r}; known: {', '.join(known) or 'none'}")
    index = {pop.name: q for q, pop in enumerate(populations)}
    shapes: dict[str, tuple[int, ...]] = {}
    synapses = []
    for projection in model.projections:
        post, pre = index[projection.post], index.get(projection.pre)
        names = model.populations[projection.post].neuron.inputs
        whole = len(projection.inputs) == len(names)
        key = f"{projection.pre}->{projection.post}" + ("" if whole else "." + "+".join(projection.inputs))
        N_pre = inputs if projection.pre == INPUT else populations[pre].N  # type: ignore[index]
        shapes[key] = (len(projection.inputs), populations[post].N, N_pre)
        line = None
        if projection.delay:
            neuron = model.populations[projection.pre].neuron
            line = len(neuron.states) + projection.delay - 1
        synapses.append(Synapses(key, post, pre, tuple(names.index(p) for p in projection.inputs), line))
    for pop in populations:
        shapes[f"bias->{pop.name}"] = (pop.P, pop.N)
    return Wiring(tuple(populations), tuple(synapses), n, rates, Layout(shapes), backend)


def initial_weights(wiring: Wiring, rng: np.random.Generator) -> np.ndarray:
    """Uniform in ±1/√N; a bias is the sum of two such draws."""
    psi = np.zeros(wiring.layout.size)
    views = wiring.layout.views(psi)
    pops = wiring.populations
    for synapses in wiring.synapses:
        view, bound = views[synapses.key], 1 / np.sqrt(pops[synapses.post].N)
        view[...] = rng.uniform(-bound, bound, view.shape)
    for pop in pops:
        bound = 1 / np.sqrt(pop.N)
        views[f"bias->{pop.name}"][...] = rng.uniform(-bound, bound, (2, pop.P, pop.N)).sum(axis=0)
    return psi


def constraints(model: Model, wiring: Wiring, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which synapses exist, which of them are plastic, and the signs they keep."""
    flat = [np.ones(wiring.layout.size), np.ones(wiring.layout.size), np.zeros(wiring.layout.size)]
    for synapses, projection in zip(wiring.synapses, model.projections, strict=True):
        exists, plastic, sign = (wiring.layout.views(part)[synapses.key] for part in flat)
        if projection.probability < 1:
            exists[...] = rng.random(exists.shape) < projection.probability
        if not projection.self_synapses:
            exists[:, range(exists.shape[1]), range(exists.shape[1])] = 0
        plastic[...] = projection.plastic
        sign[...] = projection.sign
    return flat[0], flat[1], flat[2]


def scale_to_radius(wiring: Wiring, psi: np.ndarray, radius: float) -> None:
    """Every recurrent matrix of a population onto itself to a spectral radius."""
    number("radius", radius)
    views = wiring.layout.views(psi)
    for synapses in wiring.synapses:
        if synapses.pre == synapses.post:
            for W in views[synapses.key]:
                found = np.abs(np.linalg.eigvals(W)).max()
                if found > 0:
                    W *= radius / found


def _parameter_values(population: Population, N: int, overrides: Mapping[str, Any], unused: set[str]) -> dict[str, Any]:
    values: dict[str, Any] = dict(population.parameters)
    for name in values:
        for key in (name, f"{population.name}.{name}"):
            if key not in overrides:
                continue
            given = overrides[key]
            unused.discard(key)
            if np.ndim(given) == 0 or isinstance(given, str):
                values[name] = checked_quantity(given, population.neuron.dimensions[name], f"`parameters` {key}")
                continue
            array = real_array(f"parameters` {key}", given).astype(float)
            if array.shape != (N,) or not np.isfinite(array).all():
                raise ValidationError(f"`parameters` {key} must be one value or {N} finite values, got {given!r}")
            values[name] = array
    return values


def _local(
    population: Population, N: int, n: int, rates: int, values: dict[str, Any], dt: float, dtype: Any, backend: Backend
) -> Local:
    """Compile one population's equations at a size."""
    neuron = population.neuron
    A, C, D = neuron.derivatives()
    S = len(neuron.states)
    constants: list[Any] = [values[p] for p in neuron.parameters] + [dt]
    if neuron.system is not None:
        M = array_function("system", [neuron.symbols[2][: len(constants)]], list(neuron.system), np)(constants)
        constants += _exact_constants(M, S - neuron.delays, N, dt)
    constants = [np.asarray(c, dtype) if np.ndim(c) else float(c) for c in constants]
    own = [np.full(N, population.initial[s]) for s in neuron.states[: S - neuron.delays]]
    resting = array_function("rate", [neuron.symbols[0], (), neuron.symbols[2]], [neuron.rate], np)
    rate = np.broadcast_to(resting([*own, *own[:1] * neuron.delays], (), constants)[0], (N,))
    initial = np.stack(own + [rate] * neuron.delays, axis=-1)
    symbols = neuron.symbols
    everything = [*neuron.update, *A.values(), *C.values()]
    _check_computable(
        array_function("linearised", symbols, everything, np), population.name, neuron, initial, constants
    )
    credit, back = _backwards(len(neuron.inputs), S, tuple(A), tuple(C))
    return Local(
        population.name, N, S, len(neuron.inputs), slice(n, n + N * S), slice(rates, rates + N),
        backend.elementwise("linearised", symbols, everything),
        backend.elementwise("step", symbols, everything, first=S),
        backend.elementwise("rate", symbols, [neuron.rate, *D.values()]),
        backend.elementwise("input_credit", *credit),
        backend.elementwise("own_past", *back),
        tuple(A), tuple(C), tuple(D),
        tuple(backend.asarray(c) if np.ndim(c) else c for c in constants), backend.asarray(initial, dtype),
        _noise(neuron, constants, N, dt),
    )  # fmt: skip


def _backwards(P: int, S: int, a_keys: Sequence[tuple[int, int]], c_keys: Sequence[tuple[int, int]]) -> Any:
    """What a neuron does with a gradient v of its states, as expressions: Σ_k v_k C[k, p], and Σ_k v_k A[k, l]."""
    v = sp.symbols(f"v:{S}")
    parts = []
    for letter, keys, size in (("C", c_keys, P), ("A", a_keys, S)):
        entries = [sp.Symbol(f"{letter}{row}_{column}") for row, column in keys]
        sums = [sp.Integer(0)] * size
        for (row, column), entry in zip(keys, entries, strict=True):
            sums[column] += v[row] * entry
        parts.append(((v, entries), sums))
    return parts


def _check_computable(
    f: Any, name: str, neuron: NeuronEquations, initial: np.ndarray, constants: Sequence[Any]
) -> None:
    """ModelError if a step from the initial state cannot be computed with these parameters."""
    states = [initial[:, k] for k in range(initial.shape[1])]
    try:
        with np.errstate(all="ignore"):
            f(states, [np.zeros(len(initial))] * len(neuron.inputs), constants)
    except (ArithmeticError, ValueError) as error:
        values = ", ".join(f"{p} = {v}" for p, v in zip(neuron.parameters, constants, strict=False))
        raise ModelError(f"population {name!r}: a step cannot be computed with {values}: {error}") from None


def _noise(neuron: NeuronEquations, constants: Sequence[Any], N: int, dt: float) -> np.ndarray | None:
    """√dt times the coefficient of each noise source in each state, (N, S, Q)."""
    if not neuron.noise:
        return None
    entries = [coefficient for row in neuron.noise for coefficient in row]
    values = array_function("noise", [neuron.symbols[2]], entries, np)(constants)
    columns = [np.broadcast_to(np.asarray(v, float), (N,)) for v in values]
    return np.sqrt(dt) * np.stack(columns, axis=-1).reshape(N, len(neuron.states), -1)


def _exact_constants(M: tuple[Any, ...], S: int, N: int, dt: float) -> list[Any]:
    """expm(M dt) and ∫₀^dt expm(M τ) dτ, entry by entry: numbers, or (N,) arrays where parameters differ."""
    entries = np.stack([np.broadcast_to(np.asarray(m, float), (N,)) for m in M], axis=-1).reshape(N, S, S)
    same = N == 1 or (entries == entries[0]).all()
    block = np.zeros((1 if same else N, 2 * S, 2 * S))
    block[:, :S, :S], block[:, :S, S:] = entries[: len(block)], np.eye(S)
    full = np.stack([scipy.linalg.expm(b * dt) for b in block])
    parts = [full[:, :S, :S].reshape(-1, S * S), full[:, :S, S:].reshape(-1, S * S)]
    return [float(p[0, k]) if same else p[:, k] for p in parts for k in range(S * S)]


def of_step(circuit: Any) -> int:
    """Numbers that a remembered step of one trial holds: state, rate, and each neuron's u, A, C and D."""
    local = sum(pop.N * (pop.P + len(pop.a_keys) + len(pop.c_keys) + len(pop.d_keys)) for pop in circuit.populations)
    return circuit.n + circuit.rates + local
