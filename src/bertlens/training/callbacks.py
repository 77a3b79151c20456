"""What happens beside the training step."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor


def best_accuracy(trainer: pl.Trainer) -> dict[str, Tensor]:
    """The best validation accuracy of a fit, under its logged name; empty if it never validated."""
    scores = {
        callback.monitor: callback.best_model_score
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None
    }
    return {name: score for name, score in scores.items() if score is not None}


class IterationLines(pl.Callback):
    """The notebook's line: loss, seconds and batch accuracy every few iterations."""

    def __init__(self, *, every: int) -> None:
        self.every = every
        self._since = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.every:
            return
        now = time.perf_counter()
        self._print(
            f"iteration {trainer.global_step} || loss: {outputs['loss'].item():.4f} || "
            f"{self.every} iterations: {now - self._since:.1f} s || "
            f"batch accuracy: {outputs['accuracy'].item():.4f}"
        )
        self._since = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = trainer.callback_metrics
        self._print(f"validation || loss: {values['val/loss']:.4f} || accuracy: {values['val/accuracy']:.4f}")

    @rank_zero_only
    def _print(self, line: str) -> None:
        print(line, flush=True)
