"""What the reliability tests share: real processes of the entry points, and figures that outlive the test."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bertlens.run.folder import environment, write_json

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results" / "reliability.json"
ZYGOTE = Path(__file__).with_name("zygote.py")


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


class EntryPoint:
    """A process that runs an entry point."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._output = output

    def send(self, number: int) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """The power switch: nothing of the process gets to react."""
        if self.is_running:
            self.send(signal.SIGKILL)
        self.wait()

    @property
    def is_running(self) -> bool:
        return not select.select([self._descriptor], [], [], 0)[0]

    def wait(self, timeout: float = 120) -> int:
        """Its exit status; -9 if it was killed. Raises `TimeoutError`, and kills it, if it does not end in time."""
        if not select.select([self._descriptor], [], [], timeout)[0]:
            self.send(signal.SIGKILL)
            raise TimeoutError(f"still running after {timeout} s:\n{self.output[-2000:]}")
        status = Path(f"{self._output}.exit")
        return int(status.read_text()) if status.is_file() else -signal.SIGKILL

    def wait_for(self, line: str, times: int = 1, timeout: float = 60) -> bool:
        """Until it has printed a line so often; false if it ended before."""
        end = time.monotonic() + timeout
        while self.output.count(line) < times:
            if not self.is_running:
                return self.output.count(line) >= times
            if time.monotonic() > end:
                raise TimeoutError(f"{line!r} was not printed {times} times:\n{self.output[-2000:]}")
            time.sleep(0.002)
        return True

    @property
    def output(self) -> str:
        """What it has printed so far, both streams."""
        return self._output.read_text(errors="replace") if self._output.is_file() else ""


@pytest.fixture(scope="session")
def zygote() -> Iterator[subprocess.Popen[str]]:
    environ = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def start(zygote: subprocess.Popen[str], tmp_path: Path) -> Iterator[Callable[..., EntryPoint]]:
    """`start("train", "optimizer.lr=1e-3")`: a real process of train.py, in `tmp_path`, without the seconds of imports.

    `attributes={"module.NAME": value}` are set in that process before it begins, and the functions in
    `announced={"module:name": seconds}` print `@ name` and take so much longer whenever they are called.
    """
    started: list[EntryPoint] = []

    def begin(
        name: str,
        *arguments: Any,
        attributes: dict[str, Any] | None = None,
        announced: dict[str, float] | None = None,
    ) -> EntryPoint:
        output = tmp_path / f"output-{len(started)}.txt"
        request = {
            "script": str(REPOSITORY / f"{name}.py"),
            "arguments": [str(argument) for argument in arguments],
            "folder": str(tmp_path),
            "output": str(output),
            "attributes": attributes or {},
            "announced": announced or {},
        }
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        print(json.dumps(request), file=zygote.stdin, flush=True)
        started.append(EntryPoint(int(zygote.stdout.readline()), output))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
