"""`disagreements.html`: reviews that two classifiers predict differently, and what each prediction rests on."""

import html
from collections.abc import Sequence
from pathlib import Path

from bertlens.explanations.explainer import Explainer, ReviewToExplain
from bertlens.report.notebook import Explanation
from bertlens.system.escape import visible
from bertlens.system.files import atomic_write

HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Disagreements</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{font:1rem sans-serif;background:#fff;color:#000}table{table-layout:fixed;width:100%}td{vertical-align:top}
caption{text-align:left;font-weight:bold;padding-top:1em}</style>
"""


def write_disagreements(
    path: Path,
    reviews: Sequence[ReviewToExplain],
    names: Sequence[str],
    explainers: Sequence[Explainer],
    *,
    summary: str,
    alone: str,
) -> None:
    """Write the page: a row for each review, in it a picture by each of the explainers, whose names are given.

    alone: what stands in the place of a second explainer that there is not.
    """
    label_names = explainers[0].label_names
    explained = zip(*(explainer.explain(reviews) for explainer in explainers), strict=True)
    headings = "".join(f'<th scope="col">{html.escape(visible(name))}</th>' for name in names)
    with atomic_write(path, "w") as file:
        file.write(f"{HEAD}<h1>Disagreements</h1><p>{html.escape(visible(summary))}</p>")
        for review, pair in zip(reviews, explained, strict=True):
            cells = [Explanation(**vars(each), label_names=label_names)._repr_html_() for each in pair]
            cells += [html.escape(alone)] * (2 - len(cells))
            label = "unknown" if review.label is None else html.escape(visible(label_names[review.label]))
            file.write(f"<table><caption>Review {review.index}, labelled {label}</caption><tr>{headings}</tr><tr>")
            file.write("".join(f"<td>{cell}</td>" for cell in cells) + "</tr></table>\n")
