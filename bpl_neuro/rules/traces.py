"""Ways to hold the synthesiser's eligibility trace e_t = γλ J_t e_{t−1} + ∂g(s_t; θ)/∂θ.

======  =====  =========================  ==========================================
form    exact  memory                     for
======  =====  =========================  ==========================================
full    yes    B·n·|θ|                    the algorithm to the letter; any schedule
sweep   yes    B·T·(n + factors)          parameters frozen during a trial
local   no     B·|θ|·S                    one number per synapse and state of its unit
leak    no     B·m, or B·|θ| (nonlinear)  γλ alone in the place of γλ J
model   no     B·m                        the trace equation of the model file
======  =====  =========================  ==========================================

One interface: `collect` gives Σ_B δ e (step 3 of the algorithm), `step` moves the trace on (step 4) and `restart`
clears it where trials end (step 6). A form that can only answer at the end of the batch returns None from `collect` and
answers in `finish`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from bpl_neuro.codegen import array_function
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry
from bpl_neuro.synthesiser import Synthesiser
from bpl_neuro.transition import Transition

__all__ = ["TRACES", "FullTrace", "LeakTrace", "LocalTrace", "ModelTrace", "SweepTrace", "Trace"]


class Trace(ABC):
    """A form of the trace. Holds the synthesiser, γλ and the weight of the input; what changes lives in the carry."""

    exact: bool
    schedules: tuple[str, ...]

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        self.synthesiser, self.decay, self.gain = synthesiser, decay, gain

    @abstractmethod
    def init(self, batch: int) -> Carry:
        """e = 0."""

    @abstractmethod
    def collect(self, carry: Carry, delta: Any) -> Any:
        """Σ_B δ_{t−1} e_{t−1}, (n, m), or None if it is only known at the end."""

    @abstractmethod
    def step(self, carry: Carry, transition: Transition, z: Any, slope: Any) -> Carry:
        """e_t from e_{t−1}."""

    @abstractmethod
    def restart(self, carry: Carry, end: Any) -> Carry:
        """e = 0 in the trials that end."""

    def finish(self, carry: Carry) -> Any:
        """Σ_t Σ_B δ_t e_t, (n, m), where `collect` returned None."""
        return None


class FullTrace(Trace):
    """e[b, i, a, j]: the trace at circuit state i of the synapse j → synthesiser output a.

    Work: 2 n²·|θ| a step and trial.
    """

    exact = True
    schedules = ("step", "trial")

    def init(self, batch: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((batch, s.n, s.n * s.m), s.circuit.dtype)}

    def collect(self, carry: Carry, delta: Any) -> Any:
        e = carry["e"]
        return (delta.reshape(-1) @ e.reshape(-1, e.shape[-1])).reshape(self.synthesiser.n, self.synthesiser.m)

    def step(self, carry: Carry, transition: Transition, z: Any, slope: Any) -> Carry:
        s = self.synthesiser
        e = transition.jvp(carry["e"])
        e *= self.decay
        index = s.circuit.xp.arange(s.n)
        e.reshape(-1, s.n, s.n, s.m)[:, index, index] += _input_side(s, z, self.gain * slope)
        return {"e": e}

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.any():
            carry["e"][end] = 0
        return carry


class LocalTrace(Trace):
    """Only the own unit's block of J: e[b, i, k, l, j] for synapse j → output of state k of neuron i.

    e ← γλ A_i e, plus z_j at l = k. What passes through other neurons, and self-synapses, is left out.
    """

    exact = False
    schedules = ("step", "trial")

    def init(self, batch: int) -> Carry:
        s = self.synthesiser
        return {
            "e": [
                s.circuit.xp.zeros((batch, pop.N, pop.S, pop.S, s.m), s.circuit.dtype) for pop in s.circuit.populations
            ]
        }

    def collect(self, carry: Carry, delta: Any) -> Any:
        xp, parts = self.synthesiser.circuit.xp, []
        for pop, e in zip(self.synthesiser.circuit.populations, carry["e"], strict=True):
            own = delta[:, pop.state_slice].reshape(-1, pop.N, pop.S)
            parts.append(xp.einsum("bil,biklj->ikj", own, e).reshape(pop.N * pop.S, -1))
        return xp.concatenate(parts)

    def step(self, carry: Carry, transition: Transition, z: Any, slope: Any) -> Carry:
        s, xp, new = self.synthesiser, self.synthesiser.circuit.xp, []
        added = _input_side(s, z, self.gain * slope)
        for pop, A, e in zip(s.circuit.populations, transition.A, carry["e"], strict=True):
            moved = xp.zeros_like(e)
            for (k, j), a in A.items():
                factor = a[..., None, None] if getattr(a, "ndim", 0) else a
                moved[:, :, :, k] += (self.decay * factor) * e[:, :, :, j]
            own = xp.broadcast_to(added, (e.shape[0], s.n, s.m))[:, pop.state_slice]
            for k in range(pop.S):
                moved[:, :, k, k] += own.reshape(-1, pop.N, pop.S, s.m)[:, :, k]
            new.append(moved)
        return {"e": new}

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.any():
            for e in carry["e"]:
                e[end] = 0
        return carry


class LeakTrace(Trace):
    """The leak alone: e[a, j] ← γλ e[a, j] + φ'_a z_j; δ_a meets its own synapses' traces only."""

    exact = False
    schedules = ("step", "trial")

    def init(self, batch: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((batch, 1 if s.linear else s.n, s.m), s.circuit.dtype)}

    def collect(self, carry: Carry, delta: Any) -> Any:
        return (delta[:, :, None] * carry["e"]).sum(axis=0) if carry["e"].shape[1] > 1 else delta.T @ carry["e"][:, 0]

    def step(self, carry: Carry, transition: Transition, z: Any, slope: Any) -> Carry:
        return {"e": self.decay * carry["e"] + _input_side(self.synthesiser, z, self.gain * slope)}

    def restart(self, carry: Carry, end: Any) -> Carry:
        return {"e": self.synthesiser.circuit.xp.where(end[:, None, None], 0, carry["e"])}


class ModelTrace(Trace):
    """The trace equation of ``[synthesiser.synapses]``, driven by the presynaptic z_j; γ and λ do not enter it.

    Σ_B (δ_a φ'_a) trace_j: the trace of the input meets the error at the output.
    """

    exact = False
    schedules = ("step", "trial")

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

    def init(self, batch: int) -> Carry:
        s = self.synthesiser
        return {
            "e": s.circuit.xp.zeros((self._states, batch, s.m), s.circuit.dtype),
            "slope": s.circuit.xp.ones((batch, s.n), s.circuit.dtype),
        }

    def collect(self, carry: Carry, delta: Any) -> Any:
        return (self.gain * delta * carry["slope"]).T @ carry["e"][self._rate]

    def step(self, carry: Carry, transition: Transition, z: Any, slope: Any) -> Carry:
        new = self._unit(list(carry["e"]), [z], self._constants)[: self._states]
        return {
            "e": self.synthesiser.circuit.xp.stack(new),
            "slope": slope + self.synthesiser.circuit.xp.zeros_like(carry["slope"]),
        }

    def restart(self, carry: Carry, end: Any) -> Carry:
        return carry | {"e": self.synthesiser.circuit.xp.where(end[:, None], 0, carry["e"])}


class SweepTrace(Trace):
    """Parameters frozen during a trial: Σ_t δ_t e_t = Σ_t u_tᵀ z_t by a backward sweep, u_t = δ_t + γλ u_{t+1} J_{t+1}.

    The same sum as the full trace's, to rounding. Remembers each step's linearisation, z and δ.
    """

    exact = True
    schedules = ("trial",)

    def init(self, batch: int) -> Carry:
        return {"transitions": [], "z": [], "slope": [], "delta": [], "end": []}

    def collect(self, carry: Carry, delta: Any) -> Any:
        if carry["z"]:  # δ belongs to the step before; at the first step there is none
            carry["delta"].append(delta)

    def step(self, carry: Carry, transition: Transition, z: Any, slope: Any) -> Carry:
        carry["transitions"].append(transition)
        carry["z"].append(z)
        carry["slope"].append(slope)
        return carry

    def restart(self, carry: Carry, end: Any) -> Carry:
        carry["end"].append(end)
        return carry

    def finish(self, carry: Carry) -> Any:
        total = self.synthesiser.initial_theta()
        u: Any = None
        for t in reversed(range(len(carry["delta"]))):
            if u is None:
                u = carry["delta"][t]
            else:
                going_on = ~carry["end"][t]
                back = carry["transitions"][t + 1].vjp(u)
                u = carry["delta"][t] + going_on[:, None] * (self.decay * back)
            total += self.synthesiser.gradient(u, self.gain * carry["slope"][t], carry["z"][t])
        return total


def _input_side(s: Synthesiser, z: Any, slope: Any) -> Any:
    """∂g_a/∂θ_aj = φ'_a z_j: (B, n, m), or (B, 1, m) for a linear unit."""
    if getattr(slope, "ndim", 0):
        return slope[:, :, None] * z[:, None, :]
    return (slope * z)[:, None, :]


TRACES: dict[str, type[Trace]] = {
    "full": FullTrace,
    "sweep": SweepTrace,
    "local": LocalTrace,
    "leak": LeakTrace,
    "model": ModelTrace,
}
