"""Batches of word pieces through the frozen prefix, several at a time, and the same without a store."""

from collections.abc import Iterator, Sequence

import torch

from bertlens.data.batching import Batch, TokenRows
from bertlens.model.classifier import FrozenPrefix
from bertlens.model.steady import compare_once, in_order, num_workers


class ComputedBatches:
    """The batches of a split after the prefix, computed while they are iterated."""

    def __init__(self, tokens: TokenRows, batches: Sequence[list[int]], *, prefix: FrozenPrefix) -> None:
        self.tokens = tokens
        self.batches = batches
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        compare_once(lambda rows: compute(self.prefix, self.tokens[rows]).inputs, self.prefix.device, len(self.tokens))
        workers = num_workers(self.prefix.device)
        return in_order(lambda rows: compute(self.prefix, self.tokens[rows]), self.batches, num_workers=workers)


@torch.no_grad()
def compute(prefix: FrozenPrefix, batch: Batch, *, depth: int | None = None) -> Batch:
    """Return a batch after the prefix, or after its first `depth` layers."""
    device, mask = prefix.device, batch.attention_mask
    if mask is not None:
        mask = None if mask.all() else mask.to(device)
    hidden = prefix(batch.inputs.to(device), mask, start=batch.depth, stop=depth)
    return batch._replace(inputs=hidden, attention_mask=mask, depth=prefix.depth if depth is None else depth)
