"""What every benchmark takes on the command line."""

from __future__ import annotations

import argparse

__all__ = ["benchmark_parser"]


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """``--smoke`` for sizes that only show that it runs, and ``--json FILE``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="sizes that only show that it runs")
    parser.add_argument("--json", metavar="FILE", help="also write what was found there")
    return parser
