"""Numbers into pictures: the report page, and the notebook's classic view.

The page is page.html.jinja with style.css and script.js inlined, and the reviews as JSON. What reviewers, label names
and file names say is taken for hostile: Jinja escapes it, script.js puts it on the page as text only, and should both
fail, the page's Content-Security-Policy lets nothing run and nothing load but those two files, named by their hashes.
"""

import base64
import hashlib
import html
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from bertlens.explanations.words import (
    ExplainedReview,
    classic_scale,
    is_special,
    piece_kinds,
    word_text,
    word_weights,
    words,
)
from bertlens.system.escape import is_hidden, visible
from bertlens.system.files import atomic_write

FOLDER = Path(__file__).parent
NUM_TOP_WORDS = 12
MAX_WORD_LENGTH = 40  # of a word in the summary; longer ones are cut
KIND_LETTERS = {"words": "w", "punctuation": "p", "[CLS]": "c", "[SEP]": "s"}
CLASSIC_STYLE = "background:#fff;color:#000;padding:0.75em;line-height:1.7;overflow-wrap:anywhere"


def render_report(
    reviews: Iterable[ExplainedReview],
    *,
    label_names: Sequence[str],
    layers: Sequence[int],
    title: str,
    facts: dict[str, str],
    path: Path,
) -> None:
    """Write the page, whole or not at all.

    The reviews are taken one by one and written as they come, so memory does not grow with their number beyond the
    counts behind the summary. layers: the number of each recorded layer, from 1, as the page shows it; facts: what
    the report was made from, name by value.
    """
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js"))
    summary = _Summary(len(label_names))
    template = _environment().get_template("page.html.jinja")
    pieces = template.generate(
        policy=_policy(style, script),
        style=style,
        script=script,
        title=title,
        facts=facts,
        label_names=[visible(name) for name in label_names],
        layers=list(layers),
        reviews=_rows(reviews, summary, num_layers=len(layers)),
        summary=summary,  # the template reads it after the last review
    )
    with atomic_write(path, "wb") as file:
        for piece in pieces:
            file.write(piece.encode("utf-8"))


def classic_html(review: ExplainedReview, label_names: Sequence[str], layer_index: int = -1) -> str:
    """The notebook's picture as a fragment of HTML, styled in place: labels, then the text by head and for their mean.

    Word pieces up to [SEP], each on white to full red by the weight [CLS] pays it, scaled so that the largest is 1.
    """
    label = "unknown" if review.label is None else label_names[review.label]
    parts = [
        # the classes: a notebook would typeset what stands between two dollar signs
        f'<div lang="en" class="tex2jax_ignore mathjax_ignore" style="{CLASSIC_STYLE}">',
        f"<p>True label: <b>{_escape(label)}</b><br>",
        f"Predicted label: <b>{_escape(label_names[review.verdict])}</b></p>",
    ]
    heads = review.weights[layer_index]
    names = [f"Head {number}" for number in range(1, len(heads) + 1)]
    for name, weights in zip([*names, "Mean of the heads"], [*heads, heads.mean(axis=0)], strict=True):
        parts.append(f'<p><b>{name}</b><br><span style="unicode-bidi:isolate">')
        for token, offset, share in zip(review.tokens, review.offsets, classic_scale(weights), strict=True):
            if token == "[SEP]" and is_special(offset):
                break
            other = int(255 * (1 - float(share)))  # rounded down, as in the notebook
            parts.append(f'<span style="background-color:rgb(255,{other},{other})"> {_escape(token)}</span>')
        parts.append("</span></p>")
    parts.append("</div>")
    return "".join(parts)


def _escape(text: str) -> str:
    return html.escape(visible(text))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # |tojson writes <, >, & and ' as \uXXXX; with ASCII only, so are U+2028 and all that is not; a NaN is an error
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": True, "allow_nan": False, "separators": (",", ":")}
    environment.policies["json.dumps_function"] = json.dumps
    environment.filters["visible"] = visible
    return environment


def _policy(style: str, script: str) -> str:
    """Nothing may be fetched, sent or framed, no other script or style may run, and no string may become HTML."""
    script_hash, style_hash = (
        base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode() for content in (script, style)
    )
    return (
        f"default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'sha256-{style_hash}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _rows(reviews: Iterable[ExplainedReview], summary: "_Summary", *, num_layers: int) -> Iterator[dict[str, Any]]:
    """What the page holds of each review."""
    for review in reviews:
        assert len(review.weights) == num_layers, f"{len(review.weights)} layers of weights, {num_layers} layer numbers"
        summary.add(review)
        place = _utf16_places(review.text)
        offsets, end_before = [], 0
        for start, end in review.offsets:
            offsets += [place[start] - end_before, place[end] - place[start]]  # small numbers make a small page
            end_before = place[end]
        yield {
            "index": review.index,
            "label": review.label,
            # the shortest decimals that tell 32-bit numbers apart, so that the page finds the same largest one
            "probabilities": [float(str(probability)) for probability in review.probabilities.astype(np.float32)],
            "text": review.text,
            "tokens": review.tokens,
            "offsets": offsets,
            "kinds": "".join(KIND_LETTERS[kind] for kind in piece_kinds(review.tokens, review.offsets)),
            "words": [word.last - word.first for word in words(review.tokens, review.offsets, review.text)],
            "weights": _base64(review.weights),
            "rollout": None if review.rollout is None else _base64(review.rollout),
            "spans": [(place[start], place[end]) for start, end in sorted(review.spans)],
        }


def _utf16_places(text: str) -> Sequence[int]:
    """Where each character begins for JavaScript, which counts those beyond U+FFFF, such as emoji, as two."""
    if all(character <= "\uffff" for character in text):
        return range(len(text) + 1)
    return list(accumulate((1 + (character > "\uffff") for character in text), initial=0))


def _base64(weights: NDArray[np.float32]) -> str:
    """Weights as they are, in 32 bits.

    Fewer bits would do for colours. But what hovering shows is exact to three decimals for means over heads and sums
    over pieces too, and where [SEP] takes 0.99, as it does in some heads, the words share the last hundredth.
    """
    return base64.b64encode(np.ascontiguousarray(weights, dtype="<f4").tobytes()).decode("ascii")


class _Summary:
    """Counts over the reviews that went by."""

    def __init__(self, num_classes: int) -> None:
        self.num_reviews = 0
        self.num_heads = 0
        self.has_rollout = False
        self.hidden: dict[str, str] = {}  # characters that the page must spell out, with their names
        self.confusion = np.zeros((num_classes, num_classes), dtype=int)  # label by verdict
        self.num_verdicts = [0] * num_classes
        # by verdict, then by word: the sum of its weights, how often it occurs, in how many reviews
        self._words: list[dict[str, list[float]]] = [defaultdict(lambda: [0.0, 0, 0]) for _ in range(num_classes)]

    def add(self, review: ExplainedReview) -> None:
        self.num_reviews += 1
        self.num_heads = review.weights.shape[1]
        self.has_rollout = self.has_rollout or review.rollout is not None
        self.hidden |= {
            character: unicodedata.name(character, "CONTROL CHARACTER").lower()
            for character in set(review.text)
            if is_hidden(character)
        }
        self.num_verdicts[review.verdict] += 1
        if review.label is not None:
            self.confusion[review.label, review.verdict] += 1
        found = words(review.tokens, review.offsets, review.text)
        seen = self._words[review.verdict]
        here = set()
        for word, weight in zip(found, word_weights(found, review.weights[-1].mean(axis=0)), strict=True):
            name = _shortened(word_text(word, review.text).lower())  # as the page does when it searches
            if any(character.isalnum() for character in name):
                here.add(name)
                seen[name][0] += float(weight)
                seen[name][1] += 1
        for name in here:
            seen[name][2] += 1

    @property
    def num_labelled(self) -> int:
        return int(self.confusion.sum())

    @property
    def num_right(self) -> int:
        return int(self.confusion.trace())

    def min_reviews(self, verdict: int) -> int:
        """In how many reviews a word must stand for its mean to say something: 1 of 4, 3 of 32, 16 of 1,000."""
        return ceil(sqrt(self.num_verdicts[verdict]) / 2)

    def top_words(self, verdict: int) -> list[tuple[str, float, int]]:
        """The words with the largest mean weight per occurrence, with the number of reviews they stand in."""
        means = [
            (word, total / occurrences, int(reviews))
            for word, (total, occurrences, reviews) in self._words[verdict].items()
            if reviews >= self.min_reviews(verdict)
        ]
        return sorted(means, key=lambda row: (-row[1], row[0]))[:NUM_TOP_WORDS]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_WORD_LENGTH else text[: MAX_WORD_LENGTH - 1] + "…"
