"""A checkpoint: a learner's state, flattened, and what it is the state of.

Restoring parses and checks everything first and then gives a new state; where anything is refused, nothing has changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import check_allowed, differences, made_with, say_differences, seal, uncompared
from bpl_neuro.storage import read_arrays, write_arrays
from bpl_neuro.train.arrays import Reader, check_arrays, flatten
from bpl_neuro.train.checkpoint_meta import Meta, check_learner, check_log, parse
from bpl_neuro.train.history_file import HistoryFile, read_history
from bpl_neuro.train.state import PARAMETERS, Learner, LearnerState, Log, Totals

__all__ = ["FITTED", "FORMAT", "identity", "restore", "save", "save_beside", "warn_of_another"]

KIND = "checkpoint"
#: of the file; other ones are refused by name
FORMAT = 3
#: what of the latest `fit` a checkpoint knows and the next one is held to
FITTED = ("task", "batch_size")


def identity(learner: Learner, seed: int) -> dict[str, Any]:
    """What a checkpoint is compared by: the learner, and the seed of its trials."""
    return {**learner.identity(), "seed": seed}


def save(state: LearnerState, seed: int, path: str | Path) -> None:
    """Write a state to one file, atomically; `seed` is that of its trials."""
    log = {"losses": np.array(state.log.losses, float), "ends": np.array(state.log.ends, np.int64)}
    _write(state, seed, path, log, None)


def save_beside(state: LearnerState, seed: int, path: str | Path, history: HistoryFile) -> None:
    """Write a state without what is kept of every batch, which is added to the file beside it first.

    Where that file holds another run's batches it begins anew; as long as that takes, a checkpoint that counted on them
    is one whole file.
    """
    losses, ends = state.log.losses, state.log.ends
    if not history.follows(losses, ends, lambda: _needed(path)):
        if _needed(path):
            save(state, seed, path)
        history.begin()
    history.add(losses, ends)
    _write(state, seed, path, {}, {"records": history.records, "checksum": history.checksum})


def warn_of_another(state: LearnerState, seed: int, path: str | Path) -> None:
    """A warning if the checkpoint at `path`, which is about to be replaced, is another training's, or further on."""
    if not (there := _there(path)):
        return
    whose, batches, _ = there
    found = say_differences(whose, identity(state.learner, seed))
    if found or batches > state.batches:
        further = f"after {batches} batches, {state.batches} are done here"
        what = f"of another training ({found[0]})" if found else further
        warnings.warn(f"{path}: the checkpoint there, {what}, is being replaced", stacklevel=5)


def _needed(path: str | Path) -> int:
    """Records that the checkpoint at `path` counts in the file beside it."""
    there = _there(path)
    return there[2] if there else 0


def _there(path: str | Path) -> tuple[dict[str, Any], int, int] | None:
    """Of the checkpoint at `path`, if it can be read: whose it is, its batches, and its records beside it."""
    try:
        meta = read_arrays(path, KIND)[1]
        beside = meta["log"]["beside"]
        return meta["identity"], int(meta["counters"]["batches"]), int(beside["records"]) if beside else 0
    except (ValidationError, LookupError, TypeError, ValueError):  # none, or none that could be gone on with
        return None


def _write(state: LearnerState, seed: int, path: str | Path, per_batch: Mapping[str, np.ndarray], beside: Any) -> None:
    log, best, position = state.log, state.log.best, state.position
    tree = {
        "parameters": {name: state.parameter(name) for name in PARAMETERS if state.parameter(name) is not None},
        "moments": state.moments,
        "sums": state.sums,
        "position": position,
        "best": None if best is None else {name: v for name, v in best.items() if v is not None and name != "loss"},
        "changed": {key: value for key in ("mask", "pathway") if (value := getattr(state, key)) is not None},
        "log": per_batch,
    }
    host = state.learner.circuit.backend.to_host
    arrays = {
        name: host(array)
        for name, array in flatten({key: part for key, part in tree.items() if part is not None}, "").items()
    }
    meta = {
        "kind": KIND, "format": FORMAT, "identity": identity(state.learner, seed), "made_with": made_with(),
        "log": {
            "history": log.history, "epoch": log.epoch, "within_epoch": log.within_epoch, "totals": vars(log.totals),
            "records": len(log.losses), "beside": beside, "fitted": log.fitted,
        },
        "curriculum": state.curriculum,
        "counters": {name: getattr(state, name) for name in ("steps", "batches", "trials")},
        "clamped": [[*key, value] for key, value in state.clamped.items()], "frozen": sorted(state.frozen),
        "trained": list(state.moments), "form": state.form,
        "noise": state.noise_rng.bit_generator.state if state.noise_rng else None,
        "best_loss": best["loss"] if best else None,
        "rows": len(position["s"]) if position else None, "arrays": sorted(arrays),
    }  # fmt: skip
    write_arrays(path, arrays, {**meta, "seal": seal(meta, arrays)})


def restore(learner: Learner, seed: int, path: str | Path, allow: Sequence[str] = ()) -> LearnerState:
    """The state that a file holds, for this learner; a new value, or an error.

    Parameters
    ----------
    learner : Learner
    seed : int
    path : path
    allow : sequence of str
        Dotted paths of what may be another than in the file.

    Raises
    ------
    ValidationError
        If the file is damaged, contradicts itself, or is of another learner; says of what, and how to allow it.
    """
    here = identity(learner, seed)
    allow = check_allowed(allow, (*here, *FITTED))
    arrays, plain = read_arrays(path, KIND)
    if plain.get("format") != FORMAT:
        raise ValidationError(
            f"{path}: a checkpoint of format {plain.get('format', 1)!r}, by another version of bpl_neuro; this one "
            f"reads format {FORMAT}"
        )
    meta = parse(plain, path)
    if meta.seal != seal(plain, arrays):
        raise ValidationError(f"{path}: its parts do not belong together; was it edited?")
    if found := say_differences(meta.identity, here, allow):
        raise ValidationError(f"{path}: {found[0]}; if that is meant, `restore(…, allow=[{found[1]}])`")
    per_batch = {name: arrays.pop(f"log/{name}") for name in ("losses", "ends") if f"log/{name}" in arrays}
    named = sorted([*arrays, *(f"log/{name}" for name in per_batch)])
    if named != meta.arrays or len(per_batch) != (0 if meta.log.beside else 2):
        odd = set(named) ^ set(meta.arrays) or {"log/losses"}
        raise ValidationError(f"{path}: `{min(odd)}` is missing, or no part of this checkpoint")
    if meta.log.beside:
        losses, ends = read_history(path, meta.log.beside.records, meta.log.beside.checksum)
    else:
        losses, ends = per_batch["losses"], per_batch["ends"]
    check_log(meta, losses, ends, path)
    check_learner(meta, learner, allow, path)
    changed = {path.split(".")[1] for path, _ in differences(meta.identity, here) if path.startswith("optimisers.")}
    state = _state(learner, seed, meta, arrays, path, changed)
    state.log.losses, state.log.ends = losses.tolist(), ends.tolist()
    _say_what_may_differ(meta, path)
    return state


def _state(
    learner: Learner, seed: int, meta: Meta, arrays: dict[str, Any], path: str | Path, changed: Collection[str] = ()
) -> LearnerState:
    """The state, but for losses and ends; meta was checked. A `changed` optimiser with other moments begins anew."""
    state, circuit, read = learner.initial(seed), learner.circuit, Reader(learner.circuit.backend, arrays, path)
    parameters = {name: state.parameter(name) for name in PARAMETERS}
    moments = {}
    for name in meta.trained:
        if name in changed and read.under(f"moments/{name}") != flatten(state.moments[name], f"moments/{name}").keys():
            read.leave_out(f"moments/{name}")
            moments[name] = state.moments[name]
        else:
            moments[name] = read.like(state.moments[name], f"moments/{name}")
    summed = {name: parameters[name] for name in PARAMETERS if f"sums/{name}" in arrays}
    if learner.least_squares and "sums/moment" in arrays:
        summed["moment"] = state.moments["theta"]["R"]
    position = None
    s = arrays.get("position/s")
    if meta.rows != (None if s is None or not s.ndim else len(s)):
        raise ValidationError(f"{path}: `rows` is {meta.rows}, which `position/s` has not")
    if meta.rows is not None:
        rule, B = learner.rule.settled(meta.form), meta.rows
        silent = circuit.xp.zeros((B, circuit.n), circuit.dtype)
        template = {"s": silent, "carry": rule.init(B, 1), "late": [silent] * learner.error_delay}
        position = read.like(template, "position")
    outputs = getattr(learner.rule, "synthesiser", circuit).n
    pathway = circuit.xp.zeros((outputs, outputs), circuit.dtype)
    best = None
    if meta.best_loss is not None:
        best = {name: read.like(value, f"best/{name}") for name, value in parameters.items()}
    values = {
        **{name: read.like(value, f"parameters/{name}") for name, value in parameters.items()},
        "mask": read.like(parameters["psi"], "changed/mask") if "changed/mask" in arrays else None,
        "pathway": read.like(pathway, "changed/pathway") if "changed/pathway" in arrays else None,
        "moments": moments,
        "sums": read.like(summed, "sums"), "position": position, "curriculum": meta.curriculum, "form": meta.form,
        "clamped": {(int(q), int(unit)): float(value) for q, unit, value in meta.clamped},
        "frozen": frozenset(meta.frozen) | (state.moments.keys() - set(meta.trained)),
        **meta.counters.model_dump(),
    }  # fmt: skip
    read.check_done()
    check_arrays(learner, values, best, path)
    log = meta.log.model_dump(exclude={"records", "beside", "totals"})
    totals = Totals(**meta.log.totals.model_dump())
    log_ = Log(**log, totals=totals, best=best and {**best, "loss": meta.best_loss})
    if meta.noise is None:
        values["noise_rng"] = None
    elif state.noise_rng is not None:
        state.noise_rng.bit_generator.state = meta.noise.model_dump()
    return state.replace(**values, log=log_)


def _say_what_may_differ(meta: Meta, path: str | Path) -> None:
    """Warnings: of what cannot be compared, and of another machine or other versions."""
    fitted = meta.log.fitted.model_dump() if meta.log.fitted else {}
    if blind := [*uncompared(meta.identity), *uncompared(fitted)]:
        warnings.warn(
            f"{path}: not compared, because a function or an object of one's own does not say what it is (a method "
            f"`identity()` would): {', '.join(blind)}",
            stacklevel=4,
        )
    if others := [sentence for _, sentence in differences(meta.made_with, made_with())]:
        warnings.warn(f"{path}: numbers may differ at rounding: {'; '.join(others)}", stacklevel=4)
