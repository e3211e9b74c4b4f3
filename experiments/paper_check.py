"""B0 scaled by the paper's rule and by the released coefficients, beside the published networks.

    python experiments/paper_check.py

Writes experiments/paper_check/table.csv and RESULT.md. The rule's φ is 0 to 7, as B0 to B7 are often read; the released
coefficients are those of the networks' files, the published costs those of torchvision and of the paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torchvision

from nas import Architecture
from nas.base.files import read_toml, write_atomic
from nas.networks import scaling
from nas.networks.architecture import FAMILIES, bundled_path

KEPT = Path(__file__).resolve().parent / "paper_check"
B0 = Architecture.load("efficientnet_b0")


def facts(i: int) -> dict[str, Any]:
    """What is known of B0 to B7."""
    about: dict[str, Any] = read_toml(bundled_path(f"efficientnet_b{i}", FAMILIES, "architecture"))["about"]
    return about


def rows() -> pd.DataFrame:
    """A row for each of B0 to B7."""
    found = []
    for i in range(8):
        about = facts(i)
        weights = torchvision.models.get_model_weights(f"efficientnet_b{i}").IMAGENET1K_V1
        pixels = weights.transforms().crop_size[0]
        ruled = scaling.member(B0, scaling.paper(), i)
        released = B0.scale(about["depth"], about["width"]).at(pixels)
        found.append(
            {
                **{"phi": i, "ruled_depth": ruled.depth, "ruled_width": ruled.width},
                **{"ruled_pixels": ruled.architecture.resolution, "ruled_gmadds": ruled.cost.madds / 1e9},
                **{"ruled_params": ruled.cost.params, "released_depth": about["depth"]},
                **{"released_width": about["width"], "released_pixels": pixels},
                **{"released_gmadds": released.cost().madds / 1e9, "released_params": released.cost().params},
                **{"torchvision_gmadds": weights.meta["_ops"], "torchvision_params": weights.meta["num_params"]},
                **{"paper_gmadds": about["paper_gmadds"], "paper_top1": about["paper_top1"]},
            }
        )
    return pd.DataFrame(found)


def result(table: pd.DataFrame) -> str:
    """The table and what it says, in words."""
    params = (table["released_params"] != table["torchvision_params"]).sum()
    madds = (table["released_gmadds"].round(3) != table["torchvision_gmadds"]).sum()
    lines = [
        "# B0 scaled, beside the published networks",
        "",
        "Made by `experiments/paper_check.py`. d, w, px: depth, width, resolution. Rule: α^φ, β^φ, γ^φ with "
        f"{scaling.paper()}. GMAdds are what the papers print as FLOPs.",
        "",
        "| | φ | rule: d, w, px | GMAdds | params | released: d, w, px | GMAdds | params | torchvision: GMAdds "
        "| params | paper: FLOPs | top-1 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for i, row in enumerate(table.to_dict("records")):
        lines.append(
            f"| B{i} | {row['phi']} | {row['ruled_depth']:.3f}, {row['ruled_width']:.3f}, {row['ruled_pixels']} | "
            f"{row['ruled_gmadds']:.3f} | {row['ruled_params']:,} | {row['released_depth']:g}, "
            f"{row['released_width']:g}, {row['released_pixels']} | {row['released_gmadds']:.3f} | "
            f"{row['released_params']:,} | {row['torchvision_gmadds']:.3f} | {row['torchvision_params']:,} | "
            f"{row['paper_gmadds']:g}B | {row['paper_top1']:g} % |"
        )
    last = table.iloc[-1]
    lines += [
        "",
        f"Of the eight networks by the released coefficients, {params} differ from torchvision in parameters and "
        f"{madds} in GMAdds as far as torchvision prints them (at its own resolution, for B2 288 px and not the "
        "paper's 260). The rule's differ: the released coefficients are round numbers and not powers of α, β, γ; "
        f"at φ = 7 the rule has {last['ruled_gmadds'] / last['released_gmadds']:.2f} times the MAdds of B7, whose φ "
        f"would be {facts(7)['phi']:g} by the project's source note.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    KEPT.mkdir(exist_ok=True)
    found = rows()
    write_atomic(KEPT / "table.csv", found.to_csv(index=False))
    write_atomic(KEPT / "RESULT.md", result(found))
