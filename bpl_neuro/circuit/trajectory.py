"""The steps of a batch, stacked: what a rule that looks back over whole trials reads.

Parameters are frozen while a trajectory is made, so its T·B rows (step after step, trial after trial) are linearised
together, and a sum over them is one product. `trajectory[t]` is step t as a `Transition`: a view of its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpl_neuro.backend.step_loops import Run
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.circuit.wiring import Parts, State

__all__ = ["Trajectory", "stack", "unroll"]


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """Stacked steps, with the losses' gradients and the ends of trials.

    Attributes
    ----------
    rows : Transition
        All steps of all trials, (T·B, …) in the place of (B, …).
    c : (T, B, n) array
        Immediate loss gradients.
    end : (T, B) array of bool
    moved : tuple of mappings, or None
        The weights of each step, where they moved in between; None: all have those of the rows.
    """

    rows: Transition
    c: Any
    end: Any
    moved: tuple[Mapping[str, Any], ...] | None = None

    def __repr__(self) -> str:
        T, B = self.end.shape
        return f"<Trajectory of {T} steps of {B} trials, {self.rows.wiring.n} states>"

    def __len__(self) -> int:
        return len(self.end)

    def __getitem__(self, t: int) -> Transition:
        T, B = self.end.shape
        if not 0 <= t < T:
            raise IndexError(t)
        part, rows = slice(t * B, (t + 1) * B), self.rows
        return Transition(
            _state(rows.previous, part), _state(rows.new, part), rows.x[part], tuple(u[part] for u in rows.u),
            tuple(_some(factors, part) for factors in rows.A), tuple(_some(factors, part) for factors in rows.C),
            rows.weights if self.moved is None else self.moved[t], rows.wiring, rows.mask,
        )  # fmt: skip

    def after(self, t: int) -> State:
        """The states after step t."""
        B = self.end.shape[1]
        return _state(self.rows.new, slice(t * B, (t + 1) * B))

    def back(self, t: int, parts: Parts, part: str = "both") -> Parts:
        """`Transition.back` of step t."""
        A, C, slopes, weights = self.ways
        if self.moved is not None:
            weights = self.rows.wiring.recurrent(self.moved[t])
        return self.rows.wiring.back(
            parts, [_at(t, factors) for factors in A], [_at(t, factors) for factors in C],
            [dict(zip(D, _at(t, D.values()), strict=True)) if moving else D for D, moving in slopes], weights, part,
        )  # fmt: skip

    @functools.cached_property
    def ways(self) -> tuple[list[list[Any]], list[list[Any]], list[tuple[dict[int, Any], bool]], list[Any]]:
        """What `back` needs (A, C, D, weights), arranged step by step: arrays (T, B, N) in the place of (T·B, N)."""
        rows, wiring = self.rows, self.rows.wiring

        def by_step(factors: Mapping[Any, Any]) -> list[Any]:
            return [
                value.reshape(*self.end.shape, -1) if getattr(value, "ndim", 0) == 2 else value
                for value in factors.values()
            ]

        slopes = []
        for synapses in wiring.synapses:
            D = wiring.slopes(synapses, rows.previous)
            D_by_step = dict(zip(D, by_step(D), strict=True))
            slopes.append((D_by_step, any(getattr(d, "ndim", 0) == 3 for d in D_by_step.values())))
        A, C = ([by_step(factors) for factors in entries] for entries in (rows.A, rows.C))
        return A, C, slopes, wiring.recurrent(rows.weights)

    def carry_back(
        self, errors: Any, going_on: Any, decay: float = 1.0, part: str = "both", *, give: str = "sums"
    ) -> Any:
        """Errors (T, B, n) back through all steps: v_t = errors_t + decay · going_on_t · v_{t+1} J_{t+1}.

        Gives v; or "arriving", going_on_t · v_{t+1} J_{t+1}, 0 at the last step; or "credit", v C of all rows.
        """
        return self.rows.wiring.backend.carry_back(self, errors, going_on, decay, part, give=give)

    def vjp(self, v: Any, part: str = "both") -> Any:
        """`Transition.vjp` of every step: v_t J_t of v (T, B, n)."""
        wiring = self.rows.wiring
        if self.moved is None:
            return self.rows.vjp(v.reshape(-1, wiring.n), part).reshape(v.shape)
        return wiring.xp.stack([self[t].vjp(v[t], part) for t in range(len(self))])

    def back_from_inputs(self, received: Sequence[Any]) -> Any:
        """`Transition.back_from_inputs` of every step, of rows (T·B, P, N): (T, B, n)."""
        (T, B), wiring = self.end.shape, self.rows.wiring
        if self.moved is None:
            return self.rows.back_from_inputs(received).reshape(T, B, -1)
        rows = [slice(t * B, (t + 1) * B) for t in range(T)]
        return wiring.xp.stack([self[t].back_from_inputs([w[rows[t]] for w in received]) for t in range(T)])

    def parameter_gradient(self, credits: Any) -> Any:
        """Σ_t Σ_B C_t · ∂s_t/∂Ψ of credits (T, B, n): one matrix product for each group of synapses."""
        return self.rows.parameter_gradient(credits.reshape(-1, self.rows.wiring.n))

    def back_through(self, transition: Any) -> Trajectory:
        """The same steps with other weights to go back through: what `transition` makes of the rows."""
        moved = self.moved and tuple(transition(replace(self.rows, weights=own)).weights for own in self.moved)
        return replace(self, rows=transition(self.rows), moved=moved)


def unroll(
    circuit: Circuit,
    state: State,
    x: Any,
    end: Any,
    *,
    rng: np.random.Generator | None = None,
    linearise: bool = True,
) -> Trajectory:
    """Run trials side by side with the circuit's weights; c is 0 until somebody says what the losses are.

    Parameters
    ----------
    circuit : Circuit
    state : State
        Before the first step.
    x : (T, B, K) array
    end : (T, B) array of bool
        Where trials end: the next step starts from the initial state.
    rng : Generator, optional
        Of the model's noise; without it there is none.
    linearise : bool
        False leaves A, C and D empty.
    """
    xp, dtype, (T, B) = circuit.xp, circuit.dtype, x.shape[:2]
    states, rates = (xp.empty((T + 1, B, size), dtype) for size in (circuit.n, circuit.rates))
    # Where no trial ends on the way, a step starts where the one before stopped: then both are views of one array.
    restarts = bool(end[:-1].any())
    starts = xp.empty((T, B, circuit.n), dtype) if restarts else states[:-1]
    sent = xp.empty((T, B, circuit.rates), dtype) if restarts else rates[:-1]
    starts[0], sent[0] = state.s, state.rate
    run = Run(starts, sent, states[1:], rates[1:], circuit.drive(x))
    factors = circuit.backend.roll(circuit, run, x, end=end if restarts else None, rng=rng, linearise=linearise)
    flat = [part.reshape(T * B, -1) for part in (starts, sent, states[1:], rates[1:], x)]
    received = tuple(part.reshape(T * B, *part.shape[2:]) for part in run.u)
    before, after = State(flat[0], flat[1], factors.before), State(flat[2], flat[3], factors.after)
    rows = Transition(
        before, after, flat[4], received, tuple(factors.A), tuple(factors.C), circuit.weights, circuit.wiring,
        circuit.mask,
    )  # fmt: skip
    return Trajectory(rows, xp.zeros((T, B, circuit.n), dtype), end)


def stack(transitions: Sequence[Transition], c: Any, end: Any) -> Trajectory:
    """A trajectory of steps that were taken one by one, each with the weights of its own."""
    first, xp = transitions[0], transitions[0].wiring.xp

    def state(states: Sequence[State]) -> State:
        s, rate = (xp.concatenate([getattr(part, name) for part in states]) for name in ("s", "rate"))
        return State(s, rate, tuple(_join(xp, [part.D[q] for part in states]) for q in range(len(states[0].D))))

    q = range(len(first.u))
    return Trajectory(
        Transition(
            state([t.previous for t in transitions]), state([t.new for t in transitions]),
            xp.concatenate([t.x for t in transitions]), tuple(xp.concatenate([t.u[k] for t in transitions]) for k in q),
            tuple(_join(xp, [t.A[k] for t in transitions]) for k in q),
            tuple(_join(xp, [t.C[k] for t in transitions]) for k in q), first.weights, first.wiring, first.mask,
        ),
        xp.stack(list(c)), xp.stack(list(end)),
        None if all(t.weights is first.weights for t in transitions) else tuple(t.weights for t in transitions),
    )  # fmt: skip


def _at(t: int, factors: Iterable[Any]) -> tuple[Any, ...]:
    """Factors of step t, of arrays (T, B, N); others are the same at all steps."""
    return tuple([value[t] if getattr(value, "ndim", 0) == 3 else value for value in factors])


def _state(state: State, part: slice) -> State:
    return State(state.s[part], state.rate[part], tuple(_some(slopes, part) for slopes in state.D))


def _some(factors: Mapping[Any, Any], part: slice) -> dict[Any, Any]:
    """The rows of factors that differ from row to row; those that do not stay."""
    return {key: value[part] if getattr(value, "ndim", 0) == 2 else value for key, value in factors.items()}


def _join(xp: Any, factors: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Factors of several steps, one below the other; what is no array of the trials is the same at all steps."""
    return {
        key: xp.concatenate([step[key] for step in factors]) if getattr(value, "ndim", 0) == 2 else value
        for key, value in factors[0].items()
    }
