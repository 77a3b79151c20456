"""The store between the frozen prefix and the trained suffix: each review's hidden states, computed once.

A store is built in a private folder, which is moved into place when it is complete. A lock keeps several processes
from doing the same work. If the lock fails, each builds its own store and the first to finish wins.
"""

import json
import logging
import shutil
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from filelock import FileLock
from rich.progress import Progress
from torch import Tensor

from bertlens.data.batching import TokenRows, packed_batches
from bertlens.errors import InputError
from bertlens.features.prefix import in_order, num_workers
from bertlens.features.rows import FeatureRows
from bertlens.features.settings import FeatureSettings
from bertlens.features.shards import (
    DATA_FILE,
    MANIFEST_FILE,
    PROGRESS_FILE,
    Block,
    BlockRecord,
    Layout,
    StoreContents,
    StoreDamaged,
    open_states,
    read_finished_blocks,
    split_into_blocks,
)
from bertlens.model.classifier import FrozenPrefix
from bertlens.system import stopping
from bertlens.system.files import append, atomic_write, sync_folder
from bertlens.system.wording import count_of

log = logging.getLogger(__name__)

GIGABYTE = 10**9
DISK_RESERVE = GIGABYTE  # what a store leaves free on the disk for other programs


class FeatureStores:
    """The stores in a folder, for one prefix. They are computed on the prefix's device."""

    def __init__(self, folder: Path, prefix: FrozenPrefix, *, settings: FeatureSettings, tokens_per_batch: int) -> None:
        self.folder = folder
        self.prefix = prefix
        self.settings = settings
        self.tokens_per_batch = tokens_per_batch
        self.weights = prefix.digests()

    @property
    def build_depth(self) -> int:
        """The depth of a new store: the prefix's, or less so that runs that train more layers can share it."""
        wanted = self.prefix.num_layers - (self.settings.max_trainable_layers or 0)
        return max(0, min(self.prefix.depth, wanted))

    def describe(self, tokens: TokenRows, *, depth: int) -> StoreContents:
        """Return what a store of these reviews at this depth holds."""
        return StoreContents(
            weights=self.weights[depth],
            word_pieces=tokens.pieces.digest(repr(tokens.pad_to)),
            depth=depth,
            hidden_size=self.prefix.hidden_size,
            num_rows=self._arrange(tokens, depth=depth).num_states,
            dtype=str(self.prefix.dtype).removeprefix("torch."),
            attention_mask=tokens.mask_padding,
            device=self.prefix.device.type,
            torch_version=torch.__version__,
        )

    def _arrange(self, tokens: TokenRows, *, depth: int) -> Layout:
        lengths = tokens.pieces.lengths
        if not tokens.mask_padding:  # padding is attended to, so it belongs to the review
            assert tokens.pad_to is not None
            lengths = np.full_like(lengths, tokens.pad_to)
        batches = packed_batches(lengths, num_tokens=self.tokens_per_batch)
        # of the last layer, only [CLS] is read
        return Layout(np.ones_like(lengths) if depth == self.prefix.num_layers else lengths, batches)

    def find(self, tokens: TokenRows, *, remove_damaged: bool = False) -> FeatureRows | None:
        """Open the deepest intact store usable for this prefix; the remaining frozen layers run per batch.

        Set `remove_damaged` only while holding the lock: another process may just have replaced a damaged store.
        """
        for depth in range(self.prefix.depth, -1, -1):
            contents = self.describe(tokens, depth=depth)
            folder = self.folder / contents.key
            if not folder.is_dir():
                continue
            try:
                states = open_states(folder, contents)
            except StoreDamaged as error:
                if remove_damaged:
                    log.warning("features: %s is damaged (%s) and will be rebuilt", folder, error)
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    log.info("features: %s is damaged (%s) and not used", folder, error)
                continue
            return FeatureRows(self._place(states), self._arrange(tokens, depth=depth), tokens, depth=depth)
        return None

    def _place(self, states: Tensor) -> Tensor:
        """Copy the states to the GPU if they take less than half of its free memory; else return the map."""
        device = self.prefix.device
        if device.type != "cuda" or self.settings.device == "cpu":
            return states
        free, _ = torch.cuda.mem_get_info(device)
        return states.to(device) if states.nbytes < free / 2 else states

    def find_or_build(self, tokens: TokenRows, *, name: str) -> FeatureRows:
        """Open a store usable for this prefix, or build one. Raises `InputError` if it cannot be written."""
        found = self.find(tokens)
        if found is not None:
            return found
        contents = self.describe(tokens, depth=self.build_depth)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{contents.key}.lock") as lock:
                # another process may have built it while this one waited
                found = self.find(tokens, remove_damaged=True)
                if found is not None:
                    return found
                self.make_room(contents.num_bytes)
                self._build(tokens, contents, name=name, adopt=lock.is_locked)
        except OSError as error:
            raise InputError(
                f"features: {error.filename or self.folder}: {error.strerror or error}: make room "
                "(features.clear=true), set cache_dir to another disk, or set features.cache=off"
            ) from error
        found = self.find(tokens)
        assert found is not None
        return found

    def make_room(self, num_bytes: int) -> None:
        """Remove stores to stay under `features.max_gb`, least recently used first.

        Raises `InputError` if a store of this size exceeds it, or does not fit on the disk.
        """
        size = num_bytes / GIGABYTE
        if self.settings.max_gb is not None:
            if size > self.settings.max_gb:
                raise InputError(
                    f"features: the store would take {size:.1f} GB, more than features.max_gb={self.settings.max_gb}: "
                    "raise it, or set features.cache=off"
                )
            self._evict(self.settings.max_gb * GIGABYTE - num_bytes)
        free = shutil.disk_usage(self.folder).free
        if num_bytes + DISK_RESERVE > free:
            raise InputError(
                f"features: the store would take {size:.1f} GB, and {self.folder} has {free / GIGABYTE:.1f} GB free: "
                "make room (features.clear=true), set cache_dir to another disk, or set features.cache=off"
            )

    def _evict(self, max_bytes: float) -> None:
        """Remove the least recently used stores until the others take at most `max_bytes`."""
        manifests = sorted(self.folder.glob(f"*/{MANIFEST_FILE}"), key=lambda path: path.stat().st_mtime)
        sizes = {manifest.parent: folder_size(manifest.parent) for manifest in manifests}
        total = sum(sizes.values())
        for store, size in sizes.items():
            if total <= max_bytes:
                break
            log.info("features: removing %s to stay under features.max_gb", store.name)
            shutil.rmtree(store, ignore_errors=True)
            total -= size

    def _build(self, tokens: TokenRows, contents: StoreContents, *, name: str, adopt: bool) -> None:
        layout = self._arrange(tokens, depth=contents.depth)
        target = self.folder / contents.key
        partial = self.folder / f"{contents.key}.partial-{uuid.uuid4().hex}"
        blocks = list(split_into_blocks(layout, state_bytes=contents.num_bytes // contents.num_rows))
        finished = self._adopt(partial, contents, blocks) if adopt else []
        partial.mkdir(exist_ok=True)
        layers, reviews = count_of(contents.depth, "layer"), count_of(len(tokens), "review")
        log.info("features: computing %s for %s of %s", layers, reviews, name)
        try:
            self._fill(partial, tokens, contents, blocks, finished, name=name)
            with suppress(FileNotFoundError):  # the killed build that was adopted had removed it
                (partial / PROGRESS_FILE).unlink()
            sync_folder(partial)
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            if not target.is_dir():  # otherwise another process was first, and its store is as good
                raise
        sync_folder(self.folder)

    def _fill(
        self,
        partial: Path,
        tokens: TokenRows,
        contents: StoreContents,
        blocks: Sequence[Block],
        finished: list[BlockRecord],
        *,
        name: str,
    ) -> None:
        """Compute and write the blocks after the finished ones, then the manifest."""

        def compute(rows: npt.NDArray[np.int64]) -> bytes:
            return self._compute(tokens, rows, depth=contents.depth)

        num_bytes = sum(block["bytes"] for block in finished)
        with append(partial / DATA_FILE, keep=num_bytes) as (file, sync), _build_progress() as progress:
            task = progress.add_task(f"features of {name}", total=len(tokens))
            progress.advance(task, sum(len(batch) for block in blocks[: len(finished)] for batch in block.batches))
            for block in blocks[len(finished) :]:
                digest = xxhash.xxh3_128()
                computed = in_order(compute, block.batches, num_workers=num_workers(self.prefix))
                for batch, data in zip(block.batches, computed, strict=True):
                    file.write(data)
                    digest.update(data)
                    progress.advance(task, len(batch))
                    stopping.check()
                sync()
                finished.append({"bytes": block.num_bytes, "digest": digest.hexdigest()})
                with atomic_write(partial / PROGRESS_FILE, "w") as record:
                    json.dump(finished, record)
        with atomic_write(partial / MANIFEST_FILE, "w") as manifest:
            json.dump(asdict(contents) | {"blocks": finished}, manifest, indent=1)

    def _adopt(self, partial: Path, contents: StoreContents, blocks: Sequence[Block]) -> list[BlockRecord]:
        """Move what a killed build of the same store left to `partial`, and return its intact blocks."""
        finished: list[BlockRecord] = []
        for left in self.folder.glob(f"{contents.key}.partial-*"):
            pairs = zip(read_finished_blocks(left), blocks, strict=False)
            # a build with other batches has blocks of other sizes
            usable = [record for record, _ in takewhile(lambda pair: pair[0]["bytes"] == pair[1].num_bytes, pairs)]
            if len(usable) > len(finished):
                shutil.rmtree(partial, ignore_errors=True)
                left.rename(partial)
                finished = usable
            else:
                shutil.rmtree(left, ignore_errors=True)
        return finished

    @torch.inference_mode()
    def _compute(self, tokens: TokenRows, rows: npt.NDArray[np.int64], *, depth: int) -> bytes:
        """Return the hidden states of a batch without its padding, one review after the other, as bytes."""
        ids, mask = tokens.padded(rows)
        has_padding = tokens.mask_padding and not mask.all()
        attention_mask = torch.from_numpy(mask).to(self.prefix.device) if has_padding else None
        hidden = self.prefix(torch.from_numpy(ids).to(self.prefix.device), attention_mask, stop=depth)
        if attention_mask is not None and hidden.shape[1] > 1:
            hidden = hidden[attention_mask]
        data: bytes = hidden.contiguous().cpu().view(torch.uint8).numpy().tobytes()
        return data


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def clear(folder: Path) -> int:
    """Remove all stores in a folder and return the bytes freed."""
    size = folder_size(folder) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return size


def _build_progress() -> Progress:
    return Progress(transient=True, disable=not sys.stdout.isatty())
