"""Early stopping: the rule against brute force, and the stopper as a citizen of Optuna."""

import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState, create_trial

import nas
from nas import Stopper, UserError
from nas.selection.stopping import best, expected, net, outranked
from tests.test_pareto import dominates, point_sets

Floats = NDArray[np.float64]
STEPS = 9
STOPPER = Stopper(STEPS, eta=3)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


# --- the rule


def ranks(points: Floats) -> list[int]:
    """Non-dominated ranks by the definition: fronts are taken off one after the other."""
    found, left, rank = [0] * len(points), set(range(len(points))), 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in front:
            found[i] = rank
        left, rank = left - front, rank + 1
    return found


@given(point_sets(), st.integers(0, 40))
def test_the_best_are_front_after_front(points: Floats, count: int) -> None:
    chosen = best(points, count).tolist()
    assert len(chosen) == len(set(chosen)) == min(count, len(points))
    rank = ranks(points)
    others = [rank[i] for i in range(len(points)) if i not in chosen]
    assert not chosen or not others or max(rank[i] for i in chosen) <= min(others)


@given(point_sets(), st.integers(1, 30))
def test_a_net_leaves_no_gap_larger_than_those_it_has(points: Floats, count: int) -> None:
    """The guarantee of farthest-first traversal (Gonzalez 1985)."""
    assume(len(points) > 0)
    chosen = net(points, count)
    assert len(set(chosen.tolist())) == min(count, len(points))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    between = distance[np.ix_(chosen, chosen)]
    assert distance[:, chosen].min(axis=1).max() <= between[~np.eye(len(chosen), dtype=bool)].min(initial=np.inf)
    assert points[chosen[0], 0] == points[:, 0].min()


@given(point_sets(), st.integers(2, 5))
def test_only_the_dominated_beyond_the_best_share_are_outranked(points: Floats, eta: int) -> None:
    assume(len(points) > 0)
    *peers, point = points
    rank = ranks(points)
    better = sum(r < rank[-1] for r in rank)
    not_worse = sum(r <= rank[-1] for r in rank)
    stopped = outranked(point, np.reshape(peers, (-1, points.shape[1])), eta)
    if rank[-1] == 0 or not_worse <= len(points) // eta:
        assert not stopped
    if rank[-1] > 0 and better >= len(points) // eta:
        assert stopped


@given(point_sets(), st.integers(2, 5))
def test_units_and_logarithms_change_nothing(points: Floats, eta: int) -> None:
    assume(len(points) > 0)
    scaled = np.column_stack([np.exp(points[:, :1]), 1e9 * points[:, 1:] - 5])
    assert outranked(points[-1], points[:-1], eta) == outranked(scaled[-1], scaled[:-1], eta)


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_in_the_long_run_one_of_eta_goes_on(eta: int) -> None:
    points = np.random.default_rng(0).normal(size=(600, 2))
    goes_on = [not outranked(points[i], points[:i].reshape(-1, 2), eta) for i in range(len(points))]
    late = np.mean(goes_on[100:])
    assert 1 / eta - 0.05 <= late <= 1 / eta + 0.05


def test_rungs() -> None:
    assert Stopper(8, eta=2).rungs == (1, 2, 4)
    assert Stopper(9, eta=2).rungs == (1, 2, 4, 8)
    assert Stopper(27).rungs == (1, 3, 9)
    assert Stopper(100, eta=4, first=5).rungs == (5, 20, 80)
    assert Stopper(1).rungs == ()


def passed(values: Sequence[float] | None, rungs: dict[int, list[float]], number: int) -> FrozenTrial:
    state = TrialState.PRUNED if values is None else TrialState.COMPLETE
    attrs = {f"nas:rung:{step}": [step, *early] for step, early in rungs.items()}
    trial = create_trial(state=state, values=values, user_attrs=attrs)
    trial.number = number
    return trial


@given(st.floats(-2, 2), st.floats(-1, 1), st.lists(st.floats(0, 1), min_size=3, max_size=9), st.floats(0, 1))
def test_a_stopped_trial_is_expected_to_go_on_as_others_did(a: float, b: float, early: list[float], x: float) -> None:
    assume(np.ptp(early) > 1e-3)
    cost = [100.0 * i for i in range(len(early))]
    complete = [
        passed([a + b * v, c], {1: [v + i % 2, c], 3: [v, c]}, i)
        for i, (v, c) in enumerate(zip(early, cost, strict=True))
    ]
    stopped = [passed(None, {1: [0.5, 7.0], 3: [x, 50.0]}, 20), passed(None, {9: [x, 50.0]}, 21), passed(None, {}, 22)]
    found = expected(stopped, complete)
    assert list(found) == [20]
    assert found[20] == pytest.approx([a + b * x, 50.0], abs=1e-6)
    assert expected(stopped, complete[:2]) == {}


def test_early_values_that_are_all_alike_tell_the_mean() -> None:
    complete = [passed([float(i), 1.0], {1: [0.5, 1.0]}, i) for i in range(5)]
    assert expected([passed(None, {1: [0.1, 1.0]}, 9)], complete) == {9: [2.0, 1.0]}


# --- as a citizen of Optuna


def curve(quality: float) -> list[float]:
    """Accuracy after each step: what is better in the end need not be so in the beginning."""
    return [quality * (1 - 0.7 ** (step + 1)) + 0.1 * np.cos(37 * quality) / step for step in range(1, STEPS + 1)]


def objective(trial: optuna.Trial) -> tuple[float, float]:
    quality, cost = trial.suggest_float("quality", 0, 1), trial.suggest_float("cost", 0, 1)
    for step, accuracy in enumerate(curve(quality), 1):
        if STOPPER.report(trial, step, [accuracy, cost]):
            raise optuna.TrialPruned
    return accuracy, cost


def new_study(url: str | None = None, seed: int = 0) -> optuna.Study:
    return optuna.create_study(
        study_name="s",
        storage=url,
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.RandomSampler(seed),
        load_if_exists=True,
    )


def rung(trial: optuna.trial.FrozenTrial, step: int) -> Floats | None:
    """What a trial had at a rung, minimized."""
    kept = trial.user_attrs.get(f"nas:rung:{step}")
    return None if kept is None else np.array([-kept[1], kept[2]])


def check(trials: Sequence[optuna.trial.FrozenTrial]) -> None:
    """Nobody who is non-dominated where it was stopped was stopped, and who was not stopped has passed all rungs."""
    for trial in trials:
        reached = [step for step in STOPPER.rungs if rung(trial, step) is not None]
        if trial.state == TrialState.COMPLETE:
            assert reached == list(STOPPER.rungs)
            assert trial.values == [curve(trial.params["quality"])[-1], trial.params["cost"]]
            continue
        assert trial.state == TrialState.PRUNED
        assert trial.values is None
        mine = rung(trial, reached[-1])
        assert any(dominates(other, mine) for t in trials if (other := rung(t, reached[-1])) is not None)


def test_each_decision_is_the_rule_applied_to_who_was_there_before() -> None:
    study = new_study()
    study.optimize(objective, n_trials=60)
    check(study.trials)
    states = [t.state for t in study.trials]
    assert states[0] == TrialState.COMPLETE
    assert 0.4 < states.count(TrialState.PRUNED) / 60 < 0.95
    for trial in study.trials:
        for step in STOPPER.rungs:
            mine = rung(trial, step)
            if mine is None:
                break
            before = [other for t in study.trials[: trial.number] if (other := rung(t, step)) is not None]
            goes_on = rung(trial, min(3 * step, 9)) is not None or trial.state == TrialState.COMPLETE
            assert goes_on != outranked(mine, np.reshape(before, (-1, 2)), 3)


def test_fewer_steps_for_nearly_the_same_front() -> None:
    study = new_study()
    study.optimize(objective, n_trials=200)
    taken = sum(
        STEPS if t.state == TrialState.COMPLETE else max(s for s in STOPPER.rungs if rung(t, s) is not None)
        for t in study.trials
    )
    assert taken < 0.5 * STEPS * 200
    finals = np.array([[-curve(t.params["quality"])[-1], t.params["cost"]] for t in study.trials])
    done = [t.state == TrialState.COMPLETE for t in study.trials]
    every, kept = (nas.pareto.hypervolume(points, [0, 1]) for points in (finals, finals[done]))
    assert kept > 0.97 * every


def test_threads() -> None:
    study = new_study()
    study.optimize(objective, n_trials=60, n_jobs=4)
    assert len(study.trials) == 60
    check(study.trials)


def _work(url: str, seed: int, count: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    new_study(url, seed).optimize(objective, n_trials=count)


def test_processes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = new_study(url)
    workers = [multiprocessing.get_context("spawn").Process(target=_work, args=(url, seed, 15)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(study.trials) == 30
    assert TrialState.PRUNED in {t.state for t in study.trials}
    check(study.trials)


def test_a_study_that_is_resumed_decides_as_one_that_was_not(tmp_path: Path) -> None:
    whole = new_study()
    whole.optimize(objective, n_trials=30)
    url = f"sqlite:///{tmp_path}/study.db"
    for _ in range(3):
        study = new_study(url)
        for params in [t.params for t in whole.trials][len(study.trials) :][:10]:
            study.enqueue_trial(params)
        study.optimize(objective, n_trials=10)
    assert [(t.state, t.values, t.user_attrs) for t in study.trials] == [
        (t.state, t.values, t.user_attrs) for t in whole.trials
    ]


def test_a_training_that_is_repeated_or_continued_after_an_interruption(tmp_path: Path) -> None:
    """Killed after step 4, once more from the start; or from a checkpoint after step 2, past the first rung."""
    study = new_study(f"sqlite:///{tmp_path}/study.db")
    study.optimize(objective, n_trials=20)
    bad = study.ask()
    assert STOPPER.report(bad, 1, [-1.0, 2.0])
    assert STOPPER.report(bad, 1, [-1.0, 2.0])
    good = study.ask()
    for step in (1, 2, 3, 4, 1, 2, 3, 4, 3, 4):
        assert not STOPPER.report(good, step, [2.0, -1.0])
    assert [k for k in good.user_attrs if k.startswith("nas:")] == ["nas:rung:1", "nas:rung:3"]


def test_steps_between_rungs_and_the_last_step_stop_nobody() -> None:
    study = new_study()
    study.optimize(objective, n_trials=20)
    trial = study.ask()
    assert not STOPPER.report(trial, 0, [-1.0, 2.0])
    assert not STOPPER.report(trial, STEPS, [-1.0, 2.0])
    assert not trial.user_attrs
    assert STOPPER.report(trial, 2, [-1.0, 2.0])  # the first report after rung 1
    assert not STOPPER.report(trial, 2, [2.0, -1.0])
    assert STOPPER.report(trial, 5, [-1.0, 2.0])


def test_failed_trials_and_values_that_are_no_numbers_are_nobodys_peers() -> None:
    study = new_study()
    failed, diverged, last = study.ask(), study.ask(), study.ask()
    assert not STOPPER.report(failed, 1, [1.0, 0.0])
    study.tell(failed, state=TrialState.FAIL)
    assert STOPPER.report(diverged, 1, [float("nan"), 0.0])
    assert not diverged.user_attrs
    assert not STOPPER.report(last, 1, [0.5, 0.5])


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["maximize", "minimize", "minimize"]])
def test_any_objectives_in_any_direction(directions: list[str]) -> None:
    study = optuna.create_study(directions=directions)
    signs = np.array([1 if direction == "maximize" else -1 for direction in directions])
    good, bad, mixed = study.ask(), study.ask(), study.ask()
    assert not STOPPER.report(good, 1, list(1.0 * signs))
    assert STOPPER.report(bad, 1, list(0.0 * signs))
    uneven = list(2.0 * signs * [1, *[-1] * (len(signs) - 1)])
    assert not STOPPER.report(mixed, 1, uneven)


def test_mistakes_are_told() -> None:
    trial = new_study().ask()
    with pytest.raises(UserError, match="got 1 for 2"):
        STOPPER.report(trial, 1, [0.5])
    four = optuna.create_study(directions=["minimize"] * 4).ask()
    with pytest.raises(UserError, match="up to three"):
        STOPPER.report(four, 1, [0.0] * 4)
    for wrong in ({"steps": 0}, {"steps": 9, "eta": 1}, {"steps": 9, "first": 0}, {"steps": 2.5}):
        with pytest.raises(UserError, match="whole number"):
            Stopper(**wrong)  # type: ignore[arg-type]
