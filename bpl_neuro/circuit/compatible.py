"""A synthesiser compatible with the circuit: it predicts the credit of the input currents from what the synapses see.

    q_t = G_t C_t            the credit of the summed inputs: what a later loss would say of each current
    q̂_t = θ y_t              y_t = [r_{t−1}; x_t; 1], per projection as the circuit has it: delayed, and only where
                             there is a synapse; θ has the shape of Ψ

The circuit's gradient is Σ (c_t C_t + q̂_t) y_tᵀ. Where θ is the least-squares fit, Σ (q_t − q̂_t) y_tᵀ = 0, so that this
gradient is exact, however poor the fit: the features are those of the parameter's own derivative, which Sutton et al.
(2000) call compatible.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bpl_neuro.checks import generator, instance, shown
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.regression import Family, Regression
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.circuit.wiring import Wiring, summed_gradient
from bpl_neuro.errors import ValidationError

__all__ = ["CompatibleSynthesiser", "Seen"]


class Seen(NamedTuple):
    """What the synapses of a step see.

    Attributes
    ----------
    sent : per group of synapses, a (B, N_pre) array
    mask : (|Ψ|,) array or None
        Where there is a plastic synapse.
    """

    sent: list[Any]
    mask: Any


class CompatibleSynthesiser(Synthesiser):
    """``Synthesiser(circuit, target="current", sees="synapses")``: q̂ = θ y, one unit for each input of each neuron.

    It is linear, whatever the model's ``[synthesiser]`` says: that describes the units of the other classes.

    Parameters
    ----------
    circuit : Circuit

    Attributes
    ----------
    n : int
        Number of input currents, Σ P·N.
    layout : Layout
        Blocks of θ: those of Ψ.
    currents : Layout
        Where the currents (P, N) of each population are in a flat (…, n) array.
    regression : Regression
        Which rows of θ share what they see.

    Raises
    ------
    ValidationError
        For options of the other classes.

    References
    ----------
    R. S. Sutton et al. 2000, NeurIPS 12, "Policy gradient methods for reinforcement learning with function
    approximation"; D. Balduzzi & M. Ghifary 2015, arXiv 1509.03005.
    """

    own_units = True
    linear = True
    identified = dict.fromkeys(Synthesiser.identified)
    regression: Regression

    def __init__(
        self, circuit: Circuit, *, target: str = "current", sees: str | None = "synapses", seed: Any = 0, **others: Any
    ) -> None:
        instance("circuit", circuit, Circuit, "a Circuit")
        generator("seed", seed)
        sees = "synapses" if sees is None else sees
        if not isinstance(target, str) or target != "current":
            raise ValidationError(f'`sees` = "synapses" goes with `target` = "current", got {shown(target)}')
        if not isinstance(sees, str) or sees != "synapses":
            raise ValidationError(f'`target` = "current" goes with `sees` = "synapses", got {shown(sees)}')
        known = inspect.signature(Synthesiser.__init__).parameters
        if given := [name for name, value in others.items() if value is not None or name not in known]:
            raise ValidationError(
                f'`{given[0]}` is no option of a synthesiser with `target` = "current": it sees what the synapses see'
            )
        self.circuit, self.target, self.sees, self.sees_input = circuit, target, sees, True
        self.layout = circuit.layout
        self.currents = Layout({pop.name: (pop.P, pop.N) for pop in circuit.populations})
        self.n = self.d = self.currents.size
        self.regression = Regression(_families(circuit))

    def weights(self, theta: Any) -> Any:
        """There is no one matrix of output weights."""
        raise ValidationError(
            'θ of a synthesiser with `target` = "current" has the blocks of Ψ: `synthesiser.layout.views(theta)`'
        )

    def initial_theta(self) -> Any:
        """θ = 0."""
        return self.circuit.xp.zeros(self.layout.size, self.circuit.dtype)

    def z(self, transition: Transition) -> Seen:  # type: ignore[override]
        """What there is to see in step t, for `__call__`."""
        return Seen(transition.sent(), transition.mask)

    def __call__(self, z: Seen, theta: Any) -> list[Any]:  # type: ignore[override]
        """q̂ = θ y: for each population a (B, P, N) array."""
        xp, wiring = self.circuit.xp, self.circuit.wiring
        weights = self.layout.views(theta if z.mask is None else theta * z.mask)
        rows = len(z.sent[0])
        currents = [
            xp.broadcast_to(weights[f"bias->{pop.name}"], (rows, pop.P, pop.N)).copy() for pop in wiring.populations
        ]
        for synapses, sent in zip(wiring.synapses, z.sent, strict=True):
            W = weights[synapses.key]
            received = (sent @ W.reshape(-1, W.shape[-1]).T).reshape(rows, *W.shape[:-1])
            total = currents[synapses.post]
            if len(synapses.ports) == total.shape[1]:
                total += received
            else:
                for k, port in enumerate(synapses.ports):
                    total[:, port] += received[:, k]
        return currents

    def gradient(self, v: Sequence[Any], response: Seen, gain: float = 1.0) -> Any:  # type: ignore[override]
        """gain · Σ_B v yᵀ, flat, for errors v (B, P, N) of each population."""
        return gain * summed_gradient(self.circuit.wiring, response.mask, v, response.sent)

    def moment(self, z: Seen, counts: Any) -> Any:
        """Σ_B y yᵀ over the rows that count: the blocks of `regression`, flat, float64."""
        return self.regression.moments(
            [self._features(family, z.sent, counts) for family in self.regression.families], self.circuit.xp
        )

    def _features(self, family: Family, sent: Sequence[Any], counts: Any) -> Any:
        """y of a family, (B, m), 0 in the rows that do not count."""
        xp = self.circuit.xp
        ones = xp.ones((len(counts), 1), self.circuit.dtype)
        return xp.concatenate([*(sent[group] for group in family.sees), ones], axis=1) * counts[:, None]

    def flat(self, currents: Sequence[Any]) -> Any:
        """(B, P, N) of each population as one (B, n) array."""
        return self.circuit.xp.concatenate([q.reshape(len(q), -1) for q in currents], axis=1)

    def parts(self, flat: Any) -> list[Any]:
        """A flat (B, n) array as (B, P, N) of each population."""
        return list(self.currents.views(flat).values())


def _families(circuit: Circuit) -> list[Family]:
    """The rows of θ by what they see; the bias comes last."""
    wiring: Wiring = circuit.wiring
    place = circuit.layout.views(np.arange(circuit.layout.size))
    families = []
    for q, pop in enumerate(wiring.populations):
        reached = [
            tuple(g for g, synapses in enumerate(wiring.synapses) if synapses.post == q and port in synapses.ports)
            for port in range(pop.P)
        ]
        for sees in dict.fromkeys(reached):
            rows = []
            for port in (p for p in range(pop.P) if reached[p] == sees):
                blocks = [place[wiring.synapses[g].key][wiring.synapses[g].ports.index(port)] for g in sees]
                blocks.append(place[f"bias->{pop.name}"][port][:, None])
                rows.append(np.hstack(blocks))
            families.append(Family(sees, np.vstack(rows)))
    return families
