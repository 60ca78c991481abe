"""Every credit rule: held to the slow truth, to each other, and to what makes it wrong."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from truth import LOSSES, MODELS, case, of_plastic, off

import bpl_neuro as bpl
from bpl_neuro import analysis, reference
from bpl_neuro.backend import NumpyBackend
from bpl_neuro.rules import RULES, eligibility
from bpl_neuro.rules.bp_lambda_eprop import BPLambdaEProp

EXACT = 1e-10


def updates(rule, circuit, readout, data, theta=None):
    return bpl.batch_updates(circuit, readout, rule, data, theta).gradients


def true_gradient(circuit, readout, data):
    return reference.bptt(reference.slow_run(circuit, readout, data))[1]


def parameter_jacobian(transition):
    """∂s_t/∂Ψ as (B, n, |Ψ|), from the gradient of one state of one trial at a time."""
    B, n = transition.new.s.shape
    M = np.empty((B, n, transition.wiring.layout.size))
    for b in range(B):
        for i in range(n):
            v = np.zeros((B, n))
            v[b, i] = 1
            M[b, i] = transition.parameter_gradient(v)
    return M


def influence_gradient(circuit, readout, data, block):
    """Σ_t c_t M_t with M_t = K_t M_{t−1} + ∂s_t/∂Ψ in dense matrices."""
    run = reference.slow_run(circuit, readout, data)
    M, total = np.zeros((data.size, circuit.n, circuit.layout.size)), 0
    for t, transition in enumerate(run.transitions):
        M = block(transition) @ M + parameter_jacobian(transition)
        total = total + np.einsum("bi,bip->p", run.c[t], M)
        M[run.end[t]] = 0
    return total


def block_diagonal(circuit, J):
    """Only each neuron's own block of J."""
    kept = np.zeros_like(J)
    for pop in circuit.populations:
        for i in range(pop.N):
            own = slice(pop.state_slice.start + i * pop.S, pop.state_slice.start + (i + 1) * pop.S)
            kept[:, own, own] = J[:, own, own]
    return kept


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_bptt_and_rtrl_are_the_gradient(model, loss):
    circuit, readout, _, data, _ = case(model, loss)
    expected = true_gradient(circuit, readout, data)
    assert off(updates(bpl.rules.BPTT(circuit), circuit, readout, data)["psi"], expected) < EXACT
    assert off(updates(bpl.rules.RTRL(circuit), circuit, readout, data)["psi"], expected) < EXACT


@pytest.mark.parametrize("model", MODELS)
def test_the_parameter_jacobian(model):
    circuit, readout, _, data, _ = case(model)
    transition = reference.slow_run(circuit, readout, data).transitions[2]
    M = np.zeros((data.size, circuit.n, circuit.layout.size))
    transition.add_parameter_jacobian(M)
    assert off(M, parameter_jacobian(transition)) < 1e-14


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("trace", ["local", "sweep"])
def test_local_traces_are_their_influence_matrices(model, trace):
    circuit, readout, _, data, _ = case(model, "gaps")
    blocks = {
        bpl.rules.EProp: lambda t: t.within(),
        bpl.rules.RFLO: lambda t: t.within() * np.eye(circuit.n),
        bpl.rules.SnAp1: lambda t: block_diagonal(circuit, t.jacobian()),
    }
    for rule, block in blocks.items():
        found = updates(rule(circuit, trace=trace, feedback="exact"), circuit, readout, data)["psi"]
        assert off(found, influence_gradient(circuit, readout, data, block)) < EXACT, rule.name


@pytest.mark.parametrize("model", ["linear", "leaky_tanh", "adapting", "lstm", "cerebellar"])
def test_snap1_is_rtrl_where_neurons_are_not_connected(model):
    whole, readout, _, data, _ = case(model, "gaps")

    def cut(keep_self):
        psi = whole.psi.copy()
        for synapses in whole.synapses:
            if synapses.pre is not None:
                W = whole.layout.views(psi)[synapses.key]
                W *= np.eye(*W.shape[1:]) * (keep_self and synapses.pre == synapses.post)
        return whole.with_psi(psi)

    circuit = cut(keep_self=True)
    rtrl = updates(bpl.rules.RTRL(circuit), circuit, readout, data)["psi"]
    found = updates(bpl.rules.SnAp1(circuit), circuit, readout, data)["psi"]
    # What a weight from a neuron to another would do through the synapses of that one is all there is to leave out.
    assert off(found, rtrl) < EXACT
    if model != "cerebellar":  # E → E is sparse there: three neurons may all lack a synapse onto themselves
        assert off(updates(bpl.rules.EProp(circuit), circuit, readout, data)["psi"], rtrl) > 1e-3
    circuit = cut(keep_self=False)
    rtrl, snap, eprop = (
        updates(rule(circuit), circuit, readout, data)["psi"]
        for rule in (bpl.rules.RTRL, bpl.rules.SnAp1, bpl.rules.EProp)
    )
    assert off(snap, rtrl) < EXACT and off(eprop, snap) < EXACT


def test_connected_neurons_are_what_snap1_leaves_out():
    circuit, readout, _, data, _ = case("lstm", "gaps")
    rtrl, snap = (updates(rule(circuit), circuit, readout, data)["psi"] for rule in (bpl.rules.RTRL, bpl.rules.SnAp1))
    assert off(snap, rtrl) > 1e-2


class TrueCredit(BPLambdaEProp):
    """Told the true discounted gradient in the place of its synthesiser's guess."""

    def assign(self, carry, transition, c, prospective, end):
        t = carry.get("t", np.int64(0))
        credit, moved, gradient = super().assign(carry, transition, c, self.G[t], end)
        return credit, moved | {"t": t + 1}, gradient

    def assign_all(self, trajectory, prospective):
        return super().assign_all(trajectory, self.G)


class NoSynapses(TrueCredit):
    """The learning signal forgets what passes through other neurons."""

    def assign(self, carry, transition, c, prospective, end):
        return super().assign(carry | {"started": np.zeros_like(end)}, transition, c, prospective, end)


class Undiscounted(TrueCredit):
    """The traces forget γ."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.eligibility.decay = 1.0


def error_with_true_credit(kind, model, gamma, discounted, trace, loss="gaps"):
    circuit, readout, unit, data, theta = case(model, loss)
    run = reference.slow_run(circuit, readout, data)
    rule = kind(unit, gamma=gamma, discounted=discounted, trace=trace)
    rule.G = reference.later_gradient(run.jacobians, run.c, run.end, gamma)
    found = updates(rule, circuit, readout, data, theta)["psi"]
    expected = sum(t.parameter_gradient(c + G) for t, c, G in zip(run.transitions, run.c, rule.G, strict=True))
    return off(found, expected)


@pytest.mark.parametrize("trace", ["full", "sweep"])
@pytest.mark.parametrize(("gamma", "discounted"), [(1.0, False), (1.0, True), (0.9, True), (0.5, True)])
@pytest.mark.parametrize("model", MODELS)
def test_eprop_with_the_true_credit_is_the_gradient(model, gamma, discounted, trace):
    assert error_with_true_credit(TrueCredit, model, gamma, discounted, trace) < EXACT


def test_what_makes_eprop_with_the_true_credit_wrong():
    assert error_with_true_credit(NoSynapses, "adapting", 1.0, False, "full") > 1e-2
    assert error_with_true_credit(Undiscounted, "adapting", 0.5, True, "full") > 1e-2
    assert error_with_true_credit(TrueCredit, "adapting", 0.5, False, "full") > 1e-2


@pytest.mark.parametrize("model", ["adapting", "ei", "lstm"])
@pytest.mark.parametrize("keywords", [{}, {"discounted": True}])
def test_both_credits_are_the_same_by_trace_and_by_sweep(model, keywords):
    circuit, readout, unit, data, theta = case(model, "gaps")
    full, sweep = (
        updates(
            BPLambdaEProp(unit, gamma=0.9, lam=0.8, sg_weight=0.3, trace=t, **keywords), circuit, readout, data, theta
        )
        for t in ("full", "sweep")
    )
    for name in ("psi", "theta"):
        assert off(full[name], sweep[name]) < EXACT


def windows(data, steps):
    """Where windows of n steps end, counted from each trial's end, written out row by row."""
    cut = data.end.copy()
    for row in range(data.size):
        last = None
        for t in reversed(range(data.steps)):
            if data.end[row, t]:
                last = t
            cut[row, t] |= last is not None and (last - t) % steps == 0
    return cut.T


@pytest.mark.parametrize("model", ["adapting", "ei", "lstm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_truncated_bptt_is_bptt_window_by_window(model, steps):
    circuit, readout, _, data, _ = case(model, "gaps", T=9)
    run = reference.slow_run(circuit, readout, data)
    credit = run.c + reference.later_gradient(run.jacobians, run.c, windows(data, steps))
    expected = sum(t.parameter_gradient(v) for t, v in zip(run.transitions, credit, strict=True))
    assert off(updates(bpl.rules.TruncatedBPTT(circuit, steps=steps), circuit, readout, data)["psi"], expected) < EXACT
    immediate = updates(bpl.rules.Immediate(circuit), circuit, readout, data)["psi"]
    assert (off(immediate, expected) < EXACT) == (steps == 1)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", LOSSES)
def test_windows_as_long_as_the_trial_are_bptt(model, loss):
    circuit, readout, unit, data, theta = case(model, loss)
    expected = true_gradient(circuit, readout, data)
    for steps, right in ((data.steps, True), (2, False)):
        for rule in (bpl.rules.TruncatedBPTT(circuit, steps=steps), bpl.rules.NStepSG(unit, steps=steps)):
            found = off(
                updates(rule, circuit, readout, data, theta if rule.needs_synthesiser else None)["psi"], expected
            )
            assert found < EXACT if right else found > 1e-6


@pytest.mark.parametrize("model", ["adapting", "ei", "lstm"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_n_step_sg_written_out(model, steps):
    circuit, readout, unit, data, theta = case(model, "gaps", T=9)
    gamma, kappa = 0.8, 0.6
    run = reference.slow_run(circuit, readout, data)
    g = np.stack([unit(unit.z(t), theta).g for t in run.transitions]) * ~run.end[:, :, None]
    cut = windows(data, steps)
    dtheta, credit = np.zeros_like(theta), np.zeros_like(run.c)
    for b in range(data.size):
        for t in range(data.steps):  # the credit of s_t: each later loss of its window, and the guess at its end
            for weight, kind in ((kappa, "circuit"), (gamma, "target")):
                if kind == "target" and (not cut[t][b] or run.end[t][b]):
                    continue
                P, total = np.eye(circuit.n), np.zeros(circuit.n)
                k = t
                if kind == "circuit":
                    total += run.c[t][b]
                while not (cut[k][b] and (kind == "circuit" or k > t)):
                    k += 1
                    P = run.jacobians[k][b] @ P
                    total += run.c[k][b] @ P
                total += weight * g[k][b] @ P
                if kind == "circuit":
                    credit[t, b] = total
                else:
                    one = run.transitions[t]
                    error = np.zeros((data.size, circuit.n))
                    error[b] = total - g[t][b]
                    dtheta -= reference.synthesiser_gradient(unit, error, unit.z(one), theta)
    expected = sum(t.parameter_gradient(v) for t, v in zip(run.transitions, credit, strict=True))
    found = updates(bpl.rules.NStepSG(unit, steps=steps, gamma=gamma, sg_weight=kappa), circuit, readout, data, theta)
    assert off(found["psi"], expected) < EXACT and off(found["theta"], dtheta) < EXACT
    wrong = updates(bpl.rules.NStepSG(unit, steps=steps, gamma=kappa, sg_weight=kappa), circuit, readout, data, theta)
    assert off(wrong["theta"], dtheta) > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_the_forward_view_as_a_rule(model):
    circuit, readout, unit, data, theta = case(model, "gaps")
    options = {"gamma": 0.9, "lam": 0.7, "sg_weight": 0.4}
    found, expected = (
        updates(rule, circuit, readout, data, theta)
        for rule in (bpl.rules.LambdaSG(unit, **options), bpl.BPLambda(unit, trace="full", **options))
    )
    for name in ("psi", "theta"):
        assert off(found[name], expected[name]) < EXACT
    wrong = updates(bpl.rules.LambdaSG(unit, **(options | {"lam": 0.6})), circuit, readout, data, theta)
    assert off(wrong["theta"], expected["theta"]) > 1e-3


class NoReset(bpl.rules.RTRL):
    def step(self, carry, transition, c, end, theta):
        return super().step(carry, transition, c, np.zeros_like(end), theta)


class NoOldInfluence(bpl.rules.RTRL):
    def step(self, carry, transition, c, end, theta):
        return super().step(carry | {"rows": 0 * carry["rows"]}, transition, c, end, theta)


class TransposedWeights(bpl.rules.BPTT):
    def finish(self, carry, trajectory, theta):
        swapped = {
            k: W.swapaxes(1, 2) if W.ndim == 3 and W.shape[1] == W.shape[2] else W
            for k, W in trajectory.rows.weights.items()
        }
        other = trajectory.back_through(lambda rows: dataclasses.replace(rows, weights=swapped))
        return super().finish(carry, other, theta)


class NoEnds(bpl.rules.BPTT):
    def finish(self, carry, trajectory, theta):
        return super().finish(carry, dataclasses.replace(trajectory, end=np.zeros_like(trajectory.end)), theta)


class LaggingTrace(bpl.rules.EProp):
    """The error meets the trace of one step earlier."""

    def step(self, carry, transition, c, end, theta):
        gradient = self.eligibility.advance(carry, transition, now=None, late=c)
        return self.eligibility.restart(carry, end), {}, gradient


@pytest.mark.parametrize("wrong", [NoReset, NoOldInfluence, TransposedWeights, NoEnds])
def test_wrong_versions_of_the_exact_rules_are_far_off(wrong):
    circuit, readout, _, data, _ = case("adapting", "gaps")
    expected = true_gradient(circuit, readout, data)
    assert off(updates(wrong(circuit), circuit, readout, data)["psi"], expected) > 1e-3


def test_a_lagging_trace_is_far_off():
    circuit, readout, _, data, _ = case("adapting", "gaps")
    expected = influence_gradient(circuit, readout, data, lambda t: t.within())
    assert off(updates(LaggingTrace(circuit), circuit, readout, data)["psi"], expected) > 1e-3


def options(name):
    if name in ("bp_lambda", "bp_lambda_eprop"):
        return {"trace": "full"}
    return {"steps": 2} if name in ("nstep_sg", "truncated_bptt") else {}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_trains_every_model(name, model, dtype, tmp_path):
    sizes = dict.fromkeys(bpl.Model.load(model).populations, 4)
    rng = np.random.default_rng(0)
    end = np.zeros((3, 6), bool)
    end[:, -1] = end[0, 2] = True
    data = [bpl.Batch(rng.normal(size=(3, 6, 2)), rng.normal(size=(3, 6, 2)), end=end) for _ in range(3)]

    def make(schedule):
        circuit = bpl.Circuit(model, sizes, 2, seed=0, dtype=dtype)
        rule = bpl.make_rule(name, circuit, **options(name))
        return bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule, schedule=schedule)

    for schedule in ("step", "trial"):
        try:
            trainer = make(schedule)
        except bpl.ValidationError:
            assert schedule == "step" and not make("trial").rule.online
            continue
        before = {key: trainer.parameter(key) for key in ("psi", "phi", "theta") if trainer.parameter(key) is not None}
        for batch in data:
            trainer.train_batch(batch)
        for key, value in before.items():
            now = trainer.parameter(key)
            assert now.dtype == dtype and np.isfinite(now).all() and (now != value).any(), key
        psi = trainer.parameter("psi")
        trainer.circuit.constrain(psi)  # to the initial weights where nothing is plastic
        assert (psi == trainer.parameter("psi")).all()
        trainer.save(tmp_path / f"{schedule}.npz")
        again = make(schedule).restore(tmp_path / f"{schedule}.npz")
        assert trainer.train_batch(data[0]).loss == again.train_batch(data[0]).loss
        assert (trainer.parameter("psi") == again.parameter("psi")).all()


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_says_of_itself(name):
    circuit, readout, _, data, _ = case("adapting", "gaps")
    rule = bpl.make_rule(name, circuit, **options(name))
    assert rule.name == name and rule.memory and rule.time and rule.feedback.kind in ("exact", "random")
    assert type(rule.online) is type(rule.exact) is type(rule.local) is bool
    assert ("step" in rule.schedules) == rule.online
    theta = rule.initial_theta()
    if theta is not None:
        theta = theta + np.random.default_rng(0).normal(size=theta.shape) * 0.3
    error = off(updates(rule, circuit, readout, data, theta)["psi"], true_gradient(circuit, readout, data))
    assert (error < EXACT) == rule.exact


@pytest.mark.parametrize("kind", ["sign", "random", "noisy"])
@pytest.mark.parametrize("name", RULES)
def test_feedback_through_other_weights(name, kind):
    circuit, readout, _, data, _ = case("ei", "gaps")
    exact, other, again = (
        bpl.make_rule(name, circuit, feedback=feedback, **options(name))
        for feedback in ("exact", kind, bpl.Feedback(kind, seed=0))
    )
    theta = None if exact.initial_theta() is None else exact.initial_theta() + 0.1
    found, changed, repeated = (updates(rule, circuit, readout, data, theta) for rule in (exact, other, again))
    assert off(changed["psi"], found["psi"]) > 1e-3
    assert (changed["psi"] == repeated["psi"]).all()
    assert (changed["phi"] == found["phi"]).all()  # the readout itself learns as ever


def test_feedback_weights():
    W = np.random.default_rng(0).normal(size=(2, 3, 4))
    exact, sign, random, noisy = (
        bpl.Feedback(kind).weights("w", W, NumpyBackend()) for kind in ("exact", "sign", "random", "noisy")
    )
    assert exact is W and (np.sign(sign) == np.sign(W)).all() and np.allclose(np.abs(sign), np.abs(W).mean())
    assert np.abs(random).max() <= 0.5 and abs(np.corrcoef(random.ravel(), W.ravel())[0, 1]) < 0.6
    assert 0.2 < np.std(noisy / W - 1) < 0.9
    assert (bpl.Feedback("random").weights("w", 3 * W, NumpyBackend()) == random).all()
    assert (bpl.Feedback("random").weights("v", W, NumpyBackend()) != random).any()
    with pytest.raises(bpl.ValidationError, match="exact, sign, random, noisy"):
        bpl.Feedback("none")


def test_rules_by_name():
    circuit = bpl.Circuit("leaky_tanh", 3, 2)
    unit = bpl.Synthesiser(circuit)
    assert bpl.make_rule("bp_lambda", unit, lam=0.5).synthesiser is unit
    assert bpl.make_rule("eprop", unit).circuit is circuit
    for arguments, keywords, message in (
        (("nonsense", circuit), {}, "bptt"),
        (("eprop", circuit), {"lam": 1}, "lam"),
        (("eprop", 3), {}, "Circuit"),
        (("truncated_bptt", circuit), {"steps": 0}, "steps"),
        (("eprop", circuit), {"trace": "full"}, "local, sweep"),
    ):
        with pytest.raises(bpl.ValidationError, match=message):
            bpl.make_rule(*arguments, **keywords)


def test_the_self_synapse_block_is_that_of_the_jacobian():
    circuit, readout, _, data, _ = case("lstm")
    transition = reference.slow_run(circuit, readout, data).transitions[1]
    J = transition.jacobian()
    block = eligibility.own_past_and_self_synapse(transition, 0)
    S = circuit.populations[0].S
    for (k, j), value in block.items():
        index = np.arange(circuit.populations[0].N) * S
        np.testing.assert_allclose(np.broadcast_to(value, (3, len(index))), J[:, index + k, index + j], atol=1e-14)
    assert of_plastic(circuit, np.ones(circuit.layout.size)).all()


@pytest.mark.parametrize(
    "name", [name for name in RULES if name not in ("bptt", "truncated_bptt", "nstep_sg", "lambda_sg")]
)
def test_every_online_rule_knows_nothing_of_what_comes(name):
    circuit = bpl.Circuit("cerebellar", {"exc": 5, "inh": 3}, 2, seed=0)
    trainer = bpl.Trainer(
        circuit, bpl.Readout(circuit, 2, seed=1), bpl.make_rule(name, circuit, **options(name)), schedule="step"
    )
    rng = np.random.default_rng(0)
    found = analysis.causality(trainer, bpl.Batch(rng.normal(size=(3, 8, 2)), rng.normal(size=(3, 8, 2))), step=5)
    early = found.sel(step=slice(None, 5))
    assert (early["difference"] == 0).all() and (early["moved"].max("step") > 0).all()
    assert (found["difference"].isel(step=-1) > 0).all()


def test_the_example_of_the_documentation():
    page = Path(bpl.__file__).parents[1] / "docs/write_a_rule.md"
    if not page.is_file():
        pytest.skip("not in a source tree")
    code, *_ = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(code, str(page), "exec"), names)
    circuit, readout, _, data, _ = case("adapting", "gaps")
    run = reference.slow_run(circuit, readout, data)
    expected = 0
    for t, transition in enumerate(run.transitions):
        expected = expected + transition.parameter_gradient(run.c[t])
        if t:
            back = transition.vjp(run.c[t]) * ~run.end[t - 1][:, None]
            expected = expected + run.transitions[t - 1].parameter_gradient(back)
    assert off(updates(names["TwoStepRTRL"](circuit), circuit, readout, data)["psi"], expected) < EXACT


class WithParameters(bpl.Rule):
    """Has parameters of its own, and keeps to itself which circuit it is for: the contract asks for no more."""

    name, memory, time = "with_parameters", "nothing", "nothing"
    online, exact, local = True, False, True

    def initial_theta(self):
        return np.zeros(2)

    def collect(self, carry, transition, c, end, theta):
        return np.ones(2)

    def step(self, carry, transition, c, end, theta):
        return carry, {}, None


def test_a_users_own_rule_may_have_parameters():
    circuit, readout, _, data, _ = case("leaky_tanh")
    found = bpl.batch_updates(circuit, readout, WithParameters(), data)
    assert (found.gradients["theta"] == data.steps).all()
    with pytest.raises(bpl.ValidationError, match="theta"):
        bpl.batch_updates(circuit, readout, WithParameters(), data, np.full(2, np.nan))
