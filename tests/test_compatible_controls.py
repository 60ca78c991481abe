"""Deliberately wrong forms of the compatible synthesiser fail the checks that the right one passes."""

from dataclasses import replace

import numpy as np
import pytest
from controls import CAUGHT, Mistakes, all_checks, each, frozen, local, online, squares, through_a_feedback, weighted

from bpl_neuro.circuit.compatible import CompatibleSynthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.rules import bp_lambda_eprop
from bpl_neuro.rules import compatible as rules
from bpl_neuro.rules.traces import compatible as traces
from bpl_neuro.rules.traces.lazy import KeptSteps
from bpl_neuro.train.state import copied

Rule, EProp, Full, Lazy = (
    rules.CompatibleBPLambda, rules.CompatibleBPLambdaEProp, traces.CompatibleFullTrace, traces.CompatibleLazyTrace,
)  # fmt: skip
MISTAKES = Mistakes()
mistake = MISTAKES.by


def test_the_right_one_passes():
    assert max(all_checks()) < 1e-9


ALL = [(kind, trace) for kind in ("alone", "residual") for trace in ("full", "lazy", "sweep")]


def arriving(part, share):
    def wrong(self, back, c, currents):
        found = back.vjp(c, part(self))
        return found + share(self) * back.back_from_inputs(currents)

    return wrong


def usual(self):
    return "between" if self.residual else "both"


@mistake(*each(frozen, *ALL))
def no_bootstrap(patch):
    patch.setattr(Rule, "arriving", arriving(usual, lambda s: 0))


@mistake(*each(frozen, *ALL))
def a_bootstrap_that_is_not_discounted(patch):
    patch.setattr(Rule, "arriving", arriving(usual, lambda s: 1 - s.lam))


@mistake(*each(frozen, *ALL))
def a_bootstrap_that_lambda_does_not_weigh(patch):
    patch.setattr(Rule, "arriving", arriving(usual, lambda s: s.gamma))


@mistake(*each(frozen, *ALL))
def kappa_in_the_target(patch):
    patch.setattr(Rule, "arriving", arriving(usual, lambda s: s.sg_weight * s.gamma * (1 - s.lam)))


@mistake(*each(frozen, *ALL[:3]))
def a_loss_that_passes_synapses_alone(patch):
    patch.setattr(Rule, "arriving", arriving(lambda s: "between", lambda s: s.gamma * (1 - s.lam)))


@mistake(*each(frozen, *ALL[3:]))
def a_residual_that_learns_all(patch):
    patch.setattr(Rule, "arriving", arriving(lambda s: "both", lambda s: s.gamma * (1 - s.lam)))


@mistake(*each(frozen, *ALL), *each(online, *ALL[:2]))
def a_prediction_past_the_end(patch):
    def wrong(self, transition, end, theta):
        return self.synthesiser(self.synthesiser.z(transition), theta)

    patch.setattr(Rule, "currents", wrong)


@mistake(*each(frozen, ("alone", "full"), ("residual", "lazy")))
def a_prediction_that_is_not_taken_off(patch):
    def wrong(self, carry, transition, c, end, theta):
        found = right(self, carry, transition, c, end, theta)
        return found - transition.gradient_from_inputs(self.currents(transition, end, theta))

    right = Rule.collect
    patch.setattr(Rule, "collect", wrong)


@mistake(*each(frozen, ("alone", "full"), ("alone", "lazy"), ("residual", "full")))
def a_trace_of_the_wrong_step(patch):
    def wrong(self, carry, transition, c, end, theta):
        ahead = self.trace.step(copied(carry["trace"]), transition, None)
        return right(self, carry | {"trace": ahead}, transition, c, end, theta)

    right = Rule.collect
    patch.setattr(Rule, "collect", wrong)


def remembering(patch, use):
    """θ of the step before: given to `collect` at the next step, or that of `collect` given to `step`."""
    kept, collect, step = {}, Rule.collect, Rule.step

    def wrong_collect(self, carry, transition, c, end, theta):
        older, kept["now"] = kept.get("older", theta), theta
        return collect(self, carry, transition, c, end, older if use == "collect" else theta)

    def wrong_step(self, carry, transition, c, end, theta):
        kept["older"] = kept["now"]
        return step(self, carry, transition, c, end, kept["now"] if use == "step" else theta)

    patch.setattr(Rule, "collect", wrong_collect)
    patch.setattr(Rule, "step", wrong_step)


@mistake(online, squares)
def a_stale_theta_in_the_target(patch):
    remembering(patch, "collect")


@mistake(online, squares)
def a_circuit_that_hears_theta_before_the_update(patch):
    remembering(patch, "step")


@mistake(*each(frozen, *ALL))
def lambda_on_a_neurons_own_past(patch):
    def wrong(self, share):
        return replace(self, A=tuple({key: share * a for key, a in A.items()} for A in self.A))

    patch.setattr(Transition, "coupled", wrong)

    def both_back(self, carry, k, parts, own):
        return wrong_back(self, carry, k, parts, own, self.lam, 1.0)

    patch.setattr(Lazy, "_both_back", both_back)


def wrong_back(self, carry, k, parts, own, within, between, heard=1.0, alone=1.0):
    """γ (within u A + (between u + heard w) O), γ alone w A."""
    sums = [[within * u for u in s] for s in self.one_back(carry, k, parts, "within")]
    through = [[between * u for u in s] for s in parts]
    if own is not None:
        through = [[u + heard * w for u, w in zip(*pair, strict=True)] for pair in zip(through, own, strict=True)]
        own = [[alone * w for w in s] for s in self.one_back(carry, k, own, "within")]
    carried = self.one_back(carry, k, through, "between")
    return [[u + v for u, v in zip(*pair, strict=True)] for pair in zip(sums, carried, strict=True)], own


@mistake(*each(frozen, *ALL))
def no_lambda_on_what_passes_synapses(patch):
    patch.setattr(Transition, "coupled", lambda self, share: self)
    patch.setattr(Lazy, "_both_back", lambda self, *a: wrong_back(self, *a, 1.0, 1.0))


@mistake(*each(frozen, ("residual", "lazy")), *each(online, ("residual", "lazy")))
def what_e_prop_carries_weighed_by_lambda(patch):
    patch.setattr(Lazy, "_both_back", lambda self, *a: wrong_back(self, *a, 1.0, self.lam, self.lam))


@mistake(*each(frozen, ("residual", "lazy")))
def what_e_prop_carries_for_one_step_alone(patch):
    patch.setattr(Lazy, "_both_back", lambda self, *a: wrong_back(self, *a, 1.0, self.lam, 1.0, 0.0))


def second_trace(patch, passing, decay=True):
    def wrong(self, carry, transition, response=None):
        before = traces.carried(carry).copy()
        f = transition.within() @ carry["f"] + passing(self) * transition.between() @ before
        return right(self, carry, transition) | {"f": f * (self.decay if decay else 1)}

    right = Full.step
    patch.setattr(Full, "step", wrong)


@mistake(*each(frozen, ("residual", "full")))
def a_second_trace_without_a_source(patch):
    second_trace(patch, lambda self: 0)


@mistake(*each(frozen, ("residual", "full")), *each(online, ("residual", "full")))
def a_second_trace_that_lambda_weighs(patch):
    second_trace(patch, lambda self: self.lam)


@mistake(*each(frozen, ("residual", "full")))
def a_second_trace_that_is_not_discounted(patch):
    second_trace(patch, lambda self: 1, decay=False)


@mistake(*each(frozen, *[(kind, trace) for kind, trace in ALL if trace != "sweep"]))
def a_trace_that_is_not_discounted(patch):
    made = Rule.made

    def wrong(self, *arguments):
        found = made(self, *arguments)
        found.decay = 1.0
        return found

    patch.setattr(Rule, "made", wrong)


@mistake(*each(frozen, ("alone", "full"), ("residual", "lazy")), online)
def a_trace_that_outlives_its_trial(patch):
    for form in (Full, Lazy):
        patch.setattr(form, "restart", lambda self, carry, end: carry)


@mistake(*each(online, ("alone", "lazy"), ("residual", "lazy")))
def a_lazy_trace_with_the_weights_of_now(patch):
    def wrong(self, carry, transition, k, held):
        right(self, carry, transition, k, held)
        for rows in carry["weights"]:
            rows[...] = rows[int(carry["number"][k])]

    right = KeptSteps._keep_weights
    patch.setattr(KeptSteps, "_keep_weights", wrong)


@mistake(local)
def a_local_trace_without_the_synapse_onto_itself(patch):
    patch.setattr(traces, "own_past_and_self_synapse", traces.own_past)


@mistake(local)
def a_synapse_onto_itself_that_lambda_does_not_weigh(patch):
    patch.setattr(Transition, "coupled", lambda self, share: self)


@mistake(*each(frozen, ("residual", "sweep"), ("residual", "lazy")))
def no_memory_of_its_own(patch):
    patch.setattr(rules, "_own_memory", lambda trajectory, gamma: 0 * trajectory.c)
    collect = Lazy.collect
    patch.setattr(
        Lazy, "collect", lambda self, carry, said, own=None, mask=None: collect(self, carry, said, None, mask)
    )


@mistake(through_a_feedback)
def own_memory_through_the_feedback(patch):
    memory, right = rules._own_memory, Rule.arriving

    def wrong(self, back, c, currents):
        own = self.gamma * memory(back, self.gamma) if hasattr(back, "moved") else 0  # of the sweep
        return right(self, back, c + own, currents)

    patch.setattr(rules, "_own_memory", lambda trajectory, gamma: 0 * trajectory.c)
    patch.setattr(Rule, "arriving", wrong)


@mistake(*each(frozen, *ALL))
def a_prediction_from_synapses_that_are_not_there(patch):
    call = CompatibleSynthesiser.__call__
    patch.setattr(CompatibleSynthesiser, "__call__", lambda self, z, theta: call(self, z._replace(mask=None), theta))


@mistake(*each(frozen, ("alone", "lazy"), ("residual", "lazy")))
def a_correlation_of_synapses_that_are_not_there(patch):
    collect = Lazy.collect
    patch.setattr(Lazy, "collect", lambda self, carry, said, own=None, mask=None: collect(self, carry, said, own))


@mistake(*each(frozen, *ALL[:2], ("residual", "full"), ("late", "full"), ("late", "sweep")))
def a_circuit_that_kappa_does_not_reach(patch):
    patch.setattr(Rule, "prospective", lambda self, q: list(q))


@mistake(*each(frozen, *[("late, discounted", trace) for trace in ("full", "sweep")]))
def a_late_prediction_that_is_not_discounted(patch):
    def wrong(self, back, c, heard):
        found = back.vjp(c, "between") + self.through(back, heard)
        return found + self.discounting(back, c)

    patch.setattr(bp_lambda_eprop.BPLambdaEProp, "late", wrong)


@mistake(
    *each(frozen, ("late, discounted", "full"), ("residual, discounted", "full"), ("residual, discounted", "sweep"))
)
def no_discounting_of_what_e_prop_carries(patch):
    patch.setattr(EProp, "discounting", lambda self, back, c: None)


@mistake(*each(frozen, ("residual", "full"), ("residual, discounted", "lazy")))
def a_residual_that_the_circuit_does_not_hear(patch):
    def wrong(self, carry, transition, c, heard, end):
        gradient, moved = right(self, carry, transition, c, heard, end)
        return gradient - transition.gradient_from_inputs(heard), moved

    right = EProp.assign_currents
    patch.setattr(EProp, "assign_currents", wrong)


@mistake(weighted)
def a_correlation_that_dt_does_not_weigh(patch):
    init = Rule.__init__

    def wrong(self, *arguments, **keywords):
        init(self, *arguments, **keywords)
        self.gain = np.float64(1.0)

    patch.setattr(Rule, "__init__", wrong)
    patch.setattr("compatible.sums_by_definition", scaled(0.001))


def scaled(dt):
    """The definition, with the dt that the tampered rule has forgotten."""
    from dense import sums_by_definition

    def found(rule, circuit, *others):
        sums = sums_by_definition(rule, circuit, *others)
        return sums | {"theta": circuit.model.dt * sums["theta"]}

    return found


@pytest.mark.parametrize(("wrong", "check"), MISTAKES, ids=MISTAKES.names)
def test_caught(wrong, check, monkeypatch):
    wrong(monkeypatch)
    assert check() > CAUGHT
