"""What happens beside the training step."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from bertlens.system import stopping
from bertlens.system.files import atomic_write

log = logging.getLogger(__name__)


def best_accuracy(trainer: pl.Trainer) -> dict[str, Tensor]:
    """The best validation accuracy of a fit, under its logged name; empty if it never validated."""
    scores = {
        callback.monitor: callback.best_model_score
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None
    }
    return {name: score for name, score in scores.items() if score is not None}


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, of the epoch with the best validation accuracy.

    A run that is resumed in another folder takes the best one so far along: else a worse epoch would pass for the best.
    """

    def __init__(self, folder: Path, *, resumed: Path | None) -> None:
        super().__init__(folder, filename="best", monitor="val/accuracy", mode="max", enable_version_counter=False)
        self.resumed = resumed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        moved = state_dict["dirpath"] != self.dirpath
        if self.resumed is not None and moved and state_dict["best_model_score"] is not None:
            earlier, own = self.resumed.with_name("best.ckpt"), Path(str(self.dirpath), "best.ckpt")
            if not earlier.is_file():
                log.warning("there is no %s: only the epochs from here on are compared for the best", earlier)
                return
            if earlier.resolve() != own.resolve():
                with earlier.open("rb") as source, atomic_write(own) as file:
                    shutil.copyfileobj(source, file)
            state_dict = state_dict | {
                "dirpath": self.dirpath,
                "best_model_path": str(own),
                "kth_best_model_path": str(own),
                "best_k_models": {str(own): state_dict["best_model_score"]},
            }
        super().load_state_dict(state_dict)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`: where a run that was stopped or killed goes on, step for step.

    Written every so many steps, when an epoch's training is done, again after its validation, and when the run is asked
    to stop. Between the last batch of an epoch and its validation Lightning cannot be resumed: the module's first
    validation step calls `save` instead.
    """

    def __init__(self, folder: Path, *, every_n_steps: int | None) -> None:
        self.path = folder / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._step = 0

    def save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step
        stopping.handle()  # Lightning's own handler, set a moment ago, would leave without saving

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ends_step = trainer.global_step != self._step  # of accumulated batches only the last does
        self._step = trainer.global_step
        if not ends_step or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        stop = stop_requested(trainer)
        if stop or (self.every_n_steps is not None and self._step % self.every_n_steps == 0):
            self.save(trainer)
        if stop:
            raise stopping.stopped()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if stop_requested(trainer):
            raise stopping.stopped()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)  # a request to stop waits for the next step, or for the end: this epoch is yet to be logged


def stop_requested(trainer: pl.Trainer) -> bool:
    """Whether any process of the run was asked to stop: all must answer the same, or some would wait for ever."""
    requested = stopping.is_requested()
    return requested if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(requested, all=False)


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
