"""A search killed at random instants loses nothing and ends as one that was left alone."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from nas.plots import figures as plots
from tests.helpers import needs
from tests.helpers.killing import survive


@pytest.mark.pictures
@needs.fork
def test_a_killed_search_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "pareto", lambda *_: Figure((3, 2)))  # a whole one takes half of the time of a search
    found = survive(tmp_path, kills=20, seed=1)
    assert found.kills >= 20
    assert found.ended_runs >= 1
    assert len(set(found.finished)) > 2  # kills came early and late
