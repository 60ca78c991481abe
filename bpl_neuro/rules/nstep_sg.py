"""n-step synthetic gradients: truncated windows, with a prediction of what comes after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bpl_neuro.checks import instance, number, positive_int
from bpl_neuro.circuit.build import of_step
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.transition import Transition, parameter_gradient
from bpl_neuro.model.units import per_step
from bpl_neuro.rules.base import Carry, Gradients, Rule, remember, said
from bpl_neuro.rules.bptt import window_ends

__all__ = ["NStepSG"]


class NStepSG(Rule):
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

    Attributes
    ----------
    pathway : (n, n) array or None
        As in `BPLambda`.

    References
    ----------
    M. Jaderberg et al. 2017, ICML, "Decoupled neural interfaces using synthetic gradients".
    """

    name = "nstep_sg"
    needs_synthesiser = True
    online, exact, local = False, False, False
    memory, time = "B·T·(n + factors)", "2 P·N² + |θ|"
    schedules = ("trial",)

    def __init__(
        self,
        synthesiser: Synthesiser,
        *,
        steps: int = 3,
        gamma: float | str = 1.0,
        sg_weight: float = 1.0,
        feedback: str | Feedback = "exact",
    ) -> None:
        self.synthesiser = instance("synthesiser", synthesiser, Synthesiser, "a Synthesiser")
        self.steps = positive_int("steps", steps)
        self.gamma = per_step("gamma", gamma, synthesiser.circuit.model.dt)
        self.sg_weight = number("sg_weight", sg_weight)
        self.feedback = Feedback.of(feedback)
        self.pathway: Any = None

    @property
    def circuit(self) -> Circuit:
        """The circuit whose synthesiser this is."""
        return self.synthesiser.circuit

    def initial_theta(self) -> Any:
        """That of the synthesiser."""
        return self.synthesiser.initial_theta()

    def kept(self, batch: int, steps: int) -> int:
        """Every step, linearised, its c, and what the synthesiser answered."""
        return batch * steps * (of_step(self.circuit) + 2 * self.circuit.n + self.synthesiser.m)

    def work(self, batch: int, steps: int) -> int:
        """The products over all steps at once."""
        return self.kept(batch, steps)

    def init(self, batch: int) -> Carry:
        """Nothing seen."""
        return {"transitions": [], "c": [], "end": [], "responses": []}

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any, learn: Callable[[Any], Any]
    ) -> tuple[Carry, dict[str, Any], Any]:
        """Remember the step; see `Rule.step`."""
        response = self.synthesiser(self.synthesiser.z(transition), theta)
        remember(carry, transitions=transition, c=c, end=end, responses=response)
        return carry, {"g": ~end[:, None] * response.g}, None

    def finish(self, carry: Carry, theta: Any) -> Gradients:
        """The windows, swept back from the last."""
        transitions, c, end, responses = (carry[key] for key in ("transitions", "c", "end", "responses"))
        if not transitions:
            return {}
        g = [~ending[:, None] * response.g for ending, response in zip(end, responses, strict=True)]
        cut = window_ends(end, self.steps, self.circuit.xp)
        dtheta = self.circuit.xp.zeros_like(theta)
        arriving = 0 * c[-1]
        target = arriving
        credits: list[Any] = []
        for t in reversed(range(len(transitions))):
            # What comes from after step t: another window's prediction, or this window's own later losses.
            last = cut[t][:, None]
            if t < len(transitions) - 1:
                back = self.feedback.transition(transitions[t + 1])
                arriving, target = back.vjp(credits[-1]), back.vjp(target)
                starts = cut[t] & ~end[t]
                error = starts[:, None] * (target - responses[t].g)
                dtheta -= self.synthesiser.gradient(error, responses[t])
            reaching = g[t] if self.pathway is None else g[t] @ self.pathway
            credits.append(c[t] + self.circuit.xp.where(last, self.sg_weight * reaching, arriving))
            target = c[t] + self.circuit.xp.where(last, self.gamma * g[t], target)
        return {"theta": dtheta, "psi": parameter_gradient(transitions, credits[::-1])}

    def __repr__(self) -> str:
        return f"NStepSG({said(self, steps=self.steps, gamma=self.gamma, sg_weight=self.sg_weight)})"
