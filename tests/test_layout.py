"""Imports run one way, test files import no test file, and reference.py knows no rule and no trace."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bpl_neuro

PACKAGE = Path(bpl_neuro.__file__).parent
#: a room imports only from rooms above it
ORDER = [
    "errors", "identity", "checks", "storage", "locks", "output", "model", "backend", "circuit", "tasks", "reference",
    "rules", "train", "look", "brian", "benchmark", "run_folder", "experiment", "cli",
]  # fmt: skip


def modules():
    return [
        p for p in sorted(PACKAGE.rglob("*.py")) if not {"models", "simulations"} & set(p.relative_to(PACKAGE).parts)
    ]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def part(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    if part(path) == "__init__":
        return
    here = ORDER.index(part(path))
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "bpl_neuro" and len(parts) > 1 and parts[1] != part(path):
            assert ORDER.index(parts[1]) < here, f"{path.name} imports {name}"


def test_the_reference_imports_no_rule():
    assert not [name for name in imported(PACKAGE / "reference.py") if "rules" in name or "loop" in name]


def test_no_test_file_imports_another():
    """What tests share lies in modules without tests; the scripts that tests run in other processes count too."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"\b(?:from|import)\s+test_\w+", text), path.name
        if not path.name.startswith("test_"):
            assert not re.findall(r"^(?:def|class) [tT]est\w*", text, re.MULTILINE), path.name


def test_cupy_is_imported_by_its_backend_only():
    for path in modules():
        if path.name != "cupy_backend.py":
            assert "cupy" not in {name.split(".")[0] for name in imported(path)}, path


def test_importing_the_package_leaves_brian2_and_the_excepthook_alone():
    code = "import sys, warnings; hook, show = sys.excepthook, warnings.showwarning; import bpl_neuro; "
    code += "assert 'brian2' not in sys.modules; bpl_neuro.Model.load('linear'); assert 'brian2' in sys.modules; "
    code += "assert sys.excepthook is hook and warnings.showwarning is show"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists_and_is_documented():
    for name in bpl_neuro.__all__:
        assert (getattr(bpl_neuro, name).__doc__ or "").strip(), name


def test_files_stay_readable():
    long = {str(p.relative_to(PACKAGE)): n for p in modules() if (n := len(p.read_text().splitlines())) > 420}
    assert not long
