"""Checks of the compatible synthesiser, and of least squares, that wrong forms of them must fail."""

import numpy as np
from compatible import error_of_learning, error_of_local, error_of_sums, learned, make, setting, several
from truth import case, off

import bpl_neuro as bpl

#: far above what the right ones are held to
CAUGHT = 1e-6
OPTIONS = {"lam": 0.5, "gamma": 0.8, "sg_weight": 0.6}


def frozen(kind="alone", trace="full", model="cerebellar", **options):
    """Sums with frozen parameters; cerebellar has missing synapses, whose θ is not zero."""
    circuit, readout, unit, data, theta = setting(model, "gaps")
    rule = make(unit, kind, trace=trace, **OPTIONS, **options)
    return max(error_of_sums(rule, circuit, readout, data, theta).values())


def online(kind="alone", trace="full", squares=None, model="cerebellar", every=1, **options):
    """Everything learns at every step."""
    circuit, readout, unit, _, theta = setting(model)
    data = several(circuit, readout, 0, B=2, T=8)
    rule = make(unit, kind, trace=trace, **OPTIONS, **options)
    return max(error_of_learning(rule, circuit, readout, data, theta, every, squares).values())


def squares(**keywords):
    return online(squares=(0.7, 1e-2), **keywords)


def weighted():
    return frozen(model="adapting", continuous_time=True)


def forms_of_the_papers_class():
    """One update by least squares, through the trace and through a sweep; and where dt weights all."""
    circuit, readout, unit, *_ = case("adapting")
    data = several(circuit, readout, 1, B=20, T=6)
    found = [
        learned(rule, circuit, readout, data, np.zeros(unit.layout.size), {"theta": bpl.RLS(0.0, 1e-6)}, None).theta
        for rule in (
            bpl.BPLambda(unit, trace="sweep"), bpl.BPLambda(unit, trace="full"),
            bpl.BPLambda(unit, trace="sweep", continuous_time=True),
        )
    ]  # fmt: skip
    return max(off(other, found[0]) for other in found[1:])


def local():
    return error_of_local("adapting", 0.4)


def through_a_feedback():
    """The sweep of the residual form is its full trace."""
    circuit, readout, unit, data, theta = setting("ei", "gaps")
    found = [
        bpl.batch_updates(
            circuit, readout, make(unit, "residual", trace=t, feedback="sign", **OPTIONS), data, theta
        ).gradients["theta"]
        for t in ("full", "sweep")
    ]
    return off(found[1], found[0])


def all_checks():
    for kind in ("alone", "late", "late, discounted", "residual", "residual, discounted"):
        for trace in ("full", "lazy", "sweep"):
            yield frozen(kind, trace)
        for trace in ("full", "lazy"):
            yield online(kind, trace)
    yield from (squares(), squares(every=3), weighted(), local(), forms_of_the_papers_class(), through_a_feedback())


class Mistakes(list):
    """Pairs of a mistake, which is a function of `monkeypatch`, and a check that must catch it."""

    def by(self, *checks):
        """A decorator that adds a mistake, to be caught by each of these."""

        def kept(function):
            self.extend((function, check) for check in checks)
            return function

        return kept

    @property
    def names(self):
        return [f"{wrong.__name__}-{check.__name__}" for wrong, check in self]


def each(check, *pairs):
    """A check with some (kind, trace)."""
    made = []
    for kind, trace in pairs:
        made.append(lambda kind=kind, trace=trace: check(kind, trace))
        made[-1].__name__ = f"{check.__name__}-{kind}-{trace}"
    return made
