"""The trace to the letter; within a subspace; and not at all, where a sweep back gives the same sums."""

from __future__ import annotations

from typing import Any

from bpl_neuro.circuit.subspace import SubspaceSynthesiser
from bpl_neuro.circuit.synthesiser import Response, Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry, clear
from bpl_neuro.rules.traces.base import Trace, register
from bpl_neuro.rules.traces.influence import carried, influence, influence_size, move_on

__all__ = ["FullTrace", "ReducedTrace", "SweepTrace"]


@register
class FullTrace(Trace):
    """e[b, i, …]: the trace at circuit state i of every parameter, those of the synapses j → output a first, [a, j].

    Work: 2 n²·|θ| a step and trial.
    """

    name = "full"
    exact = True
    shows = ("own", "norm")
    memory, time = "B·n·|θ|", "2 n²·|θ|"

    def kept(self, trials: int, steps: int) -> int:
        return influence_size(self.synthesiser.circuit, trials, self.synthesiser.layout.size)

    def work(self, trials: int, steps: int) -> int:
        s = self.synthesiser
        outputs = 0 if s.own_units else s.d * s.m
        layer = s.hidden[0] * s.hidden[1] if s.hidden else 0
        return trials * s.n * (2 * s.n + outputs + layer)

    def cost(self, steps: int) -> float:
        return steps * 2.0 * self.synthesiser.n**2 * self.synthesiser.layout.size

    def init(self, trials: int, steps: int) -> Carry:
        return influence(self.synthesiser.circuit, trials, self.synthesiser.layout.size)

    def collect(self, carry: Carry, delta: Any) -> Any:
        e = carried(carry)
        return delta.reshape(-1) @ e.reshape(-1, e.shape[-1])

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        J = transition.jacobian()
        J *= self.decay
        carry = move_on(carry, J, self.synthesiser.circuit)
        self.synthesiser.add_jacobian(carried(carry), response, self.gain)
        return carry

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.any():
            clear(self.synthesiser.circuit.xp, carried(carry), end)
        return carry

    def column(self, carry: Carry, a: int, j: int) -> tuple[slice, Any]:
        return slice(0, self.synthesiser.n), carried(carry)[:, :, a * self.synthesiser.m + j].copy()


@register
class SweepTrace(Trace):
    """Parameters frozen during a trial: Σ_t δ_t e_t = Σ_t (G_t^λ − g_t) ∂g_t/∂θ, by one sweep back over the trial.

    The same sum as the full trace's, to rounding, by `bpl_neuro.rules.lambda_sg.sweep`; there is nothing to hold.
    """

    name = "sweep"
    exact, deferred, bounded = True, True, False
    memory, time = "B·T·(n + factors)", "P·N² + |θ|"

    def kept(self, trials: int, steps: int) -> int:
        s = self.synthesiser
        return trials * steps * (s.circuit.numbers_per_step + s.n + s.k)

    def work(self, trials: int, steps: int) -> int:
        return 2 * self.kept(trials, steps)

    def cost(self, steps: int) -> float:
        s = self.synthesiser
        return float(steps * (s.circuit.recurrent_size + s.layout.size))

    def init(self, trials: int, steps: int) -> Carry:
        return {}

    def collect(self, carry: Carry, delta: Any) -> Any:
        return None

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        return carry

    def restart(self, carry: Carry, end: Any) -> Carry:
        return carry


@register
class ReducedTrace(Trace):
    """The trace within the synthesiser's subspace P: ê_t = γλ (Pᵀ J_t P) ê_{t−1} + ∂ĝ/∂θ, with δ P.

    d times the parameters instead of n times; exact where J keeps the subspace, and for d = n.
    """

    name = "reduced"
    memory, time = "B·d·|θ|", "d²·|θ| + d·P·N²"
    synthesiser: SubspaceSynthesiser

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        super().__init__(synthesiser, decay, gain)
        if not isinstance(synthesiser, SubspaceSynthesiser):
            raise ValidationError('`trace` = "reduced" needs a fixed subspace: Synthesiser(circuit, subspace=P)')

    def kept(self, trials: int, steps: int) -> int:
        return 2 * trials * self.synthesiser.d * self.synthesiser.layout.size

    def work(self, trials: int, steps: int) -> int:
        return 2 * trials * self.synthesiser.n**2

    def init(self, trials: int, steps: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((trials, s.d, s.layout.size), s.circuit.dtype)}

    def collect(self, carry: Carry, delta: Any) -> Any:
        e = carry["e"]
        return self.synthesiser.project(delta).reshape(-1) @ e.reshape(-1, e.shape[-1])

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        s = self.synthesiser
        new = (self.decay * (s.P.T @ transition.jvp(s.P))) @ carry["e"]
        s.add_own(new, self.gain * response.slope, response.z)
        return {"e": new}

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.any():
            clear(self.synthesiser.circuit.xp, carry["e"], end)
        return carry
