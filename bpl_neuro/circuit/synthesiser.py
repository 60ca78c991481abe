"""The synthesiser: a population without memory that predicts the future error gradient, g(s; θ) = φ(θ z).

Here are units that each predict for one state variable. Others with the same interface: fewer units that predict within
a subspace (`subspace`), units behind a layer that learns as well (`plastic`), and units that predict the credit of the
input currents (`compatible`). θ is a flat vector in all of them; its `layout` names the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bpl_neuro.checks import flag, generator, instance, shown, whole
from bpl_neuro.circuit.build import MOST_NEURONS
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.expansion import drawn_weights, granule
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.regression import Family, Regression
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.circuit.wiring import column
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described
from bpl_neuro.model.equations import NeuronEquations
from bpl_neuro.model.names import symbol

__all__ = ["Response", "Synthesiser", "outer", "plastic_in_the_model"]

#: options that ask for a `CompatibleSynthesiser`
_OF_CURRENTS = (("target", "current"), ("sees", "synapses"))


class Response(NamedTuple):
    """What the synthesiser answers, with what the derivatives of the answer need.

    Attributes
    ----------
    g : (B, n) array
    slope : (B, n) array or number
        φ'(θ z): a number for a linear unit.
    z : (B, m) array
        What the output units receive, a 1 last.
    seen : (B, k) array
        What the population sees, a 1 last; the same as `z` unless there is a plastic expansion layer.
    hidden_slope : (B, H) array or number, or None
        q' of a plastic expansion layer.
    back : (n, H) array or None
        The output weights of a plastic expansion layer as they were.
    """

    g: Any
    slope: Any
    z: Any
    seen: Any
    hidden_slope: Any = None
    back: Any = None


class Synthesiser(Described):
    """One unit per circuit state variable; its equation comes from the model file.

    ``Synthesiser(circuit, subspace=…)`` gives a `SubspaceSynthesiser`, one with a plastic expansion layer, or a learned
    subspace, a `PlasticSynthesiser`, and ``Synthesiser(circuit, target="current")`` a `CompatibleSynthesiser`.

    Parameters
    ----------
    circuit : Circuit
    target : {"state", "current"}
        What is predicted: the credit of the states, as in the paper, or that of the input currents from what the
        synapses see.
    sees : {"state", "rate"}, optional
        z = [s; 1] or [r; 1]; the model's `sees` by default. "synapses" where the target is "current".
    sees_input : bool, optional
        Append the circuit's input: z = [s; x; 1]; the model's by default.
    expansion : int, optional
        Size of an expansion layer between circuit and synthesiser ("granule cells"): z = [q(Q [s; x; 1]); 1] with a
        random Q. The model's ``[synthesiser.expansion]`` by default; 0 for none.
    fan_in : int, optional
        Inputs of each expansion unit; the model's, or 4.
    plastic_expansion : bool, optional
        Q learns as well, where it has a synapse: it is then part of θ. The model's, or False.
    subspace : array (n, d) or {"random", "learned"}, optional
        Predict the error in d dimensions only: g = φ(θ z) Pᵀ with θ (d, m) and the orthonormal columns of P, as from
        `analysis.principal_subspace`; "random" draws P; "learned" makes it part of θ, as the output weights of a
        plastic layer of d linear units that see everything (traces "full", "lazy" and "sweep" only).
    dimension : int, optional
        d, for "random" and "learned".
    seed : int or numpy.random.Generator
        For Q: `fan_in` entries a row, uniform in ±√(3/fan_in) (unit variance together); its last column, the bias,
        uniform in ±1.

    Attributes
    ----------
    n, d, m : int
        Outputs (= size of the circuit's flat state), units that predict (n, or fewer in a subspace), and size of what
        these units receive, a 1 included.
    k : int
        Size of what `z` returns: m, or with a plastic expansion layer the size of [s; x; 1].
    layout : Layout
        Blocks of θ: ``"output"`` (d, m) and, where it is plastic, ``"expansion"`` (H, k).
    linear : bool
        True when φ is the identity up to a constant factor.
    own_units : bool
        Whether there is one unit for each state variable, which predicts for that one alone.
    hidden : tuple or None
        Shape (H, k) of a plastic expansion layer.
    regression : Regression or None
        θ as the regressions that least squares can solve; None where g is not linear in θ.
    Q : (H, k) array or None
        Weights of the expansion layer at the start.

    Raises
    ------
    ValidationError
        For options that do not go together, or values out of range.
    """

    own_units = True
    hidden: tuple[int, int] | None = None
    P: Any = None
    identified = {
        "expansion": "Q", "fan_in": None, "plastic_expansion": "hidden", "subspace": "P", "dimension": "d",
        "seed": None,
    }  # fmt: skip

    def __new__(cls, circuit: Any = None, **options: Any) -> Synthesiser:
        """The class that these options ask for; without any, as pickle calls it, the one it is called of."""
        if cls is Synthesiser:
            from bpl_neuro.circuit import compatible, plastic, subspace  # which are built on this class

            own, trained = options.get("subspace"), options.get("plastic_expansion")
            if any(isinstance(options.get(k), str) and options[k] == v for k, v in _OF_CURRENTS):
                return super().__new__(compatible.CompatibleSynthesiser)
            if own is not None and not (isinstance(own, str) and own == "learned"):
                return super().__new__(subspace.SubspaceSynthesiser)
            if trained is None:
                trained = plastic_in_the_model(circuit, options.get("expansion"))
            if own is not None or trained is True or (isinstance(trained, np.bool_) and trained):
                return super().__new__(plastic.PlasticSynthesiser)
        return super().__new__(cls)

    def __init__(
        self,
        circuit: Circuit,
        *,
        target: str = "state",
        sees: str | None = None,
        sees_input: bool | None = None,
        expansion: int | None = None,
        fan_in: int | None = None,
        plastic_expansion: bool | None = None,
        subspace: Any = None,
        dimension: int | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        instance("circuit", circuit, Circuit, "a Circuit")
        spec = circuit.model.spec.synthesiser
        if not isinstance(target, str) or target != "state":
            raise ValidationError(f'`target` must be "state" or "current", got {shown(target)}')
        self.circuit, self.target = circuit, target
        for name, value in (("sees_input", sees_input), ("plastic_expansion", plastic_expansion)):
            if value is not None:
                flag(name, value)
        self.sees = spec.sees if sees is None else sees
        self.sees_input = spec.sees_input if sees_input is None else bool(sees_input)
        if not isinstance(self.sees, str) or self.sees not in ("state", "rate"):
            raise ValidationError(
                f'`sees` must be "state" or "rate", or "synapses" with `target` = "current"; got {shown(self.sees)}'
            )
        if subspace is None and dimension is not None:
            raise ValidationError(f'`dimension` belongs to `subspace` = "random" or "learned", got {shown(dimension)}')
        self.n = self.d = circuit.n
        self.visible = (circuit.n if self.sees == "state" else circuit.rates) + self.sees_input * circuit.input_size
        self.Q: Any = None
        rng = generator("seed", seed)
        self._lay_out(
            rng, {"expansion": expansion, "fan_in": fan_in, "plastic": plastic_expansion}, subspace, dimension
        )
        unit = circuit.model.synthesiser
        self.linear = symbol(unit.inputs[0]) not in unit.rate_slope().free_symbols
        self._unit = self._compiled("unit", unit)
        self.regression: Regression | None = None
        if self.linear and not self.hidden:
            self.regression = Regression([Family((), np.arange(self.layout.size).reshape(self.d, self.m))])
        self._constants = [circuit.model.synthesiser_parameters[p] for p in unit.parameters] + [circuit.model.dt]

    def moment(self, z: Any, counts: Any) -> Any:
        """Σ_B φ'² z zᵀ over the rows that count, flat, float64: what `regression` has one matrix for."""
        slope = self(z[:1], self.initial_theta()).slope
        assert self.regression is not None
        return self.regression.moments([slope * (counts[:, None] * z)], self.circuit.xp)

    def _lay_out(self, rng: np.random.Generator, layer: dict[str, Any], subspace: Any, dimension: int | None) -> None:
        """Draw what is fixed, and say which blocks θ has."""
        self._expand(rng, layer["expansion"], layer["fan_in"])
        self.m = self.k = (self.visible if self.Q is None else len(self.Q)) + 1
        self.layout = Layout({"output": (self.d, self.m)})

    def initial_theta(self) -> Any:
        """θ = 0: no synthetic gradient before anything was learned; a plastic expansion layer starts at Q."""
        return self.circuit.xp.zeros(self.layout.size, self.circuit.dtype)

    def z(self, transition: Transition) -> Any:
        """What there is to see after step t, for `__call__`: (B, k); of the rows of a `Trajectory` (T·B, k)."""
        return self._with_one(self._seen(transition))

    def _seen(self, transition: Transition) -> Any:
        seen = transition.new.s if self.sees == "state" else transition.new.rate
        if self.sees_input:
            seen = self.circuit.xp.concatenate([seen, transition.x], axis=1)
        if self.Q is None:
            return seen
        return self._granule([self._with_one(seen) @ self.Q.T], self._granule_constants)[0]

    def __call__(self, z: Any, theta: Any) -> Response:
        """g = φ(θ z), with its derivatives. `z` (B, k) is what `z` returned."""
        g, slope = self._unit([z @ self.weights(theta).T], self._constants)
        return Response(g, slope, z, z)

    def weights(self, theta: Any) -> Any:
        """The weights of the units that predict, a (d, m) view of θ."""
        return self.layout.views(theta)["output"]

    def gradient(self, v: Any, response: Response, gain: float = 1.0) -> Any:
        """gain · Σ_B v · ∂g/∂θ, flat: Σ_B (v·φ')ᵀ z, and Σ_B ((v·φ') θ · q')ᵀ [s; x; 1] for a plastic layer."""
        return self._output_gradient(self.project(v), response, gain).reshape(-1)

    def _output_gradient(self, v: Any, response: Response, gain: float) -> Any:
        factor = gain * response.slope
        if not getattr(factor, "ndim", 0):
            return (v.T @ response.z) * factor
        return (v * factor).T @ response.z

    def project(self, v: Any) -> Any:
        """An error (B, n) as the units that predict see it: (B, d)."""
        return v

    def add_jacobian(self, e: Any, response: Response, gain: float) -> None:
        """Add gain · ∂g/∂θ to e (B, n, |θ|), in place."""
        self.add_own(e, gain * response.slope, response.z)

    def add_own(self, e: Any, slope: Any, z: Any) -> None:
        """Add slope_a z_j to e[b, a, (a, j)] of a contiguous e (B, units, …): each unit's own synapses, in place."""
        B, units, width = e.shape
        m, add = z.shape[1], self.circuit.backend.add_outer
        flat = e.reshape(B, -1)  # a unit's own synapses begin (width + m) after those of the unit before
        whole = (units - 1) * (width + m)
        first, last = flat[:, :whole].reshape(B, units - 1, width + m)[:, :, :m], flat[:, None, whole : whole + m]
        for place, chosen in ((first, slice(0, units - 1)), (last, slice(units - 1, units))):
            add(place, slope[:, chosen] if getattr(slope, "ndim", 0) else slope, z)

    def _with_one(self, values: Any) -> Any:
        out = self.circuit.xp.empty((values.shape[0], values.shape[1] + 1), self.circuit.dtype)
        out[:, :-1] = values
        out[:, -1] = 1
        return out

    def _expand(self, rng: np.random.Generator, size: int | None, fan_in: int | None) -> None:
        """Draw the weights of an expansion layer, if there is to be one."""
        spec = self.circuit.model.spec.synthesiser.expansion
        size = (spec.size if spec else 0) if size is None else size
        size = whole("expansion", size, most=MOST_NEURONS)
        if size == 0:
            if fan_in is not None:
                raise ValidationError("`fan_in` belongs to an expansion layer: give `expansion`, its size")
            return
        fan_in = (spec.fan_in if spec else 4) if fan_in is None else fan_in
        fan_in = whole("fan_in", fan_in, 1)
        if fan_in > self.visible:
            raise ValidationError(f"`fan_in` must lie in 1 … {self.visible} (what there is to see), got {fan_in!r}")
        unit, values = self.circuit.model.expansion or (granule(), {})
        self._layer(drawn_weights(rng, size, fan_in, self.visible, biased=True), unit, values)

    def _layer(self, Q: np.ndarray, unit: NeuronEquations, values: Mapping[str, float]) -> None:
        """Take an expansion layer with these weights and this unit."""
        self.Q = self.circuit.backend.asarray(Q, self.circuit.dtype)
        self._granule = self._compiled("granule", unit)
        self._granule_constants = [values[p] for p in unit.parameters] + [self.circuit.model.dt]

    def _compiled(self, name: str, unit: NeuronEquations) -> Any:
        """A unit's rate and its slope as a function of inputs and parameters."""
        _, inputs, constants = unit.symbols
        return self.circuit.backend.elementwise(name, [inputs, constants], [unit.rate, unit.rate_slope()])

    def _layer_unit(self) -> NeuronEquations:
        """The unit of the expansion layer, if there is one."""
        return (self.circuit.model.expansion or (granule(), {}))[0]

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without what is compiled, which is compiled again."""
        return {name: value for name, value in vars(self).items() if name not in ("_unit", "_granule")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "_constants" in state:
            self._unit = self._compiled("unit", self.circuit.model.synthesiser)
        if "_granule_constants" in state:
            self._granule = self._compiled("granule", self._layer_unit())


def plastic_in_the_model(circuit: Any, expansion: Any) -> bool:
    """Whether the model says that the expansion layer is plastic, and there is to be one."""
    spec = circuit.model.spec.synthesiser.expansion if isinstance(circuit, Circuit) else None
    return bool(spec and spec.plastic and not (isinstance(expansion, int | np.integer) and expansion == 0))


def outer(slope: Any, z: Any) -> Any:
    """φ'_a z_j: (B, n, m), or (B, 1, m) for a linear unit."""
    return column(slope) * z[:, None, :]
