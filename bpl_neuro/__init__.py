"""Rate-based recurrent circuits, written as equations, that learn online with synthetic gradients.

The core is here; the rest is in `bpl.tasks`, `bpl.rules`, `bpl.analysis`, `bpl.plotting`, `bpl.interventions` and
`bpl.brian`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from bpl_neuro import brian, reference, rules, tasks
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.readout import Readout
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.trajectory import Trajectory
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.errors import BackendError, BplError, DivergenceError, ModelError, ValidationError
from bpl_neuro.look import analysis, plotting
from bpl_neuro.look.comparison import compare, comparison_table
from bpl_neuro.look.passive import PassiveRules
from bpl_neuro.look.recording import Recorder
from bpl_neuro.model.spec import Model, available_models
from bpl_neuro.rules import BPLambda, BPLambdaEProp, Rule, make_rule
from bpl_neuro.tasks import ArrayTask, Batch, Task, make_task
from bpl_neuro.train import interventions
from bpl_neuro.train.loop import batch_updates, run_batch
from bpl_neuro.train.optimisers import SGD, Adam, Clip, CosineDecay, ExponentialDecay
from bpl_neuro.train.rls import RLS
from bpl_neuro.train.schedule import Schedule
from bpl_neuro.train.state import Learner, LearnerState
from bpl_neuro.train.step import Outcome, Step
from bpl_neuro.train.trainer import Trainer

try:
    __version__ = version("bpl_neuro")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "RLS",
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
    "CosineDecay",
    "DivergenceError",
    "ExponentialDecay",
    "Feedback",
    "Learner",
    "LearnerState",
    "Model",
    "ModelError",
    "Outcome",
    "PassiveRules",
    "Readout",
    "Recorder",
    "Rule",
    "Schedule",
    "Step",
    "Synthesiser",
    "Task",
    "Trainer",
    "Trajectory",
    "Transition",
    "ValidationError",
    "analysis",
    "available_models",
    "batch_updates",
    "brian",
    "compare",
    "comparison_table",
    "interventions",
    "make_rule",
    "make_task",
    "plotting",
    "reference",
    "rules",
    "run_batch",
    "tasks",
]
