"""The report page: page.html.jinja with style.css, check.js and script.js inlined, and the reviews as JSON.

The text of reviewers, label names and file names is untrusted: Jinja escapes it, and the scripts put it on the page as
text only. If both fail, the page's Content-Security-Policy lets nothing load, and nothing run but those files.

Shapes: C classes, R numbers of words taken away at random.
"""

import base64
import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import accumulate, groupby
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from bertlens.explanations.explainer import ExplainedReview
from bertlens.explanations.faithfulness import Check
from bertlens.explanations.methods import MethodRow
from bertlens.explanations.selection import Selection
from bertlens.explanations.words import find_words, piece_kinds, word_text, word_weights
from bertlens.system.escape import is_hidden, visible
from bertlens.system.files import atomic_write

FOLDER = Path(__file__).parent
NUM_TOP_WORDS = 12
MAX_WORD_LENGTH = 40  # of a word in the summary; longer ones are cut
CLASSIC_CAPTIONS = {
    "en": ("True label: ", "Predicted label: ", "unknown"),
    "ja": ("正解ラベル：", "推論ラベル：", "不明"),
}
MIN_WORDS_TO_JUDGE = 6  # of fewer words, one of ten random orders often begins as the leading words do
KIND_LETTERS = {"words": "w", "punctuation": "p", "[CLS]": "c", "[SEP]": "s"}


def render_report(
    reviews: Iterable[ExplainedReview],
    *,
    label_names: Sequence[str],
    selection: Selection,
    title: str,
    facts: dict[str, str],
    path: Path,
    language: str = "en",
) -> None:
    """Write the page, whole or not at all.

    The reviews are taken and written one by one, so memory grows only by the summary's counts. All have the same rows
    of numbers. facts: what the report was made from, value by name.
    """
    style, *scripts = (
        Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("style.css", "check.js", "script.js")
    )
    summary = _Summary(len(label_names))
    template = _environment().get_template("page.html.jinja")
    pieces = template.generate(
        policy=_policy(style, scripts),
        style=style,
        scripts=scripts,
        title=title,
        facts=facts,
        label_names=[visible(name) for name in label_names],
        selection=selection,
        captions=[language, *CLASSIC_CAPTIONS[language]],
        reviews=(summary.add(review) for review in reviews),
        summary=summary,  # the template reads it after the last review
    )
    with atomic_write(path, "wb") as file:
        for piece in pieces:
            file.write(piece.encode("utf-8"))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # |tojson writes <, >, & and ' as \uXXXX, and with ensure_ascii all but ASCII; allow_nan makes a NaN an error
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": True, "allow_nan": False, "separators": (",", ":")}
    environment.policies["json.dumps_function"] = json.dumps
    environment.filters["visible"] = visible
    return environment


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Return a policy under which the page loads and sends nothing, and runs only these scripts and this style."""
    style_hash, *script_hashes = (
        f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode()}'"
        for content in (style, *scripts)
    )
    return (
        f"default-src 'none'; script-src {' '.join(script_hashes)}; style-src {style_hash}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _utf16_places(text: str) -> Sequence[int]:
    """Return where each character begins for JavaScript, which counts characters beyond U+FFFF, as emoji, as two."""
    if all(character <= "\uffff" for character in text):
        return range(len(text) + 1)
    return list(accumulate((1 + (character > "\uffff") for character in text), initial=0))


def _base64(rows: Sequence[MethodRow]) -> str:
    """Return all rows' values in 32 bits: the page shows three decimals of them, also where a row sums to 0.01."""
    return base64.b64encode(np.stack([row.values for row in rows]).astype("<f4").tobytes()).decode("ascii")


def _outside(rows: Sequence[MethodRow]) -> dict[int, dict[str, Any]]:
    """Return what a row's sum holds beside its word pieces, by the row's place."""
    return {
        place: {
            "nothing": row.nothing,
            "probabilities": None if row.nothing_probabilities is None else _shares(row.nothing_probabilities),
            "padding": row.padding,
        }
        for place, row in enumerate(rows)
        if row.nothing is not None or row.padding
    }


def _shares(probabilities: NDArray[np.floating[Any]]) -> list[float]:
    return [round(float(probability), 5) for probability in probabilities]


def _check(check: Check, predicted: int) -> dict[str, Any]:
    """Return what the page holds of a check: probabilities of the prediction, and which class is predicted then."""

    def measured(probabilities: NDArray[np.float32]) -> list[tuple[float, int]]:
        return list(zip(_shares(probabilities[:, predicted]), probabilities.argmax(axis=1).tolist(), strict=True))

    random = check.random[:, :, predicted]  # [10, R]
    return {
        "order": check.order,
        "removed": measured(check.removed),
        "kept": measured(check.kept),
        "alone": measured(check.alone),
        "counts": check.random_counts,
        "low": _shares(random.min(axis=0)),
        "high": _shares(random.max(axis=0)),
        "agreement": check.agreement,
        "holds": _holds(check, predicted),
    }


def _holds(check: Check, predicted: int) -> bool | None:
    """Return whether the leading words lower the prediction's probability more than each random order does.

    In the mean over the numbers of words that were taken away at random. None where a random order is too easily the
    leading one.
    """
    if len(check.order) < MIN_WORDS_TO_JUDGE:
        return None
    leading = check.removed[check.random_counts, predicted].mean()
    return bool(leading < check.random[:, :, predicted].mean(axis=1).min())


class _Summary:
    """Counts over the reviews so far."""

    def __init__(self, num_classes: int) -> None:
        self.num_reviews = 0
        self.methods: list[dict[str, Any]] = []  # each method with the names of its rows
        self.hidden: dict[str, str] = {}  # characters that the page must spell out, with their names
        self.confusion = np.zeros((num_classes, num_classes), dtype=int)  # label by predicted class
        self.num_predicted = [0] * num_classes
        self.checked: list[int] = []  # places of the reviews that can be checked by hand
        self.num_holding = 0  # of these, those whose reason holds
        self.doubtful: list[tuple[int, int]] = []  # places and indices of those whose reason does not
        self._large: dict[str, list[float]] = defaultdict(list)  # by method: what 1 % of each review's words exceed
        # by predicted class, then by word: the sum of its weights, its occurrences, the reviews with it
        self._words: list[dict[str, list[float]]] = [defaultdict(lambda: [0.0, 0, 0]) for _ in range(num_classes)]

    def add(self, review: ExplainedReview) -> dict[str, Any]:
        """Count a review, and return what the page holds of it."""
        methods = [
            asdict(method) | {"rows": [row.name for row in rows]}
            for method, rows in groupby(review.rows, key=lambda row: row.method)
        ]
        self.methods = self.methods or methods
        assert methods == self.methods, f"review {review.index} has other rows than the reviews before it"
        check = None if review.check is None else _check(review.check, review.predicted)
        if check is not None:
            self.checked.append(self.num_reviews)
            self.num_holding += check["holds"] is True
            if check["holds"] is False:
                self.doubtful.append((self.num_reviews, review.index))
        self.num_reviews += 1
        self.hidden |= {
            character: unicodedata.name(character, "CONTROL CHARACTER").lower()
            for character in set(review.text)
            if is_hidden(character)
        }
        self.num_predicted[review.predicted] += 1
        if review.label is not None:
            self.confusion[review.label, review.predicted] += 1
        words = find_words(review.tokens, review.offsets, review.text)
        for method, rows in groupby(review.rows, key=lambda row: row.method):
            if method.signed:
                sizes = np.abs([word_weights(words, row.values) for row in rows])
                self._large[method.name].append(float(np.quantile(sizes, 0.99)) if sizes.size else 0.0)
        counts = self._words[review.predicted]
        here = set()
        for word, weight in zip(words, word_weights(words, review.rows[0].values), strict=True):
            name = _shorten(word_text(word, review.text).lower())  # as the page does when it searches
            if any(character.isalnum() for character in name):
                here.add(name)
                counts[name][0] += float(weight)
                counts[name][1] += 1
        for name in here:
            counts[name][2] += 1
        places = _utf16_places(review.text)
        offsets, end_before = [], 0
        for start, end in review.offsets:
            offsets += [places[start] - end_before, places[end] - places[start]]  # small numbers make a small page
            end_before = places[end]
        return {
            "index": review.index,
            "label": review.label,
            # the shortest decimals that tell 32-bit numbers apart, so that the page finds the same largest one
            "probabilities": [float(str(probability)) for probability in review.probabilities.astype(np.float32)],
            "text": review.text,
            "tokens": review.tokens,
            "offsets": offsets,
            "kinds": "".join(KIND_LETTERS[kind] for kind in piece_kinds(review.tokens, review.offsets)),
            "words": [word.last - word.first for word in words],
            "values": _base64(review.rows),
            "contrast": review.contrast,
            "outside": _outside(review.rows),
            "check": check,
            "spans": [(places[start], places[end]) for start, end in sorted(review.spans)],
        }

    @property
    def scales(self) -> list[float | None]:
        """The number of each method that is painted in full on the whole page: 1 % of a usual review's words exceed it.

        The largest number would leave most reviews pale: a few words count ten times as much as the others.
        None for a method without a sign, which is painted by the largest number of each text.
        """
        large = [self._large[method["name"]] for method in self.methods]
        return [float(np.median(sizes)) or 1.0 if sizes else None for sizes in large]

    @property
    def num_labelled(self) -> int:
        return int(self.confusion.sum())

    @property
    def num_right(self) -> int:
        return int(self.confusion.trace())

    def min_reviews(self, predicted: int) -> int:
        """Return how many reviews a word must be in for its mean to be shown: 1 of 4, 3 of 32, 16 of 1,000."""
        return ceil(sqrt(self.num_predicted[predicted]) / 2)

    def top_words(self, predicted: int) -> list[tuple[str, float, int]]:
        """Return the words with the largest mean weight per occurrence, with the number of reviews they are in."""
        means = [
            (word, total / occurrences, int(reviews))
            for word, (total, occurrences, reviews) in self._words[predicted].items()
            if reviews >= self.min_reviews(predicted) and total > 0
        ]
        return sorted(means, key=lambda row: (-row[1], row[0]))[:NUM_TOP_WORDS]


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_WORD_LENGTH else text[: MAX_WORD_LENGTH - 1] + "…"
