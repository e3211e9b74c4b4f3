"""How much quicker `nas.training.convolutions` is than torch's own way, kernel by kernel: forward and backward pass.

    python experiments/convolutions.py

Both ways take turns on the same layer and map, on one thread; the ratio is the median over ROUNDS turns of processor
times. Writes experiments/convolutions/: times.csv, RESULT.md.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn

from nas.base.machine import available_cores
from nas.devices.device import mixed_dtype
from nas.training.convolutions import convolve

KEPT = Path(__file__).resolve().parent / "convolutions"
BATCH, CHANNELS, ROUNDS, WARM_UP, LEAST = 64, 240, 9, 2, 0.02  # LEAST: seconds of each measurement


@dataclass(frozen=True)
class Case:
    """A layer: kernel, stride, side of the map in pixels, whether depthwise, and whether the arithmetic is bf16."""

    kernel: int
    stride: int
    side: int
    depthwise: bool
    bf16: bool


def cases() -> list[Case]:
    """1x1 kernels on small maps; depthwise kernels on small maps and, in bf16, on larger ones."""
    kinds = [False] + [True] * (mixed_dtype(torch.device("cpu")) is torch.bfloat16)
    dense = [Case(1, 1, side, False, bf16) for bf16 in kinds for side in (1, 2, 3, 4)]
    shapes = (3, 1), (3, 2), (5, 2), (5, 3), (5, 4)
    small = [Case(kernel, 1, side, True, bf16) for bf16 in kinds for kernel, side in shapes]
    large = [Case(kernel, stride, 14, True, True) for kernel in (3, 5) for stride in (1, 2)] if len(kinds) > 1 else []
    return dense + small + large


def seconds(case: Case, conv: nn.Conv2d, x: Tensor, quick: bool) -> float:
    """Processor time of a forward and a backward pass, the mean of as many as take LEAST seconds."""
    passes, began = 0, time.process_time()
    while (spent := time.process_time() - began) < LEAST:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
            result = convolve(conv, x) if quick else conv(x)
        result.backward(torch.ones_like(result))
        passes += 1
    return spent / passes


def measure(case: Case) -> dict[str, object]:
    """The row of a case: milliseconds by each way, and how many times quicker ours is."""
    groups = CHANNELS if case.depthwise else 1
    conv = nn.Conv2d(CHANNELS, CHANNELS, case.kernel, case.stride, case.kernel // 2, groups=groups, bias=False)
    conv = conv.to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, CHANNELS, case.side, case.side).to(memory_format=torch.channels_last).requires_grad_()
    turns = [[seconds(case, conv, x, quick) for quick in (False, True)] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    plain, ours = (1000 * median(way) for way in zip(*turns, strict=True))
    return {
        "layer": f"{case.kernel}x{case.kernel} {'depthwise' if case.depthwise else 'dense'}, stride {case.stride}",
        "map": case.side,
        "arithmetic": "bf16" if case.bf16 else "fp32",
        "torch_ms": plain,
        "ours_ms": ours,
        "ratio": median(a / b for a, b in turns),
    }


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    table = pd.DataFrame([measure(case) for case in cases()])
    KEPT.mkdir(exist_ok=True)
    table.to_csv(KEPT / "times.csv", index=False, float_format="%.4g")
    lines = [
        f"| {row['layer']} | {row['map']} px | {row['arithmetic']} | {row['torch_ms']:.2f} | {row['ours_ms']:.2f} | "
        f"**{row['ratio']:.1f}×** |"
        for row in table.to_dict("records")
    ]
    (KEPT / "RESULT.md").write_text(
        f"""# Convolutions on small maps, on the CPU

Forward and backward pass of one layer of {CHANNELS} channels on {BATCH} maps, processor milliseconds on one thread.

| layer | map | arithmetic | torch | ours | ratio |
|---|---|---|---|---|---|
{chr(10).join(lines)}

Medians over {ROUNDS} turns; {available_cores()} CPU cores ({platform.machine()}), shared; Python
{platform.python_version()}, torch {metadata.version("torch")}; {date.today()}.
"""
    )


if __name__ == "__main__":
    main()
