"""The loops over whole trials: what of a circuit and a trajectory is told to `trials.c`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bpl_neuro.backend.c_arguments import Map, Neurons, Product, RunArguments, Sweep, Term, Way, address, several
from bpl_neuro.backend.step_loops import Factors, Run

__all__ = ["carry_back", "carry_kept", "carry_within", "roll"]


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
                backend.views(places, dtype),
            ))  # fmt: skip
    products = list(_products(backend, circuit, run, kept))
    held = [(pop.state_slice.start + unit * pop.S, value) for q, units, values in circuit.held()
            for pop in [pops[q]] for unit, value in zip(units, values, strict=True)]  # fmt: skip
    held_at, held_value = np.array([k for k, _ in held], np.int64), np.array([v for _, v in held], dtype)
    fresh = circuit.initial_state(1) if end is not None else None
    arrays = {
        "starts": run.starts, "sent": run.sent, "states": run.states, "rates": run.rates, "noise": noise,
        "held_value": held_value if held else None, "fresh": fresh and fresh.s, "fresh_rate": fresh and fresh.rate,
        "work": np.empty(B * max((p.k for p in products), default=0), dtype),
    }  # fmt: skip
    arrays = {name: array for name, array in arrays.items() if array is not None}
    end = None if end is None else np.ascontiguousarray(end)
    arguments = RunArguments(
        T=T, B=B, n=n, N=circuit.rates, populations=len(pops), products=len(products), held=len(held),
        advance=several(Map, len(pops))(*advances), send=several(Map, len(pops))(*sends),
        product=several(Product, len(products))(*products), gemm=backend.gemm(dtype),
        held_at=address(held_at) if held else None, end=None if end is None else address(end),
        **{name: view.at for name, view in zip(arrays, backend.views(list(arrays.values()), dtype), strict=True)},
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
        sent = run.sent[..., pre.rate_slice] if synapses.line is None else _states(run.starts, pre)[synapses.line]
        for first, count, place in _runs(synapses.ports):
            W = circuit.weights[synapses.key][place : place + count].reshape(-1, pre.N)
            turned = np.ascontiguousarray(W.T)
            kept.append(turned)
            arriving, received, there = backend.views([sent, u[:, :, first], turned], u.dtype)
            yield Product(arriving, received, there.at, count * post.N, pre.N)


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
    moving = any(len(d) for d in slopes)
    first = circuit.state(run.starts[0]).D if moving else ()
    fresh = circuit.initial_state(1).D if moving and end is not None else ()
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


#: what a way back gives, as trials.c counts it
GIVE = {"sums": 0, "arriving": 1, "credit": 2}


def carry_back(backend: Any, ways: Any, errors: Any, going_on: Any, decay: float, part: str, give: str) -> Any:
    """`StepLoops.carry_back` in one call."""
    wiring, (A, C, slopes, weights) = ways.rows.wiring, ways.ways
    sweep = Sweeping(backend, wiring, errors.dtype)
    for pop, own, credit in zip(wiring.populations, A, C, strict=True):
        sweep.add(pop, zip(pop.a_keys, own, strict=True) if part != "between" else (),
                  zip(pop.c_keys, credit, strict=True) if part != "within" or give == "credit" else ())  # fmt: skip
    if part != "within":
        for synapses, (D, _), W in zip(wiring.synapses, slopes, weights, strict=True):
            if synapses.pre is not None:
                sweep.add_way(synapses, D, W)
    return sweep(errors, going_on, decay, give)


def carry_within(
    backend: Any, ways: Any, errors: Any, going_on: Any, decay: float, blocks: Sequence[Mapping[tuple[int, int], Any]],
    give: str,
) -> Any:  # fmt: skip
    """`StepLoops.carry_within` in one call."""
    wiring = ways.rows.wiring
    sweep = Sweeping(backend, wiring, errors.dtype)
    for pop, entries, credit in zip(wiring.populations, blocks, ways.ways[1], strict=True):
        sweep.add(pop, entries.items(), zip(pop.c_keys, credit, strict=True) if give == "credit" else ())
    return sweep(errors, going_on, decay, give)


def carry_kept(backend: Any, kept: Any, carry: Any, errors: Any, visited: range, part: str) -> Any:
    """`StepLoops.carry_kept` in one call."""
    circuit, K = kept.synthesiser.circuit, len(carry["number"])
    sweep = Sweeping(backend, circuit.wiring, errors.dtype)

    def entries(keys: Any, rows: Any) -> Any:
        return [(key, rows[:, j]) for j, key in enumerate(keys)]

    by_place = kept.slopes_by_group([rows.swapaxes(0, 1) for rows in carry["D"]])
    for pop, A, C in zip(circuit.populations, carry["A"], carry["C"], strict=True):
        sweep.add(pop, entries(pop.a_keys, A), entries(pop.c_keys, C) if part != "within" else ())
    if part != "within":
        for synapses, D, group in zip(circuit.synapses, by_place, kept.groups, strict=True):
            if synapses.pre is not None:
                sweep.add_way(synapses, D, carry["weights"][group])
    places = np.array([r % K for r in reversed(visited)], np.int64)
    return sweep(errors, ~carry["end"], kept.decay, "sums", places, carry["number"][places], len(visited))


class Sweeping:
    """The arguments of C's `carry_back`, put together."""

    def __init__(self, backend: Any, wiring: Any, dtype: Any) -> None:
        self.backend, self.wiring, self.dtype = backend, wiring, dtype
        self.own: list[tuple[Any, slice, slice]] = []
        self.ways: list[tuple[Any, Any, bool, slice]] = []
        #: factors of all terms, one after another, and of each where it comes from and goes to
        self.factors: list[np.ndarray] = []
        self.keys: list[tuple[int, int]] = []

    def add(self, pop: Any, own: Any, credit: Any) -> None:
        """A population, with its entries (k, l), A_kl and (k, p), C_kp."""
        self.own.append((pop, self._terms(own, pop.N), self._terms(credit, pop.N)))

    def add_way(self, synapses: Any, D: Mapping[int, Any], W: Any) -> None:
        """A group of synapses, with the slopes of what it sends, and (ports·N_post, N_pre) weights, one or several."""
        direct = len(D) == 1 and all(type(d) is int and d == 1 for d in D.values())
        terms = self._terms((((0, j), d) for j, d in D.items()), self.wiring.populations[synapses.pre].N)
        self.ways.append((synapses, np.ascontiguousarray(W, self.dtype), direct, terms))

    def _terms(self, entries: Any, N: int) -> slice:
        """Entries that are numbers, (N,) or (T, B, N) arrays, with their neurons side by side."""
        first = len(self.keys)
        for key, value in entries:
            self.keys.append(key)
            rows = np.asarray(value, self.dtype) if np.ndim(value) else np.full(N, value, self.dtype)
            self.factors.append(rows if rows.strides[-1] == rows.itemsize else np.ascontiguousarray(rows))
        return slice(first, len(self.keys))

    def __call__(
        self, errors: Any, going_on: Any, decay: float, give: str, places: Any = None, weights: Any = None,
        steps: int | None = None,
    ) -> Any:  # fmt: skip
        """Go back; `errors` are those of all steps, or of the last of `steps` alone."""
        errors, going_on = np.ascontiguousarray(errors), np.ascontiguousarray(going_on)
        T, (B, n), wiring, item = steps or len(errors), errors.shape[-2:], self.wiring, self.dtype.itemsize
        terms = several(Term, len(self.keys))()
        for term, key, view in zip(terms, self.keys, self.backend.views(self.factors, self.dtype), strict=True):
            term.source, term.to = key
            term.factor = view
        at, each = ctypes.addressof(terms), ctypes.sizeof(Term)
        out = np.empty((T, B, n) if give != "credit" else 0, self.dtype)
        credits = [np.empty((T * B if give == "credit" else B, pop.P, pop.N), self.dtype) for pop, _, _ in self.own]
        work = np.empty(B * (2 * n + max(pop.N for pop, _, _ in self.own)), self.dtype)
        W = [W for _, W, _, _ in self.ways]
        places_of = [view.at for view in self.backend.views([errors, out, work, *credits, *W], self.dtype)]
        received, from_W = places_of[3 : 3 + len(credits)], places_of[3 + len(credits) :]
        neurons = several(Neurons, len(self.own))(*[
            Neurons(
                pop.N, pop.S, pop.P, pop.state_slice.start, own.stop - own.start, credit.stop - credit.start,
                at + own.start * each, at + credit.start * each,
                places_of[2] + B * pop.state_slice.start * item, places_of[2] + B * (n + pop.state_slice.start) * item,
                credited, B * pop.P * pop.N if give == "credit" else 0,
            )
            for (pop, own, credit), credited in zip(self.own, received, strict=True)
        ])  # fmt: skip
        ways = [
            Way(
                synapses.post, synapses.pre, first, count * wiring.populations[synapses.post].N, W.shape[-1],
                D.stop - D.start, direct,
                place + row * wiring.populations[synapses.post].N * W.shape[-1] * item,
                W[0].size if W.ndim == 3 else 0, at + D.start * each,
            )
            for (synapses, W, direct, D), place in zip(self.ways, from_W, strict=True)
            for first, count, row in _runs(synapses.ports)
        ]  # fmt: skip
        arguments = Sweep(ctypes.c_float if self.dtype == np.float32 else ctypes.c_double)(
            T=T, B=B, n=n, populations=len(neurons), ways=len(ways), give=GIVE[give], neurons=neurons,
            way=several(Way, len(ways))(*ways), gemm=self.backend.gemm(self.dtype), errors=places_of[0],
            last_alone=steps is not None, going_on=address(going_on),
            place=None if places is None else address(places), weights=None if weights is None else address(weights),
            decay=decay, out=places_of[1], work=places_of[2] + 2 * B * n * item,
        )  # fmt: skip
        self.backend.loops(self.dtype).carry_back(ctypes.byref(arguments))
        return credits if give == "credit" else out
