"""Times as texts (``"20*ms"``) to seconds, to whole steps, and to factors per step."""

from __future__ import annotations

import math

from bpl_neuro.checks import number, shown, whole
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.quantities import brian2_parts
from bpl_neuro.model.spec import Model, checked_quantity

__all__ = ["per_step", "seconds", "whole_steps"]


def seconds(name: str, text: str) -> float:
    """A time in seconds, from a text like ``"20*ms"``; ValidationError for what is no text, ModelError for no time."""
    if not isinstance(text, str):
        raise ValidationError(f'`{name}` must be a time like "20*ms", got {shown(text)}')
    return checked_quantity(text, brian2_parts().SECOND, f"`{name}`")


def whole_steps(name: str, value: int | str, dt: float, least: int = 0) -> int:
    """A number of steps, given as such or as a time; ValidationError unless it is whole and at least `least`."""
    if isinstance(value, str):
        steps = seconds(name, value) / dt
        if round(steps) < least or abs(steps - round(steps)) > 1e-6:
            raise ValidationError(f"`{name}` must be a whole number (≥ {least}) of steps of {dt:g} s, got {value!r}")
        return round(steps)
    try:
        return whole(name, value, least)
    except ValidationError:
        raise ValidationError(
            f'`{name}` must be a whole number ≥ {least} or a time like "20*ms", got {shown(value)}'
        ) from None


def per_step(name: str, value: float | str, model: Model) -> float:
    """A decay per step in [0, 1], or exp(−dt/τ) of a time constant given as text, with the model's step dt.

    Raises
    ------
    ValidationError
        For a value out of range, or a time constant where the model has no step in time.
    """
    if isinstance(value, str):
        if model.spec.time is None:
            raise ValidationError(
                f"`{name}` = {value!r} is a time, but the model {model.title!r} has no step in time; give a number per "
                'step, or the model [time] with dt = "1*ms"'
            )
        tau = checked_quantity(value, brian2_parts().SECOND, f"`{name}`")
        if tau <= 0:
            raise ValidationError(f"`{name}` as a time constant must be positive, got {value!r}")
        return math.exp(-model.dt / tau)
    try:
        decay = number(name, value)
    except ValidationError:
        decay = math.nan
    if not decay <= 1:
        raise ValidationError(f'`{name}` must lie in [0, 1], or be a time like "50*ms"; got {shown(value)}')
    return decay
