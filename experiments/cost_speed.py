"""How fast costs are counted: fvcore, torch's FlopCounterMode, a recursion by hand, and ours, on the same networks.

    python experiments/cost_speed.py

One thread. Networks are drawn uniformly from mnas; all ways must agree on them before anything is timed. Writes
experiments/cost_speed/result.csv and RESULT.md.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch.utils.flop_counter import FlopCounterMode

from nas import Architecture, SearchSpace
from nas.base.machine import available_cores
from nas.networks.blocks import make_divisible
from nas.networks.cost import count_layers
from nas.networks.stages import blocks_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis

OUT = Path(__file__).with_suffix("")
SLOW, FAST, BULK, REPEATS, SEED = 3, 500, 1_000_000, 5, 0


def by_fvcore(arch: Architecture, model: torch.nn.Module) -> int:
    """Trace the built network: fvcore's flops."""
    image = torch.zeros(1, 3, arch.resolution, arch.resolution)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flops = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(flops.total())


def by_torch(arch: Architecture, model: torch.nn.Module) -> int:
    """Run the network on the meta device under FlopCounterMode: MAdds, which it counts as two flops each."""
    image = torch.zeros(1, 3, arch.resolution, arch.resolution, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2


def by_hand(arch: Architecture) -> tuple[int, int]:
    """Walk the blocks of one network of mnas (MBConv and depthwise separable), as pycls does: MAdds and parameters."""
    size, channels = (arch.resolution + 1) // 2, arch.stem
    madds, params = 27 * channels * size * size, 27 * channels + 2 * channels
    for stage in arch.stages:
        for i in range(stage.repeats):
            hidden = channels
            if stage.op == "ir":
                hidden = make_divisible(channels * stage.expansion)
                madds += channels * hidden * size * size
                params += channels * hidden + 2 * hidden
            size = (size + 1) // 2 if i == 0 and stage.stride == 2 else size
            madds += stage.kernel**2 * hidden * size * size
            params += stage.kernel**2 * hidden + 2 * hidden
            if stage.se:
                squeeze = max(1, int(channels * stage.se))
                madds += 2 * hidden * squeeze
                params += 2 * hidden * squeeze + hidden + squeeze
            madds += hidden * stage.channels * size * size
            params += hidden * stage.channels + 2 * stage.channels
            channels = stage.channels
    madds += channels * arch.head * size * size + arch.head * 1000
    params += channels * arch.head + 2 * arch.head + (arch.head + 1) * 1000
    return madds, params


def forget() -> None:
    """Empty the caches of the closed form."""
    count_layers.cache_clear()
    blocks_of.cache_clear()


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def each(call: Callable[[Architecture], object], archs: Sequence[Architecture], before: Callable[[], None]) -> float:
    """Median seconds of a call over architectures, with something done untimed before each."""
    times = []
    for arch in archs:
        before()
        times.append(seconds(lambda arch=arch: call(arch)))  # type: ignore[misc]
    return median(times)


def nothing() -> None:
    """Keep the caches."""


def main() -> None:
    """Check equality, time all ways, write the table."""
    space = SearchSpace.load("mnas")
    codes = space.sample_codes(BULK, SEED)
    bulk = space.costs(codes)
    archs = [space.decode(code) for code in codes[:FAST]]
    for i, arch in enumerate(archs):
        cost = arch.cost()
        assert vars(cost) == {name: int(column[i]) for name, column in bulk.items()}
        assert by_hand(arch) == (cost.madds, cost.params)
    traced: dict[str, list[float]] = {"build": [], "fvcore": [], "meta": []}
    for arch in archs[:SLOW]:
        started = time.perf_counter()
        model = arch.build().eval()
        traced["build"].append(time.perf_counter() - started)
        with torch.device("meta"):
            meta = arch.build().eval()
        cost = arch.cost()
        assert (by_fvcore(arch, model), by_torch(arch, meta)) == (cost.flops, cost.madds)
        assert sum(p.numel() for p in model.parameters()) == cost.params
        traced["fvcore"].append(median(seconds(lambda a=arch, m=model: by_fvcore(a, m)) for _ in range(3)))  # type: ignore[misc]
        traced["meta"].append(median(seconds(lambda a=arch, m=meta: by_torch(a, m)) for _ in range(3)))  # type: ignore[misc]

    def repeated(call: Callable[[], object]) -> float:
        return median(seconds(call) for _ in range(REPEATS))

    singles: dict[str, list[float]] = {way: [] for way in ("by hand", "emptied", "new", "again")}
    for _ in range(REPEATS):  # in turns: the machine is not always equally fast
        singles["by hand"].append(each(by_hand, archs, nothing))
        singles["emptied"].append(each(Architecture.cost, archs, forget))
        forget()
        singles["new"].append(each(Architecture.cost, archs, nothing))
        singles["again"].append(each(Architecture.cost, archs, nothing))
    rows = {
        "build the network": median(traced["build"]),
        "fvcore, built network": median(traced["fvcore"]),
        "FlopCounterMode, built on meta": median(traced["meta"]),
        "recursion by hand": median(singles["by hand"]),
        "cost(), caches emptied before": median(singles["emptied"]),
        "cost(), new architectures": median(singles["new"]),
        "cost(), counted before": median(singles["again"]),
        "space.costs, a million": repeated(lambda: space.costs(codes)) / BULK,
        "sample_codes, a million": seconds(lambda: space.sample_codes(BULK, SEED)) / BULK,
        "sample_codes within 400M, a million": seconds(lambda: space.sample_codes(BULK, SEED, max_madds=4e8)) / BULK,
        "decode, one": repeated(lambda: [space.decode(code) for code in codes[:FAST]]) / FAST,
    }
    table = pd.DataFrame({"way": rows.keys(), "microseconds": [1e6 * s for s in rows.values()]})
    table["fvcore_ratio"] = rows["fvcore, built network"] / pd.Series(list(rows.values()))
    OUT.mkdir(exist_ok=True)
    table.to_csv(OUT / "result.csv", index=False, float_format="%.6g")
    write_result(table)


def write_result(table: pd.DataFrame) -> None:
    """The table for readers, with the targets beside it."""
    time_of = dict(zip(table["way"], table["microseconds"], strict=True))
    ratio = dict(zip(table["way"], table["fvcore_ratio"], strict=True))["space.costs, a million"]
    lines = "\n".join(f"| {r.way} | {r.microseconds:,.4g} µs | {r.fvcore_ratio:,.3g}× |" for r in table.itertuples())
    emptied = time_of["cost(), caches emptied before"]
    targets = [
        ("a million codes of mnas under 1 s", time_of["space.costs, a million"], 1, "s"),
        ("one cost() of a new architecture under 100 µs", time_of["cost(), new architectures"], 100, "µs"),
        ("one cost() with all caches emptied under 100 µs", emptied, 100, "µs"),
    ]
    said = [f"- {what}: {'met' if v < most else 'missed'}, {v:.3g} {unit}" for what, v, most, unit in targets]
    said.append(f"- at least 100,000× fvcore in bulk: {'met' if ratio >= 1e5 else 'missed'}, {ratio:,.0f}×")
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "fvcore", "numpy"))
    (OUT / "RESULT.md").write_text(
        f"""# Counting costs

Per network of mnas at 224 px, one thread; the last column is how many times faster than fvcore's trace, which does
not include building the network.

| way | time per network | against fvcore |
|---|---|---|
{lines}

{chr(10).join(said)}

All ways agree on the networks that they were timed on: fvcore (flops), FlopCounterMode (MAdds), parameters on {SLOW}
built networks, the recursion (MAdds, parameters) and bulk against single costs (all four figures) on {FAST:,}. Medians
over networks and {REPEATS} rounds, or over {REPEATS} repeats in bulk (sampling: once); seed {SEED}. A machine with
{available_cores()} shared cores ({platform.machine()}), Python {platform.python_version()}, {versions}; {date.today()}.
"""
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        main()
