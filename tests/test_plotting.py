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
    ax = bpl.plotting.plot_traces(axes[0, 0], one)
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
    ax = bpl.plotting.plot_traces(axes[0, 0], recording["g"].isel(batch=0, trial=0, unit=1))
    assert ax.get_legend() is None


def test_other_dimensions_are_named(recording):
    _, axes = plotting.figure()
    with pytest.raises(bpl.ValidationError, match="got batch, step, trial, unit"):
        bpl.plotting.plot_traces(axes[0, 0], recording["g"])
    with pytest.raises(bpl.ValidationError, match="step"):
        bpl.plotting.plot_traces(axes[0, 0], recording["g"].isel(batch=0, trial=0, step=0))


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """Recordings of two batches, the second shorter; and what the analysis says of a trial of the first."""
    folder = tmp_path_factory.mktemp("traced")
    circuit = bpl.Circuit("adapting", 4, 3, seed=0)
    rule = bpl.BPLambda(bpl.Synthesiser(circuit), gamma=0.9, lam=0.8, trace="full")
    trainer = bpl.Trainer(circuit, bpl.Readout(circuit, 2), rule, schedule="step", optimiser={})
    trainer.set_parameters(theta=np.random.default_rng(5).normal(size=trainer.theta.shape) * 0.3)
    rng = np.random.default_rng(0)
    batches = [bpl.Batch(rng.normal(size=(B, T, 3)), rng.normal(size=(B, T, 2))) for B, T in ((1, 9), (1, 6))]
    found = {}
    for name, quantities, choice in (
        ("all", ["trace", "delta", "loss"], {}),
        ("no delta", ["trace"], {}),
        ("other units", ["trace", "delta"], {"units": [1]}),
        ("some steps", ["trace", "delta"], {"steps": [1, 2, 4]}),
    ):
        own = trainer.fork()
        with bpl.Recorder(own, folder / f"{name}.zarr", quantities, synapses=[(0, 1), (3, 5)], **choice) as recorder:
            for batch in batches:
                recorder.batch_done(own, own.train_batch(batch, watch=recorder.watch))
        found[name] = xr.open_zarr(folder / f"{name}.zarr")
    arguments = (trainer.circuit, trainer.readout, trainer.rule, batches[0], trainer.theta, (3, 5))
    return found, bpl.analysis.synapse_trace(*arguments)


def drawn(axes):
    """The lines with a point for every step, panel by panel; the zero line has two."""
    return [[line for line in ax.lines if len(line.get_xdata()) > 2] for ax in axes]


def test_a_recorded_synapse_is_drawn_as_the_analysis_has_it(traced):
    recordings, expected = traced
    _, axes = plotting.figure(5, 1)
    assert bpl.plotting.plot_synapse(axes[:, 0], recordings["all"], batch=1, trial=0, synapse=(3, 5)) is not None
    panels = drawn(axes[:, 0])
    assert [len(lines) for lines in panels] == [2, 1, 1, 1, 0]
    found = [line.get_ydata() for lines in panels for line in lines]
    for values, name in zip(found, ("norm", "own", "delta", "product", "cumulative"), strict=True):
        here = slice(1, None) if name == "delta" else slice(None)  # the analysis leaves out the first, of no prediction
        np.testing.assert_allclose(values[here], expected[name].values[here], rtol=1e-10, atol=1e-14)
    assert axes[0, 0].get_title(loc="left") == "synapse 5 → output 3   (batch 1, trial 0)"
    assert axes[3, 0].get_xlabel() == "time (ms)" and not axes[4, 0].get_visible()
    np.testing.assert_allclose(panels[0][0].get_xdata(), np.arange(1, 10) * float(recordings["all"].attrs["dt"]) * 1e3)


def test_the_last_batch_the_first_trial_and_synapse_unless_others_are_named(traced):
    recording = traced[0]["all"]
    _, axes = plotting.figure(4, 1)
    bpl.plotting.plot_synapse(axes, recording, step_ms=2)
    assert axes[0, 0].get_title(loc="left") == "synapse 1 → output 0   (batch 2, trial 0)"
    (line,) = drawn(axes[:, 0])[2]
    assert line.get_xdata().tolist() == [2, 4, 6, 8, 10, 12]  # the padding is no part of it
    _, others = plotting.figure(4, 1)
    bpl.plotting.plot_synapse(others, recording.isel(batch=1, trial=0, synapse=0))
    np.testing.assert_array_equal(drawn(others[:, 0])[2][0].get_ydata(), line.get_ydata())


@pytest.mark.parametrize(("name", "panels"), [("no delta", 3), ("other units", 3), ("some steps", 3)])
def test_panels_are_those_that_were_recorded(traced, name, panels):
    _, axes = plotting.figure(panels, 1)
    bpl.plotting.plot_synapse(axes, traced[0][name])
    labels = [ax.get_ylabel() for ax in axes[:, 0]]
    assert (r"$\delta_{0}$" in labels) == (name == "some steps")
    assert (r"$\Delta\theta/\alpha$" in labels) == (name != "some steps")


def test_what_a_synapse_lacks_is_named(traced, recording):
    recordings, analysis = traced
    _, axes = plotting.figure(5, 1)
    for data, keywords, message in (
        (recording[["g", "rate"]], {}, r'holds no trace_own, .* but g, rate; record the quantity "trace", and "delta"'),
        (recordings["all"], {"batch": 3}, "`batch` must be one that was recorded: 1, 2; got 3"),
        (recordings["all"], {"trial": 1}, "`trial` must be one that was recorded: 0; got 1"),
        (recordings["all"], {"synapse": (0, 5)}, r"`synapse` .*: \(0, 1\), \(3, 5\); got \(0, 5\)"),
        (recordings["all"], {"synapse": 1}, "`synapse`"),
        (recordings["all"].isel(batch=slice(0)), {}, "`batch` must be one that was recorded: nothing"),
        (recordings["all"].isel(step=0), {}, "lost step"),
        (recordings["all"].mean("trial"), {}, "lost trial"),
        (recordings["all"]["trace_own"], {}, "must be a Dataset, got DataArray"),
        (analysis, {"batch": 1}, "`batch` chooses from a recording"),
    ):
        with pytest.raises(bpl.ValidationError, match=message):
            bpl.plotting.plot_synapse(axes, data, **keywords)
    with pytest.raises(bpl.ValidationError, match="`axes` must be 4 Axes, one for each panel; got 2"):
        bpl.plotting.plot_synapse(axes[:2], recordings["all"])
    bpl.plotting.plot_synapse(axes, analysis)
    assert [len(lines) for lines in drawn(axes[:, 0])] == [1, 3, 1, 1, 1]


def test_weights_are_drawn_with_absent_synapses_left_out():
    weights, exists = np.array([[1.0, -2.0, 0.0], [0.5, 0.0, 1.5]]), np.array([[1, 1, 0], [1, 1, 1]])
    _, axes = plotting.figure()
    ax = bpl.plotting.plot_weights(axes[0, 0], weights, exists=exists, pre="exc", post="inh")
    (image,) = ax.images
    drawn = image.get_array()
    assert drawn.mask.tolist() == [[False, False, True], [False, False, False]]
    np.testing.assert_array_equal(drawn.filled(0), weights)
    assert image.get_clim() == (-2, 2) and ax.get_xlabel() == "exc" and ax.get_ylabel() == "inh"
    for wrong in (np.ones(3), np.ones((1, 2, 2)), np.array([[np.nan]])):
        with pytest.raises(bpl.ValidationError, match=r"matrix|finite"):
            bpl.plotting.plot_weights(axes[0, 0], wrong)


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
