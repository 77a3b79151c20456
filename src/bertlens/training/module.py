"""The LightningModule: one step for training, validation and test.

It gets batches of word-piece ids or of stored hidden states and does not care which: that is the classifier's affair.
"""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection

from bertlens.data.batching import Batch
from bertlens.errors import InputError
from bertlens.model.checkpoint import (
    FORMAT_KEY,
    METRICS_KEY,
    RANDOM_KEY,
    CheckpointInfo,
    random_state,
    set_random_state,
)
from bertlens.model.classifier import ReviewClassifier
from bertlens.training.callbacks import LastCheckpoint
from bertlens.training.metrics import Predictions, build_metrics
from bertlens.training.optim import OptimizerSettings, build_optimizer, build_schedule


class TrainingDiverged(InputError):
    """The loss is no longer a number."""


class ReviewModule(pl.LightningModule):
    """Cross-entropy on the classifier's logits; what it logs is named `<stage>/<metric>`."""

    def __init__(
        self,
        classifier: ReviewClassifier,
        *,
        info: CheckpointInfo,
        optimizer: OptimizerSettings | None = None,
        whole_model: bool = False,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.info = info
        self.optimizer_settings = optimizer or OptimizerSettings()
        self.whole_model = whole_model
        self.strict_loading = False  # a checkpoint holds the trained part; on_load_checkpoint checks it by name
        num_classes = len(info.label_names)
        stages = ("train", "val", "test")
        # a loss that is no number stays one; nan_strategy="disable" would drop the weights with the check
        self.losses = nn.ModuleDict({f"{stage}_loss": MeanMetric(nan_strategy=float("nan")) for stage in stages})
        self.metrics = nn.ModuleDict({f"{stage}_metrics": build_metrics(num_classes, stage=stage) for stage in stages})
        self.predictions = Predictions(num_classes)
        self._resumed: dict[str, Any] | None = None

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C]."""
        logits: Tensor = self.classifier(batch.inputs, batch.attention_mask, depth=batch.depth)
        return logits

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        logits = self(batch)
        loss = F.cross_entropy(logits.float(), batch.labels)
        # each review counts once: the last, short batch weighs less than a full one
        mean_loss, metrics = self._measures(stage)
        mean_loss.update(loss.detach(), weight=len(batch.labels))
        probabilities = logits.detach().float().softmax(dim=1)
        metrics.update(probabilities, batch.labels)
        return loss, probabilities

    def _measures(self, stage: str) -> tuple[MeanMetric, MetricCollection]:
        return cast(MeanMetric, self.losses[f"{stage}_loss"]), cast(MetricCollection, self.metrics[f"{stage}_metrics"])

    def _log_epoch(self, stage: str) -> None:
        loss, metrics = self._measures(stage)
        values = {f"{stage}/loss": loss.compute(), **metrics.compute()}
        self.log_dict(values, prog_bar=stage == "val", sync_dist=True)
        loss.reset()
        metrics.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        loss, probabilities = self._step(batch, "train")
        if not torch.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss.item()} at {self._where()}")
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss_step", loss, prog_bar=True)
        return {"loss": loss, "accuracy": (probabilities.argmax(dim=1) == batch.labels).float().mean()}

    def _where(self) -> str:
        rates = ", ".join(f"{group['lr']:g}" for group in self.trainer.optimizers[0].param_groups)
        return (
            f"step {self.global_step} with a learning rate of {rates}: "
            "lower optimizer.lr; the checkpoints written before this step are good"
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            for callback in self.trainer.checkpoint_callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.save(self.trainer)
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        _, probabilities = self._step(batch, "test")
        self.predictions.update(batch.rows, batch.labels, probabilities)

    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    def on_test_epoch_start(self) -> None:
        self.predictions.reset()

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")
        self.test_result = self.predictions.compute()

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.classifier, self.optimizer_settings)
        num_steps = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule(optimizer, self.optimizer_settings, num_steps=num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def saved_names(self) -> set[str]:
        """The parameters a checkpoint holds."""
        return {name for name, p in self.named_parameters() if self.whole_model or p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        names = self.saved_names()
        checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in names}
        for name, parameter in checkpoint["state_dict"].items():
            if not torch.isfinite(parameter).all():
                raise TrainingDiverged(f"{name} is no number after {self._where()}")
        # a run that is stopped within an epoch goes on with what it had counted of it
        checkpoint[METRICS_KEY] = [(metric.update_count, metric.metric_state) for metric in self._train_metrics()]
        checkpoint[FORMAT_KEY] = self.info.to_dict(whole_model=self.whole_model)
        checkpoint[RANDOM_KEY] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved, expected = set(checkpoint["state_dict"]), self.saved_names()
        if not expected <= saved:
            missing = ", ".join(sorted(expected - saved)[:4])
            raise InputError(f"the checkpoint does not fit the model: it lacks {missing}; check model.trainable_layers")
        self._resumed = {key: checkpoint[key] for key in (RANDOM_KEY, METRICS_KEY)}

    def on_train_start(self) -> None:
        # not while loading: what Lightning sets up in between may draw numbers too
        if self._resumed is not None:
            set_random_state(self._resumed[RANDOM_KEY])
            for metric, (count, state) in zip(self._train_metrics(), self._resumed[METRICS_KEY], strict=True):
                metric._update_count = count
                for name, value in state.items():
                    setattr(metric, name, value)
                metric.to(self.device)
            self._resumed = None

    def _train_metrics(self) -> list[Metric]:
        loss, metrics = self._measures("train")
        return [loss, *metrics.values()]
