"""Latency as measured on this device, and a table of measured parts that predicts it for any network of a space.

Networks are timed as they are deployed: eval mode, batch norm folded into the convolutions, channels-last, under
`torch.inference_mode`, eager, with the input on the device already; 3 channels and 1000 classes. A table predicts the
latency of a network as the sum over its parts, as in MnasNet and ProxylessNAS (arXiv 1807.11626; 1812.00332, section
3.3). A block timed alone would find its weights in the cache, so parts are timed inside whole networks.
"""

from __future__ import annotations

import csv
import io
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops.misc import Conv2dNormActivation

from nas.base.errors import RunFailed, UserError, first_line
from nas.base.files import read_text, write_atomic
from nas.base.machine import default_threads, torch_threads
from nas.devices.device import out_of_memory, pick_device
from nas.networks.architecture import Architecture
from nas.networks.blocks import FeatureMap, stem
from nas.networks.parts import CHANNELS, block_part, nanoseconds, part, part_names
from nas.networks.stages import Stage, blocks_of
from nas.spaces.space import SearchSpace

WARM_UP = 3  # untimed passes of a new network: memory is laid out and kernels are chosen
REPEATS, ENOUGH, LEAST = 50, 10.0, 5  # passes of a network; stop after ENOUGH seconds, not before LEAST
TIMES, PASSES = 4, 6  # a part is timed in at least TIMES networks, PASSES passes each
DOUBTFUL = 1.3  # measured / predicted: the worst of an idle machine in experiments/latency_table
LIMITS = {"batch": 65536, "threads": 1024}


@dataclass(frozen=True)
class Conditions:
    """The conditions of a latency: torch's device, the CPU threads, images in a batch, torch's number type."""

    device: str
    threads: int
    batch: int = 1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            if not 1 <= getattr(self, name) <= limit:
                raise UserError(f"{name} must be a whole number from 1 to {limit}, got {getattr(self, name)}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise UserError(f"dtype must be one of torch's, like float32, got {self.dtype[:20]!r}")

    @classmethod
    def here(cls, device: str = "auto", threads: int | None = None, batch: int = 1) -> Conditions:
        """The conditions on this machine: as many threads as torch uses by default if None. Raises UserError."""
        return cls(str(pick_device(device)), default_threads() if threads is None else threads, batch)

    def __str__(self) -> str:
        return f"{self.device}, threads: {self.threads}, batch {self.batch}, {self.dtype}"


@dataclass(frozen=True)
class Latency:
    """How long a network takes for one batch, in seconds: the median of repeats, and their quartiles low and high."""

    median: float
    low: float
    high: float
    repeats: int
    batch: int
    resolution: int
    threads: int
    device: str
    dtype: str


def measure(arch: Architecture, conditions: Conditions, repeats: int = REPEATS) -> Latency:
    """Time a network at its own resolution, after a warm-up.

    At most `repeats` passes (at least 1), and fewer, but 5 or more, if they take more than ten seconds. Raises
    RunFailed if memory does not suffice.
    """
    times: list[float] = []
    with prepared(arch, conditions) as run:
        started = time.perf_counter()
        while len(times) < repeats and (len(times) < LEAST or time.perf_counter() - started < ENOUGH):
            times.append(sum(run()))
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Latency(median, low, high, len(times), resolution=arch.resolution, **asdict(conditions))


@contextmanager
def prepared(arch: Architecture, conditions: Conditions) -> Iterator[Callable[[], list[float]]]:
    """Yield a function that runs the warmed-up network once and returns the seconds of each of its `part_names`."""
    where = torch.device(conditions.device)
    layout = {"device": where, "dtype": getattr(torch, conditions.dtype)}
    try:
        gpu = where.type == "cuda"  # its events are recorded on the current one's stream
        current = torch.cuda.device(where) if gpu else nullcontext()
        with (
            torch_threads(conditions.threads),
            torch.inference_mode(),
            current,
            torch.random.fork_rng([where] if gpu else []),
        ):
            modules = [module.to(**layout, memory_format=torch.channels_last) for module in deployed(arch)]
            images = torch.randn(conditions.batch, CHANNELS, arch.resolution, arch.resolution, **layout)
            images = images.to(memory_format=torch.channels_last)
            for _ in range(WARM_UP):
                timed(modules, images)
            yield lambda: timed(modules, images)
    except RuntimeError as error:
        what = f"{arch.resolution} px, batch {conditions.batch}"
        if out_of_memory(error):
            raise RunFailed(f"{what}: not enough memory; lower the batch") from None
        raise RunFailed(f"{what}: no latency on {conditions.device}: RuntimeError: {first_line(error)}") from error


def deployed(arch: Architecture) -> list[nn.Module]:
    """A network in eval mode as modules to run one after the other, one for each of its `part_names`."""
    network = arch.build(in_channels=CHANNELS).eval()
    for module in network.modules():
        if isinstance(module, Conv2dNormActivation):
            module[0] = fuse_conv_bn_eval(module[0], module[1])
            del module[1]
    stem, *stages, head = network.features.children()
    blocks = [block for stage in stages for block in stage.children()]
    return [stem, *blocks, nn.Sequential(head, network.avgpool, nn.Flatten(1), network.classifier)]


def timed(modules: Sequence[nn.Module], x: Tensor) -> list[float]:
    """Run modules in sequence and return the seconds of each, by the device's own clock."""
    if x.device.type == "cpu":
        moments = [time.perf_counter()]
        for module in modules:
            x = module(x)
            moments.append(time.perf_counter())
        return [end - start for start, end in pairwise(moments)]
    accelerator = torch.cuda if x.device.type == "cuda" else torch.mps
    events = [accelerator.Event(enable_timing=True) for _ in range(len(modules) + 1)]
    accelerator.synchronize()
    events[0].record()
    for module, event in zip(modules, events[1:], strict=True):
        x = module(x)
        event.record()
    accelerator.synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in pairwise(events)]


@dataclass(frozen=True)
class Table:
    """The median seconds of each part of a space's networks, under conditions."""

    conditions: Conditions
    seconds: Mapping[str, float]

    def predict(self, arch: Architecture) -> float:
        """The latency of a network in seconds: the sum over its parts; raises UserError for an unmeasured part."""
        return sum(nanoseconds(self.of(part)) for part in part_names(arch)) / 1e9

    def of(self, part: str) -> float:
        """The seconds of one part; raises UserError for an unmeasured one."""
        try:
            return self.seconds[part]
        except KeyError as error:
            raise UserError(f"the latency table has no part {error}: it was measured for another space") from None

    def to_csv(self) -> str:
        """The table as text: a row a part, with the conditions in each."""
        out = io.StringIO()
        rows = [{"part": part, "seconds": s, **asdict(self.conditions)} for part, s in self.seconds.items()]
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read a table's file; raises UserError."""
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(path))))
            seconds = {row["part"]: float(row["seconds"]) for row in rows}
            found = {(r["device"], int(r["threads"]), int(r["batch"]), r["dtype"]) for r in rows}
            ((device, threads, batch, dtype),) = found
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from None
        except (ValueError, KeyError, TypeError, csv.Error):
            raise UserError(f"{path}: not a latency table; restore it from a copy") from None
        if not all(0 < value < float("inf") for value in seconds.values()):
            raise UserError(f"{path}: seconds must be positive; restore it from a copy")
        return cls(Conditions(device, threads, batch, dtype), seconds)


def measure_table(
    space: SearchSpace,
    conditions: Conditions,
    times: int = TIMES,
    passes: int = PASSES,
    progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Time every part of a space's networks in at least `times` networks that contain it, `passes` times in each.

    All times are then scaled by one factor, so that the table predicts these networks without bias. progress is called
    with the numbers of networks done and in total.
    """
    samples = defaultdict[str, list[float]](list)
    wholes = []
    networks = cover(space, times, 0)
    for done, arch in enumerate(networks, 1):
        with prepared(arch, conditions) as run:
            runs = np.array([run() for _ in range(passes)])
        for name, seconds in zip(part_names(arch), runs.T, strict=True):
            samples[name] += seconds.tolist()
        wholes.append(float(np.median(runs.sum(axis=1))))
        if progress:
            progress(done, len(networks))
    table = Table(conditions, {part: float(np.median(values)) for part, values in sorted(samples.items())})
    # Occasional delays raise every network's total, but no part's median.
    scale = float(np.median([whole / table.predict(arch) for whole, arch in zip(wholes, networks, strict=True)]))
    return Table(conditions, {part: scale * seconds for part, seconds in table.seconds.items()})


def kept(file: Path, space: SearchSpace, device: str, begun: bool, say: Callable[[str], None]) -> Table:
    """The latency table of a run: a new run measures and writes it, a continued one reads it."""
    if not begun:
        say(f"measuring the latency of every block of {space.name}: a few minutes")

        def timed(done: int, total: int) -> None:
            if done * 5 // total > (done - 1) * 5 // total:
                say(f"  {done} of {total} networks timed")

        write_atomic(file, measure_table(space, Conditions.here(device), progress=timed).to_csv())
    table = Table.load(file)
    say(f"latency is predicted from {len(table.seconds)} measured blocks ({file}) on {table.conditions}")
    return table


def doubt(predicted: Sequence[float], whole: Sequence[float]) -> str:
    """A warning if measured latencies differ from the predicted ones by their median ratio, else ""."""
    ratio = float(np.median(np.divide(whole, predicted))) if len(whole) else 1.0
    if 1 / DOUBTFUL < ratio < DOUBTFUL:
        return ""
    return (
        f"measured whole, networks of the front take {ratio:.2g} times the latency predicted from their blocks: "
        "other work disturbed this machine then or now, and the front by latency is in doubt; a new --run measures anew"
    )


Move = tuple[Stage, FeatureMap, frozenset[str]]  # a possible next stage, its output, and its parts


def cover(space: SearchSpace, times: int, seed: int) -> list[Architecture]:
    """A small set of networks that contains each part of a space at least `times` times.

    Each next network has the most missing parts, found by dynamic programming over the stages; ties are broken at
    random, so that a part is timed in several contexts.
    """
    rng = np.random.default_rng(seed)
    steps, last = moves(space)
    missing = Counter(
        {part: times for step in steps for found in step.values() for _, _, held in found for part in held}
    )
    missing.update(dict.fromkeys(last.values(), times))
    networks = []
    while missing.total():
        gain = {shape: float(missing[part]) for shape, part in last.items()}
        choices: list[dict[FeatureMap, Move]] = []
        for step in reversed(steps):
            picked = {}
            ahead = gain
            gain = {}
            for shape, found in step.items():
                gains = [sum(missing[p] for p in held) + ahead[out] for _, out, held in found]
                best = int(np.argmax(np.array(gains) + rng.uniform(0, 0.5, len(gains))))
                picked[shape], gain[shape] = found[best], gains[best]
            choices.insert(0, picked)
        shape, stages = next(iter(steps[0])), []
        for picked in choices:
            stage, shape, held = picked[shape]
            stages.append(stage)
            missing -= Counter(held)
        missing -= Counter([last[shape]])
        networks.append(replace(space.decode([0] * len(space.choices)), stages=tuple(stages)))
    return networks


def moves(space: SearchSpace) -> tuple[list[dict[FeatureMap, list[Move]]], dict[FeatureMap, str]]:
    """For each stage, the moves from each feature map that can precede it; and the last part after each last map."""

    def move(option: Stage, given: FeatureMap) -> Move:
        blocks = blocks_of(option, given)
        return option, blocks[-1].output, frozenset(block_part(option, block, space.activation) for block in blocks)

    maps = [stem(FeatureMap(CHANNELS, space.resolution), space.stem, space.stem_stride).output]
    steps = []
    for slot in space.slots:
        step = {given: [move(option, given) for option in slot.options] for given in maps}
        steps.append(step)
        maps = list(dict.fromkeys(out for found in step.values() for _, out, _ in found))
    return steps, {last: part(last, f"head{space.head}", space.activation) for last in maps}
