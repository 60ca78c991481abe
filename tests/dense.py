"""A synthesiser that is compatible with the circuit, by its equations, in dense matrices; nothing of the rules is used.

States are numbered as in the flat state; currents population after population, port after port; synapses as in Ψ.
"""

from typing import NamedTuple

import numpy as np


class Dense(NamedTuple):
    """A step of B trials: A, O and C U with O = C U; the same back through the feedback; and y where q̂ = Y θ."""

    A: np.ndarray  # (B, n, n)
    C: np.ndarray  # (B, n, currents)
    U: np.ndarray  # (B, currents, n): W D
    V: np.ndarray  # (B, currents, n): the same with the feedback's weights
    Y: np.ndarray  # (B, currents, |Ψ|)

    def at(self, b):
        return Dense(*(part[b] for part in self))

    @property
    def O(self):  # noqa: E743 - its name
        return self.C @ self.U

    @property
    def P(self):
        return self.C @ self.V


def dense(circuit, step, feedback=None):
    """A step, entry by entry; `feedback` is a function of a projection's weights."""
    pops, B = circuit.populations, len(step.x)
    starts = np.cumsum([0, *(pop.P * pop.N for pop in pops)])
    A, C = np.zeros((B, circuit.n, circuit.n)), np.zeros((B, circuit.n, starts[-1]))
    U, V = np.zeros((2, B, starts[-1], circuit.n))
    Y = np.zeros((B, starts[-1], circuit.layout.size))
    place = circuit.layout.views(np.arange(circuit.layout.size))

    def state(q, i, k):
        return pops[q].state_slice.start + i * pops[q].S + k

    def current(q, p, i):
        return starts[q] + p * pops[q].N + i

    for q, pop in enumerate(pops):
        i = np.arange(pop.N)
        for (k, j), a in step.A[q].items():
            A[:, state(q, i, k), state(q, i, j)] += a
        for (k, p), c in step.C[q].items():
            C[:, state(q, i, k), current(q, p, i)] += c
        for p in range(pop.P):
            Y[:, current(q, p, i), place[f"bias->{pop.name}"][p]] = 1
    for group in circuit.synapses:
        W = step.weights[group.key]
        if group.pre is None:
            sent, slopes, F = step.x, {}, W
        else:
            pre, F = pops[group.pre], W if feedback is None else feedback(group.key, W)
            sent, slopes = step.previous.rate[:, pre.rate_slice], step.previous.D[group.pre]
            if group.line is not None:
                lines = [state(group.pre, j, group.line) for j in range(pre.N)]
                sent, slopes = step.previous.s[:, lines], {group.line: 1.0}
        j = np.arange(W.shape[2])
        for k, port in enumerate(group.ports):
            for i in range(W.shape[1]):
                row = current(group.post, port, i)
                Y[:, row, place[group.key][k, i]] = sent
                for line, d in slopes.items():
                    U[:, row, state(group.pre, j, line)] += W[k, i] * d
                    V[:, row, state(group.pre, j, line)] += F[k, i] * d
    if circuit.mask is not None:
        Y = Y * circuit.mask
    return Dense(A, C, U, V, Y)


def feedback_of(rule):
    """The weights that a rule's errors go back through, as a function of the forward ones."""
    kind = rule.feedback.kind
    if kind == "sign":
        return lambda key, W: np.sign(W) * np.abs(W).mean()
    return None if kind == "exact" else lambda key, W: rule.feedback.weights(key, W, rule.circuit.backend)


def trials_of(end):
    """(row, first step, last step) of every trial of (T, B) ends; an unfinished one has its end beyond the last."""
    for b in range(end.shape[1]):
        start = 0
        for t in np.flatnonzero(end[:, b]):
            yield b, start, int(t)
            start = int(t) + 1
        if start < len(end):
            yield b, start, len(end)


def run_densely(circuit, readout, data, feedback=None):
    """A batch with frozen parameters, without noise: the steps, and c (T, B, n)."""
    state, steps, c = circuit.initial_state(data.size), [], []
    for t in range(data.steps):
        step = circuit.step(state, data.x[:, t])
        c.append(readout.credit(step.new, data.y[:, t], data.mask[:, t] * readout.trial_weight(data.size))[1])
        steps.append(dense(circuit, step, feedback))
        state = circuit.reset(step.new, data.end[:, t])
    return steps, np.stack(c)


def sums_by_definition(rule, circuit, readout, data, theta):
    """Gradients of θ and Ψ to descend, as sums over pairs of steps: what is said at k of each earlier t of its trial.

    G_t^λ = Σ_k γ^{k−t−1} a_k (A + λO)_{k−1} … (A + λO)_{t+1}, and G_t^own with A in its place.
    """
    steps, c = run_densely(circuit, readout, data, feedback_of(rule))
    gamma, lam, kappa = rule.gamma, rule.lam, rule.sg_weight
    residual, eprop = rule.residual if hasattr(rule, "residual") else False, rule.name == "bp_lambda_eprop"
    discounted = eprop and rule.discounted
    theta_sum, psi_sum = np.zeros(circuit.layout.size), np.zeros(circuit.layout.size)
    for b, first, last in trials_of(data.end.T):
        at = {t: steps[t].at(b) for t in range(first, min(last + 1, data.steps))}
        q = {t: (s.Y @ theta) * (t != last) for t, s in at.items()}

        def summed(said, way, t, at=at):
            """What the steps after t say, carried back to t."""
            total = np.zeros(circuit.n)
            for k in (k for k in at if k > t):
                v = gamma ** (k - t - 1) * said[k]
                for j in range(k - 1, t, -1):
                    v = v @ way(at[j])
                total = total + v
            return total

        own = {t: summed({k: c[k, b] @ s.A for k, s in at.items()}, lambda s: s.A, t) for t in at}
        said = {
            k: (c[k, b] @ s.P + gamma * own[k] @ s.O if residual else c[k, b] @ (s.A + s.P))
            + gamma * (1 - lam) * q[k] @ s.V
            for k, s in at.items()
        }
        for t, s in at.items():
            G = summed(said, lambda s: s.A + lam * s.O, t)
            theta_sum -= rule.gain * (G @ s.C - q[t]) @ s.Y
            if not eprop:
                psi_sum += (c[t, b] @ s.C + kappa * q[t]) @ s.Y
                continue
            signal, fade = c[t, b], gamma if discounted else 1.0
            if t + 1 in at:
                ahead, now = at[t + 1], c[t + 1, b]
                if not residual:
                    signal = signal + now @ ahead.P + fade * kappa * q[t + 1] @ ahead.V
                if discounted:
                    signal = signal + (1 - gamma) * now @ ahead.A
            for k in range(t, first - 1, -1):  # Σ L_t ε_t, the synapse's past step by step
                psi_sum += signal @ at[k].C @ at[k].Y
                signal = fade * signal @ at[k].A
            if residual:
                psi_sum += kappa * q[t] @ s.Y
    return {"theta": theta_sum, "psi": psi_sum}


class PlainSquares:
    """Recursive least squares, current by current, each with the features that it has."""

    def __init__(self, forget, ridge):
        self.forget, self.ridge, self.R = forget, ridge, None

    def step(self, theta, correlation, seen):
        """`seen` are the Y of every step and trial that counts, (currents, |Ψ|) each."""
        theta = theta.copy()
        if self.R is None:
            self.R = [0.0] * len(seen[0]) if seen else None
        if self.R is None:
            return theta
        for row in range(len(self.R)):
            moment = sum((np.outer(Y[row], Y[row]) for Y in seen), 0.0)
            self.R[row] = self.forget * self.R[row] + moment
        return theta + self.change(correlation)

    def change(self, correlation):
        change = np.zeros_like(correlation)
        for R in self.R:
            there = np.flatnonzero(np.diag(R)) if np.ndim(R) else []
            if len(there):
                own = R[np.ix_(there, there)]
                ridge = self.ridge * np.trace(own) / self.width[there[0]]
                change[there] = np.linalg.solve(own + ridge * np.eye(len(there)), correlation[there])
        return change

    def of(self, circuit):
        """With the number of features that each synapse's current has, those that were silent so far included."""
        place = circuit.layout.views(np.arange(circuit.layout.size))
        mask = np.ones(circuit.layout.size) if circuit.mask is None else circuit.mask
        self.width = np.zeros(circuit.layout.size)
        for q, pop in enumerate(circuit.populations):
            for port in range(pop.P):
                for i in range(pop.N):
                    mine = [place[f"bias->{pop.name}"][port, i : i + 1]]
                    mine += [
                        place[g.key][g.ports.index(port), i]
                        for g in circuit.synapses
                        if g.post == q and port in g.ports
                    ]
                    mine = np.concatenate(mine)
                    mine = mine[mask[mine] != 0]
                    self.width[mine] = len(mine)
        return self


def learned_by_hand(rule, circuit, readout, data, theta, rates, every=1, squares=None, pathway=None):
    """Ψ, φ and θ after one batch in which all of them move every few steps, in dense matrices.

    `rates` are the learning rates of "psi", "phi" and "theta"; `squares` takes the place of the last. The second trace
    of the residual form is that of the definition: b_t = γ A_t (b_{t−1} + O_{t−1} e_{t−2}).
    """
    B, n, size, feedback = data.size, circuit.n, circuit.layout.size, feedback_of(rule)
    gamma, lam, kappa, eprop = rule.gamma, rule.lam, rule.sg_weight, rule.name == "bp_lambda_eprop"
    residual, fade = rule.residual, rule.gamma if eprop and rule.discounted else 1.0
    e, eps, memory, older = np.zeros((4, B, n, size))  # e, ε of each state, ε for θ, and b + O e of the step before
    started, state = np.zeros(B, bool), circuit.initial_state(B)
    sums, seen = {"psi": 0.0, "phi": 0.0, "theta": 0.0}, []
    for t in range(data.steps):
        end, due = data.end[:, t], (t + 1) % every == 0 or t + 1 == data.steps
        step = circuit.step(state, data.x[:, t])
        _, c, of_phi, _ = readout.credit(step.new, data.y[:, t], data.mask[:, t] / B)
        at = [dense(circuit, step, feedback).at(b) for b in range(B)]
        before = np.zeros_like(older)
        for b, s in enumerate(at):
            q = np.zeros(len(s.Y)) if end[b] else s.Y @ theta
            arriving = c[b] @ (s.A + s.P) + gamma * (1 - lam) * q @ s.V
            correlation = arriving @ e[b] - q @ s.Y
            if residual:
                b_now = gamma * s.A @ older[b]
                correlation += (1 - lam) * c[b] @ b_now - c[b] @ s.A @ memory[b]
                before[b] = b_now + s.O @ e[b]
            sums["theta"] = sums["theta"] + correlation
            if not end[b]:
                seen.append(s.Y)
        if due and squares is not None:
            theta, seen, sums["theta"] = squares.step(theta, sums["theta"], seen), [], 0.0
        elif due:
            theta, sums["theta"] = theta + rates["theta"] * sums["theta"], 0.0
        for b, s in enumerate(at):
            q = np.zeros(len(s.Y)) if end[b] else s.Y @ theta
            heard = kappa * (q if pathway is None else q @ pathway)
            now = s.C @ s.Y
            if eprop:
                if started[b] and not residual:
                    sums["psi"] = sums["psi"] + (c[b] @ s.P + fade * heard @ s.V) @ eps[b]
                if started[b] and fade < 1:
                    sums["psi"] = sums["psi"] + (1 - gamma) * c[b] @ s.A @ eps[b]
                eps[b] = fade * s.A @ eps[b] + now
                sums["psi"] = sums["psi"] + c[b] @ eps[b] + (heard @ s.Y if residual else 0)
            else:
                sums["psi"] = sums["psi"] + (c[b] @ s.C + heard) @ s.Y
            e[b] = gamma * (s.A + lam * s.O) @ e[b] + now
            memory[b] = gamma * s.A @ memory[b] + now
        sums["phi"] = sums["phi"] + of_phi
        if due:
            psi = circuit.psi - rates["psi"] * sums["psi"]
            if circuit.signs is not None:
                psi = np.where(circuit.signs * psi < 0, 0, psi)
            circuit = circuit.with_psi(psi)
            readout = readout.with_phi(readout.phi - rates["phi"] * sums["phi"])
            sums["psi"] = sums["phi"] = 0.0
        older = before
        for array in (e, eps, memory, older):
            array[end] = 0
        started, state = ~end, circuit.reset(step.new, end)
    return {"psi": circuit.psi, "phi": readout.phi, "theta": theta}


def block_diagonal(circuit, M):
    """(…, n, n) with each neuron's own block alone."""
    neuron = np.concatenate([np.repeat(np.arange(p.N) + p.rate_slice.start, p.S) for p in circuit.populations])
    return M * (neuron[:, None] == neuron)
