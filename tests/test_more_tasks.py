"""Copy–repeat and the tasks in ms: layouts against hand-written ones, determinism, curriculum, learning."""

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro.tasks import TASKS

TASK_KINDS = [bpl.CopyRepeat, bpl.DelayedReach, bpl.IntervalTiming, bpl.CueOutcome]


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_the_same_generator_gives_the_same_trials(kind):
    task = kind(batches_per_epoch=3)
    assert TASKS[task.name] is kind
    for split in ("train", "validation", "test"):
        one, other = ([b for b in task.batches(np.random.default_rng(s), 5, split)] for s in (4, 4))
        assert len(one) == len(other) == (3 if split == "train" else 1)
        for a, b in zip(one, other, strict=True):
            assert (a.x == b.x).all() and (a.y == b.y).all() and (a.end == b.end).all() and (a.mask == b.mask).all()
            assert a.x.shape[2] == task.input_size and a.y.shape[2] == task.output_size
    train = [next(task.batches(np.random.default_rng(s), 40)).x for s in (1, 2)]
    assert train[0].shape != train[1].shape or (train[0] != train[1]).any()


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_trials_follow_the_state_of_the_generator(kind):
    task, rng = kind(batches_per_epoch=2), np.random.default_rng(7)
    first = list(task.batches(rng, 6))
    state = rng.bit_generator.state
    second = list(task.batches(rng, 6))
    assert any(a.x.shape != b.x.shape or (a.x != b.x).any() for a, b in zip(first, second, strict=True))
    rng.bit_generator.state = state
    for a, b in zip(second, task.batches(rng, 6), strict=True):
        assert (a.x == b.x).all() and (a.y == b.y).all() and (a.end == b.end).all() and (a.mask == b.mask).all()


def test_copy_repeat_layout():
    task = bpl.CopyRepeat(length=2, repeats=3, bits=2)
    batch = task.make(np.array([[[1, 0], [0, 1]]]))
    x = [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0.3], *[[0] * 4] * 7]
    y = [*[[0] * 3] * 4, *[[1, 0, 0], [0, 1, 0]] * 3, [0, 0, 1]]
    np.testing.assert_allclose(batch.x[0], x, atol=1e-7)
    np.testing.assert_allclose(batch.y[0], y)
    assert batch.mask[0].tolist() == [0] * 4 + [1] * 7
    assert batch.steps == task.steps == (3 + 1) * 2 + 3


def test_the_curriculum():
    task = bpl.CopyRepeat()
    chance = np.log(2) * task.output_size * (task.repeats * task.length + 1)
    assert task.bits_per_bit(chance) == pytest.approx(1)
    assert not task.advance(chance) and task.state() == {"length": 1, "repeats": 1, "solved": 0}
    seen = []
    for _ in range(6):
        assert task.advance(0.0)
        seen.append((task.length, task.repeats))
    # R += 1 while R < N, else N += 1
    assert seen == [(2, 1), (2, 2), (3, 2), (3, 3), (4, 3), (4, 4)]
    assert task.solved == 4
    again = bpl.CopyRepeat()
    again.restore(task.state())
    assert again.state() == task.state()
    assert not task.advance(0.16 * np.log(2) * task.output_size * (task.repeats * task.length + 1))


def test_the_curriculum_as_a_callback():
    task = bpl.CopyRepeat(batches_per_epoch=2, threshold=1.1)
    circuit = bpl.Circuit("lstm", 5, task.input_size, seed=0)
    readout = bpl.Readout(circuit, task.output_size, task.loss)
    trainer = bpl.Trainer(circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit), trace="sweep"))
    trainer.fit(task, epochs=2, batch_size=4, validate=False, progress=False)
    assert task.length > 1


def test_a_loss_that_is_no_number_passes_nothing():
    task = bpl.CopyRepeat()
    assert not task.advance(float("nan"))
    assert task.state() == {"length": 1, "repeats": 1, "solved": 0}


def test_a_wrong_state_changes_nothing():
    task = bpl.CopyRepeat(3, 2)
    before = task.state()
    changes = ({"more": 1}, {"length": 0}, {"solved": -1}, {"length": 5, "solved": "x"})
    for wrong in (None, {}, {"length": 1, "repeats": 1}, *(before | change for change in changes)):
        with pytest.raises(bpl.ValidationError):
            task.restore(wrong)
        assert task.state() == before


def test_a_run_restored_within_an_epoch_goes_on_with_the_same_trials(tmp_path):
    def make():
        task = bpl.CopyRepeat(batches_per_epoch=5, threshold=1.1)  # passes every batch: the length grows all the time
        circuit = bpl.Circuit("lstm", 5, task.input_size, seed=0)
        readout = bpl.Readout(circuit, task.output_size, task.loss, seed=1)
        return task, bpl.Trainer(circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit), trace="sweep"))

    def fit(task, trainer, stop_at):
        common = {"batch_size": 4, "validate": False, "progress": False}
        trainer.fit(task, epochs=2, stop_at=stop_at, **common)

    task, trainer = make()
    fit(task, trainer, 8)  # never interrupted: any stop, also of a run that goes on in the same object, skips batches
    stopped, interrupted = make()
    fit(stopped, interrupted, 3)
    interrupted.save(tmp_path / "c.npz")
    assert stopped.length > 1 and interrupted.within_epoch == 3
    again, restored = make()
    fit(again, restored.restore(tmp_path / "c.npz"), 8)
    fit(stopped, interrupted, 8)
    for other, it in ((stopped, interrupted), (again, restored)):
        assert it.losses == trainer.losses and len(it.losses) == 8
        assert (it.circuit.psi == trainer.circuit.psi).all() and other.state() == task.state()


def test_delayed_reach_layout():
    task = bpl.DelayedReach(2, cue="10*ms", delay=("10*ms", "20*ms"), reach="15*ms", reaction="5*ms", hold=0.5)
    x, y, mask = task.trial(1, 2)
    assert x.tolist() == [[0, 1, 0]] * 2 + [[0, 0, 0]] * 2 + [[0, 0, 1]] * 3
    np.testing.assert_allclose(y, [[0, 0]] * 4 + [[-1, 0]] * 3, atol=1e-15)
    assert mask.tolist() == [0.5] * 4 + [0, 1, 1]
    batch = next(task.batches(np.random.default_rng(0), 200))
    lengths = batch.end.argmax(axis=1) + 1
    assert set(lengths) == {2 + d + 3 for d in (2, 3, 4)}
    for row, length in enumerate(lengths):
        assert not batch.mask[row, length:].any() and batch.end[row, length - 1 :].all()


def test_interval_timing_layout():
    task = bpl.IntervalTiming(["40*ms"], pulse="10*ms", wait="20*ms", after="20*ms")
    x, y, mask = task.trial(4, 2)
    assert x[:, 0].tolist() == [0, 0, 1] + [0] * 9
    assert x[:, 1].tolist() == [0] * 6 + [1] + [0] * 5
    np.testing.assert_allclose(y[:, 0], [0] * 6 + [0, 0.25, 0.5, 0.75, 1, 1])
    assert mask.all() and len(x) == 12


def test_cue_outcome_layout_and_its_floor():
    task = bpl.CueOutcome([2.0, 1.0], [0.5, 1.0], cue="10*ms", delay="20*ms", outcome="20*ms", wait="10*ms")
    x, y, mask = task.trial(0, 1, True)
    assert x.tolist() == [[0, 0], [1, 0], *[[0, 0]] * 4]
    assert y[:, 0].tolist() == [0, 0, 0, 0, 2, 2] and mask.tolist() == [0, 0, 0, 0, 1, 1]
    assert not task.trial(0, 1, False)[1].any()
    assert task.floor == pytest.approx(0.5 * np.mean([4 * 0.25, 0]) * 2)
    batch = next(task.batches(np.random.default_rng(0), 4000))
    first = batch.x[:, 1, 0] > 0
    assert abs((batch.y[first].max(axis=(1, 2)) > 0).mean() - 0.5) < 0.05
    assert (batch.y[~first].max(axis=(1, 2)) == 1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bpl.CopyRepeat(length=0), "`length`"),
        (lambda: bpl.CopyRepeat(bits=2.5), "`bits`"),
        *((lambda t=t: bpl.CopyRepeat(threshold=t), "`threshold`") for t in (0, -1, float("nan"), True, "x")),
        (lambda: bpl.CopyRepeat(2).make(np.zeros((3, 1, 8))), r"`pattern` must be \(trials, 2, 8\), got .*\(3, 1, 8\)"),
        (lambda: bpl.CopyRepeat().make(np.zeros((1, 8))), "`pattern`"),
        (lambda: bpl.DelayedReach(0), "`targets`"),
        *((lambda d=d: bpl.DelayedReach(delay=d), "`delay`") for d in ("100*ms", 3, (), ("100*ms",))),
        (lambda: bpl.DelayedReach(hold="x"), "`hold`"),
        (lambda: bpl.DelayedReach(hold=float("nan")), "`hold`"),
        (lambda: bpl.DelayedReach(cue="7*ms"), "`cue`.*whole number"),
        (lambda: bpl.DelayedReach(cue="10*mV"), "`cue`"),
        (lambda: bpl.DelayedReach(delay=("200*ms", "100*ms")), "`delay`"),
        (lambda: bpl.DelayedReach(reaction="300*ms"), "`reaction`"),
        (lambda: bpl.DelayedReach(hold=-1), "`hold`"),
        (lambda: bpl.DelayedReach(dt="-1*ms"), "`dt`"),
        (lambda: bpl.IntervalTiming("200*ms"), "`intervals`"),
        (lambda: bpl.IntervalTiming(["10*ms"]), "`intervals`"),
        (lambda: bpl.IntervalTiming(5), "`intervals`"),
        (lambda: bpl.IntervalTiming([]), "`intervals`"),
        (lambda: bpl.CueOutcome([1.0], [1.5]), "`probabilities`"),
        (lambda: bpl.CueOutcome([], []), "`magnitudes`"),
        (lambda: bpl.CueOutcome(["a"], [1]), "`magnitudes`"),
        (lambda: bpl.CueOutcome([1, 2], [[1], [2, 3]]), "`probabilities`"),
        (lambda: bpl.CueOutcome([1, 2], [1]), "`probabilities`"),
        (lambda: bpl.CueOutcome().batches(3, 5), "`rng`"),
        (lambda: bpl.CueOutcome().batches(np.random.default_rng(0), 0), "`size`"),
        (lambda: bpl.CueOutcome().batches(np.random.default_rng(0), 5, "dev"), "`split`"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(bpl.BplError, match=message):
        call()


@pytest.mark.parametrize(
    "task",
    [
        bpl.DelayedReach(delay=("10*ms", "30*ms"), dt="10*ms", batches_per_epoch=25),
        bpl.IntervalTiming(batches_per_epoch=25),
        bpl.CueOutcome(delay="50*ms", batches_per_epoch=25),
    ],
    ids=lambda task: task.name,
)
def test_a_small_circuit_gets_better(task):
    text = bpl.Model.load("leaky_tanh").to_toml().replace('dt = "1*ms"', 'dt = "10*ms"')
    model = bpl.Model.from_toml(text.replace('tau = "10*ms"', 'tau = "50*ms"'))
    circuit = bpl.Circuit(model, 20, task.input_size, seed=0)
    readout = bpl.Readout(circuit, task.output_size, task.loss, reduction="sum", seed=1)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma="100*ms", lam="100*ms", sg_weight=0.1, trace="sweep")
    trainer = bpl.Trainer(circuit, readout, rule, optimiser=bpl.Adam(1e-2))
    trainer.fit(task, epochs=5, batch_size=10, validate=False, progress=False)
    assert trainer.history[-1]["train_loss"] < 0.8 * trainer.history[0]["train_loss"]


@pytest.mark.parametrize("learns", [True, False])
def test_a_small_lstm_learns_to_copy(learns):
    task = bpl.CopyRepeat(length=1, repeats=2, bits=2, batches_per_epoch=40, grows=False)
    circuit = bpl.Circuit("lstm", 20, task.input_size, seed=0)
    readout = bpl.Readout(circuit, task.output_size, task.loss, seed=1)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=1.0, trace="sweep")
    optimiser = dict.fromkeys(("psi", "phi", "theta") if learns else ("phi",), bpl.Adam(1e-2))
    trainer = bpl.Trainer(circuit, readout, rule, optimiser=optimiser)
    trainer.fit(task, epochs=6, batch_size=20, validate=False, progress=False)
    # Knowing the layout but not the pattern costs 4 of the 9 output bits (2 steps of 2 bits): below that, it copies.
    # A readout that learns on a circuit that does not is the control.
    assert task.bits_per_bit(trainer.history[0]["train_loss"]) > 4 / 9
    assert (task.bits_per_bit(trainer.history[-1]["train_loss"]) < 4 / 9) == learns
