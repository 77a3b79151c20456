"""Word pieces to whole words: which pieces make up a word, its weight, and which pieces are punctuation.

Shapes: L word pieces.
"""

import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LINE_BREAK = "<br />"
# an apostrophe between two letters: don't, film's; looks one character around each mark, so it takes linear time
_JOINT = re.compile(r"(?<=[^\W\d_])['’](?=[^\W\d_])")


class Word(NamedTuple):
    """A whole word of the text: pieces [first, last), characters [start, end)."""

    first: int
    last: int
    start: int
    end: int


def is_special(offset: tuple[int, int]) -> bool:
    """Return whether an offset is that of [CLS] or [SEP], which stand for no character of the text."""
    return offset == (0, 0)


def find_words(tokens: Sequence[str], offsets: Sequence[tuple[int, int]], text: str) -> list[Word]:
    """Return the whole words of a text, in order; each piece but [CLS] and [SEP] is in exactly one.

    A piece belongs to the word before it if it continues that word (`##`), or if only an apostrophe between two letters
    separates them: "don't" is one word, whether cleaning replaced the apostrophe by a space or kept it as a piece.
    Pieces that merely touch stay apart: each Chinese character is a word, and so is each half of "well-made".
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
        # head_tail truncation: the kept tail may begin inside another word
        return not re.search(r"\s", text[end_before:start].replace(LINE_BREAK, ""))
    return start - end_before <= 1 and not joints.isdisjoint(range(end_before - 1, start + 1))


def word_weights(words: Sequence[Word], values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return each word's weight, the sum over its pieces: values [L] to [words]."""
    return np.array([values[word.first : word.last].sum(dtype=np.float64) for word in words], dtype=np.float64)


def word_text(word: Word, text: str) -> str:
    """Return the word as its author wrote it, without line breaks."""
    return text[word.start : word.end].replace(LINE_BREAK, "")


def top_words(
    tokens: Sequence[str], offsets: Sequence[tuple[int, int]], text: str, values: NDArray[np.floating[Any]], n: int
) -> list[str]:
    """Return the n different words with the largest weights above 0, largest first, without punctuation.

    The words are the reviewer's own text: escape them before printing.
    """
    words = find_words(tokens, offsets, text)
    found: dict[str, str] = {}
    weights = word_weights(words, values)
    for place in np.argsort(-weights, kind="stable"):
        word = word_text(words[place], text)
        if weights[place] > 0 and any(character.isalnum() for character in word):
            found.setdefault(word.casefold(), word)
    return list(found.values())[:n]


def piece_kinds(tokens: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[str]:
    """Return each piece's kind: "[CLS]", "[SEP]", "punctuation" as BERT's tokenizer sees it, or "words"."""
    return [
        token if is_special(offset) else "punctuation" if all(map(_is_punctuation, token)) else "words"
        for token, offset in zip(tokens, offsets, strict=True)
    ]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
