"""The rooms of `nas/` and the ways through them, drawn from the imports: `python docs/rooms.py` writes rooms.svg.

Rooms stand in the order of the import contract in pyproject.toml, each with the first line of its docstring and the
rooms it builds on (those that it reaches only through others are left out). A way is a lane with numbered stations;
each of its steps must be an import, in one direction or the other.
"""

from __future__ import annotations

import ast
import tomllib
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import grimp
import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "rooms.svg"
WAYS = {
    "an architecture, from the space to the front": ("spaces", "networks", "training", "runs", "search"),
    "an image, from the disk to the loss": ("datasets", "training"),
    "a trial, from the sampler to the study": ("selection", "search", "runs", "training"),
}
COLOURS = ("#d1495b", "#2a9d5c", "#1f6fb4")
ROW, LANE, LEFT, WIDTH = 26, 40, 24, 1340  # pixels


def layers() -> list[list[str]]:
    """The rooms, layer by layer from the top, as the first import contract has them."""
    return [[room.strip(" ()") for room in layer.replace(":", "|").split("|")] for layer in _contract()["layers"]]


def _contract() -> dict[str, list[str]]:
    found: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ][0]
    return found


def imports() -> nx.DiGraph[str]:
    """Which room imports which."""
    graph = grimp.build_graph("nas", cache_dir=None, exclude_type_checking_imports=True)
    found: nx.DiGraph[str] = nx.DiGraph()
    for module in sorted(graph.modules):
        for other in sorted(graph.find_modules_directly_imported_by(module)):
            if _room(module) != _room(other) and "nas" not in (module, other):
                found.add_edge(_room(module), _room(other))
    return found


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def subject(room: str) -> str:
    """The first line of a room's docstring; of a command, that of its `__main__`."""
    folder = ROOT / "nas" / room
    files = (folder / "__main__.py", folder / "__init__.py") if folder.is_dir() else (folder.with_suffix(".py"),)
    said = (ast.get_docstring(ast.parse(file.read_text())) or "" for file in files if file.exists())
    return min((text.split("\n\n")[0].replace("\n", " ") for text in said if text), key=len)


def drawing() -> str:
    """The SVG."""
    found = imports()
    for way in WAYS.values():
        for a, b in pairwise(way):
            if not (found.has_edge(a, b) or found.has_edge(b, a)):
                raise SystemExit(f"rooms.py: no import between {a} and {b}, which WAYS has as a step")
    short = nx.transitive_reduction(found)
    names = LEFT + LANE * len(WAYS)
    middle: dict[str, float] = {}
    parts, y = [], 30 + 22 * len(WAYS)
    for i, layer in enumerate(layers()):
        height = ROW * len(layer)
        parts.append(f'<rect x="0" y="{y}" width="{WIDTH}" height="{height}" fill="{("#f4f6f8", "#ffffff")[i % 2]}"/>')
        for room in layer:
            middle[room] = y + ROW / 2
            below = ", ".join(sorted(short.successors(room))) if room in short else ""
            parts.append(_text(names, middle[room], f"{room}/" if (ROOT / "nas" / room).is_dir() else room, "room"))
            parts.append(_text(names + 112, middle[room], subject(room), "subject"))
            parts.append(_text(WIDTH - 14, middle[room], below, "below"))
            y += ROW
    for i, (title, way) in enumerate(WAYS.items()):
        x, colour = LEFT + LANE * i, COLOURS[i]
        parts.append(f'<circle cx="{LEFT}" cy="{24 + 22 * i}" r="6" fill="{colour}"/>')
        parts.append(_text(LEFT + 14, 24 + 22 * i, title, "subject"))
        ends = [middle[room] for room in way]
        line = f'x1="{x}" x2="{x}" y1="{min(ends)}" y2="{max(ends)}" stroke="{colour}" stroke-width="3"'
        parts.append(f"<line {line}/>")
        for number, at in enumerate(ends, 1):
            parts.append(f'<circle cx="{x}" cy="{at}" r="9" fill="{colour}"/>')
            parts.append(f'<text x="{x}" y="{at}" class="stop">{number}</text>')
    parts.append(_text(WIDTH - 14, 24 + 22 * (len(WAYS) - 1), "builds on", "below"))
    style = (
        "text { font: 13px system-ui, sans-serif; dominant-baseline: central; fill: #1c2733 }"
        " .room { font-weight: 600 }"
        " .subject { fill: #3d4b59 } .below { text-anchor: end; fill: #7a8794; font-size: 12px }"
        " .stop { text-anchor: middle; fill: #fff; font-size: 11px; font-weight: 600 }"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" role="img">'
    title = "<title>The rooms of nas/, each above those that it builds on, and the ways through them</title>"
    back = f'<rect width="{WIDTH}" height="{y + 10}" fill="#ffffff"/>'
    return "\n".join([head, title, f"<style>{style}</style>", back, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text.replace("`", ""))}</text>'


if __name__ == "__main__":
    DRAWING.write_text(drawing())
