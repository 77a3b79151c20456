"""A callback that makes a stage slow and says where it is: found by its name, because PYTHONPATH holds this folder."""

import os
import time
from typing import Any

import pytorch_lightning as pl

from bertlens.features import store


class Slow(pl.Callback):
    """Print `@ <stage> <rank> <process id>` before each build, batch and checkpoint, and wait."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        build, compute = store.FeatureStore.build, store.compute

        def build_slowly(*arguments: Any, **options: Any) -> int:
            os.write(1, f"@ build {os.environ.get('LOCAL_RANK', 0)} {os.getpid()}\n".encode())
            time.sleep(seconds)
            return build(*arguments, **options)

        def compute_slowly(*arguments: Any, **options: Any) -> Any:
            time.sleep(seconds)
            return compute(*arguments, **options)

        store.FeatureStore.build, store.compute = build_slowly, compute_slowly

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
