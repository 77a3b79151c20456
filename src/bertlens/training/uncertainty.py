"""How far the figures of a test can be trusted: intervals, calibration, and two classifiers on the same reviews.

Intervals hold at 95 % and cover the drawing of the test reviews only: another seed moves an accuracy as well.

Shapes: R reviews, C classes, S resamples.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Interval = tuple[float, float]

Z = NormalDist().inv_cdf(0.975)
NUM_BINS = 15  # of the calibration error
NUM_BATCHES, RESAMPLES_PER_BATCH = 50, 20
FEWEST_DISCORDANT = 25  # fewer, and McNemar's test is exact
TEMPERATURES = (0.25, 16.0)  # few reviews, all predicted right, would make it 0


def intervals(labels: Tensor, probabilities: Tensor) -> dict[str, Interval]:
    """Return the intervals of accuracy, F1 and AUROC by metric; without those that a split's classes leave undefined.

    labels [R], probabilities [R, C].
    """
    found = {"accuracy": wilson(int((probabilities.argmax(dim=1) == labels).sum()), len(labels))}
    found |= bootstrap(labels, probabilities)
    return {name: interval for name, interval in found.items() if all(map(math.isfinite, interval))}


def wilson(num_right: int, num_reviews: int) -> Interval:
    """Return the interval of a share (Wilson 1927)."""
    share, spread = num_right / num_reviews, Z * Z / num_reviews
    half = Z * math.sqrt((share * (1 - share) + spread / 4) / num_reviews)
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


def bootstrap(labels: Tensor, probabilities: Tensor) -> dict[str, Interval]:
    """Return the percentile intervals of the macro F1 and the AUROC (Efron 1979), by metric.

    Reviews are not sorted anew for each resample: it only counts how often it has each of them.
    """
    random, num_reviews = np.random.default_rng(0), len(labels)
    one_hot = [F.one_hot(each, probabilities.shape[1]).numpy() for each in (labels, probabilities.argmax(dim=1))]
    is_label, is_predicted = one_hot
    curves = []
    for index in [1] if probabilities.shape[1] == 2 else sorted(set(labels.tolist())):
        scores = probabilities[:, index].numpy()
        order = np.argsort(-scores, kind="stable")
        curves.append((order, np.flatnonzero(np.diff(scores[order], append=np.nan)), is_label[order, index]))
    values: dict[str, list[float]] = {"f1": [], "auroc": []}
    with np.errstate(invalid="ignore"):
        for _ in range(NUM_BATCHES):
            drawn = random.integers(num_reviews, size=(RESAMPLES_PER_BATCH, num_reviews))
            counts = np.stack([np.bincount(rows, minlength=num_reviews) for rows in drawn])  # [S, R]
            f1 = 2 * (counts @ (is_label * is_predicted)) / (counts @ (is_label + is_predicted))
            areas = []
            for order, ends, is_positive in curves:
                ordered = np.pad(counts[:, order], ((0, 0), (1, 0)))
                places = np.append(0, ends + 1)  # equal scores make one step of the curve
                positive = np.cumsum(ordered * np.append(0, is_positive), axis=1)[:, places]
                negative = np.cumsum(ordered, axis=1)[:, places] - positive
                areas.append(np.trapezoid(positive, negative, axis=1) / (positive[:, -1] * negative[:, -1]))
            values["f1"] += np.nanmean(f1, axis=1).tolist()
            values["auroc"] += np.mean(areas, axis=0).tolist()
    return {name: (float(low), float(high)) for name, found in values.items() for low, high in [_middle(found)]}


def _middle(values: list[float]) -> list[float]:
    finite = [value for value in values if math.isfinite(value)]  # a resample may lack a class
    return np.quantile(finite, [0.025, 0.975]).tolist() if finite else [math.nan, math.nan]


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return log-loss, Brier score and expected calibration error of logits [R, C].

    The Brier score of two classes is the squared error of one of them, as scikit-learn's. The calibration error
    (Guo et al. 2017) has bins of equal mass.
    """
    probabilities = logits.double().softmax(dim=1)
    squares = (probabilities - F.one_hot(labels, probabilities.shape[1])).square().sum(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    order = confidence.argsort(stable=True)
    excess = (confidence - (predicted == labels).double())[order]
    bins = torch.tensor_split(excess, NUM_BINS)
    return {
        "loss": F.cross_entropy(logits, labels),
        "brier": squares.mean() / (2 if probabilities.shape[1] == 2 else 1),
        "calibration_error": torch.stack([each.sum().abs() for each in bins]).sum() / len(labels),
    }


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the number by which dividing logits [R, C] lowers the log-loss most (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits.double() / math.exp(log_temperature), labels))

    return math.exp(minimize_scalar(loss, bounds=tuple(map(math.log, TEMPERATURES)), method="bounded").x)


class Comparison(NamedTuple):
    """Two classifiers on the same reviews."""

    difference: float
    """The accuracy of one minus that of the other."""
    interval: Interval
    """Of the difference (Bonett & Price 2012)."""
    p: float
    """McNemar's, with continuity correction; exact below 25 reviews that only one classifier predicts right."""
    num_only_one: int
    num_only_other: int


def compare(one: Tensor, other: Tensor) -> Comparison:
    """Compare classifiers by which reviews [R] each predicts right."""
    num, first, second = len(one), int((one & ~other).sum()), int((other & ~one).sum())
    discordant = first + second
    if discordant < FEWEST_DISCORDANT:
        tail = sum(math.comb(discordant, count) for count in range(min(first, second) + 1))
        p = min(1.0, 2 * tail / 2**discordant)
    else:
        p = math.erfc((max(0, abs(first - second) - 1)) / math.sqrt(2 * discordant))
    shares = (first + 1) / (num + 2), (second + 1) / (num + 2)
    middle = shares[0] - shares[1]
    half = Z * math.sqrt((sum(shares) - middle**2) / (num + 2))
    interval = max(-1.0, middle - half), min(1.0, middle + half)
    return Comparison((first - second) / num, interval, p, first, second)
