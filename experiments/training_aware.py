"""Does Fused-MBConv show up in the early stages of the front of a training-aware search, as in EfficientNetV2?

    python experiments/training_aware.py [--trials 24] [--max-madds 500M]

Runs `python -m nas.search --space efficientnet_v2 --objectives accuracy,train_time,params --reward v2` in an empty
directory, unless its tables are in experiments/training_aware/, and counts the stages of Fused-MBConv on the front: er,
or cn where the expansion is 1. Then the reason: the step of one network with a single stage as er or as ir, all else
equal, by turns.
Writes experiments/training_aware/: trials.csv, pareto.csv, pareto.png, steps.csv, RESULT.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median

import pandas as pd
import torch

from nas import Architecture, SearchSpace, datasets
from nas.base.machine import available_cores
from nas.datasets.batches import images_of
from nas.devices.device import pick_device
from nas.training.distributed import Ranks
from nas.training.recipe import Recipe
from nas.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "experiments/training_aware"
FUSED = "er", "cn"
EARLY, ROUNDS = 3, 7  # stages that the paper's networks have as Fused-MBConv; measurements of each network


def search(trials: int, max_madds: str) -> str:
    """Run the command and keep its tables and picture, if they are not there; returns the command."""
    options = ["--space", "efficientnet_v2", "--objectives", "accuracy,train_time,params", "--reward", "v2"]
    limits = ["--max-madds", max_madds, "--trials", str(trials), "--workers", "1"]
    command = ["python", "-m", "nas.search", *options, *limits]
    if (KEPT / "trials.csv").exists():
        return " ".join(command)
    with tempfile.TemporaryDirectory() as name:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *command[1:], "--run", "v2"], cwd=name, env=environment, check=True)
        for file in ("trials.csv", "pareto.csv", "pareto.png"):
            shutil.copy(Path(name) / "runs/v2" / file, KEPT / file)
    return " ".join(command)


def fused(architectures: pd.Series[str]) -> pd.Series[float]:
    """The share of networks with Fused-MBConv, by stage from 1."""
    stages = [Architecture.parse(text).stages for text in architectures]
    return pd.Series({i + 1: sum(s[i].op in FUSED for s in stages) / len(stages) for i in range(len(stages[0]))})


def step_ratios(where: torch.device) -> pd.DataFrame:
    """For each stage, the time of a training step with it as er over that with it as ir: medians over rounds."""
    space, data = SearchSpace.load("efficientnet_v2"), datasets.load()
    images, _ = images_of(data, None, where)
    recipe = Recipe.load("proxy")
    batch = images.normalize(images.pixels[: recipe.batch_size]), images.labels[: recipe.batch_size]
    base = {choice.name: choice.values[-1] for choice in space.choices}  # most layers, 5x5, expansion 6
    base |= {
        name: (3 if name.endswith("kernel") else 4 if name.endswith("expansion") else v) for name, v in base.items()
    }
    names = [choice.name for choice in space.choices if set(choice.texts) == {"er", "ir_se0.25"}]
    base |= dict.fromkeys(names, "ir_se0.25")

    def trainer(changed: dict[str, object]) -> Trainer:
        network = space.decode(space.code({**base, **changed}))
        return Trainer(network.build(data.num_classes, data.channels), recipe, Ranks(where))

    rows = []
    for i, name in enumerate(names):
        pair = {"er": trainer({name: "er"}), "ir": trainer({})}
        seconds: dict[str, list[float]] = {op: [] for op in pair}
        for turn in range(ROUNDS + 1):
            for op, one in pair.items():
                began = time.process_time() if where.type == "cpu" else time.perf_counter()
                loss = one.step(lambda _: iter([batch]), recipe.batch_size, 1e-3).item()  # waits for the device
                ended = time.process_time() if where.type == "cpu" else time.perf_counter()
                if turn and loss == loss:
                    seconds[op].append(ended - began)
        ratios = [a / b for a, b in zip(seconds["er"], seconds["ir"], strict=True)]
        madds = [pair[op].model.architecture.cost().madds for op in ("er", "ir")]
        rows.append({"stage": i + 1, "step_ratio": median(ratios), "madds_ratio": madds[0] / madds[1]})
    return pd.DataFrame(rows)


def main() -> None:
    """Search, count, measure, and write it down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--max-madds", default="500M")
    arguments = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    where = pick_device("auto")
    command = search(arguments.trials, arguments.max_madds)
    trials, front = pd.read_csv(KEPT / "trials.csv"), pd.read_csv(KEPT / "pareto.csv")
    table = step_ratios(where).set_index("stage")
    table["all"], table["front"] = fused(trials["architecture"]), fused(front["architecture"])
    table.to_csv(KEPT / "steps.csv", float_format="%.3f")
    lines = [
        f"| {stage} | {100 * row['all']:.0f} % | {100 * row['front']:.0f} % | {row['step_ratio']:.2f} | "
        f"{row['madds_ratio']:.2f} |"
        for stage, row in table.iterrows()
    ]
    early, late = (100 * part["front"].mean() for part in (table.iloc[:EARLY], table.iloc[EARLY:]))
    baseline = front[front["baseline"]]["architecture"].iloc[0]
    gpu = "" if where.type == "cuda" else "\nOn a GPU this was not measured: there was none.\n"
    (KEPT / "RESULT.md").write_text(
        f"""# Training-aware search: where is Fused-MBConv?

`{command}`, on {where.type}: {len(trials)} networks, {len(front)} on the front.

| stage | Fused-MBConv among all trials | on the front | step with er / with ir | MAdds with er / with ir |
|---|---|---|---|---|
{chr(10).join(lines)}

On the front Fused-MBConv has {early:.0f} % of stages 1 to {EARLY} and {late:.0f} % of the later ones; a search that
does not care would have half of each. With {len(front)} networks a share has a standard error of about
{50 / len(front) ** 0.5:.0f} points. The steps are those of one network (3x3, expansion 4, most layers) with that one
stage as er or as ir, on the default data at its own 28 px: medians of {ROUNDS} turns.
{gpu}
The baseline by the reward v2: `{baseline}`

{available_cores()} CPU cores ({platform.machine()}), shared; Python {platform.python_version()},
torch {metadata.version("torch")}; {date.today()}.
"""
    )


if __name__ == "__main__":
    main()
