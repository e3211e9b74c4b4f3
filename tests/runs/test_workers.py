"""Workers train side by side, survive each other's death, and end with their parent."""

import multiprocessing
import time
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nas.base.errors import UserError
from nas.base.machine import available_cores
from nas.runs.workers import processes
from nas.runs.workers.processes import pool
from nas.training.monitor import Progress
from nas.training.proxy import Failed, Job, Outcome, Proxy, Result
from tests.helpers.workers import OTHER, TINY, Die


def test_a_dead_worker_costs_one_retry_and_others_nothing(proxy: Proxy, tmp_path: Path) -> None:
    told: list[tuple[Job, Progress]] = []
    once, other = Job(TINY, Die(tmp_path / "once", 1)), Job(OTHER, 0)
    with pool(proxy, 2, lambda job, progress: told.append((job, progress))) as submit:
        again, alone = (future.result() for future in [submit(once), submit(other)])
        assert isinstance(again, Outcome)
        assert isinstance(alone, Outcome)
        assert (again.epochs, again.note, alone.note) == (2, "trained again, for its worker was lost", "")
        assert {job for job, _ in told} == {once, other}

        killer, more = submit(Job(TINY, Die(tmp_path / "always", 99))), submit(Job(OTHER, 1))
        found = killer.result()
        assert isinstance(found, Failed)
        assert found.cause == "its worker was lost 2 times (out of memory, or a crash)"
        assert isinstance(more.result(), Outcome)
        assert isinstance(submit(Job(OTHER, 2)).result(), Outcome)  # there is a worker in its place
    assert len((tmp_path / "always").read_text()) == 2

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, available_cores() // 2))  # as the workers have
    try:
        with pool(proxy, 1, lambda job, progress: None) as submit:
            here = submit(Job(TINY, 0)).result()
    finally:
        torch.set_num_threads(threads)
    assert isinstance(here, Outcome)
    assert here.curve == again.curve


def test_a_worker_that_dies_at_rest_costs_nothing(proxy: Proxy) -> None:
    with pool(proxy, 2, lambda job, progress: None) as submit:
        assert isinstance(submit(Job(TINY, 0)).result(), Outcome)
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        time.sleep(0.5)  # until it is known to be dead
        found = submit(Job(TINY, 1)).result()
        assert isinstance(found, Outcome)
        assert found.note == ""


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
        before = multiprocessing.active_children()
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        with pytest.raises(CancelledError):
            futures[0].result()
        assert multiprocessing.active_children() == before
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


def test_jobs_wait_for_workers_and_a_report_that_fails_costs_its_job_only(proxy: Proxy) -> None:
    def report(job: Job, progress: Progress) -> None:
        if job.seed == 0:
            raise OSError("no space left")

    with pool(proxy, 2, report) as submit:
        failed, *others = (submit(Job(TINY, seed, epochs=1)) for seed in range(4))
        with pytest.raises(OSError, match="no space left"):
            failed.result()
        assert all(isinstance(future.result(), Outcome) for future in others)
    assert not multiprocessing.active_children()


def test_a_mistake_of_the_users_comes_from_a_worker_as_one(proxy: Proxy) -> None:
    with processes.pool(proxy, 2, lambda job, progress: None) as submit:
        future = submit(Job("ir_r1_k3_s1_e6", 0))  # a BlockError, which takes other arguments than its text
        with pytest.raises(UserError, match="channels is missing"):
            future.result()
