"""Which reviews a report shows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bertlens.errors import InputError

BY_VERDICT = ("wrong", "right", "uncertain")
CHOICES = ("first", "random", *BY_VERDICT)


def own_texts(text: Any, file: str | None) -> list[str] | None:
    """The user's own texts: given directly, or one a line in a file. None if there are none.

    Raises `InputError` for a file that is not there, not UTF-8 or empty.
    """
    if text is not None:
        texts = text if isinstance(text, list) else [text]
        if not texts or any(one is None or isinstance(one, dict | list) for one in texts):
            raise InputError(f"text={text!r}: give a text or a list of texts")
        return [str(one) for one in texts]
    if file is None:
        return None
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"file={file!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"file={file!r}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    texts = [line.removesuffix("\r") for line in lines if line.strip()]
    if not texts:
        raise InputError(f"file={file!r}: no review in it; write one a line")
    return texts


def select(
    how: str,
    *,
    count: int,
    indices: Sequence[int] | None,
    num_reviews: int,
    seed: int,
    predictions: Callable[[], tuple[Tensor, Tensor]],
) -> list[int]:
    """Places of reviews in their split.

    `predictions` gives labels [R] and probabilities [R, C]; it is asked only where the choice depends on the verdicts.
    Raises `InputError` for a place beyond the split, or a choice that fits no review.
    """
    if indices is not None:
        if not indices:
            raise InputError("indices=[]: name at least one review")
        beyond = [index for index in indices if not 0 <= index < num_reviews]
        if beyond:
            raise InputError(f"indices={beyond}: the split has reviews 0 to {num_reviews - 1}")
        return list(indices)
    if how == "first":
        return list(range(min(count, num_reviews)))
    if how == "random":
        drawn = np.random.default_rng(seed).choice(num_reviews, size=min(count, num_reviews), replace=False)
        return sorted(drawn.tolist())
    labels, probabilities = predictions()
    confidence, verdicts = probabilities.max(dim=1)
    if how == "uncertain":
        return confidence.argsort(stable=True)[:count].tolist()
    fitting = (verdicts == labels) == (how == "right")
    chosen: list[int] = fitting.nonzero().flatten()[:count].tolist()
    if not chosen:
        raise InputError(f"reviews={how}: no verdict of the {num_reviews} is {how}; choose reviews=first")
    return chosen
