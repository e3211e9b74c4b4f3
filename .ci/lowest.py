"""What has to work with the lowest versions of all dependencies: a search, a scaling, a training, an export."""

import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("runs.workers.cluster", "compare.__main__", "cost.__main__", "report.__main__")
SPACE = """
stem = 8
head = 16
resolution = 32
target_madds = 400000
stages = ["ds_r{1|2}_k3_s1_c8", "ir_r{1|2}_k{3|5}_s2_e{2|3}_c{8|16}_se{0|0.25}"]
"""
BRIEF = "--data images --epochs 1"
COMMANDS = (
    f"search --space small.toml --run r --trials 4 --confirm 1 --workers 2 {BRIEF}",
    f"search --space small.toml --run s --trials 2 --sampler tpe --storage sqlite:///shared.db --workers 1 {BRIEF}",
    f"scale --baseline r --phi 1 --step 0.4 --seeds 1 --workers 1 {BRIEF}",
    f"train r --run t --test --tensorboard {BRIEF}",
    "export t --to safetensors,pt2,onnx,int8,timm",
    "report r",
    "cost efficientnet_b0 --check",
)


def main() -> None:
    """Run the commands in an empty folder; ends with the first one that fails."""
    for module in MODULES:
        import_module(f"nas.{module}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small.toml").write_text(SPACE)
        for part, count in (("train", 20), ("val", 12), ("test", 12)):
            for label, shade in (("dark", 0), ("light", 100)):
                (folder / "images" / part / label).mkdir(parents=True)
                for i in range(count):
                    grey = Image.new("L", (32, 32), shade + 2 * i + len(part))
                    grey.save(folder / "images" / part / label / f"{i}.png")
        own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": name, "OMP_NUM_THREADS": "1"}
        for command in COMMANDS:
            print(f"nas.{command}", flush=True)
            words = [sys.executable, "-m", *f"nas.{command}".split()]
            subprocess.run(words, cwd=folder, env={**os.environ, **own}, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
