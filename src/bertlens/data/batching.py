"""Which reviews make up a batch, and how their rows become padded tensors.

Reviews of similar length go together, so little is padded, and the grouping is drawn anew every epoch. Every review
comes exactly once an epoch; under several processes no two see the same one and all take the same number of steps.

Shapes: B reviews, L word pieces, H hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from bertlens.data.tokenizer import WordPieces
from bertlens.errors import InputError

Rows = npt.NDArray[np.int64]

# reviews are sorted by length within buckets: large enough to pad little, and so many that the grouping changes
MAX_BATCHES_PER_BUCKET = 16
MIN_BUCKETS = 8
PADDINGS = ("longest", "max_length")


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How reviews are put together."""

    batch_size: int = 32  # reviews, where there is a gradient
    tokens_per_batch: int = 8192  # word pieces, where there is none
    padding: str = "longest"  # each batch to its longest review; or "max_length"

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise InputError(f"data.padding={self.padding!r}: choose one of {', '.join(PADDINGS)}")
        for key in ("batch_size", "tokens_per_batch"):
            if getattr(self, key) < 1:
                raise InputError(f"data.{key}={getattr(self, key)}: at least 1")


class Batch(NamedTuple):
    """Some reviews on their way through the model: as word-piece ids, or as what the prefix made of them."""

    inputs: Tensor  # [B, L] ids, or [B, L, H] hidden states
    attention_mask: Tensor | None  # [B, L], true at real word pieces; None: all are real, or padding is attended to
    labels: Tensor  # [B] int64
    rows: Tensor  # [B] int64, each review's place in its split
    depth: int = 0  # of hidden states: the number of layers that made them


def shuffled_batches(
    lengths: npt.NDArray[np.int64], *, batch_size: int, num_ranks: int, similar_length: bool, seed: int, epoch: int
) -> list[Rows]:
    """One epoch's batches over all ranks (batch_size * num_ranks rows each, the last one maybe fewer), shuffled."""
    if len(lengths) < num_ranks:
        raise InputError(f"trainer.devices={num_ranks}: more processes than the {len(lengths)} training reviews")
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    step = batch_size * num_ranks
    if similar_length:
        bucket = step * max(1, min(MAX_BATCHES_PER_BUCKET, len(order) // step // MIN_BUCKETS))
        parts = [order[start : start + bucket] for start in range(0, len(order), bucket)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    batches = [order[start : start + step] for start in range(0, len(order), step)]
    if len(batches) > 1 and len(batches[-1]) < num_ranks:
        # a rank without a review would leave the others waiting for its gradient
        last = np.concatenate(batches[-2:])
        batches[-2:] = np.array_split(last, 2) if len(last) >= 2 * num_ranks else [last]  # else: batches of one
    return [batches[index] for index in random.permutation(len(batches))]


def packed_batches(lengths: npt.NDArray[np.int64], *, num_tokens: int) -> list[Rows]:
    """Batches for work without a gradient: longest first, so many that rows times the longest stay in `num_tokens`."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        stop = start + max(1, num_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start:stop])
        start = stop
    return batches


class TrainSampler(Sampler[list[int]]):
    """One rank's batches of an epoch. Its position is state, so a run can stop and go on between any two of them."""

    def __init__(
        self,
        lengths: npt.NDArray[np.int64],
        *,
        batch_size: int,
        similar_length: bool,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.similar_length = similar_length
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.epoch = 0
        self.position = 0  # batches of this epoch already handed out

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def __len__(self) -> int:
        step = self.batch_size * self.num_ranks
        return len(self.lengths) // step if self.batch_size == 1 else -(-len(self.lengths) // step)

    def __iter__(self) -> Iterator[list[int]]:
        batches = shuffled_batches(
            self.lengths,
            batch_size=self.batch_size,
            num_ranks=self.num_ranks,
            similar_length=self.similar_length,
            seed=self.seed,
            epoch=self.epoch,
        )
        self.position %= len(batches)
        for batch in batches[self.position :]:
            self.position += 1
            # every num_ranks-th row: all ranks get rows of every length, and their sizes differ by one at most
            yield batch[self.rank :: self.num_ranks].tolist()


class EvalSampler(Sampler[list[int]]):
    """One rank's share of the packed batches: every review once, no rank seeing another's."""

    def __init__(self, lengths: npt.NDArray[np.int64], *, num_tokens: int, rank: int = 0, num_ranks: int = 1) -> None:
        if len(lengths) < num_ranks:
            raise InputError(f"trainer.devices={num_ranks}: more processes than the {len(lengths)} reviews to measure")
        batches = packed_batches(lengths, num_tokens=num_tokens)
        if len(batches) < num_ranks:  # a rank without a batch would have nothing to add to the metrics
            batches = np.array_split(np.concatenate(batches), num_ranks)
        self.batches = batches[rank::num_ranks]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)


class TokenRows(Dataset[Batch]):
    """Word-piece ids of a split; one look-up takes a whole batch of rows and gives one padded tensor."""

    def __init__(
        self, pieces: WordPieces, labels: Sequence[int], *, pad_to: int | None = None, mask_padding: bool = True
    ) -> None:
        self.pieces = pieces
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self.pad_to = pad_to
        self.mask_padding = mask_padding

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: list[int]) -> Batch:  # a batch at a time
        ids, mask = self.padded(rows)
        return Batch(
            inputs=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask) if self.mask_padding else None,
            labels=self.labels[rows],
            rows=torch.as_tensor(rows),
        )

    def padded(self, rows: Sequence[int] | Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Ids [B, L] int64 and mask [B, L] of some reviews, L their longest or `pad_to`."""
        first, lengths = self.pieces.starts[rows], self.pieces.lengths[rows]
        columns = np.arange(self.pad_to or lengths.max())
        mask = columns < lengths[:, None]
        places = np.where(mask, first[:, None] + columns, 0)
        return np.where(mask, self.pieces.ids[places], self.pieces.pad_id).astype(np.int64), mask
