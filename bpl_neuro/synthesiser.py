"""The synthesiser: a population without memory that predicts the future error gradient, g(s; θ) = φ(θ z)."""

from __future__ import annotations

from typing import Any

from bpl_neuro.circuit import Circuit
from bpl_neuro.codegen import array_function
from bpl_neuro.errors import ValidationError
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

    Attributes
    ----------
    n, m : int
        Outputs (= size of the circuit's flat state) and size of z.
    linear : bool
        True when φ is the identity up to a constant factor.
    """

    def __init__(self, circuit: Circuit, *, sees: str | None = None, sees_input: bool | None = None) -> None:
        spec = circuit.model.spec.synthesiser
        self.circuit = circuit
        self.sees = spec.sees if sees is None else sees
        self.sees_input = spec.sees_input if sees_input is None else bool(sees_input)
        if self.sees not in ("state", "rate"):
            raise ValidationError(f'`sees` must be "state" or "rate", got {self.sees!r}')
        self.n = circuit.n
        self.m = (circuit.n if self.sees == "state" else circuit.rates) + (self.sees_input * circuit.inputs) + 1
        unit = circuit.model.synthesiser
        self.linear = not unit.rate_slope().free_symbols
        _, inputs, constants = unit.symbols
        self._unit = array_function("unit", [inputs, constants], [unit.rate, unit.rate_slope()], circuit.xp)
        self._constants = [circuit.model.synthesiser_parameters[p] for p in unit.parameters] + [circuit.model.dt]

    def initial_theta(self) -> Any:
        """θ = 0, (n, m): no synthetic gradient before anything was learned."""
        return self.circuit.xp.zeros((self.n, self.m), self.circuit.dtype)

    def z(self, transition: Transition) -> Any:
        """What it sees after step t: (B, m)."""
        state = transition.new
        seen = state.s if self.sees == "state" else state.rate
        z = self.circuit.xp.empty((seen.shape[0], self.m), seen.dtype)
        z[:, : seen.shape[1]] = seen
        if self.sees_input:
            z[:, seen.shape[1] : -1] = transition.x
        z[:, -1] = 1
        return z

    def __call__(self, z: Any, theta: Any) -> tuple[Any, Any]:
        """g (B, n), and φ'(θ z): (B, n), or a number for a linear unit."""
        return self._unit([z @ theta.T], self._constants)

    def gradient(self, v: Any, slope: Any, z: Any) -> Any:
        """Σ_B v · ∂g/∂θ = Σ_B (v·φ')ᵀ z, (n, m)."""
        return (v * slope).T @ z
