"""Ways to hold the eligibility trace of a synthesiser that is compatible with the circuit.

    e_t = γ (A_t + λ O_t) e_{t−1} + ∂s_t/∂Ψ                n numbers for each synapse of the circuit

λ = 0 is e-prop's trace, a number for each synapse and state of its target; λ = 1 is RTRL's influence matrix.

======  ======  ==================  ======================================================
form    exact   memory              what it is
======  ======  ==================  ======================================================
full    yes     B·n·|Ψ|             e itself
lazy    yes     B·K·(n + factors)   the last K steps; errors are carried back through them
sweep   yes     B·T·(n + factors)   parameters frozen during a trial
local   λ = 0   B·|Ψ|·S             a neuron's own block: e-prop's at λ = 0, SnAp-1's at 1
======  ======  ==================  ======================================================

Where e-prop carries a neuron's own memory, the synthesiser learns the rest alone, and a second trace is needed, for
what passed between neurons first and was remembered by a neuron then: f_t = γ (A_t f_{t−1} + O_t e_{t−1}).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bpl_neuro.circuit.compatible import CompatibleSynthesiser
from bpl_neuro.circuit.transition import Transition
from bpl_neuro.circuit.wiring import Parts, credit_of_inputs, summed_gradient
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import Carry, clear
from bpl_neuro.rules.eligibility import Eligibility, own_past, own_past_and_self_synapse
from bpl_neuro.rules.traces.base import Trace
from bpl_neuro.rules.traces.exact import SweepTrace
from bpl_neuro.rules.traces.influence import carried, influence, influence_size, move_on
from bpl_neuro.rules.traces.lazy import KeptSteps

__all__ = ["COMPATIBLE_TRACES", "CompatibleTrace"]


class CompatibleTrace(Trace):
    """A form of e, and of f where the synthesiser learns what e-prop does not carry.

    Parameters
    ----------
    synthesiser : CompatibleSynthesiser
    gamma, lam : float
    residual : bool
        Whether f is held, too.
    """

    synthesiser: CompatibleSynthesiser

    def __init__(self, synthesiser: CompatibleSynthesiser, gamma: float, lam: float, residual: bool = False) -> None:
        super().__init__(synthesiser, gamma)
        self.lam, self.residual = lam, residual

    def collect(self, carry: Carry, arriving: Any, own: Any = None, mask: Any = None) -> Any:
        """Σ_B arriving · e_{t−1} + own · f_{t−1}, (|Ψ|,), where there is a plastic synapse now."""
        raise NotImplementedError

    def step(self, carry: Carry, transition: Transition, response: Any = None) -> Carry:
        """e_t and f_t."""
        raise NotImplementedError


class CompatibleFullTrace(CompatibleTrace):
    """e[b, i, …]: the influence of every synapse on every state i. Work: 2 n²·|Ψ| a step and trial."""

    name = "full"
    exact = True
    memory, time = "B·n·|Ψ|", "2 n²·|Ψ|"

    def kept(self, trials: int, steps: int) -> int:
        circuit, size = self.synthesiser.circuit, self.synthesiser.layout.size
        return influence_size(circuit, trials, size) + self.residual * trials * circuit.n * size

    def work(self, trials: int, steps: int) -> int:
        n = self.synthesiser.circuit.n
        return trials * n * (2 * n + self.residual * self.synthesiser.layout.size)

    def cost(self, steps: int) -> float:
        return (1 + 2 * self.residual) * steps * 2.0 * self.synthesiser.circuit.n**2 * self.synthesiser.layout.size

    def init(self, trials: int, steps: int) -> Carry:
        circuit, size = self.synthesiser.circuit, self.synthesiser.layout.size
        carry = influence(circuit, trials, size)
        return carry | {"f": circuit.xp.zeros((trials, circuit.n, size), circuit.dtype)} if self.residual else carry

    def collect(self, carry: Carry, arriving: Any, own: Any = None, mask: Any = None) -> Any:
        e = carried(carry)
        total = arriving.reshape(-1) @ e.reshape(-1, e.shape[-1])
        if own is not None:
            total = total + own.reshape(-1) @ carry["f"].reshape(-1, e.shape[-1])
        return total if mask is None else total * mask

    def step(self, carry: Carry, transition: Transition, response: Any = None) -> Carry:
        if self.residual:
            f = transition.within() @ carry["f"]
            f += transition.between() @ carried(carry)
            f *= self.decay
            carry = carry | {"f": f}
        J = transition.coupled(self.lam).jacobian()
        J *= self.decay
        carry = move_on(carry, J, self.synthesiser.circuit)
        transition.add_parameter_jacobian(carried(carry))
        return carry

    def restart(self, carry: Carry, end: Any) -> Carry:
        if end.any():
            for array in [carried(carry), *([carry["f"]] if self.residual else [])]:
                clear(self.synthesiser.circuit.xp, array, end)
        return carry


class CompatibleLazyTrace(KeptSteps, CompatibleTrace):
    """The last steps, linearised: an error goes back through them, u ← γ u (A + λ O), and meets what synapses saw.

    With a second trace, own errors w go back beside it: u ← γ (u A + (λ u + w) O), w ← γ w A. Measured is the first.
    """

    name = "lazy"
    memory, time = "B·K·(n + factors), and K·P·N² where Ψ moves", "K·(P·N² + |Ψ|)"

    def __init__(
        self,
        synthesiser: CompatibleSynthesiser,
        gamma: float,
        lam: float,
        residual: bool = False,
        window: int | None = None,
    ) -> None:
        super().__init__(synthesiser, gamma, window=window)
        self.lam, self.residual = lam, residual

    def kept(self, trials: int, steps: int) -> int:
        circuit = self.synthesiser.circuit
        seen = sum(circuit.layout[synapses.key][-1] for synapses in circuit.synapses)
        return (self.window or steps) * (trials * (self.numbers_per_step + seen) + circuit.recurrent_size)

    def work(self, trials: int, steps: int) -> int:
        return min(steps, self.window or steps) * trials * (2 * self.synthesiser.circuit.n + self.synthesiser.n)

    def init(self, trials: int, steps: int) -> Carry:
        circuit, K = self.synthesiser.circuit, self.window or steps
        sizes = [circuit.layout[synapses.key][-1] for synapses in circuit.synapses]
        seen = {f"sent{k}": circuit.xp.empty((K, trials, m), circuit.dtype) for k, m in enumerate(sizes)}
        return super().init(trials, steps) | seen

    def collect(self, carry: Carry, arriving: Any, own: Any = None, mask: Any = None) -> Any:
        s, wiring = self.synthesiser, self.synthesiser.circuit.wiring
        xp, K = s.circuit.xp, len(carry["number"])
        if not carry["held"]:
            return xp.zeros(s.layout.size, s.circuit.dtype)
        visited, lowest = self.visited(carry)
        errors = self._errors(carry, visited, lowest, arriving, own)
        self.measure(carry, errors[visited[-1] % K - lowest], arriving)
        places, received = slice(lowest, lowest + len(visited)), []
        parts = wiring.split(errors.reshape(-1, wiring.n))
        for pop, states, ring in zip(wiring.populations, parts, carry["C"], strict=True):
            C = [factor.reshape(-1, pop.N) for factor in xp.moveaxis(ring[places], 1, 0)]
            received.append(credit_of_inputs(pop, states, C, wiring))
        sent = [carry[f"sent{k}"][places] for k in range(len(wiring.synapses))]
        return summed_gradient(wiring, mask, received, [rows.reshape(-1, rows.shape[-1]) for rows in sent])

    def _errors(self, carry: Carry, visited: range, lowest: int, arriving: Any, own: Any) -> Any:
        """u at each place in the ring, (places, B, n)."""
        backend, wiring, K = self.synthesiser.circuit.backend, self.synthesiser.circuit.wiring, len(carry["number"])
        parts = self.going_on(carry, visited[0] % K, wiring.split(arriving))
        if own is None and self.lam in (0, 1) and self.decay:
            part = "both" if self.lam else "within"
            return backend.carry_kept(self, carry, wiring.join(parts), visited, part)
        beside = None if own is None else self.going_on(carry, visited[0] % K, wiring.split(own))
        errors = [wiring.join(parts)] * len(visited)
        for r in visited[1:]:
            parts = self.going_on(carry, r % K, parts)
            beside = None if beside is None else self.going_on(carry, r % K, beside)
            parts, beside = self._both_back(carry, (r + 1) % K, parts, beside)
            errors[r % K - lowest] = wiring.join(parts)
        errors[visited[0] % K - lowest] = wiring.join(self.going_on(carry, visited[0] % K, wiring.split(arriving)))
        return wiring.xp.stack(errors)

    def _both_back(self, carry: Carry, k: int, parts: Parts, own: Parts | None) -> tuple[Parts, Parts | None]:
        """u and w one step back."""
        if own is None and self.lam == 1:
            return self.one_back(carry, k, parts), None
        within = self.one_back(carry, k, parts, "within")
        through = [[self.lam * u for u in states] for states in parts]
        if own is not None:
            through = [[u + w for u, w in zip(*pair, strict=True)] for pair in zip(through, own, strict=True)]
            own = self.one_back(carry, k, own, "within")
        elif self.lam == 0:
            return within, None
        between = self.one_back(carry, k, through, "between")
        return [[u + v for u, v in zip(*pair, strict=True)] for pair in zip(within, between, strict=True)], own

    def step(self, carry: Carry, transition: Transition, response: Any = None) -> Carry:
        seen: Mapping[str, Any] = {f"sent{k}": sent for k, sent in enumerate(transition.sent())}
        return self.keep(carry, transition, seen)


class CompatibleSweepTrace(CompatibleTrace):
    """Nothing is held: with parameters frozen during a trial `bpl_neuro.rules.compatible.sweep` gives the same sums."""

    name = "sweep"
    exact, deferred, bounded = True, True, False
    memory, time = "B·T·(n + factors)", "P·N² + |Ψ|"

    def kept(self, trials: int, steps: int) -> int:
        circuit = self.synthesiser.circuit
        return trials * steps * (circuit.numbers_per_step + circuit.n + self.synthesiser.n)

    def work(self, trials: int, steps: int) -> int:
        return 2 * self.kept(trials, steps)

    def cost(self, steps: int) -> float:
        return float(steps * (self.synthesiser.circuit.recurrent_size + self.synthesiser.layout.size))

    init, restart = SweepTrace.init, SweepTrace.restart

    def collect(self, carry: Carry, arriving: Any, own: Any = None, mask: Any = None) -> Any:
        return None

    def step(self, carry: Carry, transition: Transition, response: Any = None) -> Carry:
        return carry


class CompatibleLocalTrace(CompatibleTrace):
    """Each neuron's own block of A + λ O alone: one number for each synapse and state variable of its target.

    At λ = 0 that is all of e. Otherwise what passes through other neurons is left out: credit that comes back later is
    met with what a neuron, and its synapse onto itself, remember.
    """

    name = "local"
    local = True
    memory, time = "B·|Ψ|·S", "|Ψ|·S²"

    def __init__(self, synthesiser: CompatibleSynthesiser, gamma: float, lam: float, residual: bool = False) -> None:
        super().__init__(synthesiser, gamma, lam, residual)
        if residual:
            raise ValidationError(
                '`trace` = "local" does not go with `residual`, whose second trace has n numbers for each synapse'
            )
        self.exact = lam == 0
        self.eligibility = Eligibility(synthesiser.circuit, self._block, gamma)

    def _block(self, transition: Transition, q: int) -> Mapping[tuple[int, int], Any]:
        return own_past_and_self_synapse(transition.coupled(self.lam), q) if self.lam else own_past(transition, q)

    def kept(self, trials: int, steps: int) -> int:
        return self.eligibility.kept(trials)

    def cost(self, steps: int) -> float:
        S = max(pop.S for pop in self.synthesiser.circuit.populations)
        return float(steps * 2 * self.synthesiser.layout.size * S**2)

    def init(self, trials: int, steps: int) -> Carry:
        return self.eligibility.init(trials)

    def collect(self, carry: Carry, arriving: Any, own: Any = None, mask: Any = None) -> Any:
        total = self.eligibility.sum(carry, arriving)
        return total if mask is None else total * mask

    def step(self, carry: Carry, transition: Transition, response: Any = None) -> Carry:
        self.eligibility.advance(carry, transition)
        return carry

    def restart(self, carry: Carry, end: Any) -> Carry:
        return self.eligibility.restart(carry, end)


#: every form by its name
COMPATIBLE_TRACES: dict[str, type[CompatibleTrace]] = {
    trace.name: trace
    for trace in (CompatibleFullTrace, CompatibleLazyTrace, CompatibleSweepTrace, CompatibleLocalTrace)
}
