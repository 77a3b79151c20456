import hashlib
import json
import logging
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from bertlens.data.reviews import load_reviews, load_test_file
from bertlens.data.settings import DataSettings
from bertlens.errors import InputError


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def pairs_of(dataset):
    return [(row["text"], dataset.features["label"].int2str(row["label"])) for row in dataset]


def message_of(call):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def digest(dataset):
    return hashlib.sha256(json.dumps(pairs_of(dataset)).encode()).hexdigest()[:16]


def test_imdb_splits_20000_5000_25000_balanced_and_no_text_straddles(imdb_folder):
    loaded = load_reviews(DataSettings(path=str(imdb_folder)))
    assert loaded.num_rows == {"train": 20_000, "validation": 5_000, "test": 25_000}
    assert {split: sum(dataset["label"]) for split, dataset in loaded.items()} == {
        "train": 10_000,
        "validation": 2_500,
        "test": 12_500,
    }
    assert loaded["train"].features["label"].names == ["negative", "positive"]
    train, validation = set(loaded["train"]["text"]), set(loaded["validation"]["text"])
    assert not train & validation
    assert len(train | validation) == 24_904
    original = pq.read_table(imdb_folder / "train.parquet").to_pydict()
    assert Counter(zip(original["text"], original["label"], strict=True)) == Counter(
        (row["text"], row["label"]) for split in ("train", "validation") for row in loaded[split]
    )
    assert loaded["test"]["text"][:] == pq.read_table(imdb_folder / "test.parquet")["text"].to_pylist()


def test_imdb_split_depends_on_the_seed_alone(imdb_folder):
    digests = [
        digest(load_reviews(DataSettings(path=str(imdb_folder), seed=seed))["validation"])
        for seed in (1234, 1234, 1235)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_empty_reviews_are_kept_and_counted_in_one_warning(tmp_path, caplog):
    lines = [
        json.dumps({"text": text, "label": index % 2}) for index, text in enumerate(["", " \t\u00a0", None, "good"])
    ]
    train = write(tmp_path / "train.jsonl", "\n".join(lines * 5))
    with caplog.at_level(logging.WARNING, logger="bertlens.data.reviews"):
        loaded = load_reviews(
            DataSettings(
                source="files",
                train_file=train,
                validation_file=train,
                test_file=write(tmp_path / "test.jsonl", "\n".join(lines[:2])),
            )
        )
    assert [record.getMessage() for record in caplog.records] == [
        "kept 32 reviews that are empty or white space: 15 in train, 15 in validation, 2 in test"
    ]
    assert loaded["train"]["text"][:4] == ["", " \t\u00a0", "", "good"]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"path": "/no/such\x1b[31m"}, ["data.path='/no/such\\x1b[31m' does not exist"]),
        ({"path": __file__}, ["is a file", "data.train_file"]),
        ({"source": "demo", "max_reviews": 1}, ["data.max_reviews=1", "2 classes"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings(settings, parts):
    message = message_of(lambda: load_reviews(DataSettings(**settings)))
    assert all(part in message for part in parts), message


def test_a_test_file_alone_gets_the_labels_of_the_model(tmp_path):
    file = write(tmp_path / "own.tsv", "text\tlabel\ngood one\tpos\nbad one\tneg\nworse\tneg\n")
    settings = DataSettings(source="files", test_file=file)
    loaded = load_test_file(settings, ["neg", "pos"])
    assert loaded.to_dict() == {"text": ["good one", "bad one", "worse"], "label": [1, 0, 0]}
    loaded = load_test_file(settings, ["negative", "positive"])  # a spelling of the same classes
    assert pairs_of(loaded) == [("good one", "positive"), ("bad one", "negative"), ("worse", "negative")]
    assert load_test_file(replace(settings, max_reviews=2), ["neg", "pos"]).num_rows == 2
    message = message_of(lambda: load_test_file(settings, ["good", "bad"]))
    assert f"{file!r} has labels that the checkpoint does not have: 'neg', 'pos'; it has 'good', 'bad'" in message
