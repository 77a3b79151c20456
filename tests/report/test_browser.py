"""The report in a browser: every control by mouse and by keyboard, numbers and colours, hostile texts, speed."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertlens.explanations.explainer import ExplainedReview
from bertlens.explanations.faithfulness import Check
from bertlens.explanations.methods import Method, MethodRow, attention_rows
from bertlens.explanations.selection import Selection
from bertlens.explanations.words import find_words, word_text, word_weights
from bertlens.report.notebook import classic_scale
from bertlens.report.render import render_report

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
axe_package = pytest.importorskip("axe_playwright_python", reason="the package axe-playwright-python is not installed")
AXE = Path(axe_package.__file__).parent / "axe.min.js"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there (apt-get install chromium)"),
]

NUM_LAYERS, NUM_HEADS = 3, 4
SIGNED = Method(name="Contributions", sentence="A number with a sign.", signed=True, summed=True)
TEXTS = [
    'Not a dull minute; I LOVED it.<br /><br />The ending 😀 doesn\'t drag, and the acting\n is "superb"! Go see it.',
    "Tedious, unbelievably wooden, and far too long.",
    "A triumph. The camerawork is breathtaking, the story is moving.",
    "I fell asleep. Twice. The second time was more entertaining than the film.",
]
HOSTILE = [
    "<script>window.flag = 1</script> fine film",
    "</script><script>window.flag = 1</script><img src=x onerror=window.flag=1> film",
    '"\'><svg onload="window.flag=1"> &lt;b&gt; &amp; film',
    "]]> <!-- film --> {{ constructor.constructor('window.flag=1')() }}",
    "U+2028 \u2028 and \u2029, RLO \u202etxet desrever, isolate \u2067 and NUL \x00 bell \x07 film",
    "זה סרט טוב מאוד, really good film",
    "Z" + "\u0363\u0364\u0365\u0366" * 300 + " film",
    "x" * 100_000 + " film",
]


def explained(
    text: str, index: int, *, num_layers: int = 1, num_heads: int = NUM_HEADS, **changes: Any
) -> ExplainedReview:
    """Words cut into pieces of at most five letters; the last tenth is cut off; every third prediction is wrong.

    The rows: attention from the last layer down; of several layers, also a row of a method with a sign.
    """
    rng = np.random.default_rng(index)
    blanked = re.sub("<br />", lambda match: " " * len(match[0]), text)
    pieces = [match.span() for match in re.finditer(r"\w{1,5}|[.,]|😀", blanked[: max(8, len(text) * 9 // 10)])][:254]
    tokens = [
        "##" * (start > 0 and text[start - 1].isalnum() and text[start].isalnum()) + text[start:end].lower()
        for start, end in pieces
    ]
    scores = np.exp(2 * rng.normal(size=(num_layers, num_heads, len(pieces) + 2)))
    label, confidence = index % 2, 0.5 + 0.49 * rng.random()
    predicted = 1 - label if index % 3 == 2 else label
    weights = (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)
    rows = [row for layer in range(num_layers, 0, -1) for row in attention_rows(layer, weights[layer - 1])]
    if num_layers > 1:
        rows.append(MethodRow(SIGNED, "Contribution", (weights[0, 0] - weights[0, 1])))
    fields: dict[str, Any] = {
        "index": index,
        "text": text,
        "label": label,
        "probabilities": np.array([1 - confidence, confidence][:: 1 if predicted else -1], dtype=np.float32),
        "contrast": 1 - predicted,
        "ids": [0] * (len(pieces) + 2),
        "tokens": ["[CLS]", *tokens, "[SEP]"],
        "offsets": [(0, 0), *pieces, (0, 0)],
        "rows": rows,
    }
    return ExplainedReview(**fields | changes)


def leading_words(review: ExplainedReview) -> list[int]:
    """The words of the first row, largest first: places in `find_words`, those without a letter left out."""
    found = find_words(review.tokens, review.offsets, review.text)
    weights = word_weights(found, review.rows[0].values)
    order = [n for n in np.argsort(-weights, kind="stable") if re.search(r"\w", word_text(found[n], review.text))]
    return [int(n) for n in order[:20]]


def with_check(review: ExplainedReview, *, floor: float = 0.1) -> ExplainedReview:
    """The same review with a signed row first, and a check: the prediction falls to `floor`, or to .8 by chance."""
    random = np.random.default_rng(review.index)
    values = random.normal(size=len(review.tokens)).astype(np.float32)
    values[0] = 0
    nothing = {"nothing": -1.25, "nothing_probabilities": np.array([0.8, 0.2], dtype=np.float32)}
    changes = {"rows": [MethodRow(SIGNED, SIGNED.name, values, **nothing), *review.rows], "check": None}
    review = ExplainedReview(**vars(review) | changes)
    order = leading_words(review)
    counts = [number for number in (1, 2, 5, 10, 15, 20) if number <= len(order)]

    def both(probabilities: Any) -> Any:
        pair = np.stack([np.asarray(probabilities), 1 - np.asarray(probabilities)], axis=-1).astype(np.float32)
        return pair if review.predicted == 0 else pair[..., ::-1]

    check = Check(
        order=order,
        removed=both(np.linspace(0.93, floor, 1 + len(order))),
        kept=both(np.linspace(0.55, 0.9, 1 + len(order))),
        alone=both(np.linspace(0.81, 0.92, len(order))),
        random_counts=counts,
        random=both(np.linspace(0.8, 0.92, 10 * len(counts)).reshape(10, -1)),
        agreement=0.876,
    )
    return ExplainedReview(**vars(review) | {"check": check})


REVIEWS = [
    explained(TEXTS[index % 4], 10 + index, num_layers=NUM_LAYERS, spans=[(0, 17), (21, 26)] if index % 4 == 0 else [])
    for index in range(24)
]
LONG_TEXT = " ".join(TEXTS)
CHECKED = [  # 0: holds; 1: does not; 2: not measured; 3: of few words
    with_check(explained(LONG_TEXT, 0)),
    with_check(explained(LONG_TEXT, 1), floor=0.88),
    ExplainedReview(**vars(with_check(explained(LONG_TEXT, 2))) | {"check": None}),
    with_check(explained("A moving triumph.", 3)),
]
OpenReport = Callable[..., AbstractContextManager[Any]]


def render(path: Path, reviews: Any, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "label_names": ["negative", "positive"],
        "selection": Selection(sentence="24 of 500 reviews", split_accuracy=0.875, num_split_reviews=500),
        "title": "First 24 reviews",
        "facts": {
            "model": "all-MiniLM-L6-v2",
            "learning rate": "5e-05",
            "epoch": "2",
            "checkpoint": "outputs/best.ckpt",
        },
    }
    render_report(reviews, path=path, **fields | changes)
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("report") / "report.html", REVIEWS)


@pytest.fixture(scope="module")
def checked_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("checked") / "report.html", CHECKED)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield instance
        instance.close()


@pytest.fixture(scope="module")
def open_report(browser: Any) -> OpenReport:
    """A page without a network, which must ask for nothing but its own file and must log nothing."""

    @contextmanager
    def opened(path: Path, address: str = "", *, width: int = 1280, height: int = 800, **options: Any) -> Iterator[Any]:
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
        context.set_default_timeout(5000)
        page = context.new_page()
        requests: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{path.as_uri()}{address}")
        yield page
        assert {url.split("#")[0] for url in requests} == {path.as_uri()}
        assert complaints == []
        context.close()

    return opened


def rows(page: Any) -> list[int]:
    """The list's reviews, by their numbers."""
    return [int(number) for number in page.locator("#list .row-head > :first-child").all_text_contents()]


def selected(page: Any) -> list[str]:
    found = page.locator("#list [aria-selected=true] .row-head > :first-child").all_text_contents()
    assert isinstance(found, list)
    return found


def number_on_screen(page: Any) -> int:
    return int(page.locator("#review-title").inner_text().removeprefix("Review "))


def indices(keep: Callable[[ExplainedReview], bool] = lambda _: True) -> list[int]:
    return [review.index for review in REVIEWS if keep(review)]


def is_right(review: ExplainedReview) -> bool:
    return review.label == review.predicted


def painted(page: Any, selector: str) -> list[float]:
    """How much red each unit has, from its computed colour."""
    colours = page.locator(selector).evaluate_all("spans => spans.map(span => getComputedStyle(span).backgroundColor)")
    return [
        float(match[1]) if (match := re.search(r"[,/] ([\d.]+)\)$", c)) and c.startswith("rgba") else 1.0
        for c in colours
    ]


def full_colour() -> float:
    """The number that the method with a sign paints in full: 1 % of a usual review's words exceed it."""

    def large(review: ExplainedReview) -> float:
        found = find_words(review.tokens, review.offsets, review.text)
        return float(np.quantile(np.abs(word_weights(found, review.rows[-1].values)), 0.99))

    return float(np.median([large(review) for review in REVIEWS]))


def row_of(review: ExplainedReview, layer: int, head: int | None) -> Any:
    """[L]; head counts from 1, None is the mean."""
    return review.rows[(NUM_LAYERS - layer) * (1 + NUM_HEADS) + (head or 0)].values.astype(np.float64)


# ------------------------------------------------------------------------------------------------------------- summary


def test_opens_on_the_summary(report: Path, open_report: OpenReport) -> None:
    with open_report(report) as page:
        right = sum(map(is_right, REVIEWS))
        assert page.title() == page.locator("h1").inner_text() == "First 24 reviews"
        assert page.locator("#summary").is_visible()
        assert " ".join(page.locator(".figures").inner_text().split()) == "87.5 % accuracy on all 500 test reviews"
        assert (
            f"shows 24 of 500 reviews: {right} predicted right, {24 - right} wrong."
            in page.locator("#summary").inner_text()
        )
        assert sum(map(int, page.locator(".confusion b").all_inner_texts())) == 24
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator("main").count() == page.locator("header").count() == 1
        assert "not why it decided" in page.locator("#summary").inner_text()


def test_the_summary_leads_to_its_reviews(report: Path, open_report: OpenReport) -> None:
    with open_report(report) as page:
        page.locator(".confusion button").nth(1).click()
        assert rows(page) == indices(lambda review: review.label == 0 and review.predicted == 1)
        page.get_by_role("button", name="Show the wrong ones").press("Enter")
        wrong = sorted((r for r in REVIEWS if not is_right(r)), key=lambda review: -review.confidence)
        assert rows(page) == [review.index for review in wrong]
        word = page.locator(".words .bar").first
        text = word.inner_text()
        word.click()
        assert page.locator("#search").input_value() == text
        assert all(text in REVIEWS[index - 10].text.lower() for index in rows(page))


# -------------------------------------------------------------------------------------------------------------- finding


def test_filters_sorting_and_search(report: Path, open_report: OpenReport) -> None:
    with open_report(report, height=4000) as page:
        assert rows(page) == indices()
        page.get_by_role("radio", name="Wrong").click()
        assert rows(page) == indices(lambda review: not is_right(review))
        page.keyboard.press("ArrowLeft")
        assert rows(page) == indices(is_right)
        page.keyboard.press("ArrowLeft")
        page.get_by_role("combobox", name="Predicted").select_option("positive")
        assert rows(page) == indices(lambda review: review.predicted == 1)
        page.get_by_role("combobox", name="Label").select_option("negative")
        assert rows(page) == indices(lambda review: review.predicted == 1 and review.label == 0)
        page.get_by_role("combobox", name="Label").select_option("any")
        page.get_by_role("combobox", name="Predicted").select_option("any")
        page.get_by_role("combobox", name="Sort").select_option("surest first")
        by_confidence = [review.index for review in sorted(REVIEWS, key=lambda review: -review.confidence)]
        assert rows(page) == by_confidence
        page.get_by_role("combobox", name="Sort").select_option("least sure first")
        assert rows(page) == by_confidence[::-1]
        page.get_by_role("combobox", name="Sort").select_option("in order")
        page.locator("#search").focus()
        page.keyboard.type("ASLEEP")
        assert rows(page) == indices(lambda review: "asleep" in review.text)
        assert page.locator("#count").inner_text() == "6 of 24 reviews"
        page.keyboard.type("jk/")
        assert page.locator("#count").inner_text() == "No review matches."
        assert rows(page) == []


def test_a_row_says_label_prediction_and_confidence_in_words(report: Path, open_report: OpenReport) -> None:
    with open_report(report) as page:
        review = REVIEWS[1]  # 11, wrong
        row = page.locator("#list .row").nth(1)
        assert not is_right(review)
        assert (
            f"11\n{['negative', 'positive'][review.predicted]}\n✗ wrong\n{100 * review.confidence:.1f} %"
            in row.inner_text()
        )
        row.click()
        assert number_on_screen(page) == 11
        shown = page.locator("#prediction").inner_text()
        assert shown == f"✗ wrong predicted {'negative'}, {100 * review.confidence:.1f} % sure; label positive"


def test_moving_between_reviews(report: Path, open_report: OpenReport) -> None:
    with open_report(report) as page:
        page.locator("#list").focus()
        for key, expected in [
            ("ArrowDown", 10),
            ("ArrowDown", 11),
            ("ArrowUp", 10),
            ("ArrowUp", 10),
            ("End", 33),
            ("Home", 10),
        ]:
            page.keyboard.press(key)
            assert number_on_screen(page) == expected
            assert selected(page) == [str(expected)]
        active = page.locator("#list").get_attribute("aria-activedescendant")
        assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        for key, expected in [("ArrowRight", 11), ("ArrowRight", 12), ("ArrowLeft", 11)]:
            page.keyboard.press(key)
            assert number_on_screen(page) == expected
        assert page.locator("#live").text_content() == "Review 11: negative, wrong"
        page.get_by_role("button", name="Next").click()
        page.get_by_role("button", name="Next").press("Enter")
        assert number_on_screen(page) == 13
        page.get_by_role("button", name="Previous").click()
        assert number_on_screen(page) == 12


# -------------------------------------------------------------------------------------------------- address and history


def on_screen(page: Any) -> dict[str, Any]:
    found = page.evaluate("""() => {
        const shown = (selector) => [...document.querySelectorAll(selector)].filter((found) => found.checkVisibility());
        return {
            text: document.querySelector("main").innerText,
            current: document.querySelector("nav [aria-current]").textContent,
            controls: shown("input, select").map((control) => [control.value, control.checked]),
            heads: shown("#method-rows [aria-checked=true]").map((head) => head.dataset.row),
            rows: shown(".row").map((row) => row.textContent + row.ariaSelected),
            colours: shown(".unit").map((unit) => getComputedStyle(unit).backgroundColor),
            title: document.title,
        };
    }""")
    assert isinstance(found, dict)
    return found


def test_the_address_restores_what_was_on_screen(report: Path, open_report: OpenReport) -> None:
    def to_reading(page: Any) -> None:
        page.get_by_role("radio", name="Wrong").click()
        page.locator("#search").fill("film")
        page.get_by_role("combobox", name="Sort").select_option("surest first")
        page.locator(".row").nth(1).click()
        page.locator("#method-rows [data-row='3']").click()
        page.locator("#method").select_option("Attention, layer 2")
        page.get_by_role("radio", name="Word pieces").click()

    def to_classic(page: Any) -> None:
        page.locator(".row").nth(4).click()
        page.get_by_role("button", name="Classic").click()
        page.locator("#method").select_option("Contributions")

    def to_summary(page: Any) -> None:
        page.locator(".row").nth(4).click()
        page.get_by_role("button", name="Summary").click()
        page.get_by_role("radio", name="Right").click()

    for steps in (to_reading, to_classic, to_summary):
        with open_report(report) as page:
            steps(page)
            address = "#" + page.url.split("#")[1]
            before = on_screen(page)
        with open_report(report, address) as page:
            assert on_screen(page) == before


def test_addresses_written_by_hand(report: Path, open_report: OpenReport) -> None:
    with open_report(report, "#view=reading&review=12&row=3") as page:
        assert number_on_screen(page) == 12
        assert page.locator("#reading-title").inner_text() == "Attention, layer 3: Head 3"
        for nonsense in ("review=99", "review=12.5&row=x", "view=reading", "method=<b>&view=%E0%A4%A", "constructor=1"):
            page.goto(f"{report.as_uri()}#{nonsense}")
            assert page.locator("#summary").is_visible()


def test_back_leads_to_the_last_view(report: Path, open_report: OpenReport) -> None:
    with open_report(report) as page:
        page.get_by_role("button", name="Reading").click()
        assert number_on_screen(page) == 10
        page.keyboard.press("ArrowRight")
        page.go_back()
        assert page.locator("#summary").is_visible()
        page.go_forward()
        assert number_on_screen(page) == 11


# -------------------------------------------------------------------------------------------------------------- reading


def test_the_text_is_as_its_author_wrote_it(report: Path, open_report: OpenReport) -> None:
    review = REVIEWS[0]
    with open_report(report, "#view=reading&review=10") as page:
        text = page.locator("#text")
        assert text.text_content() == review.text.replace("<br />", "")
        assert text.locator("br").count() == 2
        found = find_words(review.tokens, review.offsets, review.text)
        assert text.locator(".unit").all_text_contents() == [word_text(word, review.text) for word in found]
        assert "doesn't" in text.locator(".unit").all_text_contents()
        assert "😀" in text.locator(".unit").all_text_contents()
        unseen = "".join(text.locator(".unseen").all_text_contents())
        assert {";", '"', "!"} <= set(unseen)
        assert "see it." in unseen
        assert "".join(text.locator("u").all_text_contents()) == "Not a dull minuteLOVED"
        assert page.locator("#unseen-legend").is_visible()
        assert page.locator("#span-legend").is_visible()
        page.get_by_role("radio", name="Word pieces").click()
        assert text.locator(".unit").all_text_contents() == [review.text[s:e] for s, e in review.offsets[1:-1]]
        assert text.text_content() == review.text.replace("<br />", "")
        page.keyboard.press("ArrowLeft")
        assert text.locator(".unit").count() == len(found)
        page.get_by_role("button", name="Next").click()
        assert not page.locator("#span-legend").is_visible()


def test_heads_by_mouse_and_by_keyboard(report: Path, open_report: OpenReport) -> None:
    with open_report(report, "#view=reading&review=10") as page:
        review = REVIEWS[0]
        found = find_words(review.tokens, review.offsets, review.text)

        def check(head: int | None) -> None:
            weights = word_weights(found, row_of(review, 3, head))
            np.testing.assert_allclose(painted(page, "#text .unit"), weights / weights.max(), atol=0.005)
            assert page.locator("#scale-caption").inner_text().startswith(f"0 to {weights.max():.3f}")
            assert page.locator("#method-rows [aria-checked=true]").get_attribute("data-row") == str(head or 0)
            title = f"Attention, layer 3: {f'Head {head}' if head else 'Mean of the heads'}"
            assert page.locator("#reading-title").inner_text() == title

        check(None)
        page.locator("#method-rows [data-row='2']").click()
        check(2)
        for key, head in [("ArrowRight", 3), ("ArrowDown", 4), ("ArrowRight", None), ("ArrowLeft", 4)]:
            page.keyboard.press(key)
            check(head)
        assert page.locator("#method-rows [tabindex='0']").count() == 1


def test_the_strips_show_each_word_as_long_as_it_is(report: Path, open_report: OpenReport) -> None:
    review = REVIEWS[0]
    found = find_words(review.tokens, review.offsets, review.text)
    weights = word_weights(found, row_of(review, 3, 2))
    lengths = np.array([len(word_text(word, review.text).encode("utf-16-le")) // 2 for word in found])
    with open_report(report, "#view=reading&review=10") as page:
        assert page.locator("#method-rows .strip").count() == 1 + NUM_HEADS
        drawn = page.locator("#method-rows [data-row='2'] .strip").evaluate("strip => strip.style.background")
    shares, ends = zip(*re.findall(r"var\(--hot\) ([\d.]+)%, var\(--soft\)\) [\d.]+% ([\d.]+)%", drawn), strict=True)
    np.testing.assert_allclose(np.array(shares, dtype=float), 100 * weights / weights.max(), atol=0.01)
    np.testing.assert_allclose(np.array(ends, dtype=float), 100 * lengths.cumsum() / lengths.sum(), atol=0.01)


def test_methods(report: Path, open_report: OpenReport) -> None:
    with open_report(report, "#view=reading&review=10&row=2") as page:
        review = REVIEWS[0]
        found = find_words(review.tokens, review.offsets, review.text)
        page.locator("#method").select_option("Attention, layer 1")
        weights = word_weights(found, row_of(review, 1, 2))
        np.testing.assert_allclose(painted(page, "#text .unit"), weights / weights.max(), atol=0.005)
        assert page.locator("#reading-title").inner_text() == "Attention, layer 1: Head 2"
        assert not page.locator("#against-legend").is_visible()
        page.locator("#method").select_option("Contributions")
        assert page.locator("#reading-title").inner_text() == "Contributions"
        assert page.locator("#sentence").inner_text() == "A number with a sign."
        assert page.locator("#strongest-title").inner_text() == "Words with the largest weight"
        assert not page.locator("#method-rows").is_visible()
        assert not page.locator("#shares").is_visible()
        weights = word_weights(found, review.rows[-1].values)
        strength = np.abs(weights)
        np.testing.assert_allclose(painted(page, "#text .unit"), np.minimum(strength / full_colour(), 1), atol=0.005)
        against = page.locator("#text .unit.against").all_text_contents()
        assert against == [
            word_text(word, review.text) for word, weight in zip(found, weights, strict=True) if weight < 0
        ]
        assert page.locator("#for-legend").inner_text() == "orange: for negative"
        assert page.locator("#against-legend").inner_text() == "blue: against it, for positive"
        assert page.locator("#scale-caption").inner_text() == (
            f"full colour at {full_colour():.2f} and more: one scale on the whole page"
        )
        page.locator("#text .unit").nth(int(np.argmax(strength))).hover()
        assert "rank 1 of" in page.locator("#tip").inner_text()
        page.locator("#method").focus()
        page.keyboard.press("ArrowUp")
        assert page.locator("#method-rows").is_visible()
        assert page.locator("#reading-title").inner_text() == "Attention, layer 1: Head 2"


@pytest.mark.parametrize("unit", ["words", "pieces"])
@pytest.mark.parametrize("head", [None, 3])
def test_pointing_at_a_word_shows_its_numbers(
    report: Path, open_report: OpenReport, unit: str, head: int | None
) -> None:
    review = REVIEWS[0]
    found = find_words(review.tokens, review.offsets, review.text)
    row = row_of(review, 3, head)
    weights = word_weights(found, row) if unit == "words" else row[1:-1]
    ranks = np.empty(len(weights), dtype=int)
    ranks[np.argsort(-weights, kind="stable")] = np.arange(len(weights))
    with open_report(report, f"#view=reading&review=10&row={head or 0}&unit={unit}") as page:
        for place in range(0, len(weights), 4):
            page.locator("#text .unit").nth(place).hover()
            shown = page.locator("#tip").inner_text()
            assert f"weight {weights[place]:.3f}\n" in shown
            assert f"rank {ranks[place] + 1} of {len(weights)}" in shown
            assert f"{unit[:-1]} {place + 1} of {len(weights)}" in shown
        page.mouse.move(5, 5)
        page.locator("#tip").wait_for(state="hidden")


def test_words_by_keyboard_are_read_out(report: Path, open_report: OpenReport) -> None:
    review = REVIEWS[0]
    found = find_words(review.tokens, review.offsets, review.text)
    weights = word_weights(found, row_of(review, 3, None))
    order = np.argsort(-weights, kind="stable")
    with open_report(report, "#view=reading&review=10") as page:
        page.locator("#method").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "text"

        def check(place: int) -> None:
            word = word_text(found[place], review.text)
            said = page.locator("#live").text_content()
            assert said.startswith(f"{word}: weight {weights[place]:.3f}, rank {list(order).index(place) + 1} of")
            assert page.locator(".unit.current").all_text_contents() == [word]
            assert f"weight {weights[place]:.3f}" in page.locator("#tip").inner_text()

        check(0)
        for key, place in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", len(found) - 1)]:
            page.keyboard.press(key)
            check(place)
        page.keyboard.press("Escape")
        assert not page.locator("#tip").is_visible()
        page.get_by_role("button", name="Next").click()
        assert number_on_screen(page) == 11


def test_the_total_weights_are_stated(report: Path, open_report: OpenReport) -> None:
    review = REVIEWS[0]
    with open_report(report, "#view=reading&review=10&row=2") as page:
        row = row_of(review, 3, 2)
        punctuation = sum(weight for token, weight in zip(review.tokens, row, strict=True) if token in (".", ","))
        shown = dict(re.findall(r"(\S+)\s+([\d.]+) %", page.locator("#shares").inner_text()))
        assert shown == {
            "words": f"{100 * (1 - row[0] - row[-1] - punctuation):.1f}",
            "punctuation": f"{100 * punctuation:.1f}",
            "[CLS]": f"{100 * row[0]:.1f}",
            "[SEP]": f"{100 * row[-1]:.1f}",
        }
        assert page.locator("#classes").inner_text().count("%") == 2
        assert page.locator("#strongest-title").inner_text() == "Words with the largest attention weight"
        strongest = page.locator("#strongest li").first
        word = strongest.locator("button").inner_text()
        strongest.locator("button").click()
        assert page.locator(".unit.current").inner_text() == word


# ----------------------------------------------------------------------------------------------- what numbers add up to


def test_the_bars_add_up_and_nothing_read_has_a_prediction(checked_report: Path, open_report: OpenReport) -> None:
    review = CHECKED[0]
    row = review.rows[0].values.astype(np.float64)
    punctuation = sum(value for token, value in zip(review.tokens, row, strict=True) if token in (".", ","))
    parts = {
        "nothing read": -1.25,
        "words": row.sum() - row[-1] - punctuation,
        "punctuation": punctuation,
        "[SEP]": row[-1],
        "sum": row.sum() - 1.25,
    }
    with open_report(checked_report, "#view=reading&review=0") as page:
        shown = {
            name: float(number.replace("−", "-"))
            for name, number in zip(
                page.locator("#bars dt").all_inner_texts(), page.locator("#bars .number").all_inner_texts(), strict=True
            )
        }
        assert shown == pytest.approx(parts, abs=0.0006)
        boxes = page.locator("#bars .fill").evaluate_all(
            "fills => fills.map((fill) => fill.getBoundingClientRect()).map(({ left, right }) => [left, right])"
        )
        zero = page.locator("#bars .zero").first.bounding_box()["x"]
        scale = (boxes[0][1] - boxes[0][0]) / 1.25
        end = 0.0
        for (left, right), value in zip(boxes, list(parts.values())[:-1], strict=False):
            assert [left - zero, right - zero] == pytest.approx(
                [scale * min(end, end + value), scale * max(end, end + value)], abs=2.5
            )
            end += value
        assert page.locator("#bars .fill.against").first.is_visible()
        note = page.locator("#sums-note").inner_text()
        predicted, contrast = (["negative", "positive"][at] for at in (review.predicted, review.contrast))
        assert f"The sum is the logit of {predicted} minus that of {contrast}." in note
        assert note.endswith("before the model reads any of these, it says negative, 0.80.")
        assert page.locator("#compared").inner_text() == (
            f"Label negative, predicted {predicted}, compared with {contrast}."
        )
        page.locator("#method").select_option("Attention, layer 1")
        assert not page.locator("#sums").is_visible()
        assert page.locator("#compared").inner_text() == f"Label negative, predicted {predicted}."


def test_what_was_cut_off_is_grey_and_counted(checked_report: Path, open_report: OpenReport) -> None:
    review = CHECKED[0]
    end = review.offsets[-2][1]
    unseen = len(re.findall(r"\w+", review.text[end:])) / len(re.findall(r"\w+", review.text.replace("br", "")))
    with open_report(checked_report, "#view=reading&review=0") as page:
        assert page.locator("#unseen-legend").inner_text() == (
            f"grey: the model never saw it: {100 * unseen:.1f} % of the words"
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_for_and_against_differ_in_lightness_and_in_a_mark(
    checked_report: Path, open_report: OpenReport, scheme: str
) -> None:
    with open_report(checked_report, "#view=reading&review=0", color_scheme=scheme) as page:
        luminances = []
        for hue in ("for", "against"):
            legend = page.locator(f"#{hue}-legend .unit")
            colour = legend.evaluate("unit => getComputedStyle(unit).backgroundColor")
            red, green, blue = (
                ((c / 255 + 0.055) / 1.055) ** 2.4 for c in map(float, re.findall(r"[\d.]+", colour)[:3])
            )
            luminances.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
        assert (luminances[0] + 0.05) / (luminances[1] + 0.05) > 1.3
        marks = page.locator("#text .unit").evaluate_all(
            "units => units.map((unit) => [unit.matches('.against'), getComputedStyle(unit).borderBottomStyle])"
        )
        assert {tuple(mark) for mark in marks} == {(True, "dotted"), (False, "none")}


# ---------------------------------------------------------------------------------------------------- the check by hand


def struck(page: Any) -> list[str]:
    found = page.locator("#text .unit.struck").all_text_contents()
    assert isinstance(found, list)
    return found


def in_text_order(review: ExplainedReview, places: list[int]) -> list[str]:
    found = find_words(review.tokens, review.offsets, review.text)
    return [word_text(found[place], review.text) for place in sorted(places)]


def test_the_slider_strikes_words_out_and_says_what_was_measured(checked_report: Path, open_report: OpenReport) -> None:
    review = CHECKED[0]
    check = review.check
    assert check is not None
    predicted, contrast = (["negative", "positive"][at] for at in (review.predicted, review.contrast))
    found = find_words(review.tokens, review.offsets, review.text)
    num_words = sum(bool(re.search(r"\w", word_text(word, review.text))) for word in found)

    def low_high(number: int) -> str:
        chance = check.random[:, check.random_counts.index(number), review.predicted]
        return f"{chance.min():.2f} to {chance.max():.2f}."

    with open_report(checked_report, "#view=reading&review=0") as page:
        assert page.locator("#verdict").inner_text() == "✓ The reason holds for this review"
        assert not page.locator("#doubt").is_visible()
        assert page.locator("#measured").inner_text() == (
            f"With every word the model says {predicted}: 0.93. Move the slider to strike words out."
        )
        assert struck(page) == []
        page.locator("#without").focus()
        for count in (1, 2, 3):
            page.keyboard.press("ArrowRight")
            assert struck(page) == in_text_order(review, check.order[:count])
        removed = check.removed[3, review.predicted]
        assert page.locator("#measured").inner_text() == (
            f"Without the 3 words struck out ({100 * 3 / num_words:.1f} % of the text) the model says {predicted}: "
            f"0.93 → {removed:.2f}. Without 5 random words: {low_high(5)}"
        )
        assert page.locator("#kept").inner_text() == (
            f"With only these 3 words left: {check.kept[3, review.predicted]:.2f}."
        )
        assert page.locator("#without").get_attribute("aria-valuetext") == "3 words struck out"
        page.keyboard.press("End")
        assert struck(page) == in_text_order(review, check.order)
        assert f"0.93 → 0.10, so it now says {contrast}. Without 20 random words: {low_high(20)}" in (
            page.locator("#measured").inner_text()
        )
        page.get_by_role("radio", name="Word pieces").click()
        pieces = [piece for place in sorted(check.order) for piece in range(found[place].first, found[place].last)]
        assert struck(page) == [review.text[slice(*review.offsets[piece])] for piece in pieces]
        assert page.locator("#agreement-number").inner_text() == "0.88"
        page.get_by_role("button", name="Next").click()
        page.get_by_role("button", name="Previous").click()
        assert struck(page) == [], "each review begins with its whole text"


def test_a_leading_word_is_struck_out_alone(checked_report: Path, open_report: OpenReport) -> None:
    review = CHECKED[0]
    check = review.check
    assert check is not None
    [word] = in_text_order(review, [check.order[4]])
    alone = f"{check.alone[4, review.predicted]:.2f}"
    with open_report(checked_report, "#view=reading&review=0") as page:
        chips = page.locator("#leading button")
        assert chips.all_inner_texts() == [in_text_order(review, [place])[0] for place in check.order]

        def is_alone() -> bool:
            said = page.locator("#measured").inner_text()
            return (
                struck(page) == [word]
                and said.startswith(f"Without “{word}” alone (")
                and f"0.93 → {alone}. Without a random word: " in said
                and page.locator("#leading [aria-pressed=true]").all_inner_texts() == [word]
            )

        chips.nth(4).click()
        assert is_alone()
        assert page.locator("#kept").inner_text() == ""
        chips.nth(4).press("Enter")
        assert struck(page) == []
        chips.last.click()
        said = page.locator("#measured").inner_text()
        assert "0.93 → 0.92." in said
        assert said.endswith("That is no more than random words do."), "a random word leaves .80 to .92"
        chips.last.click()
        unit = page.locator("#text .unit").nth(check.order[4])
        unit.click()
        assert is_alone()
        assert f"without this word alone {alone}" in page.locator("#tip").inner_text()
        unit.click()
        assert struck(page) == []
        page.keyboard.press("Escape")
        chips.first.focus()
        page.keyboard.press("Space")
        assert struck(page) == in_text_order(review, check.order[:1])
        page.locator("#text").focus()
        page.keyboard.press("Home")
        for _ in range(check.order[4]):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert is_alone()
        assert f"without this word alone {alone}" in page.locator("#live").text_content()


def test_the_curves_show_what_was_measured(checked_report: Path, open_report: OpenReport) -> None:
    review = CHECKED[0]
    check = review.check
    assert check is not None
    with open_report(checked_report, "#view=reading&review=0&without=2") as page:

        def points(selector: str) -> Any:
            drawn = page.locator(f"#curves {selector}").get_attribute("points")
            return np.array([point.split(",") for point in drawn.split()], dtype=float)

        numbers = np.arange(1 + len(check.order))
        for selector, measured in ((".curve:not(.kept)", check.removed), (".curve.kept", check.kept)):
            drawn = points(selector)
            shares = (132 - drawn[:, 1]) / 124
            np.testing.assert_allclose(shares, measured[:, review.predicted], atol=0.001)
            np.testing.assert_allclose((drawn[:, 0] - 26) / 246 * len(check.order), numbers, atol=0.01)
        band = (132 - points(".band")[:, 1]) / 124
        chance = check.random[:, :, review.predicted]
        start = check.removed[0, review.predicted]
        expected = [start, *chance.max(axis=0), *chance.min(axis=0)[::-1], start]
        np.testing.assert_allclose(band, expected, atol=0.001)
        assert float(page.locator("#marker").get_attribute("x1")) == pytest.approx(26 + 246 * 2 / len(check.order))
        said = page.locator("#curves").get_attribute("aria-label")
        assert "0.93 with every word; 0.10 without the 20 leading words, 0.90 with only these left" in said


def test_a_reason_that_does_not_hold_is_said_to(checked_report: Path, open_report: OpenReport) -> None:
    with open_report(checked_report) as page:
        assert " ".join(page.locator("#checked").inner_text().split()) == (
            "For 3 of them the report measured how sure the model is without the words that lead. The reason holds for "
            "1, and not for review 1. For 1 there are too few words to tell."
        )
        page.locator("#checked button").click()
        assert number_on_screen(page) == 1
        assert page.locator("#doubt").is_visible()
        assert page.locator("#verdict").inner_text() == "✗ The reason does not hold for this review"
        page.get_by_role("button", name="Next").click()
        assert not page.locator("#doubt").is_visible()
        page.get_by_role("button", name="Next").click()
        assert page.locator("#verdict").inner_text() == "Too few words to tell whether the reason holds"


def test_a_review_without_a_check_says_how_to_get_one(checked_report: Path, open_report: OpenReport) -> None:
    with open_report(checked_report, "#view=reading&review=2") as page:
        assert " ".join(page.locator("#check-missing").inner_text().split()) == (
            "This review was not measured; 3 of 4 reviews on this page were. Write the page with report.curves=all to "
            "measure each. Show one that was"
        )
        assert not page.locator("#check-body").is_visible()
        page.get_by_role("button", name="Show one that was").click()
        assert number_on_screen(page) == 0
        assert page.locator("#curves").is_visible()


def test_the_check_is_of_the_leading_method(checked_report: Path, open_report: OpenReport) -> None:
    with open_report(checked_report, "#view=reading&review=0&without=4") as page:
        assert page.locator("#method option").all_inner_texts() == ["Contributions", "Attention, layer 1"]
        assert len(struck(page)) == 4
        page.locator("#method").focus()
        page.keyboard.press("ArrowDown")
        assert page.locator("#reading-title").inner_text() == "Attention, layer 1: Mean of the heads"
        assert struck(page) == []
        assert not page.locator("#check-body").is_visible()
        assert not page.locator("#text.signed").count()
        assert "another method: Contributions" in page.locator("#check-other").inner_text()
        page.locator("#method-rows [data-row='2']").click()
        page.get_by_role("button", name="Show it").click()
        assert page.locator("#reading-title").inner_text() == "Contributions"
        assert len(struck(page)) == 4


# -------------------------------------------------------------------------------------------------------------- classic


def test_the_classic_view_paints_the_data(report: Path, open_report: OpenReport) -> None:
    review = REVIEWS[0]
    with open_report(report, "#review=10&view=classic", height=2000) as page:
        assert page.locator("#pictures h3").all_inner_texts() == [
            *(f"Head {n}" for n in range(1, 5)),
            "Mean of the heads",
        ]
        assert page.locator("#pictures p").inner_text() == "True label: negative\nPredicted label: negative"
        assert page.locator("#pictures p").get_attribute("lang") == "en"
        for number, head in enumerate([1, 2, 3, 4, None]):
            scaled = classic_scale(row_of(review, 3, head))[:-1]  # [SEP] counts for the scale and is not shown
            units = f"#pictures .picture:nth-of-type({number + 1}) .unit"
            assert page.locator(units).all_text_contents() == [f" {token}" for token in review.tokens[:-1]]
            np.testing.assert_allclose(painted(page, units), scaled, atol=0.005)
        # the pixels themselves, at the blank that opens a piece: white to full red
        scaled = classic_scale(row_of(review, 3, 1))
        for place in (3, 5, int(scaled[:14].argmax())):
            box = page.locator("#pictures .unit").nth(place).bounding_box()
            clip = {"x": box["x"] + 1, "y": box["y"] + box["height"] / 2, "width": 1, "height": 1}
            pixel = page.evaluate(
                """async bytes => {
                    const image = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
                    const context = new OffscreenCanvas(1, 1).getContext("2d");
                    context.drawImage(image, 0, 0);
                    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
                }""",
                list(page.screenshot(clip=clip)),
            )
            other = 255 * (1 - scaled[place])
            np.testing.assert_allclose(pixel, [255, other, other], atol=2)


def test_the_classic_view_has_layers_numbers_and_keys(report: Path, open_report: OpenReport) -> None:
    review = REVIEWS[0]
    with open_report(report, "#review=10&view=classic") as page:
        page.locator("#method").select_option("Attention, layer 1")
        row = row_of(review, 1, 1)
        page.locator("#pictures .unit").nth(4).hover()
        assert f"weight {row[4]:.3f}\n" in page.locator("#tip").inner_text()
        assert f"piece 5 of {len(row)}" in page.locator("#tip").inner_text()
        page.locator("#method").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        assert page.locator("#live").text_content().startswith(f"{review.tokens[1]}: weight {row[1]:.3f}")
        page.keyboard.press("End")
        assert page.locator("#live").text_content().startswith(f"{review.tokens[-2]}: weight {row[-2]:.3f}")
        assert page.locator("#classic .hint").inner_text().count("full red") == 2
        page.locator("#method").select_option("Contributions")
        assert "full orange, or blue where it is against the prediction, by weight" in (
            page.locator("#classic .hint").inner_text()
        )
        values = np.abs(review.rows[-1].values)
        np.testing.assert_allclose(painted(page, "#pictures .unit"), classic_scale(values)[:-1], atol=0.005)
        assert page.locator("#pictures .unit.against").count() == (review.rows[-1].values[:-1] < 0).sum()


# ------------------------------------------------------------------------------------------------- hostile, and offline


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    reviews = [with_check(explained(text, index)) for index, text in enumerate(HOSTILE)]
    names = ["<b onclick=window.flag=1>\u202e" + "long" * 500, "</title><script>window.flag=1</script>"]
    return render(
        folder / "report.html",
        reviews,
        label_names=names,
        title=HOSTILE[1] + "\u202e",
        facts={f"{number} {text[:2000]}": text[:2000] for number, text in enumerate(HOSTILE)},
    )


def test_hostile_texts_stay_texts(hostile_report: Path, open_report: OpenReport) -> None:
    with open_report(hostile_report) as page:
        assert "\u202e" not in page.locator("body").inner_text()
        for index, text in enumerate(HOSTILE):
            page.goto(f"{hostile_report.as_uri()}#review={index}")
            for view in ("Reading", "Classic", "Summary", "Reading"):
                page.get_by_role("button", name=view, exact=True).click()
                assert page.evaluate("[typeof flag, document.scripts.length]") == ["undefined", 2]
                assert page.locator("main :is(img, svg:not(#curves), script, b[onclick], title)").count() == 0
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            spelled_out = re.sub("[\u2028\u2029\u202e\u2067\x00\x07]", lambda found: f"U+{ord(found[0]):04X}", text)
            assert page.locator("#text").text_content() == spelled_out
            page.locator("#text .unit").last.hover()
        assert not set("\u2028\u2029\u202e\u2067\x00\x07") & set(page.locator("html").evaluate("e => e.textContent"))
        page.goto(f"{hostile_report.as_uri()}#view=reading&review=4")
        chip = page.locator("#text .hidden-character").nth(2)
        assert chip.inner_text() == "U+202E"
        assert chip.get_attribute("title") == "right-to-left override"
        heights = page.locator(".row").evaluate_all("rows => rows.map(row => row.getBoundingClientRect().height)")
        assert set(heights) == {68}


def test_hostile_texts_fit_a_phone(hostile_report: Path, open_report: OpenReport) -> None:
    with open_report(hostile_report, width=360, height=740) as page:
        for index in range(len(HOSTILE)):
            for view in ("reading", "classic", "summary"):
                page.goto(f"{hostile_report.as_uri()}#review={index}&view={view}")
                assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_policy_refuses_what_slipped_through(report: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    failures: list[str] = []  # an image's request is announced before the policy stops it
    page.on("requestfailed", lambda request: failures.append(request.failure))
    outcomes = page.evaluate("""async () => {
        const outcomes = [];
        const attempt = async (does) => { try { await does(); return "done"; } catch { return "refused"; } };
        outcomes.push(await attempt(() => { document.body.innerHTML = "<img src=x onerror='window.flag = 1'>"; }));
        outcomes.push(await attempt(() => fetch("https://example.org/")));
        outcomes.push(await attempt(() => document.body.setAttribute("onclick", "window.flag = 1")));
        document.body.click();
        const script = document.createElement("script");
        outcomes.push(await attempt(() => { script.text = "window.flag = 1"; document.body.append(script); }));
        const image = new Image();
        outcomes.push(await new Promise((resolve) => {
            image.onerror = () => resolve("refused");
            image.onload = () => resolve("done");
            image.src = "https://example.org/pixel.gif";
        }));
        return [outcomes, typeof window.flag];
    }""")
    assert outcomes == [["refused"] * 5, "undefined"]
    assert set(failures) == {"csp"}
    page.close()


# -------------------------------------------------------------------------------------------------------- access, looks


def axe(page: Any, where: str) -> None:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    serious = [
        f"{violation['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]
    assert serious == [], where


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(report: Path, open_report: OpenReport, scheme: str) -> None:
    for view in ("summary", "reading", "classic"):
        with open_report(report, f"#review=10&view={view}", color_scheme=scheme, bypass_csp=True) as page:
            if view == "reading":
                page.locator("#text .unit").nth(3).hover()
            axe(page, f"{view}, {scheme}")
    with open_report(report, width=360, height=740, color_scheme=scheme, bypass_csp=True) as page:
        page.locator("#open-list").click()
        axe(page, f"list on a phone, {scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_a_check(checked_report: Path, open_report: OpenReport, scheme: str) -> None:
    for address in ("view=summary", "review=0&without=5", "review=1&without=w2", "review=2", "review=0&method=1"):
        with open_report(checked_report, f"#view=reading&{address}", color_scheme=scheme, bypass_csp=True) as page:
            axe(page, f"{address}, {scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_leaves_the_text_readable(
    report: Path, checked_report: Path, open_report: OpenReport, scheme: str
) -> None:
    contrasts = """() => {
        const numbers = (colour) => {
            const found = colour.match(/[\\d.]+/g).map(Number);
            return colour.startsWith("color(srgb") ? [...found.slice(0, 3).map((c) => 255 * c), found[3] ?? 1]
                : [...found.slice(0, 3), found[3] ?? 1];
        };
        const luminance = ([r, g, b]) => [r, g, b]
            .map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
            .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
        const all = [];
        for (const unit of document.querySelectorAll(".unit")) {
            const paper = numbers(getComputedStyle(unit.closest(".card")).backgroundColor);
            for (let share = 0; share <= 1.001; share += 0.05) {
                unit.style.setProperty("--a", share.toFixed(2));
                const style = getComputedStyle(unit);
                const [r, g, b, alpha] = numbers(style.backgroundColor);
                const back = luminance([r, g, b].map((c, at) => alpha * c + (1 - alpha) * paper[at]));
                const front = luminance(numbers(style.color));
                all.push((Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05));
            }
            if (all.length > 60) break;
        }
        return Math.min(...all);
    }"""
    for view in ("reading", "classic"):
        with open_report(report, f"#review=10&view={view}", color_scheme=scheme) as page:
            assert page.evaluate(contrasts) >= 4.5
        with open_report(checked_report, f"#review=0&view={view}", color_scheme=scheme) as page:
            assert page.evaluate(contrasts) >= 4.5


@pytest.mark.parametrize(("width", "lines"), [(1280, 1), (880, 1), (360, 2)])
def test_the_head_names_the_model_in_every_view(report: Path, open_report: OpenReport, width: int, lines: int) -> None:
    for view in ("summary", "reading"):
        with open_report(report, f"#review=10&view={view}", width=width) as page:
            head = page.locator("header.top #model")
            assert " ".join(head.inner_text().split()) == (
                "model all-MiniLM-L6-v2 learning rate 5e-05 epoch 2 accuracy 87.5 % on all 500 test reviews"
            )
            assert round(head.bounding_box()["height"] / 16.8) == lines
            if width > 860:  # where the list begins
                assert page.locator("header.top").bounding_box()["height"] <= 56.5


def test_wrong_cells_have_another_hue_than_right_ones(tmp_path: Path, open_report: OpenReport) -> None:
    reviews = [explained("A film.", index, label=int(index > 0)) for index in (0, 1, 3, 5)]  # one wrong: 5
    with open_report(render(tmp_path / "r.html", reviews)) as page:
        colours = page.locator(".confusion button").evaluate_all(
            """buttons => buttons.map((button) => {
                const context = new OffscreenCanvas(1, 1).getContext("2d");
                context.fillStyle = getComputedStyle(button).backgroundColor;
                context.fillRect(0, 0, 1, 1);
                return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
            })"""
        )
        assert page.locator(".confusion b").all_inner_texts() == ["1", "0", "1", "2"]
        warmth = [red - blue for red, _, blue in colours]
        assert warmth[0] < 0 < warmth[2], "blue where right, red where wrong"
        assert warmth[1] < 15, "a cell without a review has neither"


def test_the_theme_is_the_systems(report: Path, open_report: OpenReport) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with open_report(report, color_scheme="light") as page:
        light = page.evaluate(background)
    with open_report(report, color_scheme="dark") as page:
        assert page.evaluate(background) != light


def test_by_keyboard_alone(report: Path, open_report: OpenReport) -> None:
    with open_report(report, "#view=reading&review=10") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the review"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        assert number_on_screen(page) == 10
        page.reload()
        stops = []
        for _ in range(60):
            page.keyboard.press("Tab")
            stop = page.evaluate("""() => {
                const { activeElement: e } = document;
                const ring = getComputedStyle(e.matches("input[type=radio]") ? e.nextElementSibling : e);
                const name = e.id || e.dataset.view || e.name || e.textContent;
                return e === document.body ? null : [name, ring.outlineStyle];
            }""")
            if stop is None:
                break
            stops.append(stop)
        names = [name for name, _ in stops]
        assert {"summary", "classic", "search", "list", "next", "method", "text"} <= set(names)
        assert len(stops) < 40, "words are no tab stops"
        assert all(ring != "none" for _, ring in stops), stops


def test_a_check_fits_a_phone(checked_report: Path, open_report: OpenReport) -> None:
    with open_report(checked_report, "#view=reading&review=0", width=360, height=740, has_touch=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        places = [page.locator(selector).bounding_box()["y"] for selector in ("#text", "#curves", "#strongest")]
        assert places == sorted(places), "the check follows the text"
        page.locator("#leading button").nth(2).tap()
        assert len(struck(page)) == 1


def test_a_phone_never_scrolls_sideways_and_has_the_list(report: Path, open_report: OpenReport) -> None:
    with open_report(report, width=360, height=740, has_touch=True) as page:
        for view in ("summary", "reading", "classic"):
            page.goto(f"{report.as_uri()}#review=10&view={view}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert not page.locator("#list").is_visible()
        page.locator("#open-list").tap()
        assert page.locator("#list").is_visible()
        assert page.evaluate("document.activeElement.id") == "search"
        page.keyboard.press("Escape")
        assert not page.locator("#list").is_visible()
        assert page.evaluate("document.activeElement.id") == "open-list"
        page.locator("#open-list").tap()
        page.locator(".row").nth(2).tap()
        assert not page.locator("#list").is_visible()
        assert number_on_screen(page) == 12
        page.get_by_role("button", name="Reading").tap()
        page.locator("#text .unit").nth(2).tap()
        assert "weight" in page.locator("#tip").inner_text()


def test_on_paper_there_is_only_the_review_on_white(report: Path, open_report: OpenReport) -> None:
    with open_report(report, "#view=reading&review=10", color_scheme="dark") as page:
        page.emulate_media(media="print")
        for selector in ("#panel", "nav", "#method-rows", ".controls"):
            assert not page.locator(selector).is_visible()
        assert page.locator("#text").is_visible()
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
        )


def test_one_review_is_opened_at_once(tmp_path: Path, open_report: OpenReport) -> None:
    path = render(tmp_path / "r.html", [explained("I loved it.", 7, label=None)])
    with open_report(path) as page:
        assert number_on_screen(page) == 7
        assert page.locator("#text").is_visible()
        assert page.locator("#count").inner_text() == "1 review"
        page.get_by_role("button", name="Summary").click()
        assert page.locator("#summary").is_visible()
        page.reload()
        assert page.locator("#summary").is_visible()


def test_without_labels(tmp_path: Path, open_report: OpenReport) -> None:
    path = render(tmp_path / "r.html", [explained("I loved it.", 0, label=None)])
    with open_report(path) as page:
        assert not page.locator("[name=result]").count()
        page.locator("#list").press("ArrowDown")
        assert page.locator("#prediction").inner_text().endswith("label unknown")
        assert not page.locator("#method").is_visible()
        page.get_by_role("button", name="Classic").click()
        assert "True label: unknown" in page.locator("#pictures").inner_text()


def test_without_reviews(tmp_path: Path, open_report: OpenReport) -> None:
    with open_report(render(tmp_path / "r.html", [])) as page:
        page.get_by_role("button", name="Reading").click()
        page.locator("#list").press("ArrowDown")
        assert page.locator("#summary").is_visible()


# ---------------------------------------------------------------------------------------------------------------- speed


def large_reviews(number: int) -> Iterator[ExplainedReview]:
    text = " ".join(["An ordinary film with, here and there, an extraordinary moment."] * 24)
    return (with_check(explained(f"{index} {text}", index, num_heads=12)) for index in range(number))


def seconds_of_cpu(page: Any) -> Callable[[], float]:
    """Return what reads how long the page itself has computed: a busy machine does not count."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def read() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))

    return read


def seconds_to_open(page: Any, path: Path) -> float:
    start = time.perf_counter()
    page.goto(path.as_uri())
    page.locator(".row").first.wait_for()
    return time.perf_counter() - start


def test_64_reviews_open_and_switch_heads_at_once(tmp_path: Path, open_report: OpenReport) -> None:
    path = render(tmp_path / "report.html", large_reviews(64))
    with open_report(path) as page:
        cpu = seconds_of_cpu(page)
        opened = seconds_to_open(page, path)
        computed = cpu()
        page.locator(".row").first.click()
        before = cpu()
        page.evaluate("""() => {
            const slider = document.getElementById("without");
            for (slider.value = 1; ; slider.value = Number(slider.value) + 1) {
                slider.dispatchEvent(new Event("input", {bubbles: true}));
                document.body.getBoundingClientRect();
                if (slider.value === slider.max) break;
            }
        }""")
        struck_out = (cpu() - before) / 20
        page.locator("#method").select_option("Attention, layer 1")
        heads = page.locator(".method-row").count()
        before = cpu()
        page.evaluate("""() => [...document.querySelectorAll(".method-row")].forEach((head) => {
            head.click();
            document.body.getBoundingClientRect();
        })""")
        switched = (cpu() - before) / heads
    print(
        f"64 reviews, {path.stat().st_size:,} bytes: {opened:.2f} s to open ({computed:.2f} s of CPU), "
        f"{1000 * struck_out:.0f} ms of CPU to strike a word out, {1000 * switched:.0f} ms to switch a head"
    )
    assert heads == 13
    assert computed < 1
    assert max(struck_out, switched) < 0.05


def test_1000_reviews_stay_usable(tmp_path: Path, open_report: OpenReport) -> None:
    path = render(tmp_path / "report.html", large_reviews(1000))
    with open_report(path) as page:
        opened = seconds_to_open(page, path)
        frames = page.evaluate("""async () => {
            const list = document.getElementById("list");
            const times = [];
            for (let frame = 0; frame < 60; frame += 1) {
                const start = performance.now();
                list.scrollTop += 1000;
                await new Promise(requestAnimationFrame);
                await new Promise(requestAnimationFrame);
                times.push((performance.now() - start) / 2);
            }
            return times.sort((a, b) => a - b);
        }""")
        page.locator("#list").focus()
        page.keyboard.press("End")
        assert number_on_screen(page) == 999
        assert page.locator(".row[aria-selected=true]").is_visible()
        page.locator("#search").fill("777 An")
        assert rows(page) == [777]
    median = frames[len(frames) // 2]
    print(
        f"1,000 reviews, {path.stat().st_size:,} bytes: {opened:.2f} s to open, {median:.0f} ms a frame when scrolling"
    )
    assert opened < 8
    assert median < 100
