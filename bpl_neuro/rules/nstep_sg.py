"""n-step synthetic gradients: truncated windows, with a prediction of what comes after each."""

from __future__ import annotations

from typing import Any

from bpl_neuro.checks import positive_int
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules.base import Carry, Gradients, options_text, register
from bpl_neuro.rules.bptt import window_ends
from bpl_neuro.rules.synthetic import SyntheticGradientRule

__all__ = ["NStepSG"]


@register
class NStepSG(SyntheticGradientRule):
    """Disjoint windows of n steps, counted from a trial's end; the remainder comes first.

        credit within a window     G_t = (c_{t+1} + G_{t+1}) J_{t+1}, where a window ends G_t = κ g(s_t), a trial 0
        target at a window's start the credit that arrives there, with γ g in the place of κ g at the window's end
        dθ = −Σ (target − g) ∂g/∂θ at the states that windows start from (s_0 is none)

    Parameters
    ----------
    synthesiser : Synthesiser
    steps : int
        n.
    gamma : float or str
        γ per step, or a time constant.
    sg_weight : float
        κ.
    feedback : str or Feedback
        What errors and credit between neurons go back through.

    References
    ----------
    M. Jaderberg et al. 2017, ICML, "Decoupled neural interfaces using synthetic gradients".
    """

    name = "nstep_sg"
    online, local, deferred = False, False, True
    memory, time = "B·T·(n + factors)", "2 P·N² + |θ|"

    def __init__(
        self,
        synthesiser: Synthesiser,
        *,
        steps: int = 3,
        gamma: float | str = 1.0,
        sg_weight: float = 1.0,
        feedback: str | Feedback = "exact",
    ) -> None:
        super().__init__(synthesiser, gamma, sg_weight, feedback)
        self.steps = positive_int("steps", steps)

    @property
    def regression(self) -> None:
        """It learns from the states alone at which windows start."""
        return

    def kept(self, trials: int, steps: int) -> int:
        """Every step, linearised, its c, and what the synthesiser answered."""
        return trials * steps * (self.circuit.numbers_per_step + 2 * self.circuit.n + self.synthesiser.m)

    def work(self, trials: int, steps: int) -> int:
        """The products over all steps at once."""
        return self.kept(trials, steps)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, dict[str, Any], Any]:
        """Signals alone; see `Rule.step`."""
        return carry, {"g": ~end[:, None] * self.synthesiser(self.synthesiser.z(transition), theta).g}, None

    def finish(self, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
        """The windows, swept back from the last."""
        s, c, end, xp = self.synthesiser, trajectory.c, trajectory.end, self.circuit.xp
        response = s(s.z(trajectory.rows), theta)
        predicted = response.g.reshape(c.shape)
        g = ~end[..., None] * predicted
        cut = window_ends(end, self.steps, xp)
        ways = trajectory.back_through(self.feedback.transition)
        error, credits = xp.zeros_like(c), xp.empty_like(c)
        arriving = target = 0 * c[-1]
        for t in reversed(range(len(trajectory))):
            # What comes from after step t: another window's prediction, or this window's own later losses.
            last = cut[t][:, None]
            if t < len(trajectory) - 1:
                back = ways[t + 1]
                arriving, target = back.vjp(credits[t + 1]), back.vjp(target)
                starts = cut[t] & ~end[t]
                error[t] = starts[:, None] * (target - predicted[t])
            credits[t] = c[t] + xp.where(last, self.prospective(g[t]), arriving)
            target = c[t] + xp.where(last, self.gamma * g[t], target)
        dtheta = s.gradient(error.reshape(-1, s.n), response)
        return {"theta": -dtheta, "psi": trajectory.parameter_gradient(credits)}

    def __repr__(self) -> str:
        return f"NStepSG({options_text(self, steps=self.steps, gamma=self.gamma, sg_weight=self.sg_weight)})"
