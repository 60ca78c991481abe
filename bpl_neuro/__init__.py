"""Rate-based recurrent circuits, written as equations, that learn online with synthetic gradients."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from bpl_neuro.brian.stimuli import from_timed_array
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import BackendError, BplError, DivergenceError, ModelError, ValidationError
from bpl_neuro.look import analysis, plotting
from bpl_neuro.look.comparison import PassiveRules, compare, comparison_table
from bpl_neuro.look.plotting import (
    plot_alignment,
    plot_comparison,
    plot_learning,
    plot_synapse,
    plot_trace,
    plot_traces,
    plot_weights,
)
from bpl_neuro.look.recording import Recorder
from bpl_neuro.model.spec import Model, available_models
from bpl_neuro.rules import (
    BPTT,
    RFLO,
    RTRL,
    BPLambda,
    BPLambdaEProp,
    EProp,
    Immediate,
    LambdaSG,
    NStepSG,
    Rule,
    SnAp1,
    TruncatedBPTT,
    make_rule,
)
from bpl_neuro.tasks import CopyRepeat, CueOutcome, DelayedReach, IntervalTiming, RowMNIST, TargetReaching
from bpl_neuro.tasks.base import ArrayTask, Batch, Task
from bpl_neuro.train import interventions
from bpl_neuro.train.loop import Outcome, batch_updates
from bpl_neuro.train.optimisers import SGD, Adam, Clip, CosineDecay, ExponentialDecay
from bpl_neuro.train.trainer import Trainer

try:
    __version__ = version("bpl_neuro")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BPTT",
    "RFLO",
    "RTRL",
    "SGD",
    "Adam",
    "ArrayTask",
    "BPLambda",
    "BPLambdaEProp",
    "BackendError",
    "Batch",
    "BplError",
    "Circuit",
    "Clip",
    "CopyRepeat",
    "CosineDecay",
    "CueOutcome",
    "DelayedReach",
    "DivergenceError",
    "EProp",
    "ExponentialDecay",
    "Feedback",
    "Immediate",
    "IntervalTiming",
    "LambdaSG",
    "Model",
    "ModelError",
    "NStepSG",
    "Outcome",
    "PassiveRules",
    "Readout",
    "Recorder",
    "RowMNIST",
    "Rule",
    "SnAp1",
    "Synthesiser",
    "TargetReaching",
    "Task",
    "Trainer",
    "Transition",
    "TruncatedBPTT",
    "ValidationError",
    "analysis",
    "available_models",
    "batch_updates",
    "compare",
    "comparison_table",
    "from_timed_array",
    "interventions",
    "make_rule",
    "plot_alignment",
    "plot_comparison",
    "plot_learning",
    "plot_synapse",
    "plot_trace",
    "plot_traces",
    "plot_weights",
    "plotting",
]
