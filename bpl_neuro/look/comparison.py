"""Rules side by side: what each would do with the same trials, held against the true gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from rich.table import Column, Table

from bpl_neuro.checks import a_text, instance, mapping, shown
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.errors import ValidationError
from bpl_neuro.look.analysis import cosine, trial_mean, true_later_gradient
from bpl_neuro.look.least_squares import least_squares_theta
from bpl_neuro.rules import BPTT, Rule
from bpl_neuro.tasks.base import Batch
from bpl_neuro.train.loop import watched_steps

__all__ = ["against", "compare", "comparison_table", "gradient_of_psi", "labelled_rules", "what_is_said"]

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
    fitted_on: Batch | None = None,
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
    fitted_on : Batch, optional
        Other trials for the least-squares fits of linear synthesisers; the same ones by default.

    Returns
    -------
    xarray.Dataset
        Over ``rule`` and ``parameter`` (the blocks of Ψ, and "psi" for all of them): ``cosine`` with the true gradient
        and ``norm_ratio`` to it. Over ``rule`` and ``step``: ``credit_cosine``, that of the credit a rule gives to the
        states with c_t + G_t, mean over trials without zero vectors; NaN where it gives none. NaN also where a gradient
        is 0. Over ``rule``, NaN for those without a linear synthesiser: ``optimum``, the cosine of Ψ's gradient that
        the rule gives at its least-squares optimum (`analysis.least_squares_theta`). Attributes: what each rule says
        of itself.

    Raises
    ------
    ValidationError
        For two rules with one label, or a rule of another circuit.
    """
    instance("circuit", circuit, Circuit, "a Circuit"), instance("readout", readout, Readout, "a Readout")
    labelled = labelled_rules(rules)
    instance("batch", batch, Batch, "a Batch")
    if fitted_on is not None:
        instance("fitted_on", fitted_on, Batch, "a Batch")
    if isinstance(theta, Mapping):
        if unknown := [label for label in theta if label not in labelled]:
            raise ValidationError(f"`theta` has {shown(unknown[0])}; the rules are {', '.join(labelled)}")
    elif theta is not None and all(rule.initial_theta() is None for rule in labelled.values()):
        raise ValidationError("`theta` is that of a synthesiser, and none of the rules has one")
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
        row = against(circuit, host(gradient_of_psi(circuit, rule_outcome.gradients)), true, rule_credit, credit)
        row["optimum"] = np.nan
        if rule.regression is not None:
            fit = least_squares_theta(
                circuit, readout, rule, batch if fitted_on is None else fitted_on, noise_seed=noise_seed
            )
            best = watched_steps(circuit, readout, rule, batch, fit, noise_seed, keep=False)[1]
            row["optimum"] = float(cosine(host(gradient_of_psi(circuit, best.gradients)), true))
        rows.append(row)
    figures = xr.concat(rows, xr.IndexVariable("rule", list(labelled)))
    figures.attrs = what_is_said(labelled)
    return figures


def comparison_table(found: xr.Dataset, title: str | None = None) -> Table:
    """The Dataset of `compare` or `PassiveRules.result`, as a table for the terminal; means over batches and seeds."""
    if not isinstance(found, xr.Dataset) or not {"cosine", "norm_ratio"} <= set(found) or "rule" not in found.dims:
        raise ValidationError(f"`found` must be what `compare` or `PassiveRules.result` gave, got {shown(found)}")
    if title is not None:
        a_text("title", title)
    columns: list[Column | str] = [
        Column("rule", no_wrap=True),
        "online",
        "exact",
        "local",
        "memory",
        "time per step",
        "cosine",
        "norm ratio",
        *(["cosine at the least-squares optimum"] if "optimum" in found else []),
    ]
    table = Table(*columns, title=title)
    over = [dim for dim in ("batch", "seed") if dim in found.dims]
    for rule in found["rule"].values:
        said = [found.attrs.get(f"{rule}.{key}", "not said") for key in SAID]
        said = [{"True": "yes", "False": "no"}.get(text, text) for text in said]
        means = found[["cosine", "norm_ratio"]].sel(rule=rule, parameter="psi").mean(over)
        figures = [f"{float(means['cosine']):.3f}", f"{float(means['norm_ratio']):.3g}"]
        if "optimum" in found:
            optimum = float(found["optimum"].sel(rule=rule).mean(over))
            figures.append("–" if np.isnan(optimum) else f"{optimum:.3f}")
        table.add_row(str(rule), *said, *figures)
    return table


def labelled_rules(rules: Mapping[str, Rule] | Sequence[Rule]) -> dict[str, Rule]:
    """Rules by label: as they were given, or by their names."""
    if isinstance(rules, str | Rule) or not isinstance(rules, Mapping | Sequence):
        raise ValidationError(f"`rules` must be a list of rules, or a mapping of labels to rules; got {shown(rules)}")
    if isinstance(rules, Mapping):
        pairs = list(mapping("rules", rules, "labels to rules").items())
    else:
        pairs = [(getattr(rule, "name", shown(rule)), rule) for rule in rules]
    for label, rule in pairs:
        instance(f"rules[{label!r}]", rule, Rule, "a Rule; `bpl.make_rule` makes one by name")
    if not pairs or len(dict(pairs)) < len(pairs):
        raise ValidationError("`rules` must be one or more rules; give a mapping where two have the same name")
    return dict(pairs)


def what_is_said(rules: Mapping[str, Rule]) -> dict[str, str]:
    """What each rule says of itself, as attributes of a Dataset."""
    return {f"{label}.{key}": str(getattr(rule, key, "not said")) for label, rule in rules.items() for key in SAID}


def gradient_of_psi(circuit: Circuit, sums: Mapping[str, Any]) -> Any:
    """The gradient of Ψ, 0 from a rule that gives none."""
    return sums["psi"] if "psi" in sums else circuit.xp.zeros(circuit.layout.size, circuit.dtype)


def against(circuit: Circuit, gradient: np.ndarray, true: np.ndarray, rule_credit: Any, credit: Any) -> xr.Dataset:
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
