"""Forms of the trace that a synapse can keep to itself: none is exact, all are local."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from bpl_neuro.circuit.plastic import PlasticSynthesiser
from bpl_neuro.circuit.synthesiser import Response, Synthesiser, outer
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.circuit.wiring import CompiledPopulation
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry, clear
from bpl_neuro.rules.traces.base import Trace, register

__all__ = ["LeakTrace", "LocalTrace", "ModelTrace"]


class OwnTrace(Trace):
    """A trace that each synapse can keep to itself: what the three local forms share.

    They differ in what becomes of an output unit's synapses. Those of a plastic expansion layer have no state of the
    circuit of their own; in every local form the leak, e[h, k] ← γλ e[h, k] + q'_h x_k, meets the error that reaches
    its unit through the output weights, Σ_a δ_a φ'_a θ_ah. At γλ = 0 that is exact.
    """

    local = True
    shows: tuple[str, ...] = ("own",)

    @abstractmethod
    def init_output(self, trials: int) -> Carry:
        """Traces of the output weights: 0."""

    @abstractmethod
    def collect_output(self, carry: Carry, delta: Any) -> Any:
        """Their part of `collect`, (d, m)."""

    @abstractmethod
    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        """Their part of `step`."""

    @abstractmethod
    def kept_output(self) -> int:
        """Numbers in the traces of the output weights, for each trial."""

    def kept(self, trials: int, steps: int) -> int:
        layer = self.synthesiser.hidden
        return trials * (self.kept_output() + (layer[0] * layer[1] if layer else 0))

    def init(self, trials: int, steps: int) -> Carry:
        s = self.synthesiser
        carry = self.init_output(trials)
        if s.hidden:
            xp, dtype = s.circuit.xp, s.circuit.dtype
            carry |= {
                "hidden": xp.zeros((trials, *s.hidden), dtype),
                "output_slope": xp.ones((trials, s.n), dtype),
                "back": xp.zeros((s.n, s.hidden[0]), dtype),
            }
        return carry

    def collect(self, carry: Carry, delta: Any) -> Any:
        output = self.collect_output(carry, self.synthesiser.project(delta))
        if not isinstance(self.synthesiser, PlasticSynthesiser):
            return output.reshape(-1)
        arriving = (delta * carry["output_slope"]) @ carry["back"]
        hidden = (arriving[:, :, None] * carry["hidden"]).sum(axis=0)
        return self.synthesiser.join(output, hidden)

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        new = carry | self.step_output(carry, transition, response)
        if self.synthesiser.hidden:
            ones = self.synthesiser.circuit.xp.ones_like
            hidden = carry["hidden"]
            hidden *= self.decay
            slope = self.gain * response.hidden_slope * ones(hidden[:, :, 0])
            self.synthesiser.circuit.backend.add_outer(hidden, slope, response.seen)
            new |= {"output_slope": response.slope * ones(carry["output_slope"]), "back": response.back.copy()}
        return new

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.any():
            for name, axis in self.trial_axes.items():
                traces = carry.get(name, [])
                for e in traces if isinstance(traces, list) else [traces]:
                    clear(self.synthesiser.circuit.xp, e, end, axis)
        return carry

    #: which parts of the carry start again with a trial, and the axis of their trials
    trial_axes: ClassVar[dict[str, int]] = {"e": 0, "hidden": 0}


@register
class LocalTrace(OwnTrace):
    """Only the own unit's block of J: e[l, b, i, k, j], at state l, for synapse j → output of state k of neuron i.

    e ← γλ A_i e, plus z_j at l = k. What passes through other neurons, and self-synapses, is left out.
    """

    name = "local"
    shows = ("own", "norm")
    memory, time = "B·|θ|·S", "|θ|·S²"
    trial_axes: ClassVar[dict[str, int]] = {"e": 1, "hidden": 0}

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        super().__init__(synthesiser, decay, gain)
        if not synthesiser.own_units:
            raise ValidationError(
                '`trace` = "local" needs a synthesiser unit for every state; in a subspace use "reduced" or "leak"'
            )

    def kept_output(self) -> int:
        return sum(p.S * p.N * p.S * self.synthesiser.m for p in self.synthesiser.circuit.populations)

    def init_output(self, trials: int) -> Carry:
        s = self.synthesiser
        pops, zeros, dtype = s.circuit.populations, s.circuit.xp.zeros, s.circuit.dtype
        return {"e": [zeros((p.S, trials, p.N, p.S, s.m), dtype) for p in pops]}

    def collect_output(self, carry: Carry, delta: Any) -> Any:
        s = self.synthesiser
        total = s.circuit.xp.empty((s.n, s.m), delta.dtype)
        for pop, e in zip(s.circuit.populations, carry["e"], strict=True):
            out = total[pop.state_slice].reshape(pop.N, pop.S, s.m).transpose(1, 0, 2)
            errors = delta[:, pop.state_slice]
            s.circuit.backend.trace_sum(e, [errors[:, k :: pop.S] for k in range(pop.S)], out)
        return total

    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        circuit, slope = self.synthesiser.circuit, self.gain * response.slope
        for pop, A, e in zip(circuit.populations, transition.A, carry["e"], strict=True):
            F = {key: self.decay * a for key, a in A.items()}
            G = {(k, k): _of_state(slope, pop, k) for k in range(pop.S)}
            circuit.backend.local_pass(e, F, G, response.z)
        return {}

    def column(self, carry: Carry, a: int, j: int) -> tuple[slice, Any]:
        pops = self.synthesiser.circuit.populations
        q, pop = next((q, p) for q, p in enumerate(pops) if a < p.state_slice.stop)
        unit, k = divmod(a - pop.state_slice.start, pop.S)
        return slice(a - k, a - k + pop.S), carry["e"][q][:, :, unit, k, j].T.copy()


def _of_state(slope: Any, pop: CompiledPopulation, k: int) -> Any:
    """The part of a factor (B, n), or of a number, that belongs to state k of a population."""
    return slope[:, pop.state_slice][:, k :: pop.S] if getattr(slope, "ndim", 0) else slope


@register
class LeakTrace(OwnTrace):
    """The leak alone: e[a, j] ← γλ e[a, j] + φ'_a z_j; δ_a meets its own synapses' traces only."""

    name = "leak"
    memory, time = "B·m", "|θ|"

    def kept_output(self) -> int:
        return self.synthesiser.m * (1 if self.synthesiser.linear else 2 * self.synthesiser.d)

    def init_output(self, trials: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((trials, 1 if s.linear else s.d, s.m), s.circuit.dtype)}

    def collect_output(self, carry: Carry, delta: Any) -> Any:
        return (delta[:, :, None] * carry["e"]).sum(axis=0) if carry["e"].shape[1] > 1 else delta.T @ carry["e"][:, 0]

    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        return {"e": self.decay * carry["e"] + outer(self.gain * response.slope, response.z)}

    def column(self, carry: Carry, a: int, j: int) -> tuple[slice, Any]:
        e = carry["e"]
        return slice(a, a + 1), e[:, a if e.shape[1] > 1 else 0, j, None].copy()


@register
class ModelTrace(OwnTrace):
    """The trace equation of ``[synthesiser.synapses]``, driven by the presynaptic z_j; γ and λ do not enter it.

    Σ_B (δ_a φ'_a) trace_j: the trace of the input meets the error at the output.
    """

    name = "model"
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
        self._unit = self._compiled()
        self._constants = [values[p] for p in neuron.parameters] + [model.dt]
        self._states = len(neuron.states)
        self._rate = neuron.states.index(str(neuron.rate))

    def _compiled(self) -> Any:
        """The trace's equation as a function."""
        circuit = self.synthesiser.circuit
        neuron, _ = circuit.model.synapse
        return circuit.backend.elementwise("trace", neuron.symbols, [*neuron.update, neuron.rate])

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without what is compiled, which is compiled again."""
        return {name: value for name, value in vars(self).items() if name != "_unit"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._unit = self._compiled()

    def kept_output(self) -> int:
        return 2 * self._states * self.synthesiser.m

    def init_output(self, trials: int) -> Carry:
        s = self.synthesiser
        zeros = s.circuit.xp.zeros
        return {
            "e": [zeros((trials, s.m), s.circuit.dtype) for _ in range(self._states)],
            "slope": s.circuit.xp.ones((trials, s.d), s.circuit.dtype),
        }

    def collect_output(self, carry: Carry, delta: Any) -> Any:
        return (self.gain * delta * carry["slope"]).T @ carry["e"][self._rate]

    def step_output(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        new = self._unit(carry["e"], [response.z], self._constants)[: self._states]
        return {"e": list(new), "slope": response.slope * self.synthesiser.circuit.xp.ones_like(carry["slope"])}

    def column(self, carry: Carry, a: int, j: int) -> tuple[slice, Any]:
        return slice(a, a + 1), self.gain * carry["slope"][:, a, None] * carry["e"][self._rate][:, j, None]
