"""Which reviews make up a batch, and how a batch becomes padded tensors.

Reviews of similar length go together, so that there is little padding, and the grouping is drawn anew in every epoch.
Every review comes exactly once per epoch. With several processes, no two get the same review, and all take the same
number of steps. A row is the number of a review within its split.

Shapes: B reviews, L word pieces, H hidden size.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from bertlens.data.tokenizer import WordPieces
from bertlens.errors import InputError

Rows = npt.NDArray[np.int64]

# reviews are sorted by length within buckets: large enough for little padding, and enough of them to vary the grouping
MAX_BATCHES_PER_BUCKET = 16
MIN_BUCKETS = 8

# Lengths, and numbers of reviews to classify at a time, with which numbers do not depend on the batch: model/steady.py.
MULTIPLE = 16
NUM_ROWS = 32


class Batch(NamedTuple):
    """Some reviews, as word-piece ids or as the hidden states that the frozen prefix computed from them."""

    inputs: Tensor  # [B, L] ids, or [B, L, H] hidden states
    attention_mask: Tensor | None  # [B, L], true at real word pieces; None: every position is attended to
    labels: Tensor  # [B] int64
    rows: Tensor  # [B] int64, each review's number within its split
    depth: int = 0  # number of layers that the inputs went through


def shuffled_batches(
    lengths: npt.NDArray[np.int64], *, batch_size: int, num_ranks: int, similar_length: bool, seed: int, epoch: int
) -> list[Rows]:
    """Return one epoch's shuffled batches of batch_size * num_ranks rows, one of them maybe smaller, for all ranks."""
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
        # the other ranks would wait for the gradient of a rank that has no review
        last = np.concatenate(batches[-2:])
        batches[-2:] = np.array_split(last, 2) if len(last) >= 2 * num_ranks else [last]  # else: batches of one
    return [batches[index] for index in random.permutation(len(batches))]


def round_up(length: int) -> int:
    """Return the next multiple of `MULTIPLE`; but a single hidden state, a review's `[CLS]`, is never padded."""
    return length if length == 1 else -(-length // MULTIPLE) * MULTIPLE


def packed_batches(lengths: npt.NDArray[np.int64], *, num_tokens: int, multiple: int = 1) -> list[Rows]:
    """Return batches for work without a gradient, longest first: as many rows as fit, rows * longest <= num_tokens.

    The number of rows is a multiple of `multiple`, if so many fit.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        fitting = max(1, num_tokens // max(1, int(lengths[order[start]])))
        stop = start + (fitting - fitting % multiple or fitting)
        batches.append(order[start:stop])
        start = stop
    return batches


class TrainSampler(Sampler[list[int]]):
    """One rank's batches of an epoch. The position is state, so a run can stop and resume between any two batches.

    With `fixed_order` every epoch has the batches of epoch 0.
    """

    def __init__(
        self,
        lengths: npt.NDArray[np.int64],
        *,
        batch_size: int,
        similar_length: bool,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        fixed_order: bool = False,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.similar_length = similar_length
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.fixed_order = fixed_order
        self.epoch = 0
        self.position = 0  # number of batches that this epoch has yielded

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, unless it is the current one. The Trainer calls this before each epoch."""
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
            epoch=0 if self.fixed_order else self.epoch,
        )
        self.position %= len(batches)
        for batch in batches[self.position :]:
            self.position += 1
            # every num_ranks-th row: each rank gets rows of every length, and the sizes differ by one at most
            yield batch[self.rank :: self.num_ranks].tolist()


class EvalSampler(Sampler[list[int]]):
    """One rank's share of the packed batches: every review comes once, on one rank only."""

    def __init__(self, lengths: npt.NDArray[np.int64], *, num_tokens: int, rank: int = 0, num_ranks: int = 1) -> None:
        if len(lengths) < num_ranks:
            raise InputError(f"trainer.devices={num_ranks}: more processes than the {len(lengths)} reviews to evaluate")
        # the last layer reads reviews of one rounded length at a time
        rounded = np.array([round_up(length) for length in lengths.tolist()])
        groups = [np.flatnonzero(rounded == length) for length in np.unique(rounded)[::-1]]
        batches = [
            rows[batch]
            for rows in groups
            for batch in packed_batches(lengths[rows], num_tokens=num_tokens, multiple=NUM_ROWS)
        ]
        if len(batches) < num_ranks:  # every rank needs a batch for its metrics
            batches = np.array_split(np.concatenate(batches), num_ranks)
        self.batches = batches[rank::num_ranks]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)


class TokenRows(Dataset[Batch]):
    """The word pieces of a split. One look-up takes the rows of a whole batch and returns a padded `Batch`."""

    def __init__(
        self, pieces: WordPieces, labels: Sequence[int], *, pad_to: int | None = None, mask_padding: bool = True
    ) -> None:
        self.pieces = pieces
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self.pad_to = pad_to
        self.mask_padding = mask_padding

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: list[int]) -> Batch:
        ids, mask = self.padded(rows)
        return Batch(
            inputs=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask) if self.mask_padding else None,
            labels=self.labels[rows],
            rows=torch.as_tensor(rows),
        )

    def padded(self, rows: Sequence[int] | Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return ids [B, L] int64 and mask [B, L] of some reviews; L is the longest of them, or `pad_to`."""
        first, lengths = self.pieces.starts[rows], self.pieces.lengths[rows]
        columns = np.arange(self.pad_to or lengths.max())
        mask = columns < lengths[:, None]
        places = np.where(mask, first[:, None] + columns, 0)
        return np.where(mask, self.pieces.ids[places], self.pieces.pad_id).astype(np.int64), mask
