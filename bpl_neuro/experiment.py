"""What every simulation shares: a validated configuration with sizes, and a run directory.

A simulation is a file in ``simulations/`` with a docstring (its first line is the title), a `Config` (subclass of
`SimulationConfig`) and a function ``run(config, folder)``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from pydantic import ValidationError as PydanticError

from bpl_neuro.backend import get_backend
from bpl_neuro.errors import BplError, ValidationError
from bpl_neuro.locks import FolderLock
from bpl_neuro.output import lenient_output
from bpl_neuro.run_folder import RunFolder, environment, model_fingerprints, recorded_run

__all__ = [
    "RunFolder",
    "SimulationConfig",
    "TrainingConfig",
    "available_simulations",
    "environment",
    "load_simulation",
    "parse_settings",
    "resolve_config",
    "run_simulation",
]

FOLDER = Path(__file__).parent / "simulations"
#: settings that count something of which there must be some, in whichever simulation has them
COUNTS = {
    "seeds", "batches", "batch_size", "epochs", "trials", "units", "exc", "inh", "motor", "targets", "patterns",
    "checkpoint_every", "patience",
}  # fmt: skip


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

    @model_validator(mode="before")
    @classmethod
    def _no_booleans_as_numbers(cls, data: Any) -> Any:
        """``batches=true`` would be taken for 1."""
        for name, value in data.items():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and field.annotation in (int, float):
                raise ValueError(f"{name} is a number, got {value}")
        return data

    @model_validator(mode="after")
    def _something_to_do(self) -> SimulationConfig:
        """No seeds, batches or neurons would end in an error far from here."""
        for name in COUNTS & type(self).model_fields.keys():
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be a whole number ≥ 1, got {value}")
        return self


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
        Go on with an interrupted run in `out`, to the same bits; on the backend that it began with, if `settings` name
        none.

    Raises
    ------
    ValidationError
        For wrong settings; for a folder that holds something else, with what.
    BplError
        If another process is at work in the folder; if it cannot be written.
    """
    if resume and out is None:
        raise ValidationError("--resume needs --out: the folder of the run to go on with")
    module, name = load_simulation(name), name.replace("_", "-")
    path = Path(out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    settings = dict(settings or {})
    if resume and "backend" in module.Config.model_fields:
        settings["backend"] = _backend_of(path, settings.get("backend", "auto"))
    config = resolve_config(module.Config, size, settings)
    models = model_fingerprints(config)  # a wrong name is an error before there is a folder
    try:
        RunFolder.check(path, resume)
        lock = FolderLock(path)
        try:
            with lenient_output():
                return _run(module, RunFolder(path, name, config, models=models, resume=resume, lock=lock))
        finally:
            lock.release()
    except OSError as error:
        raise BplError(f"{path}: {error}; what was kept goes on with --resume") from error


def _backend_of(path: Path, given: Any) -> Any:
    """The backend that a run goes on with: what "auto" or the default became when it began."""
    before = recorded_run(path)
    known = before["config"].get("backend") if before else None
    if known and given not in ("auto", known):
        raise ValidationError(f"{path}: was run with backend = {known!r}, not {given!r}")
    return known or given


def _run(module: ModuleType, folder: RunFolder) -> RunFolder:
    try:
        module.run(folder.config, folder)
    except BplError:
        with contextlib.suppress(OSError):  # the disk is full for that as well
            folder.discard_if_unused()
        raise
    folder.finish()
    return folder
