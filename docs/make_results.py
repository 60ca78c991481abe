"""Take what benchmarks found into the documentation: ``python docs/make_results.py [RUN_FOLDER …]``.

The results of each run folder, finished or not, are merged into docs/results/NAME.json, and the tables of results.md
are written anew from these files, each between its two marks. Pieces of a long run (some of the labels, some of the
seeds) can so be taken in one after another, in any order. Without a folder only the tables are written.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bpl_neuro.benchmark import (
    as_markdown,
    collect,
    collect_curricula,
    curriculum_table,
    markdown,
    merge,
    merge_curricula,
    results_text,
)
from bpl_neuro.errors import BplError, ValidationError
from bpl_neuro.storage import atomic_write

DOCS = Path(__file__).parent


def take_in(folder: str | Path, docs: Path = DOCS) -> Path:
    """Merge a run folder into the results; the file that has them."""
    jobs = sorted((Path(folder) / "jobs").glob("*.json"))
    curricula = bool(jobs) and "advances" in json.loads(jobs[0].read_text(encoding="utf-8"))
    results = collect_curricula(jobs) if curricula else collect(folder)
    path = docs / "results" / f"{results['benchmark']}.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        results = merge_curricula(before, results) if curricula else merge(before, results)
    atomic_write(path, results_text(results))
    return path


def page_with_tables(docs: Path = DOCS) -> str:
    """The text of results.md with tables as the results have them."""
    text = (docs / "results.md").read_text(encoding="utf-8")
    for path in sorted((docs / "results").glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        found = as_markdown([curriculum_table(results)]) if "runs" in results else markdown(results)
        opening, closing = f"<!-- tables of {path.stem} -->", f"<!-- end of {path.stem} -->"
        if not re.search(f"{opening}.*{closing}", text, re.DOTALL):
            raise ValidationError(f"{docs / 'results.md'}: no place for {path.name}; put in {opening} and {closing}")
        before, rest = text.split(opening, 1)
        text = f"{before}{opening}\n\n{found}\n{closing}{rest.split(closing, 1)[1]}"
    return text


def main(folders: Sequence[str]) -> None:
    """Take the folders in, and write the tables."""
    for folder in folders:
        print(f"{folder} → {take_in(folder)}")
    atomic_write(DOCS / "results.md", page_with_tables())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BplError as error:
        sys.exit(f"error: {error}")
