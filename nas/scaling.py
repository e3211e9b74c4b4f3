"""The mathematics of scaling: the grid of coefficients under their constraint, the rules, the family.

Pure functions of numbers and architectures; training the candidates is the command's business (`scale.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from math import isqrt

from nas.architecture import Architecture
from nas.cost import Cost
from nas.errors import UserError

PAPER = (1.2, 1.1, 1.15)  # what the paper found for EfficientNet-B0 (arXiv 1905.11946, section 4)


@dataclass(frozen=True)
class Coefficients:
    """α, β, γ: the factors of depth, width and resolution for φ = 1, each at least 1 where found by a grid."""

    alpha: float
    beta: float
    gamma: float

    @property
    def product(self) -> float:
        """α·β²·γ², by which the MAdds grow nominally for each unit of φ (arXiv 1905.11946, equation 3)."""
        a, b, g = (Decimal(str(x)) for x in (self.alpha, self.beta, self.gamma))
        return float(a * b * b * g * g)

    def factors(self, phi: float) -> tuple[float, float, float]:
        """Depth α^φ, width β^φ and resolution γ^φ (arXiv 1905.11946, equation 3)."""
        return round(self.alpha**phi, 12), round(self.beta**phi, 12), round(self.gamma**phi, 12)

    def __str__(self) -> str:
        return f"α {self.alpha:g} β {self.beta:g} γ {self.gamma:g}"


def grid(target: float = 2.0, step: float = 0.1, tolerance: float = 0.1) -> list[Coefficients]:
    """All α, β, γ ≥ 1 on a grid of this step with |α·β²·γ² - target| ≤ tolerance, in rising order.

    Computed in decimal arithmetic, so that a product at the very edge is in. target > 1, 0.01 ≤ step ≤ 1,
    tolerance ≥ 0. Raises UserError if nothing is left, naming the nearest triple.
    """
    if not 1 < target <= 8:
        raise UserError(f"--target {target}: must be above 1 and at most 8")
    if not 0.01 <= step <= 1:
        raise UserError(f"--step {step}: must be from 0.01 to 1")
    if not 0 <= tolerance <= target:
        raise UserError(f"--tolerance {tolerance}: must be from 0 to the target, {target:g}")
    aim, unit, slack = (Decimal(str(x)) for x in (target, step, tolerance))
    found, nearest = [], None
    for a, b, g, product in _points(unit, aim + slack + unit):
        miss = abs(product - aim)
        triple = Coefficients(float(a), float(b), float(g))
        if miss <= slack:
            found.append(triple)
        if nearest is None or miss < nearest[0]:
            nearest = miss, triple
    if not found:
        assert nearest is not None
        raise UserError(
            f"no α, β, γ on a grid of step {step:g} has a product within {tolerance:g} of {target:g}; the nearest is "
            f"{nearest[1]} with {nearest[1].product:g}: raise --tolerance or lower --step"
        )
    return found


def _points(unit: Decimal, most: Decimal) -> Iterator[tuple[Decimal, Decimal, Decimal, Decimal]]:
    """Grid points and their products up to about `most`, and the first one above along each line."""
    reach = range(int((most - 1) / unit) + 2)
    squares = range(int((Decimal(isqrt(int(most)) + 1) - 1) / unit) + 2)
    for i in reach:
        a = 1 + i * unit
        for j in squares:
            b = 1 + j * unit
            for k in squares:
                g = 1 + k * unit
                product = a * b * b * g * g
                yield a, b, g, product
                if product > most:
                    break
            if a * b * b > most:
                break


def rule_coefficients(rule: str, target: float = 2.0) -> Coefficients:
    """The coefficients of a rule that needs no grid, for MAdds that grow by `target` for each unit of φ.

    depth, width, resolution: all of it into one dimension. fast: d¹w⁸r¹, by which activations grow least for the
    accuracy kept (Dollár, Singh, Girshick 2021, arXiv 2103.06877, section 4). Raises UserError for another rule.
    """
    weights = {"depth": (1, 0, 0), "width": (0, 1, 0), "resolution": (0, 0, 1), "fast": (1, 8, 1)}
    if rule not in weights:
        raise UserError(f"--rule {rule!r}: unknown; known are compound, {', '.join(weights)}")
    d, w, r = weights[rule]
    total = d + w + r
    return Coefficients(target ** (d / total), target ** (w / (2 * total)), target ** (r / (2 * total)))


@dataclass(frozen=True)
class Member:
    """One member of a family: φ, its factors, and the network that they give."""

    phi: float
    depth: float
    width: float
    resolution: float
    architecture: Architecture

    @property
    def cost(self) -> Cost:
        """Counted at the member's own resolution, 3 channels and 1000 classes."""
        return self.architecture.cost()


def family(baseline: Architecture, coefficients: Coefficients, phis: list[float]) -> list[Member]:
    """Scale a baseline by each φ; raises UserError for a φ that leads outside the limits of an architecture."""
    members = []
    for phi in phis:
        depth, width, resolution = coefficients.factors(phi)
        try:
            members.append(Member(phi, depth, width, resolution, baseline.scale(depth, width, resolution)))
        except UserError as error:
            raise UserError(f"--phi {phi:g}: {error}") from None
    return members


def phis_up_to(phi: float) -> list[float]:
    """0, 1, 2, … towards φ and φ itself, in rising order: 3 gives 0, 1, 2, 3; -1.5 gives -1.5, -1, 0."""
    whole = [float(i) for i in range(int(abs(phi)) + 1)]
    steps = whole if whole[-1] == abs(phi) else [*whole, abs(phi)]
    return sorted(-x or 0.0 for x in steps) if phi < 0 else steps
