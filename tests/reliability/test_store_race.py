"""Eight processes that want the same store, and there is none yet."""

import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from bertlens.data.batching import TokenRows
from bertlens.data.tokenizer import WordPieces
from bertlens.features import shards, store
from bertlens.features.settings import FeatureSettings
from bertlens.features.shards import open_states
from bertlens.features.store import FeatureStores
from bertlens.model.classifier import ReviewClassifier

NUM_PROCESSES = 8
NUM_REVIEWS = 24


class NoLock:
    """What a file system without working locks makes of `FileLock`."""

    is_locked = False

    def __init__(self, path: Path) -> None:
        pass

    def __enter__(self) -> "NoLock":
        return self

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
    monkeypatch.setattr(shards, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(store, "DISK_RESERVE", 0)
    monkeypatch.setattr(store, "_build_progress", lambda: Progress(disable=True))
    torch.set_num_threads(1)  # threads do not survive a fork
    torch.manual_seed(0)
    return ReviewClassifier(tiny_config, num_classes=2).eval()


def stores_in(folder: Path, classifier: ReviewClassifier) -> FeatureStores:
    return FeatureStores(folder, classifier.prefix, settings=FeatureSettings(), tokens_per_batch=64)


def take_part(started: int, said: Path, stores: FeatureStores, tokens: TokenRows, expected: torch.Tensor) -> int:
    """One process's part: wait for the start, find or build, compare. Returns its exit status."""
    logger = logging.getLogger("bertlens")
    logger.handlers[:] = [logging.FileHandler(said)]
    logger.setLevel(logging.INFO)
    compute = FeatureStores._compute

    def slowly(self, *arguments, **options):
        time.sleep(0.001)  # so that builds overlap
        return compute(self, *arguments, **options)

    FeatureStores._compute = slowly
    os.read(started, 1)
    states = stores.find_or_build(tokens, name="train").states
    return 0 if torch.equal(states, expected) else 3


def race(folder: Path, stores: FeatureStores, tokens: TokenRows, expected: torch.Tensor) -> tuple[list[int], str]:
    """The exit status of each process, and what they logged."""
    started, start = os.pipe()
    children = []
    for number in range(NUM_PROCESSES):
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.close(start)
                status = take_part(started, folder / f"{number}.log", stores, tokens, expected)
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
    whole = stores_in(tmp_path / "alone", classifier)
    expected = whole.find_or_build(tokens, name="train").states.clone()
    contents = whole.describe(tokens, depth=whole.build_depth)
    if not locked:
        monkeypatch.setattr(store, "FileLock", NoLock)
    rounds, builds = amount(1, 20), []
    for _ in range(rounds):
        folder = tmp_path / "race"
        folder.mkdir()
        statuses, said = race(folder, stores_in(folder / "stores", classifier), tokens, expected)
        assert statuses == [0] * NUM_PROCESSES, said
        builds.append(said.count("features: computing"))
        shards._verified.clear()
        assert torch.equal(open_states(folder / "stores" / contents.key, contents), expected)
        left = {path.name for path in (folder / "stores").iterdir()}
        assert left == {contents.key} | ({f"{contents.key}.lock"} if locked else set())
        assert {path.name for path in (folder / "stores" / contents.key).iterdir()} == {
            "features.bin",
            "manifest.json",
        }
        shutil.rmtree(folder)
    if locked:
        assert builds == [1] * rounds
    else:
        assert max(builds) > 1  # they did race
    record(
        f"{NUM_PROCESSES} processes, one cold store, {'with' if locked else 'without'} the lock",
        rounds=rounds,
        builds=sum(builds),
        damaged=0,
    )
