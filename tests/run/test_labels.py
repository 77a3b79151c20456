"""`data.folds`, `distill` and `checked_labels`, from the command line to the files."""

import csv
import itertools
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import bertlens
from bertlens.cli.command_line import for_hydra
from bertlens.config import TrainConfig
from bertlens.data.reviews import load_reviews
from bertlens.data.settings import DataSettings
from bertlens.errors import InputError
from bertlens.run.labels import (
    count_checked_errors,
    digest_of,
    find_suspects,
    gather_folds,
    read_checked_labels,
    read_soft_labels,
)

FLIPPED = [10, 45, 90, 133]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """200 short reviews that are easy to tell apart, four labels flipped; the first text comes again as positive."""
    folder, words = (
        tmp_path_factory.mktemp("easy"),
        (["bad", "dull", "awful", "weak"], ["good", "great", "superb", "funny"]),
    )
    triples = list(itertools.product(range(4), repeat=4))[:100]
    texts = [" ".join(words[label][place] for place in triple) for triple in triples for label in (0, 1)]
    labels = [index % 2 ^ (index in FLIPPED) for index in range(200)]
    pq.write_table(pa.table({"text": [*texts, texts[0]], "label": [*labels, 1]}), folder / "train.parquet")
    pq.write_table(pa.table({"text": texts[:20], "label": [0, 1] * 10}), folder / "test.parquet")
    return folder


def suspects_of(folder):
    with (folder / "suspects.csv").open() as file:
        return list(csv.DictReader(file))


def test_folds_predict_every_training_review_without_it_and_name_doubtful_labels(start, tiny_run, reviews, tmp_path):
    folder = tmp_path / "folds"
    arguments = [*tiny_run, f"data.path={reviews}", "report=true", "hydra.sweep.dir=folds"]
    run = start("train", *arguments, "data.folds=3", "trainer.max_epochs=6")
    assert run.wait() == 0, run.output
    predictions = pq.read_table(folder / "predictions.parquet").to_pandas()
    assert predictions["row"].tolist() == list(range(201))
    assert set(predictions["fold"]) == {1, 2, 3}
    texts = pq.read_table(reviews / "train.parquet")["text"].to_pylist()
    assert predictions["text digest"].tolist() == [digest_of(texts[row]) for row in predictions["row"]]
    logits = predictions[["logit of negative", "logit of positive"]].to_numpy()
    expected = torch.tensor(logits).double().softmax(dim=1)[:, 1].numpy()
    np.testing.assert_allclose(predictions["probability of positive"], expected, atol=1e-6)

    # each line is what the fold's own classifier says, which has kept the last epoch and not seen the review
    for fold in (1, 3):
        some = predictions[predictions["fold"] == fold]
        classifier = bertlens.load(folder / f"data.fold-{fold}" / "checkpoints" / "last.ckpt")
        said = [each.probabilities["positive"] for each in classifier.predict([texts[row] for row in some["row"]])]
        np.testing.assert_allclose(some["probability of positive"], said, atol=1e-4)
        metrics = json.loads((folder / f"data.fold-{fold}" / "metrics.json").read_text())["metrics"]
        assert metrics["val/accuracy"] == pytest.approx((some["label"] == some["verdict"]).mean())
        assert not any(name.startswith("test/") for name in metrics)
    assert "mean and standard deviation over the folds" in run.output

    suspects = suspects_of(folder)
    doubts = [float(suspect["probability of the label"]) for suspect in suspects]
    assert doubts == sorted(doubts)
    assert {str(row) for row in FLIPPED} <= {suspect["row"] for suspect in suspects}
    twice = {
        suspect["row"]: (suspect["label"], suspect["also labelled"])
        for suspect in suspects
        if suspect["text"] == texts[0]
    }
    assert twice == {"0": ("negative", "positive"), "200": ("positive", "negative")}
    assert f"doubtful  {len(suspects)} of 201 labels: folds/suspects.csv" in run.output
    page = (folder / "report.html").read_text()
    assert "the most doubtful labels first" in page
    assert page.index(suspects[0]["text"][:20]) < page.index(suspects[-1]["text"][:20])

    # begun again, it computes nothing and writes the same
    before = (folder / "suspects.csv").read_text()
    again = start("train", *arguments, "data.folds=3", "trainer.max_epochs=6")
    assert again.wait() == 0, again.output
    assert again.output.count("is finished and left as it is") == 3
    assert (folder / "suspects.csv").read_text() == before

    # its soft labels teach one classifier
    taught = start("train", *arguments, "distill=folds", "report=false", "trainer.max_epochs=4", "hydra.run.dir=taught")
    assert taught.wait() == 0, taught.output
    assert json.loads((tmp_path / "taught" / "metrics.json").read_text())["metrics"]["test/accuracy"] > 0.8
    stranger = start("train", *tiny_run, "distill=taught")
    assert stranger.wait() == 1
    assert re.search("error: distill=taught: no folder of a run with data.folds", stranger.output)


def test_folds_on_the_command_line_are_a_sweep():
    assert for_hydra(["data.folds=2"], TrainConfig)[:5] == [
        "-m", "data.folds=2", "checkpoint.keep=last", "test=false", "data.fold=1,2"
    ]  # fmt: skip
    typed = ["data.folds=2", "data.fold_repeats=2", "checkpoint.keep=best", "test=true"]
    assert for_hydra(typed, TrainConfig)[:6] == ["-m", *typed, "data.fold=1,2,3,4"]
    assert for_hydra(["data.folds=2", "data.fold=1"], TrainConfig) == ["data.folds=2", "data.fold=1"]


def test_soft_labels_are_the_mean_of_a_label_and_the_mean_of_its_predictions(tmp_path, tiny_reviews):
    train = load_reviews(DataSettings(path=str(tiny_reviews)))["train"]
    digests = [digest_of(text) for text in train["text"]]
    shares = np.linspace(0, 1, 2 * len(digests))
    columns = {"text digest": digests * 2, "probability of negative": 1 - shares, "probability of positive": shares}
    pq.write_table(pa.table(columns), tmp_path / "predictions.parquet")
    soft = read_soft_labels(str(tmp_path), train)
    expected = (shares[3] + shares[3 + len(digests)]) / 2
    assert soft[3, 1].item() == pytest.approx((expected + train[3]["label"]) / 2)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(len(digests)))
    pq.write_table(pa.table({name: values[:5] for name, values in columns.items()}), tmp_path / "predictions.parquet")
    with pytest.raises(InputError, match="its run did not have all of these training reviews"):
        read_soft_labels(str(tmp_path), train)


def test_suspects_of_repeated_folds_by_hand():
    """Two repeats: row 0 is right on the mean only, row 1 wrong on the mean only, rows 2 and 3 are the same text."""
    columns = {
        "row": [0, 0, 1, 1, 2, 2, 3, 3],
        "fold": [1, 3, 2, 4, 1, 4, 1, 4],
        "label": ["a", "a", "a", "a", "a", "a", "b", "b"],
        "text": list("ppqqrrrr"),
        "probability of a": [0.4, 0.9, 0.6, 0.1, 0.8, 0.9, 0.8, 0.9],
    }
    columns["probability of b"] = [1 - share for share in columns["probability of a"]]
    suspects = find_suspects(pa.table(columns))
    found = [
        (each["row"], each["prediction"], round(each["probability of the label"], 6), each["also labelled"])
        for each in suspects
    ]
    assert found == [(3, "a", 0.15, "a"), (1, "b", 0.35, ""), (2, "a", 0.85, "b")]


@pytest.fixture
def checked_file(tmp_path):
    def write(*lines):
        path = tmp_path / "checked.csv"
        path.write_text("row,label,given,verdict\n" + "".join(f"{line}\n" for line in lines))
        return str(path)

    return write


@pytest.mark.parametrize("folds", [1, 5], ids=["more than the fold varies", "some folds only"])
def test_no_labels_are_doubted_unless_each_fold_is_there_once(folds, tmp_path, capsys):
    for job in ("seed-1", "seed-2"):
        (tmp_path / job / ".hydra").mkdir(parents=True)
        (tmp_path / job / ".hydra" / "config.yaml").write_text(f"data: {{folds: {folds}, fold_repeats: 1}}")
        pq.write_table(pa.table({"row": [0]}), tmp_path / job / "predictions.parquet")
    gather_folds(tmp_path)
    assert "doubtful  not looked for: needs each fold once, and no other key that varies" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-1", "seed-2"]


def test_errors_on_checked_labels_are_counted(checked_file, tiny_reviews, capsys):
    test = load_reviews(DataSettings(path=str(tiny_reviews)))["test"]  # labels 0, 1, 0, 1, ...
    checked = read_checked_labels(
        checked_file("0,0,1,wrong", "1,1,2,wrong", "2,negative,5,unclear", "3,1,5,right"), test
    )
    labels = torch.tensor(test["label"])
    predicted = labels.clone()
    predicted[[0, 2, 3, 4, 5]] ^= 1
    found = count_checked_errors(checked, (torch.arange(80), labels, torch.nn.functional.one_hot(predicted, 2).float()))
    assert found == {"checked": 4, "errors": 5, "wrong": 1, "unclear": 1, "right": 1}
    assert "5, 20.0% on wrong labels and 20.0% on unclear labels, of 4 that people checked" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["80,0,1,wrong", "-1,1,1,wrong", "0,1,1,wrong", "0,0,1,perhaps", "x,0,1,wrong", "0"])
def test_checked_labels_of_other_reviews(checked_file, tiny_reviews, line):
    test = load_reviews(DataSettings(path=str(tiny_reviews)))["test"]
    with pytest.raises(InputError, match=r"^checked_labels=.*, line 3: "):
        read_checked_labels(checked_file("2,0,1,right", line), test)


def test_evaluate_counts_errors_on_checked_labels(run_task, tiny_run, checked_file, tmp_path, capsys):
    run_task("train", tmp_path / "run", *tiny_run, "test=false", "trainer.max_epochs=1", "optimizer.lr=1e-5")
    path, options = (
        checked_file("0,0,1,wrong", "1,1,2,unclear"),
        (f"checkpoint={tmp_path / 'run'}", f"cache_dir={tmp_path}"),
    )
    run_task("evaluate", tmp_path / "evaluated", *options, f"checked_labels={path}")
    content = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    found = content["checked_labels"]
    assert found["errors"] == round(80 * (1 - content["metrics"]["test/accuracy"])) > 0
    assert f"errors    {found['errors']}, " in capsys.readouterr().out
