"""The MNIST files: found, checked and downloaded, on small stand-ins made here."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bpl_neuro.errors import ValidationError
from bpl_neuro.tasks import RowMNIST, mnist_files
from bpl_neuro.tasks.mnist_files import MNIST, MNISTFile, load_mnist

NAMES = tuple(mnist_files.FILES)


@pytest.fixture
def contents(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small stand-ins for the four files, by name; the loader is told their sizes and checksums."""
    rng = np.random.default_rng(0)
    made, files = {}, {}
    for name in NAMES:
        shape = (6, 28, 28) if "images" in name else (6,)
        content = MNISTFile(shape, "").header + rng.integers(10, size=shape, dtype=np.uint8).tobytes()
        made[name], files[name] = content, MNISTFile(shape, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(mnist_files, "FILES", files)
    mnist_files._read_folder.cache_clear()
    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, no BPL_NEURO_DATA, no network. Returns where the cached files go."""

    def no_network(url: str, timeout: float) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.delenv("BPL_NEURO_DATA", raising=False)
    monkeypatch.setattr(mnist_files, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return tmp_path / "cache" / "bpl_neuro" / "mnist"


def put(folder: Path, contents: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def check(loaded: MNIST, contents: dict[str, bytes]) -> None:
    for array, content in zip(loaded, contents.values(), strict=True):
        assert content.endswith(array.tobytes())
        assert array.shape[0] == 6


def test_the_table_of_files_is_mnists() -> None:
    sizes = [file.size for file in mnist_files.FILES.values()]
    assert sizes == [47_040_016, 60_008, 7_840_016, 10_008]
    assert [int.from_bytes(file.header[:4], "big") for file in mnist_files.FILES.values()] == [2051, 2049, 2051, 2049]
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in mnist_files.MIRRORS)


@pytest.mark.parametrize("packed", [True, False])
def test_files_may_be_packed_or_not(tmp_path: Path, contents: dict[str, bytes], packed: bool) -> None:
    check(load_mnist(put(tmp_path, contents, packed)), contents)
    check(load_mnist(str(tmp_path)), contents)


def test_environment_comes_before_the_cache(
    tmp_path: Path, cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "data" / "mnist", contents)
    put(cache, dict.fromkeys(contents, b"damaged"))
    monkeypatch.setenv("BPL_NEURO_DATA", str(tmp_path / "data"))
    check(load_mnist(), contents)


@pytest.mark.parametrize("there", [(), NAMES[:2]])
def test_an_incomplete_environment_folder_is_passed_over(
    tmp_path: Path, cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    put(tmp_path / "data" / "mnist", {name: contents[name] for name in there})
    put(cache, contents)
    monkeypatch.setenv("BPL_NEURO_DATA", str(tmp_path / "data"))
    check(load_mnist(), contents)


def truncated(good: bytes) -> bytes:
    return gzip.compress(good)[:-20]


def flipped(good: bytes) -> bytes:
    return gzip.compress(good[:-1] + bytes([good[-1] ^ 1]))


def flipped_inside_gzip(good: bytes) -> bytes:
    packed = bytearray(gzip.compress(good, compresslevel=0))
    packed[len(packed) // 2] ^= 1
    return bytes(packed)


DAMAGE: list[tuple[Callable[[bytes], bytes], str]] = [
    (truncated, "truncated"),
    (flipped, "its SHA-256 is [0-9a-f]{64}"),
    (flipped_inside_gzip, "gzip stream is damaged"),
    (lambda good: gzip.compress(b"\0\0\x08\x09" + good[4:]), "magic number 0x00000809, not 0x0000080[13]"),
    (lambda good: gzip.compress(good + b"\0"), "must hold [0-9]+ bytes unpacked, and holds more"),
    (lambda good: gzip.compress(good[:-1]), "must hold [0-9]+ bytes unpacked, and holds only [0-9]+"),
    (lambda good: b"<html>not found</html>", "gzip stream is damaged"),
    (lambda good: b"", "holds only 0"),
]


@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_file_is_named_with_its_checksum_and_the_remedy(
    cache: Path, contents: dict[str, bytes], name: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    """Even though the other place to look, and the network, might have a good one: the user should know."""
    file = put(cache, contents) / f"{name}.gz"
    file.write_bytes(damage(contents[name]))
    with pytest.raises(ValidationError, match=message) as caught:
        load_mnist()
    for part in (str(file), mnist_files.FILES[name].sha256, "Delete or replace it"):
        assert part in str(caught.value)
    file.write_bytes(gzip.compress(contents[name]))
    check(load_mnist(), contents)


def test_a_damaged_unpacked_file_is_refused(tmp_path: Path, contents: dict[str, bytes]) -> None:
    put(tmp_path, contents, packed=False)
    (tmp_path / NAMES[1]).write_bytes(contents[NAMES[1]][:-2])
    with pytest.raises(ValidationError, match=f"{NAMES[1]} cannot be used: .*holds only"):
        load_mnist(tmp_path)


def test_a_huge_gzip_is_not_unpacked_whole(tmp_path: Path, contents: dict[str, bytes]) -> None:
    bomb = contents[NAMES[0]] + bytes(50_000_000)
    put(tmp_path, contents | {NAMES[0]: bomb})
    with pytest.raises(ValidationError, match="holds more"):
        load_mnist(tmp_path)


def test_without_network_the_message_lists_every_place_and_what_to_put_where(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPL_NEURO_DATA", str(tmp_path / "data"))
    with pytest.raises(ValidationError) as caught:
        RowMNIST()
    text = str(caught.value)
    places = (str(tmp_path / "data" / "mnist"), str(cache), *mnist_files.MIRRORS)
    for part in (*places, "Name or service not known", *NAMES, f"into {tmp_path / 'data' / 'mnist'}"):
        assert part in text
    assert not cache.exists()
    monkeypatch.delenv("BPL_NEURO_DATA")
    with pytest.raises(ValidationError, match=r"or into \$BPL_NEURO_DATA/mnist"):
        load_mnist()


def test_a_given_path_is_the_only_place(tmp_path: Path, cache: Path, contents: dict[str, bytes]) -> None:
    put(cache, contents)
    with pytest.raises(ValidationError, match=r"Looked in:\n  - .*elsewhere .*\nPut"):
        load_mnist(tmp_path / "elsewhere")
    with pytest.raises(ValidationError, match="`path` must be a path, got 3"):
        load_mnist(3)  # type: ignore[arg-type]


def serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], bytes]) -> list[str]:
    """A network on which `answer` gives the bytes behind a URL. Returns the list of URLs asked for, which grows."""
    asked = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert 0 < timeout < 120
        asked.append(url)
        return io.BytesIO(answer(url))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def good_copy(contents: dict[str, bytes]) -> Callable[[str], bytes]:
    return lambda url: gzip.compress(contents[url.rsplit("/", 1)[1].removesuffix(".gz")])


def test_download_fills_the_cache_once(
    cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, good_copy(contents))
    check(load_mnist(), contents)
    assert asked == [f"{mnist_files.MIRRORS[0]}{name}.gz" for name in NAMES]
    assert sorted(os.listdir(cache)) == sorted(f"{name}.gz" for name in NAMES), "and no temporary files"
    mnist_files._read_folder.cache_clear()
    check(load_mnist(), contents)
    assert len(asked) == 4


def test_download_fetches_only_what_is_missing(
    cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, {name: contents[name] for name in NAMES[:3]}, packed=False)
    asked = serve(monkeypatch, good_copy(contents))
    check(load_mnist(), contents)
    assert asked == [f"{mnist_files.MIRRORS[0]}{NAMES[3]}.gz"]


def test_download_can_be_forbidden(cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, good_copy(contents))
    with pytest.raises(ValidationError, match="MNIST files were not found"):
        RowMNIST(download=False)
    assert not asked


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGE])
def test_a_bad_mirror_is_passed_over(
    cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    good = good_copy(contents)
    bad = mnist_files.MIRRORS[0]
    serve(monkeypatch, lambda url: damage(gzip.decompress(good(url))) if url.startswith(bad) else good(url))
    check(load_mnist(), contents)


def test_a_download_that_fails_leaves_no_file(
    cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = good_copy(contents)
    serve(monkeypatch, lambda url: good(url)[:-20] if NAMES[1] in url else good(url))
    with pytest.raises(ValidationError, match="truncated"):
        load_mnist()
    assert os.listdir(cache) == [f"{NAMES[0]}.gz"], "the first was good and stays, the second never appears"


def test_a_write_that_fails_leaves_no_file(
    cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    serve(monkeypatch, good_copy(contents))
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ValidationError, match=r"could not be written to .*No space left on device"):
        load_mnist()
    assert os.listdir(cache) == []


def test_a_download_is_bounded_in_size_and_time(
    cache: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(io.BytesIO):
        chunks = 0

        def read1(self, size: int | None = -1, /) -> bytes:
            assert size is not None and 0 < size <= 1 << 20
            Endless.chunks += 1
            return bytes(size)

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Endless())
    with pytest.raises(ValidationError, match="sent more than"):
        load_mnist()
    assert Endless.chunks == 2, "one a mirror"
    monkeypatch.setattr(mnist_files, "_DEADLINE", -1.0)
    serve(monkeypatch, good_copy(contents))
    with pytest.raises(ValidationError, match="took longer than"):
        load_mnist()
