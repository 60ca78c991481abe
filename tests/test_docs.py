"""What documentation refers to is there: tests named beside a promise, pages and pictures that are linked."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])


def named_tests():
    """(file, test) of every test that the page on reliability names; `…::` and `::` go on with the last file."""
    file, found = None, []
    for given, test in re.findall(r"`(?:tests/)?(test_\w+\.py|…)?(?:::(test_\w+))?(?:\[[^`]*\])?`", page()):
        file = given if given and given != "…" else file
        if given or test:
            found.append((file, test))
    return found


def page():
    return (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_tests_that_hold_a_promise_exist():
    assert len(named_tests()) > 60
    for file, test in named_tests():
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, f"{file}::{test}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"
