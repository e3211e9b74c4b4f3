"""From the table of trials to the front: means over repeats, rewards, the baseline, near misses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nas.base.metrics import resolved, spoken
from nas.base.units import format_count
from nas.datasets import Dataset
from nas.search.config import Search
from nas.selection import pareto
from nas.selection.noise import NEAR, Noise, Repeats, draws, pooled_noise, probabilities
from nas.selection.posterior import Posterior, posterior

PRIOR = 3  # degrees of freedom that the noise has before anything is repeated
MOST = 6  # contenders that are repeated
EDGE = 0.02  # of the costs at a bound: a pick that near stands at it


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
    """The complete trials of an averaged table by rising cost.

    Columns are added: expected and expected_error, the mean and the standard deviation of the metric as the sampler's
    model of all trainings has it; reward, of the expected metric; baseline, true for the one that is picked; contender,
    true for those that may be it; front, true for trials whose means no other dominates; probability of being on the
    front (`nas.selection.noise.probabilities`), empty without noise.
    """
    done = table[table["state"] == "COMPLETE"]
    if done.empty:
        columns = ("expected", "expected_error", "reward", "baseline", "contender", "front", "probability")
        return done.assign(**{name: [] for name in columns})
    accuracy, madds, step, params = (
        done[name].astype(float).to_numpy() for name in (f"mean_{config.metric}", "madds", "step_seconds", "params")
    )
    costs = done[config.costs].astype(float).to_numpy()
    believed = posterior_of(done, noise, config)
    expected, target = believed.mean, config.target_madds
    contender = np.zeros(len(done), bool)
    match config.reward:
        case "hard":
            rewards = pareto.hard_reward(expected, madds, target)
            picked = pareto.pick_within(expected, believed.covariance, madds, target, done["name"].notna())
            contender = pareto.indistinguishable(expected, believed.covariance, madds, target)
        case "soft":
            rewards = pareto.reward(expected, madds, target)
            picked = pareto.pick_baseline(rewards, madds)
        case _:
            rewards = pareto.training_reward(expected, step, params)
            picked = pareto.pick_baseline(rewards, madds)
    front = pareto.non_dominated(np.column_stack([-accuracy, costs]))
    judged = done.assign(
        expected=expected,
        expected_error=believed.std,
        reward=rewards,
        baseline=np.arange(len(done)) == picked,
        contender=contender,
        front=front,
        probability=probabilities(draws(accuracy, done["runs"], madds, noise, config.seed), costs) if noise else np.nan,
    )
    return judged.sort_values(["madds", "trial"])


def posterior_of(done: pd.DataFrame, noise: Noise | None, config: Search) -> Posterior:
    """What is believed of the accuracy of complete trials.

    The noise of one training is thought to be that of the number of validation images, as if from PRIOR degrees of
    freedom, beside what repeats show.
    """
    means = done[f"mean_{config.metric}"].astype(float).to_numpy()
    prior = config.images.seed_noise(config.metric, float(np.clip(1 - means.max(), 0.01, 0.99))) ** 2
    freedom = noise.freedom if noise else 0
    sizes = [len(choice.values) for choice in config.space.choices]
    variance = (PRIOR * prior + (noise.variance * freedom if noise else 0.0)) / (PRIOR + freedom)
    return posterior(
        [config.code(text) if sizes else (0,) for text in done["architecture"]],
        sizes or [1],
        done[["madds", "params", "activations"]].astype(float).to_numpy(),
        means,
        done["runs"].astype(float).to_numpy(),
        Noise(variance, PRIOR + freedom),
    )


def front_of(judged: pd.DataFrame) -> pd.DataFrame:
    """The front and the baseline, which may be off the front if the objectives are not those of its reward."""
    kept = judged["front"].astype(bool) | judged["baseline"].astype(bool)
    return judged[kept].drop(columns=["front", "contender"])


def contenders(judged: pd.DataFrame, reward: str) -> list[int]:
    """The trials to repeat, largest cost first.

    With the hard reward the baseline and the MOST most accurate of those that it cannot be told from; with others the
    front, its near misses (NEAR) and the baseline.
    """
    if reward == "hard":
        most = judged[judged["contender"].astype(bool)].nlargest(MOST, "expected")
        kept = judged["trial"].isin(most["trial"]) | judged["baseline"]
    else:
        kept = judged["front"] | judged["baseline"] | (judged["probability"] >= NEAR)
    return [int(trial) for trial in judged[kept]["trial"]][::-1]


def reason_of(judged: pd.DataFrame, config: Search) -> str:
    """Why the baseline was picked, in words; "" where nothing is trained yet."""
    metric, target = spoken(config.metric), format_count(config.target_madds)
    if judged.empty:
        return ""
    if config.reward == "hard":
        if (judged["madds"] > config.target_madds).all():
            return f"the largest {metric} * {target} / madds: no network is within {target} MAdds"
        (name,) = judged[judged["baseline"].astype(bool)]["name"]
        if isinstance(name, str):
            return f"published, and none within {target} MAdds is more accurate by more than one standard error"
        return f"the cheapest that cannot be told from the most accurate within {target} MAdds (one standard error)"
    if config.reward == "soft":
        return f"the largest {metric} * (madds / {target}) ** -0.07"
    first = judged.sort_values("trial").iloc[0]
    return (
        f"the largest {metric} * (step_seconds / {first['step_seconds']:.4g}) ** -0.07 * "
        f"(params / {format_count(first['params'])}) ** -0.05, relative to trial {first['trial']}"
    )


def doubt_of(judged: pd.DataFrame, config: Search) -> str:
    """What makes the pick doubtful, and what to change: a bound that it stands at, a reward that decides by cost alone.

    "" where nothing does.
    """
    (picked,) = judged[judged["baseline"].astype(bool)]["madds"]
    low, high = config.reach
    limit = min(high, config.target_madds) if config.reward == "hard" else high
    if config.reward == "soft":
        grows = pareto.elasticity(judged["expected"], judged["madds"])
        if grows < -pareto.SOFT:
            worth, asked = (100 * (2**power - 1) for power in (grows, -pareto.SOFT))
            return (
                f"warning: twice the MAdds are worth {worth:+.1f} % of the accuracy here, and the reward asks for "
                f"{asked:.1f} %: it prefers the cheapest network; --reward hard takes the target for a limit"
            )
    if picked <= low * (1 + EDGE):
        return (
            f"the baseline is at the lower end, {format_count(low)} MAdds is the least there is: a space with smaller "
            "networks, or a smaller --min-madds, may have one as good for less"
        )
    if picked >= limit * (1 - EDGE):
        bounded = limit < config.space.extremes()["madds"][1]
        what = "a larger --target-madds or --max-madds" if bounded else "a space with larger networks"
        return f"the baseline is at the upper end, {format_count(limit)} MAdds: {what} may give a better one"
    return ""
