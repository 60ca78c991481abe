"""A synthesiser of fewer units, which predict the error within a fixed subspace."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpl_neuro.checks import positive_int, real_array, shown
from bpl_neuro.circuit.synthesiser import Response, Synthesiser, outer, plastic_in_the_model
from bpl_neuro.errors import ValidationError

__all__ = ["SubspaceSynthesiser", "dimension_of"]


class SubspaceSynthesiser(Synthesiser):
    """d units that predict the error within a fixed subspace: g = φ(θ z) Pᵀ; `Synthesiser` has the parameters.

    Attributes
    ----------
    P : (n, d) array
        Orthonormal columns.
    """

    own_units = False

    def _lay_out(self, rng: np.random.Generator, layer: dict[str, Any], subspace: Any, dimension: int | None) -> None:
        self.P = self._subspace(subspace, dimension, rng)
        self.d = self.P.shape[1]
        if layer["plastic"] or (layer["plastic"] is None and plastic_in_the_model(self.circuit, layer["expansion"])):
            raise ValidationError("`subspace` with a plastic expansion layer is not there; use a fixed one")
        super()._lay_out(rng, layer, subspace, dimension)

    def __call__(self, z: Any, theta: Any) -> Response:
        """g = φ(θ z) Pᵀ."""
        response = super().__call__(z, theta)
        return response._replace(g=response.g @ self.P.T)

    def project(self, v: Any) -> Any:
        """v P."""
        return v @ self.P

    def add_jacobian(self, e: Any, response: Response, gain: float) -> None:
        """P_ia φ'_a z_j."""
        output = e.reshape(-1, self.n, self.d, self.m)  # a view
        output += self.P[:, :, None] * outer(gain * response.slope, response.z)[:, None]

    def _subspace(self, subspace: Any, dimension: int | None, rng: np.random.Generator) -> Any:
        """P."""
        if isinstance(subspace, str):
            if subspace != "random":
                raise ValidationError(
                    f'`subspace` must be an array (n, d), "random" or "learned", got {shown(subspace)}'
                )
            d = dimension_of(dimension, subspace, self.n)
            subspace = np.linalg.qr(rng.normal(size=(self.n, d)))[0]
        elif dimension is not None:
            raise ValidationError("`dimension` is that of the array in `subspace`: leave it out")
        P = real_array("subspace", subspace).astype(float)
        if not np.isfinite(P).all():
            raise ValidationError("`subspace` must be finite")
        if P.ndim != 2 or len(P) != self.n or not 1 <= P.shape[1] <= self.n:
            raise ValidationError(f"`subspace` must have shape ({self.n}, d), got {P.shape}")
        if not np.allclose(P.T @ P, np.eye(P.shape[1]), atol=1e-6):
            raise ValidationError("`subspace` must have orthonormal columns; numpy.linalg.qr makes them")
        return self.circuit.backend.asarray(P, self.circuit.dtype)


def dimension_of(dimension: Any, subspace: str, n: int) -> int:
    """d."""
    if dimension is None:
        raise ValidationError(f'`subspace` = "{subspace}" needs `dimension`, got {shown(dimension)}')
    if positive_int("dimension", dimension) > n:
        raise ValidationError(f"`dimension` must lie in 1 … {n}, got {dimension!r}")
    return int(dimension)
