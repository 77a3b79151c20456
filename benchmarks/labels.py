"""How well doubtful labels are found, on real errors and on flipped labels, and how accuracy grows with reviews.

    python benchmarks/labels.py --reviews path/to/imdb --checked path/to/checked.csv experiment=balanced model=minilm

What follows the options is given to train.py for each run. Steps, each skipped when --out holds it:

    real     the labelled test reviews as a training set, 5 folds, against what people said of 670 of them
    flips    3 % of the training labels flipped at random, 5 folds, against which ones were
    curve    validation accuracy by the number of training reviews
    errors   how many of the test errors of --checkpoint lie on labels that people found wrong or unclear

Beside the first two scores stands NB-SVM's out-of-fold margin on the same folds. A step that was stopped goes on.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from linear import nb_svm
from scipy.special import expit
from sklearn.metrics import average_precision_score

from bertlens.run.folder import environment, write_json
from bertlens.system.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
NUM_FOLDS = 5
FLIPPED_SHARE = 0.03
FIRST = (100, 200, 500)
SIZES = (500, 1000, 2000, 4000, 8000, 16000)
SEED = 1234
Scores = npt.NDArray[np.float64]  # of each review: the higher, the more doubtful is its label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--checked", type=Path, required=True, help="CSV: row, label, verdict")
    parser.add_argument("--work", type=Path, default=Path("outputs/labels"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/labels.json"))
    parser.add_argument("--checkpoint", type=Path, help="a run's folder, for errors")
    parser.add_argument("--only", choices=list(STEPS), help="one step; all but errors if not given")
    parser.add_argument("--repeats", type=int, default=1, help="of the folds")
    parser.add_argument("--num-reviews", type=int, help="of each split, to try this out")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    arguments, overrides = parser.parse_known_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    for name in [arguments.only] if arguments.only else [step for step in STEPS if step != "errors"]:
        if name not in results:
            results[name] = STEPS[name](arguments, overrides) | {"overrides": overrides} | environment()
            write_json(arguments.out, {"what": "benchmarks/labels.py"} | results)
        print(name, json.dumps(results[name]["found"], indent=1), flush=True)


def measure_real(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Score doubts about the test reviews' labels by people's answers."""
    table = read(arguments.reviews / "test.parquet", None)
    with arguments.checked.open(encoding="utf-8") as file:
        verdicts = {int(review["row"]): review["verdict"] for review in csv.DictReader(file)}
    if arguments.num_reviews is not None:  # those that were checked, and others
        rest = [row for row in range(len(table)) if row not in verdicts]
        chosen = sorted([*verdicts, *rest[:: max(1, len(rest) // max(1, arguments.num_reviews - len(verdicts)))]])
        table = table.take(chosen)
        verdicts = {place: verdicts[row] for place, row in enumerate(chosen) if row in verdicts}
    doubts, facts = find_doubts("real", table, arguments, overrides)
    rows = np.array(sorted(verdicts))
    verdict = np.array([verdicts[row] for row in rows])
    found: dict[str, Any] = {"checked": {each: int((verdict == each).sum()) for each in ("wrong", "unclear", "right")}}
    for method, scores in doubts.items():
        found[method] = {"average precision, wrong": average_precision_score(verdict == "wrong", scores[rows])}
        order = np.argsort(-scores, kind="stable")
        for number in FIRST:
            said = [verdicts[row] for row in order[:number].tolist() if row in verdicts]
            counts = {each: said.count(each) for each in ("wrong", "unclear")}
            found[method][f"first {number}"] = {"checked": len(said), **counts}
    return {"found": found, **facts}


def measure_flips(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Score doubts about training labels by which ones were flipped."""
    table = read(arguments.reviews / "train.parquet", arguments.num_reviews)
    labels, random = table["label"].to_numpy(), np.random.default_rng(SEED)
    number = round(FLIPPED_SHARE * len(labels))
    is_flipped = np.zeros(len(labels), dtype=bool)
    is_flipped[random.choice(len(labels), number, replace=False)] = True
    table = pa.table({"text": table["text"], "label": np.where(is_flipped, 1 - labels, labels)})
    doubts, facts = find_doubts("flips", table, arguments, overrides)
    found: dict[str, Any] = {"flipped": number}
    for method, scores in doubts.items():
        first = np.argsort(-scores, kind="stable")[:number]
        found[method] = {
            "average precision": average_precision_score(is_flipped, scores),
            f"precision at {number}": is_flipped[first].mean(),
        }
    return {"found": found, **facts}


def find_doubts(
    name: str, table: pa.Table, arguments: argparse.Namespace, overrides: list[str]
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Return the doubts about each label by our folds and by NB-SVM on the first division, and the runs' accuracies."""
    file, folder = arguments.work / f"{name}.parquet", arguments.work / name
    if not file.is_file():
        with atomic_write(file) as written_file:
            pq.write_table(table, written_file)
    folds = [f"data.folds={NUM_FOLDS}", f"data.fold_repeats={arguments.repeats}", f"hydra.sweep.dir={folder}"]
    run("train.py", arguments.work, f"data.train_file={file}", *overrides, *folds)
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    labels, texts = table["label"].to_numpy(), np.array(table["text"].to_pylist(), dtype=object)
    rows["doubt"] = 1 - np.where(labels[rows["row"]] == 1, rows["probability of 1"], rows["probability of 0"])
    doubts = {"folds": rows.groupby("row")["doubt"].mean().to_numpy()}
    fold_of = rows[rows["fold"] <= NUM_FOLDS].sort_values("row")["fold"].to_numpy()
    margins = np.empty(len(labels))
    for fold in range(1, NUM_FOLDS + 1):
        model = nb_svm(2).fit(texts[fold_of != fold], labels[fold_of != fold])
        margins[fold_of == fold] = model.decision_function(texts[fold_of == fold])
    doubts["NB-SVM"] = expit(np.where(labels == 1, -margins, margins))
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json"))]
    facts = {
        "num_reviews": len(labels),
        "repeats": arguments.repeats,
        "accuracy": {method: float((scores < 0.5).mean()) for method, scores in doubts.items()},
        "accuracy of each fold": [each["metrics"]["val/accuracy"] for each in runs],
        "minutes of each fold": [round(sum(each["seconds"].values()) / 60, 2) for each in runs],
    }
    return doubts, facts


def measure_curve(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Return the validation accuracy by the number of training reviews. No test reviews are measured."""
    folder, sizes = arguments.work / "curve", ",".join(map(str, arguments.sizes))
    most = [] if arguments.num_reviews is None else [f"data.max_reviews={arguments.num_reviews}"]
    given = [f"data.path={arguments.reviews}", f"data.train_reviews={sizes}", f"hydra.sweep.dir={folder}", *most]
    run("train.py", arguments.work, "-m", *overrides, *given, "test=false")
    with (folder / "sweep.csv").open(encoding="utf-8") as file:
        rows = {int(row["data.train_reviews"]): float(row["val/accuracy"]) for row in csv.DictReader(file)}
    return {"found": {"validation accuracy": {str(size): rows[size] for size in sorted(rows)}}}


def count_errors(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Return the errors on the test reviews by what people said of the label. Nothing is trained."""
    folder = arguments.work / "errors"
    given = [f"data.path={arguments.reviews}", f"checked_labels={arguments.checked}", f"hydra.run.dir={folder}"]
    run("evaluate.py", arguments.work, f"checkpoint={arguments.checkpoint}", "overwrite=true", *given, *overrides)
    counts = json.loads((folder / "metrics.json").read_text())["checked_labels"]
    return {"checkpoint": arguments.checkpoint.name, "found": counts}


def read(path: Path, num_reviews: int | None) -> pa.Table:
    table = pq.read_table(path)
    rows = np.arange(len(table)) if num_reviews is None else np.linspace(0, len(table) - 1, num_reviews).astype(int)
    return table.take(rows)


def run(script: str, work: Path, *overrides: str) -> None:
    """Run an entry point with its features in `work`."""
    subprocess.run([sys.executable, str(ROOT / script), f"cache_dir={work / 'cache'}", *overrides], check=True)


STEPS = {"real": measure_real, "flips": measure_flips, "curve": measure_curve, "errors": count_errors}


if __name__ == "__main__":
    main()
