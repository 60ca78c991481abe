"""What a checkpoint says in words and numbers, parsed: types, ranges, and whether it all goes together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as PydanticError

from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.traces import TracedRule
from bpl_neuro.train.state import PARAMETERS, Learner

__all__ = ["Meta", "check_learner", "check_log", "parse"]

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_LARGEST = 2**62
Plain = int | float | str | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Totals(_Strict):
    loss: float
    correct: Weight
    scored: Weight
    trials: Count
    largest: dict[str, float]
    sums: dict[str, Annotated[list[float | int], Field(min_length=2, max_length=2)]]


class _Beside(_Strict):
    """How many records of the history file are this checkpoint's, and the checksum of the last."""

    records: Count
    checksum: Annotated[int, Field(ge=0, lt=2**32)]


class _Fitted(_Strict):
    task: dict[str, Any]
    batch_size: Annotated[int, Field(ge=1, lt=_LARGEST)]


class _Log(_Strict):
    history: list[dict[str, int | float]]
    epoch: Count
    within_epoch: Count
    totals: _Totals
    records: Count
    beside: _Beside | None
    fitted: _Fitted | None


class _Counters(_Strict):
    steps: Annotated[int, Field(ge=0, lt=_LARGEST)]
    batches: Annotated[int, Field(ge=0, lt=_LARGEST)]
    trials: Annotated[int, Field(ge=0, lt=_LARGEST)]


class _Generator(_Strict):
    class Numbers(_Strict):
        """State and increment of PCG64."""

        state: Annotated[int, Field(ge=0, lt=2**128)]
        inc: Annotated[int, Field(ge=0, lt=2**128)]

    bit_generator: Literal["PCG64"]
    state: Numbers
    has_uint32: Annotated[int, Field(ge=0, le=1)]
    uinteger: Annotated[int, Field(ge=0, lt=2**32)]


class Meta(_Strict):
    """The JSON of a checkpoint."""

    kind: Literal["checkpoint"]
    format: int
    identity: dict[str, Any]
    made_with: dict[str, Any]
    log: _Log
    curriculum: dict[str, Plain] | None
    counters: _Counters
    clamped: list[Annotated[list[int | float], Field(min_length=3, max_length=3)]]
    frozen: list[Literal["psi", "phi", "theta"]]
    trained: list[Literal["psi", "phi", "theta"]]
    form: str | None
    noise: _Generator | None
    best_loss: Finite | None
    rows: Annotated[int, Field(ge=1)] | None
    arrays: list[str]
    seal: str


def parse(meta: Mapping[str, Any], path: str | Path) -> Meta:
    """The meta of a file as a checked value.

    Raises
    ------
    ValidationError
        For a field that is missing, too much, or wrong; names it.
    """
    try:
        return Meta.model_validate_json(json.dumps(meta))
    except PydanticError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValidationError(f"{path}: `{field}`: {first['msg']}, got {str(first['input'])[:80]}") from None


class _Checks:
    """Raises for the first thing that cannot be."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __call__(self, right: Any, what: str) -> None:
        if not right:
            raise ValidationError(f"{self.path}: the checkpoint contradicts itself: {what}")


def check_log(meta: Meta, losses: np.ndarray, ends: np.ndarray, path: str | Path) -> None:
    """ValidationError unless counters, losses, ends, epochs and totals belong to one training."""
    check, log, counters, totals = _Checks(path), meta.log, meta.counters, meta.log.totals
    n, within = len(losses), log.within_epoch
    steps, batches, trials = counters.steps, counters.batches, counters.trials
    check(losses.dtype == float and ends.dtype == np.int64 and losses.shape == ends.shape == (n,), "`losses`, `ends`")
    check(log.records == n, f"`log.records` is {log.records}, there are {n} losses")
    check((steps == 0) == (batches == 0) == (trials == 0), f"{steps} steps, {batches} batches, {trials} trials")
    check(n <= batches <= min(steps, trials), f"{n} losses, {batches} batches, {steps} steps, {trials} trials")
    sizes = np.diff(ends, prepend=0)
    check((sizes > 0).all() and (not n or ends[-1] <= trials), "`ends` must grow up to `trials`")
    check(within <= n, f"`log.within_epoch` is {within} of {n} batches")
    check(len(log.history) == log.epoch, f"`log.epoch` is {log.epoch}, there are {len(log.history)} in the history")
    check(log.fitted is not None or (n == 0 and log.epoch == 0), "`log.fitted` says of no task")
    done = [entry["batches"] for entry in log.history if isinstance(entry.get("batches"), int)]
    check(len(done) == log.epoch and done == sorted(done), "`batches` of the history must grow")
    check([entry.get("epoch") for entry in log.history] == list(range(1, log.epoch + 1)), "`epoch` of the history")
    before = done[-1] if done else 0
    check(before + within <= batches, f"{before} batches in whole epochs and {within} more, of {batches}")
    check(totals.correct <= totals.scored, f"`log.totals.correct` is more than `scored`, {totals.scored:g}")
    counts = [count for _, count in totals.sums.values()]
    check(all(isinstance(count, int) and 1 <= count <= within for count in counts), "`log.totals.sums`")
    if not within:
        empty: tuple[Any, ...] = (0, 0, 0, 0, {}, {})
        found = (totals.loss, totals.correct, totals.scored, totals.trials, totals.largest, totals.sums)
        check(found == empty, "`log.totals` must be empty between two epochs")
    elif n == batches:  # else others than those of a `fit` lie between
        check(totals.trials == sizes[-within:].sum(), f"`log.totals.trials` is {totals.trials}")
        check(_same(totals.loss, _total(losses[-within:], sizes[-within:])), f"`log.totals.loss` is {totals.loss:g}")
    check(totals.trials <= trials, f"`log.totals.trials` is {totals.trials} of {trials}")
    if n == batches:
        check(trials == (ends[-1] if n else 0), f"`counters.trials` is {trials}, the last batch ended at {ends[-1:]}")
        check(before + within == batches, f"`counters.batches` is {batches}")
        for entry, start, end in zip(log.history, map(int, [0, *done]), map(int, done), strict=False):
            mean = _total(losses[start:end], sizes[start:end]) / max(int(sizes[start:end].sum()), 1)
            check(_same(entry.get("train_loss"), mean), f"`train_loss` of epoch {entry['epoch']}")
    best = [entry["validation_loss"] for entry in log.history if "validation_loss" in entry]
    lowest = min((value for value in best if np.isfinite(value)), default=None)
    check(meta.best_loss == lowest, f"`best_loss` is {meta.best_loss}, the lowest of the history is {lowest}")


def _total(losses: np.ndarray, sizes: np.ndarray) -> float:
    """As `Totals.add` sums, in the same order."""
    total = 0.0
    for loss, size in zip(losses.tolist(), sizes.tolist(), strict=True):
        total += loss * size
    return total


def _same(stored: Any, now: float) -> bool:
    return stored == now or (stored != stored and now != now)


def check_learner(meta: Meta, learner: Learner, allowed: Sequence[str], path: str | Path) -> None:
    """ValidationError unless what was done and chosen can be of this learner."""
    check, circuit, rule = _Checks(path), learner.circuit, learner.rule
    keys = [(q, unit) for q, unit, _ in meta.clamped]
    check(len(set(keys)) == len(keys), "`clamped` names a neuron twice")
    for q, unit, value in meta.clamped:
        there = isinstance(q, int) and isinstance(unit, int) and 0 <= q < len(circuit.populations)
        check(there and 0 <= unit < circuit.populations[int(q)].N, f"`clamped` has neuron {unit} of population {q}")
        check(np.isfinite(value), f"`clamped` holds neuron {unit} of population {q} at {value}")
    learnt = [name for name in PARAMETERS if name in learner.optimisers and _has(learner, name)]
    for field in ("frozen", "trained"):
        names = getattr(meta, field)
        check(len(set(names)) == len(names), f"`{field}` names {names}")
    check(not set(meta.trained) & set(meta.frozen), "what is `frozen` is not `trained`")
    if missing := [name for name in meta.trained if name not in learnt]:
        raise ValidationError(f"{path}: {missing[0]} was trained there; the trainer has no optimiser for it")
    if not any(prefix.split(".")[0] == "optimisers" for prefix in allowed):
        check(set(learnt) <= {*meta.trained, *meta.frozen}, f"`trained` is {meta.trained}, `frozen` {meta.frozen}")
    if isinstance(rule, TracedRule):
        frozen = learner.schedule.frozen
        forms = {*rule.choices(False), *(rule.choices(True) if frozen else ())} if rule.form == "auto" else set()
        chosen = meta.form in forms or (meta.form is None and (rule.form != "auto" or not meta.counters.batches))
        check(chosen, f"`form` is {meta.form!r} of {rule!r}")
    check(meta.noise is None or meta.noise.state.inc % 2, "`noise.state.inc` must be odd")
    if meta.log.fitted:
        named = meta.log.fitted.task.get("curriculum")
        check(named is None or sorted(meta.curriculum or ()) == named, "`curriculum` is not that of the task")
    check(meta.curriculum is None or (meta.curriculum and meta.log.fitted), "`curriculum` is of no task")


def _has(learner: Learner, name: str) -> bool:
    return name != "theta" or learner.rule.initial_theta() is not None
