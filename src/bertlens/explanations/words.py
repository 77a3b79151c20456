"""What [CLS], the piece the verdict is read from, attends to: weights on word pieces, words and punctuation.

Pure functions on arrays. The source of rollout: Abnar & Zuidema 2020, section 3.
Left out: how the weights come about (model/bert.py) and what they look like (report/).
Shapes: N heads, L word pieces, C classes.
"""

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LINE_BREAK = "<br />"
# an apostrophe between two letters: don't, film's; one look around each mark, so linear in the length of the text
_JOINT = re.compile(r"(?<=[^\W\d_])['’](?=[^\W\d_])")


@dataclass(frozen=True, kw_only=True)
class ExplainedReview:
    """A review, the verdict on it, and what [CLS] paid each of its word pieces."""

    index: int
    """Its place in its split, or in what the user gave."""
    text: str
    """As its author wrote it."""
    label: int | None
    """None: unknown."""
    probabilities: NDArray[np.float32]
    """[C]"""
    tokens: list[str]
    """L word pieces, [CLS] and [SEP] among them."""
    offsets: list[tuple[int, int]]
    """The characters of `text` behind each piece; (0, 0) for [CLS] and [SEP]."""
    weights: NDArray[np.float32]
    """[recorded layers, N, L]; each row sums to 1."""
    rollout: NDArray[np.float32] | None = None
    """[L], where all layers are recorded."""
    spans: list[tuple[int, int]] = field(default_factory=list)
    """The characters that decide the label, where somebody knows them."""

    @property
    def verdict(self) -> int:
        """The class with the highest probability."""
        return int(self.probabilities.argmax())

    @property
    def confidence(self) -> float:
        """The verdict's probability."""
        return float(self.probabilities.max())


class Word(NamedTuple):
    """A whole word of the original: pieces [first, last), characters [start, end)."""

    first: int
    last: int
    start: int
    end: int


def attention_rollout(attentions: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """How much of each position's input reaches each position's output: [layers, N, L, L] to [L, L].

    Abnar & Zuidema 2020, section 3: the mean over heads; half of it and half the identity, for the residual
    connection; rows normalized; multiplied up the layers. Row 0 is what reaches [CLS].
    """
    num_positions = attentions.shape[-1]
    rollout = np.eye(num_positions, dtype=attentions.dtype)
    for attention in attentions.mean(axis=1):
        mixed = 0.5 * attention + 0.5 * np.eye(num_positions, dtype=attentions.dtype)
        rollout = mixed / mixed.sum(axis=-1, keepdims=True) @ rollout
    return rollout


def classic_scale(weights: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Weights [..., L] so that the largest of each row is 1."""
    largest = weights.max(axis=-1, keepdims=True)
    return weights / np.where(largest > 0, largest, 1)


def is_special(offset: tuple[int, int]) -> bool:
    """[CLS] and [SEP] stand for no character of the text."""
    return offset == (0, 0)


def words(tokens: Sequence[str], offsets: Sequence[tuple[int, int]], text: str) -> list[Word]:
    """The whole words of the original, in order; every piece but [CLS] and [SEP] is in exactly one.

    A piece belongs to the word before it if it continues it (`##`), or if nothing but an apostrophe between two letters
    parts them: "don't" is one word, whether cleaning made the apostrophe a space or left it a piece. Pieces that
    merely touch stay apart: Chinese characters are words of their own, and so are the two halves of "well-made".
    """
    joints = {match.start() for match in _JOINT.finditer(text)}
    found: list[Word] = []
    for piece, (token, (start, end)) in enumerate(zip(tokens, offsets, strict=True)):
        if is_special((start, end)):
            continue
        if found and _belongs(token, start, found[-1].end, joints, text):
            word = found[-1]
            found[-1] = word._replace(last=piece + 1, end=max(word.end, end))
        else:
            found.append(Word(piece, piece + 1, start, end))
    return found


def _belongs(token: str, start: int, end_before: int, joints: set[int], text: str) -> bool:
    if token.startswith("##"):
        # of a review cut in the middle, the tail may open with the end of another word
        return not re.search(r"\s", text[end_before:start].replace(LINE_BREAK, ""))
    return start - end_before <= 1 and not joints.isdisjoint(range(end_before - 1, start + 1))


def word_weights(found: Sequence[Word], weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Each word's weight, the sum of its pieces': weights [L] to [words]."""
    return np.array([weights[word.first : word.last].sum(dtype=np.float64) for word in found], dtype=np.float64)


def word_text(word: Word, text: str) -> str:
    """The word as its author wrote it, line breaks apart."""
    return text[word.start : word.end].replace(LINE_BREAK, "")


def top_words(review: ExplainedReview, weights: NDArray[np.floating[Any]], n: int) -> list[tuple[str, float]]:
    """The n words with the largest weights [L], strongest first; punctuation is no word.

    A word that stands in the text several times is named once, with its largest weight. It is the reviewer's own text:
    make control characters visible before printing it.
    """
    found = words(review.tokens, review.offsets, review.text)
    weight_of = word_weights(found, weights)
    strongest: dict[str, tuple[str, float]] = {}
    for place in np.argsort(-weight_of, kind="stable"):
        word = word_text(found[place], review.text)
        if any(character.isalnum() for character in word):
            strongest.setdefault(word.casefold(), (word, float(weight_of[place])))
        if len(strongest) == n:
            break
    return list(strongest.values())


def piece_kinds(tokens: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[str]:
    """What each piece is: "[CLS]", "[SEP]", "punctuation" as BERT's tokenizer sees it, or "words"."""
    return [
        token if is_special(offset) else "punctuation" if all(map(_is_punctuation, token)) else "words"
        for token, offset in zip(tokens, offsets, strict=True)
    ]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def shares(review: ExplainedReview, weights: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Where weights [L] go: the totals on "words", "punctuation", "[CLS]" and "[SEP]"."""
    totals = dict.fromkeys(("words", "punctuation", "[CLS]", "[SEP]"), 0.0)
    for kind, weight in zip(piece_kinds(review.tokens, review.offsets), weights, strict=True):
        totals[kind] += float(weight)
    return totals
