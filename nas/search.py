"""`python -m nas.search`: search a space by proxy training under a budget, write the front, pick a baseline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import pandas as pd
import typer
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from nas import cli, datasets, latency, pareto, plots, study
from nas.architecture import Architecture
from nas.budgets import Bounds
from nas.cost import Cost
from nas.datasets import Dataset
from nas.display import Display
from nas.errors import RunFailed, UserError
from nas.evaluate import Job, Proxy, default_workers, load_data
from nas.files import write_atomic
from nas.progressive import Schedule
from nas.proxy import Recipe, pick_device
from nas.sampler import Sampler
from nas.space import Codes, SearchSpace, budget
from nas.units import format_count, nearest, parse_count, parse_duration

TRIALS = 24
SAMPLERS = ("auto", "tpe", "nsga2", "random")
COSTS = ("madds", "flops", "params", "activations")
KNOWN = (*COSTS, "latency")  # before any training
MEASURED = {"train_time": "step_seconds"}  # what only training tells, and its column in trials.csv
OBJECTIVES = ("accuracy", *KNOWN, *MEASURED)
REWARDS = ("v1", "v2")
REFUSALS = 50  # proposals of a foreign sampler refused in a row before a uniform one takes their place


@dataclass(frozen=True)
class Search:
    """A search as asked for: the space, its bounds, what is optimized, how trials are proposed and trained."""

    space: SearchSpace
    bounds: Bounds
    objectives: tuple[str, ...]
    reward: str
    target_madds: int
    sampler: str
    trials: int
    time_budget: float | None
    seed: int
    proxy: Proxy
    workers: int
    latencies: latency.Table | None = None

    @property
    def lag(self) -> float:
        """How many trials before the next may be in training still: each other worker overtakes the slowest twice."""
        return 2 * (self.workers - 1) if self.sampler == "auto" else inf

    @property
    def directions(self) -> list[study.Direction]:
        """Optuna's directions of the objectives."""
        return ["maximize" if name == "accuracy" else "minimize" for name in self.objectives]

    @property
    def columns(self) -> list[str]:
        """The objectives' columns in trials.csv."""
        return [MEASURED.get(name, name) for name in self.objectives]

    @cached_property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        """Optuna's view of the space."""
        return {choice.name: CategoricalDistribution(choice.values) for choice in self.space.choices}

    def cost(self, params: Mapping[str, Any]) -> Cost:
        """The cost of the network that parameters stand for."""
        return self.network(params).cost()

    def known(self, name: str, params: Mapping[str, Any]) -> float:
        """An objective that needs no training: a cost, or the latency that the table predicts."""
        if name == "latency":
            assert self.latencies is not None
            return self.latencies.predict(self.network(params))
        return float(getattr(self.cost(params), name))

    def feasible(self, params: Mapping[str, Any]) -> bool:
        """Whether a network keeps the budget."""
        cost = asdict(self.cost(params))
        return all(low <= cost[name] <= high for name, (low, high) in self.bounds.items())

    def network(self, params: Mapping[str, Any]) -> Architecture:
        """The network that parameters stand for."""
        return self.space.decode(self.space.code(dict(params)))


def main(
    space: Annotated[str, typer.Option(help="A bundled space (mnas, efficientnet_v1, …) or a .toml file.")] = "mnas",
    data: Annotated[str, typer.Option(help="A data set's name, or a folder train/CLASS/*.")] = datasets.DEFAULT,
    run: Annotated[str | None, typer.Option(help="The run's name, under runs/.  [default: space and data]")] = None,
    trials: Annotated[int, typer.Option(min=1, max=1_000_000, help="Networks to train.")] = TRIALS,
    time_budget: Annotated[str | None, typer.Option(help="Start no trial after so long: 10m, 1.5h.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=10_000, help="Proxy epochs.")] = None,
    progressive: Annotated[
        str | None, typer.Option(help="Let the images grow in training: default, efficientnet_v2_s, … or a .toml file.")
    ] = None,
    objectives: Annotated[
        str, typer.Option(help="accuracy and one or two of madds, flops, params, activations, latency, train_time.")
    ] = "accuracy,madds",
    max_madds: Annotated[str | None, typer.Option(help="Budget, such as 400M.")] = None,
    min_madds: Annotated[str | None, typer.Option(help="Least MAdds.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Most parameters, such as 5M.")] = None,
    reward: Annotated[str, typer.Option(help="The baseline's: v1 (MAdds) or v2 (training time, parameters).")] = "v1",
    target_madds: Annotated[str | None, typer.Option(help="T of the reward v1.  [default: the space's]")] = None,
    sampler: Annotated[str, typer.Option(help="auto, tpe, nsga2 or random.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Trials side by side.  [default: 1 on a GPU, up to 4 on cores]")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="A database URL instead of the run's study.db.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Search a space for networks of high accuracy at low cost, and pick a baseline from the front.

    The same command again continues the run. Results are in runs/NAME: trials.csv, pareto.csv, pareto.png,
    baseline.toml.
    """
    found = SearchSpace.load(space)
    recipe = Recipe(epochs or Recipe.epochs, progressive=Schedule.load(progressive) if progressive else None)
    where = str(pick_device(device))
    most, least, params = (
        _count(text, option)
        for text, option in ((max_madds, "--max-madds"), (min_madds, "--min-madds"), (max_params, "--max-params"))
    )
    bounds = budget(most, least, params)
    found.draw_codes(1, 0, bounds)  # refuses an impossible budget before anything is written
    if sampler not in SAMPLERS:
        raise UserError(f"--sampler {sampler[:40]!r}: {nearest(sampler[:40], SAMPLERS)}")
    if reward not in REWARDS:
        raise UserError(f"--reward {reward[:40]!r}: {nearest(reward[:40], REWARDS)}")
    images = load_data(data)
    wanted = Search(
        found,
        bounds,
        _objectives(objectives),
        reward,
        _count(target_madds, "--target-madds") or _default_target(found, bounds),
        sampler,
        trials,
        parse_duration(time_budget, "--time-budget") if time_budget else None,
        seed,
        Proxy(data, recipe, where),
        workers or default_workers(where),
    )
    path = study.run_path(run or _default_name(found, images, data))
    arguments = {
        "space": space,
        "data": data,
        "trials": trials,
        "time_budget": time_budget,
        "epochs": recipe.epochs,
        "progressive": progressive,
        "objectives": list(wanted.objectives),
        "max_madds": most,
        "min_madds": least,
        "max_params": params,
        "reward": reward,
        "target_madds": wanted.target_madds,
        "sampler": sampler,
        "seed": seed,
        "workers": wanted.workers,
        "device": device,
    }
    search(wanted, path, facts(wanted, arguments, images), images, storage)


def facts(wanted: Search, arguments: Mapping[str, Any], images: Dataset) -> dict[str, Any]:
    """What run.toml says: all that is needed to repeat the run, and in which terms its figures are."""
    space, recipe = wanted.space, wanted.proxy.recipe
    conditions = asdict(latency.Conditions.here(wanted.proxy.device))
    return {
        "arguments": arguments,
        "space": {
            "name": space.name,
            "size": str(space.size),
            "fingerprint": space.fingerprint,
        },
        "data": {
            "name": images.name,
            "train": len(images.train_labels),
            "val": len(images.val_labels),
            "classes": images.num_classes,
            "image_size": images.image_size,
            "fingerprint": images.fingerprint,
            "note": images.note,
        },
        "cost": {"resolution": space.resolution, "channels": 3, "classes": 1000},
        "proxy": {
            **asdict(replace(recipe, progressive=None)),
            "image_size": images.image_size,
            "classes": images.num_classes,
        },
        "progressive": recipe.progressive.table() if recipe.progressive else None,
        **({"latency": conditions} if "latency" in wanted.objectives else {}),
        **study.environment(wanted.proxy.device),
    }


def search(wanted: Search, path: Path, known: Mapping[str, Any], images: Dataset, storage: str | None) -> None:
    """Run or continue a search in its directory, and say how it went."""
    with study.locked(path):
        begun = study.check_arguments(path, known)
        if "latency" in wanted.objectives:
            file = path / "latency.csv"
            wanted = replace(wanted, latencies=latency.kept(file, wanted.space, wanted.proxy.device, begun, cli.say))
        trials = study.open_study(path, path.name, wanted.directions, make_sampler(wanted, 0), storage, begun)
        if not begun:
            if trials.get_trials(deepcopy=False) and not storage:
                raise UserError(f"{path}: study.db holds trials, but run.toml is missing; restore it")
            study.write_run(path, known)
        done = len(study.finished(trials))
        cli.say(f"run {path}: {'continued' if begun else 'new'}, {done} of {wanted.trials} trials done")
        cli.say(f"space {wanted.space.name}: {wanted.space.size:,} networks")
        cli.say(f"data {images.name}: {images.note}")
        cli.say(
            f"costs are counted at {wanted.space.resolution} px and 1000 classes; the proxy trains "
            f"{images.num_classes} classes at {images.image_size} px, epochs: {wanted.proxy.recipe.epochs}, "
            f"on {wanted.proxy.device}, workers: {wanted.workers}"
        )
        if schedule := wanted.proxy.recipe.progressive:
            sizes = [schedule.at(until - 1e-9, images.image_size).size for until in schedule.until]
            cli.say(f"progressive {schedule.name}: training images of {', '.join(map(str, sizes))} px by turns")
        if "train_time" in wanted.objectives:
            cli.say(
                f"train_time: seconds of a training step of {wanted.proxy.recipe.batch_size} images as measured on "
                f"this machine with {wanted.workers} trials side by side: it compares within this run only"
            )

        def after(_: FrozenTrial) -> str:
            return f"front {len(publish(wanted, path, images, trials))}"

        with Display(wanted.trials, done, after) as display:
            study.run_trials(
                trials,
                lambda: ask(wanted, trials),
                lambda trial: prepare(wanted, trials, trial),
                lambda attrs: [float(attrs[name]) for name in wanted.columns],
                wanted.proxy,
                wanted.workers,
                display,
                wanted.lag,
            )
        front = publish(wanted, path, images, trials)
        if wanted.latencies:
            front = measured(front, wanted.latencies.conditions)
            write_atomic(path / "pareto.csv", front.to_csv(index=False))
    conclude(wanted, trials, path, front)


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
        why = "time budget spent" if _time_spent(wanted, done) else "no other network is left within the budget"
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


def ask(wanted: Search, trials: optuna.Study) -> Trial | None:
    """The next trial, or None when there are enough, the time is spent, or no new network is left."""
    known = trials.get_trials(deepcopy=False)
    counted = [t for t in known if t.state not in (TrialState.PRUNED, TrialState.WAITING)]
    if len(counted) >= wanted.trials or _time_spent(wanted, counted):
        return None
    refused = next((i for i, t in enumerate(reversed(known)) if t.state != TrialState.PRUNED), len(known))
    waiting = any(t.state == TrialState.WAITING for t in known)
    if not waiting:
        code = _fresh_code(wanted, counted)
        if code is None:
            return None
        if wanted.sampler == "random" or refused >= REFUSALS:
            trials.enqueue_trial(wanted.space.params(code))
    if wanted.sampler != "auto":  # seeded anew by each trial, they propose the same in a run that was continued
        trials.sampler = make_sampler(wanted, len(known))
    return trials.ask()


def prepare(wanted: Search, trials: optuna.Study, trial: Trial) -> Job | None:
    """Complete a trial's parameters; None for a network over the budget or known already (foreign samplers)."""
    params = {name: trial.suggest_categorical(name, dist.choices) for name, dist in wanted.distributions.items()}
    arch = wanted.network(params)
    others = (t for t in trials.get_trials(deepcopy=False) if t.number != trial.number)
    if not wanted.feasible(params) or arch.hash in _hashes(others):
        return None
    job = Job(str(arch), wanted.seed, load_data(wanted.proxy.data).image_size)
    study.describe_trial(trial, arch, job, wanted.latencies.predict(arch) if wanted.latencies else None)
    return job


def make_sampler(wanted: Search, number: int) -> BaseSampler:
    """The sampler for a trial of this number."""
    seed = int(np.random.default_rng([wanted.seed, number]).integers(2**31))
    match wanted.sampler:
        case "auto":
            known = {i: partial(wanted.known, name) for i, name in enumerate(wanted.objectives) if name in KNOWN}
            return Sampler(
                wanted.seed,
                feasible=wanted.feasible if wanted.bounds else None,
                known=known,
                search_space=dict(wanted.distributions),
                key=lambda params: wanted.network(params).hash,
                draw=lambda n, rng: map(wanted.space.params, wanted.space.draw_codes(n, rng, wanted.bounds)),
                lag=int(wanted.lag),
            )
        case "tpe":
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=20)
        case _:
            return optuna.samplers.RandomSampler(seed)


def _hashes(trials: Iterable[FrozenTrial]) -> set[str]:
    """The networks of these trials."""
    return {t.user_attrs["hash"] for t in trials if "hash" in t.user_attrs}


def _fresh_code(wanted: Search, counted: list[FrozenTrial]) -> Codes | None:
    """A uniform draw from the feasible networks that no trial has; None if there is none left."""
    known = _hashes(counted)
    rng = np.random.default_rng([wanted.seed, len(counted)])
    for draws in (len(known) + 8, 20 * len(known) + 1000):
        for code in wanted.space.draw_codes(draws, rng, wanted.bounds):
            if wanted.space.decode(code).hash not in known:
                return np.asarray(code, np.int16)
    return None


def _time_spent(wanted: Search, trials: list[FrozenTrial]) -> bool:
    spent = sum(t.user_attrs.get("seconds", 0.0) for t in trials)
    return wanted.time_budget is not None and spent / wanted.workers >= wanted.time_budget


def _count(text: str | None, option: str) -> int | None:
    return None if text is None else parse_count(text, option)


def _objectives(text: str) -> tuple[str, ...]:
    names = tuple(word.strip() for word in text.split(","))
    for name in names:
        if name not in OBJECTIVES:
            raise UserError(f"--objectives: unknown {name[:40]!r}; {nearest(name[:40], OBJECTIVES)}")
    if "accuracy" not in names or len(set(names)) < len(names) or len(names) > 3:
        raise UserError(
            f"--objectives {text[:60]!r}: name accuracy and at most two of {', '.join(OBJECTIVES[1:])}, once each"
        )
    return names


def _default_target(space: SearchSpace, bounds: Bounds) -> int:
    """T of the reward where none is given: the space's own, else the median of its feasible networks."""
    if space.target_madds:
        return space.target_madds
    return int(np.quantile(space.costs(space.draw_codes(1001, 0, bounds))["madds"], 0.5))


def _default_name(space: SearchSpace, images: Dataset, data: str) -> str:
    return space.name if data == datasets.DEFAULT else re.sub(r"[^A-Za-z0-9_.-]", "-", f"{space.name}-{images.name}")


if __name__ == "__main__":
    cli.run(main)
