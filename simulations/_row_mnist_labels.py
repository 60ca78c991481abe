"""What `row-mnist-rules` trains: rules with their optimisers, circuits, and the labels that name a pair of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import bpl_neuro as bpl

Options = Mapping[str, float]
LAMS = (0, 0.5, 0.9, 1)
#: of a trial, a row each
STEPS = bpl.tasks.RowMNIST.steps


class AveragedAndLate:
    """Another optimiser, given the average of the gradients so far, and that one update late.

        a_k = Σ_j f^(k−j) g_j / Σ_j f^(k−j)          the other's step k is with a_{k−1}; none at k = 1

    What a prediction fitted to past batches comes to, where it is exact: a control for synthesisers that are.

    Parameters
    ----------
    optimiser : Optimiser
    factor : float
        f.
    """

    def __init__(self, optimiser: bpl.Adam, factor: float = 0.9) -> None:
        self.optimiser, self.factor = optimiser, factor

    def init(self, backend: Any, parameter: Any) -> dict[str, Any]:
        return {
            **self.optimiser.init(backend, parameter), "sum": backend.xp.zeros_like(parameter), "weight": np.float64(0)
        }  # fmt: skip

    def step(self, backend: Any, parameter: Any, gradient: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        before, weight = state["sum"], float(state["weight"])
        kept = {"sum": self.factor * before + gradient, "weight": np.float64(self.factor * weight + 1)}
        inner = {key: value for key, value in state.items() if key not in kept}
        if weight:
            parameter, inner = self.optimiser.step(backend, parameter, before / weight, inner)
        return parameter, {**inner, **kept}


def adam(options: Options) -> bpl.Adam:
    return bpl.Adam(options["eta"])


def adam_without_momentum(options: Options) -> bpl.Adam:
    """Beside an average over batches, a first moment would be a second delay."""
    return bpl.Adam(options["eta"], beta1=0.0)


def guarded_adam(options: Options) -> bpl.Adam:
    """Without a first moment a sudden gradient moves a weight by 7 η; here by 2 η."""
    return bpl.Adam(options["eta"], beta1=0.0, max_step=2.0)


def rmsprop(options: Options) -> bpl.Adam:
    """RMSprop with bias correction is Adam with β₁ = 0; β₂ = .99 is usual for it."""
    return bpl.Adam(options["eta"], beta1=0.0, beta2=0.99)


def averaged_and_late(options: Options) -> AveragedAndLate:
    return AveragedAndLate(adam_without_momentum(options))


def averaged_late_and_guarded(options: Options) -> AveragedAndLate:
    return AveragedAndLate(guarded_adam(options))


def least_squares(options: Options) -> Any:
    return bpl.RLS(forget=options["forget"], ridge=1e-3)


def guarded_least_squares(options: Options) -> Any:
    """One batch tells θ at most three times what is usual."""
    return bpl.RLS(forget=options["forget"], ridge=1e-3, bound=3.0)


def adam_per_step(options: Options) -> bpl.Adam:
    """For credit at every step: rate and memory of a trial, shared out among its steps. What comes at one may be √T."""
    return bpl.Adam(options["eta"] / STEPS, beta1=0.0, beta2=0.98 ** (1 / STEPS), max_step=2.0 * STEPS**0.5)


def adam_for_the_end(options: Options) -> bpl.Adam:
    """For a gradient at the last of T steps only: g/√v is √T there, and 0 elsewhere."""
    return bpl.Adam(options["eta"] / STEPS**0.5, beta1=0.0, beta2=0.98 ** (1 / STEPS))


def least_squares_per_step(options: Options) -> Any:
    return bpl.RLS(forget=options["forget"] ** (1 / STEPS), ridge=1e-3, bound=3.0 * STEPS**0.5)


@dataclass(frozen=True)
class RuleLabel:
    """How a rule is trained.

    Attributes
    ----------
    title : str
    make : callable
        Circuit → rule.
    psi, theta : callable
        Options → optimiser of the circuit and of the synthesiser; that of the readout is Adam with the same rate.
    reduction : str
        Of the loss over a batch. Without a synthesiser Adam makes no difference between them.
    schedule : str
    forgets : bool
        Whether "forget" is among the options to choose.
    fixed : mapping
        Options that are not chosen.
    also : tuple of str
        Rules with the same numbers, for the tables.
    """

    title: str
    make: Callable[[bpl.Circuit], bpl.Rule]
    psi: Callable[[Options], Any] = adam
    theta: Callable[[Options], Any] = adam
    reduction: str = "mean"
    schedule: str = "trial"
    forgets: bool = False
    fixed: Options = field(default_factory=dict)
    also: tuple[str, ...] = ()

    def candidates(self, rates: Sequence[float], forgets: Sequence[float]) -> list[dict[str, float]]:
        """All options to choose from."""
        grid = {"eta": rates} | ({"forget": forgets} if self.forgets else {})
        grid |= {key: [value] for key, value in self.fixed.items()}
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def paper(title: str, lam: float, kind: type[bpl.BPLambda] = bpl.BPLambda, **keywords: Any) -> RuleLabel:
    """The paper's class, γ and κ, all parameters with one rate, the loss summed over a batch as in its code."""

    def make(circuit: bpl.Circuit) -> bpl.Rule:
        return kind(bpl.Synthesiser(circuit), gamma=0.9, lam=lam, sg_weight=0.1, trace="sweep")

    return RuleLabel(title, make, reduction="sum", **keywords)


def compatible(
    title: str,
    lam: float,
    kind: type[bpl.BPLambda] = bpl.BPLambda,
    guarded: bool = True,
    **keywords: Any,
) -> RuleLabel:
    """A synthesiser that predicts the credit of input currents from what synapses see."""
    psi, theta = (guarded_adam, guarded_least_squares) if guarded else (adam_without_momentum, least_squares)

    def make(circuit: bpl.Circuit) -> bpl.Rule:
        synthesiser = bpl.Synthesiser(circuit, target="current", sees="synapses")
        return kind(synthesiser, gamma=1, lam=lam, trace="sweep", **keywords)

    return RuleLabel(title, make, psi, theta, forgets=True)


def per_step(title: str, lam: float, trace: str) -> RuleLabel:
    """Everything moves at every step: rates and memories are those of a trial, shared out among its steps."""

    def make(circuit: bpl.Circuit) -> bpl.Rule:
        return bpl.BPLambda(bpl.Synthesiser(circuit, target="current", sees="synapses"), lam=lam, trace=trace)

    return RuleLabel(title, make, adam_per_step, least_squares_per_step, schedule="step", forgets=True)


def three_step(circuit: bpl.Circuit) -> bpl.Rule:
    return bpl.rules.NStepSG(bpl.Synthesiser(circuit), steps=3, gamma=0.9, sg_weight=0.1)


WITH_EPROP = bpl.rules.BPLambdaEProp
#: every rule by its label. To add one, add a line; it is then in the group "rules"
RULES: dict[str, RuleLabel] = {
    "bptt": RuleLabel("BPTT", bpl.rules.BPTT, also=("RTRL, updates per trial",)),
    "bptt-late": RuleLabel("BPTT, averaged and one batch late", bpl.rules.BPTT, averaged_late_and_guarded),
    "bptt-late-unguarded": RuleLabel("BPTT, averaged and one batch late, no bounds", bpl.rules.BPTT, averaged_and_late),
    "rtrl-step": RuleLabel(
        "RTRL, per step", functools.partial(bpl.rules.RTRL, trace="lazy"), adam_for_the_end, schedule="step"
    ),
    **{f"bp-{lam:g}": paper(f"BP({lam:g})", lam) for lam in LAMS},
    "bp-1-paper": paper("BP(1), the paper's rate", 1, fixed={"eta": 3e-4}),
    **{f"bp-{lam:g}-eprop": paper(f"BP({lam:g}) + e-prop", lam, WITH_EPROP) for lam in LAMS},
    **{f"compatible-{lam:g}": compatible(f"compatible BP({lam:g})", lam) for lam in LAMS},
    **{
        f"compatible-{lam:g}-eprop": compatible(f"compatible BP({lam:g}) + e-prop", lam, WITH_EPROP, residual=True)
        for lam in LAMS
    },
    "compatible-1-unguarded": compatible("compatible BP(1), no bounds", 1, guarded=False),
    "compatible-1-eprop-unguarded": compatible(
        "compatible BP(1) + e-prop, no bounds", 1, WITH_EPROP, guarded=False, residual=True
    ),
    **{
        f"compatible-{lam:g}-late": compatible(f"compatible BP({lam:g}), e-prop's signal", lam, WITH_EPROP)
        for lam in (0, 1)
    },
    **{
        f"compatible-{lam:g}-step": per_step(f"compatible BP({lam:g}), per step", lam, trace)
        for lam, trace in ((0, "local"), (1, "lazy"))
    },
    "nstep-sg": RuleLabel("3-step SG", three_step, reduction="sum"),
    "truncated-bptt": RuleLabel("truncated BPTT, 3 steps", functools.partial(bpl.rules.TruncatedBPTT, steps=3)),
    "eprop": RuleLabel("e-prop", functools.partial(bpl.rules.EProp, trace="sweep")),
    "snap1": RuleLabel("SnAp-1", functools.partial(bpl.rules.SnAp1, trace="sweep")),
    "immediate": RuleLabel("immediate", bpl.rules.Immediate),
    "immediate-rmsprop": RuleLabel("immediate, RMSprop", bpl.rules.Immediate, rmsprop),
}

EXC_INH = """
title = "Threshold-linear excitatory and inhibitory neurons under Dale's law"

[populations.exc]
equations = '''
dx/dt = (-x + u) / tau : 1
r = clip(x, 0, inf) : 1
u : 1
tau : second (constant)
'''
rate = "r"
inputs = ["u"]
parameters = { tau = "10*ms" }
initial = { x = 0.1 }

[populations.inh]
equations = '''
dx/dt = (-x + u) / tau : 1
r = clip(x, 0, inf) : 1
u : 1
tau : second (constant)
'''
rate = "r"
inputs = ["u"]
parameters = { tau = "5*ms" }
initial = { x = 0.1 }

[[projections]]
from = "exc"
to = "exc"
sign = "+"

[[projections]]
from = "exc"
to = "inh"
sign = "+"

[[projections]]
from = "inh"
to = "exc"
sign = "-"

[[projections]]
from = "input"
to = "exc"

[time]
dt = "1*ms"
"""


class CircuitLabel:
    """A title, and how a circuit is made."""

    def __init__(self, title: str, model: str, size: Any, **options: Any) -> None:
        self.title, self.model, self.size, self.options = title, model, size, options

    def make(self, inputs: int, **common: Any) -> bpl.Circuit:
        model = bpl.Model.from_toml(self.model) if "\n" in self.model else self.model
        return bpl.Circuit(model, self.size, inputs, **common, **self.options)


CIRCUITS = {
    "lstm": CircuitLabel("LSTM, 30 units", "lstm", 30),
    "leaky_tanh": CircuitLabel("leaky tanh, 60 units", "leaky_tanh", 60, radius=1.0),
    "exc_inh": CircuitLabel("threshold-linear E–I, 48 + 12 units", EXC_INH, {"exc": 48, "inh": 12}, radius=0.9),
    "adapting": CircuitLabel("adapting, 60 units", "adapting", 60, radius=1.0),
}
GROUPS = {
    "rules": [("lstm", rule) for rule in RULES],
    "circuits": list(itertools.product(list(CIRCUITS)[1:], ("bptt", "eprop", "bp-1", "compatible-1"))),
}
#: label → circuit and rule
LABELS = {
    rule if circuit == "lstm" else f"{circuit}.{rule}": (circuit, rule)
    for circuit, rule in itertools.chain(*GROUPS.values())
}
