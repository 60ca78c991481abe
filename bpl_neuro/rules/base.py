"""The contract between a credit rule and everything that runs one.

A rule sees one linearised step at a time (`Transition`), the immediate loss gradient c_t and where trials end. What it
remembers is its *carry*: arrays only, nested in dicts and lists, so that it can be checkpointed, moved, or run
passively beside another rule. A rule holds no arrays itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.transition import Transition

__all__ = ["Carry", "Gradients", "Rule", "add_gradient", "clear", "remember", "said"]

Carry = dict[str, Any]
#: "psi" → (|Ψ|,), "theta" → (n, m): gradients to descend, summed over trials
Gradients = dict[str, Any]


class Rule(ABC):
    """A credit rule.

    Class attributes say what it is; they are shown in tables and checked by tests.

    Attributes
    ----------
    name : str
    online : bool
        An update at step t depends on nothing after t.
    exact : bool
        Summed over a trial with parameters frozen, its updates of the circuit are the gradient of the loss.
    local : bool
        Every synapse needs only what its two neurons know, and a signal sent to its target.
    memory, time : str
        What it keeps, and what it does per step of each trial, beyond running the circuit: with N neurons of S states
        and P inputs, n = N·S, T steps of a trial, B trials, |Ψ| and |θ| parameters.
    needs_synthesiser : bool
        Whether it is made on a `Synthesiser` rather than on a circuit.
    feedback : Feedback
        The weights through which the readout's errors, and credit between neurons, are sent back.
    """

    name: ClassVar[str]
    online: bool
    exact: bool
    local: bool
    memory: str
    time: str
    feedback: Feedback = Feedback()
    needs_synthesiser: ClassVar[bool] = False

    #: schedules under which the rule has a meaning: "step", "trial"
    schedules: Any = ("step", "trial")

    @property
    def streams(self) -> bool:
        """Whether it can learn from an endless stream, without waiting for trials to end."""
        return "step" in self.schedules

    def settle(self, schedule: str, steps: int, stream: bool) -> None:
        """What is to come: a rule that has the choice takes the form that suits it. Called before a batch."""
        return

    def initial_theta(self) -> Any:
        """The rule's own parameters at the start, or None if it has none."""
        return None

    def kept(self, batch: int, steps: int) -> int:
        """Numbers that the carry holds at its largest, for batches of so many trials and steps."""
        return 0

    def work(self, batch: int, steps: int) -> int:
        """Numbers in temporaries beside it."""
        return 0

    def leaner(self, batch: int, steps: int) -> dict[str, int]:
        """Other forms of the rule with the same numbers, by what to write, and what they keep and work with."""
        return {}

    def report(self, carry: Carry) -> dict[str, float]:
        """Figures on how exact the rule was so far, for the history of a training: the largest of an epoch is kept."""
        return {}

    @abstractmethod
    def init(self, batch: int) -> Carry:
        """What is remembered before a first step of `batch` trials."""

    @abstractmethod
    def step(
        self,
        carry: Carry,
        transition: Transition,
        c: Any,
        end: Any,
        theta: Any,
        learn: Callable[[Any], Any],
    ) -> tuple[Carry, Mapping[str, Any], Any]:
        """One step.

        Parameters
        ----------
        carry : Carry
        transition : Transition
            The step s_{t−1} → s_t, linearised.
        c : (B, n) array
            ∂L_t/∂s_t.
        end : (B,) array of bool
            Where a trial ends with this step.
        theta : array or None
            The rule's own parameters now.
        learn : callable
            Takes the gradient of `theta` and returns `theta` as it then is: moved at once under the per-step
            schedule, unchanged under the per-trial one.

        Returns
        -------
        carry : Carry
        signals : dict of str to array
            What a person may want to look at, by the names of the paper: ``g``, ``delta``, ``credit``, ….
        gradient : (|Ψ|,) array or None
            Gradient of the circuit's parameters at this step, if the rule gives it now.
        """

    def finish(self, carry: Carry, theta: Any) -> Gradients:
        """Gradients that are only known when all trials of a batch have ended."""
        return {}


def said(rule: Rule, **options: Any) -> str:
    """What a rule's repr has in brackets: its options, and its feedback if it is not the usual one."""
    shown = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value!r}" for key, value in options.items()]
    return ", ".join([*shown, *([] if rule.feedback.kind == "exact" else [f"feedback={rule.feedback!r}"])])


def add_gradient(sums: Gradients, name: str, gradient: Any) -> None:
    """Add to a sum of gradients by name."""
    sums[name] = sums[name] + gradient if name in sums else gradient


def clear(xp: Any, array: Any, end: Any, axis: int = 0) -> None:
    """Put an array at 0 in the trials that end, in place; a mask as an index would take temporaries on a GPU."""
    shape = [1] * array.ndim
    shape[axis] = -1
    xp.copyto(array, 0, where=end.reshape(shape))


def remember(carry: Carry, **values: Any) -> None:
    """Append what a rule that sweeps back at the end has to keep of a step, to the lists of its carry."""
    for key, value in values.items():
        carry[key].append(value)
