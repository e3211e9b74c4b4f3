"""`python -m nas.cost --space`: the size of a space, how much of it is within a budget, and how its costs spread."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.table import Table

from nas.base.arrays import Ints
from nas.base.limits import SPOKEN, Bounds, figure, words
from nas.spaces.budgets import DRAWS, count_text
from nas.spaces.space import SearchSpace

QUANTILES = (0, 10, 25, 50, 75, 90, 100)  # percent


@dataclass(frozen=True)
class View:
    """A space and a budget on it."""

    space: SearchSpace
    bounds: Bounds

    @cached_property
    def count(self) -> tuple[float, float | None]:
        """How many networks are within the budget, and the standard error of that, None if it is exact."""
        return self.space.count_within(self.bounds)

    @property
    def share(self) -> float:
        """The part of the space that is within the budget, from 0 to 1."""
        return self.count[0] / self.space.size

    @cached_property
    def everywhere(self) -> dict[str, Ints]:
        """The costs of networks drawn uniformly from the space, [DRAWS] each."""
        return self._drawn({})

    @cached_property
    def feasible(self) -> dict[str, Ints]:
        """The same within the budget."""
        return self._drawn(self.bounds) if self.bounds else self.everywhere

    def _drawn(self, bounds: Bounds) -> dict[str, Ints]:
        return self.space.costs(self.space.draw_codes(DRAWS, 0, bounds))

    def sentences(self) -> list[str]:
        """Size, budget and feasible share."""
        counted = f"{self.space.resolution} px, {self.space.in_channels} channels, {self.space.num_classes} classes"
        parts = [f"{self.space.name}: {self.space.size:,} distinct networks; costs at {counted}"]
        if self.bounds:
            parts.append(f"within {words(self.bounds)}: {count_text(*self.count, self.space.size)}")
        return parts

    def table(self) -> Table:
        """Per cost: the exact range of the space, and quantiles of the networks within the budget."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", "least", "most", *(f"{q} %" for q in QUANTILES)):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        extremes = self.space.extremes()
        for name, ends in extremes.items():
            drawn = np.percentile(self.feasible[name], QUANTILES)
            table.add_row(SPOKEN.get(name, name), *(figure(name, float(n)) for n in (*ends, *drawn)))
        return table
