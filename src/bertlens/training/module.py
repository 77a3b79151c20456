"""The LightningModule: one step for training, validation and test.

It holds what is trained and calls the frozen prefix, which is not in its tree: so Lightning's own saving, loading and
averaging of weights are right as they are. Left out: files and callbacks.

Shapes: B reviews, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertlens.data.batching import Batch
from bertlens.errors import InputError
from bertlens.model.checkpoint import FORMAT_KEY, FROZEN_KEY, METRICS_KEY, RANDOM_KEY, TEMPERATURE_KEY
from bertlens.model.classifier import ReviewClassifier
from bertlens.training.checkpoint_io import gather_objects, random_state, set_random_state
from bertlens.training.metrics import Predictions, StageMetrics
from bertlens.training.optim import build_optimizer, build_schedule
from bertlens.training.settings import OptimizerSettings
from bertlens.training.uncertainty import calibration, fit_temperature


class TrainingDiverged(InputError):
    """The loss or a parameter is NaN or infinite."""


class ReviewModule(pl.LightningModule):
    """Cross-entropy on the classifier's logits. Metrics are logged as `<stage>/<metric>`."""

    def __init__(
        self,
        classifier: ReviewClassifier,
        *,
        label_names: Sequence[str],
        optimizer: OptimizerSettings | None = None,
        record: Mapping[str, Any] | None = None,
        whole_model: bool = False,
    ) -> None:
        """`record`: what each checkpoint holds for rebuilding the model. `whole_model`: save the prefix as well."""
        super().__init__()
        self.classifier = classifier.suffix
        self.prefix = classifier.prefix
        self.optimizer_settings = optimizer or OptimizerSettings()
        self.record = dict(record or {})
        own = dict(self.classifier.named_parameters())
        self.frozen_parameters = {
            name: parameter for name, parameter in classifier.named_parameters() if whole_model and name not in own
        }
        self.metrics = nn.ModuleDict(
            {f"{stage}_metrics": StageMetrics(len(label_names), stage=stage) for stage in ("train", "val", "test")}
        )
        self.predictions = Predictions()  # of a test or a validation
        self.temperature: float | None = None  # by the last validation reviews, or of the weights that are tested
        self.is_calibrated = False  # the weights are those of a classifier that was restored so
        self.measured: dict[str, Tensor] = {}  # the last value of each metric
        self.num_reviews = {"train": 0, "test": 0}  # of all processes, in this run
        self.last_step: int | None = None  # of the weights that are tested, if they come from a checkpoint
        self.epoch: int | None = None  # theirs as well, counted from 1
        self.soft_labels: Tensor | None = None  # [R, C] of the training reviews, to learn instead of their labels
        self._unchecked_losses: list[tuple[str, Tensor]] = []
        self._resumed: dict[str, Any] | None = None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> NoReturn:
        """Raise `InputError`: a checkpoint lacks the published weights, which `bertlens.load` finds."""
        raise InputError(
            f"{checkpoint_path} holds only what was trained: use bertlens.load({str(checkpoint_path)!r}).module"
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, C]."""
        hidden = batch.inputs
        if self.prefix is not None:
            if hidden.is_floating_point():
                hidden = hidden.to(self.prefix.dtype)  # which trainer.precision=16-true has changed
            hidden = self.prefix(hidden, batch.attention_mask, start=batch.depth)
        logits: Tensor = self.classifier(hidden, batch.attention_mask)
        return logits

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        logits = self(batch).float()
        soft = self.soft_labels if stage == "train" else None
        loss = F.cross_entropy(logits, batch.labels if soft is None else soft[batch.rows])
        logits = logits.detach()
        self._metrics(stage).add(loss.detach(), logits.softmax(dim=1), batch.labels)
        return loss, logits

    def _metrics(self, stage: str) -> StageMetrics:
        return cast(StageMetrics, self.metrics[f"{stage}_metrics"])

    def _log_epoch(self, stage: str, more: Mapping[str, Tensor] | None = None) -> None:
        metrics = self._metrics(stage)
        values = metrics.compute() | dict(more or {})
        self.log_dict(values, prog_bar=stage == "val", sync_dist=True)
        self.measured |= values  # Lightning keeps no metrics of a barebones run
        metrics.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        loss, logits = self._step(batch, "train")
        self.num_reviews["train"] += len(batch.labels) * self.trainer.world_size
        self._unchecked_losses.append((self._where(), loss.detach()))
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged = every > 0 and (self.global_step + 1) % every == 0
        if is_logged or loss.device.type == "cpu":  # reading a loss on another device would wait for each step
            self._check_losses()
        if is_logged:
            self.log("train/loss_step", loss, prog_bar=True)
        accuracy = (logits.argmax(dim=1) == batch.labels).float().mean()
        return {"loss": self._weigh(loss, len(batch.labels)), "accuracy": accuracy}

    def _weigh(self, loss: Tensor, num_reviews: int) -> Tensor:
        """Scale the loss: the mean over processes is then that over reviews, of which one may have one less."""
        if self.trainer.world_size == 1:
            return loss
        mean = self.trainer.strategy.reduce(torch.tensor(float(num_reviews), device=loss.device), reduce_op="mean")
        return loss * (num_reviews / mean)

    def _check_losses(self) -> None:
        """Raise `TrainingDiverged` for the first loss since the last check that is NaN or infinite."""
        for where, loss in self._unchecked_losses:
            if not torch.isfinite(loss):
                raise TrainingDiverged(f"the loss is {loss.item()} at {where}")
        self._unchecked_losses.clear()

    def _where(self) -> str:
        rates = ", ".join(f"{group['lr']:g}" for group in self.trainer.optimizers[0].param_groups)
        return (
            f"step {self.global_step} with a learning rate of {rates}: "
            "lower optimizer.lr; the checkpoints written before this step are good"
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.predictions.update(batch.rows, batch.labels, self._step(batch, "val")[1])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.predictions.update(batch.rows, batch.labels, self(batch).float())

    def on_fit_start(self) -> None:
        # trainer.precision=16-true converts the module, and half-precision sums over an epoch would be wrong
        for stage in ("train", "val", "test"):
            self._metrics(stage).set_dtype(torch.float32)

    def on_test_start(self) -> None:
        self.on_fit_start()

    def on_train_epoch_end(self) -> None:
        self._check_losses()
        self._log_epoch("train")

    def on_validation_epoch_start(self) -> None:
        self.predictions.reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")
        self.validation_result = self.predictions.compute()
        _, labels, logits = self.validation_result
        self.temperature = fit_temperature(logits, labels.view(-1))

    def on_test_epoch_end(self) -> None:
        """Measure all reviews in the order of the split, so that no digit depends on how many processes shared them."""
        rows, labels, logits = self.predictions.compute()
        # rows [R], labels [R], probabilities [R, C]; torchmetrics makes a scalar of one row
        self.test_result = rows.view(-1), labels.view(-1), logits.softmax(dim=1)
        self.num_reviews["test"] = len(rows.view(-1))
        logits, labels = logits.to(self.device), labels.view(-1).to(self.device)
        self._metrics("test").add(F.cross_entropy(logits, labels), logits.softmax(dim=1), labels)
        found = {f"test/{name}": value.float() for name, value in calibration(logits, labels).items()}
        if self.temperature is not None:
            other = ("test_uncalibrated", logits * self.temperature), ("test_calibrated", logits / self.temperature)
            name, scaled = other[not self.is_calibrated]
            found |= {f"{name}/{metric}": value.float() for metric, value in calibration(scaled, labels).items()}
        self._log_epoch("test", found)
        if self.last_step is not None:
            self.log("step", float(self.last_step), sync_dist=True)  # where Lightning then puts what else is logged

    def configure_optimizers(self) -> Any:
        trainer = self.trainer
        clips_mixed = bool(trainer.gradient_clip_val) and "mixed" in str(trainer.precision)
        optimizer = build_optimizer(self.classifier, self.optimizer_settings, fused=not clips_mixed)
        num_steps = int(trainer.estimated_stepping_batches)
        schedule = build_schedule(optimizer, self.optimizer_settings, num_steps=num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_losses()
        for name, tensor in checkpoint["state_dict"].items():
            if not torch.isfinite(tensor).all():
                raise TrainingDiverged(f"{name} is NaN or infinite after {self._where()}")
        checkpoint[FORMAT_KEY] = self.record
        # a run that is stopped within an epoch goes on with what each of its processes had counted of it
        ranks = gather_objects((random_state(), self._metrics("train").states()))
        checkpoint[RANDOM_KEY], checkpoint[METRICS_KEY] = map(list, zip(*ranks, strict=True))
        if self.temperature is not None:
            checkpoint[TEMPERATURE_KEY] = self.temperature
        if self.frozen_parameters:
            checkpoint[FROZEN_KEY] = {name: parameter.detach() for name, parameter in self.frozen_parameters.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rank = self.global_rank % len(checkpoint[RANDOM_KEY])  # trainer.devices=auto may be another number elsewhere
        self._resumed = {key: checkpoint[key][rank] for key in (RANDOM_KEY, METRICS_KEY)}
        self.temperature = checkpoint.get(TEMPERATURE_KEY)

    def on_train_start(self) -> None:
        self.soft_labels = None if self.soft_labels is None else self.soft_labels.to(self.device)
        # not while loading: what Lightning sets up after that may draw random numbers
        if self._resumed is not None:
            set_random_state(self._resumed[RANDOM_KEY])
            self._metrics("train").load_states(self._resumed[METRICS_KEY], self.device)
            self._resumed = None
