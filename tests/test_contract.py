"""What every rule promises the loop: `collect` only reads, the carry is arrays, and a rule never changes."""

import numpy as np
import pytest
from helpers import NONLINEAR, random_trials
from truth import case, off

import bpl_neuro as bpl
from bpl_neuro import analysis, reference
from bpl_neuro.rules import RULES
from bpl_neuro.rules.traces import TRACES
from bpl_neuro.rules.traces.local import OwnTrace
from bpl_neuro.train import loop
from bpl_neuro.train.loop import watched_steps
from bpl_neuro.train.state import copied

PLASTIC = {"expansion": 5, "fan_in": 2, "plastic_expansion": True}
#: name of a rule → its options that are tried
OPTIONS = {
    "truncated_bptt": [{"steps": 2}], "nstep_sg": [{"steps": 2}],
    **{name: [{"trace": "local"}, {"trace": "sweep"}] for name in ("eprop", "snap1", "rflo")},
    **{
        name: [*({"trace": trace} for trace in TRACES), {"trace": "lazy", "window": 3}]
        for name in ("bp_lambda", "bp_lambda_eprop")
    },
}  # fmt: skip
#: (name, options of the rule, options of its synthesiser, whether its units are nonlinear)
FORMS = [
    (name, options, kind, nonlinear)
    for name, rule in RULES.items()
    for options in OPTIONS.get(name, [{}])
    for kind, nonlinear in ([({}, False), ({}, True), (PLASTIC, False)] if rule.needs_synthesiser else [({}, False)])
    if options.get("trace") not in ("model", "reduced")
]
FORMS += [
    *(("bp_lambda", {"trace": "model"}, kind, False) for kind in ({}, PLASTIC)),
    *(("bp_lambda", {"trace": "reduced"}, {"subspace": "random", "dimension": 3}, nonlinear) for nonlinear in (0, 1)),
    *(("bp_lambda", {"trace": trace}, {"subspace": "learned", "dimension": 3}, False) for trace in ("full", "lazy")),
]
#: predicts the credit of the input currents
CURRENT = {"target": "current"}
FORMS += [
    *(("bp_lambda", {"trace": trace}, CURRENT, False) for trace in ("full", "lazy", "sweep", "local")),
    *(("bp_lambda_eprop", {"trace": trace}, CURRENT, False) for trace in ("full", "sweep")),
    *(("bp_lambda_eprop", {"trace": trace, "residual": True}, CURRENT, False) for trace in ("full", "lazy", "sweep")),
    ("bp_lambda", {"trace": "lazy", "window": 3}, CURRENT, False),
    ("bp_lambda_eprop", {"trace": "lazy", "window": 3, "residual": True}, CURRENT, False),
]


def named(form):
    name, options, kind, nonlinear = form
    return "-".join([name, *map(str, options.values()), *kind, *(["nonlinear"] if nonlinear else [])])


def setting(form, **more):
    """Circuit, readout, rule, random trials and a θ (or None) that is not the initial one."""
    name, options, kind, nonlinear = form
    # the leaky circuit has a trace equation of its own, the adapting one two states to a neuron
    model = bpl.Model.from_toml(NONLINEAR) if nonlinear else "leaky_tanh" if "model" in options.values() else "adapting"
    circuit, readout, unit, *_ = case(model, **kind)
    rule = bpl.make_rule(name, unit if RULES[name].needs_synthesiser else circuit, **options, **more)
    rng, theta = np.random.default_rng(3), rule.initial_theta()
    theta = None if theta is None else theta + rng.normal(size=theta.shape) * 0.3
    return circuit, readout, rule, random_trials(rng, T=9), theta


def leaves(tree, path=""):
    """Every part of nested dicts and lists, by its path."""
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from leaves(part, f"{path}/{key}")
    elif isinstance(tree, list):
        for k, part in enumerate(tree):
            yield from leaves(part, f"{path}/{k}")
    else:
        yield path, tree


def bits(tree):
    """What a tree of arrays holds, to the bit."""
    return {path: (part.dtype, part.shape, part.tobytes()) for path, part in leaves(tree)}


def same_bits(one, other):
    return (one is None and other is None) or (one is not None and other is not None and (one == other).all())


def stepped(circuit, readout, rule, data, theta):
    """Arguments of every step of a batch, and the carry before it; θ moves a little from one step to the next."""
    run = reference.slow_run(circuit, readout, data)
    carry = rule.init(data.size, data.steps)
    for t, transition in enumerate(run.transitions):
        after = theta if theta is None else theta + 0.01 * (t + 1)
        yield carry, (transition, run.c[t], run.end[t]), theta
        carry = rule.step(carry, transition, run.c[t], run.end[t], after)[0]
        theta = after


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_collecting_twice_changes_nothing(form):
    """At every step: the same gradient, and a carry that is what it was; looking at δ changes nothing either.

    All but a note of how much a window cut, which is a largest value: taking it twice is taking it once.
    """
    circuit, readout, rule, data, theta = setting(form)
    found = 0
    for carry, arguments, now in stepped(circuit, readout, rule, data, theta):
        before = bits(carry)
        first = rule.collect(carry, *arguments, now)
        kept, once = None if first is None else first.copy(), bits(carry)
        rule.observe(carry, *arguments, now)
        second = rule.collect(carry, *arguments, now)
        assert bits(carry) == once
        assert {path for path in once if once[path] != before[path]} <= {"/trace/cut"}
        assert same_bits(first, kept) and same_bits(first, second)
        found += first is not None
    assert bool(found) == (rule.initial_theta() is not None and not rule.deferred)


class ClearsWhatItReads(TRACES["leak"]):
    """A trace that is used up by being read."""

    def collect(self, carry, delta):
        found = super().collect(carry, delta)
        carry["e"][...] = 0
        return found


def test_collecting_twice_would_catch_a_trace_that_changes_when_it_is_read():
    circuit, readout, rule, data, theta = setting(("bp_lambda", {"trace": "leak"}, {}, False))
    rule._trace = ClearsWhatItReads(rule.synthesiser, rule.gamma * rule.lam)
    caught = 0
    for carry, arguments, now in stepped(circuit, readout, rule, data, theta):
        before = bits(carry)
        rule.collect(carry, *arguments, now)
        caught += bits(carry) != before
    assert caught


@pytest.mark.parametrize("form", FORMS, ids=named)
def test_a_carry_is_arrays_and_nothing_else(form):
    """In dicts and lists, before the first step and after every one; with the same names all the way."""
    circuit, readout, rule, data, theta = setting(form)
    start = None
    for carry, _, _ in stepped(circuit, readout, rule, data, theta):
        parts = dict(leaves(carry))
        for path, part in parts.items():
            assert isinstance(part, np.ndarray | np.generic) and part.dtype != object, path
        shapes = {path: (part.shape, part.dtype) for path, part in parts.items()}
        start = start or shapes
        assert shapes == start


def contents(thing, path="", seen=None):
    """What an object of the package is made of, by path: arrays by identity and bits, the rest by its repr.

    Draws of a `Feedback`, made when they are first asked for, are left out: they depend on its seed alone.
    """
    seen = {} if seen is None else seen
    if id(thing) in seen:
        return {}
    if isinstance(thing, np.ndarray):
        return {path: (id(thing), thing.tobytes())}
    if isinstance(thing, dict | list | tuple):
        seen[id(thing)] = thing
        items = thing.items() if isinstance(thing, dict) else enumerate(thing)
        found = {path: len(thing)}
        for key, part in items:
            found |= contents(part, f"{path}/{key}", seen)
        return found
    if type(thing).__module__.startswith(("bpl_neuro.rules", "bpl_neuro.circuit")) and hasattr(thing, "__dict__"):
        seen[id(thing)] = thing
        found = {path: id(thing)}
        for key, part in vars(thing).items():
            if key != "_drawn":
                found |= contents(part, f"{path}.{key}", seen)
        return found
    return {path: (id(thing), repr(thing))}


AUTO = [
    (name, {"trace": "auto"}, kind, False)
    for name in ("bp_lambda", "bp_lambda_eprop")
    for kind in ({}, PLASTIC, CURRENT)
]


def schedules(form):
    return setting(form)[2].schedules


@pytest.mark.parametrize("form", [*FORMS, *AUTO], ids=named)
def test_training_changes_nothing_in_a_rule(form):
    for schedule in schedules(form):
        circuit, readout, rule, data, _ = setting(form, feedback="noisy")
        before, text = contents(rule), repr(rule)
        trainer = bpl.Trainer(circuit, readout, rule, optimiser=bpl.SGD(0.01), schedule=schedule)
        start = {name: trainer.parameter(name) for name in ("psi", "phi")}
        for _ in range(2):
            trainer.train_batch(data)
        assert all((trainer.parameter(name) != value).any() for name, value in start.items())
        assert contents(rule) == before and repr(rule) == text and trainer.rule is rule


@pytest.mark.parametrize("form", [*FORMS, *AUTO], ids=named)
def test_two_trainers_may_share_a_rule(form):
    """Batch by batch in turn, under every pair of schedules: each has the bits of a rule of its own."""
    circuit, readout, shared, one, _ = setting(form)
    other = random_trials(np.random.default_rng(8), B=4, T=7)
    pair = list(zip((shared.schedules[0], shared.schedules[-1]), (bpl.SGD(0.01), bpl.SGD(0.03)), strict=True))
    together = [bpl.Trainer(circuit, readout, shared, optimiser=sgd, schedule=when) for when, sgd in pair]
    alone = [bpl.Trainer(*setting(form)[:3], optimiser=sgd, schedule=when) for when, sgd in pair]
    for _ in range(2):
        for trainer, batch in zip(together, (one, other), strict=True):
            trainer.train_batch(batch)
    for trainer, own, batch in zip(together, alone, (one, other), strict=True):
        own.train_batch(batch), own.train_batch(batch)
        for name in ("psi", "phi", "theta"):
            assert same_bits(trainer.parameter(name), own.parameter(name)), name
        assert repr(trainer.settled_rule) == repr(own.settled_rule)
    if form in AUTO:
        assert {trainer.settled_rule.form for trainer in together} == {"lazy", "sweep"} and shared.form == "auto"


# θ has no δ at a trial's first step, and its optimiser does not step then.


def learner_of(rule, circuit, readout, optimiser=None):
    optimiser = optimiser or bpl.Adam(1e-2)
    return bpl.Learner(circuit, readout, rule, dict.fromkeys(("psi", "phi", "theta"), optimiser), bpl.Schedule(1))


@pytest.mark.parametrize("trace", ["full", "lazy", "local", "leak"])
def test_thetas_optimiser_does_not_step_at_a_trials_first_step(trace):
    """Adam's moments and its counter stay as they are, to the bit, and so does θ."""
    circuit, readout, unit, data, theta = case("adapting", T=6)
    learner = learner_of(bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace), circuit, readout)

    def cut(steps, end=None):
        return bpl.Batch(data.x[:, :steps], data.y[:, :steps], end=end)

    state, _ = bpl.run_batch(learner, learner.initial(theta=theta), cut(1))
    assert state.moments["theta"]["steps"] == 0 and state.moments["psi"]["steps"] == 1
    assert not state.moments["theta"]["m"].any() and not state.moments["theta"]["v"].any()
    assert (state.theta == theta).all()
    state, _ = bpl.run_batch(learner, state, cut(6))
    assert state.moments["theta"]["steps"] == 5 and state.moments["psi"]["steps"] == 7
    kept = state.copy()
    state, _ = bpl.run_batch(learner, state, cut(1))  # momentum alone would move it
    assert (state.theta == kept.theta).all() and (state.psi != kept.psi).any()
    for key, moment in kept.moments["theta"].items():
        assert (state.moments["theta"][key] == moment).all(), key
    ends = np.zeros((3, 6), bool)
    ends[:, [1, 5]] = True  # all begin anew at step 3
    state, _ = bpl.run_batch(learner, state, cut(6, ends))
    assert state.moments["theta"]["steps"] == 5 + 4
    ends[0, [1, 2]] = False, True  # now some row has a δ at every step but the first
    state, _ = bpl.run_batch(learner, state, cut(6, ends))
    assert state.moments["theta"]["steps"] == 9 + 5


def test_a_piece_of_a_stream_begins_with_a_delta():
    circuit, readout, unit, data, theta = case("adapting", T=6)
    learner = learner_of(bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace="full"), circuit, readout)
    state = learner.initial(theta=theta)
    for start, steps in ((0, 2), (2, 5), (5, 6)):
        piece = bpl.Batch(data.x[:, start:steps], data.y[:, start:steps], stream=True)
        state, _ = bpl.run_batch(learner, state, piece)
        assert state.moments["theta"]["steps"] == steps - 1


@pytest.mark.parametrize("trace", ["full", "lazy", "local", "leak"])
def test_rows_that_start_later_add_nothing(trace):
    """At a step where a row's trial begins, the gradient is that of the other rows."""
    circuit, readout, unit, data, theta = case("adapting", T=6)
    readout = bpl.Readout(circuit, 2, reduction="sum", seed=1)
    end = np.zeros((3, 6), bool)
    end[0, 2] = end[1, 3] = True
    end[:, -1] = True

    def gradients(rows):
        found = []

        class Seen(bpl.BPLambda):
            def collect(self, *arguments):
                found.append(super().collect(*arguments))
                return found[-1]

        batch = bpl.Batch(data.x[rows], data.y[rows], end=end[rows])
        bpl.batch_updates(circuit, readout, Seen(unit, gamma=0.9, lam=0.8, trace=trace), batch, theta)
        return found

    together, alone = gradients([0, 1, 2]), [gradients([row]) for row in range(3)]
    assert [t for t in range(6) if together[t] is None] == [0]
    assert [[t for t in range(6) if own[t] is None] for own in alone] == [[0, 3], [0, 4], [0]]
    for t in range(1, 6):
        assert off(together[t], sum(own[t] for own in alone if own[t] is not None)) < 1e-12


# A penalty on rates teaches in trials alone.


def padded(rng, lengths, T):
    """Trials side by side, with random numbers after their ends, and each of them alone."""
    B = len(lengths)
    x, y = rng.normal(size=(2, B, T, 2))
    end = np.zeros((B, T), bool)
    for row, length in enumerate(lengths):
        end[row, length - 1] = True
    alone = [bpl.Batch(x[b : b + 1, :n], y[b : b + 1, :n]) for b, n in enumerate(lengths)]
    return bpl.Batch(x, y, end=end), alone


def penalised(name, options, model):
    """Gradients with a penalty of padded trials side by side, of the same alone, and without a penalty."""
    circuit, _, unit, _, theta = case(model, expansion=0)
    readout = bpl.Readout(circuit, 2, reduction="sum", seed=1)
    rule = bpl.make_rule(name, unit, **options)
    theta = theta if rule.needs_synthesiser else None
    together, alone = padded(np.random.default_rng(0), (4, 9, 1), 9)

    def gradient(batch, rho):
        learner = bpl.Learner(circuit, readout, rule, {}, bpl.Schedule(moves=False), rate_penalty=rho)
        state, _ = bpl.run_batch(learner, learner.initial(theta=theta).replace(noise_rng=None), batch)
        return state.sums

    parts = [gradient(batch, 0.7) for batch in alone]
    found = gradient(together, 0.7)
    return found, {key: sum(part[key] for part in parts if key in part) for key in found}, gradient(together, 0.0)


@pytest.mark.parametrize("model", ["adapting", "ei", "cerebellar"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bptt", {}), ("rtrl", {}), ("eprop", {"trace": "local"}), ("eprop", {"trace": "sweep"}),
        *(("bp_lambda", {"trace": trace}) for trace in ("full", "lazy", "sweep", "local")),
    ],
)  # fmt: skip
def test_a_rate_penalty_teaches_nothing_in_padding(name, options, model):
    found, expected, without = penalised(name, options, model)
    for key in found:
        assert np.abs(found[key] - expected[key]).max() < 1e-12 * np.abs(expected[key]).max(), key
    assert off(without["psi"], found["psi"]) > 1e-3


@pytest.mark.parametrize("name", ["bptt", "rtrl"])
def test_a_rate_penalty_on_padding_is_caught(name, monkeypatch):
    penalty = loop._Trials.penalty

    def everywhere(trials, *arguments):
        trials.going_on = None
        return penalty(trials, *arguments)

    monkeypatch.setattr(loop._Trials, "penalty", everywhere)
    found, expected, _ = penalised(name, {}, "adapting")
    assert off(found["psi"], expected["psi"]) > 1e-3


# One synapse's trace in continuous time.


@pytest.mark.parametrize("model", ["leaky_tanh", "adapting", "ei"])
def test_a_synapses_trace_in_continuous_time(model):
    """Its sum ends on the forward view, and what it shows as local is what the local trace holds."""
    circuit, readout, unit, data, theta = case(model, "gaps", T=8)
    full, local, discrete = (
        bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace, continuous_time=continuous)
        for trace, continuous in (("full", True), ("local", True), ("full", False))
    )
    a, j, trial = 2, 1, 0
    found, plain = (
        analysis.synapse_trace(circuit, readout, rule, data, theta, (a, j), trial) for rule in (full, discrete)
    )
    total, dt = found.attrs["forward_view"], circuit.model.dt
    assert dt != 1 and total != 0
    assert float(found["cumulative"][-1]) == pytest.approx(total, rel=1e-10)
    updates = bpl.batch_updates(circuit, readout, full, data[trial : trial + 1], theta).gradients["theta"]
    assert -unit.weights(updates)[a, j] == pytest.approx(total, rel=1e-10)
    for name in ("own", "norm", "local", "product", "cumulative"):
        np.testing.assert_allclose(found[name], dt * plain[name], rtol=1e-10, atol=1e-15)
    held = []

    def watch(step):
        states, column = step.trace(a, j)
        held.append(column[0, a - states.start])

    watched_steps(circuit, readout, local, data[trial : trial + 1], theta, keep=False, watch=watch)
    np.testing.assert_allclose(found["local"], held, rtol=1e-12)
    assert np.abs(held).max() > 0


# The traces of a plastic layer end with their trial.


def hidden_traces_in_a_row(trace, model="leaky_tanh"):
    """How far the layer's gradient from two trials in a row is from that of the same two apart."""
    circuit, _, unit, data, theta = case(model, B=1, T=10, **PLASTIC)
    readout = bpl.Readout(circuit, 2, reduction="sum", seed=1)
    rule = bpl.BPLambda(unit, gamma=0.9, lam=0.8, trace=trace)
    end = np.zeros((1, 10), bool)
    end[0, [3, 9]] = True

    def gradient(batch):
        return bpl.batch_updates(circuit, readout, rule, batch, theta).gradients["theta"]

    joined = gradient(bpl.Batch(data.x, data.y, end=end))
    apart = sum(gradient(bpl.Batch(data.x[:, part], data.y[:, part])) for part in (slice(0, 4), slice(4, 10)))
    return {key: off(block, unit.layout.views(apart)[key]) for key, block in unit.layout.views(joined).items()}


@pytest.mark.parametrize("trace", ["local", "leak", "model"])
def test_a_plastic_layers_trace_ends_with_its_trial(trace):
    assert max(hidden_traces_in_a_row(trace).values()) < 1e-12


@pytest.mark.parametrize("trace", ["local", "leak", "model"])
def test_a_plastic_layers_trace_that_outlives_its_trial_is_caught(trace, monkeypatch):
    kept = {cls: {k: v for k, v in cls.trial_axes.items() if k != "hidden"} for cls in (OwnTrace, TRACES[trace])}
    for cls, axes in kept.items():
        monkeypatch.setattr(cls, "trial_axes", axes)
    errors = hidden_traces_in_a_row(trace)
    assert errors["expansion"] > 1e-3 and errors["output"] < 1e-12


# The lazy trace's ring, while Ψ and θ move.


def learned_with_a_window(circuit, readout, unit, data, theta, decay, window, rates, kappa):
    """Ψ and θ after a batch of per-step learning, with every state's ∂g/∂θ carried for `window` steps at most.

    A δ meets the states of the last `window` steps of its own trial, each carried on by the dense J of the steps
    between, as they were made. γ is `decay` and λ is 1, and φ stays.
    """
    B = data.size
    state, z_before = circuit.initial_state(B), np.zeros((B, unit.k))
    past = [[] for _ in range(B)]  # of each trial: ∂s_now/∂s_then ∂g/∂θ, latest last
    for t in range(data.steps):
        end = data.end[:, t]
        step = circuit.step(state, data.x[:, t])
        c = readout.credit(step.new, data.y[:, t], data.mask[:, t] / B)[1]
        J, z = step.jacobian(), unit.z(step)
        ahead, before = unit(z, theta).g, unit(z_before, theta).g
        change = np.zeros((unit.n, unit.m))
        for b in range(B):
            if past[b]:
                delta = (c[b] if end[b] else c[b] + decay * ahead[b]) @ J[b] - before[b]
                change += sum(np.einsum("i,iaj->aj", delta, e) for e in past[b])
        theta = theta + rates["theta"] * change.ravel()
        g, slope, z_out = unit(z, theta)[:3]
        slope = np.broadcast_to(slope, g.shape)
        credit = c + kappa * g * ~end[:, None]
        for b in range(B):
            new = np.zeros((unit.n, unit.n, unit.m))
            for a in range(unit.n):
                new[a, a] = slope[b, a] * z_out[b]
            past[b] = [decay * np.einsum("ik,kaj->iaj", J[b], e) for e in past[b]] + [new]
            past[b] = [] if end[b] else past[b][-window:]
        circuit = circuit.with_psi(circuit.psi - rates["psi"] * step.parameter_gradient(credit))
        z_before, state = z, circuit.reset(step.new, end)
    return {"psi": circuit.psi, "theta": theta}


@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("window", [1, 2, 4, 7])
@pytest.mark.parametrize("ends", ["together", "apart"])
def test_the_ring_of_the_lazy_trace_goes_round(ends, window, nonlinear):
    """Longer trials than the window, of one length and of several, while everything moves at every step."""
    circuit, readout, unit, *_ = case(bpl.Model.from_toml(NONLINEAR) if nonlinear else "adapting")
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 3, 19, 2))
    end = np.zeros((3, 19), bool)
    end[:, -1] = True
    if ends == "apart":  # one long trial; a short one and one of ten steps; trials of a single step
        end[1, 8] = end[2, 3] = end[2, 4] = end[2, 5] = True
    data, theta = bpl.Batch(x, y, end=end), rng.normal(size=unit.n * unit.m) * 0.3
    rates, kappa = {"psi": 0.05, "theta": 0.02}, 0.6
    expected, wider = (
        learned_with_a_window(circuit, readout, unit, data, theta, 0.9, K, rates, kappa) for K in (window, window + 1)
    )
    rule = bpl.BPLambda(unit, gamma=0.9, lam=1.0, sg_weight=kappa, trace="lazy", window=window)
    optimisers = {name: bpl.SGD(rate) for name, rate in rates.items()}
    learner = bpl.Learner(circuit, readout, rule, optimisers, bpl.Schedule(1))
    state, _ = bpl.run_batch(learner, learner.initial(theta=theta), data)
    start = {"psi": circuit.psi, "theta": theta}
    for name, before in start.items():
        moved = expected[name] - before
        assert off(state.parameter(name) - before, moved) < 1e-11, name
        assert off(wider[name] - before, moved) > 1e-8, name


def test_copies_of_a_carry_go_their_own_ways():
    """What is saved or forked in the middle of a trial is not changed by what comes after."""
    for form in FORMS:
        circuit, readout, rule, data, theta = setting(form)
        kept = []
        for carry, _, _ in stepped(circuit, readout, rule, data, theta):
            other = copied(carry)
            kept.append((other, bits(other)))
        assert all(bits(other) == before for other, before in kept), named(form)
