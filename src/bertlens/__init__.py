"""bertlens: fine-tune BERT on reviews and see which words each prediction rests on."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bertlens.deploy.predict import LoadedClassifier
    from bertlens.report.notebook import Explanation

__all__ = ["__version__", "explain", "load"]
__version__ = version("bertlens")

# The imports are inside the functions, because torch takes seconds to import and --help does not need it.


def load(path: str | Path, *, calibrate: bool = False) -> "LoadedClassifier":
    """Load a trained classifier, which predicts and explains texts.

    path: a checkpoint, a run's folder, or "latest", the newest training run in outputs/ of the current folder.
    calibrate: divide its logits by the temperature that its run's validation reviews asked for.
    Raises `bertlens.errors.InputError` for a checkpoint that is not there, cannot be read, or lacks a temperature.
    """
    from bertlens.deploy import predict

    return predict.load(path, calibrate=calibrate)


def explain(
    text: str, *, checkpoint: str | Path, method: str = "aumann_shapley", contrast: str | None = None
) -> "Explanation":
    """Explain the prediction for a text; in a notebook the result shows itself.

    The checkpoint, named as for `load`, stays loaded for the next text. The method, a name from
    `bertlens.explanations.methods.METHODS`, leads, and attention follows it. contrast: the label that the prediction is
    set against, or the runner-up.
    Raises `bertlens.errors.InputError` for a text without a known word piece, an unknown method or label, or a
    checkpoint that cannot be read.
    """
    from bertlens.deploy import predict

    return predict.explain(text, checkpoint=checkpoint, method=method, contrast=contrast)
