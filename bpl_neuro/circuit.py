"""A recurrent circuit: a model with sizes, weights and a step that returns its own linearisation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from bpl_neuro.backend import get_backend
from bpl_neuro.codegen import array_function
from bpl_neuro.errors import ValidationError
from bpl_neuro.parameters import Layout
from bpl_neuro.spec import INPUT, Model, Population, checked_quantity
from bpl_neuro.storage import read_arrays, write_arrays
from bpl_neuro.transition import Local, State, Synapses, Transition, Wiring

__all__ = ["Circuit"]


class Circuit:
    """A recurrent circuit of rate neurons, s_t = F(s_{t−1}, u_t), u_{t,p} = W_p r_{t−1} + W_p^in x_t + b_p.

    Parameters
    ----------
    model : Model or str
        A model, or the name of a shipped one.
    size : int or mapping of str to int
        Neurons, of each population by name if there are several.
    inputs : int
        Number of external inputs K.
    radius : float, optional
        Spectral radius to which every recurrent matrix W_p of a population onto itself is scaled.
    parameters : mapping, optional
        Values that replace the model's: ``{"tau": "20*ms"}``, or (N,) arrays in SI units; for one of several
        populations ``{"exc.tau": …}``.
    seed : int or numpy.random.Generator
        For the initial weights: uniform in ±1/√N; a bias is the sum of two such draws.
    dtype : {"float64", "float32"}
    backend : {"numpy"}

    Attributes
    ----------
    n : int
        Size of the flat state.
    layout : Layout
        Names and shapes of the blocks of `psi`.

    Raises
    ------
    ValidationError, ModelError
        For a wrong argument; names it and says what would be right.
    """

    def __init__(
        self,
        model: Model | str,
        size: int | Mapping[str, int],
        inputs: int,
        *,
        radius: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        seed: int | np.random.Generator = 0,
        dtype: Any = "float64",
        backend: str = "numpy",
    ) -> None:
        self.model = Model.load(model) if isinstance(model, str) else model
        if not isinstance(self.model, Model):
            raise ValidationError(f"`model` must be a Model or the name of one, got {type(model).__name__}")
        self.backend = get_backend(backend)
        self.dtype = self.backend.dtype(dtype)
        self.inputs = positive_int("inputs", inputs)
        self.sizes = self._sizes(size)
        self._overrides = dict(parameters or {})
        self._wiring = self._wire()
        self.layout: Layout = self._wiring.layout
        self.n = self._wiring.n
        self.rates = self._wiring.rates
        rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
        self.psi = self._initial_weights(rng, radius)

    @property
    def populations(self) -> tuple[Local, ...]:
        """Where each population sits in the flat state, and how it is computed."""
        return self._wiring.populations

    @property
    def xp(self) -> Any:
        """Array namespace of the backend."""
        return self.backend.xp

    @property
    def psi(self) -> Any:
        """All weights and biases Ψ, flat (|Ψ|,); never changed in place: assign a new vector."""
        return self._psi

    @psi.setter
    def psi(self, value: Any) -> None:
        value = self.xp.asarray(value, self.dtype)
        if value.shape != (self.layout.size,):
            raise ValidationError(f"`psi` must have shape ({self.layout.size},), got {value.shape}")
        self._psi = value
        self.weights = self.layout.views(value)

    def initial_state(self, batch: int) -> State:
        """The state every trial starts from, for `batch` trials."""
        xp = self.xp
        parts = [xp.asarray(pop.initial, self.dtype).reshape(-1) for pop in self._wiring.populations]
        s = xp.broadcast_to(xp.concatenate(parts), (batch, self.n)).copy()
        return self.state(s)

    def state(self, s: Any) -> State:
        """A flat (B, n) state with the rates and rate derivatives that belong to it."""
        rates, slopes = [], []
        for pop in self._wiring.populations:
            own = s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            r, *d = pop.rate([own[..., k] for k in range(pop.S)], (), pop.parameters)
            rates.append(r)
            slopes.append(dict(zip(pop.d_keys, d, strict=True)))
        return State(s, rates[0] if len(rates) == 1 else self.xp.concatenate(rates, axis=1), tuple(slopes))

    def reset(self, state: State, rows: Any) -> State:
        """`state` with the trials where `rows` (B,) is true back at the initial state."""
        if not rows.any():
            return state
        fresh = self.initial_state(1).s
        return self.state(self.xp.where(rows[:, None], fresh, state.s))

    def step(self, state: State, x: Any, *, linearise: bool = True) -> Transition:
        """One step s_{t−1} → s_t with its linearisation.

        Parameters
        ----------
        state : State
        x : (B, K) array
        linearise : bool
            False leaves A and C empty: for running without learning.
        """
        wiring, xp = self._wiring, self.xp
        u = self._summed_inputs(state, x)
        s = xp.empty_like(state.s)
        A, C = [], []
        for pop, u_pop in zip(wiring.populations, u, strict=True):
            old = state.s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            new = s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            states = [old[..., k] for k in range(pop.S)]
            received = [u_pop[:, p] for p in range(pop.P)]
            results = (pop.linearised if linearise else pop.step)(states, received, pop.parameters)
            for k in range(pop.S):
                new[..., k] = results[k]
            if linearise:
                split = pop.S + len(pop.a_keys)
                A.append(dict(zip(pop.a_keys, results[pop.S : split], strict=True)))
                C.append(dict(zip(pop.c_keys, results[split:], strict=True)))
        return Transition(state, self.state(s), x, tuple(u), tuple(A), tuple(C), self.weights, wiring)

    def run(self, x: Any, state: State | None = None) -> tuple[Any, Any]:
        """Run without learning.

        Parameters
        ----------
        x : (B, T, K) array
            Inputs.
        state : State, optional
            Where to start; the initial state by default.

        Returns
        -------
        states : (B, T, n) array
        rates : (B, T, N) array
        """
        x = self.xp.asarray(x, self.dtype)
        if x.ndim != 3 or x.shape[2] != self.inputs:
            raise ValidationError(f"`x` must be (trials, steps, {self.inputs}), got shape {x.shape}")
        state = state or self.initial_state(x.shape[0])
        states = self.xp.empty((x.shape[0], x.shape[1], self.n), self.dtype)
        rates = self.xp.empty((x.shape[0], x.shape[1], self.rates), self.dtype)
        for t in range(x.shape[1]):
            state = self.step(state, x[:, t], linearise=False).new
            states[:, t], rates[:, t] = state.s, state.rate
        return states, rates

    def save(self, path: str | Path) -> None:
        """Model, sizes, parameters and weights in one ``.npz`` file, atomically and without pickle."""
        meta = {
            "kind": "circuit",
            "model": self.model.to_toml(),
            "sizes": self.sizes,
            "inputs": self.inputs,
            "dtype": self.dtype.name,
            "parameters": {key: np.asarray(v).tolist() for key, v in self._overrides.items()},
        }
        write_arrays(path, {"psi": self.backend.to_host(self.psi)}, meta)

    @classmethod
    def load(cls, path: str | Path, *, backend: str = "numpy") -> Circuit:
        """A circuit that `save` wrote.

        Raises
        ------
        ValidationError, ModelError
            If the file is damaged.
        """
        arrays, meta = read_arrays(path, "circuit")
        try:
            circuit = cls(
                Model.from_toml(meta["model"], f"{path}: model"),
                meta["sizes"],
                meta["inputs"],
                parameters=meta["parameters"],
                dtype=meta["dtype"],
                backend=backend,
            )
            circuit.psi = arrays["psi"]
        except KeyError as error:
            raise ValidationError(f"{path}: {error} is missing from the file") from None
        return circuit

    def population_states(self, s: Any) -> dict[str, Any]:
        """A flat (…, n) array as population name → (…, N, S)."""
        return {
            pop.name: s[..., pop.state_slice].reshape(*s.shape[:-1], pop.N, pop.S) for pop in self._wiring.populations
        }

    def rate_credit(self, state: State, dr: Any) -> Any:
        """∂L/∂s from ∂L/∂r at the same step: (B, N) → (B, n)."""
        out = self.xp.zeros((dr.shape[0], self.n), dr.dtype)
        for pop, D in zip(self._wiring.populations, state.D, strict=True):
            own = out[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            for j, d in D.items():
                own[..., j] = dr[:, pop.rate_slice] * d
        return out

    def _summed_inputs(self, state: State, x: Any) -> list[Any]:
        """u per population, (B, P, N)."""
        u: list[Any] = [None] * len(self._wiring.populations)
        for synapses in self._wiring.synapses:
            pop = self._wiring.populations[synapses.post]
            sent = x if synapses.pre is None else state.rate[:, self._wiring.populations[synapses.pre].rate_slice]
            W = self.weights[synapses.key]
            arriving = (sent @ W.reshape(-1, W.shape[-1]).T).reshape(-1, len(synapses.ports), pop.N)
            if u[synapses.post] is None:
                u[synapses.post] = self.xp.zeros((arriving.shape[0], pop.P, pop.N), self.dtype)
                u[synapses.post] += self.weights[f"bias->{pop.name}"]
            if len(synapses.ports) == pop.P:
                u[synapses.post] += arriving
            else:
                u[synapses.post][:, list(synapses.ports)] += arriving
        for q, pop in enumerate(self._wiring.populations):
            if u[q] is None:
                u[q] = self.xp.broadcast_to(self.weights[f"bias->{pop.name}"], (x.shape[0], pop.P, pop.N))
        return u

    def _sizes(self, size: int | Mapping[str, int]) -> dict[str, int]:
        names = list(self.model.populations)
        if not isinstance(size, Mapping):
            if len(names) > 1:
                example = ", ".join(f'"{n}": 20' for n in names)
                raise ValidationError(f"`size` must name each population, like {{{example}}}; got {size!r}")
            size = {names[0]: size}
        if set(size) != set(names):
            raise ValidationError(f"`size` must have exactly the populations {', '.join(names)}; got {', '.join(size)}")
        return {name: positive_int(f"size of {name}", size[name]) for name in names}

    def _wire(self) -> Wiring:
        populations: list[Local] = []
        n = rates = 0
        unused = set(self._overrides)
        for name, population in self.model.populations.items():
            N, S = self.sizes[name], len(population.neuron.states)
            values = self._parameter_values(population, N, unused)
            populations.append(_local(population, N, n, rates, values, self.model.dt, self.dtype, self.xp))
            n, rates = n + N * S, rates + N
        if unused:
            known = [f"{p.name}.{k}" for p in self.model.populations.values() for k in p.parameters]
            raise ValidationError(f"`parameters` has {sorted(unused)[0]!r}; known: {', '.join(known) or 'none'}")
        index = {pop.name: q for q, pop in enumerate(populations)}
        shapes: dict[str, tuple[int, ...]] = {}
        synapses = []
        for projection in self.model.projections:
            post, pre = index[projection.post], index.get(projection.pre)
            names = self.model.populations[projection.post].neuron.inputs
            whole = len(projection.inputs) == len(names)
            key = f"{projection.pre}->{projection.post}" + ("" if whole else "." + "+".join(projection.inputs))
            N_pre = self.inputs if projection.pre == INPUT else populations[pre].N  # type: ignore[index]
            shapes[key] = (len(projection.inputs), populations[post].N, N_pre)
            synapses.append(Synapses(key, post, pre, tuple(names.index(p) for p in projection.inputs)))
        for pop in populations:
            shapes[f"bias->{pop.name}"] = (pop.P, pop.N)
        return Wiring(tuple(populations), tuple(synapses), n, rates, Layout(shapes), self.xp)

    def _parameter_values(self, population: Population, N: int, unused: set[str]) -> dict[str, Any]:
        values: dict[str, Any] = dict(population.parameters)
        for name in values:
            for key in (name, f"{population.name}.{name}"):
                if key not in self._overrides:
                    continue
                given = self._overrides[key]
                unused.discard(key)
                if np.ndim(given) == 0 or isinstance(given, str):
                    values[name] = checked_quantity(given, population.neuron.dimensions[name], f"`parameters` {key}")
                    continue
                array = np.asarray(given, float)
                if array.shape != (N,) or not np.isfinite(array).all():
                    raise ValidationError(f"`parameters` {key} must be one value or {N} finite values, got {given!r}")
                values[name] = array
        return values

    def _initial_weights(self, rng: np.random.Generator, radius: float | None) -> np.ndarray:
        if radius is not None and not 0 <= radius < np.inf:
            raise ValidationError(f"`radius` must be a number ≥ 0, got {radius}")
        psi = np.zeros(self.layout.size)
        views = self.layout.views(psi)
        pops = self._wiring.populations
        for synapses in self._wiring.synapses:
            view, bound = views[synapses.key], 1 / np.sqrt(pops[synapses.post].N)
            view[...] = rng.uniform(-bound, bound, view.shape)
            if radius is not None and synapses.pre == synapses.post:
                for W in view:
                    W *= radius / np.abs(np.linalg.eigvals(W)).max()
        for pop in pops:
            bound = 1 / np.sqrt(pop.N)
            views[f"bias->{pop.name}"][...] = rng.uniform(-bound, bound, (2, pop.P, pop.N)).sum(axis=0)
        return psi

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {N}" for name, N in self.sizes.items())
        return (
            f"<Circuit {self.model.title!r}: {sizes}; {self.inputs} inputs, {self.layout.size} weights, {self.dtype}>"
        )


def _local(
    population: Population, N: int, n: int, rates: int, values: dict[str, Any], dt: float, dtype: Any, xp: Any
) -> Local:
    """Compile one population's equations at a size."""
    neuron = population.neuron
    A, C, D = neuron.derivatives()
    S = len(neuron.states)
    constants: list[Any] = [values[p] for p in neuron.parameters] + [dt]
    if neuron.system is not None:
        M = array_function("system", [neuron.symbols[2][: len(constants)]], list(neuron.system), np)(constants)
        constants += _exact_constants(M, S, N, dt)
    constants = [xp.asarray(c, dtype) if np.ndim(c) else float(c) for c in constants]
    initial = np.empty((N, S))
    initial[:] = [population.initial[s] for s in neuron.states]
    symbols = neuron.symbols
    everything = [*neuron.update, *A.values(), *C.values()]
    return Local(
        population.name, N, S, len(neuron.inputs), slice(n, n + N * S), slice(rates, rates + N),
        array_function("linearised", symbols, everything, xp),
        array_function("step", symbols, everything, xp, first=S),
        array_function("rate", symbols, [neuron.rate, *D.values()], xp),
        tuple(A), tuple(C), tuple(D), tuple(constants), initial,
    )  # fmt: skip


def _exact_constants(M: tuple[Any, ...], S: int, N: int, dt: float) -> list[Any]:
    """expm(M dt) and ∫₀^dt expm(M τ) dτ, entry by entry: numbers, or (N,) arrays where parameters differ."""
    entries = np.stack([np.broadcast_to(np.asarray(m, float), (N,)) for m in M], axis=-1).reshape(N, S, S)
    same = N == 1 or (entries == entries[0]).all()
    block = np.zeros((1 if same else N, 2 * S, 2 * S))
    block[:, :S, :S], block[:, :S, S:] = entries[: len(block)], np.eye(S)
    full = np.stack([scipy.linalg.expm(b * dt) for b in block])
    parts = [full[:, :S, :S].reshape(-1, S * S), full[:, :S, S:].reshape(-1, S * S)]
    return [float(p[0, k]) if same else p[:, k] for p in parts for k in range(S * S)]


def positive_int(name: str, value: Any) -> int:
    """`value` as an int ≥ 1, or ValidationError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValidationError(f"`{name}` must be a whole number ≥ 1, got {value!r}")
    return int(value)
