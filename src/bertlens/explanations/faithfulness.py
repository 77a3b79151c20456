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
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import track
from scipy.special import logit
from scipy.stats import binom, spearmanr
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

# of the table in the terminal
COLUMNS = {
    **dict(zip(MEASURES, ("gone,\ndrop", "gone,\nmask", "kept,\ndrop", "kept,\nmask"), strict=False)),
    FLIPS: "flips\nat",
    NEVER: "never\nflips",
}

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
    """One line of faithfulness.csv: a mean (of `flips at`: the median) with its 95 % interval."""

    method: str
    measure: str
    group: str
    reviews: int
    value: float
    low: float
    high: float
    p_holm: float | None = None  # of a paired difference, corrected for the number of methods compared
    seconds_per_review: float | None = None


class Measured(NamedTuple):
    """What `measure` returns."""

    findings: list[Finding]
    curves: dict[str, NDArray[np.float64]]
    """By method [O, shares of CURVE]: the predicted class's mean probability."""


def without(ids: Sequence[int], words: Iterable[Word], mask_id: int | None = None) -> list[int]:
    """Return the ids without the pieces of these words, or with `mask_id` in place of each of them."""
    gone = {piece for word in words for piece in range(word.first, word.last)}
    if mask_id is None:
        return [piece for place, piece in enumerate(ids) if place not in gone]
    return [mask_id if place in gone else piece for place, piece in enumerate(ids)]


def only(ids: Sequence[int], words: Iterable[Word], mask_id: int | None = None) -> list[int]:
    """Return [CLS], the pieces of these words and [SEP]; all others dropped, or `mask_id` in place of each of them."""
    kept = {piece for word in words for piece in range(word.first, word.last)}
    others = [Word(place, place + 1, 0, 0) for place in range(1, len(ids) - 1) if place not in kept]
    return without(ids, others, mask_id)


def rank_words(review: ExplainedReview, values: NDArray[np.floating]) -> NDArray[np.int64]:
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


def check_by_hand(explainer: Explainer, review: ExplainedReview) -> Check:
    """Measure what a reader of the page may ask of one review, about 120 edited copies."""
    words = find_words(review.tokens, review.offsets, review.text)
    ranked = rank_words(review, review.rows[0].values)
    leading = [words[place] for place in ranked[:NUM_LEADING]]
    counts = [count for count in COUNTS if count <= len(ranked)]
    orders = random_orders(ranked, seed=review.index)
    copies = [without(review.ids, leading[:count]) for count in range(1 + len(leading))]
    copies += [only(review.ids, leading[:count]) for count in range(1 + len(leading))]
    copies += [without(review.ids, [word]) for word in leading]
    copies += [without(review.ids, [words[place] for place in order[:count]]) for order in orders for count in counts]
    ends = np.cumsum([1 + len(leading), 1 + len(leading), len(leading)])
    removed, kept, alone, random = np.split(explainer.run(copies), ends)
    return Check(
        order=ranked[:NUM_LEADING].tolist(),
        removed=removed,
        kept=kept,
        alone=alone,
        random_counts=counts,
        random=random.reshape(NUM_ORDERS, len(counts), removed.shape[1]),
        agreement=_agreement(explainer, review, words, ranked),
    )


def _agreement(
    explainer: Explainer, review: ExplainedReview, words: Sequence[Word], places: NDArray[np.int64]
) -> float | None:
    if len(places) < 3:
        return None
    given = ReviewToExplain(index=review.index, text=review.text)
    quick = next(with_methods(explainer, "mask_gradient").explain([given]))
    values = [word_weights(words, row.values)[places] for row in (review.rows[0], quick.rows[0])]
    found = spearmanr(*values).statistic if all(map(np.ptp, values)) else math.nan
    return None if math.isnan(found) else float(found)


def with_methods(explainer: Explainer, *names: str) -> Explainer:
    """Return the explainer with other methods."""
    other = copy.copy(explainer)
    other.methods = list(names)
    return other


def measure(explainer: Explainer, reviews: Sequence[ReviewToExplain], methods: Sequence[str]) -> Measured:
    """Measure methods on labelled reviews, the first one against the others and ten random orders of the words.

    Seconds per review are those of the classifier and the method, with nothing stored.
    """
    scores: dict[str, dict[int, Scores]] = {}
    seconds = {}
    for name in methods:
        start = time.perf_counter()
        explained = list(with_methods(explainer, name).explain(reviews))
        seconds[name] = (time.perf_counter() - start) / len(reviews)
        scores[name] = {
            review.index: delete_words(explainer, review, rank_words(review, review.rows[0].values)[None])
            for review in track(explained, description=name, transient=True, disable=not sys.stdout.isatty())
        }
    scores[RANDOM] = {
        review.index: delete_words(
            explainer, review, random_orders(rank_words(review, review.rows[0].values), seed=review.index), num_masked=2
        )
        for review in track(explained, description=RANDOM, transient=True, disable=not sys.stdout.isatty())
    }
    curves = {name: np.mean([score["curve"] for score in of.values()], axis=0) for name, of in scores.items()}
    return Measured(summarize(scores, group(explained, explainer.label_names), seconds), curves)


def group(explained: Sequence[ExplainedReview], label_names: Sequence[str]) -> dict[str, set[int]]:
    """Return the indices of all reviews, of those by predicted class, and of right and wrong predictions."""
    groups = {"all": {review.index for review in explained}}
    for place, name in enumerate(label_names):
        groups[f"predicted {name}"] = {review.index for review in explained if review.predicted == place}
    for name, is_right in {"right": True, "wrong": False}.items():
        groups[name] = {review.index for review in explained if (review.predicted == review.label) == is_right}
    return groups


def table(findings: Sequence[Finding]) -> dict[str, dict[str, str]]:
    """Return cells by row and column for a terminal: each method, then the first one by groups of reviews."""
    rows: dict[str, dict[str, str]] = {}
    for found in findings:
        if found.measure in COLUMNS and (found.group == "all" or found.method == findings[0].method):
            name = found.method if found.group == "all" else f"  {escape(one_line_of(found.group)[:20])}"
            half = f" ±{(found.high - found.low) / 2:.2f}" if found.measure in MEASURES[:2] else ""
            cell = "never" if math.isinf(found.value) else f"{found.value:.3f}{half}"
            rows.setdefault(name, {})[COLUMNS[found.measure]] = cell
            if found.group == "all" and found.seconds_per_review is not None and found.measure == NEVER:
                rows[name]["s per\nreview"] = f"{found.seconds_per_review:.3f}"
    return rows


def delete_words(
    explainer: Explainer, review: ExplainedReview, orders: NDArray[np.int64], *, num_masked: int | None = None
) -> Scores:
    """Return what deleting words in each order does to the predicted class, by the name of the measure: each [O].

    orders [O, words] are places in `find_words`; with `num_masked`, only so many of them are also tried with [MASK].
    `curve` [O, shares] is the probability without the words of each share of `CURVE`; `flips at` is the first share at
    which another class is predicted, infinite if none. `accuracy …` is 1 where a copy is given the review's label.
    """
    words, ids, mask_id = (
        find_words(review.tokens, review.offsets, review.text),
        review.ids,
        explainer.tokenizer.mask_id,
    )
    tops = [
        {share: [words[place] for place in order[: math.ceil(share * len(order) - 1e-9)]] for share in CURVE}
        for order in orders
    ]
    dropped = [[without(ids, top[share]) for share in CURVE] for top in tops]
    kept = [[only(ids, top[share]) for share in SHARES] for top in tops]
    masked = [[without(ids, top[share], mask_id) for share in SHARES] for top in tops[:num_masked]]
    kept_masked = [[only(ids, top[share], mask_id) for share in SHARES] for top in tops[:num_masked]]
    kinds = (dropped, masked, kept, kept_masked)
    ends = np.cumsum([len(kind) * len(kind[0]) for kind in kinds])[:-1]
    flat = np.split(explainer.run([copy for kind in kinds for copies in kind for copy in copies]), ends)
    curve, *others = (all_.reshape(len(kind), len(kind[0]), -1) for kind, all_ in zip(kinds, flat, strict=True))
    at_shares = curve[:, [CURVE.index(share) for share in SHARES]]
    full = np.float64(review.confidence)
    found: Scores = {"curve": curve[:, :, review.predicted].astype(np.float64)}
    for name, edited in zip(MEASURES[:4], (at_shares, *others), strict=True):
        left = edited[:, :, review.predicted].astype(np.float64)
        found[name] = (full - left).mean(axis=1)
        found[f"{name}, log-odds"] = (_log_odds(full) - _log_odds(left)).mean(axis=1)
    flipped = curve.argmax(axis=2) != review.predicted
    found[FLIPS] = np.where(flipped.any(axis=1), np.array(CURVE)[flipped.argmax(axis=1)], np.inf)
    for edit, edited in {"drop": at_shares, "mask": others[0]}.items():
        right = edited.argmax(axis=2) == review.label
        found |= {f"accuracy, {edit}, {share:.0%}": right[:, SHARES.index(share)] * 1.0 for share in SHARES[2:]}
    return found


def summarize(
    scores: Mapping[str, Mapping[int, Scores]], groups: Mapping[str, set[int]], seconds: Mapping[str, float]
) -> list[Finding]:
    """Return what the methods reach in each group of reviews, and the first one's paired differences to the others.

    scores: by method, then by review. A difference is over the reviews that both methods have; its p is Holm-corrected.
    """
    found = []
    lead = next(iter(scores))
    for group, members in groups.items():
        each = {
            method: {index: _one_number(score) for index, score in reviews.items() if index in members}
            for method, reviews in scores.items()
        }
        each = {method: reviews for method, reviews in each.items() if reviews}
        for method, reviews in each.items():
            for measure in next(iter(reviews.values())):
                values = np.array([review[measure] for review in reviews.values()])
                row = _median(values) if measure == FLIPS else _mean(values)[:3]
                if method == RANDOM or not measure.startswith("accuracy"):
                    found.append(Finding(method, measure, group, len(values), *row, None, seconds.get(method)))
            band = scores.get(RANDOM, {}) if method != RANDOM else {}
            drop = MEASURES[0]
            above = [reviews[index][drop] > band[index][drop].max() for index in reviews if index in band]
            if above:
                found.append(Finding(method, ABOVE, group, len(above), *_mean(np.array(above) * 1.0)[:3]))
        for measure in (*MEASURES, NEVER):
            rows: list[tuple[str, int, tuple[float, float, float, float]]] = []
            for method, reviews in each.items():
                common = [index for index in reviews if index in each.get(lead, {})]
                if method != lead and common:
                    differences = [each[lead][index][measure] - reviews[index][measure] for index in common]
                    rows.append((method, len(common), _mean(np.array(differences))))
            for (method, num, difference), p in zip(rows, holm([row[-1][-1] for row in rows]), strict=True):
                found.append(Finding(lead, f"{measure}, minus {method}", group, num, *difference[:3], p))
    return found


def _one_number(score: Scores) -> dict[str, float]:
    """Return the mean over the orders of each measure, and of the first flips the median."""
    means = {name: float(values.mean()) for name, values in score.items() if name not in ("curve", FLIPS)}
    return means | {FLIPS: float(np.median(score[FLIPS])), NEVER: float(np.isinf(score[FLIPS]).mean())}


def _mean(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return the mean, its 95 % interval and p of "the mean is 0", by Student's t."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, math.nan, math.nan, math.nan
    error = float(values.std(ddof=1)) / math.sqrt(n)
    half = float(student.ppf(0.975, n - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return mean, mean - half, mean + half, p


def _median(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median, which may be infinite, and its 95 % interval by ranks."""
    ordered, n = np.sort(values), len(values)
    low = int(binom.ppf(0.025, n, 0.5))
    return float(ordered[(n - 1) // 2]), float(ordered[low]), float(ordered[n - 1 - low])


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979)."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate((len(p) - np.arange(len(p))) * np.array(p)[order])
    return np.minimum(corrected, 1)[np.argsort(order)].tolist() if len(p) else []


def _log_odds(probability: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(probability, 1e-6, 1 - 1e-6)))


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write `faithfulness.csv`, one finding per line."""
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, Finding._fields)
        writer.writeheader()
        writer.writerows(csv_row(found._asdict()) for found in findings)
