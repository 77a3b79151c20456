import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import datasets
import huggingface_hub.errors
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertlens.data import reviews
from bertlens.data.demo import generate
from bertlens.data.reviews import ReviewSettings, load_reviews
from bertlens.errors import InputError

REPOSITORY = Path(__file__).parents[2]
IMDB = Path(os.environ.get("BERTLENS_IMDB") or REPOSITORY.parent / "shared" / "imdb")
needs_imdb = pytest.mark.skipif(
    not (IMDB / "train.parquet").is_file(),
    reason=f"the IMDb reviews are not at {IMDB} (BERTLENS_IMDB names the folder)",
)

AWKWARD_TEXTS = [
    'She said "no", twice',
    "two\nlines",
    "déjà vu — 映画 🎬",
    "NA",
    "null",
    " padded ",
    "a\u2028b",
    '"',
]


def rows(num_reviews, labels=(0, 1), prefix="review"):
    return [(f"{prefix} {index}", labels[index % len(labels)]) for index in range(num_reviews)]


def write_parquet(file, pairs, text="text", label="label"):
    pq.write_table(pa.table({text: [pair[0] for pair in pairs], label: [pair[1] for pair in pairs]}), file)
    return str(file)


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def tsv(pairs):
    return "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in pairs)


def write_tree(root, splits):
    for split, texts_by_folder in splits.items():
        for folder, texts in texts_by_folder.items():
            (root / split / folder).mkdir(parents=True)
            for number, text in enumerate(texts):
                write(root / split / folder / f"{number}_{10 - number % 4}.txt", text)
    return root


def pairs_of(dataset):
    return [(row["text"], dataset.features["label"].int2str(row["label"])) for row in dataset]


def own_files(train_file, test_file=None, **settings):
    return load_reviews(
        ReviewSettings(source="files", train_file=train_file, test_file=test_file or train_file, **settings)
    )


def message_of(call):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def digest(dataset):
    return hashlib.sha256(json.dumps(pairs_of(dataset)).encode()).hexdigest()[:16]


# The real reviews


@needs_imdb
def test_imdb_splits_20000_5000_25000_balanced_and_no_text_straddles():
    loaded = load_reviews(ReviewSettings(path=str(IMDB)))
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
    original = pq.read_table(IMDB / "train.parquet").to_pydict()
    assert Counter(zip(original["text"], original["label"], strict=True)) == Counter(
        (row["text"], row["label"]) for split in ("train", "validation") for row in loaded[split]
    )
    assert loaded["test"]["text"][:] == pq.read_table(IMDB / "test.parquet")["text"].to_pylist()


@needs_imdb
def test_imdb_split_depends_on_the_seed_alone():
    digests = [
        digest(load_reviews(ReviewSettings(path=str(IMDB), seed=seed))["validation"]) for seed in (1234, 1234, 1235)
    ]
    assert digests[0] == digests[1] != digests[2]


# Local folders


def test_parquet_folder_keeps_its_own_validation_split_and_drops_nothing(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", rows(4))
    write_parquet(tmp_path / "train-00001-of-00002.parquet", rows(4, prefix="more"))
    write_parquet(tmp_path / "my_validation.parquet", rows(2))  # repeats texts of train
    write_parquet(tmp_path / "test.parquet", rows(2, prefix="test"))
    write_parquet(tmp_path / "unsupervised.parquet", rows(9, labels=(-1,)))
    write_parquet(tmp_path / "latest.parquet", rows(9, labels=(7,)))  # "test" inside a word names no split
    loaded = load_reviews(ReviewSettings(path=str(tmp_path)))
    assert loaded["train"]["text"][:] == [text for text, _ in rows(4) + rows(4, prefix="more")]
    assert loaded["validation"].to_dict() == {"text": ["review 0", "review 1"], "label": [0, 1]}
    assert loaded["test"].to_dict() == {"text": ["test 0", "test 1"], "label": [0, 1]}
    assert loaded["train"].features["label"].names == ["negative", "positive"]


def test_parquet_folder_as_the_hub_lays_it_out_with_stored_class_names(tmp_path):
    (tmp_path / "plain_text").mkdir()
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["World", "Sports"]))
    for split in ("train", "test"):
        dataset = datasets.Dataset.from_dict({"text": list("abcdef"), "label": [0, 1] * 3}, features=features)
        dataset.to_parquet(tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet")
    loaded = load_reviews(ReviewSettings(path=str(tmp_path)))
    assert loaded["test"].features["label"].names == ["Sports", "World"]
    assert pairs_of(loaded["test"]) == list(zip("abcdef", ["World", "Sports"] * 3, strict=True))


@pytest.mark.parametrize("nested", [False, True])
def test_acl_tree_is_read_by_number_negatives_first(tmp_path, nested):
    texts = {"neg": [f"bad {number}\r\n" for number in range(12)], "pos": [f"good {number}" for number in range(12)]}
    root = write_tree(tmp_path / "aclImdb", {"train": texts, "test": texts})
    write(root / "train" / "urls_neg.txt", "not a review")
    loaded = load_reviews(ReviewSettings(path=str(tmp_path if nested else root)))
    assert loaded["test"].to_dict() == {"text": texts["neg"] + texts["pos"], "label": [0] * 12 + [1] * 12}
    assert loaded["train"].features["label"].names == ["negative", "positive"]
    assert loaded["train"].num_rows == 19
    assert loaded["validation"].num_rows == 5


@needs_imdb
def test_acl_tree_and_parquet_give_the_same_splits(tmp_path):
    tree = tmp_path / "aclImdb"
    for split in ("train", "test"):
        table = pq.read_table(IMDB / f"{split}.parquet").to_pydict()
        first_of_each = {
            folder: [text for text, label in zip(table["text"], table["label"], strict=True) if label == number][:100]
            for number, folder in enumerate(("neg", "pos"))
        }
        write_tree(tree, {split: first_of_each})
        pairs = [(text, number) for number, texts in enumerate(first_of_each.values()) for text in texts]
        write_parquet(tmp_path / f"{split}.parquet", pairs)
    (parquet := tmp_path / "parquet").mkdir()
    for split in ("train", "test"):
        shutil.move(tmp_path / f"{split}.parquet", parquet)
    from_tree, from_parquet = (load_reviews(ReviewSettings(path=str(path))) for path in (tree, parquet))
    assert {split: digest(dataset) for split, dataset in from_tree.items()} == {
        split: digest(dataset) for split, dataset in from_parquet.items()
    }


# Own files


def test_csv_keeps_quotes_newlines_unicode_and_words_for_missing(tmp_path):
    import csv

    with (tmp_path / "all.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "id", "text"])
        writer.writerows((f"0{index % 3}", index, text) for index, text in enumerate(AWKWARD_TEXTS))
    loaded = own_files(str(tmp_path / "all.csv"))
    assert pairs_of(loaded["test"]) == [(text, f"0{index % 3}") for index, text in enumerate(AWKWARD_TEXTS)]
    assert loaded["test"].features["label"].names == ["00", "01", "02"]


def test_tsv_takes_quotes_as_they_are(tmp_path):
    texts = [text for text in AWKWARD_TEXTS if "\n" not in text] + ['"open', "carriage\rreturn"]
    content = "".join(f"{text}\t{'NA' if index % 2 else 'null'}\r\n" for index, text in enumerate(texts))
    loaded = own_files(write(tmp_path / "all.tsv", "\ufefftext\tlabel\r\n" + content))
    assert pairs_of(loaded["test"]) == [(text, "NA" if index % 2 else "null") for index, text in enumerate(texts)]


@pytest.mark.parametrize(("name", "separator"), [("all.tsv", "\t"), ("all.csv", ",")])
def test_without_a_header_columns_go_by_position(tmp_path, name, separator):
    content = "".join(f"{index % 2}{separator}7{separator}film {index}\n" for index in range(6))
    file = write(tmp_path / name, content)
    loaded = own_files(file, header=False, text_column="2", label_column="0")
    assert loaded["test"].to_dict() == {"text": [f"film {index}" for index in range(6)], "label": [0, 1] * 3}


@pytest.mark.parametrize("name", ["all.jsonl", "all.json"])
def test_json_lines(tmp_path, name):
    lines = [
        json.dumps({"text": text, "stars": index % 3}, ensure_ascii=index % 2 == 0)
        for index, text in enumerate(AWKWARD_TEXTS)
    ]
    loaded = own_files(write(tmp_path / name, "\n".join(lines) + "\n\n"), label_column="stars")
    assert pairs_of(loaded["test"]) == [(text, str(index % 3)) for index, text in enumerate(AWKWARD_TEXTS)]


def test_own_parquet_integer_classes_are_in_numeric_order_and_keep_their_names(tmp_path):
    file = write_parquet(tmp_path / "all.parquet", rows(8, labels=(10, 9, -1, 2)), text="film", label="stars")
    loaded = own_files(file, text_column="film", label_column="stars")
    assert loaded["test"].features["label"].names == ["-1", "2", "9", "10"]
    assert loaded["test"].to_dict()["label"] == [3, 2, 0, 1] * 2


def test_own_classes_0_and_1_are_not_renamed(tmp_path):
    loaded = own_files(write(tmp_path / "all.tsv", tsv(rows(10))))
    assert loaded["train"].features["label"].names == ["0", "1"]


def test_categorical_and_boolean_labels(tmp_path):
    texts = [f"film {index}" for index in range(6)]
    for name, labels, expected in [
        ("categorical", pa.array(["good", "bad"] * 3).dictionary_encode(), ["good", "bad"] * 3),
        ("boolean", pa.array([True, False] * 3), ["true", "false"] * 3),
    ]:
        file = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": pa.array(texts, pa.large_string()), "label": labels}), file)
        assert pairs_of(own_files(str(file))["test"]) == list(zip(texts, expected, strict=True))


def test_three_own_files_of_three_kinds(tmp_path):
    loaded = load_reviews(
        ReviewSettings(
            source="files",
            train_file=write(tmp_path / "a.TSV", tsv([("t0", 1), ("t1", 2)])),
            validation_file=write(tmp_path / "b.jsonl", '{"text": "v", "label": "2"}'),
            test_file=write_parquet(tmp_path / "c.parquet", [("x", 1)]),
        )
    )
    assert {split: pairs_of(dataset) for split, dataset in loaded.items()} == {
        "train": [("t0", "1"), ("t1", "2")],
        "validation": [("v", "2")],
        "test": [("x", "1")],
    }


def test_a_file_changed_in_place_is_read_again(tmp_path):
    file = tmp_path / "all.tsv"
    own_files(write(file, tsv(rows(10, prefix="old"))))
    stat = file.stat()
    write(file, tsv(rows(10, prefix="new")))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert own_files(str(file))["test"]["text"][0] == "new 0"


# Splitting and subsets


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


def test_empty_reviews_are_kept_and_counted_in_one_warning(tmp_path, caplog):
    lines = [
        json.dumps({"text": text, "label": index % 2}) for index, text in enumerate(["", " \t\u00a0", None, "good"])
    ]
    train = write(tmp_path / "train.jsonl", "\n".join(lines * 5))
    with caplog.at_level(logging.WARNING, logger="bertlens.data.reviews"):
        loaded = own_files(train, write(tmp_path / "test.jsonl", "\n".join(lines[:2])), validation_file=train)
    assert [record.getMessage() for record in caplog.records] == [
        "kept 32 empty or white-space reviews: 15 in train, 15 in validation, 2 in test"
    ]
    assert loaded["train"]["text"][:4] == ["", " \t\u00a0", "", "good"]


# The demo


def test_demo_is_split_60_20_20_and_keeps_the_spans():
    loaded = load_reviews(ReviewSettings(source="demo", num_demo_reviews=100, seed=5))
    assert loaded.num_rows == {"train": 60, "validation": 20, "test": 20}
    written = {review.text: review for review in generate(num_reviews=100, seed=5)}
    for dataset in loaded.values():
        assert sum(dataset["label"]) * 2 == dataset.num_rows
        assert dataset.features["label"].names == ["negative", "positive"]
        for row in dataset:
            review = written.pop(row["text"])
            assert row["label"] == int(review.label)
            assert row["spans"] == [list(span) for span in review.spans]
    assert not written


# The hub


@pytest.fixture
def hub_answers(monkeypatch):
    monkeypatch.setattr(reviews, "_hub_answers", lambda name: True)


def test_hub_is_asked_for_the_pinned_revision_and_unsupervised_is_ignored(monkeypatch, hub_answers):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict({"text": list("abcdefghij"), "label": labels}, features=features)
                for split, labels in {"train": [0, 1] * 5, "test": [1, 0] * 5, "unsupervised": [-1] * 10}.items()
            }
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load_reviews(ReviewSettings())
    assert calls == [(("stanfordnlp/imdb",), {"revision": "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"})]
    assert loaded.num_rows == {"train": 8, "validation": 2, "test": 10}
    assert loaded["test"].to_dict() == {"text": list("abcdefghij"), "label": [1, 0] * 5}
    assert loaded["test"].features["label"].names == ["negative", "positive"]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'stanfordnlp/imdb' on the Hub\n(LocalEntryNotFoundError)"),
        huggingface_hub.errors.OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled."),
        huggingface_hub.errors.LocalEntryNotFoundError("not in the local cache"),
        ValueError("Couldn't find cache for stanfordnlp/imdb"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_hub_out_of_reach_names_the_remedies(monkeypatch, hub_answers, error):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = message_of(lambda: load_reviews(ReviewSettings()))
    for remedy in ("data.path", "model.pretrained", "experiment=demo", "stanfordnlp/imdb", type(error).__name__):
        assert remedy in message


def test_hub_that_does_not_answer_is_not_retried(monkeypatch):
    seen = []

    def load_dataset(*args, **kwargs):
        seen.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError

    def dataset_info(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reviews.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert "experiment=demo" in message_of(lambda: load_reviews(ReviewSettings()))
    assert seen == [True]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_hub_name_that_does_not_exist(monkeypatch, hub_answers):
    def load_dataset(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'no/such' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = message_of(lambda: load_reviews(ReviewSettings(hub_name="no/such")))
    assert message.startswith("data.hub_name='no/such'")
    assert "not on the hub" in message


def test_hub_data_without_a_test_split(monkeypatch, hub_answers):
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.DatasetDict(train=train))
    message = message_of(lambda: load_reviews(ReviewSettings(hub_name="my/data")))
    assert "data.hub_name='my/data'" in message
    assert "no split 'test', only 'train'" in message


# Settings and files that cannot be used


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"source": "web"}, ["data.source='web'", "hub, local, files, demo"]),
        ({"source": "local"}, ["data.path"]),
        ({"source": "files", "test_file": "x.tsv"}, ["data.train_file is missing", ".tsv, .csv, .jsonl"]),
        ({"source": "files", "train_file": "x.tsv"}, ["data.test_file is missing"]),
        ({"source": "files"}, ["data.train_file", "data.test_file"]),
        ({"source": "files", "path": "x", "train_file": "a", "test_file": "b"}, ["data.path='x'", "own files"]),
        ({"path": "/no/such\x1b[31m"}, ["data.path='/no/such\\x1b[31m' does not exist"]),
        ({"path": __file__}, ["is a file", "data.train_file"]),
        ({"source": "demo", "validation_fraction": 1.0}, ["data.validation_fraction=1.0"]),
        ({"source": "demo", "label_column": "text"}, ["data.text_column", "data.label_column"]),
        ({"source": "demo", "num_demo_reviews": 2}, ["data.num_demo_reviews=2"]),
        ({"source": "demo", "seed": -1}, ["data.seed=-1"]),
        ({"source": "demo", "max_reviews": 1}, ["data.max_reviews=1", "2 classes"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings(settings, parts):
    message = message_of(lambda: load_reviews(ReviewSettings(**settings)))
    assert all(part in message for part in parts), message


GOOD = tsv(rows(10))
BAD_FILES = {
    "missing": ("train.tsv", None, ["train.tsv", "cannot be read: No such file"]),
    "ending": ("train.xlsx", "x", ["train.xlsx", ".tsv, .csv, .jsonl, .json, .parquet"]),
    "empty tsv": ("train.tsv", "", ["train.tsv", "is empty"]),
    "empty csv": ("train.csv", "\n", ["train.csv", "is empty"]),
    "empty json": ("train.jsonl", "\n\n", ["train.jsonl", "is empty"]),
    "header alone": ("train.csv", "text,label\n", ["train.csv", "is empty"]),
    "renamed": ("train.csv", "txt,label\na,0\n", ["data.text_column='text'", "did you mean 'txt'?", "'txt', 'label'"]),
    "no label": ("train.jsonl", '{"text": "a", "stars": 1}', ["data.label_column='label'", "it has 'text', 'stars'"]),
    "no header": ("train.tsv", "fine film\t1\nbad\t0\n", ["data.header=true", "'fine film', '1'"]),
    "two alike": ("train.csv", "text,text,label\na,b,0\n", ["more than one column data.text_column='text'"]),
    "one class": ("train.tsv", tsv(rows(9, labels=("x\x1b",))), ["'x\\x1b'", "one class only"]),
    "no labels": (
        "train.tsv",
        tsv([("a", 0), ("b", ""), ("c", " "), ("d", 1)]),
        ["2 of 4 rows", "data.label_column='label'"],
    ),
    "null labels": ("train.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', ["1 of 2 rows"]),
    "latin-1": ("train.tsv", GOOD.encode() + "caf\xe9\t1\n".encode("latin-1"), ["line 12", "is not UTF-8"]),
    "ragged tsv": ("train.tsv", GOOD + "a\tb\t1\n", ["line 12", "3 columns where the first has 2"]),
    "ragged csv": ("train.csv", 'text,label\n"a\nb",1\nc\n', ["line 4", "1 columns where the first has 2"]),
    "open quote": ("train.csv", 'text,label\na,1\n"b,0\n', ["train.csv", "is not CSV"]),
    "stray quote": ("train.csv", 'text,label\na,1\n"b" c,0\n', ["line 3", "is not CSV"]),
    "bad json": ("train.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", \n', ["line 3", "is not JSON"]),
    "deep json": ("train.jsonl", "[" * 100_000, ["line 1", "is not JSON"]),
    "json list": ("train.json", '["a", 1]\n', ["line 1", "one review a line"]),
    "json mixed": ("train.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}', ["mixes kinds"]),
    "json surrogate": ("train.jsonl", '{"text": "\\ud800", "label": 1}', ["train.jsonl"]),
    "json number text": ("train.jsonl", '{"text": 1, "label": 1}', ["data.text_column='text' holds int64, not text"]),
    "json float label": ("train.jsonl", '{"text": "a", "label": 1.5}', ["data.label_column='label' holds double"]),
    "not parquet": ("train.parquet", "PAR1 and no more", ["train.parquet", "cannot be read as Parquet"]),
    "empty parquet": ("train.parquet", b"", ["train.parquet", "cannot be read as Parquet"]),
    "too few": ("train.tsv", tsv(rows(2)), ["2 train reviews are too few", "data.validation_fraction=0.2"]),
}


@pytest.mark.parametrize(("name", "content", "parts"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_own_file(tmp_path, name, content, parts):
    file = tmp_path / name
    if content is not None:
        write(file, content)
    message = message_of(lambda: own_files(str(file), write(tmp_path / "test.tsv", GOOD)))
    assert all(part in message for part in parts), message
    assert "\x1b" not in message


def test_parquet_that_was_cut_short(tmp_path):
    whole = Path(write_parquet(tmp_path / "whole.parquet", rows(1000))).read_bytes()
    for length in (len(whole) // 2, len(whole) - 5):
        file = write(tmp_path / "cut.parquet", whole[:length])
        message = message_of(lambda file=file: own_files(file))
        assert "cut.parquet" in message
        assert "cannot be read as Parquet" in message


def test_parquet_of_other_kinds(tmp_path):
    not_utf8 = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    for table, part in [
        ({"text": [1, 2], "label": [0, 1]}, "data.text_column='text' holds int64, not text"),
        ({"text": [["a"], ["b"]], "label": [0, 1]}, "data.text_column='text' holds list"),
        ({"text": ["a", "b"], "label": [0.0, 1.0]}, "data.label_column='label' holds double"),
        ({"text": not_utf8, "label": [0, 1]}, "data.text_column='text' is not UTF-8"),
        ({"film": ["a", "b"], "label": [0, 1]}, "data.text_column='text': it has 'film', 'label'"),
        ({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, "is empty"),
    ]:
        file = tmp_path / "train.parquet"
        pq.write_table(pa.table(table), file)
        message = message_of(lambda: own_files(str(tmp_path / "train.parquet")))
        assert part in message
        assert "train.parquet" in message


@pytest.mark.parametrize("split", ["validation", "test"])
def test_label_that_train_does_not_have(tmp_path, split):
    train = write(tmp_path / "train.tsv", tsv(rows(10)))
    other = write(tmp_path / "other.tsv", tsv([("a", 0), ("b", "2\x1b")]))
    files = {"train_file": train, "validation_file": train, "test_file": train, f"{split}_file": other}
    message = message_of(lambda: load_reviews(ReviewSettings(source="files", **files)))
    assert f"the {split} split has labels that train has not, '2\\x1b'" in message
    assert "train has '0', '1'" in message


def test_folder_without_reviews(tmp_path):
    write(tmp_path / "notes.txt", "none here")
    message = message_of(lambda: load_reviews(ReviewSettings(path=str(tmp_path))))
    assert f"data.path={str(tmp_path)!r} holds no reviews" in message


def test_folder_without_a_test_split(tmp_path):
    write_parquet(tmp_path / "train.parquet", rows(10))
    message = message_of(lambda: load_reviews(ReviewSettings(path=str(tmp_path))))
    assert f"data.path={str(tmp_path)!r}" in message
    assert "none with 'test' in its name" in message


def test_tree_without_negative_test_reviews(tmp_path):
    write_tree(tmp_path, {"train": {"neg": ["a"], "pos": ["b"]}, "test": {"pos": ["c"]}})
    message = message_of(lambda: load_reviews(ReviewSettings(path=str(tmp_path))))
    assert repr(str(tmp_path / "test" / "neg")) in message
    assert "no .txt reviews" in message


def test_tree_with_a_file_that_is_not_utf8(tmp_path):
    write_tree(tmp_path, {split: {"neg": ["a"], "pos": [b"b", b"first line\ncaf\xe9"]} for split in ("train", "test")})
    message = message_of(lambda: load_reviews(ReviewSettings(path=str(tmp_path))))
    assert repr(str(tmp_path / "train" / "pos" / "1_9.txt")) in message
    assert "line 2, is not UTF-8" in message
