"""How the images of a folder are found: splits, classes, links, copies, names of every kind."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from nas import datasets
from nas.base.errors import UserError


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the images are; the cache is beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "pets"


def picture(seed: int) -> Image.Image:
    """A small image of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8))


def fill(folder: Path, *classes: str, count: int = 6) -> Path:
    """`count` images for each of the classes below `folder`, all of them different, whatever was made before."""
    for name in classes or ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(crc32(f"{folder / name} {i}".encode(errors="replace"))).save(folder / name / f"{i}.png")
    return folder


def load(root: Path) -> datasets.Dataset:
    return datasets.load(str(root), image_size=12)


def sizes(data: datasets.Dataset) -> tuple[int, int]:
    return len(data.train_labels), len(data.val_labels)


def refused(root: Path) -> str:
    """What is said of it: one line of text that can be printed."""
    with pytest.raises(UserError) as caught:
        load(root)
    text = str(caught.value)
    assert "\n" not in text
    text.encode()
    return text


# ---- splits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training"])
@pytest.mark.parametrize("val", ["val", "Val", "VALID", "validation", "dev"])
def test_splits_are_known_in_any_case(root: Path, train: str, val: str) -> None:
    fill(root / train)
    fill(root / val, count=2)
    fill(root / "Testing", count=3)
    data = load(root)
    assert (data.classes, sizes(data)) == (("cat", "dog"), (12, 4))
    assert f"the 4 images of {val}/" in data.note


@pytest.mark.parametrize("test", ["test", "TEST", "Testing", "eval"])
def test_test_images_stay_unseen_until_asked_for(root: Path, test: str) -> None:
    fill(root / "Training", count=12)
    fill(root / test, count=3)
    data = load(root)
    assert sizes(data) == (18, 6)
    assert sizes(datasets.load_test(datasets.Source(name=str(root)), data)) == (0, 6)


def test_a_folder_that_holds_images_is_a_class_whatever_its_name(root: Path) -> None:
    assert load(fill(root, "bus", "train", "tram")).classes == ("bus", "train", "tram")
    assert load(fill(root, "Test")).classes == ("Test", "bus", "train", "tram")


def test_classes_are_named_so_that_a_layout_taken_for_another_is_seen(root: Path) -> None:
    for view in ("front", "side"):
        fill(root / view, "cat", "dog")
    assert load(root).note.startswith("2 classes, front and side; ")


def unlabelled(root: Path) -> None:
    fill(root, "train", "test")


def unlabelled_val(root: Path) -> None:
    fill(root / "train")
    fill(root, "val")


def twice(root: Path) -> None:
    fill(root / "val")
    fill(root / "train")
    fill(root / "dev")


def test_beside_classes(root: Path) -> None:
    fill(root)
    fill(root / "test")


def train_beside_classes(root: Path) -> None:
    for name in ("bus", "train"):
        fill(root / name, "red", "blue")


def other_names(root: Path) -> None:
    fill(root / "seg_train")
    fill(root / "seg_test")


def sets(root: Path) -> None:
    fill(root / "TrainingSet2017")
    fill(root / "ValSet2017")


def splits_inside_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / name, "train", "test")


def wrapped(root: Path) -> None:
    fill(root / "pets-v2")


def link_to_nothing(root: Path) -> None:
    fill(root / "train")
    (root / "val").symlink_to(root / "gone")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (unlabelled, ["images lie in train/, not in folders of classes; want train/CLASS/*"]),
        (unlabelled_val, ["images lie in val/, not in folders of classes; want train/CLASS/*"]),
        (twice, ["dev/ and val/ would be the same split"]),
        (test_beside_classes, ["has test/ but no train/; want train/CLASS/*"]),
        (train_beside_classes, ["is train/ a class", "bus/"]),
        (other_names, ["seg_test/ to test/, seg_train/ to train/"]),
        (sets, ["TrainingSet2017/ to train/, ValSet2017/ to val/"]),
        (splits_inside_classes, ["cat: has test/ and train/ inside of a class; want train/CLASS/*"]),
        (wrapped, ["found only pets-v2/; did you mean"]),
        (link_to_nothing, ["val: is a link to nothing"]),
    ],
)
def test_another_layout_is_refused_with_the_right_one(
    root: Path, make: Callable[[Path], None], said: list[str]
) -> None:
    make(root)
    text = refused(root)
    assert [part for part in said if part not in text] == []


def test_what_lies_beside_the_splits_is_said(root: Path) -> None:
    for name in ("train", "val"):
        fill(root / name)
    fill(root, "unlabelled")
    picture(0).save(root / "train" / "overview.png")
    assert "1 images beside the classes' folders; left out beside the splits: unlabelled/;" in load(root).note


def test_what_systems_leave_behind_is_no_class(root: Path) -> None:
    fill(root, "cat", "dog", "__MACOSX", ".Trash-1000", "@eaDir")
    (root / "lost+found").mkdir()
    assert load(root).classes == ("cat", "dog")


def test_a_locked_test_folder_does_not_stop_a_search(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def locked(path: str | Path) -> object:
        if Path(path).name in ("test", "private"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    for name in ("train", "test", "private"):
        fill(root / name)
    monkeypatch.setattr(os, "scandir", locked)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name not in ("test", "private"))
    data = load(root)
    assert sizes(data) == (8, 4)
    with pytest.raises(UserError, match=r"test: cannot be read \(Permission denied\)"):
        datasets.load_test(datasets.Source(name=str(root)), data)


# ---- files -----------------------------------------------------------------------------------------------


def test_links_that_lead_in_circles_count_no_image_twice(root: Path) -> None:
    fill(root, count=6)
    (root / "cat" / "again").symlink_to(".")
    (root / "cat" / "up").symlink_to("..")
    (root / "dog" / "root").symlink_to(root)
    (root / "dog" / "0 again.png").symlink_to("0.png")
    assert sizes(load(root)) == (8, 4)


def test_links_to_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    far = fill(tmp_path / "far", "cat", "more", "dogs")
    fill(root, "cat", "dog")
    (root / "cat" / "more").symlink_to(far / "more")
    (root / "cat" / "one.png").symlink_to(far / "cat" / "0.png")
    (far / "more" / "back").symlink_to(root / "cat")
    (root / "emu").symlink_to(far / "dogs")
    data = load(root)
    assert (data.classes, sum(sizes(data))) == (("cat", "dog", "emu"), 13 + 6 + 6)


@pytest.mark.parametrize("link", ["file", "folder", "class"])
def test_one_file_in_two_classes_is_refused(root: Path, link: str) -> None:
    fill(root)
    if link == "file":
        (root / "dog" / "x.png").symlink_to("../cat/3.png")
    elif link == "folder":
        (root / "dog" / "x").symlink_to("../cat")
    else:
        (root / "kitten").symlink_to("cat")
    text = refused(root)
    assert "are one file in two classes" in text
    assert "cat/" in text
    assert ("kitten/" if link == "class" else "dog/x") in text


def test_pipes_are_left_out(root: Path) -> None:
    os.mkfifo(fill(root) / "cat" / "x.png")
    data = load(root)
    assert sum(sizes(data)) == 12
    assert "; 1 files left out: 1 .png in cat/;" in data.note


@pytest.mark.parametrize("suffix", ["jp2", "tga", "AVIF", "jfif", "qoi", "ico", "dds", "gif", "mpo"])
def test_what_pillow_reads_is_an_image(root: Path, suffix: str) -> None:
    fill(root)
    picture(9).save(root / "dog" / f"9.{suffix}")
    data = load(root)
    assert sum(sizes(data)) == 13
    assert "left out" not in data.note


def test_what_is_left_out_is_counted_by_class(root: Path) -> None:
    fill(root, "cat", "dog", "emu")
    for name in ("cat/a.heic", "cat/b.HEIC", "cat/c.mp4", "dog/labels.txt", "dog/ps.eps", "dog/noext"):
        (root / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "; 6 files left out: 2 .heic, 1 .mp4 in cat/, 1 .txt, 1 noext, 1 .eps in dog/;" in load(root).note


def test_no_file_is_handed_to_another_program(root: Path) -> None:
    fill(root, count=60)
    (root / "cat" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "1 broken images skipped: cat/x.png (not an image that Pillow reads)" in load(root).note


# ---- copies ----------------------------------------------------------------------------------------------


def test_copies_are_on_one_side_of_the_split(root: Path) -> None:
    fill(root, count=30)
    for file in list(root.rglob("*.png")):
        shutil.copy(file, file.with_name(f"{file.stem} (copy).png"))
    data = load(root)
    train, val = ({image.numpy().tobytes() for image in part} for part in (data.train_images, data.val_images))
    assert (len(train), len(val), sizes(data)) == (44, 16, (88, 32))
    assert not train & val
    assert "60 images are copies" in data.note


def test_a_copy_does_not_move_other_images() -> None:
    names = [f"{i}.png" for i in range(30)]
    contents: list[bytes | None] = [name.encode() for name in names]
    _, aside = datasets.split(names, [0] * 30, 1 / 6, contents)
    again = datasets.split([*names, "7 (copy).png"], [0] * 31, 1 / 6, [*contents, contents[7]])
    assert again[1] == sorted([*aside, *([30] if 7 in aside else [])])


def test_a_class_of_copies_alone_is_split_and_that_is_said(root: Path) -> None:
    fill(root, "cat", "dog", count=12)
    for i in range(12):
        picture(1).save(root / "dog" / f"{i}.png")
    data = load(root)
    assert sizes(data) == (18, 6)
    assert "warning: 3 of the 6 validation images equal training images" in data.note


def test_equal_images_in_two_splits_are_said(root: Path) -> None:
    for name in ("train", "val", "test"):
        fill(root / name)
    for i in range(3):
        shutil.copy(root / "train" / "cat" / f"{i}.png", root / "val" / "cat" / f"{i}.png")
    (root / "test" / "dog" / "0.png").unlink()
    (root / "test" / "dog" / "0.png").symlink_to(root / "val" / "dog" / "1.png")
    data = load(root)
    assert "warning: 3 of the 12 validation images equal training images" in data.note
    held = datasets.load_test(datasets.Source(name=str(root)), data)
    assert "warning: 1 of the 12 test images equal images for training or validation" in held.note


def test_equal_images_of_two_classes_are_said(root: Path) -> None:
    fill(root)
    shutil.copy(root / "cat" / "0.png", root / "dog" / "0.png")
    assert "warning: 1 images equal one of another class, the first are cat/0.png and dog/0.png" in load(root).note


def test_broken_images_are_no_copies_of_each_other(root: Path) -> None:
    fill(root)
    for name in ("cat/8.png", "dog/8.png", "dog/9.png"):
        (root / name).write_bytes(b"")
    data = datasets.load(str(root), image_size=12, skip_broken=True)
    assert sizes(data) == (10, 2)
    assert "copies" not in data.note
    assert "equal" not in data.note


def test_broken_images_are_not_what_is_set_aside_of_a_small_class(root: Path) -> None:
    fill(root, count=5)
    first = load(root)
    for file in sorted(root.rglob("*.png")):  # one after the other, so that each is broken once, the one set aside, too
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        data = datasets.load(str(root), image_size=12, skip_broken=True)
        file.write_bytes(whole)
        assert sizes(data) == (7, 2)
        assert "1 broken images skipped" in data.note
    assert load(root).fingerprint == first.fingerprint


def test_broken_test_images_are_skipped_when_asked_for(root: Path) -> None:
    for name in ("train", "test"):
        fill(root / name)
    (root / "test" / "cat" / "0.png").write_bytes(b"")
    data = load(root)
    with pytest.raises(UserError, match=r"1 of 12 images are broken.*test/cat/0\.png \(empty\)"):
        datasets.load_test(datasets.Source(name=str(root)), data)
    held = datasets.load_test(datasets.Source(name=str(root), skip_broken=True), data)
    assert sizes(held) == (0, 11)
    assert "1 broken images skipped" in held.note


# ---- balance ---------------------------------------------------------------------------------------------


def test_a_class_with_most_images_and_few_validation_images_are_said(root: Path) -> None:
    fill(root, "ok", count=190)
    fill(root, "defect", count=10)
    first, most, few = load(root).lines
    assert first.startswith("data pets: 2 classes, defect and ok; ")
    assert most.startswith("warning: class ok has 95 % of the images")
    assert few.endswith(": defect 2")
    assert len(datasets.load().lines) == 1


# ---- names -----------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8_become_text(root: Path) -> None:
    fill(root, "cat")
    odd = Path(os.fsdecode(os.fsencode(root) + b"/\xdcber\n"))
    fill(odd.parent, odd.name)
    (odd / os.fsdecode(b"\xff.txt")).write_text("")
    data = load(root)
    assert data.classes == (r"\xdcber\n", "cat")
    assert r"1 .txt in \xdcber\n/" in data.note
    "\n".join(data.lines).encode()


def test_a_data_set_whose_own_name_is_not_text(root: Path) -> None:
    odd = fill(Path(os.fsdecode(os.fsencode(root.parent) + b"/p\xe9ts\n" + b"x" * 240)))
    data = load(odd)
    assert data.name.startswith(r"p\xe9ts\nxxx")
    assert data.note
    assert [name for name in os.listdir(root.parent / "cache" / "compound-nas") if name.endswith(".npz")]
    shutil.rmtree(odd / "cat")
    assert r"p\xe9ts\nxxx" in refused(odd)


def test_two_normal_forms_of_a_name_are_one_class(root: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    fill(root / "train", composed, "cat")
    fill(root / "val", decomposed, "cat")
    assert load(root).classes == (composed, "cat")
    fill(root / "train", decomposed)
    assert "would be the same class" in refused(root)


def test_the_split_is_the_same_for_every_normal_form(root: Path, tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        for name in ("é", "ö"):
            (tmp_path / form / unicodedata.normalize(form, name)).mkdir(parents=True)
            for i in range(12):
                file = tmp_path / form / unicodedata.normalize(form, name) / unicodedata.normalize(form, f"ü{i}.png")
                picture(ord(name) * 100 + i).save(file)
    assert load(tmp_path / "NFC").fingerprint == load(tmp_path / "NFD").fingerprint


@pytest.mark.parametrize(
    "name", ["日本", "a\tb", "x" * 255, "[red]cat[/red]", "$5", "=1+1", "-rf", "ﷺ", "کتاب‌ها", "🐈"]
)
def test_odd_names_are_classes(root: Path, name: str) -> None:
    fill(root, "cat", name)
    data = load(root)
    assert len(set(data.classes)) == 2
    assert all(line.isprintable() or "‌" in line for line in data.lines)
