"""The second example of docs/write_a_rule.md, UORO: on average its gradient is RTRL's, and a wrong variant's is not."""

import re
from pathlib import Path

import numpy as np
import pytest

import bpl_neuro as bpl

#: 60 seeds, each over 50 copies of one trial with signs of their own
SEEDS, COPIES = 60, 50
#: written down before the run: standard errors by which a projection of the mean may miss; relative error of the mean
Z, RELATIVE = 4.0, 0.1


def code():
    page = Path(bpl.__file__).parents[1] / "docs/write_a_rule.md"
    if not page.is_file():
        pytest.skip("not in a source tree")
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]


def rule(text=None):
    names: dict = {}
    exec(compile(text or code(), "write_a_rule.md", "exec"), names)
    return names["UORO"]


def agreement(UORO, seeds=SEEDS):
    """Largest z-score of ten projections of the mean, and the mean's relative error."""
    circuit = bpl.Circuit("leaky_tanh", 3, 2, seed=0)
    readout = bpl.Readout(circuit, 2, seed=1)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 1, 6, 2))
    end = np.array([[False, False, True, False, False, True]])  # two trials, one after the other
    copies = bpl.Batch(*(np.repeat(part, COPIES, axis=0) for part in (x, y)), end=np.repeat(end, COPIES, axis=0))
    true = bpl.batch_updates(circuit, readout, bpl.rules.RTRL(circuit), bpl.Batch(x, y, end=end)).gradients["psi"]
    found = np.array(
        [bpl.batch_updates(circuit, readout, UORO(circuit, seed), copies).gradients["psi"] for seed in range(seeds)]
    )
    directions = np.concatenate([true[None], np.random.default_rng(3).normal(size=(9, true.size))])
    missed = (found - true) @ directions.T
    z = np.abs(missed.mean(axis=0)) / (missed.std(axis=0, ddof=1) / np.sqrt(seeds))
    return z.max(), np.linalg.norm(found.mean(axis=0) - true) / np.linalg.norm(true)


def test_on_average_uoro_is_rtrl():
    z, relative = agreement(rule())
    print(f"{SEEDS * COPIES} samples: largest z {z:.2f}, relative error of the mean {relative:.3f}")
    assert z < Z and relative < RELATIVE


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("parameter_gradient(signs[b : b + 1])", "parameter_gradient(abs(signs[b : b + 1]))"),
        ("+ rho_1 * signs", "+ rho_1"),
        ("column[end], row[end] = 0, 0", ""),
    ],
)
def test_a_wrong_variant_is_seen(right, wrong):
    text = code()
    assert text.count(right) == 1
    z, relative = agreement(rule(text.replace(right, wrong)), seeds=10)
    assert z > Z and relative > RELATIVE


def test_it_is_short_and_goes_on_in_a_stream_and_draws_anew_in_every_batch():
    text = code()
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(lines) < 40
    circuit = bpl.Circuit("leaky_tanh", 3, 2, seed=0)
    data = np.random.default_rng(0).normal(size=(2, 8, 2))
    whole, first, second = (bpl.Batch(data[:, part], data[:, part], stream=True) for part in np.s_[:, :5, 5:])
    trainers = [
        bpl.Trainer(circuit, bpl.Readout(circuit, 2, seed=1), rule(text)(circuit), schedule="step") for _ in range(2)
    ]
    trainers[0].train_batch(whole)
    for piece in (first, second):
        trainers[1].train_batch(piece)
        trainers[1] = trainers[1].fork()
    assert (trainers[0].parameter("psi") == trainers[1].parameter("psi")).all()
    frozen = bpl.Trainer(
        circuit, bpl.Readout(circuit, 2, seed=1), rule(text)(circuit), optimiser={"psi": bpl.SGD(1e-6)}
    )
    found = []
    for _ in range(2):
        before = frozen.parameter("psi")
        frozen.train_batch(bpl.Batch(data, data))
        found.append(frozen.parameter("psi") - before)
    assert not np.allclose(found[0], found[1], rtol=0.1)
