"""The best that a linear synthesiser could do: the least-squares fit of the credit that it is to predict."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpl_neuro.checks import generator, instance
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Rule
from bpl_neuro.tasks.base import Batch
from bpl_neuro.train.loop import run_batch
from bpl_neuro.train.rls import RLS
from bpl_neuro.train.schedule import PER_TRIAL
from bpl_neuro.train.state import Learner

__all__ = ["least_squares_theta"]


def least_squares_theta(
    circuit: Circuit,
    readout: Readout,
    rule: Rule,
    batch: Batch,
    *,
    ridge: float = 1e-9,
    noise_seed: int | np.random.Generator | None = None,
) -> Any:
    """θ that fits the credit of all later losses best, over all steps and trials of a batch, with everything frozen.

    What each class of synthesiser could reach, had it all the time in the world: the yardstick beside what a learned θ
    does. Where the targets are noisy, look at the circuit's gradient that follows from it, not at the fit: G of a
    single trial is mostly what that trial's label happened to be, which averages out over trials; a θ that explains a
    hundredth of it may give the circuit nearly the true gradient (`bpl_neuro.compare`).

    Parameters
    ----------
    circuit, readout : Circuit, Readout
    rule : Rule
        With a linear synthesiser; γ and feedback are its own, λ is 1.
    batch : Batch
    ridge : float
        Relative to the mean of R's diagonal.
    noise_seed : int or Generator, optional
        Of the model's noise; none by default.

    Returns
    -------
    (|θ|,) array

    Raises
    ------
    ValidationError
        For a rule without such a synthesiser.
    """
    instance("circuit", circuit, Circuit, "a Circuit"), instance("readout", readout, Readout, "a Readout")
    instance("batch", batch, Batch, "a Batch")
    if instance("rule", rule, Rule, "a Rule").regression is None:
        raise ValidationError(f"`rule` must have a synthesiser that is linear in θ, got {rule!r}")
    learner = Learner(circuit, readout, rule.informed(), {"theta": RLS(0.0, ridge)}, PER_TRIAL)
    noise_rng = None if noise_seed is None else generator("noise_seed", noise_seed)
    state, _ = run_batch(learner, learner.initial().replace(noise_rng=noise_rng), batch)
    return state.theta
