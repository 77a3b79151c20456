"""Which reviews a report shows: every class, right and wrong, and what the report says about it."""

import pytest
import torch

from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError
from bertlens.explanations.selection import own_texts, select
from bertlens.explanations.settings import SelectionSettings

LABELS = [0] * 500 + [1] * 500  # sorted, as IMDb's test split is


def predictions(num_wrong=(40, 8)):
    """Of each class the first reviews are predicted wrong; the confidence falls from review to review."""
    labels = torch.tensor(LABELS)
    confidence = torch.linspace(0.99, 0.51, 1000)
    right = torch.ones(1000, dtype=torch.bool)
    right[: num_wrong[0]] = right[500 : 500 + num_wrong[1]] = False
    predicted = torch.where(right, labels, 1 - labels)
    probabilities = torch.stack([1 - confidence, confidence], dim=1)
    probabilities[predicted == 0] = probabilities[predicted == 0].flip(1)
    return torch.arange(1000), labels, probabilities


def chosen(how, *, known=predictions, **changes):
    return select(SelectionSettings(reviews=how, **changes), LABELS, known)


def cells(indices, num_wrong=(40, 8)):
    """How many of the reviews are of each class and right or wrong."""
    wrong = {0: lambda index: index < num_wrong[0], 1: lambda index: index < 500 + num_wrong[1]}
    found = [(LABELS[index], not wrong[LABELS[index]](index)) for index in indices]
    return {cell: found.count(cell) for cell in sorted(set(found))}


def test_a_sample_of_a_sorted_split_has_every_class_right_and_wrong():
    selection = chosen("sample", count=64)
    assert len(set(selection.indices)) == 64
    # in proportion, 64 of 1,000: 460, 492, 40 and 8 of them
    assert cells(selection.indices) == {(0, False): 3, (0, True): 29, (1, False): 1, (1, True): 31}
    how = "drawn at random from each class's right and wrong predictions"
    assert selection.sentence == f"64 of 1,000 test reviews, {how}"
    assert selection.split_accuracy == pytest.approx(0.952)
    assert selection.num_split_reviews == 1000
    assert {LABELS[index] for index in selection.indices[:8]} == {0, 1}, "the order is random too"
    assert selection.indices == chosen("sample", count=64).indices
    assert selection.indices != chosen("sample", count=64, seed=1).indices


def test_a_small_sample_has_one_of_each():
    assert set(cells(chosen("sample", count=4).indices).values()) == {1}
    assert cells(chosen("sample", count=2).indices) == {(0, True): 1, (1, True): 1}
    one_wrong = (1, 0)
    selection = chosen("sample", count=16, known=lambda: predictions(one_wrong))
    assert cells(selection.indices, one_wrong) == {(0, False): 1, (0, True): 7, (1, True): 8}


def test_a_sample_without_predictions_has_every_class():
    selection = chosen("sample", count=10, known=None)
    assert sorted(LABELS[index] for index in selection.indices) == [0] * 5 + [1] * 5
    assert selection.sentence == "10 of 1,000 test reviews, drawn at random from each class"
    assert selection.split_accuracy is None


def test_a_sample_larger_than_the_split_is_the_split():
    assert sorted(chosen("sample", count=5000).indices) == list(range(1000))


def test_wrong_ones_are_the_surest_of_every_class():
    selection = chosen("wrong", count=12)
    assert selection.indices == [*range(6), *range(500, 506)], "most confident first"
    assert selection.sentence == "12 of 48 wrong predictions, evenly from each class, surest first"
    assert selection.settings == SelectionSettings(reviews="wrong", count=12)
    assert selection.split_accuracy == pytest.approx(0.952)
    # of the second class there are 8
    assert cells(chosen("wrong", count=30).indices) == {(0, False): 22, (1, False): 8}
    assert chosen("right", count=7).indices == [40, 41, 42, 43, 508, 509, 510], "the surest of all is of class 0"


def test_wrong_ones_of_three_classes_of_which_one_has_none():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([1, 2, 1, 0, 0, 2])
    confidence = torch.tensor([0.6, 0.9, 0.7, 0.5, 0.8, 0.9])
    probabilities = torch.full((6, 3), 0.1).scatter(1, predicted[:, None], confidence[:, None])
    settings = SelectionSettings(reviews="wrong", count=3)
    selection = select(settings, labels.tolist(), lambda: (torch.arange(6), labels, probabilities))
    assert selection.indices == [1, 4, 2]


def test_no_wrong_one_is_an_error():
    with pytest.raises(InputError, match="reviews=wrong: none of the 1,000 predictions is wrong"):
        chosen("wrong", known=lambda: predictions((0, 0)))


def test_choices_that_need_no_predictions_ask_for_none():
    def measure():
        raise AssertionError("measured")

    assert chosen("first", count=2, known=measure).indices == [0, 1]
    assert chosen("first", count=2, known=measure).sentence == "2 of 1,000 test reviews, the first in the split"
    drawn = chosen("random", count=3, known=measure)
    assert len(set(drawn.indices)) == 3
    assert drawn.split_accuracy is None
    assert drawn.sentence == "3 of 1,000 test reviews, drawn at random"
    given = chosen("wrong", indices=[999, 0], known=measure)
    assert given.indices == [999, 0]
    assert given.sentence == "2 of 1,000 test reviews, chosen by index"
    assert given.settings is not None
    assert given.settings.indices == [999, 0]


def test_the_least_certain():
    assert chosen("uncertain", count=2).indices == [999, 998]
    assert chosen("uncertain", count=1).sentence == "1 of 1,000 test reviews, the least certain predictions first"


def test_a_limited_test_gives_the_indices_of_what_was_measured():
    indices, labels, probabilities = predictions()
    part = torch.tensor([3, 499, 998])
    selection = chosen("sample", known=lambda: (indices[part], labels[part], probabilities[part]))
    assert sorted(selection.indices) == [3, 499, 998]
    assert selection.num_split_reviews == 3


@pytest.mark.parametrize("indices", [[0, 1000], [-1], []])
def test_indices_beyond_the_split(indices):
    with pytest.raises(InputError, match="0 to 999"):
        chosen("first", indices=indices)


@pytest.fixture
def tokenizer(tiny_vocabulary):
    return ReviewTokenizer(tiny_vocabulary, DataSettings(max_length=48, lowercase=True))


def test_own_texts(tmp_path, tokenizer):
    (tmp_path / "some.txt").write_text("one\n\n two  \r\n")
    assert own_texts(SelectionSettings(file=str(tmp_path / "some.txt")), tokenizer) == ["one", " two  "]
    assert own_texts(SelectionSettings(text="one"), tokenizer) == ["one"]
    assert own_texts(SelectionSettings(text=["a", 7]), tokenizer) == ["a", "7"]
    assert own_texts(SelectionSettings(), tokenizer) is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (SelectionSettings(text=""), "text 0: empty"),
        (SelectionSettings(text=["good", "   "]), "text 1: empty"),
        (SelectionSettings(text="good \udce9"), "is not UTF-8"),
        (SelectionSettings(text="\u4f60\u597d"), "no word piece that the model knows"),
        (SelectionSettings(text=[]), r"text=\[\]: give a text"),
        (SelectionSettings(text={"a": 1}), "give a text"),
        (SelectionSettings(file="/nowhere"), "file='/nowhere'"),
    ],
)
def test_bad_texts_are_named(settings, named, tokenizer):
    with pytest.raises(InputError, match=named):
        own_texts(settings, tokenizer)


def test_bad_files_are_named(tmp_path, tokenizer):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    for name, named in {"latin.txt": "not UTF-8", "empty.txt": "no review in it"}.items():
        with pytest.raises(InputError, match=named):
            own_texts(SelectionSettings(file=str(tmp_path / name)), tokenizer)
