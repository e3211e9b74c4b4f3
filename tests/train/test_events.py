"""`nas.train --tensorboard`: what TensorBoard reads is the curve, however often the training was interrupted."""

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas.train import events
from nas.training import trainer
from tests.helpers.commands import Command

reader: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

NET = "32px stem8 ds_r1_k3_s1_c8 ir_r1_k3_s2_e2_c8 head16"


def arguments(images: Path, *more: str) -> list[str]:
    return [NET, "--data", str(images), "--device", "cpu", "--epochs", "5", "--run", "t", *more]


def files(run: Path) -> list[Path]:
    return sorted(run.glob("events.out.tfevents.*"))


def assert_the_curve(run: Path) -> None:
    """What TensorBoard reads of a run, epoch by epoch, is curve.csv: each epoch once, as long after the first."""
    curve = pd.read_csv(run / "curve.csv")
    read = reader.EventAccumulator(str(run)).Reload()
    assert set(read.Tags()["scalars"]) == set(curve.columns) - {"epoch", "seconds"}
    for name in read.Tags()["scalars"]:
        found = read.Scalars(name)
        assert [event.step for event in found] == curve["epoch"].tolist()
        assert [event.value for event in found] == pytest.approx(curve[name].tolist(), rel=1e-6)
        after = [event.wall_time - found[0].wall_time for event in found]
        assert after == pytest.approx((curve["seconds"] - curve["seconds"][0]).tolist(), abs=0.2)


@pytest.mark.parametrize("seconds", [0, 60], ids=["continued", "begun again"])
def test_an_interrupted_training(
    command: Command, here: Path, images: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Ended right after epoch 3 was told, which no checkpoint has: epochs that were told are trained and told again."""
    published = events.Events.published

    def three(self: events.Events, rows: list[trainer.Row]) -> None:
        published(self, rows)
        if len(rows) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", seconds)
    with monkeypatch.context() as patch:
        patch.setattr(events.Events, "published", three)
        assert command("train", *arguments(images, "--tensorboard")).code == 130
    run = here / "runs/t"
    assert_the_curve(run)
    with files(run)[0].open("ab") as file:
        file.write(b"\x18\0\0")  # as if it had been killed while it wrote
    ended = command("train", *arguments(images, "--tensorboard"))
    assert ended.code == 0, ended.err
    assert ("epoch   1/5" in ended.out) == (seconds > 0)
    assert len(pd.read_csv(run / "curve.csv")) == 5
    assert len(files(run)) == 2
    assert_the_curve(run)


def test_a_training_that_is_done_is_told_once(command: Command, here: Path, images: Path) -> None:
    assert command("train", *arguments(images)).code == 0
    run = here / "runs/t"
    assert not files(run)
    for _ in range(2):
        assert command("train", *arguments(images, "--tensorboard")).code == 0
        assert len(files(run)) == 1
    assert_the_curve(run)


def test_without_tensorboard_nothing_is_begun(
    command: Command, here: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("nas.base.errors.find_spec", lambda name: None if name == "tensorboard" else find(name))
    ended = command("train", *arguments(images, "--tensorboard"))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "pip install 'compound-nas[tensorboard]'" in ended.err
    assert not (here / "runs").exists()
