"""The immediate gradient alone: what is left when nothing is said about the future."""

from __future__ import annotations

from typing import Any

from bpl_neuro.checks import instance
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules.base import Carry, Rule, options_text, register

__all__ = ["Immediate"]


@register
class Immediate(Rule):
    """dΨ = Σ_t c_t ∂s_t/∂Ψ: each step's loss changes only what that step did.

    Parameters
    ----------
    circuit : Circuit
    feedback : str or Feedback
        What the readout's errors go back through.
    """

    name = "immediate"
    online, exact, local = True, False, True
    memory, time = "nothing", "P·N²"

    def __init__(self, circuit: Circuit, *, feedback: str | Feedback = "exact") -> None:
        self.circuit = instance("circuit", circuit, Circuit, "a Circuit")
        self.feedback = Feedback.of(feedback)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, dict[str, Any], Any]:
        """One step; see `Rule.step`."""
        return carry, {"credit": c}, transition.parameter_gradient(c)

    def __repr__(self) -> str:
        return f"Immediate({options_text(self)})"
