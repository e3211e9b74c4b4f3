"""The page: one HTML file with its style, scripts and data inside; nothing is fetched, no text of a file is code."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib import resources
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

# In this order.
SCRIPTS = (
    *("core.js", "drawing.js", "charts.js", "grid.js", "scaling.js"),
    *("front.js", "compare.js", "table.js", "page.js"),
)


def page(contents: Mapping[str, Any]) -> str:
    """The page of a run's contents."""
    scripts = _scripts()
    return Template(_file("page.html")).substitute(
        title=escape(str(contents["name"])),
        policy=escape(_policy(scripts, bool(contents.get("live")))),
        style=_file("style.css"),
        data=embedded(contents),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def embedded(contents: Mapping[str, Any]) -> str:
    """JSON that may stand inside of a script element: without < and &, so no text can end the element."""
    text = json.dumps(contents, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _scripts() -> tuple[str, ...]:
    return (get_plotlyjs(), *map(_file, SCRIPTS))


def _file(name: str) -> str:
    return (resources.files("nas.report") / "web" / name).read_text(encoding="utf-8")


def _policy(scripts: tuple[str, ...], live: bool) -> str:
    """A content security policy: only these scripts run, and only a live page makes requests, to its own server.

    unsafe-eval is for plotly, which compiles what it draws by WebGL; it lets no script in.
    """
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    asks = "connect-src 'self'; " if live else ""
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; "
        f"img-src data: blob:; {asks}base-uri 'none'; form-action 'none'"
    )
