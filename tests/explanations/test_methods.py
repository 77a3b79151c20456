"""The methods' numbers, worked by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bertlens.explanations.methods import METHODS, ReviewPass, attention, attention_rollout, rollout

# first layer: the mean of the heads is [[0, .5, .5], [.5, .5, 0], [0, 0, 1]],
# and half of it with half the identity is [[.5, .25, .25], [.25, .75, 0], [0, 0, 1]]
FIRST = [[[0, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [0, 0, 1]]]
# second layer: the same comes to [[.5, .5, 0], [0, .5, .5], [.5, 0, .5]]
SECOND = [[[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]]


def passed(*layers: Any, every_layer: bool) -> ReviewPass:
    classifier: Any = SimpleNamespace(num_layers=2)
    return ReviewPass(
        classifier=classifier,
        input_ids=torch.arange(3),
        probabilities=np.array([0.25, 0.75], dtype=np.float32),
        attentions=[np.array(layer, dtype=np.float32) for layer in layers],
        every_layer=every_layer,
    )


def test_rollout_of_two_layers_and_three_tokens_worked_by_hand() -> None:
    reached = attention_rollout(np.array([FIRST, SECOND], dtype=np.float32))
    # second times first; the first row: .5 * [.5, .25, .25] + .5 * [.25, .75, 0]
    np.testing.assert_allclose(reached, [[0.375, 0.5, 0.125], [0.125, 0.375, 0.5], [0.25, 0.125, 0.625]], atol=1e-7)


def test_rollout_normalizes_rows_that_do_not_sum_to_one() -> None:
    # of half the attention, half is .25; with half the identity the rows sum to .75: [[.5, .25], [.25, .5]] / .75
    np.testing.assert_allclose(attention_rollout(np.array([[[[0, 0.5], [0.5, 0]]]])), [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])


def test_attention_of_the_last_layer() -> None:
    rows = attention(passed([[[0.5, 0.25, 0.25]], [[0.1, 0.2, 0.7]]], every_layer=False))
    assert {row.method.name for row in rows} == {"Attention, layer 2"}
    assert [row.name for row in rows] == ["Mean of the heads", "Head 1", "Head 2"]
    expected = [[0.3, 0.225, 0.475], [0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]
    np.testing.assert_allclose([row.values for row in rows], expected, atol=1e-7)
    assert all(row.method.summed and not row.method.signed for row in rows)


def test_attention_of_every_layer_begins_with_the_last() -> None:
    rows = attention(passed(FIRST, SECOND, every_layer=True))
    assert [row.method.name for row in rows[::3]] == ["Attention, layer 2", "Attention, layer 1"]
    np.testing.assert_array_equal(rows[1].values, SECOND[0][0])
    np.testing.assert_array_equal(rows[5].values, FIRST[1][0])


def test_rollout_needs_every_layer() -> None:
    assert rollout(passed(SECOND, every_layer=False)) == []
    [row] = rollout(passed(FIRST, SECOND, every_layer=True))
    np.testing.assert_allclose(row.values, [0.375, 0.5, 0.125], atol=1e-7)


def test_each_method_says_what_its_numbers_mean() -> None:
    for method in METHODS:
        for row in method(passed(FIRST, SECOND, every_layer=True)):
            assert row.method.sentence.endswith(".")
            assert row.values.dtype == np.float32
            assert row.values.base is None or row.values.base.size < 18  # no view of a whole map
