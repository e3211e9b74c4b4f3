"""The results of a search: tables, front, picture and baseline, written after each trial and at the end."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nas.base import cli
from nas.base.errors import RunFailed
from nas.base.files import to_csv, write_atomic
from nas.base.metrics import spoken
from nas.base.units import format_count, plural, shown
from nas.devices import latency
from nas.networks.architecture import Architecture
from nas.plots import figures as plots
from nas.runs.records import finished
from nas.runs.records import table as trials_table
from nas.search.config import SearchRun
from nas.search.front import averaged, doubt_of, front_of, ranked, reason_of, validated
from nas.search.proposals import seconds_left
from nas.search.repeats import by_trial, table_of
from nas.selection import sensitivity
from nas.selection.noise import Noise


@dataclass(frozen=True)
class Found:
    """The front, the noise of one training (None if nothing was repeated), why the baseline was picked, and doubts."""

    front: pd.DataFrame
    noise: Noise | None
    reason: str
    doubt: str


def measured(front: pd.DataFrame, conditions: latency.Conditions, file: Path) -> pd.DataFrame:
    """The front with a column latency_measured: the latency of each whole network.

    Each network is measured once; `file` keeps what was measured.
    """
    kept = latency.Table.load(file) if file.exists() else latency.Table(conditions, {})
    known = dict(kept.seconds) if kept.conditions == conditions else {}
    if missing := [text for text in front["architecture"] if text not in known]:
        cli.say(f"measuring networks of the front whole: {len(missing)}")
        known |= {text: latency.measure(Architecture.parse(text), conditions).median for text in missing}
        write_atomic(file, latency.Table(conditions, known).to_csv())
    whole = [known[text] for text in front["architecture"]]
    if doubt := latency.doubt(front["latency"].tolist(), whole):
        cli.say(doubt)
    return front.assign(latency_measured=whole)


def write_results(run: SearchRun) -> Found:
    """Write trials.csv, repeats.csv, pareto.csv, pareto.png and baseline.toml from the trials so far."""
    config, path, images = run.config, run.path, run.config.images
    known = by_trial(run.repeats, config.metric)
    every = trials_table(run.trials, config.further)
    table, noise = averaged(every, known, validated(images, config.metric), config.metric)
    write_atomic(path / "trials.csv", to_csv(table))
    if known:
        write_atomic(path / "repeats.csv", to_csv(table_of(run.repeats)))
    judged = ranked(table, noise, config)
    front, reason = front_of(judged), reason_of(judged, config)
    write_atomic(path / "pareto.csv", to_csv(front))
    baseline = front[front["baseline"].astype(bool)]
    cost = next(iter(config.costs), "madds")
    title = f"{shown(path.name, 40)}: proxy {spoken(config.metric)} against {plots.short_name(cost)}"
    subtitle = (
        f"space {shown(config.space.name, 40)}, costs as deployed at {config.space.resolution} px, "
        f"{plural(config.space.num_classes, 'class', 'classes')}; "
        f"{spoken(config.metric)} on {len(images.val_labels)} validation images of {shown(images.name, 40)} at "
        f"{config.image_size} px"
    )
    if others := [plots.short_name(name) for name in config.costs if name != cost]:
        subtitle += f"\nthe front counts {' and '.join(others)} too"
    picked = int(baseline["trial"].iloc[0]) if len(baseline) else None
    for row in baseline.to_dict("records"):
        about = {
            "title": f"baseline of run {path.name}",
            "trial": row["trial"],
            config.metric: row[f"mean_{config.metric}"],
            "trainings": int(row["runs"]),
            **({f"{config.metric}_error": row["mean_error"]} if noise else {}),
            **({"front_probability": row["probability"]} if noise else {}),
            "expected": row["expected"],
            "expected_error": row["expected_error"],
            **{key: row[key] for key in ("madds", "params", "reward")},
            "why": reason,
        }
        write_atomic(path / "baseline.toml", Architecture.parse(row["architecture"]).to_toml(about))
    plots.draw(path / "pareto.png", plots.pareto, table, front, picked, cost, title, subtitle, noise, config.metric)
    return Found(front, noise, reason, doubt_of(judged, config) if picked is not None else "")


def write_sensitivity(run: SearchRun) -> None:
    """Write sensitivity.csv and sensitivity.png if enough networks were trained to fit a model."""
    config, path = run.config, run.path
    known = by_trial(run.repeats, config.metric)
    table, _ = averaged(trials_table(run.trials, config.further), known, 1, config.metric)
    done = table[table["state"] == "COMPLETE"]
    if len(done) < sensitivity.LEAST:
        cli.say(f"no sensitivity: {len(done)} networks are too few for a model of the space ({sensitivity.LEAST})")
        return
    codes = [config.space.encode(Architecture.parse(text)) for text in done["architecture"]]
    means = done[f"mean_{config.metric}"]
    effects = sensitivity.main_effects(config.space, config.bounds, codes, means, config.seed, config.metric)
    write_atomic(path / "sensitivity.csv", to_csv(effects))
    where = "within the budget" if config.bounds else "of the space"
    title = f"{shown(path.name, 40)}: what each choice does, everything else being equal"
    subtitle = (
        f"space {shown(config.space.name, 40)}, averaged over networks {where}; {spoken(config.metric)} by the "
        f"sampler's model of {len(done)} trained networks, MAdds counted at {config.space.resolution} px"
    )
    mean = sensitivity.mean_madds(config.space, config.bounds, config.seed)
    plots.draw(path / "sensitivity.png", plots.sensitivity, effects, mean, title, subtitle, config.metric)


def print_summary(run: SearchRun, found: Found) -> None:
    """Print what was found and where it is; raises RunFailed if no network could be trained."""
    config, path = run.config, run.path
    front, done = found.front, finished(run.trials)
    if front.empty:
        causes = {t.user_attrs.get("note", "") for t in done}
        raise RunFailed(f"{path}: none of {len(done)} trials could be trained: {'; '.join(sorted(causes))[:200]}")
    if len(done) < config.trials:
        left = "no other network is left" + " within the budget" * bool(config.bounds)
        why = "time budget spent" if seconds_left(config, done) <= 0 else left
        cli.say(f"stopped after {len(done)} of {config.trials} trials: {why}")
    (best,) = front[front["baseline"].astype(bool)].to_dict("records")
    cli.say(_confidence(front, found.noise))
    if found.noise:
        error = float(1 - front[f"mean_{config.metric}"].max())
        cli.say(f"  {source_of(found.noise, config.images.seed_noise(config.metric, error))}")
    cli.say(
        f"baseline: trial {best['trial']}, {_measured(best, config.metric)}, "
        f"{format_count(best['madds'])} MAdds, {format_count(best['params'])} params "
        f"({found.reason})"
    )
    cli.say(
        f"  {spoken(config.metric)} expected by the model of all trainings: {100 * best['expected']:.1f} ± "
        f"{100 * best['expected_error']:.1f} %"
    )
    if found.doubt:
        cli.say(f"  {found.doubt}")
    if "latency_measured" in best:
        cli.say(
            f"  latency {1000 * best['latency']:.4g} ms predicted from measured blocks, "
            f"{1000 * best['latency_measured']:.4g} ms measured whole"
        )
    cli.say(f"  {best['architecture']}")
    cli.say(f"front of {len(front)}: {path / 'pareto.png'}, {path / 'pareto.csv'}; all trials: {path / 'trials.csv'}")
    if (path / "sensitivity.png").exists():
        cli.say(f"what each choice does: {path / 'sensitivity.png'}, {path / 'sensitivity.csv'}")
    cli.say(f"next: python -m nas.scale --phi 3 --baseline {path.name}")


def _measured(row: dict[Hashable, Any], metric: str) -> str:
    """The metric of a row of the front, with its error."""
    mean = f"{spoken(metric)} {100 * row[f'mean_{metric}']:.1f}"
    if row["runs"] == 1:
        return f"{mean} %, one training"
    return (
        f"{mean} ± {100 * row['mean_error']:.1f} %, mean and standard error of "
        f"{row['runs']} trainings, non-dominated with probability {row['probability']:.2f}"
    )


def source_of(noise: Noise, validation: float) -> str:
    """Where the noise comes from, and what lowers it; validation: what the number of validation images gives."""
    given = f"the number of validation images alone gives {100 * validation:.2f} %"
    if noise.variance > 2 * validation**2:
        return f"most of it is the training's ({given}): more --epochs or --confirm lower it, more images do not"
    return f"{given}: more of them or --confirm lower it"


def _confidence(front: pd.DataFrame, noise: Noise | None) -> str:
    """How far the front can be trusted, in a sentence."""
    if not noise:
        return (
            "the front and the baseline are of single trainings, unconfirmed: seeds alone may change them; "
            "the same command with --confirm 3 trains them and what is near again"
        )
    return (
        f"noise of one training: {100 * noise.variance**0.5:.2f} % (standard deviation between seeds on the same "
        f"validation images, pooled over repeats, degrees of freedom: {noise.freedom}); of the {len(front)} on the "
        f"front of means, {front['probability'].sum():.1f} are expected to be non-dominated"
    )
