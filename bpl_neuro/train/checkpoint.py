"""What a checkpoint holds: every number a trainer needs to go on to the same bits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bpl_neuro.errors import ValidationError
from bpl_neuro.storage import read_arrays, write_arrays
from bpl_neuro.train.loop import Position, Totals

__all__ = ["restore", "save"]

KIND = "checkpoint"
PARAMETERS = ("psi", "phi", "theta")


def save(trainer: Any, path: str | Path) -> None:
    """Write a `Trainer` to one file, atomically."""
    arrays = {name: trainer.parameter(name) for name in PARAMETERS if trainer.parameter(name) is not None}
    arrays |= flatten(trainer._moments, "moments") | flatten(trainer._sums, "sums")
    if trainer.best is not None:
        arrays |= {f"best/{name}": v for name, v in trainer.best.items() if v is not None and name != "loss"}
    arrays |= {f"changed/{key}": value for key, value in _changed(trainer).items()}
    position = trainer._position
    if position is not None:
        arrays |= {"position/state": position.state.s, **flatten(position.carry, "position/carry")}
        arrays |= {f"position/pending/{k}": late for k, late in enumerate(position.pending)}
    meta = {
        "kind": KIND,
        "history": trainer.history,
        "losses": trainer.losses,
        "ends": trainer._ends,
        "task": trainer._task_state,
        "trained": list(trainer._moments),
        "clamped": [[*key, value] for key, value in trainer.circuit.clamped.items()],
        "trials": trainer.trials,
        "batches": trainer.batches,
        "epoch": trainer.epoch,
        "within_epoch": trainer.within_epoch,
        "epoch_totals": asdict(trainer._epoch_totals),
        "steps": trainer._steps,
        "seed": trainer.seed,
        "noise_rng": trainer.noise_rng.bit_generator.state,
        "best_loss": trainer.best["loss"] if trainer.best else None,
    }
    write_arrays(path, {k: trainer.circuit.backend.to_host(v) for k, v in arrays.items()}, meta)


def restore(trainer: Any, path: str | Path) -> None:
    """Read one file into a `Trainer`; nothing is changed unless all of it fits."""
    arrays, meta = read_arrays(path, KIND)
    # what has no axes is a count that stays on the host
    arrays = {name: trainer.circuit.backend.asarray(a) if a.ndim else a for name, a in arrays.items()}
    for name in PARAMETERS:
        _check(path, name, trainer.parameter(name), arrays.get(name))
    trained = meta["trained"]
    if missing := [name for name in trained if name not in trainer._moments]:
        raise ValidationError(f"{path}: {missing[0]} was trained there; the trainer has no optimiser for it")
    moments = fill({name: trainer._moments[name] for name in trained}, arrays, "moments", path)
    if meta["seed"] != trainer.seed:
        raise ValidationError(f"{path}: was made with seed {meta['seed']}, the trainer has {trainer.seed}")
    position = None
    if "position/state" in arrays:
        s = arrays["position/state"]
        carry = fill(trainer.rule.init(len(s)), arrays, "position/carry", path)
        pending = tuple(arrays[f"position/pending/{k}"] for k in range(trainer.error_delay))
        position = Position(trainer.circuit.state(s), carry, pending)
    trainer.circuit.psi, trainer.readout.phi = arrays["psi"], arrays["phi"]
    trainer.theta = arrays.get("theta")
    trainer.optimisers = {name: o for name, o in trainer.optimisers.items() if name in trained}
    trainer.circuit.clamped = {(q, unit): value for q, unit, value in meta["clamped"]}
    trainer.circuit.mask = arrays.get("changed/mask")
    if hasattr(trainer.rule, "pathway"):
        trainer.rule.pathway = arrays.get("changed/pathway")
    trainer._moments, trainer._position = moments, position
    trainer._sums = {name: arrays[f"sums/{name}"] for name in PARAMETERS if f"sums/{name}" in arrays}
    trainer.history, trainer.losses, trainer._ends = meta["history"], meta["losses"], meta["ends"]
    trainer.trials, trainer.batches = meta["trials"], meta["batches"]
    trainer._task_state, trainer._beginning = meta["task"], None
    trainer.epoch, trainer.within_epoch = meta["epoch"], meta["within_epoch"]
    trainer._epoch_totals, trainer._steps = Totals(**meta["epoch_totals"]), meta["steps"]
    trainer.noise_rng.bit_generator.state = meta["noise_rng"]
    trainer.best = None
    if meta["best_loss"] is not None:
        trainer.best = {name: arrays.get(f"best/{name}") for name in PARAMETERS} | {"loss": meta["best_loss"]}


def _changed(trainer: Any) -> dict[str, Any]:
    """What interventions and the model's own wiring put in place of the whole: where learning goes, what g reaches."""
    found = {"mask": trainer.circuit.mask, "pathway": getattr(trainer.rule, "pathway", None)}
    return {key: value for key, value in found.items() if value is not None}


def flatten(tree: Any, prefix: str) -> dict[str, Any]:
    """Nested dicts and lists of arrays as path → array."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)  # type: ignore[assignment]
    elif not hasattr(tree, "dtype"):
        raise ValidationError(
            f"cannot save in the middle of a stream: {prefix} holds a {type(tree).__name__}; a trace that is an array, "
            'like "full" or "local", can be saved there'
        )
    else:
        return {prefix: tree}
    return {path: value for key, part in items for path, value in flatten(part, f"{prefix}/{key}").items()}


def fill(template: Any, arrays: dict[str, Any], prefix: str, path: str | Path) -> Any:
    """The nested dicts and lists of `template`, with the arrays of these paths."""
    if isinstance(template, dict):
        return {key: fill(part, arrays, f"{prefix}/{key}", path) for key, part in template.items()}
    if isinstance(template, list):
        return [fill(part, arrays, f"{prefix}/{k}", path) for k, part in enumerate(template)]
    _check(path, prefix, template, arrays.get(prefix))
    return arrays[prefix]


def _check(path: str | Path, name: str, expected: Any, found: Any) -> None:
    if expected is None and found is None:
        return
    wanted, given = (f"{a.dtype} {a.shape}" if a is not None else "nothing" for a in (expected, found))
    if wanted != given:
        raise ValidationError(f"{path}: `{name}` must be {wanted}, found {given}; was another circuit or rule used?")
