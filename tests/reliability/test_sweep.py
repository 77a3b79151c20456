"""A sweep that is begun again over its folder does what is left to do, and nothing twice."""

import csv
import re
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
    assert list(before) == ["data.batch_size-16"]
    second = start("train", "-m", *tiny_run, "data.batch_size=16,8", "hydra.sweep.dir=sweep")
    assert second.wait() == 0, second.output
    assert "sweep/data.batch_size-16 is finished and left as it is" in second.output
    after = stamps(tmp_path / "sweep")
    assert sorted(after) == ["data.batch_size-16", "data.batch_size-8"]
    assert after["data.batch_size-16"] == before["data.batch_size-16"]
    assert "error" not in (tmp_path / "sweep" / "sweep.csv").read_text().splitlines()[0]


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "multirun.yaml" and not path.name.endswith(".error.txt")
    }


@pytest.mark.parametrize(
    "mistake",
    [
        "seed=7",
        pytest.param("data.path=/nowhere", marks=pytest.mark.slow),
        pytest.param("optimizer.schedule=square", marks=pytest.mark.slow),
    ],
)
def test_a_mistyped_rerun_destroys_nothing(start, tiny_run, tmp_path, mistake):
    assert start("train", "-m", *tiny_run, *SWEEP).wait() == 0
    before = contents(tmp_path / "sweep")
    again = start("train", "-m", *tiny_run, *SWEEP, mistake)
    assert again.wait() == 1, again.output
    after = contents(tmp_path / "sweep")
    changed = {path for path in before if after.get(path) != before[path]}
    of_the_table = [path for path in changed if path.name == "sweep.csv" or path.match("events.*")]
    assert all(len(path.parts) == 1 for path in of_the_table)  # not those of the jobs
    assert changed == set(of_the_table)
    assert table(tmp_path / "sweep").keys() == {"0.001", "0.002", "0.005"}
    assert all(row["test/accuracy"] and row["error"] for row in table(tmp_path / "sweep").values())


@pytest.mark.slow
def test_other_settings_are_run_anew_where_that_is_asked_for(start, tiny_run, tmp_path):
    assert start("train", "-m", *tiny_run, *SWEEP).wait() == 0
    before = stamps(tmp_path / "sweep")
    again = start("train", "-m", *tiny_run, *SWEEP, "seed=7", "overwrite=true")
    assert again.wait() == 0, again.output
    assert "left as it is" not in again.output
    after = stamps(tmp_path / "sweep")
    assert all(after[job] > before[job] for job in before)


@pytest.mark.slow
def test_values_can_be_added_to_a_finished_sweep(start, tiny_run, tmp_path):
    assert start("train", "-m", *tiny_run, *SWEEP).wait() == 0
    before = stamps(tmp_path / "sweep")
    again = start("train", "-m", *tiny_run, "optimizer.lr=5e-4,1e-3,2e-3,5e-3", "hydra.sweep.dir=sweep")
    assert again.wait() == 0, again.output
    assert again.output.count("is finished and left as it is") == 3
    after = stamps(tmp_path / "sweep")
    assert all(after[job] == before[job] for job in before)
    assert after.keys() - before.keys() == {"optimizer.lr-0.0005"}


@pytest.mark.parametrize("job", [1, *(pytest.param(job, marks=pytest.mark.slow) for job in (0, 2))])
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
    command = next(line for line in process.output.splitlines() if re.match(r"python \S*train\.py ", line))
    rest = start("train", *shlex.split(command)[2:])
    assert rest.wait() == 0, rest.output
    assert rest.output.count("is finished and left as it is") == job
    expected, found = table(tmp_path / "whole"), table(tmp_path / "sweep")
    assert {lr: row["test/loss"] for lr, row in found.items()} == {lr: row["test/loss"] for lr, row in expected.items()}
