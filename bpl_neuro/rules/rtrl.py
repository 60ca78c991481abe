"""Real-time recurrent learning: the exact gradient, forwards in time, at n times the memory of the weights."""

from __future__ import annotations

from typing import Any

from bpl_neuro.checks import instance
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules.base import Carry, Rule, clear, options_text, register
from bpl_neuro.rules.traces.influence import carried, influence, influence_size, move_on

__all__ = ["RTRL"]


@register
class RTRL(Rule):
    """The influence matrix M_t = J_t M_{t−1} + ∂s_t/∂Ψ, dΨ = Σ_t c_t M_t.

    Parameters
    ----------
    circuit : Circuit
    feedback : str or Feedback
        What the readout's errors go back through.

    References
    ----------
    R. J. Williams & D. Zipser 1989, Neural Comput. 1, 270–280.
    """

    name = "rtrl"
    online, exact, local = True, True, False
    memory, time = "B·n·|Ψ|", "2 n²·|Ψ|"

    def __init__(self, circuit: Circuit, *, feedback: str | Feedback = "exact") -> None:
        self.circuit = instance("circuit", circuit, Circuit, "a Circuit")
        self.feedback = Feedback.of(feedback)

    def kept(self, trials: int, steps: int) -> int:
        """M, and room for the products."""
        return influence_size(self.circuit, trials, self.circuit.layout.size)

    def work(self, trials: int, steps: int) -> int:
        """J, and c ∂s/∂Ψ of the largest group of synapses."""
        return 2 * trials * self.circuit.n**2 + 2 * trials * self.circuit.layout.size

    def init(self, trials: int, steps: int) -> Carry:
        """M = 0."""
        return influence(self.circuit, trials, self.circuit.layout.size)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, dict[str, Any], Any]:
        """One step; see `Rule.step`."""
        carry = move_on(carry, transition.jacobian(), self.circuit)
        M = carried(carry)
        transition.add_parameter_jacobian(M)
        gradient = c.reshape(-1) @ M.reshape(-1, M.shape[-1])
        if end.any():
            clear(self.circuit.xp, M, end)
        return carry, {"learning_signal": c}, gradient

    def __repr__(self) -> str:
        return f"RTRL({options_text(self)})"
