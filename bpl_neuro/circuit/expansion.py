"""An expansion layer between circuit and synthesiser: its unit, and the weights it starts from."""

from __future__ import annotations

import numpy as np

from bpl_neuro.model.equations import NeuronEquations, read_equations

__all__ = ["drawn_weights", "granule"]


def drawn_weights(rng: np.random.Generator, size: int, fan_in: int, visible: int, *, biased: bool) -> np.ndarray:
    """Weights (size, visible + 1) of an expansion layer: `fan_in` in each row, and a bias."""
    Q, bound = np.zeros((size, visible + 1)), np.sqrt(3 / fan_in)
    for row in Q:
        row[rng.choice(visible, fan_in, replace=False)] = rng.uniform(-bound, bound, fan_in)
    bias = rng.uniform(-1, 1, size)
    Q[:, -1] = bias if biased else 0
    return Q


def granule(rate: str = "clip(v, 0, inf)") -> NeuronEquations:
    """A threshold-linear unit, or another."""
    return read_equations(f"q = {rate} : 1\nv : 1", rate="q", inputs=["v"], where="expansion", stateless=True)
