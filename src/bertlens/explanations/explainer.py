"""Reviews to explained reviews: one forward pass per batch, then each method on each review.

Reviews are explained batch by batch and returned one by one, so memory does not grow with their number.

Shapes: B reviews, N heads, L word pieces, C classes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bertlens.data.batching import NUM_ROWS, EvalSampler, Rows
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError
from bertlens.explanations.methods import METHODS, MethodRow, ReviewPass, check_methods
from bertlens.explanations.settings import DEFAULT_METHODS
from bertlens.explanations.words import find_words
from bertlens.model.checkpoint import CheckpointInfo
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.steady import run_parts
from bertlens.system.wording import count_of

if TYPE_CHECKING:
    from bertlens.explanations.faithfulness import Check

log = logging.getLogger(__name__)


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
    """A classifier and its tokenizer. The classifier stays on its device and keeps its train or eval mode.

    methods: names from `METHODS`; the first one leads. contrast: the label that predictions are set against. A review
    that is predicted so, and every review without it, is set against its runner-up.
    Raises `InputError` for an unknown method or label, and for a method whose package is missing.
    """

    def __init__(
        self,
        classifier: ReviewClassifier,
        tokenizer: ReviewTokenizer,
        info: CheckpointInfo,
        *,
        methods: Sequence[str] = DEFAULT_METHODS,
        contrast: str | None = None,
        tokens_per_batch: int = 2048,
    ) -> None:
        check_methods(methods)
        if contrast is not None and contrast not in info.label_names:
            raise InputError(f"contrast={contrast}: no such label; choose one of {', '.join(info.label_names)}")
        self.classifier = classifier
        self.tokenizer = tokenizer
        self.label_names = info.label_names
        self.methods = list(dict.fromkeys(methods))
        self.contrast = None if contrast is None else info.label_names.index(contrast)
        self.mask_padding = info.model.attention_mask
        self.pad_to = info.data.pad_to
        self.reviews_per_batch = max(1, tokens_per_batch // info.data.max_length)

    def explain(self, reviews: Sequence[ReviewToExplain], *, every_layer: bool = False) -> Iterator[ExplainedReview]:
        """Explain the reviews in their order; with `every_layer`, also by the attention of every layer and rollout."""
        num_same = 0
        for start in range(0, len(reviews), self.reviews_per_batch):
            with _eval_mode(self.classifier), torch.no_grad():
                batch = self._explain_batch(reviews[start : start + self.reviews_per_batch], every_layer=every_layer)
            num_same += sum(review.predicted == self.contrast for review in batch)
            yield from batch
        if self.contrast is not None and num_same:
            some = f"{num_same:,} of {count_of(len(reviews), 'review')}"
            name = self.label_names[self.contrast]
            log.warning("contrast=%s: the prediction for %s, set against the runner-up there", name, some)

    def _explain_batch(self, reviews: Sequence[ReviewToExplain], *, every_layer: bool) -> list[ExplainedReview]:
        methods = [*self.methods, "rollout"] if every_layer and "rollout" not in self.methods else self.methods
        every_query = "rollout" in methods
        encodings = self.tokenizer.encode([review.text for review in reviews])
        input_ids, mask = self._pad([encoding.ids for encoding in encodings])
        hidden, attentions = self.classifier.states_to_read(input_ids, mask)
        logits, top = self.classifier.read_states(hidden, mask)
        if every_query:  # the logits of these passes would depend on the batch
            below, attentions = self.classifier.states_to_read(input_ids, mask, return_probs=True)
            _, top = self.classifier.read_states(below, mask, every_query=True)
        probabilities = logits.float().softmax(dim=1).cpu().numpy()
        maps = [layer.float().cpu().numpy() for layer in [*attentions, top]]  # [B, N, 1 or L, L]
        explained = []
        for place, (review, encoding) in enumerate(zip(reviews, encodings, strict=True)):
            length = len(encoding.ids)
            num_positions = length if self.mask_padding else input_ids.shape[1]
            predicted, runner_up, *_ = (-probabilities[place]).argsort(kind="stable").tolist()
            contrast = runner_up if self.contrast in (None, predicted) else self.contrast
            passed = ReviewPass(
                classifier=self.classifier,
                tokenizer=self.tokenizer,
                words=find_words(encoding.tokens, encoding.offsets, review.text),
                input_ids=input_ids[place, :num_positions],
                hidden=hidden[place, :num_positions],
                attentions=[layer[place, :, :length, :length] for layer in maps],
                every_layer=every_layer,
                predicted=predicted,
                contrast=contrast,
                run=self._run,
            )
            explained.append(
                ExplainedReview(
                    **vars(review),
                    probabilities=probabilities[place],
                    contrast=contrast,
                    ids=encoding.ids,
                    tokens=encoding.tokens,
                    offsets=encoding.offsets,
                    rows=[row for name in methods for row in METHODS[name](passed)],
                )
            )
        return explained

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the probabilities [B, C] of reviews, each the ids of its word pieces, [CLS] and [SEP] included.

        They run in batches of similar length.
        """
        with _eval_mode(self.classifier), torch.no_grad():
            return self._run(ids).softmax(dim=1).numpy()

    def _run(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits [B, C] on the CPU."""
        logits = torch.empty(len(ids), len(self.label_names))
        lengths = np.array([self.pad_to or len(row) for row in ids], dtype=np.int64)
        batches = EvalSampler(lengths, num_tokens=NUM_ROWS * int(lengths.max())).batches if len(ids) else []

        def run(batch: Rows) -> Tensor:
            padded, mask = self._pad([ids[row] for row in batch])
            computed: Tensor = self.classifier(padded, mask)
            return computed.float().cpu()

        for batch, found in zip(batches, run_parts(run, batches, self.classifier.head.weight.device), strict=True):
            logits[batch] = found
        return logits

    def _pad(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Return ids [B, L] and the mask [B, L], None if padding is attended to, on the classifier's device."""
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(self.pad_to or int(lengths.max())) < lengths[:, None]
        padded = torch.full(mask.shape, self.tokenizer.pad_id)
        padded[mask] = torch.tensor([piece for row in ids for piece in row])
        device = self.classifier.head.weight.device
        return padded.to(device), mask.to(device) if self.mask_padding else None


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
