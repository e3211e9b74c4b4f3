"""Images per second of the proxy trainer against the loop that people write; and trials side by side on the CPU.

    python experiments/proxy_throughput.py

Same network, batch, optimizer and images (the embedded ones in RGB, resized). The plain loop: torchvision transforms
image by image in a DataLoader with two workers, NCHW, fp32. The bound: our steps on one batch that lies ready. All
ways take turns, in REPEATS rounds; medians. Then the same trainings by one worker on all cores, and by one a core.
Writes experiments/proxy_throughput/: steps.csv, workers.csv, RESULT.md.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from datetime import date
from functools import partial
from importlib import metadata
from itertools import islice, repeat
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from nas import Architecture, SearchSpace, datasets
from nas.base.machine import available_cores
from nas.datasets.batches import images_of
from nas.devices.device import pick_device
from nas.runs.workers import Submit
from nas.runs.workers.processes import pool
from nas.training.distributed import Ranks
from nas.training.optimizer import make_optimizer
from nas.training.proxy import Job, Proxy, Result
from nas.training.recipe import Recipe
from nas.training.trainer import Trainer

KEPT = Path(__file__).resolve().parent / "proxy_throughput"
SIZES = 32, 64  # pixels
BATCH, WARM_UP, STEPS, REPEATS = 64, 2, 6, 3
KINDS = {  # of kernels, by parts of their names
    "convolutions and linear layers": ("conv", "mm"),
    "batch norm": ("batch_norm",),
    "activations": ("silu", "sigmoid"),
    "copies between types and layouts": ("copy_",),
    "the optimizer": ("adamw", "Optimizer"),
}
OTHER = "all else"
RECIPE = replace(Recipe.load("proxy"), batch_size=BATCH, shift=0.125)


def networks() -> dict[str, Architecture]:
    """Three networks of mnas, drawn uniformly, and B0."""
    space = SearchSpace.load("mnas")
    return {**{f"mnas {i}": space.sample(seed=i) for i in range(3)}, "B0": Architecture.load("efficientnet_b0")}


def rgb(size: int) -> datasets.Dataset:
    """The embedded images in three channels, `size` pixels wide."""
    data = datasets.load(image_size=size)
    train, val = (part.expand(-1, 3, -1, -1).contiguous() for part in (data.train_images, data.val_images))
    return datasets.Dataset("rgb", train, data.train_labels, val, data.val_labels, data.classes, True, "")


class Pictures(Dataset[tuple[Tensor, int]]):
    """A data set as torchvision's are: one PIL image after the other, transformed."""

    def __init__(self, data: datasets.Dataset) -> None:
        self.pixels = data.train_images.permute(0, 2, 3, 1).numpy()
        self.labels = data.train_labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(data.image_size, padding=data.image_size // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def plain(arch: Architecture, data: datasets.Dataset, where: torch.device) -> Iterator[None]:
    """The loop that people write; each turn is a step."""
    model = arch.build(data.num_classes).to(where).train()
    optimizer = make_optimizer(model, RECIPE)
    loss = nn.CrossEntropyLoss()
    for images, labels in DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=2):
        optimizer.zero_grad()
        loss(model(images.to(where)), labels.to(where)).backward()
        optimizer.step()
        yield


def ours(arch: Architecture, data: datasets.Dataset, where: torch.device) -> Iterator[None]:
    """The proxy trainer's steps."""
    training, _ = images_of(data, None, where)
    trainer = Trainer(arch.build(data.num_classes), RECIPE, Ranks(where))
    own = torch.Generator(where).manual_seed(0)
    order = torch.randperm(len(training), generator=own, device=where)
    for chosen in order.tensor_split(len(training) // BATCH):
        pixels, labels = training.sample(chosen, RECIPE.shift, True, own)
        trainer.step(partial(repeat, (training.normalize(pixels), labels)), len(chosen), 1e-3)
        yield


def bound(arch: Architecture, data: datasets.Dataset, where: torch.device) -> Iterator[None]:
    """Our steps without the data: the same batch again and again."""
    training, _ = images_of(data, None, where)
    trainer = Trainer(arch.build(data.num_classes), RECIPE, Ranks(where))
    batch = training.normalize(training.pixels[:BATCH]), training.labels[:BATCH]
    while True:
        trainer.step(lambda _: iter([batch]), BATCH, 1e-3)
        yield


def images_per_second(steps: Iterator[None], where: torch.device) -> float:
    """The speed of STEPS steps after a warm-up."""
    for _ in islice(steps, WARM_UP):
        pass
    finish(where)
    started = time.perf_counter()
    for _ in islice(steps, STEPS):
        pass
    finish(where)
    return BATCH * STEPS / (time.perf_counter() - started)


def finish(where: torch.device) -> None:
    """Wait for the device."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def compare_steps(where: torch.device) -> pd.DataFrame:
    """A row for each network and image size: medians over rounds."""
    ways: dict[str, Callable[..., Iterator[None]]] = {"plain": plain, "ours": ours, "bound": bound}
    rows = []
    for size in SIZES:
        data = rgb(size)
        for name, arch in networks().items():
            found: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(REPEATS):
                for way, make in ways.items():
                    found[way].append(images_per_second(make(arch, data, where), where))
            ratio = median(o / p for o, p in zip(found["ours"], found["plain"], strict=True))
            share = median(o / b for o, b in zip(found["ours"], found["bound"], strict=True))
            speeds = {way: median(values) for way, values in found.items()}
            rows.append({"network": name, "pixels": size, **speeds, "ratio": ratio, "network_share": share})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def time_shares(arch: Architecture, data: datasets.Dataset, where: torch.device) -> dict[str, float]:
    """What our steps spend their time on, as shares of all kernels' time, the largest first."""
    steps = bound(arch, data, where)
    for _ in islice(steps, WARM_UP):
        pass
    with profile() as seen:
        for _ in islice(steps, STEPS):
            pass
        finish(where)
    spent = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in seen.key_averages():
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), OTHER)
        spent[kind] += event.self_device_time_total if where.type == "cuda" else event.self_cpu_time_total
    return {kind: spent[kind] / sum(spent.values()) for kind in sorted(spent, key=spent.__getitem__, reverse=True)}


def compare_workers(folder: Path, where: torch.device) -> pd.DataFrame:
    """Trials a minute by one worker and by more, in turns; their start is not counted.

    On the CPU: one on all cores, one a core. On a GPU: 1, 2, 4 and 8.
    """
    data = datasets.load()
    for part, images, labels, count in (
        ("train", data.train_images, data.train_labels, 100),
        ("val", data.val_images, data.val_labels, 10),
    ):
        for label, title in enumerate(data.classes):
            place = folder / part / title.replace("/", "-")
            place.mkdir(parents=True)
            for i, picture in enumerate(images[labels == label][:count]):
                Image.fromarray(picture[0].numpy()).save(place / f"{i}.png")
    proxy = Proxy(datasets.Source(name=str(folder)), RECIPE, where.type)
    jobs = [Job(str(arch), seed) for arch in list(networks().values())[:2] for seed in range(4)]
    counts = (1, available_cores()) if where.type == "cpu" else (1, 2, 4, 8)
    rows = []
    for turn in range(REPEATS):
        for workers in counts:
            with pool(proxy, workers, lambda job, progress: None) as submit:
                finish_all(submit, [jobs[0]] * workers, workers)
                started = time.perf_counter()
                finish_all(submit, jobs, workers)
                minutes = (time.perf_counter() - started) / 60
            rows.append({"round": turn, "workers": workers, "trials_per_minute": len(jobs) / minutes})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def finish_all(submit: Submit, jobs: list[Job], workers: int) -> None:
    """Do all jobs, as many at a time as there are workers."""
    running: set[Future[Result]] = set()
    for job in jobs:
        if len(running) == workers:
            _, running = wait(running, return_when=FIRST_COMPLETED)
        running.add(submit(job))
    wait(running)


def main() -> None:
    """Measure and write."""
    where = pick_device("auto")
    steps = compare_steps(where)
    b0 = networks()["B0"]
    spent = {size: time_shares(b0, rgb(size), where) for size in SIZES}
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        workers = compare_workers(Path(name) / "images", where)
    KEPT.mkdir(exist_ok=True)
    steps.to_csv(KEPT / "steps.csv", index=False, float_format="%.4g")
    workers.to_csv(KEPT / "workers.csv", index=False, float_format="%.4g")
    speed = workers.pivot_table(index="round", columns="workers", values="trials_per_minute")
    speeds = "; ".join(
        f"{count} workers {values.median():.1f}, {(values / speed[1]).median():.2f} times as many as one"
        for count, values in speed.items()
        if count != 1
    )
    lines = [
        f"| {row['network']} | {row['pixels']} | {row['plain']:.0f} | {row['ours']:.0f} | **{row['ratio']:.1f}×** | "
        f"{100 * row['network_share']:.0f} % |"
        for row in steps.to_dict("records")
    ]
    shares = [
        f"at {size} px " + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in part.items())
        for size, part in spent.items()
    ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision"))
    (KEPT / "RESULT.md").write_text(
        f"""# The proxy trainer's throughput

Images per second in training, batch {BATCH}, on {where.type}.

| network | px | plain loop | ours | ratio | network's share of our time |
|---|---|---|---|---|---|
{chr(10).join(lines)}

Median ratio {steps["ratio"].median():.1f}×, least {steps["ratio"].min():.1f}×; the target is 4× on two CPU cores, and
8× on a GPU{"" if where.type == "cuda" else ", which was not measured: there was none"}.

What a step of B0 spends its time on: {"; ".join(shares)}.

Trials a minute: one worker {speed[1].median():.1f}; {speeds} (medians over {REPEATS} rounds; on a
CPU one worker has all cores, more have an equal share each).

{REPEATS} interleaved rounds of {STEPS} steps after {WARM_UP}; {available_cores()} CPU cores ({platform.machine()}),
shared; Python {platform.python_version()}, {versions}; {date.today()}.
"""
    )


if __name__ == "__main__":
    main()
