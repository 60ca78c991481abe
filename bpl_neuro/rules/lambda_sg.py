"""Offline λ-SG, the forward view of BP(λ): what a sweep back over whole trials gives.

With parameters frozen in a trial, BP(λ)'s Σ_t δ_t e_t is Σ_t (G_t^λ − g_t) ∂g_t/∂θ, so that nothing need be carried
forwards: ``BPLambda(…, trace="sweep")`` and `LambdaSG` are the same sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.model.units import per_step
from bpl_neuro.rules.base import Carry, Gradients, Rule, altered, options_text, register
from bpl_neuro.rules.synthetic import SyntheticGradientRule

__all__ = ["LambdaSG", "sweep"]


def sweep(rule: Any, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
    """Both gradients of a batch with frozen parameters.

        G_t^λ = [c_{t+1} + γ ((1−λ) g(s_{t+1}) + λ G_{t+1}^λ)] J_{t+1},   dθ = −Σ_t (G_t^λ − g(s_t)) ∂g(s_t)/∂θ
        dΨ = Σ_t (c_t + κ g(s_t)) ∂s_t/∂Ψ

    Where errors go back through other weights than the circuit's own, only δ does; the trace stays the circuit's:

        dθ = −Σ_t v_t ∂g(s_t)/∂θ,   v_t = δ_t + γλ v_{t+1} J_{t+1}

    g and v are 0 at a trial's end. Costs one `back` a step (two with feedback), and one product for all steps.

    Parameters
    ----------
    rule : SyntheticGradientRule
        With `lam`, `gain` and `assign_all`.
    carry : Carry
        Where the rule notes how well it predicted.
    trajectory : Trajectory
    theta : (|θ|,) array
    """
    s, c, end = rule.synthesiser, trajectory.c, trajectory.end
    response = s(s.z(trajectory.rows), theta)
    g = response.g.reshape(c.shape)
    g[end] = 0
    if rule.feedback.kind == "exact":
        g[-1] = 0
        error = _targets(rule, trajectory, g)
        error -= g
        error[end] = 0
    else:
        error = _carried_errors(rule, trajectory, g)
    rule.note_fit(carry, -error, g)
    dtheta = s.gradient(error.reshape(-1, s.n), response, rule.gain)
    return {"theta": -dtheta, "psi": rule.assign_all(trajectory, rule.prospective(g))}


def _targets(rule: Any, trajectory: Trajectory, g: Any) -> Any:
    """G^λ, (T, B, n); 0 at the last step."""
    c = trajectory.c
    ahead = c + (rule.gamma * (1 - rule.lam)) * g if rule.lam < 1 else c
    return trajectory.carry_back(ahead, ~trajectory.end, rule.gamma * rule.lam, give="arriving")


def _carried_errors(rule: Any, trajectory: Trajectory, g: Any) -> Any:
    """v, (T, B, n): δ through the feedback, carried back by the circuit's own J."""
    c, going_on = trajectory.c, ~trajectory.end
    arriving = trajectory.back_through(rule.feedback.transition).vjp(c + rule.gamma * g)
    errors = trajectory.rows.wiring.xp.zeros_like(c)
    errors[:-1] = going_on[:-1, :, None] * (arriving[1:] - g[:-1])
    return trajectory.carry_back(errors, going_on, rule.gamma * rule.lam)


@register
class LambdaSG(SyntheticGradientRule):
    """What BP(λ) approximates: see `sweep`. Parameters as for `BPLambda`, but for `trace`.

    References
    ----------
    J. Pemberton & R. P. Costa, TMLR 2024, section 3.
    """

    name = "lambda_sg"
    online, local, deferred = False, False, True
    memory, time = "B·T·(n + factors)", "P·N² + |θ|"

    identified = {"continuous_time": "gain"}

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
        super().__init__(synthesiser, gamma, sg_weight, feedback)
        self.lam = per_step("lam", lam, self.circuit.model)
        self.gain = self.circuit.model.dt if continuous_time else 1.0

    def informed(self) -> Rule:
        """With λ = 1."""
        return altered(self, lam=1.0)  # type: ignore[no-any-return]

    def kept(self, trials: int, steps: int) -> int:
        """Every step, linearised, and what the synthesiser answered."""
        return trials * steps * (self.circuit.numbers_per_step + self.synthesiser.n + self.synthesiser.k)

    def work(self, trials: int, steps: int) -> int:
        """The products over all steps at once."""
        return 2 * self.kept(trials, steps)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, Mapping[str, Any], Any]:
        """Signals alone; see `Rule.step`."""
        g = ~end[:, None] * self.synthesiser(self.synthesiser.z(transition), theta).g
        return carry, {"g": g, "credit": c + self.prospective(g)}, None

    def finish(self, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
        """The sums over the trials."""
        return sweep(self, carry, trajectory, theta)

    def __repr__(self) -> str:
        return f"LambdaSG({options_text(self, gamma=self.gamma, lam=self.lam, sg_weight=self.sg_weight)})"
