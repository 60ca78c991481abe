"""Recursive least squares for θ of a linear synthesiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bpl_neuro.backend import Backend
from bpl_neuro.checks import number
from bpl_neuro.circuit.regression import Regression
from bpl_neuro.errors import ValidationError

__all__ = ["RLS"]


@dataclass(frozen=True)
class RLS:
    """Recursive least squares: what the correlations of a synthesiser's errors mean, given what it sees.

        R ← f R + Σ z zᵀ        θ ← θ + [Σ error zᵀ] (R + ρ tr(R)/m · I)⁻¹        for each family of rows of one z

    It goes with the synthesiser's BP(λ): the field's LSTD(λ) with vector targets, and the algorithm of FORCE, whose
    target is an output instead of a gradient. It does not depend on the scale of the loss, nor of z.

    R averages over 1/(1 − f) updates, so that what the circuit hears is a mean over as many. That is a momentum of its
    own: `Adam` of Ψ has β₁ = 0 beside it unless it is given. Per step, take f^(1/T) for trials of T steps.

    Parameters
    ----------
    forget : float
        f in [0, 1], for each update; 1 forgets nothing.
    ridge : float
        ρ > 0, relative to the mean of R's diagonal.
    bound : float, optional
        A correlation Σ error zᵀ whose norm is over `bound` times the rms of those before it (with memory f, and as
        bounded themselves) is scaled down to that: one batch that went wrong does not rewrite θ. 3 is good per trial;
        per step, where credit comes once in T steps, 3 √T. How often it acts is in a training's history as
        ``theta_bounded``, the share of the updates so far. Where it acts the fit is not exact.

    Notes
    -----
    R is held, and solved with, in float64 on every backend. An update costs m² a row of θ, for the product with the
    correlation, and m³/3 for each family, whose rows are many: a rank-one update of R⁻¹ (Sherman & Morrison) would
    save little of it, and could not follow ρ tr(R). Where synapses are missing, rows that lack the same ones share a
    solution.

    References
    ----------
    S. J. Bradtke & A. G. Barto 1996, Mach. Learn. 22, 33–57 (LSTD); D. Sussillo & L. F. Abbott 2009, Neuron 63,
    544–557 (FORCE).
    """

    forget: float = 0.9
    ridge: float = 1e-3
    bound: float | None = None
    #: takes part in `Regression`s, and needs their moments
    regresses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if number("forget", self.forget) > 1:
            raise ValidationError(f"`forget` must be a number in [0, 1], got {self.forget!r}")
        object.__setattr__(self, "forget", float(self.forget))
        object.__setattr__(self, "ridge", number("ridge", self.ridge, above=True))
        if self.bound is not None:
            number("bound", self.bound, above=True)

    def init(self, backend: Backend, parameter: Any, regression: Regression) -> dict[str, Any]:
        """R = 0: nothing was seen."""
        state = {"R": backend.xp.zeros(regression.size, float), "staleness": np.float64(0), "steps": np.int64(0)}
        if self.bound is None:
            return state
        return state | {"square": np.float64(0), "weight": np.float64(0), "bounded": np.int64(0)}

    def step(
        self,
        backend: Backend,
        parameter: Any,
        gradient: Any,
        state: dict[str, Any],
        *,
        moment: Any,
        regression: Regression,
        mask: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        """New θ and R.

        Parameters
        ----------
        backend : Backend
        parameter, gradient : (|θ|,) arrays
            θ, and −Σ error zᵀ.
        state : dict
        moment : array
            Σ z zᵀ of the trials and steps that the gradient is a sum over, as from `Synthesiser.moment`.
        regression : Regression
        mask : (|θ|,) array, optional
            1 where a parameter exists.
        """
        xp = backend.xp
        gradient, bounded = self._bounded(backend, gradient, state)
        kept = self.forget * state["R"]
        R = kept + moment
        new = parameter.copy()
        for matrix, systems in zip(regression.matrices(R), regression.systems(mask, backend), strict=True):
            for index, features in systems:
                seen = matrix if features is None else matrix[features[:, None], features]
                m = len(seen)
                ridge = self.ridge * float(seen.trace()) / m
                if ridge > 0:
                    try:
                        change = xp.linalg.solve(seen + ridge * xp.eye(m), gradient[index].T.astype(float))
                    except np.linalg.LinAlgError:  # CuPy gives what is not finite
                        raise ValidationError(
                            f"`ridge` = {self.ridge:g} is lost in rounding, and what is seen is linearly dependent: "
                            "take a larger one"
                        ) from None
                    new[index] -= change.T.astype(new.dtype)
        old, now = (sum(float(matrix.trace()) for matrix in regression.matrices(flat)) for flat in (kept, R))
        return new, {
            "R": R,
            # how many updates ago what is in R was seen, on average
            "staleness": np.float64((float(state["staleness"]) + 1) * old / now if now else 0.0),
            "steps": np.int64(int(state["steps"]) + 1),
        } | bounded

    def _bounded(self, backend: Backend, gradient: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The gradient with its norm bounded, and what is kept of its size: Σ f^(k−j) ‖g_j‖², and Σ f^(k−j)."""
        if self.bound is None:
            return gradient, {}
        square, weight = float(state["square"]), float(state["weight"])
        norm = float(backend.xp.linalg.norm(gradient.astype(float)))
        most = self.bound * math.sqrt(square / weight) if square else math.inf
        if over := norm > most:
            gradient, norm = gradient * (most / norm), most
        return gradient, {
            "square": np.float64(self.forget * square + norm**2),
            "weight": np.float64(self.forget * weight + 1),
            "bounded": np.int64(int(state["bounded"]) + over),
        }
