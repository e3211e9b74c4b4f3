"""A run's study opens in optuna-dashboard as it is, and each trial there says what was trained and what it costs."""

import io
import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from nas import Architecture
from tests.helpers.commands import Command, deployed_cost

dashboard = pytest.importorskip("optuna_dashboard")


def get(app: Any, path: str) -> Any:
    """What the dashboard's server answers, as its page in the browser is answered."""
    environment: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environment)
    states: list[str] = []
    content = b"".join(app(environment, lambda state, *_: states.append(state)))
    assert states[0].startswith("200"), content
    return json.loads(content)


def test_a_study_opens_in_the_dashboard(command: Command, here: Path, images: Path) -> None:
    ended = command(
        "search", "--space", "small.toml", "--data", str(images), "--run", "r", "--trials", "4", "--workers", "1"
    )
    assert ended.code == 0, ended.err
    app = dashboard.wsgi(optuna.storages.RDBStorage(f"sqlite:///{here}/runs/r/study.db"))
    (study,) = [s for s in get(app, "/api/studies")["study_summaries"] if s["study_name"] == "r"]
    detail = get(app, f"/api/studies/{study['study_id']}")
    assert detail["directions"] == ["maximize", "minimize"]
    assert len(detail["trials"]) == 4
    for trial in detail["trials"]:
        attributes = {attribute["key"]: attribute["value"] for attribute in trial["user_attrs"]}
        cost = deployed_cost(Architecture.parse(attributes["architecture"]))
        assert trial["state"] == "Complete"
        assert trial["values"] == [float(attributes["accuracy"]), float(attributes["madds"])]
        names = ("madds", "flops", "params", "activations")
        assert [int(attributes[name]) for name in names] == [getattr(cost, name) for name in names]
        assert float(attributes["seconds"]) > 0
        assert trial["params"]
