"""What happens beside the training step: checkpoints, stopping, and lines for the terminal."""

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from bertlens.errors import InputError
from bertlens.model.checkpoint import read_raw
from bertlens.system import stopping
from bertlens.system.files import atomic_write
from bertlens.training.metrics import StageMetrics

log = logging.getLogger(__name__)

Found = TypeVar("Found", bound=pl.Callback)


def best_accuracy(trainer: pl.Trainer) -> dict[str, Tensor]:
    """Return the best validation accuracy of a fit under its logged name; empty if no epoch was validated."""
    scores = {
        callback.monitor: callback.best_model_score
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None
    }
    return {name: score for name, score in scores.items() if score is not None}


def check_monitors(callbacks: Sequence[pl.Callback]) -> None:
    """Raise `InputError` for a callback that monitors a metric that is not logged: Lightning notices after an epoch."""
    if not all(type(callback).__module__.startswith("pytorch_lightning.") for callback in callbacks):
        return  # a callback of the user's may log metrics of its own
    logged = [str(name) for stage in ("train", "val") for name in StageMetrics(2, stage=stage)]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor not in (None, "epoch", "step", "train/loss_step", *logged):
            name = type(callback).__name__
            raise InputError(f"callbacks: {name} has monitor={monitor!r}; choose one of {', '.join(logged)}")


def kept_checkpoint(trainer: pl.Trainer, keep: str) -> Path | None:
    """Return the checkpoint to test after a fit, "best" or "last"; None if the trainer writes none."""
    best, last = _find(trainer, BestCheckpoint), _find(trainer, LastCheckpoint)
    if best is None or last is None:
        return None
    if keep == "last":
        return last.path
    if not best.best_model_path:
        log.info("no epoch was validated: last.ckpt is tested")
        return last.path
    if _find(trainer, StochasticWeightAveraging):
        log.warning(
            "best.ckpt is tested; the weights that were averaged at the end are in last.ckpt (checkpoint.keep=last)"
        )
    return Path(best.best_model_path)


def load_weights(module: pl.LightningModule, path: Path) -> None:
    """Put the weights of a checkpoint into a module.

    Not `Trainer.test(ckpt_path=...)`: that restores callbacks, of which one that averages weights replaces the averaged
    ones by those of the last step.
    """
    module.load_state_dict(read_raw(path)["state_dict"])


def _find(trainer: pl.Trainer, kind: type[Found]) -> Found | None:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


class BestCheckpoint(ModelCheckpoint):
    """Keep `best.ckpt`, of the epoch with the best validation accuracy.

    A run that is resumed in another folder copies the best one so far: else a worse epoch would count as the best.
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
    """Keep `last.ckpt`, from which a stopped or killed run goes on with the same numbers.

    It is written every so many steps, before each validation and at the end of each epoch. Each time the module has its
    own weights: callbacks that average weights exchange them only within a validation.
    """

    def __init__(self, folder: Path, *, every_n_steps: int | None) -> None:
        self.path = folder / "last.ckpt"
        self.every_n_steps = every_n_steps

    def save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if is_due and _can_resume_here(trainer, batch_idx):
            self.save(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.validating:
            return
        # Lightning resumes a validation only if its first batch has begun, so the checkpoint says that it has
        progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        before = progress.state_dict()
        for count in (progress.total, progress.current):
            count.ready = count.started = count.completed + 1
            count.processed = count.completed
        self.save(trainer)
        progress.load_state_dict(before)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if _find(trainer, StochasticWeightAveraging):  # it puts the averaged weights into the module only now
            self.save(trainer)


class StopOnRequest(pl.Callback):
    """End a run that was asked to stop: training after an optimizer step, on all ranks together.

    Validation and test end on each rank by itself, because ranks may have different numbers of batches; `last.ckpt` is
    on disk by then.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        stopping.pass_on_to(process.pid for process in getattr(trainer.strategy.launcher, "procs", ()))

    def _handle(self, *_: Any, **__: Any) -> None:
        """Replace the handler that Lightning sets as each stage begins: it broadcasts, which can block for ever."""
        stopping.handle()

    on_train_start = on_validation_start = on_test_start = _handle

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if _can_resume_here(trainer, batch_idx) and stop_requested(trainer):
            if last := _find(trainer, LastCheckpoint):
                last.save(trainer)
            raise stopping.stopped()

    def _stop_alone(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if stop_requested(trainer):
            raise stopping.stopped()

    on_validation_batch_end = on_test_batch_end = _stop_alone


def stop_requested(trainer: pl.Trainer) -> bool:
    """Return whether to stop. While training all ranks get the same answer; each must ask after the same batch."""
    requested = stopping.is_requested()
    if trainer.training and trainer.world_size > 1:
        return trainer.strategy.reduce_boolean_decision(requested, all=False)
    return requested


def _can_resume_here(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Return whether an optimizer step just ended and another batch follows.

    Lightning cannot resume a run between a training batch and the validation after it.
    """
    ends = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.global_step == trainer.max_steps
    if ends or trainer.should_stop or (batch_idx + 1) % trainer.accumulate_grad_batches:
        return False
    in_epoch = trainer.check_val_every_n_epoch is not None
    batches = (batch_idx if in_epoch else trainer.fit_loop.total_batch_idx) + 1
    return not trainer.val_check_batch or batches % trainer.val_check_batch != 0


class IterationLines(pl.Callback):
    """Print the notebook's line every few iterations: loss, seconds and batch accuracy."""

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
