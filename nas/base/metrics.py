"""The metrics by which networks are ranked: accuracy, and balanced accuracy for classes of very different sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from nas.base.errors import UserError
from nas.base.units import nearest

METRICS = {"accuracy": "accuracy", "balanced": "balanced_accuracy"}  # value of --metric: column of the tables


@dataclass(frozen=True, kw_only=True)
class Score:
    """The metrics of a classification; shares from 0 to 1, named as the columns of tables.

    accuracy: the share p of the n images whose class is the likeliest (top-1); its standard error from their number is
    sqrt(p (1 - p) / n). balanced_accuracy: the mean of p_c, the accuracies of the C classes that have images; its
    standard error is sqrt(Σ_c p_c (1 - p_c) / n_c) / C.
    """

    accuracy: float
    accuracy_error: float
    balanced_accuracy: float
    balanced_accuracy_error: float

    @classmethod
    def of(cls, right: Sequence[int], images: Sequence[int]) -> Score:
        """From the numbers of correctly classified images and of all images (at least one) of each class."""
        number = sum(images)
        share = sum(right) / number
        classes = [(some / count, count) for some, count in zip(right, images, strict=True) if count]
        return cls(
            accuracy=share,
            accuracy_error=sqrt(share * (1 - share) / number),
            balanced_accuracy=sum(p for p, _ in classes) / len(classes),
            balanced_accuracy_error=sqrt(sum(p * (1 - p) / n for p, n in classes)) / len(classes),
        )


def resolved(metric: str, images: Sequence[int]) -> float:
    """The number of images on which accuracy would have the same granularity as this metric; images: of each class.

    Accuracy is a multiple of 1 / n. A mean of C shares of n_c images, each rounded by itself, is as coarse as one share
    of C / sqrt(Σ_c 1 / n_c²) images.
    """
    counts = [count for count in images if count]
    if metric == "accuracy":
        return sum(counts)
    return len(counts) / sqrt(sum(1 / count**2 for count in counts))


def seed_noise(metric: str, images: Sequence[int], error: float) -> float:
    """The standard deviation of a metric between seeds that follows from the number of validation images alone.

    images: validation images of each class; error: the share of them that is classified wrongly, from 0 to 1. For
    accuracy on n images sqrt(error / 2n) (Jordan 2023, arXiv 2304.01910: trainings that are equally good err on
    different images). Balanced accuracy has the noise of accuracy on C² / Σ_c (1 / n_c) images, if all classes are
    equally hard. If trainings differ in quality too, as short ones may, the noise is larger.
    """
    counts = [count for count in images if count]
    number = sum(counts) if metric == "accuracy" else len(counts) ** 2 / sum(1 / count for count in counts)
    return sqrt(error / (2 * number))


def metric_of(option: str | None, facts: Mapping[str, Any] | None = None) -> str:
    """The column of the metric that --metric names, or else the facts of a run.toml; raises UserError.

    Runs of older versions, which name no metric, used accuracy.
    """
    arguments = (facts or {}).get("arguments")
    saved = str(arguments.get("metric", "accuracy")) if isinstance(arguments, Mapping) else "accuracy"
    chosen = saved if option is None else option
    if chosen not in METRICS:
        where = "run.toml, argument metric" if option is None else "--metric"
        raise UserError(f"{where} {chosen[:40]!r}: {nearest(chosen[:40], METRICS)}")
    return METRICS[chosen]


def option_of(metric: str) -> str:
    """The value of --metric for this column."""
    return next(option for option, column in METRICS.items() if column == metric)


def spoken(metric: str) -> str:
    """The name of a metric in sentences, such as balanced accuracy."""
    return metric.replace("_", " ")
