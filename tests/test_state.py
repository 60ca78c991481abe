"""A learner's state is one value: it has one owner, a fork is its copy, a checkpoint its flattening; what is given out
stays as it was given.
"""

import dataclasses
import re

import numpy as np
import pytest
from biology import SIZES, TEXT
from truth import off

import bpl_neuro as bpl
from bpl_neuro import interventions
from bpl_neuro.rules import RULES
from bpl_neuro.rules.traces import traced
from bpl_neuro.train.arrays import flatten
from bpl_neuro.train.schedule import PER_TRIAL, SUM_ONLY
from bpl_neuro.train.state import PARAMETERS

#: where nothing else is said: a rule that can do everything, on the model that has everything
MODEL = bpl.Model.from_toml(TEXT)
OPTIONS = {"nstep_sg": {"steps": 2}, "truncated_bptt": {"steps": 2}}
#: rules by name and options; with a stream where they can follow one
TRACES = [{"trace": trace} for trace in ("auto", "full", "lazy", "local", "leak")] + [{"trace": "lazy", "window": 3}]
CASES = [
    *((name, OPTIONS.get(name, {}), way) for name in RULES if name != "bp_lambda" for way in ("step", "trial")),
    *(("bp_lambda", options, way) for options in TRACES for way in ("step", "trial")),
    ("bp_lambda", {"trace": "sweep"}, "trial"),
    ("bp_lambda", {"trace": "local", "unit": {"expansion": 4, "fan_in": 2, "plastic_expansion": True}}, "step"),
    ("bp_lambda", {"trace": "lazy", "window": 3, "unit": {"expansion": 4, "plastic_expansion": True}}, "step"),
    ("bp_lambda", {"trace": "reduced", "unit": {"subspace": "random", "dimension": 2}}, "step"),
]  # fmt: skip
POSSIBLE = [case for case in CASES if not (RULES[case[0]].deferred is True and case[2] == "step")]


def trainer_of(name="bp_lambda", options=None, schedule="step", model=MODEL, size=SIZES, seed=3, **keywords):
    circuit = bpl.Circuit(model, size, 2, seed=0)
    options = {"trace": "full", "gamma": 0.9, "lam": 0.8} if options is None else dict(options)
    unit = options.pop("unit", {})
    on = bpl.Synthesiser(circuit, **unit) if RULES[name].needs_synthesiser else circuit
    rule = bpl.make_rule(name, on, **options)
    keywords = {"optimiser": bpl.Adam(1e-2)} | keywords
    return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule=schedule, seed=seed, **keywords)


def data(seed=0, B=3, T=5, stream=False, ends=True):
    """Trials; or a piece of a stream in which some end, one with the piece and others not."""
    rng = np.random.default_rng(seed)
    end = np.zeros((B, T), bool)
    end[0, 1] = ends
    end[1, -1] = ends
    if not stream:
        end[:, -1] = True
    return bpl.Batch(rng.normal(size=(B, T, 2)), rng.normal(size=(B, T, 2)), end=end, stream=stream)


def walk(value, path=""):
    """Every leaf of nested dicts, lists and dataclasses, by its path; descriptions and spare buffers are no part."""
    if dataclasses.is_dataclass(value):
        value = {k: v for k, v in vars(value).items() if k not in ("learner", "spare")}
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(part, f"{path}/{key}")
        yield path, len(value)
    else:
        yield path, value.bit_generator.state if isinstance(value, np.random.Generator) else value


def assert_same(a, b):
    """Two states hold the same, to the bit."""
    a, b = dict(walk(a)), dict(walk(b))
    assert a.keys() == b.keys()
    for path, value in a.items():
        if hasattr(value, "dtype"):
            assert b[path].dtype == value.dtype and b[path].shape == value.shape, path
            np.testing.assert_array_equal(b[path], value, err_msg=path)
        else:
            assert b[path] == value and type(b[path]) is type(value), path


def arrays(state):
    return {path: value for path, value in walk(state) if isinstance(value, np.ndarray) and value.ndim}


# One owner ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda learner, state: state.psi,
        lambda learner, state: state.learner,
        lambda learner, state: state.position,
        lambda learner, state: state.circuit,
        lambda learner, state: state.parameter("theta"),
        lambda learner, state: state.copy(),
        lambda learner, state: state.replace(steps=0),
        lambda learner, state: bpl.run_batch(learner, state, data()),
        lambda learner, state: interventions.freeze(state, "psi"),
        lambda learner, state: interventions.lesion_synthesiser(state),
        lambda learner, state: interventions.clamp_units(state, "exc", [0], 0.1),
    ],
)
@pytest.mark.parametrize("spend", ["run_batch", "intervention"])
def test_a_state_that_was_given_away_is_spent(use, spend):
    t = trainer_of()
    state = t.state
    if spend == "run_batch":
        after, _ = bpl.run_batch(t.learner, state, data())
    else:
        after = interventions.freeze(state, "phi")
    with pytest.raises(bpl.ValidationError, match=r"spent.*`state\.copy\(\)`"):
        use(t.learner, state)
    assert after.learner is t.learner and np.isfinite(after.psi).all()


def test_a_copy_that_was_kept_goes_on_as_the_state_did():
    t = trainer_of()
    state, _ = bpl.run_batch(t.learner, t.learner.initial(3), data())
    kept = state.copy()
    first, one = bpl.run_batch(t.learner, state, data(1))
    second, two = bpl.run_batch(t.learner, kept, data(1))
    assert one.loss == two.loss
    assert_same(first, second)


def wrong_batches():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 5, 2))
    yield bpl.Batch(rng.normal(size=(3, 5, 4)), y), "4 inputs"
    yield bpl.Batch(x, rng.normal(size=(3, 5, 7))), "2 outputs"
    yield bpl.Batch(x, np.zeros((3, 5), int)), "class labels"
    yield bpl.Batch(x[:2], y[:2], stream=True), "3 rows, this piece 2"
    yield "no batch", "`batch`"


@pytest.mark.parametrize(("batch", "message"), wrong_batches())
def test_an_error_before_anything_changed_leaves_the_state_whole(batch, message):
    t = trainer_of()
    t.train_batch(data(stream=True))
    state, before = t.state, t.state.copy()
    with pytest.raises(bpl.ValidationError, match=message):
        bpl.run_batch(t.learner, state, batch)
    assert_same(state, before)
    with pytest.raises(bpl.ValidationError, match=message):
        t.train_batch(batch)
    assert t.state is state
    assert_same(state, before)
    other = trainer_of()
    with pytest.raises(bpl.ValidationError, match="another learner"):
        bpl.run_batch(other.learner, state, data())
    assert_same(state, before)


def test_a_rule_that_cannot_follow_a_stream_leaves_the_state_whole():
    t = trainer_of(options={"trace": "lazy"})
    before = t.state.copy()
    with pytest.raises(bpl.ValidationError, match="stream"):
        t.train_batch(data(stream=True))
    assert_same(t.state, before)


@pytest.mark.parametrize("schedule", ["step", "trial"])
def test_after_a_divergence_the_state_is_back_with_its_last_finite_parameters(schedule):
    t = trainer_of(schedule=schedule)
    t.train_batch(data(stream=True))
    finite = {name: t.parameter(name) for name in PARAMETERS}
    state = t.state
    assert state.position is not None
    broken = data(1, stream=True)
    broken.y[...] = 1e200  # within its check, and beyond what a squared error can be
    with pytest.raises(bpl.DivergenceError) as caught:
        t.train_batch(broken)
    assert caught.value.state is t.state is state
    assert state.position is None and state.sums == {}
    assert all(np.isfinite(state.parameter(name)).all() for name in PARAMETERS)
    if schedule == "trial":
        assert all((state.parameter(name) == finite[name]).all() for name in PARAMETERS)
    t.train_batch(data(2, stream=True))
    assert t.state.position is not None
    with pytest.raises(bpl.ValidationError, match="spent"):
        state.psi  # noqa: B018


def test_the_last_finite_parameters_are_those_before_the_step_that_was_not():
    t = trainer_of(optimiser=bpl.SGD(1e-3), options={"trace": "full"})
    good = data(ends=False)
    bad = good.y.copy()
    bad[:, 3] = 1e150  # whose loss is finite still
    seen = []
    with pytest.raises(bpl.DivergenceError) as caught:
        t.train_batch(
            bpl.Batch(good.x, bad), watch=lambda step: seen.append({p: step.parameter(p) for p in PARAMETERS})
        )
    assert caught.value.step == len(seen) + 1 > 4
    assert all((t.parameter(name) == seen[-1][name]).all() for name in ("psi", "phi"))
    alone = trainer_of(optimiser=bpl.SGD(1e-3), options={"trace": "full"})
    alone.train_batch(bpl.Batch(good.x[:, : len(seen)], bad[:, : len(seen)], stream=True))  # the noise is the same
    assert (alone.parameter("psi") == t.parameter("psi")).all()


class Enough(Exception):
    pass


@pytest.mark.parametrize("schedule", ["step", "trial"])
def test_an_exception_of_a_watcher_leaves_a_state_that_can_be_used(schedule):
    t, steps = trainer_of(schedule=schedule, update_every=4 if schedule == "step" else 1), []
    t.train_batch(data(stream=True))

    def watch(step):
        steps.append(step)
        if step.t == 2:
            raise Enough

    state = t.state
    with pytest.raises(Enough):
        t.train_batch(data(1, stream=True), watch)
    assert t.state is state and state.position is None and state.sums == {} and state.batches == 1
    before = [frozen(step) for step in steps]
    with pytest.raises(bpl.ValidationError, match="watched, not later"):
        steps[-1].parameter("psi")
    for number in range(3):
        t.train_batch(data(number))
    assert t.batches == 4 and all(np.isfinite(t.parameter(name)).all() for name in PARAMETERS)
    for step, then in zip(steps, before, strict=True):
        assert_step_is(step, then)


# Forks ----------------------------------------------------------------------------------------------------------------


def streamed(**keywords):
    """A trainer in the middle of a stream, with something in every field."""
    settings = {"error_delay": 2, "update_every": 3, "options": {"trace": "lazy", "window": 3, "gamma": 0.9}}
    t = trainer_of(**(settings | keywords))
    t.train_batch(data(stream=True))
    interventions.rotate_synthesiser(interventions.clamp_units(t, "exc", [1], 0.2), seed=1)
    interventions.freeze(t, "phi")
    t.train_batch(data(1, stream=True))
    return t


def test_a_fork_shares_no_array_and_every_description():
    task = bpl.tasks.TargetReaching(patterns=2, steps=4, input_size=2, batches_per_epoch=2)
    t = trainer_of().fit(task, epochs=1, batch_size=3, progress=False)  # with the best parameters
    t = interventions.silence_projection(interventions.scramble_synthesiser(t), "inh->exc")
    for start in (t, streamed()):
        fork = start.fork()
        assert_same(start.state, fork.state)
        assert len(arrays(start.state)) > 10
        for path, array in arrays(fork.state).items():
            before, own = start.state.copy(), array.copy()
            array[...] = ~array if array.dtype == bool else array + 1
            assert_same(start.state, before), path
            array[...] = own
        for shared in ("circuit", "readout", "rule", "learner"):
            assert getattr(start, shared) is getattr(fork, shared)
        assert getattr(start.rule, "synthesiser", None) is getattr(fork.rule, "synthesiser", None)
        assert fork.state.circuit.wiring is start.circuit.wiring
        fork.state.noise_rng.random(), fork.state.log.losses.append(3.0), fork.state.clamped.clear()
        assert len(start.state.log.losses) + 1 == len(fork.state.log.losses)
        assert start.state.noise_rng.random() != fork.state.noise_rng.random()


@pytest.mark.parametrize("options", [{"trace": "full"}, {"trace": "lazy", "window": 3}, {"trace": "local"}])
def test_a_fork_in_the_middle_of_a_stream_goes_on_to_the_same_bits(options):
    t = streamed(options=options)
    fork = t.fork()
    for number in range(2, 5):
        assert t.train_batch(data(number, stream=True)).loss == fork.train_batch(data(number, stream=True)).loss
    assert_same(t.state, fork.state)


# Checkpoints ----------------------------------------------------------------------------------------------------------


def resumed(t, path):
    """A trainer of the same parts, with what `t` saved."""
    t.save(path)
    learner = t.learner
    other = bpl.Trainer(
        learner.circuit, learner.readout, learner.rule, optimiser=dict(learner.optimisers), schedule=t.schedule,
        update_every=learner.schedule.every or 1, error_delay=learner.error_delay, seed=t.seed,
    )  # fmt: skip
    return other.restore(path)


@pytest.mark.parametrize(("name", "options", "schedule"), POSSIBLE, ids=str)
def test_a_checkpoint_is_the_same_value_and_goes_on_to_the_same_bits(tmp_path, name, options, schedule):
    t = trainer_of(name, options, schedule)
    stream = t.rule.streams
    for number in range(2):
        t.train_batch(data(number, stream=stream))
    assert (t.state.position is not None) == stream
    other = resumed(t, tmp_path / "c.npz")
    assert_same(other.state, t.state)
    for number in range(2, 4):
        assert t.train_batch(data(number, stream=stream)).loss == other.train_batch(data(number, stream=stream)).loss
    assert_same(other.state, t.state)


@pytest.mark.parametrize(
    "options", [{"trace": "full"}, {"trace": "local"}, *({"trace": "lazy", "window": K} for K in (1, 3, 4, 20))]
)
def test_a_checkpoint_in_the_middle_of_a_trial_of_a_stream(tmp_path, options):
    """No trial ends for several pieces, so that all that is held of it is in the file."""
    t = trainer_of(options=options | {"gamma": 0.9}, error_delay=2, update_every=4)
    for number in range(3):
        t.train_batch(data(number, T=3, stream=True, ends=False))
        other = resumed(t, tmp_path / f"{number}.npz")
        assert_same(other.state, t.state)
        seen = []
        for trainer in (t.fork(), other):
            seen.append([])
            for later in range(3, 6):
                piece = data(later, stream=True, ends=later == 4)
                trainer.train_batch(piece, lambda s, seen=seen[-1]: seen.append(s.signals["delta"]))
            seen[-1] = [np.stack(seen[-1]), *(trainer.parameter(p) for p in PARAMETERS)]
        assert all((a == b).all() for a, b in zip(*seen, strict=True))


def test_a_checkpoint_holds_interventions_and_late_errors(tmp_path):
    t = streamed()
    interventions.silence_projection(t, "exc->inh")
    other = resumed(t, tmp_path / "c.npz")
    assert_same(other.state, t.state)
    state = other.state
    assert state.frozen == {"phi"} and state.clamped == {(0, 1): 0.2} and state.mask is not None
    assert state.pathway is not None and len(state.position["late"]) == 2 and state.sums
    t.train_batch(data(5, stream=True)), other.train_batch(data(5, stream=True))
    assert_same(other.state, t.state)
    assert not t.weights["exc->inh"].any()


def test_a_checkpoint_holds_where_a_curriculum_stands(tmp_path):
    task = bpl.tasks.CopyRepeat(batches_per_epoch=3, threshold=1.1)  # passes every batch
    circuit = bpl.Circuit("lstm", 5, task.input_size, seed=0)
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=1)
    common = {"epochs": 3, "batch_size": 2, "progress": False}
    t = bpl.Trainer(circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit))).fit(task, stop_at=4, **common)
    assert t.state.curriculum is not None and t.within_epoch == 1 and t.best is not None
    other = resumed(t, tmp_path / "c.npz")
    assert_same(other.state, t.state)
    t.fit(task, **common), other.fit(task, **common)
    assert_same(other.state, t.state)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: trainer_of(options={"trace": "local"}), "trace"),
        (lambda: trainer_of(size={"exc": 6, "inh": 3}), r"circuit\.sizes"),
        (lambda: trainer_of(seed=4), r"`seed` is 3 in the file, 4 here.*allow=\[\"seed\"\]"),
        (lambda: trainer_of("eprop", {}), "`rule` is BPLambda in the file, EProp here"),
        (lambda: trainer_of(optimiser=bpl.Clip(bpl.Adam(), 1.0)), r"`optimisers\.psi` is Adam in the file, Clip here"),
        (lambda: trainer_of(optimiser={"theta": bpl.Adam()}), "phi|psi"),
    ],
)
def test_a_restore_that_fails_leaves_the_trainer_as_it_was(tmp_path, other, message):
    t = trainer_of()
    t.train_batch(data(stream=True))
    t.save(tmp_path / "c.npz")
    other = other()
    before, state = other.state.copy(), other.state
    with pytest.raises(bpl.ValidationError, match=message):
        other.restore(tmp_path / "c.npz")
    assert other.state is state
    assert_same(state, before)


# Steps do not change --------------------------------------------------------------------------------------------------


def leaves_of_step(step):
    t = step.transition
    yield from ((f"weights {name}", W) for name, W in t.weights.items())
    for what, state in (("previous", t.previous), ("new", t.new)):
        yield f"{what} s", state.s
        yield f"{what} rate", state.rate
        yield from ((f"{what} D {q} {j}", d) for q, D in enumerate(state.D) for j, d in D.items())
    for what, parts in (("A", t.A), ("C", t.C)):
        yield from ((f"{what} {q} {key}", v) for q, own in enumerate(parts) for key, v in own.items())
    yield from ((f"u {q}", u) for q, u in enumerate(t.u))
    yield from (("x", t.x), ("c", step.c), ("end", step.end))
    yield from step.signals.items()


def frozen(step):
    return {path: np.array(value) for path, value in leaves_of_step(step)}


def assert_step_is(step, before):
    found = dict(leaves_of_step(step))
    assert found.keys() == before.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize(("name", "options", "schedule"), POSSIBLE, ids=str)
def test_what_a_watcher_kept_never_changes(name, options, schedule):
    t, kept = trainer_of(name, options, schedule, update_every=2 if schedule == "step" else 1), []
    stream = t.rule.streams

    def watch(step):
        parameters = {p: step.parameter(p) for p in PARAMETERS if step.parameter(p) is not None}
        kept.append((step, frozen(step), dict(walk(step.carry)), parameters))
        kept[-1] = (*kept[-1], {p: value.copy() for p, value in parameters.items()})

    t.train_batch(data(stream=stream))  # so that there are spare buffers
    t.train_batch(data(1, stream=stream), watch)
    copies = [{path: np.array(value) for path, value in carry.items()} for _, _, carry, _, _ in kept]
    for number in range(2, 5):
        t.train_batch(data(number, stream=stream))
    assert len(kept) == 5
    for (step, before, carry, parameters, then), copy in zip(kept, copies, strict=True):
        assert_step_is(step, before)
        for path, value in dict(walk(step.carry)).items():
            np.testing.assert_array_equal(value, copy[path], err_msg=path)
            np.testing.assert_array_equal(carry[path], copy[path], err_msg=path)
        assert all((parameters[p] == then[p]).all() for p in then)


def test_what_a_step_left_behind_cannot_be_asked_for_later():
    t, steps = trainer_of(), []
    t.train_batch(data(), steps.append)
    for ask in (lambda s: s.carry, lambda s: s.parameter("psi"), lambda s: s.trace(0, 0)):
        with pytest.raises(bpl.ValidationError, match=r"step 2 .*while it is watched, not later"):
            ask(steps[1])
    t.train_batch(data(), lambda step: [steps.append(step), step.carry])
    states, column = steps[-1].trace(0, 0)  # its carry was kept
    assert column.shape == (3, states.stop - states.start)


def test_inside_a_watcher_the_state_is_spent():
    t = trainer_of()

    def watch(step):
        with pytest.raises(bpl.ValidationError, match="spent"):
            t.theta  # noqa: B018
        assert step.parameter("theta") is not step.parameter("theta")

    t.train_batch(data(), watch)
    assert t.theta.any()


# Buffers that are used again ------------------------------------------------------------------------------------------


class Plain:
    """An optimiser as a user may write it, with no `in_place`; it gives back its argument where nothing is to do."""

    def __init__(self, eta):
        self.eta = eta

    def init(self, backend, parameter):
        return {}

    def step(self, backend, parameter, gradient, state):
        return (parameter - self.eta * gradient if self.eta else parameter), state


@pytest.mark.parametrize("optimiser", [bpl.SGD(0.05), bpl.Adam(0.05), bpl.Clip(bpl.Adam(0.05), 0.1), Plain(0.05)])
@pytest.mark.parametrize("schedule", ["step", "trial"])
def test_what_was_given_out_does_not_change_while_training_goes_on(optimiser, schedule):
    t = trainer_of(optimiser=optimiser, schedule=schedule, options={"trace": "local"})
    x = np.random.default_rng(0).normal(size=(2, 6, 2))
    initial = [t.circuit.psi.copy(), t.readout.phi.copy(), t.rule.initial_theta().copy()]
    taken = []
    for number in range(5):
        t.train_batch(data(number))
        given = [t.trained_circuit(), t.trained_readout(), t.weights, t.theta, t.parameter("psi"), t.parameter("phi")]
        psi = given[0].psi.copy()
        taken.append((given, psi, given[1].phi.copy(), given[3].copy(), given[0].run(x)[0]))
    assert (t.circuit.psi == initial[0]).all() and (t.readout.phi == initial[1]).all()
    assert (t.rule.initial_theta() == initial[2]).all()
    for (circuit, readout, weights, theta, psi, phi), *then, run in taken:
        for found in (circuit.psi, psi, np.concatenate([W.reshape(-1) for W in weights.values()])):
            np.testing.assert_array_equal(found, then[0])
        assert (readout.phi == then[1]).all() and (phi == then[1]).all() and (theta == then[2]).all()
        assert (circuit.run(x)[0] == run).all()
    assert len({psi.tobytes() for _, psi, *_ in taken}) == 5


@pytest.mark.parametrize("schedule", ["step", "trial"])
def test_an_optimiser_that_gives_back_what_it_was_given(schedule):
    t = trainer_of(optimiser={"psi": Plain(0.0), "phi": Plain(0.05), "theta": bpl.Adam(0.05)}, schedule=schedule)
    theirs = trainer_of(optimiser={"phi": bpl.SGD(0.05), "theta": bpl.Adam(0.05)}, schedule=schedule)
    for number in range(3):
        t.train_batch(data(number)), theirs.train_batch(data(number))
    assert (t.parameter("psi") == t.circuit.psi).all() and t.state.psi is not t.circuit.psi
    for name in PARAMETERS:
        assert (t.parameter(name) == theirs.parameter(name)).all()


# Schedules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [bpl.Schedule(1), bpl.Schedule(3), PER_TRIAL], ids=str)
def test_a_schedule_applies_sums_of_the_gradients_of_its_steps(schedule):
    """The gradients of each step are taken by themselves, and summed and applied by hand."""
    circuit = bpl.Circuit("adapting", 3, 2, seed=0)
    readout = bpl.Readout(circuit, 2, seed=1)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.8, trace="full")
    batch, rates = data(T=7, ends=False), {"psi": 0.05, "phi": 0.03, "theta": 0.02}
    theta = np.random.default_rng(5).normal(size=rule.initial_theta().shape) * 0.3
    learner = bpl.Learner(circuit, readout, rule, {k: bpl.SGD(rate) for k, rate in rates.items()}, schedule)
    state, outcome = bpl.run_batch(learner, learner.initial(theta=theta), batch)

    now, sums, loss = {"psi": circuit.psi, "phi": readout.phi, "theta": theta}, {}, 0.0
    carry, before = rule.init(3, 7), circuit.initial_state(3)

    def apply():
        for name, gradient in sums.items():
            now[name] = now[name] - rates[name] * gradient
        sums.clear()

    for t in range(7):
        moved, seen = circuit.with_psi(now["psi"]), readout.with_phi(now["phi"])
        transition = moved.step(before, batch.x[:, t])
        step_loss, c, of_phi, _ = seen.credit(transition.new, batch.y[:, t], np.full(3, 1 / 3))
        loss += step_loss.sum()
        of_theta = rule.collect(carry, transition, c, batch.end[:, t], now["theta"])
        if of_theta is not None:
            sums["theta"] = sums.get("theta", 0) + of_theta
        due = schedule.every and (t + 1) % schedule.every == 0
        if due and "theta" in sums:
            now["theta"] = now["theta"] - rates["theta"] * sums.pop("theta")  # the trace goes on with the new θ
        carry, _, of_psi = rule.step(carry, transition, c, batch.end[:, t], now["theta"])
        for name, gradient in (("psi", of_psi), ("phi", of_phi)):
            sums[name] = sums.get(name, 0) + gradient
        if due:
            apply()
        before = transition.new
    apply()  # what is left at a batch's end
    assert outcome.loss == pytest.approx(loss, rel=1e-12) and state.sums == {}
    for name in PARAMETERS:
        np.testing.assert_allclose(state.parameter(name), now[name], rtol=1e-12, atol=1e-14, err_msg=name)
        assert off(state.parameter(name), learner.initial(theta=theta).parameter(name)) > 1e-4


def test_updates_of_a_stream_are_counted_over_its_pieces():
    whole, pieces = (trainer_of(update_every=4, optimiser=bpl.SGD(0.05)) for _ in range(2))
    batch = data(T=12, stream=True, ends=False)
    whole.train_batch(batch)
    for cut in (slice(0, 3), slice(3, 5), slice(5, 12)):
        pieces.train_batch(bpl.Batch(batch.x[:, cut], batch.y[:, cut], stream=True))
        psi_moved = (pieces.parameter("psi") != pieces.circuit.psi).any()
        assert psi_moved == (cut.stop > 3) and bool(pieces.state.sums) == (cut.stop < 12)
    for name in PARAMETERS:
        np.testing.assert_allclose(pieces.parameter(name), whole.parameter(name), rtol=1e-10, atol=1e-13)


def test_sums_alone_move_nothing():
    t = trainer_of()
    learner = dataclasses.replace(t.learner, schedule=SUM_ONLY)
    start = learner.initial(3)
    state, _ = bpl.run_batch(learner, start.copy(), data())
    for name in PARAMETERS:
        assert (state.parameter(name) == start.parameter(name)).all()
        assert state.sums[name].shape == start.parameter(name).shape and state.sums[name].any()
    for name in PARAMETERS:
        for key, moment in start.moments[name].items():
            np.testing.assert_array_equal(state.moments[name][key], moment)
    expected = bpl.batch_updates(t.circuit, t.readout, t.rule, data(), noise_seed=None).gradients
    quiet = learner.initial(3)
    quiet.noise_rng = None
    found = bpl.run_batch(learner, quiet, data())[0].sums
    assert all((found[name] == expected[name]).all() for name in PARAMETERS)


# Circuits are values --------------------------------------------------------------------------------------------------


def sparse():
    return bpl.Circuit(MODEL, SIZES, 2, seed=0)


def test_a_circuit_with_other_weights_is_another_circuit():
    circuit = sparse()
    before, x = circuit.psi.copy(), np.random.default_rng(0).normal(size=(2, 6, 2))
    run = circuit.run(x)[0]
    W = circuit.weights["exc->exc"] * 0.5
    other = circuit.with_weights("exc->exc", W)
    assert (other.weights["exc->exc"] == W).all() and other.wiring is circuit.wiring
    assert (other.layout.views(other.psi)["exc->exc"] == W).all()
    assert (other.run(x)[0] != run).any()
    assert (other.run(x)[0] == circuit.with_psi(other.psi).run(x)[0]).all()
    assert (other.with_weights("exc->exc", circuit.weights["exc->exc"]).run(x)[0] == run).all()
    assert (circuit.psi == before).all() and (circuit.run(x)[0] == run).all()
    for name in circuit.layout:  # nothing else moved
        assert name == "exc->exc" or (other.weights[name] == circuit.weights[name]).all()
    W[...] = 7  # a copy was taken
    assert not (other.weights["exc->exc"] == 7).any()
    trainer = bpl.Trainer(other, bpl.Readout(circuit, 2), bpl.BPLambda(bpl.Synthesiser(circuit)))  # parts go with both
    trainer.train_batch(data())


def wrong_weights():
    circuit = sparse()
    exists = circuit.layout.views(circuit.exists)["exc->exc"]
    signed, absent = np.abs(circuit.weights["exc->exc"]), np.argwhere(exists[0] == 0)[0]
    filled = signed.copy()
    filled[0, *absent] = 0.1
    where = re.escape(f"(0, {absent[0]}, {absent[1]})")
    yield "exc->exc", -signed, r"sign"
    yield "exc->exc", filled, rf"0\.1 at {where}: that is where no synapse exists"
    yield "exc->exc", np.eye(5), "no synapse exists"  # self = false
    yield "exc->exc", signed[0, :3], r"shape \(1, 5, 5\)"
    yield "exc->exc", signed * np.nan, "finite"
    yield "exc->exc", np.where(signed > 0, np.inf, 0), "finite"
    yield "exc->exc", signed * 1j, "real"
    yield "exc->exc", "heavy", "real"
    yield "exc->nowhere", signed, "exc->inh"
    yield ["exc->exc"], signed, "one of"
    yield "inh->exc", np.abs(circuit.weights["inh->exc"]) + 0.1, "sign"


@pytest.mark.parametrize(("projection", "W", "message"), list(wrong_weights()), ids=lambda value: str(value)[:12])
def test_weights_that_a_circuit_cannot_have_are_refused(projection, W, message):
    circuit = sparse()
    with pytest.raises(bpl.ValidationError, match=message):
        circuit.with_weights(projection, W)
    if isinstance(projection, str):
        with pytest.raises(bpl.ValidationError, match=message):
            bpl.Circuit(MODEL, SIZES, 2, seed=0, weights={projection: W})


@pytest.mark.parametrize("value", [np.zeros(3), np.full(10**3, 0.0), "abc"])
def test_other_wrong_weights_are_refused(value):
    with pytest.raises(bpl.ValidationError, match="`psi`"):
        sparse().with_psi(value)
    with pytest.raises(bpl.ValidationError, match="`psi` must be finite"):
        sparse().with_psi(sparse().psi * np.inf * 0)
    with pytest.raises(bpl.ValidationError, match="`phi`"):
        bpl.Readout(sparse(), 2).with_phi(value)


def test_what_a_circuit_and_a_readout_show_is_read_only():
    circuit, readout = sparse(), bpl.Readout(sparse(), 2)
    t = trainer_of()
    t.train_batch(data())
    for shown in (circuit, circuit.with_psi(circuit.psi), circuit.silenced("exc->exc"), t.trained_circuit()):
        for array in (shown.psi, *shown.weights.values()):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
        with pytest.raises(TypeError):
            shown.weights["exc->exc"] = 0
        with pytest.raises(bpl.ValidationError, match="with_psi"):
            shown.psi = shown.psi
    for array in (readout.phi, *readout.weights.values(), *t.weights.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError):
        circuit.clamped[0, 0] = 1.0


def test_connectivity_and_weights_at_construction():
    rng = np.random.default_rng(0)
    wired = {"exc->exc": ~np.eye(5, dtype=bool), "exc->inh": rng.random((3, 5)) < 0.5, "input->exc": np.ones((5, 2))}
    wired["input->exc"][0] = 0
    W = {"exc->inh": wired["exc->inh"] * rng.uniform(0.1, 1, (3, 5)), "inh->inh": -rng.uniform(0.1, 1, (3, 3))}
    W["bias->inh"] = rng.normal(size=(1, 3))
    circuit = bpl.Circuit(MODEL, SIZES, 2, seed=0, connectivity=wired, weights=W)
    drawn = bpl.Circuit(MODEL, SIZES, 2, seed=0)
    for projection, array in wired.items():
        assert ((circuit.weights[projection][0] != 0) <= (array != 0)).all()
    assert ((circuit.weights["exc->exc"][0] != 0) == wired["exc->exc"]).all()  # all of them, not the drawn 70 %
    assert (drawn.weights["exc->exc"][0] == 0).sum() > 5
    for projection, array in W.items():
        assert (circuit.weights[projection] == array).all()
    mask = circuit.layout.views(circuit.mask)
    assert (mask["exc->inh"][0] == wired["exc->inh"]).all() and not mask["inh->inh"].any()
    readout = bpl.Readout(circuit, 2, seed=1)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9)
    for schedule in ("step", "trial"):
        t = bpl.Trainer(circuit, readout, rule, optimiser=bpl.Adam(0.1), schedule=schedule)
        for number in range(4):
            t.train_batch(data(number))
        learned = t.weights
        assert (learned["inh->inh"] == W["inh->inh"]).all()  # not plastic
        assert not learned["exc->inh"][0][~wired["exc->inh"]].any() and (learned["exc->inh"] != W["exc->inh"]).any()
        assert (learned["exc->exc"] >= 0).all() and not learned["input->exc"][0, 0].any()
    for wrong, message in (
        ({"exc->exc": np.ones((5, 5)) * 0.5}, "booleans"),
        ({"exc->exc": np.ones((3, 5))}, "shape"),
        ({"exc->pyr": np.ones((5, 5))}, "`connectivity` must be one of"),
        ([1], "mapping"),
    ):
        with pytest.raises(bpl.ValidationError, match=message):
            bpl.Circuit(MODEL, SIZES, 2, connectivity=wrong)
    with pytest.raises(bpl.ValidationError, match="mapping"):
        bpl.Circuit(MODEL, SIZES, 2, weights=np.ones(3))
    with pytest.raises(bpl.ValidationError, match="no synapse exists"):
        bpl.Circuit(MODEL, SIZES, 2, connectivity=wired, weights={"exc->inh": np.ones((3, 5))})


def test_a_silenced_and_a_clamped_circuit_leave_the_original_alone():
    circuit, x = sparse(), np.random.default_rng(0).normal(size=(2, 6, 2))
    psi, mask, run = circuit.psi.copy(), circuit.mask.copy(), circuit.run(x)[0]
    silent, clamped = circuit.silenced("inh->exc"), circuit.clamped_at("exc", [0, 2], 0.4)
    both = silent.clamped_at("inh", 1, -0.1).clamped_at("exc", [0], 0.3)
    assert not silent.weights["inh->exc"].any() and not silent.layout.views(silent.mask)["inh->exc"].any()
    assert dict(clamped.clamped) == {(0, 0): 0.4, (0, 2): 0.4} and dict(both.clamped) == {(1, 1): -0.1, (0, 0): 0.3}
    assert (clamped.population_states(clamped.run(x)[0])["exc"][:, :, [0, 2], 0] == 0.4).all()
    assert dict(clamped.clamped_at("exc", [2], None).clamped) == {(0, 0): 0.4}
    assert (clamped.clamped_at("exc", [0, 2], None).run(x)[0] == run).all()
    assert not circuit.clamped and (circuit.psi == psi).all() and (circuit.mask == mask).all()
    assert (circuit.run(x)[0] == run).all() and (silent.run(x)[0] != run).any() and (both.run(x)[0] != run).any()


def test_a_saved_circuit_keeps_its_connectivity(tmp_path):
    wired = {"exc->exc": np.triu(np.ones((5, 5), bool), 1)}
    circuit = bpl.Circuit(MODEL, SIZES, 2, seed=4, connectivity=wired)
    changed = circuit.silenced("inh->exc").clamped_at("exc", [1], 0.2)
    for given in (circuit, changed):
        given.save(tmp_path / "c.npz")
        again = bpl.Circuit.load(tmp_path / "c.npz")
        assert (again.psi == given.psi).all() and (again.exists == given.exists).all()
        assert (again.mask == given.mask).all() and (again.signs == given.signs).all()
        assert dict(again.clamped) == dict(given.clamped)
        x = np.random.default_rng(0).normal(size=(2, 6, 2))
        assert (again.run(x)[0] == given.run(x)[0]).all()
        with pytest.raises(bpl.ValidationError, match="no synapse exists"):
            again.with_weights("exc->exc", np.ones((5, 5)))
        assert again.with_weights("exc->exc", wired["exc->exc"] * 0.1).weights["exc->exc"].sum() == pytest.approx(1.0)
        with pytest.raises(bpl.ValidationError, match="sign"):
            again.with_weights("exc->exc", -0.1 * wired["exc->exc"])


# Steps in time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gamma", "lam"])
def test_a_time_constant_means_nothing_to_a_model_without_time(name):
    unit = bpl.Synthesiser(bpl.Circuit("lstm", 3, 2))
    for rule in ("bp_lambda", "lambda_sg"):
        with pytest.raises(bpl.ValidationError, match=rf"`{name}` = '100\*ms' is a time.*no step in time"):
            bpl.make_rule(rule, unit, **{name: "100*ms"})
    rule = bpl.BPLambda(bpl.Synthesiser(sparse()), **{name: "100*ms"})
    assert getattr(rule, name) == pytest.approx(np.exp(-1 / 100), rel=1e-12)


def test_a_task_that_steps_otherwise_than_the_model_is_refused():
    task = bpl.tasks.TargetReaching(patterns=2, steps=4, input_size=2, batches_per_epoch=2)
    task.dt = 2e-3
    t = trainer_of()
    before = t.state.copy()
    for call in (lambda: t.fit(task, batch_size=2, progress=False), lambda: t.evaluate(task, "test")):
        with pytest.raises(bpl.ValidationError, match=r"steps by 2 ms, the model .* by 1 ms"):
            call()
    assert_same(t.state, before)
    task.dt = 1e-3
    t.fit(task, batch_size=2, progress=False)
    assert "loss" in t.evaluate(task, "test")


def test_a_users_arrays_train_with_the_default_trace():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5, 2)), np.repeat(rng.normal(size=(40, 1, 2)), 5, axis=1)
    task = bpl.ArrayTask(bpl.Batch(x, 0.5 * x + 0.1 * y), "squared_error", 2, validation=0.25, test=0.25, seed=1)
    circuit = bpl.Circuit("leaky_tanh", 8, 2, seed=0, parameters={"tau": "2*ms"})
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=1)
    t = bpl.Trainer(circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit)), optimiser=bpl.Adam(1e-2))
    t.fit(task, epochs=12, batch_size=10, progress=False)
    assert t.history[-1]["train_loss"] < 0.7 * t.history[0]["train_loss"] and t.settled_rule.form == "sweep"


# trace="auto" ---------------------------------------------------------------------------------------------------------

AUTO = {"trace": "auto", "gamma": 0.9, "lam": 0.8}


@pytest.mark.parametrize(
    ("schedule", "steps", "stream", "taken"),
    [("trial", 9, False, "sweep"), ("trial", 9, True, "full"), ("step", 9, False, "lazy"), ("step", 300, False, "full"),
     ("step", 9, True, "full")],
)  # fmt: skip
def test_a_trace_is_chosen_once_and_goes_with_the_state(tmp_path, schedule, steps, stream, taken):
    t = trainer_of(options=AUTO, schedule=schedule, model="leaky_tanh", size=4)
    assert t.state.form is None and "trace='auto'" in repr(t.settled_rule)
    with pytest.raises(bpl.ValidationError, match="first batch"):
        t.rule.trace  # noqa: B018
    t.train_batch(data(T=steps, stream=stream))
    assert t.state.form == taken == t.settled_rule.form == t.settled_rule.trace.name
    assert "trace='auto'" in repr(t.rule) and f"trace='{taken}'" in repr(t.settled_rule)
    assert t.fork().state.form == taken and resumed(t, tmp_path / "c.npz").state.form == taken
    other = 3 if steps > 100 else 300
    explicit = trainer_of(options=AUTO | {"trace": taken}, schedule=schedule, model="leaky_tanh", size=4)
    explicit.train_batch(data(T=steps, stream=stream))
    for trainer in (t, explicit):
        trainer.train_batch(data(1, T=other, stream=stream))
    assert t.state.form == taken
    assert all((t.parameter(name) == explicit.parameter(name)).all() for name in PARAMETERS)
    t.reset()
    assert t.state.form is None


def test_a_choice_that_was_made_for_trials_is_held_where_a_stream_comes():
    """The lazy trace would hold all of a stream, so that it is refused, with what would do."""
    t = trainer_of(options=AUTO, model="leaky_tanh", size=4)
    t.train_batch(data())
    assert t.state.form == "lazy"
    before = t.state.copy()
    with pytest.raises(bpl.ValidationError, match='trace="full"'):
        t.train_batch(data(stream=True))
    assert_same(t.state, before)


@pytest.mark.parametrize(("schedule", "cheap"), [("trial", "sweep"), ("step", "lazy")])
def test_a_trace_that_is_much_dearer_than_another_says_so_once(recwarn, monkeypatch, schedule, cheap):
    monkeypatch.setattr(traced, "DEAR", 0)  # a batch of these is done in no time
    t = trainer_of(options={"trace": "full"}, schedule=schedule)
    for number in range(3):
        t.train_batch(data(number))
        t.train_batch(data(number, T=4))
    t.fork().train_batch(data())
    (said,) = recwarn.list
    assert re.search(rf'trace=.full.*about \d+ times .* trace="{cheap}"', str(said.message))
    assert said.filename == __file__
    for trainer in (trainer_of(options=AUTO, schedule=schedule), trainer_of(options={"trace": "local"})):
        trainer.train_batch(data())
    trainer_of(options={"trace": "full"}).train_batch(data(stream=True))  # nothing else would do
    assert len(recwarn.list) == 1


def test_a_checkpoint_of_another_optimiser_is_refused_unless_that_is_allowed(tmp_path):
    circuit = bpl.Circuit("leaky_tanh", 4, 2, seed=0)

    def trainer(optimiser):
        return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), bpl.rules.BPTT(circuit), optimiser=optimiser)

    trainer(bpl.Adam()).save(tmp_path / "adam.npz")
    trainer(bpl.SGD(0.1)).save(tmp_path / "sgd.npz")
    with pytest.raises(bpl.ValidationError, match=r"`optimisers\.psi` is Adam in the file, SGD here.*allow="):
        trainer(bpl.SGD(0.1)).restore(tmp_path / "adam.npz")
    for optimiser, file in ((bpl.SGD(0.1), "adam.npz"), (bpl.Adam(), "sgd.npz")):
        restored = trainer(optimiser).restore(tmp_path / file, allow=["optimisers"])  # with moments of its own
        assert flatten(restored.state.moments, "").keys() == flatten(trainer(optimiser).state.moments, "").keys()


def test_what_is_shown_of_a_state_is_short_also_where_it_is_spent():
    circuit = bpl.Circuit("leaky_tanh", 4, 2, seed=0)
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), bpl.BPLambda(bpl.Synthesiser(circuit)))
    old = trainer.state
    trainer.train_batch(bpl.Batch(np.zeros((3, 5, 2)), np.zeros((3, 5, 2))))
    assert repr(old) == "<LearnerState: spent>"
    assert repr(trainer.state) == "<LearnerState after 1 batches, 3 trials: psi 28, phi 10, theta 20>"
    assert "trace='auto'" in repr(trainer) and "1 batches" in repr(trainer)
    trainer.state.take()
    assert "spent" in repr(trainer)


def parts():
    circuit = bpl.Circuit("leaky_tanh", 4, 2, seed=0)
    return circuit, bpl.Readout(circuit, 2, seed=1), bpl.BPLambda(bpl.Synthesiser(circuit), trace="full")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c, ro, rule: bpl.Learner(c, ro, rule, {}, "step"), "`schedule` must be a Schedule"),
        (lambda c, ro, rule: bpl.Learner(c, ro, "bptt", {}, bpl.Schedule()), "`rule` must be a Rule"),
        (lambda c, ro, rule: bpl.Learner(c, ro, rule, {"Psi": bpl.SGD(1)}, bpl.Schedule()), "`optimiser` has 'Psi'"),
        (lambda c, ro, rule: bpl.Learner(c, ro, rule, {}, bpl.Schedule(), error_delay="3*mV"), "error_delay"),
        (lambda c, ro, rule: bpl.Learner(c, ro, rule, {}, bpl.Schedule(), rate_penalty=-1), "`rate_penalty`"),
        (lambda c, ro, rule: bpl.Learner(c, ro, rule, {}, bpl.Schedule()).initial(seed="a"), "`seed`"),
        (lambda c, ro, rule: bpl.Schedule("step"), "`every`"),
        (lambda c, ro, rule: bpl.Schedule(0), "`every`"),
        (lambda c, ro, rule: bpl.Schedule(-1), "`every`"),
    ],
)
def test_wrong_learners_and_schedules_are_refused_when_they_are_made(make, message):
    with pytest.raises((bpl.ValidationError, bpl.ModelError), match=message):
        make(*parts())


def test_a_learner_takes_one_optimiser_and_a_delay_as_a_time():
    circuit, readout, rule = parts()
    learner = bpl.Learner(circuit, readout, rule, bpl.SGD(0.1), bpl.Schedule(1), error_delay="2*ms")
    assert set(learner.optimisers) == {"psi", "phi", "theta"} and learner.error_delay == 2


@pytest.mark.parametrize("synapse", [(0, 5), (4, 0), (-1, 0)])
def test_a_synapse_that_is_not_there_has_no_trace(synapse):
    trainer = bpl.Trainer(*parts(), schedule="step")
    with pytest.raises(bpl.ValidationError, match=r"`[aj]` must lie in 0 … [34]"):
        trainer.train_batch(bpl.Batch(np.ones((2, 3, 2)), np.ones((2, 3, 2))), watch=lambda step: step.trace(*synapse))


def test_values_of_each_neuron_have_the_unit_of_their_parameter():
    import brian2

    def circuit(values):
        return bpl.Circuit("leaky_tanh", 3, 2, parameters={"tau": values})

    x = np.ones((1, 4, 2))
    plain = circuit([0.01, 0.02, 0.03]).run(x)[0]
    assert (circuit(np.array([10, 20, 30]) * brian2.ms).run(x)[0] == plain).all()
    with pytest.raises(bpl.ValidationError, match=r"tau must have the unit s, got V"):
        circuit(np.array([10, 20, 30]) * brian2.mV)


def test_what_a_user_holds_of_a_trainer_or_a_learner_is_not_what_it_learns_with():
    task = bpl.tasks.TargetReaching(patterns=2, steps=4, input_size=2, batches_per_epoch=2)
    circuit, readout, rule = parts()
    optimisers = {"psi": bpl.SGD(0.1)}
    learner = bpl.Learner(circuit, readout, rule, optimisers, bpl.Schedule())
    optimisers["psi"] = bpl.SGD(10.0)
    assert learner.optimisers["psi"].eta == 0.1
    with pytest.raises(TypeError):
        learner.optimisers["psi"] = bpl.SGD(10.0)
    trainer = bpl.Trainer(*parts()).fit(task, batch_size=2, progress=False)
    best = trainer.best["psi"].copy()
    trainer.best["psi"][...] = 0
    trainer.history.append({}), trainer.losses.clear()
    assert (trainer.restore_best().parameter("psi") == best).all() and len(trainer.history) == 1
    assert len(trainer.losses) == 2


def test_a_callers_array_of_parameters_may_change_afterwards(tmp_path):
    tau, x = np.array([0.005, 0.006, 0.007]), np.ones((1, 4, 2))
    circuit = bpl.Circuit("leaky_tanh", 3, 2, parameters={"tau": tau})
    before = circuit.run(x)[0]
    tau *= 3
    circuit.save(tmp_path / "c.npz")
    assert (bpl.Circuit.load(tmp_path / "c.npz").run(x)[0] == before).all() and (circuit.run(x)[0] == before).all()


def test_weights_must_be_finite_in_the_circuits_own_precision():
    name = next(s.key for s in bpl.Circuit("leaky_tanh", 3, 2).synapses if s.pre is not None)
    large = {name: np.full((3, 3), 1e39)}
    bpl.Circuit("leaky_tanh", 3, 2, weights=large)
    with pytest.raises(bpl.ValidationError, match="finite in float32"):
        bpl.Circuit("leaky_tanh", 3, 2, weights=large, dtype="float32")
    with pytest.raises(bpl.ValidationError, match="finite in float32"):
        bpl.Circuit("leaky_tanh", 3, 2, dtype="float32").with_weights(name, large[name])


def test_a_number_of_batches_that_is_behind_ends_a_fit_at_once():
    task = bpl.tasks.TargetReaching(patterns=2, steps=4, input_size=2, batches_per_epoch=4)
    trainer = bpl.Trainer(*parts(), seed=np.int64(3)).fit(task, batch_size=2, progress=False)
    for epochs in (None, 3):
        trainer.fit(task, epochs=epochs, stop_at=2, batch_size=2, progress=False)
        assert trainer.batches == 4
    with pytest.raises(bpl.ValidationError, match="whole number"):
        bpl.Trainer(*parts(), seed=np.random.default_rng(0))


def test_what_was_silenced_stays_so_in_the_best_parameters(tmp_path):
    task = bpl.tasks.TargetReaching(patterns=2, steps=4, input_size=2, batches_per_epoch=2)
    circuit = bpl.Circuit("ei", {"exc": 4, "inh": 3}, 2, seed=0)
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), bpl.rules.EProp(circuit), seed=np.int64(3))
    trainer.fit(task, batch_size=2, progress=False)
    bpl.interventions.silence_projection(trainer, "inh->exc").restore_best()
    assert not trainer.weights["inh->exc"].any() and trainer.weights["exc->inh"].any()
    trainer.save(tmp_path / "c.npz")


def test_a_circuit_made_with_an_array_does_not_change_with_it():
    circuit, readout, _ = parts()
    psi, phi = circuit.psi.copy(), readout.phi.copy()
    other, reading = circuit.with_psi(psi), readout.with_phi(phi)
    psi[0] = phi[0] = np.nan
    assert np.isfinite(other.psi).all() and np.isfinite(reading.phi).all()
