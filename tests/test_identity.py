"""What makes a description another one is in its identity, by name; what is only written otherwise is not."""

import itertools
import json
import warnings

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.identity import describe, differences, fingerprint
from bpl_neuro.train.history_file import history_path
from bpl_neuro.train.optimisers import CosineDecay, ExponentialDecay

TEXT = """
title = "Two areas"
[populations.exc]
equations = '''
dx/dt = (-x + w * u) / tau : 1
r = tanh(x) : 1
u : 1
tau : second
w : 1
'''
method = "exponential_euler"
rate = "r"
inputs = ["u"]
parameters = { tau = "10*ms", w = 2 }
initial = { x = 0.1 }
[[projections]]
from = "exc"
to = "exc"
delay = "2*ms"
[[projections]]
from = "input"
to = "exc"
plastic = false
[time]
dt = "1*ms"
[synthesiser]
equations = "g = v : 1\\nv : 1"
rate = "g"
inputs = ["v"]
"""


def swapped(old, new):
    assert old in TEXT
    return bpl.Model.from_toml(TEXT.replace(old, new))


SAME = {
    "title": lambda: swapped('"Two areas"', '"Another title"'),
    "a comment": lambda: swapped("[populations.exc]", "# a comment\n[populations.exc]"),
    "a comment in the equations": lambda: swapped("r = tanh(x) : 1", "r = tanh(x) : 1  # sent"),
    "whitespace": lambda: swapped("(-x + w * u)", "( -x+w*u )"),
    "order of terms": lambda: swapped("(-x + w * u)", "(u * w - x)"),
    "order of keys": lambda: swapped('rate = "r"\ninputs = ["u"]', 'inputs = ["u"]\nrate = "r"'),
    "order of lines": lambda: swapped("tau : second\nw : 1", "w : 1\ntau : second"),
    "order of parameters": lambda: swapped('tau = "10*ms", w = 2', 'w = 2.0, tau = "0.01*second"'),
    "the same time": lambda: swapped('dt = "1*ms"', 'dt = "0.001*second"'),
}  # fmt: skip


def model():
    return bpl.Model.from_toml(TEXT)


@pytest.mark.parametrize("what", SAME)
def test_how_a_model_is_written_makes_no_difference(what):
    assert list(differences(model().identity(), SAME[what]().identity())) == []
    assert fingerprint(model().identity()) == fingerprint(SAME[what]().identity())


def test_a_name_for_a_part_of_an_equation_makes_no_difference():
    named = TEXT.replace("(-x + w * u)", "(-x + received)").replace("u : 1\ntau", "received = w * u : 1\nu : 1\ntau")
    assert fingerprint(bpl.Model.from_toml(named).identity()) == fingerprint(model().identity())


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("(-x + w * u)", "(-x + w * u**2)", "populations.exc.equations.update.x"),
        ("tanh(x)", "tanh(2*x)", "populations.exc.equations.rate"),
        ('tau = "10*ms"', 'tau = "11*ms"', "populations.exc.parameters.tau"),
        ("x = 0.1", "x = 0.2", "populations.exc.initial.x"),
        ('"exponential_euler"', '"euler"', "populations.exc.equations.update.x"),
        ('delay = "2*ms"', 'delay = "3*ms"', "projections.0.delay"),
        ('delay = "2*ms"', 'sign = "+"', "projections.0.sign"),
        ('delay = "2*ms"', "probability = 0.5", "projections.0.probability"),
        ("plastic = false", "plastic = true", "projections.1.plastic"),
        ('dt = "1*ms"', 'dt = "2*ms"', "dt"),
        ("g = v : 1", "g = 2*v : 1", "synthesiser.equations.rate"),
        ('inputs = ["v"]', 'inputs = ["v"]\nsees = "rate"', "synthesiser.sees"),
    ],
)
def test_what_a_model_means_makes_a_difference(old, new, named):
    other = swapped(old, new)
    assert fingerprint(other.identity()) != fingerprint(model().identity())
    assert named in [path for path, _ in differences(model().identity(), other.identity())]


# A learner, one thing changed at a time -------------------------------------------------------------------------------

SIZES = {"exc": 4, "inh": 3}


def learner(**changed):
    circuit_options = {"seed": 0, **changed.get("circuit", {})}
    circuit = bpl.Circuit(
        changed.get("model", "ei"), changed.get("sizes", SIZES), changed.get("inputs", 2), **circuit_options
    )
    readout = bpl.Readout(circuit, changed.get("outputs", 2), **changed.get("readout", {}))
    synthesiser = bpl.Synthesiser(circuit, **{"expansion": 5, "seed": 0, **changed.get("synthesiser", {})})
    kind = changed.get("kind", bpl.BPLambda)
    rule = kind(synthesiser, **{"lam": 0.9, "gamma": 0.9, "trace": "full", **changed.get("rule", {})})
    adam = bpl.Adam(CosineDecay(1e-3, 100))
    optimisers = {"psi": adam, "phi": bpl.Clip(bpl.SGD(0.1), 1.0), "theta": adam, **changed.get("optimisers", {})}
    rest = changed.get("rest", {})
    return bpl.Learner(circuit, readout, rule, optimisers, changed.get("schedule", bpl.Schedule(1)), **rest)


CONNECTIVITY = np.ones((4, 4), bool)
CONNECTIVITY[0, 1] = False
CHANGES = [
    ({"inputs": 3}, "circuit.input_size"),
    ({"sizes": {"exc": 5, "inh": 3}}, "circuit.sizes.exc"),
    ({"circuit": {"dtype": "float32"}}, "circuit.dtype"),
    ({"circuit": {"parameters": {"exc.tau": "7*ms"}}}, "circuit.parameters.exc.tau"),
    ({"circuit": {"parameters": {"exc.tau": np.full(4, 0.007)}}}, "circuit.parameters.exc.tau"),
    ({"circuit": {"connectivity": {"exc->exc": CONNECTIVITY}}}, "circuit.synapses"),
    ({"readout": {"loss": "binary_cross_entropy"}}, "readout.loss"),
    ({"readout": {"reduction": "sum"}}, "readout.reduction"),
    ({"readout": {"continuous_time": True}}, "readout.continuous_time"),
    ({"readout": {"population": "exc"}}, "readout.population"),
    ({"outputs": 3}, "readout.output_size"),
    ({"synthesiser": {"expansion": 6}}, "rule.synthesiser.expansion"),
    ({"synthesiser": {"seed": 1}}, "rule.synthesiser.expansion"),
    ({"synthesiser": {"sees": "rate"}}, "rule.synthesiser.sees"),
    ({"synthesiser": {"sees_input": True}}, "rule.synthesiser.sees_input"),
    ({"synthesiser": {"plastic_expansion": True}}, "rule.synthesiser"),
    ({"synthesiser": {"subspace": "random", "dimension": 2}}, "rule.synthesiser"),
    ({"rule": {"lam": 0.8}}, "rule.lam"),
    ({"rule": {"gamma": 0.8}}, "rule.gamma"),
    ({"rule": {"sg_weight": 0.5}}, "rule.sg_weight"),
    ({"rule": {"continuous_time": True}}, "rule.continuous_time"),
    ({"rule": {"trace": "lazy"}}, "rule.trace"),
    ({"rule": {"trace": "lazy", "window": 2}}, "rule.window"),
    ({"rule": {"feedback": "sign"}}, "rule.feedback.kind"),
    ({"rule": {"feedback": Feedback("noisy", noise=0.1)}}, "rule.feedback.noise"),
    ({"rule": {"feedback": Feedback("random", seed=2)}}, "rule.feedback.seed"),
    ({"kind": bpl.BPLambdaEProp}, "rule"),
    ({"optimisers": {"psi": bpl.Adam(CosineDecay(2e-3, 100))}}, "optimisers.psi.eta.eta"),
    ({"optimisers": {"psi": bpl.Adam(CosineDecay(1e-3, 101))}}, "optimisers.psi.eta.steps"),
    ({"optimisers": {"psi": bpl.Adam(ExponentialDecay(1e-3, 100))}}, "optimisers.psi.eta"),
    ({"optimisers": {"psi": bpl.Adam(CosineDecay(1e-3, 100), max_step=2)}}, "optimisers.psi.max_step"),
    ({"optimisers": {"phi": bpl.Clip(bpl.SGD(0.1), 2.0)}}, "optimisers.phi.norm"),
    ({"optimisers": {"phi": bpl.Clip(bpl.SGD(0.2), 1.0)}}, "optimisers.phi.optimiser.eta"),
    ({"optimisers": {"phi": None}}, "optimisers.phi"),
    ({"optimisers": {"theta": bpl.RLS()}}, "optimisers.theta"),
    ({"schedule": bpl.Schedule(2)}, "schedule.every"),
    ({"rest": {"error_delay": 2}}, "error_delay"),
    ({"rest": {"rate_penalty": 0.1}}, "rate_penalty"),
    ({"rest": {"weight_penalty": 0.1}}, "weight_penalty"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "named"), CHANGES, ids=[f"{k}-{named}" for k, (_, named) in enumerate(CHANGES)])
def test_every_option_of_a_learner_makes_a_difference(changed, named):
    before, now = learner().identity(), learner(**changed).identity()
    assert fingerprint(before) != fingerprint(now)
    paths = [path for path, _ in differences(before, now)]
    assert named in paths, paths


@pytest.mark.parametrize(
    "changed", [{"circuit": {"seed": 1}}, {"readout": {"seed": 5}}, {"rest": {"error_delay": "0*ms"}}]
)
def test_plastic_weights_make_no_difference(changed):
    assert fingerprint(learner(**changed).identity()) == fingerprint(learner().identity())


def test_all_fields_of_least_squares_and_fixed_weights_and_clamps_make_a_difference():
    for other in (bpl.RLS(forget=0.8), bpl.RLS(ridge=1e-2), bpl.RLS(bound=3)):
        assert len(list(differences(describe(bpl.RLS()), describe(other)))) == 1
    circuit = bpl.Circuit(model(), 4, 2)
    fixed = circuit.with_weights("input->exc", 2 * circuit.weights["input->exc"])
    assert [path for path, _ in differences(circuit.identity(), fixed.identity())] == ["fixed_weights"]
    clamped = circuit.clamped_at("exc", 1, 0.5)
    assert [path for path, _ in differences(circuit.identity(), clamped.identity())] == ["clamped"]


def arrays(**changed):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3, 2)), 0.9 * rng.random((20, 3, 1))
    y[0, 0, 0] += changed.pop("y", 0)
    return bpl.ArrayTask(bpl.Batch(x, y), **changed)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (bpl.tasks.TargetReaching, ({"patterns": 2}, {"steps": 9}, {"line": True}, {"input_size": 9}, {"seed": 1})),
        (bpl.tasks.CopyRepeat, ({"bits": 7}, {"batches_per_epoch": 9}, {"threshold": 0.2}, {"grows": False})),
        (
            bpl.tasks.DelayedReach,
            ({"targets": 3}, {"delay": ("100*ms", "200*ms")}, {"hold": 0.2}, {"reaction": "60*ms"}),
        ),
        (bpl.tasks.AssociationReach, ({"targets": 3}, {"cue": "90*ms"}, {"reach": "160*ms"}, {"dt": "5*ms"})),
        (
            bpl.tasks.IntervalTiming,
            ({"intervals": ["200*ms"]}, {"pulse": "30*ms"}, {"wait": "90*ms"}, {"after": "60*ms"}),
        ),
        (
            bpl.tasks.CueOutcome,
            ({"magnitudes": (1.0, 0.5, -2.0)}, {"probabilities": (0.5, 1, 1)}, {"outcome": "60*ms"}),
        ),
        (arrays, ({"y": 0.1}, {"validation": 0.2}, {"test": 0.2}, {"seed": 1}, {"loss": "binary_cross_entropy"})),
    ],
)
def test_every_option_of_a_task_makes_a_difference(make, options):
    made = [fingerprint(make(**option).identity()) for option in ({}, *options)]
    assert len(set(made)) == len(made) and made[0] == fingerprint(make().identity())


def test_where_a_curriculum_stands_makes_no_difference():
    task = bpl.tasks.CopyRepeat()
    task.restore({"length": 4, "repeats": 2, "solved": 3})
    assert task.identity() == bpl.tasks.CopyRepeat().identity()


# Restoring ------------------------------------------------------------------------------------------------------------

TASK = bpl.tasks.TargetReaching(patterns=2, steps=4, input_size=2, batches_per_epoch=4)


def trainer(optimiser=None, loss="squared_error", seed=0, **options):
    circuit = bpl.Circuit("ei", SIZES, 2, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), **{"lam": 0.9, **options})
    return bpl.Trainer(circuit, bpl.Readout(circuit, 2, loss), rule, optimiser=optimiser, seed=seed)


def fit(given, stop_at=3, task=TASK, batch_size=2, **options):
    return given.fit(task, epochs=None, stop_at=stop_at, batch_size=batch_size, progress=False, **options)


def test_a_checkpoint_says_what_is_another_and_what_to_allow(tmp_path):
    path = tmp_path / "c.npz"
    fit(trainer()).save(path)
    said = r"`rule\.lam` is 0\.9 in the file, 1 here; if that is meant, `restore\(…, allow=\[\"rule\.lam\"\]\)`"
    with pytest.raises(bpl.ValidationError, match=said):
        trainer(lam=1.0).restore(path)
    assert trainer(lam=1.0).restore(path, allow=["rule.lam"]).batches == 3
    assert trainer(lam=0.5, seed=4).restore(path, allow=["rule", "seed"]).batches == 3
    with pytest.raises(bpl.ValidationError, match="`seed` is 0 in the file, 4 here"):
        trainer(seed=4).restore(path)
    for wrong in ("rule", ["rules"], [3]):
        with pytest.raises(bpl.ValidationError, match="`allow`"):
            trainer().restore(path, allow=wrong)


def test_the_first_fit_after_a_restore_goes_on_with_the_same_task(tmp_path):
    path, harder = tmp_path / "c.npz", bpl.tasks.TargetReaching(patterns=2, steps=5, input_size=2, batches_per_epoch=4)
    fit(trainer()).save(path)
    restored = trainer().restore(path)
    state = restored.state
    for wrong, said in (
        ({"task": harder}, r"`task\.steps` is 4 in the file, 5 here"),
        ({"batch_size": 3}, "`batch_size`"),
    ):
        with pytest.raises(bpl.ValidationError, match=said):
            fit(restored, 6, **wrong)
        assert restored.state is state and restored.batches == 3
    fit(restored, 6), fit(restored, 8, task=harder, batch_size=3)
    fit(trainer().restore(path, allow=["task", "batch_size"]), 6, task=harder, batch_size=3)


def test_a_task_of_another_loss_than_the_readouts_is_refused():
    with pytest.raises(bpl.ValidationError, match=r'scored by "squared_error".*loss="binary_cross_entropy"'):
        fit(trainer(loss="binary_cross_entropy"))


def test_what_cannot_be_compared_is_said(tmp_path):
    fit(trainer(bpl.SGD(lambda step: 0.1))).save(tmp_path / "c.npz")
    with pytest.warns(UserWarning, match=r"not compared.*optimisers\.psi\.eta, optimisers\.phi\.eta"):
        trainer(bpl.SGD(lambda step: 0.1)).restore(tmp_path / "c.npz")


def test_another_machine_is_only_named(tmp_path, monkeypatch):
    fit(trainer()).save(tmp_path / "c.npz")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pytest.warns(UserWarning, match=r"numbers may differ at rounding: `threads"):
        trainer().restore(tmp_path / "c.npz")


@pytest.mark.parametrize("number", [1, 2])
def test_files_of_earlier_versions_are_refused_by_name(tmp_path, number):
    for kind, read in (("checkpoint", trainer().restore), ("circuit", bpl.Circuit.load)):
        meta = {"kind": kind, "format": number}
        np.savez(tmp_path / "old.npz", **{"meta.json": np.array(json.dumps(meta)), "psi": np.zeros(3)})
        with pytest.raises(bpl.ValidationError, match=f"a {kind} file of format {number}, by an earlier version"):
            read(tmp_path / "old.npz")


# The history beside a checkpoint --------------------------------------------------------------------------------------


def test_a_checkpoint_of_fit_does_not_grow_and_its_history_is_only_added_to(tmp_path):
    path, sizes, contents = tmp_path / "c.npz", [], []

    def look(trainer, outcome):
        if path.exists():
            sizes.append(path.stat().st_size), contents.append(history_path(path).read_bytes())

    whole = fit(trainer(), 40, checkpoint=path, checkpoint_every=2, callbacks=[look])
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(contents))
    assert len(history_path(path).read_bytes()) == 20 + 40 * 20
    assert max(sizes[20:]) - min(sizes[20:]) < 4000  # what is kept of every epoch
    again = trainer().restore(path)
    assert again.losses == whole.losses and again.state.log.ends == whole.state.log.ends


def test_what_lies_beyond_a_checkpoint_is_cut_off_and_written_once_more(tmp_path):
    path, beside = tmp_path / "c.npz", tmp_path / "c.history"
    fit(trainer(), 6, checkpoint=path, checkpoint_every=2)
    earlier = path.read_bytes()
    whole = fit(trainer().restore(path), 10, checkpoint=path, checkpoint_every=2)
    longer = beside.read_bytes()
    path.write_bytes(earlier)  # as after a kill between the two files
    beside.write_bytes(longer[:-50] + b"torn")
    again = trainer().restore(path)
    assert again.batches == 6
    assert fit(again, 10, checkpoint=path, checkpoint_every=2).losses == whole.losses
    assert beside.read_bytes() == longer


def test_a_history_of_another_run_is_replaced_and_the_checkpoint_stays_whole(tmp_path):
    path, beside = tmp_path / "c.npz", tmp_path / "c.history"
    fit(trainer(), 6, checkpoint=path, checkpoint_every=2)
    other = fit(trainer(lam=0.5), 4, checkpoint=path, checkpoint_every=2)
    assert trainer(lam=0.5).restore(path).losses == other.losses and len(beside.read_bytes()) == 20 + 4 * 20
    for damage, said in (
        (lambda: beside.unlink(), "is missing"),
        (lambda: beside.write_bytes(beside.read_bytes()[:-20]), "holds 3 records, the checkpoint counts 4"),
        (
            lambda: beside.write_bytes(beside.read_bytes()[:30] + b"!" + beside.read_bytes()[31:]),
            "checksum of record 1",
        ),
    ):
        good = beside.read_bytes()
        damage()
        with pytest.raises(bpl.ValidationError, match=said):
            trainer(lam=0.5).restore(path)
        beside.write_bytes(good)


def test_a_circuit_with_a_quantity_of_brian2_is_saved_and_loaded(tmp_path):
    import brian2

    circuit = bpl.Circuit("ei", SIZES, 2, parameters={"exc.tau": 13.7 * brian2.ms, "inh.tau": "7*ms"})
    circuit.save(tmp_path / "c.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = bpl.Circuit.load(tmp_path / "c.npz")
    assert again.identity() == circuit.identity()
    assert (again.run(np.ones((1, 5, 2)))[0] == circuit.run(np.ones((1, 5, 2)))[0]).all()


def test_another_kind_of_optimiser_that_is_allowed_begins_anew(tmp_path):
    path = tmp_path / "c.npz"
    first = fit(trainer(bpl.Adam(1e-3)))
    first.save(path)
    for optimiser in (bpl.SGD(0.1), bpl.Clip(bpl.Adam(1e-3), 1.0)):
        other = trainer(optimiser).restore(path, allow=["optimisers"])
        assert (other.state.psi == first.state.psi).all() and other.batches == first.batches
        fit(other, 5)
    same_kind = trainer(bpl.Adam(1e-2)).restore(path, allow=["optimisers"])
    assert (same_kind.state.moments["psi"]["m"] == first.state.moments["psi"]["m"]).all()


def test_replacing_another_trainings_checkpoint_is_said(tmp_path):
    path = tmp_path / "c.npz"
    fit(trainer(lam=0.5), 6, checkpoint=path, checkpoint_every=2)
    with pytest.warns(UserWarning, match=r"lam` is 0.5 in the file.*is being replaced"):
        fit(trainer(), 4, checkpoint=path, checkpoint_every=2)
    with pytest.warns(UserWarning, match="after 4 batches, 0 are done here, is being replaced"):
        fit(trainer(), 2, checkpoint=path, checkpoint_every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(trainer().restore(path), 4, checkpoint=path, checkpoint_every=2)


def test_a_checkpoint_every_so_often_needs_a_file():
    with pytest.raises(bpl.ValidationError, match="`checkpoint_every` needs `checkpoint`"):
        fit(trainer(), 4, checkpoint_every=2)


def test_a_list_of_quantities_is_taken_with_its_units():
    from brian2.units.stdunits import ms, mV

    def tau(value):
        return bpl.Circuit("leaky_tanh", 2, 1, parameters={"tau": value}).populations[0].parameters

    assert np.array_equal(tau([5 * ms, 7 * ms])[0], tau(np.array([0.005, 0.007]))[0])
    with pytest.raises(bpl.ValidationError, match="must have the unit s, got V"):
        tau([5 * ms, 7 * mV])
