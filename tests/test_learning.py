"""Whole learning runs against thresholds that were written down before them. Slow; `make test-slow`."""

import json

import pytest

from bpl_neuro.experiment import run_simulation


def summary(folder):
    return json.loads((folder.path / "summary.json").read_text())


def test_one_pattern_is_learned_at_every_step(tmp_path, undrawn):
    """One pattern, radius .95, Adam 1e-3, 3000 batches, λ = 1: cosine ≥ .99 at every step."""
    found = summary(run_simulation("target-reaching", size="quick", out=tmp_path / "run"))
    steps = [value for key, value in found.items() if key.startswith("alignment.lam=1.step=")]
    assert len(steps) == 9
    assert min(steps) >= 0.99


@pytest.mark.slow
def test_eight_patterns_come_close_to_the_optimum(tmp_path):
    """Eight patterns, T = 10: λ = 1 reaches ≥ 90 % of the least-squares optimum; λ = 0 stays clearly under λ = 1."""
    found = summary(run_simulation("target-reaching", size="eight", out=tmp_path / "run"))
    assert found["fraction_of_optimum.lam=1"] >= 0.9
    assert found["alignment.lam=0.high"] < found["alignment.lam=1.low"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_row_mnist(tmp_path, mnist_folder, seed):
    """BP(1), LSTM-30, γ = κ = 1, Adam 1e-3 everywhere, per trial: ≥ .85 test accuracy after 5 epochs."""
    settings = {"seed": seed, "data": str(mnist_folder)}
    found = summary(run_simulation("row-mnist", settings=settings, out=tmp_path / "run"))
    assert found["test_accuracy"] >= 0.85
