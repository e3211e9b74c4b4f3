"""The next trial of a search: within the budget, and never a network that was trained before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.runs.records import describe_trial, finished, lost
from nas.runs.sharing import claim
from nas.runs.trials import Plan, State
from nas.search.config import KNOWN, Search, SearchRun
from nas.selection.sampler import Sampler
from nas.spaces.slots import Codes
from nas.training.proxy import Job

REFUSALS = 50  # refused proposals in a row of a sampler other than ours, before a uniform draw takes their place


def plan(run: SearchRun, written: Callable[[], State]) -> Plan:
    """The trials of a search, proposed by its sampler. written: writes the results and says how it stands."""
    config = run.config
    return Plan(
        study=run.trials,
        ask=lambda: ask(config, run.trials),
        prepare=lambda trial: prepare(config, run.trials, trial),
        values=lambda known: [float(known[name]) for name in config.columns],
        written=written,
        lag=config.pace,
        patient=lambda: seconds_left(config, finished(run.trials)) > 0,
    )


def ask(config: Search, trials: optuna.Study) -> Trial | None:
    """The next trial; None if there are enough, the time is used up, or no new network is left.

    The published networks of the space come first.
    """
    known = trials.get_trials(deepcopy=False)
    counted = [t for t in known if t.state not in (TrialState.WAITING, TrialState.PRUNED) and not lost(t)]
    if len(counted) >= config.trials or seconds_left(config, counted) <= 0:
        return None
    refused = next((i for i, t in enumerate(reversed(known)) if t.state != TrialState.PRUNED), len(known))
    hashes = {t.user_attrs.get("hash") for t in known}
    first = next((arch for arch in config.published.values() if arch.hash not in hashes), None)
    if any(t.state == TrialState.WAITING for t in known):
        pass
    elif first:
        trials.enqueue_trial(config.space.params(config.space.encode(first)), {"hash": first.hash})
    else:
        code = _fresh_code(config, counted)
        if code is None:
            return None
        if config.sampler == "random" or refused >= REFUSALS:
            trials.enqueue_trial(config.space.params(code), {"hash": config.space.decode(code).hash})
    if config.sampler != "auto":  # seeded by the trial, so that a continued run proposes the same
        trials.sampler = make_sampler(config, len(known))
    return trials.ask()


def prepare(config: Search, trials: optuna.Study, trial: Trial) -> Job | None:
    """Complete a trial's parameters and return its job; None if its network is over the budget or known already.

    Where several processes work on the study, the trial of the lower number gets the network, and the last place.
    """
    params = {name: trial.suggest_categorical(name, dist.choices) for name, dist in config.distributions.items()}
    arch = config.network(params)
    if not config.feasible(params) or claim(trials, trial, "hash", [arch.hash], config.trials) is None:
        return None
    job = Job(str(arch), config.seed, config.image_size)
    name = next((name for name, known in config.published.items() if known == arch), None)
    describe_trial(trial, arch, config.space.cost(arch), job, {**config.others(params), "name": name})
    return job


def make_sampler(config: Search, number: int) -> BaseSampler:
    """The sampler for a trial of this number."""
    seed = int(np.random.default_rng([config.seed, number]).integers(2**31))
    match config.sampler:
        case "auto":
            names = dict.fromkeys((*config.objectives, "madds", "params", "activations"))  # costs that the model sees
            known = {i: partial(config.known, name) for i, name in enumerate(names) if name in KNOWN}
            return Sampler(
                config.seed,
                feasible=config.feasible if config.bounds else None,
                known=known,
                search_space=dict(config.distributions),
                key=lambda params: config.network(params).hash,
                draw=lambda n, rng: map(config.space.params, config.space.draw_codes(n, rng, config.bounds)),
                lag=config.lag,
                decisive=config.objectives.index("accuracy") if config.reward == "hard" else None,
            )
        case "tpe":
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=20)
        case _:
            return optuna.samplers.RandomSampler(seed)


def _fresh_code(config: Search, counted: list[FrozenTrial]) -> Codes | None:
    """A uniform draw from the feasible networks that no trial has; None if none is left."""
    known = {t.user_attrs["hash"] for t in counted if "hash" in t.user_attrs}
    rng = np.random.default_rng([config.seed, len(counted)])
    for draws in (len(known) + 8, 20 * len(known) + 1000):
        for code in config.space.draw_codes(draws, rng, config.bounds):
            if config.space.decode(code).hash not in known:
                return np.asarray(code, np.int16)
    return None


def seconds_left(config: Search, trials: list[FrozenTrial]) -> float:
    """What is left of the time budget after these trials, which ran side by side; infinite without a budget.

    Where several processes work on the study, each has its own time budget from its own start.
    """
    if config.time_budget is None:
        return math.inf
    spent = sum(t.user_attrs.get("seconds", 0.0) for t in trials) / config.workers.count
    return config.time_budget - (time.monotonic() - config.began if config.shared else spent)
