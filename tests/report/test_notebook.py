"""The classic view: the notebook's colours, what it escapes, and `bertlens.explain`."""

import re
from html.parser import HTMLParser
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch

import bertlens
from bertlens.data.settings import DataSettings
from bertlens.errors import InputError
from bertlens.explanations.explainer import ExplainedReview
from bertlens.explanations.methods import attention_rows
from bertlens.model.checkpoint import FORMAT_KEY, CheckpointInfo, build_classifier
from bertlens.model.pretrained import find_pretrained
from bertlens.model.settings import ModelSettings
from bertlens.report.notebook import classic_html, classic_scale
from bertlens.system.escape import visible

HOSTILE = ["</span><img src=x onerror=window.flag=1>", "\"'><svg onload=window.flag=1>", "a\u2028b\u202ed\u0000e\x1bf"]


class Elements(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def explained(tokens: list[str], weights: Any, *, label: int | None = 0) -> ExplainedReview:
    """weights [N, L]."""
    return ExplainedReview(
        index=0,
        text=" ".join(tokens),
        label=label,
        probabilities=np.array([0.25, 0.75], dtype=np.float32),
        tokens=["[CLS]", *tokens, "[SEP]"],
        offsets=[(0, 0), *((place, place + 1) for place in range(len(tokens))), (0, 0)],
        rows=attention_rows(6, np.array(weights, dtype=np.float32)),
    )


def test_classic_scale_makes_the_largest_of_each_row_one() -> None:
    scaled = classic_scale(np.array([[0.1, 0.4, 0.2], [0.5, 0.25, 0.25], [0, 0, 0]]))
    np.testing.assert_allclose(scaled, [[0.25, 1, 0.5], [1, 0.5, 0.5], [0, 0, 0]])


def test_classic_html_is_the_notebooks_picture() -> None:
    review = explained(["good", "film"], [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    source = classic_html(review, ["negative", "positive"])
    assert "".join(Elements(source).text) == (
        "True label: negativePredicted label: positiveHead 1 [CLS] good filmHead 2 [CLS] good film"
        "Mean of the heads [CLS] good film"
    )
    # .1, .2, .3 of .4, which [SEP] has: 255 * (1 - .25), 255 * .5, 255 * .25, rounded down; [SEP] itself is not shown
    shown = [(int(green), token) for green, token in re.findall(r"rgb\(255,(\d+),\1\)\"> (.*?)<", source)]
    assert shown[:3] == [(191, "[CLS]"), (127, "good"), (63, "film")]
    assert shown[3:6] == [(0, "[CLS]"), (63, "good"), (127, "film")]
    assert {green for green, _ in shown[6:]} == {0}  # the mean is .25 throughout


@pytest.mark.parametrize("hostile", HOSTILE)
def test_classic_html_escapes(hostile: str) -> None:
    weights = [[0.2, 0.5, 0.3]] * 2
    source = classic_html(explained([hostile], weights), [hostile, hostile])
    tame = classic_html(explained(["x"], weights), ["a", "b"])
    assert Elements(source).tags == Elements(tame).tags
    assert "".join(Elements(source).text).count(visible(hostile)) == 5
    assert not re.search("[\u202e\u2028\x00\x1b]", source)


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tmp_path_factory):
    """A checkpoint of an untrained head."""
    model = ModelSettings(pretrained=str(tiny_model))
    pretrained = find_pretrained(model)
    info = CheckpointInfo(
        model=model,
        data=DataSettings(max_length=48, lowercase=True),
        frozen_dtype="float32",
        sha256=pretrained.sha256,
        config=pretrained.config,
        label_names=["negative", "positive"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build_classifier(info)
    trained = {f"classifier.{name}": tensor for name, tensor in classifier.suffix.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save({FORMAT_KEY: info.to_dict(whole_model=False), "state_dict": trained}, path)
    return path


def test_explain_from_any_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explanation = bertlens.explain("a great film, not a dull plot.", checkpoint=checkpoint)
    assert explanation.tokens[:4] == ["[CLS]", "a", "great", "film"]
    assert explanation.weights.shape == (4, len(explanation.tokens))
    np.testing.assert_allclose(explanation.weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(explanation.weights.mean(axis=0), explanation.rows[0].values)
    assert explanation.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert explanation.predicted_label == ["negative", "positive"][explanation.predicted]
    assert "True label: <b>unknown</b>" in explanation._repr_html_()
    with pytest.raises(InputError, match="empty"):
        bertlens.explain(" ", checkpoint=checkpoint)
    monkeypatch.chdir(checkpoint.parent)
    assert bertlens.explain("a great film", checkpoint="best.ckpt").tokens == ["[CLS]", "a", "great", "film", "[SEP]"]


def test_explain_names_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no\.ckpt"):
        bertlens.explain("a great film", checkpoint=tmp_path / "no.ckpt")


def test_the_version_is_the_packages():
    assert bertlens.__version__ == version("bertlens")
