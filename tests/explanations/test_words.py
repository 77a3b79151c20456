"""Word pieces into words: numbers worked by hand, and the edges of what is one word."""

from typing import Any

import numpy as np
import pytest

from bertlens.explanations.words import find_words, piece_kinds, top_words, word_text, word_weights

Pieces = list[tuple[str, int, int]]  # token, start, end


def encoded(pieces: Pieces) -> tuple[list[str], list[tuple[int, int]]]:
    """Tokens and offsets with [CLS] and [SEP]."""
    tokens = ["[CLS]", *(token for token, _, _ in pieces), "[SEP]"]
    return tokens, [(0, 0), *((start, end) for _, start, end in pieces), (0, 0)]


def whole_words(text: str, pieces: Pieces) -> list[str]:
    return [word_text(word, text) for word in find_words(*encoded(pieces), text)]


def test_rests_continue_a_word() -> None:
    text = "Unbelievableness!"
    assert whole_words(text, [("unbelievable", 0, 12), ("##ness", 12, 16)]) == ["Unbelievableness"]


@pytest.mark.parametrize("apostrophe", ["'", "’"])
@pytest.mark.parametrize("cleaned", [True, False])
def test_an_apostrophe_joins_letters_whether_it_is_a_piece_or_not(apostrophe: str, cleaned: bool) -> None:
    text = f"Don{apostrophe}t go"
    mark = [] if cleaned else [(apostrophe, 3, 4)]
    assert whole_words(text, [("don", 0, 3), *mark, ("t", 4, 5), ("go", 6, 8)]) == [f"Don{apostrophe}t", "go"]


def test_quotes_hyphens_and_full_stops_join_nothing() -> None:
    text = "'well-made' it."
    pieces = [("'", 0, 1), ("well", 1, 5), ("-", 5, 6), ("made", 6, 10), ("'", 10, 11), ("it", 12, 14), (".", 14, 15)]
    assert whole_words(text, pieces) == ["'", "well", "-", "made", "'", "it", "."]


def test_chinese_characters_are_words_of_their_own_and_hangul_syllables_are_not() -> None:
    assert whole_words("中文", [("中", 0, 1), ("文", 1, 2)]) == ["中", "文"]
    # one character of the text, three pieces
    assert whole_words("한 a", [("ᄒ", 0, 1), ("##ᅡ", 0, 1), ("##ᆫ", 0, 1), ("a", 2, 3)]) == ["한", "a"]


def test_a_line_break_inside_a_word_is_no_part_of_it() -> None:
    text = "outstand<br />ingly"
    assert whole_words(text, [("outstand", 0, 8), ("##ingly", 14, 19)]) == ["outstandingly"]


def test_a_cut_in_the_middle_joins_no_strangers() -> None:
    # head_tail truncation: "play" and, after what was left out, the end of "everlasting"
    text = "play it again everlasting"
    assert whole_words(text, [("play", 0, 4), ("##lasting", 18, 25)]) == ["play", "lasting"]


def test_every_piece_but_the_special_ones_is_in_one_word() -> None:
    found = find_words(*encoded([("a", 0, 1), ("b", 2, 3), ("##c", 3, 4)]), "a bc")
    assert [(word.first, word.last) for word in found] == [(1, 2), (2, 4)]
    np.testing.assert_allclose(word_weights(found, np.array([0.1, 0.2, 0.3, 0.25, 0.15])), [0.2, 0.55], atol=1e-7)


def test_words_of_a_long_text_take_no_more_than_linear_time() -> None:
    text = "a" * 300_000 + "'"
    assert len(find_words(["[UNK]"], [(0, 300_000)], text)) == 1


def test_top_words_names_each_word_once_and_no_punctuation() -> None:
    text = "Good, good film."
    pieces = [("good", 0, 4), (",", 4, 5), ("good", 6, 10), ("film", 11, 15), (".", 15, 16)]
    review: Any = (*encoded(pieces), text, np.array([0.05, 0.1, 0.3, 0.2, 0.15, 0.1, 0.1]))
    assert top_words(*review, 5) == ["good", "film"]
    assert top_words(*review, 1) == ["good"]
    against: Any = (*encoded(pieces), text, np.array([0.05, 0.1, 0.3, -0.2, -0.15, -0.1, 0.1]))
    assert top_words(*against, 5) == ["Good"], "what speaks against the prediction, or has no effect, does not lead"


def test_piece_kinds() -> None:
    tokens, offsets = encoded([("[UNK]", 0, 1), (",", 1, 2), ("…", 2, 3), ("a", 3, 4)])
    assert piece_kinds(tokens, offsets) == ["[CLS]", "words", "punctuation", "punctuation", "words", "[SEP]"]
