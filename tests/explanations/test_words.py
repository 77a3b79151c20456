"""Attention into word weights: numbers worked by hand, and the edges of what is one word."""

import numpy as np
import pytest

from bertlens.explanations.words import (
    ExplainedReview,
    attention_rollout,
    classic_scale,
    piece_kinds,
    shares,
    top_words,
    word_text,
    word_weights,
    words,
)


def explained(text: str, pieces: list[tuple[str, int, int]], weights: list[float] | None = None) -> ExplainedReview:
    """A review of one layer and one head. pieces: token, start, end; weights: [CLS]'s, the pieces', [SEP]'s."""
    num_pieces = len(pieces) + 2
    return ExplainedReview(
        index=0,
        text=text,
        label=None,
        probabilities=np.array([0.25, 0.75], dtype=np.float32),
        tokens=["[CLS]", *(token for token, _, _ in pieces), "[SEP]"],
        offsets=[(0, 0), *((start, end) for _, start, end in pieces), (0, 0)],
        weights=np.array(weights or [1 / num_pieces] * num_pieces, dtype=np.float32).reshape(1, 1, -1),
    )


def whole_words(text: str, pieces: list[tuple[str, int, int]]) -> list[str]:
    review = explained(text, pieces)
    return [word_text(word, text) for word in words(review.tokens, review.offsets, text)]


def test_verdict_is_the_likeliest_class() -> None:
    review = explained("", [])
    assert review.verdict == 1
    assert review.confidence == 0.75


def test_rollout_of_two_layers_and_three_tokens_worked_by_hand() -> None:
    # first layer: the mean of the heads is [[0, .5, .5], [.5, .5, 0], [0, 0, 1]],
    # and half of it with half the identity is [[.5, .25, .25], [.25, .75, 0], [0, 0, 1]]
    first = [[[0, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [0, 0, 1]]]
    # second layer: the same comes to [[.5, .5, 0], [0, .5, .5], [.5, 0, .5]]
    second = [[[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]]
    rollout = attention_rollout(np.array([first, second], dtype=np.float32))
    # second times first; the first row: .5 * [.5, .25, .25] + .5 * [.25, .75, 0]
    np.testing.assert_allclose(rollout, [[0.375, 0.5, 0.125], [0.125, 0.375, 0.5], [0.25, 0.125, 0.625]], atol=1e-7)


def test_rollout_normalizes_rows_that_do_not_sum_to_one() -> None:
    # of half the attention, half is .25; with half the identity the rows sum to .75: [[.5, .25], [.25, .5]] / .75
    rollout = attention_rollout(np.array([[[[0, 0.5], [0.5, 0]]]]))
    np.testing.assert_allclose(rollout, [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])


def test_classic_scale_makes_the_largest_of_each_row_one() -> None:
    scaled = classic_scale(np.array([[0.1, 0.4, 0.2], [0.5, 0.25, 0.25], [0, 0, 0]]))
    np.testing.assert_allclose(scaled, [[0.25, 1, 0.5], [1, 0.5, 0.5], [0, 0, 0]])


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
    review = explained("a bc", [("a", 0, 1), ("b", 2, 3), ("##c", 3, 4)], [0.1, 0.2, 0.3, 0.25, 0.15])
    found = words(review.tokens, review.offsets, review.text)
    assert [(word.first, word.last) for word in found] == [(1, 2), (2, 4)]
    np.testing.assert_allclose(word_weights(found, review.weights[0, 0]), [0.2, 0.55], atol=1e-7)


def test_words_of_a_long_text_take_no_more_than_linear_time() -> None:
    text = "a" * 300_000 + "'"
    assert len(words(["[UNK]"], [(0, 300_000)], text)) == 1


def test_top_words_names_each_word_once_and_no_punctuation() -> None:
    text = "Good, good film."
    pieces = [("good", 0, 4), (",", 4, 5), ("good", 6, 10), ("film", 11, 15), (".", 15, 16)]
    review = explained(text, pieces, [0.05, 0.1, 0.3, 0.2, 0.15, 0.1, 0.1])
    found = top_words(review, review.weights[0, 0], 5)
    assert [word for word, _ in found] == ["good", "film"]
    assert [weight for _, weight in found] == pytest.approx([0.2, 0.15])
    assert [word for word, _ in top_words(review, review.weights[0, 0], 1)] == ["good"]


def test_shares_add_up() -> None:
    pieces = [("[UNK]", 0, 1), (",", 1, 2), ("…", 2, 3), ("a", 3, 4)]
    review = explained("😀,…a", pieces, [0.25, 0.125, 0.0625, 0.0625, 0.25, 0.25])
    assert piece_kinds(review.tokens, review.offsets) == [
        "[CLS]",
        "words",
        "punctuation",
        "punctuation",
        "words",
        "[SEP]",
    ]
    assert shares(review, review.weights[0, 0]) == {"words": 0.375, "punctuation": 0.125, "[CLS]": 0.25, "[SEP]": 0.25}
