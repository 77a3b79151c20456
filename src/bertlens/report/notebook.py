"""One explained text in Python: what a notebook shows of it, in the original notebook's way, and its page."""

import html
from dataclasses import dataclass, field
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
# of the largest number on white; for and against differ in hue and lightness also for the colour-blind
RED, FOR, AGAINST = (255, 0, 0), (255, 150, 50), (120, 180, 255)
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
        """[N, L]: what `[CLS]` pays each word piece in the last layer, by head; rows sum to 1.

        Empty if `attention` is not among the methods.
        """
        heads = [row.values for row in self.rows if row.name.startswith("Head ")]
        return np.array(heads, dtype=np.float32).reshape(len(heads), len(self.tokens))

    @property
    def predicted_label(self) -> str:
        """The name of the class with the highest probability."""
        return self.label_names[self.predicted]

    @property
    def contrast_label(self) -> str:
        """The name of the class that the prediction is set against."""
        return self.label_names[self.contrast]

    @property
    def leading_words(self) -> list[str]:
        """The words with the largest numbers above 0 in the first row, largest first."""
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
        """Return the prediction, the leading words, the picture of the first row, and the other rows', closed at first.

        An HTML fragment with inline styles.
        """
        lead, *others = self.rows
        methods = ", ".join(dict.fromkeys(row.method.name for row in others))
        pictures = "".join(_picture(self, row) for row in others)
        more = f"<details><summary>{len(others)} more: {methods}</summary>{pictures}</details>" if others else ""
        return (
            # the classes keep a notebook from typesetting what stands between two dollar signs
            f'<div lang="en" class="tex2jax_ignore mathjax_ignore" style="{CLASSIC_STYLE}">'
            f"<p>Predicted: <b>{_escape(self.predicted_label)}</b>, {100 * self.confidence:.1f} % sure<br>"
            f"Words with the largest {lead.method.number}: {_escape(', '.join(self.leading_words))}"
            f"{self._legend(lead)}</p>{_picture(self, lead)}{more}</div>"
        )

    def _legend(self, row: MethodRow) -> str:
        if not row.method.signed:
            return ""
        one, other, *alone = map(_escape, (self.predicted_label, self.contrast_label, *self.label_names))
        legend = "<br>" + _mark(f"for {one}", 1, signed=True) + _mark(f"for {other}", -1, signed=True)
        if row.nothing is None or row.nothing_probabilities is None:
            return legend
        read, surest = float(row.values.sum(dtype=np.float64)) + row.padding, row.nothing_probabilities.argmax()
        return (
            f"{legend}<br>The logit of {one} minus that of {other} is {read + row.nothing:.2f}: {row.nothing:.2f} when "
            f"nothing is read ({alone[surest]}, {100 * row.nothing_probabilities[surest]:.1f} % sure), "
            f"and {read:.2f} by what is read."
        )


def _picture(review: ExplainedReview, row: MethodRow) -> str:
    """Return the word pieces before [SEP], each on white to full color by its number; the largest is in full color."""
    title = ": ".join(dict.fromkeys((row.method.name, row.name)))
    parts = [f'<p><b>{title}</b><br><span style="unicode-bidi:isolate">']
    for token, offset, share in zip(review.tokens, review.offsets, classic_scale(row.values), strict=True):
        if token == "[SEP]" and is_special(offset):
            break
        parts.append(_mark(_escape(token), float(share), signed=row.method.signed))
    return "".join([*parts, "</span></p>"])


def _mark(text: str, share: float, *, signed: bool) -> str:
    """Return escaped text on the color of a number from -1 to 1."""
    hue = RED if not signed else FOR if share > 0 else AGAINST
    # rounded down, as in the notebook
    color = ",".join(str(int(full + (255 - full) * (1 - abs(share)))) for full in hue)
    return f'<span style="background-color:rgb({color})"> {text}</span>'


def classic_scale(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Scale values [..., L] so that the largest of each row, without its sign, is 1."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    return values / np.where(largest > 0, largest, 1)


def _escape(text: str) -> str:
    return html.escape(visible(text))
