"""Which reviews a report shows, and what the report says about that choice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError
from bertlens.explanations.settings import SelectionSettings

# as in ReviewModule.test_result: each measured review's index [R], label [R] and probabilities [R, C]
Predictions = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The chosen reviews of a split, and what is known of the whole split."""

    sentence: str
    """How the reviews were chosen, for readers of the report."""
    indices: list[int] = field(default_factory=list)
    split_accuracy: float | None = None
    num_split_reviews: int | None = None
    settings: SelectionSettings | None = None  # None: texts of one's own


def own_texts(settings: SelectionSettings, tokenizer: ReviewTokenizer) -> list[str] | None:
    """Return the user's own texts: given directly, or one per line in a file. None if there are none.

    Raises `InputError` for a file that cannot be read, and for a text that is empty or without a known word piece.
    """
    if settings.text is not None:
        texts = settings.text if isinstance(settings.text, list) else [settings.text]
        if not texts or any(text is None or isinstance(text, dict | list) for text in texts):
            raise InputError(f"text={settings.text!r}: give a text or a list of texts")
        texts = [str(text) for text in texts]
    elif settings.file is not None:
        texts = _read_lines(settings.file)
    else:
        return None
    check_texts(texts, tokenizer)
    return texts


def _read_lines(file: str) -> list[str]:
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"file={file!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"file={file!r}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    texts = [line.removesuffix("\r") for line in lines if line.strip()]
    if not texts:
        raise InputError(f"file={file!r}: no review in it; write one per line")
    return texts


def check_texts(texts: Sequence[str], tokenizer: ReviewTokenizer) -> None:
    """Raise `InputError` for a text that is empty, not UTF-8, or without a word piece that the model knows."""
    for index, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"text {index}: empty; give a text of at least one word")
        if text.encode(errors="replace").decode() != text:  # half characters stand for bytes that are not UTF-8
            raise InputError(f"text {index}: {text[:40]!r} is not UTF-8: give it as UTF-8, or use file=")
    for index, (text, encoding) in enumerate(zip(texts, tokenizer.encode(texts), strict=True)):
        if set(encoding.tokens) <= {"[CLS]", "[SEP]", "[UNK]"}:
            raise InputError(f"text {index}: {text[:40]!r} has no word piece that the model knows")


def select(
    settings: SelectionSettings, labels: Sequence[int], predictions: Callable[[], Predictions] | None = None
) -> Selection:
    """Choose reviews of a split with these labels.

    `predictions` measures the split, and is called only where the choice depends on it. For reviews=sample it may be
    None: then the sample is drawn by class alone.
    Raises `InputError` for an index beyond the split, or if no review fits.
    """
    total = len(labels)
    count = min(settings.count, total)
    if settings.indices is not None:
        indices = list(settings.indices)
        beyond = [index for index in indices if not 0 <= index < total]
        if beyond or not indices:
            raise InputError(f"indices={beyond}: name one or more of the reviews 0 to {total - 1}")
        how = "chosen by index"
    elif settings.reviews == "first":
        indices, how = list(range(count)), "the first in the split"
    elif settings.reviews == "random":
        indices = sorted(np.random.default_rng(settings.seed).choice(total, size=count, replace=False).tolist())
        how = "drawn at random"
    elif predictions is None:
        assert settings.reviews == "sample", f"reviews={settings.reviews} needs predictions"
        indices = _draw(np.asarray(labels), count, seed=settings.seed).tolist()
        how = "drawn at random from each class"
    else:
        return _select_by_prediction(settings, *predictions())
    sentence = f"{len(indices):,} of {total:,} test reviews, {how}"
    return Selection(sentence=sentence, indices=indices, num_split_reviews=total, settings=settings)


def _select_by_prediction(
    settings: SelectionSettings, indices: Tensor, labels: Tensor, probabilities: Tensor
) -> Selection:
    """Choose reviews by label and prediction.

    sample: in random order from each pair of class and right or wrong prediction, in proportion, at least one of each.
    wrong, right: as many from each class, most confident first. uncertain: least confident first.
    """
    how, count, total = settings.reviews, settings.count, len(labels)
    confidence, predicted = probabilities.max(dim=1)
    right = predicted == labels
    if how == "sample":
        chosen = torch.from_numpy(_draw((2 * labels + right).numpy(), count, seed=settings.seed))
        sentence = (
            f"{len(chosen):,} of {total:,} test reviews, drawn at random from each class's right and wrong predictions"
        )
    elif how == "uncertain":
        chosen = confidence.argsort(stable=True)[:count]
        sentence = f"{len(chosen):,} of {total:,} test reviews, the least certain predictions first"
    else:
        surest = confidence.argsort(descending=True, stable=True)
        fitting = surest[right[surest] == (how == "right")]
        if not len(fitting):
            raise InputError(f"reviews={how}: none of the {total:,} predictions is {how}; choose reviews=sample")
        same_class = labels[fitting][:, None] == torch.arange(probabilities.shape[1])  # [fitting, C]
        ranks = same_class.cumsum(dim=0)[same_class]  # of each prediction within its class
        chosen = fitting[ranks.argsort(stable=True)[:count].sort().values]
        sentence = f"{len(chosen):,} of {len(fitting):,} {how} predictions, evenly from each class, surest first"
    return Selection(
        sentence=sentence,
        indices=indices[chosen].tolist(),
        split_accuracy=right.double().mean().item(),
        num_split_reviews=total,
        settings=settings,
    )


def _draw(groups: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Draw `count` places from the groups, in proportion to their sizes, in random order.

    One place of each group comes first, of the largest group first of all; then by Webster's method.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(groups))
    turn = np.empty(len(groups))  # the places with the lowest turns are drawn
    for group in np.unique(groups):
        places = order[groups[order] == group]
        ranks = np.arange(len(places))
        turn[places] = np.where(ranks == 0, -len(places), (ranks + 0.5) / len(places))
    return random.permutation(np.argsort(turn, kind="stable")[:count])
