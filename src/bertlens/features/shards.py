"""What the store's files hold.

What the frozen layers make of a review depends on its word pieces and on a space: weights, depth, number format, mask,
device and versions. A space is a folder named by its hash. In it lie shards, `.safetensors` files with the digests of
`reviews` [R, 16], `starts` [R + 1], `checksums` [R] and `states` [word pieces, H], unpadded. docs/store.md shows how to
read them.

States are read from files, not from memory maps: where a map's file is cut short or gone, the process is killed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bertlens.data.tokenizer import Digests
from bertlens.system.files import atomic_write

FORMAT_VERSION = 2
SUFFIX = ".safetensors"
# exceptions that a damaged shard, or a file system that fails, can cause
UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)

Integers = npt.NDArray[np.int64]
Space = Mapping[str, Any]


class ShardIndex(NamedTuple):
    """The reviews of a shard, where their states begin, one more than there are reviews, and the states' checksums."""

    reviews: npt.NDArray[Any]  # Digests, or their bytes [R, 16]
    starts: Integers
    checksums: Integers


def key_of(space: Space) -> str:
    """Return the name of a space's folder."""
    return hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()[:32]


def write_shard(folder: Path, reviews: Digests, states: Sequence[Tensor]) -> tuple[Path, ShardIndex]:
    """Write the hidden states of some reviews, each [word pieces, H]. The same reviews make the same file."""
    sums = [checksum(review, each.view(torch.uint8).numpy()) for review, each in zip(reviews, states, strict=True)]
    starts = np.cumsum([0, *map(len, states)], dtype=np.int64)
    index = ShardIndex(reviews.view(np.uint8).reshape(-1, 16), starts, np.array(sums, dtype=np.int64))
    tensors = {name: torch.from_numpy(array) for name, array in index._asdict().items()}
    path = folder / f"{hashlib.blake2b(reviews.tobytes(), digest_size=16).hexdigest()}{SUFFIX}"
    with atomic_write(path) as file:
        file.write(save(tensors | {"states": torch.cat(list(states))}, describe(folder.name, index)))
    return path, index._replace(reviews=reviews)


@cache
def read_index(path: Path) -> ShardIndex:
    """Raise one of `UNREADABLE` if a shard is damaged or not of its folder's space. A name stands for one content."""
    with safe_open(path, "np") as shard:
        index = ShardIndex(*(shard.get_tensor(name) for name in ShardIndex._fields))
        if shard.metadata() != describe(path.parent.name, index):
            raise ValueError("it is damaged, or of other contents")
    return index._replace(reviews=index.reviews.view("V16").ravel())


def describe(space: str, index: ShardIndex) -> dict[str, str]:
    """Return a shard's metadata, which tell whether it is of a space, and whole but for its states."""
    return {"space": space, "index": xxhash.xxh3_128_hexdigest(b"".join(part.tobytes() for part in index))}


def checksum(review: np.void, states: npt.NDArray[np.uint8]) -> int:
    """Return 63 bits of a review's states that no other review's states share."""
    return xxhash.xxh3_64_intdigest(states.data, seed=int.from_bytes(review.tobytes()[:8])) >> 1


@lru_cache(maxsize=128)  # open files
def open_states(path: Path, process: int) -> tuple[FileIO, int]:
    """Open a shard, once per process, because forks would share a position. Also return where its states begin."""
    file = FileIO(path)
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(min(size, 10_000)))
    return file, 8 + size + int(header["states"]["data_offsets"][0])
