"""Escape untrusted text (reviews, label names, file names) for each output.

Each output has its function here, except the report page, where Jinja escapes the result of `visible`. Text stays as
readable as possible: only characters that would have an effect in that output are replaced.
"""

import logging
import unicodedata
from collections.abc import Mapping
from typing import Any

from rich.text import Text

JOINERS = "\u200c\u200d"  # join letters and emoji; they do not hide or reorder anything
BLANK_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters and marks without a glyph
# characters that begin a formula in spreadsheets, also in full width; some spreadsheets skip spaces before them
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
LONGEST_IN_A_FIGURE = 40


def is_hidden(character: str) -> bool:
    """Return whether a character is invisible, or reorders or overwrites the text around it."""
    if character in BLANK_LETTERS:
        return True
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\t\n\r" + JOINERS


def visible(text: str) -> str:
    """Return the text with each hidden character written as its code point, such as ⟨U+202E⟩."""
    return "".join(f"⟨U+{ord(character):04X}⟩" if is_hidden(character) else character for character in text)


def one_line_of(text: str) -> str:
    """Return the visible text on one line."""
    return " ".join(visible(text).split())


def terminal_text(value: object) -> Text:
    """Return a line or table cell for rich, without markup, emoji codes or control sequences."""
    return Text(one_line_of(str(value)))


class VisibleLines(logging.Formatter):
    """Format log messages, which may quote paths and errors, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record).replace("\r", " "))


def csv_text(value: Any) -> Any:
    """Return a cell that no spreadsheet reads as a formula; numbers are returned unchanged."""
    if not isinstance(value, str):
        return value
    shown = visible(value)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA_STARTS) else shown


def csv_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose cells and column names no spreadsheet reads as formulas."""
    return {csv_text(name): csv_text(value) for name, value in row.items()}


def figure_text(text: str) -> str:
    """Return a label for a figure: shortened, and with dollar signs escaped, because matplotlib typesets math."""
    line = one_line_of(text)
    shown = line if len(line) <= LONGEST_IN_A_FIGURE else line[: LONGEST_IN_A_FIGURE - 1] + "…"
    return shown.replace("$", r"\$")
