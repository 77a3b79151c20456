"""Intervals, calibration and comparisons: against SciPy, scikit-learn and numbers worked by hand."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score

from bertlens.training.uncertainty import (
    TEMPERATURES,
    bootstrap,
    calibration,
    compare,
    fit_temperature,
    intervals,
    wilson,
)


def drawn(num_reviews: int, num_classes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels [R] and probabilities [R, C] that are mostly right, with many equal scores."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num_reviews,), generator=generator)
    logits = torch.randn(num_reviews, num_classes, generator=generator)
    logits[range(num_reviews), labels] += 1
    return labels, (logits * 2).round().softmax(dim=1)


@pytest.mark.parametrize(("num_right", "num_reviews"), [(0, 5), (7, 7), (3, 10), (22872, 25000)])
def test_wilson_is_scipys(num_right, num_reviews):
    expected = scipy.stats.binomtest(num_right, num_reviews).proportion_ci(method="wilson")
    assert wilson(num_right, num_reviews) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_bootstrap_is_scipys(num_classes):
    labels, probabilities = drawn(300, num_classes)

    def f1(rows):
        return f1_score(labels[rows], probabilities[rows].argmax(dim=1), average="macro")

    def auroc(rows):
        scores = probabilities[rows, 1] if num_classes == 2 else probabilities[rows].double()
        return roc_auc_score(labels[rows], scores, multi_class="ovr")

    found = bootstrap(labels, probabilities)
    for name, statistic in (("f1", f1), ("auroc", auroc)):
        rows = (np.arange(300),)
        expected = scipy.stats.bootstrap(rows, statistic, n_resamples=400, method="percentile", vectorized=False, rng=1)
        assert found[name] == pytest.approx(tuple(expected.confidence_interval), abs=0.012)
        assert found[name][0] < statistic(rows[0]) < found[name][1]


def test_what_one_class_leaves_undefined_is_left_out():
    _, probabilities = drawn(20)
    assert set(intervals(torch.zeros(20, dtype=torch.long), probabilities)) == {"accuracy", "f1"}


def test_calibration_is_worked_by_hand_and_scikit_learns():
    # 30 reviews in 15 bins of 2: confidences .8, all right; the last bin .9, one right
    confidence = torch.tensor([0.8] * 28 + [0.9] * 2, dtype=torch.float64)
    labels = torch.tensor([1] * 29 + [0])
    logits = torch.stack([(1 - confidence).log(), confidence.log()], dim=1)
    found = calibration(logits, labels)
    assert float(found["calibration_error"]) == pytest.approx((28 * 0.2 + 2 * 0.4) / 30)
    assert float(found["brier"]) == pytest.approx(brier_score_loss(labels, confidence))
    assert float(found["loss"]) == pytest.approx(-(28 * math.log(0.8) + math.log(0.9) + math.log(0.1)) / 30)


def test_the_temperature_undoes_a_factor_and_keeps_within_bounds():
    labels = torch.arange(2).repeat(500)
    share = torch.sigmoid(torch.tensor(1.5))
    right = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < share
    logits = torch.where((labels == 1) == right, 1.0, -1.0)[:, None] * torch.tensor([-3.0, 3.0])
    # logits of ±3 mean a confidence of sigmoid(6), and right are about sigmoid(1.5)
    rate = float(right.float().mean())
    assert fit_temperature(logits, labels) == pytest.approx(6 / math.log(rate / (1 - rate)), rel=1e-3)
    assert fit_temperature(logits[right], labels[right]) == pytest.approx(TEMPERATURES[0], rel=1e-3)


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.tensor([both, first, second, neither])
    right = torch.tensor([[True, True], [True, False], [False, True], [False, False]]).repeat_interleave(counts, dim=0)
    return right[:, 0], right[:, 1]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (12, 12), (20, 4)])
def test_mcnemar_is_exact_below_25(first, second):
    expected = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert compare(*outcomes(50, first, second, 10)).p == pytest.approx(expected)


def test_mcnemar_is_corrected_chi_squared_from_25_on():
    # Agresti, Categorical Data Analysis: 150 and 86 discordant of 1,600
    found = compare(*outcomes(794, 150, 86, 570))
    assert found.p == pytest.approx(scipy.stats.chi2.sf((abs(150 - 86) - 1) ** 2 / (150 + 86), df=1))
    assert found.difference == pytest.approx(0.04)
    assert found.interval == pytest.approx((0.0211, 0.0588), abs=2e-4)
    assert (found.num_only_one, found.num_only_other) == (150, 86)
    assert compare(*outcomes(9, 13, 12, 9)).p == 1.0  # no difference but that of chance
