"""The store between the frozen prefix and the trained suffix: what the prefix makes of each review, computed once.

A store is a folder named by its key: `features.bin`, a row of hidden states a word piece, unpadded, memory-mapped when
read; and `manifest.json`, written last, with a digest of every block. The key hashes everything the numbers depend on,
so a store is never taken for another; the digests are checked when it is opened, so a damaged one is built anew.

A build goes on in a private folder that is moved into place when it is whole. A lock spares several processes the same
work; were it to fail, each would build its own and the first to finish would win.

Shapes: B reviews, L word pieces, H hidden size.
"""

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from torch.utils.data import Dataset

from bertlens.data.batching import Batch, TokenRows, packed_batches
from bertlens.errors import InputError
from bertlens.model.classifier import ReviewClassifier
from bertlens.system.files import append, atomic_write, sync_folder

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

FORMAT_VERSION = 1
# what a damaged record ends in: no file, no JSON, and JSON of other keys, types and sizes
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
BLOCK_BYTES = 32 * 2**20  # the unit of digests, of flushing, and of what a killed build loses
GIGABYTE = 10**9
# what a store may leave free on the disk: other programs live there too
DISK_RESERVE = GIGABYTE


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """How features are kept."""

    cache: str = "auto"
    max_gb: float | None = None
    device: str = "auto"
    max_trainable_layers: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("cache", ("auto", "on", "off")), ("device", ("auto", "cpu"))):
            if getattr(self, name) not in choices:
                raise InputError(f"features.{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}")
        if self.max_gb is not None and self.max_gb <= 0:
            raise InputError(f"features.max_gb={self.max_gb}: must be positive, or null for no limit")


@dataclass(frozen=True)
class StoreContents:
    """Everything a store's numbers depend on, and so its key."""

    weights: str  # digest of the prefix's parameters, as computed with
    word_pieces: str  # digest of the ids and of where each review begins
    depth: int  # encoder layers applied
    hidden_size: int
    num_rows: int
    dtype: str
    attention_mask: bool
    device: str  # kinds of device round differently, and so does compiled code
    compiled: bool
    torch_version: str
    format_version: int = FORMAT_VERSION

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.hidden_size * torch.tensor([], dtype=getattr(torch, self.dtype)).element_size()


class Layout:
    """Where each review's rows lie in the file: in the order they are computed in, which is by length."""

    def __init__(self, lengths: npt.NDArray[np.int64], batches: Sequence[npt.NDArray[np.int64]]) -> None:
        self.lengths = lengths
        self.batches = batches
        order = np.concatenate(batches)
        ends = np.cumsum(lengths[order])
        self.starts = np.empty_like(ends)
        self.starts[order] = ends - lengths[order]
        self.num_rows = int(ends[-1])


class FeatureRows(Dataset[Batch]):
    """Stored rows of a split; one look-up gathers a whole batch into one padded tensor."""

    def __init__(self, rows: Tensor, layout: Layout, tokens: TokenRows, *, depth: int) -> None:
        self.rows = rows  # [all word pieces, H]
        self.layout = layout
        self.labels = tokens.labels.to(rows.device)
        self.mask_padding = tokens.mask_padding
        self.depth = depth

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, reviews: list[int]) -> Batch:
        starts, lengths = self.layout.starts[reviews], self.layout.lengths[reviews]
        longest = int(lengths.max())
        columns = np.arange(longest)
        mask = columns < lengths[:, None]
        # behind a review's end its last row is repeated: any finite number will do where the mask is false
        places = starts[:, None] + np.minimum(columns, lengths[:, None] - 1)
        device = self.rows.device
        inputs = self.rows.index_select(0, torch.from_numpy(places.ravel()).to(device))
        review_rows = torch.as_tensor(reviews)
        return Batch(
            inputs=inputs.view(len(reviews), longest, -1),
            attention_mask=torch.from_numpy(mask).to(device) if self.mask_padding and not mask.all() else None,
            labels=self.labels[review_rows.to(device)],
            rows=review_rows,
            depth=self.depth,
        )


class ComputedBatches:
    """A split's batches after the prefix, computed as they are asked for: for a single pass without a store."""

    def __init__(
        self, tokens: TokenRows, batches: Sequence[list[int]], classifier: ReviewClassifier, device: torch.device
    ) -> None:
        self.tokens = tokens
        self.batches = batches
        self.classifier = classifier
        self.device = device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return in_order(self._compute, self.batches, num_workers=prefix_workers(self.classifier, self.device))

    @torch.no_grad()
    def _compute(self, rows: list[int]) -> Batch:
        batch = self.tokens[rows]
        mask = batch.attention_mask
        if mask is not None:
            mask = None if mask.all() else mask.to(self.device)
        depth = self.classifier.frozen_depth
        assert depth is not None
        hidden = self.classifier.prefix(batch.inputs.to(self.device), mask)
        return batch._replace(inputs=hidden, attention_mask=mask, depth=depth)


def prefix_workers(classifier: ReviewClassifier, device: torch.device) -> int:
    """Threads that compute batches side by side. On a CPU one a core, each on its own batch: within an operation the
    cores would wait for each other. A GPU, or compiled code, is given one batch after the other."""
    return torch.get_num_threads() if device.type == "cpu" and not classifier.prefix_compiled else 1


def in_order(compute: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int) -> Iterator[Result]:
    """`compute` of each item, in their order, a few ahead of who asks, in threads of one core each."""
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
        # torch also keeps the last number set, for threads yet to come
        torch.set_num_threads(torch.get_num_threads())


class StoreDamaged(Exception):
    """A store's files are not what its manifest says, or what was asked for."""


class FeatureStores:
    """The stores in a folder, for one classifier."""

    def __init__(
        self,
        folder: Path,
        classifier: ReviewClassifier,
        *,
        settings: FeatureSettings,
        device: torch.device,
        tokens_per_batch: int,
    ) -> None:
        self.folder = folder
        self.classifier = classifier
        self.settings = settings
        self.device = device
        self.tokens_per_batch = tokens_per_batch
        self.weights = prefix_digests(classifier)

    @property
    def build_depth(self) -> int:
        """The depth of a store built here: the prefix's, or less where runs that train more are to share it."""
        assert self.classifier.frozen_depth is not None
        wanted = self.classifier.num_layers - (self.settings.max_trainable_layers or 0)
        return max(0, min(self.classifier.frozen_depth, wanted))

    def contents(self, tokens: TokenRows, *, depth: int) -> StoreContents:
        layout = self._layout(tokens, depth=depth)
        return StoreContents(
            weights=self.weights[depth],
            word_pieces=tokens.pieces.digest(repr(tokens.pad_to)),
            depth=depth,
            hidden_size=self.classifier.bert.config.hidden_size,
            num_rows=layout.num_rows,
            dtype=str(self.classifier.bert.embeddings.LayerNorm.weight.dtype).removeprefix("torch."),
            attention_mask=tokens.mask_padding,
            device=self.device.type,
            compiled=self.classifier.prefix_compiled,
            torch_version=torch.__version__,
        )

    def _layout(self, tokens: TokenRows, *, depth: int) -> Layout:
        lengths = tokens.pieces.lengths
        if not tokens.mask_padding:  # padding is attended to, so it is part of the review
            assert tokens.pad_to is not None
            lengths = np.full_like(lengths, tokens.pad_to)
        batches = packed_batches(lengths, num_tokens=self.tokens_per_batch)
        # of the last layer only [CLS] is read
        return Layout(np.ones_like(lengths) if depth == self.classifier.num_layers else lengths, batches)

    def find(self, tokens: TokenRows, *, remove_damaged: bool = False) -> FeatureRows | None:
        """The rows of the deepest store that serves this prefix and is whole; the layers it lacks are computed on.

        A damaged one is removed only by who holds its lock: another process may just have put a whole one in its place.
        """
        assert self.classifier.frozen_depth is not None
        for depth in range(self.classifier.frozen_depth, -1, -1):
            contents = self.contents(tokens, depth=depth)
            folder = self.folder / contents.key
            if not folder.is_dir():
                continue
            try:
                rows = open_rows(folder, contents)
            except StoreDamaged as error:
                if remove_damaged:
                    log.warning("features: %s is damaged (%s); it will be built anew", folder, error)
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    log.info("features: %s is damaged (%s), and not used", folder, error)
                continue
            return FeatureRows(self._placed(rows), self._layout(tokens, depth=depth), tokens, depth=depth)
        return None

    def _placed(self, rows: Tensor) -> Tensor:
        """In device memory where that is wanted and fits with half of what is free to spare; else the map."""
        if self.device.type != "cuda" or self.settings.device == "cpu":
            return rows
        free, _ = torch.cuda.mem_get_info(self.device)
        return rows.to(self.device) if rows.nbytes < free / 2 else rows

    def find_or_build(self, tokens: TokenRows, *, name: str) -> FeatureRows:
        """The rows of a store that serves, built now if there is none. Raises `InputError` if it cannot be written."""
        found = self.find(tokens)
        if found is not None:
            return found
        contents = self.contents(tokens, depth=self.build_depth)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{contents.key}.lock") as lock:
                # another process may have built it while this one waited
                found = self.find(tokens, remove_damaged=True)
                if found is not None:
                    return found
                self.check_room(contents.num_bytes)
                self._build(tokens, contents, name=name, adopt=lock.is_locked)
        except OSError as error:
            raise InputError(
                f"features: {error.filename or self.folder}: {error.strerror or error}: make room "
                "(features.clear=true), set cache_dir to another disk, or set features.cache=off"
            ) from error
        found = self.find(tokens)
        assert found is not None
        return found

    def check_room(self, num_bytes: int) -> None:
        """Make room under `features.max_gb`, oldest use first. Raises `InputError` with the figures if it cannot."""
        size = num_bytes / GIGABYTE
        if self.settings.max_gb is not None:
            if size > self.settings.max_gb:
                raise InputError(
                    f"features: the store would take {size:.1f} GB, more than features.max_gb={self.settings.max_gb}: "
                    "raise it, or set features.cache=off"
                )
            stores = sorted(self.folder.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
            sizes = [folder_size(path.parent) for path in stores]
            for path, stored in zip(stores, sizes, strict=True):
                if sum(sizes) + num_bytes <= self.settings.max_gb * GIGABYTE:
                    break
                log.info("features: removing %s to stay under features.max_gb", path.parent.name)
                shutil.rmtree(path.parent, ignore_errors=True)
                sizes.remove(stored)
        free = shutil.disk_usage(self.folder).free
        if num_bytes + DISK_RESERVE > free:
            raise InputError(
                f"features: the store would take {size:.1f} GB, and {self.folder} has {free / GIGABYTE:.1f} GB free: "
                "make room (features.clear=true), set cache_dir to another disk, or set features.cache=off"
            )

    def _build(self, tokens: TokenRows, contents: StoreContents, *, name: str, adopt: bool) -> None:
        layout = self._layout(tokens, depth=contents.depth)
        target = self.folder / contents.key
        partial = self.folder / f"{contents.key}.partial-{uuid.uuid4().hex}"
        blocks = list(_blocks(layout, row_bytes=contents.num_bytes // contents.num_rows))
        done = self._adopted(partial, contents, blocks) if adopt else []
        partial.mkdir(exist_ok=True)
        log.info(
            "features: computing %d layers for %d reviews of %s once, %.2f GB in %s",
            contents.depth, len(tokens), name, contents.num_bytes / GIGABYTE, target,
        )  # fmt: skip
        try:
            self._fill(partial, tokens, contents, blocks, done, name=name)
            with suppress(FileNotFoundError):  # adopted from a build that was killed when all was done
                (partial / "progress.json").unlink()
            sync_folder(partial)
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)  # what a full disk holds of it nobody could use
            if not target.is_dir():  # else another process was first, and its store serves as well
                raise
        sync_folder(self.folder)

    def _fill(
        self,
        partial: Path,
        tokens: TokenRows,
        contents: StoreContents,
        blocks: Sequence["Block"],
        done: list[dict[str, Any]],
        *,
        name: str,
    ) -> None:
        """Compute and write the blocks after those `done`, then the manifest."""

        def compute(reviews: npt.NDArray[np.int64]) -> bytes:
            return self._compute(tokens, reviews, depth=contents.depth)

        num_workers = prefix_workers(self.classifier, self.device)
        whole = sum(block["bytes"] for block in done)
        with append(partial / "features.bin", keep=whole) as (file, sync), _progress() as progress:
            task = progress.add_task(f"features of {name}", total=len(tokens))
            progress.advance(task, sum(len(batch) for block in blocks[: len(done)] for batch in block.batches))
            for block in blocks[len(done) :]:
                digest = xxhash.xxh3_128()
                for batch, data in zip(
                    block.batches, in_order(compute, block.batches, num_workers=num_workers), strict=True
                ):
                    file.write(data)
                    digest.update(data)
                    progress.advance(task, len(batch))
                sync()
                done.append({"bytes": block.num_bytes, "digest": digest.hexdigest()})
                with atomic_write(partial / "progress.json", "w") as record:
                    json.dump(done, record)
        with atomic_write(partial / "manifest.json", "w") as manifest:
            json.dump(asdict(contents) | {"blocks": done}, manifest, indent=1)

    def _adopted(self, partial: Path, contents: StoreContents, blocks: Sequence["Block"]) -> list[dict[str, Any]]:
        """Take over what a killed build of the same store left: the blocks that are as its record says."""
        done: list[dict[str, Any]] = []
        for left in self.folder.glob(f"{contents.key}.partial-*"):
            recorded = zip(_recorded_blocks(left), blocks, strict=False)
            # a build with other batches cut its blocks elsewhere
            whole = [was for was, _ in takewhile(lambda pair: pair[0]["bytes"] == pair[1].num_bytes, recorded)]
            if len(whole) > len(done):
                shutil.rmtree(partial, ignore_errors=True)
                left.rename(partial)
                done = whole
            else:
                shutil.rmtree(left, ignore_errors=True)
        return done

    @torch.inference_mode()
    def _compute(self, tokens: TokenRows, reviews: npt.NDArray[np.int64], *, depth: int) -> bytes:
        """The stored bytes of a batch: its real rows, one review after the other."""
        ids, mask = tokens.padded(reviews)
        some_padding = tokens.mask_padding and not mask.all()
        attention_mask = torch.from_numpy(mask).to(self.device) if some_padding else None
        hidden = self.classifier.prefix(torch.from_numpy(ids).to(self.device), attention_mask, stop=depth)
        if attention_mask is not None and hidden.shape[1] > 1:
            hidden = hidden[attention_mask]
        data: bytes = hidden.contiguous().cpu().view(torch.uint8).numpy().tobytes()
        return data


def prefix_digests(classifier: ReviewClassifier) -> list[str]:
    """For every depth up to the frozen one, a digest of the parameters and settings that make those hidden states."""
    config = classifier.bert.config
    running = hashlib.sha256(f"{config.num_attention_heads} {config.layer_norm_eps}".encode())
    digests = []
    for module in classifier.frozen_modules():
        for name, parameter in sorted(module.state_dict().items()):
            running.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            running.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        digests.append(running.copy().hexdigest())
    return digests


def open_rows(folder: Path, contents: StoreContents) -> Tensor:
    """A store's rows [word pieces, H] over its memory-mapped file, verified.

    Raises `StoreDamaged` if it is not what its manifest says.
    """
    path = folder / "features.bin"
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        blocks = manifest.pop("blocks")
        if manifest != asdict(contents):
            raise StoreDamaged("its manifest is of other contents")
        stat = path.stat()
        if stat.st_size != contents.num_bytes or sum(block["bytes"] for block in blocks) != stat.st_size:
            raise StoreDamaged(f"{stat.st_size} bytes instead of {contents.num_bytes}")
        state = (str(path), stat.st_ino, stat.st_mtime_ns, json.dumps(blocks))
        if state not in _verified:
            if len(_whole_blocks(path, blocks)) < len(blocks):
                raise StoreDamaged("a block's digest does not match")
            _verified.add(state)
    except UNREADABLE as error:
        raise StoreDamaged(f"not readable: {error}") from error
    with suppress(OSError):
        os.utime(folder / "manifest.json")  # for features.max_gb: least recently used goes first
    # copy-on-write, because torch has no read-only tensors; nothing writes, so nothing is copied
    mapped = np.memmap(path, dtype=np.uint8, mode="c")
    return torch.from_numpy(mapped).view(getattr(torch, contents.dtype)).view(contents.num_rows, contents.hidden_size)


_verified: set[tuple[str, int, int, str]] = set()  # once a process is enough for a file that has not changed since


def _whole_blocks(path: Path, blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The leading blocks whose bytes have the recorded digest."""
    ends = np.cumsum([block["bytes"] for block in blocks], dtype=np.int64)
    if not len(ends):
        return []
    mapped = np.memmap(path, dtype=np.uint8, mode="r")

    def is_whole(index: int) -> bool:
        part = mapped[ends[index] - blocks[index]["bytes"] : ends[index]]
        digest: str = blocks[index]["digest"]
        return len(part) == blocks[index]["bytes"] and xxhash.xxh3_128_hexdigest(part.data) == digest

    with ThreadPoolExecutor() as pool:
        whole = list(pool.map(is_whole, range(len(blocks))))
    return [dict(block) for block in blocks[: whole.index(False) if False in whole else len(whole)]]


def _recorded_blocks(partial: Path) -> list[dict[str, Any]]:
    """The leading blocks of an unfinished store that are as its record says; its manifest when only the move lacked."""
    for name in ("progress.json", "manifest.json"):
        with suppress(*UNREADABLE):
            record = json.loads((partial / name).read_text(encoding="utf-8"))
            return _whole_blocks(partial / "features.bin", record["blocks"] if isinstance(record, dict) else record)
    return []


class Block(NamedTuple):
    """Batches whose rows are flushed together, under one digest."""

    batches: list[npt.NDArray[np.int64]]
    num_bytes: int


def _blocks(layout: Layout, *, row_bytes: int) -> Iterator[Block]:
    """The batches in groups of about `BLOCK_BYTES`."""
    batches: list[npt.NDArray[np.int64]] = []
    size = 0
    for batch in layout.batches:
        batches.append(batch)
        size += int(layout.lengths[batch].sum()) * row_bytes
        if size >= BLOCK_BYTES:
            yield Block(batches, size)
            batches, size = [], 0
    if batches:
        yield Block(batches, size)


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def clear(folder: Path) -> int:
    """Remove all stores; returns the bytes freed."""
    size = folder_size(folder) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return size


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} reviews/s" if task.speed else "")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn()
    )
