"""Networks in the few numbers that the page draws them from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from nas.base.errors import UserError
from nas.networks.architecture import Architecture
from nas.networks.cost import parts


def drawings(places: Mapping[str, str]) -> dict[str, Any]:
    """Networks as the page draws them, in the order given; places: block strings, and where each was read.

    What many networks share is written once. words, sides: distinct words of block strings, and distinct lists of the
    sides of a network's parts in pixels; stages: [op, repeats, kernel, stride, expansion, channels, se] by word;
    networks: [numbers of words, number of sides, shares of the MAdds in percent]. Parts are stem, stages, head and
    classifier. Raises UserError, which names the place.
    """
    words: dict[str, int] = {}
    sides: dict[tuple[int, ...], int] = {}
    stages: dict[str, list[Any]] = {}
    networks: list[list[Any]] = []
    for text, place in places.items():
        try:
            arch, sizes, shares = _counted(text)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        for stage in arch.stages:
            shape = (stage.repeats, stage.kernel, stage.stride, stage.expansion, stage.channels, stage.se)
            stages[str(stage)] = [stage.op, *shape]
        written = [words.setdefault(word, len(words)) for word in str(arch).split()]
        networks.append([written, sides.setdefault(sizes, len(sides)), shares])
    return {"words": list(words), "sides": list(map(list, sides)), "stages": stages, "networks": networks}


@lru_cache(maxsize=65536)
def _counted(text: str) -> tuple[Architecture, tuple[int, ...], list[int]]:
    """A network, the sides of its parts' outputs in pixels, and their shares of the MAdds in percent."""
    arch = Architecture.parse(text)
    counted = parts(arch)
    madds = [part.cost.madds for part in counted]
    return arch, tuple(part.size for part in counted), [round(100 * one / sum(madds)) for one in madds]
