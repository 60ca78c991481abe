"""Credit rules: one file each, written against `base.Rule`, and one line here."""

from __future__ import annotations

import inspect
from typing import Any

from bpl_neuro.checks import instance, word
from bpl_neuro.circuit.circuit import Circuit
from bpl_neuro.circuit.synthesiser import Synthesiser
from bpl_neuro.errors import ValidationError
from bpl_neuro.rules.base import RULES, Gradients, Rule, register
from bpl_neuro.rules.bp_lambda import BPLambda
from bpl_neuro.rules.bp_lambda_eprop import BPLambdaEProp
from bpl_neuro.rules.bptt import BPTT, TruncatedBPTT
from bpl_neuro.rules.compatible import CompatibleBPLambda, CompatibleBPLambdaEProp
from bpl_neuro.rules.eprop import EProp
from bpl_neuro.rules.immediate import Immediate
from bpl_neuro.rules.lambda_sg import LambdaSG
from bpl_neuro.rules.nstep_sg import NStepSG
from bpl_neuro.rules.rflo import RFLO
from bpl_neuro.rules.rtrl import RTRL
from bpl_neuro.rules.snap1 import SnAp1

__all__ = [
    "BPTT",
    "RFLO",
    "RTRL",
    "RULES",
    "BPLambda",
    "BPLambdaEProp",
    "CompatibleBPLambda",
    "CompatibleBPLambdaEProp",
    "EProp",
    "Gradients",
    "Immediate",
    "LambdaSG",
    "NStepSG",
    "Rule",
    "SnAp1",
    "TruncatedBPTT",
    "make_rule",
    "register",
    "rule_options",
]


def make_rule(name: str, on: Circuit | Synthesiser, **options: Any) -> Rule:
    """A rule by its name: another rule is another word.

    Parameters
    ----------
    name : str
        One of `RULES`.
    on : Circuit or Synthesiser
        A rule without a synthesiser takes its circuit; one that needs a synthesiser and is given a circuit makes a
        default one.
    **options
        Of the rule.

    Raises
    ------
    ValidationError
        For an unknown rule or option; says which there are.
    """
    known = rule_options(name)
    instance("on", on, Circuit | Synthesiser, "a Circuit or a Synthesiser")
    rule = RULES[name]
    if rule.needs_synthesiser and isinstance(on, Circuit):
        on = Synthesiser(on)
    elif not rule.needs_synthesiser and isinstance(on, Synthesiser):
        on = on.circuit
    if unknown := options.keys() - known:
        raise ValidationError(f"{name} has no option {sorted(unknown)[0]!r}; it has {', '.join(known)}")
    return rule(on, **options)  # type: ignore[call-arg]  # the contract leaves the constructor to each rule


def rule_options(name: str) -> list[str]:
    """Names of the options that a rule takes, those handed on to its base included."""
    names: dict[str, None] = {}
    for kind in RULES[word("name", name, RULES)].__mro__:
        if "__init__" in vars(kind) and kind is not object:
            parameters = inspect.signature(kind).parameters.values()
            names |= dict.fromkeys(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return list(names)
