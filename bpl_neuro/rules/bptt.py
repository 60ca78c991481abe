"""Backpropagation through time, whole or truncated."""

from __future__ import annotations

from typing import Any

from bpl_neuro.checks import instance, positive_int
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules.base import Carry, Gradients, Rule, options_text, register

__all__ = ["BPTT", "TruncatedBPTT", "window_ends"]


@register
class BPTT(Rule):
    """Backpropagation through time: G_t = (c_{t+1} + G_{t+1}) J_{t+1}, dΨ = Σ_t (c_t + G_t) ∂s_t/∂Ψ.

    Parameters
    ----------
    circuit : Circuit
    feedback : str or Feedback
        What credit goes back through; the readout's errors too.

    References
    ----------
    P. Werbos 1990, Proc. IEEE 78, 1550–1560.
    """

    name = "bptt"
    online, exact, local = False, True, False
    memory, time = "B·T·(n + factors)", "P·N²"
    deferred = True
    #: steps of a window, None for the whole trial
    steps: int | None = None

    def __init__(self, circuit: Circuit, *, feedback: str | Feedback = "exact") -> None:
        self.circuit = instance("circuit", circuit, Circuit, "a Circuit")
        self.feedback = Feedback.of(feedback)

    def kept(self, trials: int, steps: int) -> int:
        """Every step, linearised, and its c."""
        return trials * steps * (self.circuit.numbers_per_step + self.circuit.n)

    def work(self, trials: int, steps: int) -> int:
        """The products over all steps at once."""
        return self.kept(trials, steps)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, dict[str, Any], Any]:
        """Nothing is known yet; see `Rule.step`."""
        return carry, {}, None

    def finish(self, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
        """The sweep back."""
        cut = window_ends(trajectory.end, self.steps, trajectory.rows.wiring.xp)
        ways = trajectory.back_through(self.feedback.transition)
        return {"psi": trajectory.rows.gradient_from_inputs(ways.carry_back(trajectory.c, ~cut, give="credit"))}

    def __repr__(self) -> str:
        return f"BPTT({options_text(self)})"


@register
class TruncatedBPTT(BPTT):
    """BPTT within disjoint windows of n steps, counted from a trial's end: the remainder is first. No credit crosses.

    Parameters
    ----------
    circuit : Circuit
    steps : int
        n.
    feedback : str or Feedback

    References
    ----------
    R. J. Williams & J. Peng 1990, Neural Comput. 2, 490–501.
    """

    name = "truncated_bptt"
    online, exact, local = False, False, False

    def __init__(self, circuit: Circuit, *, steps: int = 3, feedback: str | Feedback = "exact") -> None:
        super().__init__(circuit, feedback=feedback)
        self.steps = positive_int("steps", steps)

    def __repr__(self) -> str:
        return f"TruncatedBPTT({options_text(self, steps=self.steps)})"


def window_ends(end: Any, steps: int | None, xp: Any) -> Any:
    """Which rows' windows end with each step, (T, B) booleans: trials' ends, and every n steps before them.

    The last step of all counts as an end, so that a piece of a stream works as a trial.
    """
    cut = end.copy()
    cut[-1] = True
    if steps is None:
        return cut
    left = xp.zeros(end[-1].shape, int)
    for t in reversed(range(len(end))):
        left = xp.where(cut[t], 0, left + 1)
        cut[t] = left % steps == 0
    return cut
