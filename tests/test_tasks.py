"""Tasks: the same generator gives the same trials, losses fall due where they should, and bad data is refused."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpl_neuro.errors import ValidationError
from bpl_neuro.tasks import TASKS, RowMNIST, TargetReaching, make_task, row_mnist
from bpl_neuro.tasks.base import Batch, Task, register
from bpl_neuro.tasks.mnist_files import MNIST, load_mnist


def epoch(task: Task, seed: int = 0, size: int = 10, split: str = "train") -> list[Batch]:
    return list(task.batches(np.random.default_rng(seed), size, split))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(getattr(p, field), getattr(q, field))
        for p, q in zip(a, b, strict=True)
        for field in ("x", "y", "mask", "end")
    )


# --- the registry ----------------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> Iterator[dict[str, type[Task]]]:
    """What is registered in a test is gone after it."""
    yield TASKS
    for name in set(TASKS) - BUILT_IN:
        del TASKS[name]


BUILT_IN = {
    "target-reaching", "row-mnist", "copy-repeat", "association-reach", "delayed-reach", "interval-timing",
    "cue-outcome",
}  # fmt: skip


class Echo:
    """A task of a user's own."""

    name, loss, output_size = "echo", "squared_error", 1

    def __init__(self, input_size: int, *, gain: float = 1.0) -> None:
        self.input_size, self.gain = input_size, gain

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        x = rng.random((size, 2, self.input_size))
        yield Batch(x, self.gain * x[..., :1])


def test_every_task_of_the_package_is_registered() -> None:
    assert set(TASKS) == BUILT_IN


def test_a_task_is_made_by_its_name() -> None:
    task = make_task("target-reaching", patterns=3, steps=4)
    assert isinstance(task, TargetReaching) and (len(task.cues), task.steps) == (3, 4)


def test_a_users_own_task_is_registered_and_made(registry: dict[str, type[Task]]) -> None:
    assert register(Echo) is Echo and registry["echo"] is Echo
    assert make_task("echo", input_size=3, gain=2.0).gain == 2.0
    with pytest.raises(ValidationError, match="echo needs `input_size`"):
        make_task("echo")
    with pytest.raises(ValidationError, match="echo has no option 'lag'; it has input_size, gain"):
        make_task("echo", input_size=1, lag=1)


@pytest.mark.parametrize("name", ["reaching", None, ["row-mnist"]])
def test_an_unknown_task_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match=r"`name` must be one of .*row-mnist.*, got"):
        make_task(name)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"copy-repeat has no option 'size'; it has length, repeats, bits, .*grows"
    ):
        make_task("copy-repeat", size=3)


def test_a_name_is_given_once(registry: dict[str, type[Task]]) -> None:
    class Twin(Echo):
        name = "target-reaching"

    with pytest.raises(ValidationError, match=r"'target-reaching' .*bpl_neuro.tasks.target_reaching.TargetReaching"):
        register(Twin)
    assert registry["target-reaching"] is TargetReaching


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"name": None}, "`name`"), ({"name": ""}, "`name`"), ({"batches": None}, "`batches`")],
)
def test_what_is_no_task_is_not_registered(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        register(type("Wrong", (Echo,), attributes))
    with pytest.raises(ValidationError, match="a class"):
        register(Echo(1))  # type: ignore[arg-type]
    assert set(TASKS) == BUILT_IN


# --- target reaching -------------------------------------------------------------------------------------------------


def test_tasks_are_found_by_name() -> None:
    assert TASKS["target-reaching"] is TargetReaching and TASKS["row-mnist"] is RowMNIST
    assert all(name == task.name for name, task in TASKS.items())


def test_target_reaching_defaults_are_the_papers() -> None:
    task = TargetReaching()
    assert isinstance(task, Task)
    assert (task.name, task.loss, task.input_size, task.output_size) == ("target-reaching", "squared_error", 10, 2)
    batches = epoch(task)
    assert len(batches) == 100
    for batch in batches:
        assert batch.x.shape == (10, 10, 10) and batch.y.shape == (10, 10, 2)
        assert batch.x.dtype == batch.y.dtype == batch.mask.dtype == np.float32
        assert np.array_equal(batch.x[:, 0], np.repeat(task.cues, 10, axis=0)), "one pattern: all trials alike"
        assert not batch.x[:, 1:].any()
        assert np.array_equal(batch.y[:, -1], np.repeat(task.targets, 10, axis=0))


def test_loss_is_due_at_the_last_step_only() -> None:
    batch = epoch(TargetReaching(steps=7))[0]
    assert np.array_equal(batch.mask, np.tile([0, 0, 0, 0, 0, 0, 1], (10, 1)))
    assert np.array_equal(batch.end, batch.mask.astype(bool))


def test_line_goes_straight_from_the_origin_to_the_target() -> None:
    task = TargetReaching(patterns=3, steps=8, line=True)
    batch = epoch(task, split="test")[0]
    assert (batch.mask == 1).all()
    for p in range(3):
        for t in range(1, 9):
            np.testing.assert_allclose(batch.y[p, t - 1], t / 8 * task.targets[p], rtol=1e-6)


@pytest.mark.parametrize("patterns", [1, 2, 8, 60])
def test_patterns_are_distinct_nonzero_binary_and_targets_evenly_spread(patterns: int) -> None:
    task = TargetReaching(patterns=patterns, seed=4)
    assert set(np.unique(task.cues)) <= {0.0, 1.0}
    assert task.cues.any(axis=1).all()
    assert len(np.unique(task.cues, axis=0)) == patterns
    np.testing.assert_allclose(np.linalg.norm(task.targets, axis=1), 1, atol=1e-6)
    points = task.targets[:, 0] + 1j * task.targets[:, 1]
    np.testing.assert_allclose(points, points[0] * np.exp(2j * np.pi * np.arange(patterns) / patterns), atol=1e-6)


def test_every_nonzero_pattern_can_be_asked_for_and_no_more() -> None:
    task = TargetReaching(patterns=31, input_size=5)
    assert {int(c @ 2 ** np.arange(5)) for c in task.cues} == set(range(1, 32))
    with pytest.raises(ValidationError, match=r"`patterns` must be at most 31, .*got 32"):
        TargetReaching(patterns=32, input_size=5)


def test_patterns_are_drawn_without_favour() -> None:
    cues = np.stack([TargetReaching(patterns=2, input_size=3, seed=s).cues for s in range(2000)])
    # Uniform over the 7 non-zero patterns: each unit is on in 4 of 7, at both places. Standard error 0.011.
    np.testing.assert_allclose(cues.mean(axis=0), 4 / 7, atol=0.05)


def test_patterns_belong_to_the_seed_and_trials_to_the_generator() -> None:
    a, b, other = TargetReaching(8, seed=1), TargetReaching(8, seed=1), TargetReaching(8, seed=2)
    assert np.array_equal(a.cues, b.cues) and np.array_equal(a.targets, b.targets)
    assert not np.array_equal(a.cues, other.cues) and not np.array_equal(a.targets, other.targets)
    from_generator = TargetReaching(8, seed=np.random.default_rng(1))
    assert np.array_equal(a.cues, from_generator.cues)
    assert same(epoch(a, seed=5), epoch(b, seed=5)) and same(epoch(a, seed=5), epoch(a, seed=5))
    assert not same(epoch(a, seed=5), epoch(a, seed=6))


def test_training_draws_all_patterns_and_keeps_each_with_its_target() -> None:
    task = TargetReaching(patterns=4)
    x = np.concatenate([b.x[:, 0] for b in epoch(task)])
    y = np.concatenate([b.y[:, -1] for b in epoch(task)])
    counts = []
    for cue, target in zip(task.cues, task.targets, strict=True):
        shown = (x == cue).all(axis=1)
        counts.append(shown.sum())
        assert (y[shown] == target).all()
    assert sum(counts) == 1000
    assert min(counts) > 200, "250 expected of each; below 200 is over 3.6 standard deviations off"


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_shows_each_pattern_once_and_draws_nothing(split: str) -> None:
    task = TargetReaching(patterns=5)
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    batches = list(task.batches(rng, 2, split))
    assert rng.bit_generator.state == before
    assert [b.size for b in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate([b.x[:, 0] for b in batches]), task.cues)


def test_epoch_length_and_single_step() -> None:
    batches = epoch(TargetReaching(steps=1, batches_per_epoch=3, input_size=4), size=2)
    assert [b.x.shape for b in batches] == [(2, 1, 4)] * 3
    assert (batches[0].mask == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patterns": 0}, "`patterns` must be a whole number ≥ 1, got 0"),
        ({"patterns": 2.0}, "`patterns` must be a whole number ≥ 1, got 2.0"),
        ({"steps": -1}, "`steps` must be a whole number ≥ 1, got -1"),
        ({"input_size": 0}, "`input_size` must be a whole number ≥ 1, got 0"),
        ({"batches_per_epoch": True}, "`batches_per_epoch` must be a whole number ≥ 1, got True"),
        ({"seed": -1}, "`seed` must be a whole number ≥ 0 or a numpy.random.Generator"),
        ({"seed": "x"}, "`seed` must be a whole number ≥ 0 or a numpy.random.Generator"),
        ({"line": "no"}, "`line` must be True or False, got str"),
    ],
)
def test_bad_target_reaching_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TargetReaching(**arguments)


# --- row-by-row MNIST, on images that carry their own index ----------------------------------------------------------


@pytest.fixture(scope="module")
def indexed() -> MNIST:
    """As large as MNIST; the first three pixels of an image are its index, the label is its last digit."""

    def images(count: int) -> np.ndarray:
        array = np.zeros((count, 28, 28), np.uint8)
        for place in range(3):
            array[:, 0, place] = np.arange(count) // 256**place % 256
        array[:, 27, 27] = 255
        return array

    def labels(count: int) -> np.ndarray:
        return (np.arange(count) % 10).astype(np.uint8)

    return MNIST(images(60_000), labels(60_000), images(10_000), labels(10_000))


@pytest.fixture
def row_task(indexed: MNIST, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RowMNIST]:
    monkeypatch.setattr(row_mnist, "load_mnist", lambda path, download: indexed)
    return RowMNIST


def indices(batches: list[Batch]) -> np.ndarray:
    pixels = np.concatenate([np.rint(b.x[:, 0, :3] * 255) for b in batches]).astype(int)
    return pixels @ [1, 256, 65536]


def test_row_mnist_batches(row_task: Callable[..., RowMNIST]) -> None:
    task = row_task(train_size=120)
    assert isinstance(task, Task)
    assert (task.name, task.loss, task.input_size, task.output_size) == ("row-mnist", "cross_entropy", 28, 10)
    batches = epoch(task, size=50)
    assert [b.size for b in batches] == [50, 50, 20]
    for b in batches:
        assert b.x.shape[1:] == (28, 28) and b.x.dtype == np.float32
        assert b.x.min() == 0 and b.x.max() == 1
        assert b.y.shape == b.mask.shape == b.x.shape[:2] and b.y.dtype == np.int64
        assert (b.mask[:, -1] == 1).all() and not b.mask[:, :-1].any()
        assert np.array_equal(b.end, b.mask.astype(bool))
        assert np.array_equal(b.y, np.repeat((indices([b]) % 10)[:, None], 28, axis=1))
        assert (b.x[:, 27, 27] == 1).all(), "pixel row t arrives at step t"


def test_row_mnist_splits_are_disjoint_and_complete(row_task: Callable[..., RowMNIST]) -> None:
    task = row_task()
    seen = {split: indices(epoch(task, size=1000, split=split)) for split in ("train", "validation", "test")}
    assert {split: len(i) for split, i in seen.items()} == {"train": 48_000, "validation": 12_000, "test": 10_000}
    together = np.concatenate([seen["train"], seen["validation"]])
    assert np.array_equal(np.sort(together), np.arange(60_000))
    assert np.array_equal(seen["test"], np.arange(10_000))


def test_row_mnist_split_is_pinned(row_task: Callable[..., RowMNIST]) -> None:
    """Whoever installs whichever NumPy holds out the same images."""
    validation = indices(epoch(row_task(), size=1000, split="validation"))
    assert hashlib.sha256(validation.astype("<i4").tobytes()).hexdigest()[:16] == "f2847213961ee935"
    assert not np.array_equal(validation, indices(epoch(row_task(split_seed=1), size=1000, split="validation")))


def test_row_mnist_order_comes_from_the_generator(row_task: Callable[..., RowMNIST]) -> None:
    task = row_task(train_size=500)
    assert same(epoch(task, seed=3), epoch(row_task(train_size=500), seed=3))
    assert not same(epoch(task, seed=3), epoch(task, seed=4))
    rng = np.random.default_rng(3)
    first, second = indices(list(task.batches(rng, 50))), indices(list(task.batches(rng, 50)))
    assert not np.array_equal(first, second), "shuffled anew each epoch"
    assert np.array_equal(np.sort(first), np.sort(second))
    before = rng.bit_generator.state
    a, b = (indices(list(task.batches(rng, 1000, "validation"))) for _ in range(2))
    assert rng.bit_generator.state == before and np.array_equal(a, b)


def test_train_size_takes_from_the_training_split_only(row_task: Callable[..., RowMNIST]) -> None:
    whole, few = row_task(), row_task(train_size=300)
    train = indices(epoch(few, size=100))
    assert len(train) == 300 and set(train) <= set(indices(epoch(whole, size=1000)))
    for split in ("validation", "test"):
        assert np.array_equal(indices(epoch(few, 0, 1000, split)), indices(epoch(whole, 0, 1000, split)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_size": 0}, r"`train_size` must be a whole number ≥ 1, got 0"),
        ({"train_size": 48_001}, r"`train_size` must be a whole number ≥ 1 and ≤ 48000, got 48001"),
        ({"train_size": 1.5}, r"`train_size` must be a whole number ≥ 1, got 1.5"),
        ({"split_seed": -1}, "`split_seed` must be a whole number ≥ 0, got -1"),
        ({"download": "no"}, "`download` must be True or False, got str"),
    ],
)
def test_bad_row_mnist_is_refused(row_task: Callable[..., RowMNIST], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        row_task(**arguments)


@pytest.mark.parametrize("name", ["target-reaching", "row-mnist"])
def test_bad_call_of_batches_is_refused_at_once(row_task: Callable[..., RowMNIST], name: str) -> None:
    task = TASKS[name]()
    rng = np.random.default_rng(0)
    with pytest.raises(ValidationError, match="`split` must be one of train, validation, test, got 'dev'"):
        task.batches(rng, 10, "dev")
    for size in (0, -3, 2.5, True):
        with pytest.raises(ValidationError, match="`size` must be a whole number ≥ 1, got"):
            task.batches(rng, size)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"`rng` must be a numpy.random.Generator, got 0"):
        task.batches(0, 10)  # type: ignore[arg-type]


# --- the real files --------------------------------------------------------------------------------------------------


def test_real_labels_and_images_are_the_files_own(mnist_folder: Path) -> None:
    def raw(name: str, header: int) -> np.ndarray:
        file = mnist_folder / name
        content = file.read_bytes() if file.is_file() else gzip.decompress((mnist_folder / f"{name}.gz").read_bytes())
        return np.frombuffer(content[header:], np.uint8)

    labels, pixels = raw("t10k-labels-idx1-ubyte", 8), raw("t10k-images-idx3-ubyte", 16).reshape(-1, 28, 28)
    task = RowMNIST(mnist_folder)
    batches = epoch(task, size=1000, split="test")
    assert np.array_equal(np.concatenate([b.y[:, -1] for b in batches]), labels)
    assert np.array_equal(np.concatenate([np.rint(b.x * 255) for b in batches]), pixels)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4], "the well-known first digits of the test set"
    train_labels = raw("train-labels-idx1-ubyte", 8)
    parts = np.concatenate([task.labels["train"], task.labels["validation"]])
    order = np.random.default_rng(0).permutation(60_000)
    assert np.array_equal(parts, train_labels[order])
    train_pixels = raw("train-images-idx3-ubyte", 16).reshape(-1, 28, 28)
    assert np.array_equal(task.images["train"][::100], train_pixels[order[:48_000:100]])


def test_real_files_are_found_by_the_environment_and_read_once(
    mnist_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPL_NEURO_DATA", str(mnist_folder.parent))
    first = load_mnist(download=False)
    assert load_mnist(mnist_folder).train_images is first.train_images
    assert not first.train_images.flags.writeable
