"""From reviews to what their verdicts rest on: one pass of the classifier that keeps what `[CLS]` attends to.

Reviews come out one by one and no batch outlives the next, so memory does not grow with their number.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bertlens.data.batching import TokenRows
from bertlens.data.reviews import HALF_CHARACTER
from bertlens.data.tokenizer import ReviewTokenizer, WordPieces
from bertlens.errors import InputError
from bertlens.explanations.words import ExplainedReview, attention_rollout, top_words
from bertlens.model.checkpoint import CheckpointInfo, read_checkpoint, restore
from bertlens.model.classifier import ReviewClassifier
from bertlens.report import classic_html, render_report
from bertlens.run.folder import relative
from bertlens.system.escape import terminal_text

REVIEWS_IN_A_RUNS_REPORT = 64


@dataclass(frozen=True, kw_only=True)
class ReviewToExplain:
    """A review by its place, with what is known about it."""

    index: int
    text: str
    label: int | None = None
    spans: tuple[tuple[int, int], ...] = ()


class Explainer:
    """A classifier and its tokenizer, in eval mode, asked for verdicts with their reasons."""

    def __init__(
        self,
        classifier: ReviewClassifier,
        tokenizer: ReviewTokenizer,
        info: CheckpointInfo,
        *,
        tokens_per_batch: int = 2048,
    ) -> None:
        self.classifier = classifier.cpu().eval()
        self.tokenizer = tokenizer
        self.label_names = info.label_names
        self.mask_padding = info.model.attention_mask
        self.pad_to = info.tokenizer.max_length if info.batches.padding == "max_length" else None
        self.tokens_per_batch = tokens_per_batch

    @classmethod
    def from_checkpoint(cls, path: Path) -> "Explainer":
        """Raises `InputError` if the checkpoint, or the published weights it builds on, cannot be read."""
        checkpoint = read_checkpoint(path)
        return cls(*restore(checkpoint), checkpoint.info)

    def explain(self, reviews: Sequence[ReviewToExplain], *, every_layer: bool = False) -> Iterator[ExplainedReview]:
        """The reviews in their order, with the weights of the last layer or of every layer and rollout."""
        rows_per_batch = max(1, self.tokens_per_batch // self.tokenizer.settings.max_length)
        for start in range(0, len(reviews), rows_per_batch):
            yield from self._batch(reviews[start : start + rows_per_batch], every_layer=every_layer)

    @torch.inference_mode()
    def _batch(self, reviews: Sequence[ReviewToExplain], *, every_layer: bool) -> list[ExplainedReview]:
        encodings = self.tokenizer.encode([review.text for review in reviews])
        starts = np.cumsum([0, *(len(encoding.ids) for encoding in encodings)])
        ids = np.concatenate([encoding.ids for encoding in encodings]).astype(np.int32)
        pieces = WordPieces(ids, starts, self.tokenizer.pad_id)
        rows = TokenRows(pieces, [0] * len(reviews), pad_to=self.pad_to, mask_padding=self.mask_padding)
        batch = rows[list(range(len(reviews)))]
        logits, attentions = self.classifier.attend(batch.inputs, batch.attention_mask, every_layer=every_layer)
        probabilities = logits.softmax(dim=1).numpy()
        # what [CLS], the query at position 0, pays: all that is kept of the maps
        paid = torch.stack([layer[:, :, 0] for layer in attentions], dim=1).numpy()  # [B, layers, N, L]
        explained = []
        for row, (review, encoding) in enumerate(zip(reviews, encodings, strict=True)):
            length = len(encoding.ids)
            maps = [layer[row, :, :length, :length].numpy() for layer in attentions] if every_layer else []
            explained.append(
                ExplainedReview(
                    index=review.index,
                    text=review.text,
                    label=review.label,
                    probabilities=probabilities[row],
                    tokens=encoding.tokens,
                    offsets=encoding.offsets,
                    weights=paid[row, :, :, :length],
                    rollout=attention_rollout(np.stack(maps))[0] if every_layer else None,
                    spans=list(review.spans),
                )
            )
        return explained


def reviews_to_explain(split: datasets.Dataset, rows: Sequence[int]) -> list[ReviewToExplain]:
    """Some reviews of a split, with what is known about them."""
    return [
        ReviewToExplain(
            index=index, text=row["text"], label=row["label"], spans=tuple(map(tuple, row.get("spans") or ()))
        )
        for index, row in zip(rows, split.select(rows), strict=True)
    ]


def write_report(
    folder: Path,
    explainer: Explainer,
    chosen: Sequence[ReviewToExplain],
    *,
    facts: dict[str, str],
    every_layer: bool = False,
    print_table: bool = False,
) -> Path:
    """`report.html` about the chosen reviews, in the folder; with a table in the terminal if wanted."""
    path = folder / "report.html"
    num_layers = explainer.classifier.num_layers
    table = Table("review", "label", "verdict", "confidence", "strongest words")

    def seen(reviews: Iterable[ExplainedReview]) -> Iterator[ExplainedReview]:
        for review in reviews:
            mean = review.weights[-1].mean(axis=0)
            strongest = ", ".join(word[:20] for word, _ in top_words(review, mean, 5))
            label = "unknown" if review.label is None else explainer.label_names[review.label]
            verdict = explainer.label_names[review.verdict]
            cells = (str(review.index), label, verdict, f"{review.confidence:.3f}", strongest)
            table.add_row(*map(terminal_text, cells))
            yield review

    explained = explainer.explain(chosen, every_layer=every_layer)
    render_report(
        seen(track(explained, description="attention", total=len(chosen), transient=True)),
        label_names=explainer.label_names,
        layers=list(range(1, num_layers + 1)) if every_layer else [num_layers],
        title="What the verdicts rest on",
        facts=facts | {"written": f"{datetime.now():%Y-%m-%d %H:%M}"},
        path=path,
    )
    console = Console()
    if print_table:
        console.print(table)
    console.print(terminal_text(f"report: {relative(path)}"), soft_wrap=True)
    return path


def write_first_reviews(folder: Path, explainer: Explainer, split: datasets.Dataset, *, facts: dict[str, str]) -> None:
    """The report at the end of a run."""
    rows = range(min(REVIEWS_IN_A_RUNS_REPORT, len(split)))
    write_report(folder, explainer, reviews_to_explain(split, rows), facts=facts)


def check_texts(texts: Sequence[str], tokenizer: ReviewTokenizer) -> None:
    """Raises `InputError` for a text of the user's own that is empty, or in which the model knows no word piece."""
    for index, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"text {index}: empty; there is nothing to explain")
        if HALF_CHARACTER.search(text):  # what a terminal makes of Latin-1
            raise InputError(f"text {index}: {text[:40]!r} is not UTF-8: give it as UTF-8, or use file=")
    for index, (text, encoding) in enumerate(zip(texts, tokenizer.encode(texts), strict=True)):
        if set(encoding.tokens) <= {"[CLS]", "[SEP]", "[UNK]"}:
            raise InputError(f"text {index}: {text[:40]!r} has no word piece that the model knows")


@dataclass(frozen=True)
class Explanation:
    """One text's verdict and what it rests on; in a notebook it shows itself as the classic view.

    Shapes: C classes, N heads, L word pieces.
    """

    review: ExplainedReview
    label_names: list[str]

    @property
    def tokens(self) -> list[str]:
        return self.review.tokens

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return self.review.offsets

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """[N, L]: what `[CLS]` pays each word piece in the last layer, by head; rows sum to 1."""
        weights: npt.NDArray[np.float32] = self.review.weights[-1]
        return weights

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """[C], in the order of `label_names`."""
        return self.review.probabilities

    @property
    def verdict(self) -> str:
        return self.label_names[self.review.verdict]

    def _repr_html_(self) -> str:
        return classic_html(self.review, self.label_names)


def explain(text: str, *, checkpoint: str | Path) -> Explanation:
    """The verdict on a text and the words it rests on.

    Raises `InputError` for an empty text, one without a known word piece, or a checkpoint that cannot be read.
    """
    path = Path(checkpoint)
    explainer = _explainer(path, path.stat().st_mtime_ns if path.exists() else 0)
    check_texts([text], explainer.tokenizer)
    review = next(explainer.explain([ReviewToExplain(index=0, text=text)]))
    return Explanation(review, explainer.label_names)


@lru_cache(maxsize=1)  # a notebook explains one text after the other with the same checkpoint
def _explainer(path: Path, _changed_ns: int) -> Explainer:
    return Explainer.from_checkpoint(path)
