"""One explained text in a notebook, as the original notebook drew it: word pieces, from white to red by weight."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertlens.explanations.explainer import ExplainedReview, Explainer, ReviewToExplain
from bertlens.explanations.selection import check_texts
from bertlens.explanations.words import is_special
from bertlens.model.checkpoint import read_checkpoint, restore
from bertlens.system.escape import visible

CLASSIC_STYLE = "background:#fff;color:#000;padding:0.75em;line-height:1.7;overflow-wrap:anywhere"


@dataclass(frozen=True, kw_only=True)
class Explanation(ExplainedReview):
    """The prediction for one text and what it rests on. A notebook shows it as the classic view.

    Shapes: N heads, L word pieces.
    """

    label_names: list[str]

    @property
    def weights(self) -> NDArray[np.float32]:
        """[N, L]: what `[CLS]` pays each word piece in the last layer, by head; rows sum to 1."""
        return np.stack([row.values for row in self.rows if row.name.startswith("Head ")])

    @property
    def predicted_label(self) -> str:
        """The name of the class with the highest probability."""
        return self.label_names[self.predicted]

    def _repr_html_(self) -> str:
        return classic_html(self, self.label_names)


def explain(text: str, *, checkpoint: str | Path) -> Explanation:
    """Explain the prediction for a text.

    Raises `InputError` for an empty text, one without a known word piece, or a checkpoint that cannot be read.
    """
    path = Path(checkpoint).expanduser().resolve()
    explainer = _load_explainer(path, path.stat().st_mtime_ns if path.exists() else 0)
    check_texts([text], explainer.tokenizer)
    review = next(explainer.explain([ReviewToExplain(index=0, text=text)]))
    return Explanation(**vars(review), label_names=explainer.label_names)


@lru_cache(maxsize=1)  # a notebook explains many texts with the same checkpoint
def _load_explainer(path: Path, _changed_ns: int) -> Explainer:
    checkpoint = read_checkpoint(path)
    return Explainer(*restore(checkpoint), checkpoint.info)


def classic_html(review: ExplainedReview, label_names: Sequence[str]) -> str:
    """Return the notebook's picture as an HTML fragment with inline styles: labels, then each head, then their mean.

    It shows the word pieces before [SEP], each on white to full red by its weight; the largest weight is full red.
    """
    label = "unknown" if review.label is None else label_names[review.label]
    parts = [
        # the classes keep a notebook from typesetting what stands between two dollar signs
        f'<div lang="en" class="tex2jax_ignore mathjax_ignore" style="{CLASSIC_STYLE}">',
        f"<p>True label: <b>{_escape(label)}</b><br>",
        f"Predicted label: <b>{_escape(label_names[review.predicted])}</b></p>",
    ]
    _, (mean, *heads) = next(groupby(review.rows, key=lambda row: row.method))
    for row in (*heads, mean):
        parts.append(f'<p><b>{row.name}</b><br><span style="unicode-bidi:isolate">')
        for token, offset, share in zip(review.tokens, review.offsets, classic_scale(row.values), strict=True):
            if token == "[SEP]" and is_special(offset):
                break
            other = int(255 * (1 - float(share)))  # rounded down, as in the notebook
            parts.append(f'<span style="background-color:rgb(255,{other},{other})"> {_escape(token)}</span>')
        parts.append("</span></p>")
    parts.append("</div>")
    return "".join(parts)


def classic_scale(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Scale values [..., L] so that the largest of each row is 1."""
    largest = values.max(axis=-1, keepdims=True)
    return values / np.where(largest > 0, largest, 1)


def _escape(text: str) -> str:
    return html.escape(visible(text))
