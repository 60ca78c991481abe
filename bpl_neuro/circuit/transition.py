"""One linearised step of a circuit: everything a credit rule sees.

    A = ∂F/∂s, C = ∂F/∂u, D = ∂R/∂s          local to a neuron, from the model's equations
    J_t = blockdiag(A_t) + O_t,  O_t = Σ_p C_{t,p} W_p D_{t−1}ᵀ      own past + through synapses

Flat vectors are neuron by neuron within a population, population after population: index of state k of neuron i is
offset + i·S + k, the C-order flattening of (N, S).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Local", "Parts", "State", "Synapses", "Transition", "Wiring", "column", "parameter_gradient", "port_index"]


#: row vectors taken apart: for each population, a (B, N) array for each of its state variables
Parts = list[list[Any]]


@dataclass(frozen=True)
class Local:
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
    input_credit : callable (v, C…) → (v·C for each input)
    own_past : callable (v, A…) → (v·A for each state)
    a_keys, c_keys, d_keys : sequences
        Which entries A[k, l], C[k, p] and D[l] are not identically 0, in the order the functions return them.
    parameters : tuple
        Values of the equations' parameters: numbers or (N,) arrays.
    initial : (N, S) array
    noise : (N, S, Q) array or None
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
    input_credit: Callable[..., tuple[Any, ...]]
    own_past: Callable[..., tuple[Any, ...]]
    a_keys: Sequence[tuple[int, int]]
    c_keys: Sequence[tuple[int, int]]
    d_keys: Sequence[int]
    parameters: tuple[Any, ...]
    initial: Any
    noise: Any = None


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
    """The parts of a circuit that do not change from step to step.

    `mask` (|Ψ|,) is 1 where a synapse exists and is plastic; None if that is everywhere.
    """

    populations: tuple[Local, ...]
    synapses: tuple[Synapses, ...]
    n: int
    rates: int
    layout: Any
    backend: Any
    mask: Any = None

    @property
    def xp(self) -> Any:
        """Array namespace of the backend."""
        return self.backend.xp

    def __deepcopy__(self, memo: dict[int, Any]) -> Wiring:
        return self  # never changes

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
        for pop, own in zip(self.populations, parts, strict=True):
            for k, values in enumerate(own):
                out[..., pop.state_slice][..., k :: pop.S] = values
        return out

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


@dataclass(frozen=True)
class Transition:
    """A step s_{t−1} → s_t and its linearisation. Arrays are never changed after it is made.

    Attributes
    ----------
    previous, new : State
        Before and after the step.
    x : (B, K) array
        External input.
    u : per population, a (B, P, N) array
        Summed synaptic inputs.
    A, C : per population, a dict of the entries A[k, l], C[k, p] that are not identically 0
        (B, N_pop) arrays or numbers.
    weights : dict of str to array
        The weights that the step was linearised with.
    wiring : Wiring
    """

    previous: State
    new: State
    x: Any
    u: tuple[Any, ...]
    A: tuple[Mapping[tuple[int, int], Any], ...]
    C: tuple[Mapping[tuple[int, int], Any], ...]
    weights: Mapping[str, Any]
    wiring: Wiring

    def vjp(self, v: Any, part: str = "both") -> Any:
        """Row vectors through the step: v J, (B, n) → (B, n).

        Parameters
        ----------
        v : (B, n) array
        part : {"both", "within", "between"}
            J, blockdiag(A) alone, or O alone.

        Notes
        -----
        Costs O(B·P·N²); J is never built.
        """
        return self.wiring.join(self.back(self.wiring.split(v), part))

    def back(self, parts: Parts, part: str = "both") -> Parts:
        """`vjp` of row vectors that were taken apart (`Wiring.split`) and stay so: for going back many steps."""
        wiring = self.wiring
        if part == "between":
            sums: Parts = [[0] * pop.S for pop in wiring.populations]
        else:
            sums = [
                list(pop.own_past(own, tuple(A.values())))
                for pop, own, A in zip(wiring.populations, parts, self.A, strict=True)
            ]
        if part != "within":
            received = self._input_credit(parts)
            for synapses in wiring.synapses:
                if synapses.pre is None:
                    continue
                W = self.weights[synapses.key]
                sent = _ports(received[synapses.post], synapses.ports) @ W.reshape(-1, W.shape[-1])
                own, slopes = sums[synapses.pre], wiring.slopes(synapses, self.previous)
                for j, d in slopes.items():
                    own[j] = _plus(own[j], sent if len(slopes) == 1 and type(d) is int and d == 1 else sent * d)
        for own, before in zip(sums, parts, strict=True):
            for k, total in enumerate(own):
                if not getattr(total, "ndim", 0):  # nothing arrives there
                    own[k] = wiring.xp.zeros_like(before[k])
        return sums

    def jvp(self, M: Any) -> Any:
        """Columns through the step: J M, (B, n, m) → (B, n, m). Costs O(B·n²·m)."""
        return self.jacobian() @ M

    def jacobian(self) -> Any:
        """J_t as a dense (B, n, n) array. Costs O(B·P·n²)."""
        return self._dense("both")

    def within(self) -> Any:
        """blockdiag(A_t) as a dense (B, n, n) array: a neuron's own past."""
        return self._dense("within")

    def between(self) -> Any:
        """O_t as a dense (B, n, n) array: what passes through synapses, self-synapses included."""
        return self._dense("between")

    def _dense(self, part: str) -> Any:
        wiring, xp = self.wiring, self.wiring.xp
        B, n = self.new.s.shape
        J = xp.zeros((B, n, n), self.new.s.dtype)
        if part != "within":
            for synapses in wiring.synapses:
                if synapses.pre is not None:
                    self._add_synapses(J, synapses)
        if part != "between":
            for pop, A in zip(wiring.populations, self.A, strict=True):
                own = J[:, pop.state_slice, pop.state_slice].reshape(B, pop.N, pop.S, pop.N, pop.S)
                index = xp.arange(pop.N)
                for (k, j), a in A.items():
                    own[:, index, k, index, j] += a
        return J

    def _add_synapses(self, J: Any, synapses: Synapses) -> None:
        """Add one group's Σ_p C_p W_p Dᵀ to a dense J, in place."""
        wiring = self.wiring
        pre, post = wiring.populations[synapses.pre], wiring.populations[synapses.post]  # type: ignore[index]
        block = J[:, post.state_slice, pre.state_slice].reshape(len(J), post.N, post.S, pre.N, pre.S)
        W = self.weights[synapses.key]
        for k in range(post.S):
            through: Any = None
            for (row, p), c in self.C[synapses.post].items():
                if row == k and p in synapses.ports:
                    term = column(c) * W[synapses.ports.index(p)]
                    through = term if through is None else through + term
            if through is not None:
                for j, d in wiring.slopes(synapses, self.previous).items():
                    block[:, :, k, :, j] += through * (d[..., None, :] if getattr(d, "ndim", 0) else d)

    def input_credit(self, v: Any) -> list[Any]:
        """v·C per population: the gradient with respect to the summed inputs, (B, P, N)."""
        return self._input_credit(self.wiring.split(v))

    def _input_credit(self, parts: Parts) -> list[Any]:
        rows = zip(self.wiring.populations, parts, self.C, strict=True)
        return [_credit_of_inputs(pop, own, tuple(C.values()), self.wiring) for pop, own, C in rows]

    def parameter_gradient(self, v: Any) -> Any:
        """Immediate gradient Σ_B v · ∂s_t/∂Ψ at fixed s_{t−1}, as a flat vector of the size of Ψ."""
        return parameter_gradient([self], [v])

    def add_parameter_jacobian(self, M: Any) -> None:
        """Add ∂s_t/∂Ψ at fixed s_{t−1} to M (B, n, |Ψ|), in place; nothing for synapses that are not plastic."""
        wiring, xp = self.wiring, self.wiring.xp
        views = wiring.layout.views(M)  # (B, n, *shape), views
        mask = None if wiring.mask is None else wiring.layout.views(wiring.mask)
        for synapses in wiring.synapses:
            pop = wiring.populations[synapses.post]
            sent = wiring.sent(synapses, self.previous, self.x)[:, None, :]
            own, index = views[synapses.key][:, pop.state_slice], xp.arange(pop.N)
            for (k, p), c in self.C[synapses.post].items():
                if p in synapses.ports:
                    q = synapses.ports.index(p)
                    added = xp.broadcast_to(column(c) * sent, (M.shape[0], pop.N, sent.shape[-1]))
                    if mask is not None:
                        added = added * mask[synapses.key][q]
                    own[:, index * pop.S + k, q, index] += added
        for pop, C in zip(wiring.populations, self.C, strict=True):
            own, index = views[f"bias->{pop.name}"][:, pop.state_slice], xp.arange(pop.N)
            for (k, p), c in C.items():
                own[:, index * pop.S + k, p, index] += c


def parameter_gradient(transitions: Sequence[Transition], credits: Any) -> Any:
    """Σ_t Σ_B C_t · ∂s_t/∂Ψ over several steps, in one matrix product per group of synapses.

        ∂/∂W_p = (v·C_{t,p})ᵀ r_{t−1},  ∂/∂W_p^in = (v·C_{t,p})ᵀ x_t,  ∂/∂b_p = Σ_B v·C_{t,p}

    Parameters
    ----------
    transitions : sequence of Transition
    credits : (T, B, n) array, or sequence of (B, n) arrays
        C_t of each step.

    Returns
    -------
    (|Ψ|,) array
        0 for synapses that do not exist or are not plastic.
    """
    wiring = transitions[0].wiring
    xp = wiring.xp
    if len(transitions) == 1:
        received, stack = transitions[0].input_credit(credits[0]), lambda parts: parts[0]
    else:
        received, stack = _stacked_input_credit(transitions, credits), xp.concatenate
    gradient = xp.zeros(wiring.layout.size, credits[0].dtype)
    views = wiring.layout.views(gradient)
    for synapses in wiring.synapses:
        sent = stack([wiring.sent(synapses, t.previous, t.x) for t in transitions])
        view = views[synapses.key]
        xp.matmul(_ports(received[synapses.post], synapses.ports).T, sent, out=view.reshape(-1, view.shape[-1]))
    for pop, w in zip(wiring.populations, received, strict=True):
        one = xp.ones(len(w), w.dtype)
        views[f"bias->{pop.name}"][...] = (one @ w.reshape(len(w), -1)).reshape(pop.P, pop.N)
    if wiring.mask is not None:
        gradient *= wiring.mask
    return gradient


def _stacked_input_credit(transitions: Sequence[Transition], credits: Any) -> list[Any]:
    """`Transition.input_credit` of all steps at once, (T·B, P, N) per population."""
    wiring, xp = transitions[0].wiring, transitions[0].wiring.xp
    v, out = credits.reshape(-1, wiring.n) if hasattr(credits, "reshape") else xp.concatenate(credits), []
    for q, (pop, v_own) in enumerate(zip(wiring.populations, wiring.split(v), strict=True)):
        C = []
        for key, first in transitions[0].C[q].items():
            by_trial = getattr(first, "ndim", 0) == 2  # else it is the same for all trials, and at all steps
            C.append(xp.concatenate([t.C[q][key] for t in transitions]) if by_trial else first)
        out.append(_credit_of_inputs(pop, v_own, C, wiring))
    return out


def _credit_of_inputs(pop: Local, v_own: Sequence[Any], C: Sequence[Any], wiring: Wiring) -> Any:
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


def _by_state(v: Any, pop: Local) -> Any:
    """The part of a flat (B, n) array that belongs to a population, as (B, N, S); a view."""
    return v[:, pop.state_slice].reshape(v.shape[0], pop.N, pop.S)


def column(factor: Any) -> Any:
    """A factor per neuron, ready to multiply (B, N, m)."""
    return factor[..., None] if getattr(factor, "ndim", 0) else factor
