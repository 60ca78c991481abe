"""Optimisers on flat vectors: pure functions of parameter, gradient and their own state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from bpl_neuro.backend import Backend
from bpl_neuro.checks import number, positive_int, shown
from bpl_neuro.errors import ValidationError

__all__ = ["SGD", "Adam", "Clip", "CosineDecay", "ExponentialDecay", "Optimiser", "by_name"]


class Optimiser(Protocol):
    """What the trainer needs of an optimiser. Its state is a dict of arrays, so it can be checkpointed.

    One with a true attribute `in_place` also takes ``out=``: None, or arrays by name ("parameter", and those of its
    state) that it may write the new values into.
    """

    def init(self, backend: Backend, parameter: Any) -> dict[str, Any]:
        """State before the first step."""
        ...

    def step(
        self, backend: Backend, parameter: Any, gradient: Any, state: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """New parameter and new state; the arguments are left as they are."""
        ...


@dataclass(frozen=True)
class ExponentialDecay:
    """η_k = η₀ · ½^(k / half_life) after k steps of the optimiser."""

    eta: float
    half_life: float

    def __post_init__(self) -> None:
        number("eta", self.eta)
        number("half_life", self.half_life, above=True)

    def __call__(self, step: int) -> float:
        """The rate after `step` steps."""
        return self.eta * 0.5 ** (number("step", step) / self.half_life)


@dataclass(frozen=True)
class CosineDecay:
    """From η₀ to η₀ · floor along half a cosine over `steps` steps, then constant."""

    eta: float
    steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        number("eta", self.eta)
        if number("floor", self.floor) > 1:
            raise ValidationError(f"`floor` must be a number in [0, 1], got {self.floor!r}")
        positive_int("steps", self.steps)

    def __call__(self, step: int) -> float:
        """The rate after `step` steps."""
        share = 0.5 * (1 + math.cos(math.pi * min(number("step", step) / self.steps, 1.0)))
        return self.eta * (self.floor + (1 - self.floor) * share)


Rate = float | Callable[[int], float]


def rate_at(eta: Rate, step: int) -> float:
    """A learning rate, or what its schedule gives after `step` steps, which must be a number ≥ 0."""
    return number("eta", eta(step)) if callable(eta) else eta


def _rate(name: str, value: Any) -> None:
    if callable(value):
        return
    number(name, value)


@dataclass(frozen=True)
class SGD:
    """p ← p − η·gradient.

    Parameters
    ----------
    eta : float or callable
        Learning rate, or a schedule: a function of the number of steps taken, such as `ExponentialDecay`.
    """

    eta: Rate
    in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _rate("eta", self.eta)

    def init(self, backend: Backend, parameter: Any) -> dict[str, Any]:
        """No steps taken."""
        return {"steps": np.int64(0)}

    def step(
        self, backend: Backend, parameter: Any, gradient: Any, state: dict[str, Any], *, out: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """One step."""
        steps, xp = int(state["steps"]), backend.xp
        change = xp.multiply(gradient, rate_at(self.eta, steps), out=out and out["parameter"])
        return xp.subtract(parameter, change, out=change), {"steps": np.int64(steps + 1)}


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015) with bias correction.

        m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  p ← p − η m̂ / (√v̂ + ε)

    Parameters
    ----------
    eta : float or callable
        Learning rate, or a schedule.
    beta1 : float, optional
        0.9; but 0 for Ψ where θ learns by `RLS`, whose average is a momentum of its own.
    beta2, epsilon : float
        The defaults are those of the BP(λ) paper's experiments, as is β₁ = 0.9.
    max_step : float, optional
        No parameter moves by more than `max_step` · η in one step. Without momentum a gradient that is suddenly large,
        after many that were small, moves its parameter by up to η/√(1−β₂), 7 η for the default: a task that was solved
        is lost again. 2 bounds that; how often it acts is in a training's history as ``psi_capped``, the share of the
        parameters, mean over all steps so far.
    """

    eta: Rate = 1e-3
    beta1: float | None = None
    beta2: float = 0.98
    epsilon: float = 1e-9
    max_step: float | None = None
    in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _rate("eta", self.eta)
        number("epsilon", self.epsilon)
        number("beta2", self.beta2, high=1.0)
        if self.beta1 is not None:
            number("beta1", self.beta1, high=1.0)
        if self.max_step is not None:
            number("max_step", self.max_step, above=True)

    def init(self, backend: Backend, parameter: Any) -> dict[str, Any]:
        """Moments 0, no steps."""
        m, v = backend.xp.zeros_like(parameter), backend.xp.zeros_like(parameter)
        return {"m": m, "v": v, "steps": np.int64(0)} | ({} if self.max_step is None else {"capped": np.float64(0)})

    def step(
        self, backend: Backend, parameter: Any, gradient: Any, state: dict[str, Any], *, out: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """One step."""
        steps, beta1 = int(state["steps"]) + 1, 0.9 if self.beta1 is None else self.beta1
        eta = rate_at(self.eta, steps - 1)
        new, m, v = backend.adam(
            parameter, gradient, state["m"], state["v"], out and (out["parameter"], out["m"], out["v"]),
            rate=eta / (1 - beta1**steps), beta1=beta1, beta2=self.beta2,
            correction2=1 - self.beta2**steps, epsilon=self.epsilon,
            most=math.inf if self.max_step is None else self.max_step * eta,
        )  # fmt: skip
        moments = {"m": m, "v": v, "steps": np.int64(steps)}
        if self.max_step is None:
            return new, moments
        held = backend.xp.abs(new - parameter) > 0.999 * self.max_step * eta  # less what rounding takes
        return new, moments | {"capped": np.float64(float(state["capped"]) + float(held.mean()))}


@dataclass(frozen=True)
class Clip:
    """Another optimiser behind a bound on the gradient's norm: g ← g · min(1, norm / ‖g‖). Only where asked for."""

    optimiser: Optimiser
    norm: float

    def __post_init__(self) -> None:
        number("norm", self.norm, above=True)
        _checked(self.optimiser, "`optimiser` of a Clip", "that follows a gradient")
        if regresses(self.optimiser):
            raise ValidationError(f"`optimiser` of a Clip must follow a gradient; {self.optimiser!r} solves for θ")

    @property
    def in_place(self) -> bool:
        """Whether the other one takes ``out=``."""
        return bool(getattr(self.optimiser, "in_place", False))

    def init(self, backend: Backend, parameter: Any) -> dict[str, Any]:
        """The other's state, and how often the bound acted."""
        return {**self.optimiser.init(backend, parameter), "clipped": np.int64(0)}

    def step(
        self, backend: Backend, parameter: Any, gradient: Any, state: dict[str, Any], *, out: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """One step with the bounded gradient."""
        inner = {key: value for key, value in state.items() if key != "clipped"}
        length = float(backend.xp.sqrt((gradient * gradient).sum()))
        acts = length > self.norm
        bounded = gradient * (self.norm / length) if acts else gradient
        spare = {"out": out} if self.in_place else {}
        new, inner = self.optimiser.step(backend, parameter, bounded, inner, **spare)
        return new, {**inner, "clipped": np.int64(int(state["clipped"]) + acts)}


def regresses(optimiser: Any) -> bool:
    """Whether it solves least squares, with moments beside the gradient: `bpl_neuro.train.rls.RLS`."""
    return bool(getattr(optimiser, "regresses", False))


def without_momentum(optimiser: Any) -> Any:
    """Adam with β₁ = 0, behind a bound or not, unless β₁ was given; any other optimiser as it is."""
    if isinstance(optimiser, Clip):
        return replace(optimiser, optimiser=without_momentum(optimiser.optimiser))
    return replace(optimiser, beta1=0.0) if isinstance(optimiser, Adam) and optimiser.beta1 is None else optimiser


def by_name(
    given: Optimiser | Mapping[str, Optimiser | None] | None, names: Sequence[str], argument: str = "optimiser"
) -> dict[str, Optimiser]:
    """An optimiser for each name: the one given, those of a mapping, or Adam; ValidationError for an unknown name."""
    optimisers = Adam() if given is None else given
    if not isinstance(optimisers, Mapping):
        return dict.fromkeys(names, _checked(optimisers, f"`{argument}`", "or a mapping"))
    for name in optimisers:
        if not isinstance(name, str) or name not in names:
            raise ValidationError(f"`{argument}` has {shown(name)}; known: {', '.join(names)}")
    return {
        name: _checked(optimiser, f"`{argument}` of {name}", "or None")
        for name, optimiser in optimisers.items()
        if optimiser is not None
    }


def _checked(optimiser: Any, where: str, otherwise: str) -> Any:
    able = all(callable(getattr(optimiser, method, None)) for method in ("init", "step"))
    if not able or isinstance(optimiser, type):
        raise ValidationError(f"{where} must be an optimiser like Adam(1e-3), {otherwise}; got {shown(optimiser)}")
    return optimiser
