"""What happens beside the training step: checkpoints, stopping, and lines for the terminal."""

import logging
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, StochasticWeightAveraging, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from bertlens.errors import InputError
from bertlens.model.checkpoint import TEMPERATURE_KEY, epoch_of, read_raw
from bertlens.system import stopping
from bertlens.system.files import atomic_write
from bertlens.system.wording import duration
from bertlens.training.metrics import StageMetrics
from bertlens.training.module import ReviewModule

log = logging.getLogger(__name__)

Found = TypeVar("Found", bound=pl.Callback)


def kept_accuracy(trainer: pl.Trainer, keep: str) -> dict[str, float]:
    """Return the validation accuracy of the weights that a fit keeps under its logged name; empty if there is none."""
    best, rows = _find(trainer, BestCheckpoint), history(trainer)
    score: Tensor | float | None
    if keep == "last":
        score = rows[-1].get("val/accuracy") if rows else None
    else:
        score = best.best_model_score if best else None
    return {} if score is None else {"val/accuracy": float(score)}


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
    if last is None:
        return None
    if keep == "last" or best is None or not best.best_model_path:
        return last.path
    if _find(trainer, StochasticWeightAveraging):
        log.warning(
            "best.ckpt is tested; the weights that were averaged at the end are in last.ckpt (checkpoint.keep=last)"
        )
    return Path(best.best_model_path)


def describe_kept(trainer: pl.Trainer, keep: str) -> str:
    """Return which weights a fit has kept, and why."""
    best = _find(trainer, BestCheckpoint)
    if _find(trainer, LastCheckpoint) is None:
        return "nothing (this run writes no checkpoints)"
    if keep == "last" or best is None or not best.best_model_path:
        return "the last step (" + ("checkpoint.keep=last)" if keep == "last" else "no epoch was validated)")
    is_tie = [row.get("val/accuracy") for row in history(trainer)].count(float(best.best_model_score or 0)) > 1
    reason = "best validation accuracy" + (", tie broken by the loss" if is_tie else "")
    return f"epoch {read_raw(Path(best.best_model_path))['epoch'] + 1} of {trainer.current_epoch} ({reason})"


def average_late(average: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
    """Return the average of a run's weights in which about the last quarter of the steps so far counts.

    Polynomial-decay averaging (Shamir & Zhang 2013, with eta 3), for Lightning's `WeightAveraging`.
    """
    return average.lerp(current, 4 / (int(num_averaged) + 4))


def history(trainer: pl.Trainer) -> list[dict[str, float]]:
    """Return the metrics of each epoch of a fit, also of those before it was resumed."""
    lines = _find(trainer, EpochLines)
    return [] if lines is None else lines.history


def load_weights(module: ReviewModule, path: Path) -> None:
    """Put the weights of a checkpoint into a module, with the number of their last step as loggers count: from 0.

    Not `Trainer.test(ckpt_path=...)`: that restores callbacks, of which one that averages weights replaces the averaged
    ones by those of the last step.
    """
    checkpoint = read_raw(path)
    module.load_state_dict(checkpoint["state_dict"])
    module.last_step, module.epoch = checkpoint["global_step"] - 1, epoch_of(checkpoint)
    module.temperature = checkpoint.get(TEMPERATURE_KEY)


def _find(trainer: pl.Trainer, kind: type[Found]) -> Found | None:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


class BestCheckpoint(ModelCheckpoint):
    """Keep `best.ckpt`, of the epoch with the best validation accuracy, and of equal ones the lowest validation loss.

    A run that is resumed in another folder copies the best one so far: else a worse epoch would count as the best.
    """

    def __init__(self, folder: Path, *, resumed: Path | None) -> None:
        super().__init__(folder, filename="best", monitor="val/accuracy", mode="max", enable_version_counter=False)
        self.resumed = resumed
        self.best_loss = float("-inf")

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        loss = float(trainer.callback_metrics.get("val/loss", float("nan")))
        is_tie = current is not None and bool(current == self.best_model_score)
        is_better = super().check_monitor_top_k(trainer, current) or (is_tie and loss < self.best_loss)
        self.best_loss = loss if is_better else self.best_loss
        return is_better

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best_loss": self.best_loss}

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
        self.best_loss = state_dict.get("best_loss", float("-inf"))  # earlier versions kept the first of equal ones


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


class EpochLines(pl.Callback):
    """Print a line after each epoch, and the notebook's line every few iterations. Keep the metrics of each epoch."""

    def __init__(self, *, every: int | None) -> None:
        self.every = every
        self.history: list[dict[str, float]] = []
        self._epoch_began = self._since = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._epoch_began = self._since = time.perf_counter()
        module.measured.clear()  # not every epoch is validated

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.every is None or (batch_idx + 1) % self.every:
            return
        now = time.perf_counter()
        print_above_bar(
            f"iteration {trainer.global_step} || loss: {outputs['loss'].item():.4f} || "
            f"{self.every} iterations: {now - self._since:.1f} s || "
            f"batch accuracy: {outputs['accuracy'].item():.4f}"
        )
        self._since = now

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        # the module logs these after this call; torchmetrics computes them once
        metrics = module.metrics["train_metrics"].compute() | module.measured
        row = {"epoch": trainer.current_epoch + 1} | {name: value.item() for name, value in metrics.items()}
        self.history.append(row)
        validated = "; validation loss {val/loss:.3f}, accuracy {val/accuracy:.3f}" if "val/loss" in row else ""
        took = duration(time.perf_counter() - self._epoch_began)
        print_above_bar(f"{_epoch_of(trainer)}: loss {row['train/loss']:.3f}{validated.format_map(row)}; {took}")


@rank_zero_only
def print_above_bar(line: str) -> None:
    with Tqdm.external_write_mode():  # clears a progress bar and draws it again
        print(line, flush=True)


def _epoch_of(trainer: pl.Trainer) -> str:
    last = trainer.max_epochs or -1
    return f"epoch {trainer.current_epoch + 1}" + (f"/{last}" if last > 0 else "")


class OneLineBar(TQDMProgressBar):
    """Show one line, which tqdm cuts to the terminal's width: epoch, share, time left, loss, validation accuracy."""

    def init_train_tqdm(self) -> Tqdm:
        shown = "{desc}{percentage:3.0f}% |{bar}| {remaining} left{postfix}"
        options: dict[str, Any] = {"leave": False, "position": 0, "dynamic_ncols": True, "bar_format": shown}
        return Tqdm(disable=self.is_disabled, file=sys.stdout, **options)

    init_validation_tqdm = init_test_tqdm = init_train_tqdm

    def on_exception(self, *_: Any) -> None:
        for name in ("train_progress_bar", "val_progress_bar", "test_progress_bar"):
            with suppress(TypeError):  # there is none yet
                getattr(self, name).close()  # clears the line for the error's

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(_epoch_of(trainer))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        logged = trainer.progress_bar_metrics
        shown = {"train/loss_step": "loss", "val/accuracy": "validation accuracy"}
        return {label: f"{logged[name]:.3f}" for name, label in shown.items() if name in logged}
