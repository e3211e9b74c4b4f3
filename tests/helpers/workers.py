"""What workers train in tests: two small networks on a few images, and a seed that kills."""

import os
import signal
from dataclasses import replace
from pathlib import Path

from PIL import Image

from nas import datasets
from nas.training.proxy import Proxy
from nas.training.recipe import Recipe

TINY = "28px stem8 ds_r1_k3_s2_e1_c8 ir_r1_k3_s2_e3_c16 head32"
OTHER = "28px stem8 ds_r1_k5_s2_e1_c8 ir_r1_k3_s2_e3_c16 head32"


def small_proxy(folder: Path) -> Proxy:
    """Two epochs on 60 images, made in a folder, that tell dark from light."""
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for i in range(30):
            shade = 100 * label + i
            Image.new("RGB", (16, 16), (shade, shade, shade)).save(folder / name / f"{i}.png")
    return Proxy(datasets.Source(name=str(folder)), replace(Recipe.load("proxy"), batch_size=16), "cpu")


class Die(int):
    """A seed, 0, that kills the process that trains from it, so often; a file counts."""

    def __new__(cls, file: Path, times: int) -> "Die":
        self = super().__new__(cls, 0)
        self.file, self.times = file, times
        return self

    def __getnewargs__(self) -> tuple[Path, int]:  # type: ignore[override]
        return self.file, self.times

    def __int__(self) -> int:
        with self.file.open("a") as file:
            file.write("x")
        if len(self.file.read_text()) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0
