"""What people type first works: Trainer's own arguments, loggers, callbacks, launchers, Hydra's options."""

import csv
import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertlens.errors import InputError
from bertlens.model.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[1]


def command(name: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / f"{name}.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["metrics"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["trainer.overfit_batches=2"],
        ["trainer.limit_val_batches=2", "data.tokens_per_batch=256"],
        ["trainer.limit_train_batches=1"],
        ["trainer.val_check_interval=0.5"],
        ["trainer.check_val_every_n_epoch=2"],
        ["trainer.detect_anomaly=true"],
        ["trainer.max_time=00:00:10:00"],
        ["trainer.max_steps=3"],
        ["trainer.gradient_clip_val=0.5", "trainer.precision=bf16-mixed"],
        ["trainer.gradient_clip_val=0.5", "trainer.gradient_clip_algorithm=value"],
        ["trainer.deterministic=true"],
        ["trainer.num_sanity_val_steps=2"],
        ["logger=false"],
        ["logger=csv"],
        ["logger=[csv,tensorboard]"],
        ["callbacks=none"],
        ["callbacks=ema"],
        ["callbacks=swa"],
        ["callbacks=[early_stopping,ema]"],
        ["+callbacks.timer={_target_: pytorch_lightning.callbacks.Timer}"],
        ["+callbacks.ema={_target_: pytorch_lightning.callbacks.EMAWeightAveraging}"],
    ],
    ids=" ".join,
)
def test_a_run_evaluates_to_its_own_figures(tiny_run, tmp_path, run_task, arguments):
    reported = run_task("train", tmp_path / "run", *tiny_run, *arguments)
    options = [f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu"]
    again = run_task("evaluate", tmp_path / "again", f"checkpoint={tmp_path / 'run'}", *options)
    assert again["test/accuracy"] == float(reported["test/accuracy"])
    assert again["test/loss"] == pytest.approx(float(reported["test/loss"]), abs=1e-6)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "32-true"])
def test_evaluate_has_the_checkpoints_precision(tiny_run, tmp_path, run_task, precision):
    reported = run_task("train", tmp_path / "run", *tiny_run, f"trainer.precision={precision}")
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt").info.precision == precision
    options = [f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu"]
    again = run_task("evaluate", tmp_path / "again", f"checkpoint={tmp_path / 'run'}", *options)
    assert again["test/loss"] == pytest.approx(float(reported["test/loss"]), abs=1e-7)
    assert again["test/auroc"] == pytest.approx(float(reported["test/auroc"]), abs=1e-7)


@pytest.mark.parametrize("arguments", [["trainer.fast_dev_run=true"], ["trainer.barebones=true"]], ids=" ".join)
def test_without_checkpoints_the_weights_in_memory_are_tested(tiny_run, tmp_path, run_task, arguments):
    metrics = run_task("train", tmp_path / "run", *tiny_run, *arguments)
    assert 0 <= metrics["test/accuracy"] <= 1
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_overfitting_takes_the_same_batches_in_each_epoch(tiny_run, tmp_path, run_task):
    arguments = ["trainer.overfit_batches=1", "trainer.max_epochs=40", "model.trainable_layers=all", "test=false"]
    run_task("train", tmp_path / "run", *tiny_run, *arguments)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses[-1] < 0.1 < losses[0]


def test_averaged_weights_are_those_that_are_kept(tiny_run, tmp_path, run_task):
    for name, decay in (("fast", 0.0), ("slow", 0.999)):
        ema = f"+callbacks.ema={{_target_: pytorch_lightning.callbacks.EMAWeightAveraging, decay: {decay}}}"
        run_task("train", tmp_path / name, *tiny_run, ema, "test=false")
    run_task("train", tmp_path / "none", *tiny_run, "test=false")
    weights = {
        name: read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt").parameters["head.weight"]
        for name in ("fast", "slow", "none")
    }
    assert not torch.equal(weights["slow"], weights["none"])
    torch.testing.assert_close(weights["fast"], weights["none"])


def test_early_stopping_with_a_wrong_monitor_is_one_line(tiny_run, tmp_path, run_task):
    stopping = "+callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: validation_loss}"
    with pytest.raises(InputError, match="monitor='validation_loss'; choose one of"):
        run_task("train", tmp_path / "run", *tiny_run, stopping)
    assert not (tmp_path / "run").exists()


@pytest.mark.integration
def test_a_profile_is_printed(tiny_run, tmp_path):
    done = command("train", *tiny_run, "trainer.profiler=simple", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Profiler Report" in done.stdout + done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--cfg", "job"], "lr: 5.0e-05"),
        (["--info", "defaults"], "train_schema"),
        (["--version"], "bertlens 0."),
        (["-sc", "install=bash"], "hydra_bash_completion"),
        (["--hydra-help"], "--multirun"),
    ],
    ids=str,
)
def test_hydras_own_options(tmp_path, arguments, shown):
    done = command("train", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


@pytest.mark.integration
def test_a_verbose_run_says_more(tiny_run, tmp_path):
    done = command("train", *tiny_run, "hydra.verbose=true", "trainer.max_epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "GPU available" in done.stderr


@pytest.mark.integration
def test_a_sweep_with_two_devices_per_job_is_refused_in_one_line(tiny_run, tmp_path):
    arguments = ["-m", *tiny_run, "trainer.devices=2", "trainer.strategy=ddp", "seed=1,2"]
    done = command("train", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: trainer.devices=2: a job of a sweep runs in one process" in done.stderr


@pytest.mark.integration
def test_a_job_returns_the_metric_that_a_sweeper_optimizes(tiny_run, tmp_path):
    (tmp_path / "shows.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Shows(Callback):\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        print('returned', job_return.return_value, flush=True)\n"
    )
    shows = "+hydra.callbacks.shows={_target_: shows.Shows}"
    arguments = ["-m", *tiny_run, shows, "optimized_metric=test/loss", "data.max_length=48,2"]
    done = command("train", *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1  # one of the two failed
    returned = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("returned ")]
    folder = next((tmp_path / "outputs" / "sweeps").glob("*/*"))
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert len(rows) == 2
    assert returned[0] == pytest.approx(float(rows[0]["test/loss"]), abs=1e-6)
    assert math.isnan(returned[1])


@pytest.mark.slow
def test_weights_and_biases_offline(tiny_run, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed (make slow installs it)")
    done = command("train", *tiny_run, "logger=wandb", "hydra.run.dir=run", cwd=tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_mlflow_in_a_local_database(tiny_run, tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed (make slow installs it)")
    done = command("train", *tiny_run, "logger=mlflow", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (accuracy,) = database.execute("SELECT value FROM metrics WHERE key = 'test/accuracy'").fetchone()
    assert accuracy == json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["test/accuracy"]
