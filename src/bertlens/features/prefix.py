"""Batches of word pieces through the frozen prefix, several at a time, and the same without a store."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from bertlens.data.batching import Batch, TokenRows
from bertlens.model.classifier import FrozenPrefix

Item = TypeVar("Item")
Result = TypeVar("Result")


class ComputedBatches:
    """The batches of a split after the prefix, computed while they are iterated."""

    def __init__(self, tokens: TokenRows, batches: Sequence[list[int]], *, prefix: FrozenPrefix) -> None:
        self.tokens = tokens
        self.batches = batches
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return in_order(self._compute, self.batches, num_workers=num_workers(self.prefix))

    @torch.no_grad()
    def _compute(self, rows: list[int]) -> Batch:
        batch, device = self.tokens[rows], self.prefix.device
        mask = batch.attention_mask
        if mask is not None:
            mask = None if mask.all() else mask.to(device)
        hidden = self.prefix(batch.inputs.to(device), mask)
        return batch._replace(inputs=hidden, attention_mask=mask, depth=self.prefix.depth)


def num_workers(prefix: FrozenPrefix) -> int:
    """Return how many batches to compute at a time: on a CPU one per core, on a GPU one.

    Cores that share a batch would wait for each other within each operation.
    """
    return torch.get_num_threads() if prefix.device.type == "cpu" else 1


def in_order(compute: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int) -> Iterator[Result]:
    """Yield `compute` of each item, in their order, computed a few items ahead in threads of one core each."""
    if num_workers == 1:
        yield from map(compute, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            waiting.append(pool.submit(compute, item))
            if len(waiting) > num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        # torch would give the last number set, which is 1, to threads that start later
        torch.set_num_threads(torch.get_num_threads())
