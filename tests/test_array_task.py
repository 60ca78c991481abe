"""A user's own arrays: what a batch refuses, and how trials are parted into three splits."""

import numpy as np
import pytest

import bpl_neuro as bpl

SPLITS = ("train", "validation", "test")


def trials(count=40, labels=None, **keywords):
    """Trials whose inputs are all their own row's number."""
    x = np.repeat(np.arange(count, dtype=np.float32), 4 * 3).reshape(count, 4, 3)
    y = x[..., :2] if labels is None else np.repeat(np.asarray(labels)[:, None], 4, axis=1)
    return bpl.Batch(x, y, **keywords)


def drawn(task, split, rng=0, size=7):
    """Rows that an epoch shows, in order."""
    batches = list(task.batches(np.random.default_rng(rng) if isinstance(rng, int) else rng, size, split))
    assert all(batch.size == size for batch in batches[:-1]) and 0 < batches[-1].size <= size
    return np.concatenate([batch.x[:, 0, 0] for batch in batches]).astype(int)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["no", 1, None, 0.0])
def test_a_stream_is_yes_or_no(stream):
    with pytest.raises(bpl.ValidationError, match="`stream` must be True or False, got"):
        bpl.Batch(np.zeros((2, 4, 3)), np.zeros((2, 4, 2)), stream=stream)


def test_a_stream_may_be_numpys_own_boolean():
    assert bpl.Batch(np.zeros((2, 4, 3)), np.zeros((2, 4, 2)), stream=np.True_).stream is True


@pytest.mark.parametrize("name", ["x", "y", "mask", "end"])
@pytest.mark.parametrize("listed", [False, True])
def test_hidden_values_are_not_taken_for_data(name, listed):
    arrays = {"x": np.zeros((2, 4, 3)), "y": np.zeros((2, 4, 2)), "mask": np.ones((2, 4)), "end": np.ones((2, 4))}
    masked = np.ma.masked_array(arrays[name], arrays[name] == arrays[name])
    arrays[name] = list(masked) if listed else masked
    with pytest.raises(bpl.ValidationError, match=f"`{name}` must be a plain array, .*masked"):
        bpl.Batch(**arrays)


def test_rows_of_different_lengths_are_refused_in_end():
    with pytest.raises(bpl.ValidationError, match="`end` must be an array, but its rows differ in length"):
        bpl.Batch(np.zeros((2, 4, 3)), np.zeros((2, 4, 2)), end=[[0, 1], [0, 0, 0, 1]])


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (40, {}, (32, 4, 4)),
        (40, {"validation": 0.25, "test": 0}, (30, 10, 0)),
        (40, {"validation": 0.0, "test": 0.5}, (20, 0, 20)),
        (3, {}, (1, 1, 1)),
        (5, {"validation": 0.01, "test": 0.6}, (1, 1, 3)),
    ],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_three_splits_share_no_trial_and_leave_none_out(count, fractions, sizes, labelled):
    loss = "cross_entropy" if labelled else "squared_error"
    task = bpl.ArrayTask(trials(count, np.arange(count) % 2 if labelled else None), loss, **fractions)
    assert isinstance(task, bpl.Task)
    rows = [drawn(task, split) if size else np.zeros(0, int) for split, size in zip(SPLITS, sizes, strict=True)]
    assert tuple(map(len, rows)) == sizes
    assert sorted(np.concatenate(rows)) == list(range(count))
    assert all((np.sort(shown) == task.rows[split]).all() for split, shown in zip(SPLITS, rows, strict=True))


def test_trials_keep_targets_masks_and_ends():
    data = trials(20, mask=np.random.default_rng(0).random((20, 4)), end=np.tile([0, 1, 0, 1], (20, 1)))
    task = bpl.ArrayTask(data)
    for split in SPLITS:
        for batch in task.batches(np.random.default_rng(0), 3, split):
            rows = batch.x[:, 0, 0].astype(int)
            for field in ("x", "y", "mask", "end"):
                assert (getattr(batch, field) == getattr(data, field)[rows]).all()


def test_splits_belong_to_the_seed_and_are_not_the_last_rows():
    data, rest = trials(), bpl.Batch(np.zeros((40, 6, 2)), np.ones((40, 6, 5)))
    rows = {seed: bpl.ArrayTask(data, seed=seed).rows for seed in (0, 1)}
    for split in SPLITS:
        assert (rows[0][split] == bpl.ArrayTask(rest).rows[split]).all(), "of the number of trials, not their values"
        assert not np.array_equal(rows[0][split], rows[1][split])
    assert rows[0]["test"].min() < 30
    assert (bpl.ArrayTask(data, seed=np.random.default_rng(1)).rows["test"] == rows[1]["test"]).all()


def test_training_trials_are_shuffled_anew_and_the_others_keep_their_order():
    task, rng = bpl.ArrayTask(trials()), np.random.default_rng(3)
    first, second = drawn(task, "train", rng), drawn(task, "train", rng)
    assert not np.array_equal(first, second) and np.array_equal(np.sort(first), np.sort(second))
    assert np.array_equal(first, drawn(task, "train", 3))
    state = rng.bit_generator.state
    for split in ("validation", "test"):
        assert np.array_equal(drawn(task, split, rng), drawn(task, split, 5, size=2))
    assert rng.bit_generator.state == state


def test_class_labels_are_spread_over_the_splits():
    labels = np.repeat([0, 1, 2], [60, 30, 10])  # sorted: the last rows are all of one class
    for seed in range(5):
        task = bpl.ArrayTask(trials(100, labels), "cross_entropy", validation=0.2, test=0.1, seed=seed)
        assert task.output_size == 3
        counts = {split: np.bincount(labels[drawn(task, split)]).tolist() for split in SPLITS}
        assert counts == {"train": [42, 21, 7], "validation": [12, 6, 2], "test": [6, 3, 1]}


def test_a_class_of_a_single_trial_is_trained_on():
    labels = np.append(np.zeros(30, int), [1, 2])
    for seed in range(5):
        assert {30, 31} <= set(drawn(bpl.ArrayTask(trials(32, labels), "cross_entropy", seed=seed), "train"))


def test_the_label_of_a_trial_is_that_of_its_last_scored_step():
    rng = np.random.default_rng(0)
    y, mask = rng.integers(0, 2, (40, 4)), np.zeros((40, 4))
    scored = rng.integers(0, 4, 40)
    mask[np.arange(40), scored] = 1
    y[np.arange(40), scored] = np.arange(40) >= 20
    task = bpl.ArrayTask(bpl.Batch(trials().x, y, mask), "cross_entropy", validation=0.5, test=0.1)
    assert [(drawn(task, split) >= 20).sum() for split in SPLITS] == [8, 10, 2]


def test_real_valued_targets_are_parted_without_regard_to_them():
    counts = [np.bincount(bpl.ArrayTask(trials(), seed=seed).rows["test"] // 20, minlength=2)[0] for seed in range(20)]
    assert len(set(counts)) > 1


def test_a_users_own_splits():
    data, validation, test = trials(6), trials(3), trials(9)
    task = bpl.ArrayTask(data, validation=validation, test=test)
    assert [len(drawn(task, split, size=4)) for split in SPLITS] == [6, 3, 9]
    assert drawn(task, "test").tolist() == list(range(9))
    assert set(task.rows) == {"train"}
    mixed = bpl.ArrayTask(trials(20), validation=0.25, test=test)
    assert [len(drawn(mixed, split)) for split in SPLITS] == [15, 5, 9]
    labels = bpl.ArrayTask(trials(6, [0, 1] * 3), "cross_entropy", validation=0, test=trials(2, [0, 4]))
    assert labels.output_size == 5


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_that_holds_nothing_is_not_the_training_trials(split):
    task = bpl.ArrayTask(trials(), **{split: 0})
    with pytest.raises(bpl.ValidationError, match=rf"no trials .*\"{split}\".*{split}=0\.1.*a Batch"):
        task.batches(np.random.default_rng(0), 5, split)


def test_training_validates_on_held_out_trials_by_default():
    task = bpl.ArrayTask(trials())
    circuit = bpl.Circuit("leaky_tanh", 4, task.input_size)
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, task.output_size, task.loss), bpl.rules.Immediate(circuit))
    trainer.fit(task, progress=False)
    held_out = bpl.ArrayTask(trials(), test=trials()[task.rows["validation"]])
    assert trainer.history[0]["validation_loss"] == trainer.evaluate(held_out, "test")["loss"]
    without = bpl.ArrayTask(trials(), validation=0, test=0)
    with pytest.raises(bpl.ValidationError, match="no trials"):
        trainer.fit(without, epochs=2, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"validation": value}, "`validation` must be a fraction .*Batch") for value in (1.0, -0.1, "a", None, True)),
        ({"test": 20}, "`test` must be a fraction ≥ 0 and < 1, .*got 20"),
        ({"test": float("nan")}, "`test` must be a fraction"),
        ({"validation": 0.5, "test": 0.5}, "`data` has 40 trials: 20 for validation and 20 for the test leave none"),
        ({"data": trials(2)}, "`data` has 2 trials: 1 for validation and 1 for the test leave none"),
        ({"data": trials(1), "test": 0}, "`data` has 1 trial: 1 for validation and 0 for the test leave none"),
        ({"data": np.zeros((3, 4, 2))}, "`data` must be a Batch"),
        ({"data": trials(stream=True)}, "`data` must hold whole trials"),
        ({"test": trials(stream=True)}, "`test` must hold whole trials"),
        ({"test": bpl.Batch(np.zeros((3, 4, 5)), np.zeros((3, 4, 2)))}, "`test` must have 3 inputs like `data`, got 5"),
        (
            {"test": bpl.Batch(np.zeros((3, 4, 3)), np.zeros((3, 4, 1)))},
            "`test` must have 2 outputs like `data`, got 1",
        ),
        ({"validation": trials(3, [0, 1, 2])}, "`validation` must have real-valued targets like `data`"),
        ({"data": trials(3, [0, 1, 2]), "test": trials(3)}, "`test` must have class labels like `data`"),
        ({"data": trials(4, [0, 1, 2, 7]), "output_size": 7}, "`output_size` must be at least 8, .*label 7"),
        ({"output_size": 0}, "`output_size` must be a whole number"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(bpl.ValidationError, match=message):
        bpl.ArrayTask(**{"data": trials()} | arguments)


@pytest.mark.parametrize(("arguments", "message"), [((0, 5), "`rng`"), ((np.random.default_rng(0), 0), "`size`")])
def test_a_bad_call_of_batches_is_refused_at_once(arguments, message):
    with pytest.raises(bpl.ValidationError, match=message):
        bpl.ArrayTask(trials()).batches(*arguments)
