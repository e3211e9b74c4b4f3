"""The architecture: one network as an immutable value, and the block strings that it is written in.

A block string is timm's notation, `ir_r2_k3_s2_e6_c24_se0.25`; a canonical string means the same network here
and in timm. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.base.errors import UserError
from nas.base.files import read_toml, to_toml
from nas.base.units import nearest, shortest_decimal
from nas.networks.blocks import (
    MAX_RESOLUTION,
    OPS,
    Block,
    Conv,
    Layer,
    Shape,
    SqueezeExcitation,
    scale_channels,
    scale_repeats,
)

if TYPE_CHECKING:
    from nas.networks.cost import Cost
    from nas.networks.module import Network

ACTIVATIONS = {"relu": "re", "relu6": "r6", "silu": "sw", "hardswish": "hs"}  # with timm's suffixes
FAMILIES = "nas.search_spaces.families"
EXPANDING = 1.000001  # an expansion convolution that adds no channels; e1 means that there is no such convolution
USUAL_SE = (0.25, 0.5)
SE_DECIMALS = 4  # at most, of an SE ratio that is preferred to shorter ones because it gives whole channels
KEYS = {"r": "repeats", "k": "kernel", "s": "stride", "e": "expansion", "c": "channels", "se": "se"}
_LIMITS = {"repeats": 1000, "kernel": 31, "stride": 2, "expansion": 64, "channels": 65536, "se": 1}
_SUFFIXES = {suffix: name for name, suffix in ACTIVATIONS.items()}


class BlockError(UserError):
    """A mistake in one block string; `column` counts its characters from 1."""

    def __init__(self, column: int, what: str) -> None:
        super().__init__(f"column {column}: {what}")
        self.column, self.what = column, what


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind in a row: one block string without choices.

    The first block has the stride and changes the channels, the others keep both. expansion and se (the squeeze
    ratio, 0 for none) are relative to a block's input channels; channels are those of the output. skip: whether
    blocks that keep their shape have a residual connection. activation: None for the architecture's own.
    """

    op: str
    repeats: int
    kernel: int
    stride: int
    expansion: float
    channels: int
    se: float = 0
    skip: bool = True
    activation: str | None = None

    def first(self, in_channels: int) -> Block:
        """The first block, which has the stride and changes the channels."""
        return self._block(in_channels, self.stride)

    def later(self) -> Block:
        """Each block after the first."""
        return self._block(self.channels, 1)

    def _block(self, in_channels: int, stride: int) -> Block:
        shape = Shape(in_channels, self.channels, self.kernel, stride, self.expansion, self.se)
        residual = self.skip and stride == 1 and in_channels == self.channels
        return Block(OPS[self.op].layers(shape), residual)

    def __str__(self) -> str:
        words = [self.op, f"r{self.repeats}", f"k{self.kernel}", f"s{self.stride}"]
        words += [f"e{_number(self.expansion)}", f"c{self.channels}"]
        words += [f"se{_number(self.se)}"] if self.se else []
        words += [f"n{ACTIVATIONS[self.activation]}"] if self.activation else []
        words += [] if self.skip == OPS[self.op].skip else ["skip" if self.skip else "noskip"]
        return "_".join(words)


@lru_cache(maxsize=65536)
def parse_stage(text: str) -> Stage:
    """Read one block string without choices; raises BlockError."""
    op, *words = text.split("_")
    if op not in OPS:
        raise BlockError(1, f"unknown op {op[:20]!r}; {nearest(op[:20], OPS)}")
    values: dict[str, Any] = {"op": op}
    column = len(op) + 2
    for word in words:
        key, value = _parse_word(word, column)
        if key in values:
            raise BlockError(column, f"{key} is given twice")
        values[key] = value
        column += len(word) + 1
    return _checked(values)


def _parse_word(word: str, column: int) -> tuple[str, Any]:
    if word in ("skip", "noskip"):
        return "skip", word == "skip"
    if word[:1] == "n" and word[1:] in _SUFFIXES:
        return "activation", _SUFFIXES[word[1:]]
    match = re.fullmatch(r"([a-z]+)(\d{1,9}(?:\.\d{1,25})?)", word)
    if not match or match[1] not in KEYS:
        letters = "".join(c for c in word[:20] if c.isalpha())
        hint = f"{nearest(letters, KEYS)}" if letters not in KEYS else f"write {letters} and a number"
        raise BlockError(column, f"cannot read {word[:20]!r}; {hint}")
    key, number = KEYS[match[1]], float(match[2])
    if key not in ("expansion", "se") and not number.is_integer():
        raise BlockError(column, f"{key} must be a whole number, got {word}")
    least = 0 if key == "se" else 1e-9
    if not least <= number <= _LIMITS[key]:
        between = f"between 0 and {_LIMITS[key]}" if key in ("se", "expansion") else f"from 1 to {_LIMITS[key]}"
        raise BlockError(column, f"{key} must be {between}, got {word}")
    if key == "kernel" and number % 2 == 0:
        raise BlockError(column, f"kernel must be odd (3, 5, 7, …), got {word}")
    return key, int(number) if number.is_integer() else number


def _checked(values: dict[str, Any]) -> Stage:
    """Fill in the defaults and refuse what the op cannot do."""
    name = values["op"]
    op = OPS[name]
    values = {"repeats": 1, "skip": op.skip, **({} if op.expands else {"expansion": 1}), **values}
    for letter, key in KEYS.items():
        if key not in values and key != "se":
            raise BlockError(1, f"{key} is missing; add _{letter} and a number")
    stage = Stage(**values)
    if not op.expands and stage.expansion != 1:
        raise BlockError(1, f"{name} ({op.title}) has no expansion; write e1, or another op")
    # Fused-MBConv at expansion 1 is a plain convolution, which has no place for SE.
    takes_se = op.squeezes and (stage.expansion != 1 or OPS[op.plain or name].squeezes)
    if stage.se and not takes_se:
        at = " with e1" if op.squeezes else ""
        raise BlockError(1, f"{name} ({op.title}){at} has no squeeze-excitation; write se0 or leave it out")
    return stage


@lru_cache(maxsize=65536)
def canonical(stage: Stage, in_channels: int, activation: str) -> Stage:
    """The one way to write this stage behind so many channels: stages of equal layers become equal stages.

    Of all expansions that round to the same channels in each block it has the one of fewest decimals. Of all SE ratios
    it has a usual one (USUAL_SE), else one that gives whole channels, else the one of fewest decimals.
    """
    op = (OPS[stage.op].plain if stage.expansion == 1 else None) or stage.op
    can_skip = stage.repeats > 1 or (stage.stride == 1 and stage.channels == in_channels)
    skip = stage.skip if can_skip else OPS[op].skip
    own = None if stage.activation == activation else stage.activation
    stage = replace(stage, op=op, skip=skip, activation=own)
    expansion = _expansion(stage, in_channels) if OPS[op].expands else stage.expansion
    return replace(stage, expansion=expansion, se=_se(stage, in_channels) if stage.se else 0)


def _layers(stage: Stage, in_channels: int) -> tuple[Layer, ...]:
    """The layers of a stage's first block and, if it has more, of the second one, which is like all later ones."""
    return stage.first(in_channels).layers + (stage.later().layers if stage.repeats > 1 else ())


def _same(stage: Stage, in_channels: int, at: Callable[[float], Stage], limit: float) -> Callable[[float], bool]:
    """Whether a ratio above 0 and up to a limit gives the layers of this stage; at: the stage with another ratio."""
    layers = _layers(stage, in_channels)
    return lambda x: 0 < x <= limit and _layers(at(x), in_channels) == layers


def _expansion(stage: Stage, in_channels: int) -> float:
    widest = max(layer.out_channels for layer in stage.first(in_channels).layers[:-1] if isinstance(layer, Conv))
    same = _same(stage, in_channels, lambda x: replace(stage, expansion=x), _LIMITS["expansion"])
    found = shortest_decimal(stage.expansion, widest / in_channels, same)
    return EXPANDING if found == 1 else found


def _se(stage: Stage, in_channels: int) -> float:
    squeezes = [layer.squeeze for layer in _layers(stage, in_channels) if isinstance(layer, SqueezeExcitation)]
    pairs = zip(squeezes, (in_channels, stage.channels), strict=False)
    whole = [squeeze / channels for squeeze, channels in pairs if squeeze * 10**SE_DECIMALS % channels == 0]
    same = _same(stage, in_channels, lambda x: replace(stage, se=x), _LIMITS["se"])
    preferred = next(filter(same, (*USUAL_SE, *whole)), None)
    return preferred or shortest_decimal(stage.se, squeezes[0] / in_channels, same)


@dataclass(frozen=True)
class Architecture:
    """A network as a value: stages between a 3x3 stride-2 stem convolution and a 1x1 head convolution.

    stem and head are output channels; resolution is the side of the square input in pixels (1 to 4096).
    Stages are kept in canonical form, so networks whose stages have equal layers are equal values with one string and
    one hash. Stages stay as they are divided, for each is scaled by itself.
    """

    stages: tuple[Stage, ...]
    stem: int = 32
    head: int = 1280
    resolution: int = 224
    activation: str = "silu"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("an architecture needs at least one stage, like ds_r1_k3_s1_e1_c16")
        for name, most in (("stem", 65536), ("head", 65536), ("resolution", MAX_RESOLUTION)):
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

        Settings may be left out: 224px, stem32, head1280, silu, eps0.00001, momentum0.1. Raises UserError.
        """
        settings: dict[str, Any] = {}
        stages: list[Stage] = []
        for word in re.split(r"[\s,]+", text.strip()):
            setting = _parse_setting(word)
            if setting is None:
                stages.append(_located(word, f"block string {len(stages) + 1}"))
            elif setting[0] in settings:
                raise UserError(f"block strings: {setting[0]} is given twice, the second time as {word!r}")
            else:
                settings[setting[0]] = setting[1]
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
        """This architecture as a TOML file; loading ignores the tables about (for the reader) and inputs."""
        settings = {f.name: getattr(self, f.name) for f in self._settings()}
        return to_toml({**settings, "stages": list(map(str, self.stages)), "inputs": inputs, "about": about})

    def __str__(self) -> str:
        words = [f"{self.resolution}px", f"stem{self.stem}", *map(str, self.stages), f"head{self.head}"]
        written = {"activation": "{}", "norm_eps": "eps{}", "norm_momentum": "momentum{}"}
        words += [written[f.name].format(getattr(self, f.name)) for f in self._settings() if f.name in written]
        return " ".join(words)

    def _settings(self) -> list[Any]:
        """The fields that a text must name: all but the stages and what is at its default."""
        always = ("resolution", "stem", "head")
        return [f for f in fields(self)[1:] if f.name in always or getattr(self, f.name) != f.default]

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels that a width factor scales: those of the stem, each stage and the head."""
        return (self.stem, *(stage.channels for stage in self.stages), self.head)

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name this network (SHA-256 of the canonical string)."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:12]

    def scale(self, depth: float = 1, width: float = 1, resolution: float = 1) -> Architecture:
        """Scale every stage, the stem and the head by factors (EfficientNet, arXiv 1905.11946, section 3).

        Repeats are rounded up, channels to multiples of 8 that keep at least 90 % (of 4, 2, 1 below 16, 8, 4),
        resolution to whole pixels; a factor below 1 never adds any of them, one above 1 never takes any away.
        Raises UserError if the result is outside the limits of an architecture.
        """
        for name, factor in (("depth", depth), ("width", width), ("resolution", resolution)):
            if not (isinstance(factor, int | float) and 0 < factor < 1000):
                raise UserError(f"the {name} factor must be a number between 0 and 1000, got {factor}")
        stages = tuple(
            replace(
                stage,
                repeats=scale_repeats(stage.repeats, depth),
                channels=scale_channels(stage.channels, width),
            )
            for stage in self.stages
        )
        for stage in stages:
            if stage.repeats > _LIMITS["repeats"] or stage.channels > _LIMITS["channels"]:
                raise UserError(f"scaled too far: a stage would be {stage}; lower the factors (or φ)")
        return replace(
            self,
            stages=stages,
            stem=scale_channels(self.stem, width),
            head=scale_channels(self.head, width),
            resolution=round(self.resolution * resolution),
        )

    def at(self, resolution: int) -> Architecture:
        """The same network for images of another size in pixels."""
        return replace(self, resolution=resolution)

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
    """Refuse unknown keys, with the nearest right one, and missing ones."""
    for key in table:
        if key not in known:
            raise UserError(f"{where}: unknown key {key[:40]!r}; {nearest(key[:40], known)}")
    for key in sorted(required - set(table)):
        raise UserError(f"{where}: key {key!r} is missing")


def strings(value: Any, where: str, example: str) -> list[str]:
    """The stages of a TOML table; raises UserError where they are no list of texts."""
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise UserError(f'{where}: stages must be a list of block strings, like ["{example}"]')
    return value


def _located(text: str, where: str) -> Stage:
    try:
        return parse_stage(text)
    except BlockError as error:
        raise UserError(f"{where}, {error} (in {text[:80]!r})") from None


def _parse_setting(word: str) -> tuple[str, Any] | None:
    if match := re.fullmatch(r"(\d{1,9})px", word):
        return "resolution", int(match[1])
    if match := re.fullmatch(r"(stem|head)(\d{1,9})", word):
        return match[1], int(match[2])
    if word in ACTIVATIONS:
        return "activation", word
    if match := re.fullmatch(r"(eps|momentum)(\d{1,9}(?:\.\d{1,40})?(?:e[+-]?\d{1,3})?)", word):
        return f"norm_{match[1]}", float(match[2])
    return None


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else format(Decimal(repr(value)), "f")
