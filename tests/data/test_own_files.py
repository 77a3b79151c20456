"""Runs on a person's own files: without test reviews, with held-out ones, and with unusual CSV and labels."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from bertlens.errors import InputError


@pytest.fixture
def own_run(tiny_run, tiny_reviews, tmp_path):
    """One CSV as a spreadsheet writes it, with a byte order mark, quotes and line breaks; classes named as metrics."""
    rows = pq.read_table(tiny_reviews / "train.parquet").to_pydict()
    with (tmp_path / "own.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for text, label in zip(rows["text"], rows["label"], strict=True):
            writer.writerow([f'"{text}",\n{text}', ("loss", "accuracy")[label]])
        writer.writerow(["one of a kind", "test/f1"])
    return [*(key for key in tiny_run if not key.startswith("data.path")), f"data.train_file={tmp_path / 'own.csv'}"]


@pytest.fixture
def evaluate(run_task, tmp_path):
    """Return a function that evaluates the run in `tmp_path`/run and returns the metrics."""
    options = (f"checkpoint={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu")
    return lambda name, *more: run_task("evaluate", tmp_path / name, *options, *more)


def num_predictions(folder):
    return pq.read_table(folder / "predictions.parquet").num_rows


def test_a_file_of_ones_own_is_enough(own_run, run_task, evaluate, tmp_path):
    reported = run_task("train", tmp_path / "run", *own_run, "trainer.max_epochs=1")
    assert evaluate("again")["test/accuracy"] == reported["test/accuracy"].item()
    table = pq.read_table(tmp_path / "again" / "predictions.parquet").to_pydict()
    assert len(table["text"]) == 40  # a fifth of 201
    assert all(text.startswith('"') and text.count("\n") == 1 for text in table["text"])
    assert set(table["label"]) == {"loss", "accuracy"}  # the only review of the third class is trained on
    assert {f"probability of {name}" for name in ("loss", "accuracy", "test/f1")} <= set(table)
    assert 0 < json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["test/auroc"] <= 1


def test_no_test_reviews_are_needed_where_none_are_measured(own_run, run_task, evaluate, tmp_path, capsys):
    metrics = run_task("train", tmp_path / "run", *own_run, "test=false", "trainer.max_epochs=1")
    assert list(metrics) == ["val/accuracy"]
    printed = capsys.readouterr().out
    assert "evaluate.py" not in printed
    assert "'text=a text of your own'" in printed
    with pytest.raises(InputError, match=r"data\.test_file is missing"):
        evaluate("again")
    assert "test/accuracy" in evaluate("other", f"data.test_file={tmp_path / 'own.csv'}")


def test_no_fraction_and_no_file_for_a_test_is_an_error(own_run, run_task, tmp_path):
    with pytest.raises(InputError, match=r"data\.test_fraction=0: name data\.test_file.*test=false"):
        run_task("train", tmp_path / "run", *own_run, "data.test_fraction=0")


def test_null_means_all_reviews_and_no_value_those_of_the_run(own_run, run_task, evaluate, tmp_path):
    files = (f"data.test_file={tmp_path / 'own.csv'}", "data.max_reviews=30")
    run_task("train", tmp_path / "run", *own_run, *files, "trainer.max_epochs=1")
    for name, given, expected in [("same", [], 30), ("all", ["data.max_reviews=null"], 201)]:
        evaluate(name, *given)
        assert num_predictions(tmp_path / name) == expected
    evaluate("few", "data.max_reviews=9")
    assert num_predictions(tmp_path / "few") == 9
    with pytest.raises(InputError, match=r"data\.max_reviews=most: give a number, or null"):
        evaluate("wrong", "data.max_reviews=most")
