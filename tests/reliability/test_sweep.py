"""A sweep that is begun again over its folder does what is left to do, and nothing twice."""

import csv
import shlex
import signal

import pytest

SWEEP = ["optimizer.lr=1e-3,2e-3,5e-3", "hydra.sweep.dir=sweep"]


def table(folder):
    with (folder / "sweep.csv").open() as file:
        return {row["optimizer.lr"]: row for row in csv.DictReader(file)}


def stamps(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}


def test_what_is_finished_is_left_as_it_is(start, tiny_run, tmp_path):
    """One of three jobs fails; begun again with what it needs, only that one is run."""
    batches = ["data.batch_size=16,0"]
    first = start("train", "-m", *tiny_run, *batches, "hydra.sweep.dir=sweep")
    assert first.wait() == 1
    assert "data.batch_size=0" in (tmp_path / "sweep" / "sweep.csv").read_text()
    before = stamps(tmp_path / "sweep")
    assert list(before) == ["0"]
    second = start("train", "-m", *tiny_run, "data.batch_size=16,8", "hydra.sweep.dir=sweep")
    assert second.wait() == 0, second.output
    assert "sweep/0 is finished and left as it is" in second.output
    after = stamps(tmp_path / "sweep")
    assert sorted(after) == ["0", "1"]
    assert after["0"] == before["0"]
    assert "error" not in (tmp_path / "sweep" / "sweep.csv").read_text().splitlines()[0]


def test_other_settings_are_run_anew(start, tiny_run, tmp_path):
    assert start("train", "-m", *tiny_run, *SWEEP).wait() == 0
    before = stamps(tmp_path / "sweep")
    again = start("train", "-m", *tiny_run, *SWEEP, "seed=7")
    assert again.wait() == 0, again.output
    assert "left as it is" not in again.output
    after = stamps(tmp_path / "sweep")
    assert all(after[job] > before[job] for job in before)


@pytest.mark.parametrize("job", [0, 1, 2])
def test_a_stopped_sweep_goes_on_with_the_job_it_was_at(start, tiny_run, tmp_path, job):
    whole = start("train", "-m", *tiny_run, SWEEP[0], "hydra.sweep.dir=whole")
    assert whole.wait() == 0, whole.output
    steps = 2 * 10
    process = start(
        "train", "-m", *tiny_run, *SWEEP, announced={"bertlens.training.module:ReviewModule.training_step": 0.01}
    )
    assert process.wait_for("@ training_step", times=job * steps + 7)
    process.send(signal.SIGTERM)
    assert process.wait() == 143, process.output
    command = next(line for line in process.output.splitlines() if line.startswith("python train.py "))
    rest = start("train", *shlex.split(command)[2:])
    assert rest.wait() == 0, rest.output
    assert rest.output.count("is finished and left as it is") == job
    expected, found = table(tmp_path / "whole"), table(tmp_path / "sweep")
    assert {lr: row["test/loss"] for lr, row in found.items()} == {lr: row["test/loss"] for lr, row in expected.items()}
