"""Two processes train one model: each takes its own share of the batches, and all of them end together."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bertlens.model.checkpoint import read_raw

REPOSITORY = Path(__file__).parents[2]
STAGES = ("build", "fit", "validate", "test", "save")
WAYS = {  # what is sent, and the run's exit status, if it may say how it ends
    "SIGTERM to rank 0": (signal.SIGTERM, 143),
    "SIGTERM to rank 1": (signal.SIGTERM, 143),
    "Ctrl-C": (signal.SIGINT, 130),
    "the death of one": (signal.SIGKILL, None),
}

pytestmark = pytest.mark.integration


class Processes:
    """A run of train.py on two processes; `slow.Slow` prints where each of them is."""

    def __init__(self, arguments: list[str], folder: Path, output: Path) -> None:
        environ = os.environ | {"PYTHONPATH": str(REPOSITORY / "tests" / "processes"), "OMP_NUM_THREADS": "1"}
        self._output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, REPOSITORY / "train.py", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environ,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def pids(self, stage: str) -> dict[int, int]:
        """Return the processes that have come to a stage, by rank."""
        return {int(rank): int(pid) for rank, pid in re.findall(rf"@ {stage} (\d) (\d+)$", self.output, re.MULTILINE)}

    def wait_for(self, stage: str) -> dict[int, int]:
        """Return the processes when both have come to a stage."""
        end = time.monotonic() + 180
        while len(found := self.pids(stage)) < 2:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.02)
        return found

    def wait_for_all(self, pids: list[int], timeout: float) -> None:
        """Wait until all processes have ended."""
        end = time.monotonic() + timeout
        self.process.wait(timeout)
        while any(is_running(pid) for pid in pids):
            assert time.monotonic() < end, f"a process of the run is left:\n{self.output}"
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(tiny_run: list[str], tmp_path: Path) -> Iterator[Callable[..., Processes]]:
    """`start(0.3, "hydra.run.dir=run")` starts a run whose batches take so many seconds each."""
    started: list[Processes] = []
    two = [argument for argument in tiny_run if not argument.startswith("trainer.devices=")]
    # 7 validation batches and 13 test batches: one rank has one more than the other
    two += ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=2", "data.tokens_per_batch=190"]
    two += ["+callbacks.slow._target_=slow.Slow"]

    def begin(seconds: float, *arguments: str, cache: str = "off") -> Processes:
        output = tmp_path / f"output-{len(started)}.txt"
        started.append(
            Processes(
                [*two, f"+callbacks.slow.seconds={seconds}", f"features.cache={cache}", *arguments], tmp_path, output
            )
        )
        return started[-1]

    yield begin
    for processes in started:
        processes.kill()


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return {}


@pytest.fixture
def whole(start: Callable[..., Processes], tmp_path: Path, kept: dict[str, Any]) -> Any:
    """The weights at the end of a run that nothing stops."""
    if not kept:
        run = start(0, "hydra.run.dir=whole")
        assert run.process.wait(180) == 0, run.output
        kept |= read_raw(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    return repr_exactly(kept["state_dict"])


def test_ranks_with_different_numbers_of_batches_finish(start, tmp_path):
    run = start(0, "hydra.run.dir=run")
    assert run.process.wait(180) == 0, run.output
    for stage, epochs in (("validate", 2), ("test", 1)):
        batches = [len(re.findall(rf"@ {stage} {rank} ", run.output, re.MULTILINE)) for rank in (0, 1)]
        assert batches[0] == batches[1] + epochs, stage
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    correct = written["metrics"]["test/accuracy"] * 80  # a whole number if each of the 80 reviews counts once
    assert correct == pytest.approx(round(correct), abs=1e-4)
    assert "Traceback" not in run.output


def test_a_test_gives_the_same_digits_on_any_number_of_processes():
    """Loss included: it is computed from all predictions in the order of the split, not from sums per process."""
    found = {}
    for devices in (1, 2, 4):
        done = subprocess.run(
            [sys.executable, REPOSITORY / "tests" / "processes" / "measure.py", str(devices)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(lines) == devices, done.stderr
        found[devices] = set(lines)
    assert len(set.union(*found.values())) == 1, found


@pytest.mark.slow
def test_two_processes_with_half_the_batch_learn_what_one_learns(start, tiny_model, tmp_path):
    """121 reviews of a step's 16: the last one has 9, which two processes share as 5 and 4."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )
    common = [f"model.pretrained={model}", "data.max_reviews=151", "optimizer.lr=3e-3", "test=false"]
    histories = []
    for devices, batch_size in ((1, 16), (2, 8)):
        devices_given = [f"trainer.devices={devices}", f"data.batch_size={batch_size}"]
        run = start(0, *common, *devices_given, f"hydra.run.dir=on-{devices}")
        assert run.process.wait(180) == 0, run.output
        histories.append(json.loads((tmp_path / f"on-{devices}" / "metrics.json").read_text())["history"])
    for one, two in zip(*histories, strict=True):
        for name in ("train/loss", "val/loss", "val/accuracy"):
            assert two[name] == pytest.approx(one[name], abs=1e-4), name


@pytest.mark.slow
def test_two_processes_go_on_to_the_same_bits(start, tmp_path):
    """Each has random numbers for dropout and metrics of its own, and goes on with them."""
    whole = start(0, "hydra.run.dir=whole")
    assert whole.process.wait(180) == 0, whole.output
    stop = f"+callbacks.stop={{_target_: stop_once.StopOnce, step: 3, marker: '{tmp_path / 'stopped'}'}}"
    for status in (143, 0):
        run = start(0, "hydra.run.dir=run", stop)
        assert run.process.wait(180) == status, run.output
    raw = {name: read_raw(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "run")}
    states = [state["cpu"] for state in raw["run"]["random_state"]]
    assert len(states) == 2
    assert not torch.equal(*states)
    for name in ("state_dict", "random_state", "train_metrics", "optimizer_states"):
        assert repr_exactly(raw["run"][name]) == repr_exactly(raw["whole"][name]), name
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "run")]
    assert metrics[0]["history"] == metrics[1]["history"]
    assert metrics[0]["metrics"] == metrics[1]["metrics"]


def repr_exactly(value: Any) -> Any:
    """Return nested values with each tensor as a list, which == compares."""
    if isinstance(value, dict):
        return {key: repr_exactly(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [repr_exactly(inner) for inner in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_end_and_go_on_to_the_same_bits(start, whole, tmp_path, amount, record, stage, way):
    """At the death of one, Lightning watches the processes that it started, and distributed calls fail."""
    tries, longest = amount(1, 3), 0.0
    source, (sent, status) = random.Random(f"{stage} {way}"), WAYS[way]
    for index in range(tries):
        folder, cache = [f"hydra.run.dir=run-{index}", f"cache_dir=cache-{index}"], "on" if stage == "build" else "off"
        checkpoint = tmp_path / f"run-{index}" / "checkpoints" / "last.ckpt"
        run = start(0.3, *folder, cache=cache)
        pids = run.wait_for(stage)
        time.sleep(source.uniform(0, 0.3))
        start_of_end = time.monotonic()
        if sent == signal.SIGINT:  # the terminal signals all processes at once
            os.killpg(run.process.pid, sent)
        else:
            os.kill(pids[int(way[-1]) if way[-1].isdigit() else source.randrange(2)], sent)
        run.wait_for_all(list(pids.values()), timeout=30)
        longest = max(longest, time.monotonic() - start_of_end)
        if status is None:
            assert run.process.returncode != 0, run.output
        else:
            assert run.process.returncode == status, run.output
            assert run.output.count("stopped by ") == run.output.count(f"stopped by {sent.name}") == 1, run.output
            assert "Traceback" not in run.output
            assert stage == "build" or read_raw(checkpoint)["global_step"] > 0
        rest = start(0, *folder, cache=cache)
        assert rest.process.wait(180) == 0, rest.output
        last = read_raw(checkpoint)
        assert last["global_step"] == 10  # 160 reviews, 16 per step and process, 2 epochs
        assert repr_exactly(last["state_dict"]) == whole
    record(
        f"{way} of two processes, stage {stage}",
        tries=tries, ended_in_order=tries, resumed=tries, different_bits=0, longest_seconds=round(longest, 1),
    )  # fmt: skip
