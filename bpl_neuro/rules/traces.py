"""Ways to hold the synthesiser's eligibility trace e_t = γλ J_t e_{t−1} + ∂g(s_t; θ)/∂θ.

======  =====  =========================  ==========================================
form    exact  memory                     for
======  =====  =========================  ==========================================
full    yes    B·n·|θ|                    the algorithm to the letter; any schedule
lazy    yes    B·K·(n + factors)          the numbers of full, hundreds of times cheaper while K ≪ n²; any schedule
sweep   yes    B·T·(n + factors)          parameters frozen during a trial
local   no     B·|θ|·S                    one number per synapse and state of its unit
leak    no     B·m, or B·|θ| (nonlinear)  γλ alone in the place of γλ J
model   no     B·m                        the trace equation of the model file
reduced no     B·d·|θ|                    a synthesiser that predicts within a subspace of d dimensions
======  =====  =========================  ==========================================

One interface: `collect` gives Σ_B δ e (step 3 of the algorithm), `step` moves the trace on (step 4) and `restart`
clears it where trials end (step 6).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from bpl_neuro.codegen import array_function
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry
from bpl_neuro.synthesiser import Response, Synthesiser, outer
from bpl_neuro.transition import Transition

__all__ = [
    "TRACES",
    "FullTrace",
    "LazyTrace",
    "LeakTrace",
    "LocalTrace",
    "ModelTrace",
    "ReducedTrace",
    "SweepTrace",
    "Trace",
]


class Trace(ABC):
    """A form of the trace. Holds the synthesiser, γλ and the weight of the input; what changes lives in the carry."""

    exact: bool
    schedules: tuple[str, ...]
    #: as in `Rule`
    memory: str
    time: str

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        self.synthesiser, self.decay, self.gain = synthesiser, decay, gain

    @abstractmethod
    def init(self, batch: int) -> Carry:
        """e = 0."""

    @abstractmethod
    def collect(self, carry: Carry, delta: Any) -> Any:
        """Σ_B δ_{t−1} e_{t−1}, of the shape of θ, or None if it is only known at the end."""

    @abstractmethod
    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        """e_t from e_{t−1}."""

    @abstractmethod
    def restart(self, carry: Carry, end: Any) -> Carry:
        """e = 0 in the trials that end."""


class FullTrace(Trace):
    """e[b, i, …]: the trace at circuit state i of every parameter, those of the synapses j → output a first, [a, j].

    Work: 2 n²·|θ| a step and trial.
    """

    exact = True
    memory, time = "B·n·|θ|", "2 n²·|θ|"
    schedules = ("step", "trial")

    def init(self, batch: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((batch, s.n, s.layout.size), s.circuit.dtype)}

    def collect(self, carry: Carry, delta: Any) -> Any:
        e, s = carry["e"], self.synthesiser
        total = delta.reshape(-1) @ e.reshape(-1, e.shape[-1])
        return total if s.plastic_expansion else total.reshape(s.d, s.m)

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        e = transition.jvp(carry["e"])
        e *= self.decay
        self.synthesiser.add_jacobian(e, response, self.gain)
        return {"e": e}

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.any():
            carry["e"][end] = 0
        return carry


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
        return {key: value if key in ("slope", "back") else _cleared(value, end) for key, value in carry.items()}


def _cleared(e: Any, end: Any) -> Any:
    """A trace, or a list of traces, of (B, …): 0 in the trials that end."""
    if isinstance(e, list):
        return [_cleared(part, end) for part in e]
    kept = e.copy()
    kept[end] = 0
    return kept


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


class LazyTrace(Trace):
    """The last steps, linearised, instead of e: when δ comes, it is carried back, u ← γλ u J, and Σ u ∂g/∂θ collected.

    The numbers of the full trace to rounding, also where Ψ and θ move at every step: each step's linearisation keeps
    the weights it was made with. A `window` of K steps cuts what is older: a relative error of at most (γλ‖J‖)^K.
    """

    memory, time = "B·K·(n + factors), and K·P·N² where Ψ moves", "K·(P·N² + |θ|)"
    schedules = ("step", "trial")

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0, window: int | None = None) -> None:
        super().__init__(synthesiser, decay, gain)
        self.window = window
        self.exact = window is None

    def init(self, batch: int) -> Carry:
        return {"transitions": [], "responses": [], "ends": []}

    def collect(self, carry: Carry, delta: Any) -> Any:
        s = self.synthesiser
        total = s.circuit.xp.zeros_like(s.initial_theta())
        u = delta
        for t in reversed(range(len(carry["responses"]))):
            total += s.gradient(u, carry["responses"][t], self.gain)
            if t == 0 or self.decay == 0:
                break
            if carry["ends"][t - 1].any():
                u = u * ~carry["ends"][t - 1][:, None]
            u = carry["transitions"][t].vjp(u)
            if self.decay != 1:
                u *= self.decay
        return total

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        kept = slice(None) if self.window is None else slice(-self.window, None)
        return {
            "transitions": [*carry["transitions"], transition][kept],
            "responses": [*carry["responses"], response][kept],
            "ends": carry["ends"],
        }

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.all():
            return self.init(len(end))
        kept = slice(None) if self.window is None else slice(-self.window, None)
        return carry | {"ends": [*carry["ends"], end][kept]}


class SweepTrace(Trace):
    """Parameters frozen during a trial: Σ_t δ_t e_t = Σ_t (G_t^λ − g_t) ∂g_t/∂θ, by one sweep back over the trial.

    The same sum as the full trace's, to rounding. `BPLambda` remembers each step's linearisation and sweeps at the end;
    there is nothing to hold.
    """

    exact = True
    memory, time = "B·T·(n + factors)", "P·N² + |θ|"
    schedules = ("trial",)

    def init(self, batch: int) -> Carry:
        return {}

    def collect(self, carry: Carry, delta: Any) -> Any:
        return None

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        return carry

    def restart(self, carry: Carry, end: Any) -> Carry:
        return carry


class ReducedTrace(Trace):
    """The trace within the synthesiser's subspace P: ê_t = γλ (Pᵀ J_t P) ê_{t−1} + ∂ĝ/∂θ, with δ P.

    d times the parameters instead of n times; exact where J keeps the subspace, and for d = n.
    """

    exact = False
    memory, time = "B·d·|θ|", "d²·|θ| + d·P·N²"
    schedules = ("step", "trial")

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        super().__init__(synthesiser, decay, gain)
        if synthesiser.P is None:
            raise ValidationError('`trace` = "reduced" needs a fixed subspace: Synthesiser(circuit, subspace=P)')

    def init(self, batch: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((batch, s.d, s.layout.size), s.circuit.dtype)}

    def collect(self, carry: Carry, delta: Any) -> Any:
        e, s = carry["e"], self.synthesiser
        return (s.project(delta).reshape(-1) @ e.reshape(-1, e.shape[-1])).reshape(s.d, s.m)

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        s, xp, e = self.synthesiser, self.synthesiser.circuit.xp, carry["e"]
        P = xp.broadcast_to(s.P, (e.shape[0], *s.P.shape))
        new = (self.decay * (s.P.T @ transition.jvp(P))) @ e
        index = xp.arange(s.d)
        new.reshape(-1, s.d, s.d, s.m)[:, index, index] += outer(self.gain * response.slope, response.z)
        return {"e": new}

    def restart(self, carry: Carry, end: Any) -> Carry:
        return {"e": _cleared(carry["e"], end)} if end.any() else carry


TRACES: dict[str, type[Trace]] = {
    "full": FullTrace,
    "lazy": LazyTrace,
    "sweep": SweepTrace,
    "reduced": ReducedTrace,
    "local": LocalTrace,
    "leak": LeakTrace,
    "model": ModelTrace,
}
