"""bertlens: fine-tune BERT on reviews and see which words each prediction rests on."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bertlens.report.notebook import Explanation

__all__ = ["__version__", "explain"]
__version__ = version("bertlens")


def explain(text: str, *, checkpoint: str | Path) -> "Explanation":
    """Explain the prediction for a text; in a notebook the result shows itself.

    Raises `bertlens.errors.InputError` for a text without a known word piece or a checkpoint that cannot be read.
    """
    from bertlens.report import notebook  # here, because torch takes seconds to import and --help does not need it

    return notebook.explain(text, checkpoint=checkpoint)
