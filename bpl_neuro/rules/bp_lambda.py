"""Accumulate BP(λ) (Pemberton & Costa, TMLR 2024): a reader starts here.

Step t, fully online (all rows are trials of the batch):

    2  δ_{t−1} = (c_t + γ (1−end_t) g(s_t; θ)) J_t − g(s_{t−1}; θ)
    3  θ ← θ + α Σ_B δ_{t−1} e_{t−1}
    4  e_t = γλ J_t e_{t−1} + ∂g(s_t; θ)/∂θ
    5  C_t = c_t + κ (1−end_t) g(s_t; θ),   Ψ ← Ψ − η Σ_B C_t ∂s_t/∂Ψ
    6  where end_t: the trace starts again
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bpl_neuro.checks import instance, number, positive_int
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.feedback import Feedback
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.circuit.transition import Transition, parameter_gradient
from bpl_neuro.errors import ValidationError
from bpl_neuro.model.units import per_step
from bpl_neuro.rules.base import Carry, Gradients, Rule, remember, said
from bpl_neuro.rules.traces.exact import TRACES, LazyTrace

__all__ = ["BPLambda"]


class BPLambda(Rule):
    """Accumulate BP(λ).

    Parameters
    ----------
    synthesiser : Synthesiser
    gamma, lam : float or str
        Discount γ and trace decay λ per step, in [0, 1]; or time constants like ``"50*ms"``: γ = exp(−dt/τ).
    sg_weight : float
        κ ≥ 0: weight of the synthetic gradient in the circuit's credit; it never enters the TD target.
    trace : {"auto", "full", "lazy", "sweep", "local", "leak", "model", "reduced"}
        How the trace is held; see `bpl_neuro.rules.traces`. "sweep" (per trial only) gives the numbers of "full" at the
        price of a backward pass.
    window : int, optional
        For "lazy": how many steps back an error is carried; the whole trial by default.
    feedback : str or Feedback
        What errors and credit between neurons go back through: "exact", "sign", "random", "noisy". The trace is carried
        forwards, by the circuit's own weights.
    continuous_time : bool
        Weight the trace's input by dt, so that α is per second. With a readout that does the same for running losses,
        halving dt changes what is learned only to first order.

    Attributes
    ----------
    pathway : (n, n) array or None
        The synthetic gradient reaches the circuit as g · pathway; None is the identity. For lesions and rewirings; the
        synthesiser's own TD error does not pass through it.

    Raises
    ------
    ValidationError
        For a value outside its range.

    References
    ----------
    J. Pemberton & R. P. Costa, "BP(λ): Online Learning via Synthetic Gradients", TMLR 2024, Algorithm 1.
    """

    name = "bp_lambda"
    needs_synthesiser = True
    exact = False

    def __init__(
        self,
        synthesiser: Synthesiser,
        *,
        gamma: float | str = 1.0,
        lam: float | str = 1.0,
        sg_weight: float = 1.0,
        trace: str = "full",
        window: int | None = None,
        feedback: str | Feedback = "exact",
        continuous_time: bool = False,
    ) -> None:
        instance("synthesiser", synthesiser, Synthesiser, "a Synthesiser")
        dt = synthesiser.circuit.model.dt
        self.synthesiser = synthesiser
        self.gamma, self.lam = per_step("gamma", gamma, dt), per_step("lam", lam, dt)
        self.sg_weight = number("sg_weight", sg_weight)
        if not isinstance(trace, str) or trace not in (*TRACES, "auto"):
            raise ValidationError(f"`trace` must be one of auto, {', '.join(TRACES)}, got {trace!r}")
        if window is not None and trace != "lazy":
            raise ValidationError(f'`window` belongs to `trace` = "lazy", got {trace!r}')
        self.pathway: Any = None
        self.feedback = Feedback.of(feedback)
        self.auto, self._gain = trace == "auto", dt if continuous_time else 1.0
        self._hold(
            "lazy" if self.auto else trace, **({} if window is None else {"window": positive_int("window", window)})
        )

    def _hold(self, trace: str, **options: Any) -> None:
        """Take a form of the trace."""
        self.trace = TRACES[trace](self.synthesiser, self.gamma * self.lam, self._gain, **options)
        self.deferred = trace == "sweep"
        self.online = not self.deferred
        self.schedules = ("step", "trial") if self.auto else self.trace.schedules
        self.local = trace in ("local", "leak", "model")
        self.memory, self.time = self.trace.memory, self.trace.time

    def settle(self, schedule: str, steps: int, stream: bool) -> None:
        """With ``trace="auto"``: the cheapest exact form for what is to come.

        Per trial it is the sweep. Per step, a trial of T steps costs T²/2 · (|W| + |θ|) by the lazy trace, with |W|
        recurrent weights, and T · 2n²|θ| by the full one: the cheaper is taken. A stream, whose past has no end, takes
        the full one. ``rule.trace`` and the rule's repr say which it is.
        """
        if not self.auto:
            return
        s = self.synthesiser
        recurrent = sum(math.prod(s.circuit.layout[group.key]) for group in s.circuit.synapses if group.pre is not None)
        lazy, full = steps / 2 * (recurrent + s.layout.size), 2 * s.n**2 * s.layout.size
        if stream:
            self._hold("full")
        elif schedule == "trial":
            self._hold("sweep")
        else:
            self._hold("lazy" if lazy <= full else "full")

    @property
    def circuit(self) -> Circuit:
        """The circuit whose synthesiser this is."""
        return self.synthesiser.circuit

    @property
    def streams(self) -> bool:
        """Whether memory stays bounded without an end: not for "lazy" without a window."""
        unbounded = isinstance(self.trace, LazyTrace) and self.trace.window is None
        return self.auto or ("step" in self.schedules and not unbounded)

    def initial_theta(self) -> Any:
        """Zeros, (n, m)."""
        return self.synthesiser.initial_theta()

    def kept(self, batch: int, steps: int) -> int:
        """The trace, and z of the step before."""
        return self.trace.kept(batch, steps) + batch * self.synthesiser.k

    def work(self, batch: int, steps: int) -> int:
        """What the trace needs beside it."""
        return self.trace.work(batch, steps)

    def leaner(self, batch: int, steps: int) -> dict[str, int]:
        """The other exact forms of the trace."""
        found = {}
        for name in ("sweep", "lazy"):
            trace = TRACES[name](self.synthesiser, 0.0)
            if type(self.trace) is not type(trace) and set(self.schedules) & set(trace.schedules):
                what = " per trial" if trace.schedules == ("trial",) else ""
                found[f'trace="{name}"{what}'] = trace.kept(batch, steps) + trace.work(batch, steps)
        return found

    def report(self, carry: Carry) -> dict[str, float]:
        """What the trace reports: ``window_error`` where a window cut it."""
        return self.trace.report(carry["trace"]) if "trace" in carry else {}

    def init(self, batch: int) -> Carry:
        """No previous step, no trace."""
        if self.deferred:
            return {"transitions": [], "c": [], "end": []}
        xp = self.synthesiser.circuit.xp
        return {
            "trace": self.trace.init(batch),
            "started": xp.zeros(batch, bool),
            "z": xp.zeros((batch, self.synthesiser.k), self.synthesiser.circuit.dtype),
        }

    def step(
        self,
        carry: Carry,
        transition: Transition,
        c: Any,
        end: Any,
        theta: Any,
        learn: Callable[[Any], Any],
    ) -> tuple[Carry, Mapping[str, Any], Any]:
        """One step of the algorithm above; see `Rule.step`."""
        if self.deferred:
            return self._remember(carry, transition, c, end, theta)
        going_on = ~end[:, None]
        z = self.synthesiser.z(transition)
        g_ahead, g_prev = (self.synthesiser(seen, theta).g for seen in (z, carry["z"]))
        delta = self.feedback.transition(transition).vjp(c + going_on * (self.gamma * g_ahead)) - g_prev
        delta *= carry["started"][:, None]

        correlation = self.trace.collect(carry["trace"], delta)
        if correlation is not None:
            theta = learn(-correlation)

        response = self.synthesiser(z, theta)
        trace = self.trace.step(carry["trace"], transition, response)
        g = going_on * response.g
        prospective = self._prospective(g)
        new, gradient = self.assign(carry, transition, c, prospective, end)
        new |= {"trace": self.trace.restart(trace, end), "started": ~end, "z": z}
        return new, {"g": g, "delta": delta, "credit": c + prospective}, gradient

    def assign(self, carry: Carry, transition: Transition, c: Any, prospective: Any, end: Any) -> tuple[Carry, Any]:
        """Step 5: what else is remembered, and the gradient of Ψ; `prospective` is κ g."""
        return {}, transition.parameter_gradient(c + prospective)

    def _prospective(self, g: Any) -> Any:
        reaching = g if self.pathway is None else g @ self.pathway
        return reaching if self.sg_weight == 1 else self.sg_weight * reaching

    # With the sweep nothing is done during the trial: all of it follows at its end, from one product for all steps.

    def _remember(
        self, carry: Carry, transition: Transition, c: Any, end: Any, theta: Any
    ) -> tuple[Carry, Mapping[str, Any], Any]:
        remember(carry, transitions=transition, c=c, end=end)
        transitions, ends, t = carry["transitions"], carry["end"], len(carry["end"]) - 1

        def g() -> Any:
            return ~end[:, None] * self.synthesiser(self.synthesiser.z(transition), theta).g

        def delta() -> Any:
            if t == 0:
                return 0 * c
            arriving = self.feedback.transition(transition).vjp(c + self.gamma * g())
            return ~ends[t - 1][:, None] * (
                arriving - self.synthesiser(self.synthesiser.z(transitions[t - 1]), theta).g
            )

        return carry, OnDemand(g=g, delta=delta, credit=lambda: c + self._prospective(g())), None

    def finish(self, carry: Carry, theta: Any) -> Gradients:
        """The sums over the trial, where nothing was known before: Σ δ e = Σ (G^λ − g) ∂g/∂θ by a sweep back."""
        if not self.deferred or not carry["transitions"]:
            return {}
        xp, transitions, end = self.circuit.xp, carry["transitions"], carry["end"]
        T, wiring = len(transitions), transitions[0].wiring
        c = xp.stack(carry["c"])
        response = self.synthesiser(self.synthesiser.z_of_all(transitions), theta)
        g, ends = response.g.reshape(c.shape), xp.stack(end)
        g[ends] = 0
        # taken apart on the way back, as the steps want it
        ahead = wiring.split(c + (self.gamma * (1 - self.lam)) * g if self.lam < 1 else c)
        targets = [[xp.zeros_like(v) for v in own] for own in ahead]
        decay, target = self.gamma * self.lam, None
        ending = self.circuit.backend.to_host(ends.any(axis=1))
        for t in reversed(range(T - 1)):
            later = [[v[t + 1] for v in own] for own in ahead]
            if target is not None and decay:
                if decay != 1:
                    target = [[decay * G for G in own] for own in target]
                later = [[v + G for v, G in zip(*own, strict=True)] for own in zip(later, target, strict=True)]
            target = self.feedback.transition(transitions[t + 1]).back(later)
            if ending[t]:
                target = [[G * ~end[t][:, None] for G in own] for own in target]
            for kept, own in zip(targets, target, strict=True):
                for stack, G in zip(kept, own, strict=True):
                    stack[t] = G
        error = wiring.join(targets)
        error -= g
        error[ends] = 0
        error[-1] = 0
        dtheta = self.synthesiser.gradient(error.reshape(-1, wiring.n), response, self.trace.gain)
        return {"theta": -dtheta, "psi": self.assigned(transitions, c, self._prospective(g), end)}

    def assigned(self, transitions: list[Transition], c: Any, prospective: Any, end: list[Any]) -> Any:
        """The gradient of Ψ over the trial; `prospective` (T, B, n) is κ g."""
        return parameter_gradient(transitions, c + prospective)

    def __repr__(self) -> str:
        trace = next(name for name, kind in TRACES.items() if type(self.trace) is kind)
        window = {"window": self.trace.window} if isinstance(self.trace, LazyTrace) and self.trace.window else {}
        options = {"gamma": self.gamma, "lam": self.lam, "sg_weight": self.sg_weight, "trace": trace, **window}
        return f"{type(self).__name__}({said(self, **options)})"


class OnDemand(Mapping[str, Any]):
    """Signals that are computed when somebody looks at them."""

    def __init__(self, **makers: Callable[[], Any]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Any:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
