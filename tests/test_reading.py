"""Trials read from a database at once, against Optuna's own reading."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.study.reading import Storage

DISTRIBUTIONS = {
    "op": CategoricalDistribution(("ir", "er", None)),
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "width": IntDistribution(8, 64, step=8),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("server"))
    return f"sqlite:///{tmp_path}/study.db"


def trial(rng: np.random.Generator, state: TrialState) -> FrozenTrial:
    names = sorted(DISTRIBUTIONS)[: rng.integers(len(DISTRIBUTIONS) + 1)]
    params: dict[str, Any] = {"op": ("ir", "er", None)[rng.integers(3)], "lr": rng.uniform(1e-5, 1.0), "width": 16}
    return create_trial(
        state=state,
        values=rng.choice([0.5, math.inf, -math.inf, 1e-300], 2).tolist() if state == TrialState.COMPLETE else None,
        params={name: params[name] for name in names},
        distributions={name: DISTRIBUTIONS[name] for name in names},
        user_attrs={"note": "α", "curve": [0.1, 0.2]} if rng.random() < 0.5 else {},
        system_attrs={"nas:claim": [1, 2], "fixed_params": {}} if rng.random() < 0.5 else {},
        intermediate_values={3: math.nan, 1: 0.25, 2: -math.inf} if rng.random() < 0.5 else {},
    )


def test_it_reads_what_optuna_reads(url: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = np.random.default_rng(0)
    studies = [optuna.create_study(storage=url, study_name=f"s{i}", directions=["maximize"] * 2) for i in range(3)]
    for _ in range(20):
        for study in studies:
            study.add_trial(trial(rng, list(TrialState)[rng.integers(len(TrialState))]))
    mine, theirs = Storage(url), RDBStorage(url)
    for study in studies:
        ids = [t._trial_id for t in study.trials]
        assert len(mine._get_trials(study._study_id, None, set(), -1)) == 20
        for states in (None, (TrialState.COMPLETE, TrialState.FAIL), ()):
            for older, after in ((set(), -1), (set(), ids[9]), ({ids[2], ids[5], ids[15]}, ids[9]), (set(), ids[-1])):
                asked = study._study_id, states, older, after
                assert facts(mine._get_trials(*asked)) == facts(theirs._get_trials(*asked))


def facts(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """All that there is in trials, with intermediate values as texts: NaN is not equal to itself."""
    return [
        {**vars(t), "intermediate_values": {step: str(value) for step, value in t.intermediate_values.items()}}
        for t in trials
    ]


def test_a_study_sees_what_others_wrote_meanwhile(url: str) -> None:
    study = optuna.create_study(storage=url, study_name="shared")
    mine = optuna.load_study(study_name="shared", storage=Storage(url))
    first, second = study.ask(), study.ask()
    assert [t.state for t in mine.trials] == [TrialState.RUNNING] * 2
    first.set_user_attr("hash", "a")
    study.tell(second, 1.0)
    study.tell(study.ask(), 2.0)
    assert mine.trials[0].user_attrs == {"hash": "a"}
    assert [t.value for t in mine.trials] == [None, 1.0, 2.0]
