"""`report.html` in a run's folder, and the same reviews as a short table in the terminal."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import datasets
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from bertlens.explanations.explainer import ExplainedReview, Explainer, ReviewToExplain, reviews_to_explain
from bertlens.explanations.faithfulness import check_by_hand
from bertlens.explanations.selection import Predictions, Selection, select
from bertlens.explanations.settings import ReportSettings, SelectionSettings
from bertlens.explanations.words import top_words
from bertlens.report.render import render_report
from bertlens.system.escape import terminal_text
from bertlens.system.files import relative

MAX_TABLE_ROWS = 6


def write_report(
    folder: Path,
    explainer: Explainer,
    reviews: Sequence[ReviewToExplain],
    selection: Selection,
    *,
    facts: dict[str, str],
    curves: int | str = 0,
    every_layer: bool = False,
    print_table: bool = False,
    language: str = "en",
) -> Path:
    """Explain the reviews and write the page; print the first of them as a table if wanted. Return the page's path.

    curves: how many of the reviews can be checked by hand on the page, or "all".
    """
    path, console = folder / "report.html", Console()
    columns = [Column(name, no_wrap=True, max_width=16) for name in ("review", "label", "predicted", "confidence")]
    words = Column(no_wrap=True, ratio=1)
    table = Table(*columns, words, box=None, pad_edge=False, expand=True)

    def add_rows(explained: Iterable[ExplainedReview]) -> Iterator[ExplainedReview]:
        for place, review in enumerate(explained):
            if curves == "all" or place < int(curves):
                review = replace(review, check=check_by_hand(explainer, review))
            words.header = f"words by {review.rows[0].method.number}"
            if table.row_count < MAX_TABLE_ROWS:
                table.add_row(*map(terminal_text, _cells(review, explainer.label_names)))
            yield review

    explained = explainer.explain(reviews, every_layer=every_layer)
    render_report(
        add_rows(
            track(explained, description="explain", total=len(reviews), transient=True, disable=not console.is_terminal)
        ),
        label_names=explainer.label_names,
        selection=selection,
        title="What the predictions rest on",
        facts=facts | {"written": f"{datetime.now():%Y-%m-%d %H:%M}"},
        path=path,
        language=language,
    )
    if print_table:
        console.print(table)
        if len(reviews) > MAX_TABLE_ROWS:
            console.print(f"and {len(reviews) - MAX_TABLE_ROWS:,} more in the report")
    console.print(terminal_text(f"report: {relative(path)}"), soft_wrap=True)
    return path


def _cells(review: ExplainedReview, label_names: Sequence[str]) -> tuple[str, ...]:
    strongest = top_words(review.tokens, review.offsets, review.text, review.rows[0].values, 5)
    return (
        str(review.index),
        "unknown" if review.label is None else label_names[review.label],
        label_names[review.predicted],
        f"{review.confidence:.3f}",
        ", ".join(word[:20] for word in strongest),
    )


def write_run_report(
    folder: Path,
    explainer: Explainer,
    split: datasets.Dataset,
    predictions: Predictions | None,
    *,
    facts: dict[str, str],
) -> Path:
    """Write the report at the end of a run: a sample of the split, drawn by its predictions where they are known."""
    selection = select(SelectionSettings(), split["label"][:], None if predictions is None else lambda: predictions)
    reviews, curves = reviews_to_explain(split, selection.indices), ReportSettings().curves
    return write_report(folder, explainer, reviews, selection, facts=facts, curves=curves)
