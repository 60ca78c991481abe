"""A run folder tells what it is: what goes on, what is refused by name, what a killed process leaves for others."""

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro import storage
from bpl_neuro.experiment import RunFolder, load_simulation, parse_settings, resolve_config, run_simulation
from bpl_neuro.identity import fingerprint
from bpl_neuro.locks import LOCK, FolderLock
from bpl_neuro.output import lenient_output

REACH = {
    "batches": 4, "fork_at": 2, "exc": 3, "inh": 2, "expansion": 3, "batch_size": 1, "targets": 1, "hold": 0.02,
    "longest_delay": "55*ms", "interventions": ["lesion"], "checkpoint_every": 1,
}  # fmt: skip
TINY = {"batches": 20, "learning_epochs": 1, "batches_per_epoch": 5, "units": 5, "seeds": 2, "lams": [1.0], "steps": 4}


def reach(folder, resume=False, **settings):
    return run_simulation("delayed-reach", size="quick", settings=REACH | settings, out=folder, resume=resume)


def interrupted(patch, call):
    """Interrupt `RunFolder.fit` at this call."""
    fit, calls = RunFolder.fit, []

    def killed(*arguments, **keywords):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return fit(*arguments, **keywords)

    patch.setattr(RunFolder, "fit", killed)


@pytest.fixture
def half(tmp_path, monkeypatch, undrawn):
    """The folder of a run of delayed reach that was interrupted after its first training."""
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            reach(tmp_path / "half")
    return tmp_path / "half"


def test_delayed_reach_goes_on_though_results_and_checkpoints_have_one_name(tmp_path, half):
    whole = reach(tmp_path / "whole")
    reach(half, resume=True)
    assert (half / "summary.json").read_bytes() == (whole.path / "summary.json").read_bytes()
    assert {path.name for path in (half / "results").iterdir()} == {"seed=0.npz"}
    assert "seed=0.npz" in {path.name for path in (half / "checkpoint").iterdir()}
    assert not [path for path in half.rglob(".*") if path.name == LOCK or storage.is_leftover(path.name)]


def test_a_fork_whose_recording_has_nothing_yet_goes_on(tmp_path, monkeypatch, undrawn):
    """Its first batch to be recorded comes after its first checkpoints."""
    recorded = {"record": ["loss"], "record_options": {"every": 4}, "batches": 6, "fork_at": 1}
    with monkeypatch.context() as patch:
        interrupted(patch, 3)
        fit = bpl.Trainer.fit

        def half_way(trainer, task, **keywords):
            return fit(trainer, task, **(keywords | {"stop_at": min(keywords["stop_at"], 3)}))

        patch.setattr(bpl.Trainer, "fit", half_way)
        with pytest.raises(KeyboardInterrupt):
            reach(tmp_path / "half", **recorded)
    assert not (tmp_path / "half" / "recording.zarr" / "seed=0,intact").exists()
    reach(tmp_path / "half", resume=True, **recorded)
    reach(tmp_path / "whole", **recorded)
    for name in ("batch/0", "loss/0", ".zattrs"):
        stores = [tmp_path / run / "recording.zarr" / "seed=0,intact" / name for run in ("half", "whole")]
        assert stores[0].read_bytes() == stores[1].read_bytes()


@pytest.mark.parametrize("quantities", [["loss"], ["psi"], ["loss", "theta"], ["g", "loss"]])
@pytest.mark.parametrize("kept", [0, 1, 3, 4])
def test_a_recording_of_any_quantities_is_opened_again(tmp_path, quantities, kept):
    def trainer():
        circuit = bpl.Circuit("leaky_tanh", 4, 2, seed=0)
        return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), bpl.BPLambda(bpl.Synthesiser(circuit)))

    def train(trainer, to, **options):
        task = bpl.tasks.TargetReaching(steps=3, input_size=2, batches_per_epoch=4)
        with bpl.Recorder(trainer, tmp_path / "r.zarr", quantities, buffer_bytes=1500, **options) as recorder:
            trainer.fit(task, epochs=None, stop_at=to, batch_size=2, recorder=recorder, progress=False)
            trainer.save(tmp_path / f"{to}.npz")

    trainer().save(tmp_path / "0.npz")
    first = trainer()
    train(first, kept or 1)
    if kept != 4:
        train(first, 4, resume_at=kept or 1)
    again = trainer().restore(tmp_path / f"{kept}.npz")
    train(again, 5, resume_at=kept)
    import xarray as xr

    with xr.open_zarr(tmp_path / "r.zarr") as recording:
        assert recording["batch"].values.tolist() == [1, 2, 3, 4, 5]
        assert not np.isnan(recording[quantities[0]].values).any()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_whose_run_was_killed_before_its_settings_is_as_good_as_empty(tmp_path, undrawn, resume):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).write_text("1 elsewhere\n")
    (folder / ".config.toml.0123abcd.part").write_text("half")
    reach(folder, resume=resume)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_what_killed_writes_left_is_taken_away(half):
    left = [half / ".lock.0123abcd.part", half / "checkpoint" / ".seed=0.npz.0123abcd.part"]
    for path in left:
        path.write_bytes(b"x")
    (half / ".recording.zarr.0123abcd.part" / "loss").mkdir(parents=True)
    reach(half, resume=True)
    assert not [path for path in half.rglob("*.part")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"notes.txt": "mine"}, "holds no run to go on with, but notes.txt"),
        ({"config.toml": "simulation = 'delayed-reach'\n[config]\n"}, "a run of format 1, by another version"),
        ({"config.toml": "format = 2\nsimulation = 'delayed-reach'\n"}, r"damaged: \[config\] is missing"),
        ({"config.toml": "format ="}, "cannot read what is to be resumed"),
        ({"summary.json": "{}"}, "the run is complete; there is nothing to resume"),
    ],
)
def test_what_cannot_go_on_is_refused_by_name(tmp_path, content, message):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(bpl.ValidationError, match=message):
        reach(tmp_path, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == content.keys()


def test_other_settings_another_simulation_and_another_backend_are_refused(half):
    with pytest.raises(bpl.ValidationError, match=r"was run with exc = 3, not 4"):
        reach(half, resume=True, exc=4)
    with pytest.raises(bpl.ValidationError, match="holds a run of 'delayed-reach'"):
        run_simulation("target-reaching", out=half, resume=True)
    with pytest.raises(bpl.ValidationError, match="was run with backend = 'numpy', not 'cupy'"):
        reach(half, resume=True, backend="cupy")
    reach(half, resume=True, backend="auto")


def test_the_recorded_backend_goes_on_whatever_auto_would_be_now(half, monkeypatch):
    taken = []
    get_backend = bpl.experiment.get_backend
    monkeypatch.setattr("bpl_neuro.experiment.get_backend", lambda name: taken.append(name) or get_backend(name))
    reach(half, resume=True)
    assert set(taken) == {"numpy"}


def test_a_model_whose_equations_changed_is_refused_and_a_comment_is_not(tmp_path, monkeypatch, undrawn):
    path = tmp_path / "own.toml"
    text = bpl.Model.load("cerebellar").to_toml()
    path.write_text(text)
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            reach(tmp_path / "run", model=str(path))
    path.write_text(text.replace('dt = "5*ms"', 'dt = "2.5*ms"'))
    with pytest.raises(bpl.ValidationError, match=r"own.toml' has changed since the run began"):
        reach(tmp_path / "run", resume=True, model=str(path))
    path.write_text("# the same\n" + text)
    reach(tmp_path / "run", resume=True, model=str(path))


def test_fingerprints_of_models_differ_and_stay():
    models = [bpl.Model.load(name) for name in bpl.available_models()]
    assert len({fingerprint(model.identity()) for model in models}) == len(models)
    for model in models:
        assert fingerprint(bpl.Model.from_toml(model.to_toml()).identity()) == fingerprint(model.identity())


def test_another_environment_is_named(half, monkeypatch):
    from bpl_neuro import run_folder

    found = run_folder.environment()
    monkeypatch.setattr("bpl_neuro.run_folder.environment", lambda: found | {"numpy": "9.9"})
    with pytest.warns(UserWarning, match=r"goes on with numpy = 9.9 \(was .*\); the bits may differ"):
        reach(half, resume=True)


def test_the_same_environment_is_not_named(half):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        reach(half, resume=True)


@pytest.mark.parametrize("settings", [{"model": "lsmt"}, {"lams": [1.5]}])
def test_a_mistake_leaves_the_folder_free(tmp_path, undrawn, settings):
    with pytest.raises(bpl.BplError):
        run_simulation("target-reaching", size="quick", settings=TINY | settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_results_know_whose_they_are(tmp_path):
    config = resolve_config(load_simulation("target-reaching").Config, "quick", TINY)
    folder = RunFolder(tmp_path / "a", "target-reaching", config)
    assert folder.remember("k", lambda: {"x": [1, 2]})["x"].tolist() == [1, 2]
    assert folder.remember("k", dict)["x"].tolist() == [1, 2]
    with pytest.raises(bpl.ValidationError, match="`x` of 'bad' cannot be kept"):
        folder.remember("bad", lambda: {"x": object()})
    other = RunFolder(tmp_path / "b", "target-reaching", config.model_copy(update={"seed": 1}))
    (tmp_path / "b" / "results").mkdir()
    (tmp_path / "a" / "results" / "k.npz").rename(tmp_path / "b" / "results" / "k.npz")
    with pytest.raises(bpl.ValidationError, match="result of another run"):
        other.remember("k", dict)
    (tmp_path / "b" / "results" / "l.npz").write_bytes(b"damaged")
    with pytest.raises(bpl.ValidationError, match="damaged"):
        other.remember("l", dict)


def test_one_process_at_a_time(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(bpl.BplError, match=rf"process {os.getpid()} on {socket.gethostname()} is at work"):
        FolderLock(tmp_path)
    with pytest.raises(bpl.BplError, match="is at work in this folder"):
        reach(tmp_path)
    lock.release()
    assert not list(tmp_path.iterdir())
    FolderLock(tmp_path).release()


def test_a_lock_goes_with_the_process_that_was_killed(tmp_path):
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        FolderLock(tmp_path)
        os.write(writer, b"held")
        signal.pause()
    os.read(reader, 4)
    with pytest.raises(bpl.BplError, match=f"process {pid} on"):
        FolderLock(tmp_path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    FolderLock(tmp_path).release()
    os.close(reader), os.close(writer)


def test_files_have_the_modes_of_the_umask_and_keep_those_they_had(tmp_path):
    before = os.umask(0o027)
    try:
        storage.atomic_write(tmp_path / "new", "a")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "new").chmod(0o664)
        storage.atomic_write(tmp_path / "new", "b")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o664
    finally:
        os.umask(before)


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "c.npz").symlink_to(tmp_path / "elsewhere" / "c.npz")
    for content in ("first", "second"):
        storage.atomic_write(tmp_path / "c.npz", content)
        assert (tmp_path / "c.npz").is_symlink() and (tmp_path / "elsewhere" / "c.npz").read_text() == content
    assert len(list(tmp_path.rglob("*"))) == 3


def test_the_disk_is_asked_to_keep_the_file_before_its_name_and_the_name_last(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    name = lambda handle: Path(os.readlink(f"/proc/self/fd/{handle}")).name.partition(".0")[0]  # noqa: E731
    if not Path("/proc/self/fd").exists():
        pytest.skip("the names of open files are not to be had here")
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(name(handle)) or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda a, b: done.append("replace") or replace(a, b))
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 2 * n)
    storage.atomic_write(tmp_path / "folder" / "file", "a")
    assert done == [tmp_path.name, ".file", "replace", "folder"]


def test_a_folder_that_takes_nothing_is_one_error(tmp_path, monkeypatch):
    with pytest.raises(bpl.BplError, match=r"/proc/nowhere"):
        reach(Path("/proc/nowhere/run"))
    opened = os.open

    def read_only(path, flags, *rest, **keywords):
        if flags & os.O_CREAT and str(path).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **keywords)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(bpl.BplError, match="Read-only file system"):
        reach(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_job_killed_before_its_record_said_that_it_stopped_does_not_go_on(tmp_path, monkeypatch):
    module = load_simulation("copy-repeat-rules")
    config = resolve_config(module.Config, "quick", {"patience": 20, "threshold": 1e-6})
    folders = [RunFolder(tmp_path / name, "copy-repeat-rules", config) for name in ("whole", "half")]
    module.train(config, folders[0], "bptt", 0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            module.train(config, folders[1], "bptt", 0)
    module.train(config, folders[1], "bptt", 0)
    whole, half = (module.read(config, folder, "bptt", 0) for folder in folders)
    assert whole["batches"] == half["batches"] == 20 and whole["stopped"] == half["stopped"]
    path = tmp_path / "half" / "jobs" / "bptt,seed=0.json"
    path.write_text(json.dumps(half | {"seed": 7}))
    with pytest.raises(bpl.ValidationError, match="is of another seed"):
        module.read(config, folders[1], "bptt", 0)
    path.write_text("{")
    with pytest.raises(bpl.ValidationError, match="cannot read it"):
        module.read(config, folders[1], "bptt", 0)


class Gone:
    """A stream whose reader has gone."""

    encoding = "ascii"

    def __init__(self):
        self.text = ""

    def write(self, text):
        if "stop" in text:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self.text += text.encode("ascii").decode()

    def flush(self):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_nothing_printed_raises(monkeypatch):
    gone = Gone()
    monkeypatch.setattr(sys, "stdout", gone)
    monkeypatch.setattr(sys, "stderr", None)
    with lenient_output():
        print("λ = 1")
        print("stop", flush=True)
        print("more", file=sys.stderr)
    assert gone.text.startswith("? = 1") and sys.stdout is gone and sys.stderr is None


@pytest.mark.stage
@pytest.mark.parametrize("how", ["LC_ALL=C PYTHONIOENCODING=ascii {} >text", "{} | head -1", "{} >&-", "{} >&- 2>&-"])
def test_the_command_line_ends_well_wherever_it_prints(tmp_path, how):
    settings = " ".join(f"--set '{key}={json.dumps(value)}'" for key, value in TINY.items())
    command = f"{sys.executable} -m bpl_neuro.cli run target-reaching --quick {settings} --out run"
    script = f"set -o pipefail; {how.format(command)}"
    ended = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["format"] == 2


JOBS = """
import os, sys, time
from pathlib import Path
from bpl_neuro.benchmark import run_jobs
from bpl_neuro.locks import FolderLock

def job(lock, folder):
    (folder / "pid.part").write_text(str(os.getpid()))
    (folder / "pid.part").rename(folder / "pid")
    time.sleep(600)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run_jobs(job, {"one": (FolderLock(folder), folder)}, 1, "jobs")
"""


@pytest.mark.stage
def test_whoever_comes_after_a_kill_meets_no_job_at_work(tmp_path):
    """The jobs hold the lock as well, and notice that the process that started them has gone."""
    (tmp_path / "jobs.py").write_text(JOBS)
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, tmp_path / "jobs.py", folder], stdout=subprocess.DEVNULL)
    while not (folder / "pid").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    FolderLock(folder).release()
    status = Path("/proc", (folder / "pid").read_text(), "stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


@pytest.mark.parametrize("setting", ["seeds=0", "seeds=-1", "batches=0"])
def test_nothing_to_do_is_refused_and_leaves_the_folder_free(tmp_path, setting):
    settings = parse_settings([setting])
    with pytest.raises(bpl.ValidationError, match="must be a whole number ≥ 1"):
        run_simulation("copy-repeat", size="quick", settings=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
