"""Our search beside what people write today: same space, budget, images and wall-clock; both fronts retrained alike.

    python experiments/side_by_side.py [--minutes 10] [--seeds 1]     # needs the machine for itself

The peer is Optuna's NSGA-II over networks that timm builds, MAdds by fvcore, trained by a plain loop for as many epochs
as ours (torchvision ImageFolder, DataLoader with two workers, NCHW, fp32, AdamW, one-cycle). Ours is
`python -m nas.search` with its defaults. Both search mnas with at most 400M MAdds on CIFAR-10 from ../shared as a
folder of images, and are stopped after the same minutes. Every network that was on either front at the end of a minute
is then trained by the proxy trainer, longer, with two seeds, and measured on images that neither search has seen.
Hypervolume over time is
that of the front of the minute, by those accuracies. Writes experiments/side_by_side/: found.csv, judged.csv,
hypervolume.csv, side_by_side.png, RESULT.md; what is in the first two is not repeated.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from importlib import metadata
from itertools import chain, repeat
from pathlib import Path
from statistics import mean

import numpy as np
import optuna
import pandas as pd
import torch
from matplotlib.figure import Figure
from rows import append
from shared_images import write_cifar10

from nas import Architecture, SearchSpace, datasets
from nas.base.machine import available_cores
from nas.datasets import Dataset
from nas.plots import figures as plots
from nas.selection.pareto import hypervolume, non_dominated
from nas.training.proxy import train_proxy
from nas.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "experiments/side_by_side"
BUDGET = 400_000_000
PARTS = {"train": 12_000, "val": 3_000, "test": 5_000}
PROXY = Recipe.load("proxy")
JUDGE = replace(PROXY, epochs=4, shift=0.125)
JUDGE_SEEDS = (100, 101)
OURS, PEER = "nas.search", "NSGA-II + timm + plain loop"


# --- the peer -------------------------------------------------------------------------------------------------


def peer(folder: Path, out: Path, seed: int) -> None:
    """Search until killed; a line of `out` for each trained network."""
    from fvcore.nn import FlopCountAnalysis
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from nas.networks.timm import to_arch_def

    space = SearchSpace.load("mnas")
    usual = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    training = ImageFolder(folder / "train", transforms.Compose([transforms.RandomHorizontalFlip(), *usual]))
    validation = ImageFolder(folder / "val", transforms.Compose(usual))

    def accuracy(model: nn.Module) -> float:
        model.eval()
        right = 0
        with torch.no_grad():
            for images, labels in DataLoader(validation, 256, num_workers=2):
                right += int((model(images).argmax(1) == labels).sum())
        return right / len(validation)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {c.name: trial.suggest_categorical(c.name, c.values) for c in space.choices}
        arch = space.decode(space.code(params))
        model = EfficientNet(
            decode_arch_def(to_arch_def(arch)),
            num_classes=10,
            num_features=arch.head,
            stem_size=arch.stem,
            fix_stem=True,
            round_chs_fn=lambda channels: channels,
            act_layer=nn.SiLU,
        )
        flops = FlopCountAnalysis(model.eval(), torch.zeros(1, 3, 224, 224))
        madds = flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
        if madds > BUDGET:
            raise optuna.TrialPruned
        loader = DataLoader(training, 64, shuffle=True, num_workers=2)
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=PROXY.epochs * len(loader))
        model.train()
        for images, labels in chain.from_iterable(repeat(loader, PROXY.epochs)):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))
            optimizer.step()
            rate.step()
        found = accuracy(model)
        row = {"at": time.time(), "architecture": str(arch), "accuracy": found}
        append(out, row)
        return found, float(madds)

    sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
    optuna.create_study(directions=["maximize", "minimize"], sampler=sampler).optimize(objective)


# --- both for the same time -------------------------------------------------------------------------------------


def for_a_time(command: list[str], folder: Path, seconds: float) -> float:
    """Run a command in a folder and stop it; returns when it began."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.time()
    with subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, start_new_session=True) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    return began


def found_by_ours(folder: Path, seconds: float, seed: int) -> pd.DataFrame:
    """Architecture, accuracy and second of each network that our search trained."""
    options = ["--space", "mnas", "--max-madds", str(BUDGET), "--trials", "10000", "--seed", str(seed)]
    command = ["-m", "nas.search", *options, "--data", str(folder / "images"), "--run", "ours"]
    began = for_a_time(command, folder, seconds)
    storage = f"sqlite:///{folder / 'runs/ours/study.db'}"
    trials = optuna.load_study(study_name="ours", storage=storage).get_trials(
        states=(optuna.trial.TrialState.COMPLETE,)
    )
    rows = [(t.user_attrs["architecture"], t.user_attrs["accuracy"], t.datetime_complete) for t in trials]
    table = pd.DataFrame(rows, columns=["architecture", "accuracy", "ended"])
    return table.assign(second=[ended.timestamp() - began for ended in table.pop("ended")])


def found_by_peer(folder: Path, seconds: float, seed: int) -> pd.DataFrame:
    """The same of the peer."""
    out = folder / "peer.csv"
    began = for_a_time([__file__, "--peer", str(folder / "images"), str(out), str(seed)], folder, seconds)
    table = pd.read_csv(out)
    return table.assign(second=table.pop("at") - began)


def search(minutes: float, seeds: int) -> pd.DataFrame:
    """All networks that both searches trained, seed by seed; kept as they come."""
    file = KEPT / "found.csv"
    known = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["search", "seed"])
    for seed in range(seeds):
        for name, find in ((OURS, found_by_ours), (PEER, found_by_peer)):
            if ((known["search"] == name) & (known["seed"] == seed)).any():
                continue
            with tempfile.TemporaryDirectory() as place:
                os.environ["XDG_CACHE_HOME"] = place  # no decoded images from an earlier run
                write_cifar10(Path(place) / "images", PARTS, {"train": "train", "val": "val"})
                table = find(Path(place), 60 * minutes, seed).assign(search=name, seed=seed)
            table = table[table["second"] <= 60 * minutes]
            table["madds"] = [Architecture.parse(text).cost().madds for text in table["architecture"]]
            known = pd.concat([known, table], ignore_index=True)
            known.to_csv(file, index=False)
    return known


# --- both alike -------------------------------------------------------------------------------------------------


def fronts(found: pd.DataFrame, minutes: float) -> pd.DataFrame:
    """The members of each search's own front at the end of each minute."""
    parts = []
    for (name, seed), table in found.groupby(["search", "seed"]):
        for minute in range(1, round(minutes) + 1):
            so_far = table[table["second"] <= 60 * minute]
            if len(so_far):
                points = np.column_stack([-so_far["accuracy"], so_far["madds"]])
                front = so_far.loc[non_dominated(points), ["architecture", "madds"]]
                parts.append(front.assign(search=str(name), seed=int(str(seed)), minute=minute))
    return pd.concat(parts, ignore_index=True)


def judge(architectures: Sequence[str]) -> pd.DataFrame:
    """Accuracy on unseen images after a longer training of each network, two seeds; kept as they come."""
    file = KEPT / "judged.csv"
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    known = {(row["architecture"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place
        images = Path(place) / "images"
        write_cifar10(images, PARTS, {"train": "train", "test": "val"})  # the searches' validation images stay out
        data: Dataset = datasets.load(str(images))
    for text in architectures:
        for seed in JUDGE_SEEDS:
            if (text, seed) not in known:
                outcome = train_proxy(Architecture.parse(text), data, JUDGE, seed)
                rows.append({"architecture": text, "seed": seed, "accuracy": outcome.accuracy})
                pd.DataFrame(rows).to_csv(file, index=False)
    return pd.DataFrame(rows)


def volumes(members: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Hypervolume of each search at each minute: accuracy from 10 % up, MAdds up to the budget, as a share of both."""
    accuracy = judged.groupby("architecture")["accuracy"].mean()
    rows = []
    for (name, seed, minute), front in members.groupby(["search", "seed", "minute"]):
        points = np.column_stack([-accuracy[front["architecture"]].to_numpy(), front["madds"] / BUDGET])
        rows.append(
            {"search": name, "seed": seed, "minute": minute, "hypervolume": hypervolume(points, [-0.1, 1.0]) / 0.9}
        )
    return pd.DataFrame(rows)


def picture(table: pd.DataFrame) -> Figure:
    """Hypervolume against minutes, a line per search and seed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for colour, (name, part) in zip(("#1f6fb4", "#d1495b"), table.groupby("search", sort=False), strict=False):
        for i, (_, line) in enumerate(part.groupby("seed")):
            axes.step(line["minute"], line["hypervolume"], where="post", color=colour, label=None if i else str(name))
    axes.set_xlabel("minutes on the same machine")
    axes.set_ylabel("hypervolume of the front of that time, retrained")
    axes.set_title("Our search beside what people write today")
    axes.legend()
    return figure


def main() -> None:
    """Search, judge, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peer", nargs=3, metavar=("IMAGES", "OUT", "SEED"), help="for the script's own use")
    arguments = parser.parse_args()
    if arguments.peer:
        images, out, seed = arguments.peer
        return peer(Path(images), Path(out), int(seed))
    KEPT.mkdir(exist_ok=True)
    found = search(arguments.minutes, arguments.seeds)
    members = fronts(found, arguments.minutes)
    judged = judge(sorted(set(members["architecture"])))
    table = volumes(members, judged)
    table.to_csv(KEPT / "hypervolume.csv", index=False, float_format="%.5f")
    plots.save(picture(table), KEPT / "side_by_side.png")
    (KEPT / "RESULT.md").write_text(result(table, found, judged))


def result(table: pd.DataFrame, found: pd.DataFrame, judged: pd.DataFrame) -> str:
    """The text of RESULT.md."""
    lines, reached = [], []
    last = table["minute"].max()
    for seed, part in table.groupby("seed"):
        ours, peers = (part[part["search"] == name].set_index("minute")["hypervolume"] for name in (OURS, PEER))
        goal = peers.get(last, float("nan"))
        minute = next((m for m in ours.index if ours[m] >= goal), None)
        reached.append(minute)
        counts = [len(found[(found["search"] == name) & (found["seed"] == seed)]) for name in (OURS, PEER)]
        lines.append(
            f"| {seed} | {counts[0]} | {counts[1]} | {ours.get(last, float('nan')):.4f} | {goal:.4f} | "
            f"{minute if minute is not None else 'never'} |"
        )
    met = sum(m is not None and m <= last / 4 for m in reached)
    spread = mean(judged.groupby("architecture")["accuracy"].std().dropna()) * 100
    return f"""# Side by side with what people write today

| seed | networks: ours | peer's | hypervolume: ours | peer's | ours reached the peer's last in minute |
|---|---|---|---|---|---|
{chr(10).join(lines)}

Both had {last} minutes; the target, the peer's final hypervolume within a quarter of the time ({last / 4:g} minutes),
was met in {met} of {len(reached)} runs. Retrained alike: {judged["architecture"].nunique()} networks, {JUDGE.epochs}
epochs, {len(JUDGE_SEEDS)} seeds (mean sd between seeds {spread:.2f} points), accuracy on {PARTS["test"]:,} images that
neither search saw. Hypervolume: accuracy above 10 %, MAdds below {BUDGET / 1e6:g}M, as a share of that rectangle.

{available_cores()} CPU cores ({platform.machine()}), shared; Python {platform.python_version()},
{", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "optuna", "timm"))}; {date.today()}.
"""


if __name__ == "__main__":
    main()
