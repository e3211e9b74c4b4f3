"""What is kept of image files from one start to the next, and when it is not believed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas import datasets
from nas.base.errors import UserError
from nas.datasets import folders, manifest
from nas.datasets.manifest import UNREADABLE, digests
from nas.training.proxy import Proxy, handed_over, load_data
from nas.training.recipe import Recipe


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own, and files count as settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setattr(manifest, "SETTLED", -(10**10))
    load_data.cache_clear()
    return tmp_path / ".cache" / "compound-nas"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content is read."""
    found: list[str] = []
    content = manifest._content

    def told(file: Path) -> tuple[manifest.Stamp | None, bytes]:
        found.append(file.name)
        return content(file)

    monkeypatch.setattr(manifest, "_content", told)
    return found


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of noise."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng([label, i]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{name}{i}.ppm")
    return tmp_path / "pets"


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.ppm"))


def replaced(file: Path) -> None:
    """Write other bytes, as many as before, and give the file its former time."""
    old = file.stat()
    file.write_bytes(file.read_bytes()[:-3] + b"\1\2\3")
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))


def test_unchanged_files_are_not_read_again(pets: Path, read: list[str]) -> None:
    first = datasets.load(str(pets))
    assert len(read) == 12
    read.clear()
    second = datasets.load(str(pets))
    assert read == []
    assert second.fingerprint == first.fingerprint
    datasets.load(str(pets), image_size=8)
    assert read == []


def test_changed_files_alone_are_read_again(pets: Path, read: list[str]) -> None:
    before = datasets.load(str(pets)).fingerprint
    read.clear()
    replaced(pets / "cat" / "cat3.ppm")
    shutil.copy(pets / "cat" / "cat0.ppm", pets / "cat" / "new.ppm")
    assert datasets.load(str(pets)).fingerprint != before
    assert sorted(read) == ["cat3.ppm", "new.ppm"]


def test_a_touched_file_is_read_but_nothing_is_decoded(
    pets: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.load(str(pets))
    read.clear()
    monkeypatch.setattr(folders, "_decode", None)
    (pets / "dog" / "dog1.ppm").touch()
    datasets.load(str(pets))
    assert read == ["dog1.ppm"]


def test_recheck_reads_all_files(pets: Path, read: list[str], tmp_path: Path) -> None:
    known = tmp_path / "m"
    first = digests(pets, files(pets), known)
    saved = known.read_bytes()
    replaced(pets / "cat" / "cat3.ppm")
    stamps = {file.relative_to(pets).as_posix(): [*manifest._stamp(file)] for file in files(pets)}  # type: ignore[misc]
    lying = json.dumps({name: [*stamps[name], digest[3]] for name, digest in json.loads(saved[65:]).items()}).encode()
    known.write_bytes(hashlib.sha256(lying).hexdigest().encode() + b"\n" + lying)
    assert digests(pets, files(pets), known) == first, "size and times are believed"
    changed = digests(pets, files(pets), known, recheck=True)
    assert [old == new for old, new in zip(first, changed, strict=True)].count(False) == 1
    assert digests(pets, files(pets), known) == changed


def test_recheck_finds_a_cache_that_is_damaged(pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "are_few", lambda *_: False)
    whole = datasets.load(str(pets)).train_images.clone()
    (pixels,) = cache.glob("*.pixels")
    damaged = bytearray(pixels.read_bytes())
    damaged[100] ^= 255
    pixels.write_bytes(damaged)
    assert (datasets.load(str(pets), recheck=True).train_images == whole).all()


def test_a_file_that_was_changed_just_now_is_not_remembered(
    pets: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within the same tick of the clock would leave its time as it is."""
    monkeypatch.setattr(manifest, "SETTLED", 10**13)
    datasets.load(str(pets))
    read.clear()
    datasets.load(str(pets))
    assert len(read) == 12


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole.replace(b"cat", b"cow", 1),
        lambda whole: b"[1, 2]",
        lambda whole: hashlib.sha256(b"[[[").hexdigest().encode() + b"\n[[[",
        lambda whole: hashlib.sha256(b'{"cat/cat0.ppm": 7}').hexdigest().encode() + b'\n{"cat/cat0.ppm": 7}',
    ],
    ids=["empty", "half", "another name", "no checksum", "no JSON", "no entry"],
)
def test_a_damaged_manifest_costs_only_time(
    pets: Path, tmp_path: Path, read: list[str], damage: Callable[[bytes], bytes]
) -> None:
    known = tmp_path / "m"
    first = digests(pets, files(pets), known)
    known.write_bytes(damage(known.read_bytes()))
    read.clear()
    assert digests(pets, files(pets), known) == first
    assert len(read) == 12
    assert not list(tmp_path.glob("m.*"))


def test_a_manifest_that_cannot_be_written_costs_only_time(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len({*digests(pets, files(pets), tmp_path / "file" / "m")}) == 12


def test_files_that_cannot_be_read_are_not_remembered(pets: Path, tmp_path: Path) -> None:
    missing = pets / "cat" / "gone.ppm"
    assert digests(pets, [missing], tmp_path / "m") == [UNREADABLE]
    missing.write_bytes(b"here")
    assert digests(pets, [missing], tmp_path / "m") == [hashlib.sha256(b"here").digest()]


def test_names_of_any_bytes_are_remembered(pets: Path, read: list[str]) -> None:
    odd = Path(os.fsdecode(os.fsencode(pets / "cat") + b"/\xdc\n.ppm"))
    files(pets)[0].rename(odd)
    first = datasets.load(str(pets)).fingerprint
    read.clear()
    assert datasets.load(str(pets)).fingerprint == first
    assert read == []


def test_a_folder_with_a_long_name_is_cached(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = pets.rename(pets.with_name("é" * 120))
    datasets.load(str(long))
    monkeypatch.setattr(folders, "_decode", None)
    assert datasets.load(str(long)).num_classes == 2


# ---- other processes -------------------------------------------------------------------------------------


def fingerprint(proxy: Proxy) -> str:
    return load_data(proxy.data).fingerprint


@pytest.mark.parametrize("many", [False, True], ids=["in memory", "in a file"])
def test_others_read_the_cache_without_a_look_at_the_files(
    pets: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    monkeypatch.setattr(folders, "are_few", lambda *_: not many)
    proxy = Proxy(datasets.Source(name=str(pets), recheck=True), Recipe(), "cpu")
    spread = handed_over(proxy)
    assert not spread.data.recheck
    shutil.rmtree(pets)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(fingerprint, spread).result() == fingerprint(proxy)


def test_others_load_the_images_where_the_cache_is_not(pets: Path, cache: Path) -> None:
    spread = handed_over(Proxy(datasets.Source(name=str(pets)), Recipe(), "cpu"))
    known = load_data(spread.data).fingerprint
    shutil.rmtree(cache)
    load_data.cache_clear()
    assert load_data(spread.data).fingerprint == known


def test_others_refuse_images_that_are_not_those_of_the_command(pets: Path, cache: Path) -> None:
    spread = handed_over(Proxy(datasets.Source(name=str(pets)), Recipe(), "cpu"))
    replaced(pets / "cat" / "cat3.ppm")
    datasets.load(str(pets))  # another command: the cache is of the new images
    load_data.cache_clear()
    with pytest.raises(UserError, match="is not what it is where the command was started"):
        load_data(spread.data)


def test_the_fingerprint_is_kept_with_the_cache(pets: Path) -> None:
    first = datasets.load(str(pets))
    second = datasets.load(str(pets))
    assert "fingerprint" in vars(second)
    assert second.fingerprint == first.fingerprint
    assert datasets.load(str(pets), resize="pad").stored != first.stored
