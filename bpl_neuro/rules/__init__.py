"""Credit rules: one file each, written against `base.Rule`."""

from __future__ import annotations

from bpl_neuro.rules.base import Gradients, Rule
from bpl_neuro.rules.bp_lambda import BPLambda

__all__ = ["BPLambda", "Gradients", "Rule"]
