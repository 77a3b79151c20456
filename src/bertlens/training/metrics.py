"""The metrics of each stage, which are torchmetrics', and the predictions of a test.

Shapes: B reviews of a batch, R reviews of a split, C classes.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
)
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities.data import dim_zero_cat


class PresentClassesAUROC(MulticlassAUROC):
    """The mean AUROC of the classes that a split has; torchmetrics counts a class without reviews as 0."""

    def compute(self) -> Tensor:  # type: ignore[override]  # as of torchmetrics' own class
        probabilities, labels = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        present = sorted(set(labels.tolist()))
        each = [binary_auroc(probabilities[:, label], (labels == label).long()) for label in present]
        return torch.stack(each).mean()


class StageMetrics(MetricCollection):
    """The mean loss and the metrics of one stage, named `<stage>/<metric>`."""

    def __init__(self, num_classes: int, *, stage: str) -> None:
        # of a test each process measures all reviews, which `Predictions` has gathered
        options: dict[str, Any] = {"validate_args": False, "sync_on_compute": stage != "test"}
        chosen: dict[str, Metric | MetricCollection] = {
            # keep NaN visible; "disable" would also ignore the weights
            "loss": MeanMetric(nan_strategy=float("nan"), sync_on_compute=stage != "test"),
            "accuracy": MulticlassAccuracy(num_classes, average="micro", **options),  # over all reviews
            "f1": MulticlassF1Score(num_classes, average="macro", **options),  # the mean over classes
            "auroc": PresentClassesAUROC(num_classes, **options),
        }
        # metrics of a compute group share one state, which only one of them has when a checkpoint is written
        super().__init__(chosen, prefix=f"{stage}/", compute_groups=False)
        self.num_classes = num_classes

    def add(self, loss: Tensor, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, probabilities [B, C] and labels [B]. Each review counts once."""
        self.update(value=loss, weight=len(labels), preds=probabilities, target=labels)

    def states(self) -> dict[str, dict[str, Tensor | list[Tensor]]]:
        """Return what has been counted so far, by metric."""
        return {name: metric.metric_state for name, metric in self.items()}

    def load_states(self, states: dict[str, dict[str, Tensor | list[Tensor]]], device: torch.device) -> None:
        """Go on from what `states` returned. A metric that is not in it starts anew."""
        # torchmetrics warns of metrics without an update, so add a review, which the states then replace
        loss = torch.zeros((), device=device)
        self.add(loss, loss.expand(1, self.num_classes), loss.long().view(1))
        for name, metric in self.items():
            metric.reset() if name not in states else metric.load_state_dict(states[name])
        self.to(device)


class Predictions(Metric):
    """Every review's logits, gathered over batches and processes, in the order of the split."""

    full_state_update = False
    rows: list[Tensor]
    labels: list[Tensor]
    logits: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("rows", "labels", "logits"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor, labels: Tensor, logits: Tensor) -> None:
        self.rows.append(rows)
        self.labels.append(labels)
        self.logits.append(logits)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows [R], labels [R] and logits [R, C], sorted by row: the review's place in the split."""
        rows, labels, logits = (dim_zero_cat(state).cpu() for state in (self.rows, self.labels, self.logits))
        order = rows.argsort()
        return rows[order], labels[order], logits[order]
