"""Trainings that raise errors of any class: failed trials, which stop a run where too many follow one another."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nas.base.errors import RunFailed, UserError
from nas.devices import latency
from nas.runs.trials import IN_A_ROW
from nas.training import proxy as trainings
from nas.training.proxy import Failed, Job, Proxy, run_job, train_proxy
from nas.training.trainer import Trainer
from tests.helpers.commands import RECIPE, Command, search_arguments, train_arguments
from tests.helpers.workers import TINY

CAUSE = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
CUBLAS = f"{CAUSE}\nand a page of advice"
SCALE = ["--phi", "1", "--baseline", "mobilenet_v2", "--workers", "1", "--epochs", "1", "--no-measure"]

Break = Callable[[Callable[[int], BaseException | None]], Iterator[int]]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Let proxy trainings raise what a function of their number says, or go on; gives a counter of them."""

    def install(error: Callable[[int], BaseException | None]) -> Iterator[int]:
        calls = itertools.count()

        def sick(*given: Any, **more: Any) -> Any:
            if found := error(next(calls)):
                raise found
            return train_proxy(*given, **more)

        monkeypatch.setattr(trainings, "train_proxy", sick)
        return calls

    return install


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (
            RuntimeError(CUBLAS),
            f"RuntimeError: {CAUSE}",
        ),
        (ValueError("Expected more than 1 value per channel"), "ValueError: Expected more than 1 value per channel"),
        (NotImplementedError(), "NotImplementedError"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (SystemExit("a library gave up"), "SystemExit: a library gave up"),
        (MemoryError(), "MemoryError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_error_in_a_training_is_its_failure(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, error: BaseException, note: str
) -> None:
    monkeypatch.setattr(trainings, "train_proxy", lambda *_, **__: (_ for _ in ()).throw(error))
    assert run_job(proxy, Job(TINY, 0), lambda *_: None) == Failed(note)


def test_a_training_that_raises_is_a_failed_trial(command: Command, here: Path, images: Path, broken: Break) -> None:
    broken(lambda number: RuntimeError(CUBLAS) if number == 1 else None)
    ended = command("search", *search_arguments(images, "--trials", "3"))
    assert ended.code == 0, ended.err
    trials = pd.read_csv(here / "runs/r/trials.csv")
    assert list(trials["state"]) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials["note"][1] == f"RuntimeError: {CAUSE}"
    assert f"failed: {trials['note'][1]}" in ended.out


def test_a_search_stops_after_too_many_failures_in_a_row(
    command: Command, here: Path, images: Path, broken: Break
) -> None:
    """Two that are good, too many that fail; the same command has another try at the next ones."""
    trainings = broken(lambda number: None if number in (0, 1, 7) or number > 9 else RuntimeError(CUBLAS))
    ended = command("search", *search_arguments(images, "--trials", "12"))
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith(
        f"error: the last {IN_A_ROW} trainings failed in the same way: RuntimeError: CUDA error"
    )
    assert "and a page" not in ended.err
    assert next(trainings) == 2 + IN_A_ROW
    before = pd.read_csv(here / "runs/r/trials.csv")
    assert list(before["state"]) == ["COMPLETE"] * 2 + ["FAIL"] * IN_A_ROW
    ended = command("search", *search_arguments(images, "--trials", "12"))
    assert ended.code == 0, ended.err
    after = pd.read_csv(here / "runs/r/trials.csv")
    assert list(after["state"][7:]) == ["FAIL"] * 2 + ["COMPLETE"] * 3
    assert list(after["accuracy"][:2]) == list(before["accuracy"][:2])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            lambda number: ValueError(f"kernel {'abcdefgh'[number]} is refused"),
            "failed with ValueError, the last one:",
        ),
        (
            lambda number: [KeyError, ValueError][number % 2]("x"),
            "failed, for different causes: KeyError: 'x'",
        ),
        (
            lambda number: RuntimeError(f"tried to allocate {number}.5 GiB"),
            "failed in the same way: Runtime",
        ),
    ],
)
def test_failures_are_said_by_what_they_have_in_common(
    command: Command, images: Path, broken: Break, error: Callable[[int], BaseException], said: str
) -> None:
    broken(error)
    assert said in command("search", *search_arguments(images, "--trials", "6")).err


def test_repeats_stop_after_too_many_failures_in_a_row(
    command: Command, here: Path, images: Path, broken: Break
) -> None:
    broken(lambda number: RuntimeError(CUBLAS) if number > 5 else None)
    ended = command("search", *search_arguments(images, "--trials", "6", "--confirm", "9"))
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "failed in the same way: RuntimeError" in ended.err
    assert len(pd.read_csv(here / "runs/r/repeats.csv")) == IN_A_ROW


@pytest.mark.parametrize(
    "more", [(), ("--rule", "auto", "--coefficients", "1.2,1.1,1.15"), ("--coefficients", "1.2,1.1,1.15", "--train")]
)
def test_a_scaling_stops_after_too_many_failures_in_a_row(
    command: Command, images: Path, broken: Break, more: tuple[str, ...]
) -> None:
    trainings = broken(lambda _: RuntimeError(CUBLAS))
    ended = command("scale", *SCALE, "--data", str(images), *more)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "failed in the same way: RuntimeError" in ended.err
    assert next(trainings) == IN_A_ROW


def test_users_errors_pass(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (UserError("a mistake"), KeyboardInterrupt()):
        monkeypatch.setattr(trainings, "train_proxy", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            run_job(proxy, Job(TINY, 0), lambda *_: None)


def test_a_full_training_that_raises_ends_with_a_line(
    command: Command, here: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "r.toml").write_text(RECIPE)
    whole = command("train", *train_arguments(images, "--run", "whole"))
    assert whole.code == 0, whole.err
    step, calls = Trainer.step, itertools.count()

    def sick(self: Trainer, *given: Any) -> torch.Tensor:
        if next(calls) == 7:
            raise RuntimeError(CUBLAS)
        return step(self, *given)

    monkeypatch.setattr(Trainer, "step", sick)
    monkeypatch.setattr("nas.training.trainer.CHECKPOINT_SECONDS", 0.0)
    ended = command("train", *train_arguments(images, "--run", "t"))
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "the training failed: RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED" in ended.err
    assert command("train", *train_arguments(images, "--run", "t")).code == 0
    weights = [(here / "runs" / name / "weights.safetensors").read_bytes() for name in ("whole", "t")]
    assert weights[0] == weights[1]


def test_a_latency_that_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(latency, "timed", refuse)
    with pytest.raises(RunFailed, match="no latency on cpu: RuntimeError: could not create a primitive"):
        latency.measure(latency.Architecture.parse(TINY), latency.Conditions("cpu", 1))


def test_a_batch_that_meets_an_unknown_error_is_not_cut(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_gradients", lambda *_: (_ for _ in ()).throw(RuntimeError(CUBLAS)))
    found = run_job(proxy, Job(TINY, 0), lambda *_: None)
    assert isinstance(found, Failed)
    assert found.cause.startswith("RuntimeError: CUDA error: CUBLAS")
