"""BP(λ) for a synthesiser that is compatible with the circuit.

Bootstrapping is between neurons; a neuron's own memory is exact:

    a_t = c_t J_t + γ (1−λ) q̂_t W_t D_{t−1}                      what arrives at s_{t−1} from step t
    e_t = γ (A_t + λ O_t) e_{t−1} + ∂s_t/∂Ψ                      (n × |Ψ|: of the circuit's own synapses)
    θ's correlation: Σ_B [ a_t e_{t−1} − q̂_t y_tᵀ ]              the prediction is taken off where it was made
    Ψ's gradient:    Σ_B (c_t C_t + κ q̂_t) y_tᵀ

q̂_t is 0 at a trial's end. The forward view: G_t^λ = a_{t+1} + γ G_{t+1}^λ (A_{t+1} + λ O_{t+1}), and the target of q̂_t
is G_t^λ C_t. At λ = 1 the trace is RTRL's influence matrix, and the target the gradient of all later losses: RTRL's
credit, kept in θ and used before the outcome. At λ = 0 the trace is e-prop's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bpl_neuro.circuit.compatible import CompatibleSynthesiser
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules.base import Carry, Gradients
from bpl_neuro.rules.bp_lambda import CURRENT_TARGET, BPLambda
from bpl_neuro.rules.bp_lambda_eprop import BPLambdaEProp
from bpl_neuro.rules.eligibility import own_past, sweep_back
from bpl_neuro.rules.traces.base import Trace
from bpl_neuro.rules.traces.compatible import COMPATIBLE_TRACES, CompatibleTrace

__all__ = ["CompatibleBPLambda", "CompatibleBPLambdaEProp", "sweep"]


class CompatibleBPLambda(BPLambda):
    """What ``BPLambda(synthesiser)`` is where the synthesiser's target is "current"; parameters as there.

    There is no δ: nothing predicts the credit of a state. Traces: `bpl_neuro.rules.traces.compatible`.
    """

    synthesiser: CompatibleSynthesiser
    target: ClassVar[str] = "current"
    forms: ClassVar[Mapping[str, type[Trace]]] = COMPATIBLE_TRACES

    @property
    def trace(self) -> CompatibleTrace:
        """The trace in its form, which is one of this class's."""
        held = super().trace
        assert isinstance(held, CompatibleTrace)
        return held

    #: whether the synthesiser learns only what e-prop does not carry
    residual: bool = False

    @property
    def decays(self) -> dict[str, Any]:
        """γ and λ are two things here."""
        return {"gamma": self.gamma, "lam": self.lam, "residual": self.residual}

    def choices(self, frozen: bool) -> tuple[str, ...]:
        """Where bootstrapping is all there is between neurons, the local trace has the same numbers."""
        local = self.lam == 0 and not self.residual
        return ("sweep",) if frozen else ("lazy", "full", *(["local"] if local else []))

    def kept(self, trials: int, steps: int) -> int:
        """The trace."""
        return self.trace.kept(trials, steps)

    def init(self, trials: int, steps: int) -> Carry:
        """No trace."""
        return {"trace": self.trace.init(trials, steps), "started": self.circuit.xp.zeros(trials, bool)}

    def currents(self, transition: Transition, end: Any, theta: Any) -> list[Any]:
        """q̂, (B, P, N) of each population; 0 at a trial's end."""
        going_on = ~end[:, None, None]
        return [q * going_on for q in self.synthesiser(self.synthesiser.z(transition), theta)]

    def arriving(self, back: Transition | Trajectory, c: Any, currents: Sequence[Any]) -> Any:
        """a_t through the feedback; without what e-prop carries, c_t O_t in the place of c_t J_t."""
        arriving = back.vjp(c, "between" if self.residual else "both")
        if share := self.gamma * (1 - self.lam):
            arriving = arriving + share * back.back_from_inputs(currents)
        return arriving

    def collect(self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any) -> Any:
        """−Σ_B [ a_t e_{t−1} − q̂_t y_tᵀ ]."""
        if self.deferred:
            return None
        currents = self.currents(transition, end, theta)
        arriving = self.arriving(self.feedback.transition(transition), c, currents)
        own = transition.vjp(c, "within") if self.residual else None
        met = self.trace.collect(carry["trace"], arriving, own, transition.mask)
        return self.gain * (transition.gradient_from_inputs(currents) - met)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, Mapping[str, Any], Any]:
        """The trace moves on, and the circuit's gradient; see `Rule.step`."""
        currents = self.currents(transition, end, theta)
        heard = self.prospective(currents)
        gradient, moved = self.assign_currents(carry, transition, c, heard, end)
        if "trace" not in moved:
            moved["trace"] = self.trace.restart(self.trace.step(carry["trace"], transition), end)
        return moved | {"started": ~end}, {"q": self.synthesiser.flat(currents)}, gradient

    def assign_currents(
        self, carry: Carry, transition: Transition, c: Any, heard: Sequence[Any], end: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Σ_B (c_t C_t + κ q̂_t) y_tᵀ, and what else is remembered, the trace with it where it has moved."""
        if self.deferred:
            return None, {}
        received = [w + q for w, q in zip(transition.input_credit(c), heard, strict=True)]
        return transition.gradient_from_inputs(received), {}

    def observe(self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any) -> Mapping[str, Any]:
        """Nothing further."""
        return {}

    def prospective(self, g: Sequence[Any]) -> list[Any]:
        """κ q̂, through the pathway."""
        if self.pathway is not None:
            g = self.synthesiser.parts(self.synthesiser.flat(g) @ self.pathway)
        return [self.sg_weight * q for q in g] if self.sg_weight != 1 else list(g)

    def assign_all(self, trajectory: Trajectory, prospective: Any) -> Any:
        """The circuit's gradient over whole trials; `prospective` is κ q̂ of all rows."""
        received = trajectory.rows.input_credit(trajectory.c.reshape(-1, self.circuit.n))
        return trajectory.rows.gradient_from_inputs([w + q for w, q in zip(received, prospective, strict=True)])

    def finish(self, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
        """By the forward view."""
        return sweep(self, carry, trajectory, theta)


class CompatibleBPLambdaEProp(BPLambdaEProp, CompatibleBPLambda):
    """What ``BPLambdaEProp(synthesiser)`` is where the synthesiser's target is "current"; parameters as there.

    As a learning signal the prediction is one step late, L_t = c_t + c_{t+1} O_{t+1} + κ γ̃ q̂_{t+1} W D. In the residual
    form e-prop carries a neuron's own memory, and q̂ learns the rest alone:

        target    (G_t − G_t^own) C_t,   G_t^own = (c_{t+1} + γ G_{t+1}^own) A_{t+1}
        a_t = (c_t + γ G_t^own) O_t + γ (1−λ) q̂_t W_t D_{t−1}     Ψ's gradient: Σ c_t ε_t + κ Σ q̂_t y_tᵀ

    which is exact, too, where θ is the least-squares fit at λ = 1. Forwards in time Σ γ G_t^own O_t e_{t−1} is
    Σ c_t A_t f_{t−1} with f_t = γ (A_t f_{t−1} + O_t e_{t−1}).

    At λ = 0 the local trace is e-prop's own: where both decay alike one is held for both.
    """

    @property
    def one_trace(self) -> bool:
        """Whether ε is the synthesiser's trace as well."""
        return self.form == "local" and self.lam == 0 and self.eligibility.decay == self.gamma

    @property
    def memory(self) -> str:  # type: ignore[override]
        """That of the trace, and ε."""
        return self.trace.memory if self.one_trace else super().memory

    @property
    def time(self) -> str:  # type: ignore[override]
        """That of the trace, and ε."""
        return self.trace.time if self.one_trace else super().time

    def kept(self, trials: int, steps: int) -> int:
        """The trace, and ε."""
        return self.trace.kept(trials, steps) if self.one_trace else super().kept(trials, steps)

    def init(self, trials: int, steps: int) -> Carry:
        """No trace, and ε = 0."""
        return CompatibleBPLambda.init(self, trials, steps) if self.one_trace else super().init(trials, steps)

    def through(self, back: Transition | Trajectory, prospective: Sequence[Any]) -> Any:
        """κ q̂ W D."""
        return back.back_from_inputs(prospective)

    def assign_currents(
        self, carry: Carry, transition: Transition, c: Any, heard: Sequence[Any], end: Any
    ) -> tuple[Any, dict[str, Any]]:
        """L ε; or c ε + κ q̂ yᵀ."""
        if self.deferred:
            return None, {}
        back, started = self.feedback.transition(transition), carry["started"][:, None]
        late = self.discounting(back, c) if self.residual else self.late(back, c, heard)
        place = "trace" if self.one_trace else "eligibility"
        eligibility = carry[place]
        gradient = self.eligibility.advance(
            eligibility, transition, now=c, late=None if late is None else started * late
        )
        if self.residual:
            gradient += transition.gradient_from_inputs(heard)
        return gradient, {place: self.eligibility.restart(eligibility, end)}

    def assign_all(self, trajectory: Trajectory, prospective: Any) -> Any:
        """The same by a sweep back."""
        if not self.residual:
            return super().assign_all(trajectory, prospective)
        signals, later = trajectory.c, self.discounting(trajectory.back_through(self.feedback.transition), trajectory.c)
        if later is not None:
            signals = signals.copy()
            signals[:-1] += ~trajectory.end[:-1, :, None] * later[1:]
        carried = sweep_back(trajectory, signals, own_past, self.eligibility.decay)
        return carried + trajectory.rows.gradient_from_inputs(prospective)


def sweep(rule: CompatibleBPLambda, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
    """Both gradients of a batch with frozen parameters, by one way back over the trials (two in the residual form).

    Costs a `back` a step, and three products over all steps at once.
    """
    wiring, end = trajectory.rows.wiring, trajectory.end
    gamma, lam = rule.gamma, rule.lam
    currents = rule.currents(trajectory.rows, end.reshape(-1), theta)
    said = rule.arriving(trajectory.back_through(rule.feedback.transition), trajectory.c, currents)
    if rule.residual and gamma:  # what f_t carries forwards, so by the circuit's own weights
        said = said + gamma * trajectory.vjp(_own_memory(trajectory, gamma), "between")
    going_on, arriving = ~end, wiring.xp.zeros_like(said)
    arriving[:-1] = going_on[:-1, :, None] * said[1:]
    ways = trajectory.back_through(lambda step: step.coupled(lam))
    wanted = ways.carry_back(arriving, going_on, gamma, "both" if lam else "within", give="credit")
    missed = [q - w for q, w in zip(currents, wanted, strict=True)]
    rule.note_fit(carry, rule.synthesiser.flat(missed), rule.synthesiser.flat(currents))
    return {
        "theta": rule.gain * trajectory.rows.gradient_from_inputs(missed),
        "psi": rule.assign_all(trajectory, rule.prospective(currents)),
    }


def _own_memory(trajectory: Trajectory, gamma: float) -> Any:
    """G_t^own = (c_{t+1} + γ G_{t+1}^own) A_{t+1}, (T, B, n); 0 at a trial's end."""
    return trajectory.carry_back(trajectory.c, ~trajectory.end, gamma, "within", give="arriving")


CURRENT_TARGET |= {BPLambda: CompatibleBPLambda, BPLambdaEProp: CompatibleBPLambdaEProp}
