"""SnAp-1: RTRL restricted to what a weight does to its own neuron."""

from __future__ import annotations

from bpl_neuro.rules.base import register
from bpl_neuro.rules.eligibility import EligibilityRule, own_past_and_self_synapse

__all__ = ["SnAp1"]


@register
class SnAp1(EligibilityRule):
    """ε_t = (block diagonal of J_t) ε_{t−1} + ∂s_t/∂Ψ, dΨ = Σ_t c_t ε_t.

    The block holds the neuron's own past and its synapse onto itself; without such synapses this is e-prop. Parameters
    as for `bpl_neuro.rules.eligibility.EligibilityRule`.

    References
    ----------
    J. Menick et al. 2021, ICLR, "A practical sparse approximation for real time recurrent learning".
    """

    name = "snap1"
    block = staticmethod(own_past_and_self_synapse)
