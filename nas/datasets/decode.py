"""From an image file to pixels: upright, in RGB, square, 8 bits a channel.

Images with more than 8 bits keep their grey levels: the range of values that the training images have becomes 0 to 255.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor

from nas.base.errors import UserError
from nas.datasets.layout import readable_formats
from nas.datasets.value import ValueRange

try:  # deprecated since torchvision 0.29
    from torchvision.io import ImageReadMode, decode_png
except ImportError:
    decode_png = None

DECODING = "2"  # part of the cache's key; raise it when the same file gives other pixels, traits or extremes
SIXTEEN_BITS = (0.0, 65535.0)  # the range of integers if the training images give none
ORIENTATION = 0x0112  # the EXIF tag
MUCH = 1 / 4  # share of an image's pixels that is much to cut away
MOST = (0.5, 99.5)  # percentiles that 99 % of an image's values lie between
NARROW = 64  # levels of 256: fewer in use are reported

Extremes = tuple[str, float, float]  # i: integers, f: floating-point numbers; the lowest and the highest finite one


@dataclass(frozen=True)
class Decoding:
    """How image files are decoded: size in pixels; how they become square; the values that become 0 and 255."""

    size: int
    resize: str = "crop"
    value_range: ValueRange | None = None

    def __str__(self) -> str:
        how = {
            "crop": f"resized by the shorter side and cropped to {self.size} pixels",
            "pad": f"resized by the longer side and padded with black to {self.size} pixels",
            "stretch": f"stretched to {self.size} pixels",
        }
        return how[self.resize]


@dataclass(frozen=True)
class Traits:
    """Facts about the decoding of an image.

    cut: the share of its pixels that was cut away. odd: some values are NaN or infinite. shortened: it has 16 bits a
    colour, of which the lower 8 were dropped. levels: where 99 % of its pixels lie between 0 and 255, if it has more
    than 8 bits and was scaled; else None.
    """

    cut: float
    odd: bool
    shortened: bool
    levels: tuple[float, float] | None


def decode(path: Path, how: Decoding) -> tuple[torch.Tensor, Traits]:
    """The upright image, scaled with antialiasing: uint8 [3, size, size].

    Raises errors of any class, as PIL's decoders do for broken files.
    """
    with Image.open(path, formats=readable_formats()) as image:
        coloured = _has_16_bit_colours(image)
        image.draft("RGB", (2 * how.size, 2 * how.size))  # a large JPEG is decoded no larger than needed
        values = _deep_values(image, path)
        whole = image if values is None else _in_8_bits(values, how.value_range)
        if values is not None:
            whole.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
        rgb = _rgb(ImageOps.exif_transpose(whole))
    cut = 1 - min(rgb.size) / max(rgb.size) if how.resize == "crop" else 0.0
    odd = values is not None and not np.isfinite(values).all()
    levels = None if values is None else tuple(np.percentile(np.asarray(whole), MOST).tolist())
    return pil_to_tensor(_square(rgb, how)), Traits(cut, odd, coloured and values is None, levels)


def find_range(root: Path, images: Sequence[tuple[Path, Extremes | None]]) -> ValueRange | None:
    """The lowest and the highest finite value of all images with more than 8 bits; None if there are none.

    Raises UserError where some have integers and others floating-point numbers.
    """
    found = [(file, values) for file, values in images if values]
    if not found:
        return None
    kinds = {kind: file.relative_to(root) for file, (kind, _, _) in found}
    if len(kinds) > 1:
        raise UserError(
            f"data {root}: {kinds['f']} has floating-point pixels and {kinds['i']} integers of more than 8 bits, which "
            "have no common range; convert one kind to the other"
        )
    return min(low for _, (_, low, _) in found), max(high for _, (_, _, high) in found)


def summary(how: Decoding, traits: Sequence[Traits]) -> list[str]:
    """Notes on decoded images, as parts of a sentence."""
    notes = []
    cut = sum(each.cut for each in traits) / max(1, len(traits))
    if much := sum(each.cut > MUCH for each in traits):
        notes.append(
            f"the crop cuts away {cut:.1%} of the pixels, and more than a quarter of {much:,} of {len(traits):,} "
            "images (--resize pad or stretch keeps all)"
        )
    elif cut >= 0.0005:
        notes.append(f"the crop cuts away {cut:.1%} of the pixels")
    if deep := [each.levels for each in traits if each.levels]:
        low, high = how.value_range or SIXTEEN_BITS
        notes.append(
            f"{len(deep):,} of {len(traits):,} images have more than 8 bits: {low:g} to {high:g} became 0 to 255"
        )
        first, last = min(levels[0] for levels in deep), max(levels[1] for levels in deep)
        if 0 < last - first < NARROW:
            notes.append(
                f"99 % of their values lie between {first:.0f} and {last:.0f} then, so few of the 256 levels are used; "
                "clip the few extreme values, which make the range wide, in the files"
            )
    if odd := sum(each.odd for each in traits):
        notes.append(f"{odd:,} images have values that are NaN (taken for the lowest) or infinite")
    if shortened := sum(each.shortened for each in traits):
        notes.append(f"of {shortened:,} images with 16 bits a colour only the upper 8 are used; save them as PNG")
    return notes


def _square(image: Image.Image, how: Decoding) -> Image.Image:
    size = (how.size, how.size)
    if how.resize == "crop":
        return ImageOps.fit(image, size)
    if how.resize == "stretch":
        return image.resize(size)
    width, height = (max(1, round(side * how.size / max(image.size))) for side in image.size)
    padded = Image.new("RGB", size)
    padded.paste(image.resize((width, height)), ((how.size - width) // 2, (how.size - height) // 2))
    return padded


def _rgb(image: Image.Image) -> Image.Image:
    """An 8-bit image in RGB, on white where it is transparent."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _deep_values(image: Image.Image, path: Path) -> np.ndarray | None:
    """The values of an image with more than 8 bits, [h, w] or [h, w, channels]; None where 8 bits hold all."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)
    if decode_png and image.format == "PNG" and _has_16_bit_colours(image):  # PIL would drop the lower 8 bits
        content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        return decode_png(content, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()  # type: ignore[no-any-return]
    return None


def _has_16_bit_colours(image: Image.Image) -> bool:
    """Whether an image that was opened and not decoded yet has 16 bits in each of several channels."""
    return not image.mode.startswith("I") and any(";16" in str(tile) for tile in getattr(image, "tile", ()))


def extremes(file: Path) -> Extremes | None:
    """The lowest and highest value of an image with more than 8 bits; None for other images and broken ones.

    Raises OSError and MemoryError if the machine is at fault, not the file.
    """
    try:
        with Image.open(file, formats=readable_formats()) as image:
            values = _deep_values(image, file)
    except Exception as error:  # a broken one is counted when it is decoded
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            raise
        return None
    if values is None:
        return None
    colours = _colours(values)
    finite = colours[np.isfinite(colours)]
    return ("f" if values.dtype.kind == "f" else "i", float(finite.min()), float(finite.max())) if finite.size else None


def _colours(values: np.ndarray) -> np.ndarray:
    """The values without opacity, which is the last of two or four channels."""
    return values[..., :-1] if values.ndim == 3 and values.shape[2] in (2, 4) else values


def _in_8_bits(values: np.ndarray, value_range: ValueRange | None) -> Image.Image:
    """The values scaled so that their range becomes 0 to 255, on white where transparent; NaN becomes 0.

    Raises ValueError where nothing is finite, or the range of floating-point numbers is not known.
    """
    if value_range is None and values.dtype.kind == "f":
        raise ValueError("floating-point pixels, but none among the training images")
    if not np.isfinite(values).any():
        raise ValueError("no pixel has a finite value")
    low, high = value_range or SIXTEEN_BITS
    colours = _colours(values)
    unit = (colours.astype(np.float64) - low) / ((high - low) or 1)
    unit = np.nan_to_num(unit, nan=0, posinf=1, neginf=0).clip(0, 1)
    if colours.shape != values.shape:
        opacity = values[..., -1:] / SIXTEEN_BITS[1]
        unit = unit * opacity + (1 - opacity)
    pixels = np.rint(255 * unit).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
