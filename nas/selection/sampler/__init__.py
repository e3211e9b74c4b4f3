"""An Optuna sampler that knows costs and feasibility before training, and models only what training tells.

`candidates` says what may be proposed, `model` what to expect of it, `choice` what to propose: all without a study.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary
from zlib import crc32

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.base.arrays import Ints
from nas.base.errors import UserError
from nas.selection.sampler.candidates import LISTED, POOL, Candidates, Draw, Grid, Params, choices
from nas.selection.sampler.choice import Goal, History, propose

__all__ = ["Sampler"]

_LOCK = threading.RLock()  # threads of one process propose one after another
_SPACES: WeakKeyDictionary[Study, IntersectionSearchSpace] = WeakKeyDictionary()
_CLAIM = "nas:claim"  # system attribute of a running trial: the code that it was given


class Sampler(BaseSampler):
    """Proposes what is expected to grow the front most (one objective: to improve most), never the same twice.

        study = optuna.create_study(directions=["maximize", "minimize"], sampler=nas.Sampler(seed=0))

    Args:
        seed: proposals are a function of it, of the trial's number and of the study's history, nothing else: a
            study that was killed and resumed goes on as if it had not been. None draws a seed.
        feasible: says before any training whether params may be proposed. It sees a dict of all parameters that the
            sampler handles and must be quick and always answer alike; it is asked once per candidate.
        known: by index of objective, a function of params that gives its exact value without training, as
            `{1: madds}`. Only the other objectives are modelled, with these as features. An index past the last
            objective gives a feature only: with a single objective `known={1: madds}` still helps.
        search_space: distributions by name. Without it the first trial is sampled at random, and infeasible params
            may come up, since what there is to choose from shows only in finished trials.
        key: equal keys mean equal networks, so that none is trained twice under two names: `key=architecture_hash`.
        pool: number of random candidates, beside the neighbours of the best. By default a space of up to 20,000
            combinations is listed whole and a larger one gets 4,096.
        draw: `draw(n, rng)` gives n random params for that pool, which `feasible` should mostly allow: where next to
            nothing is feasible, uniform ones would all be refused.
        lag: a result is heeded from `lag` trials later on, and until then its trial counts as running. So parallel
            workers get the same proposals whichever of them is first, if trial n is asked for when all trials
            before n - lag have ended.

    One to three objectives in any directions; categorical and integer parameters (of up to 128 values; other ones and
    floats are sampled independently, at random). Finished, failed, pruned, waiting and running trials of any sampler
    count as taken; of these completed ones with finite values, inside the space and feasible, teach the model.
    Enqueue a trial to have a failed one again. Once nothing feasible is left, every candidate is open again, for
    repeats tell noise. Several workers on one storage see each other's running trials; safe with threads as well.

    Raises UserError for more than three objectives, for a bad `known` and when `feasible` refuses everything.
    """

    def __init__(
        self,
        seed: int | None = None,
        feasible: Callable[[Params], bool] | None = None,
        known: Mapping[int, Callable[[Params], float]] | None = None,
        search_space: Mapping[str, BaseDistribution] | None = None,
        key: Callable[[Params], Hashable] | None = None,
        pool: int | None = None,
        draw: Draw | None = None,
        lag: int = 0,
    ) -> None:
        if known and min(known) < 0:
            raise UserError(f"known must map indices of objectives (0, 1, ...) to functions, got {min(known)}")
        self._seed = int(np.random.default_rng(seed).integers(2**31)) if seed is None else seed
        self._feasible, self._known, self._key, self._size = feasible, dict(sorted((known or {}).items())), key, pool
        self._draw, self._lag = draw, lag
        self._space = None if search_space is None else dict(search_space)
        self._table: Candidates | None = None
        self._seen: dict[int, tuple[FrozenTrial, int]] = {}  # finished trials and their rows, by the objects' ids

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": {}}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        with _LOCK:
            space = self._space
            if space is None:
                space = _SPACES.setdefault(study, IntersectionSearchSpace(include_pruned=True)).calculate(study)
        return {name: space[name] for name in sorted(space) if choices(space[name])}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        if len(study.directions) > 3:
            raise UserError(f"nas.Sampler takes one to three objectives, the study has {len(study.directions)}")
        goal = Goal(tuple(_SIGN[direction] for direction in study.directions), tuple(self._known))
        with _LOCK:
            candidates = self._candidates(Grid.of(search_space))
            fixed = _fixed(candidates.grid, trial)
            lost = np.empty(0, dtype=np.int64)
            while True:
                trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
                rows = self._rows(candidates, trials)
                history = _history(candidates, goal, trials, rows, trial.number - self._lag)
                history = replace(history, taken=np.append(history.taken, lost))
                row = propose(candidates, goal, history, self._seed, trial.number, fixed)
                code = candidates.codes[row].tolist()
                study._storage.set_trial_system_attr(trial._trial_id, _CLAIM, code)
                # Another process may have claimed the same since. Both have written before they read here, so at
                # least one of them sees the other, gives the claim up for good and chooses again.
                old = {trial.number, *(t.number for t in trials if t.state.is_finished())}
                fresh = [t for t in study.get_trials(deepcopy=False) if t.number not in old]
                new = _rows(candidates, fresh)
                mine = np.array([row])
                repeat = not len(candidates.untaken(mine, history.taken))
                if repeat or len(candidates.untaken(mine, new[new >= 0])):
                    return candidates.grid.params(code)
                lost = np.append(lost, mine)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        seed = crc32(f"{self._seed} {trial.number} {param_name}".encode())
        return RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)

    def _candidates(self, grid: Grid) -> Candidates:
        if self._table is None or self._table.grid != grid:
            size = self._size or (LISTED if math.prod(grid.sizes) <= LISTED else POOL)
            known = list(self._known.values())
            candidates = Candidates(grid, self._feasible, known, self._key, self._draw)
            candidates.fill(size, self._seed)
            self._table, self._seen = candidates, {}
        return self._table

    def _rows(self, candidates: Candidates, trials: Sequence[FrozenTrial]) -> Ints:
        """The row of each trial as `_rows` below has it; a finished one, which never changes, is looked at once."""
        seen = self._seen
        fresh = [t for t in trials if (kept := seen.get(id(t))) is None or kept[0] is not t]
        found = {id(t): (t, row) for t, row in zip(fresh, _rows(candidates, fresh).tolist(), strict=True)}
        found |= {id(t): seen[id(t)] for t in trials if id(t) not in found}
        self._seen = {key: (t, row) for key, (t, row) in found.items() if t.state.is_finished()}
        return np.array([found[id(t)][1] for t in trials], dtype=np.int64)


_SIGN = {StudyDirection.MINIMIZE: 1, StudyDirection.MAXIMIZE: -1}


def _rows(candidates: Candidates, trials: Sequence[FrozenTrial]) -> Ints:
    """The row of each trial, [n]; -1 of one that is outside the grid, or whose params are not known yet."""
    codes = [_code(candidates.grid, trial) for trial in trials]
    rows = np.full(len(trials), -1)
    inside = [i for i, code in enumerate(codes) if code is not None]
    rows[inside] = candidates.rows(np.array([codes[i] for i in inside], dtype=np.int64))
    return rows


def _history(candidates: Candidates, goal: Goal, trials: Sequence[FrozenTrial], rows: Ints, heeded: int) -> History:
    """The trials as a history of the candidates; those without a row are left out.

    Trials from number `heeded` on count as running, even if they have ended.
    """
    placed = [(trial, row) for trial, row in zip(trials, rows.tolist(), strict=True) if row >= 0]
    known = [trial for trial, _ in placed if trial.number < heeded]
    complete = [t for t in known if t.state == TrialState.COMPLETE and all(map(math.isfinite, t.values))]
    values = {t.number: t.values for t in complete}
    feasible = candidates.feasible
    observed, running = [], []
    for trial, row in placed:
        if not feasible[row]:
            continue
        if trial.number in values:
            observed.append((row, values[trial.number]))
        elif trial.number >= heeded or trial.state == TrialState.RUNNING:
            running.append(row)
    signed = np.array([value for _, value in observed], dtype=float).reshape(-1, len(goal.signs)) * goal.signs
    observed_rows = np.array([row for row, _ in observed], dtype=np.int64)
    return History(observed_rows, signed, np.array(running, dtype=np.int64), rows[rows >= 0])


def _code(grid: Grid, trial: FrozenTrial) -> tuple[int, ...] | None:
    """The code of a trial: of its params, or while they are being suggested, of its claim or as it was enqueued."""
    attrs = trial.system_attrs
    code = grid.code({**attrs.get("fixed_params", {}), **trial.params})
    claim = tuple(attrs.get(_CLAIM, ()))
    if code is None and not trial.state.is_finished() and len(claim) == len(grid.names):
        code = claim if all(i < size for i, size in zip(claim, grid.sizes, strict=True)) else None
    return code


def _fixed(grid: Grid, trial: FrozenTrial) -> dict[int, int]:
    """Slot and choice of what `study.enqueue_trial` fixed in a trial."""
    params = trial.system_attrs.get("fixed_params", {})
    slots = [(i, name, c) for i, (name, c) in enumerate(zip(grid.names, grid.choices, strict=True)) if name in params]
    return {i: c.index(params[name]) for i, name, c in slots if params[name] in c}
