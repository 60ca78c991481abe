"""Plain plotting functions: data and Axes in, Axes out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

from bpl_neuro.checks import a_text, instance, mapping, number, positive_int, real_array, shown
from bpl_neuro.checks import path as checked_path
from bpl_neuro.errors import ValidationError
from bpl_neuro.look.analysis import current_synapse_trace, synapse_trace
from bpl_neuro.look.recording.reading import recorded_synapse
from bpl_neuro.storage import atomic_write

__all__ = [
    "figure",
    "plot_alignment",
    "plot_comparison",
    "plot_learning",
    "plot_synapse",
    "plot_trace",
    "plot_traces",
    "plot_weights",
    "readable_log",
    "save_figure",
]

#: Okabe–Ito: told apart by everyone
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "legend.frameon": False, "figure.dpi": 120, "savefig.dpi": 150,
}  # fmt: skip


def figure(rows: int = 1, columns: int = 1, **keywords: Any) -> tuple[Any, Any]:
    """A figure in the house style and its axes (always a 2-D array), without a window."""
    rows, columns = positive_int("rows", rows, 50), positive_int("columns", columns, 50)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        fig = Figure(layout="constrained", **keywords)
        FigureCanvasAgg(fig)
        return fig, fig.subplots(rows, columns, squeeze=False)


def save_figure(fig: Any, path: Any) -> None:
    """Write a figure to a file, making its folder; the file is whole or absent."""
    instance("fig", fig, Figure, "a matplotlib Figure")
    path, content = checked_path("path", path), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        fig.savefig(content, format=path.suffix[1:] or None)
    atomic_write(path, content.getvalue())


def readable_log(axis: Any) -> None:
    """Plain numbers on a logarithmic axis that spans little more than a decade; call it when all is drawn.

    Parameters
    ----------
    axis : matplotlib Axis
        ``ax.xaxis`` or ``ax.yaxis``.
    """
    instance("axis", axis, Axis, "a matplotlib Axis, like ax.yaxis")
    low, high = sorted(axis.get_view_interval())
    if high < 20 * low:
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


def plot_alignment(
    ax: Any, step: Sequence[float], curves: Mapping[str, np.ndarray], optimum: np.ndarray | None = None
) -> Any:
    """Cosine with the true gradient against step.

    Parameters
    ----------
    ax : matplotlib Axes
    step : (T,) sequence
    curves : mapping of label to (seeds, T) array
        Drawn as median with the range from the 25th to the 75th percentile.
    optimum : (seeds, T) array, optional
        The least-squares optimum, dashed.
    """
    _draw_curves(ax, points := _points("step", step), curves)
    if optimum is not None:
        best = _rows("optimum", optimum, len(points))
        ax.plot(points, np.nanmedian(best, axis=0), "k--", lw=1.2, label="least-squares optimum")
    ax.axhline(0, color="grey", lw=0.8)
    ax.set(xlabel="step", ylabel="cosine of g + c with the true gradient", ylim=(min(-0.1, ax.get_ylim()[0]), 1.03))
    _legend_beside(ax)
    return ax


def plot_comparison(axes: Sequence[Any], found: xr.Dataset) -> Sequence[Any]:
    """The Dataset of `comparison.compare` or `PassiveRules.result`, in two panels.

    Parameters
    ----------
    axes : two matplotlib Axes
        Bars of the cosine with the true gradient, the ratio of the norms written beside. Then, from `compare`, the
        cosine of the credit against step, for the rules that give a credit at several steps; from `PassiveRules` the
        cosine against batch; where there is neither, bars of the ratio of the norms.
    found : Dataset
        Medians are drawn over a dimension ``seed``, means over ``batch``.
    """
    axes = _panels(axes)
    if len(axes) != 2 or not isinstance(found, xr.Dataset) or "cosine" not in found:
        raise ValidationError("`axes` must be two Axes, and `found` what `compare` or `PassiveRules.result` gave")
    figures = found.median("seed") if "seed" in found.dims else found
    rules = [str(rule) for rule in figures["rule"].values]
    whole = figures[["cosine", "norm_ratio"]].sel(parameter="psi")
    means = whole.mean("batch") if "batch" in whole.dims else whole
    credit = figures.get("credit_cosine")
    curves: dict[str, Any] = {}
    if "batch" in whole.dims:
        curves, x, xlabel = {r: whole["cosine"].sel(rule=r) for r in rules}, whole["batch"], "batch"
    elif credit is not None:
        curves = {r: credit.sel(rule=r) for r in rules if credit.sel(rule=r).notnull().sum() > 1}
        x, xlabel = figures["step"], "step"
    looks = {rule: _look(k) for k, rule in enumerate(curves)}
    colours = [looks[rule]["color"] if rule in looks else "0.6" for rule in rules]
    y = np.arange(len(rules))[::-1]
    axes[0].barh(y, means["cosine"].values, color=colours)
    for row, ratio in zip(y, means["norm_ratio"].values, strict=True):
        axes[0].text(1.03, row, f"{ratio:.2g} ×", va="center", fontsize=8)
    axes[0].set(yticks=y, yticklabels=rules, xlim=(min(0, float(means["cosine"].min())) - 0.02, 1.02))
    axes[0].set(xlabel="cosine with the true gradient")
    if not curves:
        axes[1].barh(y, means["norm_ratio"].values, color=colours)
        axes[1].set(yticks=y, yticklabels=[], xlabel="norm, over that of the true gradient")
        return axes
    for k, (rule, values) in enumerate(curves.items()):  # drawn ever thinner: rules may give the same
        width = 4 - 3 * k / max(len(curves) - 1, 1)
        axes[1].plot(x, values, label=rule, lw=width, **looks[rule])
    axes[1].axhline(0, color="grey", lw=0.6)
    axes[1].set(
        xlabel=xlabel, ylabel="cosine with the true gradient" if xlabel == "batch" else "cosine of c + κg and c + G"
    )
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    axes[1].legend(fontsize=8, framealpha=0.8)
    return axes


def plot_learning(ax: Any, x: Sequence[float], curves: Mapping[str, np.ndarray], *, ylabel: str, xlabel: str) -> Any:
    """Learning curves: label → (seeds, points), drawn as median and quartiles."""
    a_text("xlabel", xlabel), a_text("ylabel", ylabel)
    _draw_curves(ax, points := _points("x", x), curves)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if np.issubdtype(points.dtype, np.integer):
        ax.xaxis.get_major_locator().set_params(integer=True)
        if len(points) == 1:
            ax.set_xlim(points[0] - 1, points[0] + 1)
    if curves and len(curves) > 1:
        ax.legend(frameon=False)
    return ax


def plot_synapse(
    axes: Sequence[Any],
    trace: xr.Dataset,
    *,
    step_ms: float | None = None,
    batch: int | None = None,
    trial: int | None = None,
    synapse: tuple[int, int] | None = None,
) -> Sequence[Any]:
    """One synapse of the synthesiser over a trial, in up to five panels over one time axis.

    Parameters
    ----------
    axes : matplotlib Axes
        One for each panel: z_j, the trace, δ, Σᵢ δᵢ eᵢ and its running sum. Those left over are hidden.
    trace : Dataset
        What `analysis.synapse_trace` or `analysis.current_synapse_trace` gave: five panels. Or a recording, opened with
        ``xr.open_zarr``, of the quantity ``"trace"``: no z_j, δ if ``"delta"`` of the synapse's own unit was recorded,
        the running sum if every step was.
    step_ms : float, optional
        Milliseconds per step; without it the axis has the times of a recording, or counts steps.
    batch, trial : int, optional
        Of a recording, as it numbers them; by default the last batch and the first trial.
    synapse : (a, j), optional
        Of a recording; by default the first.

    Raises
    ------
    ValidationError
        If there is no such batch, trial or synapse, or no trace of it; says what to record.
    """
    if step_ms is not None:
        step_ms = number("step_ms", step_ms, above=True)
    chosen: dict[str, Any] = {"batch": batch, "trial": trial, "synapse": synapse}
    if not isinstance(trace, xr.Dataset):
        raise ValidationError(f"`trace` must be a Dataset, got {type(trace).__name__}")
    if "presynaptic" not in trace:
        trace, where = recorded_synapse(trace, **chosen)
    elif choices := [name for name, value in chosen.items() if value is not None]:
        raise ValidationError(f"`{choices[0]}` chooses from a recording; `trace` holds one synapse in one trial")
    else:
        where = f"γ = {trace.attrs['gamma']:g}, λ = {trace.attrs['lam']:g}"
    timed = step_ms is None and "time" in trace.coords
    t = trace["time"].values * 1e3 if timed else trace["step"].values * (step_ms or 1)
    blue, orange, green, pink, red = COLOURS[:5]
    if "q" in trace:
        projection, *index = trace.attrs["synapse"]
        title, presynaptic, own = f"synapse {projection}{list(index)}", "$y$", "own neuron"
        signal, product = r"$\hat q$", r"$\sum_i a_i e_i$"
    else:
        a, j = trace.attrs["synapse"]
        title, presynaptic, own = f"synapse {j} → output {a}", f"$z_{{{j}}}$", f"own unit, $e[{a},{a},{j}]$"
        signal, product = rf"$\delta_{{{a}}}$", r"$\sum_i \delta_i e_i$"
    lines: dict[str, dict[str, dict[str, Any]]] = {
        presynaptic: {"presynaptic": {"color": blue}},
        "trace": {
            # below the others and wide: where a state acts on itself alone they lie on it
            "norm": {"color": green, "lw": 4, "alpha": 0.5, "label": r"norm over units, $\|e\|$"},
            "own": {"color": orange, "label": own},
            "local": {"color": pink, "ls": "--", "label": "local trace"},
        },
        signal: {"q": {"color": red}, "delta": {"color": red}},
        product: {"product": {"color": blue}},
        r"$\Delta\theta/\alpha$": {"cumulative": {"color": "black", "label": r"$\Delta\theta/\alpha$ so far"}},
    }
    panels = {
        label: looks for label, names in lines.items() if (looks := {k: v for k, v in names.items() if k in trace})
    }
    flat = _panels(axes)
    if len(flat) < len(panels):
        raise ValidationError(f"`axes` must be {len(panels)} Axes, one for each panel; got {len(flat)}")
    margin = 0.03 * (t[-1] - t[0]) or 0.5
    for ax, (label, looks) in zip(flat, panels.items(), strict=False):
        for name, look in looks.items():
            ax.plot(t, trace[name], **look)
        if "cumulative" in looks and "forward_view" in trace.attrs:
            ax.plot(t[-1], trace.attrs["forward_view"], "*", ms=13, color=red, label="forward view", clip_on=False)
        if ax.get_legend_handles_labels()[1]:
            ax.legend(fontsize=8, framealpha=0.8)
        ax.axhline(0, color="grey", lw=0.6)
        ax.set(ylabel=label, xlim=(t[0] - margin, t[-1] + margin))
        ax.tick_params(labelbottom=False)
    flat[0].set_title(f"{title}   ({where})", loc="left")
    last = flat[len(panels) - 1]
    last.tick_params(labelbottom=True)
    last.set_xlabel("time (ms)" if step_ms or timed else "step")
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    return axes


def plot_traces(ax: Any, recorded: xr.DataArray) -> Any:
    """What was recorded of several units, neurons or synapses over the steps of one trial, one line each.

    Parameters
    ----------
    ax : matplotlib Axes
    recorded : DataArray
        A quantity of a recording with the dimension ``step`` and one of ``unit``, ``neuron``, ``synapse``, as in
        ``xr.open_zarr(path)["g"].sel(batch=36, trial=0)``. The axis is in ms where the recording has times. Up to 28
        lines are named.

    Raises
    ------
    ValidationError
        For other dimensions; says how to choose.
    """
    if not isinstance(recorded, xr.DataArray):
        raise ValidationError(f"`recorded` must be a DataArray of a recording, got {type(recorded).__name__}")
    over = [dim for dim in recorded.dims if dim != "step"]
    if "step" not in recorded.dims or len(over) > 1 or (over and over[0] not in ("unit", "neuron", "synapse")):
        raise ValidationError(
            "`recorded` must have the dimension step and one of unit, neuron, synapse; got "
            f"{', '.join(map(str, recorded.dims))}. Choose one of the others, like recorded.sel(batch=1, trial=0)"
        )
    instance("ax", ax, Axes, "matplotlib Axes")
    if np.asarray(recorded.values).dtype.kind not in "fiub":
        raise ValidationError(f"`recorded` must hold real numbers, got dtype {recorded.dtype}")
    timed = "time" in recorded.coords
    x = recorded["time"].values * 1e3 if timed else recorded["step"].values
    lines = recorded.transpose("step", *over).values.reshape(len(x), -1)
    for k, line in enumerate(lines.T):
        label = _name_of(recorded.isel({over[0]: k}), str(over[0])) if over else None
        ax.plot(x, line, label=label, **_look(k))
    unit = recorded.attrs.get("units", "1")
    ax.set(xlabel="time (ms)" if timed else "step", ylabel=f"{recorded.name}" + ("" if unit == "1" else f" ({unit})"))
    ax.axhline(0, color="grey", lw=0.6)
    if over and len(lines.T) <= 28:
        _legend_beside(ax)
    return ax


def _name_of(single: xr.DataArray, dim: str) -> str:
    """A unit, neuron or synapse in words."""
    coords = {str(key): value.item() for key, value in single.coords.items() if value.ndim == 0}
    if dim == "synapse":
        return f"{coords['synapse_input']} → {coords['synapse_output']}"
    if dim == "unit":
        return f"{coords['unit_population']} {coords['unit_neuron']}, {coords['unit_state']}"
    return f"{coords['neuron_population']} {coords['neuron_number']}"


def plot_weights(ax: Any, weights: Any, *, exists: Any = None, pre: str = "pre", post: str = "post") -> Any:
    """A weight matrix [post, pre] as an image: red excites, blue inhibits, white is 0.

    Parameters
    ----------
    ax : matplotlib Axes
    weights : (N_post, N_pre) array
        Of one input, like ``circuit.weights["exc->exc"][0]``, or θ.
    exists : array of the same shape, optional
        Where it is 0 there is no synapse: drawn grey.
    pre, post : str
        What the axes are called.

    Raises
    ------
    ValidationError
        If `weights` is not a matrix of finite numbers.
    """
    instance("ax", ax, Axes, "matplotlib Axes"), a_text("pre", pre), a_text("post", post)
    weights = real_array("weights", weights).astype(float)
    if exists is not None and (exists := real_array("exists", exists)).shape != weights.shape:
        raise ValidationError(f"`exists` must have the shape of `weights`, {weights.shape}, got {exists.shape}")
    if exists is not None and not np.isin(exists, (0, 1)).all():
        raise ValidationError("`exists` must hold booleans, or 0 and 1")
    if weights.ndim == 2 and not np.isfinite(weights).all():
        raise ValidationError("`weights` must be finite")
    if weights.ndim != 2 or not weights.size:
        raise ValidationError(
            f"`weights` must be a matrix [post, pre], got shape {weights.shape}; a projection holds one for "
            'each input of its neurons: circuit.weights["a->b"][0]'
        )
    shown = np.ma.array(weights, mask=np.zeros(weights.shape, bool) if exists is None else np.asarray(exists) == 0)
    largest = float(np.abs(weights).max(initial=0)) or 1.0
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.85")
    image = ax.imshow(shown, cmap=colours, vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    ax.grid(False)
    ax.set(xlabel=pre, ylabel=post)
    ax.figure.colorbar(image, ax=ax, label="weight")
    return ax


def _draw_curves(ax: Any, x: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    """Median over seeds, with quartiles where there are several."""
    instance("ax", ax, Axes, "matplotlib Axes")
    curves = mapping("curves", curves, "label to values")
    rows = [_rows(f"curves[{label!r}]", values, len(x)) for label, values in curves.items()]
    for k, (label, values) in enumerate(zip(curves, rows, strict=True)):
        look = _look(k)
        marker = {"marker": "o", "ms": 3.5} if len(x) <= 50 else {}
        ax.plot(x, np.nanmedian(values, axis=0), label=label, **look, **marker)
        if len(values) > 1:
            low, high = np.nanpercentile(values, [25, 75], axis=0)
            ax.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)


def _points(name: str, values: Any) -> np.ndarray:
    """Where points are on an axis."""
    if (points := real_array(name, values)).ndim == 1 and points.size and np.isfinite(points).all():
        return points
    raise ValidationError(f"`{name}` must be a list of finite numbers, got {shown(values)}")


def _rows(name: str, values: Any, points: int) -> np.ndarray:
    """Values over so many points, (rows, points); one row may come without its axis."""
    rows = np.atleast_2d(real_array(name, values))
    if rows.ndim != 2 or rows.shape[1] != points or not rows.size:
        raise ValidationError(f"`{name}` must have {points} points, as there are places for; got shape {rows.shape}")
    return rows


def _panels(axes: Any) -> list[Any]:
    """Axes in a list or array."""
    flat = list(np.asarray(axes, dtype=object).ravel()) if isinstance(axes, list | tuple | np.ndarray) else [axes]
    if flat and all(isinstance(ax, Axes) for ax in flat):
        return flat
    raise ValidationError(f"`axes` must be two Axes or more, as `figure` makes them, got {shown(axes)}")


def _look(k: int) -> dict[str, Any]:
    """Colour and line style of the k-th of many lines."""
    styles = ("-", "--", "-.", ":")
    return {"color": COLOURS[k % len(COLOURS)], "ls": styles[k // len(COLOURS) % len(styles)]}


def _legend_beside(ax: Any) -> None:
    """The curves fill the panel; their names stand to the right of it."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def plot_trace(*arguments: Any, **keywords: Any) -> Any:
    """A whole figure of one synapse's trace, drawn by `plot_synapse`.

    Parameters
    ----------
    *arguments, **keywords
        Of `analysis.synapse_trace`, or of `analysis.current_synapse_trace` where the rule's synthesiser has
        ``target="current"``.

    Returns
    -------
    matplotlib Figure
    """
    rule = keywords.get("rule", arguments[2] if len(arguments) > 2 else None)
    look = current_synapse_trace if getattr(rule, "target", None) == "current" else synapse_trace
    trace = look(*arguments, **keywords)
    fig, axes = figure(5, 1, figsize=(7, 8))
    plot_synapse(axes[:, 0], trace)
    return fig
