"""The weights that errors travel back through: the forward ones, or others (the weight transport problem)."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from bpl_neuro.backend import Backend
from bpl_neuro.checks import number, plain_seed, word
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described

__all__ = ["FEEDBACK", "Feedback"]

FEEDBACK = ("exact", "sign", "random", "noisy")


class Feedback(Described):
    """How the errors of the readout, and credit between neurons, are sent back.

    Parameters
    ----------
    kind : {"exact", "sign", "random", "noisy"}
        "exact": the transposed forward weights W, as in the equations. "sign": their signs, at the mean size of W.
        "random": fixed random weights, uniform in ±1/√N_pre, whatever W becomes (feedback alignment). "noisy":
        W · (1 + noise · ξ) with fixed ξ of N(0, 1), one for each synapse.
    noise : float, optional
        For "noisy": 0.5 by default.
    seed : int
        For "random" and "noisy".

    References
    ----------
    Lillicrap et al. 2016, Nat. Commun. 7, 13276 (random); Liao, Leibo & Poggio 2016, AAAI (sign).
    """

    def __init__(self, kind: str = "exact", *, noise: float | None = None, seed: int = 0) -> None:
        word("feedback", kind, FEEDBACK)
        plain_seed("seed", seed)
        if noise is not None and kind != "noisy":
            raise ValidationError(f'`noise` belongs to `feedback` = "noisy", got {kind!r}')
        self.kind, self.noise, self.seed = str(kind), number("noise", 0.5 if noise is None else noise), int(seed)
        self._drawn: dict[tuple[Any, ...], Any] = {}

    @classmethod
    def of(cls, given: str | Feedback) -> Feedback:
        """A kind by name, or a Feedback as it is."""
        return given if isinstance(given, Feedback) else cls(given)

    def weights(self, name: str, W: Any, backend: Backend) -> Any:
        """What takes the place of the forward weights W (…, post, pre), of the same shape."""
        if self.kind == "exact":
            return W
        if self.kind == "sign":
            return backend.xp.sign(W) * backend.xp.abs(W).mean()
        drawn = self._draw(name, W.shape, W.dtype, backend)
        return drawn if self.kind == "random" else W * (1 + self.noise * drawn)

    def transition(self, transition: Transition) -> Transition:
        """The same step, with what credit between neurons travels back through in the place of its weights."""
        if self.kind == "exact":
            return transition
        wiring = transition.wiring
        weights = dict(transition.weights)
        for synapses in wiring.synapses:
            if synapses.pre is not None:
                weights[synapses.key] = self.weights(synapses.key, weights[synapses.key], wiring.backend)
        return replace(transition, weights=weights)

    def _draw(self, name: str, shape: tuple[int, ...], dtype: Any, backend: Backend) -> Any:
        key = (name, shape, dtype.name, backend.name)
        if key not in self._drawn:
            rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            bound = 1 / np.sqrt(shape[-1])
            drawn = rng.uniform(-bound, bound, shape) if self.kind == "random" else rng.normal(size=shape)
            self._drawn[key] = backend.asarray(drawn, dtype)
        return self._drawn[key]

    def __repr__(self) -> str:
        return f"Feedback({self.kind!r}{f', noise={self.noise:g}' if self.kind == 'noisy' else ''})"
