"""Row-by-row MNIST: a digit read one row of pixels a step, named at the last step."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpl_neuro.checks import flag, plain_seed, positive_int
from bpl_neuro.identity import Described
from bpl_neuro.tasks.base import Batch, register
from bpl_neuro.tasks.mnist_files import load_mnist
from bpl_neuro.tasks.timing import check_batches

__all__ = ["RowMNIST"]

TRAIN_SIZE = 48_000


@register
class RowMNIST(Described):
    """Classify MNIST digits that arrive as 28 rows of 28 pixels, one row a step.

    The 60,000 training images of the original files are parted into 48,000 for "train" and 12,000 for
    "validation" by the permutation ``numpy.random.default_rng(split_seed).permutation(60_000)``: its first
    48,000 entries train. The 10,000 original test images are "test".

    Parameters
    ----------
    path : path, optional
        Folder of the four files, packed (.gz) or not. Default: see `mnist_files.load_mnist`, which looks
        in ``$BPL_NEURO_DATA/mnist`` and the user's cache, and then downloads.
    train_size : int, optional
        Use only the first so many of the 48,000 training images, for a quick run. The other two splits
        stay whole.
    split_seed : int
        Of the permutation that parts "train" from "validation". Keep the default to compare with others.
    download : bool
        False never touches the network.

    Attributes
    ----------
    images, labels : dict of split to array
        uint8 images (N, 28, 28) and labels (N,). They become floats one batch at a time: as uint8 all
        70,000 take 55 MB.

    Raises
    ------
    ValidationError
        When an argument is wrong, or the files are missing or damaged.

    Source: LeCun, Bottou, Bengio & Haffner (1998), Proc. IEEE 86:2278; the split sizes are those of the
    BP(λ) paper.
    """

    name: str = "row-mnist"
    loss: str = "cross_entropy"
    input_size: int = 28
    output_size: int = 10
    steps: int = 28
    identified = {"path": None, "train_size": "labels", "split_seed": "images", "download": None}

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        train_size: int | None = None,
        split_seed: int = 0,
        download: bool = True,
    ) -> None:
        if train_size is not None:
            train_size = positive_int("train_size", train_size, TRAIN_SIZE)
        split_seed = plain_seed("split_seed", split_seed)
        flag("download", download)
        files = load_mnist(path, download=download)
        order = np.random.default_rng(split_seed).permutation(len(files.train_labels))
        train, validation = order[:TRAIN_SIZE][:train_size], order[TRAIN_SIZE:]
        self.images: dict[str, NDArray[np.uint8]] = {
            "train": files.train_images[train],
            "validation": files.train_images[validation],
            "test": files.test_images,
        }
        self.labels: dict[str, NDArray[np.uint8]] = {
            "train": files.train_labels[train],
            "validation": files.train_labels[validation],
            "test": files.test_labels,
        }

    def identity(self) -> dict[str, Any]:
        """Hashes of all images and labels, computed once."""
        return dict(self._identity)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return super().identity()

    def batches(self, rng: np.random.Generator, size: int, split: str = "train") -> Iterator[Batch]:
        """One epoch of batches: every image of the split once; the last batch may be smaller.

        "train" is shuffled by `rng`; "validation" and "test" keep their order and leave `rng` alone.

        Parameters
        ----------
        rng : numpy.random.Generator
            The data stream; the same state gives the same trials.
        size : int
            Trials in a batch, B (50 in the paper).
        split : str
            ``"train"``, ``"validation"`` or ``"test"``.

        Yields
        ------
        Batch
            x (B, 28, 28) float32 in [0, 1], pixel / 255; y (B, 28) int64, the label at every step; mask
            (B, 28), 1 at the last step only.

        Raises
        ------
        ValidationError
            For an `rng` that is no Generator, an unknown split, or a size that is not a positive integer; at the
            call, not at the first batch.
        """
        check_batches(rng, size, split)
        return self._epoch(rng, size, split)

    def _epoch(self, rng: np.random.Generator, size: int, split: str) -> Iterator[Batch]:
        images, labels = self.images[split], self.labels[split]
        order = rng.permutation(len(labels)) if split == "train" else np.arange(len(labels))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            x = images[rows].astype(np.float32) / np.float32(255)
            y = np.repeat(labels[rows].astype(np.int64)[:, None], self.steps, axis=1)
            mask = np.zeros(y.shape, np.float32)
            mask[:, -1] = 1
            yield Batch(x, y, mask)
