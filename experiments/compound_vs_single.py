"""One baseline scaled to 2 and 4 times its MAdds by depth, width, resolution, compound and fast scaling: what is best?

    python experiments/compound_vs_single.py train [PART OF]    # a row a training; "train 0 2" and "train 1 2" together
    python experiments/compound_vs_single.py grid               # α, β, γ of our own grid for this baseline
    python experiments/compound_vs_single.py report             # table, picture, RESULT.md

Images are 20 classes of the Tiny-ImageNet subset in ../shared (64 px), shrunk to what each network is made for, 27 to
63 px. The baseline's layers are such that each rule meets 2 and 4 times its counted MAdds within 3 % by moving the
resolution one pixel at most. `train` repeats no row that is there, so it can be stopped at any time; all networks come
with the first seed before the second. Each part runs on one thread; compute is its processor time, which other work on
the machine disturbs least.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import rows
import torch
from matplotlib.figure import Figure
from shared_images import FOLDER, jpegs, pixels

from nas import Architecture
from nas.base.units import format_count
from nas.datasets import Dataset
from nas.devices import memory
from nas.networks import scaling
from nas.networks.scaling import Coefficients, Member
from nas.scale.halving import gap, margin, noise
from nas.training.proxy import train_proxy
from nas.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(__file__).resolve().parent / "compound_vs_single"
IMAGES = "tiny_imagenet_sub50"
CLASSES, PER_CLASS = 20, 200
SEEDS, FACTORS = 3, (2, 4)
RULES = ("compound", "depth", "width", "resolution", "fast")
BASELINE = Architecture.parse(
    "30px stem16 ds_r1_k3_s1_e1_c16 ir_r3_k3_s2_e3_c24 ir_r5_k3_s2_e3_c40 ir_r2_k3_s1_e3_c64 head160"
)
RECIPE = replace(Recipe.load("proxy"), epochs=5, shift=0.1)


def encoded(part: str) -> tuple[list[bytes], list[int]]:
    """The JPEG files and labels of the first classes, PER_CLASS of each class at most."""
    files, labels = jpegs(IMAGES, part)
    chosen = [i for label in range(CLASSES) for i in np.flatnonzero(np.array(labels) == label)[:PER_CLASS]]
    return [files[i] for i in chosen], [labels[i] for i in chosen]


def images() -> Dataset:
    """The data set; its validation images are Tiny-ImageNet's, and nothing is chosen by them here."""

    def decoded(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        files, labels = encoded(part)
        return pixels(files), torch.tensor(labels)

    names = tuple((FOLDER / IMAGES / "classes.tsv").read_text().splitlines()[-50:][:CLASSES])
    return Dataset("tiny-imagenet", *decoded("train"), *decoded("val"), names, True, "JPEG")


def networks() -> dict[tuple[str, int], Member]:
    """What is trained, by rule and factor; the baseline is rule `none` with factor 1."""
    found = {("none", 1): scaling.member(BASELINE, scaling.paper(), 0)}
    for factor in FACTORS:
        for rule, coefficients in rules().items():
            member = scaling.equal_cost(BASELINE, coefficients, factor * BASELINE.cost().madds)
            if member.architecture not in (other.architecture for other in found.values()):  # no network counts twice
                found[rule, factor] = member
    return found


def rules() -> dict[str, Coefficients]:
    """The coefficients of each rule, and of our grid if it was run."""
    found = {rule: scaling.paper() if rule == "compound" else scaling.rule_coefficients(rule) for rule in RULES}
    if (KEPT / "grid.csv").exists():
        grid = pd.read_csv(KEPT / "grid.csv")
        best = grid[grid["picked"]].iloc[0]
        found["our grid"] = Coefficients(*(float(best[name]) for name in ("alpha", "beta", "gamma")))
    return found


def tasks() -> Iterator[tuple[int, str, int]]:
    """Seed, rule, factor."""
    yield from ((seed, rule, factor) for seed in range(SEEDS) for rule, factor in networks())


def train_part(part: int, of: int) -> None:
    """Train every `of`-th network from `part` on: what no file holds yet."""
    torch.set_num_threads(1)
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"trainings_{part}.csv"
    known = rows.kept(KEPT, "trainings_*.csv")
    done = set(zip(known["seed"], known["rule"], known["factor"], strict=True)) if len(known) else set()
    data, members = images(), networks()
    for i, (seed, rule, factor) in enumerate(tasks()):
        if i % of != part or (seed, rule, factor) in done:
            continue
        member = members[rule, factor]
        arch = member.architecture
        began = time.process_time()
        outcome = train_proxy(arch, data, RECIPE, seed, "cpu", image_size=arch.resolution)
        cost = arch.cost()
        row = {
            **{"rule": rule, "factor": factor, "seed": seed, "accuracy": outcome.accuracy},
            "curve": " ".join(f"{value:.4f}" for value in outcome.curve),
            **{"compute": round(time.process_time() - began, 1), "step_seconds": outcome.step_seconds},
            **{"phi": member.phi, "depth": member.depth, "width": member.width, "resolution": arch.resolution},
            **{"moved": member.moved, "madds": cost.madds, "params": cost.params},
            **{"activations": cost.activations, "memory": memory.training_memory(arch, RECIPE.batch_size)},
            "architecture": str(arch),
        }
        rows.append(file, row)
        print(seed, rule, factor, f"{outcome.accuracy:.4f}", row["compute"], flush=True)


def find_grid() -> None:
    """Run `nas.scale` on the training images, a part of which it sets aside for validation, and keep its grid."""
    KEPT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for i, (file, label) in enumerate(zip(*encoded("train"), strict=True)):
            path = Path(folder, "images/train", f"class{label:02d}", f"{i:05d}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)
        Path(folder, "baseline.toml").write_text(BASELINE.to_toml())
        options = ["--baseline", "baseline.toml", "--data", "images", "--match", "counted", "--tolerance", "0.15"]
        command = [sys.executable, "-m", "nas.scale", *options, "--phi", "1", "--epochs", "2", "--no-measure"]
        subprocess.run(command, cwd=folder, env={"PATH": "", "PYTHONPATH": str(ROOT)}, check=True)
        for name in ("grid.csv", "grid.png"):
            (KEPT / name).write_bytes(Path(folder, "runs/baseline/scale", name).read_bytes())


def report() -> None:
    """Write table.csv, picture.png and RESULT.md of what is there."""
    trained = rows.kept(KEPT, "trainings_*.csv").sort_values(["factor", "seed"], kind="stable")
    cells = trained.groupby(["factor", "rule"], sort=False)
    scores = rows.scores(trained, "factor", "rule")
    first = cells.first()
    table = first[["phi", "depth", "width", "resolution", "moved", "madds", "params", "activations", "memory"]]
    table = table.assign(
        # in pixels; trainings kept by an older version have the factor γ^φ under this name
        resolution=[Architecture.parse(text).resolution for text in first["architecture"]],
        ratio=table["madds"] / BASELINE.cost().madds,
        accuracy=[mean(values) for values in scores.values()],
        margin=[margin(scores, key) for key in scores],
        trainings=[len(values) for values in scores.values()],
        compute=cells["compute"].median(),
    )
    table.to_csv(KEPT / "table.csv")
    picture(table)
    (KEPT / "RESULT.md").write_text(result(table, scores))


def picture(table: pd.DataFrame) -> None:
    """Accuracy, processor time and memory against counted MAdds, a line a rule."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    columns = {
        "accuracy": (100, "accuracy on validation images (%)"),
        "compute": (1, "processor time of a training (s)"),
        "memory": (1e-6, f"peak memory of a step of {RECIPE.batch_size} images, predicted (MB)"),
    }
    for i, (column, (unit, label)) in enumerate(columns.items()):
        axes = figure.add_subplot(1, 3, i + 1)
        base = table.xs("none", level="rule")
        names = [rule for rule in dict.fromkeys(table.index.get_level_values("rule")) if rule != "none"]
        for j, rule in enumerate(names):
            line = pd.concat([base, table.xs(rule, level="rule")])
            x = line["ratio"].astype(float) * 2 ** (0.03 * (j - len(names) / 2) * (line["ratio"] > 1))
            bars = 100 * line["margin"].astype(float).replace(np.inf, np.nan) if column == "accuracy" else None
            axes.errorbar(x, unit * line[column].astype(float), bars, fmt="o-", capsize=2, markersize=4, label=rule)
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 2, 4], ["1×", "2×", "4×"])
        axes.set_xlabel("counted MAdds relative to the baseline")
        axes.set_title(label, fontsize=10)
        axes.grid(linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if not i:
            axes.legend(fontsize=8)
    figure.savefig(KEPT / "picture.png", dpi=144)


def result(table: pd.DataFrame, scores: rows.Scores) -> str:
    """The table and what it says, in words."""
    lines = [
        "# Compound scaling against single dimensions",
        "",
        f"Baseline `{BASELINE}`, {format_count(BASELINE.cost().madds)} MAdds. {CLASSES} classes of Tiny-ImageNet, "
        f"{CLASSES * PER_CLASS:,} training and {CLASSES * 50:,} validation images; {RECIPE.epochs} epochs. "
        "Intervals: 95 %, from the noise between trainings pooled over all networks, on the same validation images.",
        "",
        "| MAdds | rule | d, w, px | params | activations | memory | processor time | accuracy | trainings |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.reset_index().to_dict("records"):
        lines.append(
            f"| {row['ratio']:.2f}× | {row['rule']} | {row['depth']:.2f}, {row['width']:.2f}, {row['resolution']} | "
            f"{format_count(row['params'], 3)} | {format_count(row['activations'], 3)} | "
            f"{format_count(row['memory'], 3)}B | {row['compute']:.0f} s | {100 * row['accuracy']:.1f} ± "
            f"{100 * row['margin']:.1f} % | {row['trainings']} |"
        )
    lines.append("")
    deviation, freedom = noise(scores)
    lines.append(f"Standard deviation of one training between seeds: {100 * deviation:.2f} points ({freedom} degrees).")
    for factor in FACTORS:
        here = [key for key in scores if key[0] == factor]
        if (factor, "compound") in scores:
            said = []
            for key in here:
                if key[1] != "compound":
                    found = gap(scores, (factor, "compound"), key)
                    told = "" if found.distinguishable else ", not distinguishable"
                    said.append(f"{key[1]} {100 * found.difference:+.1f} ± {100 * found.margin:.1f}{told}")
            lines.append(f"\nAt {factor}×, compound less each other rule, in points: {'; '.join(said)}.")
    if "our grid" in rules():
        lines.append(
            f"\nOur grid's choice for this baseline: {rules()['our grid']}; the paper's for B0: {scaling.paper()}. "
            "Where it has no row, its network is another rule's: equal ones are trained once."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", *words]:
            train_part(*(int(word) for word in words or ("0", "1")))
        case ["grid"]:
            find_grid()
        case ["report"]:
            report()
        case _:
            sys.exit(__doc__)
