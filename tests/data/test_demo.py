import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from statistics import mean

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bertlens.data import demo
from bertlens.data.demo import DemoReview, generate


@pytest.fixture(scope="module")
def reviews() -> list[DemoReview]:
    return generate(num_reviews=3000, seed=1234)


def test_same_seed_gives_same_reviews():
    assert generate(num_reviews=50, seed=7) == generate(num_reviews=50, seed=7)
    assert generate(num_reviews=50, seed=7) != generate(num_reviews=50, seed=8)


def test_the_reviews_are_those_of_0_1_0(reviews):
    assert hashlib.sha256(ascii(reviews).encode()).hexdigest()[:16] == "c779c727e3f95e4e"


def test_reviews_do_not_depend_on_the_process():
    code = "from bertlens.data.demo import generate; print(ascii(generate(num_reviews=50, seed=7)))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "99"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == ascii(generate(num_reviews=50, seed=7))


def test_templates_are_filled(reviews):
    assert not [review.text for review in reviews if re.search(r"[\[\]{}]", review.text)]


def test_reviews_are_distinct(reviews):
    assert len({review.text for review in reviews}) == 3000


@pytest.mark.parametrize(("num_reviews", "num_positive"), [(0, 0), (1, 0), (100, 50), (101, 50)])
def test_half_of_the_reviews_are_positive(num_reviews, num_positive):
    labels = Counter(review.label for review in generate(num_reviews=num_reviews, seed=0))
    assert (labels[1], labels[0]) == (num_positive, num_reviews - num_positive)


def test_spans_are_sorted_words_of_the_text(reviews):
    for text, spans in ((review.text, review.spans) for review in reviews):
        assert spans
        bounds = [bound for span in spans for bound in span]
        assert bounds == sorted(set(bounds))
        assert bounds[-1] <= len(text)
        for start, end in spans:
            assert re.fullmatch(r"\w(.*\w)?", text[start:end])
            assert not text[start - 1 : start].isalnum()
            assert not text[end : end + 1].isalnum()


def test_every_opinion_marks_a_word_that_its_label_rests_on(reviews):
    words = {word for side in ("praise", "blame") for words in demo.PHRASES[side].values() for word in words}
    for review in reviews:
        decisive = " ".join(review.text[start:end].lower() for start, end in review.spans)
        assert any(word in decisive for word in words)


def test_lengths_and_markup_vary(reviews):
    lengths = sorted(len(review.text.replace("<br /><br />", " ").split()) for review in reviews)
    assert lengths[0] <= 6
    assert 40 <= mean(lengths) <= 50
    assert 110 <= lengths[-1] <= 170
    assert 300 < sum("<br /><br />" in review.text for review in reviews) < 1500
    assert any(review.text.islower() for review in reviews)


def test_no_kind_of_word_is_more_frequent_in_positive_than_in_negative_reviews():
    owed = Counter()
    for card in demo.OPINION_CARDS:
        for template in demo.PLAIN.get(card, [card])[:1]:
            for sign, kind in re.findall(r"\{([+-])(\w+)\}", template):
                owed[kind.lower()] += 1 if sign == "+" else -1
    assert set(owed) == set(demo.PHRASES["praise"])
    assert not any(owed.values())


@pytest.mark.parametrize(("kind", "templates"), demo.PLAIN.items())
def test_plain_opinions_hold_one_word_of_their_kind(kind, templates):
    for template in templates:
        assert re.findall(r"\{([+-]\w+)\}", template) == [f"+{kind}"]


def test_words_without_their_order_do_not_give_the_label(reviews):
    texts, labels = [review.text for review in reviews], [review.label for review in reviews]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    classifier = LogisticRegression().fit(vectorizer.fit_transform(texts[:2400]), labels[:2400])
    assert 0.55 < classifier.score(vectorizer.transform(texts[2400:]), labels[2400:]) < 0.8
