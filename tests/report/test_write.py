"""The report of a run, and its table in the terminal."""

import json
import re

import datasets
import pytest
import torch

from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.explanations.explainer import Explainer, reviews_to_explain
from bertlens.explanations.selection import Selection
from bertlens.model.checkpoint import CheckpointInfo
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.settings import ModelSettings
from bertlens.report.write import write_report, write_run_report


@pytest.fixture(scope="module")
def explainer(tiny_config, tiny_vocabulary):
    data = DataSettings(max_length=48, lowercase=True)
    info = CheckpointInfo(
        model=ModelSettings(),
        data=data,
        frozen_dtype="float32",
        sha256={},
        config=tiny_config,
        label_names=["negative", "positive"],
    )
    return Explainer(ReviewClassifier(tiny_config, num_classes=2), ReviewTokenizer(tiny_vocabulary, data), info)


@pytest.fixture(scope="module")
def split():
    labels = [0] * 50 + [1] * 50
    return datasets.Dataset.from_dict({"text": [f"a good film {n}" for n in range(100)], "label": labels})


def reviews_in(path):
    source = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="report-reviews">(.*?)</script>', source, re.DOTALL)[1]), source


def test_a_runs_report_of_a_sorted_split_has_both_labels_right_and_wrong(explainer, split, tmp_path, capsys):
    probabilities = torch.tensor([[0.9, 0.1]] * 45 + [[0.2, 0.8]] * 50 + [[0.7, 0.3]] * 5)
    predictions = (torch.arange(100), torch.tensor(split["label"]), probabilities)
    path = write_run_report(tmp_path, explainer, split, predictions, facts={"run": "outputs/x"})
    assert path == tmp_path / "report.html"
    reviews, source = reviews_in(path)
    pairs = {(review["label"], 5 <= review["index"] % 50 < 45) for review in reviews}
    assert len(reviews) == 64
    assert {label for label, _ in pairs} == {0, 1}
    assert {45, 46, 47, 48, 49} & {review["index"] for review in reviews}, "negative ones predicted positive"
    assert {95, 96, 97, 98, 99} & {review["index"] for review in reviews}, "positive ones predicted negative"
    assert "90.0 %" in source
    printed = capsys.readouterr().out
    assert printed.strip() == f"report: {path}"


def test_a_runs_report_without_a_test_has_both_labels(explainer, split, tmp_path):
    path = write_run_report(tmp_path, explainer, split, None, facts={})
    reviews, source = reviews_in(path)
    assert [sum(review["label"] == label for review in reviews) for label in (0, 1)] == [32, 32]
    assert "accuracy" not in source.partition("<main")[2].partition("Strongest words")[0]


def test_the_table_is_short(explainer, split, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    reviews = reviews_to_explain(split, range(64))
    write_report(tmp_path, explainer, reviews, Selection(sentence="the first 64"), facts={}, print_table=True)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].split() == ["review", "label", "predicted", "confidence", "strongest", "words"]
    assert lines[1].split()[:2] == ["0", "negative"]
    assert lines[-2:] == ["and 58 more in the report", f"report: {tmp_path / 'report.html'}"]
    assert len(lines) == 9
    assert max(map(len, lines[:-1])) <= 80
    write_report(tmp_path, explainer, reviews[:2], Selection(sentence="two"), facts={}, print_table=True)
    assert "more in the report" not in capsys.readouterr().out
