"""The LightningDataModule: reviews, their word pieces and, where they are stored, their features, in loaders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from bertlens.data.batching import Batch, EvalSampler, TokenRows, TrainSampler
from bertlens.data.reviews import load_reviews, load_test_file
from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer, WordPieces, tokenize
from bertlens.errors import InputError


class ReviewDataModule(pl.LightningDataModule):
    """Reviews by split: `reviews` (text and label), `pieces` (their ids), and loaders for them.

    Three attributes may be set after `setup`: `stored`, datasets of the splits whose features are in a store;
    `compute`, which iterates over the other splits where no gradient is needed (None: as word pieces); and `build`,
    called once in the next `setup` by a Trainer, where all its processes are there.
    With `known_labels`, those of a checkpoint, only the test split is prepared. With `fixed_order` every epoch has the
    training batches of epoch 0, in the same order.
    """

    reviews: datasets.DatasetDict
    pieces: dict[str, WordPieces]

    def __init__(
        self,
        settings: DataSettings,
        tokenizer: ReviewTokenizer,
        *,
        mask_padding: bool,
        cache: Path,
        seed: int,
        known_labels: Sequence[str] | None = None,
        reviews: datasets.DatasetDict | None = None,
        fixed_order: bool = False,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.tokenizer = tokenizer
        self.mask_padding = mask_padding
        self.cache = cache
        self.seed = seed
        self.known_labels = known_labels
        self.reviews = datasets.DatasetDict() if reviews is None else reviews
        self.fixed_order = fixed_order
        self.pieces = {}
        self.stored: Mapping[str, Dataset[Batch]] = {}
        self.compute: Callable[[TokenRows, list[list[int]]], Iterable[Batch]] | None = None
        self.build: Callable[[], None] | None = None
        self.num_features = {"found": 0, "computed": 0}  # reviews, for metrics.json
        self._sampler: TrainSampler | None = None
        self._sampler_state: dict[str, int] | None = None  # read from a checkpoint

    def setup(self, stage: str | None = None) -> None:
        """Read the reviews and cut them into word pieces, unless an earlier call did. Raises as `read_reviews`."""
        if self.trainer is not None and self.build is not None:
            self.build()
            self.build = None
        if self.pieces:
            return
        self.read_reviews()
        self.pieces = {
            split: tokenize(self.reviews[split], self.tokenizer, self.cache / "tokens", split=split)
            for split in (self.reviews if self.known_labels is None else ["test"])
        }

    def read_reviews(self) -> None:
        """Read the reviews alone, unless an earlier call did.

        Raises `InputError` for reviews that cannot be used, or whose labels are not those of the checkpoint.
        """
        if self.reviews:
            pass  # another classifier's
        elif self.known_labels is not None and self.settings.source == "files" and self.settings.test_file is not None:
            self.reviews = datasets.DatasetDict({"test": load_test_file(self.settings, self.known_labels)})
        else:
            self.reviews = load_reviews(self.settings)
        if self.known_labels is not None and "test" not in self.reviews:
            raise InputError("data.test_file is missing: the checkpoint's run kept no test reviews, so name a file")
        if self.known_labels is not None and list(self.known_labels) != self.label_names:
            raise InputError(
                f"the reviews have the labels {', '.join(map(repr, self.label_names))}, but the checkpoint was trained "
                f"on {', '.join(map(repr, self.known_labels))}: name reviews with the same labels"
            )

    @property
    def label_names(self) -> list[str]:
        return list(next(iter(self.reviews.values())).features["label"].names)

    def digest(self, split: str) -> str:
        """Return a hash of a split's word pieces and labels, in their order."""
        return self.pieces[split].digest(repr(self.reviews[split]["label"][:]))

    def token_rows(self, split: str) -> TokenRows:
        """Return the word pieces of a split as a dataset of batches."""
        labels = self.reviews[split]["label"][:]  # the column itself would be read a row at a time
        return TokenRows(self.pieces[split], labels, pad_to=self.settings.pad_to, mask_padding=self.mask_padding)

    # The position within an epoch is saved here. Lightning would save a loader's state as well, but it does not restore
    # it: the learning-rate schedule needs the loader before the checkpoint is read.

    def state_dict(self) -> dict[str, Any]:
        return {} if self._sampler is None else self._sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sampler_state = dict(state_dict)

    def train_dataloader(self) -> DataLoader[Batch]:
        self._sampler = TrainSampler(
            self.pieces["train"].lengths,
            batch_size=self.settings.batch_size,
            similar_length=self.settings.pad_to is None,
            seed=self.seed,
            fixed_order=self.fixed_order,
            **self._ranks(),
        )
        if self._sampler_state is not None:
            self._sampler.load_state_dict(self._sampler_state)
        return self._loader("train", self._sampler)

    def val_dataloader(self) -> Iterable[Batch]:
        return self._eval_dataloader("validation")

    def test_dataloader(self) -> Iterable[Batch]:
        return self._eval_dataloader("test")

    def _eval_dataloader(self, split: str) -> Iterable[Batch]:
        lengths = self.pieces[split].lengths
        if self.settings.pad_to is not None:
            lengths = lengths * 0 + self.settings.pad_to
        num_tokens = self.settings.tokens_per_batch
        if self.compute is not None and split not in self.stored:  # a core takes a batch
            sampler = EvalSampler(lengths, num_tokens=num_tokens, **self._ranks())
            return self.compute(self.token_rows(split), list(sampler))
        num_cores = 1 if self._is_on_gpu else torch.get_num_threads()  # they share a batch
        return self._loader(split, EvalSampler(lengths, num_tokens=num_tokens * num_cores, **self._ranks()))

    def _ranks(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "num_ranks": self.trainer.world_size} if self.trainer else {}

    @property
    def _is_on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _loader(self, split: str, sampler: TrainSampler | EvalSampler) -> DataLoader[Batch]:
        dataset = self.stored.get(split) or self.token_rows(split)
        on_gpu = getattr(dataset, "device", torch.device("cpu")).type == "cuda"  # features that fit into its memory
        return DataLoader(
            dataset,
            batch_size=None,  # the sampler yields the rows of whole batches
            sampler=sampler,
            num_workers=0,  # a batch is one vectorised look-up, which worker processes would only copy
            pin_memory=self._is_on_gpu and not on_gpu,
            generator=torch.Generator(),  # the default one would draw a number per epoch that dropout was to have
        )
