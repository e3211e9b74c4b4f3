"""Published networks at the costs of a family, to compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from nas.base.errors import UserError
from nas.networks import scaling
from nas.networks.architecture import Architecture
from nas.networks.cost import Deployment
from nas.networks.scaling import Coefficients, Member

TITLES = {"efficientnet_b0": "EfficientNet-B0", "mobilenet_v2": "MobileNetV2", "mnasnet_a1": "MnasNet-A1"}
WIDTH = scaling.rule_coefficients("width")


def published(
    baseline: Architecture, coefficients: Coefficients, members: Sequence[Member]
) -> dict[tuple[str, float], Member]:
    """The published networks of TITLES at the members' counted MAdds, by title and a member's φ.

    Each is fitted to the baseline's resolution, narrowed or widened to its MAdds, and from there scaled by the same
    coefficients. Left out are the baseline itself and what cannot come to such a cost.
    """
    found: dict[tuple[str, float], Member] = {}
    deployment = members[0].deployment
    for name, title in TITLES.items():
        with suppress(UserError):
            start = fitted(Architecture.load(name), baseline, deployment)
            for member in members if start != baseline else ():
                with suppress(UserError):
                    madds, most = member.cost.madds, scaling.move_limit(start)
                    found[title, member.phi] = scaling.equal_cost(start, coefficients, madds, deployment, most)
    return found


def fitted(arch: Architecture, baseline: Architecture, deployment: Deployment) -> Architecture:
    """A network for the resolution of a baseline, of the largest width at which it costs no more MAdds.

    Raises UserError if there is none.
    """
    start, free = arch.fitted(baseline.resolution, 1).at(baseline.resolution), replace(deployment, keep=())

    def at(phi: float) -> Architecture:
        return scaling.member(start, WIDTH, phi, None, free).architecture

    madds = deployment.cost(baseline).madds
    phi = scaling.solve(at, lambda one: deployment.cost(one).madds, madds, f"{madds} MAdds")
    return at(phi)
