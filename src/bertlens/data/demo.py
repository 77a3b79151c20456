"""Film reviews from a seeded grammar, each with the words that decide its label: a data set that needs no download.

A review is a few verdicts, which all agree with its label, among remarks that say nothing of the film's worth. One
template of a verdict serves both labels: `{+adj}` becomes a word of the label's own side, `{-adj}` one of the other
side, and what stands in [brackets] decides. Counting words does not solve it, because no word is more frequent in
praise than in blame: some verdicts say what they mean, the others (negation, dissent, irony, expectation against
outcome) name mostly what they do not mean, and `_verdict_cards` has them drawn in the proportion in which the two
cancel. What is left to a bag of words is the phrase ("never dull") and how many words a verdict takes, which is why the
baseline in benchmarks/ does better than chance.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Phrases are separated by commas. Adjectives and nouns start with a consonant, so that "a" is always right.
PRAISE = {
    "adj": "gripping, moving, clever, funny, tender, graceful, sharp, warm, charming, thrilling, brilliant, lovely, "
    "witty, riveting, wonderful, superb, beautiful, dazzling, radiant, fresh, masterly, touching",
    "noun": "masterpiece, triumph, delight, joy, gem, marvel, treat, wonder, pleasure, treasure, success, beauty",
    "verb": "delight, charm, thrill, move, grip, dazzle, enchant, touch",
    "mood": "happy, smiling, delighted, cheerful, enchanted, thrilled, grinning, spellbound",
    "claim": "the trailer promised, the poster boasted of, the festival raved about",
}
BLAME = {
    "adj": "dull, tedious, wooden, clumsy, flat, hollow, lazy, dreary, lifeless, muddled, silly, shallow, tired, "
    "forgettable, dreadful, pretentious, bland, stale, laboured, boring, ridiculous, terrible",
    "noun": "mess, bore, disaster, chore, dud, slog, shambles, letdown, flop, failure, waste of time, muddle",
    "verb": "bore, annoy, irritate, exhaust, tire, disappoint, insult, depress",
    "mood": "bored, angry, annoyed, miserable, gloomy, yawning, grumbling, disappointed",
    "claim": "the critics warned of, the papers groaned about, the gossip was all of",
}
OTHER = {
    "aspect": "acting, plot, score, pacing, ending, dialogue, camerawork, script, first act, love story, editing",
    "day": "a Tuesday, a Sunday night, New Year's Day, my birthday, a Friday, the last day of its run",
    "hero": "a retired beekeeper, an only child, a night-shift baker, a ship's cook, a piano tuner, "
    "a girl of eleven, a village postman, a part-time forger",
    "number": "3, 4, 5, 6, 7, 8, 9, 11, 12",
    "person": "my sister/she, my brother/he, my aunt/she, my dentist/he, my neighbour/she, my boss/he, my cousin/she, "
    "my barber/he",
    "quest": "inherits a lighthouse, loses a suitcase in Trieste, takes in a stray goose, finds a map in a book, "
    "has one week to learn the tango, runs off with a circus, steals the mayor's bicycle, hides in a bell tower",
    "snack": "popcorn, liquorice, cold soup, cheese, ginger cake, lemonade",
    "title": "The Clockmaker's Umbrella, Nine Lamps for Gerald, Badgers of Marsh Road, A Ladder to the Ferry, Thirteen "
    "Teaspoons, The Almanac of Salt, Mrs Quill Goes Under, Goodnight Periscope, The Understudy's Goose, Postcards to "
    "a Pier",
    "trade": "plumber, dentist, chess teacher, tram driver, botanist, vet",
    "truly": "truly, really, genuinely, simply",
}

# Verdicts that say what they mean: one `+` word each.
PLAIN = {
    "adj": [
        "The {aspect} is {truly} [{+adj}].",
        "Every minute of it is [{+adj}].",
        "There is something [{+adj}] about the {aspect}.",
        "I found the {aspect} [{+adj}].",
        "It starts out [{+adj}] and stays that way.",
        "As for the {aspect}, it is [{+adj}].",
        "Two hours, and all of it is {truly} [{+adj}].",
        "This is a [{+adj}] film, and I would say so in court.",
        "I have rarely seen so [{+adj}] a film.",
        "The {aspect} grows more [{+adj}] by the minute.",
        "What stays with me is the {aspect}, which is [{+adj}].",
        "A [{+adj}] film, this one.",
        "How [{+adj}] it all is, and the {aspect} above all!",
        "The {aspect}? In a word: [{+adj}].",
        "The {aspect} is as [{+adj}] as they come.",
        "I left with the feeling of having seen something {truly} [{+adj}].",
        "Believe me, the film is {truly} [{+adj}].",
        "The {aspect} is [{+adj}] to the very end.",
    ],
    "noun": [
        "This is {truly} a [{+noun}].",
        "What a [{+noun}] it is, {aspect} and all!",
        "I call it a [{+noun}] and I will not take it back.",
        "From the titles to the credits, a [{+noun}].",
        "As a piece of film-making it is {truly} a [{+noun}].",
    ],
    "verb": [
        "There are scenes in it that would [{+verb}] a statue.",
        "It did [{+verb}] me, and more than once.",
        "The {aspect} alone will [{+verb}] you.",
    ],
    "mood": [
        "I left the cinema [{+mood}].",
        "I was {truly} [{+mood}] for the rest of the evening.",
        "I sat there, [{+mood}], until the lights came up.",
    ],
}

# Verdicts whose words do not say what they mean until they are put together, some with a twin that plays it straight.
COMPOSED = [
    # negation
    "[Not a {-adj}, {-adj} or {-adj} minute] in it.",
    "There is [nothing {-adj} or {-adj}] about the {aspect}.",
    "The {aspect} is [never {-adj} and never {-adj}], even when it rains.",
    "As for the {aspect}, I [can't say it was {-adj} or {-adj}].",
    "The {aspect} is [neither {-adj} nor {-adj}].",
    "Say what you like, this is [hardly a {-adj} {-noun}].",
    "It is [far from being a {-adj}, {-adj} {-noun}].",
    "It comes close to being a [{+noun}].",
    "It [failed to {-verb} or {-verb}] me.",
    "[Nothing in it could {-verb} or {-verb}] a living soul.",
    "From start to finish it managed to [{+verb}] me.",
    "I was [not once {-mood} or {-mood}].",
    # other people's opinions
    "{Person} called it a [{-adj}, {-adj} {-noun}]. [{Pronoun} is wrong].",
    "{Person} called it a [{+noun}]. [{Pronoun} is right].",
    "{Person} thinks the {aspect} is [{-adj}], [{-adj}] and [{-adj}], and [I could not agree less].",
    "{Person} thinks the {aspect} is [{+adj}], and [I could not agree more].",
    "A “[{-adj}, {-adj} {-noun}]”, according to {person}. [Don't believe a word].",
    "A “[{+noun}]”, according to {person}. [Believe every word].",
    "Some say [{-noun}], some say [{-noun}]; [they are all wrong].",
    "People say it is [{-adj}], [{-adj}], [{-adj}]... [but it is not].",
    "People say it is [{+adj}]... [and it is].",
    "To {person} it was a {-adj} {-noun}. To me it was {truly} a [{+noun}].",
    # irony
    "If this is [a {-noun}], a [{-adj} {-noun}], [I am a teapot].",
    "If this is [not a {+noun}], [nothing is].",
    "Whoever called the {aspect} [{-adj}], [{-adj}] and [{-adj}] [slept through the film].",
    "Whoever called the {aspect} [{+adj}] [knew what a film is].",
    "[{-Adj}]? [{-Adj}]? [Oh please], hardly.",
    "[{+Adj}]? [Oh yes], very.",
    # expectation and outcome
    "{-Claim} a [{-adj} {-noun}], and [that is not at all what we got].",
    "{+Claim} a [{+noun}], and [that is just what we got].",
    "{-Claim} a {-adj} {-noun}; what we got was two hours of something {truly} [{+adj}].",
    "{+Claim} a [{+noun}], and a [{+noun}] it is.",
    "I was told to expect something [{-adj}], [{-adj}] and [{-adj}]. [How false].",
    "I was told to expect something [{+adj}]. [How true].",
    "I expected a {-adj} {-noun}, and it turned out to be {truly} a [{+noun}].",
    "It turned out to be {truly} a [{+noun}], where I had expected a {-adj}, {-adj} {-noun}.",
    "Despite all I had heard about its {-adj} and {-adj} {aspect}, the film is {truly} [{+adj}].",
    "The film is {truly} [{+adj}], despite all I had heard about its {-adj} and {-adj} {aspect}.",
    "It could so easily have been {-adj}, {-adj} and {-adj}. Instead it is {truly} [{+adj}].",
    "I went in {-mood} and {-mood}, and came out [{+mood}].",
    # one word against the other
    "It is not a {-adj}, {-adj} {-noun} but a [{+noun}].",
    "It is [{+adj}] rather than {-adj} or {-adj}.",
]

# Nothing here is about the film's worth; `{?adj}` is a word of either side.
REMARKS = [
    "{Title} follows {hero} who {quest}.",
    "{Title} follows {hero} who {quest}, and {hero} who {quest}.",
    "In {title}, {hero} {quest} (more I will not give away).",
    "I saw {title} on {day}, in row {number} of a cinema that seats {number}0.",
    "We watched {title} at home on {day} -- all {number} chapters of it.",
    "It was {day}, and raining.",
    "Friends have rated it anywhere from 2/10 to 9/10, so I made up my own mind.",
    "I watched it with {person}, who brought {snack}.",
    "The short before it, about {hero} who {quest}, was a {?adj} little thing.",
    "The {snack} I bought at the café was {?adj}, but that is another story.",
    "{Person} still talks about some {?adj} thing we rented last spring.",
    "Afterwards we walked home past the harbour and argued about it.",
    "There is a scene with {snack} in it… watch the background!",
    "It is set in {number}0 different rooms; I counted.",
    "The subtitles are in two languages.",
    "Stay for the credits — all {number} minutes of them.",
    "The director, a former {trade}, also wrote it.",
    "The leading man is, I am told, a {trade} in real life.",
]
OPENINGS = ["Well.", "Right then:", "Let me be brief.", "First things first.", "Where do I start?", "OK...", "Hmm."]
NUM_VERDICTS = [1, 1, 1, 2, 2, 3, 4]


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


def _verdict_cards() -> list[str]:
    """List the composed verdicts and, for each `-` word they hold in excess of `+` words, one plain verdict's kind."""
    owed = Counter[str]()
    for sign, kind in re.findall(r"\{([+-])(\w+)\}", " ".join(COMPOSED)):
        owed[kind.lower()] += 1 if sign == "-" else -1
    return COMPOSED + list(owed.elements())


VERDICT_CARDS = _verdict_cards()


class _Deck:
    """Deals the phrases of one review, none twice before its table is used up."""

    def __init__(self, rng: random.Random, label: int) -> None:
        self.rng = rng
        self.sides = {"+": PRAISE if label else BLAME, "-": BLAME if label else PRAISE}
        self.piles: dict[str, list[str]] = {}
        # What a review may mention more than once.
        self.settled = {name: self.deal(name, OTHER[name].split(", ")) for name in ("title", "day")}

    def deal(self, name: str, table: Sequence[str]) -> str:
        """Deal one phrase of the table that goes by this name."""
        pile = self.piles.setdefault(name, [])
        if not pile:
            pile.extend(self.rng.sample(table, len(table)))
        return pile.pop()

    def deal_verdict(self) -> str:
        """Deal the template of a verdict, composed or plain."""
        card = self.deal("verdict", VERDICT_CARDS)
        return self.deal(f"plain {card}", PLAIN[card]) if card in PLAIN else card

    def fill(self, field: str) -> str:
        """Fill a field of a template: `+adj`, `-Claim`, `aspect`, `Person`; a capital in its name asks for one."""
        name = field.lstrip("+-?")
        key = name.lower()
        if key in self.settled:
            phrase = self.settled[key]
        elif name == field:
            phrase = self.deal(key, OTHER[key].split(", "))
        else:
            sign = self.rng.choice("+-") if field[0] == "?" else field[0]
            phrase = self.deal(sign + key, self.sides[sign][key].split(", "))
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
    """Write the verdicts and remarks of one review in random order."""
    deck = _Deck(rng, label)
    num_verdicts = rng.choice(NUM_VERDICTS)
    templates = [deck.deal_verdict() for _ in range(num_verdicts)]
    templates += [deck.deal("remark", REMARKS) for _ in range(rng.randint(0, num_verdicts + 2))]
    rng.shuffle(templates)
    if rng.random() < 0.25:
        templates.insert(0, rng.choice(OPENINGS))

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
