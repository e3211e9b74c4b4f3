"""The architecture: one network as an immutable value, in a line of block strings or a TOML file.

Standard library only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.base.errors import UserError
from nas.base.files import read_toml, to_toml
from nas.base.units import nearest
from nas.networks.blocks import MAX_RESOLUTION, Block, FeatureMap, head, scale_channels, scale_repeats, stem
from nas.networks.fitting import kept_strides, width_factor
from nas.networks.stages import ACTIVATIONS, LIMITS, BlockError, Stage, blocks_of, canonical, parse_stage

if TYPE_CHECKING:
    from nas.networks.cost import Cost
    from nas.networks.module import Network

FAMILIES = "nas.search_spaces.families"
KEPT = ("stem", "head", "ends")  # what scaling may leave as it is


@dataclass(frozen=True)
class Architecture:
    """A network as a value: stages between a 3x3 stem convolution and a 1x1 head convolution.

    stem and head are output channels; resolution is the side of the square input in pixels (1 to 4096); stem_stride is
    1 or 2. Stages are kept in canonical form, so networks whose stages have equal layers are equal values with one
    string and one hash. Neighbouring stages are never merged, because each is scaled by itself.
    """

    stages: tuple[Stage, ...]
    stem: int = 32
    head: int = 1280
    resolution: int = 224
    activation: str = "silu"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    stem_stride: int = 2

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("an architecture needs at least one stage, like ds_r1_k3_s1_e1_c16")
        limits = {"stem": 65536, "head": 65536, "resolution": MAX_RESOLUTION, "stem_stride": LIMITS["stride"]}
        for name, most in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise UserError(f"{name} must be a whole number from 1 to {most}, got {str(value)[:20]}")
        if str(self.activation) not in ACTIVATIONS:
            raise UserError(
                f"unknown activation {(shown := str(self.activation)[:40])!r}; {nearest(shown, ACTIVATIONS)}"
            )
        for name in ("norm_eps", "norm_momentum"):
            value = getattr(self, name)
            if not isinstance(value, float) or not 0 < value < 1:
                raise UserError(f"{name} must be a number between 0 and 1, like 0.001, got {str(value)[:20]}")
        stages, channels = [], self.stem
        for stage in self.stages:
            stages.append(canonical(stage, channels, self.activation))
            channels = stage.channels
        object.__setattr__(self, "stages", tuple(stages))

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read block strings separated by white space or commas, with settings such as 224px stem32 head1280.

        Settings may be left out: 224px, stem32, head1280, silu, eps0.00001, momentum0.1. stem32_s1 is a stem of
        stride 1, stem32 one of stride 2. Raises UserError.
        """
        settings: dict[str, Any] = {}
        stages: list[Stage] = []
        for word in re.split(r"[\s,]+", text.strip()):
            found = _parse_setting(word)
            if not found:
                stages.append(_located(word, f"block string {len(stages) + 1}"))
            for name in found:
                if name in settings:
                    raise UserError(f"block strings: {name} is given twice, the second time as {word!r}")
            settings |= found
        return cls(tuple(stages), **settings)

    @classmethod
    def load(cls, name: str | Path) -> Architecture:
        """Load a bundled family member by name, or a .toml file by path; raises UserError."""
        path = bundled_path(str(name), FAMILIES, "architecture")
        return cls.from_table(read_toml(path), str(path.name if path.name == f"{name}.toml" else path))

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> Architecture:
        """Make an architecture of a TOML table; `where` names the file in errors."""
        known = {f.name for f in fields(cls)}
        check_keys(table, known | {"about", "inputs"}, {"stages"}, where)
        stages = tuple(
            _located(text, f"{where}: stage {n}")
            for n, text in enumerate(strings(table["stages"], where, "ds_r1_k3_s1_e1_c16"), 1)
        )
        values = {key: value for key, value in table.items() if key in known - {"stages"}}
        try:
            return cls(stages, **values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def to_toml(self, about: Mapping[str, str | float] | None = None, inputs: Mapping[str, Any] | None = None) -> str:
        """This architecture as a TOML file; loading ignores the tables about (for readers) and inputs."""
        settings = {f.name: getattr(self, f.name) for f in self._settings()}
        return to_toml({**settings, "stages": list(map(str, self.stages)), "inputs": inputs, "about": about})

    def __str__(self) -> str:
        words = [f"{self.resolution}px", self.stem_word, *map(str, self.stages), f"head{self.head}"]
        written = {"activation": "{}", "norm_eps": "eps{}", "norm_momentum": "momentum{}"}
        words += [written[f.name].format(getattr(self, f.name)) for f in self._settings() if f.name in written]
        return " ".join(words)

    def _settings(self) -> list[Any]:
        """The fields that its string must name: all but the stages and defaults."""
        always = ("resolution", "stem", "head")
        return [f for f in fields(self)[1:] if f.name in always or getattr(self, f.name) != f.default]

    @property
    def stem_word(self) -> str:
        """The stem in block-string notation: stem32, or stem32_s1 with stride 1."""
        return f"stem{self.stem}" + (f"_s{self.stem_stride}" if self.stem_stride != 2 else "")

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels that a width factor scales: those of the stem, each stage and the head."""
        return (self.stem, *(stage.channels for stage in self.stages), self.head)

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name this network (SHA-256 of the canonical string)."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:12]

    def walk(self, resolution: int | None = None, in_channels: int = 3) -> tuple[Block, ...]:
        """All blocks in order, the stem first and the head last, each with its layers and the feature maps around it.

        resolution: side of the images in pixels, the architecture's own if None; no limit is checked.
        """
        image = FeatureMap(in_channels, self.resolution if resolution is None else resolution)
        blocks = [stem(image, self.stem, self.stem_stride)]
        for number, stage in enumerate(self.stages, 1):
            blocks += blocks_of(stage, blocks[-1].output, number)
        return (*blocks, head(blocks[-1].output, self.head, len(self.stages) + 1))

    def scale(
        self, depth: float = 1, width: float = 1, resolution: float = 1, keep: Collection[str] = (), step: int = 1
    ) -> Architecture:
        """Scale every stage, the stem and the head by factors (EfficientNet, arXiv 1905.11946, section 3).

        Repeats are rounded up, channels to multiples of 8 that keep at least 90 % (of 4, 2, 1 below 16, 8, 4),
        resolution to multiples of `step` pixels; a factor below 1 never adds layers, channels or, in steps of 1,
        pixels, one above 1 never takes any away. keep: of the words KEPT, the stem's or the head's channels and the
        repeats of both ends, the first and the last stage; EfficientNet-Lite keeps all three. Raises UserError if the
        result is outside the limits of an architecture.
        """
        for name, factor in (("depth", depth), ("width", width), ("resolution", resolution)):
            if not (isinstance(factor, int | float) and 0 < factor < 1000):
                raise UserError(f"the {name} factor must be a number between 0 and 1000, got {factor}")
        for part in keep:
            if part not in KEPT:
                raise UserError(f"scaling cannot keep {part[:40]!r}; {nearest(part[:40], KEPT)}")
        ends = (0, len(self.stages) - 1) if "ends" in keep else ()
        stages = tuple(
            replace(
                stage,
                repeats=stage.repeats if i in ends else scale_repeats(stage.repeats, depth),
                channels=scale_channels(stage.channels, width),
            )
            for i, stage in enumerate(self.stages)
        )
        for stage in stages:
            if stage.repeats > LIMITS["repeats"] or stage.channels > LIMITS["channels"]:
                raise UserError(f"scaled too far: a stage would be {stage}; lower the factors (or φ)")
        pixels = round(self.resolution * resolution / step) * step
        if not 1 <= pixels <= MAX_RESOLUTION:
            steps = f" in steps of {step}" if step > 1 else ""
            raise UserError(f"scaled too far: the resolution would be {pixels} px{steps}, not 1 to {MAX_RESOLUTION}")
        return replace(
            self,
            stages=stages,
            stem=self.stem if "stem" in keep else scale_channels(self.stem, width),
            head=self.head if "head" in keep else scale_channels(self.head, width),
            resolution=pixels,
        )

    def at(self, resolution: int) -> Architecture:
        """The same network at another resolution in pixels."""
        return replace(self, resolution=resolution)

    def fitted(self, pixels: int, width: float | None = None) -> Architecture:
        """The network for smaller images; itself if they are not smaller than its resolution.

        Strides become 1 from the stem on until the last feature map has at least 4 pixels, and widths are multiplied by
        `width`, rounded as in `scale`. By default this follows compound scaling's own relation: β^φ with
        φ = log(pixels / resolution) / log γ and the paper's β and γ, 0.24 from 224 to 28 pixels.
        """
        resized = self.at(pixels)
        if pixels >= self.resolution:
            return self
        stem_stride, *strides = kept_strides((self.stem_stride, *(stage.stride for stage in self.stages)), pixels)
        scaled = resized.scale(width=width_factor(self.resolution, pixels) if width is None else width)
        stages = tuple(replace(stage, stride=s) for stage, s in zip(scaled.stages, strides, strict=True))
        return replace(scaled, stages=stages, stem_stride=stem_stride)

    def cost(self, resolution: int | None = None, num_classes: int = 1000, in_channels: int = 3) -> Cost:
        """Count MAdds, fvcore flops, parameters and activations, at the own resolution unless one is given."""
        from nas.networks.cost import count

        return count(self, resolution, num_classes, in_channels)

    def build(
        self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2, drop_path: float = 0.2
    ) -> Network:
        """Build the network as a torch module, freshly initialised."""
        from nas.networks.module import build

        return build(self, num_classes, in_channels, dropout, drop_path)


def family_names() -> list[str]:
    """The bundled family members."""
    return bundled_names(FAMILIES)


def published_networks(pixels: int, width: float | None = None) -> dict[str, Architecture]:
    """The bundled networks for at most 224 pixels, by name, fitted to an image size."""
    known = {name: Architecture.load(name) for name in family_names()}
    return {name: arch.fitted(pixels, width) for name, arch in known.items() if arch.resolution <= 224}


def bundled_names(package: str) -> list[str]:
    """The names of the TOML files in a package."""
    files = (path.name for path in resources.files(package).iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def bundled_path(name: str, package: str, what: str) -> Path:
    """A bundled TOML by its name, or the path of an existing file; raises UserError."""
    names = bundled_names(package)
    if name in names:
        return Path(str(resources.files(package))) / f"{name}.toml"
    path = Path(name)
    if path.suffix == ".toml" or "/" in name:
        if not path.is_file():
            raise UserError(f"{what}: no file {name[:200]}")
        return path
    raise UserError(f"unknown {what} {name[:60]!r}; {nearest(name[:60], names)}, or give a path to a .toml file")


def check_keys(table: Mapping[str, Any], known: set[str], required: set[str], where: str) -> None:
    """Raise UserError for unknown keys, with the nearest known one, and for missing ones."""
    for key in table:
        if key not in known:
            raise UserError(f"{where}: unknown key {key[:40]!r}; {nearest(key[:40], known)}")
    for key in sorted(required - set(table)):
        raise UserError(f"{where}: key {key!r} is missing")


def strings(value: Any, where: str, example: str) -> list[str]:
    """The stages of a TOML table; raises UserError if they are no list of strings."""
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise UserError(f'{where}: stages must be a list of block strings, like ["{example}"]')
    return value


def _located(text: str, where: str) -> Stage:
    try:
        return parse_stage(text)
    except BlockError as error:
        raise UserError(f"{where}, {error} (in {text[:80]!r})") from None


def _parse_setting(word: str) -> dict[str, Any]:
    """The settings that a word of a network names; none if it is a block string."""
    if match := re.fullmatch(r"(\d{1,9})px", word):
        return {"resolution": int(match[1])}
    if match := re.fullmatch(r"stem(\d{1,9})(?:_s(\d{1,9}))?", word):
        return {"stem": int(match[1]), **({"stem_stride": int(match[2])} if match[2] else {})}
    if match := re.fullmatch(r"head(\d{1,9})", word):
        return {"head": int(match[1])}
    if word in ACTIVATIONS:
        return {"activation": word}
    if match := re.fullmatch(r"(eps|momentum)(\d{1,9}(?:\.\d{1,40})?(?:e[+-]?\d{1,3})?)", word):
        return {f"norm_{match[1]}": float(match[2])}
    return {}
