"""The training, validation and test images of a folder, with notes on copies and on files left out."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.base.errors import UserError
from nas.datasets.cache import cache_directory, cache_name
from nas.datasets.layout import MANY, Sample, join_names, layout, normal, scan, shown
from nas.datasets.manifest import Content, contents_of
from nas.datasets.validation import reason, split, validation_share


@dataclass(frozen=True)
class File:
    """An image file, its label, and what it holds."""

    path: Path
    label: int
    content: Content


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The image files below `root` to train and to validate with."""

    root: Path
    classes: tuple[str, ...]
    train: list[File]
    val: list[File]
    split_here: bool  # whether validation images are set aside from the training images
    note: str  # one line: the classes, where validation images come from, what is wrong, what was left out


def find(root: Path, broken: Container[Path] = (), recheck: bool = False) -> Parts:
    """The images below a directory, without those known to be broken.

    recheck: read every file's bytes again. Raises UserError when the layout is not one of those that `load` names.
    """
    where = layout(root)
    found = scan(root, where.train)
    samples = [sample for sample in found.samples if sample[0] not in broken]
    left_out = list(found.left_out)
    if where.val:
        held = scan(root, where.val)
        _check_alike(root, where.train, found.classes, where.val, held.classes)
        files = _files(root, samples + held.samples, recheck)
        train, val = files[: len(samples)], files[len(samples) :]
        chosen = f"validation: the {len(val):,} images of {shown(where.val.name)}/"
        left_out += [(n, f"{text} of {shown(where.val.name)}/") for n, text in held.left_out]
    else:
        train, val, chosen = _split(_files(root, samples, recheck), where.train)
    note = f"{len(found.classes):,} classes, {join_names(found.classes)}; {chosen}"
    note += f"; the images of {shown(where.test.name)}/ are kept for nas.train --test" if where.test else ""
    note += _overlap_note(val, train, "validation images equal training images")
    note += _contradictions(root, train + val)
    note += _left_out(left_out)
    if where.left_out:
        note += f"; left out beside the splits: {join_names([f'{folder.name}/' for folder in where.left_out])}"
    return Parts(root=root, classes=found.classes, train=train, val=val, split_here=where.val is None, note=note)


def find_test(root: Path, classes: tuple[str, ...]) -> tuple[list[File], str]:
    """The test images below a directory, and a note. Raises UserError if there are none, or of other classes."""
    where = layout(root)
    if where.test is None:
        raise UserError(f"data {shown(root)}: has no test images; they would be in test/CLASS/*")
    found = scan(root, where.test)
    _check_alike(root, where.train, classes, where.test, found.classes)
    others = [sample for top in (where.train, where.val) if top for sample in scan(root, top).samples]
    files = _files(root, found.samples + others)
    held, known = files[: len(found.samples)], files[len(found.samples) :]
    note = f"the {len(held):,} images of {shown(where.test.name)}/"
    note += _overlap_note(held, known, "test images equal images for training or validation")
    return held, note + _left_out(found.left_out)


def _files(root: Path, samples: Sequence[Sample], recheck: bool = False) -> list[File]:
    manifest = cache_directory() / f".{cache_name(root)}.manifest"
    contents = contents_of(root, [path for path, _ in samples], manifest, recheck)
    return [File(*sample, content) for sample, content in zip(samples, contents, strict=True)]


def _split(files: Sequence[File], top: Path) -> tuple[list[File], list[File], str]:
    """Training images, a part set aside to validate with, and a note."""
    names = [normal(file.path.relative_to(top).as_posix()) for file in files]
    digests = [file.content.digest for file in files]
    labels = [file.label for file in files]
    share = validation_share(len(files), len(set(labels)))
    kept, aside = split(names, labels, share, digests)
    note = f"validation: {len(aside):,} of the {len(names):,} images{reason(share)}, "
    note += "set aside class by class, by file name"
    copies = len(digests) - len({digest or i for i, digest in enumerate(digests)})
    if copies:
        note += f"; {copies:,} images are copies, on the side of their original where a class has other images"
    return [files[i] for i in kept], [files[i] for i in aside], note


def _check_alike(root: Path, one: Path, classes: tuple[str, ...], other: Path, others: tuple[str, ...]) -> None:
    """Raises UserError when two splits have not the same classes."""
    odd = sorted(set(classes) ^ set(others))
    if odd:
        there, absent = (one, other) if odd[0] in classes else (other, one)
        near = [name for name in odd[1:] if name.casefold() == odd[0].casefold()]
        hint = f", which has {shown(near[0])}" if near else ""
        places = f"in {shown(there.name)}/ but not in {shown(absent.name)}/"
        raise UserError(f"data {shown(root)}: class {shown(odd[0])} is {places}{hint}")


def _left_out(files: Sequence[tuple[int, str]]) -> str:
    """How many files were left out, and where most of them were, as a part of a note."""
    if not files:
        return ""
    first = sorted(files, key=lambda counted: -counted[0])[:MANY]
    total = sum(count for count, _ in files)
    elsewhere = total - sum(count for count, _ in first)
    places = [text for _, text in first] + ([f"{elsewhere:,} elsewhere"] if elsewhere else [])
    return f"; {total:,} files left out: {', '.join(places)}"


def _overlap_note(held: Sequence[File], others: Sequence[File], which: str) -> str:
    """How many of the images held back are among the others, as a part of a note."""
    known = {file.content.digest for file in others} - {None}
    same = sum(file.content.digest in known for file in held)
    return f"; warning: {same:,} of the {len(held):,} {which}" if same else ""


def _contradictions(root: Path, files: Sequence[File]) -> str:
    """How many images are in another class, too, as a part of a note."""
    first: dict[bytes, File] = {}
    pairs = [(first.setdefault(file.content.digest, file), file) for file in files if file.content.digest]
    found = [(one, other) for one, other in pairs if one.label != other.label]
    if not found:
        return ""
    one, other = (shown(file.path.relative_to(root)) for file in found[0])
    return f"; warning: {len(found):,} images equal one of another class, the first are {one} and {other}"
