"""Deliberately wrong forms of recursive least squares fail the checks that the right one passes."""

from dataclasses import replace

import numpy as np
import pytest
from compatible import learned, make, setting, several
from controls import CAUGHT, OPTIONS, Mistakes, forms_of_the_papers_class, squares
from truth import off

import bpl_neuro as bpl
from bpl_neuro.circuit.regression import Regression
from bpl_neuro.rules.synthetic import SyntheticGradientRule
from bpl_neuro.train import updates

MISTAKES = Mistakes()
mistake = MISTAKES.by


def tampered(patch, **changes):
    """RLS with another R on its way in, or another ridge."""

    def wrong(self, backend, parameter, gradient, state, *, moment, regression, mask=None):
        state, moment, own = dict(state), moment.copy(), self
        if "moment" in changes:
            state["R"], moment = changes["moment"](self, state["R"], moment)
            own = replace(self, forget=1.0)
        if "gradient" in changes:
            gradient = changes["gradient"](gradient)
        if "mask" in changes:
            mask = None
        new, held = right(own, backend, parameter, gradient, state, moment=moment, regression=regression, mask=mask)
        return new, held

    right = bpl.RLS.step
    patch.setattr(bpl.RLS, "step", wrong)


@mistake(squares)
def a_forgetting_of_what_has_just_been_seen(patch):
    tampered(patch, moment=lambda rls, R, moment: (rls.forget * R, rls.forget * moment))


@mistake(squares)
def nothing_forgotten(patch):
    tampered(patch, moment=lambda rls, R, moment: (R, moment))


@mistake(squares)
def all_forgotten(patch):
    tampered(patch, moment=lambda rls, R, moment: (0 * R, moment))


@mistake(squares)
def the_wrong_sign(patch):
    tampered(patch, gradient=lambda gradient: -gradient)


@mistake(squares)
def rows_that_lack_synapses_solved_on_all(patch):
    tampered(patch, mask=None)


@mistake(squares)
def a_ridge_that_is_not_relative(patch):
    """ρ in the place of ρ tr(R)/m: the trace of every system is m."""
    systems = Regression.matrices
    patch.setattr(Regression, "matrices", lambda self, flat: [Unscaled(R) for R in systems(self, flat)])


class Unscaled(np.ndarray):
    def __new__(cls, R):
        return np.asarray(R).view(cls)

    def trace(self, *arguments, **keywords):
        return float(len(self))


@mistake(squares)
def a_ridge_by_the_sum_of_the_diagonal(patch):
    class Summed(Unscaled):
        def trace(self, *arguments, **keywords):
            return len(self) * float(np.trace(np.asarray(self)))

    systems = Regression.matrices
    patch.setattr(Regression, "matrices", lambda self, flat: [Summed(R) for R in systems(self, flat)])


@mistake(squares)
def ends_of_trials_among_what_was_seen(patch):
    moment = SyntheticGradientRule.moment
    patch.setattr(SyntheticGradientRule, "moment", lambda self, step, end: moment(self, step, np.zeros_like(end)))


@mistake(forms_of_the_papers_class)
def moments_that_dt_does_not_weigh(patch):
    moment = SyntheticGradientRule.moment
    patch.setattr(SyntheticGradientRule, "moment", lambda self, *a: moment(self, *a) / self.gain)


@mistake(forms_of_the_papers_class)
def a_first_step_that_was_never_seen(patch):
    right = updates.Updates.receive_theta

    def wrong(self, rule, gradient, *others):
        if gradient is not None:
            right(self, rule, gradient, *others)

    patch.setattr(updates.Updates, "receive_theta", wrong)


def three_steps():
    return squares(every=3)


@mistake(three_steps)
def moments_of_the_last_step_alone(patch):
    right = updates.Updates.receive_theta

    def wrong(self, *arguments):
        self.state.sums.pop("moment", None)
        right(self, *arguments)

    patch.setattr(updates.Updates, "receive_theta", wrong)


@pytest.mark.parametrize(("wrong", "check"), MISTAKES, ids=MISTAKES.names)
def test_caught(wrong, check, monkeypatch):
    wrong(monkeypatch)
    assert check() > CAUGHT


def test_a_forgetting_is_told_from_one_a_hundredth_off():
    circuit, readout, unit, _, theta = setting("ei")
    data = several(circuit, readout, 0, B=2, T=8)
    rule = make(unit, trace="full", **OPTIONS)
    found = [learned(rule, circuit, readout, data, theta, {"theta": bpl.RLS(f, 1e-2)}).theta for f in (0.7, 0.71)]
    assert off(found[1], found[0]) > CAUGHT
