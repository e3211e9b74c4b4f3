"""The search space: stages with choices, read from TOML; sized, sampled, enumerated, encoded, counted.

A choice is a brace group in a block string, `ir_r{1|2}_k{3|5}_s2_e6_c24`. A code is one index per choice. No torch.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.base.arrays import Ints
from nas.base.errors import UserError
from nas.base.files import read_toml
from nas.base.limits import Bounds, bounds_of, read_limits
from nas.base.units import parse_count
from nas.networks.architecture import Architecture, bundled_path, check_keys, published_networks, strings
from nas.networks.blocks import scale_channels
from nas.networks.cost import SUMS, Cost, check_counting
from nas.networks.fitting import kept_strides, width_factor
from nas.networks.stages import BlockError, Stage
from nas.spaces import budgets, counting
from nas.spaces.counting import CHUNK
from nas.spaces.slots import Choice, Codes, Slot, fitted_template, parse_slot

BUNDLED = "nas.search_spaces"
DEPLOYED = ("num_classes", "in_channels", "seconds_of")  # how networks are counted: not in a space's file


@dataclass(frozen=True)
class SearchSpace:
    """Stages with choices, and the stem, head, resolution (pixels) and activation that all networks share.

    templates: block strings with choices. target_madds: the default T of the baseline's reward. num_classes and
    in_channels: of the deployed networks; all costs and budgets are counted for these, at the space's resolution.
    seconds_of: the latency of a part by its name (`nas.networks.parts`), with which latency is a cost like the others.
    """

    name: str
    templates: tuple[str, ...]
    stem: int = 32
    head: int = 1280
    resolution: int = 224
    activation: str = "silu"
    target_madds: int | None = None
    stem_stride: int = 2
    num_classes: int = 1000
    in_channels: int = 3
    seconds_of: Callable[[str], float] | None = None

    def __post_init__(self) -> None:
        check_counting(1, self.num_classes, self.in_channels)
        Architecture(tuple(slot.options[0] for slot in self.slots), **self._frame())  # checks the shared settings

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The stages, parsed."""
        slots = []
        for number, template in enumerate(self.templates, 1):
            try:
                slots.append(parse_slot(template, number))
            except BlockError as error:
                raise UserError(f"stage {number}, {error} (in {template[:80]!r})") from None
        return tuple(slots)

    @classmethod
    def load(cls, name: str | Path) -> SearchSpace:
        """Load a bundled space by name, or a .toml file by path; raises UserError."""
        path = bundled_path(str(name), BUNDLED, "search space")
        where = path.name if path.stem == str(name) else str(path)
        table = read_toml(path)
        known = {f.name for f in fields(cls)} - {"templates", *DEPLOYED} | {"stages", "about"}
        check_keys(table, known, {"stages"}, where)
        stages = strings(table["stages"], where, "ir_k{3|5}_s2_e6_c24")
        values: dict[str, Any] = {k: v for k, v in table.items() if k in known - {"stages", "about"}}
        values["name"] = values.get("name", path.stem)
        if not isinstance(values["name"], str) or not re.fullmatch(r"[\w.-]{1,64}", values["name"]):
            raise UserError(f"{where}: name must be a word of letters, digits, '_', '-' and '.'")
        if "target_madds" in values:
            values["target_madds"] = parse_count(values["target_madds"], f"{where}: target_madds")
        try:
            return cls(templates=tuple(stages), **values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def _frame(self) -> dict[str, Any]:
        """The settings that all networks of the space share."""
        return {key: getattr(self, key) for key in ("stem", "head", "resolution", "activation", "stem_stride")}

    def at(self, resolution: int) -> SearchSpace:
        """The same networks at another resolution in pixels."""
        return replace(self, resolution=resolution)

    def deployed(self, num_classes: int, in_channels: int) -> SearchSpace:
        """The same networks, with costs and budgets counted for these numbers of classes and input channels."""
        return replace(self, num_classes=num_classes, in_channels=in_channels)

    def timed(self, seconds_of: Callable[[str], float]) -> SearchSpace:
        """The same networks, whose latency is known: the sum over their parts, by name (`nas.networks.parts`)."""
        return replace(self, seconds_of=seconds_of)

    def fitted(self, pixels: int, width: float | None = None) -> SearchSpace:
        """The space with its networks fitted to smaller images (`Architecture.fitted`); itself if they are not smaller.

        The networks with the largest strides decide which strides become 1. Alternatives that become equal are one, so
        a choice may have fewer. target_madds changes as the MAdds, classifiers aside, of the published networks in the
        space do, or of 100 random ones if there are none. Raises UserError for stages in which a channel number or
        stride is only partly a choice.
        """
        resized = self.at(pixels)
        if pixels >= self.resolution:
            return self
        factor = width_factor(self.resolution, pixels) if width is None else width
        most = [max(option.stride for option in slot.options) for slot in self.slots]
        stem_stride, *strides = kept_strides((self.stem_stride, *most), pixels)
        found = replace(
            resized,
            templates=tuple(
                fitted_template(template, slot, lambda channels: scale_channels(channels, factor), kept != stride)
                for template, slot, kept, stride in zip(self.templates, self.slots, strides, most, strict=True)
            ),
            stem=scale_channels(self.stem, factor),
            head=scale_channels(self.head, factor),
            stem_stride=stem_stride,
        )
        if self.target_madds is None:
            return found
        known = [arch for arch in published_networks(self.resolution).values() if arch in self]
        known = known or list(map(self.decode, self.sample_codes(100)))
        before = sum(arch.cost(num_classes=1).madds for arch in known)
        after = sum(arch.fitted(pixels, width).cost(num_classes=1).madds for arch in known)
        return replace(found, target_madds=round(self.target_madds * after / before))

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """All choices, in the order of a code."""
        return tuple(choice for slot in self.slots for choice in slot.choices)

    @cached_property
    def size(self) -> int:
        """The exact number of distinct networks: those of equal layers count once, however they are spelled."""
        return counting.size(counting.build(self))

    # Codes

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that identify the networks of the space, whatever its name and target."""
        shared = {key: value for key, value in self._frame().items() if (key, value) != ("stem_stride", 2)}
        text = repr((self.templates, sorted(shared.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def options_of(self, codes: ArrayLike) -> Ints:
        """Codes [n, choices] as one option per stage, [n, stages]; raises UserError for a code outside."""
        array = np.asarray(codes)
        if array.ndim != 2 or array.shape[1] != len(self.choices) or array.dtype.kind not in "iu":
            raise UserError(f"codes must be whole numbers of shape [n, {len(self.choices)}], got {array.shape}")
        sizes = [len(choice.texts) for choice in self.choices]
        outside = (array.min(axis=0, initial=0) < 0) | (array.max(axis=0, initial=0) >= sizes)
        for column in np.flatnonzero(outside):
            raise UserError(f"{self.choices[column].name} has alternatives 0 to {sizes[column] - 1}, the code another")
        out = np.empty((len(array), len(self.slots)), np.int64)
        for at in range(0, len(array), CHUNK):
            # Single floats are exact here: an option is below MAX_OPTIONS.
            out[at : at + CHUNK] = array[at : at + CHUNK].astype(np.float32) @ self._places
        return out

    @cached_property
    def _places(self) -> NDArray[np.float32]:
        """One step of each choice adds this to each stage's option, [choices, stages]: place values of mixed radix."""
        rows = [
            (i, math.prod(slot.shape[j:])) for i, slot in enumerate(self.slots) for j in range(1, len(slot.shape) + 1)
        ]
        places = np.zeros((len(rows), len(self.slots)), np.float32)
        for row, (stage, place) in enumerate(rows):
            places[row, stage] = place
        return places

    def codes_of(self, options: Ints) -> Codes:
        """One option per stage, [n, stages], as codes [n, choices]."""
        codes = np.empty((len(options), len(self.choices)), np.int16)
        for at in range(0, len(options), CHUNK):
            row = options[at : at + CHUNK].T
            parts = [slot.codes.take(chosen, axis=0) for slot, chosen in zip(self.slots, row, strict=True)]
            np.concatenate(parts, axis=1, out=codes[at : at + CHUNK])
        return codes

    def decode(self, code: ArrayLike) -> Architecture:
        """The architecture of one code [choices]."""
        (options,) = self.options_of(np.asarray(code, None if self.choices else np.int16)[None]).tolist()
        stages = tuple(slot.options[o] for slot, o in zip(self.slots, options, strict=True))
        return Architecture(stages, **self._frame())

    def encode(self, arch: Architecture) -> Codes:
        """The code of an architecture, the first of those that give it; raises UserError if it is not in the space."""
        options, channels = [], self.stem
        differing = [key for key, value in self._frame().items() if key != "resolution" and getattr(arch, key) != value]
        if len(arch.stages) != len(self.slots) or differing:
            raise UserError(f"not in the space {self.name}: it has other stem, head, activation or number of stages")
        for number, (slot, stage) in enumerate(zip(self.slots, arch.stages, strict=True), 1):
            option = slot.option(stage, channels, self.activation)
            if option is None:
                raise UserError(f"not in the space {self.name}: stage {number} has no choice that gives {stage}")
            options.append(option)
            channels = stage.channels
        code: Codes = self.codes_of(np.array([options]))[0]
        return code

    def __contains__(self, arch: Architecture) -> bool:
        """Whether a network is in the space, whatever its resolution and batch norm settings."""
        try:
            self.encode(arch)
        except UserError:
            return False
        return True

    def params(self, code: ArrayLike) -> dict[str, int | float | str]:
        """A code as named values, as Optuna keeps them."""
        indices = np.asarray(code).tolist()
        return {c.name: c.values[i] for c, i in zip(self.choices, indices, strict=True)}

    def code(self, params: dict[str, Any]) -> Codes:
        """The code of named values; raises UserError for a value that is no choice."""
        try:
            return np.array([c.values.index(params[c.name]) for c in self.choices], np.int16)
        except (KeyError, ValueError):
            raise UserError(f"these parameters are not of the space {self.name}: {str(params)[:120]}") from None

    # Networks

    def sample_codes(
        self,
        n: int,
        seed: int | np.random.Generator = 0,
        **limits: float | None,
    ) -> Codes:
        """Draw n codes [n, choices] uniformly from the distinct networks within the budget.

        limits: max_madds, min_madds and so on for each cost, of memory in bytes of int8, of latency in seconds. Raises
        UserError if no network keeps them, with the nearest that is possible.
        """
        return self.draw_codes(n, seed, bounds_of(read_limits(limits)))

    def draw_codes(self, n: int, seed: int | np.random.Generator, bounds: Bounds) -> Codes:
        """As `sample_codes`, for bounds on any column of a cost."""
        return self.codes_of(budgets.sample(counting.build(self), n, np.random.default_rng(seed), bounds))

    def count_within(self, bounds: Bounds) -> tuple[float, float | None]:
        """How many networks are within bounds, and the standard error of that: None if the number is exact.

        Raises UserError if there are none.
        """
        return budgets.count(counting.build(self), bounds)

    def sample(
        self,
        seed: int = 0,
        max_madds: float | None = None,
        min_madds: float | None = None,
        resolution: int | None = None,
        **limits: float | None,
    ) -> Architecture:
        """Draw one architecture uniformly from the networks within the budget, at `resolution` if one is given.

        limits: as those of `sample_codes`.
        """
        space = self if resolution is None else self.at(resolution)
        limits = {"max_madds": max_madds, "min_madds": min_madds, **limits}
        return space.decode(space.draw_codes(1, seed, bounds_of(read_limits(limits)))[0])

    def enumerate(self) -> Iterator[Architecture]:
        """All distinct networks, one after the other."""
        table = counting.build(self)

        def walk(chosen: tuple[Stage, ...], state: int) -> Iterator[Architecture]:
            if len(chosen) == len(self.slots):
                yield Architecture(chosen, **self._frame())
                return
            step = table.steps[len(chosen)]
            for option in np.flatnonzero(step.distinct[state]):
                stage = self.slots[len(chosen)].options[option]
                yield from walk((*chosen, stage), int(step.next[state, option]))

        return walk((), 0)

    def cost(self, arch: Architecture) -> Cost:
        """Count one network as it is deployed."""
        return arch.cost(None, self.num_classes, self.in_channels)

    def costs(self, codes: ArrayLike) -> dict[str, Ints]:
        """Count codes [n, choices] at once, each cost int64 [n]; of a timed space also latency, float64 [n] seconds."""
        table = counting.build(self)
        return counting.by_name(table, counting.costs(table, self.options_of(codes)))

    def mean_costs(self, choice: int | None = None, value: int = 0) -> dict[str, float]:
        """Each cost but the peak expected, exactly, of a network whose choices are drawn independently and uniformly.

        choice, value: a choice, and the alternative that it is fixed to.
        """
        first = 0
        weights = []
        for slot in self.slots:
            kept = np.ones(len(slot.options))
            if choice is not None and first <= choice < first + len(slot.choices):
                kept = (slot.codes[:, choice - first] == value).astype(float)
            weights.append(kept / kept.sum())
            first += len(slot.choices)
        return dict(zip(SUMS, counting.mean_costs(counting.build(self), weights).tolist(), strict=True))

    def extremes(self) -> dict[str, tuple[int, int]]:
        """The least and the most of each cost; of a timed space also of latency, in seconds."""
        table = counting.build(self)
        least, most = counting.extremes(table)
        found = counting.by_name(table, np.stack([least, most]))
        return {name: (low.item(), high.item()) for name, (low, high) in found.items()}
