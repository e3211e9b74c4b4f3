"""The trainings of a scaling: one study records them, so that none is done twice and none is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.datasets import load_data
from nas.networks.architecture import Architecture
from nas.networks.cost import Cost
from nas.runs.display import Display
from nas.runs.records import lost
from nas.runs.run import Run
from nas.runs.trials import State, listed, train_trials
from nas.runs.workers import Workers
from nas.training.proxy import Job, Proxy
from nas.training.recipe import Recipe

Scores = Mapping[Job, float | None]  # the metric of finished trainings; None where one failed
_JOB = "job"  # the attribute that names a trial's job, and what else has to be the same
_IMAGE_SIZE = re.compile(r'"image_size": \d+, ')  # in keys of older versions; the fingerprint covers it
_BALANCED = " balanced_accuracy"  # suffix of keys with this metric, which older trainings lack
Plan = Callable[[Scores], Sequence[Job]]


@dataclass(frozen=True)
class Trainings:
    """Trains the jobs of a plan that are not in the study yet.

    A trial names its job and what it was trained with, so a study may hold the trainings of grids and families with
    other options, other data, another baseline or another metric beside each other.
    """

    home: Run
    proxy: Proxy
    workers: Workers
    cost: Callable[[Architecture], Cost]
    metric: str = "accuracy"

    @cached_property
    def study(self) -> optuna.Study:
        """The study that records them, created on first use."""
        return self.home.study("scale")

    @property
    def key(self) -> str:
        """The data and the recipe: trainings of one job are the same only if these are equal."""
        return f"{load_data(self.proxy.data).fingerprint} {recipe_key(self.proxy.recipe)}"

    def known(self) -> dict[Job, FrozenTrial]:
        """The finished trainings."""
        key = self.key
        found = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        measured = (t for t in found if self.metric in t.user_attrs or t.state != TrialState.COMPLETE)
        by_job = {_job(t.user_attrs, key): t for t in measured if not lost(t)}
        return {job: trial for job, trial in by_job.items() if job is not None}

    def scores(self) -> dict[Job, float | None]:
        """The metric of each finished training, 0 to 1; None where it failed."""
        return {job: trial.user_attrs.get(self.metric) for job, trial in self.known().items()}

    def run(self, plan: Plan, total: int, written: Callable[[], str]) -> None:
        """Train all jobs of a plan, which may grow with each result; interrupted trainings come first.

        total: the number of jobs in the end. written: writes the results so far and returns a text on them.
        """
        key = self.key
        name = key if self.metric == "accuracy" else f"{key}{_BALANCED}"

        def due() -> list[dict[str, Any]]:
            known = self.known()
            return [{**asdict(job), "key": name} for job in plan(self.scores()) if job not in known]

        def job(fields: Mapping[str, Any]) -> Job | None:
            found = _job({_JOB: fields}, key)
            return found if found in plan(self.scores()) else None  # else it is of a scaling with other options

        def state(text: str = "") -> State:
            return State(done=len({*plan(self.scores())} & {*self.known()}), total=total, text=text)

        # The study's objective is the same for all scalings in it; their metric is read from attributes.
        trials = listed(self.study, _JOB, due, job, self.cost, "accuracy", lambda: state(written()))
        with Display(state(), metric=self.metric) as display:
            train_trials(trials, self.proxy, self.workers, display)


def recipe_key(recipe: Recipe) -> str:
    """All of a recipe but its name and epochs, as JSON.

    Names are those stored in studies, even where fields were renamed. Settings that older versions did not have are
    left out if they are off, so that old trainings keep their key.
    """
    later = {
        "body_rate": (recipe.body_rate, 1),
        "ema": (recipe.ema, 0),
        "crop": (recipe.crop, 1),
        "randaugment": (recipe.randaugment, 0),
        "erase": (recipe.erase, 0),
        "mixup": (recipe.mixup, 0),
        "cutmix": (recipe.cutmix, 0),
        "unfreeze": (recipe.unfreeze, 0),
    }
    settings = {
        "batch_size": recipe.batch_size,
        "optimizer": recipe.optimizer,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "warmup": recipe.warmup,
        "label_smoothing": recipe.label_smoothing,
        "dropout": recipe.dropout,
        "drop_path": recipe.drop_path,
        "shift": recipe.shift,
        "flip": recipe.flip,
        "clip": recipe.clip,
        "progressive": recipe.progressive.table() if recipe.progressive else None,
        **{name: value for name, (value, off) in later.items() if value != off},
    }
    return json.dumps({name: value for name, value in settings.items() if value is not None}, sort_keys=True)


def _job(attrs: Mapping[str, Any], key: str) -> Job | None:
    """The job that a trial's attributes name, if it was trained with this key."""
    fields = dict(attrs.get(_JOB, {}))
    fields.pop("stop", None)  # a field of Job in older versions
    known = _IMAGE_SIZE.sub("", str(fields.pop("key", None)).removesuffix(_BALANCED))
    return Job(**fields) if known == key else None
