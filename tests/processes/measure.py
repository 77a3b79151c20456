"""Measure 83 made-up reviews of many lengths on as many processes as the first argument says, and print each metric.

Lightning starts the other processes by running this file again.
"""

import json
import os
import sys

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from bertlens.data.batching import Batch, EvalSampler, TokenRows
from bertlens.data.tokenizer import WordPieces
from bertlens.model.bert import BertConfig
from bertlens.model.classifier import ReviewClassifier
from bertlens.training.module import ReviewModule

NUM_REVIEWS = 83
CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
    initializer_range=0.1,
)


class Reviews(pl.LightningDataModule):
    def test_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        random = np.random.default_rng(0)
        lengths = random.integers(3, 48, NUM_REVIEWS)
        ids = random.integers(5, 50, lengths.sum()).astype(np.int32)
        pieces = WordPieces(ids=ids, starts=np.cumsum([0, *lengths]), pad_id=0)
        sampler = EvalSampler(lengths, num_tokens=180, rank=self.trainer.global_rank, num_ranks=self.trainer.world_size)
        rows = TokenRows(pieces, random.integers(0, 2, NUM_REVIEWS).tolist())
        return DataLoader(rows, batch_size=None, sampler=sampler)


def main() -> None:
    torch.manual_seed(0)
    module = ReviewModule(ReviewClassifier(CONFIG, num_classes=2), label_names=["negative", "positive"])
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=int(sys.argv[1]),
        strategy="ddp",
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.test(module, Reviews(), verbose=False)
    probabilities = module.test_result[2].double().sum(dim=0).tolist()
    measured = {name: value.item() for name, value in module.measured.items()}
    # in one write: the lines of several processes do not interleave
    os.write(1, (json.dumps({"measured": measured, "probabilities": probabilities}) + "\n").encode())


main()
