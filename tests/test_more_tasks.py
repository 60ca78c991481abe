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
    trainer.fit(task, epochs=2, batch_size=4, validate=False, progress=False, callbacks=[task])
    assert task.length > 1


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
        (lambda: bpl.DelayedReach(0), "`targets`"),
        (lambda: bpl.DelayedReach(cue="7*ms"), "`cue`.*whole number"),
        (lambda: bpl.DelayedReach(cue="10*mV"), "`cue`"),
        (lambda: bpl.DelayedReach(delay=("200*ms", "100*ms")), "`delay`"),
        (lambda: bpl.DelayedReach(reaction="300*ms"), "`reaction`"),
        (lambda: bpl.DelayedReach(hold=-1), "`hold`"),
        (lambda: bpl.DelayedReach(dt="-1*ms"), "`dt`"),
        (lambda: bpl.IntervalTiming("200*ms"), "`intervals`"),
        (lambda: bpl.IntervalTiming(["10*ms"]), "`intervals`"),
        (lambda: bpl.CueOutcome([1.0], [1.5]), "`probabilities`"),
        (lambda: bpl.CueOutcome([], []), "`magnitudes`"),
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
