"""What a run prints: five lines before it begins, what came out, and commands that can be copied."""

import json
import logging
import math
import re
import shlex
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path("outputs", "train", "2026-01-01", "12-00-00")
LABEL_WIDTH = 10


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, as of a person who types `python train.py` in the repository at 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    return tmp_path


@pytest.fixture
def few(tiny_run):
    return [override for override in tiny_run if not override.startswith("cache_dir=")]


def lines(capsys):
    printed = capsys.readouterr().out
    assert "\t" not in printed
    return [line.rstrip() for line in printed.splitlines()]


def labelled(printed):
    return {line[:LABEL_WIDTH].rstrip(): line[LABEL_WIDTH:] for line in printed if line[:1] not in ("", " ")}


def test_a_run_opens_with_five_lines(few, here, run_task, capsys):
    run_task("train", here / FOLDER, *few)
    printed = lines(capsys)
    assert printed[:4] == [
        "model     tiny: 3 layers, 32 wide",
        "reviews   160 train, 40 validation, 80 test (negative, positive)",
        "trained   8,610 of 31,842 parameters (layer 3 to head)",
        f"results   {FOLDER}",
    ]
    store = r"features  to compute \(\d+\.\d [kM]B in outputs/cache\): train, validation, test"
    assert re.fullmatch(store, printed[4])
    assert printed[5].startswith("epoch 1/2: loss ")
    assert printed[6].startswith("epoch 2/2: loss ")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["features.cache=off"], "not stored: features.cache=off"),
        (["trainer.max_epochs=1"], "not stored: each review is read once (features.cache=on stores them)"),
        (["model.trainable_layers=all"], "not stored: no layer is frozen, or the frozen ones have dropout"),
    ],
)
def test_what_is_not_stored_is_said(few, here, run_task, capsys, overrides, named):
    run_task("train", here / FOLDER, *few, "test=false", *overrides)
    assert labelled(lines(capsys))["features"] == named


def test_the_store_has_what_an_earlier_run_computed(few, here, run_task, capsys):
    run_task("train", here / "one", *few, "test=false")
    capsys.readouterr()
    run_task("train", here / "two", *few)
    found = labelled(lines(capsys))["features"]
    assert re.fullmatch(r"stored: train, validation; to compute \(\d+\.\d [kM]B in outputs/cache\): test", found)
    run_task("train", here / "three", *few)
    assert labelled(lines(capsys))["features"] == "stored: train, validation, test"


@pytest.mark.parametrize(("layers", "names"), [("0", "head"), ("2", "layer 2 to head"), ("all", "embeddings to head")])
def test_the_trained_layers_have_the_numbers_of_the_report(few, here, run_task, capsys, layers, names):
    run_task("train", here / FOLDER, *few, "test=false", f"model.trainable_layers={layers}")
    assert labelled(lines(capsys))["trained"].endswith(f" parameters ({names})")


def test_the_table_of_layers_is_for_those_who_ask(few, here, run_task, capsys, caplog):
    with caplog.at_level(logging.DEBUG, logger="bertlens"):
        run_task("train", here / FOLDER, *few, "test=false", "trainer.max_epochs=1")
    table = [line.split() for line in lines(capsys)]
    assert [row[:2] for row in table if row[:1] == ["layer"]] == [["layer", str(number)] for number in (1, 2, 3)]
    run_task("train", here / "other", *few, "test=false", "trainer.max_epochs=1")
    assert not [line for line in lines(capsys) if line.startswith("layer ")]


def test_a_run_ends_with_what_was_kept_and_what_came_out(few, here, run_task, capsys):
    run_task("train", here / FOLDER, *few)
    printed = lines(capsys)
    content = json.loads((here / FOLDER / "metrics.json").read_text())
    rows = content["history"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(rows[0])
    best = max(rows, key=lambda row: (row["val/accuracy"], -row["val/loss"]))
    assert best["val/accuracy"] == content["metrics"]["val/accuracy"]
    assert labelled(printed)["kept"].startswith(f"epoch {best['epoch']} of 2 (best validation accuracy")
    header = next(line for line in printed if "calibration error" in line)
    values = next(line for line in printed if line.startswith("test "))
    assert header.split() == ["accuracy", "auroc", "f1", "loss", "brier", "calibration", "error"]
    low, high = content["intervals"]["accuracy"]
    assert low < content["metrics"]["test/accuracy"] < high
    assert next(line for line in printed if line.startswith("95 % ")).split()[2] == f"{low:.3f}-{high:.3f}".replace(
        "0.", "."
    )
    assert {"test_calibrated/loss", "test_calibrated/brier", "test_calibrated/calibration_error"} <= set(
        content["metrics"]
    )
    epochs, steps = map(int, re.findall(r"\d+", labelled(printed)["better"]))
    assert labelled(printed)["better"].startswith("with trainer.max_epochs=")
    assert epochs == math.ceil(300 / (steps / 2))
    assert values.split()[1] == f"{content['metrics']['test/accuracy']:.4f}"
    assert next(line for line in printed if line.startswith("time ")).count(" s") == 6
    assert max(map(len, printed)) <= 80
    assert printed[-4:] == [
        f"results   {FOLDER}",
        f"next      python evaluate.py checkpoint={FOLDER}",
        f"          python visualize.py checkpoint={FOLDER}",
        f"          tensorboard --logdir {FOLDER}",
    ]


def test_a_run_of_enough_steps_names_the_preset_that_is_better(few, here, run_task, capsys, monkeypatch):
    monkeypatch.setattr("bertlens.run.summary.FEW_STEPS", 1)
    run_task("train", here / FOLDER, *few)
    assert "experiment=balanced" in labelled(lines(capsys))["better"]


def test_a_run_that_its_steps_limit_is_not_told_to_take_more_epochs(few, here, run_task, capsys):
    run_task("train", here / FOLDER, *few, "trainer.max_steps=1")
    assert "experiment=balanced" in labelled(lines(capsys))["better"]


def test_a_run_of_the_console_command_names_the_console_command(few, here, run_task, capsys, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", str(here / "bin" / "bertlens"), "train"])
    run_task("train", here / FOLDER, *few, "test=false", "logger=none")
    assert lines(capsys)[-2] == f"next      bertlens evaluate checkpoint={FOLDER}"


def test_a_run_without_checkpoints_says_so(few, here, run_task, capsys):
    run_task("train", here / FOLDER, *few, "trainer.fast_dev_run=true", "logger=none")
    printed = lines(capsys)
    assert labelled(printed)["kept"] == "nothing (this run writes no checkpoints)"
    assert printed[-1] == f"results   {FOLDER}"


def test_a_sweeps_jobs_say_once_what_they_share(few, here, run_task, capsys):
    shared = [*few, "trainer.max_epochs=2"]
    run_task("train", here / "sweep" / "one", *shared, in_sweep=True)
    first = labelled(lines(capsys))
    assert {"model", "reviews", "trained", "results", "features"} <= set(first)
    assert first["results"] == "sweep"
    assert re.fullmatch(r"val/accuracy \d\.\d{3}, test/accuracy \d\.\d{3}, \d+(\.\d)? s", first["finished"])
    assert not {"kept", "next", "time"} & set(first)
    run_task("train", here / "sweep" / "two", *shared, "seed=2", in_sweep=True, number=1)
    printed = lines(capsys)
    assert [line.split()[0] for line in printed] == ["epoch", "epoch", "finished"]


def test_each_next_command_runs_as_printed(tiny_run, start, tmp_path):
    run = start("train", *tiny_run, r"hydra.run.dir='it\'s my run, the 2nd'", "trainer.max_epochs=1", "test=false")
    assert run.wait() == 0, run.output
    *others, board = [shlex.split(line[LABEL_WIDTH:]) for line in run.output.splitlines()[-3:]]
    for python, script, *arguments in others:
        assert python == "python"
        assert Path(script).parent == REPOSITORY
        fewer = ["count=4"] if "visualize" in script else []  # only to be quick
        again = start(Path(script).stem, *arguments, *fewer)
        assert again.wait() == 0, again.output
    assert {path.name for path in tmp_path.rglob("report.html")} == {"report.html"}
    assert board[:2] == ["tensorboard", "--logdir"]
    events = EventAccumulator(str(tmp_path / board[2]))
    events.Reload()
    assert "val/accuracy" in events.Tags()["scalars"]
