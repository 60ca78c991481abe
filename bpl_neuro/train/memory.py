"""What a run will hold in memory, counted before it starts; on a GPU it is held to what is free there."""

from __future__ import annotations

import bisect
from typing import Any

from bpl_neuro.errors import BackendError
from bpl_neuro.train.state import PARAMETERS

__all__ = ["check_fits", "plan"]


def plan(trainer: Any, batch: int, steps: int, stream: bool = False) -> dict[str, int]:
    """Bytes by what they are for, with batches of so many trials and steps; parameters and moments are there already.

    Parameters
    ----------
    trainer : Trainer
    batch, steps : int
    stream : bool
        Whether they are pieces of a stream.

    Returns
    -------
    dict of str to int
        "batch": what is copied to the device. "circuit": input currents, states and factors of the steps under way.
        "rule": what the rule's carry holds at its largest. "work": temporaries; as large as the rest of the rule where
        it sweeps back over all steps at once.
    """
    circuit, readout, rule = trainer.circuit, trainer.readout, trainer.state.rule_for(steps, stream)[0]
    itemsize, B = circuit.dtype.itemsize, batch
    inputs = sum(pop.P * pop.N for pop in circuit.populations)
    arrays = (trainer.state.parameter(name) for name in PARAMETERS)
    parameters = sum(parameter.size for parameter in arrays if parameter is not None)
    numbers = {
        "batch": B * steps * (circuit.input_size + readout.output_size + 2),
        "circuit": B * (steps * inputs * (trainer.schedule == "trial") + 4 * circuit.numbers_per_step),
        "rule": rule.kept(B, steps),
        "work": rule.work(B, steps) + 6 * parameters,
    }
    return {name: count * itemsize for name, count in numbers.items()}


def check_fits(trainer: Any, batch: int, steps: int, stream: bool = False) -> None:
    """Nothing where the backend counts no memory, or enough is free.

    Raises
    ------
    BackendError
        Otherwise: with what is needed and free, the largest batch that would fit, and forms of the rule that would.
    """
    free = trainer.circuit.backend.free_memory()
    needed = plan(trainer, batch, steps, stream)
    if free is None or sum(needed.values()) <= free:
        return
    smaller = range(1, batch)
    fitting = bisect.bisect(smaller, free, key=lambda size: sum(plan(trainer, size, steps, stream).values()))
    ways = [f"{fitting} trials a batch would fit" if fitting else "not even one trial would fit"]
    rest = needed["batch"] + needed["circuit"]
    for text, count in trainer.state.rule_for(steps, stream)[0].leaner(batch, steps).items():
        total = rest + count * trainer.circuit.dtype.itemsize
        if total <= free:
            ways.append(f"so would {text}, with {_size(total)}")
    parts = ", ".join(f"{name} {_size(count)}" for name, count in needed.items())
    raise BackendError(
        f"batches of {batch} trials of {steps} steps need {_size(sum(needed.values()))} on the device ({parts}), and "
        f"{_size(free)} are free; {'; '.join(ways)}"
    )


def _size(count: float) -> str:
    power = 0
    while count >= 1024 and power < 3:
        count, power = count / 1024, power + 1
    return f"{count:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
