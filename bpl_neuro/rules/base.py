"""The contract between a credit rule and everything that runs one.

A rule sees one linearised step at a time (`Transition`), the immediate loss gradient c_t and where trials end. In every
step `collect` reads what the rule remembers and gives the gradient of its own parameters θ; the loop moves θ, or does
not, as the schedule has it; then `step` moves on. A rule that looks back over whole trials (`deferred`) gives nothing
on the way: `finish` reads the `Trajectory`.

What a rule remembers is its *carry*: arrays only, nested in dicts and lists, so that it can be copied, saved, or run
passively beside another rule. A rule holds no arrays itself and never changes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from bpl_neuro.checks import shown
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.regression import Regression
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described

__all__ = ["RULES", "Carry", "Gradients", "Rule", "add_gradient", "clear", "options_text", "register"]

Carry = dict[str, Any]
#: "psi" → (|Ψ|,), "phi" → (|φ|,), "theta" → (|θ|,): gradients to descend, summed over trials
Gradients = dict[str, Any]


class Rule(Described, ABC):
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
    deferred : bool
        It gives its gradients in `finish` alone, from the trajectory of whole trials.
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
    deferred: bool = False
    feedback: Feedback = Feedback()
    needs_synthesiser: ClassVar[bool] = False

    @property
    def schedules(self) -> tuple[str, ...]:
        """Schedules under which the rule has a meaning."""
        return ("trial",) if self.deferred else ("step", "trial")

    @property
    def streams(self) -> bool:
        """Whether it can learn from an endless stream, without waiting for trials to end."""
        return not self.deferred

    def choose(self, frozen: bool, steps: int, stream: bool) -> str | None:
        """Where the rule has the choice of a form: the one for such batches (`frozen`: updates per trial); else None.

        It is asked once, before a learner's first batch, and the answer is part of the learner's state.
        """
        return None

    def settled(self, form: str | None, pathway: Any = None) -> Rule:
        """The rule in the form that was chosen, its synthetic gradient reaching the circuit through `pathway`."""
        return self

    def initial_theta(self) -> Any:
        """The rule's own parameters at the start, a flat array, or None if it has none."""
        return None

    @property
    def regression(self) -> Regression | None:
        """θ as least squares see it, where the rule's gradient of θ is −Σ error zᵀ; else None."""
        return None

    def informed(self) -> Rule:
        """The rule with targets that are the credit of all later losses (λ = 1), over whole trials.

        Asked for where `regression` is not None, as is `moment`.
        """
        raise NotImplementedError

    def moment(self, transition: Transition, end: Any) -> Any:
        """Σ z zᵀ over the trials in which a prediction is made at this step, as `regression` has it: for `RLS`."""
        raise NotImplementedError

    def kept(self, trials: int, steps: int) -> int:
        """Numbers that it holds at its largest, for batches of so many trials and steps."""
        return 0

    def work(self, trials: int, steps: int) -> int:
        """Numbers in temporaries beside it."""
        return 0

    def leaner(self, trials: int, steps: int) -> dict[str, int]:
        """Other forms of the rule with the same numbers, by what to write, and what they keep and work with."""
        return {}

    def report(self, carry: Carry) -> dict[str, float]:
        """Figures on how exact the rule was so far, for the history of a training: the largest of an epoch is kept."""
        return {}

    def figures(self, carry: Carry) -> dict[str, float]:
        """Figures on what it has learned to predict, for the history of a training: the mean of an epoch is kept."""
        return {}

    def init(self, trials: int, steps: int) -> Carry:
        """What is remembered before a first step of so many trials, in batches of so many steps."""
        return {}

    def collect(self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any) -> Any:
        """The gradient of θ that this step gives, (|θ|,), or None; nothing is changed but figures for `report`.

        Parameters
        ----------
        carry : Carry
            As it was after the step before.
        transition : Transition
            The step s_{t−1} → s_t, linearised.
        c : (B, n) array
            ∂L_t/∂s_t.
        end : (B,) array of bool
            Where a trial ends with this step.
        theta : (|θ|,) array or None
            As it is before this step's update.
        """
        return None

    @abstractmethod
    def step(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, Mapping[str, Any], Any]:
        """Move on; arguments as for `collect`, but for `theta`, which is as the update left it.

        Returns
        -------
        carry : Carry
            Its arrays may be those that were given, changed.
        signals : dict of str to array
            What a person may want to look at, by the names of the paper: ``g``, ``credit``, ….
        gradient : (|Ψ|,) array or None
            Gradient of the circuit's parameters at this step, if the rule gives it now.
        """

    def observe(self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any) -> Mapping[str, Any]:
        """Further signals, of what `collect` works with; asked for where somebody watches."""
        return {}

    def finish(self, carry: Carry, trajectory: Trajectory, theta: Any) -> Gradients:
        """Gradients of a deferred rule, when all trials of a batch have ended."""
        return {}


_Rule = TypeVar("_Rule", bound=type[Rule])
#: every rule by its name
RULES: dict[str, type[Rule]] = {}


def register(rule: _Rule) -> _Rule:
    """Make a rule known by its name, to `make_rule`, tables and tests."""
    if not isinstance(rule, type) or not issubclass(rule, Rule):
        raise ValidationError(f"`rule` must be a class of Rule, got {shown(rule)}")
    if not isinstance(name := getattr(rule, "name", None), str) or not name:
        raise ValidationError(f"the `rule` {rule.__name__} needs a text as `name`, got {shown(name)}")
    if name in RULES:
        raise ValidationError(f"there already is a `rule` {name!r}")
    RULES[rule.name] = rule
    return rule


def options_text(rule: Rule, **options: Any) -> str:
    """What a rule's repr has in brackets: its options, and its feedback if it is not the usual one."""
    shown = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value!r}" for key, value in options.items()]
    return ", ".join([*shown, *([] if rule.feedback.kind == "exact" else [f"feedback={rule.feedback!r}"])])


def altered(rule: Any, **values: Any) -> Any:
    """A copy of a rule with other values of some attributes."""
    other = copy.copy(rule)
    vars(other).update(values)
    return other


def add_gradient(sums: Gradients, name: str, gradient: Any) -> None:
    """Add to a sum of gradients by name."""
    sums[name] = sums[name] + gradient if name in sums else gradient


def clear(xp: Any, array: Any, end: Any, axis: int = 0) -> None:
    """Put an array at 0 in the trials that end, in place; a mask as an index would take temporaries on a GPU."""
    shape = [1] * array.ndim
    shape[axis] = -1
    xp.copyto(array, 0, where=end.reshape(shape))
