"""The store between the frozen prefix and the trained suffix: each review's hidden states, computed once.

Reviews are found by their content, so a split, a fold, another order or appended reviews find what is there. What is
missing is computed, by any number of processes and machines on one file system at once. Each claims the missing
reviews whose digests begin with some byte, under a lock, as many bytes as fill a shard, and then looks again what is
missing. Without working locks, some reviews are computed twice, and nothing else happens.
"""

import json
import logging
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import Dataset

from bertlens.data.batching import Batch, TokenRows, packed_batches
from bertlens.errors import InputError
from bertlens.features.prefix import compute
from bertlens.features.rows import FeatureRows
from bertlens.features.settings import FeatureSettings
from bertlens.features.shards import FORMAT_VERSION, SUFFIX, Integers, write_shard
from bertlens.model.classifier import FrozenPrefix
from bertlens.model.steady import MIN_STATES, compare_once, in_order, num_workers
from bertlens.system import stopping
from bertlens.system.files import atomic_write, remove_abandoned, remove_oldest, sync_folder
from bertlens.system.wording import count_of

log = logging.getLogger(__name__)

GIGABYTE = 10**9
DISK_RESERVE = GIGABYTE  # what the store leaves free on the disk for other programs
SHARD_BYTES = 64 * 2**20  # of hidden states; a killed build loses one shard at most
BATCHES_PER_WORKER = 8  # in a shard, so that no worker waits long for the last one
WAIT = 0.2  # seconds between looks for what other processes compute
RECENT = 24 * 3600  # seconds; a shard that was in use since then is not removed
SPACE_FILE = "space.json"
MORE_ROOM = "make room (features.clear=true), set cache_dir to another disk"


class Claim(NamedTuple):
    """Reviews for one shard, as places in `FeatureRows.reviews`, and the locks to release when it is written."""

    places: Integers
    locks: ExitStack


class FeatureStore:
    """The stored hidden states in a folder, for one prefix. They are computed on the prefix's device."""

    def __init__(self, folder: Path, prefix: FrozenPrefix, *, settings: FeatureSettings, tokens_per_batch: int) -> None:
        self.folder = folder
        self.prefix = prefix
        self.settings = settings
        self.tokens_per_batch = tokens_per_batch
        self.spaces = prefix.describe()

    def find(self, tokens: TokenRows, *, lowest: int | None = None) -> FeatureRows:
        """Return reviews at the deepest depth at which all are stored, else at `lowest`.

        By default that is the prefix's depth, or less so that runs that train more layers can share it.
        """
        if lowest is None:
            lowest = max(0, self.prefix.num_layers - (self.settings.max_trainable_layers or 0))
        for depth in range(self.prefix.depth, min(lowest, self.prefix.depth) - 1, -1):
            rows = self._rows(tokens, depth)
            if not len(rows.missing):
                break
        return rows

    def _rows(self, tokens: TokenRows, depth: int) -> FeatureRows:
        more = {"pad_to": None if tokens.mask_padding else tokens.pad_to, "format": FORMAT_VERSION}
        return FeatureRows(tokens, self.prefix, self.folder, self.spaces[depth] | more)

    def build(self, rows: FeatureRows, *, name: str) -> int:
        """Compute what is missing, together with other processes; return how many reviews this one computed.

        What a shallower depth has is computed on from there. Raises `InputError` if it cannot be written.
        """
        layers, reviews = count_of(rows.depth, "layer"), count_of(len(rows.missing), "review")
        log.info("features: computing %s for %s of %s", layers, reviews, name)
        num_computed = 0
        try:
            (rows.folder / "claims").mkdir(parents=True, exist_ok=True)
            sync_folder(self.folder)
            remove_abandoned(rows.folder)
            with atomic_write(rows.folder / SPACE_FILE, "w") as file:
                json.dump(rows.space, file, indent=1)
            self.make_room(rows.num_bytes(rows.missing))
            compare_once(lambda some: compute(self.prefix, rows.tokens[some]).inputs, self.prefix.device, len(rows))
            with ExitStack() as held, Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
                task = progress.add_task("features", total=len(rows.missing))
                while len(rows.missing):
                    for claim, states in self._compute_shards(rows, held):
                        path, index = write_shard(rows.folder, rows.reviews[claim.places], states)
                        rows.take(path, *index)
                        claim.locks.close()
                        num_computed += len(states)
                        progress.advance(task, len(states))
                    stopping.check()
                    rows.refresh()
                    if len(rows.missing):  # other processes compute them, or did and were killed
                        time.sleep(WAIT)
        except OSError as error:
            what = f"{error.filename or self.folder}: {error.strerror or error}"
            raise InputError(f"features: {what}: {MORE_ROOM}, or set features.cache=off") from error
        return num_computed

    def _compute_shards(self, rows: FeatureRows, held: ExitStack) -> Iterator[tuple[Claim, list[Tensor]]]:
        """Yield what is missing and no other process claims, a shard at a time."""
        workers, states = num_workers(self.prefix.device), dict[int, Tensor]()
        shallower = [self._rows(rows.tokens, depth) for depth in range(1, rows.depth)]
        sources: list[Dataset[Batch]] = [rows.tokens, *shallower]
        source_of = np.zeros_like(rows.row_of)
        for number, stored in enumerate(shallower, start=1):  # the deepest that has a review
            source_of[stored.shard_of >= 0] = number

        def batches() -> Iterator[tuple[Claim, Integers, Batch]]:
            for claim in _claim(rows, held):
                num_tokens = int(rows.length_of[claim.places].sum()) // (BATCHES_PER_WORKER * workers)
                num_tokens = min(max(num_tokens, MIN_STATES), self.tokens_per_batch)
                for number, source in enumerate(sources):
                    places = claim.places[source_of[claim.places] == number]
                    for batch in packed_batches(rows.length_of[places], num_tokens=num_tokens):
                        yield claim, places[batch], source[rows.row_of[places[batch]].tolist()]

        def run(item: tuple[Claim, Integers, Batch]) -> tuple[Claim, Integers, Tensor]:
            return *item[:2], compute(self.prefix, item[2], depth=rows.depth).inputs.cpu()

        for claim, places, computed in in_order(run, batches(), num_workers=workers):
            stopping.check()
            for place, hidden in zip(places.tolist(), computed, strict=True):
                states[place] = hidden[: rows.length_of[place]]
            if len(states) == len(claim.places):
                yield claim, [states.pop(place) for place in claim.places.tolist()]

    def place(self, rows: FeatureRows) -> FeatureRows:
        """Move rows to the GPU's memory, if there is one and they take less than half of what is free there."""
        if self.prefix.device.type == "cuda" and self.settings.device == "auto":
            rows.move(self.prefix.device)
        return rows

    def make_room(self, num_bytes: int) -> None:
        """Keep to `features.max_gb`. Raises `InputError` if so much exceeds it, or does not fit on the disk."""
        max_gb, free = self.settings.max_gb or float("inf"), shutil.disk_usage(self.folder).free
        if num_bytes > max_gb * GIGABYTE or num_bytes + DISK_RESERVE > free:
            found = f"{self.folder} has {free / GIGABYTE:.1f} GB free and features.max_gb={self.settings.max_gb}"
            what = f"the store would take {num_bytes / GIGABYTE:.1f} GB, {found}"
            raise InputError(f"features: {what}: {MORE_ROOM}, or set features.cache=off")
        max_bytes, shards = max_gb * GIGABYTE - num_bytes, self.folder.glob(f"*/*{SUFFIX}")
        if remove_oldest(shards, max_bytes=max_bytes, min_age=RECENT) > max_bytes:
            log.warning("features: over features.max_gb, because the other shards were in use in the last 24 hours")


def older_stores(folder: Path) -> str:
    """Return the names of what version 0.1.0 stored, which is not read."""
    return ", ".join(sorted(path.parent.name for path in folder.glob("*/features.bin")))


def _claim(rows: FeatureRows, held: ExitStack) -> Iterator[Claim]:
    """Claim about a shard of reviews at a time, by the first byte of their digests, until all are claimed."""
    begin, is_claimed = secrets.randbelow(256), np.zeros(len(rows.reviews), dtype=bool)
    first_bytes = rows.reviews.view(np.uint8)[::16]
    while True:
        locks, num_bytes, claimed = held.enter_context(ExitStack()), 0, np.zeros_like(is_claimed)
        missing = (rows.shard_of < 0) & ~is_claimed
        found = np.unique(first_bytes[missing])
        for byte in np.roll(found, -np.searchsorted(found, begin)).tolist():
            chosen = missing & (first_bytes == byte)
            size = rows.num_bytes(np.flatnonzero(chosen))
            if num_bytes and num_bytes + size > SHARD_BYTES:
                break
            if _lock(rows.folder / "claims" / f"{byte:02x}.lock", locks):
                claimed |= chosen
                num_bytes += size
        if not num_bytes:
            return
        is_claimed |= claimed
        rows.refresh()  # others may have written some before they released the locks
        places = np.flatnonzero(claimed & (rows.shard_of < 0))
        *first, last = np.array_split(places, -(-num_bytes // SHARD_BYTES))
        yield from (Claim(part, ExitStack()) for part in first if len(part))
        if len(last):
            yield Claim(last, locks)
        else:
            locks.close()


def _lock(path: Path, locks: ExitStack) -> bool:
    """Return false if another process holds the lock."""
    try:
        locks.enter_context(FileLock(path, blocking=False))
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        _warn_once(f"features: no locks ({error}): other processes may compute the same reviews")
    return True


_warn_once = cache(log.warning)
