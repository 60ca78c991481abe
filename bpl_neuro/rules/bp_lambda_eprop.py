"""Retrospective and prospective credit together: BP(λ)'s synthesiser speaks to e-prop's traces."""

from __future__ import annotations

from typing import Any

from bpl_neuro.checks import instance
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules.base import Carry
from bpl_neuro.rules.bp_lambda import BPLambda
from bpl_neuro.rules.eligibility import Eligibility, own_past, sweep_back

__all__ = ["BPLambdaEProp"]


class BPLambdaEProp(BPLambda):
    """The synthesiser learns by BP(λ); its prediction, one step late, is the learning signal of local traces.

        ε_t = A_t ε_{t−1} + ∂s_t/∂Ψ
        L_t = c_t + (c_{t+1} + κ g(s_{t+1})) O_{t+1}          dΨ = Σ_t L_t ε_t

    The trace covers what a weight does through its own neuron, the signal what it does through others. For κ = 1 and
    g = G (γ = 1) that is the gradient itself. With ``discounted=True`` it is the discounted gradient for g = G, γ < 1:

        ε_t = γ A_t ε_{t−1} + ∂s_t/∂Ψ
        L_t = c_t + (c_{t+1} + γκ g(s_{t+1})) O_{t+1} + (1−γ) c_{t+1} A_{t+1}

    At step t + 1 both parts that are then known are applied: c_{t+1} with ε_{t+1}, and the rest with ε_t.

    Parameters
    ----------
    synthesiser : Synthesiser
    discounted : bool
    **keywords
        Those of `BPLambda`. With ``trace="sweep"`` the circuit's traces, too, are summed by a sweep back.

    References
    ----------
    J. Pemberton & R. P. Costa, TMLR 2024; G. Bellec et al. 2020, Nat. Commun. 11, 3625.
    """

    name = "bp_lambda_eprop"

    def __init__(self, synthesiser: Synthesiser, *, discounted: bool = False, **keywords: Any) -> None:
        super().__init__(synthesiser, **keywords)
        self.discounted = instance("discounted", discounted, bool, "True or False")
        self.eligibility = Eligibility(self.circuit, own_past, self.gamma if discounted else 1.0)

    def _hold(self, trace: str, **options: Any) -> None:
        super()._hold(trace, **options)
        self.memory, self.time = f"{self.memory} + B·|Ψ|·S", f"{self.time} + |Ψ|·S²"

    def kept(self, batch: int, steps: int) -> int:
        """As BP(λ), and ε."""
        return super().kept(batch, steps) + (0 if self.deferred else self.eligibility.kept(batch))

    def init(self, batch: int) -> Carry:
        """As BP(λ), and ε = 0."""
        carry = super().init(batch)
        return carry if self.deferred else carry | {"eligibility": self.eligibility.init(batch)}

    def assign(self, carry: Carry, transition: Transition, c: Any, prospective: Any, end: Any) -> tuple[Carry, Any]:
        """L ε in the place of C ∂s/∂Ψ."""
        late = carry["started"][:, None] * self._late(transition, c, prospective)
        eligibility = carry["eligibility"]
        gradient = self.eligibility.advance(eligibility, transition, now=c, late=late)
        return {"eligibility": self.eligibility.restart(eligibility, end)}, gradient

    def assigned(self, transitions: list[Transition], c: Any, prospective: Any, end: list[Any]) -> Any:
        """Σ_t L_t ε_t by a sweep back."""
        signals = list(c)
        for t in range(1, len(c)):
            late = self._late(transitions[t], c[t], prospective[t])
            signals[t - 1] = c[t - 1] + ~end[t - 1][:, None] * late
        return sweep_back(transitions, signals, end, own_past, self.eligibility.decay)

    def _late(self, transition: Transition, c: Any, prospective: Any) -> Any:
        """What this step says of the one before: L_{t−1} − c_{t−1}."""
        back = self.feedback.transition(transition)
        late = back.vjp(c + (self.gamma if self.discounted else 1.0) * prospective, "between")
        return late + (1 - self.gamma) * back.vjp(c, "within") if self.discounted and self.gamma < 1 else late
