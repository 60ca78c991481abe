"""RFLO: random feedback local online learning."""

from __future__ import annotations

from bpl_neuro.rules.base import register
from bpl_neuro.rules.eligibility import EligibilityRule, own_leak

__all__ = ["RFLO"]


@register
class RFLO(EligibilityRule):
    """ε_t = diag(A_t) ε_{t−1} + ∂s_t/∂Ψ, dΨ = Σ_t c_t ε_t, the readout's errors through fixed random weights.

    The leak part of A is taken to be its diagonal: each state variable's own decay. Parameters as for
    `bpl_neuro.rules.eligibility.EligibilityRule`; `feedback` is "random" unless given.

    References
    ----------
    J. M. Murray 2019, eLife 8, e43299.
    """

    name = "rflo"
    block = staticmethod(own_leak)
    default_feedback = "random"
