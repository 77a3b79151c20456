"""The store: its numbers are exact, are found by content, never mistaken for others, and computed once."""

import errno
import json
import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from bertlens.data.batching import TokenRows
from bertlens.data.tokenizer import WordPieces
from bertlens.errors import InputError
from bertlens.features import rows as feature_rows
from bertlens.features import shards, store
from bertlens.features.settings import FeatureSettings
from bertlens.features.store import FeatureStore, older_stores
from bertlens.model.classifier import ReviewClassifier
from bertlens.system import stopping
from bertlens.system.files import remove_folder

NUM_REVIEWS = 37
YESTERDAY = 25 * 3600


def make_pieces(config, *, num_reviews=NUM_REVIEWS) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 30, num_reviews)
    return [random.integers(5, config.vocab_size, length).astype(np.int32) for length in lengths]


def as_rows(reviews, **options) -> TokenRows:
    starts = np.cumsum([0, *map(len, reviews)])
    return TokenRows(WordPieces(np.concatenate(reviews), starts, pad_id=0), [0] * len(reviews), **options)


def make_tokens(config, *, num_reviews=NUM_REVIEWS, **options) -> TokenRows:
    return as_rows(make_pieces(config, num_reviews=num_reviews), **options)


def make_classifier(config, **options) -> ReviewClassifier:
    torch.manual_seed(0)
    return ReviewClassifier(config, num_classes=2, **options).eval()


def make_store(folder, classifier, **settings) -> FeatureStore:
    return FeatureStore(folder, classifier.prefix, settings=FeatureSettings(**settings), tokens_per_batch=64)


def build(folder, classifier, tokens, **settings):
    """Return the rows and how many reviews were computed."""
    made = make_store(folder, classifier, **settings)
    rows = made.find(tokens)
    return rows, made.build(rows, name="train") if rows.num_missing else 0


def states_of(rows) -> list[torch.Tensor]:
    """Return the hidden states of each review, without padding."""
    return [rows[[row]].inputs[0] for row in range(len(rows))]


def same(one, other) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.fixture
def classifier(tiny_config) -> ReviewClassifier:
    return make_classifier(tiny_config)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 8192)
    monkeypatch.setattr(store, "DISK_RESERVE", 0)
    monkeypatch.setattr(store, "WAIT", 0.001)
    store._warn_once.cache_clear()


@pytest.fixture
def no_computing(monkeypatch):
    for module in (store, feature_rows):
        monkeypatch.setattr(module, "compute", lambda *args, **options: pytest.fail("computed again"))


def shards_in(folder) -> list:
    return sorted(folder.rglob(f"*{shards.SUFFIX}"))


@torch.no_grad()
@pytest.mark.parametrize("trainable_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_from_the_store_are_those_from_word_pieces_to_the_last_bit(
    tmp_path, tiny_config, trainable_layers, dtype
):
    classifier = make_classifier(tiny_config, trainable_layers=trainable_layers, frozen_dtype=dtype)
    tokens = make_tokens(tiny_config)
    stored, num_computed = build(tmp_path, classifier, tokens)
    assert (num_computed, stored.depth) == (NUM_REVIEWS, 3 - trainable_layers)
    rows = [3, 0, 36, 17, 8]
    direct, read = tokens[rows], stored[rows]
    expected = classifier(direct.inputs, direct.attention_mask)
    assert torch.equal(classifier(read.inputs, read.attention_mask, depth=read.depth), expected)
    assert torch.equal(direct.labels, read.labels)
    assert torch.equal(direct.rows, read.rows)


def test_without_a_mask_padding_is_stored_too(tmp_path, tiny_config, classifier):
    tokens = make_tokens(tiny_config, pad_to=32, mask_padding=False)
    stored, _ = build(tmp_path, classifier, tokens)
    assert stored.num_bytes(stored.places) == NUM_REVIEWS * 32 * 32 * 4
    rows = [3, 0, 36]
    batch = stored[rows]
    with torch.no_grad():
        expected = classifier(tokens[rows].inputs, None)
        assert batch.attention_mask is None
        assert torch.equal(classifier(batch.inputs, None, depth=batch.depth), expected)


def test_shards_are_opened_by_anybody(tmp_path, tiny_config):
    tokens = make_tokens(tiny_config)
    classifier = make_classifier(tiny_config, frozen_dtype=torch.bfloat16)
    stored, _ = build(tmp_path, classifier, tokens)
    expected = dict(zip(tokens.pieces.digests.tolist(), states_of(stored), strict=True))
    paths, found = shards_in(tmp_path), {}
    assert len(paths) > 2
    for path in paths:
        with safe_open(path, "pt") as shard:
            reviews, starts, states = (shard.get_tensor(name) for name in ("reviews", "starts", "states"))
        assert states.nbytes <= 8192
        assert len(states) == starts[-1]
        for review, start, stop in zip(reviews.numpy(), starts, starts[1:], strict=False):
            found[review.tobytes()] = states[start:stop]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[review], expected[review]) for review in expected)


def test_what_is_there_is_found_in_any_company(tmp_path, tiny_config, classifier, request):
    """Another order, a subset, train and test exchanged, a text that comes twice; only what is new is computed."""
    reviews = make_pieces(tiny_config, num_reviews=50)
    _, num_computed = build(tmp_path, classifier, as_rows(reviews[:40] + reviews[:3]))
    assert num_computed == 40
    before = shards_in(tmp_path)
    rows, num_computed = build(tmp_path, classifier, as_rows(reviews))
    assert (num_computed, len(rows)) == (10, 50)
    assert len(shards_in(tmp_path)) <= len(before) + 4  # few more files for few more reviews
    request.getfixturevalue("no_computing")
    expected = states_of(rows)
    for order in (range(49, -1, -1), [7, 7, 30], range(20, 45)):
        rows, num_computed = build(tmp_path, classifier, as_rows([reviews[row] for row in order]))
        assert num_computed == 0
        assert same(states_of(rows), [expected[row] for row in order])


def key(config, *, change_weight=None, depth=2, pad_to=None, **options) -> str:
    classifier = make_classifier(config, **options)
    if change_weight is not None:
        with torch.no_grad():
            classifier.get_parameter(change_weight).view(-1)[7] += 0.5
    tokens = make_tokens(config, pad_to=pad_to, mask_padding=pad_to is None)
    return make_store(Path("unused"), classifier)._rows(tokens, depth).folder.name


def test_the_key_covers_everything_the_numbers_depend_on(tiny_config, monkeypatch):
    base = key(tiny_config)
    assert base == key(tiny_config)
    others = [
        key(tiny_config, change_weight="bert.embeddings.word_embeddings.weight"),
        key(tiny_config, change_weight="bert.encoder.layer.1.output.LayerNorm.bias"),
        key(tiny_config, pad_to=32),
        key(tiny_config, frozen_dtype=torch.bfloat16),
        key(tiny_config, depth=1),
        key(replace(tiny_config, num_attention_heads=2)),
        key(replace(tiny_config, layer_norm_eps=1e-5)),
    ]
    # the trained part has no say
    assert base == key(tiny_config, change_weight="bert.encoder.layer.2.output.LayerNorm.bias")
    assert base == key(tiny_config, change_weight="head.weight")
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        others.append(key(tiny_config))
    with monkeypatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": "other"}, raising=False)
        others.append(key(tiny_config))
    monkeypatch.setattr(torch, "__version__", "2.0")
    others.append(key(tiny_config))
    assert len({base, *others}) == len(others) + 1


def test_a_shallower_store_serves_a_deeper_prefix(tmp_path, tiny_config, request):
    tokens = make_tokens(tiny_config)
    shallow = make_classifier(tiny_config, trainable_layers=1)
    assert build(tmp_path, shallow, tokens, max_trainable_layers=2)[0].depth == 1
    for trainable_layers in (0, 1, 2):
        classifier = make_classifier(tiny_config, trainable_layers=trainable_layers)
        rows = make_store(tmp_path, classifier).find(tokens, lowest=0)
        assert (rows.depth, rows.num_missing) == (1, 0)
        batch = rows[[5, 2]]
        with torch.no_grad():
            expected = classifier(tokens[[5, 2]].inputs, tokens[[5, 2]].attention_mask)
            assert torch.equal(classifier(batch.inputs, batch.attention_mask, depth=1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_deeper_store_is_computed_on_from_the_deepest_there_is(tmp_path, tiny_config, dtype, monkeypatch):
    reviews = make_pieces(tiny_config)
    for trainable_layers, some in ((2, reviews[:20]), (1, reviews[:5])):
        build(
            tmp_path, make_classifier(tiny_config, trainable_layers=trainable_layers, frozen_dtype=dtype), as_rows(some)
        )
    computed = []

    def noting(prefix, batch, **options):
        computed.append((batch.depth, len(batch.labels)))
        return compute(prefix, batch, **options)

    compute = store.compute
    monkeypatch.setattr(store, "compute", noting)
    deepest = make_classifier(tiny_config, trainable_layers=0, frozen_dtype=dtype)
    rows, num_computed = build(tmp_path, deepest, as_rows(reviews))
    assert num_computed == NUM_REVIEWS
    by_depth = {depth: sum(num for of, num in computed if of == depth) for depth in (0, 1, 2)}
    assert by_depth[2] == 5
    assert by_depth[1] == 15
    assert same(states_of(rows), states_of(build(tmp_path / "anew", deepest, as_rows(reviews))[0]))


def damage(path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "bit of a state":
        with safe_open(path, "np") as shard:
            reviews, sums = len(shard.get_tensor("reviews")), shard.get_tensor("starts")
        place = int.from_bytes(data[:8], "little") + 8 + 8 * (2 * reviews + 1) + 100  # after checksums and starts
        assert sums[-1] > 4
        data[place] ^= 4
    elif kind == "bit of the index":
        data[-5] ^= 4
    elif kind == "bit of the header":
        data[30] ^= 4
    elif kind == "short":
        data = data[:-1]
    elif kind == "very short":
        data = data[:5]
    elif kind == "empty":
        data = bytearray()
    elif kind == "long":
        data += b"x"
    elif kind == "text":
        data = bytearray(b"<html>not found</html>")
    path.write_bytes(data)


KINDS = ["bit of a state", "bit of the index", "bit of the header", "short", "very short", "empty", "long", "text"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_shard_is_removed_and_its_reviews_are_missing_again(tmp_path, tiny_config, classifier, kind, caplog):
    tokens = make_tokens(tiny_config)
    whole = states_of(build(tmp_path, classifier, tokens)[0])
    path = shards_in(tmp_path)[1]
    damage(path, kind)
    shards.open_states.cache_clear()
    shards.read_index.cache_clear()
    rows = make_store(tmp_path, classifier).find(tokens)
    assert same(states_of(rows), whole)  # those it does not read, it computes
    assert 0 < rows.num_missing < NUM_REVIEWS
    assert not path.exists()
    assert f"{path} is not used" in caplog.text
    rows, num_computed = build(tmp_path, classifier, tokens)
    assert 0 < num_computed < NUM_REVIEWS
    assert same(states_of(rows), whole)
    assert build(tmp_path, classifier, tokens)[1] == 0


@pytest.mark.parametrize("foreign", ["of other weights", "of other reviews"])
def test_a_foreign_shard_under_a_right_name_gives_no_other_numbers(tmp_path, tiny_config, classifier, foreign):
    tokens = make_tokens(tiny_config)
    whole = states_of(build(tmp_path / "store", classifier, tokens)[0])
    other, others = classifier, as_rows([ids[::-1].copy() for ids in make_pieces(tiny_config)])
    if foreign == "of other weights":
        torch.manual_seed(1)
        other, others = ReviewClassifier(tiny_config, num_classes=2).eval(), tokens
    build(tmp_path / "other", other, others)
    path = shards_in(tmp_path / "store")[0]
    shutil.copy(shards_in(tmp_path / "other")[0], path)
    shards.open_states.cache_clear()
    shards.read_index.cache_clear()
    assert same(states_of(build(tmp_path / "store", classifier, tokens)[0]), whole)


class Killed(BaseException):
    pass


def test_a_killed_build_loses_at_most_a_shard_and_leaves_nothing(tmp_path, tiny_config, classifier, monkeypatch):
    tokens = make_tokens(tiny_config, num_reviews=200)
    whole = states_of(build(tmp_path / "whole", classifier, tokens)[0])
    folder, compute, computed = tmp_path / "killed", store.compute, []

    def until_killed(prefix, batch, **options):
        computed.append(len(batch.labels))
        if sum(computed) > 150:
            raise Killed
        return compute(prefix, batch, **options)

    monkeypatch.setattr(store, "compute", until_killed)
    with pytest.raises(Killed):
        build(folder, classifier, tokens)
    kept = 200 - make_store(folder, classifier).find(tokens).num_missing
    assert kept > 150 - 3 * 8192 / (4 * 32) / 15  # a shard, and what was computed ahead
    space = shards_in(folder)[0].parent
    (space / f".x{shards.SUFFIX}.0123{'.unfinished'}").write_bytes(b"left by a kill")
    monkeypatch.setattr(store, "compute", compute)
    rows, num_computed = build(folder, classifier, tokens)
    assert num_computed == 200 - kept
    assert same(states_of(rows), whole)
    assert {path.suffix for path in space.iterdir()} == {shards.SUFFIX, ".json", ""}
    assert [path.name for path in space.iterdir() if path.suffix == ""] == ["claims"]


def test_a_stop_is_followed_between_batches(tmp_path, tiny_config, classifier, monkeypatch):
    def stop() -> None:
        raise stopping.stopped()

    monkeypatch.setattr(store.stopping, "check", stop)
    with pytest.raises(stopping.Stopped):
        build(tmp_path, classifier, make_tokens(tiny_config))


def test_what_another_process_has_claimed_is_waited_for(tmp_path, tiny_config, classifier, monkeypatch):
    tokens = make_tokens(tiny_config)
    mine, theirs = (make_store(tmp_path, classifier) for _ in range(2))
    rows, held = mine.find(tokens), store.ExitStack()
    (rows.folder / "claims").mkdir(parents=True)
    for byte in np.unique(rows.reviews.view(np.uint8)[::16])[:20].tolist():
        assert store._lock(rows.folder / "claims" / f"{byte:02x}.lock", held)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            held.close()
            monkeypatch.setattr(store.time, "sleep", lambda seconds: None)
            assert theirs.build(theirs.find(tokens), name="train") > 0

    monkeypatch.setattr(store.time, "sleep", wait)
    computed = mine.build(rows, name="train")
    assert 0 < computed < NUM_REVIEWS
    assert rows.num_missing == 0


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_without_locks_a_line_says_so_and_the_numbers_are_right(
    tmp_path, tiny_config, classifier, monkeypatch, caplog, error
):
    class NoLock:
        def __init__(self, path, **options) -> None:
            pass

        def __enter__(self) -> None:
            raise error

        def __exit__(self, *exception: object) -> None:
            pass

    tokens = make_tokens(tiny_config)
    whole = states_of(build(tmp_path / "locked", classifier, tokens)[0])
    monkeypatch.setattr(store, "FileLock", NoLock)
    rows, num_computed = build(tmp_path / "unlocked", classifier, tokens)
    assert num_computed == NUM_REVIEWS
    assert same(states_of(rows), whole)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"features: no locks ({error}): other processes may compute the same reviews"
    ]


def test_duplicates_are_harmless_and_the_lowest_name_is_read(tmp_path, tiny_config, classifier):
    tokens = make_tokens(tiny_config)
    rows, _ = build(tmp_path, classifier, tokens)
    whole, path = states_of(rows), shards_in(tmp_path)[0]
    for name in ("0", "z"):
        shutil.copy(path, path.with_name(name * 32 + shards.SUFFIX))
    rows = make_store(tmp_path, classifier).find(tokens)
    assert path.with_name("0" * 32 + shards.SUFFIX) in rows.paths
    assert path not in rows.paths
    assert same(states_of(rows), whole)


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_a_shard_that_vanishes_is_computed_again(tmp_path, tiny_config, classifier, when, caplog):
    tokens = make_tokens(tiny_config)
    whole = states_of(build(tmp_path, classifier, tokens)[0])
    rows = make_store(tmp_path, classifier).find(tokens)
    shards.open_states.cache_clear()
    shards.read_index.cache_clear()
    if when == "while it is open":
        assert same(states_of(rows), whole)
    for path in shards_in(tmp_path):
        path.unlink()
    assert same(states_of(rows), whole)
    assert ("No such file" in caplog.text) == (when == "before it is opened")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_read_that_fails_is_a_line_and_the_reviews_are_computed(
    tmp_path, tiny_config, classifier, monkeypatch, caplog, number
):
    tokens = make_tokens(tiny_config)
    whole = states_of(build(tmp_path, classifier, tokens)[0])
    rows = make_store(tmp_path, classifier).find(tokens)

    class Stale(shards.FileIO):
        def readinto(self, *args) -> int:
            raise OSError(number, os.strerror(number))

    shards.open_states.cache_clear()
    shards.read_index.cache_clear()
    monkeypatch.setattr(shards, "FileIO", Stale)
    assert same(states_of(rows), whole)
    assert os.strerror(number) in caplog.text
    assert len(caplog.records) == len(rows.paths) == len(shards_in(tmp_path))  # a line for each, and none is removed
    shards.open_states.cache_clear()
    shards.read_index.cache_clear()


def test_a_file_that_is_cut_while_it_is_open_gives_no_other_numbers(tmp_path, tiny_config, classifier):
    tokens = make_tokens(tiny_config)
    rows, _ = build(tmp_path, classifier, tokens)
    whole = states_of(rows)
    for path in shards_in(tmp_path):
        os.truncate(path, 300)
    assert same(states_of(rows), whole)


def test_a_full_disk_is_told_before_the_work(tmp_path, tiny_config, classifier, monkeypatch, no_computing):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(InputError, match=r"0\.0 GB free and features\.max_gb=None: make room"):
        build(tmp_path, classifier, make_tokens(tiny_config))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fills_up_is_one_line(tmp_path, tiny_config, classifier, monkeypatch, number):
    def fail(*arguments) -> None:
        raise OSError(number, os.strerror(number), "shard")

    monkeypatch.setattr(store, "write_shard", fail)
    with pytest.raises(InputError, match=f"features: shard: {os.strerror(number)}: make room"):
        build(tmp_path, classifier, make_tokens(tiny_config))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where nobody may")
def test_a_read_only_cache_is_one_line(tmp_path, tiny_config, classifier):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        build(tmp_path / "store", classifier, make_tokens(tiny_config))


def test_a_store_that_cannot_be_marked_as_used_is_read(tmp_path, tiny_config, classifier, monkeypatch, no_computing):
    tokens = make_tokens(tiny_config)
    monkeypatch.undo()
    whole = states_of(build(tmp_path, classifier, tokens)[0])

    def read_only(*arguments, **options) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(feature_rows.os, "utime", read_only)
    rows = make_store(tmp_path, classifier).find(tokens)
    assert rows.num_missing == 0
    assert same(states_of(rows), whole)


def age(path, seconds: float) -> None:
    stat = path.stat()
    os.utime(path, (stat.st_mtime - seconds,) * 2)


def test_max_gb_removes_what_was_not_in_use_for_longest(tmp_path, tiny_config, classifier):
    reviews = make_pieces(tiny_config, num_reviews=80)
    old, new = as_rows(reviews[:60]), as_rows(reviews[60:])
    build(tmp_path, classifier, old)
    paths, sizes = shards_in(tmp_path), []
    for number, path in enumerate(paths):
        age(path, 2 * YESTERDAY - 60 * number)
        sizes.append(path.stat().st_size)
    needed = make_store(tmp_path, classifier).find(new)
    size = needed.num_bytes(needed.missing)
    build(tmp_path, classifier, new, max_gb=(size + sum(sizes[2:])) / 1e9)
    assert [path.exists() for path in paths] == [False, False] + [True] * (len(paths) - 2)


def test_max_gb_removes_nothing_in_recent_use(tmp_path, tiny_config, classifier, caplog):
    reviews = make_pieces(tiny_config, num_reviews=80)
    build(tmp_path, classifier, as_rows(reviews[:60]))
    paths = shards_in(tmp_path)
    for path in paths:
        age(path, YESTERDAY)
    make_store(tmp_path, classifier).find(as_rows(reviews[:60]))  # now they are in use
    new = as_rows(reviews[60:])
    size = make_store(tmp_path, classifier).find(new).num_bytes(np.arange(20))
    build(tmp_path, classifier, new, max_gb=1.1 * size / 1e9)
    assert all(path.exists() for path in paths)
    assert "over features.max_gb" in caplog.text
    assert all(time.time() - path.stat().st_mtime < 60 for path in paths)


def test_more_than_max_gb_is_refused(tmp_path, tiny_config, classifier, no_computing):
    with pytest.raises(InputError, match=r"features\.max_gb=1e-06: make room"):
        build(tmp_path, classifier, make_tokens(tiny_config), max_gb=1e-6)


def test_a_store_of_0_1_0_is_named_left_alone_and_cleared(tmp_path, tiny_config, classifier):
    old = tmp_path / "0123456789abcdef"
    old.mkdir()
    (old / "features.bin").write_bytes(b"old" * 100)
    (old / "manifest.json").write_text(json.dumps({"depth": 2}))
    assert older_stores(tmp_path) == old.name
    build(tmp_path, classifier, make_tokens(tiny_config), max_gb=1.0)
    assert (old / "features.bin").read_bytes() == b"old" * 100
    assert remove_folder(tmp_path) > 300 + NUM_REVIEWS * 2 * tiny_config.hidden_size
    assert not tmp_path.exists()
    assert older_stores(tmp_path) == ""
