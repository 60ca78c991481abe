"""Deliberately wrong variants of the rule must fail the very checks that the right one passes."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from helpers import NONLINEAR, errors_of_learning_online, with_trials
from truth import case, error_of_online_learning, error_of_summed_updates

import bpl_neuro as bpl
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.train.state import copied

GAMMA, LAM = 0.9, 0.7
#: far above the 1e-10 that the right rule is held to
CAUGHT = 1e-4
#: the same where the right rule is held to 1e-12 and parameters move little from one step to the next
CAUGHT_ONLINE = 1e-5


class Wrong(bpl.BPLambda):
    """The right rule, with its inputs or outputs tampered with."""


class KappaInTarget(Wrong):
    def td_error(self, *arguments):
        other = copy.copy(self)
        other.gamma *= self.sg_weight
        return bpl.BPLambda.td_error(other, *arguments)


class NoLoss(Wrong):
    def collect(self, carry, transition, c, end, theta):
        return super().collect(carry, transition, 0 * c, end, theta)

    def step(self, carry, transition, c, end, theta):
        return super().step(carry, transition, 0 * c, end, theta)


class EndIgnored(Wrong):
    def collect(self, carry, transition, c, end, theta):
        return super().collect(carry, transition, c, np.zeros_like(end), theta)

    def step(self, carry, transition, c, end, theta):
        return super().step(carry, transition, c, np.zeros_like(end), theta)


class WrongDecay(Wrong):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.trace.decay *= 0.98


class TraceBeforeUse(Wrong):
    """δ_{t−1} meets e_t instead of e_{t−1}."""

    def collect(self, carry, transition, c, end, theta):
        response = self.synthesiser(self.synthesiser.z(transition), theta)
        ahead = self.trace.step(copied(carry["trace"]), transition, response)
        return super().collect(carry | {"trace": ahead}, transition, c, end, theta)


class WrongJacobian(Wrong):
    """Every J is tampered with on its way into the rule."""

    part = "both"

    def collect(self, carry, transition, c, end, theta):
        return super().collect(carry, Tampered(transition, self.part), c, end, theta)

    def step(self, carry, transition, c, end, theta):
        return super().step(carry, Tampered(transition, self.part), c, end, theta)


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

    def back(self, u, part="both"):
        return self.wiring.split(self.vjp(self.wiring.join(u)))

    def jacobian(self):
        return self.J.copy()


class Remembering(Wrong):
    """Has θ as the update of the step before left it, which is θ before the update of this one."""

    def step(self, carry, transition, c, end, theta):
        new, signals, gradient = super().step(carry, transition, c, end, theta)
        return new | {"theta": theta, "older": carry.get("theta", theta)}, signals, gradient


class StaleTheta(Remembering):
    """g(s_{t−1}) with θ as it was before the last update."""

    def td_error(self, carry, transition, c, end, theta):
        fresh, stale = (self.synthesiser(carry["z"], used).g for used in (theta, carry.get("older", theta)))
        return super().td_error(carry, transition, c, end, theta) + carry["started"][:, None] * (fresh - stale)


@pytest.mark.parametrize(
    "wrong",
    [KappaInTarget, NoLoss, EndIgnored, WrongDecay, TraceBeforeUse, OnlyWithin, OnlyBetween, Transposed],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.parametrize("model", ["adapting", "lstm"])
def test_the_forward_view_catches(model, wrong):
    circuit, readout, unit, data, theta = case(model, "gaps")
    rule = wrong(unit, gamma=GAMMA, lam=LAM, sg_weight=0.5, trace="full")
    assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, GAMMA, LAM) > CAUGHT


@pytest.mark.parametrize("model", ["adapting", "lstm"])
def test_the_forward_view_catches_a_wrong_lambda(model):
    circuit, readout, unit, data, theta = case(model, "gaps")
    rule = bpl.BPLambda(unit, gamma=GAMMA, lam=LAM + 0.02, trace="full")
    assert error_of_summed_updates(rule, circuit, readout, unit, data, theta, GAMMA, LAM) > CAUGHT


@pytest.mark.parametrize("model", ["linear", "adapting", "lstm"])
def test_equality_at_lambda_zero_catches_a_stale_theta(model):
    circuit, readout, unit, data, theta = case(model, T=8)
    arguments = (circuit, readout, unit, data, theta, 0.95, 0.0, 0.1)
    right, wrong = (rule(unit, gamma=0.95, lam=0.0, trace="full") for rule in (bpl.BPLambda, StaleTheta))
    assert error_of_online_learning(right, *arguments) < 1e-10
    assert error_of_online_learning(wrong, *arguments) > CAUGHT


def test_the_slope_alone_would_not_catch_a_stale_theta():
    """Why the equality at λ = 0 is tested besides the slope."""
    circuit, readout, unit, data, theta = case("leaky_tanh", T=8)
    alphas = np.logspace(-5, -3, 5)
    rule = StaleTheta(unit, gamma=0.95, lam=0.9, trace="full")
    errors = [error_of_online_learning(rule, circuit, readout, unit, data, theta, 0.95, 0.9, a) for a in alphas]
    assert 0.9 < np.polyfit(np.log(alphas), np.log(errors), 1)[0] < 1.1


class StaleCredit(Remembering):
    """The circuit hears g(s_t) with the θ before this step's update."""

    def step(self, carry, transition, c, end, theta):
        new, signals, _ = super().step(carry, transition, c, end, theta)
        g = self.synthesiser(self.synthesiser.z(transition), new["older"]).g
        return new, signals, transition.parameter_gradient(c + self.sg_weight * ~end[:, None] * g)


class CreditPastTheEnd(Wrong):
    """The circuit hears g(s_t) at a trial's last step too."""

    def step(self, carry, transition, c, end, theta):
        new, signals, _ = super().step(carry, transition, c, end, theta)
        g = self.synthesiser(self.synthesiser.z(transition), theta).g
        return new, signals, transition.parameter_gradient(c + self.sg_weight * g)


class TraceCarriedOn(Wrong):
    """The trace outlives its trial."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.trace.restart = lambda held, end: held


class FirstStepNotSpared(Wrong):
    """A trial's first step has a δ, against the trial before."""

    def collect(self, carry, transition, c, end, theta):
        return super().collect(carry | {"started": np.ones_like(end)}, transition, c, end, theta)


class StaleSlope(Wrong):
    """∂g/∂θ is taken at the θ before this step's update."""

    def step(self, carry, transition, c, end, theta):
        before = self.synthesiser(self.synthesiser.z(transition), carry.get("theta", theta)).slope
        trace, other = copy.copy(self.trace), copy.copy(self)
        trace.step = lambda held, transition, now: self.trace.step(held, transition, now._replace(slope=before))
        other._trace = trace
        new, signals, gradient = bpl.BPLambda.step(other, carry, transition, c, end, theta)
        return new | {"theta": theta}, signals, gradient


class StaleWeights(Wrong):
    """J is that of the step, but made with the weights of one step before."""

    def collect(self, carry, transition, c, end, theta):
        return super().collect(carry, self.stale(carry, transition), c, end, theta)

    def step(self, carry, transition, c, end, theta):
        new, signals, gradient = super().step(carry, self.stale(carry, transition), c, end, theta)
        # copies: what Ψ was is a buffer that a later update writes into
        return new | {"weights": {key: W.copy() for key, W in transition.weights.items()}}, signals, gradient

    def stale(self, carry, transition):
        return replace(transition, weights=carry.get("weights", transition.weights))


class Right(Wrong):
    """Nothing is tampered with: the scaffolding of the others gives the right numbers."""


#: wrong rule → the parameter it must be caught at
CAUGHT_AT = {
    StaleTheta: "theta", StaleCredit: "psi", CreditPastTheEnd: "psi", TraceCarriedOn: "theta", StaleSlope: "theta",
    StaleWeights: "theta", KappaInTarget: "theta", NoLoss: "theta", WrongDecay: "theta", TraceBeforeUse: "theta",
    EndIgnored: "psi", OnlyWithin: "theta", OnlyBetween: "theta", Transposed: "theta",
}  # fmt: skip


def setting(model, rule):
    circuit, readout, unit, *_ = case(model)
    data, theta = with_trials(circuit, readout, unit, np.random.default_rng(3))
    return rule(unit, gamma=GAMMA, lam=LAM, sg_weight=0.6, trace="full"), circuit, readout, unit, data, theta


@pytest.mark.parametrize(
    ("model", "wrong"),
    # The slope of the LSTM's linear synthesiser does not depend on θ: there, a stale one is no mistake.
    [
        (model, wrong)
        for model in ("nonlinear", "lstm")
        for wrong in CAUGHT_AT
        if (model, wrong) != ("lstm", StaleSlope)
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_algorithm_written_out_catches(model, wrong):
    """While everything learns at every step, one wrong ingredient shows within a batch, at what it concerns."""
    model = bpl.Model.from_toml(NONLINEAR) if model == "nonlinear" else model
    assert max(errors_of_learning_online(*setting(model, Right)).values()) < 1e-12
    assert errors_of_learning_online(*setting(model, wrong))[CAUGHT_AT[wrong]] > CAUGHT_ONLINE


def test_a_delta_at_the_first_step_is_harmless_because_the_trace_is_empty():
    """Not every deviation matters: a δ before the first step meets e = 0. What the checks let through, they should."""
    assert max(errors_of_learning_online(*setting("lstm", FirstStepNotSpared)).values()) < 1e-12
