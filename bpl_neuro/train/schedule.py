"""Schedules: when the sum of the gradients so far moves a parameter."""

from __future__ import annotations

from dataclasses import dataclass

from bpl_neuro.checks import flag, positive_int, shown
from bpl_neuro.errors import ValidationError

__all__ = ["PER_TRIAL", "SUM_ONLY", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """What becomes of a gradient.

    Parameters
    ----------
    every : int, optional
        Parameters move after so many steps, by the sum of the gradients since; after 1 they learn fully online. None:
        they are frozen until the batch has ended.
    moves : bool
        False: nothing moves; gradients are summed, for whoever wants to look at them.

    Raises
    ------
    ValidationError
        For an `every` that is no whole number ≥ 1.
    """

    every: int | None = None
    moves: bool = True

    def __post_init__(self) -> None:
        if self.every is not None:
            object.__setattr__(self, "every", positive_int("every", self.every))
        object.__setattr__(self, "moves", flag("moves", self.moves))

    @classmethod
    def of(cls, name: str, update_every: int = 1) -> Schedule:
        """The schedule "step" or "trial".

        Raises
        ------
        ValidationError
            For another name, or `update_every` where there is one update a batch.
        """
        if not isinstance(name, str) or name not in ("step", "trial"):
            raise ValidationError(f"`schedule` must be 'step' or 'trial', got {shown(name)}")
        positive_int("update_every", update_every)
        if name == "step":
            return cls(update_every)
        if update_every > 1:
            raise ValidationError(
                '`update_every` counts steps of `schedule` = "step"; per trial there is one update a batch'
            )
        return PER_TRIAL

    @property
    def name(self) -> str:
        """The name, "step" or "trial"."""
        return "trial" if self.frozen else "step"

    @property
    def frozen(self) -> bool:
        """Whether parameters stay as they are during a batch."""
        return self.every is None

    def due(self, steps: int) -> bool:
        """Whether parameters move at the last of so many steps."""
        return self.every is not None and steps % self.every == 0


PER_TRIAL = Schedule()
SUM_ONLY = Schedule(moves=False)
