"""One synapse of a recording, as the analysis gives one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from bpl_neuro.checks import shown, whole
from bpl_neuro.errors import ValidationError

__all__ = ["recorded_synapse"]


def recorded_synapse(
    recording: xr.Dataset, batch: int | None = None, trial: int | None = None, synapse: tuple[int, int] | None = None
) -> tuple[xr.Dataset, str]:
    """The trace of one synapse in one trial of a recording.

    Parameters
    ----------
    recording : Dataset
        Batch, trial or synapse may have been chosen from it already.
    batch, trial : int, optional
        As it numbers them; by default the last batch and the first trial.
    synapse : (a, j), optional
        By default the first.

    Returns
    -------
    Dataset
        What is there of ``own``, ``norm``, ``product``, ``cumulative`` and ``delta``, as `analysis.synapse_trace` has
        them; ``cumulative`` where every step was recorded, ``delta`` where that of the synapse's own unit was.
    str
        Which batch and trial it is.

    Raises
    ------
    ValidationError
        If it holds no trace, or not this one; says what to record.
    """
    for name, number in (("batch", batch), ("trial", trial)):
        if number is not None:
            whole(name, number)
    names = {f"trace_{name}": name for name in ("own", "norm", "product") if f"trace_{name}" in recording}
    if not names:
        raise ValidationError(
            f"`trace` holds no trace_own, trace_norm, trace_product but {_few(list(recording.data_vars))}; record the "
            'quantity "trace", and "delta" to see δ: Recorder(…, ["trace", "delta"], synapses=[(a, j)])'
        )
    trace = recording[[*names, *({"delta"} & set(recording.data_vars))]]
    lost = [name for name in ("batch", "trial", "synapse_output", "synapse_input") if name not in trace.coords]
    if lost or "step" not in trace.dims:
        raise ValidationError(f"`trace` must be a recording with all its steps; it lost {', '.join(lost or ['step'])}")
    ends = (np.atleast_1d(trace[f"synapse_{end}"].values).tolist() for end in ("output", "input"))
    there: dict[str, list[Any]] = {dim: np.atleast_1d(trace[dim].values).tolist() for dim in ("batch", "trial")}
    there["synapse"] = list(zip(*ends, strict=True))
    wanted = {"batch": batch, "trial": trial, "synapse": _pair(synapse)}
    for (dim, value), default in zip(wanted.items(), (-1, 0, 0), strict=True):
        if not there[dim] or (value is not None and value not in there[dim]):
            raise ValidationError(f"`{dim}` must be one that was recorded: {_few(there[dim])}; got {shown(value)}")
        if dim in trace.dims:
            trace = trace.isel({dim: default if value is None else there[dim].index(value)})
    a, j = int(trace["synapse_output"]), int(trace["synapse_input"])
    where = f"batch {int(trace['batch'])}, trial {int(trace['trial'])}"
    recorded = trace[next(iter(names))].notnull().values  # not so in the padding
    trace = trace.isel(step=np.flatnonzero(recorded)).rename(names)
    if not trace.sizes["step"]:
        raise ValidationError(f"`trace` holds nothing of {where}: the batch had fewer trials")
    if "delta" in trace:
        delta = trace["delta"].isel(unit=np.flatnonzero(trace["unit"].values == a))
        trace = trace.drop_dims("unit")
        if delta.sizes["unit"]:
            trace["delta"] = delta.isel(unit=0, drop=True)
    if "product" in trace and trace["step"].values.tolist() == list(range(1, trace.sizes["step"] + 1)):
        trace["cumulative"] = trace["product"].cumsum("step")
    return trace.assign_attrs(synapse=[a, j]), where


def _pair(synapse: Any) -> tuple[int, int] | None:
    """(a, j)."""
    if synapse is None:
        return None
    if not isinstance(synapse, tuple | list) or len(synapse) != 2:
        raise ValidationError(f"`synapse` must be (a, j), output and input of θ, got {shown(synapse)}")
    return whole("synapse", synapse[0]), whole("synapse", synapse[1])


def _few(labels: Sequence[Any]) -> str:
    """Some of many, in words."""
    return ", ".join(map(str, labels if len(labels) <= 6 else [*labels[:3], "…", labels[-1]])) or "nothing"
