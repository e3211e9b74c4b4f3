"""What `nas.datasets` makes of image files: all grey levels, and all of a picture that is not square."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas import datasets
from nas.base.errors import UserError
from nas.training import trained
from tests.helpers.commands import Command

NET = "16px stem8 ds_r1_k3_s1_e1_c8 head16"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))


def ramp(most: float, dtype: str = "uint16") -> np.ndarray:
    """Values from 0 to `most`, [16, 16]."""
    return np.linspace(0, most, 256).reshape(16, 16).astype(dtype)


def write(folder: Path, values: np.ndarray, suffix: str = ".png", count: int = 3) -> Path:
    """Two classes, each of equal images in train/ and val/."""
    for part in ("train", "val"):
        for name in "ab":
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.fromarray(values).save(folder / part / name / f"{i}{suffix}")
    return folder


def write_png(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits a channel, which PIL cannot write: grey with opacity, RGB or RGBA, from uint16 [h, w, c]."""
    height, width, channels = values.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def levels(images: torch.Tensor) -> int:
    return len(images.unique())


# ---- more than 8 bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1023, 4095, 65535])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_images_of_10_12_and_16_bits_keep_their_grey_levels(tmp_path: Path, most: int, suffix: str) -> None:
    data = datasets.load(str(write(tmp_path / "x", ramp(most), suffix)), image_size=16)
    assert data.value_range == (0, most)
    assert levels(data.train_images) == levels(data.val_images) == 256
    assert f"12 of 12 images have more than 8 bits: 0 to {most} became 0 to 255" in data.note.replace("e+", "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (ramp(4095, ">u2"), (0, 4095)),
        (ramp(100_000, "int32"), (0, 100_000)),
        (ramp(100, "int32") - 50, (-50, 50)),
        (ramp(1.5, "float32") - 0.5, (-0.5, 1)),
    ],
    ids=["big-endian", "32 bits", "negative", "float"],
)
def test_other_deep_tiffs_keep_theirs(tmp_path: Path, values: np.ndarray, expected: tuple[float, float]) -> None:
    data = datasets.load(str(write(tmp_path / "x", values, ".tiff")), image_size=16)
    assert data.value_range == expected
    assert levels(data.train_images) >= 100
    assert (int(data.train_images.min()), int(data.train_images.max())) == (0, 255)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour_pngs_of_16_bits_keep_their_levels(tmp_path: Path, channels: int) -> None:
    root = write(tmp_path / "x", ramp(4095))
    colours = np.stack([ramp(4095)] * channels, axis=2)
    if channels in (2, 4):
        colours[..., -1] = 65535
    for file in root.rglob("*.png"):
        write_png(file, colours)
    data = datasets.load(str(root), image_size=16)
    assert data.value_range == (0, 4095)
    assert levels(data.train_images) == 256


def test_a_constant_set_and_a_dark_one(tmp_path: Path) -> None:
    flat = datasets.load(str(write(tmp_path / "flat", np.full((16, 16), 700, "uint16"))), image_size=16)
    assert flat.train_images.unique().tolist() == [0]
    assert flat.value_range == (700, 700)


def test_extreme_values_that_leave_few_levels_for_the_others_are_said(tmp_path: Path) -> None:
    values = ramp(4095)
    values[7, 7] = 65535  # a defect of the sensor
    data = datasets.load(str(write(tmp_path / "x", values)), image_size=16)
    assert "99 % of their values lie between 0 and 16 then" in data.note
    assert "99 %" not in datasets.load(str(write(tmp_path / "y", ramp(4095))), image_size=16).note


def test_16_bit_colours_that_are_cut_short_are_said(tmp_path: Path) -> None:
    root = write(tmp_path / "x", np.full((16, 16, 3), 9, np.uint8), ".tiff")
    tags = [
        (256, 16),
        (257, 16),
        (258, 16 | 16 << 16),
        (259, 1),
        (262, 2),
        (273, 134),
        (277, 3),
        (278, 16),
        (279, 1536),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    entries = entries.replace(
        struct.pack("<HHII", 258, 3, 1, 16 | 16 << 16), struct.pack("<HHII", 258, 3, 3, 8 + 2 + 12 * len(tags) + 4)
    )
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + struct.pack("<HHH", 16, 16, 16)
    pixels = np.stack([ramp(4095)] * 3, axis=2).astype("<u2").tobytes()
    for file in root.rglob("*.tiff"):
        file.write_bytes(content.ljust(134, b"\0") + pixels)
    note = datasets.load(str(root), image_size=16).note
    assert "of 12 images with 16 bits a colour only the upper 8 are used; save them as PNG" in note


def test_nan_is_taken_for_the_lowest_value_and_said(tmp_path: Path) -> None:
    values = ramp(1, "float32")
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    data = datasets.load(str(write(tmp_path / "x", values, ".tiff")), image_size=16)
    assert data.train_images[0, 0, 0, :3].tolist() == [0, 255, 0]
    assert "12 images have values that are NaN" in data.note


def test_an_image_of_nan_alone_is_broken(tmp_path: Path) -> None:
    root = write(tmp_path / "x", ramp(1, "float32"), ".tiff")
    Image.fromarray(np.full((16, 16), np.nan, "float32")).save(root / "val" / "a" / "0.tiff")
    with pytest.raises(
        UserError, match=r"1 of 12 images are broken; .*: val/a/0\.tiff \(no pixel has a finite value\)"
    ):
        datasets.load(str(root), image_size=16)


def test_8_bit_images_among_deep_ones_stay_as_they_are(tmp_path: Path) -> None:
    root = write(tmp_path / "x", ramp(1000))
    Image.new("L", (16, 16), 77).save(root / "val" / "a" / "0.png")
    data = datasets.load(str(root), image_size=16)
    assert data.val_images[0].unique().tolist() == [77]
    assert "11 of 12 images have more than 8 bits" in data.note


def test_floats_and_integers_have_no_common_range(tmp_path: Path) -> None:
    root = write(tmp_path / "x", ramp(1000), ".tiff")
    Image.fromarray(ramp(1, "float32")).save(root / "train" / "b" / "1.tiff")
    with pytest.raises(UserError, match=r"train/b/1\.tiff has floating-point pixels and train/.*no common range"):
        datasets.load(str(root), image_size=16)


def test_the_range_is_that_of_the_training_images_wherever_the_images_are(tmp_path: Path) -> None:
    root = write(tmp_path / "x", ramp(1000))
    for part in ("val", "test"):
        for name in "ab":
            (root / part / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 16), 500, "uint16")).save(root / part / name / "0.png")
            Image.fromarray(np.full((16, 16), 4000, "uint16")).save(root / part / name / "1.png")
    data = datasets.load(str(root), image_size=16)
    test = datasets.load_test(datasets.Source(name=str(root)), data)
    for images in (data.val_images[:2], test.val_images[:2]):
        assert [image.unique().tolist() for image in images] == [[128], [255]]


def test_a_trained_network_takes_the_range_that_it_knows(here: Path, command: Command) -> None:
    """It is stored with the weights; export and a further training scale other images by it."""
    first, other = (write(here / f"bits{most}", ramp(most), count=6) for most in (1000, 4000))
    arguments = ["--epochs", "1", "--image-size", "16", "--device", "cpu"]
    assert command("train", NET, "--data", str(first), "--run", "t", *arguments).code == 0
    assert trained.read("runs/t").inputs.value_range == (0, 1000)
    ended = command("export", "t", "--data", str(other), "--images", "4")
    assert ended.code == 0
    assert "the values 0 to 1000 become 0 to 255" in ended.out
    ended = command("train", NET, "--data", str(other), "--run", "u", "--pretrained", "t", *arguments)
    assert ended.code == 0
    assert trained.read("runs/u").inputs.value_range == (0, 1000)


# ---- images that are not square --------------------------------------------------------------------------


def wide(folder: Path, size: tuple[int, int] = (72, 18)) -> Path:
    """Images whose class is told by their bright end: left or right."""
    pixels = np.full((size[1], size[0], 3), 60, np.uint8)
    eighth = size[0] // 8
    for part in ("train", "val"):
        for name, end in (("left", slice(0, eighth)), ("right", slice(-eighth, None))):
            (folder / part / name).mkdir(parents=True)
            image = pixels.copy()
            image[:, end] = 250
            for i in range(4):
                Image.fromarray(image).save(folder / part / name / f"{i}.png")
    return folder


def test_what_a_crop_cuts_away_is_said(tmp_path: Path) -> None:
    data = datasets.load(str(wide(tmp_path / "wide")))
    assert "the crop cuts away 75.0% of the pixels, and more than a quarter of 16 of 16 images" in data.note
    assert "--resize pad or stretch" in data.note
    assert datasets.load(str(wide(tmp_path / "square", (24, 24)))).note.endswith("cropped to 24 pixels")


@pytest.mark.parametrize("resize", ["pad", "stretch"])
def test_all_of_an_image_is_kept(tmp_path: Path, resize: str) -> None:
    data = datasets.load(str(wide(tmp_path / "wide")), image_size=16, resize=resize)
    left, right = data.train_images[0].float(), data.train_images[-1].float()
    assert left[0, 8, 0] > 200 > 100 > right[0, 8, 0]
    assert right[0, 8, -1] > 200
    assert data.resize == resize
    assert "crop" not in data.note
    top = left[:, :6].max()  # bars
    assert top == 0 if resize == "pad" else top > 200


@pytest.mark.parametrize("size", [(900, 1), (1, 900), (3, 2)])
@pytest.mark.parametrize("resize", datasets.RESIZES)
def test_images_of_every_shape_are_resized(tmp_path: Path, size: tuple[int, int], resize: str) -> None:
    root = write(tmp_path / "x", np.full((size[1], size[0], 3), 99, np.uint8))
    data = datasets.load(str(root), image_size=16, resize=resize)
    assert int(data.train_images.max()) == 99


def test_padded_images_are_by_default_as_large_as_their_longer_side(tmp_path: Path) -> None:
    root = str(wide(tmp_path / "wide", (40, 20)))
    assert [datasets.load(root, resize=resize).image_size for resize in datasets.RESIZES] == [20, 40, 20]


def test_an_unknown_resize(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resize 'squash': want one of crop, pad, stretch"):
        datasets.load(resize="squash")


def test_resize_goes_with_a_run_from_search_to_export(here: Path, command: Command) -> None:
    root = wide(here / "wide")
    (root / "test").mkdir()
    for name in ("left", "right"):
        (root / "val" / name).rename(root / "test" / name)
    (root / "val").rmdir()
    options = ["--data", str(root), "--trials", "2", "--epochs", "1", "--workers", "1", "--run", "r", "--seed", "1"]
    search = ["search", "--space", "small.toml", *options, "--device", "cpu"]
    ended = command(*search, "--resize", "pad")
    assert ended.code == 0
    assert "padded with black" in ended.out
    ended = command(*search)
    assert ended.code == 2
    assert "--resize pad, now it is crop" in ended.err
    ended = command("scale", "--phi", "1", "--coefficients", "1.2,1.1,1.1", "--train", "--seeds", "1", "--no-measure")
    assert ended.code == 0
    assert "padded with black" in ended.out
    ended = command("train", "r", "--epochs", "1", "--run", "t", "--test", "--device", "cpu")
    assert ended.code == 0
    assert trained.read("runs/t").inputs.resize == "pad"
    ended = command("export", "t")
    assert ended.code == 0
    assert "padded with black" in ended.out


def test_weights_from_before_there_was_a_choice_are_of_crops() -> None:
    inputs = trained.Inputs(("a", "b"), 3, 16, (1.0,) * 3, (1.0,) * 3)
    assert (inputs.resize, inputs.value_range) == ("crop", None)
