"""Forms of the trace that a synapse can keep to itself: none is exact, all are local."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from bpl_neuro.codegen import array_function
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry
from bpl_neuro.rules.trace import Trace, cleared
from bpl_neuro.synthesiser import Response, Synthesiser, outer
from bpl_neuro.transition import Transition

__all__ = ["LeakTrace", "LocalTrace", "ModelTrace"]


class OwnTrace(Trace):
    """A trace that each synapse can keep to itself: what the three local forms share.

    They differ in what becomes of an output unit's synapses. Those of a plastic expansion layer have no state of the
    circuit of their own; in every local form the leak, e[h, k] ← γλ e[h, k] + q'_h x_k, meets the error that reaches
    its unit through the output weights, Σ_a δ_a φ'_a θ_ah. At γλ = 0 that is exact.
    """

    exact = False
    schedules = ("step", "trial")

    @abstractmethod
    def init_output(self, batch: int) -> Carry:
        """Traces of the output weights: 0."""

    @abstractmethod
    def collect_output(self, carry: Carry, delta: Any) -> Any:
        """Their part of `collect`, (n, m)."""

    @abstractmethod
    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        """Their part of `step`."""

    def init(self, batch: int) -> Carry:
        s = self.synthesiser
        carry = self.init_output(batch)
        if s.plastic_expansion:
            xp, dtype = s.circuit.xp, s.circuit.dtype
            carry |= {
                "hidden": xp.zeros((batch, *s.Q.shape), dtype),
                "slope": xp.ones((batch, s.n), dtype),
                "back": xp.zeros((s.n, len(s.Q)), dtype),
            }
        return carry

    def collect(self, carry: Carry, delta: Any) -> Any:
        output = self.collect_output(carry, self.synthesiser.project(delta))
        if not self.synthesiser.plastic_expansion:
            return output
        arriving = (delta * carry["slope"]) @ carry["back"]
        hidden = (arriving[:, :, None] * carry["hidden"]).sum(axis=0)
        return self.synthesiser.join(output, hidden)

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        new = self.step_output(carry, transition, response)
        if self.synthesiser.plastic_expansion:
            xp = self.synthesiser.circuit.xp
            slope = self.gain * response.hidden_slope * xp.ones_like(carry["hidden"][:, :, 0])
            new |= {
                "hidden": self.decay * carry["hidden"] + slope[:, :, None] * response.seen[:, None, :],
                "slope": response.slope * xp.ones_like(carry["slope"]),
                "back": response.back,
            }
        return new

    def restart(self, carry: Carry, end: Any) -> Carry:
        if not end.any():
            return carry
        return {key: value if key in ("slope", "back") else cleared(value, end) for key, value in carry.items()}


class LocalTrace(OwnTrace):
    """Only the own unit's block of J: e[l, b, i, k, j], at state l, for synapse j → output of state k of neuron i.

    e ← γλ A_i e, plus z_j at l = k. What passes through other neurons, and self-synapses, is left out. Updated in
    place, one pass over the memory for each entry of A.
    """

    memory, time = "B·|θ|·S", "|θ|·S²"

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        super().__init__(synthesiser, decay, gain)
        if synthesiser.P is not None:
            raise ValidationError(
                '`trace` = "local" needs a synthesiser unit for every state; in a subspace use "reduced" or "leak"'
            )

    def init_output(self, batch: int) -> Carry:
        xp, dtype, m = self.synthesiser.circuit.xp, self.synthesiser.circuit.dtype, self.synthesiser.m
        return {"e": [xp.zeros((p.S, batch, p.N, p.S, m), dtype) for p in self.synthesiser.circuit.populations]}

    def collect_output(self, carry: Carry, delta: Any) -> Any:
        xp, parts = self.synthesiser.circuit.xp, []
        for pop, e in zip(self.synthesiser.circuit.populations, carry["e"], strict=True):
            own = delta[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            total = sum(xp.einsum("bi,bikj->ikj", own[..., k], e[k]) for k in range(pop.S))
            parts.append(total.reshape(pop.N * pop.S, -1))
        return xp.concatenate(parts)

    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        s, xp = self.synthesiser, self.synthesiser.circuit.xp
        added = outer(self.gain * response.slope, response.z)
        for pop, A, e in zip(s.circuit.populations, transition.A, carry["e"], strict=True):
            self._move(e, A, xp)
            own = xp.broadcast_to(added, (e.shape[1], s.n, s.m))[:, pop.state_slice].reshape(-1, pop.N, pop.S, s.m)
            for k in range(pop.S):
                e[k, :, :, k] += own[:, :, k]
        return {"e": carry["e"]}

    def _move(self, e: Any, A: Mapping[tuple[int, int], Any], xp: Any) -> None:
        """e ← γλ A e, a row at a time, each after all that are made of it; with a copy only where there is no order."""
        rows = {k: {j: self.decay * a for (row, j), a in A.items() if row == k} for k in range(len(e))}
        old = e
        while rows:
            free = [k for k in rows if not any(k in rows[other] for other in rows if other != k)]
            if not free:
                old, free = e.copy(), list(rows)
            for k in free:
                self._make_row(e, old, k, rows.pop(k), xp)

    def _make_row(self, e: Any, old: Any, k: int, factors: dict[int, Any], xp: Any) -> None:
        wide = {j: a[..., None, None] if getattr(a, "ndim", 0) else a for j, a in factors.items()}
        if not wide:
            e[k] = 0
        first = k if k in wide else next(iter(wide), None)
        for j in sorted(wide, key=lambda j: j != first):
            if j == first:
                xp.multiply(old[j], wide[j], out=e[k])
            else:
                e[k] += wide[j] * old[j]

    def restart(self, carry: Carry, end: Any) -> Carry:
        if not end.any():
            return carry
        for e in carry["e"]:
            e[:, end] = 0
        return super().restart({key: value for key, value in carry.items() if key != "e"}, end) | {"e": carry["e"]}


class LeakTrace(OwnTrace):
    """The leak alone: e[a, j] ← γλ e[a, j] + φ'_a z_j; δ_a meets its own synapses' traces only."""

    memory, time = "B·m", "|θ|"

    def init_output(self, batch: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((batch, 1 if s.linear else s.d, s.m), s.circuit.dtype)}

    def collect_output(self, carry: Carry, delta: Any) -> Any:
        return (delta[:, :, None] * carry["e"]).sum(axis=0) if carry["e"].shape[1] > 1 else delta.T @ carry["e"][:, 0]

    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        return {"e": self.decay * carry["e"] + outer(self.gain * response.slope, response.z)}


class ModelTrace(OwnTrace):
    """The trace equation of ``[synthesiser.synapses]``, driven by the presynaptic z_j; γ and λ do not enter it.

    Σ_B (δ_a φ'_a) trace_j: the trace of the input meets the error at the output.
    """

    memory, time = "B·m", "|θ|"

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        super().__init__(synthesiser, decay, gain)
        model = synthesiser.circuit.model
        if model.synapse is None:
            raise ValidationError(
                '`trace` = "model" needs a trace equation in the model: [synthesiser.synapses] with '
                'equations = "dtrace/dt = (r_pre - trace)/tau_e : 1 …"'
            )
        neuron, values = model.synapse
        self._unit = array_function("trace", neuron.symbols, [*neuron.update, neuron.rate], synthesiser.circuit.xp)
        self._constants = [values[p] for p in neuron.parameters] + [model.dt]
        self._states = len(neuron.states)
        self._rate = neuron.states.index(str(neuron.rate))

    def init_output(self, batch: int) -> Carry:
        s = self.synthesiser
        zeros = s.circuit.xp.zeros
        return {
            "e": [zeros((batch, s.m), s.circuit.dtype) for _ in range(self._states)],
            "slope": s.circuit.xp.ones((batch, s.d), s.circuit.dtype),
        }

    def collect_output(self, carry: Carry, delta: Any) -> Any:
        return (self.gain * delta * carry["slope"]).T @ carry["e"][self._rate]

    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        new = self._unit(carry["e"], [response.z], self._constants)[: self._states]
        return {"e": list(new), "slope": response.slope * self.synthesiser.circuit.xp.ones_like(carry["slope"])}
