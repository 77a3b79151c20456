"""The figures' numbers, worked by hand."""

import numpy as np
import pytest
import torch

from bertlens.report.figures import figures

LABELS = torch.tensor([0, 0, 0, 1, 1])
PROBABILITIES = torch.tensor([[0.92, 0.08], [0.96, 0.04], [0.35, 0.65], [0.25, 0.75], [0.55, 0.45]])


@pytest.fixture(scope="module")
def drawn():
    return figures(LABELS, PROBABILITIES, ["negative", "_positive $x$"])


def test_the_confusion_matrix_counts(drawn):
    axes = drawn["confusion_matrix"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["2", "1", "1", "1"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[2 / 3, 1 / 3], [1 / 2, 1 / 2]], atol=1e-6)
    # white on dark: only a share above a half
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "black"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")


def test_the_roc_of_two_classes_is_one_curve(drawn):
    axes = drawn["roc"].axes[0]
    curve = axes.get_lines()[1]
    # by falling probability of the second class: .75 (1), .65 (0), .45 (1), .08 (0), .04 (0)
    expected = [(0, 0), (0, 1 / 2), (1 / 3, 1 / 2), (1 / 3, 1), (2 / 3, 1), (1, 1)]
    np.testing.assert_allclose(curve.get_xydata(), expected, atol=1e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [r"_positive \$x\$"]


def test_the_calibration_is_accuracy_by_confidence(drawn):
    line = drawn["calibration"].axes[0].get_lines()[1]
    # confidences .55 wrong, .65 wrong, .75 right, and .92 and .96 right in one bin
    np.testing.assert_allclose(line.get_xydata(), [(0.55, 0), (0.65, 0), (0.75, 1), (0.94, 1)], atol=1e-6)
