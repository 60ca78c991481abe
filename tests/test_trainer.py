"""Schedules, optimisers, checkpoints, evaluation, divergence."""

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro.backend import NumpyBackend
from bpl_neuro.train.updates import check_finite


def setting(seed=0, trace="full", lam=0.9, outputs=2, loss="squared_error", **keywords):
    circuit = bpl.Circuit("leaky_tanh", 5, 3, seed=seed)
    readout = bpl.Readout(circuit, outputs, loss, seed=seed + 1, **keywords)
    return circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit), lam=lam, trace=trace)


def batch(seed=0, B=4, T=6):
    rng = np.random.default_rng(seed)
    return bpl.Batch(rng.normal(size=(B, T, 3)), rng.normal(size=(B, T, 2)))


def test_per_trial_sgd_applies_the_summed_gradients():
    circuit, readout, rule = setting(trace="sweep")
    theta = np.random.default_rng(3).normal(size=30) * 0.1
    trainer = bpl.Trainer(circuit, readout, rule, optimiser=bpl.SGD(0.1)).set_parameters(theta=theta)
    before = {"psi": circuit.psi, "phi": readout.phi, "theta": theta}
    expected = bpl.batch_updates(circuit, readout, rule, batch(), theta).gradients
    trainer.train_batch(batch())
    for name in before:
        np.testing.assert_allclose(trainer.parameter(name), before[name] - 0.1 * expected[name], atol=1e-15)


def test_per_step_updates_follow_the_algorithm_line_by_line():
    """The six lines of the algorithm, written out with dense Jacobians, against the trainer."""
    circuit, readout, rule = setting(lam=0.7)
    rule = bpl.BPLambda(rule.synthesiser, lam=0.7, gamma=0.9, sg_weight=0.5, trace="full")
    data, alpha, eta = batch(5), 0.05, 0.02
    theta = np.random.default_rng(1).normal(size=(5, 6)) * 0.2
    slow, slow_readout, _ = setting(lam=0.7)
    trainer = bpl.Trainer(
        circuit, readout, rule, optimiser={"psi": bpl.SGD(eta), "theta": bpl.SGD(alpha)}, schedule="step"
    )
    trainer.set_parameters(theta=theta.reshape(-1))
    trainer.train_batch(data)

    state = slow.initial_state(4)
    e, z_prev = np.zeros((4, 5, 5, 6)), None
    for t in range(6):
        step = slow.step(state, data.x[:, t])
        c = slow_readout.credit(step.new, data.y[:, t], np.full(4, 1 / 4))[1]
        J = step.jacobian()
        z = np.hstack([step.new.s, np.ones((4, 1))])
        live = 0.0 if t == 5 else 1.0
        if z_prev is not None:
            delta = np.einsum("bi,bij->bj", c + 0.9 * live * z @ theta.T, J) - z_prev @ theta.T
            theta = theta + alpha * np.einsum("bi,biaj->aj", delta, e)
        e = 0.9 * 0.7 * np.einsum("bik,bkaj->biaj", J, e)
        for i in range(5):
            e[:, i, i] += z
        credit = c + 0.5 * live * z @ theta.T
        slow = slow.with_psi(slow.psi - eta * step.parameter_gradient(credit))
        state, z_prev = step.new, z
    np.testing.assert_allclose(trainer.theta, theta.reshape(-1), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(trainer.parameter("psi"), slow.psi, rtol=1e-12, atol=1e-14)


def test_sum_reduction_is_the_mean_times_the_batch_size():
    gradients = {}
    for reduction in ("mean", "sum"):
        circuit, readout, rule = setting(reduction=reduction)
        gradients[reduction] = bpl.batch_updates(circuit, readout, rule, batch())
    assert gradients["sum"].loss == pytest.approx(gradients["mean"].loss, rel=1e-12)
    np.testing.assert_allclose(gradients["sum"].gradients["phi"], 4 * gradients["mean"].gradients["phi"], rtol=1e-12)


def test_no_step_of_adam_is_larger_than_it_may_be():
    """Small gradients for long, then a large one: 7 η without a bound; the bound is on each parameter by itself."""
    went, states = {}, {}
    for bound in (None, 2):
        adam, p = bpl.Adam(lambda k: 0.01, beta1=0.0, max_step=bound), np.zeros(2)
        state = adam.init(NumpyBackend(), p)
        for k in range(400):
            before = p
            p, state = adam.step(NumpyBackend(), p, np.array([1.0, -100.0 if k == 399 else 1.0]), state)
        went[bound], states[bound] = p - before, state
    assert went[None][0] == pytest.approx(-0.01, rel=1e-3) and 0.065 < went[None][1] < 0.075
    np.testing.assert_allclose(went[2], [went[None][0], 0.02], rtol=1e-12)
    assert float(states[2]["capped"]) == 0.5 and "capped" not in states[None]
    with pytest.raises(bpl.ValidationError, match="max_step"):
        bpl.Adam(max_step=0)


def test_adam_against_its_formula():
    adam = bpl.Adam(0.01, beta1=0.8, beta2=0.9, epsilon=1e-8)
    p, state = np.array([1.0, -2.0]), adam.init(NumpyBackend(), np.zeros(2))
    m = v = np.zeros(2)
    expected = p
    for k, g in enumerate([np.array([0.3, -1.0]), np.array([0.1, 2.0]), np.array([-4.0, 0.0])], start=1):
        p, state = adam.step(NumpyBackend(), p, g, state)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        expected = expected - 0.01 * (m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.9**k)) + 1e-8)
    np.testing.assert_allclose(p, expected, rtol=1e-14)


def test_a_frozen_parameter_stays_to_the_bit():
    circuit, readout, rule = setting()
    trainer = bpl.Trainer(circuit, readout, rule, optimiser={"theta": bpl.Adam()}, schedule="step")
    psi, phi = circuit.psi.copy(), readout.phi.copy()
    trainer.train_batch(batch())
    assert (trainer.parameter("psi") == psi).all() and (trainer.parameter("phi") == phi).all()
    assert trainer.theta.any()


def test_batch_updates_change_nothing():
    circuit, readout, rule = setting()
    psi, phi = circuit.psi.copy(), readout.phi.copy()
    first = bpl.batch_updates(circuit, readout, rule, batch(), signals=True)
    second = bpl.batch_updates(circuit, readout, rule, batch(), signals=True)
    assert (circuit.psi == psi).all() and (readout.phi == phi).all()
    for name in first.gradients:
        assert (first.gradients[name] == second.gradients[name]).all()
    assert set(first.signals) == {"g", "delta", "credit", "c", "state"}
    assert first.signals["delta"].shape == (6, 4, 5)


@pytest.mark.parametrize("schedule", ["trial", "step"])
def test_a_checkpoint_continues_to_the_same_bits(tmp_path, schedule):
    task = bpl.tasks.TargetReaching(patterns=3, steps=5, batches_per_epoch=4)

    def fresh():
        circuit = bpl.Circuit("adapting", 6, task.input_size, seed=1)
        readout = bpl.Readout(circuit, 2, seed=2)
        rule = bpl.BPLambda(bpl.Synthesiser(circuit), trace="full")
        return bpl.Trainer(circuit, readout, rule, schedule=schedule, seed=3)

    whole = fresh().fit(task, epochs=3, batch_size=2, progress=False)
    first = fresh().fit(task, epochs=1, batch_size=2, progress=False)
    first.save(tmp_path / "c.npz")
    second = fresh().restore(tmp_path / "c.npz").fit(task, epochs=3, batch_size=2, progress=False)
    for name in ("psi", "phi", "theta"):
        assert (whole.parameter(name) == second.parameter(name)).all(), name
    assert whole.history == second.history
    whole.restore_best()
    second.restore_best()
    assert (whole.theta == second.theta).all()


def test_damaged_and_foreign_checkpoints_are_refused_and_change_nothing(tmp_path):
    circuit, readout, rule = setting()
    trainer = bpl.Trainer(circuit, readout, rule)
    path = tmp_path / "c.npz"
    trainer.save(path)
    good = path.read_bytes()
    state, theta = trainer.state, trainer.theta
    for damaged in (good[: len(good) // 2], b"", b"nonsense" * 50):
        path.write_bytes(damaged)
        with pytest.raises(bpl.ValidationError, match="damaged"):
            trainer.restore(path)
    flipped = bytearray(good)
    flipped[good.index(b"parameters/psi.npy") + 200] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(bpl.ValidationError):
        trainer.restore(path)
    with pytest.raises(bpl.ValidationError, match="no such file"):
        trainer.restore(tmp_path / "absent.npz")
    other = bpl.Circuit("leaky_tanh", 7, 3)
    other.save(path)
    with pytest.raises(bpl.ValidationError, match="expected a bpl_neuro checkpoint"):
        trainer.restore(path)
    bigger = bpl.Trainer(other, bpl.Readout(other, 2), bpl.BPLambda(bpl.Synthesiser(other)))
    bigger.save(path)
    with pytest.raises(bpl.ValidationError, match=r"`circuit\.sizes\.cortex` is 7 in the file, 5 here"):
        trainer.restore(path)
    assert trainer.state is state and (trainer.theta == theta).all()


def test_a_circuit_file_gives_the_circuit_again(tmp_path):
    circuit = bpl.Circuit("ei", {"exc": 4, "inh": 2}, 3, parameters={"exc.tau": [0.01, 0.02, 0.03, 0.04]}, seed=5)
    circuit.save(tmp_path / "circuit.npz")
    again = bpl.Circuit.load(tmp_path / "circuit.npz")
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    assert (circuit.run(x)[0] == again.run(x)[0]).all()


@pytest.mark.parametrize("schedule", ["trial", "step"])
def test_divergence_says_where_and_keeps_the_last_finite_parameters(schedule):
    circuit, readout, rule = setting()
    trainer = bpl.Trainer(circuit, readout, rule, optimiser=bpl.SGD(1e300), schedule=schedule)
    with pytest.raises(bpl.DivergenceError, match="learning rate") as caught:
        for _ in range(5):
            trainer.train_batch(batch())
    assert caught.value.quantity
    assert np.isfinite(caught.value.last_finite)
    for name in ("psi", "phi", "theta"):
        assert np.isfinite(trainer.parameter(name)).all()


def test_a_state_that_explodes_names_its_step():
    circuit = bpl.Circuit("linear", 5, 3, radius=1e60)
    readout, data = bpl.Readout(circuit, 2), batch(T=20)
    late = bpl.Batch(data.x, data.y, np.arange(20) == np.full((len(data.x), 1), 19))  # or the loss would be the first
    with pytest.raises(bpl.DivergenceError, match="`state`") as caught:
        bpl.batch_updates(circuit, readout, bpl.rules.Immediate(circuit), late)
    assert 1 < caught.value.step < 20


def test_a_users_own_arrays_train():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4, 3))
    labels = np.repeat((x.sum(axis=(1, 2)) > 0).astype(int)[:, None], 4, axis=1)
    mask = np.zeros((60, 4))
    mask[:, -1] = 1
    task = bpl.ArrayTask(bpl.Batch(x, labels, mask), "cross_entropy", validation=0.25, test=0.25)
    circuit = bpl.Circuit("leaky_tanh", 8, 3, parameters={"tau": "2*ms"})
    readout = bpl.Readout(circuit, task.output_size, task.loss)
    trainer = bpl.Trainer(
        circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit), trace="sweep"), optimiser=bpl.Adam(1e-2)
    )
    trainer.fit(task, epochs=15, batch_size=15, progress=False)
    assert trainer.history[-1]["train_loss"] < 0.8 * trainer.history[0]["train_loss"]
    assert trainer.evaluate(task, "validation")["accuracy"] == trainer.history[-1]["validation_accuracy"]
    assert trainer.evaluate(task, "test")["accuracy"] > 0.5
    assert trainer.predict(x).shape == (60, 4, 2)


def test_class_loss_and_accuracy_add_up_over_uneven_batches():
    rng = np.random.default_rng(1)
    data = bpl.Batch(rng.normal(size=(7, 3, 3)), rng.integers(0, 3, (7, 3)))
    task = bpl.ArrayTask(data, "cross_entropy", validation=0, test=data)
    circuit, readout, rule = setting(outputs=3, loss="cross_entropy")
    trainer = bpl.Trainer(circuit, readout, rule)
    small = trainer.evaluate(task, "test", batch_size=2)
    whole = trainer.evaluate(task, "test", batch_size=7)
    assert small == pytest.approx(whole, rel=1e-12)
    assert whole["accuracy"] == pytest.approx((trainer.predict(data.x).argmax(axis=2) == data.y).mean())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"schedule": "epoch"}, "`schedule`"),
        ({"optimiser": {"weights": bpl.SGD(1)}}, "`optimiser`"),
    ],
)
def test_wrong_arguments(keywords, message):
    circuit, readout, rule = setting()
    with pytest.raises(bpl.ValidationError, match=message):
        bpl.Trainer(circuit, readout, rule, **keywords)


def test_the_sweep_refuses_the_per_step_schedule():
    circuit, readout, rule = setting(trace="sweep")
    with pytest.raises(bpl.ValidationError, match="schedule"):
        bpl.Trainer(circuit, readout, rule, schedule="step")


def test_a_readout_of_another_circuit_is_refused():
    circuit, _, rule = setting()
    with pytest.raises(bpl.ValidationError, match="`readout`"):
        bpl.Trainer(circuit, setting()[1], rule)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_finite_is_told_from_not_finite_also_where_squares_overflow(dtype):
    large = np.full(5, np.finfo(dtype).max, dtype)
    check_finite(np, "state", large, large, 1, 1)
    for bad in (np.nan, np.inf, -np.inf):
        array = np.ones((3, 4), dtype)
        array[1, 2] = bad
        with pytest.raises(bpl.DivergenceError, match="state"):
            check_finite(np, "state", array, large, 1, 1)
