"""Folds of the training reviews, and fewer of them: `data.folds`, `data.train_reviews`."""

from collections import Counter

import numpy as np
import pytest

from bertlens.data.reviews import load_reviews
from bertlens.data.settings import DataSettings
from bertlens.errors import InputError
from bertlens.system.settings import check


def own_file(path, pairs, **settings):
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in pairs))
    return load_reviews(DataSettings(source="files", train_file=str(path), test_fraction=0, **settings))


def pairs(number):
    return [(f"review {index}", "bad" if index % 4 == 0 else "good") for index in range(number)]


def test_each_review_is_in_one_fold_with_its_row_and_class_shares_are_kept(tmp_path):
    given, rows = pairs(203), []
    for fold in range(1, 6):
        loaded = own_file(tmp_path / "all.tsv", given, folds=5, fold=fold)
        held_out = loaded["validation"]
        assert not set(held_out["text"]) & set(loaded["train"]["text"])
        assert len(held_out) + len(loaded["train"]) == 203
        assert [given[row][0] for row in held_out["row"]] == held_out["text"][:]
        assert Counter(held_out["label"])[0] in (10, 11)  # 51 of the 203 are bad
        assert len(held_out) in (40, 41, 42)
        rows += held_out["row"]
    assert sorted(rows) == list(range(203))


def test_a_repeat_divides_the_reviews_anew(tmp_path):
    first, again, other = (
        own_file(tmp_path / "all.tsv", pairs(100), folds=5, fold_repeats=2, fold=fold)["validation"]["row"][:]
        for fold in (2, 2, 7)
    )
    assert first == again
    assert len(set(first) & set(other)) < 12


def test_equal_texts_are_in_one_fold(tmp_path):
    given = [(f"review {index % 40}", "ab"[index % 3 == 0]) for index in range(120)]
    texts = [
        set(own_file(tmp_path / "all.tsv", given, folds=4, fold=fold)["validation"]["text"]) for fold in (1, 2, 3, 4)
    ]
    assert sum(map(len, texts)) == 40


def test_reviews_of_one_film_are_in_one_fold_also_by_way_of_an_equal_text(tmp_path):
    """24 films with 5 reviews each; one text stands under two films."""
    for name in ("neg", "pos"):
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0_1.txt").write_text(f"test {name}")
        for number in range(60):
            text = "the same" if name == "pos" and number in (0, 59) else f"{name} {number}"
            (tmp_path / "train" / name / f"{number}_7.txt").write_text(text)
        films = "".join(f"http://films/{name}{number // 5}/usercomments\n" for number in range(60))
        (tmp_path / "train" / f"urls_{name}.txt").write_text(films)
    fold_of = np.zeros(120, dtype=int)
    for fold in range(1, 5):
        loaded = load_reviews(DataSettings(source="local", path=str(tmp_path), folds=4, fold=fold))
        assert loaded["train"].column_names == ["text", "label", "row"]
        fold_of[loaded["validation"]["row"]] = fold
    by_film = fold_of.reshape(24, 5)
    assert (by_film == by_film[:, :1]).all()
    assert fold_of[60] == fold_of[119]
    assert sorted(Counter(fold_of).values()) == [30, 30, 30, 30]


def test_a_learning_curve_takes_training_reviews_only_and_each_step_holds_the_one_before(tmp_path):
    steps = [own_file(tmp_path / "all.tsv", pairs(200), train_reviews=number) for number in (20, 60, 1000)]
    assert [len(step["train"]) for step in steps] == [20, 60, 160]
    assert set(steps[0]["train"]["text"]) < set(steps[1]["train"]["text"])
    assert all(step["validation"]["text"][:] == steps[0]["validation"]["text"][:] for step in steps)
    assert Counter(steps[0]["train"]["label"]) == {0: 5, 1: 15}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"folds": 1}, "data.folds=1: must be at least 2"),
        ({"fold": 2}, "data.fold=2: needs data.folds, the number of folds"),
        ({"folds": 5}, "data.folds=5: type it on the command line, which runs all folds, or name data.fold"),
        ({"folds": 5, "fold_repeats": 2, "fold": 11}, "data.fold=11: there are 10 (data.folds * data.fold_repeats)"),
    ],
)
def test_settings_that_make_no_folds(settings, line):
    with pytest.raises(InputError, match=r".") as caught:
        check(DataSettings(**settings), "data.")
    assert line in str(caught.value)


def test_more_folds_than_reviews_of_a_class(tmp_path):
    with pytest.raises(InputError) as caught:
        own_file(tmp_path / "all.tsv", pairs(20), folds=6, fold=1)
    assert str(caught.value) == "data.folds=6: more folds than the 5 reviews of the class 'bad'"
    with pytest.raises(InputError, match="train_reviews=1 is too few for 2 classes"):
        own_file(tmp_path / "all.tsv", pairs(20), train_reviews=1)
