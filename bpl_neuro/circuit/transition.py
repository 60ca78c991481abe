"""One linearised step of a circuit: everything a credit rule sees.

A = ∂F/∂s, C = ∂F/∂u, D = ∂R/∂s          local to a neuron, from the model's equations
J_t = blockdiag(A_t) + O_t,  O_t = Σ_p C_{t,p} W_p D_{t−1}ᵀ       own past + through synapses
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bpl_neuro.circuit.wiring import Parts, State, Synapses, Wiring, column, credit_of_inputs, summed_gradient

__all__ = ["Transition"]


@dataclass(frozen=True)
class Transition:
    """A step s_{t−1} → s_t and its linearisation. Arrays are never changed after it is made.

    Attributes
    ----------
    previous, new : State
        Before and after the step.
    x : (B, K) array
        External input.
    u : per population, a (B, P, N) array
        Summed synaptic inputs.
    A, C : per population, a dict of the entries A[k, l], C[k, p] that are not identically 0
        (B, N_pop) arrays or numbers.
    weights : dict of str to array
        The weights that the step was linearised with.
    wiring : Wiring
    mask : (|Ψ|,) array or None
        1 where a synapse exists and is plastic, else 0; None if that is everywhere.
    """

    previous: State
    new: State
    x: Any
    u: tuple[Any, ...]
    A: tuple[Mapping[tuple[int, int], Any], ...]
    C: tuple[Mapping[tuple[int, int], Any], ...]
    weights: Mapping[str, Any]
    wiring: Wiring
    mask: Any = None

    def vjp(self, v: Any, part: str = "both") -> Any:
        """Row vectors through the step: v J, (B, n) → (B, n).

        Parameters
        ----------
        v : (B, n) array
        part : {"both", "within", "between"}
            J, blockdiag(A) alone, or O alone.

        Notes
        -----
        Costs O(B·P·N²); J is never built.
        """
        return self.wiring.join(self.back(self.wiring.split(v), part))

    def back(self, parts: Parts, part: str = "both") -> Parts:
        """`vjp` of row vectors that were taken apart (`Wiring.split`) and stay so: for going back many steps."""
        A, C = ([tuple(factors.values()) for factors in entries] for entries in (self.A, self.C))
        return self.wiring.back(parts, A, C, self._slopes(), self.wiring.recurrent(self.weights), part)

    def back_from_inputs(self, received: Sequence[Any]) -> Any:
        """Credit of the summed inputs, (B, P, N) of each population, to the states before: q W D, (B, n)."""
        parts = self.wiring.back_from_inputs(received, self._slopes(), self.wiring.recurrent(self.weights))
        return self.wiring.join(parts)

    def _slopes(self) -> list[Mapping[int, Any]]:
        return [self.wiring.slopes(synapses, self.previous) for synapses in self.wiring.synapses]

    def coupled(self, share: float) -> Transition:
        """The same step with every weight between neurons times `share`, so that its J is blockdiag(A) + share · O."""
        if share == 1:
            return self
        weights = dict(self.weights)
        for synapses in self.wiring.synapses:
            if synapses.pre is not None:
                weights[synapses.key] = share * weights[synapses.key]
        return replace(self, weights=weights)

    def jvp(self, M: Any) -> Any:
        """Columns through the step: J M, (B, n, m) → (B, n, m). Costs O(B·n²·m)."""
        return self.jacobian() @ M

    def jacobian(self) -> Any:
        """J_t as a dense (B, n, n) array. Costs O(B·P·n²)."""
        return self._dense("both")

    def within(self) -> Any:
        """blockdiag(A_t) as a dense (B, n, n) array: a neuron's own past."""
        return self._dense("within")

    def between(self) -> Any:
        """O_t as a dense (B, n, n) array: what passes through synapses, self-synapses included."""
        return self._dense("between")

    def _dense(self, part: str) -> Any:
        wiring, xp = self.wiring, self.wiring.xp
        B, n = self.new.s.shape
        J = xp.zeros((B, n, n), self.new.s.dtype)
        if part != "within":
            for synapses in wiring.synapses:
                if synapses.pre is not None:
                    self._add_synapses(J, synapses)
        if part != "between":
            for pop, A in zip(wiring.populations, self.A, strict=True):
                block = J[:, pop.state_slice, pop.state_slice].reshape(B, pop.N, pop.S, pop.N, pop.S)
                index = xp.arange(pop.N)
                for (k, j), a in A.items():
                    block[:, index, k, index, j] += a
        return J

    def _add_synapses(self, J: Any, synapses: Synapses) -> None:
        """Add one group's Σ_p C_p W_p Dᵀ to a dense J, in place."""
        wiring = self.wiring
        pre, post = wiring.populations[synapses.pre], wiring.populations[synapses.post]  # type: ignore[index]
        block = J[:, post.state_slice, pre.state_slice].reshape(len(J), post.N, post.S, pre.N, pre.S)
        W = self.weights[synapses.key]
        for k in range(post.S):
            through: Any = None
            for (row, p), c in self.C[synapses.post].items():
                if row == k and p in synapses.ports:
                    term = column(c) * W[synapses.ports.index(p)]
                    through = term if through is None else through + term
            if through is not None:
                for j, d in wiring.slopes(synapses, self.previous).items():
                    block[:, :, k, :, j] += through * (d[..., None, :] if getattr(d, "ndim", 0) else d)

    def input_credit(self, v: Any) -> list[Any]:
        """v·C per population: the gradient with respect to the summed inputs, (B, P, N)."""
        return self.credit_of(self.wiring.split(v))

    def credit_of(self, parts: Parts) -> list[Any]:
        """`input_credit` of row vectors that were taken apart (`Wiring.split`)."""
        rows = zip(self.wiring.populations, parts, self.C, strict=True)
        return [credit_of_inputs(pop, states, tuple(C.values()), self.wiring) for pop, states, C in rows]

    def parameter_gradient(self, v: Any) -> Any:
        """Immediate gradient Σ_B v · ∂s_t/∂Ψ at fixed s_{t−1}, as a flat vector of the size of Ψ.

            ∂/∂W_p = (v·C_{t,p})ᵀ r_{t−1},  ∂/∂W_p^in = (v·C_{t,p})ᵀ x_t,  ∂/∂b_p = Σ_B v·C_{t,p}

        0 for synapses that do not exist or are not plastic.
        """
        return self.gradient_from_inputs(self.input_credit(v))

    def sent(self) -> list[Any]:
        """What arrives at the synapses of every group, (B, N_pre): inputs and presynaptic rates, delayed where so."""
        return [self.wiring.sent(synapses, self.previous, self.x) for synapses in self.wiring.synapses]

    def gradient_from_inputs(self, received: Sequence[Any]) -> Any:
        """`parameter_gradient` from the gradient with respect to the summed inputs, (B, P, N) of each population."""
        return summed_gradient(self.wiring, self.mask, received, self.sent())

    def add_parameter_jacobian(self, M: Any) -> None:
        """Add ∂s_t/∂Ψ at fixed s_{t−1} to M (B, n, |Ψ|), in place; nothing for synapses that are not plastic."""
        wiring, xp = self.wiring, self.wiring.xp
        views = wiring.layout.views(M)  # (B, n, *shape), views
        mask = None if self.mask is None else wiring.layout.views(self.mask)
        for synapses in wiring.synapses:
            pop = wiring.populations[synapses.post]
            sent = wiring.sent(synapses, self.previous, self.x)[:, None, :]
            block, index = views[synapses.key][:, pop.state_slice], xp.arange(pop.N)
            for (k, p), c in self.C[synapses.post].items():
                if p in synapses.ports:
                    q = synapses.ports.index(p)
                    added = xp.broadcast_to(column(c) * sent, (M.shape[0], pop.N, sent.shape[-1]))
                    if mask is not None:
                        added = added * mask[synapses.key][q]
                    block[:, index * pop.S + k, q, index] += added
        for pop, C in zip(wiring.populations, self.C, strict=True):
            block, index = views[f"bias->{pop.name}"][:, pop.state_slice], xp.arange(pop.N)
            for (k, p), c in C.items():
                block[:, index * pop.S + k, p, index] += c
