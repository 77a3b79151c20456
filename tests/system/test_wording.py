"""Counts and durations read well."""

import pytest

from bertlens.system.wording import count_of, duration


@pytest.mark.parametrize(("number", "text"), [(0, "0 reviews"), (1, "1 review"), (25_000, "25,000 reviews")])
def test_counts(number, text):
    assert count_of(number, "review") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3599.7, "1 h 0 min"),
        (7845, "2 h 10 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
