"""A sweep under a real SLURM: its jobs are requeued, end at their time limit or are cancelled, and lose nothing.

`.ci/slurm` brings up SLURM on one machine.
"""

import csv
import os
import re
import shlex
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
RATES = ("1e-4", "2e-4", "5e-4", "1e-3")
HELD_AT = 7  # of 20 steps
PAGE = """# A sweep under SLURM

Written by `pytest -m slurm --long`, which runs it on one machine where `.ci/slurm` has brought up SLURM.

Four learning rates, two jobs at a time, with a small model. In the middle of their training the first job was requeued
(`scontrol requeue`, as after a preemption), and the second one came to its time limit, here 2 minutes. The fourth was
cancelled before it began. The command waited, printed the table and ended with status 1:

```text
{first}
```

The log of the first job, which was requeued:

```text
{requeued}
```

The log of the second job, which submitit requeued at its time limit:

```text
{limited}
```

The printed command went on with what was left:

```text
{second}
```

The weights of the three jobs and all their metrics are, to the last bit, those of a sweep without SLURM.
"""

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def slurm() -> None:
    if shutil.which("sinfo") is None:
        pytest.skip("there is no SLURM here (.ci/slurm brings up one node)")
    found = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=30, check=False)
    if found.returncode:
        pytest.skip(f"SLURM does not answer: {found.stderr.strip()}")


class Sweep:
    """A command that has begun, and its jobs, by the names of their folders."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.folder = folder
        environ = os.environ | {
            "PYTHONPATH": str(REPOSITORY / "tests" / "processes"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
        }
        self.process = subprocess.Popen(
            [sys.executable, REPOSITORY / "train.py", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environ,
        )

    def wait(self, timeout: float = 600) -> str:
        return self.process.communicate(timeout=timeout)[0]

    def jobs(self) -> list[str]:
        """Return the ids of the jobs of the latest submission, in the order of the values."""
        found = [path.parent.name for path in self.folder.glob("sweep/.submitit/*/*_submitted.pkl")]
        latest = max((name.split("_")[0] for name in found), key=int, default="")
        return sorted((name for name in found if name.split("_")[0] == latest), key=lambda name: name.split("_")[-1])


@pytest.fixture
def start(tiny_run: list[str], tiny_model: Path, tiny_reviews: Path, tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """`start("optimizer.lr=1e-3")` runs train.py in `tmp_path`, all paths relative."""
    started: list[Sweep] = []
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copytree(tiny_reviews, tmp_path / "reviews")
    replaced = ("optimizer.lr=", "model.pretrained=", "data.path=", "cache_dir=", "trainer.enable_progress_bar=")
    common = ["model.pretrained=model", "data.path=reviews", "cache_dir=cache"]
    common += [argument for argument in tiny_run if not argument.startswith(replaced)]

    def begin(*arguments: str) -> Sweep:
        started.append(Sweep([*common, *arguments], tmp_path))
        return started[-1]

    yield begin
    for sweep in started:
        sweep.process.kill()
        for job in sweep.jobs():
            subprocess.run(["scancel", "--quiet", job], check=False)


@pytest.fixture
def hold(tmp_path: Path) -> str:
    (tmp_path / "hold").mkdir()
    return f"+callbacks.hold={{_target_: hold.Hold, folder: hold, step: {HELD_AT}}}"


def wait_until(condition: Callable[[], Any], timeout: float = 240) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def end_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return all that a run leaves in its last checkpoint and must be equal."""
    raw = read_raw(folder / "checkpoints" / "last.ckpt")
    tensors = dict(raw["state_dict"]) | {"step": torch.tensor(raw["global_step"])}
    for rank, state in enumerate(raw["random_state"]):
        tensors[f"random numbers of process {rank}"] = state["cpu"]
    for number, moments in raw["optimizer_states"][0]["state"].items():
        tensors |= {f"{number} {kind}": value for kind, value in moments.items()}
    return tensors


def differing(one: Path, other: Path) -> list[str]:
    first, second = end_of(one), end_of(other)
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def log_of(folder: Path) -> str:
    """Return the lines of a job, which begin with its number. First those of its errors, which is another file."""
    lines = "".join(path.read_text() for path in sorted(folder.glob("*_0_log.*"))).splitlines()
    return "\n".join(line for line in lines if line.startswith("["))


def test_a_sweep_whose_jobs_are_requeued_limited_and_cancelled(start, hold, tmp_path, request, record):
    names = [f"optimizer.lr-{float(rate)}" for rate in RATES]
    sweep = ["-m", f"optimizer.lr={','.join(RATES)}", hold]
    plain = start(*sweep, "hydra.sweep.dir=plain", "trainer.devices=1")
    output = plain.wait()
    assert plain.process.returncode == 0, output

    for name in names[:2]:
        (tmp_path / "hold" / name).touch()
    limits = ["timeout_min=2", "signal_delay_s=45", "array_parallelism=2", "cpus_per_task=1"]
    slurm = ["hydra/launcher=slurm", *(f"hydra.launcher.{limit}" for limit in limits), "hydra.sweep.dir=sweep"]
    first = start(*sweep, *slurm)
    wait_until(lambda: len(first.jobs()) == 4)
    jobs = first.jobs()
    subprocess.run(["scancel", jobs[3]], check=True)
    wait_until(lambda: not (tmp_path / "hold" / names[0]).exists())
    subprocess.run(["scontrol", "requeue", jobs[0]], check=True)
    output = first.wait()
    assert first.process.returncode == 1, output
    assert "Traceback" not in output
    rows = table(tmp_path / "sweep")
    assert list(rows) == [*sorted(names[:3], key=lambda name: -float(rows[name]["val/accuracy"])), names[3]]
    assert "in SLURM, without a result" in rows[names[3]]["error"]
    logs = {name: log_of(tmp_path / "sweep" / ".submitit" / job) for name, job in zip(names, jobs, strict=True)}
    assert "stopped by SIGTERM" in logs[names[0]]
    assert "Job has timed out" in logs[names[1]]
    for name in names[:2]:
        assert logs[name].count("resumed") == 1, logs[name]
    assert "resumed" not in logs[names[2]]

    command = next(line for line in output.splitlines() if line.startswith("python ") and "train.py" in line)
    second = Sweep(shlex.split(command)[2:], tmp_path)
    output_of_second = second.wait()
    assert second.process.returncode == 0, output_of_second
    rows = table(tmp_path / "sweep")
    assert rows.keys() == set(names)
    expected = table(tmp_path / "plain")
    for name in names:
        assert differing(tmp_path / "plain" / name, tmp_path / "sweep" / name) == []
        for metric in ("val/accuracy", "test/accuracy", "test/loss"):
            assert rows[name][metric] == expected[name][metric]
    record("a sweep of 4 under SLURM: one job requeued, one at its time limit, one cancelled", jobs=4, different_bits=0)
    if request.config.getoption("--long"):
        texts = {"first": output, "second": output_of_second, "requeued": logs[names[0]], "limited": logs[names[1]]}
        page = PAGE.format_map(texts).replace(str(REPOSITORY) + "/", "")
        (REPOSITORY / "docs" / "slurm.md").write_text(re.sub(" +$|\n+(?=\n```)", "", page, flags=re.MULTILINE))


def test_two_processes_of_slurms_own_are_requeued_to_the_same_bits(start, hold, tmp_path):
    """submitit's signal, as before a time limit, comes to both."""
    two = ["trainer.devices=2", "trainer.strategy=ddp", "data.tokens_per_batch=180", hold]
    plain = start(*two, "hydra.run.dir=plain")
    output = plain.wait()
    assert plain.process.returncode == 0, output
    (tmp_path / "hold" / "0").touch()
    slurm = ["-m", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.sweep.dir=sweep"]
    sweep = start(*two, *slurm, "hydra.sweep.subdir='0'")
    wait_until(lambda: sweep.jobs() and not (tmp_path / "hold" / "0").exists())
    subprocess.run(["scancel", f"--signal={signal.SIGUSR2.name[3:]}", sweep.jobs()[0]], check=True)
    output = sweep.wait()
    log = log_of(tmp_path / "sweep" / ".submitit" / sweep.jobs()[0])
    assert sweep.process.returncode == 0, output + log
    assert log.count("resumed") == 1, log
    assert differing(tmp_path / "plain", tmp_path / "sweep" / "0") == []


def test_ctrl_c_leaves_the_jobs_to_slurm(start, hold, tmp_path):
    (tmp_path / "hold" / "0").touch()
    given = ["-m", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.sweep.dir=sweep", hold]
    sweep = start(*given, "hydra.sweep.subdir='0'")
    wait_until(lambda: sweep.jobs() and not (tmp_path / "hold" / "0").exists())
    sweep.process.send_signal(signal.SIGINT)
    output = sweep.wait(60)
    assert sweep.process.returncode == 1, output
    assert "Traceback" not in output
    assert "SLURM goes on with the jobs" in output
    assert "did not finish" in output
    queue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert sweep.jobs()[0] in queue.stdout


def test_a_partition_that_is_not_there_is_said_in_slurms_words(start):
    said = start("-m", "hydra/launcher=slurm", "hydra.launcher.partition=nowhere", "optimizer.lr=1e-3,1e-4").wait()
    assert "error: sbatch: error: invalid partition specified: nowhere" in said
    assert "Traceback" not in said
