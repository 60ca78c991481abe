"""The directory that a run leaves behind, and how an interrupted one goes on."""

from __future__ import annotations

import inspect
import json
import os
import platform
import shutil
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import xarray as xr
from pydantic import BaseModel

from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import fingerprint, processor, threads, versions
from bpl_neuro.locks import LOCK, FolderLock
from bpl_neuro.look.plotting import save_figure
from bpl_neuro.look.recording import Recorder, clear_recording, write_recording
from bpl_neuro.model.spec import Model
from bpl_neuro.storage import atomic_write, clean_leftovers, is_leftover, read_arrays, write_arrays
from bpl_neuro.tasks.base import Task
from bpl_neuro.train.trainer import Trainer

__all__ = ["RunFolder", "environment", "model_fingerprints", "recorded_run"]

#: of run folders; others are refused by name
FORMAT = 2


class RunFolder:
    """The directory a run leaves behind: config.toml, summary.json, recording.zarr, figures/, checkpoint/, results/.

    Parameters
    ----------
    path : path
    name : str
        Of the simulation.
    config : SimulationConfig
    models : mapping, optional
        Name of a model → the fingerprint of its equations.
    resume : bool
        Go on with a run that was interrupted; it must have had the same settings and models. What it left unfinished is
        taken away.
    lock : FolderLock, optional
        That of this folder; kept with it, also in the processes of jobs.

    Raises
    ------
    ValidationError
        If the folder is not empty and `resume` is not set (nothing is overwritten), or if it holds another run, or a
        complete one.
    """

    def __init__(
        self,
        path: str | Path,
        name: str,
        config: Any,
        *,
        models: Mapping[str, str] | None = None,
        resume: bool = False,
        lock: FolderLock | None = None,
    ) -> None:
        self.path, self.config, self.lock = Path(path), config, lock
        self.summary: dict[str, Any] = {}
        self.figures: list[Path] = []
        self._began = not self.check(self.path, resume)
        settings = config.model_dump(exclude_none=True)
        content = {"format": FORMAT, "simulation": name, "config": settings, "models": dict(models or {})}
        try:
            text = tomli_w.dumps(content | {"environment": environment()})
            content = tomllib.loads(text)
        except (TypeError, ValueError) as error:
            raise ValidationError(f"the settings cannot be kept in config.toml: {error}") from None
        self.identity = fingerprint({key: content[key] for key in ("simulation", "config", "models")})
        clean_leftovers(self.path)
        if self._began:
            atomic_write(self.path / "config.toml", text)
        else:
            self._check_same(content)
            clear_recording(self.path / "recording.zarr")

    @staticmethod
    def check(path: Path, resume: bool) -> bool:
        """Whether there is a run to go on with in the folder, where there may be one.

        Raises
        ------
        ValidationError
            If a run cannot begin or go on there. A folder in which one was killed before it had written its settings is
            as good as an empty one.
        """
        if path.exists() and not path.is_dir():
            raise ValidationError(f"{path}: is a file; a run needs a folder")
        found = (
            [part.name for part in path.iterdir() if part.name != LOCK and not is_leftover(part.name)]
            if (path.exists())
            else []
        )
        if not found:
            return False
        if not resume and "summary.json" in found:
            raise ValidationError(f"{path}: holds a complete run; choose another folder with --out")
        if not resume:
            raise ValidationError(f"{path}: the folder is not empty; choose another with --out, or go on with --resume")
        if "summary.json" in found:
            raise ValidationError(f"{path}: the run is complete; there is nothing to resume")
        if "config.toml" not in found:
            raise ValidationError(f"{path}: holds no run to go on with, but {sorted(found)[0]}; choose another folder")
        return True

    def _check_same(self, content: Mapping[str, Any]) -> None:
        before = recorded_run(self.path) or {}
        if before["simulation"] != content["simulation"]:
            raise ValidationError(f"{self.path}: holds a run of {before['simulation']!r}")
        old, new = before["config"], content["config"]
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise ValidationError(f"{self.path}: was run with {key} = {old.get(key)!r}, not {new.get(key)!r}")
        for name, found in content["models"].items():
            if before["models"].get(name) != found:
                raise ValidationError(
                    f"{self.path}: the model {name!r} has changed since the run began; bring its equations back, or "
                    "begin another run"
                )
        old, new = before["environment"], content["environment"]
        if different := [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]:
            names = ", ".join(f"{key} = {new.get(key)} (was {old.get(key)})" for key in different)
            warnings.warn(f"{self.path}: goes on with {names}; the bits may differ", stacklevel=3)

    def fit(
        self,
        trainer: Trainer,
        task: Task,
        key: str,
        *,
        record: Sequence[str] = (),
        record_options: Mapping[str, Any] | None = None,
        checkpoint_every: int = 200,
        **keywords: Any,
    ) -> Trainer:
        """`Trainer.fit` with a checkpoint and a recording in this folder; goes on where it was interrupted.

        Parameters
        ----------
        trainer : Trainer
        task : Task
        key : str
            Names ``checkpoint/KEY.npz`` and ``recording.zarr/KEY``.
        record : sequence of str
            What a `Recorder` is to record; nothing by default.
        record_options : mapping, optional
            Its further arguments.
        checkpoint_every : int
            Batches.
        **keywords
            For `Trainer.fit`.
        """
        options, known = dict(record_options or {}), _record_options()
        if unknown := sorted(options.keys() - set(known)):
            raise ValidationError(f"`record_options` has {unknown[0]!r}; known: {', '.join(known)}")
        checkpoint, store = self.path / "checkpoint" / f"{key}.npz", self.path / "recording.zarr" / key
        before, begun = trainer.batches, checkpoint.exists()
        if begun:
            trainer.restore(checkpoint)
        elif store.exists():  # killed before its first checkpoint
            shutil.rmtree(store)
        common = {**keywords, "checkpoint": checkpoint, "checkpoint_every": checkpoint_every}
        if not record:
            return trainer.fit(task, **common)
        if begun:
            options |= {"resume_at": trainer.batches, "begun_at": before}
        with Recorder(trainer, store, record, **options) as recorder:
            return trainer.fit(task, recorder=recorder, **common)

    def remember(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """What `compute` gives, as arrays; kept in ``results/KEY.npz``, so that a resumed run has it already.

        Raises
        ------
        ValidationError
            If it is no numbers by name; if the file is damaged, or of another run.
        """
        path, whose = self.path / "results" / f"{key}.npz", {"key": key, "run": self.identity}
        if not path.exists():
            found = {name: np.asarray(value) for name, value in compute().items()}
            if wrong := [name for name, array in found.items() if array.dtype.hasobject]:
                raise ValidationError(f"`{wrong[0]}` of {key!r} cannot be kept: it is no array of numbers or texts")
            write_arrays(path, found, {"kind": "result", **whose})
        arrays, meta = read_arrays(path, "result")
        if other := [name for name in whose if meta.get(name) != whose[name]]:
            raise ValidationError(
                f"{path}: is the result of another {other[0]}; take it away to have it computed again"
            )
        return arrays

    def add_summary(self, figures: Mapping[str, float | int | str | bool]) -> None:
        """Add flat figures by name."""
        self.summary |= figures

    def save_figure(self, fig: Any, name: str) -> None:
        """Write ``figures/NAME.png``."""
        path = self.path / "figures" / f"{name}.png"
        save_figure(fig, path)
        self.figures.append(path)

    def save_recording(self, dataset: xr.Dataset) -> None:
        """Write ``recording.zarr``."""
        write_recording(dataset, self.path / "recording.zarr")

    def finish(self) -> None:
        """Write ``summary.json``: its presence says that the run is complete."""
        plain = {key: _plain(value) for key, value in sorted(self.summary.items())}
        clean_leftovers(self.path)
        atomic_write(self.path / "summary.json", json.dumps(plain, indent=2) + "\n")

    def discard_if_unused(self) -> None:
        """Take the folder away if this run began it, and it holds nothing yet but the settings: those were wrong."""
        files = {part.name for part in self.path.rglob("*") if part.is_file()}
        if self._began and files <= {"config.toml", LOCK}:
            shutil.rmtree(self.path)


def recorded_run(path: Path) -> dict[str, Any] | None:
    """What a folder's config.toml says, None where there is none.

    Raises
    ------
    ValidationError
        If it is damaged, or of another version of bpl_neuro.
    """
    file = path / "config.toml"
    try:
        before = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ValidationError(f"{file}: cannot read what is to be resumed: {error}") from None
    if before.get("format", 1) != FORMAT:
        raise ValidationError(
            f"{file}: a run of format {before.get('format', 1)}, by another version of bpl_neuro; this one goes on "
            f"with format {FORMAT}. Begin another run, or take that version"
        )
    for key in ("config", "models", "environment"):
        if not isinstance(before.get(key), dict):
            raise ValidationError(f"{file}: damaged: [{key}] is missing")
    return before | {"simulation": str(before.get("simulation"))}


def _record_options() -> list[str]:
    """What `record_options` may hold: a `Recorder`'s arguments, but those that a run folder gives itself."""
    own = ("trainer", "path", "quantities", "resume_at", "begun_at")
    return [name for name in inspect.signature(Recorder).parameters if name not in own]


def _plain(value: Any) -> Any:
    """JSON has no NaN: null says that there was nothing to average."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def model_fingerprints(config: BaseModel) -> dict[str, str]:
    """Of the models that settings name, in ``model`` or ``models``.

    Raises
    ------
    ModelError
        If one of them does not exist, or is wrong.
    """
    settings = config.model_dump()
    names = [settings["model"]] if "model" in settings else settings.get("models", [])
    return {str(name): fingerprint(Model.load(name).identity()) for name in names}


def environment() -> dict[str, Any]:
    """Versions, processor and threads: what else a run depends on."""
    system = {"python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count() or 0}
    packages = versions("bpl_neuro", "numpy", "scipy", "brian2", "sympy", "xarray", "zarr")
    return system | {"processor": processor(), **packages, "threads": threads()}
