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

from typing import Any

from bpl_neuro.circuit.build import of_step
from bpl_neuro.circuit.synthesiser import Response, Synthesiser
from bpl_neuro.circuit.transition import Parts, Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry, clear
from bpl_neuro.rules.traces.base import Trace, cleared
from bpl_neuro.rules.traces.influence import carried, influence, influence_size, move_on
from bpl_neuro.rules.traces.local import LeakTrace, LocalTrace, ModelTrace

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


class FullTrace(Trace):
    """e[b, i, …]: the trace at circuit state i of every parameter, those of the synapses j → output a first, [a, j].

    Work: 2 n²·|θ| a step and trial.
    """

    exact = True
    memory, time = "B·n·|θ|", "2 n²·|θ|"
    schedules = ("step", "trial")

    def kept(self, batch: int, steps: int) -> int:
        return influence_size(self.synthesiser.circuit, batch, self.synthesiser.layout.size)

    def work(self, batch: int, steps: int) -> int:
        s = self.synthesiser
        added = (0 if s.P is None else s.d * s.m) + (s.Q.size if s.plastic_expansion else 0)
        return batch * s.n * (2 * s.n + added)

    def init(self, batch: int) -> Carry:
        return influence(self.synthesiser.circuit, batch, self.synthesiser.layout.size)

    def collect(self, carry: Carry, delta: Any) -> Any:
        e, s = carried(carry), self.synthesiser
        total = delta.reshape(-1) @ e.reshape(-1, e.shape[-1])
        return total if s.plastic_expansion else total.reshape(s.d, s.m)

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


class LazyTrace(Trace):
    """The last steps, linearised, instead of e: when δ comes, it is carried back, u ← γλ u J, and Σ u ∂g/∂θ collected.

    The numbers of the full trace to rounding, also where Ψ and θ move at every step: each step's linearisation keeps
    the weights it was made with. A `window` of K steps cuts what is older. How much that was is measured and reported:
    the largest ‖δ (γλJ)…(γλJ)‖ / ‖δ‖ over trials and steps, with the K factors of the steps in the window, which is at
    most (γλ‖J‖)^K.
    """

    memory, time = "B·K·(n + factors), and K·P·N² where Ψ moves", "K·(P·N² + |θ|)"
    schedules = ("step", "trial")

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0, window: int | None = None) -> None:
        super().__init__(synthesiser, decay, gain)
        self.window = window
        self.exact = window is None

    def kept(self, batch: int, steps: int) -> int:
        s, K = self.synthesiser, min(steps, self.window or steps)
        return K * (batch * (of_step(s.circuit) + s.n + 2 * s.m) + s.circuit.layout.size + s.layout.size)

    def work(self, batch: int, steps: int) -> int:
        return min(steps, self.window or steps) * batch * (2 * self.synthesiser.n + self.synthesiser.m)

    def init(self, batch: int) -> Carry:
        kept: Carry = {"transitions": [], "responses": [], "ends": []}
        if self.window is not None:
            kept |= {"cut": self.synthesiser.circuit.xp.zeros((), self.synthesiser.circuit.dtype), "goes_on": None}
        return kept

    def collect(self, carry: Carry, delta: Any) -> Any:
        s = self.synthesiser
        if not carry["responses"]:
            return s.circuit.xp.zeros_like(s.initial_theta())
        wiring = carry["transitions"][0].wiring
        parts = wiring.split(delta)
        # A linear unit's ∂g/∂θ is z alone: then all steps are summed in one product at the end.
        plain = s.linear and s.P is None and not s.plastic_expansion
        visited, total = [], None
        for t in reversed(range(len(carry["responses"]))):
            if plain:
                visited.append(parts)
            else:
                term = s.gradient(wiring.join(parts), carry["responses"][t], self.gain)
                total = term if total is None else total + term
            if self.decay == 0:
                break
            if t == 0:
                self._measure(carry, parts, delta)
                break
            if carry["ends"][t - 1].any():
                going_on = ~carry["ends"][t - 1][:, None]
                parts = [[u * going_on for u in own] for own in parts]
            parts = self._one_back(carry, t, parts)
        if not plain:
            return total
        stack = s.circuit.xp.concatenate
        z = stack([response.z for response in carry["responses"][: -len(visited) - 1 : -1]])
        sums = [
            [z.T @ stack([step[q][k] for step in visited]) for k in range(pop.S)]
            for q, pop in enumerate(wiring.populations)
        ]
        return wiring.join(sums).T * (self.gain * carry["responses"][-1].slope)

    def _one_back(self, carry: Carry, t: int, parts: Parts) -> Parts:
        """γλ u J of one of the kept steps."""
        parts = carry["transitions"][t].back(parts)
        if self.decay != 1:
            for own in parts:
                for u in own:
                    u *= self.decay
        return parts

    def _measure(self, carry: Carry, parts: Parts, delta: Any) -> None:
        """Note what would have gone on to the steps that the window has cut off."""
        if carry.get("goes_on") is None:
            return
        xp = self.synthesiser.circuit.xp
        left = sum((u * u).sum(axis=1) for own in self._one_back(carry, 0, parts) for u in own)
        size = (delta * delta).sum(axis=1)
        share = xp.where(carry["goes_on"] & (size > 0), left / xp.where(size > 0, size, 1), 0)
        carry["cut"] = xp.maximum(carry["cut"], xp.sqrt(share.max()))

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        kept = slice(None) if self.window is None else slice(-self.window, None)
        new = carry | {
            "transitions": [*carry["transitions"], transition][kept],
            "responses": [*carry["responses"], response][kept],
        }
        if len(carry["transitions"]) == self.window:  # the oldest falls out, and its trial may still go on
            new["goes_on"] = ~carry["ends"][0]
        return new

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.all():
            return self.init(len(end)) | ({} if self.window is None else {"cut": carry["cut"]})
        kept = slice(None) if self.window is None else slice(-self.window, None)
        return carry | {"ends": [*carry["ends"], end][kept]}

    def report(self, carry: Carry) -> dict[str, float]:
        return {} if self.window is None else {"window_error": float(carry["cut"])}


class SweepTrace(Trace):
    """Parameters frozen during a trial: Σ_t δ_t e_t = Σ_t (G_t^λ − g_t) ∂g_t/∂θ, by one sweep back over the trial.

    The same sum as the full trace's, to rounding. `BPLambda` remembers each step's linearisation and sweeps at the end;
    there is nothing to hold.
    """

    exact = True
    memory, time = "B·T·(n + factors)", "P·N² + |θ|"
    schedules = ("trial",)

    def kept(self, batch: int, steps: int) -> int:
        s = self.synthesiser
        return batch * steps * (of_step(s.circuit) + s.n + s.k)

    def work(self, batch: int, steps: int) -> int:
        return 2 * self.kept(batch, steps)

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

    def kept(self, batch: int, steps: int) -> int:
        return 2 * batch * self.synthesiser.d * self.synthesiser.layout.size

    def work(self, batch: int, steps: int) -> int:
        return 2 * batch * self.synthesiser.n**2

    def init(self, batch: int) -> Carry:
        s = self.synthesiser
        return {"e": s.circuit.xp.zeros((batch, s.d, s.layout.size), s.circuit.dtype)}

    def collect(self, carry: Carry, delta: Any) -> Any:
        e, s = carry["e"], self.synthesiser
        return (s.project(delta).reshape(-1) @ e.reshape(-1, e.shape[-1])).reshape(s.d, s.m)

    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        s = self.synthesiser
        new = (self.decay * (s.P.T @ transition.jvp(s.P))) @ carry["e"]
        s.add_own(new, self.gain * response.slope, response.z)
        return {"e": new}

    def restart(self, carry: Carry, end: Any) -> Carry:
        return {"e": cleared(self.synthesiser.circuit.xp, carry["e"], end)} if end.any() else carry


TRACES: dict[str, type[Trace]] = {
    "full": FullTrace,
    "lazy": LazyTrace,
    "sweep": SweepTrace,
    "reduced": ReducedTrace,
    "local": LocalTrace,
    "leak": LeakTrace,
    "model": ModelTrace,
}
