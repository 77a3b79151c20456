"""What the reliability tests share: figures that outlive the test."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bertlens.run.folder import environment, write_json

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results" / "reliability.json"


@pytest.fixture
def amount(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How much of something: `amount(short, long)`, the second with --long."""
    chosen = request.config.getoption("--long")
    return lambda short, long: long if chosen else short


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record("what was tried", tries=300, corrupt=0)`: a row of the table. Call it last, when all is asserted.

    It is printed, and with --long written into benchmarks/results/reliability.json.
    """
    start = time.perf_counter()

    def keep(title: str, **figures: int | float | str) -> None:
        row = {"title": title, "figures": figures, "seconds": round(time.perf_counter() - start, 1)}
        print(json.dumps(row))
        if request.config.getoption("--long"):
            made = environment()
            row |= {
                "commit": made["commit"],
                "processor": made["machine"]["processor"],
                "python": sys.version.split()[0],
            }
            rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
            write_json(RESULTS, rows | {request.node.name: row})

    return keep
