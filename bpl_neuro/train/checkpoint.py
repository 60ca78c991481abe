"""What a checkpoint holds: a learner's state, flattened."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import ValidationError
from bpl_neuro.storage import read_arrays, write_arrays
from bpl_neuro.train.state import PARAMETERS, Learner, LearnerState, Log, Totals

__all__ = ["FORMAT", "restore", "save"]

KIND = "checkpoint"
#: of the file; other ones are refused by name
FORMAT = 2


def save(state: LearnerState, seed: int, path: str | Path) -> None:
    """Write a state to one file, atomically; `seed` is that of its trials."""
    log = asdict(state.log)
    best = log.pop("best")
    tree = {
        "parameters": {name: state.parameter(name) for name in PARAMETERS if state.parameter(name) is not None},
        "moments": state.moments,
        "sums": state.sums,
        "position": state.position,
        "best": None if best is None else {name: v for name, v in best.items() if v is not None and name != "loss"},
        "changed": {key: value for key in ("mask", "pathway") if (value := getattr(state, key)) is not None},
    }
    arrays = flatten({key: part for key, part in tree.items() if part is not None}, "")
    meta = {
        "kind": KIND, "format": FORMAT, "seed": seed, "log": log, "curriculum": state.curriculum,
        "counters": {name: getattr(state, name) for name in ("steps", "batches", "trials")},
        "clamped": [[*key, value] for key, value in state.clamped.items()], "frozen": sorted(state.frozen),
        "form": state.form, "noise": state.noise_rng.bit_generator.state if state.noise_rng else None,
        "best_loss": best["loss"] if best else None, "trained": list(state.moments),
    }  # fmt: skip
    host = state.learner.circuit.backend.to_host
    write_arrays(path, {name: host(array) for name, array in arrays.items()}, meta)


def restore(learner: Learner, seed: int, path: str | Path) -> LearnerState:
    """The state that a file holds, for a learner of the same shapes; a new value, or an error."""
    arrays, meta = read_arrays(path, KIND)
    if meta.get("format") != FORMAT:
        raise ValidationError(
            f"{path}: a checkpoint of format {meta.get('format', 1)}, by another version of bpl_neuro; this one "
            f"reads format {FORMAT}"
        )
    if meta["seed"] != seed:
        raise ValidationError(f"{path}: was made with seed {meta['seed']}, the trainer has {seed}")
    state = learner.initial(seed)
    trained, read = meta["trained"], _Reader(learner.circuit.backend, arrays, path)
    if missing := [name for name in trained if name not in state.moments]:
        raise ValidationError(f"{path}: {missing[0]} was trained there; the trainer has no optimiser for it")
    parameters = {name: state.parameter(name) for name in PARAMETERS}
    summed = {name: parameters[name] for name in PARAMETERS if f"sums/{name}" in arrays}
    if learner.least_squares and "sums/moment" in arrays:
        summed["moment"] = state.moments["theta"]["R"]
    circuit, position = learner.circuit, None
    if "position/s" in arrays:
        rule, B = learner.rule.settled(meta["form"]), len(arrays["position/s"])
        silent = circuit.xp.zeros((B, circuit.n), circuit.dtype)
        template = {"s": silent, "carry": rule.init(B, 1), "late": [silent] * learner.error_delay}
        position = read.like(template, "position")
    outputs = getattr(learner.rule, "synthesiser", circuit).n
    pathway = circuit.xp.zeros((outputs, outputs), circuit.dtype)
    log = Log(**{**meta["log"], "totals": Totals(**meta["log"]["totals"])})
    if meta["best_loss"] is not None:
        log.best = {name: read.like(value, f"best/{name}") for name, value in parameters.items()}
        log.best["loss"] = meta["best_loss"]
    values = {
        **{name: read.like(value, f"parameters/{name}") for name, value in parameters.items()},
        "mask": read.like(parameters["psi"], "changed/mask") if "changed/mask" in arrays else None,
        "pathway": read.like(pathway, "changed/pathway") if "changed/pathway" in arrays else None,
        "moments": read.like({name: state.moments[name] for name in trained}, "moments"),
        "sums": read.like(summed, "sums"),
        "position": position, "log": log, "curriculum": meta["curriculum"], "form": meta["form"], **meta["counters"],
        "clamped": {(q, unit): value for q, unit, value in meta["clamped"]},
        "frozen": frozenset(meta["frozen"]) | (state.moments.keys() - set(trained)),
    }  # fmt: skip
    read.check_done()
    if state.noise_rng is not None and meta["noise"] is not None:
        state.noise_rng.bit_generator.state = meta["noise"]
    return state.replace(**values)


class _Reader:
    """Arrays of a file, where the templates of a learner have them and are alike."""

    def __init__(self, backend: Any, arrays: dict[str, Any], path: str | Path) -> None:
        self.backend, self.arrays, self.path = backend, arrays, path
        self.left = set(arrays)

    def like(self, template: Any, prefix: str) -> Any:
        """The nested dicts and lists of `template`, with the arrays of these paths, on the device where its are."""
        if isinstance(template, dict):
            return {key: self.like(part, f"{prefix}/{key}") for key, part in template.items()}
        if isinstance(template, list):
            return [self.like(part, f"{prefix}/{k}") for k, part in enumerate(template)]
        array = self.arrays.get(prefix)
        if template is None and array is None:
            return None
        wanted, stored = (f"{a.dtype} {a.shape}" if a is not None else "nothing" for a in (template, array))
        if wanted != stored:
            raise ValidationError(
                f"{self.path}: `{prefix.removeprefix('parameters/')}` must be {wanted}, found {stored}; was another "
                "circuit or rule used?"
            )
        self.left.discard(prefix)
        return self.backend.asarray(array) if self.backend.owns(template) else array

    def check_done(self) -> None:
        """ValidationError if the file holds more than was asked for."""
        if self.left:
            raise ValidationError(
                f"{self.path}: holds `{min(self.left)}`, for which there is no place here; was another optimiser, rule "
                "or circuit used?"
            )


def flatten(tree: Any, prefix: str) -> dict[str, Any]:
    """Nested dicts and lists of arrays as path → array."""
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    else:
        return {prefix: np.asarray(tree) if np.isscalar(tree) else tree}
    arrays: dict[str, Any] = {}
    for key, part in items:
        arrays |= flatten(part, f"{prefix}/{key}" if prefix else str(key))
    return arrays
