"""Reviews to explained reviews: one forward pass per batch, then each method on each review.

Reviews are explained batch by batch and returned one by one, so memory does not grow with their number.

Shapes: B reviews, N heads, L word pieces, C classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.explanations.methods import METHODS, MethodRow, ReviewPass
from bertlens.model.checkpoint import CheckpointInfo
from bertlens.model.classifier import ReviewClassifier

if TYPE_CHECKING:
    from bertlens.explanations.faithfulness import Check


@dataclass(frozen=True, kw_only=True)
class ReviewToExplain:
    """A review, and what is known about it."""

    index: int
    """Its index in its split, or among the user's own texts."""
    text: str
    """As its author wrote it."""
    label: int | None = None
    """None: unknown."""
    spans: tuple[tuple[int, int], ...] = ()
    """The characters that decide the label, if known."""


@dataclass(frozen=True, kw_only=True)
class ExplainedReview(ReviewToExplain):
    """A review, the prediction for it, and the numbers that the methods give its word pieces."""

    probabilities: NDArray[np.float32]
    """[C]"""
    contrast: int
    """The class that the prediction is set against."""
    ids: list[int]
    """L ids of the word pieces."""
    tokens: list[str]
    """L word pieces, with [CLS] and [SEP]."""
    offsets: list[tuple[int, int]]
    """The characters of `text` behind each piece; (0, 0) for [CLS] and [SEP]."""
    rows: list[MethodRow]
    """The methods' numbers; the first row is shown first."""
    check: "Check | None" = None
    """What the classifier says without the leading words, if it was asked."""

    @property
    def predicted(self) -> int:
        """The class with the highest probability."""
        return int(self.probabilities.argmax())

    @property
    def confidence(self) -> float:
        """The predicted class's probability."""
        return float(self.probabilities.max())


class Explainer:
    """A classifier and its tokenizer. The classifier stays on its device and keeps its train or eval mode."""

    def __init__(
        self,
        classifier: ReviewClassifier,
        tokenizer: ReviewTokenizer,
        info: CheckpointInfo,
        *,
        methods: Sequence[str] = ("aumann_shapley", "attention"),
        contrast: str | None = None,
        tokens_per_batch: int = 2048,
    ) -> None:
        self.classifier = classifier
        self.tokenizer = tokenizer
        self.label_names = info.label_names
        self.mask_padding = info.model.attention_mask
        self.pad_to = info.data.pad_to
        self.reviews_per_batch = max(1, tokens_per_batch // info.data.max_length)

    def explain(self, reviews: Sequence[ReviewToExplain], *, every_layer: bool = False) -> Iterator[ExplainedReview]:
        """Explain the reviews in their order, by the attention of the last layer, or of every layer and rollout."""
        for start in range(0, len(reviews), self.reviews_per_batch):
            with _eval_mode(self.classifier):
                batch = self._explain_batch(reviews[start : start + self.reviews_per_batch], every_layer=every_layer)
            yield from batch

    def _explain_batch(self, reviews: Sequence[ReviewToExplain], *, every_layer: bool) -> list[ExplainedReview]:
        encodings = self.tokenizer.encode([review.text for review in reviews])
        input_ids, mask = self._pad([encoding.ids for encoding in encodings])
        with torch.inference_mode():
            logits, attentions = self.classifier.attend(
                input_ids, mask if self.mask_padding else None, every_layer=every_layer
            )
        probabilities = logits.float().softmax(dim=1).cpu().numpy()
        maps = [layer.float().cpu().numpy() for layer in attentions]  # [B, N, 1 or L, L]
        explained = []
        for place, (review, encoding) in enumerate(zip(reviews, encodings, strict=True)):
            length = len(encoding.ids)
            passed = ReviewPass(
                classifier=self.classifier,
                input_ids=input_ids[place, :length],
                probabilities=probabilities[place],
                attentions=[layer[place, :, :length, :length] for layer in maps],
                every_layer=every_layer,
            )
            explained.append(
                ExplainedReview(
                    **vars(review),
                    probabilities=probabilities[place],
                    contrast=int(probabilities[place].argsort()[-2]),
                    ids=encoding.ids,
                    tokens=encoding.tokens,
                    offsets=encoding.offsets,
                    rows=[row for method in METHODS for row in method(passed)],
                )
            )
        return explained

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the probabilities [B, C] of reviews given by the ids of their word pieces, [CLS] and [SEP] included.

        The reviews run in batches of similar length.
        """
        raise NotImplementedError

    def _pad(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return ids [B, L] and the mask [B, L] that is true at word pieces, on the classifier's device."""
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(self.pad_to or int(lengths.max())) < lengths[:, None]
        padded = torch.full(mask.shape, self.tokenizer.pad_id)
        padded[mask] = torch.tensor([piece for row in ids for piece in row])
        device = self.classifier.head.weight.device
        return padded.to(device), mask.to(device)


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and give each part its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def reviews_to_explain(split: datasets.Dataset, indices: Sequence[int]) -> list[ReviewToExplain]:
    """Return the reviews of a split at these indices, with what is known about them."""
    return [
        ReviewToExplain(
            index=index, text=row["text"], label=row["label"], spans=tuple(map(tuple, row.get("spans") or ()))
        )
        for index, row in zip(indices, split.select(indices), strict=True)
    ]
