"""Rules that look on while another one trains: what each would have done with the same trials and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from bpl_neuro.checks import instance, positive_int
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.trajectory import Trajectory, stack
from bpl_neuro.errors import ValidationError
from bpl_neuro.look.analysis import cosine, true_later_gradient
from bpl_neuro.look.comparison import against, gradient_of_psi, labelled_rules, what_is_said
from bpl_neuro.rules import Gradients, Rule
from bpl_neuro.rules.base import add_gradient
from bpl_neuro.train.optimisers import Adam, Optimiser, by_name, regresses
from bpl_neuro.train.step import Outcome, Step
from bpl_neuro.train.trainer import Trainer

__all__ = ["PassiveRules"]


class PassiveRules:
    """Rules that look on while another one trains.

    ``passive = PassiveRules(trainer, [bpl.rules.EProp(circuit)])``, then ``trainer.fit(task, recorder=passive)``. Their
    own synthesisers learn from the same trials, by an optimiser of their own.

    Parameters
    ----------
    trainer : Trainer
        With exact feedback and no `error_delay`, so that what arrives at the rules is the gradient of the loss. A
        passive rule with feedback of its own hears the errors through that.
    rules : mapping of label to Rule, or sequence of Rule
    every : int
        Look at every so many batches.
    optimiser : Optimiser, or mapping of label to Optimiser
        Of the passive rules' own parameters, once a batch; Adam where there is none.
    window : int, optional
        Also see where each rule's gradients would carry Ψ over so many batches that were looked at.
    drift : Optimiser
        Which would carry it.

    Attributes
    ----------
    theta : dict of str to array
        The passive rules' own parameters.
    """

    def __init__(
        self,
        trainer: Trainer,
        rules: Mapping[str, Rule] | Sequence[Rule],
        *,
        every: int = 1,
        optimiser: Optimiser | Mapping[str, Optimiser] | None = None,
        window: int | None = None,
        drift: Optimiser | None = None,
    ) -> None:
        instance("trainer", trainer, Trainer, "a Trainer")
        if trainer.learner.error_delay or trainer.rule.feedback.kind != "exact":
            raise ValidationError(
                "`trainer` must have exact feedback and no `error_delay`: passive rules see its errors"
            )
        self.trainer, self.rules, self.every = trainer, labelled_rules(rules), positive_int("every", every)
        self.window = None if window is None else positive_int("window", window)
        for label, rule in self.rules.items():
            if not trainer.circuit.fits(rule):
                raise ValidationError(f"rules[{label!r}] was made for another circuit")
        optimisers = dict.fromkeys(self.rules, Adam()) | dict(by_name(optimiser, list(self.rules)))
        self._onlookers = {
            label: _Onlooker(rule, trainer.circuit, optimisers[label]) for label, rule in self.rules.items()
        }
        mover = by_name(drift, ("drift",), "drift").get("drift") or Adam()
        self._drifts = {label: _Drift(trainer.circuit, mover) for label in ("true", *self.rules)}
        self._seen: list[Step] = []
        self._figures: list[xr.Dataset] = []
        self._batches: list[int] = []
        self._drift_cosines: list[list[float]] = []
        self._windows: list[int] = []

    @property
    def theta(self) -> dict[str, Any]:
        """The passive rules' own parameters, by label."""
        return {label: own.theta for label, own in self._onlookers.items() if own.theta is not None}

    def watch(self, step: Step) -> None:
        """See a step of the trainer."""
        instance("step", step, Step, "a Step, as a watcher sees it")
        if step.batch % self.every:
            return
        if step.t == 1:
            self._seen = []
            for own in self._onlookers.values():
                own.begin(len(step.end), step.steps)
        self._seen.append(step)
        for own in self._onlookers.values():
            own.see(step, self._heard(own.rule, step))

    def _heard(self, rule: Rule, step: Step) -> Any:
        """c as it reaches a rule: the readout's errors through the rule's own feedback."""
        if rule.feedback.kind == "exact" or step.errors is None:
            return step.c
        readout, state = self.trainer.readout.holding(step.parameter("phi")), step.transition.new
        exact, own = (readout.sent_back(state, step.errors, through) for through in (None, rule.feedback))
        return step.c + (own - exact)  # c has the penalty of rates as well

    def batch_done(self, trainer: Trainer, outcome: Outcome) -> None:
        """A batch has ended: compare, and let the passive rules' own parameters learn."""
        if trainer is not self.trainer:
            raise ValidationError("`trainer` is not the one that the passive rules were made for")
        if trainer.state.position is not None:
            raise ValidationError("a stream has no whole trials to compare rules on; train on trials")
        if not self._seen:
            return
        circuit, host = trainer.circuit, trainer.circuit.backend.to_host
        trials = stack([s.transition for s in self._seen], [s.c for s in self._seen], [s.end for s in self._seen])
        true = trials.parameter_gradient(trials.c + circuit.xp.stack(true_later_gradient(self._seen)))
        found = {label: own.end_batch(trials, trainer.state.mask) for label, own in self._onlookers.items()}
        rows = [against(circuit, host(gradient), host(true), None, None) for gradient in found.values()]
        self._figures.append(xr.concat(rows, xr.IndexVariable("rule", list(self.rules))))
        self._batches.append(trainer.batches)
        self._seen = []
        if self.window is not None:
            for label, gradient in {"true": true, **found}.items():
                self._drifts[label].move(gradient)
            if len(self._batches) % self.window == 0:
                went = {label: host(drift.restart()) for label, drift in self._drifts.items()}
                self._drift_cosines.append([float(cosine(went[label], went["true"])) for label in self.rules])
                self._windows.append(trainer.batches)

    def flush(self) -> None:
        """Nothing to write: what was found is in memory."""

    def result(self) -> xr.Dataset:
        """What was found.

        Returns
        -------
        xarray.Dataset
            ``cosine`` with the true gradient and ``norm_ratio`` to it over ``batch``, ``rule`` and ``parameter``. With
            a `window`, over ``window`` (the last batch of each) and ``rule``: ``drift_cosine``, that of where Ψ would
            have gone with where the true gradients would have carried it: errors of single batches that average out are
            forgiven, those that do not are not.
        """
        if not self._figures:
            raise ValidationError("nothing was compared yet: train first, with `recorder=` this")
        figures = xr.concat(self._figures, xr.IndexVariable("batch", self._batches))
        if self._windows:
            figures["drift_cosine"] = (("window", "rule"), self._drift_cosines)
            figures = figures.assign_coords(window=self._windows)
        return figures.assign_attrs(what_is_said(self.rules))


class _Onlooker:
    """One rule that looks on, with its own parameters and its sums of the batch under way."""

    def __init__(self, rule: Rule, circuit: Circuit, optimiser: Any) -> None:
        self.rule, self.circuit, self.optimiser = rule, circuit, optimiser
        self.theta, self.moments = rule.initial_theta(), None
        self.solves = regresses(optimiser) and rule.regression is not None
        if self.theta is not None:
            problem = (rule.regression,) if self.solves else ()
            self.moments = optimiser.init(circuit.backend, self.theta, *problem)

    def begin(self, trials: int, steps: int) -> None:
        """A batch of so many trials and steps, in the form that the rule takes for whole trials."""
        self.settled = self.rule.settled(self.rule.choose(True, steps, False))
        self.carry, self.sums = self.settled.init(trials, steps), Gradients()
        self.heard: list[Any] = []

    def see(self, step: Step, c: Any) -> None:
        """Learn what there is to learn on the way from c, as it reaches this rule."""
        self.heard.append(c)
        if self.settled.deferred:
            return
        arguments = (step.transition, c, step.end, self.theta)
        self._add("theta", self.settled.collect(self.carry, *arguments))
        self._add_moment(step.transition, step.end)
        self.carry, _, of_psi = self.settled.step(self.carry, *arguments)
        self._add("psi", of_psi)

    def _add(self, name: str, gradient: Any) -> None:
        if gradient is not None:
            add_gradient(self.sums, name, gradient)

    def _add_moment(self, transition: Any, end: Any) -> None:
        if self.solves:
            add_gradient(self.sums, "moment", self.settled.moment(transition, end))

    def end_batch(self, trials: Trajectory, mask: Any) -> Any:
        """The gradient of Ψ; θ learns."""
        if self.settled.deferred:
            trials = replace(trials, c=self.circuit.xp.stack(self.heard))
            for name, gradient in self.settled.finish(self.carry, trials, self.theta).items():
                self._add(name, gradient)
            self._add_moment(trials.rows, trials.end.reshape(-1))
        if self.theta is not None and "theta" in self.sums:
            further: dict[str, Any] = {}
            if self.solves:
                further = {"moment": self.sums["moment"], "regression": self.rule.regression, "mask": mask}
            self.theta, self.moments = self.optimiser.step(
                self.circuit.backend, self.theta, self.sums["theta"], self.moments, **further
            )
        return gradient_of_psi(self.circuit, self.sums)


class _Drift:
    """Where gradients would carry Ψ by an optimiser, from wherever it is."""

    def __init__(self, circuit: Circuit, optimiser: Any) -> None:
        self.circuit, self.optimiser = circuit, optimiser
        self.gone = circuit.xp.zeros(circuit.layout.size, circuit.dtype)
        self.moments = optimiser.init(circuit.backend, self.gone)

    def move(self, gradient: Any) -> None:
        """One step further."""
        self.gone, self.moments = self.optimiser.step(self.circuit.backend, self.gone, gradient, self.moments)

    def restart(self) -> Any:
        """How far it went; from here on it counts anew, with the moments as they are."""
        gone, self.gone = self.gone, self.circuit.xp.zeros_like(self.gone)
        return gone
