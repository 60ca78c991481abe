"""What a recorder can be asked for: names of quantities, choices of units, trials, steps and synapses."""

from __future__ import annotations

import itertools
import json
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.quantities import brian2_parts
from bpl_neuro.rules.base import Rule
from bpl_neuro.rules.bp_lambda import BPLambda
from bpl_neuro.rules.traces.exact import FullTrace, LeakTrace, LocalTrace, ModelTrace
from bpl_neuro.train.loop import Step
from bpl_neuro.train.trainer import Trainer

__all__ = ["Choice", "Units", "Variable", "chosen_synapses", "describe", "trace_values"]

PARAMETERS = {"psi": ("weight",), "phi": ("readout_weight",), "theta": ("output", "input")}
ENDLESS = sys.maxsize


class Variable(NamedTuple):
    """An array of the recording.

    Attributes
    ----------
    dims : tuple of str
        After ``batch``.
    shape : tuple of int
        Sizes of those dimensions that are neither ``step`` nor ``trial``.
    dtype : str
    attrs : dict
    look : callable (step) → (B, *shape) array, or None where the value comes from elsewhere
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attrs: Mapping[str, str]
    look: Callable[[Step], Any] | None = None


class Choice:
    """Some of the numbers from `lowest` on, in order: all, a slice, or a list; the upper end may not be known yet.

    Raises
    ------
    ValidationError
        For what is no such choice.
    """

    def __init__(self, name: str, given: Any, lowest: int) -> None:
        self.name, self.given, self.lowest = name, given, lowest
        try:
            self.numbers = _numbers(given, lowest)
        except (TypeError, ValueError):
            raise ValidationError(
                f"`{name}` must be a slice or distinct whole numbers, from {lowest} on; got {given!r}"
            ) from None

    def up_to(self, last: int) -> list[int]:
        """The numbers chosen, given the largest there is; ValidationError for a larger one, or if none is left."""
        found = list(itertools.takewhile(lambda k: k <= last, self.numbers))
        if not found or (isinstance(self.numbers, list) and len(found) < len(self.numbers)):
            raise ValidationError(f"`{self.name}` must lie in {self.lowest} … {last}, got {self.given!r}")
        return found

    def plain(self) -> Any:
        """As JSON has it."""
        if isinstance(self.given, slice):
            return {"slice": [self.given.start, self.given.stop, self.given.step]}
        return None if self.given is None else self.numbers


def _numbers(given: Any, lowest: int) -> range | list[int]:
    found: range | list[int]
    if given is None or isinstance(given, slice):
        start, stop, step = (None, None, None) if given is None else (given.start, given.stop, given.step)
        start, stop = lowest if start is None else start, ENDLESS if stop is None else stop
        found = range(start, stop, 1 if step is None else step)
        valid = found.step > 0 and len(found) > 0 and found[0] >= lowest
    else:
        if any(isinstance(k, bool | np.bool_) for k in given):
            raise TypeError("a mask is no choice of numbers")
        found = sorted(operator.index(k) for k in given)
        valid = len(found) > 0 and len(set(found)) == len(found) and found[0] >= lowest
    if not valid:
        raise ValueError("nothing, repeated, or too low")
    return found


class Units:
    """The flat states to be recorded, and the neurons they belong to, with their names.

    Attributes
    ----------
    states : list of int
        Indices of the flat state.
    neurons : list of int
        Indices of the rates.
    """

    def __init__(self, circuit: Circuit, given: Any) -> None:
        if isinstance(given, str):
            given = [given]
        names = given if isinstance(given, Sequence) and any(isinstance(k, str) for k in given) else []
        if unknown := [name for name in names if name not in circuit.sizes]:
            raise ValidationError(
                f"`units` must name populations ({', '.join(circuit.sizes)}) or lie in 0 … {circuit.n - 1}, "
                f"got {unknown[0]!r}"
            )
        if names:
            given = [i for p in circuit.populations if p.name in names for i in range(circuit.n)[p.state_slice]]
        self.states = Choice("units", given, 0).up_to(circuit.n - 1)
        flat: list[tuple[int, str, int, str, str]] = []
        rates: list[tuple[str, int, str]] = []
        for pop in circuit.populations:
            neuron, name_of = circuit.model.populations[pop.name].neuron, brian2_parts().unit_name
            own = [(name, name_of(neuron.dimensions[name])) for name in neuron.states]
            own += [(f"delay_{k + 1}", name_of(neuron.dimensions["rate"])) for k in range(pop.S - len(own))]
            for k in range(pop.N):
                flat += [(len(rates), pop.name, k, *state) for state in own]
                rates.append((pop.name, k, name_of(neuron.dimensions["rate"])))
        self.neurons = sorted({flat[i][0] for i in self.states})
        self._states, self._rates = [flat[i][1:] for i in self.states], [rates[k] for k in self.neurons]

    def units_of(self, name: str) -> dict[str, str]:
        """The attribute ``units`` of "state" or "rate", where it is the same for all."""
        recorded: dict[str, Sequence[tuple[Any, ...]]] = {"state": self._states, "rate": self._rates}
        same = {row[-1] for row in recorded.get(name, ())}
        return {"units": same.pop()} if len(same) == 1 else {}

    def coordinates(self, dims: set[str]) -> dict[str, Any]:
        """Labels of the dimensions ``unit`` and ``neuron``."""
        coords: dict[str, Any] = {}
        for dim, numbers, rows, keys in (
            ("unit", self.states, self._states, ("population", "neuron", "state", "units")),
            ("neuron", self.neurons, self._rates, ("population", "number", "units")),
        ):
            if dim in dims:
                coords[dim] = np.array(numbers)
                columns = zip(*rows, strict=True)
                coords |= {f"{dim}_{key}": (dim, np.array(v)) for key, v in zip(keys, columns, strict=True)}
        return coords


def describe(trainer: Trainer, names: Sequence[str], units: Units, synapses: Sequence[Any]) -> dict[str, Variable]:
    """The arrays that these quantities give, found by taking one step of one trial; nothing is learned.

    Raises
    ------
    ValidationError
        For a quantity that is not there with this rule.
    """
    circuit, theta = trainer.circuit, trainer.theta
    xp, real = circuit.xp, circuit.dtype.name
    c = xp.zeros((1, circuit.n), circuit.dtype)
    with np.errstate(all="ignore"):
        moved = circuit.step(circuit.initial_state(1), xp.zeros((1, circuit.input_size), circuit.dtype))
        first = trainer.rule.init(1)
        carry, signals, _ = trainer.rule.step(first, moved, c, xp.zeros(1, bool), theta, lambda gradient: theta)
    states, neurons = units.states, units.neurons
    looks: dict[str, Callable[[Step], Any]] = {
        "state": lambda step: step.transition.new.s[:, states],
        "rate": lambda step: step.transition.new.rate[:, neurons],
        "c": lambda step: step.c[:, states],
    }
    for name, value in signals.items():
        if getattr(value, "shape", None) == c.shape:
            looks[name] = _signal(name, states)
    own = [name for name in PARAMETERS if trainer.parameter(name) is not None]
    traced = ["trace"] if isinstance(trainer.rule, BPLambda) else []
    known = [*looks, *traced, "loss", *own]
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise ValidationError(f"`quantities` must be some of {', '.join(known)} with this rule, got {list(names)}")
    found = {"batch": Variable((), (), "int64", {"long_name": "batches trained, this one included"})}
    for name in names:
        if name == "loss":
            found[name] = Variable((), (), "float64", {})
        elif name == "trace":
            step = Step(1, moved, c, xp.zeros(1, bool), signals, carry)
            dims, shape = ("step", "trial", "synapse"), (len(synapses),)
            found |= {part: Variable(dims, shape, real, {}) for part in trace_values(trainer.rule, synapses, step)[0]}
        elif name in own:
            synthesiser = getattr(trainer.rule, "synthesiser", None)
            layout: dict[str, Any] = {
                "psi": circuit.layout,
                "phi": trainer.readout.layout,
                "theta": getattr(synthesiser, "layout", None),
            }
            attrs = {"blocks": json.dumps(dict(layout[name]))} if layout[name] else {}
            value = trainer.parameter(name)
            axes: tuple[str, ...] = PARAMETERS[name] if value.ndim == len(PARAMETERS[name]) else (f"{name}_weight",)
            found[name] = Variable(axes, value.shape, real, attrs)
        else:
            last, count = ("neuron", len(neurons)) if name == "rate" else ("unit", len(states))
            found[name] = Variable(("step", "trial", last), (count,), real, units.units_of(name), looks[name])
    return found


def _signal(name: str, states: list[int]) -> Callable[[Step], Any]:
    return lambda step: step.signals[name][:, states]


def chosen_synapses(rule: Rule, wanted: bool, given: Any) -> list[list[int]]:
    """The synapses (a, j) whose trace is recorded.

    Raises
    ------
    ValidationError
        If they do not exist, or the rule does not hold their trace.
    """
    if not wanted and given is None:
        return []
    if not wanted:
        raise ValidationError('`synapses` are those of the quantity "trace"; name it in `quantities`')
    if not isinstance(rule, BPLambda) or not isinstance(rule.trace, FullTrace | LocalTrace | LeakTrace | ModelTrace):
        reason = "this rule has no eligibility trace"
        if isinstance(rule, BPLambda):
            reason = f"{type(rule.trace).__name__} never holds one"
        raise ValidationError(
            f'"trace" cannot be recorded: {reason}; BPLambda(…, trace="full") holds it (with the numbers of "sweep"), '
            '"local", "leak" and "model" hold theirs'
        )
    if rule.synthesiser.P is not None:
        raise ValidationError('"trace" cannot be recorded in a subspace: its units belong to no state of the circuit')
    n, m = rule.synthesiser.n, rule.synthesiser.m
    try:
        pairs = [[operator.index(a), operator.index(j)] for a, j in given]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or any(not (0 <= a < n and 0 <= j < m) for a, j in pairs):
        raise ValidationError(f"`synapses` must be pairs (a, j) in 0 … {n - 1}, 0 … {m - 1}; got {given!r}")
    return pairs


def trace_values(
    rule: Any, synapses: Sequence[Sequence[int]], step: Step, before: Sequence[Any] | None = None
) -> tuple[dict[str, Any], list[Any]]:
    """What is recorded of the trace, (B, synapses) each; and its columns, to be given as `before` at the next step."""
    xp, delta = rule.synthesiser.circuit.xp, step.signals["delta"]
    columns = [rule.trace.column(step.carry["trace"], a, j) for a, j in synapses]
    values = {"trace_own": [e[:, a - states.start] for (a, _), (states, e) in zip(synapses, columns, strict=True)]}
    if isinstance(rule.trace, FullTrace | LocalTrace):
        values["trace_norm"] = [(e**2).sum(axis=1) ** 0.5 for _, e in columns]
    values["trace_product"] = [
        0 * delta[:, 0] if before is None else (delta[:, states] * before[k]).sum(axis=1)
        for k, (states, _) in enumerate(columns)
    ]
    return {name: xp.stack(parts, axis=1) for name, parts in values.items()}, [e for _, e in columns]
