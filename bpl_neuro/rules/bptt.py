"""Backpropagation through time, whole or truncated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bpl_neuro.checks import instance, positive_int
from bpl_neuro.circuit.build import of_step
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.transition import Transition, parameter_gradient
from bpl_neuro.rules.base import Carry, Gradients, Rule, remember, said

__all__ = ["BPTT", "TruncatedBPTT", "window_ends"]


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
    schedules = ("trial",)
    #: steps of a window, None for the whole trial
    steps: int | None = None

    def __init__(self, circuit: Circuit, *, feedback: str | Feedback = "exact") -> None:
        self.circuit = instance("circuit", circuit, Circuit, "a Circuit")
        self.feedback = Feedback.of(feedback)

    def kept(self, batch: int, steps: int) -> int:
        """Every step, linearised, and its c."""
        return batch * steps * (of_step(self.circuit) + self.circuit.n)

    def work(self, batch: int, steps: int) -> int:
        """The products over all steps at once."""
        return self.kept(batch, steps)

    def init(self, batch: int) -> Carry:
        """Nothing seen."""
        return {"transitions": [], "c": [], "end": []}

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any, learn: Callable[[Any], Any]
    ) -> tuple[Carry, dict[str, Any], Any]:
        """Remember the step; see `Rule.step`."""
        remember(carry, transitions=transition, c=c, end=end)
        return carry, {}, None

    def finish(self, carry: Carry, theta: Any) -> Gradients:
        """The sweep back."""
        if not carry["transitions"]:
            return {}
        cut = window_ends(carry["end"], self.steps, self.circuit.xp)
        xp, transitions = self.circuit.xp, carry["transitions"]
        wiring = transitions[0].wiring
        credit = wiring.split(xp.stack(carry["c"]))  # taken apart, as the steps want it on the way back
        for t in reversed(range(len(cut) - 1)):
            later = [[v[t + 1] for v in own] for own in credit]
            back = self.feedback.transition(transitions[t + 1]).back(later)
            going_on = ~cut[t][:, None] if cut[t].any() else True
            for own, arriving in zip(credit, back, strict=True):
                for v, more in zip(own, arriving, strict=True):
                    v[t] += going_on * more
        return {"psi": parameter_gradient(transitions, wiring.join(credit))}

    def __repr__(self) -> str:
        return f"BPTT({said(self)})"


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
        return f"TruncatedBPTT({said(self, steps=self.steps)})"


def window_ends(end: Sequence[Any], steps: int | None, xp: Any) -> list[Any]:
    """Which rows' windows end with each step, (B,) booleans: trials' ends, and every n steps before them.

    The last step of all counts as an end, so that a piece of a stream works as a trial.
    """
    left, found = xp.zeros(end[-1].shape, int), []
    for t in reversed(range(len(end))):
        left = xp.where(end[t] | (t == len(end) - 1), 0, left + 1)
        found.append(left % steps == 0 if steps else left == 0)
    return found[::-1]
