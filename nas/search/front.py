"""From the table of trials to the front: means over repeats, rewards, the baseline, near misses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nas.base.arrays import Floats
from nas.base.metrics import resolved
from nas.base.units import format_count
from nas.datasets import Dataset
from nas.search.config import Search
from nas.selection import pareto
from nas.selection.noise import NEAR, Noise, Repeats, draws, pooled_noise, probabilities


def validated(images: Dataset, metric: str) -> float:
    """The number of validation images; for balanced accuracy, the number whose accuracy has equally fine steps."""
    return resolved(metric, images.val_labels.bincount().tolist())


def averaged(
    table: pd.DataFrame, repeats: Repeats, images: float, metric: str = "accuracy"
) -> tuple[pd.DataFrame, Noise | None]:
    """The trials with the means over their own training and its repeats, and the noise of one training.

    table has the columns of trials.csv, of which the metric is one; repeats hold values of that metric; images:
    validation images, as `validated` counts them. Columns are added: runs (0 of a trial that failed); the mean of the
    metric, mean_accuracy or mean_balanced_accuracy; and mean_error, the standard error of that mean, empty if nothing
    was repeated.
    """
    runs = [
        [first, *(again for again in repeats.get(trial, ()) if not np.isnan(again))] if state == "COMPLETE" else []
        for trial, state, first in table[["trial", "state", metric]].itertuples(index=False)
    ]
    noise = pooled_noise(runs, images)
    error = [float(noise.error(len(some))) if noise and some else np.nan for some in runs]
    means = [sum(some) / len(some) if some else np.nan for some in runs]
    columns: dict[str, Any] = {"runs": pd.array(list(map(len, runs)), dtype="Int64")}
    return table.assign(**columns, **{f"mean_{metric}": means}, mean_error=error), noise


def ranked(table: pd.DataFrame, noise: Noise | None, config: Search) -> pd.DataFrame:
    """The complete trials of an averaged table by rising cost, judged by their means.

    Columns are added: reward; baseline, true for the largest reward; front, true for trials that no other dominates;
    probability of being on the front (`nas.selection.noise.probabilities`), empty without noise.
    """
    done = table[table["state"] == "COMPLETE"]
    if done.empty:
        return done.assign(reward=[], baseline=[], front=[], probability=[])
    accuracy, madds = (done[name].astype(float).to_numpy() for name in (f"mean_{config.metric}", "madds"))
    costs = done[config.costs].astype(float).to_numpy()
    rewards = rewards_of(table, config)
    judged = done.assign(
        reward=rewards,
        baseline=np.arange(len(done)) == pareto.pick_baseline(rewards, madds),
        front=pareto.non_dominated(np.column_stack([-accuracy, costs])),
        probability=probabilities(draws(accuracy, done["runs"], madds, noise, config.seed), costs) if noise else np.nan,
    )
    return judged.sort_values(["madds", "trial"])


def front_of(judged: pd.DataFrame) -> pd.DataFrame:
    """The front and the baseline, which may be off the front if the objectives are not those of its reward."""
    return judged[judged["front"].astype(bool) | judged["baseline"].astype(bool)].drop(columns="front")


def contenders(judged: pd.DataFrame) -> list[int]:
    """The trials to repeat, largest cost first: the front, its near misses (NEAR) and the baseline."""
    kept = judged["front"] | judged["baseline"] | (judged["probability"] >= NEAR)
    return [int(trial) for trial in judged[kept]["trial"]][::-1]


def rewards_of(table: pd.DataFrame, config: Search) -> Floats:
    """The reward of each complete trial of an averaged table, which has at least one."""
    accuracy, madds, step, params = (
        table[table["state"] == "COMPLETE"][name].astype(float).to_numpy()
        for name in (f"mean_{config.metric}", "madds", "step_seconds", "params")
    )
    if config.reward == "v1":
        return pareto.reward(accuracy, madds, config.target_madds)
    return pareto.training_reward(accuracy, step, params)


def formula_of(table: pd.DataFrame, config: Search) -> str:
    """The reward's formula, with its numbers; those of v2 are the first complete trial's, "" before there is one."""
    if config.reward == "v1":
        return f"{config.metric} * (madds / {format_count(config.target_madds)}) ** -0.07"
    done = table[table["state"] == "COMPLETE"]
    if done.empty:
        return ""
    first = done.iloc[0]
    return (
        f"{config.metric} * (step_seconds / {first['step_seconds']:.4g}) ** -0.07 * "
        f"(params / {format_count(first['params'])}) ** -0.05, relative to trial {first['trial']}"
    )
