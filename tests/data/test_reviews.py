import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
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

COMMIT = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
OTHER_COMMIT = "0" * 40


class Hub:
    """Stands in for the hub and its cache: folders by revision, and what was asked of which."""

    def __init__(self, cache, served):
        self.cache, self.served, self.calls = cache, served, []

    def snapshot_download(self, name, *, repo_type, revision, local_files_only):
        assert (name, repo_type) == ("stanfordnlp/imdb", "dataset")
        self.calls.append(("cache" if local_files_only else "hub", revision))
        cached = self.cache / revision
        if not local_files_only:
            if revision not in self.served:
                raise OSError("Name or service not known")
            shutil.copytree(self.served[revision], cached, dirs_exist_ok=True)
        if not cached.is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("nothing of this revision")
        return str(cached)


@pytest.fixture
def published(tmp_path):
    """The data set as it is laid out on the hub, 20 reviews a split."""
    folder = tmp_path / "published"
    (folder / "plain_text").mkdir(parents=True)
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    for split, labels in {"train": [0, 1], "test": [1, 0], "unsupervised": [-1, -1]}.items():
        columns = {"text": [f"{split} {index}" for index in range(20)], "label": labels * 10}
        dataset = datasets.Dataset.from_dict(columns, features=features)
        dataset.to_parquet(folder / "plain_text" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub", {COMMIT: published})
    monkeypatch.setattr(reviews, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return hub


def test_hub_is_asked_once_for_the_pinned_revision_and_unsupervised_is_ignored(hub):
    loaded = load_reviews(ReviewSettings())
    assert hub.calls == [("cache", COMMIT), ("hub", COMMIT)]
    assert loaded.num_rows == {"train": 16, "validation": 4, "test": 20}
    assert loaded["test"].to_dict() == {"text": [f"test {index}" for index in range(20)], "label": [1, 0] * 10}
    assert loaded["test"].features["label"].names == ["negative", "positive"]
    again = load_reviews(ReviewSettings())
    assert hub.calls[2:] == [("cache", COMMIT)]
    assert {split: digest(dataset) for split, dataset in again.items()} == {
        split: digest(dataset) for split, dataset in loaded.items()
    }


def test_another_revision_in_the_cache_is_never_taken_instead(hub, monkeypatch):
    """Neither offline nor where the hub does not answer, however new it is."""
    shutil.copytree(hub.served.pop(COMMIT), hub.cache / OTHER_COMMIT)
    assert load_reviews(ReviewSettings(hub_revision=OTHER_COMMIT)).num_rows["test"] == 20
    for offline in (False, True):
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
        hub.calls.clear()
        assert COMMIT in message_of(lambda: load_reviews(ReviewSettings()))
        assert {where for where, _ in hub.calls} == ({"cache"} if offline else {"cache", "hub"})


def test_a_branch_may_have_moved_and_is_asked_for_unless_offline(hub, published, monkeypatch):
    hub.served["main"] = published
    load_reviews(ReviewSettings(hub_revision="main"))
    load_reviews(ReviewSettings(hub_revision="main"))
    assert hub.calls == [("hub", "main")] * 2
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    load_reviews(ReviewSettings(hub_revision="main"))
    assert hub.calls[2:] == [("cache", "main")]


@pytest.mark.parametrize(
    "there",
    [["README.md"], ["train-00000-of-00001.parquet"], ["train-00000-of-00002.parquet", "test-00000-of-00001.parquet"]],
    ids=["nothing read yet", "one split of two", "one file of two"],
)
def test_a_part_in_the_cache_is_completed_and_offline_refused(hub, published, there, monkeypatch):
    folder = hub.cache / COMMIT / "plain_text"
    folder.mkdir(parents=True)
    for name in there:
        source = published / "plain_text" / name.replace("of-00002", "of-00001")
        (folder / name).write_bytes(source.read_bytes() if source.is_file() else b"")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "experiment=demo" in message_of(lambda: load_reviews(ReviewSettings()))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    if "train-00000-of-00002.parquet" in there:
        other = published / "plain_text" / "train-00001-of-00002.parquet"
        shutil.copy(published / "plain_text" / "train-00000-of-00001.parquet", other)
        (published / "plain_text" / "train-00000-of-00001.parquet").unlink()
        assert load_reviews(ReviewSettings()).num_rows["train"] == 32  # both files, with 20 % held out
    else:
        assert load_reviews(ReviewSettings()).num_rows["train"] == 16
    assert hub.calls[-1] == ("hub", COMMIT)


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
def test_hub_out_of_reach_names_the_remedies(monkeypatch, error):
    def snapshot_download(*args, **kwargs):
        raise error

    monkeypatch.setattr(reviews, "snapshot_download", snapshot_download)
    message = message_of(lambda: load_reviews(ReviewSettings()))
    for remedy in ("data.path", "model.pretrained", "experiment=demo", "stanfordnlp/imdb", type(error).__name__):
        assert remedy in message


def test_hub_name_that_does_not_exist(monkeypatch):
    def snapshot_download(*args, **kwargs):
        raise huggingface_hub.errors.RepositoryNotFoundError.__new__(huggingface_hub.errors.RepositoryNotFoundError)

    monkeypatch.setattr(reviews, "snapshot_download", snapshot_download)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    message = message_of(lambda: load_reviews(ReviewSettings(hub_name="no/such")))
    assert message.startswith("data.hub_name='no/such'")
    assert "not on the hub" in message


def test_hub_data_without_a_test_split(hub):
    for split in ("test", "unsupervised"):
        (hub.served[COMMIT] / "plain_text" / f"{split}-00000-of-00001.parquet").unlink()
    message = message_of(lambda: load_reviews(ReviewSettings()))
    assert "data.hub_name='stanfordnlp/imdb'" in message
    assert "no split 'test', only 'train'" in message


# The official archive

IN_ARCHIVE = {
    f"aclImdb/{split}/{name}/{number}_{9 - number % 4}.txt": f"{split} {name} {number}"
    for split in ("train", "test")
    for name in ("pos", "neg")
    for number in (10, 9, 0, 11, 2, 1, 3)
}


def archive_of(file, *more, reviews=IN_ARCHIVE):
    """A .tar.gz of the reviews and then `more`, pairs of a header's fields and content."""
    with tarfile.open(file, "w:gz") as archive:
        for fields, content in [*(({"name": name}, text.encode()) for name, text in reviews.items()), *more]:
            member = tarfile.TarInfo()
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return file


def test_the_archive_gives_what_the_unpacked_tree_gives(tmp_path):
    file = archive_of(tmp_path / "aclImdb_v1.tar.gz", ({"name": "aclImdb/train/unsup/0_0.txt"}, b"no label"))
    for name, text in IN_ARCHIVE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    from_archive, from_tree = (load_reviews(ReviewSettings(path=str(path))) for path in (file, tmp_path / "aclImdb"))
    assert from_archive["test"]["text"][:] == [f"test {n} {i}" for n in ("neg", "pos") for i in (0, 1, 2, 3, 9, 10, 11)]
    assert {split: dataset.to_dict() for split, dataset in from_archive.items()} == {
        split: dataset.to_dict() for split, dataset in from_tree.items()
    }
    assert from_archive["train"].features == from_tree["train"].features
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked


REVIEW = "aclImdb/train/pos/77_9.txt"
STRANGERS = {
    "symbolic link": {"name": REVIEW, "type": tarfile.SYMTYPE, "linkname": "SECRET"},
    "hard link": {"name": REVIEW, "type": tarfile.LNKTYPE, "linkname": "SECRET"},
    "hard link inside": {"name": REVIEW, "type": tarfile.LNKTYPE, "linkname": next(iter(IN_ARCHIVE))},
    "linked folder": {"name": "aclImdb/train/pos", "type": tarfile.SYMTYPE, "linkname": ".."},
    "parent folder": {"name": "aclImdb/train/pos/../../../escaped.txt"},
    "parent folder, right end": {"name": f"../{REVIEW}"},
    "absolute": {"name": "/tmp/aclImdb/train/pos/77_9.txt"},
    "absolute, from the root": {"name": f"/{REVIEW}"},
    "device": {"name": REVIEW, "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "block device": {"name": REVIEW, "type": tarfile.BLKTYPE, "devmajor": 8},
    "pipe": {"name": REVIEW, "type": tarfile.FIFOTYPE},
    "folder": {"name": REVIEW, "type": tarfile.DIRTYPE},
    "other name": {"name": "aclImdb/train/pos/77_9.txt.exe"},
    "other digits": {"name": "aclImdb/train/pos/٧_٩.txt"},
    "line break": {"name": f"{REVIEW}\n"},
    "other class": {"name": "aclImdb/train/great/77_9.txt"},
}


@pytest.mark.parametrize("fields", STRANGERS.values(), ids=STRANGERS)
def test_what_does_not_belong_in_the_archive_is_passed_over(tmp_path, fields):
    (secret := tmp_path / "secret.txt").write_text("SECRET")
    fields = fields | ({"linkname": str(secret)} if fields.get("linkname") == "SECRET" else {})
    content = b"EVIL" if fields.get("type", tarfile.REGTYPE) == tarfile.REGTYPE else b""
    (folder := tmp_path / "here").mkdir()
    loaded = load_reviews(ReviewSettings(path=str(archive_of(folder / "hostile.tar.gz", (fields, content)))))
    texts = [text for dataset in loaded.values() for text in dataset["text"]]
    assert sorted(texts) == sorted(IN_ARCHIVE.values())
    assert [path.name for path in folder.iterdir()] == ["hostile.tar.gz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "secret.txt"]


def header(**fields):
    member = tarfile.TarInfo(REVIEW)
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def test_a_review_of_a_terabyte_is_refused_before_it_is_read(tmp_path):
    (file := tmp_path / "huge.tar.gz").write_bytes(gzip.compress(header(size=2**40) + b"x" * 512))
    message = message_of(lambda: load_reviews(ReviewSettings(path=str(file))))
    assert f"{REVIEW} has {2**40} bytes" in message
    assert "huge.tar.gz" in message


@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["file", "pax", "name"]
)
def test_an_archive_that_unpacks_to_far_more_than_it_is_ends_at_the_limit(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(reviews, "MAX_ARCHIVE", 2**20)
    bomb = header(name="aclImdb/imdb.vocab", type=kind, size=2**24) + bytes(2**24)
    (file := tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bomb))
    assert file.stat().st_size < 2**15
    message = message_of(lambda: load_reviews(ReviewSettings(path=str(file))))
    assert "bomb.tar.gz" in message
    assert f"more than {2**20} bytes" in message


def test_a_review_that_is_there_twice_is_refused(tmp_path):
    name = next(iter(IN_ARCHIVE))
    file = archive_of(tmp_path / "twice.tar.gz", ({"name": name}, b"another text"))
    message = message_of(lambda: load_reviews(ReviewSettings(path=str(file))))
    assert "twice.tar.gz" in message
    assert f"{name.removeprefix('aclImdb/')} twice" in message


def test_an_archive_cut_anywhere_is_refused(tmp_path):
    whole = archive_of(tmp_path / "whole.tar.gz").read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for length in [*range(0, len(whole), 16), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        message = message_of(lambda: load_reviews(ReviewSettings(path=str(cut))))
        assert message.startswith(f"data.path={str(cut)!r} is cut short or damaged"), length


def test_an_archive_with_a_changed_byte_is_refused_or_the_same(tmp_path):
    """The same: the time it was made in the first bytes, and a code that nothing is written in."""
    whole = archive_of(tmp_path / "whole.tar.gz").read_bytes()
    original = load_reviews(ReviewSettings(path=str(tmp_path / "whole.tar.gz")))["test"].to_dict()
    file, outcomes = tmp_path / "damaged.tar.gz", Counter()
    for position in range(0, len(whole), 8):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            same = load_reviews(ReviewSettings(path=str(file)))["test"].to_dict() == original
        except InputError as error:
            same = "damaged.tar.gz" in str(error)
        outcomes[same] += 1
    assert outcomes.keys() == {True}


def test_a_damaged_header_does_not_end_the_archive_early(tmp_path):
    unpacked = bytearray(gzip.decompress(archive_of(tmp_path / "whole.tar.gz").read_bytes()))
    unpacked[1024 * 26 + 150] ^= 1  # the checksum of a review's header near the end, and gzip's made anew
    (file := tmp_path / "damaged.tar.gz").write_bytes(gzip.compress(bytes(unpacked)))
    assert "damaged header" in message_of(lambda: load_reviews(ReviewSettings(path=str(file))))


def test_an_archive_of_one_class_and_one_that_is_not_utf8(tmp_path):
    negative = {name: text for name, text in IN_ARCHIVE.items() if "/test/pos/" not in name}
    file = archive_of(tmp_path / "half.tar.gz", reviews=negative)
    assert "half.tar.gz/aclImdb/test/pos" in message_of(lambda: load_reviews(ReviewSettings(path=str(file))))
    file = archive_of(tmp_path / "latin.tar.gz", ({"name": REVIEW}, b"fine\ncaf\xe9"))
    message = message_of(lambda: load_reviews(ReviewSettings(path=str(file))))
    assert f"{REVIEW}, line 2, is not UTF-8" in message
    assert "latin.tar.gz" in message


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
