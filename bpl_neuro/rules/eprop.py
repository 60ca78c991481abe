"""e-prop: a synapse remembers through its target neuron's own past."""

from __future__ import annotations

from bpl_neuro.rules.base import register
from bpl_neuro.rules.eligibility import EligibilityRule, own_past

__all__ = ["EProp"]


@register
class EProp(EligibilityRule):
    """ε_t = A_t ε_{t−1} + ∂s_t/∂Ψ, dΨ = Σ_t c_t ε_t.

    Parameters as for `bpl_neuro.rules.eligibility.EligibilityRule`.

    References
    ----------
    G. Bellec et al. 2020, Nat. Commun. 11, 3625.
    """

    name = "eprop"
    block = staticmethod(own_past)
