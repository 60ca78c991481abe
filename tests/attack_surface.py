# ruff: noqa: E501 - a table
"""What is public, and what of it is left to its caller, with the reason."""

from __future__ import annotations

import inspect
import types

import bpl_neuro as bpl
from bpl_neuro import benchmark
from bpl_neuro.rules import traces

ROOMS = {
    "": bpl, "tasks": bpl.tasks, "rules": bpl.rules, "analysis": bpl.analysis, "plotting": bpl.plotting,
    "interventions": bpl.interventions, "brian": bpl.brian, "benchmark": benchmark, "traces": traces,
    "reference": bpl.reference,
}  # fmt: skip
LOOP = "called by the time loop at every step, with what the loop made itself"
HANDS = "taken as it is, says its docstring: a learning loop makes one whenever a parameter moves"
MADE = "made by the package and handed out, not called by a user"
TRUTH = "the slow truth, written for clarity: what it is given are the arrays of `slow_run`"
#: names, or classes whose every method but those with a recipe is so
INSIDE = {
    "Transition": MADE, "Trajectory": MADE, "Step": MADE, "Outcome": MADE, "LearnerState": MADE, "Task": "a protocol",
    "Rule": LOOP, "Table": MADE, "Summary": MADE, "Difference": MADE, "reference": TRUTH, "Gradients": "a type", "Trace": LOOP,
    "TracedRule": "the base of rules with a trace", "Circuit.holding": HANDS, "Readout.holding": HANDS, "Circuit.own_array": HANDS,
    "Circuit.constrain": LOOP, "Readout.credit": LOOP, "Readout.errors": LOOP, "Readout.gradient": LOOP, "Readout.sent_back": LOOP, "Feedback.weights": LOOP, "Feedback.transition": LOOP,
    "Circuit.plastic_weights": "takes nothing", "LearnerState.take": HANDS, "LearnerState.give_back": HANDS, "Schedule.due": LOOP,
}  # fmt: skip
#: methods of a contract, whatever class has them
CONTRACT = {
    **dict.fromkeys((name for name in vars(bpl.Rule) if not name.startswith("_")), LOOP),
    "identity": "takes nothing",
    **dict.fromkeys(("init", "step"), "an optimiser's or a rule's contract with the time loop"),
    **dict.fromkeys(
        (name for name in vars(bpl.Synthesiser) if not name.startswith("_") and name != "initial_theta"), LOOP
    ),
}
KINDS = types.FunctionType | classmethod | staticmethod


def public() -> set[str]:
    """Names of every public callable: functions, classes, and methods of classes."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    for room, module in ROOMS.items():
        for name in module.__all__:
            thing = getattr(module, name)
            if not callable(thing) or id(thing) in seen or (inspect.isclass(thing) and issubclass(thing, Exception)):
                continue
            seen.add(id(thing))
            found[f"{room}.{name}" if room else name] = None
            if inspect.isclass(thing):
                methods = [key for key, value in vars(thing).items() if isinstance(value, KINDS) and key[0] != "_"]
                found |= {f"{room}.{name}.{key}" if room else f"{name}.{key}": None for key in methods}
    return set(found)


def without_recipe(recipes) -> list[str]:
    """Public callables that nothing attacks and no reason leaves out."""
    left = []
    for name in public():
        short = name.split(".", 1)[1] if name.split(".")[0] in ROOMS else name
        kind, _, method = short.rpartition(".")
        method = method if kind else ""
        reasons = (name, short, kind, name.split(".")[0], short.split(".")[0] if method or short in INSIDE else "")
        if name in recipes or short in recipes or any(reason in INSIDE for reason in reasons if reason):
            continue
        own = [recipe for recipe in recipes if recipe.endswith(short)]
        rule = kind in bpl.rules.__all__ or kind in traces.__all__
        if own or method in CONTRACT or rule:  # what a rule adds to the contract is called by its own methods
            continue
        left.append(name)
    return sorted(left)
