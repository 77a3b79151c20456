"""Film reviews from a seeded grammar, each with the words that decide its label: a data set that needs no download.

A review is a few opinions, which all agree with its label, among remarks that say nothing about the film's quality.
The phrases are in demo_phrases.json. The template of an opinion serves both labels: `{+adj}` becomes an adjective of
the label's own side, `{-adj}` one of the other side, `{?adj}` one of either side, and the words in [brackets] decide
the label. A capital in a name (`{Person}`) asks for one in the text. Adjectives and nouns start with a consonant, so
that "a" is always right.

Counting words does not solve the task, because no word is more frequent in positive reviews than in negative ones.
"plain" opinions say what they mean: one `+` word each. "composed" opinions (negation, irony, ...) name mostly what
they do not mean. `_opinion_cards` has both drawn in the proportion in which the two cancel. Two cues are left to a bag
of words: the phrase ("never dull") and the number of words per opinion. So the baseline in benchmarks/ does better
than chance.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PHRASES = json.loads(Path(__file__).with_name("demo_phrases.json").read_text(encoding="utf-8"))
PLAIN: dict[str, list[str]] = PHRASES["plain"]
COMPOSED: list[str] = [template for kind in PHRASES["composed"].values() for template in kind]
NUM_OPINIONS = [1, 1, 1, 2, 2, 3, 4]


@dataclass(frozen=True)
class DemoReview:
    """A review, its label (0 negative, 1 positive) and the [start, end) offsets of the words that decide it."""

    text: str
    label: int
    spans: tuple[tuple[int, int], ...]


def generate(*, num_reviews: int, seed: int) -> list[DemoReview]:
    """Write distinct reviews, half of them positive, in random order; the same seed gives the same reviews."""
    rng = random.Random(seed)
    labels = [index % 2 for index in range(num_reviews)]
    rng.shuffle(labels)
    reviews: dict[str, DemoReview] = {}
    for label in labels:
        review = _write_review(rng, label)
        while review.text in reviews:
            review = _write_review(rng, label)
        reviews[review.text] = review
    return list(reviews.values())


def _opinion_cards() -> list[str]:
    """Return the composed opinions and one plain opinion's kind per `-` word that they hold in excess of `+` words."""
    owed = Counter[str]()
    for sign, kind in re.findall(r"\{([+-])(\w+)\}", " ".join(COMPOSED)):
        owed[kind.lower()] += 1 if sign == "-" else -1
    return COMPOSED + list(owed.elements())


OPINION_CARDS = _opinion_cards()


class _Deck:
    """Deal the phrases of one review; no phrase comes twice before all of its table were dealt."""

    def __init__(self, rng: random.Random, label: int) -> None:
        self.rng = rng
        own, other = ("praise", "blame") if label else ("blame", "praise")
        self.tables = {"": PHRASES["neutral"], "+": PHRASES[own], "-": PHRASES[other]}
        self.piles: dict[str, list[str]] = {}
        # what a review may mention more than once
        self.settled = {name: self.deal(name, PHRASES["neutral"][name]) for name in ("title", "day")}

    def deal(self, name: str, table: Sequence[str]) -> str:
        """Deal one phrase from the pile of this name, which is made of the table when it is empty."""
        pile = self.piles.setdefault(name, [])
        if not pile:
            pile.extend(self.rng.sample(table, len(table)))
        return pile.pop()

    def deal_opinion(self) -> str:
        """Deal the template of an opinion, composed or plain."""
        card = self.deal("opinion", OPINION_CARDS)
        return self.deal(f"plain {card}", PLAIN[card]) if card in PLAIN else card

    def fill(self, field: str) -> str:
        """Return a phrase for a field of a template: `+adj`, `-Claim`, `aspect`, `Person`."""
        name = field.lstrip("+-?")
        key = name.lower()
        if key in self.settled:
            phrase = self.settled[key]
        else:
            sign = self.rng.choice("+-") if field[0] == "?" else field.removesuffix(name)
            phrase = self.deal(sign + key, self.tables[sign][key])
        if key == "person":
            phrase, self.settled["pronoun"] = phrase.split("/")
        return phrase if name == key else phrase[0].upper() + phrase[1:]

    def write(self, template: str) -> tuple[str, list[tuple[int, int]]]:
        """Fill a template; return its text and the spans that its brackets enclosed."""
        text, spans, start = "", [], 0
        for token in re.split(r"([\[\]]|\{.*?\})", template):
            if token == "[":
                start = len(text)
            elif token == "]":
                spans.append((start, len(text)))
            else:
                text += self.fill(token[1:-1]) if token.startswith("{") else token
        return text, spans


def _write_review(rng: random.Random, label: int) -> DemoReview:
    """Write the opinions and remarks of one review in random order."""
    deck = _Deck(rng, label)
    num_opinions = rng.choice(NUM_OPINIONS)
    templates = [deck.deal_opinion() for _ in range(num_opinions)]
    templates += [deck.deal("remark", PHRASES["remarks"]) for _ in range(rng.randint(0, num_opinions + 2))]
    rng.shuffle(templates)
    if rng.random() < 0.25:
        templates.insert(0, rng.choice(PHRASES["openings"]))

    text = ""
    spans = []
    for template in templates:
        if text:
            text += "<br /><br />" if rng.random() < 0.08 else " "
        sentence, found = deck.write(template)
        if rng.random() < 0.05:
            sentence = sentence.upper()
        spans += [(len(text) + start, len(text) + end) for start, end in found]
        text += sentence
    if rng.random() < 0.2:
        text = text.removesuffix(".") + rng.choice(["!", "...", "!!"])
    if rng.random() < 0.08:
        text = text.lower()
    return DemoReview(text, label, tuple(spans))
