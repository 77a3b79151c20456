"""Counts, durations and the names of columns as a reader expects them."""

PROBABILITY = "probability of "  # and the name of a class


def count_of(number: int, noun: str) -> str:
    """Return `1 review`, `25,000 reviews`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """Return `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{rest} s"
