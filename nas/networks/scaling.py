"""The mathematics of scaling: the grid of coefficients under their constraint, the rules, the family, φ for a budget.

Pure functions of numbers and architectures; training the candidates is the command's business (`nas.scale`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from math import isqrt, log2

from nas.base.errors import UserError
from nas.base.units import nearest
from nas.networks.architecture import Architecture
from nas.networks.blocks import MAX_RESOLUTION, SMALL
from nas.networks.cost import PUBLISHED, Cost, Deployment
from nas.networks.fitting import PAPER

MOST_PHI = 20.0
EQUAL, AROUND = 0.03, 30  # relative difference of equal counts; hundredths of φ tried on either side
MOVE = 8  # pixels that a resolution may be moved by to meet a count
PART = MOVE / 224  # the same as a share: more would amount to another γ
FAR = 0.25  # share of the nominal MAdds above which a difference is reported
FINEST = 1000  # steps per unit in which φ is solved for
WEIGHTS = {"depth": "d1_w0_r0", "width": "d0_w1_r0", "resolution": "d0_w0_r1", "fast": "d1_w8_r1"}


@dataclass(frozen=True)
class Coefficients:
    """α, β, γ: the factors of depth, width and resolution for φ = 1, each at least 1; raises UserError for less."""

    alpha: float
    beta: float
    gamma: float

    def __post_init__(self) -> None:
        if not min(self.alpha, self.beta, self.gamma) >= 1:
            raise UserError(f"scaling needs coefficients of at least 1, got {self}; φ below 0 makes networks smaller")

    @property
    def product(self) -> float:
        """α·β²·γ², by which the MAdds grow nominally for each unit of φ (arXiv 1905.11946, equation 3)."""
        a, b, g = (Decimal(str(x)) for x in (self.alpha, self.beta, self.gamma))
        return float(a * b * b * g * g)

    def factors(self, phi: float) -> tuple[float, float, float]:
        """Depth α^φ, width β^φ and resolution γ^φ (arXiv 1905.11946, equation 3)."""
        return round(self.alpha**phi, 12), round(self.beta**phi, 12), round(self.gamma**phi, 12)

    def __str__(self) -> str:
        return f"α {self.alpha:.4g} β {self.beta:.4g} γ {self.gamma:.4g}"


def paper(target: float = 2.0) -> Coefficients:
    """The paper's coefficients, raised to the power log2(target) if the MAdds are to grow by another factor than 2."""
    return Coefficients(*PAPER) if target == 2 else Coefficients(*(x ** log2(target) for x in PAPER))


def grid(target: float = 2.0, step: float = 0.1, tolerance: float = 0.1) -> list[Coefficients]:
    """All α, β, γ ≥ 1 on a grid of this step with |α·β²·γ² - target| ≤ tolerance, in rising order.

    Computed in decimal arithmetic, so that a product at the very edge is in. 1 < target ≤ 8, 0.01 ≤ step ≤ 1,
    0 ≤ tolerance ≤ target. Raises UserError if nothing is left, naming the nearest triple.
    """
    check_grid(target, step, tolerance)
    aim, unit, slack = (Decimal(str(x)) for x in (target, step, tolerance))
    found, closest = [], None
    for triple, product in _points(unit, aim + slack + unit):
        miss = abs(product - aim)
        if miss <= slack:
            found.append(triple)
        if closest is None or miss < closest[0]:
            closest = miss, triple
    if not found:
        assert closest is not None
        raise UserError(
            f"no α, β, γ on a grid of step {step:g} has a product within {tolerance:g} of {target:g}; the nearest is "
            f"{closest[1]} with {closest[1].product:g}: raise --tolerance or lower --step"
        )
    return found


def check_grid(target: float, step: float, tolerance: float) -> None:
    """Refuse a grid that is empty by its nature, or endless; raises UserError."""
    check_target(target)
    if not 0.01 <= step <= 1:
        raise UserError(f"--step {step}: must be from 0.01 to 1")
    if not 0 <= tolerance <= target:
        raise UserError(f"--tolerance {tolerance}: must be from 0 to the target, {target:g}")


def check_target(target: float) -> None:
    """Refuse a factor by which MAdds cannot grow; raises UserError."""
    if not 1 < target <= 8:
        raise UserError(f"--target {target}: must be above 1 and at most 8")


def _points(unit: Decimal, most: Decimal) -> Iterator[tuple[Coefficients, Decimal]]:
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
                if product > 1:  # 1, 1, 1 scales nothing
                    yield Coefficients(float(a), float(b), float(g)), product
                if product > most:
                    break
            if a * b * b > most:
                break


@dataclass(frozen=True)
class Candidate:
    """A triple α, β, γ and its φ = 1 network.

    counted_ratio: its MAdds relative to the baseline's. moved: pixels by which the resolution differs from γ times the
    baseline's.
    """

    coefficients: Coefficients
    architecture: Architecture
    counted_ratio: float
    moved: int = 0


def candidate(
    baseline: Architecture,
    coefficients: Coefficients,
    target: float | None = None,
    deployment: Deployment = PUBLISHED,
) -> Candidate:
    """The φ = 1 network of a triple; with a target, the resolution is moved so that the counted ratio comes near it."""
    scaled = _scaled(baseline, coefficients, 1, deployment)
    base = deployment.cost(baseline).madds
    arch = scaled if target is None else match_madds(scaled, target * base, move_limit(scaled), deployment)
    return Candidate(coefficients, arch, deployment.cost(arch).madds / base, arch.resolution - scaled.resolution)


def counted_grid(
    baseline: Architecture, target: float, step: float, tolerance: float, deployment: Deployment = PUBLISHED
) -> list[Candidate]:
    """All α, β, γ ≥ 1 on the grid whose φ = 1 network has a counted MAdds ratio within tolerance of the target.

    For that the resolution may be moved by up to a share PART. Products from half to twice the target are tried, since
    rounding channels and layers changes the count by less. Raises UserError as `grid` does.
    """
    check_grid(target, step, tolerance)
    aim = Decimal(str(target))
    tried = [
        candidate(baseline, triple, target, deployment)
        for triple, product in _points(Decimal(str(step)), 2 * aim)
        if aim / 2 <= product <= 2 * aim
    ]
    found = [one for one in tried if abs(one.counted_ratio - target) <= tolerance]
    if not found:
        closest = min(tried, key=lambda one: abs(one.counted_ratio - target), default=None)
        hint = f"; the nearest is {closest.coefficients} with {closest.counted_ratio:.4g}" if closest else ""
        raise UserError(
            f"no α, β, γ on a grid of step {step:g} has a counted ratio within {tolerance:g} of {target:g}, with up to "
            f"{PART:.1%} of resolution more or less{hint}: raise --tolerance or lower --step"
        )
    return found


def move_limit(arch: Architecture) -> int:
    """The pixels that a network's resolution may be moved by: PART of it, at least one."""
    return max(1, round(PART * arch.resolution))


@cache
def match_madds(arch: Architecture, madds: float, most: int, deployment: Deployment = PUBLISHED) -> Architecture:
    """The network, its resolution moved by up to `most` pixels to bring its MAdds as near to `madds` as possible.

    Moves are by multiples of the deployment's resolution_step.
    """
    step = deployment.resolution_step
    moves = range(-(most // step) * step, most + 1, step)
    sizes = [px for move in moves if 1 <= (px := arch.resolution + move) <= MAX_RESOLUTION]
    best = min(sizes, key=lambda px: (abs(deployment.cost(arch, px).madds - madds), abs(px - arch.resolution)))
    return arch.at(best)


def _scaled(baseline: Architecture, coefficients: Coefficients, phi: float, deployment: Deployment) -> Architecture:
    """The baseline scaled by φ, but for what the deployment keeps, its resolution in the deployment's steps."""
    return baseline.scale(*coefficients.factors(phi), deployment.keep, deployment.resolution_step)


def rule_coefficients(rule: str, target: float = 2.0) -> Coefficients:
    """The coefficients of a rule that needs no grid, for MAdds that grow by `target` for each unit of φ.

    A rule is weights e_d, e_w, e_r of depth, width and resolution, written d1_w8_r1, with sum E: α = target^(e_d/E),
    β = target^(e_w/2E), γ = target^(e_r/2E) (Dollár, Singh, Girshick 2021, arXiv 2103.06877, section 4). fast is that
    paper's d1_w8_r1, by which activations grow little; depth, width, resolution put all into one dimension.
    Raises UserError for another rule.
    """
    match = re.fullmatch(r"d(\d{1,6}(?:\.\d{1,6})?)_w(\d{1,6}(?:\.\d{1,6})?)_r(\d{1,6}(?:\.\d{1,6})?)", rule)
    if rule in WEIGHTS:
        return rule_coefficients(WEIGHTS[rule], target)
    if not match:
        hint = nearest(rule[:40], ["compound", "auto", *WEIGHTS])
        raise UserError(f"--rule {rule[:40]!r}: unknown; {hint}, or weights such as d1_w8_r1")
    d, w, r = (float(weight) for weight in match.groups())
    total = d + w + r
    if not total:
        raise UserError(f"--rule {rule}: one of the weights must be above 0")
    return Coefficients(target ** (d / total), target ** (w / (2 * total)), target ** (r / (2 * total)))


@dataclass(frozen=True)
class Member:
    """One member of a family: φ, its factors, and the network that they give.

    resolution is the factor γ^φ; moved: pixels that the network's resolution differs from it, to match a count.
    """

    phi: float
    depth: float
    width: float
    resolution: float
    architecture: Architecture
    moved: int = 0
    deployment: Deployment = PUBLISHED

    @property
    def cost(self) -> Cost:
        """Counted at the member's own resolution, for the classes and channels that it is deployed for."""
        return self.deployment.cost(self.architecture)


def notes(baseline: Architecture, members: Sequence[Member], coefficients: Coefficients) -> list[str]:
    """Remarks on a family: small channels that are rounded more finely, counts that are FAR off the nominal."""
    keep = members[0].deployment.keep if members else ()
    widths = baseline.widths["stem" in keep : len(baseline.widths) - ("head" in keep)]
    scaled = [channels * one.width for one in members if one.width != 1 for channels in widths]
    why = f"by rounding and because {', '.join(keep)} stay as they are" if keep else "by rounding"
    fine = f"channels below {SMALL} are rounded to multiples of 4, 2 or 1, all others to multiples of 8"
    found = [fine] if min(scaled, default=SMALL) < SMALL else []
    for one in members:
        off = one.cost.madds / one.deployment.cost(baseline).madds / coefficients.product**one.phi
        if not 1 - FAR <= off <= 1 + FAR:
            found.append(f"φ {one.phi:g}: counted MAdds are {off:.3g} times the nominal ones, {why}")
    return found


def member(
    baseline: Architecture,
    coefficients: Coefficients,
    phi: float,
    target: float | None = None,
    deployment: Deployment = PUBLISHED,
) -> Member:
    """Scale a baseline by φ; with a target, its resolution is moved to bring the MAdds near target^φ times as many.

    Raises UserError for a φ that leads outside the limits of an architecture.
    """
    depth, width, resolution = coefficients.factors(phi)
    try:
        scaled = _scaled(baseline, coefficients, phi, deployment)
    except UserError as error:
        raise UserError(f"--phi {phi:g}: {error}") from None
    arch = scaled
    if target and phi:
        most = move_limit(scaled)
        if resolution < 1:
            most = max(0, min(most, baseline.resolution - scaled.resolution))
        arch = match_madds(scaled, target**phi * deployment.cost(baseline).madds, most, deployment)
    return Member(phi, depth, width, resolution, arch, arch.resolution - scaled.resolution, deployment)


def family(
    baseline: Architecture,
    coefficients: Coefficients,
    phis: Sequence[float],
    target: float | None = None,
    deployment: Deployment = PUBLISHED,
) -> list[Member]:
    """Scale a baseline by each φ, as `member` does; raises UserError."""
    return [member(baseline, coefficients, phi, target, deployment) for phi in phis]


def solve(at: Callable[[float], Architecture], cost: Callable[[Architecture], float], limit: float, what: str) -> float:
    """The largest φ, in steps of 1/FINEST, at which the network costs no more than the limit.

    at: the network of a φ, whose cost rises with φ; raises UserError outside the limits of an architecture. Raises
    UserError, which begins with `what`, if no φ or every φ keeps the limit.
    """

    def fits(steps: int) -> bool:
        try:
            return cost(at(steps / FINEST)) <= limit
        except UserError:
            return steps < 0  # too small to be a network, or too large

    low = high = 0
    if fits(0):
        while fits(high + FINEST):
            low = high = high + FINEST
            if high >= MOST_PHI * FINEST:
                raise UserError(f"{what}: even φ = {MOST_PHI:g} stays below; with this rule φ has no such bound")
        high += FINEST
    else:
        while not fits(low - FINEST):
            low -= FINEST
            if low <= -MOST_PHI * FINEST:
                raise UserError(f"{what}: even φ = -{MOST_PHI:g} is above; it does not fall with φ by this rule")
        high, low = low, low - FINEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    for steps, other, word, where in ((low, high, "smallest", "above"), (high, low, "largest", "below")):
        try:
            at(steps / FINEST)
        except UserError:
            phi = other / FINEST
            raise UserError(
                f"{what}: the {word} network that this rule gives, at φ = {phi:g}, is {where} it: {cost(at(phi)):.4g}"
            ) from None
    return low / FINEST


def equal_cost(
    baseline: Architecture,
    coefficients: Coefficients,
    madds: float,
    deployment: Deployment = PUBLISHED,
    most: int = MOVE,
) -> Member:
    """The member whose counted MAdds are within EQUAL of `madds` with the fewest pixels moved, or else come nearest.

    Tried are φ around that of the largest network below `madds`, each with its resolution moved by up to `most` pixels.
    Raises UserError if no φ reaches it.
    """

    def at(phi: float) -> Member:
        return member(baseline, coefficients, phi, None, deployment)

    def count(arch: Architecture) -> float:
        return deployment.cost(arch).madds

    below = solve(lambda phi: at(phi).architecture, count, madds, f"{madds:.4g} MAdds")
    plain: dict[Architecture, Member] = {}
    for steps in range(-AROUND, AROUND + 1):
        with suppress(UserError):
            one = at(round(below + steps / 100, 3))
            plain.setdefault(one.architecture, one)
    found = []
    for one in plain.values():
        arch = match_madds(one.architecture, madds, most, deployment)
        found.append(replace(one, architecture=arch, moved=arch.resolution - one.architecture.resolution))
    misses = {one: abs(one.cost.madds / madds - 1) for one in found}
    return min(found, key=lambda one: (max(misses[one], EQUAL), abs(one.moved), misses[one]))


def parse_phis(text: str) -> list[float]:
    """The values of φ that an option names, in rising order, each once; raises UserError.

    3 is 0, 1, 2, 3; -1.5 is -1.5, -1, 0; a range 0.5..2 is 0.5, 1.5, 2: steps of 1 and both ends.
    """
    number = r"-?\d{1,4}(?:\.\d{1,9})?"
    match = re.fullmatch(rf"({number})(?:\.\.({number}))?", text.strip())
    ends = [float(end) for end in match.groups() if end is not None] if match else []
    if not ends or not all(abs(end) <= MOST_PHI for end in ends):
        raise UserError(f"--phi {text[:40]!r}: give a number from -{MOST_PHI:g} to {MOST_PHI:g}, or a range like 0..7")
    if len(ends) == 1:
        return phis_up_to(ends[0])
    low, high = ends
    if low > high:
        raise UserError(f"--phi {text}: the range falls; write {high:g}..{low:g}")
    return sorted({low + i for i in range(int(high - low) + 1)} | {high})


def phis_up_to(phi: float) -> list[float]:
    """0, 1, 2, … towards φ and φ itself, in rising order: 3 gives 0, 1, 2, 3; -1.5 gives -1.5, -1, 0."""
    whole = [float(i) for i in range(int(abs(phi)) + 1)]
    steps = whole if whole[-1] == abs(phi) else [*whole, abs(phi)]
    return sorted(-x or 0.0 for x in steps) if phi < 0 else steps


def dropout(phi: float) -> float:
    """Dropout of a member, as the paper raises it linearly from 0.2 (B0, φ = 0) to 0.5 (B7, φ = 6), in 0 to 0.5.

    Tan & Le 2019, arXiv 1905.11946, section 5.2.
    """
    return round(min(0.5, max(0.0, 0.2 + 0.3 * phi / 6)), 6)


DROP_PATH = 0.2  # survival probability 0.8 in the same section, for every member
