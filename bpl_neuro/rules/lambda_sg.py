"""Offline λ-SG: the forward view of BP(λ), as a rule."""

from __future__ import annotations

from typing import Any

from bpl_neuro.rules.base import Carry, Gradients
from bpl_neuro.rules.bp_lambda import BPLambda
from bpl_neuro.synthesiser import Synthesiser

__all__ = ["LambdaSG"]


class LambdaSG(BPLambda):
    """What BP(λ) approximates: the targets G^λ themselves, from a sweep back over the trial.

        G_t^λ = [c_{t+1} + γ ((1−λ) g(s_{t+1}) + λ G_{t+1}^λ)] J_{t+1},   dθ = −Σ_t (G_t^λ − g(s_t)) ∂g(s_t)/∂θ
        dΨ = Σ_t (c_t + κ g(s_t)) ∂s_t/∂Ψ

    With parameters frozen during the trial it is BP(λ) to rounding. Parameters as for `BPLambda`, but for `trace`.

    References
    ----------
    J. Pemberton & R. P. Costa, TMLR 2024, section 3.
    """

    name = "lambda_sg"

    def __init__(self, synthesiser: Synthesiser, **keywords: Any) -> None:
        super().__init__(synthesiser, **keywords, trace="sweep")

    def finish(self, carry: Carry, theta: Any) -> Gradients:
        """The sums over the trial."""
        transitions, responses = carry["transitions"], carry["trace"]["responses"]
        if not transitions:
            return {}
        end, c = carry["trace"]["end"], carry["c"]
        dtheta = self.circuit.xp.zeros_like(theta)
        target = 0 * c[-1]
        for t in reversed(range(len(transitions) - 1)):
            g_ahead = ~end[t + 1][:, None] * responses[t + 1].g
            ahead = (1 - self.lam) * g_ahead + self.lam * target
            target = self.feedback.transition(transitions[t + 1]).vjp(c[t + 1] + self.gamma * ahead)
            target *= ~end[t][:, None]
            error = ~end[t][:, None] * (target - responses[t].g)
            dtheta -= self.synthesiser.gradient(error, responses[t], self.trace.gain)
        return {"theta": dtheta, "psi": self.assigned(carry)}

    def assign(self, carry: Carry, transition: Any, c: Any, prospective: Any, end: Any) -> tuple[Carry, Any, Any]:
        """As BP(λ), and remember c."""
        carry.setdefault("c", []).append(c)
        return super().assign(carry, transition, c, prospective, end)
