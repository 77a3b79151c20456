"""The figures' numbers, worked by hand."""

import numpy as np
import pytest
import torch

from bertlens.report.figures import draw_faithfulness, draw_sweep, figures

LABELS = torch.tensor([0, 0, 0, 1, 1])
PROBABILITIES = torch.tensor([[0.92, 0.08], [0.96, 0.04], [0.35, 0.65], [0.25, 0.75], [0.55, 0.45]])


@pytest.fixture(scope="module")
def drawn():
    return figures(LABELS, PROBABILITIES, ["negative", "_positive $x$"])


def test_the_confusion_matrix_counts(drawn):
    axes = drawn["confusion_matrix"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["2", "1", "1", "1"]
    expected = [[(2 / 3) ** 0.5, -((1 / 3) ** 0.5)], [-((1 / 2) ** 0.5), (1 / 2) ** 0.5]]  # wrong cells: below 0
    np.testing.assert_allclose(axes.images[0].get_array(), expected, atol=1e-6)
    assert [text.get_color() for text in axes.texts] == ["white", "black", "white", "white"]  # white on dark
    assert axes.get_title() == "Confusion matrix: 3 of 5 right"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")


def test_wrong_cells_are_warm_and_right_ones_cool(drawn):
    image = drawn["confusion_matrix"].axes[0].images[0]
    red, _, blue, _ = np.moveaxis(image.cmap(image.norm(image.get_array())), 2, 0)
    assert (np.sign(blue - red) == [[1, -1], [-1, 1]]).all()
    few = figures(torch.tensor([0] * 99 + [0, 1]), torch.eye(2)[[0] * 99 + [1, 1]], ["a", "b"])
    image = few["confusion_matrix"].axes[0].images[0]
    colours = image.cmap(image.norm(image.get_array()))
    assert colours[0, 1, 0] - colours[0, 1, 2] > 0.08  # one error in a hundred has a tint
    assert tuple(colours[1, 0, :3]) == pytest.approx((0.97, 0.97, 0.97), abs=0.01)  # no error has none


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


def test_the_calibration_counts_the_reviews_of_each_bin(drawn):
    upper, lower = drawn["calibration"].axes
    assert [bar.get_height() for bar in lower.patches] == [0, 0, 0, 0, 0, 1, 1, 1, 0, 2]
    assert [text.get_text() for text in lower.texts] == ["", "", "", "", "", "1", "1", "1", "", "2"]
    assert lower.patches[9].get_x() == pytest.approx(0.9)
    assert (upper.get_xlim(), lower.get_xlim()) == ((0, 1), (0, 1))


def test_the_roc_leaves_out_a_class_without_reviews(recwarn):
    drawn = figures(LABELS, torch.nn.functional.pad(PROBABILITIES, (0, 1)), ["a", "b", "none"])
    assert [text.get_text() for text in drawn["roc"].axes[0].get_legend().get_texts()] == ["a", "b"]
    assert not recwarn.list


def test_deleted_words_are_a_line_per_method_and_a_band():
    curves = {"a": np.array([[0.5, 0.25]]), "random": np.array([[0.9, 0.6], [0.8, 0.7], [1.0, 0.65]])}
    axes = draw_faithfulness((0.1, 0.5), curves, band="random").axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_xydata(), [(0.1, 0.5), (0.5, 0.25)])
    corners = {tuple(corner) for corner in np.round(axes.collections[0].get_paths()[0].vertices, 2).tolist()}
    assert {(0.1, 0.8), (0.1, 1.0), (0.5, 0.6), (0.5, 0.7)} <= corners
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "random"]


def test_a_sweep_over_one_key_is_a_line_and_a_band_over_the_seeds():
    scores = {"1e-4": (0.80, 0.82), "1e-3": (0.90, 0.94), "2e-5": (0.7, 0.7)}
    rows = [{"optimizer.lr": rate, "val": score} for rate, pair in scores.items() for score in pair]
    [axes] = draw_sweep(rows, ["optimizer.lr"], "val").axes
    assert axes.get_xscale() == "log"
    assert axes.lines[0].get_xdata().tolist() == [2e-5, 1e-4, 1e-3]
    assert axes.lines[0].get_ydata() == pytest.approx([0.7, 0.81, 0.92])
    [band] = axes.collections
    assert band.get_datalim(axes.transData).y1 == pytest.approx(0.94)


def test_a_sweep_over_words_has_their_names_and_one_over_two_keys_is_a_heat_map():
    rows = [{"cut": cut, "layers": layers, "val": 0.8} for cut in ("head", "tail") for layers in ("1", "2", "10")]
    [axes] = draw_sweep(rows, ["cut"], "val").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["head", "tail"]
    axes, _ = draw_sweep(rows[:-1], ["cut", "layers"], "val").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "10"]
    [image] = axes.images
    assert image.get_array().filled(-1).tolist() == [[0.8] * 3, [0.8, 0.8, -1]]
