"""The dataset over a store.

Shapes: B reviews, L word pieces, H hidden size.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bertlens.data.batching import Batch, TokenRows
from bertlens.data.tokenizer import Digests
from bertlens.features import shards
from bertlens.features.prefix import compute
from bertlens.features.shards import Integers, Space
from bertlens.model.classifier import FrozenPrefix

log = logging.getLogger(__name__)

CHECKED = -1  # in place of the checksum of a review that this process has read


class FeatureRows(Dataset[Batch]):
    """The stored hidden states of a split. One look-up takes the rows of a whole batch and returns a padded `Batch`.

    Reviews that the store lacks, or has lost, are computed: their hidden states are the same to the last bit. Of the
    store's index, only what the split has is kept: the reviews' digests, sorted, each once, and where their states are.
    """

    def __init__(self, tokens: TokenRows, prefix: FrozenPrefix, folder: Path, space: Space) -> None:
        """`folder`: that of all spaces."""
        self.tokens = tokens
        self.prefix = prefix
        self.folder = folder / shards.key_of(space)
        self.space = space
        self.depth: int = space["depth"]
        self.dtype: torch.dtype = getattr(torch, space["dtype"])
        self.lengths = tokens.pieces.lengths
        if self.depth == prefix.num_layers:
            self.lengths = np.ones_like(self.lengths)  # of the last layer, only [CLS] is read
        elif not tokens.mask_padding:
            self.lengths = np.full_like(self.lengths, tokens.pad_to)
        self.reviews, self.row_of, self.places = np.unique(
            tokens.pieces.digests, return_index=True, return_inverse=True
        )
        self.length_of = self.lengths[self.row_of]
        self.paths: list[Path] = []
        self.shard_of = np.full(len(self.reviews), -1)  # -1: missing
        self.starts, self.checksums = np.zeros((2, len(self.reviews)), dtype=np.int64)
        self.device = torch.device("cpu")  # or that of
        self.on_gpu: Tensor | None = None  # [all word pieces, H]
        self._heads = heads_of(self.reviews)
        self._seen: set[Path] = set()
        self.refresh()

    @property
    def missing(self) -> Integers:
        """The places in `reviews` of those that are not stored."""
        return np.flatnonzero(self.shard_of < 0)

    @property
    def num_missing(self) -> int:
        """How many rows are not stored."""
        return int(np.count_nonzero(self.shard_of[self.places] < 0))

    def num_bytes(self, places: Integers) -> int:
        return int(self.length_of[places].sum()) * int(self.space["hidden_size"]) * self.dtype.itemsize

    def refresh(self) -> None:
        """Look into the shards that came since. Of those that hold the same review, the first by name is read."""
        with suppress(OSError):  # there is no such folder yet
            for path in sorted(set(self.folder.glob(f"*{shards.SUFFIX}")) - self._seen):
                try:
                    self.take(path, *shards.read_index(path))
                except shards.UNREADABLE as error:
                    self._give_up(path, error)

    def take(self, path: Path, reviews: Digests, starts: Integers, checksums: Integers) -> None:
        """Note where a shard has the reviews that were missing."""
        self._seen.add(path)
        last, heads = len(self.reviews) - 1, heads_of(reviews)
        some = np.flatnonzero(self._heads[np.minimum(np.searchsorted(self._heads, heads), last)] == heads)
        places = np.minimum(np.searchsorted(self.reviews, reviews[some]), last)
        is_new = (self.reviews[places] == reviews[some]) & (self.shard_of[places] < 0)
        found, places = some[is_new], places[is_new]
        if len(found):
            self.shard_of[places] = len(self.paths)
            self.starts[places], self.checksums[places] = starts[found], checksums[found]
            self.paths.append(path)
            with suppress(OSError):  # features.max_gb removes first what was not in use for longest
                os.utime(path)

    def _give_up(self, path: Path, error: Exception) -> None:
        """Say why a shard is not used; remove it if it is damaged, but not if its file system fails."""
        self._seen.add(path)
        shards.open_states.cache_clear()
        shards.read_index.cache_clear()
        log.warning("features: %s is not used, and its reviews are computed again: %s", path, error)
        if not isinstance(error, OSError):
            with suppress(OSError):
                path.unlink()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: list[int]) -> Batch:
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max())
        mask = columns < lengths[:, None]
        if self.on_gpu is None:
            inputs = self._read(rows, len(columns))
        else:  # where the mask is false, any finite number will do
            starts = (np.cumsum(self.lengths) - self.lengths)[rows, None]
            inputs = self.on_gpu[torch.from_numpy(starts + np.minimum(columns, lengths[:, None] - 1)).to(self.device)]
        has_padding = self.tokens.mask_padding and not mask.all()
        return Batch(
            inputs=inputs,
            attention_mask=torch.from_numpy(mask).to(self.device) if has_padding else None,
            labels=self.tokens.labels[rows].to(self.device),
            rows=torch.as_tensor(rows),
            depth=self.depth,
        )

    def _read(self, rows: list[int], length: int) -> Tensor:
        """Return hidden states [B, length, H], read or else computed."""
        inputs, places = torch.empty(len(rows), length, self.space["hidden_size"], dtype=self.dtype), self.places[rows]
        known = (places, self.shard_of[places], self.starts[places], self.lengths[rows])
        targets, lacking = inputs.view(torch.uint8).numpy(), []
        for number, (place, shard, start, end) in enumerate(zip(*(each.tolist() for each in known), strict=True)):
            targets[number, end:] = 0
            if not self._read_review(place, shard, start, targets[number, :end]):
                lacking.append(number)
        if lacking:
            batch = self.tokens[[rows[number] for number in lacking]]
            computed = compute(self.prefix, batch, depth=self.depth).inputs
            inputs[lacking, : computed.shape[1]] = computed.to(inputs)
        return inputs

    def _read_review(self, place: int, shard: int, start: int, target: npt.NDArray[np.uint8]) -> bool:
        """Read into [word pieces, bytes of a state]; return false if that cannot be done."""
        if shard < 0:
            return False
        try:
            file, begin = shards.open_states(self.paths[shard], os.getpid())
            file.seek(begin + start * target.shape[1])
            is_whole = file.readinto(target.data) == target.nbytes  # less, if the file was cut short
            expected = self.checksums[place]
            if is_whole and (expected == CHECKED or shards.checksum(self.reviews[place], target) == expected):
                self.checksums[place] = CHECKED
                return True
            raise ValueError("it is damaged")
        except shards.UNREADABLE as error:
            if self.shard_of[place] == shard:  # or else another review of the batch was first
                self._give_up(self.paths[shard], error)
        self.shard_of[self.shard_of == shard] = -1
        return False

    def move(self, device: torch.device) -> None:
        """Keep all hidden states in a GPU's memory, if they take less than half of what is free there."""
        if self.num_bytes(self.places) < torch.cuda.mem_get_info(device)[0] / 2:
            states = [self._read([row], length)[0].to(device) for row, length in enumerate(self.lengths.tolist())]
            self.device, self.on_gpu = device, torch.cat(states)


def heads_of(reviews: Digests) -> npt.NDArray[np.uint64]:
    """Return the first halves of digests: most that are not there are found missing by them, ten times faster."""
    return reviews.view(">u8")[::2].astype(np.uint64)
