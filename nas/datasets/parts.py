"""The images of a folder for each purpose, and what is to be said of them: copies, and what was left out."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.base.errors import UserError
from nas.datasets.cache import cache_directory, place_of
from nas.datasets.layout import MANY, Found, Sample, layout, listed, normal, scan, shown
from nas.datasets.manifest import Content, contents_of
from nas.datasets.value import split

SHARE = 1 / 6  # of a folder's images set aside when it has no val/


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Image files to train and to validate with, and what all of them hold, in that order."""

    classes: tuple[str, ...]
    train: list[Sample]
    val: list[Sample]
    contents: list[Content]
    split_here: bool  # whether validation images are set aside from the training images
    note: str  # one line: the classes, where validation images come from, what is wrong, what was left out


def find(root: Path, broken: Container[Path] = (), recheck: bool = False) -> Parts:
    """The images below a directory, without those known to be broken.

    recheck: read every file's bytes again. Raises UserError when the layout is not one of those that `load` names.
    """
    where = layout(root)
    found = scan(root, where.train)
    found = replace(found, samples=[sample for sample in found.samples if sample[0] not in broken])
    if where.val:
        held = scan(root, where.val)
        _check_alike(root, where.train, found.classes, where.val, held.classes)
        train, val = found.samples, held.samples
        contents = _contents(root, train + val, recheck)
        note = f"validation: the {len(val):,} images of {shown(where.val.name)}/"
        left_out = [*found.left_out, *((n, f"{text} of {shown(where.val.name)}/") for n, text in held.left_out)]
    else:
        train, val, contents, note = _split(root, found, where.train, recheck)
        left_out = list(found.left_out)
    note = f"{len(found.classes):,} classes, {listed(found.classes)}; {note}"
    note += f"; the images of {shown(where.test.name)}/ are kept for nas.train --test" if where.test else ""
    note += _seen(contents[len(train) :], contents[: len(train)], "validation images equal training images")
    note += _contradictions(root, train + val, contents)
    note += _left_out(left_out)
    if where.left_out:
        note += f"; left out beside the splits: {listed([f'{folder.name}/' for folder in where.left_out])}"
    return Parts(
        classes=found.classes, train=train, val=val, contents=contents, split_here=where.val is None, note=note
    )


def find_test(root: Path, classes: tuple[str, ...]) -> tuple[list[Sample], str]:
    """The test images below a directory, and a note. Raises UserError if there are none, or of other classes."""
    where = layout(root)
    if where.test is None:
        raise UserError(f"data {shown(root)}: has no test images; they would be in test/CLASS/*")
    found = scan(root, where.test)
    _check_alike(root, where.train, classes, where.test, found.classes)
    others = [sample for top in (where.train, where.val) if top for sample in scan(root, top).samples]
    contents = _contents(root, found.samples + others)
    held, known = contents[: len(found.samples)], contents[len(found.samples) :]
    note = f"the {len(found.samples):,} images of {shown(where.test.name)}/"
    note += _seen(held, known, "test images equal images for training or validation")
    return found.samples, note + _left_out(found.left_out)


def _contents(root: Path, samples: Sequence[Sample], recheck: bool = False) -> list[Content]:
    manifest = cache_directory() / f".{place_of(root)}.manifest"
    return contents_of(root, [path for path, _ in samples], manifest, recheck)


def _split(root: Path, found: Found, top: Path, recheck: bool) -> tuple[list[Sample], list[Sample], list[Content], str]:
    """Training images, a part set aside to validate with, what both hold, and a note."""
    names = [normal(path.relative_to(top).as_posix()) for path, _ in found.samples]
    contents = _contents(root, found.samples, recheck)
    digests = [content.digest for content in contents]
    kept, aside = split(names, [label for _, label in found.samples], SHARE, digests)
    note = f"validation: {len(aside):,} of the {len(names):,} images, set aside class by class, by file name"
    copies = len(digests) - len({digest or i for i, digest in enumerate(digests)})
    if copies:
        note += f"; {copies:,} images are copies, on the side of their original where a class has other images"
    train, val = ([found.samples[i] for i in part] for part in (kept, aside))
    return train, val, [contents[i] for i in kept + aside], note


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


def _seen(held: Sequence[Content], others: Sequence[Content], which: str) -> str:
    """How many of the images held back are among the others, as a part of a note."""
    known = {content.digest for content in others} - {None}
    same = sum(content.digest in known for content in held)
    return f"; warning: {same:,} of the {len(held):,} {which}" if same else ""


def _contradictions(root: Path, samples: Sequence[Sample], contents: Sequence[Content]) -> str:
    """How many images are in another class, too, as a part of a note."""
    first: dict[bytes, Sample] = {}
    found = []
    for (path, label), content in zip(samples, contents, strict=True):
        if content.digest and first.setdefault(content.digest, (path, label))[1] != label:
            found.append((first[content.digest][0], path))
    if not found:
        return ""
    one, other = (shown(path.relative_to(root)) for path in found[0])
    return f"; warning: {len(found):,} images equal one of another class, the first are {one} and {other}"
