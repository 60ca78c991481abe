"""What every simulation shares: a validated configuration with sizes, and a run directory.

A simulation is a file in ``simulations/`` with a docstring (its first line is the title), a `Config` (subclass of
`SimulationConfig`) and a function ``run(config, folder)``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import tomli_w
import xarray as xr
from pydantic import BaseModel, ConfigDict, field_validator
from pydantic import ValidationError as PydanticError

from bpl_neuro.backend import get_backend
from bpl_neuro.errors import ValidationError
from bpl_neuro.look.plotting import save_figure
from bpl_neuro.look.recording import Recorder, clear_recording, write_recording
from bpl_neuro.storage import atomic_write, read_arrays, write_arrays
from bpl_neuro.tasks.base import Task
from bpl_neuro.train.trainer import Trainer

__all__ = [
    "RunFolder",
    "SimulationConfig",
    "TrainingConfig",
    "available_simulations",
    "load_simulation",
    "parse_settings",
    "resolve_config",
    "run_simulation",
]

FOLDER = Path(__file__).parent / "simulations"


class SimulationConfig(BaseModel):
    """Base of a simulation's settings; unknown keys are errors.

    Attributes
    ----------
    SIZES : dict
        Size name → settings that differ from the full size. Each simulation has at least "quick".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    SIZES: ClassVar[dict[str, dict[str, Any]]] = {"quick": {}}

    size: str = "full"
    seed: int = 0


class TrainingConfig(SimulationConfig):
    """Settings of a simulation whose trainings can be recorded while they run.

    Attributes
    ----------
    record : list of str
        Quantities, as `bpl_neuro.Recorder` takes them: ``["g", "loss"]``. Each training goes to a store of its own in
        ``recording.zarr``.
    record_options : dict
        Its further arguments: ``{"every": 10, "trials": [0], "units": ["exc"]}``.
    checkpoint_every : int
        Batches between two checkpoints.
    backend : {"numpy", "c", "cupy", "auto"}
        What it runs on. "auto" becomes what it took, here and in config.toml.
    """

    backend: str = "numpy"
    record: list[str] = []
    record_options: dict[str, Any] = {}
    checkpoint_every: int = 200

    @field_validator("backend")
    @classmethod
    def _taken(cls, name: str) -> str:
        return get_backend(name).name

    @property
    def recorded(self) -> dict[str, Any]:
        """These settings, for `RunFolder.fit`."""
        keys = ("record", "record_options", "checkpoint_every")
        return {key: getattr(self, key) for key in keys}


class RunFolder:
    """The directory a run leaves behind: config.toml, summary.json, recording.zarr, figures/, checkpoint/.

    Parameters
    ----------
    path : path
    name : str
        Of the simulation.
    config : SimulationConfig
    resume : bool
        Go on with a run that was interrupted; it must have had the same settings.

    Raises
    ------
    ValidationError
        If the folder is not empty and `resume` is not set (nothing is overwritten), or if it holds another run, or a
        complete one.
    """

    def __init__(self, path: str | Path, name: str, config: SimulationConfig, *, resume: bool = False) -> None:
        self.path, self.config = Path(path), config
        self.summary: dict[str, Any] = {}
        self.figures: list[Path] = []
        content = {"simulation": name, "config": config.model_dump(exclude_none=True), "environment": environment()}
        occupied = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if occupied and not resume:
            raise ValidationError(
                f"{self.path}: the folder is not empty; choose another with --out, or go on with --resume"
            )
        if occupied:
            self._check_same(content)
            clear_recording(self.path / "recording.zarr")
        else:
            atomic_write(self.path / "config.toml", tomli_w.dumps(content))

    def _check_same(self, content: Mapping[str, Any]) -> None:
        path = self.path / "config.toml"
        try:
            before = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValidationError(f"{path}: cannot read what is to be resumed: {error}") from None
        if (self.path / "summary.json").exists():
            raise ValidationError(f"{self.path}: the run is complete; there is nothing to resume")
        if before.get("simulation") != content["simulation"]:
            raise ValidationError(f"{self.path}: holds a run of {before.get('simulation')!r}")
        old, new = before.get("config", {}), content["config"]
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise ValidationError(f"{self.path}: was run with {key} = {old.get(key)!r}, not {new.get(key)!r}")

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
        options = dict(record_options or {})
        if unknown := options.keys() - set(inspect.signature(Recorder).parameters):
            known = [
                name for name in inspect.signature(Recorder).parameters if name not in ("trainer", "path", "quantities")
            ]
            raise ValidationError(f"`record_options` has {sorted(unknown)[0]!r}; known: {', '.join(known)}")
        checkpoint, store = self.path / "checkpoint" / f"{key}.npz", self.path / "recording.zarr" / key
        begun = checkpoint.exists()
        if begun:
            trainer.restore(checkpoint)
        elif store.exists():  # killed before its first checkpoint
            shutil.rmtree(store)
        common = {**keywords, "checkpoint": checkpoint, "checkpoint_every": checkpoint_every}
        if not record:
            return trainer.fit(task, **common)
        resume_at = trainer.batches if begun else None
        with Recorder(trainer, store, record, resume_at=resume_at, **options) as recorder:
            return trainer.fit(task, recorder=recorder, **common)

    def discard_if_unused(self) -> None:
        """Take the folder away if it holds nothing yet but the settings: those were wrong."""
        if [part.name for part in self.path.iterdir()] == ["config.toml"]:
            shutil.rmtree(self.path)

    def remember(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """What `compute` gives, as arrays; kept, so that a resumed run does not compute it again."""
        path = self.path / "checkpoint" / f"{key}.npz"
        if not path.exists():
            write_arrays(path, compute(), {"kind": "result"})
        return read_arrays(path, "result")[0]

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
        atomic_write(self.path / "summary.json", json.dumps(plain, indent=2) + "\n")


def _plain(value: Any) -> Any:
    """JSON has no NaN: null says that there was nothing to average."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def environment() -> dict[str, Any]:
    """Versions and threads: what else a run depends on."""
    versions = {"python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count() or 0}
    for package in ("bpl_neuro", "numpy", "scipy", "brian2", "sympy", "xarray", "zarr"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    threads = {key: os.environ[key] for key in sorted(os.environ) if key.endswith("_NUM_THREADS")}
    return versions | {"threads": threads}


def available_simulations() -> dict[str, str]:
    """Name → one-line title of each simulation, read without running it."""
    titles = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        first = path.read_text(encoding="utf-8").lstrip().lstrip("\"'").splitlines()[0]
        titles[path.stem.replace("_", "-")] = first.strip().rstrip("\"'")
    return titles


def load_simulation(name: str) -> ModuleType:
    """The module of a simulation, by its name with - or _."""
    stem = name.replace("-", "_")
    path = FOLDER / f"{stem}.py"
    if not stem.isidentifier() or not path.is_file():
        raise ValidationError(f"there is no simulation {name!r}; there are: {', '.join(available_simulations())}")
    full = f"bpl_neuro.simulations.{stem}"
    if full in sys.modules:
        return sys.modules[full]
    spec = importlib.util.spec_from_file_location(full, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


def resolve_config(kind: type[SimulationConfig], size: str, settings: Mapping[str, Any]) -> SimulationConfig:
    """A configuration from a size and settings (texts from a command line are read as JSON where they can be).

    Raises
    ------
    ValidationError
        For an unknown size or key, or a value of the wrong type; says which are known.
    """
    sizes = {"full": {}, **kind.SIZES}
    if size not in sizes:
        raise ValidationError(f"`size` must be one of {', '.join(sizes)}, got {size!r}")
    try:
        return kind(**{**sizes[size], "size": size, **settings})
    except PydanticError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ValidationError(f"there is no setting {key!r}; known: {', '.join(kind.model_fields)}") from None
        raise ValidationError(f"`{key}`: {first['msg']}, got {first['input']!r}") from None


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``["lams=[0, 1]", "epochs=3"]`` → a dict; values are read as JSON, else kept as text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ValidationError(f"--set takes key=value, got {pair!r}")
        try:
            settings[key.strip()] = json.loads(text)
        except ValueError:
            settings[key.strip()] = text
    return settings


def run_simulation(
    name: str,
    *,
    size: str = "full",
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
) -> RunFolder:
    """Run a simulation and leave its directory behind.

    Parameters
    ----------
    name : str
    size : str
        "full", "quick", or another of the simulation's sizes.
    settings : mapping, optional
        Settings that differ from the size's.
    out : path, optional
        The run directory; ``runs/NAME-DATE`` by default.
    resume : bool
        Go on with an interrupted run in `out`, to the same bits.
    """
    if resume and out is None:
        raise ValidationError("--resume needs --out: the folder of the run to go on with")
    module = load_simulation(name)
    config = resolve_config(module.Config, size, settings or {})
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = RunFolder(out or Path("runs") / f"{name.replace('_', '-')}-{stamp}", name, config, resume=resume)
    try:
        module.run(config, folder)
    except ValidationError:
        folder.discard_if_unused()
        raise
    folder.finish()
    return folder
