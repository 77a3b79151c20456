"""What a notebook shows of an explanation: the prediction, the leading words, the notebook's colours; its page."""

import json
import re
from html.parser import HTMLParser
from itertools import accumulate
from typing import Any

import numpy as np
import pytest

from bertlens.explanations.methods import Method, MethodRow, attention_rows
from bertlens.report.notebook import Explanation, classic_scale
from bertlens.system.escape import visible

HOSTILE = ["</span><img src=x onerror=window.flag=1>", "\"'><svg onload=window.flag=1>", "a\u2028b\u202ed\u0000e\x1bf"]


class Elements(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def explained(tokens: list[str], weights: Any, **changes: Any) -> Explanation:
    """weights [N, L]."""
    ends = list(accumulate(len(token) + 1 for token in tokens))
    fields = {
        "index": 0,
        "text": " ".join(tokens),
        "probabilities": np.array([0.25, 0.75], dtype=np.float32),
        "contrast": 0,
        "ids": list(range(len(tokens) + 2)),
        "tokens": ["[CLS]", *tokens, "[SEP]"],
        "offsets": [
            (0, 0),
            *((end - len(token) - 1, end - 1) for token, end in zip(tokens, ends, strict=True)),
            (0, 0),
        ],
        "rows": attention_rows(6, np.array(weights, dtype=np.float32)),
        "label_names": ["negative", "positive"],
    }
    return Explanation(**fields | changes)


def explanation(**changes: Any) -> Explanation:
    return explained(["good", "film"], [[0.1, 0.2, 0.3, 0.4], [0.4, 0.5, 0.1, 0.0]], **changes)


def test_classic_scale_makes_the_largest_of_each_row_one() -> None:
    scaled = classic_scale(np.array([[0.1, 0.4, 0.2], [0.5, 0.25, 0.25], [0, 0, 0], [-4, 2, 1]]))
    np.testing.assert_allclose(scaled, [[0.25, 1, 0.5], [1, 0.5, 0.5], [0, 0, 0], [-1, 0.5, 0.25]])


def test_a_notebook_shows_the_prediction_above_one_picture_and_the_heads_on_request() -> None:
    source = explanation()._repr_html_()
    first, _, heads = source.partition("<details>")
    assert "open" not in heads.partition(">")[0], "closed until it is clicked"
    assert "".join(Elements(first).text) == (
        "Predicted: positive, 75.0 % sureWords with the largest attention weight: good, film"
        "Attention, layer 6: Mean of the heads [CLS] good film"
    )
    assert "".join(Elements(heads).text) == (
        "2 more: Attention, layer 6Attention, layer 6: Head 1 [CLS] good filmAttention, layer 6: Head 2 [CLS] good film"
    )
    # the mean is .25, .35, .2 and .2, which is not shown; head 1: .1, .2, .3 of .4, which [SEP] has; rounded down
    shown = re.findall(r"rgb\(255,(\d+),\1\)\"> (.*?)<", source)
    assert [token for _, token in shown] == ["[CLS]", "good", "film"] * 3
    expected = [72, 0, 109, 191, 127, 63, 51, 0, 204]
    assert [int(green) for green, _ in shown] == pytest.approx(expected, abs=1)


def test_a_signed_row_has_two_colors_and_says_what_it_adds_up_to() -> None:
    method = Method(name="Contribution", sentence="Contribution.", signed=True, summed=True, number="contribution")
    row = MethodRow(
        method,
        "Contribution",
        np.array([0, 2, -1, 0.5], dtype=np.float32),
        nothing=-0.75,
        nothing_probabilities=np.array([0.8, 0.2], dtype=np.float32),
        padding=0.25,
    )
    rows = [row, *attention_rows(6, np.array([[0.1, 0.2, 0.3, 0.4]], dtype=np.float32))]
    source = explanation(rows=rows)._repr_html_()
    first, _, others = source.partition("<details>")
    assert "".join(Elements(first).text) == (
        "Predicted: positive, 75.0 % sureWords with the largest contribution: good for positive for negative"
        "The logit of positive minus that of negative is 1.00: -0.75 when nothing is read (negative, 80.0 % sure), and "
        "1.75 by what is read.Contribution [CLS] good film"
    )
    assert "".join(Elements(others).text).startswith("2 more: Attention, layer 6Attention, layer 6: Mean of the heads")
    shown = re.findall(r"rgb\((\d+),(\d+),(\d+)\)\"> (.*?)<", first)
    colors = {name: tuple(map(int, color)) for *color, name in shown}
    assert colors == {
        "for positive": (255, 150, 50),
        "for negative": (120, 180, 255),
        "[CLS]": (255, 255, 255),
        "good": (255, 150, 50),
        "film": (187, 217, 255),
    }


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_notebooks_html_escapes(hostile: str) -> None:
    weights = [[0.2, 0.5, 0.3]] * 2
    source = explained([hostile], weights, label_names=[hostile, hostile])._repr_html_()
    tame = explained(["x"], weights)._repr_html_()
    assert Elements(source).tags == Elements(tame).tags
    assert "".join(Elements(source).text).count(visible(hostile)) == 5
    assert not re.search("[\u202e\u2028\x00\x1b]", source)


def test_an_explanation_has_a_short_repr_and_its_numbers() -> None:
    assert repr(explanation()) == "Explanation('positive', confidence=0.750, words: good, film)"
    assert "\n" not in repr(explanation(text="good\nfilm", label_names=["a", "b\n\x1b"]))
    assert "\x1b" not in repr(explanation(label_names=["a", "b\x1b"]))
    assert explanation().leading_words == ["good", "film"]
    np.testing.assert_allclose(explanation().weights, [[0.1, 0.2, 0.3, 0.4], [0.4, 0.5, 0.1, 0.0]])
    assert explanation(rows=explanation().rows[:1]).weights.shape == (0, 4)
    assert explanation().contrast_label == "negative"


def test_an_explanation_is_saved_as_a_page_with_every_row(tmp_path: Any) -> None:
    path = explanation(facts={"model": "tiny", "epoch": "2"}).save(str(tmp_path / "new" / "x.html"))
    assert path == tmp_path / "new" / "x.html"
    source = path.read_text(encoding="utf-8")
    [review] = json.loads(re.search(r'id="report-reviews">(.*?)</script>', source, re.DOTALL)[1])  # type: ignore[index]
    assert review["text"] == "good film"
    assert '["Mean of the heads","Head 1","Head 2"]' in source
    assert re.search(r"model\s+<bdi>tiny</bdi>", source)
    assert "one text of your own" in source
