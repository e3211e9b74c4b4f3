"""`python -m nas.scale`: find α, β, γ for a baseline on a grid by proxy training, and scale it into a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from nas import datasets
from nas.base import cli
from nas.base.errors import UserError
from nas.base.files import to_toml, write_atomic
from nas.base.limits import Limit, bounds_of, read_limits, typed
from nas.base.metrics import option_of
from nas.base.units import format_count, nearest
from nas.datasets import Source, load_data
from nas.networks import scaling
from nas.networks.architecture import KEPT
from nas.networks.blocks import MAX_RESOLUTION
from nas.networks.scaling import Coefficients, Member
from nas.runs.run import Run
from nas.runs.workers import make_workers
from nas.scale.baseline import find_baseline
from nas.scale.config import MATCHES, Budget, Scaling
from nas.scale.family import Family, write_family
from nas.scale.grid import GridSearch, best_of_grid
from nas.scale.rules import Comparison, best_rule
from nas.scale.trainings import Trainings
from nas.training.proxy import Proxy

PHI = "3"


@cli.limited
def scale(
    phi: Annotated[
        str | None, typer.Option(help="Write the family from φ = 0 to this φ, or a range like 0..7.  [default: 3]")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="A run's name, a .toml file or a bundled name.  [default: the newest run's]")
    ] = None,
    rule: Annotated[
        str, typer.Option(help="compound, depth, width, resolution, fast, weights like d1_w8_r1, or auto: the best.")
    ] = "compound",
    coefficients: Annotated[str | None, typer.Option(help="α,β,γ such as 1.2,1.1,1.15: skips the grid.")] = None,
    target: Annotated[float, typer.Option(help="Target for α·β²·γ².")] = 2.0,
    step: Annotated[float, typer.Option(help="The grid's step.")] = 0.1,
    tolerance: Annotated[
        float, typer.Option(help="Largest distance of α·β²·γ² from the target; the paper's is 0.08 off.")
    ] = 0.08,
    match: Annotated[
        str, typer.Option(help="Whether nominal or counted MAdds meet the target; counted moves a few pixels for it.")
    ] = "nominal",
    resolution_step: Annotated[
        int, typer.Option(min=1, max=MAX_RESOLUTION, help="Round resolutions to multiples of this many pixels.")
    ] = 1,
    keep: Annotated[
        str | None,
        typer.Option(
            help="What stays as it is, of stem,head,ends: their widths; the layers of the first and last stage."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Trainings of each finalist, rule or member.")] = 3,
    train: Annotated[bool, typer.Option("--train", help="Train the members by proxy and draw their accuracy.")] = False,
    published: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="With --train: trainings of B0, MobileNetV2 and MnasNet-A1, scaled to each member's cost; 0: none.",
        ),
    ] = 1,
    measure: Annotated[bool, typer.Option(help="Measure the members' latency on this device.")] = True,
    data: Annotated[str | None, typer.Option(help="Data for the proxy.  [default: the run's]")] = None,
    resize: cli.ResizeOption = None,
    skip_broken: cli.SkipBrokenOption = None,
    recheck: cli.RecheckOption = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="How networks are trained: a bundled recipe or a .toml file.  [default: the run's, or proxy]"
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=10_000, help="[default: the recipe's]")] = None,
    run: Annotated[str | None, typer.Option(help="Where results go.  [default: the baseline's run or name]")] = None,
    storage: Annotated[str | None, typer.Option(help="A database URL instead of the run's study.db.")] = None,
    metric: cli.RunsMetricOption = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="[default: the run's]")] = None,
    workers: cli.WorkersOption = None,
    ray: cli.RayOption = None,
    gpus_per_trial: cli.GpusPerTrialOption = None,
    device: cli.DeviceOption = "auto",
    **limits: Limit,
) -> list[Member]:
    """Scale a baseline into a family: up to --phi, or to the largest φ within limits such as --max-madds.

    Without --coefficients, each α, β, γ ≥ 1 on a grid with α·β²·γ² near the target is tried: φ = 1 networks are
    trained by proxy, the better half for longer, the finalists from several seeds, and the best is taken. Results are
    in runs/NAME/scale: grid.csv, grid.png, family.csv, family.png, phi_0.toml, … The same command again continues.
    """
    if match not in MATCHES:
        raise UserError(f"--match {match[:40]!r}: {nearest(match[:40], MATCHES)}")
    budget = parse_budget(phi, limits)
    given = given_coefficients(rule, coefficients, target)
    kept = parse_kept(keep)

    def source(arguments: Mapping[str, Any]) -> Source:
        return Source.of(arguments, datasets.DEFAULT, data, resize, skip_broken, recheck)

    found = find_baseline(baseline, run, source, recipe, epochs, seed, metric)
    found = replace(found, deployment=replace(found.deployment, resolution_step=resolution_step, keep=kept))
    all_workers = make_workers(device, workers, ray, gpus_per_trial)
    if budget and budget.measured:
        all_workers.check_here("--max-latency")
    elif measure:
        all_workers.check_here("--measure (--no-measure leaves it out)")
    options = {
        "phi": phi or (None if budget else PHI),
        **{name: text for name, text in limits.items() if text is not None},
        **{"baseline": found.name, "rule": rule, "coefficients": coefficients, "target": target, "step": step},
        **{"tolerance": tolerance, "match": match, "resolution_step": resolution_step, "keep": keep, "seeds": seeds},
        **{"train": train, "published": published},
        **found.data.arguments(),
        **{"recipe": recipe, "epochs": found.recipe.epochs, "metric": option_of(found.metric), "seed": found.seed},
        **{"run": run, "no_measure": not measure},
    }
    config = Scaling(
        found=found,
        options=options,
        rule=rule,
        given=given,
        target=target,
        step=step,
        tolerance=tolerance,
        match=match,
        phis=() if budget else tuple(scaling.parse_phis(PHI if phi is None else phi)),
        budget=budget,
        seeds=seeds,
        train=train,
        measure=measure,
        published=published,
        proxy=Proxy(found.data, found.recipe, all_workers.device),
        workers=all_workers,
    )
    config.check()
    opened = Run(found.path, storage)
    with opened.locked():
        return carry_out(config, opened)


def carry_out(config: Scaling, run: Run) -> list[Member]:
    """Find the coefficients if need be, write the family, and print the results; earlier trainings are reused."""
    found, folder = config.found, run.path / "scale"
    cli.say(f"baseline: {found.origin}, {format_count(found.cost(found.architecture).madds)} MAdds")
    cli.say(f"  {found.architecture}")
    folder.mkdir(exist_ok=True)
    trainings = Trainings(run, config.proxy, config.workers, found.cost, config.metric)
    if config.train or config.rule == "auto" or config.given is None:
        for line in load_data(config.proxy.data).lines:
            cli.say(line)
    chosen, rule = config.given or best_of_grid(config, trainings, folder), config.rule
    if rule == "auto":
        epochs = found.recipe.epochs if config.given else GridSearch(config).halving.final_epochs
        comparison = Comparison(config, chosen, epochs)
        rule = best_rule(comparison, trainings, folder)
        chosen = comparison.coefficients[rule]
    write_atomic(folder / "scale.toml", to_toml(config.facts(rule, chosen)))
    family = Family(config, chosen, rule, config.members(chosen))
    write_family(family, trainings if config.train else None, config.measure, folder)
    cli.say(f"family: {folder / 'family.csv'}, {folder / 'family.png'}, {folder}/phi_*.toml")
    return list(family.members)


def parse_budget(phi: str | None, limits: Mapping[str, Limit]) -> Budget | None:
    """The budget that φ is solved for, None if φ is given or left to its default; raises UserError for both."""
    given = read_limits(limits)
    if given and phi is not None:
        raise UserError(
            f"--phi and {typed(next(iter(given)))} exclude each other: each says how far to scale; give one"
        )
    if given and not any(option.startswith("max_") for option in given):
        raise UserError(f"{typed(next(iter(given)))}: φ is solved for a maximum; give one, such as --max-madds 1.2G")
    return Budget(bounds_of(given)) if given else None


def parse_kept(text: str | None) -> tuple[str, ...]:
    """The words of KEPT that --keep names, in their order there; raises UserError."""
    words = [] if text is None else [word.strip() for word in text.split(",")]
    for word in words:
        if word not in KEPT:
            raise UserError(f"--keep {word[:40]!r}: {nearest(word[:40], KEPT)}; name one or more, as stem,head,ends")
    return tuple(part for part in KEPT if part in words)


def given_coefficients(rule: str, coefficients: str | None, target: float) -> Coefficients | None:
    """The coefficients that the options name; None if a grid has to find them. Raises UserError."""
    if coefficients is None:
        if rule in ("compound", "auto"):
            return None
        scaling.check_target(target)
        return scaling.rule_coefficients(rule, target)
    if rule not in ("compound", "auto"):
        raise UserError(f"--coefficients and --rule {rule} exclude each other; leave out one of them")
    try:
        alpha, beta, gamma = (float(text) for text in coefficients.split(","))
        if not all(0 < value < 100 for value in (alpha, beta, gamma)):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--coefficients {coefficients[:60]!r}: give three positive numbers α,β,γ, like 1.2,1.1,1.15"
        ) from None
    try:
        return Coefficients(alpha, beta, gamma)
    except UserError as error:
        raise UserError(f"--coefficients {coefficients[:60]}: {error}") from None
