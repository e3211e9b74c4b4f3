"""Full training: what it leaves, that it survives being killed, that processes share it, and what varies its images."""

import random
import re
import shutil
import socket
import time
import tomllib
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import nas
from nas import Architecture, datasets
from nas.plots import training as pictures
from nas.training import trained
from nas.training.distributed import Ranks
from nas.training.trainer import Trainer
from tests.helpers import needs
from tests.helpers.commands import NET, RECIPE, Command, train_arguments
from tests.helpers.processes import BLANK, ERR, start

ALONE = Ranks(torch.device("cpu"))


@pytest.mark.pictures
def test_a_training_from_end_to_end(command: Command, here: Path, images: Path) -> None:
    (here / "r.toml").write_text(RECIPE)
    ended = command("train", *train_arguments(images, "--run", "t", "--epochs", "2"))
    assert ended.code == 0, ended.err
    run = here / "runs/t"
    assert {file.name for file in run.iterdir()} - {".lock"} == {
        *("run.toml", "network.toml", "weights.safetensors", "result.toml"),
        *("curve.csv", "curve.png", "confusion.csv", "confusion.png"),
    }
    curve = pd.read_csv(run / "curve.csv")
    assert list(curve.columns) == [
        "epoch",
        "rate",
        "train_loss",
        "val_loss",
        "top1",
        "top5",
        "seconds",
        "balanced_accuracy",
    ]
    assert curve["epoch"].tolist() == [1, 2]
    result = tomllib.loads((run / "result.toml").read_text())
    assert result["validation"]["top1"] == curve["top1"].iloc[-1]
    assert result["validation"]["images"] == f"the 60 validation images of {images.name}"

    # The module that users get, asked as they would ask it, is what the figures are of.
    data = datasets.load(str(images), largest=32)
    model, known = nas.load(run), trained.read(run)
    assert known.architecture == Architecture.parse(NET)
    assert known.inputs.classes == data.classes
    logits = model(known.inputs.normalised(data.val_images))
    confusion = pd.read_csv(run / "confusion.csv", index_col=0)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (data.val_labels.numpy(), logits.argmax(1).numpy()), 1)
    assert (confusion.to_numpy() == expected).all()
    assert confusion.columns.tolist() == confusion.index.tolist() == list(data.classes)
    assert np.trace(expected) / 60 == result["validation"]["top1"]
    assert F.cross_entropy(logits, data.val_labels).item() == pytest.approx(result["validation"]["loss"], rel=1e-4)
    assert Architecture.load(run / "network.toml") == known.architecture

    again = command("train", *train_arguments(images, "--run", "t", "--epochs", "2"))
    assert again.code == 0
    assert "epoch " not in again.out
    assert "done" in again.out
    other = command("train", *train_arguments(images, "--run", "t", "--epochs", "3"))
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "--epochs 2, now it is 3" in other.err
    (here / "r.toml").write_text(RECIPE.replace("mixup = 0.2", "mixup = 0.3"))
    other = command("train", *train_arguments(images, "--run", "t", "--epochs", "2"))
    assert "its recipe had mixup 0.2, now it is 0.3" in other.err


def test_it_learns(command: Command, here: Path, images: Path) -> None:
    more = ["--run", "t", "--epochs", "20", "--batch-size", "20"]
    assert command("train", NET, "--data", str(images), "--device", "cpu", *more).code == 0
    assert tomllib.loads((here / "runs/t/result.toml").read_text())["validation"]["top1"] > 0.6  # chance is 1/3


def test_networks_of_a_run_are_trained_on_its_data(command: Command, here: Path, images: Path) -> None:
    (here / "runs/s/scale").mkdir(parents=True)
    (here / "runs/s/run.toml").write_text(f'[arguments]\ndata = "{images}"\n')
    trials = [NET, NET.replace("head32", "head16")]
    (here / "runs/s/baseline.toml").write_text(Architecture.parse(NET.replace("head32", "head24")).to_toml())
    (here / "runs/s/scale/phi_1.toml").write_text(Architecture.parse(NET.replace("head32", "head40")).to_toml())
    pd.DataFrame({"trial": [0, 1], "architecture": trials}).to_csv(here / "runs/s/trials.csv", index=False)
    for name, run, expected in (
        ("s", f"s-{images.name}-train", Architecture.load(here / "runs/s/baseline.toml")),
        ("s:1", f"s-1-{images.name}-train", Architecture.parse(trials[1])),
        ("runs/s/scale/phi_1.toml", "t", Architecture.load(here / "runs/s/scale/phi_1.toml")),
        (None, "u", Architecture.load(here / "runs/s/baseline.toml")),
    ):
        more = ["--run", run] if len(run) == 1 else []
        ended = command("train", *([name] if name else []), "--epochs", "1", "--device", "cpu", *more)
        assert ended.code == 0, ended.err
        assert trained.read(here / "runs" / run).architecture == expected
        assert tomllib.loads((here / f"runs/{run}/run.toml").read_text())["data"]["name"] == images.name
    ended = command("train", "s:7")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "network s:7: the run has no finished trial 7; it has 0, 1, … 1" in ended.err
    ended = command("cost", "t")  # a training's name is a network, too
    assert str(Architecture.load(here / "runs/t/network.toml")) in ended.out


BAD = [
    ("efficientnet_b9", "nearest is 'efficientnet_b"),
    ("nobody:3", "no run of this name"),
    ("none.toml", "none.toml"),
    ("--recipe fast", "unknown recipe 'fast'"),
    ("--recipe bad.toml", "bad.toml: unknown key 'epoch'; nearest is 'epochs'", "epoch = 3"),
    ("--recipe bad.toml", "bad.toml: epochs must be a whole number, got 2.5", "epochs = 2.5"),
    ("--recipe bad.toml", "bad.toml: mixup must be from 0 to 10, got -1", "mixup = -1"),
    ("--recipe bad.toml", "bad.toml: optimizer must be one of", 'optimizer = "adam"'),
    ("--recipe bad.toml", "unknown schedule 'slow'", 'progressive = "slow"'),
    ("--data nowhere", "no such folder"),
    ("--image-size 4", "image size 4"),
    ("--run ../x", "--run '../x'"),
    ("--device cuda:77", "device 'cuda:77' is not here"),
    ("--microbatches 40 --batch-size 64", "--microbatches 40: a batch of 64 has 1 images in each"),
    (
        "--microbatches 32 --batch-size 64",
        "--microbatches 32: a batch of 64 has 1 images in each",
    ),  # there are two of 60
    ("--epochs 0", "--epochs"),
]


@pytest.mark.parametrize("case", BAD, ids=[case[0] for case in BAD])
def test_bad_input_gets_one_line_and_writes_nothing(
    command: Command, here: Path, images: Path, case: tuple[str, ...]
) -> None:
    call, said, *content = case
    (here / "bad.toml").write_text("".join(content))
    arguments = call.split()
    arguments = [NET, *arguments] if call.startswith("--") else arguments
    arguments = arguments if "--data" in arguments else [*arguments, "--data", str(images)]
    ended = command("train", *arguments)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert said in ended.err
    assert not (here / "runs").exists()


def test_a_batch_that_memory_cannot_hold(
    command: Command, here: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("nas.devices.memory.available_memory", lambda: 1000)
        ended = command("train", NET, "--data", str(images), "--device", "cpu")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert re.search(r"need more than \S+ to train on, 1KB? are free on cpu; cut batches into microbatches", ended.err)
    assert not (here / "runs").exists()

    def scarce(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr(Trainer, "_gradients", scarce)
    ended = command("train", NET, "--data", str(images), "--device", "cpu")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "out of memory on cpu, however small the microbatches; give a smaller --batch-size" in ended.err


def test_a_training_that_diverges_fails(command: Command, here: Path, images: Path) -> None:
    (here / "r.toml").write_text('epochs = 9\nbatch_size = 8\noptimizer = "sgd"\nlearning_rate = 1e5\n')
    ended = command("train", *train_arguments(images))
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "diverged" in ended.err


# Killed, continued, and shared by processes.


ALWAYS = {**BLANK, "nas.training.trainer.CHECKPOINT_SECONDS": 0}  # a checkpoint after each step


def finished(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def weights(folder: Path, run: str) -> bytes:
    return (folder / f"runs/{run}/weights.safetensors").read_bytes()


@needs.fork
def test_a_killed_training_ends_with_the_same_weights(here: Path, images: Path) -> None:
    """Killed while it starts, and again and again a random while after a checkpoint."""
    (here / "r.toml").write_text(RECIPE)
    began = time.perf_counter()
    assert finished(start(here, "train", train_arguments(images, "--run", "whole"), ALWAYS)) == 0
    whole = time.perf_counter() - began
    rng = random.Random(0)
    arguments, checkpoint = train_arguments(images, "--run", "killed"), here / "runs/killed/checkpoint.pt"
    seen = set()
    for kill in range(7):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(here, "train", arguments, ALWAYS)
        if kill:
            while process.is_alive() and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns != before):
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.05))
        else:
            end = time.perf_counter() + rng.uniform(0, whole / 2)
            while process.is_alive() and time.perf_counter() < end and not checkpoint.exists():
                time.sleep(0.002)
        process.kill()
        process.join()
        if checkpoint.exists():
            seen.add(torch.load(checkpoint, weights_only=True)["trainer"]["steps"])
    assert len(seen) >= 3  # it was killed here and there
    assert finished(start(here, "train", arguments, ALWAYS)) == 0, (here / ERR).read_text()
    assert weights(here, "killed") == weights(here, "whole")
    curves = [pd.read_csv(here / f"runs/{name}/curve.csv").drop(columns="seconds") for name in ("whole", "killed")]
    assert curves[0].equals(curves[1])
    assert not checkpoint.exists()


@needs.fork
@pytest.mark.parametrize("change", ["", "unfreeze = 0.5\n"], ids=["plain", "unfreezing"])
def test_two_processes_train_like_one(here: Path, images: Path, change: str) -> None:
    """To the same bits: both cut a batch in two microbatches, each with its own batch norm statistics and chance."""
    (here / "r.toml").write_text(RECIPE + change)
    arguments = train_arguments(images, "--microbatches", "2", *(["--freeze", "2"] if change else []))
    ended = []
    for run in ("one", "two", "mixed"):
        alone = [start(here, "train", [*arguments, "--run", run], ALWAYS)] if run == "one" else []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
        ranks = ({**place, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(2))
        processes = alone or [start(here, "train", [*arguments, "--run", run], ALWAYS, **rank) for rank in ranks]
        if run == "mixed":  # killed when it has come so far, continued by one process
            while not (here / "runs/mixed/checkpoint.pt").exists():
                time.sleep(0.01)
            for process in processes:
                process.kill()
                process.join()
            processes = [start(here, "train", [*arguments, "--run", run], ALWAYS)]
        for process in processes:
            process.join()
            ended.append(process.exitcode)
    assert set(ended) == {0}, (here / ERR).read_text()
    assert weights(here, "one") == weights(here, "two") == weights(here, "mixed")
    curves = [pd.read_csv(here / f"runs/{run}/curve.csv").drop(columns="seconds") for run in ("one", "two", "mixed")]
    for curve in curves[1:]:
        pd.testing.assert_frame_equal(curve, curves[0], rtol=1e-5)  # losses are added up in another order


def test_the_test_images_are_looked_at_once_and_at_the_end(command: Command, here: Path, images: Path) -> None:
    folder = here / "all"
    shutil.copytree(images, folder)
    shutil.copytree(images / "val", folder / "test")
    arguments = [NET, "--data", str(folder), "--device", "cpu", "--run", "t", "--epochs", "1"]
    ended = command("train", *arguments[:-4], "--data", str(images), "--test")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "has no test images" in ended.err
    assert not (here / "runs").exists()
    assert command("train", *arguments).code == 0
    assert "test" not in tomllib.loads((here / "runs/t/result.toml").read_text())
    ended = command("train", *arguments, "--test")
    assert ended.code == 0, ended.err
    result = tomllib.loads((here / "runs/t/result.toml").read_text())
    assert result["test"]["images"] == "the 60 test images of all"
    assert result["test"]["top1"] == result["validation"]["top1"]  # they are copies
    (folder / "test/class0").rename(folder / "test/class9")
    assert (
        "class class0 is in train/ but not in test/"
        in command("train", *arguments[:-1], "2", "--run", "u", "--test").err
    )


@pytest.mark.pictures
def test_no_name_of_a_class_ends_a_training(command: Command, here: Path, images: Path) -> None:
    """Nor a name of the data; dollars are not mathematics, and a class may begin like a formula."""
    folder = here / "pay_$_or_$_[b]"
    shutil.copytree(images, folder)
    for part in ("train", "val"):
        (folder / part / "class0").rename(folder / part / "=a$_b$_c")
        (folder / part / "class1").rename(folder / part / "class")
    ended = command("train", NET, "--data", str(folder), "--device", "cpu", "--run", "t", "--epochs", "1")
    assert (ended.code, ended.err) == (0, "")
    assert "on the 60 validation images of pay_$_or_$_[b]" in ended.out
    assert nas.load(here / "runs/t")
    assert (here / "runs/t/confusion.csv").read_text().startswith("class,'=a$_b$_c,class,class2\n'=a$_b$_c,")
    assert (here / "runs/t/confusion.png").stat().st_size > 1000


@pytest.mark.pictures
def test_a_picture_that_fails_costs_no_training(
    command: Command, here: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results are there, and the same command draws the picture when it can."""
    arguments = [NET, "--data", str(images), "--device", "cpu", "--run", "t", "--epochs", "2"]
    with monkeypatch.context() as broken:
        broken.setattr(pictures, "confusion", lambda *_: 1 / 0)
        ended = command("train", *arguments)
    assert ended.code == 0
    assert ended.err == "warning: runs/t/confusion.png: not drawn (ZeroDivisionError: division by zero)\n"
    run = here / "runs/t"
    assert nas.load(run)
    assert {"result.toml", "curve.png", "confusion.csv"} <= {file.name for file in run.iterdir()}
    assert not (run / "confusion.png").exists()
    assert command("train", *arguments).code == 0
    assert (run / "confusion.png").stat().st_size > 1000
