"""The figures of a test: confusion matrix, ROC curves, calibration, and what deleting words does.

Shapes: R reviews, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_roc, multiclass_confusion_matrix

from bertlens.system.escape import figure_text

NUM_CALIBRATION_BINS = 10  # of equal width


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
    title = f"Confusion matrix: {int(counts.trace()):,} of {len(labels):,} right"
    figure, axes = _axes(title, "prediction", "label")
    # right in blue and wrong in red, also for colour-blind readers; the root shows also a few errors
    tints = shares.sqrt() * (2 * torch.eye(len(names)) - 1)
    axes.imshow(tints.numpy(), cmap="RdBu", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names)
    for label in range(len(names)):
        for prediction in range(len(names)):
            colour = "white" if tints[label, prediction].abs() > 0.7 else "black"
            count = f"{int(counts[label, prediction]):,}"
            axes.text(prediction, label, count, ha="center", va="center", color=colour)
    return figure


def _roc(labels: Tensor, probabilities: Tensor, names: Sequence[str]) -> Figure:
    figure, axes = _axes("ROC", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    shown = [1] if len(names) == 2 else sorted(set(labels.tolist()))  # with two classes, the curves mirror each other
    curves = [binary_roc(probabilities[:, index], (labels == index).long()) for index in shown]
    lines = [axes.plot(rates[0].numpy(), rates[1].numpy())[0] for rates in curves]
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
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    upper.plot(mean_confidence.numpy(), accuracy.numpy(), marker="o")
    upper.set(title="Calibration", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    width = 1 / NUM_CALIBRATION_BINS
    left_edges = [width * index for index in range(NUM_CALIBRATION_BINS)]
    bars = lower.bar(left_edges, count.numpy(), width, align="edge", edgecolor="white")
    lower.bar_label(bars, [f"{number:,}" if number else "" for number in count.tolist()], fontsize="x-small")
    lower.set(xlabel="confidence", ylabel="reviews")
    lower.margins(y=0.25)
    return figure


def draw_faithfulness(shares: Sequence[float], curves: Mapping[str, NDArray[np.float64]], *, band: str) -> Figure:
    """Return the prediction's mean probability against the share of words deleted: [1, shares], one line per method.

    The curve named `band`, [orders, shares], is an area from the lowest to the highest.
    """
    figure, axes = _axes("Words deleted, leading words first", "share of words deleted", "mean probability")
    for method, curve in curves.items():
        if method == band:
            axes.fill_between(shares, curve.min(axis=0), curve.max(axis=0), color="grey", alpha=0.5, label=method)
        else:
            axes.plot(shares, curve.mean(axis=0), marker=".", label=method)
    axes.set(xlim=(0, shares[-1]), ylim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.legend(frameon=False)
    return figure


def draw_sweep(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], measured: str) -> Figure:
    """Return a metric of a sweep's runs against the key that varies: a line of means, and a band over the seeds.

    Of two keys, a heat map of means. `rows` have the keys' values as they were typed.
    """
    typed = [sorted({str(row.get(key, "")) for row in rows}, key=_number_or_text) for key in keys]
    values: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        values.setdefault(tuple(str(row.get(key, "")) for key in keys), []).append(row[measured])
    names = [[figure_text(value) for value in each] for each in typed]
    if len(keys) == 2:
        figure, axes = _axes(f"Mean {measured}", figure_text(keys[1]), figure_text(keys[0]))
        means = np.array([[np.mean(values.get((one, two), np.nan)) for two in typed[1]] for one in typed[0]])
        figure.colorbar(axes.imshow(means, cmap="cividis", aspect="auto"))
        axes.set_yticks(range(len(names[0])), names[0])
        axes.set_xticks(range(len(names[1])), names[1])
        return figure
    figure, axes = _axes("Sweep", figure_text(keys[0]), measured)
    found = [values[(value,)] for value in typed[0]]
    places = [_number_or_text(value)[0] for value in typed[0]]
    if not np.isfinite(places).all():
        places = list(range(len(found)))
    elif keys[0].endswith("lr") or (places[0] > 0 and places[-1] >= 8 * places[0]):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(places, names[0])
    axes.plot(places, [np.mean(each) for each in found], marker="o")
    axes.fill_between(places, [min(each) for each in found], [max(each) for each in found], alpha=0.25)
    return figure


def _number_or_text(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return np.inf, value
