"""The report as a file: what it escapes, what it allows, how large it is, and that it is whole or not there."""

import base64
import hashlib
import json
import re
import tracemalloc
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertlens.explanations.explainer import ExplainedReview
from bertlens.explanations.faithfulness import Check
from bertlens.explanations.methods import Method, MethodRow, attention_rows
from bertlens.explanations.selection import Selection
from bertlens.explanations.settings import SelectionSettings
from bertlens.report.render import render_report
from bertlens.system.escape import visible

HOSTILE = [
    "<script>window.flag = 1</script>",
    "</script><img src=x onerror=window.flag=1>",
    "\"'><svg onload=window.flag=1>",
    "<!-- <script> ]]> --!> &amp; &lt;",
    "{{ 7 * 7 }} {% raw %} ${flag} `x`",
    "a\u2028b\u2029c\u202ed\u0000e\x1bf\ufeffg",
    "\ud800 alone",
]


def explained(text: str = "Good film.", *, index: int = 0, num_heads: int = 2, **changes: Any) -> ExplainedReview:
    """One piece for each run of letters and each full stop; seeded weights, or `weights` [heads, L] of layer 12."""
    pieces = [match.span() for match in re.finditer(r"\w+|\.", text)]
    random = np.random.default_rng(index).random((num_heads, len(pieces) + 2), dtype=np.float32)
    weights = changes.pop("weights", random / random.sum(axis=-1, keepdims=True))
    fields: dict[str, Any] = {
        "index": index,
        "text": text,
        "label": 1,
        "probabilities": np.array([0.25, 0.75], dtype=np.float32),
        "contrast": 0,
        "ids": [0] * (len(pieces) + 2),
        "tokens": ["[CLS]", *(text[start:end].lower() for start, end in pieces), "[SEP]"],
        "offsets": [(0, 0), *pieces, (0, 0)],
        "rows": attention_rows(12, np.asarray(weights, dtype=np.float32)),
    }
    return ExplainedReview(**fields | changes)


def check(predicted: float = 0.1, *, num_words: int = 20, num_classes: int = 2) -> Check:
    """The prediction (class 1) falls to `predicted` without the leading words, and to between .8 and .9 by chance."""

    def all_classes(probabilities: Any) -> Any:
        others = np.repeat((1 - np.asarray(probabilities))[..., None] / (num_classes - 1), num_classes, axis=-1)
        others[..., 1] = probabilities
        return others.astype(np.float32)

    counts = [number for number in (1, 2, 5, 10, 15, 20) if number <= num_words]
    steps = np.linspace(0.95, predicted, 1 + num_words)
    return Check(
        order=list(range(num_words)),
        removed=all_classes(steps),
        kept=all_classes(steps[::-1]),
        alone=all_classes(np.linspace(0.7, 0.94, num_words)),
        random_counts=counts,
        random=all_classes(np.linspace(0.8, 0.9, 10 * len(counts)).reshape(10, -1)),
        agreement=0.9321,
    )


def signed_row(values: Any, **changes: Any) -> MethodRow:
    return MethodRow(SIGNED, SIGNED.name, np.asarray(values, dtype=np.float32), **changes)


def full_review(index: int) -> ExplainedReview:
    """As large as they get: a row with a sign and 12 heads, 256 pieces, 1,400 characters, and a check."""
    text = " ".join(["word"] * 254) + " and some text that was cut off" * 4
    offsets = [(5 * place, 5 * place + 4) for place in range(254)]
    weights = np.random.default_rng(index).random((12, 256), dtype=np.float32)
    tokens = ["[CLS]", *["word"] * 254, "[SEP]"]
    contribution = signed_row(weights[0] - weights[1], nothing=0.5, nothing_probabilities=np.array([0.25, 0.75]))
    return explained(
        text,
        index=index,
        tokens=tokens,
        offsets=[(0, 0), *offsets, (0, 0)],
        rows=[contribution, *attention_rows(12, weights)],
        check=check(),
    )


def render(path: Path, reviews: Any, **changes: Any) -> str:
    fields: dict[str, Any] = {
        "label_names": ["negative", "positive"],
        "selection": Selection(sentence="all reviews"),
        "title": "A report",
        "facts": {"checkpoint": "best.ckpt"},
    }
    render_report(reviews, path=path, **fields | changes)
    return path.read_text(encoding="utf-8")


def test_the_captions_of_the_classic_view_are_in_the_language_of_the_report(tmp_path):
    page = Elements(render(tmp_path / "report.html", iter([explained("Good.")]), language="ja"))
    assert page.json("report-facts")["captions"] == ["ja", "正解ラベル：", "推論ラベル：", "不明"]


class Elements(HTMLParser):
    """Start tags in order, and what stands in each script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[tuple[str, str | None], str] = {}
        self.text: list[str] = []
        self.inside: tuple[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = (tag, dict(attrs).get("id")) if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.blocks[self.inside] = self.blocks.get(self.inside, "") + data
        else:
            self.text.append(data)

    def json(self, name: str) -> Any:
        return json.loads(self.blocks["script", name])


SIGNED = Method(name="Contribution", sentence="What it adds.", signed=True, summed=True, number="contribution")
ROLLOUT = Method(name="Rollout", sentence="How much of a piece arrives.", signed=False, summed=True)


def test_the_page_holds_the_reviews_as_they_are(tmp_path: Path) -> None:
    review = explained("Gut! 😀 film.", index=7, spans=[(5, 6), (0, 3)])
    review.rows.append(MethodRow(ROLLOUT, "Rollout", np.ones(5, dtype=np.float32) / 5))
    page = Elements(render(tmp_path / "report.html", iter([review])))
    [row] = page.json("report-reviews")
    assert row["index"] == 7
    assert row["text"] == review.text
    assert row["tokens"] == review.tokens
    values = np.frombuffer(base64.b64decode(row["values"]), dtype="<f4").reshape(4, 5)
    np.testing.assert_array_equal(values, [row.values for row in review.rows])
    assert row["kinds"] == "cwwps"
    assert row["words"] == [1, 1, 1]
    # JavaScript counts the emoji as two: "film" is at 8 there, at 7 in Python
    assert row["offsets"] == [0, 0, 0, 3, 5, 4, 0, 1, -13, 0]
    assert row["spans"] == [[0, 3], [5, 7]]
    facts = page.json("report-facts")
    assert facts["labels"] == ["negative", "positive"]
    assert facts["captions"] == ["en", "True label: ", "Predicted label: ", "unknown"]
    assert facts["hidden"] == {}
    first, second = facts["methods"]
    assert (first["name"], first["rows"]) == ("Attention, layer 12", ["Mean of the heads", "Head 1", "Head 2"])
    assert second == {
        "name": "Rollout",
        "sentence": "How much of a piece arrives.",
        "signed": False,
        "summed": True,
        "number": "weight",
        "rows": ["Rollout"],
    }
    assert facts["scales"] == [None, None]
    assert ROLLOUT.sentence in page.text


def test_the_page_holds_what_a_row_adds_beside_its_pieces(tmp_path: Path) -> None:
    nothing = {"nothing": -2.5, "nothing_probabilities": np.array([0.924, 0.076]), "padding": 0.25}
    review = explained("Good film")
    review.rows.insert(0, signed_row([0, 0.5, -0.25, 0.125], **nothing))
    [row] = Elements(render(tmp_path / "report.html", [review])).json("report-reviews")
    assert row["contrast"] == 0
    assert row["outside"] == {"0": {"nothing": -2.5, "probabilities": [0.924, 0.076], "padding": 0.25}}
    assert row["check"] is None


def test_full_colour_is_the_same_number_in_every_review(tmp_path: Path) -> None:
    reviews = [explained("Good film", index=index) for index in range(3)]
    for review, largest in zip(reviews, (0.5, -1.25, 0.75), strict=True):
        review.rows.append(signed_row([9, largest, 0.25, 9]))  # [CLS] and [SEP] are no words
    facts = Elements(render(tmp_path / "report.html", reviews)).json("report-facts")
    assert facts["scales"] == [None, pytest.approx(0.745)], "1 % of the words of half of the reviews exceed it"


def test_the_page_holds_the_check(tmp_path: Path) -> None:
    review = explained("Good film " * 20, check=check(num_classes=3), probabilities=np.array([0.02, 0.95, 0.03]))
    page = Elements(render(tmp_path / "report.html", [review], label_names=["a", "b", "c"]))
    [row] = page.json("report-reviews")
    held = row["check"]
    assert held["order"] == list(range(20))
    assert held["removed"][0] == [0.95, 1]
    assert held["removed"][-1] == [0.1, 0], "the first of the classes that are then the most probable"
    assert held["kept"][0] == [0.1, 0]
    assert held["alone"][-1] == [0.94, 1]
    assert held["counts"] == [1, 2, 5, 10, 15, 20]
    assert held["low"][0] == 0.8
    assert held["high"][-1] == 0.9
    assert held["agreement"] == 0.9321
    assert held["holds"] is True


def test_a_reason_holds_if_it_beats_each_random_order(tmp_path: Path) -> None:
    checks = [
        check(),
        check(0.86),  # falls to .90 in the mean: above the lowest of the random orders
        check(num_words=5),
        None,
    ]
    reviews = [explained("Good film " * 20, index=index, check=given) for index, given in enumerate(checks)]
    source = render(tmp_path / "report.html", reviews)
    held = [row["check"] and row["check"]["holds"] for row in Elements(source).json("report-reviews")]
    assert held == [True, False, None, None]
    text = " ".join("".join(Elements(source).text).split())
    assert (
        "For 3 of them the report measured how sure the model is without the words that lead. "
        "The reason holds for 1, and not for review 1. For 1 there are too few words to tell." in text
    )


def test_hostile_texts_are_data_and_nothing_else(tmp_path: Path) -> None:
    tame = Elements(render(tmp_path / "tame.html", [explained(index=index) for index in range(len(HOSTILE))]))
    source = render(tmp_path / "hostile.html", [explained(text, index=index) for index, text in enumerate(HOSTILE)])
    page = Elements(source)
    # its words may stand in the summary, but as text: the elements are the same but for that table's rows
    structural = [tag for tag, _ in page.tags if tag not in ("tr", "th", "td", "button", "bdi")]
    assert structural == [tag for tag, _ in tame.tags if tag not in ("tr", "th", "td", "button", "bdi")]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert [row["text"] for row in page.json("report-reviews")] == HOSTILE
    assert page.json("report-facts")["hidden"]["\u202e"] == "right-to-left override"
    assert not re.search("[<>&\u2028\u2029]", page.blocks["script", "report-reviews"])
    assert not re.search("[\u202e\u2028\u2029\ufeff\x00\x1b]", source)


def test_hostile_names_titles_and_facts_are_text(tmp_path: Path) -> None:
    tame = Elements(render(tmp_path / "tame.html", [explained()], facts={text: text for text in "abcdefg"}))
    for hostile in HOSTILE:
        source = render(
            tmp_path / "report.html",
            [explained()],
            title=hostile,
            label_names=["negative", hostile],
            facts={f"{hostile}{number}": hostile for number in range(7)},
        )
        page = Elements(source)
        assert [tag for tag, _ in page.tags] == [tag for tag, _ in tame.tags]
        assert page.json("report-facts")["labels"][1] == visible(hostile)
        assert visible(hostile) in page.text
        assert not re.search("[\u202e\u2028\u2029\ufeff\x00\x1b]", source)


def test_the_policy_allows_these_scripts_and_this_style(tmp_path: Path) -> None:
    page = Elements(render(tmp_path / "report.html", [explained()]))
    [policy] = [
        attributes["content"] or ""
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["trusted-types"] == "'none'"
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    for tag, number in (("script", 2), ("style", 1)):
        blocks = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        assert len(digests) == number
        assert rules[f"{tag}-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    # before it nothing may run or load
    tags = [tag for tag, _ in page.tags]
    assert tags[:4] == ["html", "head", "meta", "meta"]
    assert not any(
        name in ("style", "src", "href") and value != "#main" for _, a in page.tags for name, value in a.items()
    )


@pytest.mark.parametrize("name", ["script.js", "check.js"])
def test_the_scripts_turn_no_string_into_html(name: str) -> None:
    script = (Path(render_report.__code__.co_filename).parent / name).read_text(encoding="utf-8")
    code = re.sub(r"(?m)^\s*//.*$", "", script)
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser"):
        assert sink not in code


def page_text(folder: Path, reviews: Any, **changes: Any) -> str:
    return " ".join("".join(Elements(render(folder / "report.html", reviews, **changes)).text).split())


def test_the_headline_is_the_whole_splits_accuracy(tmp_path: Path) -> None:
    wrong = [explained(index=index, label=0) for index in range(3)]  # predicted: 1
    selection = Selection(
        sentence="3 of 3,204 wrong predictions, evenly from each class, surest first",
        split_accuracy=0.87184,
        num_split_reviews=25000,
    )
    text = page_text(tmp_path, wrong, selection=selection)
    assert "Summary 87.2 % accuracy on all 25,000 test reviews" in text
    assert (
        "This report shows 3 of 3,204 wrong predictions, evenly from each class, surest first: "
        "0 predicted right, 3 wrong. Choose" in text
    )


def test_without_the_splits_accuracy_there_is_none(tmp_path: Path) -> None:
    text = page_text(tmp_path, [explained(label=0)], selection=Selection(sentence="review 3", num_split_reviews=80))
    assert "Summary 1 review This report shows review 3: 0 predicted right, 1 wrong." in text
    assert "accuracy" not in text
    assert " % " not in text.partition("Words that tell most")[0]


def test_the_head_names_model_rate_epoch_and_accuracy(tmp_path: Path) -> None:
    facts = {"model": "tiny", "learning rate": "5e-05", "epoch": "2", "test accuracy": "91.0 %", "run": "x"}
    measured = Selection(sentence="3 of 25,000 test reviews", split_accuracy=0.87184, num_split_reviews=25000)
    head, _, rest = page_text(tmp_path, [explained()], facts=facts, selection=measured).partition(" Summary Reading")
    assert head.endswith("model tiny learning rate 5e-05 epoch 2 accuracy 87.2 % on all 25,000 test reviews")
    assert rest.endswith("epoch2 test accuracy91.0 % runx")
    head, _, _ = page_text(tmp_path, [explained()], facts=facts).partition(" Summary Reading")
    assert head.endswith("model tiny learning rate 5e-05 epoch 2 test accuracy 91.0 %")
    head, _, _ = page_text(tmp_path, [explained()], facts={"checkpoint": "best.ckpt"}).partition(" Summary Reading")
    assert head.endswith("A report")


def test_the_footer_says_how_to_choose_the_same_reviews(tmp_path: Path) -> None:
    chosen = {
        "indices=[3,0]": {"indices": [3, 0]},
        "reviews=wrong count=8 seed=1": {"reviews": "wrong", "count": 8, "seed": 1},
    }
    for typed, settings in chosen.items():
        selection = Selection(sentence="some", settings=SelectionSettings(**settings))
        text = page_text(tmp_path, [explained()], selection=selection)
        assert text.endswith(f"checkpointbest.ckpt chosen by{typed}")
    assert "chosen by" not in page_text(tmp_path, [explained()], selection=Selection(sentence="texts of your own"))


def test_the_summary_counts(tmp_path: Path) -> None:
    reviews = [
        explained("good", index=0, label=1, weights=[[0.5, 0.25, 0.25]]),
        explained("Good bad", index=1, label=1, weights=[[0.2, 0.5, 0.1, 0.2]]),
        explained("bad", index=2, label=0, weights=[[0.5, 0.3, 0.2]]),
    ]
    text = page_text(tmp_path, reviews)
    assert "3 reviews This report shows all reviews: 2 predicted right, 1 wrong." in text
    assert (
        "label negative 0 ✓ right: label negative, predicted negative 1 ✗ wrong: label negative, predicted positive "
        "label positive 0 ✗ wrong: label positive, predicted negative 2 ✓ right: label positive, predicted positive"
    ) in text
    assert (
        "Words that tell most, by predicted class Mean attention weight per occurrence of a whole word "
        "(Attention, layer 12: Mean of the heads), the largest of each class." in text
    )
    assert "positive 3 reviews WordMeanReviews good 0.3752 bad 0.2002" in text
    assert "negative 0 reviews WordMeanReviews none" in text


def test_words_that_speak_against_their_class_do_not_tell_most_of_it(tmp_path: Path) -> None:
    text = page_text(tmp_path, [explained("good bad", rows=[signed_row([0, 0.5, -0.25, 0.25])])])
    assert "(Contribution), the largest of each class." in text
    assert "positive 1 review WordMeanReviews good 0.5001 " in text
    assert "bad -0.250" not in text


def test_without_labels_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    text = page_text(tmp_path, [explained(label=None)], selection=Selection(sentence="your own texts"))
    assert "1 review This report shows your own texts: no labels known." in text
    assert "accuracy" not in text
    assert 'name="result"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_all_reviews_must_have_the_same_rows(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="review 1 has other rows"):
        render(tmp_path / "report.html", [explained(), explained(index=1, num_heads=3)])


def test_no_reviews_make_a_page_too(tmp_path: Path) -> None:
    assert Elements(render(tmp_path / "report.html", [])).json("report-reviews") == []


def test_64_reviews_stay_under_4_megabytes(tmp_path: Path) -> None:
    render(tmp_path / "report.html", map(full_review, range(64)))
    assert (tmp_path / "report.html").stat().st_size < 4_000_000


def test_1000_reviews_stay_under_30_megabytes(tmp_path: Path) -> None:
    render(tmp_path / "report.html", map(full_review, range(1000)))
    assert (tmp_path / "report.html").stat().st_size < 30_000_000


def test_reviews_do_not_pile_up_in_memory(tmp_path: Path) -> None:
    render(tmp_path / "report.html", map(full_review, range(1)))  # what is loaded once
    peaks = []
    for num_reviews in (10, 100):
        tracemalloc.start()
        render_report(
            map(full_review, range(num_reviews)),
            label_names=["a", "b"],
            selection=Selection(sentence=""),
            title="",
            facts={},
            path=tmp_path / "report.html",
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000, f"peaks of {peaks} bytes for 10 and 100 reviews"


def test_a_crash_leaves_the_earlier_page_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    before = render(path, [explained()])

    def reviews() -> Iterator[ExplainedReview]:
        yield explained("The new one.")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        render(path, reviews())
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_that_are_none_make_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        render(tmp_path / "report.html", [explained(probabilities=np.array([np.nan, 1]))])
    assert not list(tmp_path.iterdir())


def test_visible_spells_out_what_hides_or_reorders_and_keeps_the_rest() -> None:
    assert visible("a\u202eb\x00") == "a⟨U+202E⟩b⟨U+0000⟩"
    assert visible("línea 1\n\t👩\u200d🚀 שלום") == "línea 1\n\t👩\u200d🚀 שלום"
