"""Every file that is read, cut short and with flipped bits: an error that says so, or made anew, or the same result.

What is never acceptable is a result that differs, an error of the code's own, or one that does not come.
"""

import copy
import hashlib
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bertlens.data.batching import TokenRows
from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer, WordPieces, tokenize
from bertlens.errors import InputError
from bertlens.features import shards, store
from bertlens.features.settings import FeatureSettings
from bertlens.features.store import FeatureStore
from bertlens.model.bert import BertModel
from bertlens.model.checkpoint import (
    FORMAT_KEY,
    CheckpointInfo,
    build_classifier,
    load_published,
    read_checkpoint,
    read_raw,
    restore,
)
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.pretrained import find_pretrained, load_strictly, read_weights
from bertlens.model.settings import ModelSettings
from bertlens.training.checkpoint_io import AtomicCheckpointIO

SECONDS = 5
PERCENT = 100


class TooLong(BaseException):
    """No `Exception`: nothing that reads a file may take it for damage."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Of processor time, because the suite's own limit has the other clock."""

    def end(number: int, frame: Any) -> None:
        raise TooLong(f"still reading after {SECONDS} s")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def damaged(content: bytes, *, num_flips: int) -> Iterator[bytes]:
    """The content cut at every percent, and with a bit flipped at so many random places."""
    for percent in range(PERCENT):
        yield content[: len(content) * percent // PERCENT]
    source = random.Random(len(content))
    for _ in range(num_flips):
        place = source.randrange(len(content))
        yield content[:place] + bytes([content[place] ^ 1 << source.randrange(8)]) + content[place + 1 :]


def outcome(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """What was read, or why nothing was; other errors than ours come through."""
    try:
        with time_limit():
            return read(), None
    except InputError as error:
        return None, str(error)


def same(one: Any, other: Any) -> bool:
    """Equal, types and bits included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def judge(amount, record) -> Callable[..., None]:
    """Damage a file in every way and read it each time; `refuses`: whether an `InputError` is an answer."""

    def judged(path: Path, read: Callable[[], Any], *, refuses: bool = True, compare: bool = True) -> None:
        content = path.read_bytes()
        expected = copy.deepcopy(read())
        counts = {"refused": 0, "same": 0}
        for number, spoilt in enumerate(damaged(content, num_flips=amount(40, 2000))):
            path.write_bytes(spoilt)
            found, refusal = outcome(read)
            if refusal is None:
                assert not compare or same(found, expected), f"damage {number} of {path.name} went unnoticed"
            else:
                assert refuses, f"damage {number}: {refusal}"
                assert len(refusal.splitlines()) == 1
            counts["same" if refusal is None else "refused"] += 1
        path.write_bytes(content)
        assert same(read(), expected)
        title = f"{path.name}, {PERCENT} cuts and random flips"
        if compare:
            record(title, damages=number + 1, **counts, wrong=0, other_errors=0, hangs=0)
        else:
            record(
                f"{title}, nothing pinned",
                damages=number + 1,
                refused=counts["refused"],
                read=counts["same"],
                other_errors=0,
                hangs=0,
            )

    return judged


# What a run leaves.


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 64}')
    return folder


@pytest.fixture
def checkpoint(model, tmp_path) -> Path:
    """As a run writes one: trained parameters, settings, an optimizer's state."""
    settings = ModelSettings(pretrained=str(model))
    found = find_pretrained(settings)
    info = CheckpointInfo(
        model=settings,
        data=DataSettings(max_length=48, lowercase=True),
        frozen_dtype="bfloat16",
        sha256=found.sha256,
        config=found.config,
        label_names=["negative", "positive"],
    )
    torch.manual_seed(0)
    classifier = build_classifier(info)
    load_published(classifier, found)
    trained = {name: p.detach() for name, p in classifier.named_parameters() if p.requires_grad}
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(
        {
            "epoch": 1,
            "global_step": 12,
            "state_dict": {f"classifier.{name}": tensor for name, tensor in trained.items()},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(12.0), "exp_avg": torch.randn(32, 32)}}}],
            FORMAT_KEY: info.to_dict(whole_model=False),
        },
        path,
    )
    return path


def test_a_damaged_checkpoint_is_refused(checkpoint, judge):
    judge(checkpoint, lambda: read_raw(checkpoint))


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json", "tokenizer_config.json"])
def test_a_model_damaged_since_a_checkpoint_was_trained_on_it_is_refused(checkpoint, model, name, judge):
    trained = read_checkpoint(checkpoint)

    def read() -> Any:
        classifier, tokenizer = restore(trained)
        return dict(classifier.state_dict()), tokenizer.vocabulary, tokenizer.settings

    judge(model / name, read)


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json", "tokenizer_config.json"])
def test_a_damaged_model_that_is_pinned_is_refused(model, name, judge):
    pins = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in model.iterdir()}

    def read() -> Any:
        found = find_pretrained(ModelSettings(pretrained=str(model)), sha256=pins)
        return found.config, found.vocabulary, found.lowercase, read_weights(found.weights_path)

    judge(model / name, read)


def test_damaged_weights_of_the_old_format_are_refused_without_a_pin(model, judge):
    path = model / "pytorch_model.bin"
    torch.save(load_file(model / "model.safetensors"), path)
    judge(path, lambda: read_weights(path))


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json", "tokenizer_config.json", "legacy"])
def test_damage_that_no_pin_can_tell_ends_in_an_error_of_ours_or_in_a_model(model, name, judge):
    """Where nothing says what the bytes should be, what is left to ask for is no other error, and in time."""
    if name == "legacy":
        torch.save(
            load_file(model / "model.safetensors"), model / "pytorch_model.bin", _use_new_zipfile_serialization=False
        )
        (model / "model.safetensors").unlink()
        name = "pytorch_model.bin"

    def read() -> Any:
        found = find_pretrained(ModelSettings(pretrained=str(model)))
        bert = BertModel(found.config)
        load_strictly(bert, read_weights(found.weights_path), source="weights")
        ReviewTokenizer(found.vocabulary, DataSettings(lowercase=found.lowercase)).ids(["a good film"])
        return found.config

    judge(model / name, read, compare=False)


@pytest.fixture
def tokens(tiny_config) -> TokenRows:
    source = np.random.default_rng(0)
    lengths = source.integers(4, 30, 8)
    ids = source.integers(5, tiny_config.vocab_size, lengths.sum()).astype(np.int32)
    pieces = WordPieces(ids, np.concatenate([[0], np.cumsum(lengths)]), pad_id=0)
    return TokenRows(pieces, [0] * 8, pad_to=None, mask_padding=True)


@pytest.mark.parametrize("name", ["space.json", f"*{shards.SUFFIX}"])
def test_a_damaged_store_is_built_anew(tiny_config, tokens, tmp_path, name, monkeypatch, judge):
    monkeypatch.setattr(store, "DISK_RESERVE", 0)
    torch.manual_seed(0)
    classifier = ReviewClassifier(tiny_config, num_classes=2).eval()
    made = FeatureStore(tmp_path, classifier.prefix, settings=FeatureSettings(), tokens_per_batch=256)

    def read() -> Any:
        shards.open_states.cache_clear()
        shards.read_index.cache_clear()
        rows = made.find(tokens)
        first = [rows[[row]].inputs for row in range(len(rows))]  # may notice that a shard is damaged
        rows = made.find(tokens)
        made.build(rows, name="train")
        again = [rows[[row]].inputs for row in range(len(rows))]
        assert rows.num_missing == 0
        assert all(map(torch.equal, first, again))
        assert len(list(tmp_path.glob(f"*/*{shards.SUFFIX}"))) == 1
        return torch.cat(again, dim=1)

    read()
    judge(next(tmp_path.glob(f"*/{name}")), read, refuses=False)


@pytest.mark.parametrize("suffix", ["arrow", "xxh3"])
def test_damaged_word_pieces_are_made_anew(tiny_vocabulary, tmp_path, suffix, judge):
    reviews = datasets.Dataset.from_dict({"text": [f"a good film {index}" for index in range(64)]})
    tokenizer = ReviewTokenizer(tiny_vocabulary, DataSettings(lowercase=True))

    def read() -> Any:
        pieces = tokenize(reviews, tokenizer, tmp_path, split="train")
        return pieces.ids.tolist(), pieces.starts.tolist(), pieces.pad_id

    read()
    judge(next(tmp_path.glob(f"*.{suffix}")), read, refuses=False)
