"""The commands as tests call them: a small space, a small network, a recipe, and arguments that end within seconds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas import Architecture, Cost

ROOT = Path(__file__).resolve().parents[2]
SPACE = """
stem = 8
head = 16
resolution = 28
target_madds = 400000
stages = ["ds_r{1|2}_k3_s1_c8", "ir_r{1|2}_k{3|5}_s2_e{2|3}_c{8|16}_se{0|0.25}"]
"""
NET = "32px stem8 ds_r1_k3_s1_c8_se0.25 ir_r2_k3_s2_e3_c16 head32"
RECIPE = """
epochs = 3
batch_size = 24
learning_rate = 0.01
optimizer = "sgd"
ema = 0.9
dropout = 0.2
drop_path = 0.2
label_smoothing = 0.1
crop = 0.5
randaugment = 5
erase = 0.3
mixup = 0.2
cutmix = 0.5
clip = 5.0
"""


def deployed_cost(arch: Architecture) -> Cost:
    """What a network costs for the images of the tests: three classes, in colour."""
    return arch.cost(None, 3, 3)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def search_arguments(images: Path, *more: str) -> list[str]:
    """The arguments of a search of the small space, which ends within seconds."""
    return ["--space", "small.toml", "--data", str(images), "--run", "r", "--trials", "6", "--workers", "1", *more]


def train_arguments(images: Path, *more: str) -> list[str]:
    """The arguments of a training of a small network by the recipe r.toml."""
    return [NET, "--data", str(images), "--device", "cpu", "--recipe", "r.toml", *more]
