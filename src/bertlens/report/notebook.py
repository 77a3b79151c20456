"""One explained text in Python: what a notebook shows of it, as the original notebook drew it, and its page."""

import html
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertlens.explanations.explainer import ExplainedReview
from bertlens.explanations.methods import MethodRow
from bertlens.explanations.selection import Selection
from bertlens.explanations.words import is_special, top_words
from bertlens.report.render import render_report
from bertlens.system.escape import one_line_of, visible

NUM_LEADING_WORDS = 8
CLASSIC_STYLE = "background:#fff;color:#000;padding:0.75em;line-height:1.7;overflow-wrap:anywhere"


@dataclass(frozen=True, kw_only=True)
class Explanation(ExplainedReview):
    """The prediction for one text and what it rests on; in a notebook it shows itself.

    Shapes: N heads, L word pieces.
    """

    label_names: list[str]
    facts: dict[str, str] = field(default_factory=dict)  # what the model is, by name, for the page

    @property
    def weights(self) -> NDArray[np.float32]:
        """[N, L]: what `[CLS]` pays each word piece in the last layer, by head; rows sum to 1."""
        return np.stack([row.values for row in self.rows if row.name.startswith("Head ")])

    @property
    def predicted_label(self) -> str:
        """The name of the class with the highest probability."""
        return self.label_names[self.predicted]

    @property
    def leading_words(self) -> list[str]:
        """The words with the largest weight in the first row, largest first."""
        return top_words(self.tokens, self.offsets, self.text, self.rows[0].values, NUM_LEADING_WORDS)

    def save(self, path: str | Path) -> Path:
        """Write the report page about this text, with every row of numbers; return its path."""
        path, own = Path(path).expanduser(), Selection(sentence="one text of your own")
        title, names = "What the prediction rests on", self.label_names
        render_report([self], label_names=names, selection=own, title=title, facts=self.facts, path=path)
        return path

    def __repr__(self) -> str:
        words = one_line_of(", ".join(self.leading_words))
        return f"Explanation({self.predicted_label!r}, confidence={self.confidence:.3f}, words: {words})"

    def _repr_html_(self) -> str:
        """Return the prediction, the leading words, the picture of the mean, and those of the heads, closed at first.

        An HTML fragment with inline styles.
        """
        _, (mean, *heads) = next(groupby(self.rows, key=lambda row: row.method))
        return (
            # the classes keep a notebook from typesetting what stands between two dollar signs
            f'<div lang="en" class="tex2jax_ignore mathjax_ignore" style="{CLASSIC_STYLE}">'
            f"<p>Predicted: <b>{_escape(self.predicted_label)}</b>, {100 * self.confidence:.1f} % sure<br>"
            f"Words with the largest {mean.method.number}: {_escape(', '.join(self.leading_words))}</p>"
            f"{_picture(self, mean)}<details><summary>{len(heads)} heads</summary>"
            f"{''.join(_picture(self, head) for head in heads)}</details></div>"
        )


def _picture(review: ExplainedReview, row: MethodRow) -> str:
    """Return the word pieces before [SEP], each on white to full red by its weight; the largest weight is full red."""
    parts = [f'<p><b>{row.method.name}: {row.name}</b><br><span style="unicode-bidi:isolate">']
    for token, offset, share in zip(review.tokens, review.offsets, classic_scale(row.values), strict=True):
        if token == "[SEP]" and is_special(offset):
            break
        other = int(255 * (1 - float(share)))  # rounded down, as in the notebook
        parts.append(f'<span style="background-color:rgb(255,{other},{other})"> {_escape(token)}</span>')
    return "".join([*parts, "</span></p>"])


def classic_scale(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Scale values [..., L] so that the largest of each row is 1."""
    largest = values.max(axis=-1, keepdims=True)
    return values / np.where(largest > 0, largest, 1)


def _escape(text: str) -> str:
    return html.escape(visible(text))
