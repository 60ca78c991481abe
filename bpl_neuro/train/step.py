"""What can be seen of a batch: each step while it is taken, and what the batch gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from bpl_neuro.checks import index
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry, Gradients, Rule
from bpl_neuro.train.state import LearnerState, copied

__all__ = ["Outcome", "Recording", "Step", "Watch"]


class Step:
    """What a watcher sees of a step. Nothing in it changes afterwards.

    Attributes
    ----------
    t, steps : int
        Step within the batch, from 1, and how many the batch has.
    batch : int
        Batches trained before this one.
    transition : Transition
    c : (B, n) array
        Immediate loss gradient.
    end : (B,) array of bool
    signals : dict of str to array
        What the rule reports.
    rule : Rule
        In the form in which it learns.
    errors : (B, M) array or None
        Gradient of the loss with respect to the readout's outputs, before it is sent back; None where no loss is due.
    """

    def __init__(
        self, t: int, steps: int, transition: Transition, c: Any, end: Any, signals: Mapping[str, Any], rule: Rule,
        carry: Carry, state: LearnerState, errors: Any = None,
    ) -> None:  # fmt: skip
        self.t, self.steps, self.transition, self.c, self.end = t, steps, transition, c, end
        self.signals, self.rule, self.errors = signals, rule, errors
        self.batch = state.batches
        self._live: tuple[Carry, LearnerState] | None = carry, state
        self._kept: Carry | None = None

    @property
    def carry(self) -> Carry:
        """A copy of what the rule remembers after the step.

        Raises
        ------
        ValidationError
            If it is first asked for after the watcher has returned: by then the rule has moved on.
        """
        if self._kept is None:
            self._kept = copied(self._now()[0])
        return self._kept

    def parameter(self, name: str) -> Any:
        """A copy of Ψ, φ or θ as this step has left it; to be asked for while the step is watched."""
        value = self._now()[1].parameter(name)
        return None if value is None else value.copy()

    def trace(self, a: int, j: int) -> tuple[slice, Any]:
        """The trace of a synapse as `bpl_neuro.rules.traces.Trace.column` gives it, without a copy of the carry.

        Raises
        ------
        ValidationError
            If the rule holds no such trace, or after the watcher has returned.
        """
        rule: Any = self.rule
        if not hasattr(rule, "trace"):
            raise ValidationError(f"{rule!r} has no eligibility trace")
        if getattr(rule, "target", "state") != "state":
            raise ValidationError(f'the trace of a synapse (a, j) is shown where `target` = "state"; {rule!r}')
        units, inputs = rule.synthesiser.d, rule.synthesiser.m
        a, j = index("a", a, units - 1), index("j", j, inputs - 1)
        return rule.trace.column((self._kept or self._now()[0])["trace"], a, j)

    def _now(self) -> tuple[Carry, LearnerState]:
        if self._live is None:
            raise ValidationError(f"what step {self.t} left behind can be asked for while it is watched, not later")
        return self._live

    def close(self) -> None:
        """The watcher has returned."""
        self._live = None


Watch = Callable[[Step], None]


@dataclass
class Outcome:
    """What one batch gave.

    Attributes
    ----------
    loss : float
        Mean over trials of the summed loss.
    correct, scored : float
        Weight of the steps classified rightly, and of all steps with a class label.
    gradients : dict of str to array
        "psi", "phi" and, where the rule has parameters, "theta": gradients to descend (filled by `batch_updates`).
    report : dict of str to float
        What the rule says of its exactness: ``window_error`` of a trace that a window cut.
    figures : dict of str to float
        What it says of its predictions: ``theta_r2`` and ``theta_norm_ratio`` where the targets are known (per trial),
        and with `RLS` ``theta_staleness``: how many updates ago what θ was fitted to was seen, on average;
        with ``RLS(bound=)`` ``theta_bounded``, and with ``Adam(max_step=)`` of Ψ ``psi_capped``.
    signals : dict of str to (T, B, n) array
        Per-step signals, on request.
    """

    loss: float = 0.0
    correct: float = 0.0
    scored: float = 0.0
    gradients: Gradients = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    signals: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Recording(Protocol):
    """What `Trainer.fit` asks of a recorder; see `bpl_neuro.look.recording.Recorder`."""

    def watch(self, step: Step) -> None:
        """See a step."""

    def batch_done(self, trainer: Any, outcome: Outcome) -> None:
        """A batch has ended."""

    def flush(self) -> None:
        """Put on disk what a checkpoint made now counts on."""
