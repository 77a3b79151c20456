"""The hub, local folders and the demo, through `load_reviews`."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertlens.data import sources
from bertlens.data.demo import generate
from bertlens.data.reviews import load_reviews
from bertlens.data.settings import DataSettings
from bertlens.errors import InputError

COMMIT = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
OTHER_COMMIT = "0" * 40


def rows(num_reviews, labels=(0, 1), prefix="review"):
    return [(f"{prefix} {index}", labels[index % len(labels)]) for index in range(num_reviews)]


def write_parquet(file, pairs, text="text", label="label"):
    pq.write_table(pa.table({text: [pair[0] for pair in pairs], label: [pair[1] for pair in pairs]}), file)
    return str(file)


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def write_tree(root, splits):
    for split, texts_by_folder in splits.items():
        for folder, texts in texts_by_folder.items():
            (root / split / folder).mkdir(parents=True)
            for number, text in enumerate(texts):
                write(root / split / folder / f"{number}_{10 - number % 4}.txt", text)
    return root


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


def test_parquet_folder_keeps_its_own_validation_split_and_drops_nothing(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", rows(4))
    write_parquet(tmp_path / "train-00001-of-00002.parquet", rows(4, prefix="more"))
    write_parquet(tmp_path / "my_validation.parquet", rows(2))  # repeats texts of train
    write_parquet(tmp_path / "test.parquet", rows(2, prefix="test"))
    write_parquet(tmp_path / "unsupervised.parquet", rows(9, labels=(-1,)))
    write_parquet(tmp_path / "latest.parquet", rows(9, labels=(7,)))  # "test" inside a word names no split
    loaded = load_reviews(DataSettings(path=str(tmp_path)))
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
    loaded = load_reviews(DataSettings(path=str(tmp_path)))
    assert loaded["test"].features["label"].names == ["Sports", "World"]
    assert pairs_of(loaded["test"]) == list(zip("abcdef", ["World", "Sports"] * 3, strict=True))


@pytest.mark.parametrize("nested", [False, True])
def test_acl_tree_is_read_by_number_negatives_first(tmp_path, nested):
    texts = {"neg": [f"bad {number}\r\n" for number in range(12)], "pos": [f"good {number}" for number in range(12)]}
    root = write_tree(tmp_path / "aclImdb", {"train": texts, "test": texts})
    write(root / "train" / "urls_neg.txt", "not a review")
    loaded = load_reviews(DataSettings(path=str(tmp_path if nested else root)))
    assert loaded["test"].to_dict() == {"text": texts["neg"] + texts["pos"], "label": [0] * 12 + [1] * 12}
    assert loaded["train"].features["label"].names == ["negative", "positive"]
    assert loaded["train"].num_rows == 19
    assert loaded["validation"].num_rows == 5


def test_acl_tree_and_parquet_give_the_same_splits(imdb_folder, tmp_path):
    tree = tmp_path / "aclImdb"
    for split in ("train", "test"):
        table = pq.read_table(imdb_folder / f"{split}.parquet").to_pydict()
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
    from_tree, from_parquet = (load_reviews(DataSettings(path=str(path))) for path in (tree, parquet))
    assert {split: digest(dataset) for split, dataset in from_tree.items()} == {
        split: digest(dataset) for split, dataset in from_parquet.items()
    }


def test_folder_without_reviews(tmp_path):
    write(tmp_path / "notes.txt", "none here")
    message = message_of(lambda: load_reviews(DataSettings(path=str(tmp_path))))
    assert f"data.path={str(tmp_path)!r} holds no reviews" in message


def test_folder_without_a_test_split(tmp_path):
    write_parquet(tmp_path / "train.parquet", rows(10))
    message = message_of(lambda: load_reviews(DataSettings(path=str(tmp_path))))
    assert f"data.path={str(tmp_path)!r}" in message
    assert "none with 'test' in its name" in message


def test_tree_without_negative_test_reviews(tmp_path):
    write_tree(tmp_path, {"train": {"neg": ["a"], "pos": ["b"]}, "test": {"pos": ["c"]}})
    message = message_of(lambda: load_reviews(DataSettings(path=str(tmp_path))))
    assert repr(str(tmp_path / "test" / "neg")) in message
    assert "no .txt reviews" in message


def test_tree_with_a_file_that_is_not_utf8(tmp_path):
    write_tree(tmp_path, {split: {"neg": ["a"], "pos": [b"b", b"first line\ncaf\xe9"]} for split in ("train", "test")})
    message = message_of(lambda: load_reviews(DataSettings(path=str(tmp_path))))
    assert repr(str(tmp_path / "train" / "pos" / "1_9.txt")) in message
    assert "line 2, is not UTF-8" in message


def test_demo_is_split_60_20_20_and_keeps_the_spans():
    loaded = load_reviews(DataSettings(source="demo", num_demo_reviews=100, seed=5))
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


class Hub:
    """Stands in for the hub and its cache: folders by revision, and what was asked of which."""

    def __init__(self, cache, served):
        self.cache, self.served, self.offline, self.calls = cache, served, False, []

    def fetch(self, name, *, repo_type, revision, offline_only=False):
        assert (name, repo_type) == ("stanfordnlp/imdb", "dataset")
        self.calls.append(("cache" if offline_only or self.offline else "hub", revision))
        cached = self.cache / revision
        if self.calls[-1][0] == "hub":
            if revision not in self.served:
                raise ConnectionError("ConnectError: Name or service not known")
            shutil.copytree(self.served[revision], cached, dirs_exist_ok=True)
        if not cached.is_dir():
            raise FileNotFoundError("LocalEntryNotFoundError: nothing of this revision")
        return cached


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
    monkeypatch.setattr(sources, "fetch", hub.fetch)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")
    return hub


def test_hub_is_asked_once_for_the_pinned_revision_and_unsupervised_is_ignored(hub):
    loaded = load_reviews(DataSettings())
    assert hub.calls == [("cache", COMMIT), ("hub", COMMIT)]
    assert loaded.num_rows == {"train": 16, "validation": 4, "test": 20}
    assert loaded["test"].to_dict() == {"text": [f"test {index}" for index in range(20)], "label": [1, 0] * 10}
    assert loaded["test"].features["label"].names == ["negative", "positive"]
    again = load_reviews(DataSettings())
    assert hub.calls[2:] == [("cache", COMMIT)]
    assert {split: digest(dataset) for split, dataset in again.items()} == {
        split: digest(dataset) for split, dataset in loaded.items()
    }


def test_another_revision_in_the_cache_is_never_taken_instead(hub):
    """Neither offline nor where the hub does not answer, however new it is."""
    shutil.copytree(hub.served.pop(COMMIT), hub.cache / OTHER_COMMIT)
    assert load_reviews(DataSettings(hub_revision=OTHER_COMMIT)).num_rows["test"] == 20
    for offline in (False, True):
        hub.offline = offline
        hub.calls.clear()
        assert COMMIT in message_of(lambda: load_reviews(DataSettings()))
        assert {where for where, _ in hub.calls} == ({"cache"} if offline else {"cache", "hub"})


def test_a_branch_may_have_moved_and_is_asked_for_unless_offline(hub, published):
    hub.served["main"] = published
    load_reviews(DataSettings(hub_revision="main"))
    load_reviews(DataSettings(hub_revision="main"))
    assert hub.calls == [("hub", "main")] * 2
    hub.offline = True
    load_reviews(DataSettings(hub_revision="main"))
    assert hub.calls[2:] == [("cache", "main")]


@pytest.mark.parametrize(
    "there",
    [["README.md"], ["train-00000-of-00001.parquet"], ["train-00000-of-00002.parquet", "test-00000-of-00001.parquet"]],
    ids=["nothing read yet", "one split of two", "one file of two"],
)
def test_a_part_in_the_cache_is_completed_and_offline_refused(hub, published, there):
    folder = hub.cache / COMMIT / "plain_text"
    folder.mkdir(parents=True)
    for name in there:
        source = published / "plain_text" / name.replace("of-00002", "of-00001")
        (folder / name).write_bytes(source.read_bytes() if source.is_file() else b"")
    hub.offline = True
    assert "experiment=demo" in message_of(lambda: load_reviews(DataSettings()))
    hub.offline = False
    if "train-00000-of-00002.parquet" in there:
        other = published / "plain_text" / "train-00001-of-00002.parquet"
        shutil.copy(published / "plain_text" / "train-00000-of-00001.parquet", other)
        (published / "plain_text" / "train-00000-of-00001.parquet").unlink()
        assert load_reviews(DataSettings()).num_rows["train"] == 32  # both files, with 20 % held out
    else:
        assert load_reviews(DataSettings()).num_rows["train"] == 16
    assert hub.calls[-1] == ("hub", COMMIT)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("ConnectError: Name or service not known"),
        FileNotFoundError("RepositoryNotFoundError: 401 Client Error"),
        ValueError("Couldn't find cache\nfor stanfordnlp/imdb"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_hub_out_of_reach_names_the_remedies(monkeypatch, error):
    def fetch(*args, **kwargs):
        raise error

    monkeypatch.setattr(sources, "fetch", fetch)
    message = message_of(lambda: load_reviews(DataSettings()))
    cause = " ".join(str(error).split())
    for part in ("data.path", "model.pretrained", "experiment=demo", "data.hub_name='stanfordnlp/imdb'", cause):
        assert part in message


def test_without_a_network_one_line_comes_at_once_and_nothing_else(tmp_path):
    """Not after half a minute of retries, between log lines of the hub's client."""
    code = """
from bertlens.data.reviews import load_reviews
from bertlens.data.settings import DataSettings
import logging, time
logging.basicConfig(level=logging.INFO)
begun = time.monotonic()
try:
    load_reviews(DataSettings())
except ValueError as error:
    print(time.monotonic() - begun, error)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", code], env=kept | nobody, capture_output=True, text=True, check=True)
    [line] = done.stdout.splitlines()
    seconds, _, message = line.partition(" ")
    assert float(seconds) < 3
    assert message.startswith("data.hub_name='stanfordnlp/imdb'")
    assert "experiment=demo" in message
    assert done.stderr == ""


def test_hub_data_without_a_test_split(hub):
    for split in ("test", "unsupervised"):
        (hub.served[COMMIT] / "plain_text" / f"{split}-00000-of-00001.parquet").unlink()
    message = message_of(lambda: load_reviews(DataSettings()))
    assert "data.hub_name='stanfordnlp/imdb'" in message
    assert "no split 'test', only 'train'" in message
