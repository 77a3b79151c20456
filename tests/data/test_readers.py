"""The user's own files of every format, through `load_reviews`."""

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertlens.data.readers import READERS
from bertlens.data.reviews import load_reviews
from bertlens.data.settings import ENDINGS, DataSettings
from bertlens.errors import InputError

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


def test_csv_keeps_quotes_newlines_unicode_and_words_for_missing(tmp_path):
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
        DataSettings(
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


GOOD = tsv(rows(10))
BAD_FILES = {
    "missing": ("train.tsv", None, ["train.tsv", "cannot be read: No such file"]),
    "ending": ("train.xlsx", "x", ["train.xlsx", "does not end in one of .tsv, .csv, .jsonl, .json, .parquet"]),
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
    "open quote": ("train.csv", 'text,label\na,1\n"b,0\n', ["line 3", "is not CSV"]),
    "open quote at the end": ("train.csv", 'label,text\n1,a\n0,"b\n1,c\n', ["line 4", "is not CSV"]),
    "stray quote": ("train.csv", 'text,label\na,1\n"b" c,0\n', ["line 3", "is not CSV"]),
    "NUL bytes": ("train.csv", "\0" * 4096, ["no column data.text_column='text'", "it has '\\x00"]),
    "UTF-16": ("train.csv", "text,label\na,1\n".encode("utf-16"), ["train.csv', line 1, is not UTF-8"]),
    "bad json": ("train.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", \n', ["line 3", "is not JSON"]),
    "deep json": ("train.jsonl", "[" * 100_000, ["line 1", "is not JSON"]),
    "json list": ("train.json", '["a", 1]\n', ["line 1", "one review per line"]),
    "json mixed": (
        "train.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}',
        ["several types in one column"],
    ),
    "json surrogate": ("train.jsonl", '{"text": "\\ud800", "label": 1}', ["train.jsonl", "half a character"]),
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


def test_the_endings_that_settings_name_are_those_that_are_read():
    assert {*ENDINGS, ".json"} == set(READERS)
