"""A recording grows along its steps and trials as longer and larger batches come, and stays as safe as it was."""

import contextlib

import numpy as np
import pytest
import xarray as xr

import bpl_neuro as bpl
from bpl_neuro.look.recording import Recorder, checksums

QUANTITIES = ["state", "rate", "delta", "trace", "loss", "theta"]
SMALL = {"buffer_bytes": 150_000, "synapses": [(0, 1), (3, 5)], "chunk_steps": 2, "flush_every": 2}
#: trials and steps of each batch: longer, larger, both at once, shorter in between; the last is the first again
GROWING = [(3, 5), (3, 6), (2, 4), (4, 6), (1, 9), (4, 3), (6, 11), (3, 5)]


def setting(**keywords):
    circuit = bpl.Circuit("adapting", 3, 2, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.8, trace="full")
    return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule="step", seed=0, **keywords)


def batch(number, B, T):
    rng = np.random.default_rng(number)
    return bpl.Batch(rng.normal(size=(B, T, 2)), rng.normal(size=(B, T, 2)))


def recorded(path, sizes, checkpoints=None, resume_at=None, quantities=QUANTITIES, **keywords):
    """Train on batches of these sizes, up to the last; with a checkpoint in `checkpoints` after every one."""
    trainer = setting()
    if resume_at:
        trainer.restore(checkpoints / f"{resume_at}.npz")
    with Recorder(trainer, path, quantities, resume_at=resume_at, **(SMALL | keywords)) as recorder:
        for number in range(trainer.batches, len(sizes)):
            recorder.batch_done(trainer, trainer.train_batch(batch(number, *sizes[number]), watch=recorder.watch))
            if checkpoints is not None and resume_at is None:
                trainer.save(checkpoints / f"{trainer.batches}.npz")


def read(path):
    with xr.open_zarr(path) as recording:
        return recording.load()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    recorded(folder / "r.zarr", GROWING, folder)
    return folder, read(folder / "r.zarr")


def first(expected, rows):
    """What a recording holds of the first so many batches, no larger than those made it."""
    B, T = (max(sizes) for sizes in zip(*GROWING[: max(rows, 1)], strict=True))
    return expected.isel(batch=slice(0, rows), step=slice(0, T), trial=slice(0, B))


@pytest.mark.parametrize(
    ("sizes", "keywords"),
    [
        ([(3, 5), (3, 9)], {}),
        ([(3, 5), (7, 5)], {"chunk_steps": None}),
        ([(2, 4), (5, 9), (3, 3)], {"flush_every": None}),
        (GROWING, {"flush_every": 1}),
    ],
)
def test_every_batch_is_there_and_the_rest_is_nan(tmp_path, sizes, keywords):
    recorded(tmp_path / "r.zarr", sizes, **keywords)
    found, trainer = read(tmp_path / "r.zarr"), setting()
    B, T = (max(values) for values in zip(*sizes, strict=True))
    assert found["step"].values.tolist() == list(range(1, T + 1))
    assert found["trial"].values.tolist() == list(range(B))
    assert found["batch"].values.tolist() == list(range(1, len(sizes) + 1))
    for number, (trials, steps) in enumerate(sizes):
        seen = []
        trainer.train_batch(batch(number, trials, steps), lambda s, seen=seen: seen.append(s.transition.new.s.copy()))
        state = found["state"].values[number]
        np.testing.assert_array_equal(state[:steps, :trials], np.stack(seen))
        assert np.isnan(state).sum() == state.size - trials * steps * state.shape[-1]


@pytest.mark.parametrize("keywords", [{}, {"chunk_steps": 3, "flush_every": 3}])
def test_it_holds_what_it_does_when_the_longest_batch_comes_first(tmp_path, keywords):
    """Nothing is learned in between, so that batches in another order give the same numbers."""
    sizes = {0: (2, 3), 1: (3, 5), 2: (4, 8), 3: (1, 1)}
    found = []
    for order in ([0, 1, 2, 3], [2, 0, 1, 3]):
        trainer, path = setting(optimiser={}), tmp_path / f"{order[0]}.zarr"
        with Recorder(trainer, path, ["state", "c", "g", "trace"], **(SMALL | keywords)) as recorder:
            for number in order:
                one = batch(number, *sizes[number])
                recorder.batch_done(trainer, trainer.train_batch(one, watch=recorder.watch))
        found.append(read(path).isel(batch=[order.index(k) for k in sizes]).drop_vars("batch"))
    xr.testing.assert_equal(*found)


def test_chosen_lists_and_ends_stay_as_they_are(tmp_path):
    sizes = [(3, 5), (5, 9)]
    recorded(tmp_path / "list.zarr", sizes, steps=[1, 4], trials=[0, 2])
    found = read(tmp_path / "list.zarr")
    assert (found["step"].values.tolist(), found["trial"].values.tolist()) == ([1, 4], [0, 2])
    recorded(tmp_path / "slice.zarr", sizes, steps=slice(2, 8, 2), trials=slice(1, None, 2))
    found = read(tmp_path / "slice.zarr")
    assert (found["step"].values.tolist(), found["trial"].values.tolist()) == ([2, 4, 6], [1, 3])
    assert np.isnan(found["state"].values[0, 2]).all() and not np.isnan(found["state"].values[1]).any()


def test_times_grow_with_the_steps(tmp_path):
    circuit = bpl.Circuit("leaky_tanh", 3, 2, seed=0)
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), bpl.BPLambda(bpl.Synthesiser(circuit)), schedule="step")
    with Recorder(trainer, tmp_path / "r.zarr", "rate", flush_every=1) as recorder:
        for number, size in enumerate([(2, 3), (2, 8)]):
            recorder.batch_done(trainer, trainer.train_batch(batch(number, *size), watch=recorder.watch))
    found = read(tmp_path / "r.zarr")
    np.testing.assert_allclose(found["time"].values, np.arange(1, 9) * circuit.model.dt)


def test_a_batch_that_diverged_makes_nothing_grow(tmp_path):
    trainer = setting()
    with Recorder(trainer, tmp_path / "r.zarr", "state") as recorder:
        recorder.batch_done(trainer, trainer.train_batch(batch(0, 2, 3), watch=recorder.watch))

        def watch(step):
            recorder.watch(step)
            if step.t == 6:
                raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            trainer.train_batch(batch(1, 5, 8), watch=watch)
        recorder.batch_done(trainer, trainer.train_batch(batch(2, 2, 4), watch=recorder.watch))
    assert dict(read(tmp_path / "r.zarr").sizes) == {"batch": 2, "step": 4, "trial": 2, "unit": 6}


def test_batches_that_grow_are_written_before_they_fill_the_memory(tmp_path):
    """The number of batches in a chunk comes from the first one, and so many of the later ones are too many."""
    trainer, bound = setting(), 6000
    with Recorder(trainer, tmp_path / "r.zarr", "state", buffer_bytes=bound) as recorder:
        for number in range(12):
            size = (1, 2) if number < 3 else (3, 10)
            recorder.batch_done(trainer, trainer.train_batch(batch(number, *size), watch=recorder.watch))
            assert recorder.buffered_bytes <= bound
        with pytest.raises(bpl.ValidationError, match="batch 13 takes more than `buffer_bytes` = 6000"):
            trainer.train_batch(batch(12, 20, 20), watch=recorder.watch)
    assert not np.isnan(read(tmp_path / "r.zarr")["state"].values[3:]).any()


@pytest.mark.stage
@pytest.mark.parametrize("at", [0, 1, 3, 4, 6, 7, 8])
def test_resumed_from_any_checkpoint_it_is_the_same(tmp_path, whole, at):
    folder, expected = whole
    path = tmp_path / "r.zarr"
    recorded(path, GROWING)
    trainer = setting()
    if at:
        trainer.restore(folder / f"{at}.npz")
    Recorder.resume(trainer, path, at)
    xr.testing.assert_equal(read(path), first(expected, at))  # nothing stays of later, larger batches
    recorded(path, GROWING, folder, resume_at=at)
    xr.testing.assert_identical(read(path), expected)


@pytest.mark.stage
@pytest.mark.parametrize("at", [1, 3, 5])
def test_what_was_cut_off_does_not_come_back_when_it_grows_again(tmp_path, whole, at):
    folder = whole[0]
    sizes = [*GROWING[:at], (1, 2), (1, 2), (6, 11)]
    recorded(tmp_path / "r.zarr", GROWING)
    recorded(tmp_path / "r.zarr", sizes, folder, resume_at=at)
    recorded(tmp_path / "s.zarr", sizes)
    xr.testing.assert_identical(read(tmp_path / "r.zarr"), read(tmp_path / "s.zarr"))


def test_a_missing_chunk_is_damage_only_where_there_was_one(tmp_path, whole):
    folder = whole[0]
    path = tmp_path / "r.zarr"
    recorded(path, GROWING, flush_every=1)
    chunk = max((path / "state").glob("[0-9]*"), key=lambda file: [int(k) for k in file.name.split(".")])
    chunk.unlink()
    trainer = setting().restore(folder / f"{len(GROWING)}.npz")
    with pytest.raises(bpl.ValidationError, match="damaged: this chunk is missing"):
        Recorder.resume(trainer, path, len(GROWING))
    (path / "step" / "1").unlink()
    with pytest.raises(bpl.ValidationError, match="damaged"):
        Recorder.resume(trainer, path, len(GROWING))


class Died(Exception):
    pass


def dies(patch, moment):
    """Dying at the write of this number, with half a file left."""
    original, count = checksums.atomic_write, iter(range(10**6))

    def write(path, content):
        if next(count) >= moment:
            (path.parent / f".{path.name}.half.part").write_bytes(b"torn")
            raise Died
        original(path, content)

    patch.setattr(checksums, "atomic_write", write)


#: every one has been tried, of all quantities; these fall on each kind of file, in each flush
MOMENTS = range(0, 92, 7)


@pytest.mark.stage
def test_dying_at_any_write_leaves_whole_batches_that_can_be_gone_on_with(tmp_path, whole, monkeypatch):
    folder, sizes, few = whole[0], GROWING[:5], {"quantities": ["state", "loss"], "synapses": None}
    recorded(tmp_path / "whole.zarr", sizes, **few)
    expected, rows_seen = read(tmp_path / "whole.zarr"), set()
    for moment in MOMENTS:
        path = tmp_path / f"{moment}.zarr"
        with monkeypatch.context() as patch, contextlib.suppress(Died):
            dies(patch, moment)
            recorded(path, sizes, **few)
        rows = read(path).sizes["batch"] if path.exists() else 0
        rows_seen.add(rows)
        if path.exists():
            xr.testing.assert_equal(read(path), first(expected, rows))
        if rows > 1:  # and once more, while it is cut back
            with monkeypatch.context() as patch, contextlib.suppress(Died):
                dies(patch, moment % 5)
                recorded(path, sizes, folder, resume_at=rows - 1, **few)
            rows = read(path).sizes["batch"]
            xr.testing.assert_equal(read(path), first(expected, rows))
        recorded(path, sizes, folder, resume_at=rows, **few)
        xr.testing.assert_identical(read(path), expected)
        assert not list(path.rglob("*.part"))
    assert rows_seen == {0, 2, 4, 5}
