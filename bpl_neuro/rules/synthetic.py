"""What the rules with a synthesiser have in common: their options, and how its prediction reaches the circuit."""

from __future__ import annotations

from typing import Any, ClassVar

from bpl_neuro.checks import instance, number
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.regression import Regression
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.units import per_step
from bpl_neuro.rules.base import Carry, Rule, altered

__all__ = ["SyntheticGradientRule"]


class SyntheticGradientRule(Rule):
    """A rule with θ: a synthesiser, γ, κ, feedback, and the pathway from the synthesiser to the circuit.

    Attributes
    ----------
    pathway : (n, n) array or None, for the n outputs of the synthesiser
        The synthetic gradient reaches the circuit as g · pathway; None is the identity. It is part of a learner's
        state, for lesions and rewirings; the synthesiser's own TD error does not pass through it.
    """

    needs_synthesiser = True
    exact = False
    pathway: Any = None
    gain: float = 1.0
    #: what the synthesiser must predict the credit of
    target: ClassVar[str] = "state"

    def __init__(
        self, synthesiser: Synthesiser, gamma: float | str, sg_weight: float, feedback: str | Feedback
    ) -> None:
        self.synthesiser = instance("synthesiser", synthesiser, Synthesiser, "a Synthesiser")
        if synthesiser.target != self.target:
            raise ValidationError(
                f'{type(self).__name__} needs a `synthesiser` with `target` = "{self.target}", got one with '
                f'"{synthesiser.target}"'
            )
        self.gamma = per_step("gamma", gamma, synthesiser.circuit.model)
        self.sg_weight = number("sg_weight", sg_weight)
        self.feedback = Feedback.of(feedback)

    @property
    def circuit(self) -> Circuit:
        """The circuit whose synthesiser this is."""
        return self.synthesiser.circuit

    def initial_theta(self) -> Any:
        """That of the synthesiser."""
        return self.synthesiser.initial_theta()

    @property
    def regression(self) -> Regression | None:
        """That of the synthesiser."""
        return self.synthesiser.regression

    def moment(self, transition: Transition, end: Any) -> Any:
        """Σ z zᵀ, weighted as the correlation is: at a trial's end nothing is predicted."""
        return self.gain * self.synthesiser.moment(self.synthesiser.z(transition), ~end)

    def figures(self, carry: Carry) -> dict[str, float]:
        """Where the targets were known: ``theta_r2``, 1 − Σ|error|²/Σ|target|², ``theta_norm_ratio`` |g|/|target|."""
        if "fit" not in carry:
            return {}
        missed, predicted, wanted = (float(square) for square in carry["fit"])
        if not wanted > 0:
            return {}
        return {"theta_r2": 1 - missed / wanted, "theta_norm_ratio": (predicted / wanted) ** 0.5}

    def note_fit(self, carry: Carry, missed: Any, predicted: Any) -> None:
        """Keep for `figures` how far the predictions of a batch were off: arrays, where there was something to predict.

        The carry is that of whole trials, which nobody goes on with.
        """
        xp = self.circuit.xp
        wanted = predicted - missed
        carry["fit"] = xp.stack([xp.vdot(part, part) for part in (missed, predicted, wanted)])

    def settled(self, form: str | None, pathway: Any = None) -> Rule:
        """With this pathway."""
        return self if pathway is None else altered(self, pathway=pathway)

    def prospective(self, g: Any) -> Any:
        """κ g, through the pathway: what the circuit hears of the prediction."""
        reaching = g if self.pathway is None else g @ self.pathway
        return reaching if self.sg_weight == 1 else self.sg_weight * reaching

    def assign_all(self, trajectory: Trajectory, prospective: Any) -> Any:
        """The circuit's gradient over whole trials, Σ_t Σ_B (c_t + κ g_t) ∂s_t/∂Ψ; `prospective` is κ g, (T, B, n)."""
        return trajectory.parameter_gradient(trajectory.c + prospective)
