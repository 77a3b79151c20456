"""The LightningDataModule: reviews, word pieces and (where there is one) the feature store, wired into loaders."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from bertlens.data.batching import Batch, BatchSettings, EvalSampler, TokenRows, TrainSampler
from bertlens.data.reviews import ReviewSettings, load_reviews, load_test_file
from bertlens.data.tokenizer import ReviewTokenizer, WordPieces, tokenize
from bertlens.errors import InputError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
SPLITS = ("train", "validation", "test")


class ReviewDataModule(pl.LightningDataModule):
    """Reviews by split: `reviews` (text and label), `pieces` (their ids), and loaders over them."""

    reviews: datasets.DatasetDict
    pieces: dict[str, WordPieces]

    def __init__(
        self,
        reviews: ReviewSettings,
        tokenizer: ReviewTokenizer,
        batches: BatchSettings,
        *,
        mask_padding: bool,
        cache: Path,
        seed: int,
        known_labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.review_settings = reviews
        self.tokenizer = tokenizer
        self.batches = batches
        self.mask_padding = mask_padding
        self.cache = cache
        self.seed = seed
        self.known_labels = known_labels  # those of a checkpoint: then there is nothing to train, only to test
        self.pieces = {}
        self.stored: Mapping[str, Dataset[Batch]] = {}  # splits whose rows come from a feature store
        self._sampler: TrainSampler | None = None
        self._sampler_state: dict[str, int] | None = None  # of a checkpoint
        # how a split without one is passed over where there is no gradient; None: as word pieces
        self.compute: Callable[[TokenRows, list[list[int]]], Iterable[Batch]] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the reviews and their word pieces; a second call finds them there.

        Raises `InputError` for reviews that cannot be used, or whose labels are not those of the checkpoint.
        """
        if self.pieces:
            return
        settings = self.review_settings
        if self.known_labels is not None and settings.source == "files":
            self.reviews = datasets.DatasetDict({"test": load_test_file(settings, self.known_labels)})
        else:
            self.reviews = load_reviews(settings)
        if self.known_labels is not None and list(self.known_labels) != self.label_names:
            raise InputError(
                f"the reviews have the labels {', '.join(map(repr, self.label_names))}, but the checkpoint was trained "
                f"on {', '.join(map(repr, self.known_labels))}: name reviews with the same labels"
            )
        self.pieces = {
            split: tokenize(self.reviews[split], self.tokenizer, self.cache / "tokens", split=split)
            for split in (SPLITS if self.known_labels is None else ["test"])
        }

    @property
    def label_names(self) -> list[str]:
        return list(self.reviews["test"].features["label"].names)

    def digest(self, split: str) -> str:
        """Of a split's word pieces and labels, in their order."""
        return self.pieces[split].digest(repr(list(self.reviews[split]["label"])))

    @property
    def pad_to(self) -> int | None:
        return self.tokenizer.settings.max_length if self.batches.padding == "max_length" else None

    def token_rows(self, split: str) -> TokenRows:
        """A split's word pieces, as rows to make batches of."""
        return TokenRows(
            self.pieces[split], self.reviews[split]["label"], pad_to=self.pad_to, mask_padding=self.mask_padding
        )

    def _rows(self, split: str) -> Dataset[Batch]:
        return self.stored.get(split) or self.token_rows(split)

    def _ranks(self) -> dict[str, int]:
        trainer = self.trainer
        return {"rank": trainer.global_rank, "num_ranks": trainer.world_size} if trainer else {}

    def _loader_options(self, rows: Dataset[Batch]) -> dict[str, Any]:
        to_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        already_there = getattr(rows, "device", CPU).type == "cuda"  # features that fit into the GPU's memory
        return {
            "dataset": rows,
            # a whole batch is one vectorised look-up: worker processes would only add a copy
            "batch_size": None,
            "num_workers": 0,
            "pin_memory": to_gpu and not already_there,
            # its own: else making an iterator would draw a number that dropout was to have
            "generator": torch.Generator(),
        }

    # Where the order of reviews stands goes into checkpoints from here, not from the loader: Lightning would save a
    # loader's state too, but not restore it, because the schedule has the loader made before a checkpoint is read.

    def state_dict(self) -> dict[str, Any]:
        return {} if self._sampler is None else self._sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sampler_state = dict(state_dict)

    def train_dataloader(self) -> DataLoader[Batch]:
        self._sampler = TrainSampler(
            self.pieces["train"].lengths,
            batch_size=self.batches.batch_size,
            similar_length=self.batches.padding == "longest",
            seed=self.seed,
            **self._ranks(),
        )
        if self._sampler_state is not None:
            self._sampler.load_state_dict(self._sampler_state)
        return DataLoader(sampler=self._sampler, **self._loader_options(self._rows("train")))

    def _eval_dataloader(self, split: str) -> Iterable[Batch]:
        lengths = self.pieces[split].lengths
        if self.pad_to is not None:
            lengths = lengths * 0 + self.pad_to
        sampler = EvalSampler(lengths, num_tokens=self.batches.tokens_per_batch, **self._ranks())
        if self.compute is not None and split not in self.stored:
            return self.compute(self.token_rows(split), list(sampler))
        return DataLoader(sampler=sampler, **self._loader_options(self._rows(split)))

    def val_dataloader(self) -> Iterable[Batch]:
        return self._eval_dataloader("validation")

    def test_dataloader(self) -> Iterable[Batch]:
        return self._eval_dataloader("test")
