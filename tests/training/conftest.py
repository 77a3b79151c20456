"""A LightningModule, reviews and a Trainer small enough to train in a second."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from bertlens.data.batching import Batch
from bertlens.model.bert import BertConfig
from bertlens.model.classifier import ReviewClassifier
from bertlens.training.checkpoint_io import AtomicCheckpointIO
from bertlens.training.module import ReviewModule
from bertlens.training.settings import OptimizerSettings

RECORD = {"format_version": 2, "label_names": ["negative", "positive"]}


def draw_batch(config: BertConfig, num_reviews: int, *, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, config.vocab_size, (num_reviews, 12), generator=random)
    labels = torch.randint(0, 2, (num_reviews,), generator=random)
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), labels, torch.arange(num_reviews))


class Position(Sampler[int]):
    """Numbers of batches in their order, from where a checkpoint left off."""

    def __init__(self, num_batches: int, position: int) -> None:
        self.num_batches = num_batches
        self.position = position

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[int]:
        self.position %= self.num_batches
        for index in range(self.position, self.num_batches):
            self.position += 1
            yield index


class TinyData(pl.LightningDataModule):
    """Five training batches and three validation batches; each rank gets all of them."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.train_batches = [draw_batch(config, 6, seed=seed) for seed in range(5)]
        self.val_batches = [draw_batch(config, 6, seed=seed) for seed in range(10, 13)]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.sampler.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position = state_dict["position"]

    def train_dataloader(self) -> DataLoader[Batch]:
        self.sampler = Position(len(self.train_batches), self.position)
        return DataLoader(self.train_batches, batch_size=None, sampler=self.sampler, generator=torch.Generator())

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.val_batches, batch_size=None, generator=torch.Generator())

    test_dataloader = val_dataloader


@pytest.fixture
def make_module(tiny_config: BertConfig) -> Callable[..., ReviewModule]:
    def make(*, whole_model: bool = False, optimizer: dict[str, Any] | None = None, **options: Any) -> ReviewModule:
        torch.manual_seed(0)
        return ReviewModule(
            ReviewClassifier(tiny_config, num_classes=2, **options),
            label_names=["negative", "positive"],
            optimizer=OptimizerSettings(**({"lr": 1e-3} | (optimizer or {}))),
            record=RECORD,
            whole_model=whole_model,
        )

    return make


@pytest.fixture
def make_batch(tiny_config: BertConfig) -> Callable[..., Batch]:
    return lambda num_reviews, seed=0: draw_batch(tiny_config, num_reviews, seed=seed)


@pytest.fixture
def make_data(tiny_config: BertConfig) -> Callable[[], TinyData]:
    return lambda: TinyData(tiny_config)


@pytest.fixture
def make_trainer() -> Callable[..., pl.Trainer]:
    def make(**options: Any) -> pl.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        saves = {"enable_checkpointing": bool(options.get("callbacks")), "plugins": [AtomicCheckpointIO()]}
        hardware = {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
        return pl.Trainer(**(quiet | saves | hardware | options))

    return make
