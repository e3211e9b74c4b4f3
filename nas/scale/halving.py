"""Successive halving over networks, and whether the winner differs from the others by more than noise.

Pure functions of what is known: nothing here trains or keeps a state.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import mean
from typing import Generic, TypeVar

from scipy import stats

from nas.selection.noise import pooled_noise
from nas.training.proxy import Job

FINALISTS = 3  # the winner, the runner-up, and the paper's
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Network:
    """A network and the image size in pixels that it is trained at."""

    architecture: str
    image_size: int

    def job(self, epochs: int, seed: int) -> Job:
        """Its training for a number of epochs from a seed."""
        return Job(self.architecture, seed, self.image_size, epochs)


@dataclass(frozen=True)
class SuccessiveHalving:
    """Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) with a final of several seeds.

    All networks are trained for `epochs`, the better half for twice as long, and so on while more than twice FINALISTS
    are left; the best FINALISTS then train from `seeds` fresh seeds, so that the luck of earlier trainings does not
    count. always_kept: a network that is kept to the end, whatever its accuracy. Networks are distinct.
    """

    networks: tuple[Network, ...]
    always_kept: Network | None
    epochs: int
    seed: int
    seeds: int

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """How many networks are trained for how many epochs; none if all are finalists."""
        size, epochs = len(self.networks), self.epochs
        found = [(size, epochs)] if size > FINALISTS else []
        while (size := size // 2) > 2 * FINALISTS:
            epochs *= 2
            found.append((size, epochs))
        return found

    @property
    def final_epochs(self) -> int:
        """Epochs of the final: those of the last rung."""
        return self.rungs[-1][1] if self.rungs else self.epochs

    @property
    def total(self) -> int:
        """Trainings if none fails."""
        return sum(size for size, _ in self.rungs) + self.seeds * min(FINALISTS, len(self.networks))

    def stages(self, known: Mapping[Job, float | None]) -> list[dict[Network, list[Job]]]:
        """The jobs of each network in each stage that the known accuracies lead to: the rungs, then the final."""
        alive, stages = list(self.networks), []
        for size, epochs in self.rungs:
            alive = self._best(alive, size)
            stages.append({network: [network.job(epochs, self.seed)] for network in alive})
            scores = {network: known.get(jobs[0]) for network, jobs in stages[-1].items()}
            if any(network.job(epochs, self.seed) not in known for network in alive):
                return stages
            done = {network: score for network, score in scores.items() if score is not None}
            alive = sorted(done, key=lambda network: -done[network])
        seeds = range(self.seed + 1, self.seed + 1 + self.seeds)
        finalists = self._best(alive, FINALISTS)
        return [*stages, {network: [network.job(self.final_epochs, seed) for seed in seeds] for network in finalists}]

    def plan(self, known: Mapping[Job, float | None]) -> list[Job]:
        """All jobs that the known accuracies lead to, in the order of training: seed by seed in the final."""
        return [job for stage in self.stages(known) for jobs in zip(*stage.values(), strict=True) for job in jobs]

    def _best(self, ranked: list[Network], size: int) -> list[Network]:
        """The first `size` networks; `always_kept` replaces the last of them if it is not among them."""
        kept = ranked[:size]
        if self.always_kept in ranked and self.always_kept not in kept:
            kept[-1] = self.always_kept
        return kept


@dataclass(frozen=True)
class Gap(Generic[Name]):
    """The mean score of one minus that of another, with a 95 % interval of the noise between trainings."""

    one: Name
    other: Name
    difference: float
    margin: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.difference) > self.margin


def gap(scores: Mapping[Name, Sequence[float]], one: Name, other: Name) -> Gap[Name]:
    """Compare two by Student's t, with the noise of a training pooled over all; the margin is infinite if unknown.

    scores: accuracies of trainings from different seeds on the same validation images, one or more for each name.
    """
    deviation, freedom = noise(scores)
    spread = deviation * sqrt(1 / len(scores[one]) + 1 / len(scores[other]))
    margin = float(stats.t.ppf(0.975, freedom)) * spread if freedom else inf
    return Gap(one, other, mean(scores[one]) - mean(scores[other]), margin)


def error(scores: Mapping[Name, Sequence[float]], one: Name) -> float:
    """The standard error of one's mean accuracy, by the same noise."""
    return noise(scores)[0] / sqrt(len(scores[one]))


def margin(scores: Mapping[Name, Sequence[float]], one: Name) -> float:
    """Half the 95 % interval of one's mean accuracy, by the same noise; infinite if that is unknown."""
    _, freedom = noise(scores)
    return float(stats.t.ppf(0.975, freedom)) * error(scores, one) if freedom else inf


def noise(scores: Mapping[Name, Sequence[float]]) -> tuple[float, int]:
    """Standard deviation between trainings of one network, pooled over all, and its degrees of freedom (0: unknown)."""
    found = pooled_noise(scores.values())
    return (sqrt(found.variance), found.freedom) if found else (inf, 0)
