"""The images in ../shared, beside the project: JPEG files and their labels. Only experiments read them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def jpegs(name: str, part: str) -> tuple[list[bytes], list[int]]:
    """All files of a part of a data set, and their labels."""
    with np.load(FOLDER / name / f"{part}_jpeg.npz") as file:
        blob, offsets, labels = (file[key] for key in ("blob", "offsets", "labels"))
    return [blob[a:b].tobytes() for a, b in pairwise(offsets)], labels.tolist()


def pixels(files: Sequence[bytes]) -> torch.Tensor:
    """The images decoded in RGB: uint8 [n, 3, h, w]."""
    images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
