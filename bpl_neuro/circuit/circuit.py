"""A recurrent circuit: a model with sizes, weights and a step that returns its own linearisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.backend import get_backend
from bpl_neuro.checks import generator, instance, number, positive_int, real_array
from bpl_neuro.circuit.build import (
    constraints,
    initial_weights,
    population_sizes,
    scale_to_radius,
    wire,
)
from bpl_neuro.circuit.files import read_circuit, write_circuit
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.transition import Local, State, Synapses, Transition, port_index
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.spec import Model

__all__ = ["Circuit"]


class Circuit:
    """A recurrent circuit of rate neurons, s_t = F(s_{t−1}, u_t), u_{t,p} = W_p r_{t−1} + W_p^in x_t + b_p.

    Parameters
    ----------
    model : Model or str
        A model, or the name of a shipped one.
    size : int or mapping of str to int
        Neurons, of each population by name if there are several.
    input_size : int
        Number of external inputs K.
    radius : float, optional
        Spectral radius to which every recurrent matrix W_p of a population onto itself is scaled.
    input_scale : float
        Multiplies the initial weights from the external input.
    parameters : mapping, optional
        Values that replace the model's: ``{"tau": "20*ms"}``, or (N,) arrays in SI units; for one of several
        populations ``{"exc.tau": …}``.
    seed : int or numpy.random.Generator
        For the initial weights: uniform in ±1/√N; a bias is the sum of two such draws.
    dtype : {"float64", "float32"}
    backend : {"numpy", "cupy", "auto"}
        "cupy" runs on an NVIDIA GPU; see docs/gpu.md. By name nothing falls back; "auto" takes a GPU if there is one.

    Attributes
    ----------
    n : int
        Size of the flat state.
    clamped : dict
        (Population number, neuron) → value at which its first state variable is held; see `clamp`.
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
        input_size: int,
        *,
        radius: float | None = None,
        input_scale: float = 1.0,
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
        self.input_size = positive_int("input_size", input_size)
        self.sizes = population_sizes(self.model, size)
        self._overrides = dict(instance("parameters", parameters or {}, Mapping, "a mapping of names to values"))
        self._wiring = wire(self.model, self.sizes, self.input_size, self._overrides, self.dtype, self.backend)
        self.layout: Layout = self._wiring.layout
        self.n = self._wiring.n
        self.rates = self._wiring.rates
        rng = generator("seed", seed)
        psi = initial_weights(self._wiring, rng)
        input_scale = number("input_scale", input_scale)
        for synapses in self._wiring.synapses:
            if synapses.pre is None:
                self.layout.views(psi)[synapses.key][...] *= input_scale
        exists, plastic, signs = constraints(self.model, self._wiring, rng)
        psi = np.where(signs == 0, psi, np.abs(psi) * signs) * exists
        if radius is not None:
            scale_to_radius(self._wiring, psi, radius)
        mask = exists * plastic
        self.mask = None if mask.all() else mask
        self._signs = self.backend.asarray(signs, self.dtype) if signs.any() else None
        self.clamped: dict[tuple[int, int], float] = {}
        self.psi = psi

    @property
    def populations(self) -> tuple[Local, ...]:
        """Where each population sits in the flat state, and how it is computed."""
        return self._wiring.populations

    @property
    def synapses(self) -> tuple[Synapses, ...]:
        """Groups of weights: which population, or input, projects onto which inputs of which."""
        return self._wiring.synapses

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
        value = self.own_array("psi", value)
        if value.shape != (self.layout.size,):
            raise ValidationError(f"`psi` must have shape ({self.layout.size},), got {value.shape}")
        if not self.xp.isfinite(value).all():
            raise ValidationError("`psi` must be finite")
        self._psi = value
        self.weights = self.layout.views(value)

    def own_array(self, name: str, value: Any) -> Any:
        """`value`, from the host or the backend itself, as an array of the backend in the circuit's precision."""
        given = value if self.backend.owns(value) and value.dtype.kind == "f" else real_array(name, value)
        return self.backend.asarray(given, self.dtype)

    @property
    def signs(self) -> Any:
        """Sign (1, −1) that each weight keeps, 0 where it is free; (|Ψ|,), or None if all are free."""
        return self._signs

    @property
    def mask(self) -> Any:
        """1 where a synapse exists and is plastic, else 0; (|Ψ|,), or None if all are."""
        return self._wiring.mask

    @mask.setter
    def mask(self, value: Any) -> None:
        self._wiring = replace(self._wiring, mask=None if value is None else self.backend.asarray(value, self.dtype))

    def constrain(self, psi: Any) -> Any:
        """For after an optimiser's step: what is not plastic stays, and a weight that would cross zero stops there.

        The first is not left to the masked gradient alone: an optimiser with momentum moves on without one.
        """
        if self.mask is not None:
            psi = self.xp.where(self.mask == 0, self.psi, psi)
        if self._signs is not None:
            psi = self.xp.where(self._signs * psi < 0, 0, psi)
        return psi

    def plastic_weights(self) -> Any:
        """Ψ with biases, and synapses that are not plastic, put at 0; (|Ψ|,)."""
        weights = self.psi.copy() if self.mask is None else self.psi * self.mask
        for name, view in self.layout.views(weights).items():
            if name.startswith("bias->"):
                view[...] = 0
        return weights

    def silence(self, projection: str) -> None:
        """Put the weights of a projection at zero and take them out of learning."""
        if projection not in self.layout:
            raise ValidationError(f"`projection` must be one of {', '.join(self.layout)}, got {projection!r}")
        mask = self.xp.ones(self.layout.size, self.dtype) if self.mask is None else self.mask.copy()
        psi = self.psi.copy()
        for flat in (mask, psi):
            self.layout.views(flat)[projection][...] = 0
        self.mask, self.psi = mask, psi

    def clamp(self, population: str, units: Any, value: float | None) -> None:
        """Hold the first state variable of some neurons at a value; None as value lets them go."""
        if population not in self.sizes:
            raise ValidationError(f"`population` must be one of {', '.join(self.sizes)}, got {population!r}")
        q = list(self.sizes).index(population)
        units = np.atleast_1d(np.asarray(units))
        last = self.populations[q].N - 1
        if units.dtype.kind not in "iu" or units.min(initial=0) < 0 or units.max(initial=0) > last:
            raise ValidationError(f"`units` must be indices in 0 … {last}, got {units.tolist()}")
        if value is not None and not np.isfinite(value):
            raise ValidationError(f"`value` must be finite, got {value!r}")
        keys = [(q, int(unit)) for unit in units]
        self.clamped = {key: held for key, held in self.clamped.items() if key not in keys}
        if value is not None:
            self.clamped |= dict.fromkeys(keys, float(value))

    def draw_noise(self, rng: np.random.Generator, batch: int) -> Any:
        """One step's additive noise for (B, n) states, or None for a model without noise."""
        if not self.noisy:
            return None
        noise = np.zeros((batch, self.n))
        for pop in self._wiring.populations:
            if pop.noise is not None:
                draws = rng.standard_normal((batch, pop.N, pop.noise.shape[-1]))
                noise[:, pop.state_slice] = np.einsum("nsq,bnq->bns", pop.noise, draws).reshape(batch, -1)
        return self.backend.asarray(noise, self.dtype)

    @property
    def noisy(self) -> bool:
        """Whether the model has noise."""
        return any(pop.noise is not None for pop in self._wiring.populations)

    def initial_state(self, batch: int) -> State:
        """The state every trial starts from, for `batch` trials."""
        xp = self.xp
        parts = [pop.initial.reshape(-1) for pop in self._wiring.populations]
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

    def drive(self, x: Any) -> list[Any]:
        """What bias and external input add to the summed inputs: (…, B, P, N) per population, for x (…, B, K).

        For many steps at once it is one matrix product; it holds as long as the weights stay what they are.
        """
        sums = []
        for q, pop in enumerate(self._wiring.populations):
            own = [synapses for synapses in self._wiring.synapses if synapses.post == q and synapses.pre is None]
            if own and len(own[0].ports) == pop.P:
                u = self._arriving(own.pop(0), x)
            else:
                u = self.xp.zeros((*x.shape[:-1], pop.P, pop.N), self.dtype)
            u += self.weights[f"bias->{pop.name}"]
            for synapses in own:
                self._arrive(u, synapses, x)
            sums.append(u)
        return sums

    def step(
        self, state: State, x: Any, *, noise: Any = None, linearise: bool = True, drive: list[Any] | None = None
    ) -> Transition:
        """One step s_{t−1} → s_t with its linearisation.

        Parameters
        ----------
        state : State
        x : (B, K) array
        noise : (B, n) array, optional
            Added to the new state; from `draw_noise`.
        linearise : bool
            False leaves A and C empty: for running without learning.
        drive : list of (B, P, N) arrays, optional
            That of x, where it was computed before; it is changed.
        """
        wiring, xp = self._wiring, self.xp
        u = self.drive(x) if drive is None else drive
        for synapses in wiring.synapses:
            if synapses.pre is not None:
                self._arrive(u[synapses.post], synapses, wiring.sent(synapses, state, x))
        s = xp.empty_like(state.s)
        A, C = [], []
        for pop, u_pop in zip(wiring.populations, u, strict=True):
            old = state.s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            new = s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            states = [old[..., k] for k in range(pop.S)]
            received = [u_pop[:, p] for p in range(pop.P)]
            update = pop.linearised if linearise else pop.step
            places = [new[..., k] for k in range(pop.S)]
            results = self.backend.write(update, places, states, received, pop.parameters)
            if linearise:
                split = pop.S + len(pop.a_keys)
                A.append(dict(zip(pop.a_keys, results[pop.S : split], strict=True)))
                C.append(dict(zip(pop.c_keys, results[split:], strict=True)))
        if noise is not None:
            s += noise
        if self.clamped:
            self._hold(s, A, C)
        return Transition(state, self.state(s), x, tuple(u), tuple(A), tuple(C), self.weights, wiring)

    def run(
        self, x: Any, state: State | None = None, *, noise: int | np.random.Generator | None = None
    ) -> tuple[Any, Any]:
        """Run without learning.

        Parameters
        ----------
        x : (B, T, K) array
            Inputs.
        state : State, optional
            Where to start; the initial state by default.
        noise : int or numpy.random.Generator, optional
            Seed of the model's noise; without it the run has no noise.

        Returns
        -------
        states : (B, T, n) array
        rates : (B, T, N) array
        """
        x = self.backend.asarray(x, self.dtype)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValidationError(f"`x` must be (trials, steps, {self.input_size}), got shape {x.shape}")
        state = state or self.initial_state(x.shape[0])
        states = self.xp.empty((x.shape[0], x.shape[1], self.n), self.dtype)
        rates = self.xp.empty((x.shape[0], x.shape[1], self.rates), self.dtype)
        rng = np.random.default_rng(noise) if noise is not None else None
        for t in range(x.shape[1]):
            added = None if rng is None else self.draw_noise(rng, x.shape[0])
            state = self.step(state, x[:, t], noise=added, linearise=False).new
            states[:, t], rates[:, t] = state.s, state.rate
        return states, rates

    def save(self, path: str | Path) -> None:
        """Model, sizes, parameters and weights in one ``.npz`` file, atomically and without pickle."""
        write_circuit(path, self, self._overrides)

    @classmethod
    def load(cls, path: str | Path, *, backend: str = "numpy") -> Circuit:
        """A circuit that `save` wrote.

        Raises
        ------
        ValidationError, ModelError
            If the file is damaged.
        """
        arrays, arguments, clamped = read_circuit(path)
        circuit = cls(**arguments, backend=backend)
        circuit.psi, circuit.mask, circuit.clamped = arrays["psi"], arrays.get("mask"), clamped
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

    def _hold(self, s: Any, A: list[Any], C: list[Any]) -> None:
        """Clamped states: the value itself, and derivatives 0."""
        for q, pop in enumerate(self.populations):
            held = {unit: value for (p, unit), value in self.clamped.items() if p == q}
            if not held:
                continue
            units = list(held)
            s[:, pop.state_slice].reshape(-1, pop.N, pop.S)[:, units, 0] = self.backend.asarray(
                list(held.values()), s.dtype
            )
            keep = self.xp.ones(pop.N, self.dtype)
            keep[units] = 0
            for factors in (A[q], C[q]) if A else ():
                for key in factors:
                    if key[0] == 0:
                        factors[key] = factors[key] * keep

    def _arrive(self, u: Any, synapses: Synapses, sent: Any) -> None:
        """Add what arrives through a group of synapses to summed inputs (…, P, N), in place."""
        arriving = self._arriving(synapses, sent)
        if len(synapses.ports) == u.shape[-2]:
            u += arriving
        else:
            u[..., port_index(synapses.ports), :] += arriving

    def _arriving(self, synapses: Synapses, sent: Any) -> Any:
        W = self.weights[synapses.key]
        flat = sent.reshape(-1, W.shape[-1])  # of many steps: one product, not one for each
        return (flat @ W.reshape(-1, W.shape[-1]).T).reshape(*sent.shape[:-1], *W.shape[:2])

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {N}" for name, N in self.sizes.items())
        return (
            f"<Circuit {self.model.title!r}: {sizes}; {self.input_size} inputs, {self.layout.size} weights, "
            f"{self.dtype}, {self.backend.name}>"
        )
