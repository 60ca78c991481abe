"""The synthesiser: a population without memory that predicts the future error gradient, g(s; θ) = φ(θ z)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpl_neuro.checks import generator, instance
from bpl_neuro.circuit import Circuit
from bpl_neuro.codegen import array_function
from bpl_neuro.equations import NeuronEquations, read_equations
from bpl_neuro.errors import ValidationError
from bpl_neuro.expressions import symbol
from bpl_neuro.transition import Transition

__all__ = ["Synthesiser"]


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
        Size of an expansion layer between circuit and synthesiser ("granule cells"): z = [q(Q [s; x] + b); 1] with a
        fixed random Q. The model's ``[synthesiser.expansion]`` by default; 0 for none.
    fan_in : int, optional
        Inputs of each expansion unit; the model's, or 4.
    seed : int or numpy.random.Generator
        For Q: `fan_in` entries a row, uniform in ±√(3/fan_in) (unit variance together); b uniform in ±1.

    Attributes
    ----------
    n, m : int
        Outputs (= size of the circuit's flat state) and size of z.
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
        seed: int | np.random.Generator = 0,
    ) -> None:
        instance("circuit", circuit, Circuit, "a Circuit")
        spec = circuit.model.spec.synthesiser
        self.circuit = circuit
        self.sees = spec.sees if sees is None else sees
        self.sees_input = spec.sees_input if sees_input is None else bool(sees_input)
        if self.sees not in ("state", "rate"):
            raise ValidationError(f'`sees` must be "state" or "rate", got {self.sees!r}')
        self.n = circuit.n
        seen = (circuit.n if self.sees == "state" else circuit.rates) + self.sees_input * circuit.inputs
        self.Q: Any = None
        self._expand(seen, expansion, fan_in, seed)
        self.m = (seen if self.Q is None else len(self.Q)) + 1
        unit = circuit.model.synthesiser
        self.linear = symbol(unit.inputs[0]) not in unit.rate_slope().free_symbols
        _, inputs, constants = unit.symbols
        self._unit = array_function("unit", [inputs, constants], [unit.rate, unit.rate_slope()], circuit.xp)
        self._constants = [circuit.model.synthesiser_parameters[p] for p in unit.parameters] + [circuit.model.dt]

    def initial_theta(self) -> Any:
        """θ = 0, (n, m): no synthetic gradient before anything was learned."""
        return self.circuit.xp.zeros((self.n, self.m), self.circuit.dtype)

    def z(self, transition: Transition) -> Any:
        """What it sees after step t: (B, m)."""
        xp, state = self.circuit.xp, transition.new
        seen = state.s if self.sees == "state" else state.rate
        if self.sees_input:
            seen = xp.concatenate([seen, transition.x], axis=1)
        if self.Q is not None:
            (seen,) = self._granule([seen @ self.Q.T + self._b], self._granule_constants)
        z = xp.empty((seen.shape[0], self.m), self.circuit.dtype)
        z[:, :-1] = seen
        z[:, -1] = 1
        return z

    def __call__(self, z: Any, theta: Any) -> tuple[Any, Any]:
        """g (B, n), and φ'(θ z): (B, n), or a number for a linear unit."""
        return self._unit([z @ theta.T], self._constants)

    def gradient(self, v: Any, slope: Any, z: Any) -> Any:
        """Σ_B v · ∂g/∂θ = Σ_B (v·φ')ᵀ z, (n, m)."""
        return (v * slope).T @ z

    def _expand(self, seen: int, size: int | None, fan_in: int | None, seed: int | np.random.Generator) -> None:
        """Draw the fixed weights of the expansion layer."""
        model, spec = self.circuit.model, self.circuit.model.spec.synthesiser.expansion
        size = (spec.size if spec else 0) if size is None else size
        fan_in = (spec.fan_in if spec else 4) if fan_in is None else fan_in
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValidationError(f"`expansion` must be a whole number ≥ 0, got {size!r}")
        if size == 0:
            return
        if isinstance(fan_in, bool) or not isinstance(fan_in, int) or not 1 <= fan_in <= seen:
            raise ValidationError(f"`fan_in` must lie in 1 … {seen} (what there is to see), got {fan_in!r}")
        rng = generator("seed", seed)
        Q, bound = np.zeros((size, seen)), np.sqrt(3 / fan_in)
        for row in Q:
            row[rng.choice(seen, fan_in, replace=False)] = rng.uniform(-bound, bound, fan_in)
        xp, dtype = self.circuit.xp, self.circuit.dtype
        self.Q, self._b = xp.asarray(Q, dtype), xp.asarray(rng.uniform(-1, 1, size), dtype)
        unit, values = model.expansion or (default_granule(), {})
        _, inputs, constants = unit.symbols
        self._granule = array_function("granule", [inputs, constants], [unit.rate], xp)
        self._granule_constants = [values[p] for p in unit.parameters] + [model.dt]


def default_granule() -> NeuronEquations:
    """A threshold-linear unit."""
    return read_equations("q = clip(v, 0, inf) : 1\nv : 1", rate="q", inputs=["v"], where="expansion", stateless=True)
