"""Offline λ-SG: the forward view of BP(λ), as a rule."""

from __future__ import annotations

from typing import Any

from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.transition import parameter_gradient
from bpl_neuro.rules.base import Carry, Gradients
from bpl_neuro.rules.bp_lambda import BPLambda

__all__ = ["LambdaSG"]


class LambdaSG(BPLambda):
    """What BP(λ) approximates: the targets G^λ themselves, step by step, from a sweep back over the trial.

        G_t^λ = [c_{t+1} + γ ((1−λ) g(s_{t+1}) + λ G_{t+1}^λ)] J_{t+1},   dθ = −Σ_t (G_t^λ − g(s_t)) ∂g(s_t)/∂θ
        dΨ = Σ_t (c_t + κ g(s_t)) ∂s_t/∂Ψ

    With parameters frozen during the trial it is BP(λ) to rounding, whose ``trace="sweep"`` does the same for all steps
    at once. Parameters as for `BPLambda`, but for `trace`.

    References
    ----------
    J. Pemberton & R. P. Costa, TMLR 2024, section 3.
    """

    name = "lambda_sg"

    def __init__(
        self,
        synthesiser: Synthesiser,
        *,
        gamma: float | str = 1.0,
        lam: float | str = 1.0,
        sg_weight: float = 1.0,
        feedback: str | Feedback = "exact",
        continuous_time: bool = False,
    ) -> None:
        super().__init__(
            synthesiser, gamma=gamma, lam=lam, sg_weight=sg_weight, trace="sweep", feedback=feedback,
            continuous_time=continuous_time,
        )  # fmt: skip

    def finish(self, carry: Carry, theta: Any) -> Gradients:
        """The sums over the trial."""
        transitions, c, end = (carry[key] for key in ("transitions", "c", "end"))
        if not transitions:
            return {}
        responses = [self.synthesiser(self.synthesiser.z(transition), theta) for transition in transitions]
        g = [~ending[:, None] * response.g for ending, response in zip(end, responses, strict=True)]
        dtheta, target = 0 * theta, 0 * c[-1]
        for t in reversed(range(len(transitions) - 1)):
            ahead = (1 - self.lam) * g[t + 1] + self.lam * target
            target = self.feedback.transition(transitions[t + 1]).vjp(c[t + 1] + self.gamma * ahead)
            target *= ~end[t][:, None]
            dtheta -= self.synthesiser.gradient(target - g[t], responses[t], self.trace.gain)
        credits = [now + self._prospective(later) for now, later in zip(c, g, strict=True)]
        return {"theta": dtheta, "psi": parameter_gradient(transitions, credits)}
