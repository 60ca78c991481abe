"""Deliberately wrong variants of the rule must fail the very checks that the right one passes."""

import numpy as np
import pytest
from truth import case, error_of_online_learning, error_of_summed_updates

import bpl_neuro as bpl
from bpl_neuro.transition import Transition

GAMMA, LAM = 0.9, 0.7
#: far above the 1e-10 that the right rule is held to
CAUGHT = 1e-4


class Wrong(bpl.BPLambda):
    """The right rule, with its inputs or outputs tampered with."""


class KappaInTarget(Wrong):
    def step(self, carry, transition, c, end, theta, learn):
        self.gamma *= self.sg_weight
        try:
            return super().step(carry, transition, c, end, theta, learn)
        finally:
            self.gamma /= self.sg_weight


class NoLoss(Wrong):
    def step(self, carry, transition, c, end, theta, learn):
        return super().step(carry, transition, 0 * c, end, theta, learn)


class EndIgnored(Wrong):
    def step(self, carry, transition, c, end, theta, learn):
        return super().step(carry, transition, c, np.zeros_like(end), theta, learn)


class WrongDecay(Wrong):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.trace.decay *= 0.98


class TraceBeforeUse(Wrong):
    """δ_{t−1} meets e_t instead of e_{t−1}."""

    def step(self, carry, transition, c, end, theta, learn):
        z = self.synthesiser.z(transition)
        ahead = self.trace.step(carry["trace"], transition, z, self.synthesiser(z, theta)[1])
        result = super().step(carry | {"trace": ahead}, transition, c, end, theta, learn)
        result[0]["trace"] = self.trace.restart(ahead, end)
        return result


class WrongJacobian(Wrong):
    """Every J is tampered with on its way into the rule."""

    part = "both"

    def step(self, carry, transition, c, end, theta, learn):
        return super().step(carry, Tampered(transition, self.part), c, end, theta, learn)


class OnlyWithin(WrongJacobian):
    part = "within"


class OnlyBetween(WrongJacobian):
    part = "between"


class Transposed(WrongJacobian):
    part = "transposed"


class Tampered(Transition):
    """A transition whose J is another matrix."""

    def __init__(self, right, part):
        self.__dict__.update(right.__dict__)
        if part == "transposed":
            self.__dict__["J"] = np.swapaxes(right.jacobian(), 1, 2)
        else:
            self.__dict__["J"] = right._dense(part)

    def vjp(self, v, part="both"):
        return np.einsum("bi,bij->bj", v, self.J)

    def jvp(self, M):
        return self.J @ M


class StaleTheta(Wrong):
    """g(s_{t−1}) with θ as it was before the last update."""

    def step(self, carry, transition, c, end, theta, learn):
        older = carry.pop("theta", theta)
        shift = carry["z"] @ (theta - older).T * carry["started"][:, None]
        # δ with the older θ is δ plus the difference of the two predictions.
        trace, original = self.trace, self.trace.collect
        trace.collect = lambda held, delta: original(held, delta + shift)
        try:
            new, signals, gradient = super().step(carry, transition, c, end, theta, learn)
        finally:
            trace.collect = original
        return new | {"theta": theta}, signals, gradient


@pytest.mark.parametrize(
    "wrong",
    [KappaInTarget, NoLoss, EndIgnored, WrongDecay, TraceBeforeUse, OnlyWithin, OnlyBetween, Transposed],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.parametrize("model", ["adapting", "lstm"])
def test_the_forward_view_catches(model, wrong):
    circuit, readout, unit, data, theta = case(model, "gaps")
    rule = wrong(unit, gamma=GAMMA, lam=LAM, sg_weight=0.5)
    assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, GAMMA, LAM) > CAUGHT


@pytest.mark.parametrize("model", ["adapting", "lstm"])
def test_the_forward_view_catches_a_wrong_lambda(model):
    circuit, readout, unit, data, theta = case(model, "gaps")
    rule = bpl.BPLambda(unit, gamma=GAMMA, lam=LAM + 0.02)
    assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, GAMMA, LAM) > CAUGHT


@pytest.mark.parametrize("model", ["linear", "adapting", "lstm"])
def test_equality_at_lambda_zero_catches_a_stale_theta(model):
    circuit, readout, unit, data, theta = case(model, T=8)
    arguments = (circuit, readout, unit, data, theta, 0.95, 0.0, 0.1)
    assert error_of_online_learning(bpl.BPLambda(unit, gamma=0.95, lam=0.0), *arguments) < 1e-10
    assert error_of_online_learning(StaleTheta(unit, gamma=0.95, lam=0.0), *arguments) > CAUGHT


def test_the_slope_alone_would_not_catch_a_stale_theta():
    """Why the equality at λ = 0 is tested besides the slope."""
    circuit, readout, unit, data, theta = case("leaky_tanh", T=8)
    alphas = np.logspace(-5, -3, 5)
    rule = StaleTheta(unit, gamma=0.95, lam=0.9)
    errors = [error_of_online_learning(rule, circuit, readout, unit, data, theta, 0.95, 0.9, a) for a in alphas]
    assert 0.9 < np.polyfit(np.log(alphas), np.log(errors), 1)[0] < 1.1
