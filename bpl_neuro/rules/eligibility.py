"""Eligibility traces on the circuit's own synapses, and the three rules that differ in what those decay with.

A synapse keeps one number per state variable of its target neuron, ε_t = K_t ε_{t−1} + ∂s_t/∂Ψ, with a block K of the
neuron's own Jacobian:

    e-prop   K = A_t: the neuron's own past
    SnAp-1   K = A_t and the neuron's synapse onto itself: the block diagonal of J_t
    RFLO     K = the diagonal of A_t: each state variable's own leak
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bpl_neuro.checks import instance, word
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules.base import Carry, Gradients, Rule, clear, options_text

__all__ = ["Block", "Eligibility", "EligibilityRule", "own_past", "own_past_and_self_synapse", "sweep_back"]

#: (transition, population) → entries K[k, l] of its neurons' blocks, (B, N) arrays or numbers
Block = Callable[[Transition, int], Mapping[tuple[int, int], Any]]


def own_past(transition: Transition, q: int) -> Mapping[tuple[int, int], Any]:
    """A_t."""
    return transition.A[q]


def own_leak(transition: Transition, q: int) -> Mapping[tuple[int, int], Any]:
    """The diagonal of A_t."""
    return {(k, j): a for (k, j), a in transition.A[q].items() if k == j}


def own_past_and_self_synapse(transition: Transition, q: int) -> Mapping[tuple[int, int], Any]:
    """A_t + Σ_p C_{t,p} W_p[i, i] D_{t−1}, neuron by neuron."""
    block = dict(transition.A[q])
    wiring = transition.wiring
    for synapses in wiring.synapses:
        if synapses.pre != q or synapses.post != q:
            continue
        slopes = wiring.slopes(synapses, transition.previous)
        for port, W in zip(synapses.ports, transition.weights[synapses.key], strict=True):
            onto_itself = wiring.xp.diagonal(W)
            for (k, p), c in transition.C[q].items():
                if p == port:
                    for j, d in slopes.items():
                        block[k, j] = block.get((k, j), 0) + c * onto_itself * d
    return block


class Eligibility:
    """Traces ε of a circuit's weights: (S, B, N_post, ports, N_pre) of each group, (S, B, N, P, 1) of the biases.

    Parameters
    ----------
    circuit : Circuit
    block : callable
        K.
    decay : float
        Multiplies K.
    """

    def __init__(self, circuit: Circuit, block: Block, decay: float = 1.0) -> None:
        self.circuit, self.block, self.decay = circuit, block, decay

    def init(self, trials: int) -> Carry:
        """ε = 0."""
        circuit, pops = self.circuit, self.circuit.populations
        shapes: dict[str, list[tuple[int, ...]]] = {
            "weights": [
                (pops[s.post].S, trials, pops[s.post].N, len(s.ports), circuit.layout[s.key][-1])
                for s in circuit.synapses
            ],
            "biases": [(pop.S, trials, pop.N, pop.P, 1) for pop in pops],
        }
        return {key: [circuit.xp.zeros(shape, circuit.dtype) for shape in blocks] for key, blocks in shapes.items()}

    def kept(self, trials: int) -> int:
        """Numbers in ε."""
        circuit, pops = self.circuit, self.circuit.populations
        weights = sum(pops[s.post].S * math.prod(circuit.layout[s.key]) for s in circuit.synapses)
        return trials * (weights + sum(pop.S * pop.P * pop.N for pop in pops))

    def advance(self, carry: Carry, transition: Transition, now: Any = None, late: Any = None) -> Any:
        """From ε_{t−1} to ε_t, in place; and Σ_B (now · ε_t + late · ε_{t−1}) for learning signals (B, n): (|Ψ|,)."""
        circuit, wiring = self.circuit, transition.wiring
        gradient = circuit.xp.zeros(circuit.layout.size, circuit.dtype)
        views = circuit.layout.views(gradient)
        signals = {"now": now, "late": late}
        signals = {key: _by_population(v, wiring) for key, v in signals.items() if v is not None and v.any()}
        blocks = []
        for q in range(len(wiring.populations)):
            block = self.block(transition, q)
            blocks.append({key: self.decay * a for key, a in block.items()} if self.decay != 1 else block)
        for synapses, e in zip(wiring.synapses, carry["weights"], strict=True):
            ports = {p: q for q, p in enumerate(synapses.ports)}
            G = {(k, ports[p]): c for (k, p), c in transition.C[synapses.post].items() if p in ports}
            errors = {key: parts[synapses.post] for key, parts in signals.items()}
            sent = wiring.sent(synapses, transition.previous, transition.x)
            circuit.backend.local_pass(e, blocks[synapses.post], G, sent, views[synapses.key], **errors)
        ones = circuit.xp.ones((len(transition.new.s), 1), circuit.dtype)
        for q, (pop, e) in enumerate(zip(wiring.populations, carry["biases"], strict=True)):
            errors = {key: parts[q] for key, parts in signals.items()}
            out = views[f"bias->{pop.name}"][..., None]
            circuit.backend.local_pass(e, blocks[q], transition.C[q], ones, out, **errors)
        return gradient if transition.mask is None else gradient * transition.mask

    def sum(self, carry: Carry, signal: Any) -> Any:
        """Σ_B signal · ε for a signal (B, n), also where there is no synapse; nothing moves: (|Ψ|,)."""
        circuit, wiring = self.circuit, self.circuit.wiring
        gradient = circuit.xp.zeros(circuit.layout.size, circuit.dtype)
        views, parts = circuit.layout.views(gradient), _by_population(signal, wiring)
        for synapses, e in zip(wiring.synapses, carry["weights"], strict=True):
            circuit.backend.trace_sum(e, parts[synapses.post], views[synapses.key])
        for q, (pop, e) in enumerate(zip(wiring.populations, carry["biases"], strict=True)):
            circuit.backend.trace_sum(e, parts[q], views[f"bias->{pop.name}"][..., None])
        return gradient

    def restart(self, carry: Carry, end: Any) -> Carry:
        """ε = 0 in the trials that end."""
        if end.any():
            for e in (*carry["weights"], *carry["biases"]):
                clear(self.circuit.xp, e, end, axis=1)
        return carry


def _by_population(signal: Any, wiring: Any) -> list[list[Any]]:
    """A flat (B, n) signal as one (B, N) view per state, of every population."""
    return [[signal[:, pop.state_slice][:, k :: pop.S] for k in range(pop.S)] for pop in wiring.populations]


def sweep_back(trajectory: Trajectory, signals: Sequence[Any], block: Block, decay: float = 1.0) -> Any:
    """Σ_t L_t ε_t with frozen parameters, without keeping ε: v_t = L_t + v_{t+1} K_{t+1}, Σ_t v_t ∂s_t/∂Ψ.

    Parameters
    ----------
    trajectory : Trajectory
    signals : (T, B, n) array, or sequence of (B, n) arrays
        L_t.
    block, decay
        K, and what multiplies it.
    """
    wiring, going_on = trajectory.rows.wiring, ~trajectory.end
    errors = signals if hasattr(signals, "ndim") else wiring.xp.stack(list(signals))
    blocks = _blocks(trajectory, block)
    credit = wiring.backend.carry_within(trajectory, errors, going_on, decay, blocks, give="credit")
    return trajectory.rows.gradient_from_inputs(credit)


def _blocks(trajectory: Trajectory, block: Block) -> list[dict[tuple[int, int], Any]]:
    """K of every population by step: made of all steps at once where their weights are the same."""
    xp, rows, (T, B) = trajectory.rows.wiring.xp, trajectory.rows, trajectory.end.shape
    populations = rows.wiring.populations
    if trajectory.moved is None:
        blocks = [block(rows, q) for q in range(len(populations))]
    else:
        steps = [[block(trajectory[t], q) for t in range(T)] for q in range(len(populations))]
        blocks = [
            {
                key: xp.concatenate([xp.broadcast_to(at[key], (B, pop.N)) for at in own])
                if getattr(a, "ndim", 0)
                else a
                for key, a in own[0].items()
            }
            for own, pop in zip(steps, populations, strict=True)
        ]
    return [
        {key: a.reshape(T, B, -1) if getattr(a, "ndim", 0) == 2 else a for key, a in entries.items()}
        for entries in blocks
    ]


class EligibilityRule(Rule):
    """dΨ = Σ_t c_t ε_t: the error of now meets what the synapse remembers.

    Parameters
    ----------
    circuit : Circuit
    trace : {"local", "sweep"}
        "local" keeps ε; "sweep" gives the same sums for frozen parameters by a sweep back over the trial.
    feedback : str or Feedback
        What the readout's errors go back through.
    """

    exact, local = False, True
    memory, time = "B·|Ψ|·S", "|Ψ|·S²"
    default_feedback = "exact"

    identified = {"trace": "deferred"}

    def __init__(self, circuit: Circuit, *, trace: str = "local", feedback: str | Feedback | None = None) -> None:
        self.circuit = instance("circuit", circuit, Circuit, "a Circuit")
        word("trace", trace, ("local", "sweep"))
        self.deferred = trace == "sweep"
        self.online = not self.deferred
        self.feedback = Feedback.of(self.default_feedback if feedback is None else feedback)
        self.eligibility = Eligibility(circuit, self.block)

    @staticmethod
    @abstractmethod
    def block(transition: Transition, q: int) -> Mapping[tuple[int, int], Any]:
        """K."""

    def kept(self, trials: int, steps: int) -> int:
        """ε; or every step, linearised, and its c."""
        if not self.deferred:
            return self.eligibility.kept(trials)
        return trials * steps * (self.circuit.numbers_per_step + self.circuit.n)

    def work(self, trials: int, steps: int) -> int:
        """The products over all steps at once, of the sweep."""
        return self.kept(trials, steps) if self.deferred else 0

    def init(self, trials: int, steps: int) -> Carry:
        """ε = 0."""
        return {} if self.deferred else self.eligibility.init(trials)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, dict[str, Any], Any]:
        """One step; see `Rule.step`."""
        gradient = None
        if not self.deferred:
            gradient = self.eligibility.advance(carry, transition, now=c)
            carry = self.eligibility.restart(carry, end)
        return carry, {"learning_signal": c}, gradient

    def finish(self, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
        """The sum over the trial, from the sweep."""
        return {"psi": sweep_back(trajectory, trajectory.c, self.block)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({options_text(self, trace='sweep' if self.deferred else 'local')})"
