"""The lazy trace: the last steps, linearised, in the place of e."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bpl_neuro.checks import positive_int
from bpl_neuro.circuit.synthesiser import Response, Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.circuit.wiring import Parts, State
from bpl_neuro.rules.base import Carry
from bpl_neuro.rules.traces.base import Trace, register

__all__ = ["KeptSteps", "LazyTrace"]


class KeptSteps(Trace):
    """The last steps, linearised, in a ring: what lazy traces have in common.

    The carry is a ring of K steps (of all steps of a trial without a window): ``held`` of them, the next at ``next``;
    A, C, D and what the synthesiser saw of each, its number in the ring of ``weights``, and where trials ended with it.
    """

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0, window: int | None = None) -> None:
        super().__init__(synthesiser, decay, gain)
        self.window = None if window is None else positive_int("window", window)
        self.exact, self.bounded = window is None, window is not None
        circuit = synthesiser.circuit
        slopes = circuit.initial_state(1).D
        #: which entries of D differ from trial to trial, and those that do not
        self._slopes = [[j for j, d in D.items() if getattr(d, "ndim", 0) == 2] for D in slopes]
        self._fixed = [{j: d for j, d in D.items() if getattr(d, "ndim", 0) < 2} for D in slopes]
        self._fixed_slopes = self._by_group(self._fixed)
        self._recurrent = [synapses for synapses in circuit.synapses if synapses.pre is not None]
        #: of every group of synapses, its place among those
        self.groups = [
            None if synapses.pre is None else self._recurrent.index(synapses) for synapses in circuit.synapses
        ]
        shapes = [circuit.layout[synapses.key] for synapses in self._recurrent]
        self._shapes = [(ports * post, pre) for ports, post, pre in shapes]

    def options(self) -> dict[str, Any]:
        return {} if self.window is None else {"window": self.window}

    @property
    def numbers_per_step(self) -> int:
        """Numbers in the factors of one step of one trial."""
        pops = zip(self.synthesiser.circuit.populations, self._slopes, strict=True)
        return sum(pop.N * (len(pop.a_keys) + len(pop.c_keys) + len(moving)) for pop, moving in pops)

    def cost(self, steps: int) -> float:
        s = self.synthesiser
        return steps * min(steps / 2, self.window or steps) * (s.circuit.recurrent_size + s.layout.size)

    def init(self, trials: int, steps: int) -> Carry:
        circuit, B, K = self.synthesiser.circuit, trials, self.window or steps
        empty, dtype = circuit.xp.empty, circuit.dtype
        carry: Carry = {
            "A": [empty((K, len(pop.a_keys), B, pop.N), dtype) for pop in circuit.populations],
            "C": [empty((K, len(pop.c_keys), B, pop.N), dtype) for pop in circuit.populations],
            "D": [
                empty((K, len(moving), B, pop.N), dtype)
                for pop, moving in zip(circuit.populations, self._slopes, strict=True)
            ],
            "weights": [empty((K, *shape), dtype) for shape in self._shapes],
            "end": circuit.xp.zeros((K, B), bool),
            # on the host: known without asking the device
            "number": np.zeros(K, np.int64), "ended": np.zeros(K, bool),
            "held": np.int64(0), "next": np.int64(0),
        }  # fmt: skip
        if self.window is not None:
            carry |= {"cut": circuit.xp.zeros((), dtype), "goes_on": circuit.xp.zeros(B, bool)}
        return carry

    def visited(self, carry: Carry) -> tuple[range, int]:
        """Places in the ring to go back over (modulo K, the latest first), and the lowest of them."""
        held, following = int(carry["held"]), int(carry["next"])
        places = range(following - 1, following - 1 - (held if self.decay else min(held, 1)), -1)
        return places, 0 if self.decay else places[0] % len(carry["number"])

    def going_on(self, carry: Carry, k: int, parts: Parts) -> Parts:
        """Row vectors at a kept step, but for trials that ended with it."""
        if not carry["ended"][k]:
            return parts
        going_on = ~carry["end"][k][:, None]
        return [[u * going_on for u in states] for states in parts]

    def one_back(self, carry: Carry, k: int, parts: Parts, part: str = "both") -> Parts:
        """γλ u J of one of the kept steps."""
        number = int(carry["number"][k])
        weights = [None if group is None else carry["weights"][group][number] for group in self.groups]
        A, C = ([rows[k] for rows in carry[name]] for name in ("A", "C"))
        wiring = self.synthesiser.circuit.wiring
        parts = wiring.back(parts, A, C, self._slopes_at(carry, k), weights, part)
        if self.decay != 1:
            for states in parts:
                for u in states:
                    u *= self.decay
        return parts

    def _slopes_at(self, carry: Carry, k: int) -> list[Any]:
        """D of each group of synapses at one of the kept steps."""
        if not any(self._slopes):
            return self._fixed_slopes
        return self.slopes_by_group([rows[k] for rows in carry["D"]])

    def slopes_by_group(self, moving: Sequence[Any]) -> list[Any]:
        """D of each group of synapses, from the entries (places, …) of each population that differ between trials."""
        D = [
            fixed | dict(zip(names, rows, strict=True))
            for fixed, names, rows in zip(self._fixed, self._slopes, moving, strict=True)
        ]
        return self._by_group(D)

    def _by_group(self, D: list[Any]) -> list[Any]:
        wiring, before = self.synthesiser.circuit.wiring, State(None, None, tuple(D))
        return [wiring.slopes(synapses, before) for synapses in wiring.synapses]

    def measure(self, carry: Carry, oldest: Any, delta: Any) -> None:
        """Note what would have gone on from the oldest step to those that are cut off: the largest share is kept.

        Where there was no step to cut yet, there is nothing to note.
        """
        if not self.decay or self.window is None or int(carry["held"]) < len(carry["number"]):
            return
        xp, parts = self.synthesiser.circuit.xp, self.synthesiser.circuit.wiring.split(oldest)
        left = sum((u * u).sum(axis=1) for states in self.one_back(carry, int(carry["next"]), parts) for u in states)
        size = (delta * delta).sum(axis=1)
        share = xp.where(carry["goes_on"] & (size > 0), left / xp.where(size > 0, size, 1), 0)
        carry["cut"][...] = xp.maximum(carry["cut"], xp.sqrt(share.max()))

    def keep(self, carry: Carry, transition: Transition, seen: Mapping[str, Any]) -> Carry:
        """Write a step, and what the synthesiser saw of it, into the ring."""
        k, held, K = int(carry["next"]), int(carry["held"]), len(carry["number"])
        if held == K and self.window is not None:  # the oldest falls out, and its trial may still go on
            carry["goes_on"] = ~carry["end"][k]
        self._keep_weights(carry, transition, k, held)
        for q, moving in enumerate(self._slopes):
            _write(carry["A"][q][k], transition.A[q].values())
            _write(carry["C"][q][k], transition.C[q].values())
            _write(carry["D"][q][k], [transition.previous.D[q][j] for j in moving])
        for name, value in seen.items():
            carry[name][k] = value
        carry["ended"][k] = False
        return carry | {"held": np.int64(min(held + 1, K)), "next": np.int64((k + 1) % K)}

    def _keep_weights(self, carry: Carry, transition: Transition, k: int, held: int) -> None:
        """A copy of the recurrent weights, if they are not those of the step before."""
        number, last = carry["number"], (k - 1) % len(carry["number"])
        now = [transition.weights[synapses.key].reshape(shape) for synapses, shape in zip(
            self._recurrent, self._shapes, strict=True
        )]  # fmt: skip
        kept = carry["weights"]
        if held and all((rows[number[last]] == W).all() for rows, W in zip(kept, now, strict=True)):
            number[k] = number[last]
            return
        number[k] = (number[last] + 1) % len(number) if held else 0
        for rows, W in zip(kept, now, strict=True):
            rows[number[k]] = W

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.all():
            nothing = {} if self.window is None else {"goes_on": self.synthesiser.circuit.xp.zeros_like(end)}
            return carry | {"held": np.int64(0), "next": np.int64(0), **nothing}
        last = (int(carry["next"]) - 1) % len(carry["ended"])
        if end.any():
            carry["end"][last], carry["ended"][last] = end, True
        else:
            carry["end"][last] = False
        return carry

    def report(self, carry: Carry) -> dict[str, float]:
        return {} if self.window is None else {"window_error": float(carry["cut"])}


@register
class LazyTrace(KeptSteps):
    """The last steps, linearised, instead of e: when δ comes, it is carried back, u ← γλ u J, and Σ u ∂g/∂θ collected.

    The numbers of the full trace to rounding, also where Ψ and θ move at every step: each step's linearisation keeps
    the weights it was made with. A `window` of K steps cuts what is older. How much that was is measured and reported:
    the largest ‖δ (γλJ)…(γλJ)‖ / ‖δ‖ over trials and steps, with the K factors of the steps in the window, which is at
    most (γλ‖J‖)^K.
    """

    name = "lazy"
    memory, time = "B·K·(n + factors), and K·P·N² where Ψ moves", "K·(P·N² + |θ|)"

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0, window: int | None = None) -> None:
        super().__init__(synthesiser, decay, gain, window)
        # A linear unit's ∂g/∂θ is z alone: then all steps are summed in one product at the end.
        self.plain = synthesiser.linear and synthesiser.own_units and synthesiser.hidden is None
        circuit, theta = synthesiser.circuit, synthesiser.initial_theta()
        self._unit_slope = synthesiser(circuit.xp.zeros((1, synthesiser.k), circuit.dtype), theta).slope

    def kept(self, trials: int, steps: int) -> int:
        s = self.synthesiser
        seen = s.m + (0 if self.plain else s.d) + (s.k + s.hidden[0] if s.hidden else 0)
        back = s.n * s.hidden[0] if s.hidden else 0
        return (self.window or steps) * (trials * (self.numbers_per_step + seen) + s.circuit.recurrent_size + back)

    def work(self, trials: int, steps: int) -> int:
        return min(steps, self.window or steps) * trials * (2 * self.synthesiser.n + self.synthesiser.m)

    def init(self, trials: int, steps: int) -> Carry:
        s, K, B = self.synthesiser, self.window or steps, trials
        shapes: dict[str, tuple[int, ...]] = {"z": (K, B, s.m)}
        if not self.plain:
            shapes["slope"] = (K, B, s.d)
        if s.hidden:
            shapes |= {"seen": (K, B, s.k), "hidden_slope": (K, B, s.hidden[0]), "back": (K, s.n, s.hidden[0])}
        empty, dtype = s.circuit.xp.empty, s.circuit.dtype
        return super().init(trials, steps) | {name: empty(shape, dtype) for name, shape in shapes.items()}

    def collect(self, carry: Carry, delta: Any) -> Any:
        s, wiring = self.synthesiser, self.synthesiser.circuit.wiring
        xp, K = s.circuit.xp, len(carry["number"])
        if not carry["held"]:
            return xp.zeros(s.layout.size, s.circuit.dtype)
        visited, lowest = self.visited(carry)
        errors = wiring.backend.carry_kept(self, carry, delta, visited) if self.decay else delta[None]
        self.measure(carry, errors[visited[-1] % K - lowest], delta)
        if not self.plain:
            return sum(s.gradient(errors[r % K - lowest], self._response(carry, r % K), self.gain) for r in visited)
        z = carry["z"][lowest : lowest + len(visited)].reshape(-1, s.m)
        return ((z.T @ errors.reshape(len(z), -1)).T * (self.gain * self._unit_slope)).reshape(-1)

    def _response(self, carry: Carry, k: int) -> Response:
        """What the synthesiser answered at one of the kept steps."""
        parts = {name: carry[name][k] for name in ("hidden_slope", "back") if self.synthesiser.hidden}
        seen = carry["seen"][k] if self.synthesiser.hidden else carry["z"][k]
        return Response(None, carry["slope"][k], carry["z"][k], seen, **parts)

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        seen = {"z": response.z}
        if not self.plain:
            seen["slope"] = response.slope
        if self.synthesiser.hidden:
            seen |= {name: getattr(response, name) for name in ("seen", "hidden_slope", "back")}
        return self.keep(carry, transition, seen)


def _write(rows: Any, values: Any) -> None:
    """Factors, numbers among them, into the rows of an array."""
    for row, value in zip(rows, values, strict=True):
        row[...] = value
