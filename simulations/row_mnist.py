"""Row-by-row MNIST: an LSTM reads a digit one row a step and learns without backpropagation through time.

Any rule: ``--set rule=eprop``. After training, the synthetic gradient of BP(λ) is compared with the true one on test
trials, and one synapse's trace is drawn.

summary.json
    test_loss, test_accuracy          of the parameters with the lowest validation loss
    final.test_loss, .test_accuracy   of the parameters at the end
    epoch=E.validation_accuracy, …    per epoch
    alignment.mean                    cosine of g + c with the true gradient, mean over steps and 200 test trials
    optimum.mean                      the same for the least-squares fit of the true gradient
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import bpl_neuro as bpl
from bpl_neuro import analysis, plotting
from bpl_neuro.experiment import RunFolder, TrainingConfig
from bpl_neuro.rules import rule_options


class Config(TrainingConfig):
    """Settings."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"epochs": 1, "train_size": 5000}}

    model: str = "lstm"
    units: int = 30
    rule: str = "bp_lambda"
    window: int = 3
    lam: float = 1.0
    gamma: float = 1.0
    sg_weight: float = 1.0
    eta: float = 1e-3
    eta_synthesiser: float = 1e-3
    epochs: int = 5
    batch_size: int = 50
    schedule: str = "trial"
    trace: str = "sweep"
    reduction: str = "sum"
    dtype: str = "float32"
    train_size: int | None = None
    data: str | None = None


def run(config: Config, folder: RunFolder) -> None:
    """Train, test, and write everything."""
    weights, data = np.random.SeedSequence(config.seed).spawn(2)
    task = bpl.tasks.RowMNIST(config.data, train_size=config.train_size)
    rng = np.random.default_rng(weights)
    circuit = bpl.Circuit(
        config.model, config.units, task.input_size, seed=rng, dtype=config.dtype, backend=config.backend
    )
    readout = bpl.Readout(circuit, task.output_size, task.loss, reduction=config.reduction, seed=rng)
    settings = {
        "gamma": config.gamma, "lam": config.lam, "sg_weight": config.sg_weight, "trace": config.trace,
        "steps": config.window,
    }  # fmt: skip
    rule = bpl.make_rule(config.rule, circuit, **{k: v for k, v in settings.items() if k in rule_options(config.rule)})
    optimiser = {"psi": bpl.Adam(config.eta), "phi": bpl.Adam(config.eta), "theta": bpl.Adam(config.eta_synthesiser)}
    trainer = bpl.Trainer(
        circuit, readout, rule, optimiser=optimiser, schedule=config.schedule, seed=int(data.generate_state(1)[0])
    )
    folder.fit(trainer, task, "last", epochs=config.epochs, batch_size=config.batch_size, **config.recorded)
    batch_losses = np.array(trainer.losses)
    final = trainer.evaluate(task, "test")
    trainer.restore_best()
    best = trainer.evaluate(task, "test")
    folder.add_summary({"test_loss": best["loss"], "test_accuracy": best["accuracy"]})
    folder.add_summary({f"final.test_{key}": value for key, value in final.items()})
    epoch = np.array([entry["epoch"] for entry in trainer.history])
    measured = [key for key in trainer.history[0] if key.endswith(("loss", "accuracy"))]
    for entry in trainer.history:
        folder.add_summary({f"epoch={entry['epoch']}.{key}": entry[key] for key in measured})
    record = xr.Dataset(
        {
            "batch_loss": ("batch", batch_losses, {"units": "nat"}),
            **{key: ("epoch", np.array([entry[key] for entry in trainer.history])) for key in measured},
        },
        {"batch": np.arange(len(batch_losses)) + 1, "epoch": epoch},
    )
    if isinstance(rule, bpl.BPLambda):
        record = record.merge(look_inside(config, folder, task, trainer))
    folder.save_recording(record)
    fig, axes = plotting.figure(1, 2, figsize=(9, 3.8))
    axes[0, 0].plot(np.arange(len(batch_losses)) + 1, batch_losses, lw=0.5, color=plotting.COLOURS[0])
    axes[0, 0].set(xlabel="batch", ylabel="cross-entropy (nat)", yscale="log")
    plotting.readable_log(axes[0, 0].yaxis)
    plotting.plot_learning(
        axes[0, 1], epoch,
        {name: np.array([entry[f"{name}_accuracy"] for entry in trainer.history]) for name in ("train", "validation")},
        xlabel="epoch", ylabel="accuracy",
    )  # fmt: skip
    axes[0, 1].axhline(best["accuracy"], color="black", ls="--", lw=1)
    axes[0, 1].set_title(f"test accuracy {best['accuracy']:.3f} (dashed)", loc="left")
    folder.save_figure(fig, "learning")
    table = Table("rule", "epochs", "test accuracy", "test loss (nat)")
    table.add_row(repr(trainer.settled_rule), str(config.epochs), f"{best['accuracy']:.4f}", f"{best['loss']:.4f}")
    Console().print(table)


def look_inside(config: Config, folder: RunFolder, task: bpl.tasks.RowMNIST, trainer: bpl.Trainer) -> xr.Dataset:
    """How well the synthetic gradient points, and one synapse's trace."""
    circuit, readout, rule = trainer.trained_circuit(), trainer.trained_readout(), trainer.settled_rule
    test = next(task.batches(np.random.default_rng(0), 200, "test"))
    aligned = analysis.alignment(circuit, readout, rule, test, trainer.theta)
    folder.add_summary(
        {"alignment.mean": float(aligned["cosine"].mean()), "optimum.mean": float(aligned["optimum"].mean())}
    )
    fig, axes = plotting.figure(figsize=(8, 4.2))
    plotting.plot_alignment(
        axes[0, 0], aligned["step"].values, {f"λ = {config.lam:g}": aligned["cosine"].values}, aligned["optimum"].values
    )
    axes[0, 0].set_title("200 test trials, after training", loc="left")
    folder.save_figure(fig, "alignment")
    full = bpl.BPLambda(rule.synthesiser, gamma=config.gamma, lam=config.lam, sg_weight=config.sg_weight, trace="full")
    updates = bpl.batch_updates(circuit, readout, rule, test[:1], trainer.theta).gradients["theta"]
    updates = circuit.backend.to_host(rule.synthesiser.weights(updates))
    a, j = np.unravel_index(np.abs(updates[:, :-1]).argmax(), updates[:, :-1].shape)
    folder.save_figure(
        bpl.plotting.plot_trace(circuit, readout, full, test, trainer.theta, synapse=(int(a), int(j))), "trace"
    )
    return aligned
