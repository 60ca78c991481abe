"""The learner and its state: descriptions that never change, and one value that holds everything that does.

    run_batch(learner, state, batch) → state, outcome

A fork is a copy of the value, a checkpoint its flattening, an intervention a function from a state to a state.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from bpl_neuro.checks import flag, instance, number, plain_seed, positive_int, shown, word
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import describe
from bpl_neuro.model.units import whole_steps
from bpl_neuro.rules.base import Gradients, Rule
from bpl_neuro.train.optimisers import by_name, regresses, without_momentum
from bpl_neuro.train.schedule import Schedule

__all__ = ["INTERVENED", "PARAMETERS", "Learner", "LearnerState", "Log", "Totals"]

#: what can learn: the circuit's weights Ψ, the readout's φ, the rule's own θ
PARAMETERS = ("psi", "phi", "theta")
#: what interventions change
INTERVENED = ("mask", "clamped", "pathway", "frozen")


@dataclass
class Totals:
    """Sums over the batches of an epoch or a split."""

    loss: float = 0.0
    correct: float = 0.0
    scored: float = 0.0
    trials: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, outcome: Any, trials: int) -> None:
        """Count one batch of so many trials."""
        self.loss += outcome.loss * trials
        self.correct += outcome.correct
        self.scored += outcome.scored
        self.trials += trials
        for name, value in outcome.report.items():
            self.largest[name] = max(value, self.largest.get(name, 0.0))
        for name, value in outcome.figures.items():
            total, batches = self.sums.get(name, [0.0, 0])
            self.sums[name] = [total + value, batches + 1]

    def figures(self, prefix: str) -> dict[str, float]:
        """Mean loss per trial, accuracy where there were class labels, and what the rule said: largest, and means."""
        figures = {f"{prefix}loss": self.loss / max(self.trials, 1)}
        if self.scored:
            figures[f"{prefix}accuracy"] = self.correct / self.scored
        return figures | self.largest | {name: total / batches for name, (total, batches) in self.sums.items()}


@dataclass
class Log:
    """What a training has seen so far.

    Attributes
    ----------
    history : list of dict
        One entry per epoch.
    losses, ends : list
        Loss of every batch of every `fit`, and trials trained after it.
    epoch, within_epoch : int
        Epochs completed, and batches of the epoch under way.
    totals : Totals
        Of the epoch under way.
    best : dict or None
        The parameters with the lowest validation loss, and that ``loss``.
    fitted : dict or None
        ``task`` (what it is) and ``batch_size`` of the latest `fit`.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    epoch: int = 0
    within_epoch: int = 0
    totals: Totals = field(default_factory=Totals)
    best: dict[str, Any] | None = None
    fitted: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Learner:
    """What learns, and how: descriptions.

    Attributes
    ----------
    circuit, readout : Circuit, Readout
        With the weights that learning starts from.
    rule : Rule
    optimisers : Optimiser, or mapping of str to Optimiser
        One for everything, or by name of a parameter ("psi", "phi", "theta"); one without does not learn.
    schedule : Schedule
    error_delay : int or str
        Steps, or a time like ``"20*ms"``, by which c_t reaches the rule late. An error still on its way when its trial
        ends is lost.
    rate_penalty : float
        ρ: adds ½ ρ Σ r² per trial to every step's loss in c, never late; not to the loss that is reported.
    weight_penalty : float
        ω: adds ½ ω Σ W² over the plastic weights (biases not) to the loss of every update of Ψ.

    Raises
    ------
    ValidationError
        If the rule has no meaning under the schedule, or parts were made for another circuit.
    """

    circuit: Circuit
    readout: Readout
    rule: Rule
    optimisers: Any
    schedule: Schedule
    error_delay: Any = 0
    rate_penalty: float = 0.0
    weight_penalty: float = 0.0

    def __post_init__(self) -> None:
        kinds = {"circuit": Circuit, "readout": Readout, "rule": Rule, "schedule": Schedule}
        for name, kind in kinds.items():
            instance(name, getattr(self, name), kind, f"a {kind.__name__}")
        values = {
            "optimisers": MappingProxyType(self._own_optimisers()),
            "error_delay": whole_steps("error_delay", self.error_delay, self.circuit.model.dt),
            "rate_penalty": number("rate_penalty", self.rate_penalty),
            "weight_penalty": number("weight_penalty", self.weight_penalty),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for name in ("readout", "rule"):
            if not self.circuit.fits(getattr(self, name)):
                raise ValidationError(f"`{name}` was made for another circuit")
        if self.schedule.name not in self.rule.schedules:
            raise ValidationError(
                f"`schedule` must be {' or '.join(map(repr, self.rule.schedules))} for {self.rule!r}, got "
                f"{self.schedule.name!r}; it knows its gradient only at a trial's end"
            )

    def identity(self) -> dict[str, Any]:
        """What everything here is, as a tree of plain values; see `bpl_neuro.identity`."""
        return copy.deepcopy(self._identity)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        tree = {each.name: describe(getattr(self, each.name)) for each in fields(self)}
        return {**tree, "backend": self.circuit.backend.name}

    def __deepcopy__(self, memo: dict[int, Any]) -> Learner:
        return self  # it never changes

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: the read-only mapping is made again."""
        return vars(self) | {"optimisers": dict(self.optimisers)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"optimisers": MappingProxyType(state["optimisers"])})

    @property
    def least_squares(self) -> bool:
        """Whether θ learns by least squares."""
        return self.rule.regression is not None and regresses(self.optimisers.get("theta"))

    def _own_optimisers(self) -> dict[str, Any]:
        """By name; Adam of Ψ without momentum where θ learns by least squares."""
        optimisers = by_name(self.optimisers, PARAMETERS)
        for name, optimiser in optimisers.items():
            if regresses(optimiser) and name != "theta":
                raise ValidationError(f"{optimiser!r} solves for θ of a synthesiser; give {name} another optimiser")
        if self.rule.initial_theta() is not None and regresses(optimisers.get("theta")):
            if self.rule.regression is None:
                raise ValidationError(
                    f"{optimisers['theta']!r} needs a synthesiser that is linear in θ and learns at every step, which "
                    f"{self.rule!r} has not"
                )
            if "psi" in optimisers:
                optimisers["psi"] = without_momentum(optimisers["psi"])
        return optimisers

    def _own_theta(self, theta: Any) -> Any:
        """θ as it was given, checked, or the rule's initial one; None for a rule without."""
        initial = self.rule.initial_theta()
        if initial is None or theta is None:
            return initial
        theta = self.circuit.own_array("theta", theta)
        if theta.shape != initial.shape:
            raise ValidationError(f"`theta` must have shape {initial.shape}, got {theta.shape}")
        if not self.circuit.xp.isfinite(theta).all():
            raise ValidationError("`theta` must be finite")
        return theta.copy()

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Ψ, φ and θ by name, checked and copied.

        Raises
        ------
        ValidationError
            For an unknown name, a wrong shape, or values that are not finite.
        """
        for name in instance("values", values, Mapping, "a mapping of parameters to arrays"):
            if not isinstance(name, str) or name not in PARAMETERS:
                raise ValidationError(f"`values` has no parameter {shown(name)}; there are {', '.join(PARAMETERS)}")
        made = {
            "psi": lambda value: self.circuit.with_psi(value).psi.copy(),
            "phi": lambda value: self.readout.with_phi(value).phi.copy(),
            "theta": self._own_theta,
        }
        return {name: made[name](value) for name, value in values.items()}

    def initial(self, seed: int = 0, theta: Any = None) -> LearnerState:
        """The state before anything was learned; `seed` is that of the noise, `theta` the rule's own parameters."""
        plain_seed("seed", seed)
        circuit, readout = self.circuit, self.readout
        state = LearnerState(
            learner=self, psi=circuit.psi.copy(), phi=readout.phi.copy(),
            theta=self._own_theta(theta),
            moments={}, sums={}, position=None,
            noise_rng=np.random.default_rng(np.random.SeedSequence(int(seed)).spawn(1)[0]),
            steps=0, batches=0, trials=0, mask=circuit.mask, clamped=dict(circuit.clamped), pathway=None,
            frozen=frozenset(), form=None, curriculum=None, log=Log(), spare={},
        )  # fmt: skip
        for name, optimiser in self.optimisers.items():
            if (parameter := state.parameter(name)) is not None:
                problem = (self.rule.regression,) if regresses(optimiser) else ()
                state.moments[name] = optimiser.init(circuit.backend, parameter, *problem)
        return state


@dataclass(eq=False, repr=False)
class LearnerState:
    """Everything that changes while a learner learns.

    It is a value with one owner: `run_batch` and interventions take the state that they are given and return another;
    the old one is spent, and using it raises. Keep a `copy` to go on from here twice.

    Spending moves the fields into a new object and leaves the old one without any, so that whatever is asked of it ends
    in `__getattr__`, which says so. No array is copied: the new owner may change them in place. Where a batch fails,
    the fields go back to where they came from (`give_back`).

    Attributes
    ----------
    learner : Learner
        Whose state this is.
    psi, phi, theta : arrays, or None
        Ψ, φ and θ, flat.
    moments : dict
        Of the optimisers, by name of the parameter.
    sums : dict
        Gradients that were not applied yet; and for least squares the ``moment`` that belongs to that of θ.
    position : dict or None
        Where a stream stands between two pieces: the circuit's state ``s``, the rule's ``carry``, and errors still on
        their way, ``late``.
    noise_rng : Generator or None
        Of the model's noise; without it there is none.
    steps, batches, trials : int
        Learned from so far.
    mask : (|Ψ|,) array or None
        Where there is a plastic synapse.
    clamped : dict
        As in `Circuit`.
    pathway : (n, n) array or None
        From the n outputs of the synthesiser to the circuit; None is the identity.
    frozen : frozenset of str
        Names of parameters that do not learn any more.
    form : str or None
        What the rule chose where it has a choice (``trace="auto"``).
    curriculum : dict or None
        Where the task's curriculum stands.
    log : Log
        What a `Trainer` has seen.
    spare : dict
        Buffers that the next update writes into.
    """

    learner: Learner
    psi: Any
    phi: Any
    theta: Any
    moments: dict[str, dict[str, Any]]
    sums: Gradients
    position: dict[str, Any] | None
    noise_rng: np.random.Generator | None
    steps: int
    batches: int
    trials: int
    mask: Any
    clamped: dict[tuple[int, int], float]
    pathway: Any
    frozen: frozenset[str]
    form: str | None
    curriculum: dict[str, Any] | None
    log: Log
    spare: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        if vars(self) or name.startswith("__"):
            raise AttributeError(f"a LearnerState has no {name!r}")
        raise ValidationError(
            f"the state is spent (asked for its `{name}`): what it held went on into the state that was returned for "
            "it; keep one with `state.copy()` before it is given away. While a batch is learned from, ask the step "
            'that a watcher gets, like `step.parameter("theta")`'
        )

    def __repr__(self) -> str:
        if not vars(self):
            return "<LearnerState: spent>"
        sizes = (f"{name} {parameter.size}" for name in PARAMETERS if (parameter := self.parameter(name)) is not None)
        place = ", in the middle of a stream" if self.position else ""
        return f"<LearnerState after {self.batches} batches, {self.trials} trials{place}: {', '.join(sizes)}>"

    def copy(self) -> LearnerState:
        """An independent copy: nothing is shared but the descriptions."""
        values = {name: value for name, value in self._fields().items() if name not in ("learner", "spare")}
        return LearnerState(learner=self.learner, spare={}, **copied(values))

    def take(self) -> LearnerState:
        """The value in new hands; this one is spent."""
        taken = LearnerState(**self._fields())
        vars(self).clear()
        return taken

    def give_back(self, owner: LearnerState) -> None:
        """Undo `take`: what is left of the value returns to its old hands, without the place in a stream."""
        self.position, self.sums, self.spare = None, {}, {}
        vars(owner).update(self._fields())
        vars(self).clear()

    def replace(self, **values: Any) -> LearnerState:
        """The value with some of its fields changed; this one is spent.

        Raises
        ------
        ValidationError
            For a field that a state has not; for parameters of a wrong shape or that are not finite, and a `noise_rng`
            that is no generator. The other fields are for interventions, which say themselves what they may be.
        """
        if unknown := values.keys() - vars(self).keys():
            self.learner  # noqa: B018 - raises for a state that is spent
            raise ValidationError(f"`replace` takes fields of a state, {', '.join(vars(self))}; got {min(unknown)!r}")
        values |= self.learner.parameters({name: values[name] for name in PARAMETERS if name in values})
        if values.get("noise_rng") is not None:
            instance("noise_rng", values["noise_rng"], np.random.Generator, "a numpy.random.Generator, or None")
        taken = self.take()
        vars(taken).update(values)
        return taken

    def _fields(self) -> dict[str, Any]:
        self.learner  # noqa: B018 - raises for a state that is spent
        return dict(vars(self))

    def parameter(self, name: str) -> Any:
        """Ψ, φ or θ, by the name "psi", "phi" or "theta"."""
        return getattr(self, word("name", name, PARAMETERS))

    @property
    def circuit(self) -> Circuit:
        """The circuit with what it has learned and what was done to it. Its Ψ is only good until the next update."""
        return self.learner.circuit.holding(self.psi, mask=self.mask, clamped=self.clamped)

    @property
    def readout(self) -> Readout:
        """The readout with what it has learned; good until the next update."""
        return self.learner.readout.holding(self.phi)

    @property
    def rule(self) -> Rule:
        """The rule in the form that was chosen for it, with the pathway as it is now."""
        return self.learner.rule.settled(self.form, self.pathway)

    def rule_for(self, steps: int, stream: bool = False) -> tuple[Rule, str | None]:
        """`rule`, or where none was chosen yet the one that such batches would get; and its `form`."""
        positive_int("steps", steps), flag("stream", stream)
        form = self.form or self.learner.rule.choose(self.learner.schedule.frozen, steps, stream)
        return self.learner.rule.settled(form, self.pathway), form


def copied(tree: Any) -> Any:
    """A copy of arrays in dicts and lists, and of what else a state holds."""
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [copied(value) for value in tree]
    if hasattr(tree, "dtype"):
        return tree.copy()
    return copy.deepcopy(tree)
