"""How well a table of measured parts predicts the latency of networks that it has not seen.

    python experiments/latency_table.py 2        # measure with so many threads, two to four minutes each
    python experiments/latency_table.py          # the picture and RESULT.md from what was measured

Space mnas at 224 px on the CPU, batch 1, float32. The unseen networks are drawn uniformly; a pass of all of them comes
after every few networks that the table is measured in, so that both see the same state of the machine. Results are in
experiments/latency_table/.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import ExitStack
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nas import SearchSpace
from nas.base.machine import available_cores
from nas.devices.latency import PASSES, TIMES, Conditions, cover, measure_table, prepared

KEPT = Path(__file__).resolve().parent / "latency_table"
UNSEEN, FIRST_SEED, EVERY = 40, 3000, 12


def measure(threads: int) -> None:
    """Measure a table and, in between, the networks that it has to predict; keep both."""
    space = SearchSpace.load("mnas")
    conditions = Conditions("cpu", threads)
    seen = {arch.hash for arch in cover(space, TIMES, 0)}
    unseen = [arch for arch in (space.sample(seed=FIRST_SEED + i) for i in range(UNSEEN)) if arch.hash not in seen]
    rounds: list[list[float]] = []
    spent = 0.0
    with ExitStack() as stack:
        runs = [stack.enter_context(prepared(arch, conditions)) for arch in unseen]

        def between(done: int, total: int) -> None:
            nonlocal spent
            if done % EVERY == 0:
                started = time.perf_counter()
                rounds.append([sum(run()) for run in runs])
                spent += time.perf_counter() - started

        started = time.perf_counter()
        table = measure_table(space, conditions, progress=between)
        seconds = time.perf_counter() - started - spent
    low, median, high = np.quantile(rounds, [0.25, 0.5, 0.75], axis=0)
    frame = pd.DataFrame(
        {
            "threads": threads,
            "predicted": [table.predict(arch) for arch in unseen],
            "measured": median,
            "low": low,
            "high": high,
            "rounds": len(rounds),
            "madds": [arch.cost().madds for arch in unseen],
            "parts": len(table.seconds),
            "table_seconds": round(seconds),
            "load": round(os.getloadavg()[1], 1),
            "date": str(date.today()),
            "architecture": [str(arch) for arch in unseen],
        }
    )
    frame.to_csv(KEPT / f"unseen_{threads}.csv", index=False, float_format="%.6g")
    (KEPT / f"table_{threads}.csv").write_text(table.to_csv())


def errors(frame: pd.DataFrame) -> dict[str, float]:
    """Errors of the table on the unseen networks, and of the best line in MAdds, fitted on these themselves."""
    predicted, measured = frame["predicted"].to_numpy(), frame["measured"].to_numpy()
    error = predicted / measured - 1
    line = np.polyval(np.polyfit(frame["madds"], measured, 1), frame["madds"]) / measured - 1
    ranks = pd.Series(predicted).rank().corr(pd.Series(measured).rank())
    return {
        "median": float(np.median(np.abs(error))),
        "tenth": float(np.quantile(np.abs(error), 0.9)),
        "most": float(np.abs(error).max()),
        "bias": float(np.median(error)),
        "rank": float(ranks),
        "line": float(np.median(np.abs(line))),
        "spread": float(((frame["high"] - frame["low"]) / frame["measured"]).median()),
    }


def picture(frames: list[pd.DataFrame]) -> Figure:
    """Predicted against measured latency, a panel for each number of threads."""
    figure = Figure(figsize=(6 * len(frames), 5.2), layout="constrained")
    figure.suptitle("Latency of unseen networks of mnas (224 px, CPU, batch 1, float32)", fontweight="bold")
    for axes, frame in zip(np.atleast_1d(figure.subplots(1, len(frames))), frames, strict=True):
        x, y = 1000 * frame["measured"], 1000 * frame["predicted"]
        bars = np.abs(1000 * frame[["low", "high"]].to_numpy().T - x.to_numpy())
        axes.errorbar(x, y, xerr=bars, fmt="o", markersize=5, elinewidth=0.8, color="#1f6fb4", ecolor="#9aa5b1")
        ends = np.array([min(x.min(), y.min()) * 0.95, max(x.max(), y.max()) * 1.05])
        axes.plot(ends, ends, color="#222222", linewidth=0.9, label="equal")
        axes.fill_between(ends, 0.95 * ends, 1.05 * ends, color="#222222", alpha=0.1, label="± 5 %")
        axes.set_title(f"threads: {frame['threads'][0]}, median error {100 * errors(frame)['median']:.1f} %")
        axes.set_xlabel("measured, median of rounds; bars: quartiles (ms)")
        axes.set_ylabel("predicted from the table (ms)")
        axes.legend(loc="upper left", fontsize=8)
    return figure


def report() -> None:
    """Write the picture and RESULT.md."""
    frames = [pd.read_csv(path) for path in sorted(KEPT.glob("unseen_*.csv"))]
    picture(frames).savefig(KEPT / "predicted.png", dpi=120)
    rows = []
    for frame in frames:
        e, first = errors(frame), frame.iloc[0]
        rows.append(
            f"| {first['threads']} | {len(frame)} | {1000 * frame['measured'].min():.0f}–"
            f"{1000 * frame['measured'].max():.0f} ms | **{100 * e['median']:.1f} %** | {100 * e['tenth']:.1f} % | "
            f"{100 * e['most']:.1f} % | {100 * e['bias']:+.1f} % | {e['rank']:.3f} | {100 * e['line']:.1f} % | "
            f"{100 * e['spread']:.1f} % | {first['parts']} in {first['table_seconds']} s | {first['load']} |"
        )
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "numpy"))
    text = f"""# A table of measured parts predicts the latency of unseen networks

| threads | networks | measured | median error | 90 % within | largest | bias | rank corr. | line in MAdds | \
quartile spread | parts | load |
|---|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Errors are |predicted / measured − 1|; the target is a median of at most 5 %. Space mnas, 224 px, batch 1, float32,
eager, batch norm folded. Unseen networks: uniform, seeds from {FIRST_SEED}; measured: median over
{frames[0]["rounds"][0]} rounds between the table's own networks.
The table: each part in at least {TIMES} networks, {PASSES} passes of each; all scaled by one factor, found on the
table's own networks; nothing is fitted to the unseen ones. Before that factor was there, the medians were 2.8 % with
one thread and 6.7 % with two (bias -6.2 %), on networks drawn from seed 2000 on.
"line in MAdds": median error of the best straight line, fitted on the unseen networks themselves.
"quartile spread": a network's interquartile range over its median, itself the noise of this machine; "load": its load
average over five minutes at the end, 1 or more above the threads where others computed meanwhile.

{available_cores()} CPU cores ({platform.machine()}, {platform.system()}), shared with others, Python \
{platform.python_version()}, {versions}; {frames[0]["date"][0]}.
"""
    (KEPT / "RESULT.md").write_text(text)


def main() -> None:
    """Measure with the threads that are named, or report."""
    KEPT.mkdir(exist_ok=True)
    for threads in sys.argv[1:]:
        measure(int(threads))
    report()


if __name__ == "__main__":
    main()
