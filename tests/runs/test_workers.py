"""Workers train side by side, survive each other's death, and end with their parent."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nas.base.errors import UserError
from nas.base.machine import available_cores
from nas.runs.workers.processes import pool
from nas.training.monitor import Progress
from nas.training.proxy import Failed, Job, Outcome, Proxy, Result
from tests.helpers.workers import OTHER, TINY, Die, small_proxy


@dataclass
class Pool:
    """Two workers for all tests here that leave them usable: starting them takes most of the time."""

    proxy: Proxy
    submit: Callable[[Job], Future[Result]]
    reports: list[tuple[Job, Progress]]


FAILING = Job(OTHER, 7)  # its report fails


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Ends all its processes."""
    folder, reports = tmp_path_factory.mktemp("workers"), []

    def report(job: Job, progress: Progress) -> None:
        reports.append((job, progress))
        if job == FAILING:
            raise OSError("no space left")

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        proxy, before = small_proxy(folder / "images"), set(multiprocessing.active_children())
        with pool(proxy, 2, report) as submit:
            yield Pool(proxy, submit, reports)
        assert set(multiprocessing.active_children()) <= before


def test_a_dead_worker_costs_one_retry_and_others_nothing(two: Pool, tmp_path: Path) -> None:
    once, other = Job(TINY, Die(tmp_path / "once", 1)), Job(OTHER, 0)
    again, alone = (future.result() for future in [two.submit(once), two.submit(other)])
    assert isinstance(again, Outcome)
    assert isinstance(alone, Outcome)
    assert (again.epochs, again.note, alone.note) == (2, "trained again, for its worker was lost", "")
    assert {job for job, _ in two.reports} >= {once, other}

    killer, more = two.submit(Job(TINY, Die(tmp_path / "always", 99))), two.submit(Job(OTHER, 1))
    found = killer.result()
    assert isinstance(found, Failed)
    assert found.cause == "its worker was lost 2 times (out of memory, or a crash)"
    assert isinstance(more.result(), Outcome)
    assert isinstance(two.submit(Job(OTHER, 2)).result(), Outcome)  # there is a worker in its place
    assert len((tmp_path / "always").read_text()) == 2

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, available_cores() // 2))  # as the workers have
    try:
        with pool(two.proxy, 1, lambda job, progress: None) as submit:
            here = submit(Job(TINY, 0)).result()
    finally:
        torch.set_num_threads(threads)
    assert isinstance(here, Outcome)
    assert here.curve == again.curve


def test_a_worker_that_dies_at_rest_costs_nothing(two: Pool) -> None:
    assert isinstance(two.submit(Job(TINY, 0)).result(), Outcome)
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    time.sleep(0.5)  # until it is known to be dead
    found = two.submit(Job(TINY, 1)).result()
    assert isinstance(found, Outcome)
    assert found.note == ""


def test_jobs_wait_for_workers_and_a_report_that_fails_costs_its_job_only(two: Pool) -> None:
    failed, *others = (two.submit(job) for job in (FAILING, *(Job(TINY, seed, epochs=1) for seed in range(3))))
    with pytest.raises(OSError, match="no space left"):
        failed.result()
    assert all(isinstance(future.result(), Outcome) for future in others)


def test_a_mistake_of_the_users_comes_from_a_worker_as_one(two: Pool) -> None:
    future = two.submit(Job("ir_r1_k3_s1_e6", 0))  # a BlockError, which takes other arguments than its text
    with pytest.raises(UserError, match="channels is missing"):
        future.result()


class Unsendable(Exception):
    """An error that no other process can read."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


@dataclass(frozen=True)
class Seed:
    """A seed that raises an error in the process that trains."""

    error: type[BaseException]
    arguments: tuple[object, ...]

    def __int__(self) -> int:
        raise self.error(*self.arguments)


def test_a_training_that_raises_in_a_worker_is_a_failed_one(two: Pool) -> None:
    seeds = Seed(Unsendable, ("a", "b")), Seed(SystemExit, (3,))
    futures = [two.submit(Job(TINY, seed)) for seed in seeds]  # type: ignore[arg-type]
    assert [future.result() for future in futures] == [Failed("Unsendable: a b"), Failed("SystemExit: 3")]


def test_who_is_no_worker_lives_on(proxy: Proxy, tmp_path: Path) -> None:
    """After a mistake or Ctrl-C the workers are killed, whatever they do, and no process that others started."""
    stranger = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    stranger.start()
    futures: list[Future[Result]] = []

    def interrupted() -> None:
        with pool(proxy, 2, lambda job, progress: None) as submit:
            futures.append(submit(Job(TINY, Wait(tmp_path / "begun"))))
            while not (tmp_path / "begun").exists():
                time.sleep(0.05)
            raise KeyboardInterrupt

    try:
        before = set(multiprocessing.active_children())
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        with pytest.raises(CancelledError):
            futures[0].result()
        assert set(multiprocessing.active_children()) == before
        assert stranger.is_alive()
    finally:
        stranger.kill()
        stranger.join()


@dataclass(frozen=True)
class Wait:
    """A seed that says by a file that its training has begun, and waits."""

    file: Path

    def __int__(self) -> int:
        self.file.touch()
        time.sleep(60)
        return 0
