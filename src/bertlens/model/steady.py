"""Numbers that do not depend on company: a review's are the same to the last bit whatever else is in its batch.

A matrix product adds in an order that its library chooses by the numbers of rows, columns and threads, so the last bits
of a review's hidden states depend on the reviews beside it. Not so on processors, measured in bf16 and fp32 at the
shapes of MiniLM and BERT-base, with AMX and AVX-512 (oneDNN and MKL), if

* whole layers run on reviews one after the other, without padding, and attention on each review by itself;
* they run on `MIN_STATES` hidden states at least: below 768 the order changes with their number, above it does not;
* each operation runs in one thread: with four or more the order changes above 768 as well. Parts of a batch run side by
  side instead;
* what is computed for `[CLS]` alone runs on exactly `NUM_ROWS` reviews, each padded to its own length rounded up.

Missing rows are filled up with copies of the last one. Nothing here has a gradient.

Shapes: B reviews, L word pieces, H hidden size, T word pieces of several reviews.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from bertlens.data.batching import NUM_ROWS, round_up

log = logging.getLogger(__name__)

MIN_STATES = 1024

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_whole_layers(
    compute: Callable[[Tensor, list[int]], Tensor], hidden: Tensor, attention_mask: Tensor | None
) -> Tensor:
    """Map hidden states [B, L, H] to hidden states. `compute` maps those of reviews [1, T, H] of these lengths.

    Where the mask is false, the result is 0.
    """
    lengths = _lengths(hidden, attention_mask)
    in_order_of_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    num_parts = max(1, min(num_workers(hidden.device), sum(lengths) // MIN_STATES))

    def run(rows: list[int]) -> Sequence[Tensor]:
        num_copies = -(-(MIN_STATES - sum(lengths[row] for row in rows)) // lengths[rows[-1]])
        filled = rows + rows[-1:] * num_copies
        filled_lengths = [lengths[row] for row in filled]
        packed = torch.cat([hidden[row, : lengths[row]] for row in filled])
        return torch.split(compute(packed[None], filled_lengths)[0], filled_lengths)

    result = torch.zeros_like(hidden)
    parts = [in_order_of_length[part::num_parts] for part in range(num_parts)]
    for rows, computed in zip(parts, run_parts(run, parts, hidden.device), strict=True):
        for row, states in zip(rows, computed, strict=False):
            result[row, : lengths[row]] = states
    return result


def run_for_cls(
    compute: Callable[[Tensor, Tensor | None], Tensor], hidden: Tensor, attention_mask: Tensor | None
) -> Tensor:
    """Map hidden states [B, L, H] to a row per review: [B, ...]. `compute` maps some of them and their mask."""
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(_lengths(hidden, attention_mask)):
        by_length.setdefault(round_up(length), []).append(row)
    places = torch.empty(len(hidden), dtype=torch.long)
    parts: list[tuple[list[int], int]] = []
    for length, rows in by_length.items():
        for start in range(0, len(rows), NUM_ROWS):
            chosen = rows[start : start + NUM_ROWS]
            places[chosen] = len(parts) * NUM_ROWS + torch.arange(len(chosen))
            parts.append((chosen + chosen[-1:] * (NUM_ROWS - len(chosen)), length))

    def run(part: tuple[list[int], int]) -> Tensor:
        rows, length = part
        is_slice = rows == list(range(rows[0], rows[0] + NUM_ROWS))  # which takes no copy
        chosen = slice(rows[0], rows[-1] + 1) if is_slice else rows
        states, mask = hidden[chosen, :length], None if attention_mask is None else attention_mask[chosen, :length]
        if (lacking := length - states.shape[1]) > 0:
            mask = torch.ones(states.shape[:2], dtype=torch.bool) if mask is None else mask
            states, mask = F.pad(states, (0, 0, 0, lacking)), F.pad(mask, (0, lacking))
        return compute(states, mask)

    return torch.cat(list(run_parts(run, parts, hidden.device)))[places]


def _lengths(hidden: Tensor, attention_mask: Tensor | None) -> list[int]:
    B, L = hidden.shape[:2]
    lengths: list[int] = [L] * B if attention_mask is None or L == 1 else attention_mask.sum(dim=1).tolist()
    return lengths


def run_parts(run: Callable[[Item], Result], parts: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """Yield `run` of each part. What autocast and gradients are set to counts per thread."""
    kind = device.type
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    @torch.no_grad()
    def run_alike(part: Item) -> Result:
        with torch.autocast(kind, dtype=dtype, enabled=enabled):
            return run(part)

    return in_order(run_alike, parts, num_workers=num_workers(device))


def compare_once(run: Callable[[list[int]], Tensor], device: torch.device, num_reviews: int) -> None:
    """Say, once in a process, if a review's hidden states depend on its batch here: run one alone and among others."""
    if str(device) in _compared:
        return
    _compared.add(str(device))
    batches = [[0], list(range(min(num_reviews, 8)))]
    alone, among = (found[0, 0].float() for found in in_order(run, batches, num_workers=num_workers(device)))
    if not torch.equal(alone, among):
        bound = float((alone - among).abs().max())
        log.warning("on this device a review's numbers depend on its batch, by up to %.0e", bound)


_compared: set[str] = set()


def num_workers(device: torch.device) -> int:
    """Return how many batches to compute at a time: on a CPU one per core, on a GPU one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


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
