"""Loops over the steps of a trial, forth and back: what a backend does that has no loop of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Factors", "Run", "StepLoops"]


class Run(NamedTuple):
    """The arrays of a run, with its drive; the first of `starts` and `sent` is given, the rest is written.

    Attributes
    ----------
    starts, sent : (T, B, n), (T, B, N) arrays
        States and rates before each step. Where no trial ends on the way they may be views of the other two.
    states, rates : (T, B, n), (T, B, N) arrays
        After it.
    u : per population, a (T, B, P, N) array
        What bias and input add to the summed inputs; becomes the summed inputs.
    """

    starts: Any
    sent: Any
    states: Any
    rates: Any
    u: Sequence[Any]


class Factors(NamedTuple):
    """The linearisation of T·B rows: D of the states before and after each step, A and C; see `Transition`."""

    before: tuple[Mapping[int, Any], ...] = ()
    after: tuple[Mapping[int, Any], ...] = ()
    A: Sequence[Mapping[tuple[int, int], Any]] = ()
    C: Sequence[Mapping[tuple[int, int], Any]] = ()


class StepLoops:
    """One call of the array library after another, step by step."""

    xp: Any

    def roll(
        self,
        circuit: Any,
        run: Run,
        x: Any,
        *,
        end: Any = None,
        rng: np.random.Generator | None = None,
        linearise: bool = True,
    ) -> Factors:
        """Take all steps of a run: its arrays are written, and its factors returned.

            u_t += Σ W sent_{t−1},   s_t = F(s_{t−1}, u_t) + noise, some held,   r_t = R(s_t)

        Parameters
        ----------
        circuit : Dynamics
        run : Run
        x : (T, B, K) array
        end : (T, B) array of bool, optional
            Where trials end on the way: the next step starts from the initial state.
        rng : Generator, optional
            Of the model's noise.
        linearise : bool
            False returns no factors.
        """
        (T, B), xp = run.states.shape[:2], self.xp
        fresh = circuit.initial_state(1)
        for t in range(T):
            now, noise = [drive[t] for drive in run.u], circuit.draw_noise(rng, B)
            circuit.advance(run.starts[t], run.sent[t], x[t], now, run.states[t], noise)
            circuit.send(run.states[t], run.rates[t])
            if end is not None and t + 1 < T:
                over = end[t][:, None]
                run.starts[t + 1] = xp.where(over, fresh.s, run.states[t])
                run.sent[t + 1] = xp.where(over, fresh.rate, run.rates[t])
        if not linearise:
            return Factors()
        before, after = (part.reshape(T * B, -1) for part in (run.starts, run.states))
        received = [u.reshape(T * B, *u.shape[2:]) for u in run.u]
        return Factors(circuit.state(before).D, circuit.state(after).D, *circuit.factors(before, received))

    def carry_back(
        self, ways: Any, errors: Any, going_on: Any, decay: float = 1.0, part: str = "both", *, give: str = "sums"
    ) -> Any:
        """Errors back through the steps of whole trials.

            arriving_t = going_on_t · (v_{t+1} J_{t+1}),   v_t = errors_t + decay · arriving_t

        with nothing arriving at the last step.

        Parameters
        ----------
        ways : Trajectory
            The steps to go back through.
        errors : (T, B, n) array
        going_on : (T, B) array of bool
        decay : float
        part : {"both", "within", "between"}
            J, blockdiag(A) alone, or O alone.
        give : {"sums", "arriving", "credit"}
            v, what arrives, or the credit v_t C_t of the summed inputs.

        Returns
        -------
        (T, B, n) array; or, for "credit", a (T·B, P, N) array of each population
        """
        wiring, T = ways.rows.wiring, len(errors)
        whole = wiring.backend.to_host(going_on.all(axis=1))
        ahead = wiring.split(errors)  # taken apart, as the steps want it on the way back
        out = [[self.xp.empty_like(v) for v in states] for states in ahead]
        v = [[own[T - 1] for own in states] for states in ahead]
        _write(out, T - 1, v if give != "arriving" else [[0] * len(states) for states in v])
        for t in reversed(range(T - 1)):
            arriving = ways.back(t + 1, v, part)
            if not whole[t]:
                arriving = [[G * going_on[t][:, None] for G in states] for states in arriving]
            v = [[own[t] for own in states] for states in ahead]
            if decay:
                v = [
                    [a + (G if decay == 1 else decay * G) for a, G in zip(*pair, strict=True)]
                    for pair in zip(v, arriving, strict=True)
                ]
            _write(out, t, arriving if give == "arriving" else v)
        if give == "credit":
            return ways.rows.credit_of([[v.reshape(-1, v.shape[-1]) for v in states] for states in out])
        return wiring.join(out)

    def carry_within(
        self,
        ways: Any,
        errors: Any,
        going_on: Any,
        decay: float,
        blocks: Sequence[Mapping[tuple[int, int], Any]],
        *,
        give: str = "sums",
    ) -> Any:
        """`carry_back` through a block K of each neuron's own: v_t = errors_t + decay · going_on_t · v_{t+1} K_{t+1}.

        Parameters
        ----------
        ways : Trajectory
        errors : (T, B, n) array
        going_on : (T, B) array of bool
        decay : float
        blocks : per population, entries K[k, l]
            (T, B, N) or (N,) arrays, or numbers.
        give : {"sums", "credit"}
        """
        wiring, v = ways.rows.wiring, self.xp.empty_like(errors)
        v[-1] = errors[-1]
        for t in reversed(range(len(errors) - 1)):
            later = v[t + 1]
            arriving = self.xp.zeros_like(later)
            for pop, entries in zip(wiring.populations, blocks, strict=True):
                sent = later[:, pop.state_slice].reshape(-1, pop.N, pop.S)
                out = arriving[:, pop.state_slice].reshape(-1, pop.N, pop.S)
                for (k, j), a in entries.items():
                    out[..., j] += sent[..., k] * (a[t + 1] if getattr(a, "ndim", 0) == 3 else a)
            v[t] = errors[t] + going_on[t][:, None] * (decay * arriving)
        return ways.rows.input_credit(v.reshape(-1, wiring.n)) if give == "credit" else v

    def carry_kept(self, kept: Any, carry: Any, errors: Any, visited: range, part: str = "both") -> Any:
        """Errors of the latest kept step back through those before it.

        Parameters
        ----------
        kept : KeptSteps
        carry : Carry
            Its ring of K steps.
        errors : (B, n) array
        visited : range
            Places in the ring, modulo K, the latest first; all places from 0 on.
        part : {"both", "within"}

        Returns
        -------
        (places, B, n) array
            γλ-discounted errors at each place.
        """
        wiring, K = kept.synthesiser.circuit.wiring, len(carry["number"])
        parts, found = wiring.split(errors), self.xp.empty((len(visited), *errors.shape), errors.dtype)
        found[visited[0] % K] = errors
        for r in visited[1:]:
            parts = kept.one_back(carry, (r + 1) % K, kept.going_on(carry, r % K, parts), part)
            found[r % K] = wiring.join(parts)
        return found


def _write(out: Any, t: int, parts: Any) -> None:
    for kept, states in zip(out, parts, strict=True):
        for rows, v in zip(kept, states, strict=True):
            rows[t] = v
