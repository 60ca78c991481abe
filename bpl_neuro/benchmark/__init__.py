"""Benchmarks in many jobs: processes, results that can be merged, the choice of learning rates, tables."""

from __future__ import annotations

from bpl_neuro.benchmark.curricula import collect_curricula, curriculum_table, merge_curricula
from bpl_neuro.benchmark.jobs import run_jobs
from bpl_neuro.benchmark.results import Job, JobFile, choose, collect, merge, read_record, results_text
from bpl_neuro.benchmark.tables import as_markdown, difference, figures, markdown, summarise, tables

__all__ = [
    "Job",
    "JobFile",
    "as_markdown",
    "choose",
    "collect",
    "collect_curricula",
    "curriculum_table",
    "difference",
    "figures",
    "markdown",
    "merge",
    "merge_curricula",
    "read_record",
    "results_text",
    "run_jobs",
    "summarise",
    "tables",
]
