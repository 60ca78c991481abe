"""Retrospective and prospective credit together: BP(λ)'s synthesiser speaks to e-prop's traces."""

from __future__ import annotations

from typing import Any

from bpl_neuro.checks import flag
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry, register
from bpl_neuro.rules.bp_lambda import BPLambda
from bpl_neuro.rules.eligibility import Eligibility, own_past, sweep_back

__all__ = ["BPLambdaEProp"]


@register
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
    residual : bool
        For a synthesiser whose target is "current": e-prop carries a neuron's own memory, and the synthesiser learns
        the rest alone; see `bpl_neuro.rules.compatible.CompatibleBPLambdaEProp`.
    **keywords
        Those of `BPLambda`. With ``trace="sweep"`` the circuit's traces, too, are summed by a sweep back.

    References
    ----------
    J. Pemberton & R. P. Costa, TMLR 2024; G. Bellec et al. 2020, Nat. Commun. 11, 3625.
    """

    name = "bp_lambda_eprop"

    residual = False

    def __init__(
        self, synthesiser: Synthesiser, *, discounted: bool = False, residual: bool = False, **keywords: Any
    ) -> None:
        self.residual = flag("residual", residual)
        if self.residual and getattr(synthesiser, "target", None) == "state":
            raise ValidationError('`residual` needs a `synthesiser` with `target` = "current", got one with "state"')
        super().__init__(synthesiser, **keywords)
        self.discounted = flag("discounted", discounted)
        self.eligibility = Eligibility(self.circuit, own_past, self.gamma if self.discounted else 1.0)

    @property
    def memory(self) -> str:  # type: ignore[override]
        """That of the trace, and ε."""
        return f"{super().memory} + B·|Ψ|·S"

    @property
    def time(self) -> str:  # type: ignore[override]
        """That of the trace, and ε."""
        return f"{super().time} + |Ψ|·S²"

    def kept(self, trials: int, steps: int) -> int:
        """As BP(λ), and ε."""
        return super().kept(trials, steps) + (0 if self.deferred else self.eligibility.kept(trials))

    def init(self, trials: int, steps: int) -> Carry:
        """As BP(λ), and ε = 0."""
        carry = super().init(trials, steps)
        return carry if self.deferred else carry | {"eligibility": self.eligibility.init(trials)}

    def assign(
        self, carry: Carry, transition: Transition, c: Any, prospective: Any, end: Any
    ) -> tuple[Any, Carry, Any]:
        """L ε in the place of C ∂s/∂Ψ."""
        if self.deferred:
            return c + prospective, {}, None
        late = carry["started"][:, None] * self.late(self.feedback.transition(transition), c, prospective)
        eligibility = carry["eligibility"]
        gradient = self.eligibility.advance(eligibility, transition, now=c, late=late)
        return c + prospective, {"eligibility": self.eligibility.restart(eligibility, end)}, gradient

    def assign_all(self, trajectory: Trajectory, prospective: Any) -> Any:
        """Σ_t L_t ε_t by a sweep back."""
        signals = trajectory.c.copy()
        late = self.late(trajectory.back_through(self.feedback.transition), trajectory.c, prospective)
        signals[:-1] += ~trajectory.end[:-1, :, None] * late[1:]
        return sweep_back(trajectory, signals, own_past, self.eligibility.decay)

    def late(self, back: Transition | Trajectory, c: Any, prospective: Any) -> Any:
        """What a step says of the one before, through the feedback: L_{t−1} − c_{t−1}; or what all steps say."""
        late = back.vjp(c, "between") + (self.gamma if self.discounted else 1.0) * self.through(back, prospective)
        discounting = self.discounting(back, c)
        return late if discounting is None else late + discounting

    def discounting(self, back: Transition | Trajectory, c: Any) -> Any:
        """(1−γ) c A, where there is a discount: the loss of the very next step has none."""
        return (1 - self.gamma) * back.vjp(c, "within") if self.discounted and self.gamma < 1 else None

    def through(self, back: Transition | Trajectory, prospective: Any) -> Any:
        """κ g O."""
        return back.vjp(prospective, "between")

    def __repr__(self) -> str:
        options = [f", {name}=True" for name in ("discounted", "residual") if getattr(self, name)]
        return super().__repr__().removesuffix(")") + "".join(options) + ")"
