"""A callback that holds a run at a step: found by its name, because PYTHONPATH holds this folder."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from bertlens.system import stopping


class Hold(pl.Callback):
    """After a step, wait until a stop is requested, if `folder` has a file named as the run; remove the file at once.

    Until it has been removed the run has not come that far. On several processes only the main one has this effect.
    """

    def __init__(self, folder: str, step: int) -> None:
        self.folder = Path(folder)
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *batch: Any) -> None:
        name = self.folder / Path(trainer.default_root_dir).name
        if trainer.is_global_zero and trainer.global_step == self.step and name.exists():
            name.unlink()
            end = time.monotonic() + 300
            while not stopping.is_requested() and time.monotonic() < end:
                time.sleep(0.05)
