"""What reviewers, label names and file names say, made harmless for the place where it is shown.

All of it is taken for hostile. Every output has its function here but the report page, where Jinja escapes what
`visible` leaves. Text stays as readable as its place allows: only what would act there is spelt out.
"""

import logging
import unicodedata
from collections.abc import Mapping
from typing import Any

from rich.text import Text

JOINERS = "\u200c\u200d"  # they make letters and emoji join, and hide or reorder nothing
BLANK_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters and marks by category that show nothing
# what spreadsheets begin a formula with, in full width too; after spaces some of them still do
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
LONGEST_IN_A_FIGURE = 40


def is_hidden(character: str) -> bool:
    """Whether a character shows nothing, or reorders or overwrites what is around it."""
    if character in BLANK_LETTERS:
        return True
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\t\n\r" + JOINERS


def visible(text: str) -> str:
    """The text with characters that show nothing, or that reorder what is around them, as ⟨U+202E⟩ and the like."""
    return "".join(f"⟨U+{ord(character):04X}⟩" if is_hidden(character) else character for character in text)


def one_line_of(text: str) -> str:
    """The text visible, on one line."""
    return " ".join(visible(text).split())


def terminal_text(value: object) -> Text:
    """A line or a table's cell for rich: no markup, no emoji codes, no control sequence."""
    return Text(one_line_of(str(value)))


class VisibleLines(logging.Formatter):
    """Log messages, which quote paths and other people's errors, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record).replace("\r", " "))


def csv_text(value: Any) -> Any:
    """A cell that a spreadsheet will not take for a formula; numbers stay what they are."""
    if not isinstance(value, str):
        return value
    shown = visible(value)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA_STARTS) else shown


def csv_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose cells and columns' names are no formulas."""
    return {csv_text(name): csv_text(value) for name, value in row.items()}


def figure_text(text: str) -> str:
    """A label as it may stand in a figure: short, and its dollar signs no formula."""
    line = one_line_of(text)
    shown = line if len(line) <= LONGEST_IN_A_FIGURE else line[: LONGEST_IN_A_FIGURE - 1] + "…"
    return shown.replace("$", r"\$")
