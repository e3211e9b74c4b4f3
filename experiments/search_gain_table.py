"""Is what a search picks better than what one would have taken without it? On ImageNet, as Accel-NASBench recorded it.

    python experiments/search_gain_table.py run [--seeds 50]
    python experiments/search_gain_table.py report

`experiments/search_gain` trains real networks, and few searches; here trainings are looked up (trees fitted to the
published table), so there are many. A search is that of `python -m nas.search`: 12 or 24 networks of at most B0's
MAdds, B0 first, by two objectives; then one repeat of each that may be the pick; then, of those that cannot be told
from the most accurate, B0, else the cheapest. A training's accuracy has noise, in units of the deviation of random
networks at equal MAdds. The arms: a random network within 5 % of the pick's MAdds; the best of as many random networks,
repeated and picked alike; Optuna's TPE with as many trainings, which picks what it measured best; the cheapest that
cannot be told from the most accurate, published or not, of our own trials; B0 itself. `run` adds a row per search to
experiments/search_gain_table/results.csv and repeats none; `report` writes gain.png and RESULT.md.
"""

from __future__ import annotations

import argparse
import platform
import warnings
from datetime import date
from functools import partial
from importlib import metadata
from itertools import product
from pathlib import Path
from textwrap import fill

import numpy as np
import optuna
from benchmarks import Code
from matplotlib.figure import Figure
from optuna.samplers import TPESampler
from rows import append, kept
from sampler_regime import Budget, accel
from scipy import stats

from nas import Sampler
from nas.base.arrays import Floats, Ints
from nas.base.machine import available_cores
from nas.selection.noise import Noise, pooled_noise
from nas.selection.pareto import indistinguishable, pick_within
from nas.selection.posterior import posterior

OUT = Path(__file__).resolve().parent / "search_gain_table"
NETWORKS, NOISES = (12, 24), (0.5, 1.0)
MOST, PRIOR, NEAR = 6, 3, 0.05  # contenders that are repeated, degrees of freedom of the prior noise, equal MAdds
_STAGES = ((0, 0, 1), (2, 0, 2), (2, 1, 2), (2, 0, 3), (2, 1, 3), (2, 1, 4), (2, 0, 1))
B0 = tuple(choice for e, k, layers in _STAGES for choice in (e, k, layers - 1, 1))  # expansion, kernel, layers, SE
ARMS = {
    "random": "a random network",
    "best random": "the best of as many random",
    "tpe": "TPE's best",
    "cheapest": "our cheapest",
    "b0": "B0",
}


def budget() -> Budget:
    """At most the MAdds of B0."""
    return Budget(accel, 0, float(accel().costs(np.array([B0]))[0, 0]))


def truth(codes: Ints) -> Floats:
    return accel().accuracy(codes)


def proposed(limits: Budget, count: int, noise: float, seed: int, name: str) -> tuple[Ints, Floats]:
    """The networks of a search and their measured accuracies; the noise of the n-th is the same for all searches."""
    space, rng, noises = accel(), np.random.default_rng(seed), np.random.default_rng([seed, 1])
    names = list(space.distributions)

    def fits(code: tuple[int, ...]) -> bool:
        return bool(limits.over(np.array([code]))[0] <= 0)

    def cost(which: int, params: dict[str, int]) -> float:
        return float(space.costs(np.array([tuple(params.values())]))[0, which])

    def measured(codes: list[tuple[int, ...]]) -> float:
        return float(truth(np.array(codes[-1:]))[0] + noise * noises.standard_normal())

    codes: list[tuple[int, ...]] = []
    if name == "random":
        drawn = np.unique(limits.draw(2 * count, rng), axis=0)
        codes = [tuple(code) for code in rng.permutation(drawn)[:count].tolist()]
        return np.array(codes), np.array([measured(codes[: i + 1]) for i in range(count)])
    values: list[float] = []
    if name == "ours":
        sampler = Sampler(
            seed,
            feasible=lambda params: fits(tuple(params.values())),
            known={1 + i: partial(cost, i) for i in space.features},
            search_space=space.distributions,
            draw=lambda n, rng: [dict(zip(names, code, strict=True)) for code in limits.draw(n, rng).tolist()],
            decisive=0,
        )
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        study.enqueue_trial(dict(zip(names, B0, strict=True)))
    else:
        tpe = TPESampler(seed=seed, multivariate=True, constraints_func=lambda trial: (trial.user_attrs["over"],))
        study = optuna.create_study(direction="maximize", sampler=tpe)
    while len(codes) < count:
        trial = study.ask(space.distributions)
        code = tuple(trial.params[one] for one in names)
        new = fits(code) and code not in codes
        trial.set_user_attr("over", float(limits.over(np.array([code]))[0]))
        if new:
            codes.append(code)
            values.append(measured(codes))
        value = values[codes.index(code)] if code in codes else 0.0
        study.tell(trial, [value, float(space.costs(np.array([code]))[0, 0])] if name == "ours" else value)
    return np.array(codes), np.array(values)


def picked(limits: Budget, codes: Ints, values: Floats, noise: float, seed: int, known: Code = ()) -> int:
    """The index of the network that the search picks, after a repeat of each that may be the pick; known: published."""
    space, rng = accel(), np.random.default_rng([seed, 2])
    costs, runs = space.costs(codes)[:, list(space.features)], np.ones(len(codes))
    published = [tuple(code) == known for code in codes.tolist()]
    repeats: dict[int, list[float]] = {i: [value] for i, value in enumerate(values)}

    def believed() -> tuple[Floats, Floats]:
        shown = pooled_noise(repeats.values())
        freedom = shown.freedom if shown else 0
        variance = (PRIOR * noise**2 + (shown.variance * freedom if shown else 0.0)) / (PRIOR + freedom)
        means = np.array([np.mean(repeats[i]) for i in range(len(codes))])
        found = posterior(codes, space.sizes, costs, means, runs, Noise(variance, PRIOR + freedom))
        return found.mean, found.covariance

    mean, covariance = believed()
    level = np.flatnonzero(indistinguishable(mean, covariance, costs[:, 0], limits.limit))
    again = {
        *level[np.argsort(-mean[level])[:MOST]].tolist(),
        pick_within(mean, covariance, costs[:, 0], limits.limit, published),
    }
    for i in sorted(again):
        repeats[i].append(float(truth(codes[i : i + 1])[0] + noise * rng.standard_normal()))
        runs[i] += 1
    return pick_within(*believed(), costs[:, 0], limits.limit, published)


def run(seeds: int) -> None:
    """Add to results.csv what it lacks."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    OUT.mkdir(exist_ok=True)
    limits = budget()
    deviation = limits.facts[1]
    known = kept(OUT, "results.csv")
    for seed, count, level in product(range(seeds), NETWORKS, NOISES):
        if len(known) and ((known["seed"] == seed) & (known["networks"] == count) & (known["noise"] == level)).any():
            continue
        noise = level * deviation
        codes, values = proposed(limits, count, noise, seed, "ours")
        mine = codes[picked(limits, codes, values, noise, seed, B0)]
        cost = float(accel().costs(mine[None])[0, 0])
        near = limits.draw(2000, np.random.default_rng([seed, 3]))
        near = near[np.abs(accel().costs(near)[:, 0] / cost - 1) <= NEAR][:1]
        random, measured = proposed(limits, count, noise, seed, "random")
        peers, scores = proposed(limits, count + MOST, noise, seed, "tpe")  # the repeats' trainings are networks to it
        arms = {
            "ours": mine[None],
            "random": near,
            "best random": random[[picked(limits, random, measured, noise, seed)]],
            "tpe": peers[[np.argmax(scores)]],
            "cheapest": codes[[picked(limits, codes, values, noise, seed)]],
            "b0": np.array([B0]),
        }
        row = {"seed": seed, "networks": count, "noise": level}
        for name, chosen in arms.items():
            row |= {f"{name} accuracy": truth(chosen)[0], f"{name} madds": accel().costs(chosen)[0, 0]}
        append(OUT / "results.csv", row, "%.6g")


def report() -> None:
    """Write gain.png and RESULT.md."""
    table, limits = kept(OUT, "results.csv"), budget()
    best, deviation = limits.facts
    lines = [
        "| networks | noise | against | gain, points | ahead, behind in | MAdds of the other / of the pick |",
        "|---" * 6 + "|",
    ]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.6", linewidth=1)
    for shift, (count, noise) in enumerate(product(NETWORKS, NOISES)):
        part = table[(table["networks"] == count) & (table["noise"] == noise)]
        for i, (arm, words) in enumerate(ARMS.items()):
            gain = part["ours accuracy"] - part[f"{arm} accuracy"]
            half = stats.t.ppf(0.975, len(gain) - 1) * gain.sem()
            ratio = (part[f"{arm} madds"] / part["ours madds"]).mean()
            ahead, behind = (100 * share.mean() for share in (gain > 0, gain < 0))
            lines.append(
                f"| {count} | {noise:g} | {words} | {gain.mean():+.2f} ± {half:.2f} | {ahead:.0f} %, {behind:.0f} % | "
                f"{ratio:.2f} |"
            )
            label = f"{count} networks, noise {noise:g}" if i == 0 else None
            axes.errorbar(i + (shift - 1.5) / 8, gain.mean(), half, fmt="o", color=f"C{shift}", capsize=3, label=label)
    axes.set_xticks(range(len(ARMS)), [fill(words, 16) for words in ARMS.values()])
    axes.set_ylabel("true accuracy of the pick\nless that of the other, points")
    axes.legend(fontsize="small")
    figure.savefig(OUT / "gain.png", dpi=120)
    regrets = [
        f"{count} networks, noise {noise:g}: {best - part['ours accuracy'].mean():.2f}"
        for (count, noise), part in table.groupby(["networks", "noise"])[["ours accuracy"]]
    ]
    text = [
        "# Search gain on ImageNet, by a published table",
        "",
        f"Networks of at most B0's {limits.limit:.0f}M MAdds in Accel-NASBench's space, asked through trees fitted to "
        f"the table; noise of one training in units of {deviation:.2f} points, the deviation of random networks at "
        f"equal MAdds. Mean over {table['seed'].nunique()} search seeds ± 95 % (Student's t over searches). "
        "Accuracies are the true ones.",
        "",
        *lines,
        "",
        "Below the best known network within the budget (points): "
        + "; ".join(regrets)
        + f". TPE trains {MOST} networks more, which stand for our repeats.",
        "",
        "![gain](gain.png)",
        "",
        f"{platform.machine()}, {available_cores()} shared cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {metadata.version(name)}" for name in ("optuna", "numpy", "scikit-learn"))
        + f", {date.today()}.",
    ]
    (OUT / "RESULT.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--seeds", type=int, default=50)
    given = parser.parse_args()
    run(given.seeds) if given.what == "run" else report()
