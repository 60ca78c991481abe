"""The loops over whole trials: what of a circuit and a trajectory is told to `loops.c`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bpl_neuro.backend.c_arguments import Map, Neurons, Product, RunArguments, Sweep, Term, Way, address
from bpl_neuro.backend.step_loops import Factors, Run

__all__ = ["carry_back", "carry_within", "roll"]


def roll(
    backend: Any, circuit: Any, run: Run, end: Any, rng: np.random.Generator | None, linearise: bool
) -> Factors | None:
    """`StepLoops.roll` in one call; None where a state or a rate depends on no state and no input."""
    (T, B, n), dtype = run.states.shape, run.states.dtype
    if not all(u.flags.c_contiguous for u in run.u):
        return None
    pops = circuit.populations
    kinds = [(pop.linearised, pop.rate) if linearise else (pop.step, pop.sent_rate) for pop in pops]
    made = [_compiled(pop, *pair, dtype) for pop, pair in zip(pops, kinds, strict=True)]
    if not all(advance.computed[: pop.S] == list(range(pop.S)) and send.computed[:1] == [0]
               for pop, (advance, send) in zip(pops, made, strict=True)):  # fmt: skip
        return None
    kept: list[Any] = []  # what only C looks at
    noise = None
    if rng is not None and circuit.noisy:
        noise = np.stack([circuit.draw_noise(rng, B) for _ in range(T)])
    factors, slopes = [], []
    advances: list[Any] = []
    sends: list[Any] = []
    for pop, u, (advance, send) in zip(pops, run.u, made, strict=True):
        factors.append(np.empty((len(advance.computed) - pop.S, T, B, pop.N), dtype))
        slopes.append(np.empty((len(send.computed) - 1, T + 1, B, pop.N), dtype))
        before, after = (_states(part, pop) for part in (run.starts, run.states))
        parameters = [p for p in pop.parameters if np.ndim(p)]
        received = [u[:, :, p] for p in range(pop.P)]
        blank = [0.0] * (pop.S + pop.P)
        for maps, one, arguments, results in (
            (advances, advance, [*before, *received], [*after, *factors[-1]]),
            (sends, send, after, [run.rates[..., pop.rate_slice], *slopes[-1][:, 1:]]),
        ):
            places = [*arguments, *parameters, *results]
            numbers = one.numbers([*blank, *pop.parameters])
            kept.append(numbers)
            maps.append(Map(
                one.address, ctypes.cast(numbers, ctypes.c_void_p), pop.N, len(places) - len(results), len(results),
                backend.views(places),
            ))  # fmt: skip
    products = list(_products(backend, circuit, run, kept))
    held = [(pop.state_slice.start + unit * pop.S, value) for q, units, values in circuit.held()
            for pop in [pops[q]] for unit, value in zip(units, values, strict=True)]  # fmt: skip
    held_at, held_value = np.array([k for k, _ in held], np.int64), np.array([v for _, v in held], dtype)
    fresh = circuit.initial_state(1) if end is not None else None
    arrays = {
        "starts": run.starts, "sent": run.sent, "states": run.states, "rates": run.rates, "noise": noise,
        "held_at": held_at, "held_value": held_value, "end": None if end is None else np.ascontiguousarray(end),
        "fresh": fresh and fresh.s, "fresh_rate": fresh and np.ascontiguousarray(fresh.rate),
        "work": np.empty(B * max((p.k for p in products), default=0), dtype),
    }  # fmt: skip
    arguments = RunArguments(
        T=T, B=B, n=n, N=circuit.rates, populations=len(pops), products=len(products), held=len(held),
        advance=(Map * len(pops))(*advances), send=(Map * len(pops))(*sends),
        product=(Product * len(products))(*products), gemm=backend.gemm(dtype),
        **{key: None if array is None else address(array) for key, array in arrays.items()},
    )  # fmt: skip
    backend.loops(dtype).roll(ctypes.byref(arguments))
    return _factors(circuit, run, end, made, factors, slopes) if linearise else Factors()


def _compiled(pop: Any, advance: Any, send: Any, dtype: Any) -> tuple[Any, Any]:
    """The kernels of a population that take a step and that send."""
    parameters = tuple(np.ndim(p) for p in pop.parameters)
    single = dtype == np.float32
    return (
        advance.compiled((2,) * (pop.S + pop.P) + parameters, single),
        send.compiled((2,) * pop.S + (0,) * pop.P + parameters, single),
    )


def _states(s: np.ndarray, pop: Any) -> list[np.ndarray]:
    """Each state variable of a population, (T, B, N), of flat states (T, B, n)."""
    first, last = pop.state_slice.start, pop.state_slice.stop
    return [s[:, :, first + k : last : pop.S] for k in range(pop.S)]


def _products(backend: Any, circuit: Any, run: Run, kept: list[Any]) -> Iterator[Any]:
    """The recurrent products, one for each run of neighbouring ports."""
    for synapses in circuit.synapses:
        if synapses.pre is None:
            continue
        pre, post, u = circuit.populations[synapses.pre], circuit.populations[synapses.post], run.u[synapses.post]
        W = np.ascontiguousarray(circuit.weights[synapses.key])
        kept.append(W)
        sent = run.sent[..., pre.rate_slice] if synapses.line is None else _states(run.starts, pre)[synapses.line]
        for first, count, place in _runs(synapses.ports):
            arriving, received = backend.views([sent, u[:, :, first]])
            yield Product(arriving, received, address(W[place]), count * post.N, pre.N)


def _runs(ports: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first port, how many, place of the first) of neighbouring ports."""
    start = 0
    for k in range(1, len(ports) + 1):
        if k == len(ports) or ports[k] != ports[k - 1] + 1:
            yield ports[start], k - start, start
            start = k


def _factors(circuit: Any, run: Run, end: Any, made: Any, factors: Any, slopes: Any) -> Factors:
    """A, C and D of all rows: what was computed on the way, and what parameters alone decide."""
    T, B = run.states.shape[:2]
    first, fresh = circuit.state(run.starts[0]).D, circuit.initial_state(1).D
    before, after, A, C = [], [], [], []
    for q, (pop, (advance, send)) in enumerate(zip(circuit.populations, made, strict=True)):
        blank = [0.0] * (pop.S + pop.P)
        entries = dict(zip(advance.others, advance.on_host([*blank, *pop.parameters]), strict=True))
        entries |= zip(advance.computed[pop.S :], (f.reshape(T * B, pop.N) for f in factors[q]), strict=True)
        split = pop.S + len(pop.a_keys)
        A.append({key: entries[pop.S + k] for k, key in enumerate(pop.a_keys)})
        C.append({key: entries[split + k] for k, key in enumerate(pop.c_keys)})
        D = dict(zip(send.others, send.on_host([*blank, *pop.parameters]), strict=True))
        D_before = dict(D)
        for k, d in zip(send.computed[1:], slopes[q], strict=True):
            key = pop.d_keys[k - 1]
            d[0], d_before = first[q][key], d[:-1]
            if end is not None:
                d_before = d_before.copy()
                d_before[1:] = np.where(end[:-1, :, None], fresh[q][key], d_before[1:])
            D[k], D_before[k] = d[1:].reshape(T * B, pop.N), d_before.reshape(T * B, pop.N)
        before.append({key: D_before[k + 1] for k, key in enumerate(pop.d_keys)})
        after.append({key: D[k + 1] for k, key in enumerate(pop.d_keys)})
    if circuit.clamped:
        circuit.cut(A, C)
    return Factors(tuple(before), tuple(after), A, C)


def carry_back(backend: Any, ways: Any, errors: Any, going_on: Any, decay: float, part: str, sums: bool) -> Any:
    """`StepLoops.carry_back` in one call."""
    wiring, (A, C, slopes, weights) = ways.rows.wiring, ways.ways
    sweep = _Sweep(wiring, errors)
    for pop, own, credit in zip(wiring.populations, A, C, strict=True):
        sweep.add(
            pop, dict(zip(pop.a_keys, own, strict=True)) if part != "between" else {},
            dict(zip(pop.c_keys, credit, strict=True)) if part != "within" else {},
        )  # fmt: skip
    for synapses, (D, _), W in zip(wiring.synapses, slopes, weights, strict=True):
        if synapses.pre is not None and part != "within":
            sweep.add_way(synapses, D, W)
    return sweep(backend, going_on, decay, sums)


def carry_within(
    backend: Any, wiring: Any, errors: Any, going_on: Any, decay: float,
    blocks: Sequence[Mapping[tuple[int, int], Any]],
) -> Any:  # fmt: skip
    """`StepLoops.carry_within` in one call."""
    sweep = _Sweep(wiring, errors)
    for pop, entries in zip(wiring.populations, blocks, strict=True):
        sweep.add(pop, entries, {})
    return sweep(backend, going_on, decay, True)


class _Sweep:
    """The arguments of C's `carry_back`, put together."""

    def __init__(self, wiring: Any, errors: np.ndarray) -> None:
        self.wiring, self.errors = wiring, np.ascontiguousarray(errors)
        self.dtype, (self.T, self.B, self.n) = errors.dtype, errors.shape
        self.own: list[tuple[Any, Any, Any]] = []
        self.ways: list[tuple[Any, ...]] = []
        #: factors of all terms, one after another, and of each where it comes from and goes to
        self.factors: list[np.ndarray] = []
        self.keys: list[tuple[int, int]] = []

    def add(self, pop: Any, own: Mapping[tuple[int, int], Any], credit: Mapping[tuple[int, int], Any]) -> None:
        """A population, with its entries A[k, l] and C[k, p]."""
        self.own.append((pop, self._terms(own, pop.N), self._terms(credit, pop.N)))

    def add_way(self, synapses: Any, D: Mapping[int, Any], W: Any) -> None:
        """A group of synapses, with the slopes of what it sends."""
        pre = self.wiring.populations[synapses.pre]
        direct = len(D) == 1 and all(type(d) is int and d == 1 for d in D.values())
        terms = self._terms({(0, j): d for j, d in D.items()}, pre.N)
        self.ways.append((synapses, np.ascontiguousarray(W, self.dtype), direct, terms))

    def _terms(self, entries: Mapping[tuple[int, int], Any], N: int) -> slice:
        """Entries that are numbers, (N,) or (T, B, N) arrays; numbers become rows of N."""
        first = len(self.keys)
        for key, value in entries.items():
            self.keys.append(key)
            self.factors.append(np.asarray(value, self.dtype) if np.ndim(value) else np.full(N, value, self.dtype))
        return slice(first, len(self.keys))

    def __call__(self, backend: Any, going_on: Any, decay: float, sums: bool) -> Any:
        """Go back."""
        terms = backend.views(self.factors) if self.factors else []
        terms = (Term * len(self.keys))(*[(*key, view) for key, view in zip(self.keys, terms, strict=True)])
        at = ctypes.addressof(terms)
        out, going_on = np.empty_like(self.errors), np.ascontiguousarray(going_on)
        sizes = [(2 * pop.S + pop.P) * self.B * pop.N for pop, _, _ in self.own]
        work = np.empty(sum(sizes) + self.B * max(pop.N for pop, _, _ in self.own), self.dtype)
        place, item, neurons, ways = address(work), self.dtype.itemsize, [], []
        for size, (pop, own, credit) in zip(sizes, self.own, strict=True):
            block = pop.S * self.B * pop.N * item
            neurons.append(Neurons(
                pop.N, pop.S, pop.P, pop.state_slice.start, own.stop - own.start, credit.stop - credit.start,
                at + own.start * ctypes.sizeof(Term), at + credit.start * ctypes.sizeof(Term),
                place, place + block, place + 2 * block,
            ))  # fmt: skip
            place += size * item
        for synapses, W, direct, D in self.ways:
            pre, post = self.wiring.populations[synapses.pre], self.wiring.populations[synapses.post]
            for first, count, row in _runs(synapses.ports):
                ways.append(Way(
                    synapses.post, synapses.pre, first, count * post.N, pre.N, D.stop - D.start, direct,
                    address(W[row * post.N :]), 0, at + D.start * ctypes.sizeof(Term),
                ))  # fmt: skip
        arguments = Sweep(ctypes.c_float if self.dtype == np.float32 else ctypes.c_double)(
            T=self.T, B=self.B, n=self.n, populations=len(neurons), ways=len(ways), sums=sums,
            neurons=(Neurons * len(neurons))(*neurons), way=(Way * len(ways))(*ways), gemm=backend.gemm(self.dtype),
            errors=address(self.errors), going_on=address(going_on), decay=decay, out=address(out), work=place,
        )  # fmt: skip
        backend.loops(self.dtype).carry_back(ctypes.byref(arguments))
        return out
