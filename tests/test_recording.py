"""The recorder writes what a plain watch sees, within its memory, and survives kills at any moment."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from biology import SIZES, TEXT
from helpers import run_script

import bpl_neuro as bpl
from bpl_neuro import analysis, plotting
from bpl_neuro.look.recording import Recorder, checksums, write_recording

PER_STEP = ["state", "rate", "c", "g", "delta", "credit"]
SETTINGS = {"every": 2, "steps": [1, 3, 4], "trials": [0, 2], "units": [0, 3], "synapses": [(0, 1), (3, 5)]}


def setting(trace="full", model="adapting", size=3, schedule="step", seed=0, **keywords):
    circuit = bpl.Circuit(model, size, 2, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.8, trace=trace)
    return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule=schedule, seed=seed, **keywords)


def batch(number, B=3, T=5, **keywords):
    rng = np.random.default_rng(number)
    return bpl.Batch(rng.normal(size=(B, T, 2)), rng.normal(size=(B, T, 2)), **keywords)


def train(trainer, recorder, numbers, **keywords):
    for number in numbers:
        recorder.batch_done(trainer, trainer.train_batch(batch(number, **keywords), watch=recorder.watch))


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(path) as recording:
            return recording.load()


def seen(trainer, numbers, **keywords):
    """Per batch: each quantity by name, (T, B, n), from a plain watch; and the parameters and loss after it."""
    batches = []
    for number in numbers:
        steps = []

        def look(s, steps=steps):
            own = {"state": s.transition.new.s, "rate": s.transition.new.rate, "c": s.c, **s.signals}
            steps.append({name: np.array(value) for name, value in own.items()})

        outcome = trainer.train_batch(batch(number, **keywords), look)
        values = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
        values |= {"psi": trainer.parameter("psi"), "phi": trainer.parameter("phi")}
        values["theta"] = trainer.rule.synthesiser.weights(trainer.theta)
        batches.append(values | {"loss": outcome.loss})
    return {name: np.stack([b[name] for b in batches]) for name in batches[0]}


@pytest.mark.parametrize("schedule", ["step", "trial"])
def test_it_holds_what_a_plain_watch_sees(tmp_path, schedule):
    names = [*PER_STEP, "loss", "psi", "phi", "theta"]
    with Recorder(trainer := setting(schedule=schedule), tmp_path / "r.zarr", names) as recorder:
        train(trainer, recorder, range(7))
    found, expected = read(tmp_path / "r.zarr"), seen(setting(schedule=schedule), range(7))
    assert set(found.data_vars) == set(names)
    for name in names:
        np.testing.assert_array_equal(found[name].values, expected[name], err_msg=name)
    assert found["state"].dims == found["g"].dims == ("batch", "step", "trial", "unit")
    assert found["rate"].dims == ("batch", "step", "trial", "neuron")
    assert found["theta"].dims == ("batch", "output", "input")
    assert found["batch"].values.tolist() == list(range(1, 8))
    assert found["step"].values.tolist() == [1, 2, 3, 4, 5]


def test_fit_takes_a_recorder_and_flushes_it_with_every_checkpoint(tmp_path):
    task = bpl.tasks.TargetReaching(steps=4, input_size=2, batches_per_epoch=5)

    def go(trainer, recorder, stop_at):
        return trainer.fit(
            task, epochs=3, batch_size=2, stop_at=stop_at, recorder=recorder, progress=False,
            checkpoint=tmp_path / "c.npz", checkpoint_every=3,
        )  # fmt: skip

    whole = setting()
    with Recorder(whole, tmp_path / "whole.zarr", ["g", "loss"]) as recorder:
        go(whole, recorder, None)
    killed = setting()
    go(killed, Recorder(killed, tmp_path / "cut.zarr", ["g", "loss"]), 8)  # never closed; the last checkpoint is at 6
    restored = setting().restore(tmp_path / "c.npz")
    assert restored.batches == 6
    with Recorder.resume(restored, tmp_path / "cut.zarr", restored.batches) as recorder:
        go(restored, recorder, None)
    assert read(tmp_path / "cut.zarr").equals(read(tmp_path / "whole.zarr"))
    assert (restored.theta == whole.theta).all()


def test_choices(tmp_path):
    with Recorder(trainer := setting(), tmp_path / "r.zarr", ["g", "rate", "trace", "theta"], **SETTINGS) as recorder:
        train(trainer, recorder, range(7))
    found, expected = read(tmp_path / "r.zarr"), seen(setting(), range(7))
    assert found["batch"].values.tolist() == [1, 3, 5, 7]
    assert found["step"].values.tolist() == [1, 3, 4]
    assert found["trial"].values.tolist() == [0, 2]
    rows = [0, 2, 4, 6], [0, 2, 3], [0, 2]
    np.testing.assert_array_equal(found["g"].values, expected["g"][np.ix_(*rows, [0, 3])])
    np.testing.assert_array_equal(found["rate"].values, expected["rate"][np.ix_(*rows, [0, 1])])
    np.testing.assert_array_equal(found["theta"].values, expected["theta"][::2])
    assert found["unit"].values.tolist() == [0, 3]
    assert found["unit_state"].values.tolist() == ["x", "a"]
    assert found["unit_neuron"].values.tolist() == [0, 1]
    assert found["synapse_input"].values.tolist() == [1, 5]


@pytest.mark.parametrize("slices", [{"steps": slice(2, None, 2), "trials": slice(1, 3)}])
def test_slices(tmp_path, slices):
    with Recorder(trainer := setting(), tmp_path / "r.zarr", "c", **slices) as recorder:
        train(trainer, recorder, range(2))
    found = read(tmp_path / "r.zarr")
    assert found["step"].values.tolist() == [2, 4]
    assert found["trial"].values.tolist() == [1, 2]
    np.testing.assert_array_equal(found["c"].values, seen(setting(), range(2))["c"][:, 1::2, 1:3])


def test_names_and_units_of_a_circuit_with_populations_and_delays(tmp_path):
    trainer = setting("local", bpl.Model.from_toml(TEXT), SIZES)
    with Recorder(trainer, tmp_path / "r.zarr", ["state", "rate"], units="inh", trials=[0]) as recorder:
        train(trainer, recorder, range(2))
    found = read(tmp_path / "r.zarr")
    assert set(found["unit_population"].values) == set(found["neuron_population"].values) == {"inh"}
    assert found["neuron_number"].values.tolist() == [0, 1, 2]
    assert found["unit_state"].values.tolist() == ["r"] * 3
    assert found["unit"].values.tolist() == list(range(trainer.circuit.n))[trainer.circuit.populations[1].state_slice]
    np.testing.assert_array_equal(found["state"].values, found["rate"].values)
    assert found.attrs["dt"] == 0.001
    assert found["time"].attrs["units"] == "s"
    assert found["time"].values[1] == pytest.approx(0.002)
    with Recorder(trainer, tmp_path / "all.zarr", "state") as recorder:
        train(trainer, recorder, [0])
    assert read(tmp_path / "all.zarr")["unit_state"].values[:3].tolist() == ["x", "delay_1", "delay_2"]


def test_physical_units(tmp_path):
    model = bpl.Model.from_equations(
        "dv/dt = (-v + u) / tau : volt\nr = tanh(v / vref) / tref : Hz\nu : volt\ntau : second (constant)\n"
        "vref : volt (constant)\ntref : second (constant)",
        rate="r", inputs=["u"], parameters={"tau": "10*ms", "vref": "1*volt", "tref": "1*second"}, dt="1*ms",
    )  # fmt: skip
    trainer = setting("local", model)
    names = ["state", "rate", "c", "g", "delta", "loss", "psi", "trace"]
    with Recorder(trainer, tmp_path / "r.zarr", names, synapses=[(0, 1)]) as recorder:
        train(trainer, recorder, range(2))
    units = {name: value.attrs.get("units") for name, value in read(tmp_path / "r.zarr").variables.items()}
    assert units["state"] == "V" and units["rate"] == "Hz" and units["loss"] == "1" and units["time"] == "s"
    assert units["c"] == units["g"] == units["delta"] == "1/V"
    assert units["psi"] is units["trace_own"] is units["trace_product"] is None  # not dimensionless, and not derived


@pytest.mark.parametrize("rule", ["bp_lambda", "rflo"])
def test_every_array_says_in_words_what_it_is(tmp_path, rule):
    circuit = bpl.Circuit("adapting", 3, 2, seed=0)
    trainer = (
        setting() if rule == "bp_lambda" else bpl.Trainer(circuit, bpl.Readout(circuit, 2), bpl.rules.RFLO(circuit))
    )
    names, synapses = [*PER_STEP, "trace", "loss", "psi", "phi", "theta"], {"synapses": [(0, 1)]}
    if rule == "rflo":
        names, synapses = ["state", "rate", "c", "learning_signal", "psi"], {}
    with Recorder(trainer, tmp_path / "r.zarr", names, **synapses) as recorder:
        train(trainer, recorder, range(2))
    found = read(tmp_path / "r.zarr")
    long_names = {name: value.attrs.get("long_name") for name, value in found.variables.items()}
    assert all(long_names.values()) and len(set(long_names.values())) == len(long_names)
    assert not any("as the rule reports it" in name for name in long_names.values())
    assert {value.attrs.get("units") for name, value in found.data_vars.items()} == {"1"}
    assert found["time"].attrs["units"] == "s"
    drawn = plotting.figure()[1][0, 0]
    found["state"].isel(batch=0, trial=0, unit=0).plot(ax=drawn, x="time")
    assert drawn.get_ylabel() == "state s_t [1]" and drawn.get_xlabel() == "time within the batch [s]"


def test_a_signal_of_a_users_own_rule_is_called_what_the_rule_calls_it(tmp_path):
    class Own(bpl.rules.Immediate):
        def step(self, *arguments):
            carry, signals, gradient = super().step(*arguments)
            return carry, {"mine": signals["credit"]}, gradient

    circuit = bpl.Circuit("adapting", 3, 2, seed=0)
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), Own(circuit))
    with Recorder(trainer, tmp_path / "r.zarr", "mine") as recorder:
        train(trainer, recorder, range(2))
    attrs = read(tmp_path / "r.zarr")["mine"].attrs
    assert attrs["long_name"] == "mine, as the rule reports it" and "units" not in attrs


@pytest.mark.parametrize(
    ("trace", "model"),
    [
        *((trace, model) for trace in ("full", "local", "leak") for model in ("adapting", "leaky_tanh")),
        ("model", "leaky_tanh"),
    ],
)
def test_the_products_of_all_synapses_sum_to_the_change_of_theta(tmp_path, trace, model):
    trainer = setting(trace, model, optimiser={})
    s = trainer.rule.synthesiser
    trainer.set_parameters(theta=np.random.default_rng(5).normal(size=trainer.theta.shape) * 0.3)
    synapses = [(a, j) for a in range(s.n) for j in range(s.m)]
    end = np.zeros((3, 5), bool)
    end[:, -1] = end[1, 2] = True
    with Recorder(trainer, tmp_path / "r.zarr", "trace", synapses=synapses) as recorder:
        train(trainer, recorder, [4], end=end)
    found = read(tmp_path / "r.zarr")
    updates = bpl.batch_updates(trainer.circuit, trainer.readout, trainer.rule, batch(4, end=end), trainer.theta)
    total = found["trace_product"].sum(("batch", "step", "trial")).values.reshape(s.n, s.m)
    np.testing.assert_allclose(total, -s.weights(updates.gradients["theta"]), rtol=1e-10, atol=1e-12)
    assert ("trace_norm" in found) == (trace in ("full", "local"))


def test_the_trace_is_the_one_of_the_analysis(tmp_path):
    trainer = setting(optimiser={})
    trainer.set_parameters(theta=np.random.default_rng(5).normal(size=trainer.theta.shape) * 0.3)
    synapses = [(0, 1), (5, 2), (2, 6)]
    one = batch(4)[2:3]  # c, and so δ, carry 1/B
    with Recorder(trainer, tmp_path / "r.zarr", "trace", synapses=synapses, steps=[1, 3, 4]) as recorder:
        recorder.batch_done(trainer, trainer.train_batch(one, watch=recorder.watch))
    found = read(tmp_path / "r.zarr").sel(batch=1)
    for k, synapse in enumerate(synapses):
        arguments = (trainer.circuit, trainer.readout, trainer.rule, one, trainer.theta, synapse)
        expected = analysis.synapse_trace(*arguments).sel(step=[1, 3, 4])
        for ours, theirs in (("trace_own", "own"), ("trace_norm", "norm"), ("trace_product", "product")):
            values = found[ours].isel(synapse=k, trial=0).values
            np.testing.assert_allclose(values, expected[theirs].values, rtol=1e-12, atol=1e-15)


def test_the_trace_of_a_stream_goes_on_from_piece_to_piece(tmp_path):
    whole = batch(3, T=9, stream=True)
    products = []
    for pieces in ([slice(0, 9)], [slice(0, 4), slice(4, 6), slice(6, 9)]):
        trainer = setting(optimiser={})
        trainer.set_parameters(theta=np.random.default_rng(5).normal(size=trainer.theta.shape) * 0.3)
        path = tmp_path / f"{len(pieces)}.zarr"
        with Recorder(trainer, path, "trace", synapses=[(0, 1), (4, 2)]) as recorder:
            for p in pieces:
                piece = bpl.Batch(whole.x[:, p], whole.y[:, p], stream=True)
                recorder.batch_done(trainer, trainer.train_batch(piece, watch=recorder.watch))
        found = read(path)["trace_product"].stack(t=("batch", "step")).transpose("t", "trial", "synapse").values
        products.append(found[~np.isnan(found).any(axis=(1, 2))])
    np.testing.assert_allclose(products[1], products[0], rtol=1e-12)
    assert (products[0][5:] != 0).all()


def test_short_batches_are_padded(tmp_path):
    trainer = setting()
    with Recorder(trainer, tmp_path / "r.zarr", ["state", "loss"]) as recorder:
        train(trainer, recorder, [0])
        train(trainer, recorder, [1], B=2, T=4)
        train(trainer, recorder, [3])
    state = read(tmp_path / "r.zarr")["state"]
    assert state["batch"].values.tolist() == [1, 2, 3]
    assert (~np.isnan(state.values)).sum(axis=(1, 2, 3)).tolist() == [3 * 5 * 6, 2 * 4 * 6, 3 * 5 * 6]
    assert not np.isnan(state.values[1, :4, :2]).any()


def test_chosen_trials_and_steps_ignore_longer_batches(tmp_path):
    trainer = setting()
    with Recorder(trainer, tmp_path / "r.zarr", "state", trials=[0, 2], steps=slice(1, 4)) as recorder:
        train(trainer, recorder, [0])
        train(trainer, recorder, [1], B=5, T=9)
        train(trainer, recorder, [2], B=1, T=2)
    state = read(tmp_path / "r.zarr")["state"].values
    assert np.isnan(state).sum(axis=(1, 2, 3)).tolist() == [0, 0, (3 * 2 - 2) * 6]


@pytest.mark.parametrize("every", [1, 3])
def test_memory_stays_within_its_bound(tmp_path, every):
    trainer, bound, most, rows = setting(), 20_000, 0, set()
    recorder = Recorder(
        trainer, tmp_path / "r.zarr", [*PER_STEP, "theta", "loss"], buffer_bytes=bound, chunk_steps=2, every=every
    )

    def watch(step):
        nonlocal most
        recorder.watch(step)
        most = max(most, recorder.buffered_bytes)

    for number in range(20):
        recorder.batch_done(trainer, trainer.train_batch(batch(number), watch=watch))
        held = sum(a.nbytes for part in (recorder._held, recorder._pending) for row in part for a in row.values())
        assert held == recorder.buffered_bytes <= bound
        if number % 5 == 4:
            rows.add(read(tmp_path / "r.zarr").sizes["batch"])
    assert 0 < most <= bound
    assert len(rows) == 4  # it was written bit by bit
    recorder.close()
    assert recorder.buffered_bytes == 0
    found, expected = read(tmp_path / "r.zarr"), seen(setting(), range(20))
    for name in (*PER_STEP, "theta", "loss"):
        np.testing.assert_array_equal(found[name].values, expected[name][::every])
    with pytest.raises(bpl.ValidationError, match="batch 21 takes more than `buffer_bytes` = 500"):
        train(trainer, Recorder(trainer, tmp_path / "s.zarr", "state", buffer_bytes=500), [0])


def test_a_batch_that_diverged_is_left_out(tmp_path):
    trainer = setting()
    with Recorder(trainer, tmp_path / "r.zarr", "state") as recorder:
        train(trainer, recorder, [0])
        with pytest.raises(RuntimeError, match="enough"):
            trainer.train_batch(batch(1), watch=lambda step: [recorder.watch(step), fail(RuntimeError("enough"))])
        train(trainer, recorder, [2])
    assert read(tmp_path / "r.zarr")["batch"].values.tolist() == [1, 2]


def fail(error):
    raise error


# Wrong arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantities", "keywords", "message"),
    [
        ("voltage", {}, "`quantities` must be some of state, rate, c, g, credit, delta, trace, loss, psi, phi, theta"),
        ([], {}, "`quantities`"),
        (["g", "g"], {}, "`quantities`"),
        ("g", {"units": [6]}, "`units` must lie in 0 … 5"),
        ("g", {"units": [-1]}, "`units`"),
        ("g", {"units": [1, 1]}, "`units`"),
        ("g", {"units": []}, "`units`"),
        ("g", {"units": [0.5]}, "`units`"),
        ("g", {"units": "retina"}, "`units` must name populations .cortex. or lie in 0 … 5, got 'retina'"),
        ("g", {"trials": [-1]}, "`trials`"),
        ("g", {"trials": [True, False]}, "`trials`"),
        ("g", {"trials": 3}, "`trials`"),
        ("g", {"steps": [0]}, "`steps` .*from 1 on"),
        ("g", {"steps": slice(0, 3)}, "`steps`"),
        ("g", {"steps": slice(3, 3)}, "`steps`"),
        ("g", {"every": 0}, "`every`"),
        ("g", {"chunk_steps": 0}, "`chunk_steps`"),
        ("g", {"flush_every": 0}, "`flush_every`"),
        ("g", {"buffer_bytes": -1}, "`buffer_bytes`"),
        ("trace", {}, r"`synapses` must be pairs \(a, j\) in 0 … 5, 0 … 6"),
        ("trace", {"synapses": [(6, 0)]}, "`synapses`"),
        ("trace", {"synapses": [(0, 7)]}, "`synapses`"),
        ("trace", {"synapses": [0, 1]}, "`synapses`"),
        ("g", {"synapses": [(0, 1)]}, '"trace"'),
        ("g", {"resume_at": 3}, "`resume_at` is 3, but 0 batches"),
    ],
)
def test_what_does_not_exist_is_said_at_once(tmp_path, quantities, keywords, message):
    with pytest.raises(bpl.ValidationError, match=message):
        Recorder(setting(), tmp_path / "r.zarr", quantities, **keywords)
    assert not list(tmp_path.iterdir())


def test_a_trace_that_is_never_held_is_refused(tmp_path):
    with pytest.raises(bpl.ValidationError, match=r'trace="sweep" never holds one; .*trace="full"'):
        Recorder(setting("sweep", schedule="trial"), tmp_path / "r.zarr", "trace", synapses=[(0, 0)])


def test_trials_and_steps_that_the_first_batch_lacks(tmp_path):
    with pytest.raises(bpl.ValidationError, match="`trials` must lie in 0 … 2, got"):
        train(trainer := setting(), Recorder(trainer, tmp_path / "a", "g", trials=[3]), [0])
    with pytest.raises(bpl.ValidationError, match="`steps` must lie in 1 … 5, got"):
        train(trainer := setting(), Recorder(trainer, tmp_path / "b", "g", steps=[6]), [0])


def test_wrong_use(tmp_path):
    trainer = setting()
    recorder = Recorder(trainer, tmp_path / "r.zarr", "g")
    outcome = trainer.train_batch(batch(0))
    with pytest.raises(bpl.ValidationError, match=r"no step of batch 1 was seen; give `watch=recorder\.watch`"):
        recorder.batch_done(trainer, outcome)
    recorder = Recorder(trainer, tmp_path / "r.zarr", "g")
    trainer.train_batch(batch(1), watch=recorder.watch)
    with pytest.raises(bpl.ValidationError, match="`batch_done` must be called after every batch"):
        trainer.train_batch(batch(2), watch=recorder.watch)
    with pytest.raises(bpl.ValidationError, match="not the one"):
        recorder.batch_done(trainer.fork(), outcome)
    recorder.close()
    with pytest.raises(bpl.ValidationError, match="closed"):
        recorder.batch_done(trainer, outcome)
    with Recorder(trainer, tmp_path / "r.zarr", "loss") as recorder:  # needs no watch
        recorder.batch_done(trainer, trainer.train_batch(batch(3)))
    assert read(tmp_path / "r.zarr")["batch"].values.tolist() == [3]
    with pytest.raises(bpl.ValidationError, match="there already is a recording"):
        Recorder(trainer, tmp_path / "r.zarr", "loss")


# Going on ------------------------------------------------------------------------------------------------------------

EVERYTHING = ["state", "rate", "delta", "trace", "loss", "psi", "theta"]
SMALL = {"buffer_bytes": 20_000, "synapses": [(0, 1), (3, 5)], "chunk_steps": 2}


def recorded(path, last, checkpoints=None, first=None, **keywords):
    """Train up to `last` batches, with a checkpoint in `checkpoints` and a flush every second one."""
    trainer = setting()
    if first:
        trainer.restore(checkpoints / f"{first}.npz")
    resume = {} if first is None else {"resume_at": first}
    with Recorder(trainer, path, EVERYTHING, flush_every=2, **SMALL, **resume, **keywords) as recorder:
        for number in range(trainer.batches, last):
            train(trainer, recorder, [number])
            if checkpoints is not None and trainer.batches % 2 == 0:
                trainer.save(checkpoints / f"{trainer.batches}.npz")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    recorded(folder / "r.zarr", 9, folder)
    return folder, read(folder / "r.zarr")


@pytest.mark.parametrize("at", [0, 2, 4, 6, 8])
def test_resumed_from_any_flush_it_is_the_same(tmp_path, whole, at):
    folder, expected = whole
    shutil.copytree(folder / "r.zarr", tmp_path / "r.zarr")
    recorded(tmp_path / "r.zarr", 9, folder, first=at)
    xr.testing.assert_identical(read(tmp_path / "r.zarr"), expected)
    trainer = setting()
    if at:
        trainer.restore(folder / f"{at}.npz")
    Recorder.resume(trainer, tmp_path / "r.zarr", at)
    xr.testing.assert_identical(read(tmp_path / "r.zarr"), expected.isel(batch=slice(0, at)))


@pytest.mark.parametrize("every", [2, 3])
def test_resumed_with_fewer_batches_recorded(tmp_path, whole, every):
    folder, expected = whole
    recorded(tmp_path / "r.zarr", 9, every=every)
    recorded(tmp_path / "r.zarr", 9, folder, first=6, every=every)
    found, rows = read(tmp_path / "r.zarr"), expected.isel(batch=slice(None, None, every))
    xr.testing.assert_equal(found, rows)


class Died(Exception):
    pass


def writes(monkeypatch, act):
    """Count the files that a recording writes and let `act(count, path, content)` interfere."""
    original, count = checksums.atomic_write, iter(range(10**6))

    def write(path, content):
        act(next(count), path, content)
        original(path, content)

    monkeypatch.setattr(checksums, "atomic_write", write)


@pytest.mark.stage
@pytest.mark.parametrize("stride", [61, pytest.param(7, marks=pytest.mark.slow)])
def test_dying_at_any_write_leaves_whole_batches_that_can_be_gone_on_with(tmp_path, whole, monkeypatch, stride):
    folder, expected = whole[0], whole[1].isel(batch=slice(0, 5))
    last = []
    with monkeypatch.context() as patch:
        writes(patch, lambda count, path, content: last.append(count))
        recorded(tmp_path / "r.zarr", 5)
    total, sizes = last[-1], set()
    for moment in range(0, total, stride):
        path = tmp_path / f"{moment}.zarr"

        def act(count, written, content, moment=moment):
            if count >= moment:
                (written.parent / f".{written.name}.half.part").write_bytes(b"torn")
                raise Died

        with monkeypatch.context() as patch:
            writes(patch, act)
            with pytest.raises(Died):
                recorded(path, 5)
        rows = read(path).sizes["batch"] if path.exists() else 0
        if rows:
            xr.testing.assert_identical(read(path), expected.isel(batch=slice(0, rows)))
        recorded(path, 5, folder, first=rows - rows % 2)
        sizes.add(rows)
        xr.testing.assert_identical(read(path), expected)
        assert not list(path.rglob("*.part"))
    assert {0, 2, 4} < sizes


@pytest.mark.stage
@pytest.mark.parametrize("moment", [0, 2, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 3))])
def test_dying_while_cutting_back(tmp_path, whole, monkeypatch, moment):
    folder, expected = whole
    path = tmp_path / "r.zarr"
    shutil.copytree(folder / "r.zarr", path)
    with monkeypatch.context() as patch:
        writes(patch, lambda count, written, content: count >= moment and fail(Died()))
        with pytest.raises(Died):
            recorded(path, 9, folder, first=4)
    recorded(path, 9, folder, first=4)
    xr.testing.assert_identical(read(path), expected)


SCRIPT = """
import os, sys
import bpl_neuro as bpl
from bpl_neuro.look.recording import Recorder
folder, slow = sys.argv[1], len(sys.argv) > 2
circuit = bpl.Circuit("leaky_tanh", 4, 4, seed=0)
rule = bpl.BPLambda(bpl.Synthesiser(circuit), lam=0.9, trace="full")
trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule="step", seed=3)
if os.path.exists(folder + "/c.npz"):
    trainer.restore(folder + "/c.npz")
task = bpl.tasks.TargetReaching(patterns=3, steps=5, input_size=4, batches_per_epoch=15)
quantities = ["state", "g", "trace", "theta", "loss"]
settings = {"buffer_bytes": 40_000, "synapses": [(0, 1)], "flush_every": 3}
often = {"checkpoint": folder + "/c.npz", "checkpoint_every": 3, "epochs": 40 if slow else 1}
with Recorder(trainer, folder + "/r.zarr", quantities, resume_at=trainer.batches, **settings) as recorder:
    print("ready", flush=True)
    trainer.fit(task, batch_size=2, progress=False, validate=False, watch=recorder.watch,
                callbacks=[recorder.batch_done], **often)
    recorder.flush()
print("batches", trainer.batches)
"""


def start(folder):
    """The script as a process that may be killed; slow."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder), "slow"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.stage
@pytest.mark.parametrize("moments", [(0.03, 0.2), pytest.param((0.02, 0.11, 0.23, 0.07, 0.31), marks=pytest.mark.slow)])
def test_killed_again_and_again(tmp_path, moments):
    """The kills fall into the first epoch or not, as the machine is fast; what is compared is all that there is."""
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    killed.mkdir(), calm.mkdir()
    for after in moments:
        process = start(killed)
        assert process.stdout.readline() == "ready\n"
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (killed / "r.zarr").exists():
            read(killed / "r.zarr")
    for folder in (killed, calm):
        assert run_script(SCRIPT, folder).startswith("ready")
    found, expected = read(killed / "r.zarr"), read(calm / "r.zarr")
    n = expected.sizes["batch"]
    assert n == 15 <= found.sizes["batch"]
    xr.testing.assert_identical(found.isel(batch=slice(0, n)), expected)
    assert [p.name for p in killed.iterdir() if "zarr" in p.name] == ["r.zarr"]


def test_what_cannot_be_gone_on_with_says_why(tmp_path, whole):
    folder, _ = whole
    path = tmp_path / "r.zarr"

    def resume(at, names=EVERYTHING, **keywords):
        trainer = setting()
        if at:
            trainer.restore(folder / f"{at}.npz")
        return Recorder(trainer, path, names, resume_at=at, **(SMALL | keywords))

    with pytest.raises(bpl.ValidationError, match=r"r\.zarr: there is no recording to go on with"):
        resume(4)
    recorded(path, 4)
    with pytest.raises(bpl.ValidationError, match=r"holds 4 batches.*up to batch 6 it should hold 6"):
        resume(6)
    with pytest.raises(bpl.ValidationError, match="was made with every = 1, not 2"):
        resume(4, every=2)
    with pytest.raises(bpl.ValidationError, match="was made with synapses"):
        resume(4, synapses=[(0, 1), (3, 4)])
    with pytest.raises(bpl.ValidationError, match="was made with quantities"):
        resume(4, EVERYTHING[:-1])
    with pytest.raises(bpl.ValidationError, match="begun when 0 had been trained"):
        resume(8)
    chunk = path / "state" / "0.1.0.0"
    good = chunk.read_bytes()
    for bad in (good[: len(good) // 2], good[:-20] + bytes([good[-20] ^ 1]) + good[-19:], b""):
        chunk.write_bytes(bad)
        with pytest.raises(bpl.ValidationError, match=r"state/0\.1\.0\.0: the recording is damaged"):
            resume(4)
    chunk.unlink()
    with pytest.raises(bpl.ValidationError, match=r"state/0\.1\.0\.0: the recording is damaged: this chunk is missing"):
        resume(4)
    chunk.write_bytes(good)
    (path / "theta" / ".zarray").rename(path / "aside")
    with pytest.raises(bpl.ValidationError, match="aside: the recording is damaged: this file is no part of it"):
        resume(4)
    (path / "aside").rename(path / "theta" / ".zarray")
    metadata = (path / ".zmetadata").read_bytes()
    for content in (metadata[:100], b"[]", b"{}", json.dumps({"metadata": {}}).encode()):
        (path / ".zmetadata").write_bytes(content)
        with pytest.raises(bpl.ValidationError, match="the recording is damaged"):
            resume(4)
    (path / ".zmetadata").unlink()
    with pytest.raises(bpl.ValidationError, match="damaged, or not a recorder's"):
        Recorder.resume(setting(), path, 0)
    (path / ".zmetadata").write_bytes(metadata)
    resume(4).close()
    write_recording(xr.Dataset({"a": ("x", [1])}), tmp_path / "other.zarr")
    with pytest.raises(bpl.ValidationError, match="not a recorder's"):
        Recorder.resume(setting(), tmp_path / "other.zarr", 0)
    assert read(tmp_path / "other.zarr")["a"].values.tolist() == [1]


def test_a_batch_of_nans_alone_is_not_damage(tmp_path):
    trainer = setting()
    with Recorder(trainer, tmp_path / "r.zarr", "state", trials=[1, 2], buffer_bytes=2000) as recorder:
        train(trainer, recorder, [0])
        train(trainer, recorder, [1, 2], B=1)
    Recorder.resume(trainer, tmp_path / "r.zarr", 3).close()
    assert np.isnan(read(tmp_path / "r.zarr")["state"].values[1:]).all()


def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path, monkeypatch):
    path, room = tmp_path / "r.zarr", [True]
    original = os.fsync

    def fsync(handle):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    monkeypatch.setattr("bpl_neuro.storage.os.fsync", fsync)
    trainer = setting()
    with Recorder(trainer, path, ["state", "loss"], flush_every=1) as recorder:
        train(trainer, recorder, [0, 1])
        before = read(path)
        room[0] = False
        with pytest.raises(bpl.BplError, match=r"r\.zarr: cannot add .*2 batches in it stay readable.*No space left"):
            train(trainer, recorder, [2])
        xr.testing.assert_identical(read(path), before)
        room[0] = True
        train(trainer, recorder, [3])
    assert read(path)["batch"].values.tolist() == [1, 2, 3, 4]
    with pytest.raises(bpl.BplError, match="No space left"), Recorder(trainer, tmp_path / "s.zarr", "loss") as recorder:
        train(trainer, recorder, [4])
        room[0] = False
        recorder.flush()
    assert not list(tmp_path.glob(".*"))


# The how-to ----------------------------------------------------------------------------------------------------------


def test_the_example_of_the_documentation(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "recording.md").read_text(encoding="utf-8")
    example, later, picture = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(example.splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert names["recording"]["g"].dims == ("batch", "step", "trial", "unit")
    assert names["recording"]["batch"].values.tolist() == list(range(1, 41, 5))
    exec(picture, names)
    assert Path("synapse.png").stat().st_size > 5000
    names["trainer"].save("checkpoint.npz")
    exec(later, names)
    names["recorder"].close()
