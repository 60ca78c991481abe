"""Every error this package raises on purpose, under one base class."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BackendError",
    "BplError",
    "DivergenceError",
    "ModelError",
    "ValidationError",
]


class BplError(Exception):
    """Base of all errors raised by bpl_neuro."""


class ModelError(BplError):
    """A model text or model file is wrong; names the file, the key, what was found and what would be right."""


class ValidationError(BplError, ValueError):
    """An argument or an array is wrong; names the argument, what was given and what would be right."""


class BackendError(BplError, RuntimeError):
    """A backend is missing, or host and device arrays were mixed."""


class DivergenceError(BplError, ArithmeticError):
    """A number stopped being finite during a run.

    Attributes
    ----------
    step : int
        Time step (from 1) within the batch at which the quantity was first not finite; 0 for an update that was due
        when the batch had ended.
    batch : int
        Batches trained before the one that diverged: its number, counted from 0, where the message counts from 1.
    quantity : str
        What diverged, by its name in the code (``"state"``, ``"theta"``, ``"loss"``, …).
    last_finite : float
        Largest magnitude the quantity had when it was last finite.
    state : LearnerState or None
        The learner's, with the last finite parameters and without its place in a stream.
    """

    state: Any = None

    def __init__(self, step: int, batch: int, quantity: str, last_finite: float) -> None:
        self.step, self.batch, self.quantity, self.last_finite = step, batch, quantity, last_finite
        moment = f"at step {step}" if step else "in the update at the end"
        super().__init__(
            f"`{quantity}` stopped being finite {moment} of batch {batch + 1}; its largest magnitude when "
            f"last finite was {last_finite:.3g}. Try a smaller learning rate, a smaller `lam` or `gamma`, "
            "a smaller `sg_weight`, a smaller `radius` of the recurrent weights, or a smaller `dt`."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.batch, self.quantity, self.last_finite), vars(self)
