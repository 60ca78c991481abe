"""Accumulate BP(λ) (Pemberton & Costa, TMLR 2024): a reader starts here.

    s_t, J_t   the circuit's state, and ∂s_t/∂s_{t−1}            c_t   ∂L_t/∂s_t, the gradient of the loss at step t
    g(s_t; θ)  the synthesiser's prediction of the gradient      δ_t   its temporal-difference error, a row vector
               of all later losses with respect to s_t           e_t   its eligibility trace, n × |θ|
    γ, λ, κ    discount, decay of the trace, weight of g in the credit C_t that the circuit Ψ learns by

Step t, for every trial of the batch:

    1  x_t arrives; the circuit steps to s_t; J_t is known; the loss, if any, gives c_t          the loop (bpl_neuro.train.loop)
    2  δ_{t−1} = (c_t + γ (1−end_t) g(s_t; θ)) J_t − g(s_{t−1}; θ)                               `td_error`
    3  θ ← θ + α Σ_B δ_{t−1} e_{t−1}                                                             `collect`, then the loop moves θ
    4  e_t = γλ J_t e_{t−1} + ∂g(s_t; θ)/∂θ                                                      `step`
    5  C_t = c_t + κ (1−end_t) g(s_t; θ),   Ψ ← Ψ − η Σ_B C_t ∂s_t/∂Ψ                            `step`, then the loop moves Ψ
    6  where end_t: e = 0, and the next step has no δ                                            `step`
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules.base import Carry, Gradients, options_text, register
from bpl_neuro.rules.lambda_sg import sweep
from bpl_neuro.rules.traces import TracedRule

__all__ = ["BPLambda"]


#: rules for synthesisers whose target is "current", in the place of these: `bpl_neuro.rules.compatible`
CURRENT_TARGET: dict[type[BPLambda], type[BPLambda]] = {}


@register
class BPLambda(TracedRule):
    """Accumulate BP(λ).

    Parameters
    ----------
    synthesiser : Synthesiser
    gamma, lam : float or str
        Discount γ and trace decay λ per step, in [0, 1]; or time constants like ``"50*ms"``: γ = exp(−dt/τ).
    sg_weight : float
        κ ≥ 0: weight of the synthetic gradient in the circuit's credit; it never enters the TD target.
    trace : {"auto", "full", "lazy", "sweep", "local", "leak", "model", "reduced"}
        How the trace is held; see `bpl_neuro.rules.traces`. "auto" takes the cheapest exact form, once, when the first
        batch comes.
    window : int, optional
        For "lazy": how many steps back an error is carried; the whole trial by default.
    feedback : str or Feedback
        What errors and credit between neurons go back through: "exact", "sign", "random", "noisy". The trace is carried
        forwards, by the circuit's own weights.
    continuous_time : bool
        Weight the trace's input by dt, so that α is per second. With a readout that does the same for running losses,
        halving dt changes what is learned only to first order.

    Raises
    ------
    ValidationError
        For a value outside its range, or a time constant in a model without a step in time.

    References
    ----------
    J. Pemberton & R. P. Costa, "BP(λ): Online Learning via Synthetic Gradients", TMLR 2024, Algorithm 1.
    """

    name = "bp_lambda"

    def __new__(cls, synthesiser: Any = None, **options: Any) -> BPLambda:
        """For a synthesiser whose target is "current", the rule of that class."""
        if getattr(synthesiser, "target", None) == "current" and cls in CURRENT_TARGET:
            return super().__new__(CURRENT_TARGET[cls])
        return super().__new__(cls)

    def kept(self, trials: int, steps: int) -> int:
        """The trace, and z of the step before."""
        return super().kept(trials, steps) + trials * self.synthesiser.k

    def init(self, trials: int, steps: int) -> Carry:
        """No step before, no trace."""
        xp, s = self.circuit.xp, self.synthesiser
        return {
            "trace": self.trace.init(trials, steps),
            "started": xp.zeros(trials, bool),
            "z": xp.zeros((trials, s.k), self.circuit.dtype),
        }

    def td_error(self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any) -> Any:
        """δ_{t−1}, (B, n): both predictions by the same θ; 0 in a trial's first step."""
        g = self.synthesiser(self.synthesiser.z(transition), theta).g
        g_before = self.synthesiser(carry["z"], theta).g
        target = self.feedback.transition(transition).vjp(c + ~end[:, None] * (self.gamma * g))  # line 2
        return carry["started"][:, None] * (target - g_before)

    def collect(self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any) -> Any:
        """Line 3: −Σ_B δ_{t−1} e_{t−1}, or None where no trial has a δ."""
        if self.deferred or not carry["started"].any():
            return None
        return -self.trace.collect(carry["trace"], self.td_error(carry, transition, c, end, theta))

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, Mapping[str, Any], Any]:
        """Lines 4 to 6; see `Rule.step`."""
        z = self.synthesiser.z(transition)
        response = self.synthesiser(z, theta)
        trace = self.trace.step(carry["trace"], transition, response)  # line 4
        g = ~end[:, None] * response.g
        credit, moved, gradient = self.assign(carry, transition, c, self.prospective(g), end)  # line 5
        trace = self.trace.restart(trace, end)  # line 6
        return moved | {"trace": trace, "started": ~end, "z": z}, {"g": g, "credit": credit}, gradient

    def assign(
        self, carry: Carry, transition: Transition, c: Any, prospective: Any, end: Any
    ) -> tuple[Any, Carry, Any]:
        """C_t = c_t + κ g, what else is remembered, and Σ_B C_t ∂s_t/∂Ψ."""
        credit = c + prospective
        return credit, {}, None if self.deferred else transition.parameter_gradient(credit)

    def observe(self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any) -> Mapping[str, Any]:
        """δ_{t−1}."""
        return {"delta": self.td_error(carry, transition, c, end, theta)}

    # With parameters frozen in a trial the same sums follow from one sweep back over it.

    def finish(self, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
        """Σ δ e and Σ C ∂s/∂Ψ over the trials, by offline λ-SG."""
        return sweep(self, carry, trajectory, theta)

    def __repr__(self) -> str:
        options = {"gamma": self.gamma, "lam": self.lam, "sg_weight": self.sg_weight, **self.trace_options()}
        return f"{type(self).__name__}({options_text(self, **options)})"
