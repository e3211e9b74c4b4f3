"""What a search found: tables, front, picture and baseline, as they are after each trial and in the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pandas as pd

from nas import cli, latency, pareto, plots, study
from nas.architecture import Architecture
from nas.datasets import Dataset
from nas.errors import RunFailed
from nas.files import write_atomic
from nas.search.proposals import time_spent
from nas.search.question import Search
from nas.units import format_count


def measured(front: pd.DataFrame, conditions: latency.Conditions) -> pd.DataFrame:
    """The front with its networks' latency measured whole, in the column latency_measured."""
    cli.say(f"measuring the networks of the front whole: {len(front)}")
    whole = [latency.measure(Architecture.parse(text), conditions).median for text in front["architecture"]]
    return front.assign(latency_measured=whole)


def publish(wanted: Search, path: Path, images: Dataset, trials: optuna.Study) -> pd.DataFrame:
    """Write trials.csv, pareto.csv, pareto.png and baseline.toml as they are now; the front is given back."""
    table = study.table(trials)
    write_atomic(path / "trials.csv", table.to_csv(index=False))
    front = front_of(table, wanted)
    write_atomic(path / "pareto.csv", front.to_csv(index=False))
    baseline = front[front["baseline"]]
    cost = next((name for name in wanted.columns if name != "accuracy"), "madds")
    title = f"{path.name}: proxy accuracy against {plots.short_name(cost)}"
    subtitle = (
        f"space {wanted.space.name}, costs at {wanted.space.resolution} px and 1000 classes; "
        f"accuracy on {len(images.val_labels)} validation images of {images.name} at {images.image_size} px"
    )
    picked = int(baseline["trial"].iloc[0]) if len(baseline) else None
    plots.save(plots.pareto(table, front, picked, cost, title, subtitle), path / "pareto.png")
    for row in baseline.to_dict("records"):
        about = {
            "title": f"baseline of run {path.name}",
            **{key: row[key] for key in ("trial", "accuracy", "madds", "params", "reward")},
            "why": f"largest reward {wanted.reward} of all trials: {rewards_of(table, wanted)[1]}",
        }
        write_atomic(path / "baseline.toml", Architecture.parse(row["architecture"]).to_toml(about))
    return front


def front_of(table: pd.DataFrame, wanted: Search) -> pd.DataFrame:
    """The non-dominated trials by rising cost, each with its reward, one of them marked as the baseline."""
    done = table[table["state"] == "COMPLETE"]
    if done.empty:
        return done.assign(reward=[], baseline=[])
    points = done[wanted.columns].astype(float).to_numpy()
    signs = [-1.0 if name == "accuracy" else 1.0 for name in wanted.objectives]
    rewards, _ = rewards_of(table, wanted)
    best = pareto.pick_baseline(rewards, done["madds"].astype(float))
    ranked = done.assign(reward=rewards, baseline=np.arange(len(done)) == best)
    # The best reward is on the front of what it is made of; with other objectives it may not be, and is kept.
    kept = pareto.non_dominated(points * signs) | ranked["baseline"].to_numpy()
    front: pd.DataFrame = ranked[kept].sort_values(["madds", "trial"])
    return front


def rewards_of(table: pd.DataFrame, wanted: Search) -> tuple[pareto.Floats, str]:
    """The reward of each complete trial, of which there is one at least, and its formula."""
    done = table[table["state"] == "COMPLETE"]
    accuracy, madds, step, params = (
        done[name].astype(float).to_numpy() for name in ("accuracy", "madds", "step_seconds", "params")
    )
    if wanted.reward == "v1":
        formula = f"accuracy * (madds / {format_count(wanted.target_madds)}) ** -0.07"
        return pareto.reward(accuracy, madds, wanted.target_madds), formula
    formula = (
        f"accuracy * (step_seconds / {step[0]:.4g}) ** -0.07 * (params / {format_count(params[0])}) ** -0.05, "
        f"relative to trial {done['trial'].iloc[0]}"
    )
    return pareto.training_reward(accuracy, step, params), formula


def conclude(wanted: Search, trials: optuna.Study, path: Path, front: pd.DataFrame) -> None:
    """Say what was found and where it is; raises RunFailed if no network could be trained."""
    done = study.finished(trials)
    if front.empty:
        causes = {t.user_attrs.get("note", "") for t in done}
        raise RunFailed(f"{path}: none of {len(done)} trials could be trained: {'; '.join(sorted(causes))[:200]}")
    best = front[front["baseline"]].iloc[0]
    if len(done) < wanted.trials:
        why = "time budget spent" if time_spent(wanted, done) else "no other network is left within the budget"
        cli.say(f"stopped after {len(done)} of {wanted.trials} trials: {why}")
    cli.say(
        f"baseline: trial {best['trial']}, accuracy {100 * best['accuracy']:.1f} %, "
        f"{format_count(best['madds'])} MAdds, {format_count(best['params'])} params "
        f"(largest reward {wanted.reward}: {rewards_of(study.table(trials), wanted)[1]})"
    )
    if "latency_measured" in best:
        cli.say(
            f"  latency {1000 * best['latency']:.4g} ms predicted from measured blocks, "
            f"{1000 * best['latency_measured']:.4g} ms measured whole"
        )
    cli.say(f"  {best['architecture']}")
    cli.say(f"front of {len(front)}: {path / 'pareto.png'}, {path / 'pareto.csv'}; all trials: {path / 'trials.csv'}")
    cli.say(f"next: python -m nas.scale --phi 3 --baseline {path.name}")
