"""Forms of the trace that a synapse can keep to itself: none is exact, all are local."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from bpl_neuro.circuit.synthesiser import Response, Synthesiser, outer
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry
from bpl_neuro.rules.traces.base import Trace, cleared

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

    @abstractmethod
    def kept_output(self) -> int:
        """Numbers in the traces of the output weights, for each trial."""

    def kept(self, batch: int, steps: int) -> int:
        return batch * (self.kept_output() + (self.synthesiser.Q.size if self.synthesiser.plastic_expansion else 0))

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
        return {
            key: value if key in ("slope", "back") else cleared(self.synthesiser.circuit.xp, value, end)
            for key, value in carry.items()
        }


class LocalTrace(OwnTrace):
    """Only the own unit's block of J: e[l, b, i, k, j], at state l, for synapse j → output of state k of neuron i.

    e ← γλ A_i e, plus z_j at l = k. What passes through other neurons, and self-synapses, is left out. `step` notes
    what is to be done; the next `collect` does it and sums δ e, in one pass over the memory, in place.
    """

    memory, time = "B·|θ|·S", "|θ|·S²"

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        super().__init__(synthesiser, decay, gain)
        if synthesiser.P is not None:
            raise ValidationError(
                '`trace` = "local" needs a synthesiser unit for every state; in a subspace use "reduced" or "leak"'
            )

    def kept_output(self) -> int:
        return sum(p.S * p.N * p.S * self.synthesiser.m for p in self.synthesiser.circuit.populations)

    def init_output(self, batch: int) -> Carry:
        s = self.synthesiser
        pops, zeros, dtype = s.circuit.populations, s.circuit.xp.zeros, s.circuit.dtype
        return {
            "e": [zeros((p.S, batch, p.N, p.S, s.m), dtype) for p in pops],
            "factors": [[zeros((batch, p.N), dtype) for _ in p.a_keys] for p in pops],
            "input": zeros((batch, s.n), dtype),
            "z": zeros((batch, s.m), dtype),
        }

    def collect_output(self, carry: Carry, delta: Any) -> Any:
        s = self.synthesiser
        total = s.circuit.xp.empty((s.n, s.m), delta.dtype)
        for q, pop in enumerate(s.circuit.populations):
            F, G = self._to_do(carry, q)
            out = total[pop.state_slice].reshape(pop.N, pop.S, s.m).transpose(1, 0, 2)
            own = delta[:, pop.state_slice]
            now = [own[:, k :: pop.S] for k in range(pop.S)]
            s.circuit.backend.local_pass(carry["e"][q], F, G, carry["z"], out, now=now)
        return total

    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        ones = self.synthesiser.circuit.xp.ones_like
        factors = [
            [self.decay * a * ones(old) for a, old in zip(A.values(), before, strict=True)]
            for A, before in zip(transition.A, carry["factors"], strict=True)
        ]
        slope = self.gain * response.slope * ones(carry["input"])
        return {"e": carry["e"], "factors": factors, "input": slope, "z": response.z}

    def restart(self, carry: Carry, end: Any) -> Carry:
        if not end.any():
            return carry
        going_on = ~end[:, None]
        rest = super().restart({key: value for key, value in carry.items() if key in ("hidden", "slope", "back")}, end)
        return (
            carry
            | rest
            | {
                "factors": [[going_on * f for f in own] for own in carry["factors"]],
                "input": going_on * carry["input"],
            }
        )

    def column(self, carry: Carry, a: int, j: int) -> tuple[slice, Any]:
        pops = self.synthesiser.circuit.populations
        q, pop = next((q, p) for q, p in enumerate(pops) if a < p.state_slice.stop)
        unit, k = divmod(a - pop.state_slice.start, pop.S)
        old = carry["e"][q][:, :, unit, k, j]
        F, G = self._to_do(carry, q)
        new = self.synthesiser.circuit.xp.zeros_like(old)
        for (row, column), f in F.items():
            new[row] += f[:, unit] * old[column]
        new[k] += G[k, k][:, unit] * carry["z"][:, j]
        return slice(a - k, a - k + pop.S), new.T.copy()

    def _to_do(self, carry: Carry, q: int) -> tuple[dict[tuple[int, int], Any], dict[tuple[int, int], Any]]:
        """What the traces of a population are to be multiplied with, and what of z comes in."""
        pop = self.synthesiser.circuit.populations[q]
        own = carry["input"][:, pop.state_slice]
        F = dict(zip(pop.a_keys, carry["factors"][q], strict=True))
        return F, {(k, k): own[:, k :: pop.S] for k in range(pop.S)}


class LeakTrace(OwnTrace):
    """The leak alone: e[a, j] ← γλ e[a, j] + φ'_a z_j; δ_a meets its own synapses' traces only."""

    memory, time = "B·m", "|θ|"

    def kept_output(self) -> int:
        return self.synthesiser.m * (1 if self.synthesiser.linear else 2 * self.synthesiser.d)

    def init_output(self, batch: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((batch, 1 if s.linear else s.d, s.m), s.circuit.dtype)}

    def collect_output(self, carry: Carry, delta: Any) -> Any:
        return (delta[:, :, None] * carry["e"]).sum(axis=0) if carry["e"].shape[1] > 1 else delta.T @ carry["e"][:, 0]

    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        return {"e": self.decay * carry["e"] + outer(self.gain * response.slope, response.z)}

    def column(self, carry: Carry, a: int, j: int) -> tuple[slice, Any]:
        e = carry["e"]
        return slice(a, a + 1), e[:, a if e.shape[1] > 1 else 0, j, None].copy()


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
        self._unit = synthesiser.circuit.backend.elementwise("trace", neuron.symbols, [*neuron.update, neuron.rate])
        self._constants = [values[p] for p in neuron.parameters] + [model.dt]
        self._states = len(neuron.states)
        self._rate = neuron.states.index(str(neuron.rate))

    def kept_output(self) -> int:
        return 2 * self._states * self.synthesiser.m

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

    def column(self, carry: Carry, a: int, j: int) -> tuple[slice, Any]:
        return slice(a, a + 1), self.gain * carry["slope"][:, a, None] * carry["e"][self._rate][:, j, None]
