"""Data sets: the embedded default, named ones, folders of images - all decoded, in memory, split in two.

Below the proxy trainer, above nothing but `errors`. Search sees training and validation images only:
validation images always come from a set's training part, and a test set is never opened.
"""

import difflib
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from uuid import uuid4

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension, make_dataset
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from nas.errors import UserError

DEFAULT = "fashion-mnist-12k"
EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist" / "fashion_mnist_12k.npz"
FORMAT = "1"  # of cached files; raise it when decoding changes
SIZES = range(8, 1025)  # image sizes that make sense, in pixels
FOLDER_SIZE = 64  # of folders whose images are not smaller
FOLDER_SHARE = 1 / 6  # of a folder's images set aside when it has no val/
VAL_FOLDERS = ("val", "valid", "validation")
PARTS = ("train_images", "train_labels", "val_images", "val_labels")

Sample = tuple[Path, int]  # an image file and its label


@dataclass(frozen=True, eq=False)
class Dataset:
    """Square images and their labels in two disjoint parts.

    Images are uint8 [n, channels, height, width] with height == width, labels int64 [n], counted from 0.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    val_images: torch.Tensor
    val_labels: torch.Tensor
    classes: tuple[str, ...]
    flip: bool  # whether a mirrored image keeps its label
    note: str  # one line: where validation images come from, what was skipped or resized

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train_images.shape[2]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hex digits of a sha256 of all that training sees: classes, pixels, labels."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for part in (getattr(self, name) for name in PARTS):
            digest.update(str(tuple(part.shape)).encode())
            digest.update(part.contiguous().view(-1).numpy())
        return digest.hexdigest()[:16]


def load(source: str | None = None, *, image_size: int | None = None, download: bool = True) -> Dataset:
    """The data set of that name, or the images of that folder.

    `source`: a key of `LOADERS` (None: the embedded default), or a directory with `train/CLASS/*` and perhaps
    `val/CLASS/*`, or with `CLASS/*`. `image_size`: 8 to 1024 pixels; None keeps a named set as it is and
    gives a folder 64, or less if its images are smaller. `download`: whether the internet may be used.
    Raises UserError for every mistake in these, and for data that cannot be used or does not fit in memory.
    """
    source = DEFAULT if source is None else source
    if image_size is not None and image_size not in SIZES:
        raise UserError(f"image size {image_size}: want {SIZES[0]} to {SIZES[-1]} pixels")
    if source in LOADERS:
        return _resized(LOADERS[source](download), image_size)
    path = Path(source).expanduser()
    if source and path.is_dir():
        return _folder(Path(os.path.abspath(path)), image_size)
    if source and path.exists():
        raise UserError(f"data {source}: is a file; want a folder with one subfolder of images per class")
    near = difflib.get_close_matches(source.lower(), LOADERS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"data {source!r}: no such folder and no known name ({', '.join(LOADERS)}){hint}")


# ---- splits ----------------------------------------------------------------------------------------------


def split(keys: Sequence[str], labels: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Indices (kept, set aside): of every class round(n · share), but one at least, is set aside.

    Images are drawn by the hash of their key. So the split is fixed for ever, whatever the library version,
    and a new image does not move the others.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i in sorted(range(len(keys)), key=lambda i: hashlib.sha256(os.fsencode(keys[i])).digest()):
        members[labels[i]].append(i)
    kept, aside = [], []
    for drawn in members.values():
        cut = max(1, round(len(drawn) * share))
        aside += drawn[:cut]
        kept += drawn[cut:]
    return sorted(kept), sorted(aside)


def hold_out(
    name: str, images: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], share: float, flip: bool
) -> Dataset:
    """The Dataset that sets a share of these training images aside for validation, by their index."""
    train, val = split([str(i) for i in range(len(labels))], labels.tolist(), share)
    note = f"validation: {len(val):,} of the {len(labels):,} training images, set aside class by class"
    return Dataset(name, images[train], labels[train], images[val], labels[val], tuple(classes), flip, note)


# ---- named sets ------------------------------------------------------------------------------------------


def _torchvision(name: str, kind: str, share: float, download: bool) -> Dataset:
    """The training images of `torchvision.datasets.<kind>`, downloaded once. Raises UserError if it fails."""
    path = cache_directory() / f"{name}.npz"

    def build() -> Dataset:
        remedy = f"copy {path} from a machine that has it, or use {DEFAULT}, which needs no download"
        if not download:
            raise UserError(f"data {name}: not downloaded yet; allow the download, {remedy}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A temporary folder: what an interrupted download leaves behind is never taken for the data.
            with TemporaryDirectory(dir=path.parent) as folder:
                raw = getattr(torchvision.datasets, kind)(folder, train=True, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"data {name}: cannot be downloaded ({reason}); {remedy}") from error
        pixels = torch.as_tensor(raw.data)
        images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        return hold_out(name, images, torch.as_tensor(raw.targets), raw.classes, share, flip=True)

    return _cached(path, FORMAT, build)


def _digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey. Raises UserError when scikit-learn is absent."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("data digits: needs scikit-learn; pip install 'compound-nas[digits]'") from None
    raw = load_digits()
    images = torch.from_numpy((raw.images * (255 / 16)).round().astype(np.uint8))[:, None]
    classes = [str(digit) for digit in raw.target_names]
    return hold_out("digits", images, torch.from_numpy(raw.target).long(), classes, 1 / 6, flip=False)


# From a name to a loader; its argument says whether it may download.
LOADERS: dict[str, Callable[[bool], Dataset]] = {
    DEFAULT: lambda _: read(EMBEDDED),
    "fashion-mnist": partial(_torchvision, "fashion-mnist", "FashionMNIST", 1 / 6),
    "cifar10": partial(_torchvision, "cifar10", "CIFAR10", 1 / 10),
    "cifar100": partial(_torchvision, "cifar100", "CIFAR100", 1 / 10),
    "digits": lambda _: _digits(),
}


def _resized(data: Dataset, size: int | None) -> Dataset:
    """The same data set at `size` pixels, antialiased. Raises UserError when it would not fit in memory."""
    if size is None or size == data.image_size:
        return data
    _check_memory(len(data.train_labels) + len(data.val_labels), data.channels, size)

    def scaled(images: torch.Tensor) -> torch.Tensor:  # in pieces: some paths go through float32
        return torch.cat([resize(piece, [size, size], antialias=True) for piece in torch.split(images, 1024)])

    note = f"{data.note}; resized from {data.image_size} to {size} pixels"
    return replace(data, train_images=scaled(data.train_images), val_images=scaled(data.val_images), note=note)


# ---- folders of images -----------------------------------------------------------------------------------


def _folder(root: Path, image_size: int | None) -> Dataset:
    """The images below a directory in RGB, from the cache when no byte of them has changed.

    Raises UserError when the layout is not one of those that `load` names, or too many images are broken.
    """
    top = root / "train" if (root / "train").is_dir() else root
    val_top = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if val_top and top == root:
        raise UserError(f"data {root}: has {val_top.name}/ but no train/ beside it")
    classes, train, others = _scan(top)
    if val_top:
        val_classes, val, more = _scan(val_top)
        if odd := set(classes) ^ set(val_classes):
            raise UserError(f"data {root}: class {min(odd)} is not in both train/ and {val_top.name}/")
        others += more
        note = f"validation: the {len(val):,} images of {val_top.name}/"
    else:
        names = [path.relative_to(top).as_posix() for path, _ in train]
        kept, aside = split(names, [label for _, label in train], FOLDER_SHARE)
        note = f"validation: {len(aside):,} of the {len(train):,} images, set aside class by class, by file name"
        train, val = [train[i] for i in kept], [train[i] for i in aside]
    size = image_size or _usual_size(train)
    _check_memory(len(train) + len(val), 3, size)
    note += f"; resized by the shorter side and cropped to {size} pixels"
    if others:
        note += f"; {len(others)} files of other kinds ignored, the first {others[0].relative_to(root)}"
    place = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]  # one cache file per folder and size, no more
    return _cached(
        cache_directory() / f"{root.name}-{place}-{size}.npz",
        _content_key(root, train + val, f"{FORMAT} {note}"),
        lambda: _decoded(root, train, val, classes, size, note),
    )


def _scan(top: Path) -> tuple[tuple[str, ...], list[Sample], list[Path]]:
    """The classes in `top`, the images below them, the other files; all in order of name.

    Raises UserError when there are fewer than two classes, or one without images.
    """

    def visible(path: str | Path) -> bool:  # passes over .ipynb_checkpoints, ._cat.jpg, __MACOSX
        return not any(part.startswith((".", "__MACOSX")) for part in Path(path).relative_to(top).parts)

    try:
        classes = tuple(sorted(entry.name for entry in top.iterdir() if entry.is_dir() and visible(entry)))
    except OSError as error:
        raise UserError(f"data {top}: cannot be read ({error.strerror})") from error
    if len(classes) < 2:
        found = f"only {classes[0]}/" if classes else "none"
        raise UserError(f"data {top}: want two or more folders of images, one per class; found {found}")
    labels = {name: label for label, name in enumerate(classes)}
    files = make_dataset(str(top), labels, is_valid_file=visible, allow_empty=True)
    images = [(Path(file), label) for file, label in files if has_file_allowed_extension(file, IMG_EXTENSIONS)]
    others = [Path(file) for file, _ in files if not has_file_allowed_extension(file, IMG_EXTENSIONS)]
    if empty := set(labels.values()) - {label for _, label in images}:
        raise UserError(f"data {top / classes[min(empty)]}: want images in it ({' '.join(IMG_EXTENSIONS)})")
    return classes, images, others


def _usual_size(samples: Sequence[Sample]) -> int:
    """64, or the median shorter side of some 500 of the images, in steps of 4 pixels, if that is smaller."""
    sides = [FOLDER_SIZE]
    for path, _ in samples[:: max(1, len(samples) // 500)]:
        with suppress(Exception), Image.open(path) as image:  # a broken one is counted when decoded
            sides.append(min(image.size))
    return max(SIZES[0], min(FOLDER_SIZE, int(median(sides[1:] or sides)) // 4 * 4))


def _decoded(
    root: Path, train: list[Sample], val: list[Sample], classes: tuple[str, ...], size: int, note: str
) -> Dataset:
    """The Dataset of these files. Raises UserError when over 1 % are broken, or all of a class in a part."""
    samples = train + val
    images = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    good: list[int] = []
    with ThreadPoolExecutor() as pool:
        for i, pixels in enumerate(pool.map(lambda sample: _decode(sample[0], size), samples)):
            if pixels is not None:
                images[len(good)] = pixels
                good.append(i)
    if broken := sorted(set(range(len(samples))) - set(good)):
        first = samples[broken[0]][0].relative_to(root)
        if len(broken) > len(samples) / 100:
            raise UserError(
                f"data {root}: {len(broken)} of {len(samples)} images cannot be decoded, the first is "
                f"{first}; want 1 % at most: repair or remove them"
            )
        note += f"; {len(broken)} broken images skipped, the first {first}"
    labels = torch.tensor([samples[i][1] for i in good])
    border, end = sum(i < len(train) for i in good), len(good)
    for part, present in (("training", labels[:border]), ("validation", labels[border:])):
        if missing := set(range(len(classes))) - set(present.tolist()):
            raise UserError(f"data {root}: class {classes[min(missing)]} has too few images, none for {part}")
    parts = images[:border], labels[:border], images[border:end], labels[border:]
    return Dataset(root.name, *parts, classes, True, note)


def _decode(path: Path, size: int) -> torch.Tensor | None:
    """The upright image's centre square, scaled with antialiasing: uint8 [3, size, size]; None if broken."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * size, 2 * size))  # a large JPEG is decoded no larger than needed
            square = ImageOps.fit(_rgb(ImageOps.exif_transpose(image)), (size, size))
            pixels: torch.Tensor = pil_to_tensor(square)
            return pixels
    except Exception:  # PIL's decoders meet broken bytes with errors of every class
        return None


def _rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, on white where transparent. Raises ValueError where the range is unknown."""
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):  # 16 bits; convert() would clip all but the darkest to white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


# ---- memory and cache ------------------------------------------------------------------------------------


def _available_memory() -> int:
    """Bytes of memory that are free now (Linux) or built in (elsewhere); without limit where nobody knows."""
    with suppress(OSError, IndexError):
        return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 2**62


def _check_memory(count: int, channels: int, size: int) -> None:
    """Raises UserError when so many decoded images would take more than half of the memory."""
    need, limit = count * channels * size**2, _available_memory() // 2
    if need > limit:
        fitting = int((limit / (count * channels)) ** 0.5) // 8 * 8
        advice = f"an image size of {fitting} pixels or less" if fitting in SIZES else "fewer images"
        raise UserError(
            f"{count:,} images of {size} pixels need {need / 1e9:.1f} GB decoded, more than half of the free "
            f"memory ({limit / 1e9:.1f} GB); use {advice}"
        )


def cache_directory() -> Path:
    """Where downloads and decoded images are kept: $XDG_CACHE_HOME/compound-nas, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compound-nas"


def _content_key(root: Path, samples: Sequence[Sample], heading: str) -> str:
    """A sha256 over names and bytes: times and sizes can lie (cp -p, checkouts), bytes cannot."""

    def content(sample: Sample) -> bytes:
        with suppress(OSError), open(sample[0], "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
        return bytes(32)  # unreadable: decoding will count it as broken

    digest = hashlib.sha256(os.fsencode(heading))
    with ThreadPoolExecutor() as pool:
        for (path, _), value in zip(samples, pool.map(content, samples), strict=True):
            digest.update(os.fsencode(path.relative_to(root)) + b"\0" + value)
    return digest.hexdigest()


def _cached(path: Path, key: str, build: Callable[[], Dataset]) -> Dataset:
    """What was saved at `path` under `key`, else what `build` makes, saved there."""
    with suppress(Exception):  # absent, stale or damaged: the same to us
        return read(path, key)
    data = build()
    with suppress(OSError):  # the cache only saves time; a full disk must not end a run
        save(data, path, key)
    return data


def save(data: Dataset, path: Path, key: str = "", compress: bool = False) -> None:
    """Write an .npz without pickle, at once or not at all; equal data gives equal bytes. Raises OSError."""
    arrays = {part: getattr(data, part).numpy() for part in PARTS}
    about = np.array(json.dumps([key, data.name, data.classes, data.flip, data.note]))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            (np.savez_compressed if compress else np.savez)(file, about=about, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, key: str = "") -> Dataset:
    """The inverse of `save`. Raises ValueError for another key, and many an error for a damaged file."""
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        saved_key, name, classes, flip, note = json.loads(str(file["about"]))
        if saved_key != key:
            raise ValueError(f"{path}: saved under another key")
        tensors = {part: torch.from_numpy(file[part]) for part in PARTS}
    return Dataset(name=name, classes=tuple(classes), flip=flip, note=note, **tensors)
