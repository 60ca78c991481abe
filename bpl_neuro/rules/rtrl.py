"""Real-time recurrent learning: the exact gradient, forwards in time, at n times the memory of the weights."""

from __future__ import annotations

from typing import Any

from bpl_neuro.checks import instance, positive_int, shown
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.compatible import CompatibleSynthesiser
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry, Rule, options_text, register
from bpl_neuro.rules.traces.compatible import COMPATIBLE_TRACES, CompatibleTrace

__all__ = ["RTRL"]

FORMS = ("full", "lazy")


@register
class RTRL(Rule):
    """The influence matrix M_t = J_t M_{t−1} + ∂s_t/∂Ψ, dΨ = Σ_t c_t M_t.

    M is the trace of a compatible synthesiser at γ = λ = 1 (`bpl_neuro.rules.traces.compatible`), in one of its forms.

    Parameters
    ----------
    circuit : Circuit
    trace : {"full", "lazy"}
        "full" holds M. "lazy" keeps the last steps, linearised, and carries c_t back through them: the same numbers,
        also where weights move at every step, and far cheaper while trials have fewer than n² steps.
    window : int, optional
        For "lazy": how many steps back; then it is no longer exact.
    feedback : str or Feedback
        What the readout's errors go back through.

    References
    ----------
    R. J. Williams & D. Zipser 1989, Neural Comput. 1, 270–280.
    """

    name = "rtrl"
    online, local = True, False

    identified = {"window": None}

    def __init__(
        self,
        circuit: Circuit,
        *,
        trace: str = "full",
        window: int | None = None,
        feedback: str | Feedback = "exact",
    ) -> None:
        self.circuit = instance("circuit", circuit, Circuit, "a Circuit")
        if not isinstance(trace, str) or trace not in FORMS:
            raise ValidationError(f"`trace` must be {' or '.join(FORMS)}, got {shown(trace)}")
        if window is not None and trace != "lazy":
            raise ValidationError(f'`window` belongs to `trace` = "lazy", got {shown(trace)}')
        options: dict[str, Any] = {} if window is None else {"window": positive_int("window", window)}
        self.trace: CompatibleTrace = COMPATIBLE_TRACES[trace](CompatibleSynthesiser(circuit), 1.0, 1.0, **options)
        self.feedback = Feedback.of(feedback)

    @property
    def exact(self) -> bool:  # type: ignore[override]  # what is a fact of a class elsewhere is the trace's here
        """Unless a window cuts it."""
        return self.trace.exact

    @property
    def streams(self) -> bool:
        """Whether memory stays bounded without an end."""
        return self.trace.bounded

    @property
    def memory(self) -> str:  # type: ignore[override]
        """That of the trace."""
        return self.trace.memory

    @property
    def time(self) -> str:  # type: ignore[override]
        """That of the trace."""
        return self.trace.time

    def kept(self, trials: int, steps: int) -> int:
        """M, and room for the products."""
        return self.trace.kept(trials, steps)

    def work(self, trials: int, steps: int) -> int:
        """What the trace needs beside it, and c ∂s/∂Ψ of the largest group of synapses."""
        return self.trace.work(trials, steps) + 2 * trials * self.circuit.layout.size

    def report(self, carry: Carry) -> dict[str, float]:
        """``window_error`` where a window cut it."""
        return self.trace.report(carry)

    def init(self, trials: int, steps: int) -> Carry:
        """M = 0."""
        return self.trace.init(trials, steps)

    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, dict[str, Any], Any]:
        """One step; see `Rule.step`."""
        carry = self.trace.step(carry, transition)
        gradient = self.trace.collect(carry, c, mask=transition.mask)
        return self.trace.restart(carry, end), {"learning_signal": c}, gradient

    def __repr__(self) -> str:
        form = {} if self.trace.name == "full" else {"trace": self.trace.name, **self.trace.options()}
        return f"RTRL({options_text(self, **form)})"
