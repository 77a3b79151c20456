"""Class names, the validation split and subsets, through `load_reviews`."""

import hashlib
import json
import logging
from collections import Counter
from dataclasses import replace

import pytest

from bertlens.data.reviews import load_reviews
from bertlens.data.settings import DataSettings
from bertlens.errors import InputError


def rows(num_reviews, labels=(0, 1), prefix="review"):
    return [(f"{prefix} {index}", labels[index % len(labels)]) for index in range(num_reviews)]


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def tsv(pairs):
    return "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in pairs)


def pairs_of(dataset):
    return [(row["text"], dataset.features["label"].int2str(row["label"])) for row in dataset]


def own_files(train_file, test_file=None, **settings):
    return load_reviews(
        DataSettings(source="files", train_file=train_file, test_file=test_file or train_file, **settings)
    )


def message_of(call):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def digest(dataset):
    return hashlib.sha256(json.dumps(pairs_of(dataset)).encode()).hexdigest()[:16]


def test_a_test_split_that_is_missing_is_held_out_of_train(tmp_path):
    pairs = [(f"text {index // 2}", "rare" if index // 2 % 10 == 0 else "usual") for index in range(200)]
    settings = DataSettings(source="files", train_file=write(tmp_path / "all.tsv", tsv(pairs)), test_fraction=0.1)
    loaded = load_reviews(settings)
    assert loaded.num_rows == {"train": 146, "validation": 34, "test": 20}  # equal texts stay together
    texts = {split: set(loaded[split]["text"]) for split in loaded}
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]
    assert set().union(*texts.values()) == {text for text, _ in pairs}
    assert Counter(label for _, label in pairs_of(loaded["test"])) == {"rare": 2, "usual": 18}
    few = load_reviews(replace(settings, max_reviews=10))
    assert set(few["test"]["text"]) <= texts["test"]
    assert load_reviews(replace(settings, test_fraction=0.0)).num_rows == {"train": 160, "validation": 40}


def test_a_class_of_one_review_stays_in_train_and_is_named(tmp_path, caplog):
    pairs = [(f"text {index}", "ab"[index % 2]) for index in range(40)] + [("the only one", "c")]
    file = write(tmp_path / "all.tsv", tsv(pairs))
    with caplog.at_level(logging.WARNING):
        loaded = load_reviews(DataSettings(source="files", train_file=file))
    assert "the only one" in loaded["train"]["text"]
    assert loaded["test"].features["label"].names == ["a", "b", "c"]
    messages = {record.getMessage() for record in caplog.records}
    assert messages == {"no validation review has the label 'c'", "no test review has the label 'c'"}


def test_too_few_reviews_for_a_test_name_the_key(tmp_path):
    file = write(tmp_path / "all.tsv", tsv([("one", "a"), ("two", "b")]))
    message = message_of(lambda: load_reviews(DataSettings(source="files", train_file=file)))
    assert "data.test_fraction=0.2" in message
    assert "give a test split" in message


def test_equal_texts_stay_together_and_the_split_is_stratified(tmp_path):
    texts = [f"text {index // 3 if index < 90 else index}" for index in range(300)]
    pairs = [(text, "rare" if index % 10 == 0 else "usual") for index, text in enumerate(texts)]
    loaded = own_files(write(tmp_path / "all.tsv", tsv(pairs)))
    assert loaded.num_rows == {"train": 240, "validation": 60, "test": 300}
    assert not set(loaded["train"]["text"]) & set(loaded["validation"]["text"])
    assert Counter(label for _, label in pairs_of(loaded["validation"]))["rare"] in range(4, 9)
    order = {text: position for position, text in reversed(list(enumerate(texts)))}
    for split in ("train", "validation"):
        positions = [order[text] for text in loaded[split]["text"]]
        assert positions == sorted(positions)


def test_max_reviews_is_a_stratified_seeded_subset_of_each_split_in_order(tmp_path):
    file = write(tmp_path / "all.tsv", tsv(rows(400, labels="aaab")))
    whole, subset, again, other = (
        own_files(file, **settings)
        for settings in ({}, {"max_reviews": 40}, {"max_reviews": 40}, {"max_reviews": 40, "seed": 7})
    )
    assert subset.num_rows == {"train": 40, "validation": 40, "test": 40}
    for split in ("train", "validation", "test"):
        assert Counter(label for _, label in pairs_of(subset[split])) == {"a": 30, "b": 10}
        kept = iter(pairs_of(whole[split]))
        assert all(pair in kept for pair in pairs_of(subset[split]))  # a subsequence: the order is kept
        assert digest(subset[split]) == digest(again[split]) != digest(other[split])


def test_max_reviews_keeps_every_class_and_small_splits_whole(tmp_path):
    pairs = rows(96, labels=("a",)) + [(f"rare {label}", label) for label in "bcd"]
    loaded = own_files(write(tmp_path / "all.tsv", tsv(pairs)), max_reviews=4)
    assert Counter(label for _, label in pairs_of(loaded["test"])) == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert own_files(str(tmp_path / "all.tsv"), max_reviews=1000)["test"].num_rows == 99


@pytest.mark.parametrize("split", ["validation", "test"])
def test_label_that_train_does_not_have(tmp_path, split):
    train = write(tmp_path / "train.tsv", tsv(rows(10)))
    other = write(tmp_path / "other.tsv", tsv([("a", 0), ("b", "2\x1b")]))
    files = {"train_file": train, "validation_file": train, "test_file": train, f"{split}_file": other}
    message = message_of(lambda: load_reviews(DataSettings(source="files", **files)))
    assert f"the {split} split has labels that train does not have, '2\\x1b'" in message
    assert "train has '0', '1'" in message


def test_the_draws_are_those_of_0_1_0(tmp_path):
    pairs = rows(300, labels="aab") + rows(30, labels="ba", prefix="more") + rows(50, labels="aab")
    loaded = own_files(write(tmp_path / "all.tsv", tsv(pairs)), max_reviews=100)
    assert {split: digest(dataset) for split, dataset in loaded.items()} == {
        "train": "5596e3912fec9e30",
        "validation": "025ecceeec720748",
        "test": "7fc3dae04299f651",
    }
