"""`python -m nas.cost --families`: the published EfficientNets beside what the paper's rule gives, both counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from rich.table import Table

from nas.base.files import read_toml
from nas.networks.architecture import FAMILIES, Architecture, bundled_path
from nas.networks.scaling import paper

RULE = paper()


@dataclass(frozen=True)
class Member:
    """One published EfficientNet. width, depth, gmadds and top1 (%) as its paper and code give them; published: that
    network; ruled: B0 scaled by α^φ, β^φ, γ^φ."""

    name: str
    phi: float
    width: float
    depth: float
    gmadds: float
    top1: float
    published: Architecture
    ruled: Architecture

    @property
    def growth(self) -> float:
        """The φ at which the rule's nominal MAdds equal the published network's."""
        base = Architecture.load("efficientnet_b0").cost().madds
        return log(self.published.cost().madds / base) / log(RULE.product)


def members() -> list[Member]:
    """EfficientNet-B0 to B7, with the figures of their files."""
    b0 = Architecture.load("efficientnet_b0")
    found = []
    for i in range(8):
        name = f"efficientnet_b{i}"
        about = read_toml(bundled_path(name, FAMILIES, "architecture"))["about"]
        phi = about["phi"]
        ruled = b0.scale(*RULE.factors(phi))
        width, depth, gmadds, top1 = (about[key] for key in ("width", "depth", "paper_gmadds", "paper_top1"))
        found.append(Member(f"B{i}", phi, width, depth, gmadds, top1, Architecture.load(name), ruled))
    return found


def families_table(rows: Sequence[Member]) -> Table:
    """One row a network: the published one, the rule's, and the paper's figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["", "φ", "w", "d", "px", "MAdds", "params", "β^φ", "α^φ", "γ^φ px", "MAdds", "params"]
    for column in [*columns, "φ by MAdds", "paper FLOPs", "paper top-1"]:
        table.add_column(column, justify="right", no_wrap=True)
    for m in rows:
        depth, width, _ = RULE.factors(m.phi)
        table.add_row(
            *(m.name, f"{m.phi:g}", f"{m.width:g}", f"{m.depth:g}", *_counted(m.published)),
            *(f"{width:.3f}", f"{depth:.3f}", *_counted(m.ruled)),
            *(f"{m.growth:.2f}", f"{m.gmadds:g}B", f"{m.top1:.1f} %"),
        )
    return table


def _counted(arch: Architecture) -> tuple[str, str, str]:
    cost = arch.cost()
    return str(arch.resolution), f"{cost.madds / 1e9:.3f}G", f"{cost.params / 1e6:.2f}M"


def explanation(rows: Sequence[Member]) -> list[str]:
    """Sentences that explain the table."""
    last = rows[-1]
    published, ruled = last.published.cost().madds, last.ruled.cost().madds
    off = max(abs(m.published.cost().madds / 1e9 / m.gmadds - 1) for m in rows)
    return [
        "First the released network (its width w, depth d and resolution), then B0 scaled by the paper's rule: depth "
        f"α^φ, width β^φ, resolution γ^φ with α, β, γ = {RULE.alpha:g}, {RULE.beta:g}, {RULE.gamma:g}.",
        "The two differ: the released coefficients are round numbers and not the powers of α, β, γ, so they cannot be "
        "computed from φ.",
        f"By the rule, MAdds grow α·β²·γ² = {RULE.product:.3f} times with each φ, before channels and repeats are "
        f"rounded up. The released ones grow faster: {last.name}, called φ = {last.phi:g}, has {published / ruled:.2f} "
        f"times the MAdds of the rule at φ = {last.phi:g}.",
        "'φ by MAdds' is the φ at which the rule's nominal MAdds equal the released network's.",
        "The paper's FLOPs are multiply-adds, as counted here; its rounded figures are within "
        f"{100 * off:.0f} % of the exact ones. Top-1 is the paper's, on ImageNet.",
    ]
