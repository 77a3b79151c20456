"""bertlens: fine-tune BERT on reviews and see which words each verdict rests on."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bertlens.explanations.explainer import Explanation

__all__ = ["explain"]


def explain(text: str, *, checkpoint: str | Path) -> "Explanation":
    """The verdict on a text and the words it rests on; in a notebook the result shows itself.

    Raises `bertlens.errors.InputError` for a text without a known word piece or a checkpoint that cannot be read.
    """
    from bertlens.explanations import (
        explainer as analysis,  # not at the top: torch takes seconds, and --help needs none
    )

    return analysis.explain(text, checkpoint=checkpoint)
