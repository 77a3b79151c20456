"""The figures of a test: confusion matrix, ROC curves and calibration.

Shapes: R reviews, C classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_roc

from bertlens.system.escape import figure_text

NUM_CALIBRATION_BINS = 10  # as training/metrics.py, whose calibration error the figure shows


def figures(labels: Tensor, probabilities: Tensor, label_names: Sequence[str]) -> dict[str, Figure]:
    """Return the figures by name. labels [R], probabilities [R, C]."""
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
    shares = counts.float() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    figure, axes = _axes("Confusion matrix", "prediction", "label")
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names)
    for label in range(len(names)):
        for prediction in range(len(names)):
            colour = "white" if shares[label, prediction] > 0.5 else "black"
            count = f"{int(counts[label, prediction]):,}"
            axes.text(prediction, label, count, ha="center", va="center", color=colour)
    return figure


def _roc(labels: Tensor, probabilities: Tensor, names: Sequence[str]) -> Figure:
    figure, axes = _axes("ROC", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    false_positive_rate, true_positive_rate, _ = multiclass_roc(probabilities, labels, num_classes=len(names))
    shown = [1] if len(names) == 2 else range(len(names))  # with two classes, the curves mirror each other
    lines = [axes.plot(false_positive_rate[index].numpy(), true_positive_rate[index].numpy())[0] for index in shown]
    legend = axes.legend(lines, [f"class {index}" for index in shown], loc="lower right")
    for text, index in zip(legend.get_texts(), shown, strict=True):
        text.set_text(names[index])  # set here because legend() skips a label that begins with an underscore
    return figure


def _calibration(labels: Tensor, probabilities: Tensor) -> Figure:
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == labels).double()
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
