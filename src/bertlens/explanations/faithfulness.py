"""How well a reason holds: what the classifier says when the words that carry it are gone.

Words are deleted at the input of the whole classifier: from the pieces that were read, never refilled from the text
that was cut off. Punctuation marks are not deleted by themselves and do not count as words.

Comprehensiveness and sufficiency: DeYoung et al. 2020 (ERASER), section 4; the mean over five shares, as in
their code.
Left out: the reason's truth for a reader, which deletion cannot measure.

Shapes: R reviews, O orders of the words, L word pieces, C classes.
"""

import copy
import csv
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from scipy.special import logit
from scipy.stats import binom, sem, spearmanr
from scipy.stats import t as student

from bertlens.explanations.explainer import ExplainedReview, Explainer, ReviewToExplain
from bertlens.explanations.words import Word, find_words, word_text, word_weights
from bertlens.system.escape import csv_row, one_line_of
from bertlens.system.files import atomic_write

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # of the words, deleted or kept
CURVE = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9)  # where flips are looked for; holds SHARES
NUM_ORDERS = 10
NUM_LEADING = 20
COUNTS = (1, 2, 5, 10, 15, 20)
RANDOM = "random"
MEASURES = [f"{kind}, {edit}" for kind in ("comprehensiveness", "sufficiency") for edit in ("drop", "mask")]
MEASURES += [f"{measure}, log-odds" for measure in MEASURES]
FLIPS, NEVER, ABOVE = "flips at", "never flips", "above the random band"
REMOVED = (0.1, 0.2, 0.5)  # at random, to see how far the test itself leads the classifier astray
CHANCE = [f"accuracy, {edit}, {share:.0%}" for edit in ("drop", "mask") for share in REMOVED]
# of the table in the terminal
COLUMNS = dict(zip(MEASURES, ("gone,\ndrop", "gone,\nmask", "kept,\ndrop", "kept,\nmask"), strict=False))
COLUMNS |= {NEVER: "never\nflips", FLIPS: "flips\nat"}

Scores = dict[str, NDArray[np.float64]]


class Check(NamedTuple):
    """What the classifier says of edited copies of one review, by the words that its first row puts first."""

    order: list[int]
    """The n leading words, at most 20: places in `find_words`, largest value first."""
    removed: NDArray[np.float32]
    """[1 + n, C]: the probabilities without the k leading words, k = 0 … n."""
    kept: NDArray[np.float32]
    """[1 + n, C]: with only the k leading words left."""
    alone: NDArray[np.float32]
    """[n, C]: without this word alone."""
    random_counts: list[int]
    """R numbers of words, of 1, 2, 5, 10, 15 and 20, as far as the review has that many."""
    random: NDArray[np.float32]
    """[10, R, C]: without that many words, by ten random orders."""
    agreement: float | None
    """Spearman's rank correlation of the words' values with those of `mask_gradient`; None where undefined."""


class Finding(NamedTuple):
    """One line of faithfulness.csv: a mean, or the median of `flips at`, with its 95 % interval."""

    method: str
    measure: str
    group: str
    reviews: int
    value: float
    low: float
    high: float
    p_holm: float | None = None  # of a paired difference, corrected for the number of methods compared
    seconds_per_review: float | None = None


def without(ids: Sequence[int], words: Iterable[Word], mask_id: int | None = None) -> list[int]:
    """Return the ids without the pieces of these words, or with `mask_id` in place of each of them."""
    gone = {piece for word in words for piece in range(word.first, word.last)}
    if mask_id is None:
        return [piece for place, piece in enumerate(ids) if place not in gone]
    return [mask_id if place in gone else piece for place, piece in enumerate(ids)]


def only(ids: Sequence[int], words: Iterable[Word], mask_id: int | None = None) -> list[int]:
    """Return [CLS], the pieces of these words and [SEP]; all others dropped, or `mask_id` in place of each of them."""
    kept = {piece for word in words for piece in range(word.first, word.last)}
    return without(ids, [Word(p, p + 1, 0, 0) for p in range(1, len(ids) - 1) if p not in kept], mask_id)


def rank_words(review: ExplainedReview, values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the places of the words that hold a letter or digit, largest value first; ties in a seeded random order.

    values [L]. The places are those in `find_words`.
    """
    words = find_words(review.tokens, review.offsets, review.text)
    places = [place for place, word in enumerate(words) if any(map(str.isalnum, word_text(word, review.text)))]
    order = np.random.default_rng(review.index).permutation(np.array(places, dtype=np.int64))
    return order[np.argsort(-word_weights(words, values)[order], kind="stable")]


def random_orders(places: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return ten random orders of the places of words: [10, words]."""
    generator = np.random.default_rng([seed, NUM_ORDERS])
    return np.stack([generator.permutation(np.sort(places)) for _ in range(NUM_ORDERS)])


def with_methods(explainer: Explainer, *names: str) -> Explainer:
    """Return the explainer with other methods."""
    other = copy.copy(explainer)
    other.methods = list(names)
    return other


def check_by_hand(explainer: Explainer, review: ExplainedReview) -> Check:
    """Measure what a reader of the page may ask of one review, by about 120 edited copies."""
    words, ids = find_words(review.tokens, review.offsets, review.text), review.ids
    ranked = rank_words(review, review.rows[0].values)
    leading = [words[place] for place in ranked[:NUM_LEADING]]
    counts = [count for count in COUNTS if count <= len(ranked)]
    orders = random_orders(ranked, seed=review.index)
    copies = [edit(ids, leading[:count]) for edit in (without, only) for count in range(1 + len(leading))]
    copies += [without(ids, [word]) for word in leading]
    copies += [without(ids, [words[place] for place in order[:count]]) for order in orders for count in counts]
    ends = np.cumsum([1 + len(leading), 1 + len(leading), len(leading)])
    removed, kept, alone, random = np.split(explainer.run(copies), ends)
    random = random.reshape(NUM_ORDERS, len(counts), removed.shape[1])
    agreement = _agreement(explainer, review, words, ranked)
    return Check(ranked[:NUM_LEADING].tolist(), removed, kept, alone, counts, random, agreement)


def _agreement(
    explainer: Explainer, review: ExplainedReview, words: Sequence[Word], places: NDArray[np.int64]
) -> float | None:
    given = ReviewToExplain(index=review.index, text=review.text)
    quick = next(with_methods(explainer, "mask_gradient").explain([given]))
    values = [word_weights(words, row.values)[places] for row in (review.rows[0], quick.rows[0])]
    is_defined = len(places) > 2 and all(map(np.ptp, values))
    return float(spearmanr(*values).statistic) if is_defined else None


def delete_words(
    explainer: Explainer, review: ExplainedReview, orders: NDArray[np.int64], *, num_masked: int | None = None
) -> Scores:
    """Return what deleting words in each order does to the predicted class, by the name of the measure: each [O].

    orders [O, words] are places in `find_words`; with `num_masked`, only so many of them are also tried with [MASK].
    `curve` [O, shares] is the probability without the words of each share of `CURVE`; `flips at` is the first share at
    which another class is predicted, infinite if none. `accuracy …` is 1 where a copy is given the review's label.
    """
    words, mask = find_words(review.tokens, review.offsets, review.text), explainer.tokenizer.mask_id
    edits = ((without, None, CURVE), (without, mask, SHARES), (only, None, SHARES), (only, mask, SHARES))
    copies = [
        [
            edit(review.ids, [words[place] for place in order[: math.ceil(round(share * len(order), 6))]], piece)
            for order in (orders if piece is None else orders[:num_masked])
            for share in shares
        ]
        for edit, piece, shares in edits
    ]
    every = explainer.run([ids for some in copies for ids in some]).astype(np.float64)
    parts = np.split(every, np.cumsum([len(some) for some in copies])[:-1])
    curve, *others = (part.reshape(-1, len(each[2]), every.shape[1]) for part, each in zip(parts, edits, strict=True))
    dropped = curve[:, [CURVE.index(share) for share in SHARES]]
    found: Scores = {"curve": curve[:, :, review.predicted]}
    for name, edited in zip(MEASURES[:4], (dropped, *others), strict=True):
        left = edited[:, :, review.predicted]
        found[name] = review.confidence - left.mean(axis=1)
        found[f"{name}, log-odds"] = _log_odds(review.confidence) - _log_odds(left).mean(axis=1)
    flipped = curve.argmax(axis=2) != review.predicted
    found[FLIPS] = np.where(flipped.any(axis=1), np.array(CURVE)[flipped.argmax(axis=1)], np.inf)
    found[NEVER] = np.isinf(found[FLIPS]) * 1.0
    for name, edited in (("drop", dropped), ("mask", others[0])):
        right = (edited.argmax(axis=2) == review.label) * 1.0
        found |= {f"accuracy, {name}, {share:.0%}": right[:, SHARES.index(share)] for share in REMOVED}
    return found


def _log_odds(probability: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(probability, 1e-6, 1 - 1e-6)))


def measure(
    explainer: Explainer, reviews: Sequence[ReviewToExplain]
) -> tuple[list[Finding], dict[str, NDArray[np.float64]]]:
    """Measure the explainer's methods on labelled reviews, the first one against the others and random orders.

    Return the findings and, by method, the predicted class's mean probability [O, shares of `CURVE`]. Seconds per
    review are those of the classifier and the method, with nothing stored.
    """
    scores: dict[str, dict[int, Scores]] = {}
    seconds = {}
    for name in explainer.methods:
        start = time.perf_counter()
        explained = list(with_methods(explainer, name).explain(reviews))
        seconds[name] = (time.perf_counter() - start) / len(reviews)
        ranked = {review.index: rank_words(review, review.rows[0].values) for review in explained}
        scores[name] = {each.index: delete_words(explainer, each, ranked[each.index][None]) for each in explained}
    scores[RANDOM] = {
        each.index: delete_words(explainer, each, random_orders(ranked[each.index], seed=each.index), num_masked=2)
        for each in explained
    }
    classes = [(each.index, each.predicted, each.label) for each in explained]
    curves = {name: np.mean([score["curve"] for score in of.values()], axis=0) for name, of in scores.items()}
    return summarize(scores, group(classes, explainer.label_names), seconds), curves


def group(classes: Sequence[tuple[int, int, int | None]], label_names: Sequence[str]) -> dict[str, set[int]]:
    """Return all reviews, given as (index, predicted, label), those by predicted class, and the right and wrong."""
    groups = {"all": {index for index, _, _ in classes}}
    for place, name in enumerate(label_names):
        groups[f"predicted {name}"] = {index for index, predicted, _ in classes if predicted == place}
    groups["right"] = {index for index, predicted, label in classes if predicted == label}
    return groups | {"wrong": groups["all"] - groups["right"]}


def summarize(
    scores: Mapping[str, Mapping[int, Scores]], groups: Mapping[str, set[int]], seconds: Mapping[str, float]
) -> list[Finding]:
    """Return what the methods reach in each group of reviews, and the first one's paired differences to the others.

    scores: by method, then by review. A difference is over the reviews that both methods have; its p is Holm-corrected.
    """
    found = []
    (lead, ours), *others = scores.items()
    floor, drop = scores.get(RANDOM, {}), MEASURES[0]
    for group_name, members in groups.items():
        for method, reviews in scores.items():
            measured = [score for index, score in reviews.items() if index in members]
            for name in (*MEASURES, NEVER, *(CHANCE if method == RANDOM else ())):
                row = _mean([score[name].mean() for score in measured])
                found.append(Finding(method, name, group_name, *row[:4], None, seconds.get(method)))
            middle = _median([float(np.median(score[FLIPS])) for score in measured])
            found.append(Finding(method, FLIPS, group_name, *middle, None, seconds.get(method)))
            above = [reviews[i][drop].mean() > floor[i][drop].max() for i in members & reviews.keys() & floor.keys()]
            if method != RANDOM and above:
                found.append(Finding(method, ABOVE, group_name, *_mean(above)[:4]))
        for name in (*MEASURES, NEVER):
            rows = {
                method: _mean(
                    [ours[i][name].mean() - theirs[i][name].mean() for i in members & ours.keys() & theirs.keys()]
                )
                for method, theirs in others
            }
            for (method, row), p in zip(rows.items(), holm([row[-1] for row in rows.values()]), strict=True):
                found.append(Finding(lead, f"{name}, minus {method}", group_name, *row[:4], p))
    return found


def _mean(values: Sequence[float]) -> tuple[int, float, float, float, float]:
    """Return the number of values, their mean, its 95 % interval and p of "the mean is 0", by Student's t."""
    num = len(values)
    if num < 2:
        return num, math.nan, math.nan, math.nan, math.nan
    mean, error = float(np.mean(values)), float(sem(values))
    half = float(student.ppf(0.975, num - 1)) * error
    return num, mean, mean - half, mean + half, 2 * float(student.sf(abs(mean) / max(error, 1e-12), num - 1))


def _median(values: Sequence[float]) -> tuple[int, float, float, float]:
    """Return the number of values, their median, which may be infinite, and its 95 % interval by ranks."""
    num = len(values)
    if num < 2:
        return num, math.nan, math.nan, math.nan
    low, ordered = int(binom.ppf(0.025, num, 0.5)), np.sort(values).tolist()
    return num, ordered[(num - 1) // 2], ordered[low], ordered[num - 1 - low]


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979)."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(np.arange(len(p), 0, -1) * np.array(p)[order]).clip(max=1)
    return list(corrected[np.argsort(order)].tolist())


def table(findings: Sequence[Finding]) -> dict[str, dict[str, str]]:
    """Return cells by row and column for a terminal: the first method, also by groups of reviews; then the others.

    A group of fewer than two reviews has no interval and is left out.
    """
    rows: dict[str, dict[str, str]] = {}
    measured = (found for found in findings if not math.isnan(found.value))
    for found in sorted(measured, key=lambda found: found.method != findings[0].method):
        if found.measure in COLUMNS and (found.group == "all" or found.method == findings[0].method):
            name = (
                found.method
                if found.group == "all"
                else f"  {escape(one_line_of(found.group.removeprefix('predicted '))[:20])}"
            )
            half = f" ±{(found.high - found.low) / 2:.2f}" if found.measure in MEASURES[:2] else ""
            cells = {COLUMNS[found.measure]: "never" if math.isinf(found.value) else f"{found.value:.3f}{half}"}
            if found.measure == FLIPS and found.group == "all" and found.seconds_per_review is not None:
                cells["s per\nreview"] = f"{found.seconds_per_review:.3f}"
            rows[name] = rows.get(name, {}) | cells
    return rows


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write `faithfulness.csv`, one finding per line."""
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, Finding._fields)
        writer.writeheader()
        writer.writerows(csv_row(found._asdict()) for found in findings)
