"""What a recorder can be asked for: names of quantities, choices of units, trials, steps and synapses."""

from __future__ import annotations

import itertools
import json
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bpl_neuro.checks import real_array, shown
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.errors import ValidationError
from bpl_neuro.look.recording.names import GRADIENTS, in_words
from bpl_neuro.model.quantities import brian2_parts
from bpl_neuro.rules.base import Rule
from bpl_neuro.rules.traces import TracedRule
from bpl_neuro.train.step import Step
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
        except (TypeError, ValueError, OverflowError):
            raise ValidationError(
                f"`{name}` must be a slice or distinct whole numbers, from {lowest} on; got {shown(given)}"
            ) from None

    def up_to(self, last: int) -> list[int]:
        """The numbers chosen, given the largest there is; ValidationError for a larger one, or if none is left."""
        numbers = list(itertools.takewhile(lambda k: k <= last, self.numbers))
        if not numbers or (isinstance(self.numbers, list) and len(numbers) < len(self.numbers)):
            raise ValidationError(f"`{self.name}` must lie in {self.lowest} … {last}, got {self.given!r}")
        return numbers

    def goes_on(self, count: int, last: int) -> bool:
        """Whether more than the first `count` are there, up to the largest; of a list all are there from the first."""
        return isinstance(self.numbers, range) and count < len(self.numbers) and self.numbers[count] <= last

    def plain(self) -> Any:
        """As JSON has it."""
        if isinstance(self.given, slice):
            return {"slice": [self.given.start, self.given.stop, self.given.step]}
        return None if self.given is None else self.numbers


def _numbers(choice: Any, lowest: int) -> range | list[int]:
    numbers: range | list[int]
    if choice is None or isinstance(choice, slice):
        start, stop, step = (None, None, None) if choice is None else (choice.start, choice.stop, choice.step)
        start, stop = lowest if start is None else start, ENDLESS if stop is None else stop
        numbers = range(start, stop, 1 if step is None else step)
        valid = numbers.step > 0 and len(numbers) > 0 and numbers[0] >= lowest
    else:
        if isinstance(choice, np.ndarray):
            choice = real_array("choice", choice)
        if not isinstance(choice, list | tuple | range | set | np.ndarray):
            raise TypeError("no collection of numbers")
        if any(isinstance(k, bool | np.bool_) for k in choice):
            raise TypeError("a mask is no choice of numbers")
        numbers = sorted(operator.index(k) for k in choice)
        valid = len(numbers) > 0 and len(set(numbers)) == len(numbers) and numbers[0] >= lowest
    if not valid:
        raise ValueError("nothing, repeated, or too low")
    return numbers


class Units:
    """The flat states to be recorded, and the neurons they belong to, with their names.

    Attributes
    ----------
    states : list of int
        Indices of the flat state.
    neurons : list of int
        Indices of the rates.
    currents : list of int
        Indices of these neurons' input currents: port after port within a population.
    """

    def __init__(self, circuit: Circuit, given: Any) -> None:
        choice = [given] if isinstance(given, str) else given
        names = choice if isinstance(choice, Sequence) and any(isinstance(k, str) for k in choice) else []
        if unknown := [name for name in names if name not in circuit.sizes]:
            raise ValidationError(
                f"`units` must name populations ({', '.join(circuit.sizes)}) or lie in 0 … {circuit.n - 1}, "
                f"got {unknown[0]!r}"
            )
        if names:
            choice = [i for p in circuit.populations if p.name in names for i in range(circuit.n)[p.state_slice]]
        self.states = Choice("units", choice, 0).up_to(circuit.n - 1)
        flat: list[tuple[int, str, int, str, str]] = []
        rates: list[tuple[str, int, str]] = []
        for pop in circuit.populations:
            neuron, name_of = circuit.model.populations[pop.name].neuron, brian2_parts().unit_name
            variables = [(name, name_of(neuron.dimensions[name])) for name in neuron.states]
            variables += [(f"delay_{k + 1}", name_of(neuron.rate_dimensions)) for k in range(pop.S - len(variables))]
            for k in range(pop.N):
                flat += [(len(rates), pop.name, k, *state) for state in variables]
                rates.append((pop.name, k, name_of(neuron.rate_dimensions)))
        self.neurons = sorted({flat[i][0] for i in self.states})
        inputs = [
            (pop.rate_slice.start + k, pop.name, k, port)
            for pop in circuit.populations
            for port in circuit.model.populations[pop.name].neuron.inputs
            for k in range(pop.N)
        ]
        self.currents = [k for k, row in enumerate(inputs) if row[0] in self.neurons]
        self._currents = [inputs[k][1:] for k in self.currents]
        self._states, self._rates = [flat[i][1:] for i in self.states], [rates[k] for k in self.neurons]
        neurons = [circuit.model.populations[pop.name].neuron for pop in circuit.populations]
        dims = [n.dimensions[name] for n in neurons for name in (*n.states, *n.inputs)] + [
            n.rate_dimensions for n in neurons
        ]
        self._dimensionless = all(dim == brian2_parts().DIMENSIONLESS for dim in dims)

    def units_of(self, name: str) -> dict[str, str]:
        """The attribute ``units`` of a quantity, where it is known and the same for all."""
        known = (*PARAMETERS, "trace_own", "trace_norm", "trace_product")
        if name == "loss" or (name in known and self._dimensionless):
            return {"units": "1"}
        rows: Sequence[tuple[Any, ...]] = self._rates if name == "rate" else self._states
        same = {row[-1] for row in rows} if name in ("state", "rate", *GRADIENTS) else set()
        if len(same) != 1:
            return {}
        unit = same.pop()
        if name in GRADIENTS and unit != "1":  # the loss has none
            unit = f"1/{unit}" if unit.isalpha() else f"1/({unit})"
        return {"units": unit}

    def coordinates(self, dims: set[str]) -> dict[str, Any]:
        """Labels of the dimensions ``unit`` and ``neuron``."""
        coords: dict[str, Any] = {}
        for dim, numbers, rows, keys in (
            ("unit", self.states, self._states, ("population", "neuron", "state", "units")),
            ("neuron", self.neurons, self._rates, ("population", "number", "units")),
            ("current", self.currents, self._currents, ("population", "neuron", "input")),
        ):
            if dim in dims:
                columns = dict(zip((f"{dim}_{key}" for key in keys), zip(*rows, strict=True), strict=True))
                coords |= {k: (dim, np.array(v), in_words(k)) for k, v in {dim: numbers, **columns}.items()}
        return coords


def describe(trainer: Trainer, names: Sequence[str], units: Units, synapses: Sequence[Any]) -> dict[str, Variable]:
    """The arrays that these quantities give, found by taking one step of one trial; nothing is learned.

    Raises
    ------
    ValidationError
        For a quantity that is not there with this rule.
    """
    circuit, rule, state = trainer.circuit, trainer.state.rule_for(1)[0], trainer.state
    xp, real = circuit.xp, circuit.dtype.name
    c = xp.zeros((1, circuit.n), circuit.dtype)
    with np.errstate(all="ignore"):
        moved = circuit.step(circuit.initial_state(1), xp.zeros((1, circuit.input_size), circuit.dtype))
        arguments = (rule.init(1, 1), moved, c, xp.zeros(1, bool), state.theta)
        seen = rule.observe(*arguments)
        carry, signals, _ = rule.step(*arguments)
        signals = {**signals, **seen}
    states, neurons = units.states, units.neurons
    looks: dict[str, Callable[[Step], Any]] = {
        "state": lambda step: step.transition.new.s[:, states],
        "rate": lambda step: step.transition.new.rate[:, neurons],
        "c": lambda step: step.c[:, states],
    }
    if "q" in signals:
        looks["q"] = _signal("q", units.currents)
    for name, value in signals.items():
        if name != "q" and getattr(value, "shape", None) == c.shape:
            looks[name] = _signal(name, states)
    parameters = [name for name in PARAMETERS if trainer.parameter(name) is not None]
    traced = ["trace"] if isinstance(rule, TracedRule) and rule.target == "state" else []
    known = [*looks, *traced, "loss", *parameters]
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise ValidationError(f"`quantities` must be some of {', '.join(known)} with this rule, got {list(names)}")
    variables = {"batch": Variable((), (), "int64", {"long_name": "batches trained, this one included"})}
    for name in names:
        if name == "loss":
            variables[name] = Variable((), (), "float64", {})
        elif name == "trace":
            step = Step(1, 1, moved, c, xp.zeros(1, bool), signals, rule, carry, state)
            dims, count = ("step", "trial", "synapse"), (len(synapses),)
            variables |= {part: Variable(dims, count, real, {}) for part in trace_values(synapses, step)[0]}
        elif name in parameters:
            synthesiser = getattr(rule, "synthesiser", None)
            layout: dict[str, Any] = {
                "psi": circuit.layout,
                "phi": trainer.readout.layout,
                "theta": getattr(synthesiser, "layout", None),
            }
            attrs = {"blocks": json.dumps(dict(layout[name]))} if layout[name] else {}
            shape: tuple[int, ...] = trainer.parameter(name).shape
            axes: tuple[str, ...] = (f"{name}_weight",)
            if name != "theta":
                axes = PARAMETERS[name]
            elif layout[name] and list(layout[name]) == ["output"]:
                shape, axes = layout[name]["output"], PARAMETERS[name]
            variables[name] = Variable(axes, shape, real, attrs)
        else:
            others = {"rate": ("neuron", len(neurons)), "q": ("current", len(units.currents))}
            last, total = others.get(name, ("unit", len(states)))
            variables[name] = Variable(("step", "trial", last), (total,), real, units.units_of(name), looks[name])
    return variables


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
    if not isinstance(rule, TracedRule) or not rule.trace.shows:
        reason = "this rule has no eligibility trace"
        if isinstance(rule, TracedRule):
            reason = f'trace="{rule.form}" never holds one'
            if rule.target != "state":
                reason = 'it is shown of a synthesiser with `target` = "state"'
        raise ValidationError(
            f'"trace" cannot be recorded: {reason}; BPLambda(…, trace="full") holds it (with the numbers of "sweep"), '
            '"local", "leak" and "model" hold theirs'
        )
    if not rule.synthesiser.own_units:
        raise ValidationError('"trace" cannot be recorded in a subspace: its units belong to no state of the circuit')
    n, m = rule.synthesiser.n, rule.synthesiser.m
    try:
        pairs = [[operator.index(a), operator.index(j)] for a, j in given]
    except Exception:  # whatever a stranger says when it is asked
        pairs = []
    if not pairs or any(not (0 <= a < n and 0 <= j < m) for a, j in pairs):
        raise ValidationError(f"`synapses` must be pairs (a, j) in 0 … {n - 1}, 0 … {m - 1}; got {shown(given)}")
    return pairs


def trace_values(
    synapses: Sequence[Sequence[int]], step: Step, before: Sequence[Any] | None = None
) -> tuple[dict[str, Any], list[Any]]:
    """What is recorded of the trace, (B, synapses) each; and its columns, to be given as `before` at the next step."""
    rule: Any = step.rule
    xp, delta = rule.synthesiser.circuit.xp, step.signals["delta"]
    columns = [step.trace(a, j) for a, j in synapses]
    values = {"trace_own": [e[:, a - states.start] for (a, _), (states, e) in zip(synapses, columns, strict=True)]}
    if "norm" in rule.trace.shows:
        values["trace_norm"] = [(e**2).sum(axis=1) ** 0.5 for _, e in columns]
    values["trace_product"] = [
        0 * delta[:, 0] if before is None else (delta[:, states] * before[k]).sum(axis=1)
        for k, (states, _) in enumerate(columns)
    ]
    return {name: xp.stack(parts, axis=1) for name, parts in values.items()}, [e for _, e in columns]
