"""What a classifier says of labels: out-of-fold predictions, doubtful labels, and errors on labels that were checked.

A label's self-confidence is the probability that a classifier which has not seen the review gives to it (Northcutt,
Jiang & Chuang 2021, "Confident Learning"); of several repeats of folds, the mean. Left out: pruning by class.

Shapes: R reviews, C classes.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from bertlens.data.readers import read_text
from bertlens.errors import InputError
from bertlens.explanations.explainer import ExplainedReview, Explainer, ReviewToExplain
from bertlens.explanations.selection import Predictions, Selection
from bertlens.model.checkpoint import find_checkpoint, read_checkpoint, restore
from bertlens.report.render import render_report
from bertlens.run.folder import HYDRA_FOLDER
from bertlens.run.summary import say
from bertlens.system.escape import csv_row, one_line_of
from bertlens.system.files import atomic_write, relative
from bertlens.system.wording import PROBABILITY

PREDICTIONS = "predictions.parquet"
DIGEST, LABEL_PROBABILITY = "text digest", "probability of the label"
SUSPECT_COLUMNS = ("row", "label", "prediction", LABEL_PROBABILITY, "also labelled", "text")
NUM_REPORTED = 64
VERDICTS = ("wrong", "unclear", "right")


def digest_of(text: str) -> str:
    """Return what tells texts apart, without the text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_fold(folder: Path, split: datasets.Dataset, result: tuple[Tensor, Tensor, Tensor], *, fold: int) -> None:
    """Write the predictions for one fold: its rows in the split [R], labels [R] and logits [R, C]."""
    rows, labels, logits = result[0].view(-1), result[1].view(-1), result[2]  # torchmetrics makes a scalar of one row
    split, names = split.select(rows.tolist()), split.features["label"].names
    columns: dict[str, Any] = {
        DIGEST: [digest_of(text) for text in split["text"][:]],
        "row": split["row"][:],
        "fold": [fold] * len(split),
        "label": [names[index] for index in labels.tolist()],
        "verdict": [names[index] for index in logits.argmax(dim=1).tolist()],
    }
    for what, values in (("probability", logits.double().softmax(dim=1)), ("logit", logits)):
        columns |= {f"{what} of {name}": values[:, index].numpy() for index, name in enumerate(names)}
    with atomic_write(folder / PREDICTIONS) as file:
        pq.write_table(pa.table(columns | {"text": split["text"][:]}), file)


def gather_folds(sweep: Path) -> None:
    """Write the predictions of all folds into one file, the doubtful labels, and a report of the first if wanted.

    Write nothing unless each fold is there once: of several choices of the other keys, none is the one that is meant.
    """
    paths = sorted(sweep.glob(f"*/{PREDICTIONS}"))
    config: Any = OmegaConf.load(min(sweep.glob(f"*/{HYDRA_FOLDER}")) / "config.yaml")
    print()
    if len(paths) != config.data.folds * config.data.fold_repeats:
        say(
            "doubtful",
            "not looked for: needs each fold once, and no other key that varies (data.fold_repeats=2 repeats them)",
        )
        return
    tables = {path.parent: pq.read_table(path) for path in paths}
    table = pa.concat_tables(tables.values()).sort_by([("row", "ascending"), ("fold", "ascending")])
    with atomic_write(sweep / PREDICTIONS) as file:
        pq.write_table(table.drop_columns("text"), file)
    suspects, num_reviews = find_suspects(table), len(table["row"].unique())
    with atomic_write(sweep / "suspects.csv", "w") as file:
        writer = csv.DictWriter(file, SUSPECT_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(map(csv_row, suspects))
    say("doubtful", f"{len(suspects):,} of {num_reviews:,} labels: {relative(sweep / 'suspects.csv')}")
    if config.report and suspects:
        runs = {table["fold"][0].as_py(): run for run, table in tables.items()}
        _report(sweep / "report.html", suspects[:NUM_REPORTED], runs, num_reviews)


def find_suspects(table: pa.Table) -> list[dict[str, Any]]:
    """Return the reviews whose label is not the most probable one, or not that of an equal text; worst first."""
    columns = [column for column in table.column_names if column.startswith(PROBABILITY)]
    means = [(column, "mean") for column in columns]
    reviews = table.group_by(["row", "label", "text"]).aggregate([("fold", "min"), *means]).to_pylist()
    labels_of: dict[str, set[str]] = {}
    for review in reviews:
        labels_of.setdefault(review["text"], set()).add(review["label"])
    suspects = []
    for review in reviews:
        shares = {column.removeprefix(PROBABILITY): review[f"{column}_mean"] for column in columns}
        prediction, others = max(shares, key=shares.__getitem__), labels_of[review["text"]] - {review["label"]}
        if prediction != review["label"] or others:
            found = {"prediction": prediction, LABEL_PROBABILITY: shares[review["label"]]}
            suspects.append(review | found | {"also labelled": ", ".join(sorted(others))})
    return sorted(suspects, key=lambda suspect: (suspect[LABEL_PROBABILITY], suspect["row"]))


def _report(path: Path, suspects: list[dict[str, Any]], runs: Mapping[int, Path], num_reviews: int) -> None:
    """Explain each review by a classifier that has not seen it, and write the page. `runs`: their folders, by fold."""
    explained: dict[int, ExplainedReview] = {}
    for fold in sorted({suspect["fold_min"] for suspect in suspects}):
        checkpoint = read_checkpoint(find_checkpoint(runs[fold]))
        explainer = Explainer(*restore(checkpoint), checkpoint.info)
        names, some = explainer.label_names, [suspect for suspect in suspects if suspect["fold_min"] == fold]
        reviews = [ReviewToExplain(index=a["row"], text=a["text"], label=names.index(a["label"])) for a in some]
        explained |= {review.index: review for review in explainer.explain(reviews)}
    chosen = f"{len(suspects)} of {num_reviews:,} training reviews, the most doubtful labels first"
    render_report(
        [explained[suspect["row"]] for suspect in suspects],
        label_names=names,
        selection=Selection(sentence=chosen),
        title="Doubtful labels",
        facts=checkpoint.info.facts(epoch=checkpoint.epoch) | {"run": str(path.parent)},
        path=path,
    )
    say("report", relative(path))


def read_soft_labels(given: str, split: datasets.Dataset) -> Tensor:
    """Return the mean of each label and its out-of-fold probabilities [R, C]. Raise `InputError` if some lack them."""
    path, names = Path(given).expanduser() / PREDICTIONS, split.features["label"].names
    columns = [f"{PROBABILITY}{name}" for name in names]
    try:
        table = pq.read_table(path, columns=[DIGEST, *columns])
        table = table.group_by(DIGEST).aggregate([(name, "mean") for name in columns])
        found = {digest: shares for digest, *shares in zip(*(each.to_pylist() for each in table.columns), strict=True)}
        soft = torch.tensor([found[digest_of(text)] for text in split["text"][:]])
    except (OSError, pa.ArrowException) as error:
        what = one_line_of(str(error))[:200]
        raise InputError(f"distill={given}: no folder of a run with data.folds and these labels ({what})") from error
    except KeyError as error:
        raise InputError(f"distill={given}: its run did not have all of these training reviews") from error
    return (soft + F.one_hot(torch.tensor(split["label"][:]), len(names))) / 2


def read_checked_labels(given: str, split: datasets.Dataset) -> dict[int, str]:
    """Return what people said of labels, by row: right, wrong or unclear. Raise `InputError` for other reviews."""
    names, labels = split.features["label"].names, split["label"][:]
    checked: dict[int, str] = {}
    for number, review in enumerate(csv.DictReader(read_text(Path(given).expanduser()).splitlines()), start=2):
        row, label, verdict = (review.get(name) or "" for name in ("row", "label", "verdict"))
        of_these = (
            row.isdecimal() and int(row) < len(labels) and label in (str(labels[int(row)]), names[labels[int(row)]])
        )
        if not of_these or verdict not in VERDICTS:
            columns = "the row of a test review, its label, and the verdict: right, wrong or unclear"
            raise InputError(f"checked_labels={given}, line {number}: give {columns}")
        checked[int(row)] = verdict
    return checked


def count_checked_errors(checked: Mapping[int, str], predictions: Predictions) -> dict[str, int]:
    """Print and return how many of the errors are on labels that people found wrong, unclear and right."""
    rows, labels, probabilities = predictions
    errors = rows[probabilities.argmax(dim=1) != labels].tolist()
    counts = Counter(checked[row] for row in errors if row in checked)
    found = {"checked": len(checked), "errors": len(errors)} | {verdict: counts[verdict] for verdict in VERDICTS}
    shares = [f"{found[verdict] / max(len(errors), 1):.1%} on {verdict} labels" for verdict in VERDICTS[:2]]
    say("errors", f"{len(errors):,}, {' and '.join(shares)}, of {len(checked):,} that people checked")
    return found
