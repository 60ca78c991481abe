"""Association reach: recall a cued target when told, with no loss at all until then."""

from __future__ import annotations

from bpl_neuro.tasks.base import register
from bpl_neuro.tasks.delayed_reach import DelayedReach

__all__ = ["AssociationReach"]


@register
class AssociationReach(DelayedReach):
    """A delayed reach whose loss is silent while the target must be kept: no step before the reach teaches anything.

        time (ms)     0         100              150 … 250             300 … 400
                      |-- cue ---|---- delay ----|------- reach -------|
        x: cue p      1          0               0
        x: go         0          0               1                           (P + 1 inputs)
        y             –          –               the target                  (2 outputs)
        loss          –          –               – for 50 ms, then due

    Made for circuits of two areas (models/association.toml), where the one that sees the cue is not read out: what its
    synapses did is told by later losses alone.

    Parameters
    ----------
    targets : int
        P.
    cue, reach, reaction : str
        Durations.
    delay : (str, str)
        Shortest and longest delay; drawn evenly in whole steps.
    dt : str
        Step; must be the model's.
    batches_per_epoch : int

    Attributes
    ----------
    dt, baseline
        As in `DelayedReach`.

    Raises
    ------
    ValidationError, ModelError
        As in `DelayedReach`.
    """

    name = "association-reach"

    def __init__(
        self,
        targets: int = 4,
        *,
        cue: str = "100*ms",
        delay: tuple[str, str] = ("50*ms", "150*ms"),
        reach: str = "150*ms",
        reaction: str = "50*ms",
        dt: str = "10*ms",
        batches_per_epoch: int = 50,
    ) -> None:
        super().__init__(
            targets, cue=cue, delay=delay, reach=reach, reaction=reaction, hold=0, dt=dt,
            batches_per_epoch=batches_per_epoch,
        )  # fmt: skip
