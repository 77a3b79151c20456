import re
import string

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer, read_vocabulary, tokenize
from bertlens.errors import InputError

NASTY = {
    "empty": "",
    "a space": " ",
    "white space": " \t\r\n ",
    "markup": "A great film.<br /><br />I laughed.",
    "broken markup": "film<br />was<br/>odd< br />here<<br />br />",
    "markup only": "<br /><br />",
    "other tags": "<i>Bold</i> &amp; <b>brave</b> &quot;",
    "special tokens": "[CLS] not a token [SEP] [MASK] [PAD] [UNK]",
    "punctuation": "It's 'well-made', isn't it?! (10/10) $5 50% #1 a_b a@b.c ~x~ `y` {z} |w| ^v^ u\\v a=b+c*d;e:f",
    "full stops": "Mr. U.S.A. ... wait,,what.,.",
    "accents": "Amélie, naïve déjà-vu: ÅNGSTRÖM Straße İstanbul ǅ ﬁne e\u0301 a\u0308\u0301",
    "cjk": "映画 great 電影 한국 영화 かな カナ 𠀀",
    "emoji": "🎬👍🏽👨‍👩‍👧 good ☺️ ★★★★☆ © ™ € £",
    "control characters": "a\x00b\x01c\x7fd\x85e\u200bf\ufeffg\ufffdh",
    "exotic space": "soft\u00adhyphen non\u00a0breaking\u2003space\u2028line\u2029paragraph\x0bvertical\x0cfeed\x1cfs",
    "typography": "“curly” ‘quotes’ – dash — long … ellipsis ¿que? ¡no! «guillemets»",
    "other scripts": "السلام עליכם \u202eright to left\u202c mixed नमस्ते ไทย",
    "long words": "x" * 100 + " " + "y" * 101 + " " + "good" * 75,
    "numbers": "1,000,000.50 3.14 2nd 1950's",
    "symbols": "Ω≈ç√∫˜µ≤≥÷ ½ ² Ⅷ ℃ ㎏ ﷽",
    "400 words": "word " * 400,
    "word pieces": "superCALIFRAGILISTICexpialidocious antidisestablishmentarianism",
}


def clean_as_the_notebook(text: str) -> str:
    """What the notebook does to a review before BERT's own tokenizer."""
    text = re.sub("<br />", "", text)
    for mark in string.punctuation:
        if mark not in ".,":
            text = text.replace(mark, " ")
    return text


@pytest.fixture(scope="module")
def reference(minilm_folder):
    """BERT's tokenizer as `transformers` has it, cut at 256 pieces."""
    transformers = pytest.importorskip("transformers", reason="transformers, the parity oracle, is not installed")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(minilm_folder)
    return lambda texts: tokenizer(texts, truncation=True, max_length=256, padding=False)["input_ids"]


@pytest.fixture(scope="module")
def vocabulary(minilm_folder):
    return read_vocabulary(minilm_folder / "vocab.txt")


@pytest.fixture
def tiny(tiny_vocabulary):
    """A tokenizer of the tiny vocabulary with the given settings."""
    return lambda **settings: ReviewTokenizer(tiny_vocabulary, DataSettings(**({"lowercase": True} | settings)))


@pytest.mark.parametrize("name", NASTY)
def test_notebook_cleaning_gives_the_notebooks_ids(name, vocabulary, reference):
    text = NASTY[name]
    [ids] = ReviewTokenizer(vocabulary, DataSettings(lowercase=True)).ids([text])
    assert ids == reference([clean_as_the_notebook(text)])[0]


# where a reviewer writes [CLS], transformers makes it the special token; here it stays a word in brackets
@pytest.mark.parametrize("name", [name for name in NASTY if name != "special tokens"])
def test_without_cleaning_the_ids_are_berts_own(name, vocabulary, reference):
    text = NASTY[name]
    [ids] = ReviewTokenizer(vocabulary, DataSettings(lowercase=True, cleaning="none")).ids([text])
    assert ids == reference([text])[0]


@pytest.mark.parametrize("cleaning", ["notebook", "none"])
def test_a_reviewer_cannot_write_special_tokens(tiny, cleaning):
    tokenizer = tiny(cleaning=cleaning)
    [ids] = tokenizer.ids(["good [SEP] [CLS] [PAD] film"])
    assert (ids.count(tokenizer.sep_id), ids.count(tokenizer.cls_id), ids.count(tokenizer.pad_id)) == (1, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_imdb_review_gives_the_notebooks_ids(split, imdb_folder, vocabulary, reference):
    texts = pq.read_table(imdb_folder / f"{split}.parquet", columns=["text"])["text"].to_pylist()
    assert len(texts) == 25_000
    ids = ReviewTokenizer(vocabulary, DataSettings(lowercase=True)).ids(texts)
    expected = reference([clean_as_the_notebook(text) for text in texts])
    assert [index for index in range(len(texts)) if ids[index] != expected[index]] == []


@pytest.mark.parametrize(
    "name", ["a space", "other tags", "special tokens", "punctuation", "full stops", "long words", "numbers"]
)
def test_an_offset_points_to_the_piece_in_the_text_as_written(name, vocabulary):
    text = NASTY[name]
    [encoding] = ReviewTokenizer(vocabulary, DataSettings(lowercase=True)).encode([text])
    pieces = list(zip(encoding.tokens, encoding.offsets, strict=True))
    assert [pieces[0], pieces[-1]] == [("[CLS]", (0, 0)), ("[SEP]", (0, 0))]
    for token, (start, end) in pieces[1:-1]:
        written = text[start:end].lower()
        assert written == token.removeprefix("##") or (token == "[UNK]" and len(written) > 100)


def test_offsets_survive_cleaning_and_accents(vocabulary):
    text = "Great!<br /><br />(Amélie's  *best*)<br />film."
    [encoding] = ReviewTokenizer(vocabulary, DataSettings(lowercase=True)).encode([text])
    words = [(token, text[start:end]) for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)]
    assert words[1:-1] == [
        ("great", "Great"),
        ("amelie", "Amélie"),
        ("s", "s"),
        ("best", "best"),
        ("film", "film"),
        (".", "."),
    ]


def test_encode_and_ids_agree(vocabulary):
    tokenizer = ReviewTokenizer(vocabulary, DataSettings(lowercase=True, max_length=20, truncation="head_tail"))
    texts = list(NASTY.values())
    encodings = tokenizer.encode(texts)
    assert [encoding.ids for encoding in encodings] == tokenizer.ids(texts)
    assert [[vocabulary[index] for index in encoding.ids] for encoding in encodings] == [e.tokens for e in encodings]


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [("head", "a b c d e f g h"), ("tail", "e f g h i j k l"), ("head_tail", "a b g h i j k l")],
)
def test_truncation_keeps_what_it_is_named_after(tiny, truncation, kept):
    tokenizer = tiny(truncation=truncation, max_length=10)
    twelve, eight = "a b c d e f g h i j k l", "a b c d e f g h"
    assert tokenizer.encode([twelve])[0].tokens == ["[CLS]", *kept.split(), "[SEP]"]
    assert tokenizer.encode([eight])[0].tokens == ["[CLS]", *eight.split(), "[SEP]"]
    offsets = tokenizer.encode([twelve])[0].offsets[1:-1]
    assert [twelve[start:end] for start, end in offsets] == kept.split()


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
@pytest.mark.parametrize("max_length", [3, 4, 5, 7, 256])
def test_no_review_is_longer_than_allowed_and_each_is_framed(tiny, truncation, max_length):
    tokenizer = tiny(truncation=truncation, max_length=max_length)
    texts = ["", "film", "a b c", "good film " * 200]
    for text, ids in zip(texts, tokenizer.ids(texts), strict=True):
        assert len(ids) == min(max_length, len(text.split()) + 2)
        assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)


def test_words_outside_the_vocabulary_are_split_longest_first(tiny):
    [encoding] = tiny().encode(["Filmy GOOD, ?"])
    assert encoding.tokens == ["[CLS]", "film", "##y", "good", ",", "[SEP]"]
    assert tiny().encode(["é"])[0].tokens == ["[CLS]", "e", "[SEP]"]
    assert tiny(lowercase=False).encode(["Good é film"])[0].tokens == ["[CLS]", "[UNK]", "[UNK]", "film", "[SEP]"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[PAD]\n[UNK]\nfilm\n", "no [CLS], [SEP] in it"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nfilm\nfilm\n", "two lines hold the same word piece"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xe9t\xe9\n", "not UTF-8 (byte 24)"),
        (b"", "no [PAD], [UNK], [CLS], [SEP] in it"),
    ],
    ids=["no special tokens", "twice", "latin-1", "empty"],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content, words):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_vocabulary(path)
    assert str(caught.value).startswith(f"{path}: {words}")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_vocabulary_keeps_one_piece_a_line(tmp_path, newline):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film", "a\u2028b", "\u00a0"]
    path = tmp_path / "vocab.txt"
    path.write_bytes((newline.join(pieces) + newline).encode())
    assert read_vocabulary(path) == pieces


TEXTS = ["a good film.", "", "dull", "very " * 50, "é<br />🎬"]


def split_of(texts) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": list(texts), "label": [0] * len(texts)})


def rows_of(pieces) -> list[list[int]]:
    return [pieces.ids[start:stop].tolist() for start, stop in zip(pieces.starts, pieces.starts[1:], strict=False)]


def test_tokenize_gives_every_reviews_ids_in_order(tiny, tmp_path):
    tokenizer = tiny(max_length=12)
    pieces = tokenize(split_of(TEXTS), tokenizer, tmp_path, split="train")
    assert rows_of(pieces) == tokenizer.ids(TEXTS)
    assert rows_of(pieces)[1] == [tokenizer.cls_id, tokenizer.sep_id]
    assert pieces.lengths.tolist() == [6, 2, 3, 12, pieces.lengths[4]]
    assert (len(pieces), pieces.pad_id, pieces.ids.dtype) == (5, tokenizer.pad_id, np.int32)


def test_tokenize_follows_the_order_of_a_selection_and_of_many_batches(tiny, tmp_path):
    tokenizer = tiny(max_length=12)
    texts = [f"{index} film" for index in range(2_500)]
    chosen = np.random.default_rng(0).permutation(len(texts))
    pieces = tokenize(split_of(texts).select(chosen), tokenizer, tmp_path, split="train")
    assert rows_of(pieces) == tokenizer.ids([texts[index] for index in chosen])


def test_a_second_start_reads_the_word_pieces_back(tiny, tmp_path, monkeypatch):
    first = tokenize(split_of(TEXTS), tiny(), tmp_path, split="train")
    monkeypatch.setattr(ReviewTokenizer, "ids", lambda *arguments: pytest.fail("tokenized again"))
    second = tokenize(split_of(TEXTS), tiny(), tmp_path, split="train")
    assert rows_of(second) == rows_of(first)


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        ([*TEXTS[:-1], "another"], {}),
        (TEXTS[::-1], {}),
        (["a good", " film.", *TEXTS[2:]], {}),
        (TEXTS, {"max_length": 100}),
        (TEXTS, {"truncation": "tail"}),
        (TEXTS, {"cleaning": "none"}),
        (TEXTS, {"lowercase": False}),
    ],
    ids=["text", "order", "boundary", "max_length", "truncation", "cleaning", "lowercase"],
)
def test_other_texts_or_settings_have_another_file(tiny, tmp_path, texts, settings):
    tokenize(split_of(TEXTS), tiny(), tmp_path, split="train")
    other = tokenize(split_of(texts), tiny(**settings), tmp_path, split="train")
    assert rows_of(other) == tiny(**settings).ids(texts)
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_another_vocabulary_has_another_file(tiny, tiny_vocabulary, tmp_path):
    tokenize(split_of(TEXTS), tiny(), tmp_path, split="train")
    longer = ReviewTokenizer([*tiny_vocabulary, "sequel"], DataSettings(lowercase=True))
    tokenize(split_of(TEXTS), longer, tmp_path, split="train")
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_the_fingerprint_is_that_of_0_1_0(tiny):
    """So that word pieces cached by 0.1.0 are found; other keys of the settings do not count."""
    tokenizer = tiny(max_length=48, batch_size=7)
    assert tokenizer.fingerprint == "64253620254aae59a6c5370f3ea91e72a029e9cfb3676ee2c4b68359a0c4a24d"


def test_the_id_of_mask_is_asked_for_only_where_it_is_needed(tiny, tiny_vocabulary):
    assert tiny().mask_id == tiny_vocabulary.index("[MASK]")
    without = ReviewTokenizer([token for token in tiny_vocabulary if token != "[MASK]"], DataSettings(lowercase=True))
    with pytest.raises(InputError, match=r"vocab\.txt has no \[MASK\]"):
        _ = without.mask_id
