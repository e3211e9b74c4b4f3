"""`python -m nas.search`: search a space by proxy training under a budget, write the front, pick a baseline."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from nas import datasets
from nas.base import cli
from nas.base.errors import UserError
from nas.base.files import to_csv, write_atomic
from nas.base.limits import Bounds, Limit, bounds_of, read_limits, words
from nas.base.metrics import metric_of
from nas.base.units import format_count, nearest, parse_count, parse_duration, plural
from nas.datasets import Dataset, Source, load_data
from nas.devices import latency
from nas.runs.display import Display
from nas.runs.lookup import default_name, run_path
from nas.runs.records import finished
from nas.runs.run import Run
from nas.runs.sharing import underway
from nas.runs.trials import State, train_trials
from nas.runs.workers import make_workers
from nas.search import rerun
from nas.search.config import OBJECTIVES, Search, SearchRun
from nas.search.effort import MOST_EPOCHS, TRIALS, effort_of, epoch_seconds
from nas.search.proposals import make_sampler, plan, seconds_left
from nas.search.repeats import confirm as confirm_front
from nas.search.results import measured, print_summary, write_results, write_sensitivity
from nas.spaces.budgets import count_text
from nas.spaces.space import SearchSpace
from nas.training.proxy import Proxy
from nas.training.recipe import PROXY, Recipe

CONFIRM = 1  # by default, in a search of so many trials or more: a shorter one is a try-out
CONFIRMED_FROM = 12
SAMPLERS = ("auto", "tpe", "nsga2", "random")
REWARDS = ("hard", "soft", "v2")


@cli.limited
def search(
    space: Annotated[str, typer.Option(help="A bundled space (mnas, efficientnet_v1, …) or a .toml file.")] = "mnas",
    data: Annotated[str, typer.Option(help="A data set's name, or a folder train/CLASS/*.")] = datasets.DEFAULT,
    resize: cli.ResizeOption = None,
    skip_broken: cli.SkipBrokenOption = None,
    recheck: cli.RecheckOption = False,
    run: Annotated[str | None, typer.Option(help="The run's name, under runs/.  [default: space and data]")] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, help=f"Networks to train.  [default: {TRIALS}, or as many as fit --time-budget]"
        ),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="Start no trial after so long: 10m, 1.5h; --confirm is on top.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="How networks are trained: a bundled recipe or a .toml file.")] = PROXY,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help=f"[default: the recipe's; of {PROXY} up to {MOST_EPOCHS} where {TRIALS} trials fit --time-budget]",
        ),
    ] = None,
    confirm: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=100,
            help="Then train the front and what is near so often again.  [default: 1 from 12 trials on, else 0]",
        ),
    ] = None,
    objectives: Annotated[
        str,
        typer.Option(
            help="accuracy (by --metric) and at most two of madds, flops, params, activations, memory, latency, "
            "train_time."
        ),
    ] = "accuracy,madds",
    metric: cli.MetricOption = "accuracy",
    resolution: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Pixels that networks are for.  [default: the space's, or the data's if smaller]"
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, max=1024, help="Pixels to train at.  [default: --resolution, never enlarged]")
    ] = None,
    no_fit: Annotated[
        bool, typer.Option("--no-fit", help="Keep strides and widths of a space that is for larger images.")
    ] = False,
    width: Annotated[
        float | None, typer.Option(help="Factor of the widths of a space that is fitted.  [default: by β and γ]")
    ] = None,
    reward: Annotated[
        str,
        typer.Option(
            help="How the baseline is picked: hard (most accurate within T), soft (accuracy * (MAdds / T) ** -0.07) "
            "or v2 (training time, parameters)."
        ),
    ] = "hard",
    target_madds: Annotated[
        str | None, typer.Option(help="T of the rewards hard and soft.  [default: --max-madds, or the space's]")
    ] = None,
    sampler: Annotated[str, typer.Option(help="auto, tpe, nsga2 or random.")] = "auto",
    workers: cli.WorkersOption = None,
    ray: cli.RayOption = None,
    gpus_per_trial: cli.GpusPerTrialOption = None,
    storage: Annotated[str | None, typer.Option(help="A database URL instead of study.db, for many machines.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    device: cli.DeviceOption = "auto",
    like: Annotated[
        Path | None,
        typer.Option("--from", is_eager=True, callback=rerun.defaults, help="Repeat a run: its run.toml."),
    ] = None,
    **limits: Limit,
) -> Run:
    """Search a space for networks of high accuracy at low cost, and pick a baseline from the front.

    One training tells a network's accuracy only roughly: --confirm repeats, with other seeds and after the time
    budget, those on the front and those that may well belong there (probability 1/4), and the front and the baseline
    are then those of the means. The same command again continues the run. Results are in runs/NAME: trials.csv,
    repeats.csv, pareto.csv, pareto.png, sensitivity.csv, sensitivity.png, baseline.toml.
    """
    loaded = SearchSpace.load(space)
    chosen = Recipe.load(recipe)
    given = read_limits(limits)
    if sampler not in SAMPLERS:
        raise UserError(f"--sampler {sampler[:40]!r}: {nearest(sampler[:40], SAMPLERS)}")
    if reward not in REWARDS:
        raise UserError(f"--reward {reward[:40]!r}: {nearest(reward[:40], REWARDS)}")
    chosen_objectives = _objectives(objectives)
    source = Source.of({}, data, None, resize, skip_broken, recheck)
    images = load_data(source)
    pixels = resolution or min(loaded.resolution, images.image_size)
    found = deployed(loaded, pixels, images, no_fit, width)
    most = given.get("max_madds")
    target = (parse_count(target_madds, "--target-madds") if target_madds else None) or most or found.target_madds
    cap = {"max_madds": min(most or inf, target)} if reward == "hard" and target else {}  # above T none is picked
    bounds = bounds_of({**given, **cap})
    counted = {name: ends for name, ends in bounds.items() if name != "latency"}  # that one is measured later
    found.draw_codes(1, 0, counted)  # refuses an impossible budget before anything is written
    all_workers = make_workers(device, workers, ray, gpus_per_trial)
    if "latency" in chosen_objectives or "latency" in bounds:
        all_workers.check_here("a latency as objective or limit")
    size = image_size or min(pixels, images.image_size)
    seconds = parse_duration(time_budget, "--time-budget") if time_budget else None
    name = run or default_name(found.name, *([] if data == datasets.DEFAULT else [images.name]))
    opened = Run(run_path(name), storage)
    known = opened.config.get("arguments", {}) if opened.file.exists() else {}
    proxy = Proxy(source, chosen, all_workers.device)
    effort = effort_of(
        trials or (known.get("trials") if known.get("time_budget") == time_budget else None),
        epochs or (known.get("epochs") if known.get("recipe") == recipe else None),
        None if storage else seconds,  # machines that share a search must agree without measuring
        chosen,
        lambda: all_workers.count / epoch_seconds(found, counted, proxy, all_workers.count, size),
    )
    chosen = replace(chosen, epochs=effort.epochs)
    config = Search(
        space=found,
        bounds=bounds,
        objectives=chosen_objectives,
        reward=reward,
        target_madds=int(target or _median_madds(found, counted)),
        sampler=sampler,
        trials=effort.trials,
        time_budget=seconds,
        seed=seed,
        proxy=replace(proxy, recipe=chosen),
        workers=all_workers,
        image_size=size,
        confirm=(CONFIRM if effort.trials >= CONFIRMED_FROM else 0) if confirm is None else confirm,
        shared=storage is not None,
        metric=metric_of(metric),
        fitting=_fitting(loaded, found),
    )
    options = {
        **{"space": space, **source.arguments(), "trials": effort.trials, "time_budget": time_budget},
        **{"confirm": config.confirm, "recipe": recipe, "epochs": chosen.epochs, "objectives": list(chosen_objectives)},
        **{"metric": metric, **given, "reward": reward},
        **{"target_madds": config.target_madds, "sampler": sampler, "seed": seed, "resolution": pixels},
        **{"image_size": config.image_size, "no_fit": no_fit or None, "width": width},
        **{"workers": all_workers.count, "device": device},
    }
    config = replace(config, options=options)
    if like:
        cli.say(f"as {like}, but for:")
        for difference in rerun.differences(like, config.facts()) or ["nothing"]:
            cli.say(f"  {difference}")
    with opened.locked():
        carry_out(config, opened)
    return opened


def carry_out(config: Search, run: Run) -> None:
    """Run or continue a search in its directory, and say how it went."""
    facts, path = config.facts(), run.path
    begun = run.is_begun(facts)
    if config.timed:
        table = latency.kept(path / "latency.csv", config.space, config.proxy.device, begun, cli.say)
        config = replace(config, latencies=table, space=config.space.timed(table.of))
        config.space.draw_codes(1, 0, config.bounds)  # refuses an impossible budget
    trials = run.study("", config.directions, make_sampler(config, 0), facts)
    run.write(facts)
    search = SearchRun(config=config, path=path, trials=trials, repeats=run.study("repeats"))

    def stands(text: str = "") -> State:
        done = len(finished(trials))
        return State(done=done, total=max(config.trials, done), text=text)

    def written() -> str:
        return f"front {len(write_results(search).front)}"

    def limit() -> float:
        return seconds_left(config, finished(trials))

    introduce(config, run, begun, stands().done)
    with Display(stands(), limit=limit, metric=config.metric) as display:
        train_trials(plan(search, lambda: stands(written())), config.proxy, config.workers, display)
    if config.confirm and (limit() > 0 or not underway(trials)):  # else those still at work will do it
        confirm_front(search, written)
    found = write_results(search)
    write_sensitivity(search)
    if config.latencies:
        kept = path / "latency_front.csv"
        found = replace(found, front=measured(found.front, config.latencies.conditions, kept))
        write_atomic(path / "pareto.csv", to_csv(found.front))
    print_summary(search, found)


def introduce(config: Search, run: Run, begun: bool, done: int) -> None:
    """Say what is searched, with what, and how far it is."""
    space, images, recipe = config.space, config.images, config.proxy.recipe
    cli.say(f"run {run.path}: {'continued' if begun else 'new'}, {done} of {config.trials} trials done")
    if run.storage:
        cli.say(f"storage {run.shown_storage}: the same command on other machines joins in")
    cli.say(f"space {space.name}: {space.size:,} networks{config.fitting}")
    for line in images.lines:
        cli.say(line)
    cli.say(images.difference_line(config.metric))
    if config.bounds:
        number, error = space.count_within(config.bounds)
        cli.say(f"budget: {words(config.bounds)}: {count_text(number, error, space.size)}")
    low, high = (format_count(madds) for madds in config.reach)
    cli.say(
        f"costs are counted as deployed: {space.resolution} px, {plural(space.in_channels, 'channel')}, "
        f"{plural(space.num_classes, 'class', 'classes')}; networks of {low} to {high} MAdds, target "
        f"{format_count(config.target_madds)}"
    )
    cli.say(
        f"the proxy trains at {config.image_size} px, recipe {recipe.name}, epochs: {recipe.epochs}, {config.workers}"
    )
    if config.published:
        cli.say(f"first trials: {', '.join(config.published)}")
    if recipe.progressive:
        cli.say(recipe.progressive.sentence(config.image_size))
    if "train_time" in config.objectives:
        cli.say(
            f"train_time: seconds of a training step of {recipe.batch_size} images as measured on "
            f"{config.workers.place} with {config.workers.count} trials side by side: it compares within this run only"
        )


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


def deployed(space: SearchSpace, pixels: int, images: Dataset, no_fit: bool, width: float | None) -> SearchSpace:
    """The space as its networks are deployed: at these pixels, for the classes and channels of the images."""
    if width is not None and (no_fit or pixels >= space.resolution):
        raise UserError(f"--width: the space is not fitted to {pixels} px; leave it out")
    if width is not None and not 0.01 <= width <= 1:
        raise UserError(f"--width {width:g}: want a factor from 0.01 to 1")
    fitted = space.at(pixels) if no_fit or pixels >= space.resolution else space.fitted(pixels, width)
    return fitted.deployed(images.num_classes, images.channels)


def _fitting(space: SearchSpace, found: SearchSpace) -> str:
    """How a space was changed for the resolution, in words that follow its name; "" where it was not."""
    if found.stem == space.stem and found.stem_stride == space.stem_stride:
        return ""
    before, after = (
        (one.stem_stride, *(max(option.stride for option in slot.options) for slot in one.slots))
        for one in (space, found)
    )
    named = ["the stem", *(f"stage {i}" for i in range(1, len(after)))]
    kept = [name for name, old, new in zip(named, before, after, strict=True) if old != new]
    strides = f", stride 1 in {' and '.join(kept)}" if kept else ""
    return (
        f", fitted from {space.resolution} to {found.resolution} px: widths x {found.stem / space.stem:.2f}{strides} "
        "(--no-fit keeps them)"
    )


def _median_madds(space: SearchSpace, bounds: Bounds) -> int:
    """T of the reward where neither an option nor the space has one: the median of the feasible networks."""
    return int(np.quantile(space.costs(space.draw_codes(1001, 0, bounds))["madds"], 0.5))
