"""A rule with an eligibility trace: which form it takes, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bpl_neuro.checks import flag, positive_int, shown
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.units import per_step
from bpl_neuro.rules.base import Carry, Rule, altered
from bpl_neuro.rules.synthetic import SyntheticGradientRule
from bpl_neuro.rules.traces.base import TRACES, Trace

__all__ = ["TracedRule"]

#: multiplications in a batch from which on they are worth a word: about a second
DEAR = 1e9


class TracedRule(SyntheticGradientRule):
    """A rule whose synthesiser learns by δ and a trace; `BPLambda` has the parameters.

    Attributes
    ----------
    form : str
        Name of the trace, or "auto" as long as none was chosen.
    lam : float
        λ per step.
    gain : float
        Weight of the trace's input.
    """

    identified = {"continuous_time": "gain", "trace": "form", "window": None}

    def __init__(
        self,
        synthesiser: Synthesiser,
        *,
        gamma: float | str = 1.0,
        lam: float | str = 1.0,
        sg_weight: float = 1.0,
        trace: str = "auto",
        window: int | None = None,
        feedback: str | Feedback = "exact",
        continuous_time: bool = False,
    ) -> None:
        super().__init__(synthesiser, gamma, sg_weight, feedback)
        self.lam = per_step("lam", lam, self.circuit.model)
        self.gain = self.circuit.model.dt if flag("continuous_time", continuous_time) else 1.0
        self._hold(trace, window)

    #: the forms by name
    forms: ClassVar[Mapping[str, type[Trace]]] = TRACES

    def _hold(self, form: str, window: int | None) -> None:
        """Take a form of the trace.

        Raises
        ------
        ValidationError
            For an unknown form, or a window that is none or not of the lazy one.
        """
        if not isinstance(form, str) or form not in (*self.forms, "auto"):
            raise ValidationError(f"`trace` must be one of auto, {', '.join(self.forms)}, got {shown(form)}")
        if window is not None and form != "lazy":
            raise ValidationError(f'`window` belongs to `trace` = "lazy", got {shown(form)}')
        self.form = form
        self._trace: Trace | None = None if form == "auto" else self.made(form, window)

    def made(self, form: str, window: int | None = None) -> Trace:
        """A trace of this rule's in some form."""
        options = {} if window is None else {"window": positive_int("window", window)}
        return self.forms[form](self.synthesiser, **self.decays, **options)

    @property
    def decays(self) -> dict[str, Any]:
        """What a trace needs to know of the rule."""
        return {"decay": self.gamma * self.lam, "gain": self.gain}

    @property
    def trace(self) -> Trace:
        """The trace in its form.

        Raises
        ------
        ValidationError
            As long as it is to be chosen: a `Trainer` does that with its first batch, and has the rule as its
            `settled_rule`.
        """
        if self._trace is None:
            raise ValidationError('`trace` = "auto" is chosen when the first batch comes; until then there is none')
        return self._trace

    def choose(self, frozen: bool, steps: int, stream: bool) -> str | None:
        """With ``trace="auto"`` the cheapest exact form for what is to come.

        Per trial it is the sweep. Per step, a trial of T steps costs T²/2 · (|W| + |θ|) by the lazy trace, with |W|
        recurrent weights, and T · 2n²|θ| by the full one: the cheaper is taken. A stream, whose past has no end, takes
        the full one.
        """
        if self.form != "auto":
            return None
        traces = [self.made(form) for form in self.choices(frozen and not stream)]
        return min((trace for trace in traces if trace.bounded or not stream), key=lambda trace: trace.cost(steps)).name

    def choices(self, frozen: bool) -> tuple[str, ...]:
        """Forms of the same numbers that "auto" chooses from, under updates per trial (`frozen`) and per step."""
        return ("sweep",) if frozen else ("lazy", "full")

    def settled(self, form: str | None, pathway: Any = None) -> Rule:
        """In the form that was chosen, with this pathway."""
        rule = super().settled(None, pathway)
        return rule if form is None or self.form != "auto" else altered(rule, form=form, _trace=self.made(form))

    def swept(self) -> TracedRule:
        """The same sums by a sweep back over whole trials."""
        other: TracedRule = altered(self)
        other._hold("sweep", None)
        return other

    def informed(self) -> Rule:
        """With λ = 1, by a sweep back."""
        return altered(self, lam=1.0).swept()  # type: ignore[no-any-return]

    def cheaper(self, frozen: bool, trials: int, steps: int, stream: bool) -> tuple[str, float] | None:
        """Another exact form that would take a tenth of the time or less, and how many times less.

        None where there is none, or where a batch is done in no time anyway.
        """
        if self._trace is None or not self._trace.exact or stream:
            return None
        cost, costs = self._trace.cost(steps), {form: self.made(form).cost(steps) for form in self.choices(frozen)}
        form = min(costs, key=lambda name: costs[name])
        return (form, cost / costs[form]) if cost >= 10 * costs[form] and cost * trials > DEAR else None

    @property
    def deferred(self) -> bool:  # type: ignore[override]  # what is a fact of a class elsewhere is the trace's here
        """Whether the trace is a sweep back."""
        return self._trace is not None and self._trace.deferred

    @property
    def schedules(self) -> tuple[str, ...]:
        """Those of the trace."""
        return ("trial",) if self.deferred else ("step", "trial")

    @property
    def streams(self) -> bool:
        """Whether memory stays bounded without an end."""
        return self._trace is None or (self._trace.bounded and not self._trace.deferred)

    @property
    def online(self) -> bool:  # type: ignore[override]
        """Whether it learns on the way."""
        return not self.deferred

    @property
    def local(self) -> bool:  # type: ignore[override]
        """Whether the trace is."""
        return self._trace is not None and self._trace.local

    @property
    def memory(self) -> str:  # type: ignore[override]
        """That of the trace."""
        return self._trace.memory if self._trace else "that of the trace chosen"

    @property
    def time(self) -> str:  # type: ignore[override]
        """That of the trace."""
        return self._trace.time if self._trace else "that of the trace chosen"

    def kept(self, trials: int, steps: int) -> int:
        """The trace."""
        return self.trace.kept(trials, steps)

    def work(self, trials: int, steps: int) -> int:
        """What the trace needs beside it."""
        return self.trace.work(trials, steps)

    def leaner(self, trials: int, steps: int) -> dict[str, int]:
        """The other exact forms of the trace."""
        forms = {}
        for form in ("sweep", "lazy"):
            trace = self.made(form)
            if form != self.form and (self.deferred or not trace.deferred or "trial" in self.schedules):
                what = " per trial" if trace.deferred else ""
                forms[f'trace="{form}"{what}'] = trace.kept(trials, steps) + trace.work(trials, steps)
        return forms

    def report(self, carry: Carry) -> dict[str, float]:
        """What the trace reports: ``window_error`` where a window cut it."""
        return self.trace.report(carry["trace"]) if "trace" in carry else {}

    def identity(self) -> dict[str, Any]:
        """With the options of the trace."""
        return {**super().identity(), **self.trace_options()}

    def trace_options(self) -> dict[str, Any]:
        """For a repr."""
        return {"trace": self.form, **(self._trace.options() if self._trace else {})}
