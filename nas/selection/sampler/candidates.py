"""What a search may propose: a finite grid of parameters and what the user's functions say of its members."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.base.arrays import Bools, Floats, Ints
from nas.base.errors import UserError

Params = dict[str, Any]
Draw = Callable[[int, np.random.Generator], Iterable[Params]]

LISTED = 20_000  # a space up to this size is listed whole
POOL = 4_096  # random candidates of a larger one
CHOICES = 128  # an integer with more values is sampled independently


@dataclass(frozen=True)
class Grid:
    """A finite space: a tuple of choices per slot. A code is one choice index per slot."""

    names: tuple[str, ...]
    choices: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, space: Mapping[str, BaseDistribution]) -> Grid:
        """The categorical and small integer parameters of an Optuna search space, sorted by name."""
        finite = {name: values for name in sorted(space) if (values := choices(space[name]))}
        return cls(tuple(finite), tuple(finite.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(len, self.choices))

    def code(self, params: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The code of params; None where a name is missing or a value is not among the choices."""
        try:
            return tuple(c.index(params[name]) for name, c in zip(self.names, self.choices, strict=True))
        except (KeyError, ValueError):
            return None

    def params(self, code: Iterable[int]) -> Params:
        return {name: c[i] for name, c, i in zip(self.names, self.choices, code, strict=True)}


def choices(distribution: BaseDistribution) -> tuple[Any, ...]:
    """The choices of a distribution; none if it is continuous or has too many."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution):
        values = range(distribution.low, distribution.high + 1, distribution.step)
        return tuple(values) if len(values) <= CHOICES else ()
    return ()


class Candidates:
    """A growing table of candidates and what the user's functions say of them; each is asked once.

    By row: `codes` int [n, slots]; `feasible` bool [n], False also where a cost is not finite; `costs` float
    [n, len(known)], NaN where `feasible` says no; `network` int [n], equal for equal networks. `pool` holds the rows
    that are always on offer; `complete` says that there are no others.
    """

    def __init__(
        self,
        grid: Grid,
        feasible: Callable[[Params], bool] | None = None,
        known: Sequence[Callable[[Params], float]] = (),
        key: Callable[[Params], Hashable] | None = None,
        draw: Draw | None = None,
    ) -> None:
        self.grid, self._allows, self._known, self._key, self._draw = grid, feasible, known, key, draw
        self._row: dict[bytes, int] = {}
        self._number: dict[Hashable, int] = {}
        self.codes: Ints = np.empty((0, len(grid.names)), dtype=np.int64)
        self.feasible: Bools = np.empty(0, dtype=bool)
        self.costs: Floats = np.empty((0, len(known)))
        self.network: Ints = np.empty(0, dtype=np.int64)
        self._room: dict[str, Any] = {}  # what these are the beginnings of, longer than them
        self.pool: Ints = np.empty(0, dtype=np.int64)
        self.complete = False

    def fill(self, size: int, seed: int) -> None:
        """Fill the pool: with all that is feasible if the space has at most `size` combinations, else about `size`
        drawn at random. Raises UserError if nothing feasible is found."""
        self.complete = math.prod(self.grid.sizes) <= size
        self.pool = self.everything() if self.complete else self._drawn(size, np.random.default_rng(seed))
        if not len(self.pool):
            raise UserError("feasible(params) refuses every candidate: loosen the budget or the space")

    def rows(self, codes: Ints) -> Ints:
        """The row of each code [n, slots]; those not seen before are asked about and added."""
        codes = np.ascontiguousarray(codes, dtype=np.int64).reshape(-1, len(self.grid.names))
        names = [code.tobytes() for code in codes]
        fresh = {name: i for i, name in enumerate(names) if name not in self._row}
        if fresh:
            self._add(list(fresh), codes[list(fresh.values())])
        return np.array([self._row[name] for name in names], dtype=np.int64)

    def _add(self, names: list[bytes], codes: Ints) -> None:
        params = [self.grid.params(code) for code in codes.tolist()]
        allowed = [self._allows is None or bool(self._allows(p)) for p in params]
        asked = list(zip(names, params, allowed, strict=True))
        costs = [[float(cost(p)) if ok else math.nan for cost in self._known] for _, p, ok in asked]
        keys = [self._key(p) if self._key and ok else name for name, p, ok in asked]
        network = [self._number.setdefault(key, len(self._number)) for key in keys]
        self._row.update((name, len(self.codes) + i) for i, name in enumerate(names))
        price = np.array(costs).reshape(len(codes), -1)
        self._append("codes", codes)
        self._append("costs", price)
        self._append("feasible", np.array(allowed) & np.isfinite(price).all(axis=1))
        self._append("network", np.array(network, dtype=np.int64))

    def _append(self, name: str, new: Any) -> None:
        """Lengthen an array; its room doubles when it is full, so that this is quick on average."""
        old = getattr(self, name)
        count = len(old) + len(new)
        if name not in self._room or len(self._room[name]) < count:
            self._room[name] = np.empty((2 * count, *old.shape[1:]), old.dtype)
            self._room[name][: len(old)] = old
        self._room[name][len(old) : count] = new
        setattr(self, name, self._room[name][:count])

    def feasible_rows(self, codes: Ints) -> Ints:
        """The rows of those codes that are feasible, sorted and distinct."""
        rows = np.unique(self.rows(codes))
        return rows[self.feasible[rows]]

    def everything(self) -> Ints:
        """The rows of all feasible candidates; for spaces that can be listed."""
        sizes = self.grid.sizes
        return self.feasible_rows(np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1))

    def random(self, size: int, rng: np.random.Generator) -> Ints:
        """The rows of the feasible ones among `size` random candidates."""
        if self._draw:
            drawn = (self.grid.code(params) for params in self._draw(size, rng))
            return self.feasible_rows(np.array([code for code in drawn if code is not None], dtype=np.int64))
        return self.feasible_rows(rng.integers(self.grid.sizes, size=(size, len(self.grid.sizes))))

    def untaken(self, rows: Ints, taken: Ints) -> Ints:
        """The rows whose networks are not those of the taken rows."""
        return rows[~np.isin(self.network[rows], self.network[taken])]

    def _drawn(self, size: int, rng: np.random.Generator) -> Ints:
        """About `size` random feasible rows, and what walks from the ends of each known cost meet on the way to the
        very ends of the space, which random candidates leave out."""
        rows = self.random(size, rng)
        for _ in range(0 if self._draw else 32):  # where nearly nothing is feasible, fewer must do
            if len(rows) < size:
                rows = np.union1d(rows, self.random(size, rng))
        rows = rng.permutation(rows)[:size]
        walks = [self._walk(rows, column, sign) for column in range(len(self._known)) for sign in (-1, 1)]
        return np.unique(np.concatenate([rows, *walks]))

    def _walk(self, rows: Ints, column: int, sign: int) -> Ints:
        """What is met on the way from the rows down to a local minimum of sign * cost."""
        met = [rows]
        while len(met[-1]):
            best = met[-1][np.argmin(sign * self.costs[met[-1], column])]
            near = self.feasible_rows(neighbours(self.codes[[best]], self.grid.sizes))
            met.append(near[sign * self.costs[near, column] < sign * self.costs[best, column]])
        return np.concatenate(met)


def neighbours(codes: Ints, sizes: Sequence[int]) -> Ints:
    """Every code that differs from one of the codes [n, slots] in one slot, [n * sum(sizes - 1), slots]."""
    steps = [(slot, shift) for slot, size in enumerate(sizes) for shift in range(1, size)]
    changed = np.tile(codes, (len(steps), 1, 1))
    for step, (slot, shift) in enumerate(steps):
        changed[step, :, slot] = (codes[:, slot] + shift) % sizes[slot]
    return changed.reshape(-1, len(sizes))
