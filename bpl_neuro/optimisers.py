"""Optimisers on flat vectors: pure functions of parameter, gradient and their own state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bpl_neuro.errors import ValidationError

__all__ = ["SGD", "Adam", "Optimiser"]


class Optimiser(Protocol):
    """What the trainer needs of an optimiser. Its state is a dict of arrays, so it can be checkpointed."""

    def init(self, xp: Any, parameter: Any) -> dict[str, Any]:
        """State before the first step."""
        ...

    def step(self, xp: Any, parameter: Any, gradient: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """New parameter and new state; the arguments are left as they are."""
        ...


def _rate(name: str, value: float) -> None:
    if not (isinstance(value, int | float) and 0 <= value < float("inf")):
        raise ValidationError(f"`{name}` must be a number ≥ 0, got {value!r}")


@dataclass(frozen=True)
class SGD:
    """p ← p − η·gradient.

    Parameters
    ----------
    eta : float
        Learning rate.
    """

    eta: float

    def __post_init__(self) -> None:
        _rate("eta", self.eta)

    def init(self, xp: Any, parameter: Any) -> dict[str, Any]:
        """No state."""
        return {}

    def step(self, xp: Any, parameter: Any, gradient: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """One step."""
        return parameter - self.eta * gradient, state


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015) with bias correction.

        m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  p ← p − η m̂ / (√v̂ + ε)

    Parameters
    ----------
    eta : float
        Learning rate.
    beta1, beta2, epsilon : float
        The defaults are those of the BP(λ) paper's experiments.
    """

    eta: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-9

    def __post_init__(self) -> None:
        _rate("eta", self.eta)
        _rate("epsilon", self.epsilon)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValidationError(f"`{name}` must lie in [0, 1), got {getattr(self, name)!r}")

    def init(self, xp: Any, parameter: Any) -> dict[str, Any]:
        """Moments 0, no steps."""
        return {"m": xp.zeros_like(parameter), "v": xp.zeros_like(parameter), "steps": np.int64(0)}

    def step(self, xp: Any, parameter: Any, gradient: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """One step."""
        steps = int(state["steps"]) + 1
        m = self.beta1 * state["m"] + (1 - self.beta1) * gradient
        v = self.beta2 * state["v"] + (1 - self.beta2) * gradient * gradient
        scale = self.eta / (1 - self.beta1**steps)
        denominator = xp.sqrt(v / (1 - self.beta2**steps)) + self.epsilon
        return parameter - scale * m / denominator, {"m": m, "v": v, "steps": np.int64(steps)}
