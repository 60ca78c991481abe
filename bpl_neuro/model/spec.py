"""Model files: their schema, the catalogue of shipped models, and errors that name file, key and reason."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from bpl_neuro.checks import shown
from bpl_neuro.errors import ModelError
from bpl_neuro.identity import describe
from bpl_neuro.model.budget import Budget
from bpl_neuro.model.equations import NeuronEquations, read_equations
from bpl_neuro.model.files import MAX_FILE, parse_toml, read_text
from bpl_neuro.model.names import BIAS, INPUT, TRACE, TRACE_GIVEN, symbol
from bpl_neuro.model.quantities import brian2_parts, check_text, quantity
from bpl_neuro.model.questions import bounded_questions
from bpl_neuro.model.schema import ModelSpec, PopulationSpec, ProjectionSpec, SynapsesSpec, explain

__all__ = ["Model", "Population", "available_models"]

FOLDER = Path(__file__).parents[1] / "models"
MAX_DELAY = 200
#: what a population, a projection and a step of a delay cost beside their equations, in a model's operations
WORK_OF_POPULATION, WORK_OF_PROJECTION, WORK_OF_DELAY = 2_000, 20, 50


@dataclass(frozen=True)
class Population:
    """One population of a model: its equations, and its parameters and initial state in SI units."""

    name: str
    neuron: NeuronEquations
    parameters: Mapping[str, float]
    initial: Mapping[str, float]


@dataclass(frozen=True)
class Projection:
    """Weights from `pre` (a population, or "input") onto some inputs of `post`.

    Attributes
    ----------
    probability : float
        Each synapse exists with this probability.
    sign : {1, -1, 0}
        Sign that every weight keeps (Dale's law); 0: free.
    self_synapses : bool
        False leaves out synapses of a neuron onto itself.
    plastic : bool
        False keeps the weights as they are.
    delay : int
        Transmission delay in steps.
    """

    pre: str
    post: str
    inputs: tuple[str, ...]
    probability: float = 1.0
    sign: int = 0
    self_synapses: bool = True
    plastic: bool = True
    delay: int = 0


class Model:
    """A circuit and its synthesiser population, written as equations.

    Made by `Model.load` (a shipped model's name, or a file), `Model.from_toml` or `Model.from_equations`.

    Attributes
    ----------
    title : str
        One line for people.
    populations : dict of str to Population
        In the order of the file.
    projections : tuple of Projection
        Which population reaches which input. Without any in the text: a single population projects onto all its
        inputs, and the external input reaches every input of every population.
    synthesiser : NeuronEquations
        The synthesiser's unit.
    synapse : (NeuronEquations, parameters) or None
        The trace equation of a synthesiser synapse, if the model has one.
    expansion : (NeuronEquations, parameters) or None
        The unit of the synthesiser's expansion layer, if the model has one.
    dt : float
        Step in seconds; 1 for a discrete-time model without ``[time]``.
    seconds : float
        Processor time that reading it took.
    """

    def __init__(self, spec: ModelSpec, where: str = "model") -> None:
        if not isinstance(spec, ModelSpec):
            raise ModelError(f"`spec` must be a ModelSpec, got {shown(spec)}; `Model.load` and its like make models")
        self.spec, self.where, self.title = spec, _text("where", where), spec.title
        brian2_parts()  # its import is not what reading this model takes
        self._budget = Budget()
        with bounded_questions(self._budget, where):
            self._read_all(spec, where)
        self.seconds = self._budget.seconds

    def _read_all(self, spec: ModelSpec, where: str) -> None:
        self._budget.spend(
            WORK_OF_POPULATION * len(spec.populations) + WORK_OF_PROJECTION * len(spec.projections), where,
            f"{len(spec.populations)} populations and {len(spec.projections)} projections",
        )  # fmt: skip
        self.dt = self._dt()
        self.populations = {name: self._population(name, p) for name, p in spec.populations.items()}
        self.projections = self._projections()
        s = spec.synthesiser
        key = f"{where}: [synthesiser]"
        if s.sees not in ("state", "rate"):
            raise ModelError(f'{key}: `sees` must be "state" or "rate", got {s.sees!r}')
        self.synthesiser = read_equations(
            s.equations, rate=s.rate, inputs=s.inputs, where=key, stateless=True, budget=self._budget
        )
        self.synthesiser_parameters = self._values(s.parameters, self.synthesiser, key)
        self.synapse = self._synapse(s.synapses) if s.synapses else None
        self.expansion = None
        if s.expansion:
            key = f"{where}: [synthesiser.expansion]"
            unit = read_equations(
                s.expansion.equations, rate=s.expansion.rate, inputs=s.expansion.inputs, where=key, stateless=True,
                budget=self._budget,
            )  # fmt: skip
            self.expansion = unit, self._values(s.expansion.parameters, unit, key)

    @classmethod
    def load(cls, source: str | Path) -> Model:
        """A shipped model by name (``"lstm"``), or a model file by path.

        Raises
        ------
        ModelError
            With the file, the key, what was found and what would be right.
        """
        if not isinstance(source, str | Path):
            raise ModelError(f"`source`: a model is given by its name or a .toml file, got {shown(source)}")
        path = Path(source)
        if path.suffix != ".toml":
            path = FOLDER / f"{source}.toml"
            if not path.is_file():
                raise ModelError(
                    f"`source`: there is no model {str(source)!r}; shipped: {', '.join(available_models())}; or give a "
                    ".toml file"
                )
        return cls.from_toml(read_text(path), str(path))

    @classmethod
    def from_toml(cls, text: str, where: str = "model text") -> Model:
        """A model from the text of a model file."""
        _text("where", where)
        if not isinstance(text, str):
            raise ModelError(f"{where}: expected the `text` of a model file, got {type(text).__name__}")
        if len(text) > MAX_FILE:
            raise ModelError(f"{where}: the text has {len(text)} characters; at most {MAX_FILE} are read")
        return cls._read(text, where)

    @classmethod
    @functools.lru_cache(maxsize=32)  # a model never changes
    def _read(cls, text: str, where: str) -> Model:
        return cls._validated(parse_toml(text, where), where)

    @classmethod
    def from_equations(
        cls,
        equations: str,
        *,
        rate: str,
        inputs: Sequence[str] = ("u",),
        method: str | None = None,
        update: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        initial: Mapping[str, Any] | None = None,
        dt: str | float | None = None,
        synthesiser: Mapping[str, Any] | None = None,
        name: str = "cortex",
        title: str = "From equations",
    ) -> Model:
        """A one-population model from Python strings; the keys are those of a model file.

        Examples
        --------
        >>> model = Model.from_equations(
        ...     '''dr/dt = (-r + tanh(u)) / tau : 1
        ...        u : 1
        ...        tau : second (constant)''',
        ...     rate="r", parameters={"tau": "10*ms"}, dt="1*ms")
        >>> model.populations["cortex"].neuron.states
        ('r',)
        """
        _text("name", name), _text("title", title)
        if method is not None:
            _text("method", None if isinstance(method, str) and not method else method)
        if not isinstance(inputs, list | tuple) or not all(isinstance(u, str) for u in inputs):
            raise ModelError(f"`inputs` must be a list of names, got {shown(inputs)}")
        population = {
            "equations": equations, "rate": rate, "inputs": list(inputs), "method": method, "update": update,
            "parameters": {} if parameters is None else parameters, "initial": {} if initial is None else initial,
        }  # fmt: skip
        data: dict[str, Any] = {"title": title, "populations": {name: population}}
        if dt is not None:
            data["time"] = {"dt": dt}
        if synthesiser is not None:
            data["synthesiser"] = synthesiser
        return cls._validated(_plain(data), "from_equations")

    @classmethod
    def _validated(cls, data: Any, where: str) -> Model:
        try:
            spec = ModelSpec.model_validate(data)
        except ValidationError as error:
            raise ModelError(f"{where}: {explain(error)}") from None
        except (RecursionError, OverflowError):
            raise ModelError(f"{where}: a value in it is nested too deeply, or too large a number") from None
        try:
            return cls(spec, where)
        except RecursionError:
            raise ModelError(f"{where}: its equations are nested too deeply") from None

    def to_toml(self) -> str:
        """The text of a model file that gives this model again."""
        return tomli_w.dumps(self.spec.model_dump(by_alias=True, exclude_none=True), multiline_strings=True)

    def identity(self) -> dict[str, Any]:
        """What the equations mean: no text, title or order of keys; the order of populations, by which weights lie."""
        return copy.deepcopy(self._identity)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        parts = {"synapse": self.synapse, "expansion": self.expansion}
        populations = {
            name: {
                "place": place, "equations": p.neuron.identity(), "parameters": describe(p.parameters),
                "initial": describe(p.initial),
            }
            for place, (name, p) in enumerate(self.populations.items())
        }  # fmt: skip
        return {
            "dt": describe(self.dt), "in_time": self.spec.time is not None, "populations": populations,
            "projections": [describe(p) for p in self.projections],
            "synthesiser": {
                "equations": self.synthesiser.identity(), "parameters": describe(self.synthesiser_parameters),
                "sees": self.spec.synthesiser.sees, "sees_input": self.spec.synthesiser.sees_input,
                **{name: part and {"equations": part[0].identity(), "parameters": describe(part[1])}
                   for name, part in parts.items()},
            },
        }  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: the equations are read again."""
        return Model, (self.spec, self.where)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self  # a model never changes

    def __repr__(self) -> str:
        populations = ", ".join(
            f"{p.name}: states {'/'.join(p.neuron.states)}, inputs {'/'.join(p.neuron.inputs)}"
            for p in self.populations.values()
        )
        return f"<Model {self.title!r} ({populations})>"

    def _dt(self) -> float:
        if self.spec.time is None:
            return 1.0
        key = f"{self.where}: [time] dt"
        value, dim = quantity(self.spec.time.dt, key)
        if dim is not brian2_parts().SECOND or value <= 0:
            raise ModelError(f'{key}: must be a positive time like "1*ms", got {self.spec.time.dt!r}')
        return value

    def _population(self, name: str, spec: PopulationSpec) -> Population:
        key = f"{self.where}: [populations.{name}]"
        if not name.isidentifier() or name in (INPUT, BIAS):
            raise ModelError(f"{key}: the name must be an identifier other than 'input' and 'bias'")
        neuron = read_equations(
            spec.equations, rate=spec.rate, inputs=spec.inputs, method=spec.method, update=spec.update, where=key,
            budget=self._budget,
        )  # fmt: skip
        if spec.update is None and self.spec.time is None:
            raise ModelError(f'{self.where}: differential equations need a step; add [time] with dt = "1*ms"')
        initial = self._values(spec.initial, neuron, f"{key} initial", neuron.states, default=0.0)
        return Population(name, neuron, self._values(spec.parameters, neuron, key), initial)

    def _synapse(self, spec: SynapsesSpec) -> tuple[NeuronEquations, dict[str, float]]:
        """The trace equation of a synthesiser synapse; as in Brian2, `r_pre` and the weight `theta` are given."""
        key = f"{self.where}: [synthesiser.synapses]"
        text = check_text(spec.equations, key)
        undeclared = [name for name in TRACE_GIVEN if not re.search(rf"^\s*{name}\s*:", text, re.MULTILINE)]
        text = "\n".join([*(line.strip() for line in text.splitlines()), *(f"{name} : 1" for name in undeclared)])
        neuron = read_equations(
            text, rate=TRACE, inputs=TRACE_GIVEN[:1], method=spec.method, where=key, budget=self._budget
        )
        if any(e.has(symbol("theta")) for e in neuron.update):
            raise ModelError(f"{key}: a trace may not depend on the weight 'theta'")
        return neuron, self._values({"theta": 0.0, **spec.parameters}, neuron, key)

    def _values(
        self,
        entries: Mapping[str, str | float],
        neuron: NeuronEquations,
        key: str,
        names: Sequence[str] | None = None,
        default: float | None = None,
    ) -> dict[str, float]:
        names = neuron.parameters if names is None else names
        for name in entries:
            if name not in names:
                raise ModelError(
                    f"{key}: {name!r} is not a parameter of the equations; known: {', '.join(names) or 'none'}"
                )
        values = {}
        for name in names:
            if name not in entries:
                if default is None:
                    raise ModelError(f'{key}: the parameter {name!r} has no value; add parameters = {{ {name} = "…" }}')
                values[name] = default
                continue
            values[name] = checked_quantity(entries[name], neuron.dimensions[name], f"{key}: {name}")
        return values

    def _projections(self) -> tuple[Projection, ...]:
        key = f"{self.where}: [[projections]]"
        projections: list[Projection] = []
        for spec in self.spec.projections:
            post, _, port = spec.to.partition(".")
            if spec.pre != INPUT and spec.pre not in self.populations:
                raise ModelError(
                    f"{key}: from = {spec.pre!r} is not a population; known: {', '.join(self.populations)}, input"
                )
            if post not in self.populations:
                raise ModelError(f"{key}: to = {spec.to!r} names no population; known: {', '.join(self.populations)}")
            inputs = self.populations[post].neuron.inputs
            if port and port not in inputs:
                raise ModelError(f"{key}: to = {spec.to!r}: {post} has the inputs {', '.join(inputs)}")
            sign = {"+": 1, "-": -1, None: 0}[spec.sign]
            delay = self._delay(spec, f"{key}: {spec.pre} → {spec.to}")
            to = (port,) if port else inputs
            if not spec.self_synapses and spec.pre != post:
                raise ModelError(f"{key}: {spec.pre} → {spec.to}: `self` concerns a population's synapses onto itself")
            projections.append(
                Projection(spec.pre, post, to, spec.probability, sign, spec.self_synapses, spec.plastic, delay)
            )
        seen = [(p.pre, p.post, port) for p in projections for port in p.inputs]
        if len(seen) != len(set(seen)):
            double = next(s for s in seen if seen.count(s) > 1)
            raise ModelError(f"{key}: {double[0]} → {double[1]}.{double[2]} is given twice")
        if not any(p.pre != INPUT for p in projections):
            if len(self.populations) > 1:
                raise ModelError(f"{key}: with several populations, say which projects onto which")
            projections += [Projection(p.name, p.name, p.neuron.inputs) for p in self.populations.values()]
        if not any(p.pre == INPUT for p in projections):
            projections += [Projection(INPUT, p.name, p.neuron.inputs) for p in self.populations.values()]
        return tuple(projections)

    def _delay(self, spec: ProjectionSpec, where: str) -> int:
        """A delay in whole steps."""
        if spec.delay is None:
            return 0
        if spec.pre == INPUT:
            raise ModelError(f"{where}: the external input has no delay; shift the stimulus itself")
        value = checked_quantity(spec.delay, brian2_parts().SECOND, f"{where}: delay")
        steps = value / self.dt
        if value < 0 or abs(steps - round(steps)) > 1e-6:
            raise ModelError(f"{where}: delay must be a whole number of steps of {self.dt:g} s, got {spec.delay!r}")
        if round(steps) > MAX_DELAY:
            raise ModelError(f"{where}: delay is {round(steps)} steps; at most {MAX_DELAY} are possible")
        self._budget.spend(WORK_OF_DELAY * round(steps), where, "the delay")
        return round(steps)


def _text(name: str, value: Any) -> str:
    """A text for people; ModelError for anything else."""
    if not isinstance(value, str) or "\0" in value:
        raise ModelError(f"`{name}` must be a text without a NUL character, got {shown(value)}")
    return value


def available_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def checked_quantity(value: Any, dim: Any, where: str) -> float:
    """`value` in SI units; ModelError unless it has the dimensions `dim`."""
    number, dimensions = quantity(value, where)
    if dimensions is not dim:
        b2 = brian2_parts()
        raise ModelError(f"{where}: must have the unit {b2.unit_name(dim)}, got {value!r} ({b2.unit_name(dimensions)})")
    if not math.isfinite(number):
        raise ModelError(f"{where}: must be finite, got {value!r}")
    return number


def _plain(data: Any) -> Any:
    """Brian2 quantities as text, so that a model made in Python can be written to a file."""
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    if hasattr(data, "dim") and hasattr(data, "in_best_unit"):
        return data.in_best_unit(python_code=True) if data.dim is not None else float(data)
    return data
