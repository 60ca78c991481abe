"""Rate-based recurrent circuits, written as equations, that learn online with synthetic gradients."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from bpl_neuro import interventions
from bpl_neuro.circuit import Circuit
from bpl_neuro.comparison import PassiveRules, compare, comparison_table
from bpl_neuro.data import ArrayTask, Batch, Task
from bpl_neuro.errors import BackendError, BplError, DivergenceError, ModelError, ValidationError
from bpl_neuro.feedback import Feedback
from bpl_neuro.loop import Outcome, batch_updates
from bpl_neuro.optimisers import SGD, Adam, Clip, CosineDecay, ExponentialDecay
from bpl_neuro.plotting import (
    plot_alignment,
    plot_comparison,
    plot_learning,
    plot_synapse,
    plot_trace,
    plot_traces,
    plot_weights,
)
from bpl_neuro.readout import Readout
from bpl_neuro.recording import Recorder
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
from bpl_neuro.spec import Model, available_models
from bpl_neuro.stimuli import from_timed_array
from bpl_neuro.synthesiser import Synthesiser
from bpl_neuro.tasks import CopyRepeat, CueOutcome, DelayedReach, IntervalTiming, RowMNIST, TargetReaching
from bpl_neuro.trainer import Trainer
from bpl_neuro.transition import Transition

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
]
