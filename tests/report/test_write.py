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
    return make_explainer(tiny_config, tiny_vocabulary)


def make_explainer(config, vocabulary, **options):
    data = DataSettings(max_length=48, lowercase=True)
    info = CheckpointInfo(
        model=ModelSettings(),
        data=data,
        frozen_dtype="float32",
        sha256={},
        config=config,
        label_names=["negative", "positive"],
    )
    return Explainer(ReviewClassifier(config, num_classes=2), ReviewTokenizer(vocabulary, data), info, **options)


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
    assert lines[0].split() == ["review", "label", "predicted", "confidence", "words", "by", "contribution"]
    assert lines[1].split()[:2] == ["0", "negative"]
    assert lines[-2:] == ["and 58 more in the report", f"report: {tmp_path / 'report.html'}"]
    assert len(lines) == 9
    assert max(map(len, lines[:-1])) <= 80
    write_report(tmp_path, explainer, reviews[:2], Selection(sentence="two"), facts={}, print_table=True)
    assert "more in the report" not in capsys.readouterr().out


def test_the_table_says_what_its_words_are_by(tiny_config, tiny_vocabulary, split, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    explainer = make_explainer(tiny_config, tiny_vocabulary, methods=["attention"])
    reviews = reviews_to_explain(split, [0])
    write_report(tmp_path, explainer, reviews, Selection(sentence="one"), facts={}, print_table=True)
    assert capsys.readouterr().out.splitlines()[0].rstrip().endswith("words by attention weight")


@pytest.mark.parametrize(("curves", "num_checked"), [(0, 0), (2, 2), (16, 3), ("all", 3)])
def test_the_first_reviews_can_be_checked_by_hand(explainer, split, tmp_path, monkeypatch, curves, num_checked):
    checked = []

    def check_by_hand(given, review):
        assert given is explainer
        checked.append(review.index)

    monkeypatch.setattr("bertlens.report.write.check_by_hand", check_by_hand)
    reviews = reviews_to_explain(split, [3, 4, 5])
    write_report(tmp_path, explainer, reviews, Selection(sentence="three"), facts={}, curves=curves)
    assert checked == [3, 4, 5][:num_checked]
