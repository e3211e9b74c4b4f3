"""A search killed at random instants loses nothing and ends as one that was left alone."""

from pathlib import Path

from tests.helpers import needs
from tests.helpers.killing import survive


@needs.fork
def test_a_killed_search_ends_like_one_that_was_not(tmp_path: Path) -> None:
    found = survive(tmp_path, kills=20, seed=1)
    assert found.kills >= 20
    assert found.ended_runs >= 1
    assert len(set(found.finished)) > 2  # kills came early and late
