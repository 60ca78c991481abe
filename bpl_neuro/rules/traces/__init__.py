"""Ways to hold the synthesiser's eligibility trace e_t = γλ J_t e_{t−1} + ∂g(s_t; θ)/∂θ.

======  =====  =========================  ==========================================
form    exact  memory                     for
======  =====  =========================  ==========================================
full    yes    B·n·|θ|                    the algorithm to the letter; any schedule
lazy    yes    B·K·(n + factors)          the numbers of full, hundreds of times cheaper while K ≪ n²; any schedule
sweep   yes    B·T·(n + factors)          parameters frozen during a trial
local   no     B·|θ|·S                    one number per synapse and state of its unit
leak    no     B·m, or B·|θ| (nonlinear)  γλ alone in the place of γλ J
model   no     B·m                        the trace equation of the model file
reduced no     B·d·|θ|                    a synthesiser that predicts within a subspace of d dimensions
======  =====  =========================  ==========================================

One interface (`Trace`): `collect` gives Σ_B δ e (line 3 of the algorithm), `step` moves the trace on (line 4) and
`restart` clears it where trials end (line 6). Another form is another file that registers itself, imported here.
"""

from bpl_neuro.rules.traces.base import TRACES, Trace
from bpl_neuro.rules.traces.exact import FullTrace, ReducedTrace, SweepTrace
from bpl_neuro.rules.traces.lazy import LazyTrace
from bpl_neuro.rules.traces.local import LeakTrace, LocalTrace, ModelTrace
from bpl_neuro.rules.traces.traced import TracedRule

__all__ = [
    "TRACES",
    "FullTrace",
    "LazyTrace",
    "LeakTrace",
    "LocalTrace",
    "ModelTrace",
    "ReducedTrace",
    "SweepTrace",
    "Trace",
    "TracedRule",
]
