"""A callback that makes a stage slow and says where it is: found by its name, because PYTHONPATH holds this folder."""

import os
import time
from typing import Any

import pytorch_lightning as pl


class Slow(pl.Callback):
    """Print `@ <stage> <rank> <process id>` before each batch and each checkpoint, and wait."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def _wait(self, stage: str, trainer: pl.Trainer) -> None:
        os.write(1, f"@ {stage} {trainer.global_rank} {os.getpid()}\n".encode())
        time.sleep(self.seconds)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._wait("fit", trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._wait("validate", trainer)

    def on_test_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._wait("test", trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        self._wait("save", trainer)
