"""Reads model texts in a process of its own, one after another: a watched child that is replaced when it hangs or dies.

Reading is a `Model`, its derivatives, and a circuit of two neurons a population.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from dataclasses import dataclass

#: processor seconds and bytes within which every text must be read
SECONDS, MEMORY = 5.0, 500e6
#: wall seconds after which a text counts as hung, on a busy machine
WATCHDOG = 60.0


@dataclass(frozen=True)
class Outcome:
    """`kind` as in a tally; seconds are the processor's, memory the process's peak in bytes."""

    kind: str
    message: str
    seconds: float
    memory: float


class Readers:
    """One child process that lives on for many texts."""

    def __init__(self):
        self._child = self._pipe = None

    def read(self, text, judge=True):
        """The outcome of one text; with `judge` derivatives are held to finite differences."""
        if self._child is None:
            self._start()
        self._pipe.send((text, judge))
        if not self._pipe.poll(WATCHDOG):
            self.close()
            return Outcome("hung", f"no answer within {WATCHDOG:g} s", WATCHDOG, 0)
        try:
            outcome = Outcome(*self._pipe.recv())
        except EOFError:
            self.close()
            return Outcome("hung", "the process died", 0, 0)
        if outcome.seconds > SECONDS or outcome.memory > MEMORY:
            self.close()
            message = f"{outcome.seconds:.1f} s, {outcome.memory / 1e6:.0f} MB: {outcome.message}"
            return Outcome("hung", message, outcome.seconds, outcome.memory)
        return outcome

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._child.start()
        theirs.close()
        assert self._pipe.poll(10 * WATCHDOG) and self._pipe.recv() == "ready"

    def close(self):
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child = None


def _serve(pipe):
    import bpl_neuro as bpl

    bpl.Circuit("lstm", 2, 2)  # imports Brian2, once
    pipe.send("ready")
    while True:
        text, judge = pipe.recv()
        began = time.process_time()
        try:
            model = bpl.Model.from_toml(text)
            circuit = bpl.Circuit(model, dict.fromkeys(model.populations, 2), 2)
            kind, message = "right", ""
        except bpl.ModelError as error:
            kind, message = "refused", str(error)
        except Exception as error:
            kind, message = "raw", f"{type(error).__name__}: {error}"
        spent = time.process_time() - began
        if kind == "right" and judge:
            try:
                kind, message = _judged(circuit)
            except Exception as error:
                kind, message = "raw", f"in a step: {type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((kind, message[:500], spent, peak))


def _judged(circuit):
    """Whether J and the parameters' gradient are those of finite differences where these can be told."""
    import numpy as np

    from bpl_neuro import reference

    if circuit.n > 100:
        return "right", "too large to tell"
    rng = np.random.default_rng(0)
    told = 0
    with np.errstate(all="ignore"):
        for _ in range(4 if circuit.n < 30 else 1):
            s = circuit.initial_state(1).s + rng.uniform(-0.9, 0.9, (1, circuit.n))
            x = rng.normal(size=(1, 2))
            steps = [reference.finite_difference_jacobian(circuit, s, x, step=h) for h in (1e-5, 3e-6, 1e-6)]
            step = circuit.step(circuit.state(s), x)
            J, rounding = step.jacobian(), 1e-16 * np.abs(step.new.s).max() / 1e-6
            scale = float(np.max([1, *(np.abs(d).max() for d in steps)]))
            # near a kink, a pole or outside a domain differences of three widths do not agree
            if not (np.isfinite(scale) and rounding < 1e-7 * scale) or any(
                np.abs(d - steps[0]).max() > 1e-6 * scale for d in steps
            ):
                continue
            told += 1
            if not np.abs(J - steps[1]).max() <= 1e-5 * scale:
                return "wrong", f"J is off by {np.abs(J - steps[1]).max():.3g} of {scale:.3g}"
    return "right", "" if told else "nothing told"
