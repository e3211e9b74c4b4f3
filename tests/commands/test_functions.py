"""The commands as functions, for notebooks and other programs; and all of them below one name."""

import sys
from pathlib import Path

import pandas as pd
import pytest

import nas
from nas import UserError
from nas.__main__ import COMMANDS, main
from nas.scale import scale
from nas.search import search
from nas.train import train


def test_a_search_its_family_and_a_training(here: Path, images: Path) -> None:
    run = search(space="small.toml", data=str(images), trials=3, epochs=1, workers=1, device="cpu", max_madds=400_000)
    assert run.path.parent == Path("runs")
    pd.testing.assert_frame_equal(run.trials, pd.read_csv(run.path / "trials.csv", index_col=False))
    assert set(run.front["trial"]) <= set(run.trials["trial"])
    assert str(run.baseline) in set(run.front["architecture"])
    assert run.config["arguments"]["max_madds"] == 400_000
    family = scale(run, phi=2, coefficients="1.2,1.1,1.15", measure=False)
    assert [member.phi for member in family] == [0, 1, 2]
    assert family[0].architecture == run.baseline
    trained = train(str(run.path), epochs=1, device="cpu")
    assert nas.load(trained.path).architecture == run.baseline


def test_a_mistake_is_a_user_error(here: Path, images: Path) -> None:
    with pytest.raises(UserError, match="unknown search space"):
        search(space="nope")
    with pytest.raises(UserError, match=r"trials\.csv: cannot be read"):
        nas.Run(here).trials  # noqa: B018


def test_one_command_for_all(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nas", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return (code, *capfd.readouterr())

    assert all(name in run("--help")[1] for name in COMMANDS)
    assert run("cost", "efficientnet_b0", "--json")[0] == 0
    code, _, err = run("serach")
    assert (code, err.count("\n")) == (2, 1)
