"""What every form of the synthesiser's eligibility trace has in common, and the register of forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from bpl_neuro.checks import instance, number
from bpl_neuro.circuit.synthesiser import Response, Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry

__all__ = ["TRACES", "Trace", "register"]


class Trace(ABC):
    """A form of the trace: the synthesiser, γλ and the weight of the input; what changes lives in the carry.

    In every step `collect` comes first, then `step`, then `restart`. `collect` reads, and changes nothing but figures
    for `report`, for which twice is as once; the others may change the arrays of the carry that they are given.

    Attributes
    ----------
    name : str
    exact : bool
        Σ δ e is that of the algorithm.
    local : bool
        A synapse holds nothing that is not of its own two neurons.
    deferred : bool
        Nothing is held: the sums come from a sweep back over whole trials.
    bounded : bool
        What it holds does not grow with the steps of a trial, so that it can follow an endless stream.
    shows : tuple of str
        What can be recorded of a synapse (a, j): "own" e[a, a, j], "norm" ‖e[·, a, j]‖; see `column`.
    memory, time : str
        As in `Rule`.
    """

    name: ClassVar[str]
    exact: bool = False
    local: bool = False
    deferred: bool = False
    bounded: bool = True
    shows: tuple[str, ...] = ()
    memory: str
    time: str

    def __init__(self, synthesiser: Synthesiser, decay: float, gain: float = 1.0) -> None:
        self.synthesiser: Any = instance("synthesiser", synthesiser, Synthesiser, "a Synthesiser")
        if number("decay", decay) > 1:
            raise ValidationError(f"`decay` must be a number in [0, 1], got {decay!r}")
        self.decay, self.gain = float(decay), number("gain", gain)

    def options(self) -> dict[str, Any]:
        """Its own options that are not the default, by name."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Its form and options; its decays are the rule's."""
        return {"is": self.name, **self.options()}

    @abstractmethod
    def kept(self, trials: int, steps: int) -> int:
        """Numbers that it holds at its largest."""

    def work(self, trials: int, steps: int) -> int:
        """Numbers in temporaries beside it."""
        return 0

    def cost(self, steps: int) -> float:
        """Multiplications in a trial of so many steps, for what has a choice to make; infinite if it is no choice."""
        return float("inf")

    @abstractmethod
    def init(self, trials: int, steps: int) -> Carry:
        """e = 0, for batches of so many steps."""

    @abstractmethod
    def collect(self, carry: Carry, delta: Any) -> Any:
        """Σ_B δ_{t−1} e_{t−1}, (|θ|,)."""

    @abstractmethod
    def step(self, carry: Carry, transition: Transition, response: Response) -> Carry:
        """e_t = γλ J_t e_{t−1} + ∂g(s_t; θ)/∂θ, or what the form has in its place."""

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
        raise ValidationError(f'`trace` = "{self.name}" never holds the trace of a synapse')


_Trace = TypeVar("_Trace", bound=type[Trace])
#: every form by its name
TRACES: dict[str, type[Trace]] = {}


def register(trace: _Trace) -> _Trace:
    """Make a form known by its name, as a value of `trace`."""
    if trace.name in TRACES:
        raise ValidationError(f"there already is a trace {trace.name!r}")
    TRACES[trace.name] = trace
    return trace
