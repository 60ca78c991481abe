"""Losses: a value per trial and its gradient with respect to the readout's output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpl_neuro.checks import shown
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.array_forms import sigmoid

__all__ = ["LOSSES", "Loss", "get_loss"]

#: (xp, output (B, M), target (B, M) or labels (B,)) → (loss (B,), ∂loss/∂output (B, M))
Loss = Callable[[Any, Any, Any], tuple[Any, Any]]


def squared_error(xp: Any, output: Any, target: Any) -> tuple[Any, Any]:
    """½ Σ (y − y*)²."""
    difference = output - target
    return 0.5 * (difference * difference).sum(axis=1), difference


def cross_entropy(xp: Any, output: Any, target: Any) -> tuple[Any, Any]:
    """−log softmax(y)[label] in nats; target: labels (B,), or probabilities (B, M)."""
    shifted = output - output.max(axis=1, keepdims=True)
    log_p = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    gradient = xp.exp(log_p)
    if target.ndim == 1:
        rows = xp.arange(len(target))
        gradient[rows, target] -= 1
        return -log_p[rows, target], gradient
    return -(target * log_p).sum(axis=1), gradient * target.sum(axis=1, keepdims=True) - target


def binary_cross_entropy(xp: Any, output: Any, target: Any) -> tuple[Any, Any]:
    """Σ over bits of −[y* log σ(y) + (1 − y*) log(1 − σ(y))] in nats."""
    loss = xp.maximum(output, 0) - output * target + xp.log1p(xp.exp(-xp.abs(output)))
    return loss.sum(axis=1), sigmoid(xp, output) - target


LOSSES: dict[str, Loss] = {
    "squared_error": squared_error,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def get_loss(loss: str | Loss) -> Loss:
    """A loss by name, or the user's own function as it is.

    A user's own is ``loss(xp, output, target) → (value (B,), gradient (B, M))``.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValidationError(f"`loss` must be one of {', '.join(LOSSES)}, or a function; got {shown(loss)}")
    return LOSSES[loss]


def check_targets(loss: str | Loss, y: np.ndarray, outputs: int) -> None:
    """ValidationError unless targets fit the loss and the number of outputs."""
    if y.ndim == 2:
        if loss != "cross_entropy":
            raise ValidationError(f"class labels need loss 'cross_entropy', got {loss!r}")
        if y.min() < 0 or y.max() >= outputs:
            raise ValidationError(f"class labels must lie in 0 … {outputs - 1}, got {y.min()} … {y.max()}")
    elif y.shape[2] != outputs:
        raise ValidationError(f"`y` must have {outputs} outputs, got {y.shape[2]}")
    elif loss == "binary_cross_entropy" and (y.min() < 0 or y.max() > 1):
        raise ValidationError(f"targets of 'binary_cross_entropy' must lie in [0, 1], got {y.min()} … {y.max()}")
