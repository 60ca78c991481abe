"""Damaged and edited files by the thousand: each is refused by its name, or what comes of it is right."""

import random
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
from damage import WRONG, array_edits, array_values, damaged, edited, leaves, nearby
from tally import tally

import bpl_neuro as bpl
from bpl_neuro import interventions
from bpl_neuro.identity import seal
from bpl_neuro.look.recording import Recorder, verify_recording, write_recording
from bpl_neuro.storage import read_arrays, write_arrays

pytestmark = pytest.mark.attack
TASK = bpl.tasks.CopyRepeat(bits=2, batches_per_epoch=3, threshold=1.1)


def stream(k):
    rng = np.random.default_rng(k)
    return bpl.Batch(rng.normal(size=(2, 4, 4)), rng.random((2, 4, 3)), stream=True)


@pytest.fixture(scope="module")
def circuit():
    return bpl.Circuit("ei", {"exc": 3, "inh": 2}, TASK.input_size, radius=0.9, seed=0)


@pytest.fixture(scope="module")
def make(circuit):
    readout = bpl.Readout(circuit, TASK.output_size, TASK.loss, seed=1)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), lam=0.9, trace="lazy", window=3)
    optimiser = {"psi": bpl.Clip(bpl.Adam(1e-2, max_step=2), 1.0), "phi": bpl.SGD(0.1), "theta": bpl.RLS(bound=3)}
    return lambda: bpl.Trainer(
        circuit, readout, rule, optimiser=optimiser, schedule="step", update_every=3, error_delay=2, seed=3
    )


@pytest.fixture(scope="module")
def saved(make, tmp_path_factory):
    """In the middle of an epoch, with the history beside it and whole; and in a stream, with interventions."""
    folder = tmp_path_factory.mktemp("saved")
    fit = {"epochs": 3, "batch_size": 2, "progress": False}
    trainer = make().fit(TASK, stop_at=5, checkpoint=folder / "beside.npz", checkpoint_every=5, **fit)
    trainer.save(folder / "whole.npz")
    other = make()
    for k in range(3):
        other.train_batch(stream(k))
    interventions.clamp_units(interventions.rotate_synthesiser(other), "exc", [1], 0.25)
    interventions.silence_projection(interventions.freeze(other, "phi"), "inh->exc")
    other.save(folder / "stream.npz")
    return folder


def restored(make, path, scratch, expected):
    """An attempt, and whether its result is right: what was restored and is saved again is the same file.

    A refused one leaves the trainer as it was.
    """
    trainer = make()
    state = trainer.state

    def attempt():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                return trainer.restore(path)
        finally:
            if trainer.state is state:
                assert state.batches == 0 and trainer._continued is None

    def right(result):
        result.save(scratch)
        return scratch.read_bytes() == expected

    return attempt, right


def damage_checkpoints(make, saved, tmp_path, number, seed):
    rng, count = random.Random(seed), tally("checkpoints, damaged")
    files = {name: (saved / name).read_bytes() for name in ("beside.npz", "beside.history", "whole.npz", "stream.npz")}
    whole = {"beside.npz": "whole.npz", "beside.history": "whole.npz"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for k in range(number):
        name = list(files)[k % 4]
        what, bad = damaged(files[name], rng)
        (tmp_path / name).write_bytes(bad)
        path = tmp_path / name.replace(".history", ".npz")
        expected = files[whole.get(name, name)]
        count.attempt(f"{name}: {what}", *restored(make, path, tmp_path / "again.npz", expected))
        (tmp_path / name).write_bytes(files[name])
    count.check()


def test_damaged_checkpoints(make, saved, tmp_path):
    damage_checkpoints(make, saved, tmp_path, 2400, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_more_damaged_checkpoints(make, saved, tmp_path, seed):
    damage_checkpoints(make, saved, tmp_path, 10_000, seed)


def write(path, arrays, meta, sealed):
    """A file whose checksums are right, and whose seal is, if it is `sealed` again."""
    write_arrays(path, arrays, {**meta, "seal": seal(meta, arrays)} if sealed and isinstance(meta, dict) else meta)


def crafted(arrays, meta, identity=True):
    """What was edited, arrays, meta, and whether it is sealed again: then only what it says can tell."""
    for path, value in leaves(meta):
        name = ".".join(map(str, path))
        if path[0] == "seal" or (path[0] == "made_with" and len(path) > 1):  # that is only named
            continue
        deep = path[0] == "identity" and len(path) > 1
        if deep and not identity:
            continue
        if not isinstance(path[-1], int):
            yield f"{name} gone", arrays, edited(meta, path, None, delete=True), deep or not _figure(path)
        for other in [] if deep else WRONG[type(value)]:
            if not (other == value and type(other) is type(value)):
                yield f"{name} = {other!r}"[:80], arrays, edited(meta, path, other), not _may_be(path, other)
        for other in nearby(value):
            if other != value:  # of `identity` any edit makes it that of another learner; elsewhere it could be meant
                yield f"{name} = {other!r}"[:80], arrays, edited(meta, path, other), deep
    yield "one field more", arrays, {**meta, "more": 1}, True
    for what, others in array_edits(arrays):
        yield what, others, meta, True
        yield f"{what}, named", others, {**meta, "arrays": sorted(others)}, not what.startswith("changed/")
    for what, others in array_values(arrays):
        yield what, others, meta, False


def _figure(path):
    """Figures of a training by name, and what a task is: there may be others."""
    return path[:3] == ("log", "fitted", "task") or (
        path[:2] in (("log", "history"), ("log", "totals")) and len(path) > 3
    )


def _may_be(path, other):
    """What another checkpoint could well say; of such edits only the seal can tell."""
    if path[0] == "curriculum" and len(path) > 1:
        return isinstance(other, int | float | str | None)
    if path[:2] in (("log", "history"), ("log", "totals")) and len(path) > 2:
        return isinstance(other, int | float | dict) and not isinstance(other, bool)
    return path[:3] == ("log", "fitted", "task") or (path == ("noise",) and other is None)


@pytest.mark.parametrize("name", ["whole.npz", "stream.npz", "beside.npz"])
def test_crafted_checkpoints(make, saved, tmp_path, name):
    arrays, meta = read_arrays(saved / name, "checkpoint")
    shutil.copy(saved / "beside.history", tmp_path / "c.history")
    expected = (saved / name.replace("beside", "whole")).read_bytes()
    count = tally("checkpoints, crafted")
    for what, others, other, sealed in crafted(arrays, meta, name == "whole.npz"):
        write(tmp_path / "c.npz", others, other, sealed)
        count.attempt(f"{name}: {what}", *restored(make, tmp_path / "c.npz", tmp_path / "again.npz", expected))
    count.check()


def test_damaged_and_crafted_circuits(saved, make, tmp_path):
    trainer = make().restore(saved / "stream.npz")
    path = tmp_path / "c.npz"
    trainer.trained_circuit().save(path)
    good, rng = path.read_bytes(), random.Random(0)
    arrays, meta = read_arrays(path, "circuit")

    def right(circuit):
        circuit.save(tmp_path / "again.npz")
        return (tmp_path / "again.npz").read_bytes() == good

    count = tally("circuits, damaged")
    for _ in range(400):
        what, bad = damaged(good, rng)
        path.write_bytes(bad)
        count.attempt(what, lambda: bpl.Circuit.load(path), right)
    count.check()
    count = tally("circuits, crafted")
    for edit, others, other, sealed in crafted(arrays, meta):
        if edit.split()[0].startswith("identity.model"):
            continue  # the equations are in the file as text
        write(path, others, other, sealed)
        count.attempt(edit, lambda: bpl.Circuit.load(path), right)
    count.check()


# Recordings ----------------------------------------------------------------------------------------------------------


def trial(k):
    rng = np.random.default_rng(k)
    return bpl.Batch(rng.normal(size=(2, 3 + k // 3, 4)), rng.random((2, 3 + k // 3, 3)))


def record(trainer, path, last, **options):
    with Recorder(trainer, path, ["g", "loss", "theta"], flush_every=2, chunk_steps=2, **options) as recorder:
        for k in range(trainer.batches, last):
            recorder.batch_done(trainer, trainer.train_batch(trial(k), watch=recorder.watch))


def read(path):
    with xr.open_zarr(path) as recording:
        return recording.load()


@pytest.fixture(scope="module")
def recording(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    trainer = make()
    record(trainer, folder / "r.zarr", 4, buffer_bytes=20_000)
    trainer.save(folder / "4.npz")
    shutil.copytree(folder / "r.zarr", folder / "older.zarr")
    record(trainer, folder / "r.zarr", 7, buffer_bytes=20_000, resume_at=4)
    return folder


def damaged_store(path, older, rng):
    """Damage one file; returns what was done, and how to undo it."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    file = rng.choice(files)
    name, content = file.relative_to(path).as_posix(), file.read_bytes()
    kind = rng.choice(["damage"] * 5 + ["gone", "other", "older", "more"])
    if kind == "gone":
        file.unlink()
    elif kind == "other":
        file.write_bytes(rng.choice(files).read_bytes())
    elif kind == "older" and (older / name).is_file():
        file.write_bytes((older / name).read_bytes())
    elif kind == "more" and file.parent != path:
        new = file.with_name(".".join(str(rng.randrange(3)) for _ in file.name.split(".")))
        if not new.exists():
            new.write_bytes(content)
            return f"{new.relative_to(path)} from {name}", new.unlink
    else:
        what, bad = damaged(content, rng)
        file.write_bytes(bad)
        kind = what
    return f"{name}: {kind}", lambda: file.write_bytes(content)


def damage_recordings(make, recording, tmp_path, number, seed):
    rng, count, path = random.Random(seed), tally("recordings, damaged and resumed"), tmp_path / "r.zarr"
    expected = read(recording / "r.zarr")
    shutil.copytree(recording / "r.zarr", path)
    trainer = make().restore(recording / "4.npz")
    for _ in range(number):
        what, undo = damaged_store(path, recording / "older.zarr", rng)
        before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        taken = []

        def resume(taken=taken):
            own = trainer.fork()
            record(own, path, 7, buffer_bytes=20_000, resume_at=4)
            taken.append(own)
            return own

        count.attempt(what, resume, lambda own: read(path).identical(expected))
        if taken:
            shutil.rmtree(path)
            shutil.copytree(recording / "r.zarr", path)
        else:
            assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}, what
            undo()
    count.check()


def test_damaged_recordings_that_are_gone_on_with(make, recording, tmp_path):
    damage_recordings(make, recording, tmp_path, 620, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_more_damaged_recordings(make, recording, tmp_path, seed):
    damage_recordings(make, recording, tmp_path, 4000, seed)


def test_verifying_damaged_recordings(recording, tmp_path):
    rng, expected = random.Random(1), read(recording / "r.zarr")
    written = tmp_path / "written.zarr"
    write_recording(expected.drop_vars("unit_population"), written)
    shutil.copytree(recording / "r.zarr", tmp_path / "r.zarr")
    for path, older, name in (
        (written, recording / "r.zarr", "recordings, written and damaged"),
        (tmp_path / "r.zarr", recording / "older.zarr", "recordings, recorded and damaged"),
    ):
        count, right = tally(name), read(path)
        assert verify_recording(path).files > 10
        for _ in range(400):
            what, undo = damaged_store(path, older, rng)

            def verified(path=path):
                verify_recording(path)
                return read(path)

            count.attempt(what, verified, right.identical)
            undo()
        count.check()
