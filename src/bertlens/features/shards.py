"""What the files of a store hold, how they are verified, and how they are opened.

A store is a folder named by its key. In it lie `features.bin`, a hidden state [H] per word piece, unpadded, and
`manifest.json`, written last, with a digest of every block of that file. The key hashes everything the numbers depend
on, so no store is mistaken for another. The digests are checked when a store is opened.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

DATA_FILE = "features.bin"
MANIFEST_FILE = "manifest.json"
PROGRESS_FILE = "progress.json"  # of an unfinished store: the blocks that are on disk

FORMAT_VERSION = 1
BLOCK_BYTES = 32 * 2**20  # the unit of digests and of flushing; a killed build loses at most one
# exceptions that a damaged manifest can cause
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)

BlockRecord = dict[str, Any]  # "bytes" and "digest" of a block, as a manifest lists them


class StoreDamaged(Exception):
    """The files of a store are not what its manifest says, or not what was asked for."""


@dataclass(frozen=True)
class StoreContents:
    """Everything that the numbers in a store depend on."""

    weights: str  # digest of the prefix's parameters, in the format they are computed with
    word_pieces: str  # digest of the ids and of where each review begins
    depth: int  # encoder layers applied
    hidden_size: int
    num_rows: int  # hidden states in the file
    dtype: str
    attention_mask: bool
    device: str  # the kind: each rounds differently
    torch_version: str
    format_version: int = FORMAT_VERSION

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.hidden_size * torch.tensor([], dtype=getattr(torch, self.dtype)).element_size()


class Layout:
    """Where in the file each review's hidden states lie. Reviews come in the order in which they are computed."""

    def __init__(self, lengths: npt.NDArray[np.int64], batches: Sequence[npt.NDArray[np.int64]]) -> None:
        self.lengths = lengths
        self.batches = batches
        order = np.concatenate(batches)
        ends = np.cumsum(lengths[order])
        self.starts = np.empty_like(ends)
        self.starts[order] = ends - lengths[order]
        self.num_states = int(ends[-1])


class Block(NamedTuple):
    """Batches that are flushed together, under one digest."""

    batches: list[npt.NDArray[np.int64]]
    num_bytes: int


def split_into_blocks(layout: Layout, *, state_bytes: int) -> Iterator[Block]:
    """Yield the batches in blocks of about `BLOCK_BYTES`."""
    batches: list[npt.NDArray[np.int64]] = []
    size = 0
    for batch in layout.batches:
        batches.append(batch)
        size += int(layout.lengths[batch].sum()) * state_bytes
        if size >= BLOCK_BYTES:
            yield Block(batches, size)
            batches, size = [], 0
    if batches:
        yield Block(batches, size)


def open_states(folder: Path, contents: StoreContents) -> Tensor:
    """Verify a store and return its hidden states [word pieces, H], memory-mapped. Raises `StoreDamaged`."""
    path = folder / DATA_FILE
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        blocks = manifest.pop("blocks")
        if manifest != asdict(contents):
            raise StoreDamaged("its manifest describes other contents")
        stat = path.stat()
        if stat.st_size != contents.num_bytes or sum(block["bytes"] for block in blocks) != stat.st_size:
            raise StoreDamaged(f"{stat.st_size} bytes instead of {contents.num_bytes}")
        identity = (str(path), stat.st_ino, stat.st_mtime_ns, json.dumps(blocks))
        if identity not in _verified:
            if len(verify_blocks(path, blocks)) < len(blocks):
                raise StoreDamaged("the digest of a block is wrong")
            _verified.add(identity)
    except UNREADABLE as error:
        raise StoreDamaged(f"not readable: {error}") from error
    with suppress(OSError):
        os.utime(folder / MANIFEST_FILE)  # features.max_gb removes the least recently used store first
    # torch has no read-only tensors, so the map is copy-on-write; nothing writes to it, so nothing is copied
    mapped = np.memmap(path, dtype=np.uint8, mode="c")
    return torch.from_numpy(mapped).view(getattr(torch, contents.dtype)).view(contents.num_rows, contents.hidden_size)


_verified: set[tuple[str, int, int, str]] = set()  # a process verifies a file again only after it has changed


def verify_blocks(path: Path, blocks: Sequence[Mapping[str, Any]]) -> list[BlockRecord]:
    """Return the leading blocks whose bytes have the recorded digest."""
    ends = np.cumsum([block["bytes"] for block in blocks], dtype=np.int64)
    if not len(ends):
        return []
    mapped = np.memmap(path, dtype=np.uint8, mode="r")

    def is_intact(index: int) -> bool:
        part = mapped[ends[index] - blocks[index]["bytes"] : ends[index]]
        digest: str = blocks[index]["digest"]
        return len(part) == blocks[index]["bytes"] and xxhash.xxh3_128_hexdigest(part.data) == digest

    with ThreadPoolExecutor() as pool:
        intact = list(pool.map(is_intact, range(len(blocks))))
    return [dict(block) for block, _ in takewhile(lambda pair: pair[1], zip(blocks, intact, strict=True))]


def read_finished_blocks(partial: Path) -> list[BlockRecord]:
    """Return the leading intact blocks of an unfinished store."""
    for name in (PROGRESS_FILE, MANIFEST_FILE):  # a build killed just before its last move has only the second
        with suppress(*UNREADABLE):
            record = json.loads((partial / name).read_text(encoding="utf-8"))
            return verify_blocks(partial / DATA_FILE, record["blocks"] if isinstance(record, dict) else record)
    return []
