"""Copy–repeat and the tasks in ms: layouts against hand-written ones, determinism, curriculum, learning."""

import numpy as np
import pytest

import bpl_neuro as bpl
from bpl_neuro.tasks import TASKS
from bpl_neuro.tasks.timing import check_step

TASKS_IN_TIME = [
    bpl.tasks.AssociationReach,
    bpl.tasks.DelayedReach,
    bpl.tasks.IntervalTiming,
    bpl.tasks.CueOutcome,
]
TASK_KINDS = [bpl.tasks.CopyRepeat, *TASKS_IN_TIME]


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
    task = bpl.tasks.CopyRepeat(length=2, repeats=3, bits=2)
    batch = task.make(np.array([[[1, 0], [0, 1]]]))
    x = [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0.3], *[[0] * 4] * 7]
    y = [*[[0] * 3] * 4, *[[1, 0, 0], [0, 1, 0]] * 3, [0, 0, 1]]
    np.testing.assert_allclose(batch.x[0], x, atol=1e-7)
    np.testing.assert_allclose(batch.y[0], y)
    assert batch.mask[0].tolist() == [0] * 4 + [1] * 7
    assert batch.steps == task.steps == (3 + 1) * 2 + 3


def test_the_curriculum():
    task = bpl.tasks.CopyRepeat()
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
    again = bpl.tasks.CopyRepeat()
    again.restore(task.state())
    assert again.state() == task.state()
    assert not task.advance(0.16 * np.log(2) * task.output_size * (task.repeats * task.length + 1))


def test_the_curriculum_as_a_callback():
    task = bpl.tasks.CopyRepeat(batches_per_epoch=2, threshold=1.1)
    circuit = bpl.Circuit("lstm", 5, task.input_size, seed=0)
    readout = bpl.Readout(circuit, task.output_size, task.loss)
    trainer = bpl.Trainer(circuit, readout, bpl.BPLambda(bpl.Synthesiser(circuit), trace="sweep"))
    trainer.fit(task, epochs=2, batch_size=4, validate=False, progress=False)
    assert task.length > 1


def test_a_loss_that_is_no_number_passes_nothing():
    task = bpl.tasks.CopyRepeat()
    assert not task.advance(float("nan"))
    assert task.state() == {"length": 1, "repeats": 1, "solved": 0}


def test_a_wrong_state_changes_nothing():
    task = bpl.tasks.CopyRepeat(3, 2)
    before = task.state()
    changes = ({"more": 1}, {"length": 0}, {"solved": -1}, {"length": 5, "solved": "x"})
    for wrong in (None, {}, {"length": 1, "repeats": 1}, *(before | change for change in changes)):
        with pytest.raises(bpl.ValidationError):
            task.restore(wrong)
        assert task.state() == before


def test_a_run_restored_within_an_epoch_goes_on_with_the_same_trials(tmp_path):
    def make():
        task = bpl.tasks.CopyRepeat(
            batches_per_epoch=5, threshold=1.1
        )  # passes every batch: the length grows all the time
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
        assert (it.parameter("psi") == trainer.parameter("psi")).all() and other.state() == task.state()


def test_delayed_reach_layout():
    task = bpl.tasks.DelayedReach(2, cue="10*ms", delay=("10*ms", "20*ms"), reach="15*ms", reaction="5*ms", hold=0.5)
    x, y, mask = task.trial(1, 2)
    assert x.tolist() == [[0, 1, 0]] * 2 + [[0, 0, 0]] * 2 + [[0, 0, 1]] * 3
    np.testing.assert_allclose(y, [[0, 0]] * 4 + [[-1, 0]] * 3, atol=1e-15)
    assert mask.tolist() == [0.5] * 4 + [0, 1, 1]
    batch = next(task.batches(np.random.default_rng(0), 200))
    lengths = batch.end.argmax(axis=1) + 1
    assert set(lengths) == {2 + d + 3 for d in (2, 3, 4)}
    for row, length in enumerate(lengths):
        assert not batch.mask[row, length:].any() and batch.end[row, length - 1 :].all()


def test_association_reach_is_silent_until_the_reach():
    task = bpl.tasks.AssociationReach(4, cue="20*ms", delay=("10*ms", "30*ms"), reach="40*ms", reaction="10*ms")
    x, y, mask = task.trial(1, 2)
    assert x[:, [1, 4]].tolist() == [[1, 0]] * 2 + [[0, 0]] * 2 + [[0, 1]] * 4 and x.sum() == 6
    np.testing.assert_allclose(y[4:], [[0, 1]] * 4, atol=1e-15)
    assert mask.tolist() == [0] * 5 + [1] * 3


@pytest.mark.parametrize("kind", [bpl.tasks.AssociationReach, bpl.tasks.DelayedReach])
def test_what_staying_at_the_centre_costs(kind):
    """Whatever the delay: the loss of a circuit that is silent."""
    task = kind(3, cue="20*ms", delay=("10*ms", "40*ms"), reach="40*ms", reaction="10*ms", dt="10*ms")
    silent = bpl.Circuit(bpl.Model.load("association"), {"exc": 2, "inh": 1, "motor": 2}, 4)
    readout = bpl.Readout(silent, 2, task.loss)
    trainer = bpl.Trainer(silent, readout, bpl.rules.Immediate(silent))
    trainer.set_parameters(phi=np.zeros_like(trainer.parameter("phi")))
    assert trainer.evaluate(task)["loss"] == pytest.approx(task.baseline) and task.baseline == 1.5


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_shows_every_target_in_batches_of_any_size(split):
    (batch,) = bpl.tasks.DelayedReach(6).batches(np.random.default_rng(0), 4, split)
    assert set(batch.x[:, 0].argmax(axis=1)) == set(range(6))


def test_interval_timing_layout():
    task = bpl.tasks.IntervalTiming(["40*ms"], pulse="10*ms", wait="20*ms", after="20*ms")
    x, y, mask = task.trial(4, 2)
    assert x[:, 0].tolist() == [0, 0, 1] + [0] * 9
    assert x[:, 1].tolist() == [0] * 6 + [1] + [0] * 5
    np.testing.assert_allclose(y[:, 0], [0] * 6 + [0, 0.25, 0.5, 0.75, 1, 1])
    assert mask.all() and len(x) == 12


def test_cue_outcome_layout_and_its_floor():
    task = bpl.tasks.CueOutcome([2.0, 1.0], [0.5, 1.0], cue="10*ms", delay="20*ms", outcome="20*ms", wait="10*ms")
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
        (lambda: bpl.tasks.CopyRepeat(length=0), "`length`"),
        (lambda: bpl.tasks.CopyRepeat(bits=2.5), "`bits`"),
        (lambda: bpl.tasks.CopyRepeat(grows="no"), "`grows` must be True or False"),
        *((lambda t=t: bpl.tasks.CopyRepeat(threshold=t), "`threshold`") for t in (0, -1, float("nan"), True, "x")),
        (
            lambda: bpl.tasks.CopyRepeat(2).make(np.zeros((3, 1, 8))),
            r"`pattern` must be \(trials, 2, 8\), got .*\(3, 1, 8\)",
        ),
        (lambda: bpl.tasks.CopyRepeat().make(np.zeros((1, 8))), "`pattern`"),
        (lambda: bpl.tasks.DelayedReach(0), "`targets`"),
        *((lambda d=d: bpl.tasks.DelayedReach(delay=d), "`delay`") for d in ("100*ms", 3, (), ("100*ms",))),
        (lambda: bpl.tasks.DelayedReach(hold="x"), "`hold`"),
        (lambda: bpl.tasks.DelayedReach(hold=float("nan")), "`hold`"),
        (lambda: bpl.tasks.DelayedReach(cue="7*ms"), "`cue`.*whole number"),
        (lambda: bpl.tasks.DelayedReach(cue="10*mV"), "`cue`"),
        (lambda: bpl.tasks.DelayedReach(delay=("200*ms", "100*ms")), "`delay`"),
        (lambda: bpl.tasks.DelayedReach(reaction="300*ms"), "`reaction`"),
        (lambda: bpl.tasks.DelayedReach(hold=-1), "`hold`"),
        (lambda: bpl.tasks.DelayedReach(dt="-1*ms"), "`dt`"),
        (lambda: bpl.tasks.IntervalTiming("200*ms"), "`intervals`"),
        (lambda: bpl.tasks.IntervalTiming(["10*ms"]), "`intervals`"),
        (lambda: bpl.tasks.IntervalTiming(5), "`intervals`"),
        (lambda: bpl.tasks.IntervalTiming([]), "`intervals`"),
        (lambda: bpl.tasks.CueOutcome([1.0], [1.5]), "`probabilities`"),
        (lambda: bpl.tasks.CueOutcome([], []), "`magnitudes`"),
        (lambda: bpl.tasks.CueOutcome(["a"], [1]), "`magnitudes`"),
        (lambda: bpl.tasks.CueOutcome([1, 2], [[1], [2, 3]]), "`probabilities`"),
        (lambda: bpl.tasks.CueOutcome([1, 2], [1]), "`probabilities`"),
        (lambda: bpl.tasks.CueOutcome().batches(3, 5), "`rng`"),
        (lambda: bpl.tasks.CueOutcome().batches(np.random.default_rng(0), 0), "`size`"),
        (lambda: bpl.tasks.CueOutcome().batches(np.random.default_rng(0), 5, "dev"), "`split`"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(bpl.BplError, match=message):
        call()


@pytest.mark.parametrize("kind", TASKS_IN_TIME)
def test_a_task_in_time_says_its_step_in_seconds(kind):
    task = kind(dt="5*ms")
    assert isinstance(task.dt, float) and task.dt == pytest.approx(5e-3, rel=1e-15)
    check_step(task, bpl.Model.load("cerebellar"))
    with pytest.raises(bpl.ValidationError, match=rf"'{task.name}' steps by 5 ms.*'Leaky.*' by 1 ms.*dt=\"1\*ms\""):
        check_step(task, bpl.Model.load("leaky_tanh"))


def test_a_task_in_time_does_not_fit_a_model_in_bare_steps():
    with pytest.raises(bpl.ValidationError, match=r"steps by 10 ms.*'LSTM.*' by bare steps.*\[time\] dt = \"10\*ms\""):
        check_step(bpl.tasks.CueOutcome(), bpl.Model.load("lstm"))


@pytest.mark.parametrize("kind", [bpl.tasks.CopyRepeat, bpl.tasks.TargetReaching, object])
@pytest.mark.parametrize("model", ["leaky_tanh", "lstm"])
def test_a_task_in_bare_steps_fits_every_model(kind, model):
    check_step(kind(), bpl.Model.load(model))


class Clocked:
    """A task of a user's own."""

    name = "clocked"

    def __init__(self, dt):
        self.dt = dt


def test_the_step_of_a_users_own_task():
    model = bpl.Model.load("leaky_tanh")
    for dt in (None, 1e-3, 1e-3 * (1 + 1e-12), np.float64(1e-3)):
        check_step(Clocked(dt), model)
    for dt in (1e-3 * (1 + 1e-8), 1.0, 2.5e-7, 1e-12):
        with pytest.raises(bpl.ValidationError, match="'clocked' steps by"):
            check_step(Clocked(dt), model)
    for dt in ("1*ms", 0, -1e-3, float("nan"), True):
        with pytest.raises(bpl.ValidationError, match="`dt` of the task 'clocked'"):
            check_step(Clocked(dt), model)


@pytest.mark.parametrize(("dt", "text"), [("2*second", "2*second"), ("0.25*ms", "250*us"), ("0.007*us", "0.007*us")])
def test_the_right_step_is_one_that_can_be_written_down(dt, text):
    toml = bpl.Model.load("leaky_tanh").to_toml().replace('dt = "1*ms"', f'dt = "{dt}"')
    model = bpl.Model.from_toml(toml.replace('tau = "10*ms"', 'tau = "1000*second"'))
    with pytest.raises(bpl.ValidationError, match=f'make the task with dt="{text}"'.replace("*", r"\*")):
        check_step(bpl.tasks.CueOutcome(), model)


@pytest.mark.parametrize(
    "task",
    [
        bpl.tasks.DelayedReach(delay=("10*ms", "30*ms"), dt="10*ms", batches_per_epoch=25),
        bpl.tasks.IntervalTiming(batches_per_epoch=25),
        bpl.tasks.CueOutcome(delay="50*ms", batches_per_epoch=25),
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
    task = bpl.tasks.CopyRepeat(length=1, repeats=2, bits=2, batches_per_epoch=40, grows=False)
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
