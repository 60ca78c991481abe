"""The synthesiser: a population without memory that predicts the future error gradient, g(s; θ) = φ(θ z)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bpl_neuro.checks import generator, instance, positive_int, real_array
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.transition import Transition, column
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.equations import NeuronEquations, read_equations
from bpl_neuro.model.expressions import symbol

__all__ = ["Response", "Synthesiser", "outer"]


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


class Synthesiser:
    """One unit per circuit state variable; its equation comes from the model file.

    Parameters
    ----------
    circuit : Circuit
    sees : {"state", "rate"}, optional
        z = [s; 1] or [r; 1]; the model's `sees` by default.
    sees_input : bool, optional
        Append the circuit's input: z = [s; x; 1]; the model's by default.
    expansion : int, optional
        Size of an expansion layer between circuit and synthesiser ("granule cells"): z = [q(Q [s; x; 1]); 1] with a
        random Q. The model's ``[synthesiser.expansion]`` by default; 0 for none.
    fan_in : int, optional
        Inputs of each expansion unit; the model's, or 4.
    subspace : array (n, d) or {"random", "learned"}, optional
        Predict the error in d dimensions only: g = φ(θ z) Pᵀ with θ (d, m) and the orthonormal columns of P, as from
        `analysis.principal_subspace`; "random" draws P; "learned" makes it part of θ, as the output weights
        of a plastic layer of d linear units that see everything (fixed traces of its own: "full" and "sweep" only).
    dimension : int, optional
        d, for "random" and "learned".
    plastic_expansion : bool, optional
        Q learns as well, where it has a synapse: it is then part of θ. The model's, or False.
    seed : int or numpy.random.Generator
        For Q: `fan_in` entries a row, uniform in ±√(3/fan_in) (unit variance together); its last column, the bias,
        uniform in ±1.

    Attributes
    ----------
    n, d, m : int
        Outputs (= size of the circuit's flat state), units that predict (n, or fewer in a subspace), and size of z.
    k : int
        Size of what `z` returns: m, or with a plastic expansion layer the size of [s; x; 1].
    layout : Layout
        Blocks of θ: ``"output"`` (d, m) and, where it is plastic, ``"expansion"`` (H, k). θ is a (d, m) array, or a
        flat one if there are two blocks.
    P : (n, d) array or None
        The subspace.
    Q : (H, k) array or None
        Weights of the expansion layer at the start.
    exists : (H, k) array
        1 where a plastic expansion layer has a synapse or a bias, else 0.
    linear : bool
        True when φ is the identity up to a constant factor.
    """

    def __init__(
        self,
        circuit: Circuit,
        *,
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
        self.circuit = circuit
        self.sees = spec.sees if sees is None else sees
        for name, value in (("sees_input", sees_input), ("plastic_expansion", plastic_expansion)):
            if value is not None:
                instance(name, value, bool, "True or False")
        self.sees_input = spec.sees_input if sees_input is None else sees_input
        if self.sees not in ("state", "rate"):
            raise ValidationError(f'`sees` must be "state" or "rate", got {self.sees!r}')
        self.n = circuit.n
        seen = (circuit.n if self.sees == "state" else circuit.rates) + self.sees_input * circuit.input_size
        self.Q: Any = None
        rng = generator("seed", seed)
        self.P = self._subspace(subspace, dimension, rng)
        self.d = self.n if self.P is None else self.P.shape[1]
        if isinstance(subspace, str) and subspace == "learned":
            if expansion or (expansion is None and spec.expansion) or fan_in is not None or plastic_expansion is False:
                raise ValidationError(
                    '`subspace` = "learned" is a plastic layer itself and sees everything: leave `fan_in` and '
                    "`expansion` out, and give expansion=0 where the model has one"
                )
            self._expand(seen, dimension, seen, rng, linear=True)
            plastic_expansion = True
        else:
            self._expand(seen, expansion, fan_in, rng)
        if plastic_expansion is None:
            plastic_expansion = bool(spec.expansion and spec.expansion.plastic)
        elif plastic_expansion and self.Q is None:
            raise ValidationError("`plastic_expansion` needs an expansion layer: give `expansion`, its size")
        self.plastic_expansion = plastic_expansion and self.Q is not None
        if self.plastic_expansion and self.P is not None:
            raise ValidationError("`subspace` with a plastic expansion layer is not there; use a fixed one")
        self.m = (seen if self.Q is None else len(self.Q)) + 1
        self.k = seen + 1 if self.plastic_expansion else self.m
        blocks = {"output": (self.d, self.m)}
        if self.plastic_expansion:
            blocks["expansion"] = (self.m - 1, seen + 1)
            self.exists = circuit.backend.asarray(self.Q != 0, circuit.dtype)
            self.exists[:, -1] = 1
        self.layout = Layout(blocks)
        unit = circuit.model.synthesiser
        self.linear = symbol(unit.inputs[0]) not in unit.rate_slope().free_symbols
        _, inputs, constants = unit.symbols
        self._unit = circuit.backend.elementwise("unit", [inputs, constants], [unit.rate, unit.rate_slope()])
        self._constants = [circuit.model.synthesiser_parameters[p] for p in unit.parameters] + [circuit.model.dt]

    def initial_theta(self) -> Any:
        """θ = 0: no synthetic gradient before anything was learned; a plastic expansion layer starts at Q."""
        if not self.plastic_expansion:
            return self.circuit.xp.zeros((self.d, self.m), self.circuit.dtype)
        theta = self.circuit.xp.zeros(self.layout.size, self.circuit.dtype)
        self.layout.views(theta)["expansion"][...] = self.Q
        return theta

    def z(self, transition: Transition) -> Any:
        """What there is to see after step t, for `__call__`: (B, k)."""
        state = transition.new
        return self._seen(state.s if self.sees == "state" else state.rate, transition.x)

    def z_of_all(self, transitions: Sequence[Transition]) -> Any:
        """`z` of several steps, one below the other, (T·B, k)."""
        xp, states = self.circuit.xp, [transition.new for transition in transitions]
        seen = xp.concatenate([state.s if self.sees == "state" else state.rate for state in states])
        return self._seen(seen, xp.concatenate([t.x for t in transitions]) if self.sees_input else None)

    def _seen(self, seen: Any, x: Any) -> Any:
        if self.sees_input:
            seen = self.circuit.xp.concatenate([seen, x], axis=1)
        if self.Q is not None and not self.plastic_expansion:
            seen = self._granule([self._with_one(seen) @ self.Q.T], self._granule_constants)[0]
        return self._with_one(seen)

    def __call__(self, z: Any, theta: Any) -> Response:
        """g = φ(θ z), with its derivatives. `z` (B, k) is what `z` returned."""
        if not self.plastic_expansion:
            g, slope = self._unit([z @ theta.T], self._constants)
            return Response(g if self.P is None else g @ self.P.T, slope, z, z)
        weights = self.layout.views(theta)
        q, hidden_slope = self._granule([z @ weights["expansion"].T], self._granule_constants)
        received = self._with_one(q)
        g, slope = self._unit([received @ weights["output"].T], self._constants)
        return Response(g, slope, received, z, hidden_slope, weights["output"][:, :-1])

    def gradient(self, v: Any, response: Response, gain: float = 1.0) -> Any:
        """gain · Σ_B v · ∂g/∂θ, of the shape of θ: Σ_B (v·φ')ᵀ z, and Σ_B ((v·φ') θ · q')ᵀ [s; x; 1] for Q."""
        v, factor = self.project(v), gain * response.slope
        if not self.plastic_expansion and not getattr(factor, "ndim", 0):
            return (v.T @ response.z) * factor
        v = v * factor
        output = v.T @ response.z
        if not self.plastic_expansion:
            return output
        hidden = ((v @ response.back) * response.hidden_slope).T @ response.seen
        return self.join(output, hidden)

    def project(self, v: Any) -> Any:
        """An error (B, n) as the units that predict see it, v P: (B, d)."""
        return v if self.P is None else v @ self.P

    def join(self, output: Any, expansion: Any) -> Any:
        """A flat gradient of θ from its two blocks, 0 where Q has no synapse."""
        flat = self.circuit.xp.empty(self.layout.size, output.dtype)
        views = self.layout.views(flat)
        views["output"][...], views["expansion"][...] = output, expansion * self.exists
        return flat

    def add_jacobian(self, e: Any, response: Response, gain: float) -> None:
        """Add gain · ∂g/∂θ to e (B, n, |θ|), in place."""
        own = gain * response.slope
        if self.P is None:
            self.add_own(e, own, response.z)
        else:
            output = e[:, :, : self.d * self.m].reshape(-1, self.n, self.d, self.m)  # a view
            output += self.P[:, :, None] * outer(own, response.z)[:, None]
        if self.plastic_expansion:
            through = column(own) * response.back * _row(response.hidden_slope)
            hidden = e[:, :, self.d * self.m :].reshape(-1, self.n, *self.Q.shape)
            hidden += through[..., None] * (response.seen[:, None, None, :] * self.exists)

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

    def _subspace(self, given: Any, dimension: int | None, rng: np.random.Generator) -> Any:
        """P, or None."""
        if given is None or isinstance(given, str):
            if given not in (None, "random", "learned"):
                raise ValidationError(f'`subspace` must be an array (n, d), "random" or "learned", got {given!r}')
            if (given is None) != (dimension is None):
                raise ValidationError(f'`dimension` belongs to `subspace` = "random" or "learned", got {dimension!r}')
            if given is None:
                return None
            d = positive_int("dimension", dimension)
            if d > self.n:
                raise ValidationError(f"`dimension` must lie in 1 … {self.n}, got {dimension!r}")
            if given == "learned":
                return None
            given = np.linalg.qr(rng.normal(size=(self.n, d)))[0]
        elif dimension is not None:
            raise ValidationError("`dimension` is that of the array in `subspace`: leave it out")
        P = real_array("subspace", given).astype(float)
        if not np.isfinite(P).all():
            raise ValidationError("`subspace` must be finite")
        if P.ndim != 2 or len(P) != self.n or not 1 <= P.shape[1] <= self.n:
            raise ValidationError(f"`subspace` must have shape ({self.n}, d), got {P.shape}")
        if not np.allclose(P.T @ P, np.eye(P.shape[1]), atol=1e-6):
            raise ValidationError("`subspace` must have orthonormal columns; numpy.linalg.qr makes them")
        return self.circuit.backend.asarray(P, self.circuit.dtype)

    def _expand(
        self, seen: int, size: int | None, fan_in: int | None, rng: np.random.Generator, linear: bool = False
    ) -> None:
        """Draw the weights of the expansion layer."""
        model, spec = self.circuit.model, self.circuit.model.spec.synthesiser.expansion
        size = (spec.size if spec else 0) if size is None else size
        given_fan_in = fan_in
        fan_in = (spec.fan_in if spec else 4) if fan_in is None else fan_in
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
            raise ValidationError(f"`expansion` must be a whole number ≥ 0, got {size!r}")
        if size == 0:
            if given_fan_in is not None:
                raise ValidationError("`fan_in` belongs to an expansion layer: give `expansion`, its size")
            return
        if isinstance(fan_in, bool) or not isinstance(fan_in, int) or not 1 <= fan_in <= seen:
            raise ValidationError(f"`fan_in` must lie in 1 … {seen} (what there is to see), got {fan_in!r}")
        Q, bound = np.zeros((size, seen + 1)), np.sqrt(3 / fan_in)
        for row in Q:
            row[rng.choice(seen, fan_in, replace=False)] = rng.uniform(-bound, bound, fan_in)
        Q[:, -1] = rng.uniform(-1, 1, size)
        unit, values = model.expansion or (granule(), {})
        if linear:
            Q[:, -1] = 0
            unit, values = granule("v"), {}
        self.Q = self.circuit.backend.asarray(Q, self.circuit.dtype)
        _, inputs, constants = unit.symbols
        self._granule = self.circuit.backend.elementwise("granule", [inputs, constants], [unit.rate, unit.rate_slope()])
        self._granule_constants = [values[p] for p in unit.parameters] + [model.dt]


def outer(slope: Any, z: Any) -> Any:
    """φ'_a z_j: (B, n, m), or (B, 1, m) for a linear unit."""
    return column(slope) * z[:, None, :]


def _row(factor: Any) -> Any:
    """(B, H) → (B, 1, H); a number stays."""
    return factor[:, None, :] if getattr(factor, "ndim", 0) else factor


def granule(rate: str = "clip(v, 0, inf)") -> NeuronEquations:
    """A threshold-linear unit, or another."""
    return read_equations(f"q = {rate} : 1\nv : 1", rate="q", inputs=["v"], where="expansion", stateless=True)
