"""A recurrent circuit: a model with sizes and weights, and a step that returns its own linearisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bpl_neuro.backend import CupyBackend, get_backend
from bpl_neuro.backend.step_loops import Run
from bpl_neuro.checks import (
    generator,
    indices,
    instance,
    mapping,
    number,
    positive_int,
    real_array,
    shown,
    word,
)
from bpl_neuro.checks import path as checked_path
from bpl_neuro.circuit.build import (
    MOST_NEURONS,
    constraints,
    initial_weights,
    is_finite,
    numbers_per_step,
    own_connectivity,
    own_value,
    own_weights,
    population_sizes,
    scale_to_radius,
    wire,
)
from bpl_neuro.circuit.dynamics import Dynamics
from bpl_neuro.circuit.files import check_read, read_circuit, write_circuit
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.wiring import State, Wiring
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import describe
from bpl_neuro.model.spec import Model

__all__ = ["Circuit"]

#: steps whose summed inputs are held at once where nothing else of them is kept
STEPS_AT_ONCE = 256


class Circuit(Dynamics):
    """A recurrent circuit of rate neurons, s_t = F(s_{t−1}, u_t), u_{t,p} = W_p r_{t−1} + W_p^in x_t + b_p.

    A circuit is a value: nothing in it changes. What learns are the weights Ψ in a `LearnerState`; a circuit with other
    weights is another circuit, which shares what was compiled (`with_psi`, `with_weights`, `clamped_at`, `silenced`).

    Parameters
    ----------
    model : Model or str
        A model, or the name of a shipped one.
    size : int or mapping of str to int
        Neurons, of each population by name if there are several.
    input_size : int
        Number of external inputs K.
    radius : float, optional
        Spectral radius to which every recurrent matrix W_p of a population onto itself is scaled.
    input_scale : float
        Multiplies the initial weights from the external input.
    parameters : mapping, optional
        Values that replace the model's: ``{"tau": "20*ms"}``, or (N,) arrays in SI units; for one of several
        populations ``{"exc.tau": …}``.
    connectivity : mapping, optional
        Which synapses exist, by projection (``{"exc->exc": array}``), (post, pre) or (ports, post, pre), in the place
        of the model's `probability`.
    weights : mapping, optional
        Initial weights by projection, in the place of drawn ones; checked as in `with_weights`.
    seed : int or numpy.random.Generator
        For the initial weights: uniform in ±1/√N; a bias is the sum of two such draws.
    dtype : {"float64", "float32"}
    backend : {"numpy", "c", "cupy", "auto"}
        "c" compiles loops made from the equations, with the C compiler of this machine: the same numbers to rounding,
        faster. "cupy" runs on an NVIDIA GPU; see docs/gpu.md. By name nothing falls back; "auto" takes a GPU if there
        is one, else NumPy.

    Attributes
    ----------
    n, rates : int
        Size of the flat state, and number of neurons.
    psi : (|Ψ|,) array
        All weights and biases, flat; read-only.
    weights : mapping of str to array
        The same by projection, (ports, N_post, N_pre), and ``"bias->POPULATION"``; read-only views.
    mask : (|Ψ|,) array or None
        1 where a synapse exists and is plastic, else 0; None if all are.
    exists : (|Ψ|,) array or None
        Where there is a synapse, on the host; None if that is everywhere.
    signs : (|Ψ|,) array or None
        Sign (1, −1) that each weight keeps, 0 where it is free; None if all are free.
    clamped : mapping
        (Population number, neuron) → value at which its first state variable is held; see `clamped_at`.
    layout : Layout
        Names and shapes of the blocks of `psi`.
    wiring : Wiring
        What was compiled; shared by circuits that differ in weights alone.

    Raises
    ------
    ValidationError, ModelError
        For a wrong argument; names it and says what would be right.
    """

    def __init__(
        self,
        model: Model | str,
        size: int | Mapping[str, int],
        input_size: int,
        *,
        radius: float | None = None,
        input_scale: float = 1.0,
        parameters: Mapping[str, Any] | None = None,
        connectivity: Mapping[str, Any] | None = None,
        weights: Mapping[str, Any] | None = None,
        seed: int | np.random.Generator = 0,
        dtype: Any = "float64",
        backend: str = "numpy",
    ) -> None:
        self.model = Model.load(model) if isinstance(model, str) else model
        if not isinstance(self.model, Model):
            raise ValidationError(f"`model` must be a Model or the name of one, got {shown(model)}")
        self.backend = get_backend(backend)
        self.dtype = self.backend.dtype(dtype)
        self.input_size = positive_int("input_size", input_size, MOST_NEURONS)
        self.sizes = population_sizes(self.model, size)
        overrides = mapping("parameters", parameters, "names to values")
        self._overrides = {name: own_value(name, value) for name, value in overrides.items()}
        self.wiring: Wiring = wire(self.model, self.sizes, self.input_size, self._overrides, self.dtype, self.backend)
        self.layout: Layout = self.wiring.layout
        self.n, self.rates = self.wiring.n, self.wiring.rates
        rng = generator("seed", seed)
        psi = initial_weights(self.wiring, rng)
        input_scale = number("input_scale", input_scale, high=1e300)
        for synapses in self.wiring.synapses:
            if synapses.pre is None:
                self.layout.views(psi)[synapses.key][...] *= input_scale
        exists, plastic, signs = constraints(self.model, self.wiring, rng)
        exists = own_connectivity(self.layout, exists, connectivity)
        psi = np.where(signs == 0, psi, np.abs(psi) * signs) * exists
        if radius is not None:
            scale_to_radius(self.wiring, psi, radius)
        for projection, W in mapping("weights", weights, "projections to arrays").items():
            psi = own_weights(self.layout, psi, projection, W, exists, signs, self.dtype, "weights")
        if not is_finite(psi, self.dtype):
            raise ValidationError(
                f"`radius` = {radius} and `input_scale` = {input_scale:g} give weights that are not finite in "
                f"{self.dtype.name}; smaller ones would"
            )
        self.exists = None if exists.all() else exists
        mask = exists * plastic
        self.mask = None if mask.all() else self.backend.asarray(mask, self.dtype)
        self.signs = self.backend.asarray(signs, self.dtype) if signs.any() else None
        self.clamped: Mapping[tuple[int, int], float] = MappingProxyType({})
        self._take(self.backend.asarray(psi, self.dtype))

    def _take(self, psi: Any) -> None:
        """These weights from now on: for a circuit that is being made."""
        self._psi = self.backend.read_only(psi)
        self.weights: Mapping[str, Any] = MappingProxyType(self.layout.views(self._psi))

    @property
    def psi(self) -> Any:
        """All weights and biases."""
        return self._psi

    @psi.setter
    def psi(self, psi: Any) -> None:
        raise ValidationError("`psi` of a circuit does not change; `circuit.with_psi(psi)` gives another circuit")

    @property
    def recurrent_size(self) -> int:
        """Number of weights between neurons, those that are no synapses included."""
        return sum(math.prod(self.layout[group.key]) for group in self.synapses if group.pre is not None)

    @property
    def numbers_per_step(self) -> int:
        """Numbers that a remembered step of one trial holds: states and rates, and each neuron's u, A, C and D."""
        return numbers_per_step(self.wiring)

    # Circuits that differ from this one in a value.

    def with_psi(self, psi: Any) -> Circuit:
        """The circuit with other weights Ψ, (|Ψ|,).

        Raises
        ------
        ValidationError
            Unless they are finite and as many as there are.
        """
        psi = self.own_array("psi", psi)
        if psi.shape != (self.layout.size,):
            raise ValidationError(f"`psi` must have shape ({self.layout.size},), got {psi.shape}")
        if not self.xp.isfinite(psi).all():
            raise ValidationError("`psi` must be finite")
        return self.holding(psi.copy())

    def with_weights(self, projection: str, W: Any) -> Circuit:
        """The circuit with other weights of a projection.

        Parameters
        ----------
        projection : str
            A name in `layout`, like ``"exc->inh"``, ``"input->exc"`` or ``"bias->exc"``.
        W : array
            (ports, post, pre), or (post, pre) for a single port.

        Raises
        ------
        ValidationError
            For a shape, a sign, or a synapse that the circuit does not have.
        """
        signs = None if self.signs is None else self.backend.to_host(self.signs)
        psi = own_weights(self.layout, self.backend.to_host(self.psi), projection, W, self.exists, signs, self.dtype)
        return self.holding(self.backend.asarray(psi, self.dtype))

    def silenced(self, projection: str) -> Circuit:
        """The circuit with the weights of a projection at zero, and not plastic."""
        word("projection", projection, self.layout)
        mask = self.xp.ones(self.layout.size, self.dtype) if self.mask is None else self.mask.copy()
        psi = self.psi.copy()
        for flat in (mask, psi):
            self.layout.views(flat)[projection][...] = 0
        return self.holding(psi, mask=mask)

    def clamped_at(self, population: str, units: Any, value: float | None) -> Circuit:
        """The circuit with the first state variable of some neurons held at a value; None lets them go."""
        q = list(self.sizes).index(word("population", population, self.sizes))
        if value is not None and not np.isfinite(self.dtype.type(number("value", value, low=-math.inf, above=True))):
            raise ValidationError(f"`value` must be finite in {self.dtype.name}, got {value!r}")
        keys = [(q, unit) for unit in indices("units", units, self.populations[q].N - 1)]
        clamped = {key: held for key, held in self.clamped.items() if key not in keys}
        return self.holding(clamped=clamped if value is None else clamped | dict.fromkeys(keys, float(value)))

    def holding(self, psi: Any = None, **values: Any) -> Circuit:
        """The circuit with other values of `psi`, `mask` or `clamped`, taken as they are: nothing is checked.

        Costs a few µs: a learning loop makes one whenever Ψ moves.
        """
        other = object.__new__(Circuit)  # what copy.copy does, ten times slower
        vars(other).update(vars(self))
        if psi is not None:
            other._take(psi)
        if "clamped" in values:
            other.clamped = MappingProxyType(dict(values["clamped"]))
        if "mask" in values:
            other.mask = values["mask"]
        return other

    def fits(self, part: Any) -> bool:
        """Whether a readout, a synthesiser or a rule was made for this circuit, be it with other weights."""
        made_for: Any = getattr(part, "circuit", None)
        return made_for is None or made_for.wiring is self.wiring

    def own_array(self, name: str, value: Any) -> Any:
        """`value`, from the host or the backend itself, as an array of the backend in the circuit's precision."""
        there = isinstance(self.backend, CupyBackend) and self.backend.owns(value) and value.dtype.kind in "fiub"
        array = value if there else real_array(name, value)
        with np.errstate(over="ignore"):  # what overflows is not finite, and refused where that matters
            return self.backend.asarray(array, self.dtype)

    def _own_inputs(self, x: Any) -> Any:
        """Inputs (B, T, K), finite in the circuit's precision."""
        x = self.own_array("x", x)
        if x.ndim != 3 or x.shape[2] != self.input_size or 0 in x.shape:
            raise ValidationError(f"`x` must be (trials, steps, {self.input_size}), got shape {x.shape}")
        if not self.xp.isfinite(x).all():
            raise ValidationError(f"`x` must be finite in {self.dtype.name}")
        return x

    def constrain(self, psi: Any) -> None:
        """After an optimiser's step, in place: what is not plastic stays, a weight that would cross zero stops there.

        The first is not left to the masked gradient alone: an optimiser with momentum moves on without one.
        """
        if self.mask is not None:
            self.xp.copyto(psi, self.psi, where=self.mask == 0)
        if self.signs is not None:
            self.xp.copyto(psi, 0, where=self.signs * psi < 0)

    def plastic_weights(self) -> Any:
        """Ψ with biases, and synapses that are not plastic, put at 0; (|Ψ|,)."""
        weights = self.psi.copy() if self.mask is None else self.psi * self.mask
        for name, view in self.layout.views(weights).items():
            if name.startswith("bias->"):
                view[...] = 0
        return weights

    def run(
        self, x: Any, state: State | None = None, *, noise_seed: int | np.random.Generator | None = None
    ) -> tuple[Any, Any]:
        """Run without learning.

        Parameters
        ----------
        x : (B, T, K) array
            Inputs.
        state : State, optional
            Where to start; the initial state by default.
        noise_seed : int or numpy.random.Generator, optional
            Seed of the model's noise; without it the run has no noise.

        Returns
        -------
        states : (B, T, n) array
        rates : (B, T, N) array
        """
        x, xp = self._own_inputs(x), self.xp
        B, T = x.shape[:2]
        state = self.initial_state(B) if state is None else instance("state", state, State, "a State")
        if state.s.shape != (B, self.n):
            raise ValidationError(f"`state` must be one of {B} trials and {self.n} states, got shape {state.s.shape}")
        states, rates = (xp.empty((T + 1, B, size), self.dtype) for size in (self.n, self.rates))
        states[0], rates[0] = state.s, state.rate
        rng = None if noise_seed is None else generator("noise_seed", noise_seed)
        for t in range(0, T, STEPS_AT_ONCE):
            before, after = slice(t, min(t + STEPS_AT_ONCE, T)), slice(t + 1, min(t + STEPS_AT_ONCE, T) + 1)
            x_part = xp.ascontiguousarray(x[:, before].transpose(1, 0, 2))
            run = Run(states[before], rates[before], states[after], rates[after], self.drive(x_part))
            self.backend.roll(self, run, x_part, rng=rng, linearise=False)
        return tuple(xp.ascontiguousarray(part[1:].transpose(1, 0, 2)) for part in (states, rates))  # type: ignore[return-value]

    def save(self, path: str | Path) -> None:
        """Model, sizes, parameters and weights in one ``.npz`` file, atomically and without pickle."""
        write_circuit(checked_path("path", path), self, self._overrides)

    @classmethod
    def load(cls, path: str | Path, *, backend: str = "numpy") -> Circuit:
        """A circuit that `save` wrote.

        Raises
        ------
        ValidationError, ModelError
            If the file is damaged.
        """
        arrays, arguments, rest = read_circuit(checked_path("path", path))
        circuit = cls(**arguments, backend=backend)
        mask, exists = arrays.get("mask"), arrays.get("exists")
        circuit.exists = None if exists is None else exists.astype(bool)
        mask = None if mask is None else circuit.backend.asarray(mask, circuit.dtype)
        circuit = circuit.with_psi(arrays["psi"]).holding(mask=mask, clamped=rest["clamped"])
        check_read(path, circuit, rest["identity"])
        return circuit

    def identity(self) -> dict[str, Any]:
        """Everything but the plastic weights, as a tree of plain values; see `bpl_neuro.identity`."""
        parameters = {}
        for pop in self.populations:
            names = self.model.populations[pop.name].neuron.parameters
            parameters[pop.name] = dict(zip(names, pop.parameters, strict=False))
        exists = None if self.exists is None else np.asarray(self.exists, bool)
        kept = None if self.mask is None else self.xp.where(self.mask == 0, self.psi, 0)
        parts = {
            "sizes": self.sizes, "input_size": self.input_size, "dtype": self.dtype.name, "parameters": parameters,
            "synapses": exists, "plastic": self.mask, "signs": self.signs, "fixed_weights": kept,
            "clamped": sorted([*key, value] for key, value in self.clamped.items()),
        }  # fmt: skip
        return {"model": self.model.identity(), **describe(parts)}

    def population_states(self, s: Any) -> dict[str, Any]:
        """A flat (…, n) array as population name → (…, N, S)."""
        s = self.own_array("s", s)
        if not s.ndim or s.shape[-1] != self.n or 0 in s.shape:
            raise ValidationError(f"`s` must be (…, {self.n}) states, got shape {s.shape}")
        return {
            pop.name: s[..., pop.state_slice].reshape(*s.shape[:-1], pop.N, pop.S) for pop in self.wiring.populations
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Circuit:
        return self  # it never changes

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: read-only views are made again. What is pickled together still fits together."""
        return vars(self) | {"weights": None, "clamped": dict(self.clamped)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"clamped": MappingProxyType(state["clamped"])})
        self._take(self._psi)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {N}" for name, N in self.sizes.items())
        return (
            f"<Circuit {self.model.title!r}: {sizes}; {self.input_size} inputs, {self.layout.size} weights, "
            f"{self.dtype}, {self.backend.name}>"
        )
