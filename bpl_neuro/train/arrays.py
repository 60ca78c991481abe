"""A state's arrays by path, and back; and whether they can be those of a state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bpl_neuro.errors import ValidationError
from bpl_neuro.train.state import Learner

__all__ = ["Reader", "check_arrays", "flatten"]

#: moments of the package's optimisers that are counts or squares
_NOT_NEGATIVE = ("steps", "capped", "clipped", "staleness", "square", "weight", "bounded", "v")


class Reader:
    """Arrays of a file, where the templates of a learner have them and are alike."""

    def __init__(self, backend: Any, arrays: Mapping[str, Any], path: str | Path) -> None:
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
                "circuit or rule used? Other shapes or another precision cannot be gone on with; weights can be taken "
                "over by `set_parameters`"
            )
        self.left.discard(prefix)
        return self.backend.asarray(array) if self.backend.owns(template) else array

    def under(self, prefix: str) -> set[str]:
        """Paths of the arrays below one."""
        return {path for path in self.arrays if path.startswith(f"{prefix}/")}

    def leave_out(self, prefix: str) -> None:
        """Take nothing from below a path."""
        self.left -= self.under(prefix)

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


def check_arrays(learner: Learner, values: Mapping[str, Any], best: Mapping[str, Any] | None, path: str | Path) -> None:
    """ValidationError unless the arrays of a state, as `Reader` gave them, hold what such arrays can hold."""
    host, circuit = learner.circuit.backend.to_host, learner.circuit

    def check(right: Any, name: str, what: str) -> None:
        if not right:
            raise ValidationError(f"{path}: `{name}` must {what}")

    plain = {
        "parameters": {name: values[name] for name in ("psi", "phi", "theta") if values[name] is not None},
        "moments": values["moments"], "sums": values["sums"],
        "best": {name: value for name, value in (best or {}).items() if value is not None},
        "pathway": {} if values["pathway"] is None else {"": values["pathway"]},
        **{key: part for key, part in (values["position"] or {}).items() if key != "carry"},
    }  # fmt: skip
    for name, array in flatten(plain, "").items():
        check(np.isfinite(host(array)).all(), name, "be finite")
    for name, moments in values["moments"].items():
        for key in _NOT_NEGATIVE:
            if key in moments:
                check((host(moments[key]) >= 0).all(), f"moments/{name}/{key}", "not be negative")
        for key in ("steps", "capped", "clipped", "bounded"):
            most = values["steps"] if key == "steps" else moments.get("steps", values["steps"])
            check(key not in moments or moments[key] <= most, f"moments/{name}/{key}", f"be at most {most}")
    mask = values["mask"]
    if circuit.mask is not None:
        within = mask is not None and not (host(mask) > host(circuit.mask)).any()
        check(within, "changed/mask", "be within the circuit's")
    check(mask is None or np.isin(host(mask), (0, 1)).all(), "changed/mask", "hold 0 and 1")
    check(values["pathway"] is None or learner.rule.needs_synthesiser, "changed/pathway", "not be there without one")
    _check_carry({} if values["position"] is None else values["position"]["carry"], "position/carry", host, check)


def _check_carry(carry: Any, name: str, host: Any, check: Any) -> None:
    """Finite numbers; of a ring of kept steps those that are held, whose places lie within it."""
    if isinstance(carry, dict) and {"held", "next", "number"} <= carry.keys():
        number, K = host(carry["number"]), len(carry["number"])
        held, following = int(carry["held"]), int(carry["next"])
        check(0 <= held <= K and 0 <= following < K, name, f"have `held` and `next` within a ring of {K}")
        places = [(following - 1 - k) % K for k in range(held)]
        check(((number[places] >= 0) & (number[places] < K)).all(), f"{name}/number", f"lie within a ring of {K}")
        for key, part in flatten({k: v for k, v in carry.items() if k not in ("held", "next", "number")}, "").items():
            rows = number[places] if key.startswith("weights") else places
            kept = host(part)[rows] if part.ndim and len(part) == K else host(part)
            check(np.isfinite(kept).all(), f"{name}/{key}", "be finite")
        return
    if isinstance(carry, dict | list):
        below: Any = carry.items() if isinstance(carry, dict) else enumerate(carry)
        for key, part in below:
            _check_carry(part, f"{name}/{key}", host, check)
        return
    check(np.isfinite(host(carry)).all(), name, "be finite")
