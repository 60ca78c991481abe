"""One synapse of a synthesiser that predicts the credit of input currents: what it saw, its trace, what it learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from bpl_neuro.checks import index, instance, shown
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.compatible import CompatibleBPLambda
from bpl_neuro.rules.traces.compatible import CompatibleLocalTrace
from bpl_neuro.rules.traces.influence import carried
from bpl_neuro.tasks.base import Batch
from bpl_neuro.train.loop import watched_steps
from bpl_neuro.train.step import Step

__all__ = ["current_synapse_trace"]


def current_synapse_trace(
    circuit: Circuit,
    readout: Readout,
    rule: CompatibleBPLambda,
    batch: Batch,
    theta: Any,
    synapse: Sequence[Any],
    trial: int = 0,
    state: int = 0,
) -> xr.Dataset:
    """Everything about one synapse of the circuit in one trial, as a compatible synthesiser sees it; nothing moves.

        e_t = γ (A_t + λ O_t) e_{t−1} + ∂s_t/∂Ψ        Δθ/α = Σ_t [ a_t e_{t−1} − q̂_t y_t ]

    In the residual form a_t e_{t−1} has (c_t A_t) f_{t−1} with it. At λ = 1, e is RTRL's influence of this synapse.

    Parameters
    ----------
    rule : BPLambda or BPLambdaEProp
        With a synthesiser of ``target="current"`` and ``trace="full"``.
    synapse : (projection, port, post, pre)
        Where it stands in ``circuit.weights[projection]``; ``("bias->NAME", port, post)`` for a bias.
    trial : int
        Which trial of the batch.
    state : int
        Which of the target's state variables ``own`` and ``local`` are of.

    Returns
    -------
    xarray.Dataset
        Over ``step``: ``presynaptic`` y; ``own`` e of the target's state; ``norm`` ‖e‖ over all states; ``local`` the
        local trace there; ``q`` q̂ of its current; ``product`` a_t e_{t−1}; ``cumulative`` the running sum of
        a_t e_{t−1} − q̂_t y_t, Δθ/α. The attribute ``forward_view`` is the same from a sweep back over the trial, which
        ``cumulative`` ends on.

    Raises
    ------
    ValidationError
        For a rule without such a trace; for a place at which there is no synapse.
    """
    instance("circuit", circuit, Circuit, "a Circuit"), instance("readout", readout, Readout, "a Readout")
    instance("rule", rule, CompatibleBPLambda, 'a rule whose synthesiser has `target` = "current"')
    instance("batch", batch, Batch, "a Batch")
    if rule.form != "full":
        raise ValidationError('`rule` must hold the full trace: BPLambda(…, trace="full")')
    trial, theta = index("trial", trial, batch.size - 1), circuit.own_array("theta", theta)
    if theta.shape != (circuit.layout.size,):
        raise ValidationError(f"`theta` must have shape ({circuit.layout.size},), got {theta.shape}")
    place, population, port, post = _place(circuit, synapse)
    if circuit.mask is not None and not circuit.mask[place]:
        raise ValidationError(f"`synapse`: there is no plastic synapse {shown(synapse)}")
    state = index("state", state, population.S - 1)
    host, single = circuit.backend.to_host, batch[trial : trial + 1]
    target = population.state_slice.start + post * population.S + state
    own = circuit.backend.asarray(np.eye(1, circuit.n, target, circuit.dtype))
    current = np.zeros(rule.synthesiser.n, bool)
    rule.synthesiser.currents.view(current, population.name)[port, post] = True
    local = CompatibleLocalTrace(rule.synthesiser, rule.gamma, rule.lam)
    local_carry = local.init(1, batch.steps)
    rows: list[list[float]] = []
    before = {"e": np.zeros(circuit.n), "f": np.zeros(circuit.n)}

    def watch(step: Step) -> None:
        nonlocal local_carry, before
        transition = step.transition
        currents = rule.currents(transition, step.end, theta)
        said = rule.arriving(rule.feedback.transition(transition), step.c, currents)
        product = float(host(said)[0] @ before["e"])
        if rule.residual:
            product += float(host(transition.vjp(step.c, "within"))[0] @ before["f"])
        local_carry = local.step(local_carry, transition)
        local_value = float(local.collect(local_carry, own)[place])
        local_carry = local.restart(local_carry, step.end)
        held = step.carry["trace"]
        # a trial that ends is cleared by then: what it held is 0 there, as in the figure of the other class
        e = {"e": host(carried(held))[0, :, place].copy()}
        if rule.residual:
            e["f"] = host(held["f"])[0, :, place].copy()
        q = float(host(rule.synthesiser.flat(currents))[0, current][0])
        y = _seen(circuit, transition, synapse)
        local_value = 0.0 if step.end[0] else local_value
        rows.append([y, float(e["e"][target]), float(np.linalg.norm(e["e"])), local_value, q, product, product - q * y])
        before = e

    watched_steps(circuit, readout, rule, single, theta, keep=False, watch=watch)
    swept = watched_steps(circuit, readout, rule.swept(), single, theta, keep=False)[1].gradients["theta"]
    names = ("presynaptic", "own", "norm", "local", "q", "product", "learned")
    data = {name: ("step", column) for name, column in zip(names, np.array(rows).T, strict=True)}
    data["cumulative"] = ("step", rule.gain * np.cumsum(data.pop("learned")[1]))
    attrs = {"synapse": list(synapse), "forward_view": -float(swept[place]), "gamma": rule.gamma, "lam": rule.lam}
    return xr.Dataset(data, {"step": np.arange(1, len(rows) + 1)}, attrs)


def _place(circuit: Circuit, synapse: Any) -> tuple[int, Any, int, int]:
    """The place of a synapse in Ψ, its target's population, and the port and neuron there."""
    shapes = circuit.layout
    given = tuple(synapse) if isinstance(synapse, Sequence) and not isinstance(synapse, str) else ()
    if not given or not isinstance(given[0], str) or given[0] not in shapes:
        raise ValidationError(
            f"`synapse` must be (projection, port, post, pre) with a projection of {', '.join(shapes)}; "
            f"got {shown(synapse)}"
        )
    name, place = given[0], given[1:]
    right = len(place) == len(shapes[name]) and all(
        isinstance(k, int | np.integer) and not isinstance(k, bool) and 0 <= k < size
        for k, size in zip(place, shapes[name], strict=True)
    )
    if not right:
        ranges = ", ".join(f"0 … {size - 1}" for size in shapes[name])
        raise ValidationError(f"`synapse` of {name} must lie in {ranges}; got {shown(place)}")
    places = shapes.view(np.arange(shapes.size), name)
    population = next(pop for pop in circuit.populations if pop.name == name.rpartition("->")[2])
    ports = next((s.ports for s in circuit.synapses if s.key == name), range(population.P))
    return int(places[place]), population, ports[place[0]], place[1]


def _seen(circuit: Circuit, transition: Any, synapse: Sequence[Any]) -> float:
    """y of this synapse: what its presynaptic neuron sent, or 1 for a bias."""
    for group, sent in zip(circuit.synapses, transition.sent(), strict=True):
        if group.key == synapse[0]:
            return float(sent[0, synapse[-1]])
    return 1.0
