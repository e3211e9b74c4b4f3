"""A search that several machines work on: processes that share nothing but a PostgreSQL server."""

import multiprocessing
import os
import signal
import tomllib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState

from nas.runs import database, sharing, trials
from nas.runs.records import lost
from nas.runs.sharing import Heartbeat
from nas.runs.trials import Plan, train_trials
from nas.runs.workers import Workers, processes
from nas.training.proxy import Job, Result, run_job
from tests.helpers import killing, needs
from tests.helpers.commands import Command
from tests.helpers.processes import run_command

TRIALS = 5
IMPATIENT = ((database, "HEARTBEAT", 1), (database, "GRACE", 8), (trials, "POLL", 0.3))  # seconds, not minutes


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are given up soon."""
    for module, name, value in IMPATIENT:
        monkeypatch.setattr(module, name, value)


def start(work: Callable[..., None], *given: Any) -> Any:
    """A process that does this; forked from a fresh one, for threads of other tests would not survive the fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nas.search.command"])
    process = context.Process(target=impatiently, args=(work, *given))
    process.start()
    return process


def impatiently(work: Callable[..., None], *given: Any) -> None:
    for module, name, value in IMPATIENT:
        setattr(module, name, value)
    torch.set_num_threads(1)
    work(*given)


def search(home: Path, folder: Path, arguments: list[str], kills: Path) -> None:
    """A search in a folder of its own; it kills its process when it trains the network of `kills`."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    setattr(processes, "run_job", lambda proxy, job, report: deadly(kills, proxy, job, report))  # noqa: B010
    for name in ("images", "space.toml"):
        if not (folder / name).exists():
            (folder / name).symlink_to(home / name)
    run_command(folder, "search", arguments)


def claim(url: str, trial: int, answer: Any) -> None:
    """Claim a name for a trial, and tell so, and then what it got."""
    mine = optuna.load_study(study_name="claims", storage=database.shared_storage(url))
    answer.put("claims")
    answer.put(sharing.claim(mine, optuna.trial.Trial(mine, trial), "name", ["a", "b"]))


def deadly(kills: Path, proxy: Any, job: Job, report: Any) -> Result:
    """Train, but die of the network that was trained first of all."""
    try:
        with kills.open("x") as file:
            file.write(job.architecture)
    except FileExistsError:
        pass
    if kills.read_text() == job.architecture:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_job(proxy, job, report)


@needs.fork
def test_machines_share_a_search(server: str, here: Path, command: Command) -> None:
    arguments = [*killing.prepare(here), "--epochs", "1", "--trials", str(TRIALS), "--storage", server, "--run", "r"]
    kills = here / "kills"
    folders = [here / f"machine{max(i, 1)}" for i in range(4)]  # two share a directory
    machines = [start(search, here, folder, arguments, kills) for folder in folders]
    for machine in machines:
        machine.join(120)
    assert Counter(machine.exitcode for machine in machines) == {0: 2, -signal.SIGKILL: 2}

    found, repeats = (
        optuna.load_study(study_name=name, storage=server).get_trials(deepcopy=False) for name in ("r", "r-repeats")
    )
    trained = [t for t in found if t.state in (TrialState.COMPLETE, TrialState.FAIL) and not lost(t)]
    assert len(trained) == TRIALS
    assert len({t.user_attrs["hash"] for t in trained}) == TRIALS
    (failed,) = (t for t in trained if t.state == TrialState.FAIL)
    assert failed.user_attrs["architecture"] == kills.read_text()
    assert failed.user_attrs["note"].startswith("its worker was lost twice")
    # Once each: on a busy machine a worker may be late with its heartbeat, and its trial is lost as well.
    given_up = Counter(t.user_attrs.get("architecture", t.number) for t in found if lost(t))
    assert given_up[kills.read_text()] == 1
    assert given_up.total() == len(given_up)
    done = [t for t in repeats if t.state == TrialState.COMPLETE]
    assert len({tuple(t.user_attrs["repeat_of"]) for t in done}) == len(done) > 0
    assert TrialState.RUNNING not in {t.state for t in [*found, *repeats]}

    results = {}
    for machine, folder in zip(machines, folders, strict=True):
        if machine.exitcode == 0:
            results[folder] = {name: (folder / "runs/r" / name).read_text() for name in ("trials.csv", "pareto.csv")}
            facts = tomllib.loads((folder / "runs/r/run.toml").read_text())
            assert facts["storage"].startswith("postgresql+psycopg://postgres:***@")
    first, *rest = results.values()
    assert rest == [first] * len(rest)
    assert Counter(pd.read_csv(StringIO(first["trials.csv"]))["state"]) == {"COMPLETE": TRIALS - 1, "FAIL": 1}
    for file in here.rglob("*"):
        assert not file.is_file() or b"S3CRET" not in file.read_bytes()

    ended = command("search", *arguments, "--seed", "1")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "study r: this run was started with --seed 0, now it is 1" in ended.err
    assert "S3CRET" not in ended.err
    assert command("search", *arguments).code == 0


def test_an_interrupted_machine_gives_its_trial_back(server: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C: what it had in training waits at once, under the same number."""
    given = optuna.create_study(study_name="back", storage=database.shared_storage(server))

    def interrupted(proxy: Any, job: Job, report: Any) -> Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "run_job", interrupted)
    plan = Plan(study=given, ask=given.ask, prepare=lambda _: Job("", 0), values=lambda _: [0.0], written=Mock())
    with pytest.raises(KeyboardInterrupt):
        train_trials(plan, Mock(), Workers(1, "cpu"), Mock())
    assert [t.state for t in given.get_trials()] == [TrialState.WAITING]
    assert given.ask().number == 0


def test_an_interrupted_machine_whose_trial_was_taken_says_nothing(server: str) -> None:
    given = optuna.create_study(study_name="taken", storage=database.shared_storage(server))
    taken, kept = given.ask(), given.ask()
    with suppress(KeyboardInterrupt), Heartbeat(given) as heartbeat:
        heartbeat.begin(taken)
        heartbeat.begin(kept)
        given.tell(taken, state=TrialState.FAIL)
        raise KeyboardInterrupt
    assert [t.state for t in given.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


@needs.fork
def test_the_lower_number_has_the_network(server: str) -> None:
    """Also where it says so later than the other, which waits; a trial whose worker is gone before is given up."""
    given = optuna.create_study(study_name="claims", storage=database.shared_storage(server))
    first, second, gone, last = (given.ask() for _ in range(4))
    answer = multiprocessing.get_context("forkserver").Queue()
    other = start(claim, server, second._trial_id, answer)
    assert answer.get(timeout=60) == "claims"
    other.join(2)
    assert other.is_alive()
    assert sharing.claim(given, first, "name", ["a", "b"]) == "a"
    assert answer.get(timeout=30) == "b"
    other.join()
    for trial in (first, second):
        given.tell(trial, 0.0)
    assert sharing.claim(given, last, "name", ["a", "b"]) is None
    assert given.get_trials()[gone.number].state == TrialState.FAIL
