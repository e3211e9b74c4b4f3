"""The records of a study: the attributes of each trial, which trials count, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.networks.architecture import Architecture
from nas.networks.cost import Cost
from nas.training.proxy import Job

COLUMNS = [
    *("trial", "state", "accuracy", "madds", "flops", "params", "activations", "resolution", "epochs", "seconds"),
    *("seed", "architecture", "hash", "accuracy_error", "image_size", "step_seconds", "note"),
    *("balanced_accuracy", "balanced_accuracy_error", "name", "peak"),
]

MEASURED = {
    "train_time": "step_seconds"
}  # objectives that are known only after training, and their columns in trials.csv
CURVES = {"accuracy": "curve", "balanced_accuracy": "balanced_curve"}  # a trial's attributes: a metric by epoch


def describe_trial(
    trial: Trial, arch: Architecture, cost: Cost, job: Job, known: Mapping[str, Any] | None = None
) -> None:
    """Store what is known of a trial before its training: the architecture, its costs, and other values by name."""
    described = {
        "architecture": str(arch),
        "hash": arch.hash,
        "madds": cost.madds,
        "flops": cost.flops,
        "params": cost.params,
        "activations": cost.activations,
        "peak": cost.peak,
        "resolution": arch.resolution,
        "image_size": job.image_size,
        "seed": job.seed,
        **(known or {}),
    }
    describe(trial, described)


def describe(trial: Trial, values: Mapping[str, Any]) -> None:
    """Store values as a trial's user attributes."""
    for key, value in values.items():
        trial.set_user_attr(key, value)


def lost(trial: FrozenTrial) -> bool:
    """Whether a trial was taken from a worker whose heartbeat stopped; another trial replaces it.

    A trial that failed in training has a note of the cause instead.
    """
    return trial.state == TrialState.FAIL and "note" not in trial.user_attrs


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were trained or that failed in training, by number; PRUNED ones were refused untrained."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return [trial for trial in ended if not lost(trial)]


def table(study: optuna.Study, others: Sequence[str] = ()) -> pd.DataFrame:
    """The finished trials as rows with the columns of trials.csv, and others that `describe_trial` was given.

    Trials of older versions have no balanced accuracy and no peak: theirs are empty.
    """
    rows = [{**t.user_attrs, "trial": t.number, "state": t.state.name} for t in finished(study)]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *(name for name in others if name not in COLUMNS)])
    whole = ["madds", "flops", "params", "activations", "peak", "resolution", "epochs", "image_size"]
    shares = ["balanced_accuracy", "balanced_accuracy_error"]
    return frame.astype({**dict.fromkeys(whole, "Int64"), **dict.fromkeys(shares, float)})
