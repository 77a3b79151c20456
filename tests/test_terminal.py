"""What people see at 80 columns when they type the commands in the repository."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = ("train.py", "evaluate.py", "visualize.py")


@pytest.fixture
def here(tmp_path, tiny_model):
    """A folder in which `python train.py` can be typed, as in the repository, with a small demo."""
    for name in SCRIPTS:
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "small.yaml").write_text(
        f"# @package _global_\ndefaults: [override /data: demo]\nmodel: {{pretrained: {tiny_model}}}\n"
        "data: {num_demo_reviews: 60, max_length: 48}\ntrainer: {accelerator: cpu, devices: 1}\n"
    )
    return tmp_path


def run(here: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.run([sys.executable, *typed], cwd=here, env=environ, capture_output=True, text=True)


def too_long(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of more than 80 columns, but for those that say what failed, which are not broken."""
    lines = (done.stdout + done.stderr).replace("\r", "\n").splitlines()
    return [line for line in lines if len(line) > 80 and not line.startswith(("error: ", "failed: "))]


@pytest.mark.integration
def test_a_run_and_each_next_command_fit_80_columns_and_work(here):
    done = run(here, "train.py", "experiment=small", "optimizer.lr=1e-3")
    assert done.returncode == 0, done.stderr
    assert not too_long(done)
    *others, board = [shlex.split(line[10:]) for line in done.stdout.splitlines()[-3:]]
    assert board[:2] == ["tensorboard", "--logdir"]
    assert list((here / board[2]).glob("events.out.tfevents.*"))
    assert [command[:2] for command in others] == [["python", "evaluate.py"], ["python", "visualize.py"]]
    for _, *typed in others:
        again = run(here, *typed)
        assert again.returncode == 0, again.stderr
        assert not too_long(again)


@pytest.mark.integration
def test_a_sweep_with_a_job_that_fails_fits_80_columns(here):
    sweep = ["train.py", "-m", "experiment=small", "seed=1,2", "trainer.max_epochs=1"]
    done = run(here, *sweep, "model.trainable_layers=1,9")
    assert done.returncode == 1
    assert not too_long(done)
    assert "[4/4] seed=2, model.trainable_layers=9" in done.stdout
    assert "model.trainable_layers=9" in done.stdout.splitlines()[-2]


@pytest.mark.integration
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_80_columns(here, script):
    for section in ([], ["all"]):
        done = run(here, script, "--help", *section)
        assert done.returncode == 0, done.stderr
        assert not too_long(done)
