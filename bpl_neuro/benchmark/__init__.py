"""Benchmarks in many jobs: processes, results that can be merged, the choice of learning rates, tables."""

from __future__ import annotations

from bpl_neuro.benchmark.jobs import run_jobs
from bpl_neuro.benchmark.results import Job, JobFile, choose, collect, merge, results_text
from bpl_neuro.benchmark.tables import difference, figures, markdown, summarise, tables

__all__ = [
    "Job",
    "JobFile",
    "choose",
    "collect",
    "difference",
    "figures",
    "markdown",
    "merge",
    "results_text",
    "run_jobs",
    "summarise",
    "tables",
]
