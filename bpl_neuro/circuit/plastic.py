"""A synthesiser whose units sit behind an expansion layer that learns as well."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpl_neuro.checks import whole
from bpl_neuro.circuit.expansion import drawn_weights, granule
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.subspace import dimension_of
from bpl_neuro.circuit.synthesiser import Response, Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.circuit.wiring import column
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.equations import NeuronEquations

__all__ = ["PlasticSynthesiser"]


class PlasticSynthesiser(Synthesiser):
    """Units behind an expansion layer that learns as well: g = φ(θ [q(Q [s; x; 1]); 1]) with Q part of θ.

    `Synthesiser` has the parameters. A learned subspace of d dimensions is such a layer of d linear units.

    Attributes
    ----------
    exists : (H, k) array
        1 where the layer has a synapse or a bias, else 0.
    """

    own_units = True

    def _lay_out(self, rng: np.random.Generator, layer: dict[str, Any], subspace: Any, dimension: int | None) -> None:
        self.learned = subspace is not None
        if subspace is None:
            self._expand(rng, layer["expansion"], layer["fan_in"])
            if self.Q is None:
                raise ValidationError("`plastic_expansion` needs an expansion layer: give `expansion`, its size")
        else:
            if (
                (layer["expansion"] is not None and whole("expansion", layer["expansion"]))
                or layer["fan_in"] is not None
                or layer["plastic"] is False
                or (layer["expansion"] is None and self.circuit.model.spec.synthesiser.expansion)
            ):
                raise ValidationError(
                    '`subspace` = "learned" is a plastic layer itself and sees everything: leave `fan_in` and '
                    "`expansion` out, and give expansion=0 where the model has one"
                )
            d = dimension_of(dimension, subspace, self.n)
            self._layer(drawn_weights(rng, d, self.visible, self.visible, biased=False), granule("v"), {})
        self.m, self.k = len(self.Q) + 1, self.visible + 1
        self.hidden = self.Q.shape
        self.exists = self.circuit.backend.asarray(self.Q != 0, self.circuit.dtype)
        self.exists[:, -1] = 1
        self.layout = Layout({"output": (self.d, self.m), "expansion": self.hidden})

    def _layer_unit(self) -> NeuronEquations:
        """Linear where the layer is a learned subspace."""
        return granule("v") if self.learned else super()._layer_unit()

    def initial_theta(self) -> Any:
        """The output weights 0, the layer at Q."""
        theta = super().initial_theta()
        self.layout.views(theta)["expansion"][...] = self.Q
        return theta

    def _seen(self, transition: Transition) -> Any:
        """What the layer sees: it is part of what `__call__` does."""
        seen = transition.new.s if self.sees == "state" else transition.new.rate
        return self.circuit.xp.concatenate([seen, transition.x], axis=1) if self.sees_input else seen

    def __call__(self, z: Any, theta: Any) -> Response:
        """g = φ(θ [q(Q z); 1])."""
        weights = self.layout.views(theta)
        q, hidden_slope = self._granule([z @ weights["expansion"].T], self._granule_constants)
        received = self._with_one(q)
        g, slope = self._unit([received @ weights["output"].T], self._constants)
        return Response(g, slope, received, z, hidden_slope, weights["output"][:, :-1])

    def gradient(self, v: Any, response: Response, gain: float = 1.0) -> Any:
        """Both blocks."""
        v = v * (gain * response.slope)
        hidden = ((v @ response.back) * response.hidden_slope).T @ response.seen
        return self.join(v.T @ response.z, hidden)

    def join(self, output: Any, expansion: Any) -> Any:
        """A flat gradient of θ from its two blocks, 0 where the layer has no synapse."""
        flat = self.circuit.xp.empty(self.layout.size, output.dtype)
        views = self.layout.views(flat)
        views["output"][...], views["expansion"][...] = output, expansion * self.exists
        return flat

    def add_jacobian(self, e: Any, response: Response, gain: float) -> None:
        """Of the output weights φ'_a z_j, of the layer's φ'_i θ_ih q'_h [s; x; 1]_k."""
        slope = gain * response.slope
        self.add_own(e, slope, response.z)
        through = column(slope) * response.back * _row(response.hidden_slope)
        hidden = e[:, :, self.d * self.m :].reshape(-1, self.n, *self.Q.shape)
        hidden += through[..., None] * (response.seen[:, None, None, :] * self.exists)


def _row(factor: Any) -> Any:
    """(B, H) → (B, 1, H); a number stays."""
    return factor[:, None, :] if getattr(factor, "ndim", 0) else factor
