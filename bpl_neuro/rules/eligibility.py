"""Eligibility traces on the circuit's own synapses, and the three rules that differ in what those decay with.

A synapse keeps one number per state variable of its target neuron, ε_t = K_t ε_{t−1} + ∂s_t/∂Ψ, with a block K of the
neuron's own Jacobian:

    e-prop   K = A_t: the neuron's own past
    SnAp-1   K = A_t and the neuron's synapse onto itself: the block diagonal of J_t
    RFLO     K = the diagonal of A_t: each state variable's own leak
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from bpl_neuro.checks import instance
from bpl_neuro.circuit import Circuit
from bpl_neuro.errors import ValidationError
from bpl_neuro.feedback import Feedback
from bpl_neuro.rules.base import Carry, Gradients, Rule, remember, said
from bpl_neuro.transition import Transition, column, parameter_gradient

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
    """Traces ε of a circuit's weights: per group of synapses (B, S, ports, N_post, N_pre), per population (B, S, P, N).

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

    def init(self, batch: int) -> Carry:
        """ε = 0."""
        circuit, pops = self.circuit, self.circuit.populations
        shapes: dict[str, list[tuple[int, ...]]] = {
            "weights": [(pops[s.post].S, *circuit.layout[s.key]) for s in circuit.synapses],
            "biases": [(pop.S, pop.P, pop.N) for pop in pops],
        }
        return {key: [circuit.xp.zeros((batch, *shape), circuit.dtype) for shape in own] for key, own in shapes.items()}

    def step(self, carry: Carry, transition: Transition) -> Carry:
        """ε_t."""
        wiring = transition.wiring
        blocks = [self.block(transition, q) for q in range(len(wiring.populations))]
        weights = []
        for synapses, e in zip(wiring.synapses, carry["weights"], strict=True):
            sent = wiring.sent(synapses, transition.previous, transition.x)[:, None, :]
            new = self._decayed(e, blocks[synapses.post], 2)
            for (k, p), c in transition.C[synapses.post].items():
                if p in synapses.ports:
                    new[:, k, synapses.ports.index(p)] += column(c) * sent
            weights.append(new)
        biases = []
        for q, e in enumerate(carry["biases"]):
            new = self._decayed(e, blocks[q], 1)
            for (k, p), c in transition.C[q].items():
                new[:, k, p] += c
            biases.append(new)
        return {"weights": weights, "biases": biases}

    def gradient(self, carry: Carry, signal: Any) -> Any:
        """Σ_B L ε for a learning signal L (B, n): (|Ψ|,)."""
        circuit, xp = self.circuit, self.circuit.xp
        flat = xp.zeros(circuit.layout.size, circuit.dtype)
        if not signal.any():
            return flat
        views = circuit.layout.views(flat)
        own = [signal[:, pop.state_slice].reshape(-1, pop.N, pop.S).transpose(0, 2, 1) for pop in circuit.populations]
        for synapses, e in zip(circuit.synapses, carry["weights"], strict=True):
            views[synapses.key][...] = xp.einsum("bki,bkpij->pij", own[synapses.post], e)
        for pop, L, e in zip(circuit.populations, own, carry["biases"], strict=True):
            views[f"bias->{pop.name}"][...] = xp.einsum("bki,bkpi->pi", L, e)
        return flat if circuit.mask is None else flat * circuit.mask

    def restart(self, carry: Carry, end: Any) -> Carry:
        """ε = 0 in the trials that end."""
        if end.any():
            for e in (*carry["weights"], *carry["biases"]):
                e[end] = 0
        return carry

    def _decayed(self, e: Any, block: Mapping[tuple[int, int], Any], axes: int) -> Any:
        """K ε; `axes` follow the neuron's."""
        new = self.circuit.xp.zeros_like(e)
        for (k, j), a in block.items():
            factor = self.decay * a
            if getattr(a, "ndim", 0):  # (B, N) or (N,) against (B, ports, N, …)
                factor = factor[..., None, :] if axes == 1 else factor[..., None, :, None]
            new[:, k] += factor * e[:, j]
        return new


def sweep_back(
    transitions: list[Transition], signals: list[Any], end: list[Any], block: Block, decay: float = 1.0
) -> Any:
    """Σ_t L_t ε_t with frozen parameters, without keeping ε: v_t = L_t + v_{t+1} K_{t+1}, Σ_t v_t ∂s_t/∂Ψ."""
    v = [signals[-1]]
    for t in reversed(range(len(transitions) - 1)):
        ahead, later = transitions[t + 1], v[-1]
        arriving = ahead.wiring.xp.zeros_like(later)
        for q, pop in enumerate(ahead.wiring.populations):
            own = later[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            out = arriving[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            for (k, j), a in block(ahead, q).items():
                out[..., j] += own[..., k] * a
        v.append(signals[t] + ~end[t][:, None] * (decay * arriving))
    return parameter_gradient(transitions, v[::-1])


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

    def __init__(self, circuit: Circuit, *, trace: str = "local", feedback: str | Feedback | None = None) -> None:
        self.circuit = instance("circuit", circuit, Circuit, "a Circuit")
        if trace not in ("local", "sweep"):
            raise ValidationError(f"`trace` must be local or sweep, got {trace!r}")
        self.deferred = trace == "sweep"
        self.online = not self.deferred
        self.schedules = ("trial",) if self.deferred else ("step", "trial")
        self.feedback = Feedback.of(self.default_feedback if feedback is None else feedback)
        self.eligibility = Eligibility(circuit, self.block)

    @staticmethod
    @abstractmethod
    def block(transition: Transition, q: int) -> Mapping[tuple[int, int], Any]:
        """K."""

    def init(self, batch: int) -> Carry:
        """ε = 0."""
        return {"transitions": [], "c": [], "end": []} if self.deferred else self.eligibility.init(batch)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any, learn: Callable[[Any], Any]
    ) -> tuple[Carry, dict[str, Any], Any]:
        """One step; see `Rule.step`."""
        if self.deferred:
            remember(carry, transitions=transition, c=c, end=end)
            return carry, {"learning_signal": c}, None
        carry = self.eligibility.step(carry, transition)
        gradient = self.eligibility.gradient(carry, c)
        return self.eligibility.restart(carry, end), {"learning_signal": c}, gradient

    def finish(self, carry: Carry, theta: Any) -> Gradients:
        """The sum over the trial, from the sweep."""
        if not self.deferred or not carry["transitions"]:
            return {}
        return {"psi": sweep_back(carry["transitions"], carry["c"], carry["end"], self.block)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({said(self, trace='sweep' if self.deferred else 'local')})"
