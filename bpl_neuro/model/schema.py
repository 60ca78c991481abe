"""The schema of a model file: which keys there are, and of what kind."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bpl_neuro.checks import shown

__all__ = [
    "ModelSpec", "PopulationSpec", "ProjectionSpec", "SynapsesSpec", "SynthesiserSpec", "TimeSpec", "explain",
]  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PopulationSpec(_Strict):
    """``[populations.NAME]``."""

    equations: str
    rate: str
    inputs: list[str] = Field(min_length=1)
    method: str | None = None
    update: str | None = None
    parameters: dict[str, str | float] = {}
    initial: dict[str, str | float] = {}


class ProjectionSpec(_Strict):
    """``[[projections]]``: a population, or "input", onto one input of a population, or onto all of them."""

    pre: str = Field(alias="from")
    to: str
    probability: float = Field(default=1.0, gt=0, le=1)
    sign: Literal["+", "-"] | None = None
    self_synapses: bool = Field(default=True, alias="self")
    plastic: bool = True
    delay: str | float | None = None


class TimeSpec(_Strict):
    """``[time]``."""

    dt: str | float


class SynapsesSpec(_Strict):
    """``[synthesiser.synapses]``: the equation of a local eligibility trace."""

    equations: str
    method: str = "exponential_euler"
    parameters: dict[str, str | float] = {}


class ExpansionSpec(_Strict):
    """``[synthesiser.expansion]``: many small units between circuit and synthesiser, each with a few inputs; fixed."""

    size: int = Field(ge=1)
    fan_in: int = Field(ge=1)
    plastic: bool = False
    equations: str = "q = clip(v, 0, inf) : 1\nv : 1"
    rate: str = "q"
    inputs: list[str] = Field(default=["v"], min_length=1, max_length=1)
    parameters: dict[str, str | float] = {}


class SynthesiserSpec(_Strict):
    """``[synthesiser]``: the unit of the population that predicts the future error gradient."""

    equations: str = "g = v : 1\nv : 1"
    rate: str = "g"
    inputs: list[str] = Field(default=["v"], min_length=1, max_length=1)
    parameters: dict[str, str | float] = {}
    sees: str = "state"
    sees_input: bool = False
    synapses: SynapsesSpec | None = None
    expansion: ExpansionSpec | None = None


class ModelSpec(_Strict):
    """A whole model file."""

    title: str = "Untitled"
    populations: dict[str, PopulationSpec] = Field(min_length=1)
    projections: list[ProjectionSpec] = []
    time: TimeSpec | None = None
    synthesiser: SynthesiserSpec = SynthesiserSpec()


def explain(error: ValidationError) -> str:
    """What is wrong with a model file, its key first."""
    # a misspelt key is one that is missing, too: what was written says more
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"]) or "top level"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key (given: {shown(first['input'])[:60]}); known: {_known_keys(first['loc'])}"
    if first["type"] == "missing":
        return f"{key}: this key is missing"
    return f"{key}: {first['msg']}, got {shown(first['input'])[:60]}"


def _known_keys(loc: tuple[int | str, ...]) -> str:
    kinds: dict[tuple[str, int], Any] = {  # by the first key and how many follow it; a population's name is one
        ("populations", 2): PopulationSpec, ("projections", 2): ProjectionSpec, ("time", 1): TimeSpec,
        ("synthesiser", 1): SynthesiserSpec,
        ("synthesiser", 2): {"synapses": SynapsesSpec, "expansion": ExpansionSpec}.get(str(loc[1:2] and loc[1])),
    }  # fmt: skip
    kind = kinds.get((str(loc[0]), len(loc) - 1), ModelSpec)
    return ", ".join(f.alias or name for name, f in kind.model_fields.items())
