"""Logits into numbers, curves and figures. The numbers are torchmetrics'; the figures are drawn here.

Shapes: R reviews, C classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassF1Score,
)
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_roc
from torchmetrics.utilities.data import dim_zero_cat

from bertlens.system.escape import figure_text

NUM_CALIBRATION_BINS = 10


def build_metrics(num_classes: int, *, stage: str) -> MetricCollection:
    """Accuracy over all reviews; F1 and AUROC as the mean over classes."""
    chosen: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
        "f1": MulticlassF1Score(num_classes, average="macro", validate_args=False),
        "auroc": MulticlassAUROC(num_classes, average="macro", validate_args=False),
    }
    if stage == "test":
        chosen["calibration_error"] = MulticlassCalibrationError(
            num_classes, n_bins=NUM_CALIBRATION_BINS, validate_args=False
        )
    # each with a state of its own: in a compute group only one member's is up to date when a checkpoint is written
    return MetricCollection(chosen, prefix=f"{stage}/", compute_groups=False)


class Predictions(Metric):
    """Every review's probabilities, gathered over batches and processes, in the split's order."""

    full_state_update = False
    rows: list[Tensor]
    labels: list[Tensor]
    probabilities: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for state in ("rows", "labels", "probabilities"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor, labels: Tensor, probabilities: Tensor) -> None:
        self.rows.append(rows)
        self.labels.append(labels)
        self.probabilities.append(probabilities)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """rows [R], labels [R], probabilities [R, C], by row."""
        rows, labels, probabilities = (
            dim_zero_cat(state).cpu() for state in (self.rows, self.labels, self.probabilities)
        )
        order = rows.argsort()
        return rows[order], labels[order], probabilities[order]


def figures(labels: Tensor, probabilities: Tensor, label_names: Sequence[str]) -> dict[str, Figure]:
    """The pictures of a test: confusion matrix, ROC and calibration. labels [R], probabilities [R, C]."""
    names = [figure_text(name) for name in label_names]
    return {
        "confusion_matrix": _confusion_matrix(labels, probabilities, names),
        "roc": _roc(labels, probabilities, names),
        "calibration": _calibration(labels, probabilities),
    }


def _axes(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _confusion_matrix(labels: Tensor, probabilities: Tensor, names: Sequence[str]) -> Figure:
    counts = multiclass_confusion_matrix(probabilities.argmax(dim=1), labels, num_classes=len(names))
    figure, axes = _axes("Confusion matrix", "verdict", "label")
    shares = counts.float() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names)
    for row in range(len(names)):
        for column in range(len(names)):
            count = int(counts[row, column])
            dark = count > counts[row].sum() / 2
            axes.text(column, row, f"{count:,}", ha="center", va="center", color="white" if dark else "black")
    return figure


def _roc(labels: Tensor, probabilities: Tensor, names: Sequence[str]) -> Figure:
    figure, axes = _axes("ROC", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    curves = multiclass_roc(probabilities, labels, num_classes=len(names))
    # of two classes the second one's curve says it all: the first one's is its mirror image
    shown = [1] if len(names) == 2 else range(len(names))
    lines = [axes.plot(curves[0][index].numpy(), curves[1][index].numpy())[0] for index in shown]
    legend = axes.legend(lines, [f"class {index}" for index in shown], loc="lower right")
    for text, index in zip(legend.get_texts(), shown, strict=True):
        text.set_text(names[index])  # afterwards: a legend leaves out a name that begins with an underscore
    return figure


def _calibration(labels: Tensor, probabilities: Tensor) -> Figure:
    confidence, verdict = probabilities.max(dim=1)
    correct = (verdict == labels).double()
    bins = (confidence * NUM_CALIBRATION_BINS).long().clamp(max=NUM_CALIBRATION_BINS - 1)
    count = torch.bincount(bins, minlength=NUM_CALIBRATION_BINS)
    filled = count > 0
    mean_confidence = torch.bincount(bins, confidence.double(), NUM_CALIBRATION_BINS)[filled] / count[filled]
    accuracy = torch.bincount(bins, correct, NUM_CALIBRATION_BINS)[filled] / count[filled]
    figure, axes = _axes("Calibration", "confidence", "accuracy")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    axes.bar(mean_confidence.numpy(), accuracy.numpy(), width=0.06, alpha=0.35)
    axes.plot(mean_confidence.numpy(), accuracy.numpy(), marker="o")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure
