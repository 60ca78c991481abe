"""Plotting functions: Axes in, Axes out, and what they draw is what they were given."""

import numpy as np
import pytest
import xarray as xr

import bpl_neuro as bpl
from bpl_neuro import plotting


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "r.zarr"
    circuit = bpl.Circuit("cerebellar", {"exc": 4, "inh": 2}, 3, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit, expansion=5), gamma=0.9, lam=0.8, trace="full")
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2, population="exc"), rule, schedule="step")
    rng = np.random.default_rng(0)
    with bpl.Recorder(trainer, path, ["rate", "g", "trace"], synapses=[(0, 1), (2, 3)], units=[0, 2, 9]) as recorder:
        for _ in range(2):
            batch = bpl.Batch(rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 7, 2)))
            recorder.batch_done(trainer, trainer.train_batch(batch, watch=recorder.watch))
    return xr.open_zarr(path).load()


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("g", ["exc 0, x", "exc 1, x", "inh 0, delay_1"]),
        ("rate", ["exc 0", "exc 1", "inh 0"]),
        ("trace_own", ["1 → 0", "3 → 2"]),
    ],
)
def test_traces_are_drawn_by_name(recording, name, labels):
    _, axes = plotting.figure()
    one = recording[name].sel(batch=2, trial=1)
    ax = bpl.plot_traces(axes[0, 0], one)
    lines = [line for line in ax.lines if len(line.get_xdata()) == 7]
    assert len(lines) == len(labels)
    for k, line in enumerate(lines):
        np.testing.assert_array_equal(line.get_ydata(), one.isel({one.dims[1]: k}))
        np.testing.assert_allclose(line.get_xdata(), recording["time"] * 1e3)
    found = [text.get_text() for text in ax.get_legend().get_texts()]
    assert found[: len(labels) - 1] == labels[:-1] and len(found) == len(labels)
    assert ax.get_xlabel() == "time (ms)"


def test_one_line_needs_no_names(recording):
    _, axes = plotting.figure()
    ax = bpl.plot_traces(axes[0, 0], recording["g"].isel(batch=0, trial=0, unit=1))
    assert ax.get_legend() is None


def test_other_dimensions_are_named(recording):
    _, axes = plotting.figure()
    with pytest.raises(bpl.ValidationError, match="got batch, step, trial, unit"):
        bpl.plot_traces(axes[0, 0], recording["g"])
    with pytest.raises(bpl.ValidationError, match="step"):
        bpl.plot_traces(axes[0, 0], recording["g"].isel(batch=0, trial=0, step=0))


def test_weights_are_drawn_with_absent_synapses_left_out():
    weights, exists = np.array([[1.0, -2.0, 0.0], [0.5, 0.0, 1.5]]), np.array([[1, 1, 0], [1, 1, 1]])
    _, axes = plotting.figure()
    ax = bpl.plot_weights(axes[0, 0], weights, exists=exists, pre="exc", post="inh")
    (image,) = ax.images
    drawn = image.get_array()
    assert drawn.mask.tolist() == [[False, False, True], [False, False, False]]
    np.testing.assert_array_equal(drawn.filled(0), weights)
    assert image.get_clim() == (-2, 2) and ax.get_xlabel() == "exc" and ax.get_ylabel() == "inh"
    for wrong in (np.ones(3), np.ones((1, 2, 2)), np.array([[np.nan]])):
        with pytest.raises(bpl.ValidationError, match=r"matrix|finite"):
            bpl.plot_weights(axes[0, 0], wrong)


@pytest.mark.parametrize(("values", "plain"), [([13.5, 15.5], True), ([0.7, 1.1], True), ([1e-6, 1.0], False)])
def test_short_log_axes_have_plain_numbers_apart(values, plain):
    fig, axes = plotting.figure()
    ax = axes[0, 0]
    ax.semilogy([0, 1], values)
    plotting.readable_log(ax.yaxis)
    fig.canvas.draw()
    texts = [t.get_text() for t in (*ax.get_yticklabels(), *ax.get_yticklabels(minor=True)) if t.get_text()]
    assert texts and all("10^" not in text for text in texts) == plain
    assert 2 <= len(texts) <= 12
