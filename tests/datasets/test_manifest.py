"""What is kept of image files from one start to the next, and when it is not believed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from nas import datasets
from nas.base.errors import UserError
from nas.datasets import folders, load_data, manifest
from nas.datasets.decode import DECODING
from nas.datasets.manifest import Content, contents_of
from nas.datasets.value import PARTS
from nas.runs.workers import for_other_processes
from nas.training.proxy import Proxy
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

    def counted(file: Path, seen: Any) -> Any:
        found.append(file.name)
        return content(file, seen)

    monkeypatch.setattr(manifest, "_content", counted)
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


def signed(content: object) -> bytes:
    """A manifest as it is written."""
    body = json.dumps(content).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


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
    first = contents_of(pets, files(pets), known)
    saved = known.read_bytes()
    replaced(pets / "cat" / "cat3.ppm")
    stamps = {file.relative_to(pets).as_posix(): [*manifest._stamp(file)] for file in files(pets)}  # type: ignore[misc]
    old = json.loads(saved[65:])[1]
    lying = signed([DECODING, {name: [stamps[name], *row[1:]] for name, row in old.items()}])
    known.write_bytes(lying)
    assert contents_of(pets, files(pets), known) == first, "size and times are believed"
    changed = contents_of(pets, files(pets), known, recheck=True)
    assert [old == new for old, new in zip(first, changed, strict=True)].count(False) == 1
    assert contents_of(pets, files(pets), known) == changed


def test_recheck_finds_a_cache_that_is_damaged(pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "fit_in_memory", lambda *_: False)
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
        lambda whole: signed([DECODING, {"cat/cat0.ppm": 7}]),
        lambda whole: signed({"cat/cat0.ppm": [1, 2, 3, "00" * 32]}),
        lambda whole: signed(["0", json.loads(whole[65:])[1]]),
    ],
    ids=["empty", "half", "another name", "no checksum", "no JSON", "no entry", "the former format", "other decoding"],
)
def test_a_damaged_manifest_costs_only_time(
    pets: Path, tmp_path: Path, read: list[str], damage: Callable[[bytes], bytes]
) -> None:
    known = tmp_path / "m"
    first = contents_of(pets, files(pets), known)
    known.write_bytes(damage(known.read_bytes()))
    read.clear()
    assert contents_of(pets, files(pets), known) == first
    assert len(read) == 12
    assert not list(tmp_path.glob("m.*"))


def test_a_manifest_that_cannot_be_written_costs_only_time(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len({*contents_of(pets, files(pets), tmp_path / "file" / "m")}) == 12


def test_files_that_cannot_be_read_are_not_remembered(pets: Path, tmp_path: Path) -> None:
    missing = pets / "cat" / "gone.ppm"
    assert contents_of(pets, [missing], tmp_path / "m") == [Content(None, None)]
    missing.write_bytes(b"here")
    assert contents_of(pets, [missing], tmp_path / "m") == [Content(hashlib.sha256(b"here").digest(), None)]


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


# ---- images that have changed ----------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    found: list[str] = []
    decode = folders._decode

    def counted(path: Path, how: Any) -> Any:
        found.append(path.name)
        return decode(path, how)

    monkeypatch.setattr(folders, "_decode", counted)
    return found


@pytest.fixture(params=[False, True], ids=["in memory", "in a file"])
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether images are too many to be held in memory."""
    monkeypatch.setattr(folders, "fit_in_memory", lambda *_: not request.param)
    return bool(request.param)


def outcome(root: Path, cache: Path) -> object:
    """All that loading a folder gives, and what it leaves in the cache; or why it is refused."""
    try:
        data = datasets.load(str(root), skip_broken=True)
    except UserError as error:
        return str(error)
    about = data.name, data.classes, data.note, data.fingerprint, data.value_range, data.mapped
    tensors = [getattr(data, part).numpy().tobytes() for part in PARTS]
    return about, tensors, {path.name: path.read_bytes() for path in cache.glob("[!.]*")}


def from_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, place: Path) -> object:
    """The outcome where nothing is cached yet."""
    with monkeypatch.context() as context:
        context.setenv("XDG_CACHE_HOME", str(place))
        return outcome(root, place / "compound-nas")


def draw(file: Path, rng: np.random.Generator) -> None:
    """A new file: noise of 8 or more bits, wide or square, or no image at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    high, wide = int(rng.choice([999, 4095])), int(rng.choice([16, 24]))
    match rng.integers(8):
        case 0:
            Image.fromarray(rng.integers(0, high, (16, wide)).astype(np.uint16)).save(file, "png")
        case 1:
            file.write_bytes(rng.bytes(20))
        case 2:
            file.write_bytes(b"")
        case _:
            Image.fromarray(rng.integers(0, 256, (16, wide, 3), dtype=np.uint8)).save(file, "png")


def change(root: Path, rng: np.random.Generator) -> None:
    """Add, change, touch, copy, remove, rename or move one file."""
    there = sorted(root.rglob("*.png"))
    file = there[rng.integers(len(there))]
    folders_of_classes = sorted({path.parent for path in there})
    place = folders_of_classes[rng.integers(len(folders_of_classes))] / f"{rng.integers(10**9)}.png"
    match rng.integers(7):
        case 0:
            draw(place, rng)
        case 1:
            draw(file, rng)
        case 2:
            file.touch()
        case 3:
            shutil.copy(file, place)
        case 4:
            file.unlink()
        case 5:
            file.rename(file.with_name(place.name))
        case 6:
            file.rename(place)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [("",), ("train", "val")], ids=["split here", "with val"])
def test_what_is_kept_changes_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, many: bool, parts: tuple[str, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    root = tmp_path / "pets"
    for part in parts:
        for name in ("cat", "dog"):
            for i in range(7):
                draw(root / part / name / f"{i}.png", rng)
    for step in range(8):
        for _ in range(rng.integers(1, 4)):
            change(root, rng)
        assert outcome(root, cache) == from_nothing(root, monkeypatch, tmp_path / f".fresh{step}"), step


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda cat, dog: replaced(cat / "cat3.ppm"), ["cat3.ppm"]),
        (lambda cat, dog: (cat / "cat3.ppm").unlink(), []),
        (lambda cat, dog: (cat / "cat3.ppm").rename(cat / "x.ppm"), []),
        (lambda cat, dog: (cat / "cat3.ppm").rename(dog / "x.ppm"), []),
        (lambda cat, dog: shutil.copy(cat / "cat3.ppm", cat / "x.ppm"), []),
        (lambda cat, dog: (cat / "x.ppm").write_bytes((cat / "cat3.ppm").read_bytes() + b"!"), ["x.ppm"]),
    ],
    ids=["changed", "removed", "renamed", "moved", "copied", "added"],
)
@pytest.mark.parametrize("recheck", [False, True], ids=["", "recheck"])
def test_changed_images_alone_are_decoded(
    pets: Path, decoded: list[str], many: bool, edit: Callable[[Path, Path], None], expected: list[str], recheck: bool
) -> None:
    datasets.load(str(pets))
    decoded.clear()
    edit(pets / "cat", pets / "dog")
    datasets.load(str(pets), recheck=recheck)
    assert decoded == expected


def test_images_are_decoded_anew_where_the_range_of_values_has_changed(pets: Path, decoded: list[str]) -> None:
    for name, most in (("cat", 999), ("dog", 4095)):
        values = np.linspace(0, most, 256).reshape(16, 16).astype(np.uint16)
        Image.fromarray(values).save(pets / name / f"{name}0.ppm", "png")
        decoded.clear()
        assert datasets.load(str(pets)).value_range is not None
        assert len(decoded) == 12


def test_values_are_looked_at_in_changed_images_alone(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(manifest, "extremes", lambda file: found.append(file.name))
    datasets.load(str(pets))
    assert len(found) == 12
    found.clear()
    replaced(pets / "cat" / "cat3.ppm")
    (pets / "cat" / "cat4.ppm").rename(pets / "cat" / "x.ppm")
    (pets / "cat" / "cat5.ppm").touch()
    datasets.load(str(pets), recheck=True)
    assert found == ["cat3.ppm"]


def test_a_fault_of_the_machine_is_not_remembered_of_a_file(
    pets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = np.linspace(0, 999, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(pets / "cat" / "cat0.ppm", "png")
    with monkeypatch.context() as context:
        context.setattr(Image, "open", Mock(side_effect=MemoryError))
        assert contents_of(pets, files(pets), tmp_path / "m") == [Content(None, None)] * 12
    assert contents_of(pets, files(pets), tmp_path / "m")[0].extremes == ("i", 0, 999)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(path.read_bytes()[:300] + bytes(60) + path.read_bytes()[360:]),
        lambda path: path.write_bytes(b"[]"),
    ],
    ids=["missing", "half", "zeros", "another file"],
)
@pytest.mark.parametrize("suffix", ["npz", "pixels"])
def test_a_damaged_cache_costs_only_time(
    pets: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoded: list[str],
    damage: Callable[[Path], None],
    suffix: str,
) -> None:
    monkeypatch.setattr(folders, "fit_in_memory", lambda *_: suffix == "npz")
    datasets.load(str(pets))
    (path,) = cache.glob(f"[!.]*.{suffix}")
    damage(path)
    replaced(pets / "cat" / "cat3.ppm")
    decoded.clear()
    found = outcome(pets, cache)
    assert len(decoded) == 12
    assert found == from_nothing(pets, monkeypatch, tmp_path / ".fresh")


def test_a_cache_from_before_images_were_kept_one_by_one_is_built_anew(
    pets: Path, cache: Path, decoded: list[str]
) -> None:
    data = datasets.load(str(pets))
    assert data.stored
    with np.load(data.stored.path) as file:
        arrays = {name: file[name] for name in file if name != "extra"}
    np.savez(data.stored.path, **arrays)
    decoded.clear()
    assert datasets.load(str(pets)).fingerprint == data.fingerprint
    assert not decoded
    replaced(pets / "cat" / "cat3.ppm")
    assert datasets.load(str(pets)).fingerprint != data.fingerprint
    assert len(decoded) == 12


# ---- other processes -------------------------------------------------------------------------------------


def fingerprint(proxy: Proxy) -> str:
    return load_data(proxy.data).fingerprint


@pytest.mark.parametrize("many", [False, True], ids=["in memory", "in a file"])
def test_others_read_the_cache_without_a_look_at_the_files(
    pets: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    monkeypatch.setattr(folders, "fit_in_memory", lambda *_: not many)
    proxy = Proxy(datasets.Source(name=str(pets), recheck=True), Recipe(), "cpu")
    spread = for_other_processes(proxy)
    assert not spread.data.recheck
    shutil.rmtree(pets)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(fingerprint, spread).result() == fingerprint(proxy)


def test_others_load_the_images_where_the_cache_is_not(pets: Path, cache: Path) -> None:
    spread = for_other_processes(Proxy(datasets.Source(name=str(pets)), Recipe(), "cpu"))
    known = load_data(spread.data).fingerprint
    shutil.rmtree(cache)
    load_data.cache_clear()
    assert load_data(spread.data).fingerprint == known


def test_others_refuse_images_that_are_not_those_of_the_command(pets: Path, cache: Path) -> None:
    spread = for_other_processes(Proxy(datasets.Source(name=str(pets)), Recipe(), "cpu"))
    replaced(pets / "cat" / "cat3.ppm")
    datasets.load(str(pets))  # another command: the cache is of the new images
    load_data.cache_clear()
    with pytest.raises(UserError, match="differs from that of the machine that started the command"):
        load_data(spread.data)


def test_the_fingerprint_is_kept_with_the_cache(pets: Path) -> None:
    first = datasets.load(str(pets))
    second = datasets.load(str(pets))
    assert "fingerprint" in vars(second)
    assert second.fingerprint == first.fingerprint
    assert datasets.load(str(pets), resize="pad").stored != first.stored
