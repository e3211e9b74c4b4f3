"""Trainings on a real Ray cluster of several nodes, which lose processes and nodes."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Lock
from typing import Any

import pandas as pd
import pytest
from optuna.trial import TrialState

pytest.importorskip("ray")

import ray
from ray.cluster_utils import Cluster

import nas
from nas import datasets
from nas.base.errors import RunFailed, UserError
from nas.datasets import load_data
from nas.runs.database import read_study
from nas.runs.workers import Workers, make_workers
from nas.runs.workers import cluster as room
from nas.runs.workers.cluster import Share
from nas.training.monitor import Progress
from nas.training.proxy import Failed, Job, Proxy, Report
from tests.helpers import killing
from tests.helpers.commands import Command
from tests.helpers.processes import until
from tests.helpers.workers import OTHER, TINY, Die

STORE = 80_000_000  # bytes of shared memory; Ray takes no less than 75 MiB


class Nodes:
    """A cluster: a head that trains nothing, and nodes of a CPU and an imaginary GPU each."""

    def __init__(self) -> None:
        soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}  # a node counts as lost
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, "_system_config": soon}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def be(self, count: int) -> None:
        """Let there be so many nodes, and Ray know it; those that are removed are killed."""
        while len(self.nodes) < count:
            self.nodes.append(self.cluster.add_node(wait=False, num_cpus=1, num_gpus=1, object_store_memory=STORE))
        while len(self.nodes) > count:
            self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
        self.cluster.wait_for_nodes()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(Path(nas.__file__).parents[1]))
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Nodes()
        yield found
        ray.shutdown()
        found.cluster.shutdown()


def test_a_search_loses_a_node(nodes: Nodes, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends as it does with one worker and without Ray, where its proposals do not depend on the workers."""
    options = [*killing.prepare(here), "--trials", "3", "--epochs", "100", "--confirm", "0", "--sampler", "random"]
    assert command("search", *options, "--run", "alone").code == 0

    nodes.be(2)
    training: set[Job] = set()
    lock, lost = Lock(), Event()
    pool = room.pool

    def losing(proxy: Proxy, workers: int, report: Report, share: Share) -> Any:
        def reported(job: Job, progress: Progress) -> None:
            report(job, progress)
            with lock:
                training.add(job)
                if len(training) == 2 and not lost.is_set():  # both nodes are at work
                    lost.set()
                    nodes.be(1)

        return pool(proxy, workers, reported, share)

    monkeypatch.setattr(room, "pool", losing)
    given = [option for option in options if option != "--workers"]
    given.remove("1")
    ended = command("search", *given, "--run", "spread", "--ray", nodes.address)
    assert ended.code == 0
    assert lost.is_set()
    assert f"workers: 2, each with 1 CPU of the Ray cluster {nodes.address}" in ended.out
    lines = [line for line in ended.out.splitlines() if "(raylet)" not in line and not line.startswith("    ")]
    assert len(lines) < 25  # Ray itself shows the end of a lost node's log, which no public option turns off
    notes, tables = {}, {}
    for run in ("alone", "spread"):
        table = pd.read_csv(here / "runs" / run / "trials.csv").drop(columns=killing.TIMES)
        notes[run] = table.pop("note")
        tables[run] = table
    pd.testing.assert_frame_equal(tables["spread"], tables["alone"])
    assert list(notes["spread"].dropna()) == ["trained again, for its worker was lost"]


def test_a_killed_search_leaves_nothing_in_training_and_goes_on(nodes: Nodes, here: Path, command: Command) -> None:
    nodes.be(1)
    make_workers("cpu", None, nodes.address, None)
    until(lambda: ray.available_resources().get("CPU") == 1)
    options = [*killing.prepare(here), "--trials", "1", "--confirm", "0", "--run", "killed", "--ray", nodes.address]
    killed = subprocess.Popen([sys.executable, "-m", "nas.search", *options], stdout=subprocess.DEVNULL)
    run = here / "runs" / "killed"
    until(lambda: "CPU" not in ray.available_resources() and states(run) == [TrialState.RUNNING])
    killed.kill()
    killed.wait()
    until(lambda: ray.available_resources().get("CPU") == 1)
    assert states(run) == [TrialState.RUNNING]
    assert command("search", *options).code == 0
    assert states(run) == [TrialState.COMPLETE]


def states(run: Path) -> list[TrialState]:
    """Of the trials of a run, if it has begun."""
    found = read_study(run, run.name) if (run / "run.toml").exists() else None
    return [trial.state for trial in found.get_trials(deepcopy=False)] if found else []


def test_an_idle_process_that_is_lost_costs_nothing_and_a_job_that_loses_two_fails(
    nodes: Nodes, proxy: Proxy, tmp_path: Path
) -> None:
    """Here each trial has half of a GPU, for all that Ray knows."""
    nodes.be(1)
    share = Share(nodes.address, 1, 0.5)
    assert make_workers("auto", None, nodes.address, 0.5) == Workers(1, "cuda", share)
    reported: list[Job] = []
    with room.pool(proxy, 1, lambda job, progress: reported.append(job), share) as submit:
        assert submit(Job(OTHER, 0)).result(120).note == ""
        nodes.be(0)
        nodes.be(1)
        assert submit(Job(OTHER, 1)).result(120).note == ""
        failed = submit(Job(TINY, Die(tmp_path / "always", 9))).result(120)
    assert failed == Failed("its worker was lost 2 times (out of memory, a crash, or a node that is gone)")
    assert {Job(OTHER, 0), Job(OTHER, 1)} <= {*reported}


def test_what_a_cluster_cannot_do_ends_the_run(nodes: Nodes, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.be(1)
    monkeypatch.setattr(room, "PATIENCE", 1.0)
    workers = make_workers("cpu", None, nodes.address, None)
    load_data(proxy.data)
    next((Path(proxy.data.name) / "dark").iterdir()).unlink()  # now a node has other images than this process,
    shutil.rmtree(datasets.cache_directory())  # and cannot read those of this process
    with (
        workers.pool(proxy, lambda job, progress: None) as submit,
        pytest.raises(
            UserError, match=r"^on the Ray node .*: data .* differs from that of the machine that started the command"
        ),
    ):
        submit(Job(TINY, 0)).result(60)
    nodes.be(0)
    with (
        workers.pool(proxy, lambda job, progress: None) as submit,
        pytest.raises(RunFailed, match="no node of the Ray cluster has room"),
    ):
        submit(Job(TINY, 0)).result(60)
    with pytest.raises(UserError, match=r"^--ray: 0 trials, each with 1 CPU .* have room"):
        make_workers("cpu", None, nodes.address, None)


BIG, SMALL = {"CPU": 16.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("found", "device", "workers", "gpus", "expected"),
    [
        ([{"CPU": 0.0}, {"CPU": 8.0}, {"CPU": 3.0}, {}], "auto", None, None, ("cpu", 1, 0.0, 11)),
        ([{"CPU": 8.0}, {"CPU": 3.0}], "auto", 3, None, ("cpu", 3, 0.0, 11)),
        ([{"CPU": 8.0}, {"CPU": 3.0}], "cpu", 9, None, ("cpu", 1, 0.0, 11)),
        ([BIG, SMALL], "auto", None, None, ("cuda", 1, 1.0, 5)),
        ([BIG, SMALL], "cuda", None, 0.25, ("cuda", 1, 0.25, 16 + 2)),
        ([BIG, SMALL], "auto", None, 0.4, ("cuda", 1, 0.4, 4 * 2 + 2)),  # none has parts of two GPUs
        ([BIG, SMALL], "cpu", None, None, ("cpu", 1, 0.0, 18)),
    ],
)
def test_the_share_of_a_trial(
    monkeypatch: pytest.MonkeyPatch,
    found: list[dict[str, float]],
    device: str,
    workers: int | None,
    gpus: float | None,
    expected: tuple[str, int, float, int],
) -> None:
    monkeypatch.setattr(room, "_connected", lambda address: address)
    monkeypatch.setattr(room, "_nodes", lambda: found)
    where, share, places = room.join("auto", device, workers, gpus)
    assert (where, share.cpus_per_trial, share.gpus_per_trial, places) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus-per-trial", "0.5"], "--gpus-per-trial: is for trials on a Ray cluster; give --ray as well"),
        (["--ray", "auto", "--gpus-per-trial", "2"], "--gpus-per-trial"),
        (["--ray", "auto", "--gpus-per-trial", "0.5", "--device", "cpu"], "--gpus-per-trial and --device cpu exclude"),
        (["--ray", "auto", "--device", "cuda:1"], "--device cuda:1: with --ray it is auto, cpu, cuda"),
        (["--ray", "here"], "--ray 'here': give auto, or the cluster's HOST:PORT"),
        (["--ray", "ray://127.0.0.1:10001"], "--ray 'ray://127.0.0.1:10001': give auto"),
        (["--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: nothing answers there"),
    ],
)
@pytest.mark.parametrize("name", ["search", "scale"])
def test_a_mistake_is_one_line(command: Command, here: Path, name: str, options: list[str], message: str) -> None:
    which = {"search": ["--space", "small.toml"], "scale": ["--baseline", "mobilenet_v2"]}[name]
    ended = command(name, *which, *options)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert message in ended.err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("gpus", "device", "workers", "message"),
    [
        (0.5, "auto", None, "--gpus-per-trial 0.5: no node of the Ray cluster auto has a GPU"),
        (None, "cuda", None, "--device cuda: no node of the Ray cluster auto has a GPU"),
        (None, "auto", 9, "--workers 9: 8 trials, each with 1 CPU of the Ray cluster auto, have room"),
    ],
)
def test_a_cluster_without_room_is_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: float | None, device: str, workers: int | None, message: str
) -> None:
    monkeypatch.setattr(room, "_connected", lambda address: address)
    monkeypatch.setattr(room, "_nodes", lambda: [{"CPU": 8.0}])
    with pytest.raises(UserError, match=message):
        make_workers(device, workers, "auto", gpus)


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.base.errors.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--ray: needs ray, which is not installed; pip install 'compound-nas\[ray\]'"):
        make_workers("auto", None, "auto", None)
