"""The layout of a folder of images: its splits, its classes, the files of each class."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from nas.base import units
from nas.base.errors import UserError

# Names of split folders, as in Hugging Face's datasets
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
LIKE_SPLIT = re.compile(rf"(?:^|[^a-z])({'|'.join(SPLITS)})(?:set|data|images)?(?:[^a-z]|$)")  # train_images, test2017
WANTED = "want train/CLASS/*, and perhaps val/CLASS/* and test/CLASS/*, or CLASS/*"
UNREADABLE = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # only identified by Pillow, or handed to other programs
LITTER = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
MANY = 10  # items that a message names at most
LONGEST = 200  # characters of a name in a message

Sample = tuple[Path, int]  # an image file and its label


@dataclass(frozen=True)
class Layout:
    """The folders that hold the classes of each split. Without `val`, part of `train` is set aside for validation."""

    train: Path
    val: Path | None = None
    test: Path | None = None
    left_out: tuple[Path, ...] = ()  # folders with images that belong to no split


@dataclass(frozen=True)
class Found:
    """The classes of a split and their image files, sorted by name; left_out: how many other files of which kind."""

    classes: tuple[str, ...]
    samples: list[Sample]
    left_out: tuple[tuple[int, str], ...]


def layout(root: Path) -> Layout:
    """The splits of a folder, recognised by name, ignoring case; without splits, its subfolders are classes.

    A subfolder that holds images itself is a class whatever its name, unless all are named like splits. Raises
    UserError for an ambiguous layout.
    """
    folders = _folders(root)
    splits = {folder: SPLITS[folder.name.casefold()] for folder in folders if folder.name.casefold() in SPLITS}
    if not splits:
        _refuse_alike(root, folders)
        return Layout(root)
    rest = tuple(folder for folder in folders if folder not in splits and _holds_images(folder))
    doubtful = bool(rest) and all(map(_count_images, splits))
    flat = [folder for folder in splits if _is_class(folder, doubtful)]
    if len(flat) == len(splits) and rest:
        return Layout(root)
    train, val, test = ([folder for folder in splits if splits[folder] == kind] for kind in ("train", "val", "test"))
    for same in (train, val, test):
        if len(same) > 1:
            raise UserError(f"data {shown(root)}: {_folder_names(same)} would be the same split; want one of them")
    if not train:
        raise UserError(f"data {shown(root)}: has {_folder_names(val + test)} but no train/; {WANTED}")
    if mixed := [folder for folder in train + val if folder in flat]:
        raise UserError(
            f"data {shown(root)}: images lie in {_folder_names(mixed)}, not in folders of classes; {WANTED}"
        )
    if rest and not val + test:
        raise UserError(
            f"data {shown(root)}: is {_folder_names(train)} a class, or are the training images in it? "
            f"Beside it are images in {_folder_names(rest)}; {WANTED}"
        )
    unlabelled = tuple(folder for folder in test if folder in flat)
    return Layout(train[0], next(iter(val), None), None if unlabelled else next(iter(test), None), rest + unlabelled)


def scan(root: Path, top: Path) -> Found:
    """The classes in `top`, a folder of the data set `root`, and the images below them, each file once.

    Links are followed, except to a folder above. Raises UserError when there are fewer than two classes, one without
    images, two of the same name, or one file in two of them.
    """
    folders = _folders(top)
    if len(folders) < 2:
        loose = _count_images(top)
        found = (
            f"only {_folder_names(folders)}"
            if folders
            else f"{loose} images outside of such folders"
            if loose
            else "none"
        )
        hint = f"; did you mean {shown(folders[0])}?" if folders and len(_folders(folders[0])) > 1 else ""
        raise UserError(f"data {shown(top)}: want two or more folders of images, one per class; found {found}{hint}")
    by_name: dict[str, Path] = {}
    for folder in folders:
        other = by_name.setdefault(class_name(folder.name), folder)
        if other != folder:
            raise UserError(f"data {shown(top)}: {other.name!a} and {folder.name!a} would be the same class")
        _refuse_inner_splits(folder)
    return _scanned(root, top, dict(sorted(by_name.items())))


def _scanned(root: Path, top: Path, folders: dict[str, Path]) -> Found:
    samples: list[Sample] = []
    owners: dict[str, Sample] = {}
    left_out: list[tuple[int, str]] = []
    for label, (name, folder) in enumerate(folders.items()):
        files = _files_below(folder, root)
        images = {real: path for real, path in files.items() if _is_image(path)}
        others = Counter(shown(path.suffix.lower() or path.name) for real, path in files.items() if real not in images)
        if not images:
            instead = f" that Pillow reads, but {_counted(others)}" if others else ""
            raise UserError(f"data {shown(folder)}: want images in it; there are none{instead}")
        if others:
            left_out.append((others.total(), f"{_counted(others)} in {shown(name)}/"))
        for real, path in images.items():
            first, owner = owners.setdefault(real, (path, label))
            if owner != label:
                both = f"{shown(first.relative_to(root))} and {shown(path.relative_to(root))}"
                raise UserError(f"data {shown(root)}: {both} are one file in two classes; remove one of them")
        samples += [(path, label) for path in sorted(images.values(), key=_order)]
    if loose := _count_images(top):
        left_out.append((loose, f"{loose} images beside the classes' folders"))
    return Found(tuple(folders), samples, tuple(left_out))


def _files_below(folder: Path, root: Path) -> dict[str, Path]:
    """All files below a folder, by their real path.

    Files found without following links keep their own name; then links are followed, to no folder twice and to none
    above.
    """
    real = os.path.realpath(folder)
    seen = {os.path.realpath(root), *map(str, (*Path(real).parents, *Path(os.path.realpath(root)).parents))} - {real}
    files: dict[str, Path] = {}
    folders, links = [folder], list[Path]()
    while folders or links:
        path = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(path)
        if not os.path.isdir(path):
            files.setdefault(real, path)
        elif real not in seen:
            seen.add(real)
            for entry in _entries(path):
                if entry.is_symlink():
                    links.append(path / entry.name)
                elif entry.is_dir():
                    folders.append(path / entry.name)
                else:
                    files.setdefault(os.path.join(real, entry.name), path / entry.name)
    return files


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name, without LITTER. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(LITTER)]
    except OSError as error:
        raise UserError(f"data {shown(folder)}: cannot be read ({error.strerror})") from error
    return sorted(visible, key=lambda entry: entry.name)


def _folders(folder: Path) -> list[Path]:
    """The subfolders, in order of name. Raises UserError for a link to nothing, where it may have been to a folder."""
    found = []
    for entry in _entries(folder):
        if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            found.append(folder / entry.name)
        elif entry.is_symlink() and "." not in entry.name and not os.path.exists(entry):
            raise UserError(f"data {shown(entry.path)}: is a link to nothing; restore what it led to, or remove it")
    return found


def _count_images(folder: Path) -> int:
    """How many images lie in a folder itself, not in one below it; 0 if it cannot be read, which may not be needed."""
    entries = _entries(folder) if os.access(folder, os.R_OK) else []
    return sum(_is_image(folder / entry.name) for entry in entries if not entry.is_dir())


def _holds_images(folder: Path) -> bool:
    """Whether there are images anywhere below."""
    if not os.access(folder, os.R_OK):
        return False
    return _count_images(folder) > 0 or any(map(_is_image, _files_below(folder, folder.parent).values()))


def _is_class(folder: Path, doubtful: bool) -> bool:
    """Whether a folder that is named like a split holds images itself; if not doubtful, not just beside its classes."""
    return _count_images(folder) > 0 and (doubtful or sum(map(_holds_images, _folders(folder))) < 2)


def _is_image(path: Path) -> bool:
    """Whether Pillow reads files of this name; pipes and devices, which may never end, do not count."""
    return path.suffix.lower() in _suffixes() and (os.path.isfile(path) or not os.path.exists(path))


@cache
def _suffixes() -> frozenset[str]:
    readable = {*readable_formats(), "MPO"}  # which Pillow's JPEG plugin reads
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in readable)


def readable_formats() -> tuple[str, ...]:
    """The formats that Pillow reads without another program."""
    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in UNREADABLE)


def _refuse_alike(root: Path, folders: Sequence[Path]) -> None:
    """Raises UserError where folders such as train_images/ and test2017/ hold further folders with images."""
    found = {folder: match[1] for folder in folders if (match := LIKE_SPLIT.search(folder.name.casefold()))}
    alike = {
        folder: SPLITS[word] for folder, word in found.items() if not _count_images(folder) and _holds_images(folder)
    }
    if len(set(alike.values())) > 1:
        names = ", ".join(f"{shown(folder.name)}/ to {kind}/" for folder, kind in alike.items())
        raise UserError(f"data {shown(root)}: these folders look like splits, not like classes; rename {names}")


def _refuse_inner_splits(folder: Path) -> None:
    """Raises UserError for a class that is divided into splits: its test images would be trained on."""
    inner = [path for path in _folders(folder) if path.name.casefold() in SPLITS]
    if len({SPLITS[path.name.casefold()] for path in inner}) > 1:
        raise UserError(f"data {shown(folder)}: has {_folder_names(inner)} inside of a class; {WANTED}")


def _order(path: Path) -> tuple[str, str]:
    """A key to sort the files of a class by, the same on every system."""
    return normal(str(path.parent)), normal(path.name)


def join_names(names: Sequence[str]) -> str:
    """Names for a message, at most MANY of them."""
    *most, last = [shown(name) for name in names[:MANY]]
    if len(names) > MANY:
        return f"{', '.join(most)}, {last} and {len(names) - MANY:,} more"
    return f"{', '.join(most)} and {last}" if most else last


def _folder_names(folders: Sequence[Path]) -> str:
    return join_names([f"{folder.name}/" for folder in folders])


def _counted(kinds: Counter[str]) -> str:
    named = [f"{count} {kind}" for kind, count in kinds.most_common(MANY)]
    return ", ".join([*named, f"{len(kinds) - MANY} other kinds"] if len(kinds) > MANY else named)


def normal(name: str) -> str:
    """A name in Unicode's composed form: the same whether it was written on Linux or on macOS."""
    return unicodedata.normalize("NFC", name)


def class_name(name: str) -> str:
    r"""The class name for a folder name: one line of valid text, with other bytes escaped as \xdc or \n."""
    return units.shown(normal(name))


def shown(name: Path | str) -> str:
    """A name for a message: one line of valid text, cut in the middle where it is long."""
    return units.shown(normal(str(name)), LONGEST)
