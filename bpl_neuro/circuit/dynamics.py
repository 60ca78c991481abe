"""How a circuit goes from one state to the next, linearised or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bpl_neuro.backend import Backend
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.circuit.wiring import CompiledPopulation, State, Synapses, Wiring, port_index

__all__ = ["Dynamics"]


class Dynamics:
    """The part of a `Circuit` that steps: with its wiring and weights, and some units held.

    `step` is the definition: one step, linearised. `advance` is the same without the linearisation, into given arrays;
    `bpl_neuro.circuit.trajectory.unroll` advances through whole trials and linearises them at once. The tests
    hold both to `step`.
    """

    wiring: Wiring
    backend: Backend
    dtype: np.dtype[Any]
    n: int
    rates: int
    weights: Mapping[str, Any]
    mask: Any
    clamped: Mapping[tuple[int, int], float]

    @property
    def populations(self) -> tuple[CompiledPopulation, ...]:
        """Where each population sits in the flat state, and how it is computed."""
        return self.wiring.populations

    @property
    def synapses(self) -> tuple[Synapses, ...]:
        """Groups of weights: which population, or input, projects onto which inputs of which."""
        return self.wiring.synapses

    @property
    def xp(self) -> Any:
        """Array namespace of the backend."""
        return self.backend.xp

    @property
    def noisy(self) -> bool:
        """Whether the model has noise."""
        return any(pop.noise_scale is not None for pop in self.populations)

    def draw_noise(self, rng: np.random.Generator | None, trials: int) -> Any:
        """One step's additive noise for (B, n) states, or None without a generator, or for a model without noise."""
        if rng is None or not self.noisy:
            return None
        drawn = np.zeros((trials, self.n))
        for pop in self.populations:
            if pop.noise_scale is not None:
                sources = rng.standard_normal((trials, pop.N, pop.noise_scale.shape[-1]))
                drawn[:, pop.state_slice] = np.einsum("nsq,bnq->bns", pop.noise_scale, sources).reshape(trials, -1)
        return self.backend.asarray(drawn, self.dtype)

    def initial_state(self, trials: int) -> State:
        """The state every trial starts from, for so many trials."""
        xp = self.xp
        parts = [pop.initial.reshape(-1) for pop in self.populations]
        s = xp.broadcast_to(xp.concatenate(parts), (trials, self.n)).copy()
        return self.state(s)

    def state(self, s: Any) -> State:
        """A flat (B, n) state with the rates and rate derivatives that belong to it."""
        rates, slopes = [], []
        for pop in self.populations:
            values = s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            r, *d = pop.rate([values[..., k] for k in range(pop.S)], (), pop.parameters)
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
        for q, pop in enumerate(self.populations):
            arriving = [synapses for synapses in self.synapses if synapses.post == q and synapses.pre is None]
            if arriving and len(arriving[0].ports) == pop.P:
                u = self._arriving(arriving.pop(0), x)
            else:
                u = self.xp.zeros((*x.shape[:-1], pop.P, pop.N), self.dtype)
            u += self.weights[f"bias->{pop.name}"]
            for synapses in arriving:
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
        wiring, xp = self.wiring, self.xp
        u = self.drive(x) if drive is None else drive
        for synapses in wiring.synapses:
            if synapses.pre is not None:
                self._arrive(u[synapses.post], synapses, wiring.sent(synapses, state, x))
        s = xp.empty_like(state.s)
        A: list[Any] = []
        C: list[Any] = []
        for pop, u_pop in zip(wiring.populations, u, strict=True):
            old = state.s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            new = s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            states = [old[..., k] for k in range(pop.S)]
            received = [u_pop[:, p] for p in range(pop.P)]
            places = [new[..., k] for k in range(pop.S)]
            update = pop.linearised if linearise else pop.step
            results = self.backend.write(update, places, states, received, pop.parameters)
            if linearise:
                split = pop.S + len(pop.a_keys)
                A.append(dict(zip(pop.a_keys, results[pop.S : split], strict=True)))
                C.append(dict(zip(pop.c_keys, results[split:], strict=True)))
        if noise is not None:
            s += noise
        if self.clamped:
            self._clamp(s)
            self.cut(A, C)
        return Transition(
            state, self.state(s), x, tuple(u), tuple(A), tuple(C), self.weights, wiring, self.mask)  # fmt: skip

    def advance(self, s: Any, rate: Any, x: Any, u: list[Any], out: Any, noise: Any = None) -> None:
        """A step without its linearisation: from s (B, n) and rate (B, N) to `out` (B, n); `u` is the drive of x."""
        before = State(s, rate, ())
        for synapses in self.synapses:
            if synapses.pre is not None:
                self._arrive(u[synapses.post], synapses, self.wiring.sent(synapses, before, x))
        for pop, u_pop in zip(self.populations, u, strict=True):
            old, new = (part[:, pop.state_slice].reshape(-1, pop.N, pop.S) for part in (s, out))
            places, states = ([part[..., k] for k in range(pop.S)] for part in (new, old))
            self.backend.write(pop.step, places, states, [u_pop[:, p] for p in range(pop.P)], pop.parameters)
        if noise is not None:
            out += noise
        if self.clamped:
            self._clamp(out)

    def send(self, s: Any, out: Any) -> None:
        """The rates that belong to states s (B, n), into `out` (B, N)."""
        for pop in self.populations:
            values = s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            states = [values[..., k] for k in range(pop.S)]
            self.backend.write(pop.sent_rate, [out[:, pop.rate_slice]], states, (), pop.parameters)

    def factors(self, s: Any, received: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """A and C of rows of states before a step, (R, n), and of what they received, (R, P, N) of each population."""
        A, C = [], []
        for pop, u in zip(self.populations, received, strict=True):
            values = s[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            states = [values[..., k] for k in range(pop.S)]
            results = pop.linearised(states, [u[:, p] for p in range(pop.P)], pop.parameters)
            split = pop.S + len(pop.a_keys)
            A.append(dict(zip(pop.a_keys, results[pop.S : split], strict=True)))
            C.append(dict(zip(pop.c_keys, results[split:], strict=True)))
        if self.clamped:
            self.cut(A, C)
        return A, C

    def rate_credit(self, state: State, dr: Any) -> Any:
        """∂L/∂s from ∂L/∂r at the same step: (B, N) → (B, n)."""
        out = self.xp.zeros((dr.shape[0], self.n), dr.dtype)
        for pop, D in zip(self.wiring.populations, state.D, strict=True):
            block = out[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            for j, d in D.items():
                block[..., j] = dr[:, pop.rate_slice] * d
        return out

    def _clamp(self, s: Any) -> None:
        """Put clamped states (B, n) at their values, in place."""
        for q, units, values in self.held():
            pop = self.populations[q]
            s[:, pop.state_slice].reshape(-1, pop.N, pop.S)[:, units, 0] = self.backend.asarray(values, s.dtype)

    def cut(self, A: list[Any], C: list[Any]) -> None:
        """Put the derivatives of clamped states at 0, in place of the factors."""
        for q, units, _ in self.held():
            keep = self.xp.ones(self.populations[q].N, self.dtype)
            keep[units] = 0
            for factors in (A[q], C[q]):
                for key in factors:
                    if key[0] == 0:
                        factors[key] = factors[key] * keep

    def held(self) -> Iterator[tuple[int, list[int], list[float]]]:
        """Numbers of populations with clamped units, those units, and their values."""
        for q in range(len(self.populations)):
            held = {unit: value for (p, unit), value in self.clamped.items() if p == q}
            if held:
                yield q, list(held), list(held.values())

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
