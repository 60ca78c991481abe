"""Rate-based recurrent circuits, written as equations, that learn online with synthetic gradients."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from bpl_neuro.circuit import Circuit
from bpl_neuro.spec import Model, available_models

try:
    __version__ = version("bpl_neuro")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["Circuit", "Model", "available_models"]
