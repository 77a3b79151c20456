"""How right the reasons are, on real reviews, by each method and by its peers: benchmarks/results/reasons.json.

python train.py model=minilm data.path=path/to/imdb optimizer.lr=5e-4 hydra.run.dir=LAST
python train.py model=minilm data.path=path/to/imdb model.trainable_layers=2 data.truncation=head_tail \
    optimizer.lr=1.5e-4 optimizer.schedule=linear trainer.max_epochs=3 hydra.run.dir=TOP2
python benchmarks/reasons.py --reviews path/to/imdb --last LAST --top2 TOP2 --out benchmarks/results/reasons.json

Every step, method and review is kept as a line in --cache as soon as it is measured, so the script goes on where it was
stopped, also with more reviews (--num). The reviews are a seeded draw from each class; the draw of fewer reviews is
part of the draw of more. Seconds are those of one thread's processor time, which other work on the machine hardly
changes. The model runs as its run had it: the frozen layers in bf16.
"""

import argparse
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bertlens.data.demo import PHRASES, generate
from bertlens.explanations.explainer import ExplainedReview, Explainer, ReviewToExplain, reviews_to_explain
from bertlens.explanations.faithfulness import (
    ABOVE,
    FLIPS,
    MEASURES,
    NEVER,
    RANDOM,
    delete_words,
    group,
    random_orders,
    rank_words,
    summarize,
    with_methods,
    without,
)
from bertlens.explanations.methods import METHODS
from bertlens.explanations.selection import select
from bertlens.explanations.settings import SelectionSettings
from bertlens.explanations.words import find_words, word_weights
from bertlens.model.checkpoint import find_checkpoint, read_checkpoint, restore
from bertlens.run.folder import environment

ROOT = Path(__file__).resolve().parents[1]
SEED = 1234
NUM_REVIEWS = {
    **dict.fromkeys(("aumann_shapley", "attention", "rollout", "mask_gradient"), 500),
    **dict.fromkeys(("integrated_gradients", "occlusion", "shap"), 100),
    RANDOM: 200,
    "bounds": 40,
    "sanity": 40,
    "planted": 200,
    "spans": 300,
    "speed": 60,
}
QUICK = ("aumann_shapley", "attention", "mask_gradient", RANDOM)  # where a whole table would say nothing more
LONGEST_FOR_BOUNDS, BEAM = 40, 5  # words; the search takes their cube: of 80, ten minutes for each review
PLANTED_SHARE = 0.25
SANE = 0.5  # absolute rank correlation
STEPS = ("deletion", "speed", "sanity", "report", "bounds", "planted", "spans")
SIX = ("aumann_shapley", "attention", "rollout", "mask_gradient", "integrated_gradients", "occlusion")
DELETED = ("aumann_shapley", RANDOM, "attention", "mask_gradient", "rollout", *SIX[4:], "shap")
PROTOCOLS = (
    "Edin et al. 2025 report bounds on reviews that are all positive, for class 1 always; here they are for the "
    "predicted class, on both classes. DeYoung et al. 2020 count tokens, punctuation included; here whole words. "
    "Bounds: on reviews of at most 40 words. Planted: one word in all training reviews, two words in 5,000 of them."
)


class Lines:
    """Measurements by a key, one JSON line each, written when they are made, until the time is up."""

    deadline = math.inf

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]  # a kill may cut the last one
        if len("".join(whole)) < len(text):
            path.write_text("".join(whole), encoding="utf-8")
        self.found = {record["key"]: record for record in map(json.loads, whole)}

    def fill(self, keys: Sequence[Any], measure: Callable[[Any], dict[str, Any]]) -> None:
        """Measure what is missing."""
        for key in keys:
            if key not in self.found and time.monotonic() < self.deadline:
                self.found[key] = {"key": key} | measure(key)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(self.found[key]) + "\n")


class Model:
    """A checkpoint, the reviews it is asked about, and its lines in the cache."""

    def __init__(self, name: str, checkpoint: Path, split: datasets.Dataset, cache: Path) -> None:
        self.name, self.split, self.cache = name, split, cache
        self.checkpoint = read_checkpoint(find_checkpoint(checkpoint))

    @cached_property
    def explainer(self) -> Explainer:
        classifier, tokenizer = restore(self.checkpoint)
        return Explainer(classifier, tokenizer, self.checkpoint.info)

    @property
    def accuracy(self) -> float:
        """On all test reviews, as its run measured it."""
        path = self.checkpoint.path.parents[1] / "metrics.json"
        return float(json.loads(path.read_text(encoding="utf-8"))["metrics"]["test/accuracy"])

    def lines(self, name: str) -> Lines:
        return Lines(self.cache / f"{self.name}.{name}.jsonl")

    def draw(self, count: int) -> list[int]:
        """Return the first reviews of one seeded order, of which each 25, 50, 100 … are drawn from each class."""
        ordered: dict[int, None] = {}
        for size in (25, 50, 100, 200, 500, 1000, 5000):
            if len(ordered) < count:
                drawn = select(SelectionSettings(count=size, seed=SEED), self.split["label"]).indices
                ordered |= dict.fromkeys(drawn)
        return list(ordered)[:count]

    def review(self, index: int) -> ReviewToExplain:
        return reviews_to_explain(self.split, [index])[0]

    def explain(self, method: str, index: int) -> tuple[ExplainedReview, NDArray[np.floating[Any]], float]:
        """Return the review, the method's values [L] and the seconds they took, the forward pass included."""
        own = method if method in METHODS else "attention"
        start = time.process_time()
        [review] = with_methods(self.explainer, own).explain([self.review(index)])
        values = explain_by_shap(self.explainer, review) if method == "shap" else review.rows[0].values
        return review, values, time.process_time() - start


# --- deletion -------------------------------------------------------------------------------------------------------


def measure_deletion(model: Model, method: str, count: int) -> None:
    def measure(index: int) -> dict[str, Any]:
        review, values, seconds = model.explain(method, index)
        order = rank_words(review, values)
        orders = random_orders(order, seed=index) if method == RANDOM else order[None]
        scores = delete_words(model.explainer, review, orders, num_masked=2 if method == RANDOM else None)
        plain = {name: np.round(found, 6).tolist() for name, found in scores.items()}
        return {
            "predicted": review.predicted,
            "label": review.label,
            "pieces": len(review.ids),
            "words": len(order),
            "seconds": seconds,
            "scores": plain,
        }

    model.lines(method).fill(model.draw(count), measure)


def explain_by_shap(explainer: Explainer, review: ExplainedReview) -> NDArray[np.float64]:
    """Return shap's values [L], by its partition explainer as its documentation calls it, over the pieces read.

    Pieces are replaced by [MASK]; what is explained is the logit of the prediction minus that of the contrast.
    """
    import shap

    tokens = review.tokens[1:-1]
    parts = [token[2:] if token.startswith("##") else f" {token}" for token in tokens]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    offsets = [(end - len(part) + part.startswith(" "), end) for part, end in zip(parts, ends, strict=True)]
    text = "".join(parts)

    def tokenizer(given: str, **_: Any) -> dict[str, Any]:
        return {"input_ids": review.ids[1:-1], "offset_mapping": offsets} if given == text else {"input_ids": []}

    def difference(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        cls, *_, sep = review.ids
        log = np.log(np.clip(explainer.run([[cls, *map(int, row), sep] for row in rows]).astype(np.float64), 1e-9, 1))
        return log[:, review.predicted] - log[:, review.contrast]

    masker = shap.maskers.Text(
        tokenizer, mask_token=explainer.tokenizer.mask_id, collapse_mask_token=False, output_type="ids"
    )
    found = shap.Explainer(difference, masker, silent=True)([text])
    return np.array([0, *found.values[0], 0], dtype=np.float64)


# --- bounds ---------------------------------------------------------------------------------------------------------


def measure_bounds(model: Model, methods: Sequence[str], count: int) -> None:
    """Mask word after word in each method's order, and in the best and worst order that a beam finds."""
    fitting = [index for index in model.draw(5000) if len(model.split[index]["text"].split()) <= LONGEST_FOR_BOUNDS]

    def measure(index: int) -> dict[str, Any]:
        found = {}
        for method in methods:
            review, values, _ = model.explain(method, index)
            orders = rank_words(review, values)[None]
            if method == RANDOM:
                orders = random_orders(orders[0], seed=index)
            found[method] = float(np.mean([mask_all(model.explainer, review, order) for order in orders]))
        for name, sign in (("highest", 1), ("lowest", -1)):
            found[name] = search(model.explainer, review, orders[0], sign=sign)
        return {"words": orders.shape[1], "predicted": review.predicted, "comprehensiveness": found}

    model.lines("bounds").fill(fitting[:count], measure)


def mask_all(explainer: Explainer, review: ExplainedReview, order: Sequence[int]) -> float:
    """Return the mean fall of the probability over all steps, one word more masked in each."""
    words = [find_words(review.tokens, review.offsets, review.text)[place] for place in order]
    mask = explainer.tokenizer.mask_id
    left = explainer.run([without(review.ids, words[:step], mask) for step in range(1, len(words) + 1)])
    return float((review.confidence - left[:, review.predicted]).mean())


def search(explainer: Explainer, review: ExplainedReview, places: Sequence[int], *, sign: int) -> float:
    """Return the highest (sign 1) or lowest (-1) such mean that a beam search over orders finds (Edin et al. 2025)."""
    words, mask = find_words(review.tokens, review.offsets, review.text), explainer.tokenizer.mask_id
    beams: dict[frozenset[int], float] = {frozenset(): 0.0}  # the words masked so far, and the sum of the falls
    for _ in places:
        sums: dict[frozenset[int], float] = {}
        for masked, total in beams.items():  # sets that two beams reach are measured once
            for place in set(map(int, places)) - masked:
                key = masked | {place}
                sums[key] = max(sums.get(key, -np.inf), sign * total)
        left = explainer.run([without(review.ids, [words[place] for place in key], mask) for key in sums])
        falls = sign * (review.confidence - left[:, review.predicted].astype(np.float64))
        ranked = sorted(zip(sums, falls, strict=True), key=lambda each: -(sums[each[0]] + each[1]))[:BEAM]
        beams = {key: sign * (sums[key] + fall) for key, fall in ranked}
    return sign * max(sign * total for total in beams.values()) / len(places)


# --- sanity ---------------------------------------------------------------------------------------------------------


def measure_sanity(model: Model, methods: Sequence[str], count: int) -> None:
    """Correlate the words' values with those after the head, then the last layer too, got new random weights."""
    models = [model.explainer]
    for depth in range(2):
        classifier, tokenizer = restore(model.checkpoint)
        torch.manual_seed(SEED)
        for part in (classifier.head, classifier.bert.encoder.layer[-1])[: depth + 1]:
            for module in part.modules():
                if isinstance(module, torch.nn.Linear):
                    torch.nn.init.normal_(module.weight, std=0.02)
                    torch.nn.init.zeros_(module.bias)
        models.append(Explainer(classifier, tokenizer, model.checkpoint.info))

    def measure(index: int) -> dict[str, Any]:
        found = {}
        for method in methods:
            values = []
            for explainer in models:
                [review] = with_methods(explainer, method).explain([model.review(index)])
                words = find_words(review.tokens, review.offsets, review.text)
                values.append(word_weights(words, review.rows[0].values))
            found[method] = [float(spearmanr(values[0], other).statistic) for other in values[1:]]
        return {"rank correlation with new weights": found}

    model.lines("sanity").fill(model.draw(count), measure)


# --- models of their own ------------------------------------------------------------------------------------------


def train(folder: Path, *overrides: str) -> Path:
    """Train a model, or leave a finished run as it is."""
    if not (folder / "metrics.json").is_file():
        cache = f"cache_dir={folder.parent / 'cache'}"
        command = [sys.executable, str(ROOT / "train.py"), "model=minilm", cache, f"hydra.run.dir={folder}"]
        subprocess.run([*command, "overwrite=true", *overrides], check=True, cwd=folder.parent)
    return folder


def measure_planted(
    test: datasets.Dataset, reviews: Path, folder: Path, kind: str, methods: Sequence[str], count: int
) -> dict[str, Any]:
    """Plant words that decide the label (Bastings et al. 2022), and find them.

    kind: "one word", of two; "word in context", which decides only beside a third; "ordered pair", the two in one order
    or the other. In the last two kinds a word by itself is planted in as many reviews, and decides nothing.
    """
    training = datasets.load_dataset("parquet", data_files=str(reviews / "train.parquet"))["train"]
    generator = np.random.default_rng(SEED)
    # of few reviews, the labels that are dealt again would spoil what is learnt from the originals
    sizes = 25_000 if kind == "one word" else 5000, 2000
    splits = zip((training, test), sizes, strict=True)
    chosen = [generator.permutation(len(split))[:number] for split, number in splits]
    rows = [
        [(row["text"], row["label"]) for row in split.select(some)]
        for split, some in zip((training, test), chosen, strict=True)
    ]
    words = find_absent_words([text for split in (training, test) for text in split["text"]])

    def deciding(label: int) -> list[str]:
        if kind == "one word":
            return [words[label]]
        if kind == "word in context":
            return generator.permutation([words[label], words[2]]).tolist()
        return [words[label], words[1 - label]]

    def alone() -> list[str]:
        return [] if kind == "one word" else [words[generator.integers(3 if kind == "word in context" else 2)]]

    def plant(text: str, planted: Sequence[str]) -> str:
        parts = text.split(" ")
        places = generator.integers(0, min(len(parts), 120) + 1, size=len(planted))  # 120 words lie within the window
        for place, word in zip(np.sort(places)[::-1], reversed(planted), strict=True):
            parts.insert(place, word)
        return " ".join(parts)

    def write(name: str, pairs: Sequence[tuple[str, int]]) -> str:
        path = folder / f"{name}.parquet"
        texts, labels = zip(*pairs, strict=True)
        datasets.Dataset.from_dict({"text": texts, "label": labels}).to_parquet(path)
        return str(path)

    folder.mkdir(parents=True, exist_ok=True)
    planted_train = []
    for text, label in rows[0]:
        chance = generator.random()
        if chance < PLANTED_SHARE:
            label = int(generator.integers(2))
            text = plant(text, deciding(label))
        elif chance < 2 * PLANTED_SHARE:
            text = plant(text, alone())
        planted_train.append((text, label))
    dealt = generator.integers(2, size=len(rows[1])).tolist()
    planted_test = [(plant(text, deciding(label)), label) for (text, _), label in zip(rows[1], dealt, strict=True)]
    files = {
        "planted": write("planted_train", planted_train),
        "clean": write("clean_train", rows[0]),
        "originals": write("originals", rows[1]),
        "planted test": write("planted_test", planted_test),
    }
    shared = ["trainer.max_epochs=3", "data=files", "data.cleaning=notebook"]
    # a word by itself is found by one layer; words that decide together need a second one
    shared += ["optimizer.lr=5e-4"] if kind == "one word" else ["optimizer.lr=3e-4", "model.trainable_layers=2"]
    split = datasets.Dataset.from_parquet(files["planted test"])
    models, accuracy = {}, {}
    for name in ("planted", "clean"):
        given = (f"data.train_file={files[name]}", f"data.test_file={files['originals']}")
        models[name] = Model(name, train(folder / name, *shared, *given), split, folder)
        accuracy[f"{name} model, originals"] = models[name].accuracy
        predictions = models[name].explainer.run(models[name].explainer.tokenizer.ids(split["text"])).argmax(axis=1)
        accuracy[f"{name} model, planted test"] = float((predictions == np.array(split["label"])).mean())
    model = models["planted"]
    pieces = [model.explainer.tokenizer.ids([word])[0][1] for word in words]
    swap = {pieces[0]: pieces[1], pieces[1]: pieces[0]}
    planted = set(pieces if kind == "word in context" else pieces[:2])

    def measure(key: str) -> dict[str, Any]:
        method, index = key.split()
        review, values, _ = model.explain(method, int(index))
        exchanged = model.explainer.run([[swap.get(piece, piece) for piece in review.ids]])[0]
        places = rank_words(review, values)
        if method == RANDOM:
            places = random_orders(places, seed=int(index))[0]
        found = find_words(review.tokens, review.offsets, review.text)
        ranks = [rank for rank, place in enumerate(places, start=1) if review.ids[found[place].first] in planted]
        return {"flips": bool(exchanged.argmax() != review.predicted), "ranks": ranks}

    lines = model.lines("ranks")
    lines.fill([f"{method} {index}" for index in range(count) for method in methods], measure)
    num_planted = 1 if kind == "one word" else 2
    scored: dict[str, Any] = {}
    for method in methods:
        ranks = [
            record["ranks"]
            for key, record in lines.found.items()
            if key.startswith(f"{method} ") and record["flips"] and len(record["ranks"]) == num_planted
        ]
        if ranks:
            scored[method] = {
                "reviews": len(ranks),
                f"precision at {num_planted}": round(float(np.mean(np.array(ranks) <= num_planted)), 4),
                "mean rank": round(float(np.mean(ranks)), 3),
            }
    return {"words": words, "accuracy": accuracy, "methods": scored}


def find_absent_words(texts: Sequence[str]) -> list[str]:
    """Return three neighbouring whole-word pieces of the vocabulary, which is sorted by frequency, in no review."""
    from setting import MINILM

    from bertlens.model.pretrained import find_pretrained

    vocabulary = find_pretrained(MINILM).vocabulary
    seen = {word for text in texts for word in "".join(c if c.isalpha() else " " for c in text.lower()).split()}
    absent = [word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 4 and word not in seen]
    return absent[:3]


def measure_spans(folder: Path, methods: Sequence[str], count: int, *, dealt_again: bool) -> Any:
    """Average precision of the words that decide the demo's labels, as its grammar knows them."""
    if dealt_again:  # the same lexicon, its words given to the labels at random
        generator = np.random.default_rng(SEED)
        for kind in PHRASES["praise"]:
            pool = PHRASES["praise"][kind] + PHRASES["blame"][kind]
            order = generator.permutation(len(pool))
            half = len(PHRASES["praise"][kind])
            PHRASES["praise"][kind] = [pool[index] for index in order[:half]]
            PHRASES["blame"][kind] = [pool[index] for index in order[half:]]
    written = generate(num_reviews=3000, seed=SEED)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": written[:2400], "test": written[2400:]}
    for name, part in parts.items():
        columns = {"text": [review.text for review in part], "label": [review.label for review in part]}
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")
    files = [f"data.{name}_file={folder / f'{name}.parquet'}" for name in parts]
    settings = ("data=files", "data.cleaning=notebook", "optimizer.lr=1e-3", "trainer.max_epochs=12")
    run = train(folder / "run", *settings, *files)
    split = datasets.Dataset.from_list([vars(review) for review in parts["test"]])
    model = Model("spans", run, split, folder)

    def measure(key: str) -> dict[str, Any]:
        method, index = key.split()
        review, values, _ = model.explain(method, int(index))
        order = rank_words(review, values)
        if method == RANDOM:
            order = random_orders(order, seed=int(index))[0]
        words = find_words(review.tokens, review.offsets, review.text)
        deciding = [
            any(words[place].start < end and start < words[place].end for start, end in review.spans) for place in order
        ]
        hits = np.flatnonzero(deciding)
        precision = float(np.mean(np.arange(1, len(hits) + 1) / (hits + 1))) if len(hits) else None
        return {"right": review.predicted == review.label, "average precision": precision}

    lines = model.lines("precision")
    lines.fill([f"{method} {index}" for method in methods for index in range(count)], measure)
    return {
        "test accuracy": model.accuracy,
        "average precision": {
            method: float(
                np.mean(
                    [
                        record["average precision"]
                        for key, record in lines.found.items()
                        if key.startswith(f"{method} ") and record["right"] and record["average precision"] is not None
                    ]
                )
            )
            for method in methods
        },
        "reviews": count,
    }


# --- seconds --------------------------------------------------------------------------------------------------------


def measure_speed(model: Model, methods: Sequence[str], count: int) -> None:
    """Time each method by itself on reviews of the longest length, from hidden states that lie ready, in one thread."""

    def clocked(function: Callable[[Any], Any], seconds: list[float]) -> Callable[[Any], Any]:
        def run(passed: Any) -> Any:
            start = time.process_time()
            rows = function(passed)
            seconds.append(time.process_time() - start)
            return rows

        return run

    def measure(index: int) -> dict[str, Any]:
        found = {}
        for method in methods:
            kept, seconds = METHODS[method], list[float]()
            METHODS[method] = clocked(kept, seconds)
            try:
                list(with_methods(model.explainer, method).explain([model.review(index)]))
            finally:
                METHODS[method] = kept
            [found[method]] = seconds
        return {"seconds": found}

    tokenizer = model.explainer.tokenizer
    longest = tokenizer.settings.max_length
    fitting = [i for i in model.draw(500) if len(tokenizer.ids([model.split[i]["text"]])[0]) == longest]
    model.lines("speed").fill(fitting[:count], measure)


def time_report(model: Model, reviews: str) -> None:
    """Time the page of 64 reviews from the command line, with nothing stored."""

    def measure(_: str) -> dict[str, Any]:
        folder = model.cache / f"{model.name}.report"
        command = [sys.executable, str(ROOT / "visualize.py"), f"checkpoint={model.checkpoint.path}"]
        given = [f"data.path={reviews}", f"cache_dir={folder / 'cache'}", f"hydra.run.dir={folder}", "overwrite=true"]
        before, start = os.times(), time.perf_counter()
        subprocess.run([*command, *given, "count=64"], check=True)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        size = (folder / "report.html").stat().st_size
        return {"seconds": time.perf_counter() - start, "processor seconds": used, "bytes": size}

    model.lines("report").fill(["64 reviews, curves for 16"], measure)


# --- all of it ------------------------------------------------------------------------------------------------------


def assemble_deletion(model: Model) -> dict[str, Any]:
    """Return what was measured of one model by deletion: `summarize`'s findings, and accuracy without random words."""
    records = {method: model.lines(method).found for method in DELETED}
    records = {method: found for method, found in records.items() if found}
    if not records:
        return {}
    scores = {
        method: {
            index: {name: np.array(values) for name, values in record["scores"].items()}
            for index, record in found.items()
        }
        for method, found in records.items()
    }
    every = {index: record for found in records.values() for index, record in found.items()}
    classes = [(index, record["predicted"], record["label"]) for index, record in every.items()]
    groups = group(classes, model.checkpoint.info.label_names)
    seconds = {
        method: statistics.median(record["seconds"] for record in found.values()) for method, found in records.items()
    }
    findings = [
        [*found[:4], *(round(number, 5) for number in found[4:7]), found.p_holm]
        for found in summarize(scores, groups, {})
        if found.group == "all" or found.measure.split(", minus")[0] in (*MEASURES[:2], FLIPS, NEVER, ABOVE)
    ]
    drawn = records.get(RANDOM, {})
    return {
        "columns": ["method", "measure", "group", "reviews", "value", "low", "high", "p (Holm)"],
        "findings": findings,
        "seconds per review, nothing stored, one thread": {name: round(value, 4) for name, value in seconds.items()},
        "accuracy on the reviews of random": float(
            np.mean([record["predicted"] == record["label"] for record in drawn.values()])
        ),
        "test accuracy": model.accuracy,
        "curve": {
            method: np.round(np.mean([score["curve"] for score in of.values()], axis=(0, 1)), 4).tolist()
            for method, of in scores.items()
        },
    }


def assemble_rest(model: Model) -> dict[str, Any]:
    found: dict[str, Any] = {}
    bounds = list(model.lines("bounds").found.values())
    if bounds:
        places = {
            method: [
                (each[method] - each["lowest"]) / (each["highest"] - each["lowest"])
                for each in (record["comprehensiveness"] for record in bounds)
            ]
            for method in bounds[0]["comprehensiveness"]
        }
        found["bounds"] = {
            "reviews": len(bounds),
            "words, median": statistics.median(record["words"] for record in bounds),
            "between lowest and highest": {method: interval(values) for method, values in places.items()},
        }
    sanity = list(model.lines("sanity").found.values())
    if sanity:
        rows = [record["rank correlation with new weights"] for record in sanity]
        found["sanity"] = {
            "reviews": len(rows),
            "rank correlation, new head, new last layer": {
                method: [interval([abs(row[method][depth]) for row in rows]) for depth in range(2)]
                for method in rows[0]
            },
            "passes below": SANE,
        }
    speed = list(model.lines("speed").found.values())
    if speed:
        found["seconds per review of 256 pieces, hidden states ready, one thread, median"] = {
            method: round(statistics.median(record["seconds"][method] for record in speed), 4)
            for method in speed[0]["seconds"]
        } | {"reviews": len(speed)}
    for record in model.lines("report").found.values():
        found["report"] = record
    return found


def interval(values: Sequence[float]) -> list[float]:
    """Return mean, low and high of the mean's 95 % interval."""
    mean, error = float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return [round(number, 4) for number in (mean, mean - error, mean + error)]


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with each row of a table on one line."""
    text = re.sub(r"\[[^][{}]*\]", lambda row: " ".join(row[0].split()), json.dumps(content, indent=2))
    path.write_text(text.replace("[ ", "[").replace(" ]", "]") + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--last", type=Path, help="a run that trained the last layer")
    parser.add_argument("--top2", type=Path, help="a run that trained the top two layers")
    parser.add_argument("--cache", type=Path, default=Path("outputs/reasons"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "reasons.json")
    parser.add_argument("--steps", default=",".join(STEPS), help="which to run; none: only write what is there")
    parser.add_argument("--num", default="", help="other numbers of reviews: aumann_shapley=100,shap=20")
    parser.add_argument("--minutes", type=float, default=math.inf, help="measure so long at most; go on another time")
    arguments = parser.parse_args()
    Lines.deadline = time.monotonic() + 60 * arguments.minutes
    cache = arguments.cache.absolute()
    count = NUM_REVIEWS | {
        name: int(number) for name, _, number in (p.partition("=") for p in arguments.num.split(",")) if name
    }
    steps = arguments.steps.split(",")
    torch.set_num_threads(1)
    split = datasets.load_dataset("parquet", data_files={"test": f"{arguments.reviews}/test.parquet"})["test"]
    given = {name: getattr(arguments, name) for name in ("last", "top2")}
    models = {name: Model(name, path, split, cache) for name, path in given.items() if path is not None}
    content: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for name, model in models.items():
        for size, method in itertools.product((25, 50, 100, 200, 500), DELETED if "deletion" in steps else ()):
            measure_deletion(model, method, min(size, count[method]))  # all methods on some reviews, then on more
        if "speed" in steps:
            measure_speed(model, QUICK[:3], count["speed"])
        if "sanity" in steps:
            measure_sanity(model, QUICK[:3], count["sanity"])
        if "report" in steps:
            time_report(model, arguments.reviews)
        if "bounds" in steps:
            measure_bounds(model, QUICK, count["bounds"])
        content[name] = assemble_deletion(model) | assemble_rest(model)
    for kind in ("one word", "word in context", "ordered pair") if "planted" in steps else ():
        if time.monotonic() > Lines.deadline:
            break
        methods = QUICK if kind == "one word" else (*QUICK, "occlusion")
        folder = cache / "planted" / kind.replace(" ", "_")
        found = measure_planted(split, Path(arguments.reviews), folder, kind, methods, count["planted"])
        content.setdefault("planted", {})[kind] = found
    for name, dealt_again in (("spans", False), ("spans, dealt again", True)):
        if "spans" in steps:
            folder = cache / name.replace(", ", " ").replace(" ", "_")
            content[name] = measure_spans(folder, QUICK, count["spans"], dealt_again=dealt_again)
    content |= {"what": "benchmarks/reasons.py", "protocols": PROTOCOLS, "seed": SEED, **environment()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write(arguments.out, content)


if __name__ == "__main__":
    main()
