"""Deletions and their numbers, worked by hand on a classifier whose answer is a sum over words."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bertlens.errors import InputError
from bertlens.explanations import faithfulness
from bertlens.explanations.explainer import ExplainedReview
from bertlens.explanations.faithfulness import (
    check_by_hand,
    delete_words,
    holm,
    only,
    random_orders,
    rank_words,
    summarize,
    table,
    without,
    write_findings,
)
from bertlens.explanations.methods import Method, MethodRow
from bertlens.explanations.words import Word

CLS, SEP, MASK, STOP = 101, 102, 103, 104
METHOD = Method(name="any", sentence="", signed=True, summed=False)


class Summing:
    """Say "positive" with the sigmoid of the sum of the pieces' weights; a piece's weight is its id less 1000."""

    tokenizer = SimpleNamespace(mask_id=MASK)
    label_names = ("negative", "positive")

    def __init__(self):
        self.asked = []

    def run(self, ids):
        self.asked += ids
        assert all(copy[0] == CLS and copy[-1] == SEP for copy in ids)
        sums = np.array([sum(piece - 1000 for piece in copy if piece > 200) for copy in ids], dtype=float)
        positive = 1 / (1 + np.exp(-sums))
        return np.stack([1 - positive, positive], axis=1).astype(np.float32)


def explained(weights, *, values=None, index=0, label=1, stop=True):
    """A review of one-piece words with these weights, and a full stop."""
    words = [f"w{number}" for number in range(len(weights))]
    text = " ".join(words) + (" ." if stop else "")
    starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
    offsets = [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]
    tokens, ids = list(words), [1000 + weight for weight in weights]
    if stop:
        offsets, tokens, ids = [*offsets, (len(text) - 1, len(text))], [*tokens, "."], [*ids, STOP]
    given = np.array([0, *(weights if values is None else values), *[99] * stop, 0], dtype=np.float32)
    return ExplainedReview(
        index=index,
        text=text,
        label=label,
        probabilities=Summing().run([[CLS, *ids, SEP]])[0],
        contrast=0,
        ids=[CLS, *ids, SEP],
        tokens=["[CLS]", *tokens, "[SEP]"],
        offsets=[(0, 0), *offsets, (0, 0)],
        rows=[MethodRow(METHOD, "any", given)],
    )


def test_edits_keep_cls_and_sep_and_the_order_of_what_stays():
    ids, words = [CLS, 1, 2, 3, 4, SEP], [Word(3, 5, 0, 0), Word(1, 2, 0, 0)]
    assert without(ids, words) == [CLS, 2, SEP]
    assert without(ids, words, MASK) == [CLS, MASK, 2, MASK, MASK, SEP]
    assert only(ids, words) == [CLS, 1, 3, 4, SEP]
    assert only(ids, words, MASK) == [CLS, 1, MASK, 3, 4, SEP]
    assert without(ids, []) == ids
    assert only(ids, []) == [CLS, SEP]


def test_words_are_ranked_largest_first_and_ties_by_a_seed():
    review = explained([1, 5, 3])
    assert rank_words(review, review.rows[0].values).tolist() == [1, 2, 0]  # without the full stop, which has 99
    drawn = {tuple(rank_words(tied, tied.rows[0].values)) for tied in (explained([1] * 4, index=i) for i in range(40))}
    assert len(drawn) > 12
    again = explained([1] * 4, index=7)
    assert len({tuple(rank_words(again, again.rows[0].values)) for _ in range(3)}) == 1


def test_random_orders_do_not_depend_on_the_order_given():
    orders = random_orders(np.array([4, 2, 9]), seed=3)
    assert orders.shape == (10, 3)
    assert (np.sort(orders, axis=1) == [2, 4, 9]).all()
    np.testing.assert_array_equal(orders, random_orders(np.array([9, 4, 2]), seed=3))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def test_deletion_is_what_is_left_of_the_probability():
    weights = [4, 3, *[0] * 17, -2]
    review, explainer = explained(weights), Summing()
    scores = delete_words(explainer, review, rank_words(review, review.rows[0].values)[None])
    full = sigmoid(5)
    # of 20 words: 1, 1, 2, 4 and 10
    left = sigmoid([1, 1, -2, -2, -2])
    assert scores["comprehensiveness, drop"] == pytest.approx(np.mean(full - left), abs=1e-6)
    assert scores["comprehensiveness, mask"] == pytest.approx(np.mean(full - left), abs=1e-6)
    assert scores["comprehensiveness, drop, log-odds"] == pytest.approx(np.mean([4, 4, 7, 7, 7]), abs=1e-4)
    kept = sigmoid([4, 4, 7, 7, 7])
    assert scores["sufficiency, drop"] == pytest.approx(np.mean(full - kept), abs=1e-6)
    assert scores["sufficiency, mask"] == pytest.approx(np.mean(full - kept), abs=1e-6)
    assert scores["flips at"] == 0.1  # the first share of two words
    assert scores["accuracy, drop, 10%"] == 0
    expected = sigmoid([1, 1, 1, -2, -2, -2, -2, -2, -2, -2])  # 1, 1, 1, 2, 3, 4, 6, 10, 14 and 18 words
    np.testing.assert_allclose(scores["curve"][0], expected, atol=1e-6)
    assert {len(copy) for copy in explainer.asked} >= {23, 22, 4, 3}  # masks keep the length


def test_a_prediction_that_stays_never_flips():
    review = explained([0] * 9 + [1])
    scores = delete_words(Summing(), review, rank_words(review, -review.rows[0].values)[None])
    assert np.isinf(scores["flips at"]).all()


def test_only_some_orders_are_masked():
    review = explained([1, 2, 3, 4])
    orders = random_orders(rank_words(review, review.rows[0].values), seed=0)
    scores = delete_words(Summing(), review, orders, num_masked=2)
    assert {len(values) for name, values in scores.items() if "mask" in name} == {2}
    assert {len(values) for name, values in scores.items() if "mask" not in name} == {10}


def test_a_review_without_a_word():
    review = explained([])
    scores = delete_words(Summing(), review, rank_words(review, review.rows[0].values)[None])
    assert scores["comprehensiveness, drop"] == pytest.approx(0, abs=1e-6)


def test_the_check_by_hand(monkeypatch):
    monkeypatch.setattr(faithfulness, "_agreement", lambda *_: 0.5)
    review = explained([1, 5, *[0] * 5, 3])
    check = check_by_hand(Summing(), review)
    assert check.order[:3] == [1, 7, 0]
    assert check.random_counts == [1, 2, 5]
    assert check.removed.shape == check.kept.shape == (9, 2)
    np.testing.assert_allclose(check.removed[:4, 1], sigmoid([9, 4, 1, 0]), atol=1e-6)
    np.testing.assert_allclose(check.kept[:4, 1], sigmoid([0, 5, 8, 9]), atol=1e-6)
    np.testing.assert_allclose(check.alone[:3, 1], sigmoid([4, 6, 8]), atol=1e-6)
    assert check.random.shape == (10, 3, 2)
    assert (check.random[:, :, 1] <= sigmoid(9) + 1e-6).all()


def test_the_check_names_twenty_words_at_most(monkeypatch):
    monkeypatch.setattr(faithfulness, "_agreement", lambda *_: None)
    check = check_by_hand(Summing(), explained(list(range(30))))
    assert len(check.order) == 20
    assert check.random_counts == [1, 2, 5, 10, 15, 20]
    assert check.removed.shape == (21, 2)
    none = check_by_hand(Summing(), explained([]))
    assert (none.order, none.random_counts, none.removed.shape, none.random.shape) == ([], [], (1, 2), (10, 0, 2))


def one(value, flips=0.1):
    """The scores of a review: one number for all that is measured, except the first flip."""
    found = {name: np.array([value]) for name in (*faithfulness.MEASURES, *faithfulness.CHANCE)}
    return found | {"flips at": np.array([flips]), "never flips": np.isinf([flips]) * 1.0}


def test_the_summary_has_intervals_and_paired_differences():
    ours, theirs = [0.5, 0.7, 0.6, 0.9], [0.4, 0.3, 0.5, 0.2]
    scores = {
        "a": {index: one(value, math.inf if index == 3 else 0.2) for index, value in enumerate(ours)},
        "b": {index: one(value) for index, value in enumerate(theirs)},
        "random": {0: one(0.1) | {"comprehensiveness, drop": np.array([0.1, 0.6])}, 1: one(0.2), 2: one(0.0)},
    }
    found = summarize(scores, {"all": {0, 1, 2, 3}, "right": {0, 1}}, {"a": 0.03})
    by_name = {(row.method, row.measure, row.group): row for row in found}
    row = by_name["a", "comprehensiveness, drop", "all"]
    expected = ttest_1samp(ours, 0).confidence_interval()
    assert (row.reviews, row.value, row.low, row.high) == pytest.approx((4, 0.675, *expected))
    assert row.seconds_per_review == 0.03
    difference = by_name["a", "comprehensiveness, drop, minus b", "all"]
    test = ttest_1samp(np.subtract(ours, theirs), 0)
    assert difference.value == pytest.approx(0.325)
    assert (difference.low, difference.high) == pytest.approx(tuple(test.confidence_interval()))
    three = ttest_1samp([0.5 - 0.35, 0.7 - 0.2, 0.6], 0).pvalue  # random has three of the reviews
    assert by_name["a", "comprehensiveness, drop, minus random", "all"].reviews == 3
    corrected = dict(zip(("b", "random"), holm([test.pvalue, three]), strict=True))
    assert difference.p_holm == pytest.approx(corrected["b"])
    assert by_name["a", "above the random band", "all"].value == pytest.approx(2 / 3)
    assert by_name["a", "never flips", "all"].value == 0.25
    assert by_name["a", "flips at", "all"].value == 0.2
    assert by_name["a", "comprehensiveness, drop", "right"].reviews == 2
    assert ("a", "accuracy, drop, 10%", "all") not in by_name
    assert by_name["random", "accuracy, drop, 10%", "all"].reviews == 3


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_the_table_leaves_out_a_group_without_an_interval():
    scores = {"a": {0: one(0.5), 1: one(0.6)}, "random": {0: one(0.1), 1: one(0.1)}}
    rows = table(summarize(scores, {"all": {0, 1}, "right": {0, 1}, "wrong": set()}, {}))
    assert list(rows) == ["a", "  right", "random"]
    assert not any("nan" in cell for row in rows.values() for cell in row.values())


def test_the_table_and_the_file_hold_foreign_labels_inert(tmp_path):
    scores = {"a": {0: one(0.5), 1: one(0.6)}, "random": {0: one(0.1), 1: one(0.1)}}
    found = summarize(scores, {"all": {0, 1}, "predicted [red]=1+1\x1b[31m": {0, 1}}, {})
    rows = table(found)
    assert rows["a"]["gone,\ndrop"].startswith("0.550 ±")
    assert any("\\[red]" in name for name in rows)
    assert not any("\x1b" in name for name in rows)
    write_findings(tmp_path / "faithfulness.csv", found)
    with (tmp_path / "faithfulness.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(found)
    assert not any("\x1b" in row["group"] for row in written)


def test_evaluate_measures_methods(tiny_run, run_task, tmp_path, capsys):
    run_task("train", tmp_path / "run", *tiny_run, "test=false")
    given = [f"checkpoint={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu"]
    run_task("evaluate", tmp_path / "plain", *given)
    assert not (tmp_path / "plain" / "faithfulness.csv").exists()
    capsys.readouterr()
    asked = ["faithfulness.reviews=12", "faithfulness.methods=[aumann_shapley,occlusion]"]
    run_task("evaluate", tmp_path / "evaluated", *given, *asked)
    printed = capsys.readouterr().out
    shown = printed[printed.index("reasons") : printed.index("wrote")].splitlines()
    assert max(map(len, shown)) <= 80
    assert any(line.startswith("occlusion") for line in shown)
    with (tmp_path / "evaluated" / "faithfulness.csv").open(newline="") as file:
        rows = {(row["method"], row["measure"], row["group"]): row for row in csv.DictReader(file)}
    drop = {
        method: rows[method, "comprehensiveness, drop", "all"] for method in ("aumann_shapley", "occlusion", "random")
    }
    assert {row["reviews"] for row in drop.values()} == {"12"}
    assert float(drop["occlusion"]["value"]) > float(drop["random"]["value"])
    assert float(drop["occlusion"]["low"]) < float(drop["occlusion"]["value"]) < float(drop["occlusion"]["high"])
    assert float(drop["occlusion"]["seconds_per_review"]) > 0
    assert ("aumann_shapley", "comprehensiveness, drop, minus random", "predicted positive") in rows
    assert (tmp_path / "evaluated" / "faithfulness.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match=r"methods=ocluson: no such method, .*; did you mean occlusion\?"):
        run_task("evaluate", tmp_path / "mistyped", *given, "faithfulness.methods=[ocluson]")
