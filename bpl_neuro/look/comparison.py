"""Rules side by side: what each would do with the same trials, held against the true gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from rich.table import Column, Table

from bpl_neuro.checks import instance, positive_int
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.circuit.trajectory import Trajectory, stack
from bpl_neuro.errors import ValidationError
from bpl_neuro.look.analysis import cosine, trial_mean, true_later_gradient
from bpl_neuro.rules import BPTT, Gradients, Rule
from bpl_neuro.rules.base import add_gradient
from bpl_neuro.tasks.base import Batch
from bpl_neuro.train.loop import watched_steps
from bpl_neuro.train.optimisers import Optimiser, by_name
from bpl_neuro.train.step import Outcome, Step
from bpl_neuro.train.trainer import Trainer

__all__ = ["PassiveRules", "compare", "comparison_table"]

#: what a rule says of itself
SAID = ("online", "exact", "local", "memory", "time")


def compare(
    circuit: Circuit,
    readout: Readout,
    batch: Batch,
    rules: Mapping[str, Rule] | Sequence[Rule],
    *,
    theta: Any = None,
    noise_seed: int | None = None,
) -> xr.Dataset:
    """The gradient of each rule for one batch, with everything frozen, against the true one.

    Parameters
    ----------
    circuit, readout : Circuit, Readout
    batch : Batch
    rules : mapping of label to Rule, or sequence of Rule
        A sequence is labelled by the rules' names.
    theta : array, or mapping of label to array, optional
        For rules with a synthesiser; their initial ones by default.
    noise_seed : int, optional
        Seed of the model's noise, the same for every rule; none by default.

    Returns
    -------
    xarray.Dataset
        Over ``rule`` and ``parameter`` (the blocks of Ψ, and "psi" for all of them): ``cosine`` with the true gradient
        and ``norm_ratio`` to it. Over ``rule`` and ``step``: ``credit_cosine``, that of the credit a rule gives to the
        states with c_t + G_t, mean over trials without zero vectors; NaN where it gives none. NaN also where a gradient
        is 0. Attributes: what each rule says of itself.

    Raises
    ------
    ValidationError
        For two rules with one label, or a rule of another circuit.
    """
    instance("circuit", circuit, Circuit, "a Circuit"), instance("readout", readout, Readout, "a Readout")
    labelled = _labelled(rules)
    if isinstance(theta, Mapping) and (unknown := theta.keys() - labelled.keys()):
        raise ValidationError(f"`theta` has {sorted(unknown)[0]!r}; the rules are {', '.join(labelled)}")
    host = circuit.backend.to_host
    seen, outcome = watched_steps(circuit, readout, BPTT(circuit), batch, None, noise_seed)
    later = true_later_gradient(seen)
    credit = np.stack([host(s.c + G) for s, G in zip(seen, later, strict=True)])
    true = host(outcome.gradients["psi"])
    rows = []
    for label, rule in labelled.items():
        rule_theta = theta.get(label) if isinstance(theta, Mapping) else theta
        rule_theta = None if rule.initial_theta() is None else rule_theta
        seen_by_rule, rule_outcome = watched_steps(circuit, readout, rule, batch, rule_theta, noise_seed)
        rule_credit = None
        if all("credit" in s.signals for s in seen_by_rule):
            rule_credit = np.stack([host(s.signals["credit"]) for s in seen_by_rule])
        rows.append(_against(circuit, host(_psi(circuit, rule_outcome.gradients)), true, rule_credit, credit))
    figures = xr.concat(rows, xr.IndexVariable("rule", list(labelled)))
    figures.attrs = _said(labelled)
    return figures


def comparison_table(found: xr.Dataset, title: str | None = None) -> Table:
    """The Dataset of `compare` or `PassiveRules.result`, as a table for the terminal; means over batches and seeds."""
    instance("found", found, xr.Dataset, "what `compare` or `PassiveRules.result` gave")
    columns: list[Column | str] = [
        Column("rule", no_wrap=True),
        "online",
        "exact",
        "local",
        "memory",
        "time per step",
        "cosine",
        "norm ratio",
    ]
    table = Table(*columns, title=title)
    over = [dim for dim in ("batch", "seed") if dim in found.dims]
    for rule in found["rule"].values:
        said = [found.attrs.get(f"{rule}.{key}", "not said") for key in SAID]
        said = [{"True": "yes", "False": "no"}.get(text, text) for text in said]
        means = found[["cosine", "norm_ratio"]].sel(rule=rule, parameter="psi").mean(over)
        table.add_row(str(rule), *said, f"{float(means['cosine']):.3f}", f"{float(means['norm_ratio']):.3g}")
    return table


class PassiveRules:
    """Rules that look on while another one trains: what each would have done with the same trials and weights.

    ``passive = PassiveRules(trainer, [bpl.rules.EProp(circuit)])``, then ``trainer.fit(task, recorder=passive)``. Their
    own synthesisers learn from the same trials, by an optimiser of their own.

    Parameters
    ----------
    trainer : Trainer
        With exact feedback and no `error_delay`, so that what arrives at the rules is the gradient of the loss.
    rules : mapping of label to Rule, or sequence of Rule
    every : int
        Look at every so many batches.
    optimiser : Optimiser
        Of the passive rules' own parameters, once a batch.

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
        optimiser: Optimiser | None = None,
    ) -> None:
        instance("trainer", trainer, Trainer, "a Trainer")
        if trainer.learner.error_delay or trainer.rule.feedback.kind != "exact":
            raise ValidationError(
                "`trainer` must have exact feedback and no `error_delay`: passive rules see its errors"
            )
        self.trainer, self.rules, self.every = trainer, _labelled(rules), positive_int("every", every)
        for label, rule in self.rules.items():
            if not trainer.circuit.fits(rule):
                raise ValidationError(f"rules[{label!r}] was made for another circuit")
        self._optimiser = by_name(optimiser, ("theta",))["theta"]
        self.theta = {label: rule.initial_theta() for label, rule in self.rules.items()}
        self.theta = {label: theta for label, theta in self.theta.items() if theta is not None}
        backend = trainer.circuit.backend
        self._moments = {label: self._optimiser.init(backend, theta) for label, theta in self.theta.items()}
        self._seen: list[Step] = []
        self._carries: dict[str, Any] = {}
        self._settled: dict[str, Rule] = {}  # in the forms that they take for whole trials
        self._sums: dict[str, Gradients] = {}
        self._figures: list[xr.Dataset] = []
        self._batches: list[int] = []

    def watch(self, step: Step) -> None:
        """See a step of the trainer."""
        if step.batch % self.every:
            return
        if step.t == 1:
            self._seen, B, T = [], step.c.shape[0], step.steps
            self._settled = {label: rule.settled(rule.choose(True, T, False)) for label, rule in self.rules.items()}
            self._carries = {label: rule.init(B, T) for label, rule in self._settled.items()}
            self._sums = {label: {} for label in self.rules}
        self._seen.append(step)
        for label, rule in self._settled.items():
            if rule.deferred:
                continue
            arguments = (step.transition, step.c, step.end, self.theta.get(label))
            of_theta = rule.collect(self._carries[label], *arguments)
            self._carries[label], _, of_psi = rule.step(self._carries[label], *arguments)
            for name, gradient in (("theta", of_theta), ("psi", of_psi)):
                if gradient is not None:
                    add_gradient(self._sums[label], name, gradient)

    def batch_done(self, trainer: Trainer, outcome: Outcome) -> None:
        """A batch has ended: compare, and let the passive rules' own parameters learn."""
        if trainer is not self.trainer:
            raise ValidationError("`trainer` is not the one that the passive rules were made for")
        if trainer.state.position is not None:
            raise ValidationError("a stream has no whole trials to compare rules on; train on trials")
        if not self._seen:
            return
        circuit, host = trainer.circuit, trainer.circuit.backend.to_host
        trials = _trajectory(self._seen)
        true = trials.parameter_gradient(trials.c + circuit.xp.stack(true_later_gradient(self._seen)))
        rows = []
        for label, rule in self._settled.items():
            if rule.deferred:
                self._sums[label] = rule.finish(self._carries[label], trials, self.theta.get(label))
            rows.append(_against(circuit, host(_psi(circuit, self._sums[label])), host(true), None, None))
            if label in self.theta and "theta" in self._sums[label]:
                self.theta[label], self._moments[label] = self._optimiser.step(
                    circuit.backend, self.theta[label], self._sums[label]["theta"], self._moments[label]
                )
        self._figures.append(xr.concat(rows, xr.IndexVariable("rule", list(self.rules))))
        self._batches.append(trainer.batches)
        self._seen = []

    def flush(self) -> None:
        """Nothing to write: what was found is in memory."""

    def result(self) -> xr.Dataset:
        """``cosine`` and ``norm_ratio`` over ``batch``, ``rule`` and ``parameter``."""
        if not self._figures:
            raise ValidationError("nothing was compared yet: train first, with `recorder=` this")
        figures = xr.concat(self._figures, xr.IndexVariable("batch", self._batches))
        return figures.assign_attrs(_said(self.rules))


def _trajectory(seen: Sequence[Step]) -> Trajectory:
    return stack([step.transition for step in seen], [step.c for step in seen], [step.end for step in seen])


def _labelled(rules: Mapping[str, Rule] | Sequence[Rule]) -> dict[str, Rule]:
    if isinstance(rules, str | Rule) or not isinstance(rules, Mapping | Sequence):
        raise ValidationError(f"`rules` must be a list of rules, or a mapping of labels to rules; got {rules!r}")
    pairs = list(rules.items()) if isinstance(rules, Mapping) else [(getattr(r, "name", repr(r)), r) for r in rules]
    for label, rule in pairs:
        instance(f"rules[{label!r}]", rule, Rule, "a Rule; `bpl.make_rule` makes one by name")
    if not pairs or len(dict(pairs)) < len(pairs):
        raise ValidationError("`rules` must be one or more rules; give a mapping where two have the same name")
    return dict(pairs)


def _said(rules: Mapping[str, Rule]) -> dict[str, str]:
    return {f"{label}.{key}": str(getattr(rule, key, "not said")) for label, rule in rules.items() for key in SAID}


def _psi(circuit: Circuit, sums: Mapping[str, Any]) -> Any:
    """The gradient of Ψ, 0 from a rule that gives none."""
    return sums["psi"] if "psi" in sums else circuit.xp.zeros(circuit.layout.size, circuit.dtype)


def _against(circuit: Circuit, gradient: np.ndarray, true: np.ndarray, rule_credit: Any, credit: Any) -> xr.Dataset:
    """One rule's gradient against the true one, by block; and its credit, by step."""
    blocks = {"psi": (gradient, true)}
    views = [circuit.layout.views(flat) for flat in (gradient, true)]
    blocks |= {name: (views[0][name].ravel(), views[1][name].ravel()) for name in circuit.layout}
    cosines = [float(cosine(a, b)) for a, b in blocks.values()]
    norms = [(np.linalg.norm(a), np.linalg.norm(b)) for a, b in blocks.values()]
    data: dict[str, Any] = {
        "cosine": ("parameter", cosines),
        "norm_ratio": ("parameter", [float(a / b) if b else np.nan for a, b in norms]),
    }
    coords: dict[str, Any] = {"parameter": list(blocks)}
    if credit is not None:
        of_steps = np.full(len(credit), np.nan)
        if rule_credit is not None:
            of_steps = trial_mean(cosine(rule_credit, credit))
        data["credit_cosine"] = ("step", of_steps)
        coords["step"] = np.arange(1, len(credit) + 1)
    return xr.Dataset(data, coords)
