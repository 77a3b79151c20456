"""The store: its numbers are exact, it is never mistaken for another, and it is never incomplete."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from bertlens.data.batching import TokenRows
from bertlens.data.tokenizer import WordPieces
from bertlens.errors import InputError
from bertlens.features import shards, store
from bertlens.features.settings import FeatureSettings
from bertlens.features.store import FeatureStores, clear
from bertlens.model.classifier import ReviewClassifier

NUM_REVIEWS = 37


def make_tokens(config, *, num_reviews=NUM_REVIEWS, pad_to=None, mask_padding=True, change=None) -> TokenRows:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 30, num_reviews)
    ids = random.integers(5, config.vocab_size, lengths.sum()).astype(np.int32)
    if change is not None:
        ids[change] = (ids[change] - 4) % 5 + 5
    pieces = WordPieces(ids, np.concatenate([[0], np.cumsum(lengths)]), pad_id=0)
    return TokenRows(pieces, list(random.integers(0, 2, num_reviews)), pad_to=pad_to, mask_padding=mask_padding)


def make_classifier(config, **options) -> ReviewClassifier:
    torch.manual_seed(0)
    return ReviewClassifier(config, num_classes=2, **options).eval()


def make_stores(folder, classifier, **settings) -> FeatureStores:
    return FeatureStores(folder, classifier.prefix, settings=FeatureSettings(**settings), tokens_per_batch=64)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(shards, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(store, "DISK_RESERVE", 0)


@pytest.mark.parametrize("trainable_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_from_the_store_equal_logits_from_word_pieces(tmp_path, tiny_config, trainable_layers, dtype):
    classifier = make_classifier(tiny_config, trainable_layers=trainable_layers, frozen_dtype=dtype)
    tokens = make_tokens(tiny_config)
    stored = make_stores(tmp_path, classifier).find_or_build(tokens, name="train")
    rows = [3, 0, 36, 17, 8]
    direct, read = tokens[rows], stored[rows]
    expected = classifier(direct.inputs, direct.attention_mask)
    found = classifier(read.inputs, read.attention_mask, depth=read.depth)
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 0.02, rtol=0)
    assert torch.equal(direct.labels, read.labels)
    assert torch.equal(direct.rows, read.rows)


def test_without_a_mask_padding_is_stored_too(tmp_path, tiny_config):
    classifier = make_classifier(tiny_config)
    tokens = make_tokens(tiny_config, pad_to=32, mask_padding=False)
    stored = make_stores(tmp_path, classifier).find_or_build(tokens, name="train")
    assert stored.states.shape[0] == NUM_REVIEWS * 32
    rows = [3, 0, 36]
    expected = classifier(tokens[rows].inputs, None)
    batch = stored[rows]
    torch.testing.assert_close(classifier(batch.inputs, batch.attention_mask, depth=batch.depth), expected)


def test_size_is_word_pieces_times_width_times_two_bytes(tmp_path, tiny_config):
    classifier = make_classifier(tiny_config, frozen_dtype=torch.bfloat16)
    tokens = make_tokens(tiny_config)
    make_stores(tmp_path, classifier).find_or_build(tokens, name="train")
    wanted = len(tokens.pieces.ids) * tiny_config.hidden_size * 2
    assert (next(tmp_path.glob("*/features.bin"))).stat().st_size == wanted


def test_built_once(tmp_path, tiny_config, monkeypatch):
    classifier = make_classifier(tiny_config)
    tokens = make_tokens(tiny_config)
    make_stores(tmp_path, classifier).find_or_build(tokens, name="train")
    monkeypatch.setattr(FeatureStores, "_build", lambda *args, **options: pytest.fail("built twice"))
    make_stores(tmp_path, classifier).find_or_build(tokens, name="train")


def key(config, *, tokens=None, change_weight=None, depth=2, **options) -> str:
    classifier = make_classifier(config, **options)
    if change_weight is not None:
        with torch.no_grad():
            classifier.get_parameter(change_weight).view(-1)[7] += 0.5
    stores = make_stores("unused", classifier)
    return stores.describe(tokens or make_tokens(config), depth=depth).key


def test_the_key_covers_everything_the_numbers_depend_on(tiny_config):
    base = key(tiny_config)
    assert base == key(tiny_config)
    others = [
        key(tiny_config, change_weight="bert.embeddings.word_embeddings.weight"),
        key(tiny_config, change_weight="bert.encoder.layer.1.output.LayerNorm.bias"),
        key(tiny_config, tokens=make_tokens(tiny_config, change=11)),
        key(tiny_config, tokens=make_tokens(tiny_config, pad_to=32, mask_padding=False)),
        key(tiny_config, frozen_dtype=torch.bfloat16),
        key(tiny_config, depth=1),
        key(replace(tiny_config, num_attention_heads=2)),
        key(replace(tiny_config, layer_norm_eps=1e-5)),
    ]
    contents = make_stores("unused", make_classifier(tiny_config)).describe(make_tokens(tiny_config), depth=2)
    assert contents.key == base
    others += [replace(contents, device="cuda").key, replace(contents, torch_version="2.0").key]
    assert len({base, *others}) == len(others) + 1
    # the trained part has no say
    assert base == key(tiny_config, change_weight="bert.encoder.layer.2.output.LayerNorm.bias")
    assert base == key(tiny_config, change_weight="head.weight")


def test_a_shallower_store_serves_a_deeper_prefix(tmp_path, tiny_config, monkeypatch):
    tokens = make_tokens(tiny_config)
    shallow = make_stores(tmp_path, make_classifier(tiny_config, trainable_layers=1), max_trainable_layers=2)
    assert shallow.find_or_build(tokens, name="train").depth == 1
    monkeypatch.setattr(FeatureStores, "_build", lambda *args, **options: pytest.fail("built twice"))
    for trainable_layers in (0, 1, 2):
        classifier = make_classifier(tiny_config, trainable_layers=trainable_layers)
        batch = make_stores(tmp_path, classifier).find_or_build(tokens, name="train")[[5, 2]]
        assert batch.depth == 1
        expected = classifier(tokens[[5, 2]].inputs, tokens[[5, 2]].attention_mask)
        found = classifier(batch.inputs, batch.attention_mask, depth=1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["bit", "short", "long", "manifest", "no manifest", "other manifest"])
def test_a_damaged_store_is_built_anew(tmp_path, tiny_config, damage):
    classifier = make_classifier(tiny_config)
    tokens = make_tokens(tiny_config)
    stores = make_stores(tmp_path, classifier)
    whole = stores.find_or_build(tokens, name="train").states.clone()
    folder = next(path.parent for path in tmp_path.glob("*/manifest.json"))
    data, manifest = folder / "features.bin", folder / "manifest.json"
    if damage == "bit":
        flip(data, 12345)
    elif damage == "short":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "long":
        data.write_bytes(data.read_bytes() + b"x")
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-10])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"depth": 1}))
    shards._verified.clear()
    assert torch.equal(stores.find_or_build(tokens, name="train").states, whole)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


class Killed(BaseException):
    pass


def test_a_killed_build_is_taken_up_where_it_stopped(tmp_path, tiny_config, monkeypatch):
    classifier = make_classifier(tiny_config)
    tokens = make_tokens(tiny_config)
    whole = make_stores(tmp_path / "whole", classifier).find_or_build(tokens, name="train").states.clone()
    stores = make_stores(tmp_path / "killed", classifier)
    compute = FeatureStores._compute
    computed = []

    def killed_after_ten(self, tokens, reviews, *, depth):
        computed.append(len(reviews))
        if len(computed) == 11:
            raise Killed
        return compute(self, tokens, reviews, depth=depth)

    monkeypatch.setattr(FeatureStores, "_compute", killed_after_ten)
    with pytest.raises(Killed):
        stores.find_or_build(tokens, name="train")
    assert stores.find(tokens) is None
    before = sum(computed[:10])
    computed.clear()
    monkeypatch.setattr(FeatureStores, "_compute", lambda *args, **o: computed.append(1) or compute(*args, **o))
    assert torch.equal(stores.find_or_build(tokens, name="train").states, whole)
    batches = stores._arrange(tokens, depth=2).batches
    assert before > 0
    assert len(batches) - 10 <= len(computed) < len(batches)
    assert not list((tmp_path / "killed").glob("*.partial-*"))


def test_the_first_to_finish_wins(tmp_path, tiny_config, monkeypatch):
    classifier = make_classifier(tiny_config)
    tokens = make_tokens(tiny_config)
    first = make_stores(tmp_path, classifier)
    contents = first.describe(tokens, depth=2)
    first.find_or_build(tokens, name="train")
    before = (tmp_path / contents.key / "features.bin").stat().st_ino
    first._build(tokens, contents, name="train", adopt=False)  # as if the lock had not held
    assert (tmp_path / contents.key / "features.bin").stat().st_ino == before
    assert not list(tmp_path.glob("*.partial-*"))


def test_a_full_disk_is_told_before_the_work(tmp_path, tiny_config, monkeypatch):
    stores = make_stores(tmp_path, make_classifier(tiny_config))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=10))
    monkeypatch.setattr(FeatureStores, "_build", lambda *args, **options: pytest.fail("began all the same"))
    with pytest.raises(InputError, match=r"0\.0 GB free"):
        stores.find_or_build(make_tokens(tiny_config), name="train")


def test_max_gb_removes_the_least_recently_used_and_refuses_the_too_large(tmp_path, tiny_config):
    classifier = make_classifier(tiny_config)
    one, two = make_tokens(tiny_config), make_tokens(tiny_config, change=3)
    size = make_stores(tmp_path, classifier).describe(one, depth=2).num_bytes / 1e9
    stores = make_stores(tmp_path, classifier, max_gb=1.5 * size)
    stores.find_or_build(one, name="train")
    stores.find_or_build(two, name="train")
    assert stores.find(one) is None
    assert stores.find(two) is not None
    with pytest.raises(InputError, match=r"features\.max_gb"):
        make_stores(tmp_path, classifier, max_gb=size / 2).find_or_build(one, name="train")


def test_max_gb_removes_several_stores_in_the_order_of_their_use(tmp_path, tiny_config):
    """0.1.0 subtracted another store's size, and raised a ValueError at the third."""
    classifier = make_classifier(tiny_config)
    kept = make_stores(tmp_path, classifier)
    old = [make_tokens(tiny_config, num_reviews=number) for number in (5, 10, 20, 15)]
    for age, tokens in zip((400, 300, 200, 100), old, strict=True):
        kept.find_or_build(tokens, name="train")
        manifest = tmp_path / kept.describe(tokens, depth=2).key / "manifest.json"
        os.utime(manifest, (manifest.stat().st_mtime - age,) * 2)
    new = make_tokens(tiny_config)
    new_bytes, last_bytes = (kept.describe(tokens, depth=2).num_bytes for tokens in (new, old[3]))
    # room for the new store and the last of the old ones; the third is larger
    stores = make_stores(tmp_path, classifier, max_gb=(new_bytes + 1.3 * last_bytes) / 1e9)
    stores.find_or_build(new, name="train")
    assert [stores.find(tokens) is not None for tokens in [*old, new]] == [False, False, False, True, True]


def test_clear_frees_everything(tmp_path, tiny_config):
    make_stores(tmp_path, make_classifier(tiny_config)).find_or_build(make_tokens(tiny_config), name="train")
    assert clear(tmp_path) > NUM_REVIEWS * 2 * tiny_config.hidden_size
    assert not tmp_path.exists()
