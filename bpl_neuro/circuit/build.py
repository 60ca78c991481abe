"""Building a circuit from a model: wiring, parameter values, initial weights and the constraints on them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg
import sympy as sp

from bpl_neuro.backend import Backend
from bpl_neuro.checks import mapping, number, positive_int, real_array, shown
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.wiring import CompiledPopulation, Synapses, Wiring
from bpl_neuro.errors import ModelError, ValidationError
from bpl_neuro.model.budget import Budget
from bpl_neuro.model.codegen import array_function
from bpl_neuro.model.equations import NeuronEquations
from bpl_neuro.model.names import INPUT
from bpl_neuro.model.quantities import brian2_parts
from bpl_neuro.model.questions import bounded_questions
from bpl_neuro.model.spec import Model, Population, checked_quantity

__all__ = [
    "constraints",
    "initial_weights",
    "is_finite",
    "numbers_per_step",
    "own_connectivity",
    "own_value",
    "own_weights",
    "population_sizes",
    "scale_to_radius",
    "wire",
]

#: of a population: their synapses alone would be 10¹²
MOST_NEURONS = 10**6


def population_sizes(model: Model, size: int | Mapping[str, int]) -> dict[str, int]:
    """Neurons of each population."""
    names = list(model.populations)
    if not isinstance(size, Mapping):
        if len(names) > 1:
            example = ", ".join(f'"{n}": 20' for n in names)
            raise ValidationError(f"`size` must name each population, like {{{example}}}; got {shown(size)}")
        size = {names[0]: size}
    if set(size) != set(names):
        given = ", ".join(map(str, size))
        raise ValidationError(f"`size` must have exactly the populations {', '.join(names)}; got {shown(given)}")
    return {name: positive_int(f"size of {name}", size[name], MOST_NEURONS) for name in names}


def wire(
    model: Model, sizes: Mapping[str, int], inputs: int, overrides: Mapping[str, Any], dtype: Any, backend: Backend
) -> Wiring:
    """Compile every population at its size and lay out every group of synapses."""
    with bounded_questions(Budget(model.seconds), model.where):
        return _wired(model, sizes, inputs, overrides, dtype, backend)


def _wired(
    model: Model, sizes: Mapping[str, int], inputs: int, overrides: Mapping[str, Any], dtype: Any, backend: Backend
) -> Wiring:
    populations: list[CompiledPopulation] = []
    n = rates = 0
    unused = set(overrides)
    for name, population in model.populations.items():
        N = sizes[name]
        values = _parameter_values(population, N, overrides, unused)
        for key, value in values.items():
            if not is_finite(value, dtype):
                raise ValidationError(f"`parameters` {name}.{key} must be finite in {dtype.name}, got {shown(value)}")
        longest = max((p.delay for p in model.projections if p.pre == name), default=0)
        delayed = replace(population, neuron=population.neuron.with_delay_line(longest))
        populations.append(_compiled(delayed, N, n, rates, values, model.dt, dtype, backend))
        n, rates = n + N * populations[-1].S, rates + N
    if unused:
        known = [f"{p.name}.{k}" for p in model.populations.values() for k in p.parameters]
        raise ValidationError(f"`parameters` has {min(unused)!r}; known: {', '.join(known) or 'none'}")
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
    made_of = (model, sizes, inputs, overrides, dtype, backend)
    return Wiring(tuple(populations), tuple(synapses), n, rates, Layout(shapes), backend, made_of)


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
    number("radius", radius, high=1e300)
    views = wiring.layout.views(psi)
    for synapses in wiring.synapses:
        if synapses.pre == synapses.post:
            for W in views[synapses.key]:
                largest = np.abs(np.linalg.eigvals(W)).max()
                if largest > 0:
                    W *= radius / largest


def own_connectivity(layout: Layout, exists: np.ndarray, given: Mapping[str, Any] | None) -> np.ndarray:
    """`exists` (|Ψ|,) with a user's own connectivity in the place of the drawn one."""
    arrays = mapping("connectivity", given, "projections to arrays")
    exists = exists.copy()
    for projection, array in arrays.items():
        view = _block(layout, exists, projection, "connectivity")
        chosen = _shaped(view, array, f"connectivity[{projection!r}]")
        if not np.isin(chosen, (0, 1)).all():
            raise ValidationError(f"`connectivity[{projection!r}]` must hold booleans, or 0 and 1")
        view[...] = chosen
    return exists


def own_weights(
    layout: Layout,
    psi: np.ndarray,
    projection: str,
    W: Any,
    exists: np.ndarray | None,
    signs: np.ndarray | None,
    dtype: Any,
    name: str = "projection",
) -> np.ndarray:
    """`psi` (|Ψ|,) with a user's own weights of a projection, which must be finite in the precision `dtype`.

    Raises
    ------
    ValidationError
        For an unknown projection, a shape, a sign, or a value where there is no synapse.
    """
    psi = psi.copy()
    view = _block(layout, psi, projection, name)
    values = _shaped(view, W, f"W of {projection}")
    with np.errstate(over="ignore"):
        if not np.isfinite(values.astype(dtype)).all():
            raise ValidationError(f"`W` of {projection} must be finite in {np.dtype(dtype).name}")
    for which, flat, wrong in (
        ("where no synapse exists", exists, lambda there: (there == 0) & (values != 0)),
        ("against the projection's sign", signs, lambda sign: sign * values < 0),
    ):
        if flat is None:
            continue
        broken = wrong(layout.views(flat)[projection])
        if broken.any():
            where = tuple(int(i) for i in np.argwhere(broken)[0])
            raise ValidationError(f"`W` of {projection} must not be {values[where]:g} at {where}: that is {which}")
    view[...] = values
    return psi


def _block(layout: Layout, flat: np.ndarray, projection: Any, name: str) -> np.ndarray:
    if not isinstance(projection, str) or projection not in layout:
        raise ValidationError(f"`{name}` must be one of {', '.join(layout)}, got {shown(projection)}")
    return layout.views(flat)[projection]


def _shaped(view: np.ndarray, array: Any, name: str) -> np.ndarray:
    """An array of the shape of a block; the ports' axis may be left out where there is one port."""
    values = real_array(name, array)
    if values.shape == view.shape[1:] and view.shape[0] == 1:
        values = values[None]
    if values.shape != view.shape:
        raise ValidationError(f"`{name}` must have shape {view.shape}, got {values.shape}")
    return values


def is_finite(values: Any, dtype: Any) -> bool:
    """Whether numbers are finite in a precision."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(values).astype(dtype)).all())


def own_value(name: str, value: Any) -> Any:
    """A parameter's value as it is now: a caller's array may change."""
    try:
        return copy.deepcopy(value)
    except Exception:  # what cannot be copied is no number either
        raise ValidationError(f"`parameters[{name!r}]` must be a number, text or array, got {shown(value)}") from None


def _parameter_values(population: Population, N: int, overrides: Mapping[str, Any], unused: set[str]) -> dict[str, Any]:
    values: dict[str, Any] = dict(population.parameters)
    for name in values:
        for key in (name, f"{population.name}.{name}"):
            if key not in overrides:
                continue
            value = overrides[key]
            unused.discard(key)
            if isinstance(value, str | int | float | np.generic) or getattr(value, "shape", None) == ():
                if not isinstance(value, str) and not hasattr(value, "dim"):
                    number(f"parameters[{key!r}]", value, low=-math.inf, above=True)
                values[name] = checked_quantity(value, population.neuron.dimensions[name], f"`parameters` {key}")
                continue
            dimensions = population.neuron.dimensions[name]
            value = _without_units(value, dimensions, f"`parameters` {key}")
            array = real_array(f"parameters {key}", value).astype(float)
            if array.shape != (N,) or not np.isfinite(array).all():
                raise ValidationError(
                    f"`parameters` {key} must be one value or {N} finite values in SI units, got {value!r}"
                )
            values[name] = array
    return values


def _without_units(values: Any, dimensions: Any, where: str) -> Any:
    """The numbers of an array or list of a parameter's values: in SI units, be they plain or of Brian2.

    Raises
    ------
    ValidationError
        If the array has another unit than the parameter.
    """
    if isinstance(values, list | tuple) and values and all(hasattr(value, "dim") for value in values):
        return [_without_units(value, dimensions, where) for value in values]
    unit = getattr(values, "dim", None)
    if unit is None:
        return values
    if unit is not dimensions:
        name = brian2_parts().unit_name
        raise ValidationError(f"{where} must have the unit {name(dimensions)}, got {name(unit)}")
    return np.asarray(values, float)


def _compiled(
    population: Population, N: int, n: int, rates: int, values: dict[str, Any], dt: float, dtype: Any, backend: Backend
) -> CompiledPopulation:
    """Compile one population's equations at a size."""
    neuron = population.neuron
    A, C, D = neuron.derivatives()
    S = len(neuron.states)
    constants: list[Any] = [values[p] for p in neuron.parameters] + [dt]
    if neuron.system is not None:
        M = array_function("system", [neuron.symbols[2][: len(constants)]], list(neuron.system), np)(constants)
        constants += _exact_constants(M, S - neuron.delays, N, dt)
    constants = [np.asarray(c, dtype) if np.ndim(c) else float(c) for c in constants]
    states = [np.full(N, population.initial[s]) for s in neuron.states[: S - neuron.delays]]
    resting = array_function("rate", [neuron.symbols[0], (), neuron.symbols[2]], [neuron.rate], np)
    rate = np.broadcast_to(resting([*states, *states[:1] * neuron.delays], (), constants)[0], (N,))
    initial = np.stack(states + [rate] * neuron.delays, axis=-1)
    symbols = neuron.symbols
    everything = [*neuron.update, *A.values(), *C.values()]
    _check_computable(
        array_function("linearised", symbols, everything, np), population.name, neuron, initial, constants
    )
    credit, back = _backwards(len(neuron.inputs), S, tuple(A), tuple(C))
    return CompiledPopulation(
        name=population.name,
        N=N,
        S=S,
        P=len(neuron.inputs),
        state_slice=slice(n, n + N * S),
        rate_slice=slice(rates, rates + N),
        linearised=backend.elementwise("linearised", symbols, everything),
        step=backend.elementwise("step", symbols, everything, first=S),
        rate=backend.elementwise("rate", symbols, [neuron.rate, *D.values()]),
        sent_rate=backend.elementwise("sent_rate", symbols, [neuron.rate, *D.values()], first=1),
        input_credit=backend.elementwise("input_credit", *credit),
        own_past=backend.elementwise("own_past", *back),
        a_keys=tuple(A),
        c_keys=tuple(C),
        d_keys=tuple(D),
        parameters=tuple(backend.asarray(c) if np.ndim(c) else c for c in constants),
        initial=backend.asarray(initial, dtype),
        noise_scale=_noise_scale(neuron, constants, N, dt),
    )


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
            results = f(states, [np.zeros(len(initial))] * len(neuron.inputs), constants)
        if any(np.iscomplexobj(result) for result in results):  # a negative parameter to a power that is not whole
            raise ValueError("a power in it is not a real number")
    except (ArithmeticError, ValueError) as error:
        values = ", ".join(f"{p} = {v}" for p, v in zip(neuron.parameters, constants, strict=False))
        raise ModelError(f"population {name!r}: a step cannot be computed with {values}: {error}") from None


def _noise_scale(neuron: NeuronEquations, constants: Sequence[Any], N: int, dt: float) -> np.ndarray | None:
    """√dt times the coefficient of each noise source in each state, (N, S, Q)."""
    if not neuron.noise_scale:
        return None
    entries = [coefficient for row in neuron.noise_scale for coefficient in row]
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


def numbers_per_step(wiring: Wiring) -> int:
    """Numbers that a remembered step of one trial holds: state and rate before and after it, and u, A, C and D."""
    factors = sum(pop.N * (pop.P + len(pop.a_keys) + len(pop.c_keys) + len(pop.d_keys)) for pop in wiring.populations)
    return 2 * (wiring.n + wiring.rates) + factors
