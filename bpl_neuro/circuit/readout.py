"""The linear readout of a circuit's rates, and the immediate loss gradient c_t that it sends back."""

from __future__ import annotations

import pickle
from types import MappingProxyType
from typing import Any

import numpy as np

from bpl_neuro.checks import flag, generator, instance, positive_int, shown, word
from bpl_neuro.circuit.build import MOST_NEURONS
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.layout import Layout
from bpl_neuro.circuit.losses import Loss, get_loss
from bpl_neuro.circuit.wiring import State
from bpl_neuro.errors import ValidationError
from bpl_neuro.identity import Described

__all__ = ["Readout"]


class Readout(Described):
    """y_t = W r_t + b, with a loss on y_t.

    A readout is a value, as a circuit is: one with other weights is another one (`with_phi`).

    Parameters
    ----------
    circuit : Circuit
    output_size : int
        Number of outputs M.
    loss : str or callable
        "squared_error" (½ Σ (y − y*)²), "cross_entropy", "binary_cross_entropy" (both on logits, in nats), or
        ``loss(xp, output, target) → (value (B,), gradient (B, M))``.
    reduction : {"mean", "sum"}
        Over the trials of a batch. "mean" is the convention of the equations: c, g and δ then carry 1/B. With "sum"
        they are those of a single trial, whatever the batch size. For optimisers whose step size does not depend on
        the gradient's scale (Adam) this matters: the synthesiser's target is B times larger, its steps are not.
    continuous_time : bool
        Weight every step's loss by dt: for losses that run along the whole trial.
    population : str, optional
        Read one population only; all by default.
    seed : int or numpy.random.Generator
        Weights start uniform in ±1/√N (the bias: sum of two such draws).

    Attributes
    ----------
    phi : (M·N + M,) array
        Weights and biases, flat; read-only.
    weights : mapping of str to array
        The same by name: ``"weights"`` (M, N) and ``"bias"`` (M,).
    """

    identified = {"population": "columns", "seed": None}

    def __init__(
        self,
        circuit: Circuit,
        output_size: int,
        loss: str | Loss = "squared_error",
        *,
        reduction: str = "mean",
        continuous_time: bool = False,
        population: str | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        self.circuit = instance("circuit", circuit, Circuit, "a Circuit")
        self.output_size = positive_int("output_size", output_size, MOST_NEURONS)
        self.loss, self._loss = loss, get_loss(loss)
        self.reduction = word("reduction", reduction, ("mean", "sum"))
        self.continuous_time = flag("continuous_time", continuous_time)
        self.columns = slice(0, circuit.rates)
        if population is not None:
            word("population", population, circuit.sizes)
            self.columns = next(p.rate_slice for p in circuit.populations if p.name == population)
        N = self.columns.stop - self.columns.start
        self.layout = Layout({"weights": (self.output_size, N), "bias": (self.output_size,)})
        rng = generator("seed", seed)
        bound = 1 / np.sqrt(N)
        phi = np.zeros(self.layout.size)
        views = self.layout.views(phi)
        views["weights"][...] = rng.uniform(-bound, bound, (self.output_size, N))
        views["bias"][...] = rng.uniform(-bound, bound, (2, self.output_size)).sum(axis=0)
        self._take(circuit.backend.asarray(phi, circuit.dtype))

    def _take(self, phi: Any) -> None:
        self._phi = self.circuit.backend.read_only(phi)
        self.weights = MappingProxyType(self.layout.views(self._phi))

    @property
    def phi(self) -> Any:
        """All weights and biases."""
        return self._phi

    @phi.setter
    def phi(self, phi: Any) -> None:
        raise ValidationError("`phi` of a readout does not change; `readout.with_phi(phi)` gives another readout")

    def with_phi(self, phi: Any) -> Readout:
        """The readout with other weights; ValidationError unless they are finite and as many as there are."""
        phi = self.circuit.own_array("phi", phi)
        if phi.shape != (self.layout.size,):
            raise ValidationError(f"`phi` must have shape ({self.layout.size},), got {phi.shape}")
        if not self.circuit.xp.isfinite(phi).all():
            raise ValidationError("`phi` must be finite")
        return self.holding(phi.copy())

    def holding(self, phi: Any) -> Readout:
        """The readout with other weights, taken as they are: nothing is checked."""
        other = object.__new__(Readout)
        vars(other).update(vars(self))
        other._take(phi)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Readout:
        return self  # it never changes

    def __copy__(self) -> Readout:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: read-only views are made again, a loss of the package's own is found by its name."""
        if not isinstance(self.loss, str):
            try:
                pickle.dumps(self.loss)
            except Exception as error:
                raise ValidationError(
                    f"`loss` {shown(self.loss)} cannot be pickled ({error}); one defined in a module can"
                ) from None
        return vars(self) | {"weights": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._take(self._phi)

    def output(self, rate: Any) -> Any:
        """y of rates (…, N): (…, M)."""
        rate = self.circuit.own_array("rate", rate)
        if not rate.ndim or rate.shape[-1] != self.circuit.rates or 0 in rate.shape:
            raise ValidationError(f"`rate` must be (…, {self.circuit.rates}) rates, got shape {rate.shape}")
        if not self.circuit.xp.isfinite(rate).all():
            raise ValidationError("`rate` must be finite")
        return self._output(rate)

    def _output(self, rate: Any) -> Any:
        return rate[..., self.columns] @ self.weights["weights"].T + self.weights["bias"]

    def trial_weight(self, trials: int) -> float:
        """Weight of one trial's loss in a batch: 1/B, or 1 for ``reduction="sum"``; times dt in continuous time."""
        weight = 1 / positive_int("trials", trials) if self.reduction == "mean" else 1.0
        return weight * self.circuit.model.dt if self.continuous_time else weight

    def _own_loss(self, y: Any, target: Any) -> tuple[Any, Any]:
        """What a user's loss gives, which may be anything, in the shapes that it must have."""
        xp, given = self.circuit.xp, self._loss(self.circuit.xp, y, target)
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValidationError(f"`loss` must give (value (B,), gradient (B, M)), got {shown(given)}")
        arrays = [self.circuit.own_array("loss", part) for part in given]
        for array, shape, what in zip(arrays, (y.shape[:1], y.shape), ("value", "gradient"), strict=True):
            if array.shape != shape:
                raise ValidationError(f"`loss` must give a {what} of shape {shape}, got {array.shape}")
        return arrays[0], xp.asarray(arrays[1])

    def credit(
        self, state: State, target: Any, weight: Any, feedback: Feedback | None = None
    ) -> tuple[Any, Any, Any, Any]:
        """Loss and immediate gradients at one step.

        Parameters
        ----------
        state : State
        target : (B, M) array or (B,) labels
        weight : (B,) array
            Weight of each trial's loss, 0 where none is due; includes `trial_weight`.
        feedback : Feedback, optional
            What the errors go back through in the place of W.

        Returns
        -------
        loss : (B,) array
            Weighted loss per trial.
        c : (B, n) array
            ∂L_t/∂s_t through this readout as it is now, or what `feedback` makes of it.
        gradient : (|φ|,) array
            ∂L_t/∂φ.
        output : (B, M) array
        """
        loss, errors, y = self.errors(state, target, weight)
        return loss, self.sent_back(state, errors, feedback), self.gradient(state, errors), y

    def errors(self, state: State, target: Any, weight: Any) -> tuple[Any, Any, Any]:
        """Weighted loss (B,), its gradient with respect to the outputs, (B, M), and the outputs."""
        xp, y = self.circuit.xp, self._output(state.rate)
        loss, dy = self._loss(xp, y, target) if isinstance(self.loss, str) else self._own_loss(y, target)
        return loss * weight, dy * weight[:, None], y

    def gradient(self, state: State, errors: Any) -> Any:
        """∂L/∂φ, (|φ|,), of errors at the outputs, (B, M)."""
        rate = state.rate[:, self.columns]
        return self.circuit.xp.concatenate([(errors.T @ rate).reshape(-1), errors.sum(axis=0)])

    def sent_back(self, state: State, errors: Any, feedback: Feedback | None = None) -> Any:
        """c (B, n) of errors at the outputs, (B, M), through W or what `feedback` makes of it."""
        dr = self.circuit.xp.zeros_like(state.rate)
        W = self.weights["weights"]
        dr[:, self.columns] = errors @ (W if feedback is None else feedback.weights("readout", W, self.circuit.backend))
        return self.circuit.rate_credit(state, dr)
