"""A right call of every task, plot, table of a benchmark, and of what comes from Brian2."""

# ruff: noqa: E501 - a table
# fmt: off

from __future__ import annotations

import functools
from collections.abc import Mapping

import brian2
import numpy as np
import xarray as xr
from attack_recipes_core import A, batch, circuit, readout, recipe, rule, theta
from attack_recipes_train import _pair, new_file
from attack_values import (
    Wrong,
    a,
    array,
    count,
    either,
    file,
    flag,
    function,
    items,
    mapping,
    nothing,
    number,
    one_of,
    optional,
    seed,
    steps,
    text,
)

import bpl_neuro as bpl
from bpl_neuro import benchmark, plotting, tasks

# Tasks

RNG = A(np.random.default_rng(0), a(np.random.Generator))
TIME, EPOCH = A("100*ms", one_of("10*ms")), {"batches_per_epoch": A(3, count())}
DT = A("10*ms", one_of("10*ms"))


def times(value):
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Wrong
    return tuple(steps()(part) for part in value)


def long_time(least):
    """A number of steps, or one of the times that are tried."""
    return lambda value: TIME.means(value) if isinstance(value, str) else count(least)(value)


def duration(right, least=1):
    return A(right, long_time(least))


def one_epoch(task):
    def batches(rng, **k):
        return list(task.batches(np.random.default_rng(0) if isinstance(rng, np.random.Generator) else rng, **k))

    return batches


data = bpl.Batch(np.zeros((20, 3, 2)), np.zeros((20, 3, 2)))
SHARE = A(0.1, either(number(0, 0.89), a(bpl.Batch)))
recipe(
    "ArrayTask", lambda **k: list(bpl.ArrayTask(**{"data": data} | k).batches(np.random.default_rng(0), 5)),
    data=A(data, a(bpl.Batch)), loss=A("squared_error", one_of("squared_error", "cross_entropy", "binary_cross_entropy")),
    output_size=A(2, optional(count(2, 2)), ("output_size", "outputs")), validation=SHARE, test=SHARE, seed=A(0, seed),
)
recipe(
    "TargetReaching", tasks.TargetReaching, patterns=A(2, count(1, 1000)), steps=A(3, count()), line=A(True, flag),
    input_size=A(4, count(2, 10**4), ("input_size", "patterns")), batches_per_epoch=A(3, count()), seed=A(0, seed),
)
recipe(
    "DelayedReach", tasks.DelayedReach, targets=A(2, count(1, 10**4)), cue=duration("100*ms"),
    delay=A(("100*ms", "200*ms"), times), reach=duration("200*ms"), reaction=duration("50*ms", 0), hold=A(0.3, number(0)),
    dt=DT, **EPOCH,
)
recipe(
    "AssociationReach", tasks.AssociationReach, targets=A(2, count(1, 10**4)), cue=duration("100*ms"),
    delay=A(("100*ms", "200*ms"), times), reach=duration("200*ms"), reaction=duration("50*ms", 0), dt=DT, **EPOCH,
)
recipe(
    "CueOutcome", tasks.CueOutcome, magnitudes=A((1.0, 0.5), lambda v: _two(v), ("magnitudes", "probabilities")),
    probabilities=A((0.75, 1.0), lambda v: _two(v, 0, 1)), cue=duration("50*ms"), delay=duration("200*ms"),
    outcome=duration("50*ms"), wait=duration("100*ms"), dt=DT, **EPOCH,
)
recipe(
    "IntervalTiming", tasks.IntervalTiming, intervals=A(("200*ms", "300*ms"), lambda v: items(count(3), 1)(v)), pulse=duration("20*ms"),
    wait=duration("100*ms"), after=duration("50*ms"), dt=DT, **EPOCH,
)
recipe(
    "CopyRepeat", tasks.CopyRepeat, length=A(2, count(1, 10**4)), repeats=A(2, count(1, 10**4)), bits=A(4, count(1, 10**4)),
    batches_per_epoch=A(3, count()), threshold=A(0.2, number(0, above=True)), grows=A(True, flag),
)
recipe(
    "RowMNIST", lambda **k: tasks.RowMNIST(**{"path": "nowhere at all", "download": False} | k), path=A("nowhere", optional(nothing), ("path", "nowhere", "MNIST")),
    train_size=A(10, nothing, ("train_size", "MNIST")), split_seed=A(0, nothing, ("split_seed", "MNIST")), download=A(False, nothing, ("download", "MNIST")),
)


def _two(value, low=-1e300, high=1e300):
    plain = array(2)(value)
    if not ((plain >= low) & (plain <= high)).all():
        raise Wrong
    return plain


def _not_finite(value):
    if not isinstance(value, float) or np.isfinite(value):
        raise Wrong
    return value


MADE = {
    "ArrayTask": bpl.ArrayTask(data), "TargetReaching": tasks.TargetReaching(steps=3, batches_per_epoch=2),
    "DelayedReach": tasks.DelayedReach(batches_per_epoch=1), "CueOutcome": tasks.CueOutcome(batches_per_epoch=1),
    "IntervalTiming": tasks.IntervalTiming(batches_per_epoch=1), "CopyRepeat": tasks.CopyRepeat(batches_per_epoch=1),
}
MADE["RowMNIST"] = object.__new__(tasks.RowMNIST)  # whose files are large
MADE["RowMNIST"].images = dict.fromkeys(("train", "validation", "test"), np.zeros((4, 28, 28), np.uint8))
MADE["RowMNIST"].labels = dict.fromkeys(("train", "validation", "test"), np.arange(4, dtype=np.uint8))
for name, task in MADE.items():
    recipe(f"{name}.batches", one_epoch(task), rng=RNG, size=A(2, count(1, 10**3)), split=A("train", one_of("train", "validation", "test")))
recipe("DelayedReach.trial", MADE["DelayedReach"].trial, target=A(1, count(0, 3)), delay=A(3, count(0, 10**4)))
recipe(
    "CueOutcome.trial", MADE["CueOutcome"].trial, cue=A(1, count(0, 2)), wait=A(3, count(0, 10**4)), comes=A(True, flag)
)
recipe(
    "IntervalTiming.trial", MADE["IntervalTiming"].trial, interval=A(25, count(3, 10**4)), wait=A(3, count(0, 10**4))
)
BITS = np.random.default_rng(0).integers(2, size=(2, 1, 8)).astype(np.float32)
recipe(
    "CopyRepeat.make",
    MADE["CopyRepeat"].make,
    pattern=A(BITS, array(None, None, 8, within=lambda p: np.isin(p, (0, 1)).all())),
)
recipe("CopyRepeat.bits_per_bit", MADE["CopyRepeat"].bits_per_bit, loss=A(0.3, number(0)))
recipe("CopyRepeat.advance", lambda loss: tasks.CopyRepeat().advance(loss), loss=A(0.3, either(number(0), lambda v: _not_finite(v))))
recipe("CopyRepeat.state", lambda: tasks.CopyRepeat().state())
recipe(
    "CopyRepeat.restore", lambda state: tasks.CopyRepeat().restore(state), state=A(tasks.CopyRepeat().state(), nothing)
)
recipe("make_task", bpl.make_task, name=A("copy-repeat", one_of(*tasks.TASKS)))
recipe("tasks.register", tasks.register, task=A(tasks.CopyRepeat, nothing))
recipe("task_options", tasks.task_options, name=A("copy-repeat", one_of(*tasks.TASKS)))
STIMULUS = brian2.TimedArray(np.arange(6.0).reshape(3, 2), dt=10 * brian2.ms)
recipe(
    "brian.from_timed_array", bpl.brian.from_timed_array, stimulus=A(STIMULUS, nothing), dt=A("1*ms", one_of("10*ms")),
    duration=A("50*ms", either(one_of("10*ms"), count(1, 10**5))), trials=A(2, count(1, 10**5)),
)

# Plots


@functools.cache
def _figure():
    return plotting.figure(2, 3)


def axes():
    """Empty axes: the same ones as long as nothing was drawn, for a figure takes long to make."""
    return _figure()[1]


@functools.cache
def found():
    return bpl.compare(circuit(), readout(), batch(), [bpl.rules.EProp(circuit())])


@functools.cache
def traced():
    return bpl.analysis.synapse_trace(circuit(), readout(), rule(), batch(), theta(), (1, 2))


CURVES = mapping({"a"}, array(3, finite=False))
CURVE = A({"a": np.ones((2, 3))}, optional(mapping(("a",), array(3, finite=False))))
AX, AXES = A(None, nothing, ("ax",)), A(None, nothing, ("axes",))


def draws(plot, **fixed):
    """On axes of ours, unless the axes are what is attacked."""

    def call(**k):
        first = "axes" if "axes" in k else "ax"
        if k[first] is OURS:
            k[first] = axes()[0, 0] if first == "ax" else axes().ravel()
        plot(**fixed | k)
        _figure.cache_clear()

    return call


OURS = object()
AX, AXES = A(OURS, nothing), A(OURS, nothing)
recipe("plotting.figure", lambda **k: len(plotting.figure(**k)), rows=A(1, count(1, 30)), columns=A(1, count(1, 30)))
recipe(
    "plotting.save_figure",
    lambda **k: plotting.save_figure(**{"fig": None} | k),
    fig=A(None, nothing),
    path=A(new_file(".png"), nothing, ("path", "fig")),
)
recipe("plotting.readable_log", plotting.readable_log, axis=A(None, nothing))
X3 = A(np.arange(3), array(3), ("step", "x", "optimum", "curves"))
LABEL = A("what", text)
recipe("plotting.plot_alignment", draws(plotting.plot_alignment), ax=AX, step=X3, curves=CURVE, optimum=A(np.ones((2, 3)), optional(
    either(array(3, finite=False), array(None, 3, finite=False)))))
recipe("plotting.plot_learning", draws(plotting.plot_learning), ax=AX, x=X3, curves=CURVE, xlabel=LABEL, ylabel=LABEL)
recipe("plotting.plot_learning.values", draws(lambda values, **k: plotting.plot_learning(curves={"a": values}, **k), x=range(3), xlabel="x", ylabel="y"),
       ax=AX, values=A(np.ones((2, 3)), either(array(3, finite=False), array(None, 3, finite=False)), ("curves",)))
recipe("plotting.plot_comparison", draws(lambda axes, found: plotting.plot_comparison(axes[:2] if isinstance(axes, np.ndarray) and axes.dtype == object else axes, found)), axes=AXES, found=A(found(), nothing))
recipe("plotting.plot_synapse", draws(plotting.plot_synapse), axes=AXES, trace=A(traced(), nothing), step_ms=A(5.0, optional(number(0, above=True))),
       batch=A(None, optional(nothing)), trial=A(None, optional(nothing)), synapse=A(None, optional(nothing)))
RECORDED = xr.DataArray(np.ones(3), {"step": np.arange(1, 4)}, "step", name="g")
recipe("plotting.plot_traces", draws(plotting.plot_traces), ax=AX, recorded=A(RECORDED, nothing))
recipe("plotting.plot_weights", draws(plotting.plot_weights), ax=AX, weights=A(np.eye(3), array(None, None)),
       exists=A(np.eye(3), optional(array(3, 3, within=lambda e: np.isin(e, (0, 1)).all()))), pre=LABEL, post=LABEL)
recipe("plotting.plot_trace", lambda **k: plotting.plot_trace(circuit(), **{"readout": readout(), "rule": rule(), "batch": batch(), "theta": theta(), "synapse": (1, 2)} | k) and None,
       synapse=A((1, 2), _pair), trial=A(0, count(0, 1)))

# Benchmarks

RECORD = {
    "seed": 0,
    "options": {"eta": 1e-3},
    "validation_accuracy": [0.5],
    "test_accuracy": {"1": 0.5},
    "diverged": None,
    "ms_per_batch": 1.0,
}
ENTRY = {
    "place": 0,
    "title": "one",
    "circuit": "small",
    "rule": "bptt",
    "also": [],
    "tuning": [RECORD],
    "runs": [RECORD],
}
RESULTS = {"benchmark": "b", "settings": {}, "labels": {"one": ENTRY}}
MOVES = {
    "label": "one",
    "title": "one",
    "place": 0,
    "seed": 0,
    "batches": 10,
    "stopped": None,
    "ms_per_batch": 1.0,
    "advances": [[3, 7, 2, 1]],
}
CURRICULA = {"benchmark": "b", "settings": {}, "runs": [MOVES]}
NUMBERS = {"first": A({0: 1.0, 1: 2.0}, lambda v: _by_seed(v)), "second": A({0: 0.5, 1: 0.7}, lambda v: _by_seed(v))}


def _by_seed(value):
    if not isinstance(value, dict) or not all(isinstance(k, int) for k in value):
        raise Wrong
    return {k: number()(v) for k, v in value.items()}


for name in ("figures", "tables", "markdown", "results_text"):
    recipe(f"benchmark.{name}", getattr(benchmark, name), results=A(RESULTS, nothing))
recipe("benchmark.merge", benchmark.merge, first=A(RESULTS, nothing), second=A(RESULTS, nothing))
recipe("benchmark.read_record", benchmark.read_record, path=A(new_file(), nothing, ("path", "cannot read")))
recipe("benchmark.collect", benchmark.collect, folder=A(new_file(), nothing))
recipe("benchmark.choose", benchmark.choose, tuning=A([RECORD], nothing))
recipe("benchmark.summarise", benchmark.summarise, values=A(np.ones(3), array(None)))
recipe("benchmark.difference", benchmark.difference, **NUMBERS)
recipe("benchmark.as_markdown", benchmark.as_markdown, found=A(benchmark.tables(RESULTS), lambda v: items(nothing)(v)))
recipe("benchmark.Job", benchmark.Job, stage=A("runs", one_of("tuning", "runs")), label=A("one", text), seed=A(0, count(0, 10**40)), options=A({"eta": 0.1}, optional(mapping({"a"}, number()))))
JOB = benchmark.Job("runs", "one", 0, {})
recipe(
    "benchmark.JobFile",
    benchmark.JobFile,
    folder=A(new_file(), file),
    job=A(JOB, nothing),
    about=A({}, optional(lambda v: _named(v))),
)
recipe(
    "benchmark.JobFile.write", lambda done: benchmark.JobFile(new_file(), JOB, {}).write(done=done), done=A(True, flag)
)
recipe("benchmark.run_jobs", benchmark.run_jobs, function=A(print, function), calls=A({}, optional(mapping((), nothing))), jobs=A(1, count()), title=A("x", text))
recipe("benchmark.collect_curricula", benchmark.collect_curricula, paths=A([new_file()], nothing, ("paths", "cannot read")))
recipe(
    "benchmark.merge_curricula", benchmark.merge_curricula, first=A(CURRICULA, nothing), second=A(CURRICULA, nothing)
)
recipe("benchmark.curriculum_table", benchmark.curriculum_table, results=A(CURRICULA, nothing))


def _named(value):
    if not isinstance(value, Mapping) or any(not isinstance(key, str) for key in value):
        raise Wrong
    return dict(value)
