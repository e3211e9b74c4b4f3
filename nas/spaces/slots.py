"""Stages with choices: block strings whose braces are alternatives, `ir_r{1|2}_k{3|5}_s2_e6_c24`. No torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.base.errors import UserError
from nas.networks.stages import KEYS, BlockError, Stage, canonical, parse_stage

MAX_OPTIONS = 10_000  # combinations of one stage: more is a mistake, and would not fit in memory
Codes = NDArray[np.int16]


@dataclass(frozen=True)
class Choice:
    """One brace group: its name, such as stage3.kernel, and its alternatives as written."""

    name: str
    texts: tuple[str, ...]

    @cached_property
    def values(self) -> tuple[int | float | str, ...]:
        """The alternatives, numbers as numbers."""
        return tuple(_value(text) for text in self.texts)


@dataclass(frozen=True)
class Slot:
    """One stage with choices: `options` are all its combinations, the last choice running fastest."""

    choices: tuple[Choice, ...]
    options: tuple[Stage, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of alternatives of each choice."""
        return tuple(len(choice.texts) for choice in self.choices)

    @cached_property
    def codes(self) -> Codes:
        """The code of each option, [options, choices]."""
        return np.indices(self.shape, np.int16).reshape(len(self.shape), len(self.options)).T.copy()

    def option(self, stage: Stage, in_channels: int, activation: str) -> int | None:
        """The first option that gives this stage, in canonical form, after `in_channels` channels."""
        forms = (canonical(option, in_channels, activation) for option in self.options)
        return next((i for i, form in enumerate(forms) if form == stage), None)


def _value(text: str) -> int | float | str:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def parse_slot(template: str, stage: int) -> Slot:
    """Read a block string with choices; raises BlockError with the column in the template."""
    pieces = _pieces(template)
    groups = [(texts, at) for texts, at in pieces if template[at - 1 : at] == "{"]
    combinations = 1
    for texts, at in groups:
        _check_group(texts, at)
        combinations *= len(texts)
        if combinations > MAX_OPTIONS:
            raise BlockError(at, f"more than {MAX_OPTIONS} combinations in one stage; use fewer alternatives")
    options = []
    for picked in itertools.product(*(texts for texts, _ in pieces)):
        try:
            options.append(parse_stage("".join(picked)))
        except BlockError as error:
            raise BlockError(_column(picked, pieces, error.column), error.what) from None
    names = _names(template, groups)
    choices = (Choice(f"stage{stage}.{name}", tuple(texts)) for name, (texts, _) in zip(names, groups, strict=True))
    return Slot(tuple(choices), tuple(options))


def fitted_template(template: str, slot: Slot, channels: Callable[[int], int], unstrided: bool) -> str:
    """A block string with choices, its channels changed and its stride 1 if unstrided; slot: that string, parsed.

    Alternatives that become equal are one. Raises UserError where channels or stride are only partly a choice, as in
    c{2|3}2.
    """
    text = _changed("c", template, lambda number: str(channels(int(number))))
    text = _changed("s", text, lambda _: "1") if unstrided else text
    text = re.sub(r"\{([^{}]*)\}", lambda m: "{" + "|".join(dict.fromkeys(map(str.strip, m[1].split("|")))) + "}", text)
    wanted = {
        replace(option, channels=channels(option.channels), stride=1 if unstrided else option.stride)
        for option in slot.options
    }
    try:
        found = set(parse_slot(text, 0).options)
    except BlockError:
        found = set()
    if found != wanted:
        raise UserError(
            f"{template[:80]!r} cannot be fitted; write channels and stride like c24_s2 or c{{16|24}}_s{{1|2}}"
        )
    return text


def _changed(letter: str, template: str, change: Callable[[str], str]) -> str:
    """A template with the numbers behind a letter changed, in c24 as in c{16|24}, also inside of other groups."""

    def group(match: re.Match[str]) -> str:
        return match[1] + re.sub(r"\d+", lambda number: change(number[0]), match[2])

    text = re.sub(rf"((?<![^_{{|\s]){letter}\{{)([^{{}}]*)", group, template)
    return re.sub(rf"((?<![^_{{|\s]){letter})(\d+)(?![^_|}}\s])", group, text)


def _pieces(template: str) -> list[tuple[list[str], int]]:
    """Split a template into literals (one text) and brace groups (their alternatives), with their offsets."""
    pieces: list[tuple[list[str], int]] = []
    for match in re.finditer(r"\{([^{}]*)\}|[^{}]+|[{}]", template):
        if match[0] in ("{", "}"):
            raise BlockError(match.start() + 1, f"unbalanced {match[0]}; choices are written like k{{3|5}}")
        if match[1] is None:
            pieces.append(([match[0]], match.start()))
        else:
            pieces.append(([text.strip() for text in match[1].split("|")], match.start() + 1))
    return pieces


def _check_group(texts: list[str], at: int) -> None:
    seen: set[int | float | str] = set()
    for text in texts:
        if not text:
            raise BlockError(at, "empty choice; write at least one alternative between braces, like k{3|5}")
        if _value(text) in seen:
            raise BlockError(at, f"duplicate choice {text[:20]!r}; name each alternative once")
        seen.add(_value(text))


def _column(picked: tuple[str, ...], pieces: list[tuple[list[str], int]], column: int) -> int:
    """The column in the template of a column in one of its combinations."""
    for text, (_, at) in zip(picked, pieces, strict=True):
        if column <= len(text):
            return at + column
        column -= len(text)
    return pieces[-1][1] + 1


def _names(template: str, groups: list[tuple[list[str], int]]) -> list[str]:
    """Name each group by the letters before it: k{3|5} is the kernel."""
    names: list[str] = []
    for _, at in groups:
        letters = template[: at - 1].rpartition("_")[2]
        name = KEYS.get(letters, "op" if at == 1 else "variant")
        names.append(name if name not in names else f"{name}{at}")
    return names
