"""What every form of the synthesiser's eligibility trace has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from bpl_neuro.circuit.synthesiser import Response, Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry, clear

__all__ = ["Trace", "cleared"]


class Trace(ABC):
    """A form of the trace. Holds the synthesiser, γλ and the weight of the input; what changes lives in the carry.

    In every step `collect` comes first, then `step`, then `restart`. Carries may be changed in place.
    """

    exact: bool
    schedules: tuple[str, ...]
    #: as in `Rule`
    memory: str
    time: str

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        self.synthesiser, self.decay, self.gain = synthesiser, decay, gain

    @abstractmethod
    def kept(self, batch: int, steps: int) -> int:
        """Numbers that it holds at its largest."""

    def work(self, batch: int, steps: int) -> int:
        """Numbers in temporaries beside it."""
        return 0

    @abstractmethod
    def init(self, batch: int) -> Carry:
        """e = 0."""

    @abstractmethod
    def collect(self, carry: Carry, delta: Any) -> Any:
        """Σ_B δ_{t−1} e_{t−1}, of the shape of θ, or None if it is only known at the end."""

    @abstractmethod
    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        """e_t from e_{t−1}."""

    @abstractmethod
    def restart(self, carry: Carry, end: Any) -> Carry:
        """e = 0 in the trials that end."""

    def report(self, carry: Carry) -> dict[str, float]:
        """Figures on how exact it was, for the history of a training."""
        return {}

    def column(self, carry: Carry, a: int, j: int) -> tuple[slice, Any]:
        """The states i for which this form holds e[·, i, a, j] of one synapse, and a copy of it there, (B, states).

        Raises
        ------
        ValidationError
            For a form that never holds one.
        """
        raise ValidationError(f"{type(self).__name__} never holds the trace of a synapse")


def cleared(xp: Any, e: Any, end: Any) -> Any:
    """A copy of a trace, or of a list of traces, of (B, …): 0 in the trials that end."""
    if isinstance(e, list):
        return [cleared(xp, part, end) for part in e]
    kept = e.copy()
    clear(xp, kept, end)
    return kept
