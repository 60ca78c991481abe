"""What of a circuit never changes: its compiled populations, who projects onto whom, and how credit goes back.

Flat vectors are neuron by neuron within a population, population after population: index of state k of neuron i is
offset + i·S + k, the C-order flattening of (N, S).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CompiledPopulation", "Parts", "State", "Synapses", "Wiring", "column", "credit_of_inputs", "port_index",
    "summed_gradient",
]  # fmt: skip

#: row vectors taken apart: for each population, a (B, N) array for each of its state variables
Parts = list[list[Any]]


@dataclass(frozen=True)
class CompiledPopulation:
    """Where one population sits and how it is computed.

    Attributes
    ----------
    name : str
    N, S, P : int
        Neurons, states per neuron, inputs per neuron.
    state_slice, rate_slice : slice
        Its part of the flat state (N·S) and of the rates (N).
    linearised : callable (states, inputs, parameters) → (F…, A…, C…)
    step : callable (states, inputs, parameters) → (F…)
    rate : callable (states, (), parameters) → (r, D…)
    sent_rate : callable (states, (), parameters) → (r,)
    input_credit : callable (v, C…) → (v·C for each input)
    own_past : callable (v, A…) → (v·A for each state)
    a_keys, c_keys, d_keys : sequences
        Which entries A[k, l], C[k, p] and D[l] are not identically 0, in the order the functions return them.
    parameters : tuple
        Values of the equations' parameters: numbers or (N,) arrays.
    initial : (N, S) array
    noise_scale : (N, S, Q) array or None
        What Q independent sources of N(0, 1) add to the states in a step.
    """

    name: str
    N: int
    S: int
    P: int
    state_slice: slice
    rate_slice: slice
    linearised: Callable[..., tuple[Any, ...]]
    step: Callable[..., tuple[Any, ...]]
    rate: Callable[..., tuple[Any, ...]]
    sent_rate: Callable[..., tuple[Any, ...]]
    input_credit: Callable[..., tuple[Any, ...]]
    own_past: Callable[..., tuple[Any, ...]]
    a_keys: Sequence[tuple[int, int]]
    c_keys: Sequence[tuple[int, int]]
    d_keys: Sequence[int]
    parameters: tuple[Any, ...]
    initial: Any
    noise_scale: Any = None


@dataclass(frozen=True)
class Synapses:
    """Weights from one source onto some inputs of population `post`: a (ports, N_post, N_pre) block named `key`.

    `pre` is None for the external input. `line` is None, or the state variable of the presynaptic neuron that holds its
    delayed rate.
    """

    key: str
    post: int
    pre: int | None
    ports: tuple[int, ...]
    line: int | None = None


@dataclass(frozen=True)
class Wiring:
    """The parts of a circuit that never change: its compiled populations, and who projects onto whom."""

    populations: tuple[CompiledPopulation, ...]
    synapses: tuple[Synapses, ...]
    n: int
    rates: int
    layout: Any
    backend: Any
    made_of: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: what is compiled is compiled again, from what the wiring was made of."""
        from bpl_neuro.circuit.build import wire  # which makes wirings

        return wire, self.made_of

    def __deepcopy__(self, memo: dict[int, Any]) -> Wiring:
        return self  # it never changes, and by it parts know each other

    @property
    def xp(self) -> Any:
        """Array namespace of the backend."""
        return self.backend.xp

    def split(self, v: Any) -> Parts:
        """A flat (…, n) array taken apart: for each population, a (…, N) array for each of its state variables."""
        return [
            [self.xp.ascontiguousarray(v[..., pop.state_slice][..., k :: pop.S]) for k in range(pop.S)]
            for pop in self.populations
        ]

    def join(self, parts: Parts) -> Any:
        """A flat (…, n) array from what `split` made of one."""
        first = parts[0][0]
        out = self.xp.empty((*first.shape[:-1], self.n), first.dtype)
        for pop, states in zip(self.populations, parts, strict=True):
            for k, values in enumerate(states):
                out[..., pop.state_slice][..., k :: pop.S] = values
        return out

    def back(
        self,
        parts: Parts,
        A: Sequence[Sequence[Any]],
        C: Sequence[Sequence[Any]],
        slopes: Sequence[Mapping[int, Any]],
        weights: Sequence[Any],
        part: str = "both",
    ) -> Parts:
        """Row vectors through a step that has these factors and weights: v J; see `Transition.vjp`.

        Parameters
        ----------
        parts : Parts
            v, taken apart.
        A, C : per population, the entries in the order of its keys
        slopes : per group of synapses, D of its presynaptic neurons
        weights : per group of synapses, a (ports·N_post, N_pre) array, or None for the external input
        part : {"both", "within", "between"}
        """
        if part == "between":
            sums: Parts = [[0] * pop.S for pop in self.populations]
        else:
            sums = [list(pop.own_past(v, factors)) for pop, v, factors in zip(self.populations, parts, A, strict=True)]
        if part != "within":
            received = [
                credit_of_inputs(pop, v, factors, self)
                for pop, v, factors in zip(self.populations, parts, C, strict=True)
            ]
            self._add_sent(sums, received, slopes, weights)
        return self._whole(sums, parts[0][0])

    def back_from_inputs(
        self, received: Sequence[Any], slopes: Sequence[Mapping[int, Any]], weights: Sequence[Any]
    ) -> Parts:
        """Credit of summed inputs, (B, P, N) of each population, to the states before the step: q W D."""
        sums: Parts = [[0] * pop.S for pop in self.populations]
        self._add_sent(sums, received, slopes, weights)
        return self._whole(sums, received[0][:, 0])

    def _add_sent(
        self, sums: Parts, received: Sequence[Any], slopes: Sequence[Mapping[int, Any]], weights: Sequence[Any]
    ) -> None:
        """Add what goes back through the synapses, in place."""
        for synapses, D, W in zip(self.synapses, slopes, weights, strict=True):
            if synapses.pre is None:
                continue
            sent = _ports(received[synapses.post], synapses.ports) @ W
            totals = sums[synapses.pre]
            for j, d in D.items():
                totals[j] = _plus(totals[j], sent if len(D) == 1 and type(d) is int and d == 1 else sent * d)

    def _whole(self, sums: Parts, like: Any) -> Parts:
        """With zeros where nothing arrives; `like` has the rows and the type of what does."""
        for totals, pop in zip(sums, self.populations, strict=True):
            for k, total in enumerate(totals):
                if not getattr(total, "ndim", 0):
                    totals[k] = self.xp.zeros((*like.shape[:-1], pop.N), like.dtype)
        return sums

    def recurrent(self, weights: Mapping[str, Any]) -> list[Any]:
        """The weights of every group of synapses for `back`: (ports·N_post, N_pre), None for the external input."""
        return [
            None if synapses.pre is None else weights[synapses.key].reshape(-1, weights[synapses.key].shape[-1])
            for synapses in self.synapses
        ]

    def sent(self, synapses: Synapses, state: State, x: Any) -> Any:
        """What arrives at the synapses: the input, the presynaptic rates, or the delayed ones; (B, N_pre)."""
        if synapses.pre is None:
            return x
        pop = self.populations[synapses.pre]
        if synapses.line is None:
            return state.rate[:, pop.rate_slice]
        return _by_state(state.s, pop)[..., synapses.line]

    def slopes(self, synapses: Synapses, state: State) -> Mapping[int, Any]:
        """Derivative of `sent` with respect to the presynaptic neuron's state variables."""
        if synapses.pre is None:
            return {}
        if synapses.line is not None:
            return {synapses.line: 1}
        return state.D[synapses.pre]  # type: ignore[index]


@dataclass(frozen=True)
class State:
    """A circuit's state with what it sends.

    Attributes
    ----------
    s : (B, n) array
        Flat state.
    rate : (B, N) array
        r = R(s).
    D : per population, a dict l → ∂R/∂s_l, (B, N_pop) array or number
    """

    s: Any
    rate: Any
    D: tuple[Mapping[int, Any], ...]


def summed_gradient(wiring: Wiring, mask: Any, received: Sequence[Any], sent: Sequence[Any]) -> Any:
    """The gradient of Ψ, summed over rows: of the trials of a step, or of all steps.

    Parameters
    ----------
    wiring : Wiring
    mask : (|Ψ|,) array or None
    received : per population, an (R, P, N) array
        Gradient with respect to the summed inputs.
    sent : per group of synapses, an (R, N_pre) array
        What arrived at them.

    Returns
    -------
    (|Ψ|,) array
    """
    xp = wiring.xp
    gradient = xp.zeros(wiring.layout.size, received[0].dtype)
    views = wiring.layout.views(gradient)
    for synapses, rows in zip(wiring.synapses, sent, strict=True):
        view = views[synapses.key]
        xp.matmul(_ports(received[synapses.post], synapses.ports).T, rows, out=view.reshape(-1, view.shape[-1]))
    for pop, w in zip(wiring.populations, received, strict=True):
        ones = xp.ones(len(w), w.dtype)
        views[f"bias->{pop.name}"][...] = (ones @ w.reshape(len(w), -1)).reshape(pop.P, pop.N)
    if mask is not None:
        gradient *= mask
    return gradient


def credit_of_inputs(pop: CompiledPopulation, v_own: Sequence[Any], C: Sequence[Any], wiring: Wiring) -> Any:
    """Σ_k v_k C[k, p] of one population, (B, P, N)."""
    first = v_own[0]
    return wiring.backend.side_by_side(pop.input_credit, (len(first), pop.P, pop.N), first.dtype, v_own, C)


def _ports(w: Any, ports: tuple[int, ...]) -> Any:
    """(B, P, N) → (B, ports·N)."""
    chosen = w if len(ports) == w.shape[1] else w[:, port_index(ports)]
    return chosen.reshape(w.shape[0], -1)


def port_index(ports: tuple[int, ...]) -> slice | list[int]:
    """Ports as an index: a slice where they are neighbours, which is a view and needs no index on a GPU."""
    if ports == tuple(range(ports[0], ports[-1] + 1)):
        return slice(ports[0], ports[-1] + 1)
    return list(ports)


def _plus(total: Any, term: Any) -> Any:
    """`term` added to a running sum that owns its array; None or 0 is the empty sum."""
    if getattr(total, "ndim", 0):
        total += term
        return total
    return term


def _by_state(v: Any, pop: CompiledPopulation) -> Any:
    """The part of a flat (B, n) array that belongs to a population, as (B, N, S); a view."""
    return v[:, pop.state_slice].reshape(v.shape[0], pop.N, pop.S)


def column(factor: Any) -> Any:
    """A factor per neuron, ready to multiply (B, N, m)."""
    return factor[..., None] if getattr(factor, "ndim", 0) else factor
