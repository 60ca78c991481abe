"""The C compiler and the folder of what it compiled: found, kept, checked, and refused with the reason."""

import ctypes
import os
import stat
import subprocess
import sys

import pytest
from compiling import COMPILER

import bpl_neuro as bpl
from bpl_neuro.backend import CBackend, compiler, get_backend
from bpl_neuro.backend.compiler import cache_folder, command, compiled

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
SOURCE = "int answer(void) { return 42; }\n"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A cache of our own, with nothing in it and nothing remembered."""
    monkeypatch.setattr(compiler, "user_cache_path", lambda name: tmp_path / name)
    forget()
    yield tmp_path / "bpl_neuro" / "compiled"
    forget()


def forget():
    compiled.cache_clear()
    compiler._described.cache_clear()


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_a_library_is_compiled_once_and_found_again(folder, monkeypatch):
    assert compiled(SOURCE).answer() == 42
    (library,) = folder.iterdir()
    forget()
    monkeypatch.setattr(compiler, "_compile", None)
    assert compiled(SOURCE).answer() == 42
    assert list(folder.iterdir()) == [library]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_another_source_compiler_flag_or_version_is_another_library(folder, monkeypatch):
    compiled(SOURCE)
    compiled(SOURCE + "\n")
    for name, value in (("FLAGS", (*compiler.FLAGS, "-DX")), ("_described", lambda words: "another processor")):
        compiled.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(compiler, name, value)
            compiled(SOURCE)
    compiled.cache_clear()
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda name: "another")
    compiled(SOURCE)
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("damage", [b"", b"not a library", None])
def test_a_damaged_library_is_compiled_again(folder, damage):
    compiled(SOURCE)
    (library,) = folder.iterdir()
    content = library.read_bytes()
    library.unlink()  # whoever has it loaded keeps it
    library.write_bytes(content[:-1000] if damage is None else damage)
    compiled.cache_clear()
    assert compiled(SOURCE).answer() == 42
    assert library.read_bytes() == content


def test_a_folder_that_others_can_enter_is_refused(folder):
    folder.mkdir(parents=True, mode=0o755)
    with pytest.raises(bpl.BackendError, match="700"):
        compiled(SOURCE)
    folder.rmdir()
    folder.symlink_to(folder.parent)
    with pytest.raises(bpl.BackendError, match="700"):
        cache_folder()


def test_a_folder_that_cannot_be_made_is_named(folder):
    folder.parent.mkdir()
    folder.write_text("a file", encoding="utf-8")
    with pytest.raises(bpl.BackendError, match="compiled"):
        compiled(SOURCE)


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_named(folder):
    folder.mkdir(parents=True, mode=0o500)
    with pytest.raises(bpl.BackendError, match="cannot keep"):
        compiled(SOURCE)


def test_a_full_disk_is_said(folder, monkeypatch):
    def full(path, content):
        raise bpl.BplError(f"{path}: cannot write {len(content)} bytes: No space left on device")

    monkeypatch.setattr(compiler, "atomic_write", full)
    with pytest.raises(bpl.BackendError, match="No space left"):
        compiled(SOURCE)


def test_what_a_compiler_says_is_passed_on(folder, monkeypatch, tmp_path):
    with pytest.raises(bpl.BackendError, match=r"fails: .*error"):
        compiled("int answer(void) { return what; }\n")
    broken = script(tmp_path / "broken", 'echo "fatal error: broken" >&2; exit 1')
    monkeypatch.setenv("CC", f"{broken} --with 'two words'")
    assert command() == (broken, "--with", "two words")
    with pytest.raises(bpl.BackendError, match="fatal error: broken"):
        compiled(SOURCE)
    monkeypatch.setenv("CC", script(tmp_path / "silent", "exit 0"))
    with pytest.raises(bpl.BackendError, match="fails"):
        compiled(SOURCE)
    assert not list(folder.iterdir())


def test_a_library_that_does_not_load_is_named(folder, monkeypatch):
    monkeypatch.setattr(compiler, "_whole", lambda path: True)
    with pytest.raises(bpl.BackendError, match="does not load"):
        compiled(SOURCE)


@pytest.mark.parametrize(("value", "words"), [("no-such-compiler -O1", "not found"), ("'open", "command")])
def test_a_wrong_cc_is_named(monkeypatch, value, words):
    monkeypatch.setenv("CC", value)
    with pytest.raises(bpl.BackendError, match=words):
        command()


def test_without_a_compiler_the_backend_says_what_to_do(folder, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bpl.BackendError, match="ziglang"):
        compiled(SOURCE)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: name)
    assert command() == (sys.executable, "-m", "ziglang", "cc")


@pytest.mark.stage
def test_processes_that_compile_at_once_get_whole_libraries(folder):
    text = (
        "import pathlib, sys; from bpl_neuro.backend import compiler\n"
        "compiler.user_cache_path = lambda name: pathlib.Path(sys.argv[1]) / name\n"
        f"assert compiler.compiled({SOURCE!r}).answer() == 42"
    )
    words = [sys.executable, "-c", text, str(folder.parent.parent)]
    running = [subprocess.Popen(words) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    (library,) = folder.iterdir()
    assert ctypes.CDLL(str(library)).answer() == 42


def test_the_backend_by_its_name():
    assert isinstance(get_backend("c"), CBackend)
    assert get_backend("c").name == bpl.Circuit("linear", 2, 1, backend="c").backend.name == "c"
