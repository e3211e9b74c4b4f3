"""What is scaled: a run's baseline, a file or a bundled network, with the data and the recipe of its trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.base import cli
from nas.base.errors import UserError
from nas.base.metrics import metric_of, option_of
from nas.datasets import Source
from nas.networks.architecture import Architecture
from nas.networks.cost import Cost, Deployment
from nas.runs.facts import deployment_of, space_of
from nas.runs.lookup import (
    BASELINE,
    FALLBACK,
    NETWORK,
    RUNS,
    default_name,
    facts_of,
    find_network,
    newest_run,
    run_path,
)
from nas.training.recipe import Recipe


@dataclass(frozen=True)
class Baseline:
    """What is scaled, the run directory that the results go to, and what its proxy trainings use.

    name: the argument that selects it; origin: its name for display. metric: the column by which networks are ranked.
    """

    architecture: Architecture
    name: str
    origin: str
    path: Path
    data: Source
    recipe: Recipe
    seed: int
    metric: str
    deployment: Deployment

    def cost(self, arch: Architecture) -> Cost:
        """The cost of a member as it is deployed: for the data of the search, or as published networks are counted."""
        return self.deployment.cost(arch)


def find_baseline(
    name: str | None,
    run: str | None,
    data: Callable[[Mapping[str, Any]], Source],
    recipe: str | None,
    epochs: int | None,
    seed: int | None,
    metric: str | None = None,
) -> Baseline:
    """The baseline that `name` selects, or the default one if it is None; raises UserError.

    data: the source of the images, given the arguments that the baseline's run had. recipe, epochs, seed and metric are
    the run's where None.
    """
    if name is None and newest_run() is None:
        cli.say(f"no run with a baseline in {RUNS}/: scaling {FALLBACK} (python -m nas.search makes a run)")
    found = find_network(name, "--baseline")
    arch, saved = found.architecture, found.facts
    if found.run and found.origin == f"run {found.run.name}":
        _check_space(arch, found.run, saved)
        path = run_path(run) if run else found.run
    else:
        path = run_path(run or default_name(found.label))
    own = next((path / name for name in (BASELINE, NETWORK) if (path / name).exists()), None)
    if own and Architecture.load(own) != arch:
        raise UserError(f"{path}: that run has a {own.stem} of its own; choose another --run for {found.origin}")
    if own is None and (path / "run.toml").exists():
        raise UserError(f"{path}: is a search's run without a baseline yet; choose another --run for {found.origin}")
    measured = metric_of(metric, saved)
    if (path / "run.toml").exists() and metric_of(None, facts_of(path)) != measured:
        raise UserError(
            f"--metric {option_of(measured)}: run {path.name} is by {option_of(metric_of(None, facts_of(path)))}; "
            "leave it out, or choose another --run"
        )
    arguments = saved.get("arguments", {})
    chosen = Recipe.load(recipe) if recipe else Recipe.of_run(saved, f"{found.run}/run.toml")
    return Baseline(
        arch,
        name or found.label,
        found.origin,
        path,
        data(arguments),
        replace(chosen, epochs=epochs or chosen.epochs),
        arguments.get("seed", 0) if seed is None else seed,
        measured,
        deployment_of(saved),
    )


def _check_space(arch: Architecture, source: Path, saved: Mapping[str, Any]) -> None:
    """Raise UserError if a run's baseline is not in its space; skipped if the space is gone or has changed."""
    space = space_of(saved)
    if space is None:
        return
    try:
        space.encode(arch)
    except UserError as error:
        raise UserError(
            f"{source / 'baseline.toml'}: {error}; restore it, or copy it and give --baseline COPY.toml"
        ) from None
