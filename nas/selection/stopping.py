"""Early stopping for several objectives: asynchronous successive halving by non-dominated rank.

`outranked` is the rule, a pure function; `Stopper` applies it to the trials of an Optuna study.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.base.errors import UserError
from nas.selection.pareto import non_dominated

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ETA = 3
RUNG = "nas:rung:"  # a user attribute for each rung that a trial came to: the step, and the values then
FEW = 3  # complete trials that passed a rung, below which nothing follows from them


@dataclass(frozen=True)
class Stopper:
    """Says of a trial in training whether to stop it, by what others had after as many steps.

        stopper = nas.Stopper(steps=27)

        def objective(trial):
            model = build(trial)
            for epoch in range(1, 28):
                accuracy = train_epoch(model)
                if stopper.report(trial, epoch, [accuracy, madds(model)]):
                    raise optuna.TrialPruned
            return accuracy, madds(model)

        study = optuna.create_study(directions=["maximize", "minimize"], sampler=nas.Sampler(seed=0))
        study.optimize(objective, n_trials=100)

    (Optuna's own `trial.report` and `trial.should_prune` refuse studies of several objectives.) Trials meet at rungs,
    after first, first * eta, first * eta^2, ... steps. A trial that is non-dominated among those that were there
    before it goes on, and so do the best 1/eta of all: by non-dominated rank, within a rank as an ε-net. This is the
    MO-ASHA of Schmucker et al. 2021 (arXiv 2106.12639), stopping instead of pausing. Only the order of values counts,
    in each objective by itself, so units and logarithms change nothing.

    steps: the length of a full training (≥ 1); a trial that has come so far is never stopped. eta: ≥ 2. first: the
    first rung (≥ 1). One to three objectives in any directions. Raises UserError.

    What was reported at a rung is kept with the trial, in user attributes "nas:rung:STEP", so it is on every storage
    and there after a restart. Threads and processes that share a storage need nothing else: a report writes to its
    own trial and then reads the others'. Which were there before is then a matter of time: one worker decides alike
    in every run, several may not. Failed trials do not count. A stopped trial is PRUNED and has no values, for its
    partial ones do not compare with full ones: Optuna's samplers learn nothing from it, `nas.Sampler` what is
    `expected`.
    """

    steps: int
    eta: int = ETA
    first: int = 1

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("eta", 2), ("first", 1)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= low):
                raise UserError(f"nas.Stopper: {name} must be a whole number from {low} on, got {value!r}")

    @property
    def rungs(self) -> tuple[int, ...]:
        """The steps after which trials are compared, all before the last step."""
        rungs, rung = [], self.first
        while rung < self.steps:
            rungs.append(rung)
            rung *= self.eta
        return tuple(rungs)

    def report(self, trial: Trial, step: int, values: Sequence[float]) -> bool:
        """Keep what a trial has after `step` steps, counted from 1, and say whether to stop it.

        values: what the objective would return if the training ended now, in the order of the study's directions.
        Reports between rungs cost nothing and keep nothing; where the step of a rung is not reported, the next one
        counts for it. A trial whose values are not all finite is stopped, and no other is compared with it.
        Raises UserError for another number of values than directions, or of more than three.
        """
        directions = trial.study.directions
        if len(values) != len(directions) or len(values) > 3:
            raise UserError(
                f"nas.Stopper takes one value for each of up to three objectives, got {len(values)} for "
                f"{len(directions)}"
            )
        rung = max((rung for rung in self.rungs if rung <= step), default=None)
        if step >= self.steps or rung is None:
            return False
        if not np.isfinite(values).all():
            return True
        key = f"{RUNG}{rung}"
        kept = trial.user_attrs.get(key)
        if kept is not None and kept[0] < step:  # it has passed this rung; the same step again is a training repeated
            return False
        keep(trial, rung, step, values)
        others = trial.study.get_trials(deepcopy=False)
        peers = [
            other.user_attrs[key][1:]
            for other in others
            if other.number != trial.number and other.state != TrialState.FAIL and key in other.user_attrs
        ]
        signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
        return outranked(signs * np.array(values), signs * np.array(peers).reshape(-1, len(values)), self.eta)


def keep(trial: Trial, rung: int, step: int, values: Sequence[float]) -> None:
    """Keep with a trial what it had at a rung, and after which step that was."""
    trial.set_user_attr(f"{RUNG}{rung}", [step, *map(float, values)])


def expected(stopped: Iterable[FrozenTrial], complete: Sequence[FrozenTrial]) -> dict[int, list[float]]:
    """What stopped trials would have come to, by their numbers: from their last rung, as complete ones went on from it.

    Least squares over the complete trials that passed the same rung, each objective by itself. Left out is who came
    to no rung, or to one that fewer than FEW complete ones passed.
    """
    lines: dict[str, tuple[Floats, Floats] | None] = {}
    found = {}
    for trial in stopped:
        rung = max((int(key.removeprefix(RUNG)) for key in trial.user_attrs if key.startswith(RUNG)), default=None)
        key = f"{RUNG}{rung}"
        if key not in lines:
            pairs = [(other.user_attrs[key][1:], other.values) for other in complete if key in other.user_attrs]
            lines[key] = line(*map(np.array, zip(*pairs, strict=True))) if len(pairs) >= FEW else None
        if (through := lines[key]) is not None:
            found[trial.number] = (through[0] + through[1] * trial.user_attrs[key][1:]).tolist()
    return found


def line(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Intercepts and slopes [m] of least squares of y [n, m] on x [n, m], column by column; 0 where x is constant."""
    spread = x.var(axis=0)
    slope = ((x - x.mean(axis=0)) * y).mean(axis=0) / np.where(spread > 0, spread, np.inf)
    return y.mean(axis=0) - slope * x.mean(axis=0), slope


def outranked(point: ArrayLike, peers: ArrayLike, eta: int) -> bool:
    """Whether a point is dominated by one of its peers and not among the best 1/eta of them and itself.

    point [m] and peers [n, m], m = 1, 2 or 3, all minimized. Raises ValueError as `non_dominated` does.
    """
    points = np.vstack([peers, np.atleast_2d(point)])
    last = len(points) - 1
    return not non_dominated(points)[last] and last not in best(points, len(points) // eta)


def best(points: Floats, count: int) -> Ints:
    """The best `count` of points [n, m], all minimized: front after front, as much of the last as fits as an ε-net."""
    left, chosen, places = np.arange(len(points)), np.empty(0, dtype=np.int64), ordinal(points)
    while len(chosen) < min(count, len(points)):
        on = non_dominated(points[left])
        front, left = left[on], left[~on]
        chosen = np.append(chosen, front[net(places[front], count - len(chosen))])
    return chosen


def net(points: Floats, count: int) -> Ints:
    """Up to `count` of points [n, m] so that every other is near one of them: from the one that is best in the first
    objective on, always the one farthest from those chosen (Gonzalez 1985; of equals the first)."""
    chosen = [int(np.lexsort(points.T[::-1])[0])]
    gap = np.full(len(points), np.inf)
    while len(chosen) < min(count, len(points)):
        gap = np.minimum(gap, np.linalg.norm(points - points[chosen[-1]], axis=1))
        gap[chosen] = -1.0
        chosen.append(int(np.argmax(gap)))
    return np.array(chosen, dtype=np.int64)


def ordinal(points: Floats) -> Floats:
    """Each objective's values [n, m] replaced by their places in order, equal ones by the same place."""
    places = [np.unique(column, return_inverse=True)[1] for column in points.T]
    return np.column_stack(places).astype(float)
