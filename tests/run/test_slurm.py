"""What is known of SLURM's jobs, and how a sweep ends where some are lost; tests/reliability has a real SLURM."""

import subprocess

import pytest
from submitit.core.utils import UncompletedJobError

from bertlens.cli.launch import finish_sweep, run_jobs
from bertlens.run import slurm, sweep


@pytest.fixture(autouse=True)
def folders(monkeypatch):
    monkeypatch.setattr(sweep, "earlier_jobs", {})


@pytest.mark.parametrize(("status", "expected"), [(0, "ENDED"), (1, "UNKNOWN")])
def test_a_job_that_neither_accounting_nor_queue_knows_has_ended(monkeypatch, status, expected):
    asked = []

    def run(command, **_):
        asked.append(command[0])
        if command[0] == "sacct":
            raise OSError("no accounting")
        return subprocess.CompletedProcess(command, status, stdout="12_0\n12_1\n")

    monkeypatch.setattr(subprocess, "run", run)
    watcher = slurm.QueueWatcher()
    assert watcher.get_state("12_0") == "UNKNOWN"
    watcher.asked_at = 0.0
    assert watcher.get_state("12_3") == expected
    assert watcher.get_state("12_3") == expected  # it is not asked for each second
    assert asked.count("squeue") == 2
    assert "sacct" in asked
    assert watcher.is_done("12_3") == (expected == "ENDED")


def raising(error):
    def run():
        raise error

    return run


def test_a_sweep_ends_with_a_table_also_if_its_jobs_are_cancelled_or_left_to_slurm(capsys):
    assert run_jobs(lambda: None)
    assert not run_jobs(raising(UncompletedJobError("cancelled")))
    assert not run_jobs(raising(KeyboardInterrupt()))
    assert "SLURM goes on with the jobs" in capsys.readouterr().err
    with pytest.raises(OSError, match="full"):
        run_jobs(raising(OSError("full")))


def test_the_command_that_goes_on_is_printed_only_if_jobs_are_lost(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sweep, "earlier_jobs", {tmp_path: set()})
    finish_sweep(["python", "train.py"], ["-m", "seed=1,2"], have_ended=True)
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as caught:
        finish_sweep(["python", "train.py"], ["-m", "seed=1,2"], have_ended=False)
    assert caught.value.code == 1
    assert capsys.readouterr().err.endswith(f"\npython train.py -m hydra.sweep.dir={tmp_path} seed=1,2\n")
