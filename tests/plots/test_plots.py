"""What pictures say is what they were given, letter by letter, and no picture that fails ends a run."""

import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from nas.plots import figures as plots
from nas.plots import scaling
from nas.plots import training as pictures

NAMES = [
    *("pay_$_or_$_", "$x^2$", r"$\frac{$", r"a\$b$c$", "_hidden", "caf\udce9", "a\nb", "\x1b[2J", "[red]x[/red]", "%s"),
    *("e\u0301", "ไก่", "鸡", "שלום", "🐔", "\ue000", "", " ", "{x}", "&amp;<b>", "n" * 300),
]


def lines(figure: Figure) -> list[str]:
    """All texts that a figure holds, as they are drawn."""
    texts = figure.findobj(plots.Text)
    return [text._preprocess_math(line)[0] for text in texts for line in text.get_text().split("\n")]


@pytest.mark.pictures
@pytest.mark.parametrize("name", NAMES)
def test_names_are_drawn_as_they_are(tmp_path: Path, name: str) -> None:
    """In titles, at axes and in legends, and matplotlib says nothing to stderr."""
    counts = pd.DataFrame(np.array([[3, 2], [1, 4]]), index=[name, "other"], columns=[name, "other"])
    errors, shares = np.array([0.1, 0.2]), np.array([0.5, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion = pictures.confusion(counts, f"{name} on {name}", name)
        both = plots.distributions({name: (errors, shares, 2), "b": (errors, shares, 2)}, {}, name, name)
        for figure in (confusion, both):
            plots.save(figure, tmp_path / "p.png")
            assert imread(tmp_path / "p.png").std() > 0.03
    legend = [text.get_text() for text in both.axes[0].get_legend().get_texts()]
    assert len(legend) == 2
    if name.isascii() and name.isprintable() and len(name) < 18:
        assert {f"{name} on {name}".strip(), name.strip()} <= {line.strip() for line in lines(confusion)} | {""}
        assert f"{name} (2)".strip() in {line.strip() for line in lines(both)}


def test_what_no_font_has_is_escaped() -> None:
    assert plots.literal("a\ue000b") == r"a\ue000b"
    assert plots.literal("a\x1bb\n\udce9") == r"a\x1bb\n\xe9"


def test_a_long_name_is_cut_in_the_middle() -> None:
    assert plots.literal("a" * 30 + "b" * 30, 11) == "aaaaa…bbbbb"


@pytest.mark.pictures
def test_a_picture_that_fails_costs_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(text: str) -> Figure:
        raise ValueError(f"{text}\nand more")

    for _ in range(3):  # as after each trial
        plots.draw(tmp_path / "p.png", broken, "no [glyph]")
    assert capfd.readouterr().err == f"warning: {tmp_path / 'p.png'}: not drawn (ValueError: no [glyph])\n"
    assert not (tmp_path / "p.png").exists()


@pytest.mark.pictures
@pytest.mark.parametrize("classes", [2, 10, 200])
def test_a_confusion_is_drawn_whatever_the_number_of_classes(tmp_path: Path, classes: int) -> None:
    drawn = np.random.default_rng(0)
    counts = drawn.poisson(0.2, (classes, classes)) + np.diag(drawn.integers(5, 50, classes))
    names = [f"a class of number {i}" for i in range(classes)]
    figure = pictures.confusion(pd.DataFrame(counts, index=names, columns=names), "title", "subtitle")
    plots.save(figure, tmp_path / "c.png")
    assert imread(tmp_path / "c.png").std() > 0.05
    left, right = figure.axes[0], figure.axes[1]
    assert len(left.get_xticks()) <= 40
    longest = max(bar.get_width() for bar in right.patches) if right.patches else 0  # type: ignore[attr-defined]
    assert longest == (counts - np.diag(np.diag(counts))).max()


@pytest.mark.parametrize("accuracies", [False, True])
@pytest.mark.parametrize("madds", [[1.2e4], [5e8], [1e4, 2e4], [3e5, 2e6, 4e8], [2e9 * 2.0**i for i in range(8)]])
def test_labels_of_a_family_stay_within_the_axes(madds: list[float], accuracies: bool) -> None:
    """Those of members run into no axis, those of an axis not into each other."""
    count = len(madds)
    members = pd.DataFrame({"phi": range(count), "madds": madds, "params": [m**0.5 for m in madds]})
    members = members.assign(nominal_ratio=members["madds"] / madds[0], counted_ratio=members["madds"] / madds[0])
    beside = members.assign(name="MobileNetV2", params=members["params"] / 3)
    if accuracies:
        members, beside = (
            rows.assign(accuracy=np.linspace(0.6, 0.8, count), accuracy_error=0.01, error_freedom=freedom)
            for rows, freedom in ((members, 3), (beside, 0))
        )
    figure = scaling.family(members, beside, "title", "subtitle")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axes in figure.axes:
        frame = axes.get_window_extent(renderer)
        labels = [text for text in axes.texts if text.get_text()]
        assert len(labels) == count
        for label in labels:
            box = label.get_window_extent(renderer)
            assert frame.x0 < box.x0 < box.x1 < frame.x1
            assert frame.y0 < box.y0 < box.y1 < frame.y1
        ticks = [label.get_window_extent(renderer) for label in axes.get_xticklabels() if label.get_text()]
        inside = [box for box in ticks if frame.x0 <= (box.x0 + box.x1) / 2 <= frame.x1]
        assert all(one.x1 < other.x0 for one, other in pairwise(inside))
    if accuracies:
        low, high = figure.axes[0].get_ylim()
        first, last = 100 * members["accuracy"].iloc[[0, -1]]
        assert low < first - 3.18 < last + 3.18 < high  # Student's t of 3 degrees of freedom
