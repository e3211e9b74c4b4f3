"""What `nas.datasets` promises: the embedded default, named sets, folders of every nasty kind, the cache."""

import errno
import gzip
import os
import shutil
import struct
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from nas import datasets
from nas.base.errors import UserError
from nas.datasets import cache as cache_room
from nas.datasets import folders
from nas.datasets.batches import images_of
from nas.datasets.validation import validation_share
from nas.networks.architecture import Architecture
from nas.training.proxy import train_proxy
from nas.training.recipe import Recipe
from tests.helpers import needs
from tests.helpers.commands import ROOT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own, beside its data, hidden as litter is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    return tmp_path / ".cache" / "compound-nas"


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A small RGB image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fill(folder: Path, classes: str = "cat dog", count: int = 6, start: int = 0) -> Path:
    """`count` images for each of the classes below `folder`."""
    for number, name in enumerate(classes.split()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(start + 1000 * number + i).save(folder / name / f"{i:03}.png")
    return folder


def kept(cache: Path) -> list[str]:
    """The files of a cache, without locks."""
    return [name for name in os.listdir(cache) if not name.startswith(".")]


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# ---- the embedded default --------------------------------------------------------------------------------


def test_default_has_the_promised_counts() -> None:
    data = datasets.load()
    assert data.name == datasets.DEFAULT
    assert data.train_images.shape == (10_000, 1, 28, 28)
    assert data.val_images.shape == (10_000, 1, 28, 28)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.dtype == data.val_labels.dtype == torch.int64
    assert data.train_labels.bincount().tolist() == [1000] * 10
    assert data.val_labels.bincount().tolist() == [1000] * 10
    assert (data.channels, data.image_size, data.num_classes, data.flip) == (1, 28, 10, True)
    assert data.classes[9] == "Ankle boot"


def test_default_parts_are_disjoint() -> None:
    data = datasets.load(datasets.DEFAULT)
    train, val = rows(data.train_images), rows(data.val_images)
    assert (len(train), len(val)) == (10_000, 10_000)
    assert not train & val


def test_default_ships_small_with_its_licence() -> None:
    assert datasets.EMBEDDED.stat().st_size < 10e6
    assert "2017 Zalando SE" in datasets.EMBEDDED.with_name("LICENSE").read_text()


def test_fingerprint_is_of_the_content() -> None:
    data = datasets.load()
    assert data.fingerprint == datasets.load().fingerprint
    assert data.fingerprint != datasets.load(image_size=16).fingerprint
    assert len(data.fingerprint) == 16


def test_resized_default() -> None:
    data = datasets.load(image_size=14)
    assert data.train_images.shape == (10_000, 1, 14, 14)
    assert data.train_images.dtype == torch.uint8
    assert "28 to 14" in data.note


@needs.original
def test_default_lies_within_the_original_training_images_with_their_labels() -> None:
    images = gzip.decompress((needs.ORIGINAL / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((needs.ORIGINAL / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    label_of = {images[784 * i : 784 * (i + 1)]: label for i, label in enumerate(labels)}
    data = datasets.load()
    for part, part_labels in ((data.train_images, data.train_labels), (data.val_images, data.val_labels)):
        assert [label_of[image.numpy().tobytes()] for image in part] == part_labels.tolist()


@needs.original
def test_default_is_reproduced_byte_for_byte(tmp_path: Path) -> None:
    again = tmp_path / "again.npz"
    program = [sys.executable, ROOT / "experiments/embedded_data.py", needs.ORIGINAL, again]
    subprocess.run(program, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert again.read_bytes() == datasets.EMBEDDED.read_bytes()


def test_runs_with_the_former_default_find_its_images() -> None:
    """Fewer validation images; a run begun with them goes on, under its name."""
    former, data = datasets.load(datasets.FORMER), datasets.load()
    assert former.fingerprint == "cc704dfcf4d1a419"
    assert former.val_labels.bincount().tolist() == [200] * 10
    assert torch.equal(former.train_images, data.train_images)
    assert rows(former.val_images) < rows(data.val_images)


@needs.original
def test_full_set_contains_the_default_part_by_part(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def unpack(self: torchvision.datasets.FashionMNIST) -> None:
        Path(self.raw_folder).mkdir(parents=True)
        for packed in needs.ORIGINAL.glob("*.gz"):
            (Path(self.raw_folder) / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", unpack)
    full, default = datasets.load("fashion-mnist"), datasets.load()
    assert full.val_labels.bincount().tolist() == [1000] * 10
    assert "10,000 of the 60,000 training images" in full.note
    assert torch.equal(default.val_images, full.val_images)
    assert rows(default.train_images) <= rows(full.train_images)
    assert kept(cache) == ["fashion-mnist.npz"]


# ---- named sets ------------------------------------------------------------------------------------------


def test_split_is_stratified_disjoint_and_unmoved_by_new_images() -> None:
    names = [f"{i}.png" for i in range(60)]
    labels = [i % 3 for i in range(60)]
    train, val = datasets.split(names, labels, 1 / 4)
    assert sorted(train + val) == list(range(60))
    assert np.bincount([labels[i] for i in val]).tolist() == [5, 5, 5]
    _, larger = datasets.split([*names, "new.png"], [*labels, 0], 1 / 4)
    assert len(set(val) - set(larger)) <= 1


@pytest.mark.parametrize(
    ("count", "classes", "validated"),
    [
        (90, 3, 22.5),
        (40_000, 10, 10_000),
        (1_281_167, 1000, 10_000),
        (200_000, 3_000, 30_000),  # 10 of each class
        (40_000, 3_000, 10_000),
    ],
)
def test_more_images_are_set_aside_than_show_half_a_point_only_for_rare_classes(
    count: int, classes: int, validated: float
) -> None:
    assert count * validation_share(count, classes) == pytest.approx(validated)


def test_every_class_keeps_images_on_both_sides() -> None:
    labels = [0] * 40_000 + [1] * 2 + [2] * 30_000
    train, val = datasets.split([str(i) for i in range(len(labels))], labels, validation_share(len(labels), 3))
    assert {labels[i] for i in train} == {labels[i] for i in val} == {0, 1, 2}
    assert len(val) == 10_001  # no class loses its last, and each has one


def test_what_differences_validation_images_show_is_said() -> None:
    data = datasets.load()
    assert data.seed_noise(error=0.15) == pytest.approx((0.15 / 20_000) ** 0.5)
    assert data.difference_line(error=0.16) == (
        "10,000 validation images show differences in accuracy from about 0.4 points on (one standard error at 16 % "
        "error, each network trained once); repeats (--confirm) show smaller ones"
    )
    few = datasets.load(datasets.FORMER)
    assert "from about 1.1 points on" in few.difference_line()
    assert "more of them (10,000 for 0.5 points) or repeats" in few.difference_line("balanced_accuracy")


def test_cifar_sets_aside_a_balanced_part_and_downloads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def cifar(root: str, train: bool, download: bool) -> SimpleNamespace:
        downloads.append(root)
        assert train, "the test set is never opened"
        assert download
        pixels = np.arange(200 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(200, 32, 32, 3)
        return SimpleNamespace(data=pixels, targets=[i % 2 for i in range(200)], classes=["a", "b"])

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar)
    first, second = datasets.load("cifar10"), datasets.load("cifar10")
    assert first.train_images.shape == (150, 3, 32, 32)
    assert first.val_labels.bincount().tolist() == [25, 25]
    assert first.fingerprint == second.fingerprint
    assert len(downloads) == 1
    assert not Path(downloads[0]).exists()


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no\nroute")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", offline)
    with pytest.raises(UserError, match=r"cifar100: cannot be downloaded .*no route.* use fashion-mnist-20k") as e:
        datasets.load("cifar100")
    assert "\n" not in str(e.value)
    assert kept(cache) == []


def test_digits() -> None:
    pytest.importorskip("sklearn")
    data = datasets.load("digits")
    assert (data.channels, data.image_size, data.num_classes, data.flip) == (1, 8, 10, False)
    assert len(data.train_labels) + len(data.val_labels) == 1797
    assert data.train_images.max() == 255


def test_digits_without_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'compound-nas\[digits\]'"):
        datasets.load("digits")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("cifar-10", "did you mean cifar10"),
        ("no/such/folder", "fashion-mnist-20k, fashion-mnist, cifar10, cifar100, digits, fashion-mnist-12k"),
        ("", "no such folder"),
        ("~nobody/images", "no such folder"),
        (__file__, "is a file"),
    ],
)
def test_unusable_source(source: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        datasets.load(source)


@pytest.mark.parametrize("size", [-1, 0, 7, 1025])
def test_unusable_image_size(size: int) -> None:
    with pytest.raises(UserError, match=f"image size {size}: want 8 to 1024"):
        datasets.load(image_size=size)


# ---- folders ---------------------------------------------------------------------------------------------


def test_folder_with_train_and_val(tmp_path: Path) -> None:
    fill(tmp_path / "pets" / "train")
    fill(tmp_path / "pets" / "val", count=2, start=500)
    data = datasets.load(str(tmp_path / "pets"))
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert data.train_images.shape == (12, 3, 28, 28)  # the median side is 30
    assert data.train_labels.tolist() == [0] * 6 + [1] * 6
    assert data.val_labels.tolist() == [0, 0, 1, 1]
    assert "4 images of val/" in data.note
    assert "28 pixels" in data.note
    expected = np.asarray(picture(500).resize((28, 28), Image.Resampling.BICUBIC, box=(5, 0, 35, 30)))
    assert np.array_equal(data.val_images[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("inner", ["", "train"])
def test_folder_without_val_is_split(tmp_path: Path, inner: str) -> None:
    fill(tmp_path / "pets" / inner, count=12)
    data = datasets.load(str(tmp_path / "pets"), image_size=16)
    assert data.train_images.shape == (18, 3, 16, 16)
    assert data.val_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not rows(data.train_images) & rows(data.val_images)
    assert "6 of the 24 images, a quarter, set aside" in data.note
    again = shutil.copytree(tmp_path / "pets", tmp_path / "elsewhere")
    assert datasets.load(str(again), image_size=16).fingerprint == data.fingerprint


def test_test_folder_and_litter_are_left_alone(tmp_path: Path) -> None:
    train = fill(tmp_path / "train")
    fill(tmp_path / "test", start=99)
    fill(train / ".ipynb_checkpoints")
    fill(train / "cat" / ".ipynb_checkpoints")
    (train / "cat" / "._000.png").write_bytes(b"finder")
    (train / "dog" / "notes.txt").write_text("good dogs")
    (train / "labels.csv").write_text("")
    data = datasets.load(str(tmp_path))
    assert len(data.train_labels) + len(data.val_labels) == 12
    assert "; 1 files left out: 1 .txt in dog/;" in data.note


def test_small_images_give_a_small_size_and_large_ones_64(tmp_path: Path) -> None:
    for side, expected in ((5, 8), (28, 28), (31, 28), (200, 64)):
        for name in "ab":
            (tmp_path / str(side) / name).mkdir(parents=True)
            for i in range(2):
                picture(i, (side + 9, side)).save(tmp_path / str(side) / name / f"{i}.png")
        assert datasets.load(str(tmp_path / str(side))).image_size == expected


def odd_images() -> Iterator[tuple[str, Image.Image, dict[str, Any], tuple[int, int, int]]]:
    """File name, image, options to save it with, and the colour it must have once loaded."""
    grey16 = np.full((32, 32), 128 * 256 + 7, np.uint16)
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    yield "grey.png", Image.new("L", (32, 32), 77), {}, (77, 77, 77)
    yield "grey_alpha.png", Image.new("LA", (32, 32), (0, 0)), {}, (255, 255, 255)
    yield "bit.png", Image.new("1", (32, 32), 1), {}, (255, 255, 255)
    yield "grey16.png", Image.fromarray(grey16), {}, (128, 128, 128)
    yield "grey16.tiff", Image.fromarray(grey16), {}, (128, 128, 128)
    yield "grey16_big.tif", Image.fromarray(grey16.astype(">u2")), {}, (128, 128, 128)
    yield "palette.png", palette, {}, (200, 100, 50)
    yield "palette_clear.png", palette, {"transparency": 1}, (255, 255, 255)
    yield "clear.png", Image.new("RGBA", (32, 32), (9, 9, 9, 0)), {}, (255, 255, 255)
    yield "solid.webp", Image.new("RGBA", (32, 32), (9, 90, 9, 255)), {"lossless": True}, (9, 90, 9)
    yield "cmyk.jpg", Image.new("CMYK", (32, 32), (0, 255, 255, 0)), {"quality": 95}, (255, 0, 0)
    yield "grey.JPEG", Image.new("L", (500, 400), 77), {}, (77, 77, 77)
    yield "long.ppm", Image.new("RGB", (900, 1), (1, 2, 3)), {}, (1, 2, 3)


@pytest.mark.parametrize(("name", "image", "options", "colour"), list(odd_images()))
def test_every_kind_of_image_becomes_rgb(
    tmp_path: Path, name: str, image: Image.Image, options: dict[str, Any], colour: tuple[int, int, int]
) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "val", count=1)
    (tmp_path / "val" / "cat" / "000.png").unlink()
    image.save(tmp_path / "val" / "cat" / name, **options)
    loaded = datasets.load(str(tmp_path), image_size=16).val_images[0]
    assert loaded.shape == (3, 16, 16)
    difference = loaded.to(torch.int64) - torch.tensor(colour).view(3, 1, 1)
    assert difference.abs().max() <= 3


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "val", count=1)
    image = Image.new("RGB", (32, 32), "black")
    image.paste("white", (0, 0, 32, 16))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: the upper half goes to the right
    image.save(tmp_path / "val" / "cat" / "000.jpg", exif=exif, quality=95)
    (tmp_path / "val" / "cat" / "000.png").unlink()
    loaded = datasets.load(str(tmp_path), image_size=16).val_images[0].float()
    assert loaded[:, :, :6].max() < 30
    assert loaded[:, :, 10:].min() > 225


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("truncated", "image file is truncated"),
        ("text", "not an image that Pillow reads"),
        ("empty", "empty"),
        ("bomb", "not an image that Pillow reads"),
        ("broken link", "No such file or directory"),
    ],
)
def test_one_broken_image_of_many_is_skipped_and_named(tmp_path: Path, kind: str, cause: str) -> None:
    fill(tmp_path, count=60)
    file = tmp_path / "cat" / "broken.png"
    whole = (tmp_path / "cat" / "000.png").read_bytes()
    if kind == "broken link":
        file.symlink_to(tmp_path / "nowhere.png")
    else:
        header = struct.pack(">II", 60_000, 60_000)
        bomb = whole[:16] + header + whole[24:]
        file.write_bytes({"truncated": whole[:900], "text": b"<html>", "empty": b"", "bomb": bomb}[kind])
    data = datasets.load(str(tmp_path), image_size=8)
    assert len(data.train_labels) + len(data.val_labels) == 120
    assert f"1 broken images skipped: cat/broken.png ({cause})" in data.note
    assert data.train_images[-1].float().std() > 10  # no gap is left where it was
    assert datasets.load(str(tmp_path), image_size=8).note == data.note


def test_too_many_broken_images(tmp_path: Path) -> None:
    fill(tmp_path, count=60)
    for name in ("dog/010.png", "cat/059.png"):
        (tmp_path / name).write_bytes(b"")
    said = r"2 of 120 images are broken.* --skip-broken: cat/059\.png \(empty\), dog/010\.png \(empty\)"
    with pytest.raises(UserError, match=said):
        datasets.load(str(tmp_path))
    data = datasets.load(str(tmp_path), skip_broken=True)
    assert len(data.train_labels) + len(data.val_labels) == 118
    assert "; 2 broken images skipped: cat/059.png (empty), dog/010.png (empty); the crop " in data.note
    with pytest.raises(UserError, match=said):  # whatever was decoded before
        datasets.load(str(tmp_path))


def test_ten_broken_images_are_named_and_the_others_counted(tmp_path: Path) -> None:
    fill(tmp_path, count=20)
    for i in range(12):
        (tmp_path / "cat" / f"{i:03}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"12 of 40 images.*cat/009\.png \(empty\), 2 more$"):
        datasets.load(str(tmp_path))


def test_class_whose_only_image_is_broken(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=60)
    fill(tmp_path / "val", count=1)
    (tmp_path / "val" / "dog" / "000.png").write_bytes(b"")
    with pytest.raises(UserError, match="class dog has too few images, none for validation"):
        datasets.load(str(tmp_path))


def test_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, "emu", count=1)
    with pytest.raises(UserError, match="class emu has too few images, none for training"):
        datasets.load(str(tmp_path))


def empty(root: Path) -> None:
    root.mkdir()


def loose(root: Path) -> None:
    root.mkdir()
    picture(0).save(root / "a.png")


def one_class(root: Path) -> None:
    fill(root / "train", "cat")


def class_without_images(root: Path) -> None:
    fill(root)
    (root / "emu").mkdir()
    (root / "emu" / "emu.heic").write_bytes(b"")


def other_classes(root: Path) -> None:
    fill(root / "train")
    fill(root / "val", "cat emu")


def class_missing_in_val(root: Path) -> None:
    fill(root / "train", "cat dog emu")
    fill(root / "val")


def val_alone(root: Path) -> None:
    fill(root / "val")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (empty, "want two or more folders of images, one per class; found none"),
        (loose, "found 1 images outside of such folders"),
        (one_class, "train: want two or more folders .* found only cat/"),
        (class_without_images, r"emu: want images in it; there are none that Pillow reads, but 1 \.heic"),
        (other_classes, "class dog is in train/ but not in val/"),
        (class_missing_in_val, "class emu is in train/ but not in val/"),
        (val_alone, "has val/ but no train/"),
    ],
)
def test_unusable_folder(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    make(tmp_path / "pets")
    with pytest.raises(UserError, match=said) as e:
        datasets.load(str(tmp_path / "pets"))
    assert "pets" in str(e.value)
    assert "\n" not in str(e.value)


def test_too_little_memory_for_a_named_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_room, "available_memory", lambda: 2 * 20_000 * 24**2)
    with pytest.raises(UserError, match=r"half of the free memory.* an image size of 24 pixels or less"):
        datasets.load(image_size=56)
    monkeypatch.setattr(cache_room, "available_memory", lambda: 20_000)
    with pytest.raises(UserError, match="use fewer images"):
        datasets.load(image_size=56)


def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_room, "available_memory", lambda: 0)


def test_many_images_are_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The same data, but none of it in memory; decoded once; nothing stale is left; training gives the same bits."""
    root = fill(tmp_path / "pets", count=60)
    (root / "cat" / "030.png").write_bytes(b"broken")
    need = 120 * 3 * 28 * 28
    monkeypatch.setattr(cache_room, "available_memory", lambda: 10 * need)
    whole = datasets.load(str(root))
    assert not whole.mapped
    monkeypatch.setattr(cache_room, "available_memory", lambda: 10 * need - 1)
    monkeypatch.setattr(folders, "AHEAD", 1)
    first = datasets.load(str(root))
    assert first.mapped
    assert first.note == f"{whole.note.split('; 1 broken')[0]}; many, so read from a file while training; " + (
        "1 broken images skipped: cat/030.png (not an image that Pillow reads); the crop cuts away 25.0% of the pixels"
    )
    for name in ("train_images", "train_labels", "val_images", "val_labels"):
        assert torch.equal(getattr(first, name), getattr(whole, name))
    assert first.fingerprint == whole.fingerprint
    monkeypatch.setattr(folders, "_decode", no_decoding)
    assert datasets.load(str(root)).fingerprint == whole.fingerprint

    arch = Architecture.parse("stem8 ds_r1_k3_s1_e1_c8 head16")
    for size in (28, 16):
        recipe = Recipe(epochs=2, batch_size=16, shift=0.1)
        outcomes = [train_proxy(arch, data, recipe, seed=0, device="cpu", image_size=size) for data in (whole, first)]
        assert outcomes[0].curve == outcomes[1].curve
    training, _ = images_of(first, None, torch.device("cpu"))
    assert training.pixels.data_ptr() == first.train_images.data_ptr(), "copied"


def test_a_mapped_cache_follows_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    without_memory(monkeypatch)
    root = fill(tmp_path / "pets")
    first = datasets.load(str(root))
    before = first.fingerprint
    assert len(kept(cache)) == 2
    picture(77).save(root / "cat" / "000.png")
    assert datasets.load(str(root)).fingerprint != before
    assert len(kept(cache)) == 2
    (pixels,) = cache.glob("*.pixels")
    picture(0).save(root / "cat" / "000.png")
    assert datasets.load(str(root)).fingerprint == before
    (pixels,) = cache.glob("*.pixels")
    pixels.write_bytes(pixels.read_bytes()[:99])
    assert datasets.load(str(root)).fingerprint == before


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    without_memory(monkeypatch)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"need 0\.0 GB decoded.*No space left on device.*XDG_CACHE_HOME") as e:
        datasets.load(str(fill(tmp_path / "pets")))
    assert "\n" not in str(e.value)
    assert kept(cache) == []
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"File exists.*XDG_CACHE_HOME"):
        datasets.load(str(tmp_path / "pets"))


def test_available_memory_is_plausible() -> None:
    assert 2**26 < cache_room.available_memory() <= 2**62


# ---- the cache -------------------------------------------------------------------------------------------


def no_decoding(*_: object) -> None:
    raise AssertionError("decoded again")


def test_second_load_does_not_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    root = str(fill(tmp_path / "pets"))
    first = datasets.load(root)
    monkeypatch.setattr(folders, "_decode", no_decoding)
    second = datasets.load(root)
    assert (second.fingerprint, second.note, second.classes) == (first.fingerprint, first.note, first.classes)
    assert len(kept(cache)) == 1
    with pytest.raises(AssertionError, match="decoded again"):
        datasets.load(root, image_size=8)


@pytest.mark.parametrize("many", [False, True], ids=["in memory", "in a file"])
def test_several_at_once_decode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, many: bool) -> None:
    root, decoded = str(fill(tmp_path / "pets")), folders._decoded
    monkeypatch.setattr(folders, "fit_in_memory", lambda *_: not many)
    together, built = Barrier(3), []

    def slowly(*given: Any, **more: Any) -> Any:
        built.append(1)
        time.sleep(0.3)
        return decoded(*given, **more)

    def load(_: int) -> str:
        together.wait()
        return datasets.load(root).fingerprint

    monkeypatch.setattr(folders, "_decoded", slowly)
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(load, range(3)))) == 1
    assert len(built) == 1


def test_changed_bytes_are_seen_when_size_and_time_are_not(tmp_path: Path, cache: Path) -> None:
    root = fill(tmp_path / "pets")
    file = root / "cat" / "000.png"
    picture(0).save(file, "ppm")
    before, old = datasets.load(str(root)), file.stat()
    picture(77).save(file, "ppm")
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert file.stat().st_size == old.st_size
    assert datasets.load(str(root)).fingerprint != before.fingerprint
    assert len(kept(cache)) == 1  # the stale file is replaced, none is left behind


@pytest.mark.parametrize("change", ["add", "remove", "rename", "move"])
def test_changed_files_are_seen(tmp_path: Path, change: str) -> None:
    root = fill(tmp_path / "pets")
    before = datasets.load(str(root))
    last = root / "dog" / "005.png"
    if change == "add":
        shutil.copy(last, root / "dog" / "006.png")
    elif change == "remove":
        last.unlink()
    else:
        last.rename(root / ("dog" if change == "rename" else "cat") / "zzz.png")
    after = datasets.load(str(root))
    count = len(after.train_labels) + len(after.val_labels)
    assert count == {"add": 13, "remove": 11}.get(change, 12)
    if change != "rename":
        assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text", "folder"])
def test_damaged_cache_is_rebuilt(tmp_path: Path, cache: Path, damage: str) -> None:
    root = str(fill(tmp_path / "pets"))
    first = datasets.load(root)
    (file,) = (cache / name for name in kept(cache))
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"flip": bytes(whole), "truncate": bytes(whole[:500]), "empty": b""}.get(damage, b"?"))
    assert datasets.load(root).fingerprint == first.fingerprint
    assert datasets.load(root).fingerprint == first.fingerprint
    assert len(kept(cache)) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert datasets.load(str(fill(tmp_path / "pets"))).num_classes == 2


def test_saved_file_needs_no_pickle_and_keeps_everything(tmp_path: Path) -> None:
    data = datasets.load("digits") if "sklearn" in sys.modules else datasets.load(image_size=8)
    datasets.save(data, tmp_path / "d.npz", key="k")
    loaded = datasets.read(tmp_path / "d.npz", key="k")
    assert (loaded.name, loaded.classes, loaded.flip, loaded.note, loaded.fingerprint) == (
        data.name,
        data.classes,
        data.flip,
        data.note,
        data.fingerprint,
    )
    with pytest.raises(ValueError, match="another key"):
        datasets.read(tmp_path / "d.npz")
