"""docs/example.ipynb: all its cells work, and what it says of architectures, costs and spaces is still so."""

import re
import runpy
from typing import Any

import pytest

from tests.helpers.commands import ROOT

nbformat: Any = pytest.importorskip("nbformat")

EXAMPLE = ROOT / "docs" / "example.py"


def said(cell: Any) -> list[str]:
    """What a cell's outputs say in words."""
    return [output.get("text") or output["data"]["text/plain"] for output in cell.get("outputs", [])]


def test_the_example_works_and_says_what_it_said() -> None:
    kept = nbformat.read(EXAMPLE.with_suffix(".ipynb"), nbformat.NO_CONVERT)
    found = runpy.run_path(str(EXAMPLE))["carried_out"]()  # raises where a cell fails
    assert any("image/png" in output.get("data", {}) for cell in found.cells for output in cell.get("outputs", []))
    searched = next(i for i, cell in enumerate(found.cells) if cell.source.startswith("%run"))
    assert any(said(cell) for cell in found.cells[:searched])
    for old, new in zip(kept.cells[:searched], found.cells[:searched], strict=True):
        assert said(old) == said(new), "python docs/example.py runs it anew"
    assert "baseline: trial" in "".join(said(found.cells[searched]))
    for cell in (*kept.cells, *found.cells):
        assert not any(output.get("name") == "stderr" for output in cell.get("outputs", []))
        assert not re.search(r"/(home|root|tmp|usr|opt)/", "".join(said(cell)) + cell.source)
