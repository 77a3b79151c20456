"""Eight processes that want the same store, and there is none yet."""

import errno
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bertlens.data.batching import TokenRows
from bertlens.data.tokenizer import WordPieces
from bertlens.features import store
from bertlens.features.settings import FeatureSettings
from bertlens.features.shards import SUFFIX
from bertlens.features.store import FeatureStore
from bertlens.model.classifier import ReviewClassifier

NUM_PROCESSES = 8
NUM_REVIEWS = 120


class NoLock:
    """What a file system without working locks makes of `FileLock`."""

    def __init__(self, path: Path, **options: object) -> None:
        pass

    def __enter__(self) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def tokens(tiny_config) -> TokenRows:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 30, NUM_REVIEWS)
    ids = random.integers(5, tiny_config.vocab_size, lengths.sum()).astype(np.int32)
    pieces = WordPieces(ids, np.concatenate([[0], np.cumsum(lengths)]), pad_id=0)
    return TokenRows(pieces, [0] * NUM_REVIEWS, pad_to=None, mask_padding=True)


@pytest.fixture
def classifier(tiny_config, monkeypatch) -> ReviewClassifier:
    monkeypatch.setattr(store, "SHARD_BYTES", 8192)
    monkeypatch.setattr(store, "WAIT", 0.01)
    monkeypatch.setattr(store, "DISK_RESERVE", 0)
    torch.set_num_threads(1)  # threads do not survive a fork
    torch.manual_seed(0)
    return ReviewClassifier(tiny_config, num_classes=2).eval()


def store_in(folder: Path, classifier: ReviewClassifier) -> FeatureStore:
    return FeatureStore(folder, classifier.prefix, settings=FeatureSettings(), tokens_per_batch=64)


def read(made: FeatureStore, tokens: TokenRows) -> list[torch.Tensor]:
    rows = made.find(tokens)
    assert rows.num_missing == 0
    return [rows[[row]].inputs for row in range(len(rows))]


def take_part(started: int, said: Path, made: FeatureStore, tokens: TokenRows, expected: list[torch.Tensor]) -> int:
    """One process's part: wait for the start, build, compare. Returns its exit status."""
    logger = logging.getLogger("bertlens")
    logger.handlers[:] = [logging.FileHandler(said)]
    logger.setLevel(logging.INFO)
    compute = store.compute

    def slowly(*arguments, **options):
        time.sleep(0.001)  # so that builds overlap
        return compute(*arguments, **options)

    store.compute = slowly
    os.read(started, 1)
    logger.info("computed %d", made.build(made.find(tokens), name="train"))
    return 0 if all(map(torch.equal, read(made, tokens), expected)) else 3


def race(folder: Path, made: FeatureStore, tokens: TokenRows, expected: list[torch.Tensor]) -> tuple[list[int], str]:
    """The exit status of each process, and what they logged."""
    started, start = os.pipe()
    children = []
    for number in range(NUM_PROCESSES):
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.close(start)
                status = take_part(started, folder / f"{number}.log", made, tokens, expected)
            except BaseException as error:
                (folder / f"{number}.log").open("a").write(f"{type(error).__name__}: {error}\n")
            finally:
                os._exit(status)
        children.append(pid)
    os.close(start)  # now all of them read the end of it
    os.close(started)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    return statuses, "".join(path.read_text() for path in sorted(folder.glob("*.log")))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("locked", [True, False], ids=["with the lock", "without"])
def test_eight_processes_that_want_one_store_get_it_right(
    tmp_path, classifier, tokens, locked, monkeypatch, amount, record
):
    whole = store_in(tmp_path / "alone", classifier)
    whole.build(whole.find(tokens), name="train")
    expected = read(whole, tokens)
    if not locked:
        monkeypatch.setattr(store, "FileLock", NoLock)
    rounds, computed = amount(1, 20), 0
    for _ in range(rounds):
        folder = tmp_path / "race"
        folder.mkdir()
        statuses, said = race(folder, store_in(folder / "features", classifier), tokens, expected)
        assert statuses == [0] * NUM_PROCESSES, said
        computed += sum(int(line.split()[-1]) for line in said.splitlines() if line.startswith("computed "))
        assert all(map(torch.equal, read(store_in(folder / "features", classifier), tokens), expected))
        left = {path.name for path in (folder / "features").rglob("*") if path.is_file() and path.suffix != ".lock"}
        assert {name.partition(".")[2] for name in left} == {SUFFIX[1:], "json"}
        shutil.rmtree(folder)
    if locked:
        assert computed == rounds * NUM_REVIEWS
    else:
        assert computed > rounds * NUM_REVIEWS  # they did race
    record(
        f"{NUM_PROCESSES} processes, one cold store, {'with' if locked else 'without'} the lock",
        rounds=rounds, computed_twice=computed - rounds * NUM_REVIEWS, damaged=0,
    )  # fmt: skip
