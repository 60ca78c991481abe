"""An endless stream is the same stream however it is cut, saved on the way, or interfered with."""

import numpy as np
import pytest
from truth import off

import bpl_neuro as bpl
from bpl_neuro import interventions

RNG = np.random.default_rng(0)
STEPS = 36
X, Y = RNG.normal(size=(3, STEPS, 2)), RNG.normal(size=(3, STEPS, 2))
END, MASK = RNG.random((3, STEPS)) < 0.1, RNG.random((3, STEPS)) * (RNG.random((3, STEPS)) < 0.7)
#: a trace that follows a stream, and its options
TRACES = [("full", {}), ("local", {}), ("leak", {}), ("lazy", {"window": 5}), ("lazy", {"window": 1})]
SCHEDULES = [{}, {"update_every": 3}, {"update_every": 5, "error_delay": 2}]


#: and of a synthesiser that is compatible with the circuit
COMPATIBLE = [
    ("full", {}), ("local", {}), ("lazy", {"window": 5}),
    ("full", {"residual": True}), ("lazy", {"window": 1, "residual": True}),
]  # fmt: skip


def trainer(model, trace, options, compatible=False, **keywords):
    circuit = bpl.Circuit(model, dict.fromkeys(bpl.Model.load(model).populations, 4), 2, seed=0)
    optimiser = bpl.Adam(1e-2)
    if compatible:  # one that looks at the residual with e-prop, one that does not
        name = "bp_lambda_eprop" if "residual" in options else "bp_lambda"
        unit = bpl.Synthesiser(circuit, target="current")
        optimiser = {"psi": optimiser, "phi": optimiser, "theta": bpl.RLS(0.97, 1e-2)}
    else:
        name, unit = "bp_lambda", bpl.Synthesiser(circuit)
    rule = bpl.make_rule(name, unit, gamma=0.9, lam=0.9, trace=trace, **options)
    readout = bpl.Readout(circuit, 2, seed=1)
    return bpl.Trainer(circuit, readout, rule, schedule="step", optimiser=optimiser, **keywords)


def pieces(cuts):
    """The stream in pieces of these lengths."""
    for start, stop in zip(np.cumsum([0, *cuts[:-1]]), np.cumsum(cuts), strict=True):
        part = slice(start, stop)
        yield bpl.Batch(X[:, part], Y[:, part], MASK[:, part], END[:, part], stream=True)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("keywords", SCHEDULES, ids=str)
@pytest.mark.parametrize(
    ("model", "trace", "options", "compatible"),
    [
        *((model, *form, False) for model in ("cerebellar", "lstm") for form in TRACES),
        *((model, *form, True) for model, forms in (("ei", COMPATIBLE), ("lstm", COMPATIBLE[:1])) for form in forms),
    ],
    ids=str,
)
def test_cut_anywhere_it_teaches_the_same_to_the_bit(model, trace, options, compatible, keywords, saved, tmp_path):
    keywords = {**keywords, "compatible": compatible}
    whole = trainer(model, trace, options, **keywords)
    whole.train_batch(*pieces([STEPS]))
    cut = trainer(model, trace, options, **keywords)
    for piece in pieces([7, 1, 19, 9]):
        cut.train_batch(piece)
        if saved:
            cut.save(tmp_path / "c.npz")
            cut = trainer(model, trace, options, **keywords).restore(tmp_path / "c.npz")
    for name in ("psi", "phi", "theta"):
        assert (cut.parameter(name) == whole.parameter(name)).all()
        assert (whole.parameter(name) != trainer(model, trace, options, **keywords).parameter(name)).any()
    if compatible:
        assert (cut.state.moments["theta"]["R"] == whole.state.moments["theta"]["R"]).all()


@pytest.mark.parametrize("compatible", [None, {}, {"residual": True}], ids=str)
@pytest.mark.parametrize("what", ["lesion", "freeze", "scramble", "rotate", "clamp:exc:1:0.3", "silence:exc->inh"])
def test_an_intervention_on_the_way_is_the_same_for_the_lazy_trace_as_for_the_full_one(what, compatible):
    learned = []
    for trace, options in (("full", {}), ("lazy", {"window": STEPS})):
        t = trainer("ei", trace, options | (compatible or {}), compatible is not None)
        for k, piece in enumerate(pieces([12, 12, 12])):
            t.train_batch(piece)
            if k == 0:
                interventions.apply(t, what)
        learned.append(t)
    for name in ("psi", "phi", "theta"):
        assert off(learned[1].parameter(name), learned[0].parameter(name)) < (1e-12 if compatible is None else 1e-9)
