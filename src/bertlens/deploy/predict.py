"""A trained classifier in Python: `bertlens.load(path)` predicts and explains texts, on the CPU.

`predict.py` predicts files with it. Left out: labels and metrics, which `evaluate.py` measures.

Shapes: B texts, C classes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from torch import nn

from bertlens.data.batching import EvalSampler, TokenRows
from bertlens.errors import InputError
from bertlens.explanations.explainer import Explainer, ReviewToExplain
from bertlens.explanations.selection import check_texts
from bertlens.explanations.settings import DEFAULT_METHODS
from bertlens.features.prefix import ComputedBatches
from bertlens.model.checkpoint import Checkpoint, find_checkpoint, read_checkpoint, restore
from bertlens.report.notebook import Explanation
from bertlens.system import stopping
from bertlens.system.escape import one_line_of
from bertlens.training.module import ReviewModule


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The class that a classifier gives a text."""

    label: str
    confidence: float  # the label's probability
    probabilities: dict[str, float]  # of each class, by its name

    def __repr__(self) -> str:
        return f"Prediction({self.label!r}, confidence={self.confidence:.3f})"


class LoadedClassifier:
    """A checkpoint's classifier. A text gives one result, a list of texts a list of results, in its order.

    `predict` and `explain` raise `InputError` for a text that is empty or without a known word piece.
    """

    def __init__(self, checkpoint: Checkpoint, *, accelerator: str = "cpu", calibrate: bool = False) -> None:
        self.checkpoint = checkpoint
        try:
            self._fabric = Fabric(accelerator=accelerator, devices=1, precision=checkpoint.info.precision)  # type: ignore[arg-type]
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise InputError(f"accelerator={accelerator}: {str(error).splitlines()[0]}") from error
        self.classifier, self.tokenizer = restore(checkpoint, calibrate=calibrate)
        self.classifier.to(self._fabric.device)
        self.label_names = checkpoint.info.label_names

    @cached_property
    def _suffix(self) -> nn.Module:
        """What is trained, in the precision in which the Trainer tests it."""
        return self._fabric.setup_module(self.classifier.suffix).eval()

    @cached_property
    def module(self) -> ReviewModule:
        """The LightningModule, in eval mode, as `Trainer.test` takes it."""
        record = self.checkpoint.info.to_dict(whole_model=False)
        return ReviewModule(self.classifier, label_names=self.label_names, record=record).eval()

    def predict(self, texts: str | list[str]) -> Any:
        """Return a text's `Prediction`, or a list of them for a list of texts."""
        made = [self._prediction(probabilities) for probabilities in self.classify(self._listed(texts))]
        return made[0] if isinstance(texts, str) else made

    def classify(
        self, texts: Sequence[str], advance: Callable[[int], object] = lambda number: None
    ) -> NDArray[np.float32]:
        """Return the probabilities [B, C] of texts, which are those of `evaluate.py` to the last bit.

        `advance` is told how many texts each batch had. Between batches a stop that was requested raises `Stopped`.
        """
        logits = torch.empty(len(texts), len(self.label_names))
        if not len(texts):
            return logits.numpy()
        info, prefix, pieces = self.checkpoint.info, self.classifier.prefix, self.tokenizer.pieces(texts)
        data, mask_padding = info.data, info.model.attention_mask
        tokens = TokenRows(pieces, [0] * len(texts), pad_to=data.pad_to, mask_padding=mask_padding)
        padded = np.full(len(texts), data.pad_to) if data.pad_to else pieces.lengths
        chosen = list(EvalSampler(padded, num_tokens=data.tokens_per_batch))
        batches = map(tokens.__getitem__, chosen) if prefix is None else ComputedBatches(tokens, chosen, prefix=prefix)
        with torch.no_grad():
            for batch in batches:
                stopping.check()
                mask = None if batch.attention_mask is None else batch.attention_mask.to(self._fabric.device)
                logits[batch.rows] = self._suffix(batch.inputs.to(self._fabric.device), mask).float().cpu()
                advance(len(batch.rows))
        return logits.softmax(dim=1).numpy()

    def _prediction(self, probabilities: NDArray[np.float32]) -> Prediction:
        named = dict(zip(self.label_names, probabilities.tolist(), strict=True))
        label = self.label_names[probabilities.argmax()]
        return Prediction(label=label, confidence=named[label], probabilities=named)

    def explain(
        self, texts: str | list[str], *, methods: str | Sequence[str] = DEFAULT_METHODS, contrast: str | None = None
    ) -> Any:
        """Return a text's `Explanation`, or a list of them for a list of texts.

        methods: a name from `METHODS`, or several; the first one leads. contrast: the label that the prediction is set
        against, or the runner-up. Raises `InputError` for an unknown method or label.
        """
        given, info = self._listed(texts), self.checkpoint.info
        names = [methods] if isinstance(methods, str) else methods
        explainer = Explainer(self.classifier, self.tokenizer, info, methods=names, contrast=contrast)
        reviews = [ReviewToExplain(index=index, text=text) for index, text in enumerate(given)]
        reviews.sort(key=lambda review: len(review.text))  # those of similar length run together
        read, facts = sorted(explainer.explain(reviews), key=lambda review: review.index), self.checkpoint.facts()
        made = [Explanation(**vars(review), label_names=self.label_names, facts=facts) for review in read]
        return made[0] if isinstance(texts, str) else made

    def _listed(self, texts: str | list[str]) -> list[str]:
        given = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else [texts]
        if others := [text for text in given if not isinstance(text, str)]:
            raise InputError(f"{others[0]!r} is no text: give a text, or a list of texts")
        check_texts(given, self.tokenizer)
        return given

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.checkpoint.facts().items())
        return one_line_of(f"LoadedClassifier({facts}; labels {', '.join(self.label_names)})")


def load(path: str | Path, *, accelerator: str = "cpu", calibrate: bool = False) -> LoadedClassifier:
    """Load the classifier in a checkpoint file, in a run's folder, or of the newest training run (`latest`).

    `calibrate`: divide its logits by the temperature of its validation reviews. Raises `InputError` for a checkpoint
    that is not there, cannot be read, or lacks that.
    """
    checkpoint = read_checkpoint(find_checkpoint(path).resolve())
    return LoadedClassifier(checkpoint, accelerator=accelerator, calibrate=calibrate)


def explain(text: str, *, checkpoint: str | Path, method: str, contrast: str | None) -> Explanation:
    """Explain the prediction for a text by a checkpoint, which stays loaded until another one is given."""
    path = find_checkpoint(checkpoint).resolve()
    loaded = _load_once(path, path.stat().st_mtime_ns if path.exists() else 0)
    explanation: Explanation = loaded.explain(text, methods=[method, "attention"], contrast=contrast)
    return explanation


@lru_cache(maxsize=1)  # a notebook explains many texts with the same checkpoint
def _load_once(path: Path, _changed_ns: int) -> LoadedClassifier:
    return load(path)
