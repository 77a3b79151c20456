"""A trained classifier in Python: `bertlens.load` and `bertlens.explain`."""

import json
import re
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import bertlens
from bertlens.data.datamodule import ReviewDataModule
from bertlens.deploy.predict import LoadedClassifier, Prediction
from bertlens.errors import InputError
from bertlens.training.module import ReviewModule

TEXTS = ["a dull film.", "it was a great and moving story, and the cast was superb.", "weak", "a great, great film"]


@pytest.fixture(scope="module")
def loaded(checkpoint) -> LoadedClassifier:
    return bertlens.load(str(checkpoint.parent.parent))


def test_a_text_gives_one_prediction_and_a_list_a_list_in_its_order(loaded):
    found = loaded.predict(TEXTS)
    assert all(isinstance(each, Prediction) for each in found)
    for text, prediction in zip(TEXTS, found, strict=True):
        encoding = loaded.tokenizer.ids([text])
        with torch.inference_mode():
            expected = loaded.classifier(torch.tensor(encoding)).softmax(dim=1)[0].tolist()
        assert list(prediction.probabilities) == ["negative", "positive"]
        assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        assert prediction.confidence == max(prediction.probabilities.values())
        assert prediction.label == ["negative", "positive"][int(np.argmax(expected))]
        alone = loaded.predict(text)
        assert isinstance(alone, Prediction)
        assert alone.probabilities == pytest.approx(prediction.probabilities, abs=1e-5)
    assert len({prediction.confidence for prediction in found}) == len(TEXTS)
    assert loaded.predict(tuple(TEXTS)) == found
    assert loaded.predict([]) == []


def test_reprs_are_one_short_line(loaded, checkpoint):
    assert repr(Prediction(label="good", confidence=0.9726, probabilities={})) == "Prediction('good', confidence=0.973)"
    assert repr(loaded) == (
        f"LoadedClassifier(model tiny, learning rate 5e-05, checkpoint {checkpoint}; labels negative, positive)"
    )
    assert "\x1b" not in repr(Prediction(label="a\x1b\n", confidence=1.0, probabilities={}))


def test_explanations_of_a_text_and_of_a_list(loaded, checkpoint, tmp_path):
    one, two = loaded.explain(TEXTS[:2])
    assert (one.text, two.text) == tuple(TEXTS[:2])
    alone = loaded.explain(TEXTS[1])
    assert alone.tokens == two.tokens
    np.testing.assert_allclose(alone.weights, two.weights, atol=1e-6)
    np.testing.assert_allclose(alone.weights.sum(axis=1), 1, atol=1e-6)
    prediction = loaded.predict(TEXTS[1])
    assert alone.predicted_label == prediction.label
    assert alone.confidence == pytest.approx(prediction.confidence, abs=1e-5)
    source = alone.save(tmp_path / "x.html").read_text(encoding="utf-8")
    for name, value in {"model": "tiny", "learning rate": "5e-05"}.items():
        assert re.search(rf"<span>{name} <bdi>{value}</bdi>", source)
    assert str(checkpoint) in source
    assert loaded.explain([]) == []


@pytest.mark.parametrize("method", ["predict", "explain"])
@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["good", " "], "text 1: empty"),
        ("", "text 0: empty"),
        (["good", None], "None is no text: give a text, or a list of texts"),
        ([b"good"], "b'good' is no text"),
        ("\u4f60\u597d", "no word piece that the model knows"),
        (7, "7 is no text: give a text, or a list of texts"),
    ],
)
def test_what_is_no_text_is_named(loaded, method, texts, named):
    with pytest.raises(InputError, match=named):
        getattr(loaded, method)(texts)


def test_a_list_is_explained_by_the_methods_asked_for(loaded):
    found = loaded.explain(TEXTS, methods="occlusion", contrast="negative")
    assert [[row.method.name for row in each.rows] for each in found] == [["Occlusion"]] * 4
    for each in found:
        assert each.contrast != each.predicted
        assert each.ids == loaded.tokenizer.ids([each.text])[0]


def test_explain_from_any_folder_keeps_the_checkpoint_loaded(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explanation = bertlens.explain("a great film, not a dull plot.", checkpoint=checkpoint)
    assert explanation.tokens[:4] == ["[CLS]", "a", "great", "film"]
    assert explanation.weights.shape == (4, len(explanation.tokens))
    lead, mean, *_ = explanation.rows
    assert lead.method.name == "Contribution to the prediction"
    assert lead.nothing is not None
    np.testing.assert_array_equal(explanation.weights.mean(axis=0), mean.values)
    quick = bertlens.explain("a great film", checkpoint=checkpoint, method="mask_gradient", contrast="negative")
    assert [row.method.name for row in quick.rows[:2]] == ["Gradient by the attention mask", "Attention, layer 3"]
    alone = bertlens.explain("a great film", checkpoint=checkpoint, method="attention")
    assert [row.name for row in alone.rows[:2]] == ["Mean of the heads", "Head 1"]
    with pytest.raises(InputError, match="empty"):
        bertlens.explain(" ", checkpoint=checkpoint)
    with pytest.raises(InputError, match=r"methods=gradient: no such method, .*; did you mean mask_gradient\?"):
        bertlens.explain("a great film", checkpoint=checkpoint, method="gradient")
    with pytest.raises(InputError, match="contrast=good: no such label; choose one of negative, positive"):
        bertlens.explain("a great film", checkpoint=checkpoint, contrast="good")

    def load(*_, **__):
        raise AssertionError("loaded again")

    monkeypatch.setattr("bertlens.deploy.predict.restore", load)
    monkeypatch.chdir(checkpoint.parent)
    assert bertlens.explain("a great film", checkpoint="best.ckpt").tokens == ["[CLS]", "a", "great", "film", "[SEP]"]
    with pytest.raises(AssertionError, match="loaded again"):
        bertlens.load(checkpoint)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no\.ckpt: No such file"):
        bertlens.explain("a great film", checkpoint=tmp_path / "no.ckpt")
    with pytest.raises(InputError, match=r"no\.ckpt: No such file"):
        bertlens.load("no.ckpt")
    with pytest.raises(InputError, match="checkpoint=latest"):
        bertlens.load("latest")


def test_lightnings_own_way_to_load_names_this_one(checkpoint):
    with pytest.raises(InputError, match=r"use bertlens\.load\('.*best\.ckpt'\)\.module$") as caught:
        ReviewModule.load_from_checkpoint(checkpoint, map_location="cpu")
    assert "\n" not in str(caught.value)


def test_a_run_is_loaded_and_tests_as_it_did(run_task, tiny_run, tmp_path, monkeypatch):
    metrics = run_task("train", tmp_path / "outputs" / "run", *tiny_run, "trainer.max_epochs=2", "checkpoint.keep=last")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "latest").unlink(missing_ok=True)
    (tmp_path / "outputs" / "latest").symlink_to("run")
    loaded = bertlens.load("latest")
    assert loaded.checkpoint.path == tmp_path / "outputs" / "run" / "checkpoints" / "last.ckpt"
    accuracy = json.loads((tmp_path / "outputs" / "run" / "metrics.json").read_text())["metrics"]["test/accuracy"]
    assert f"learning rate 0.001, epoch 2, test accuracy {100 * accuracy:.1f} %, checkpoint" in repr(loaded)
    module = loaded.module
    assert isinstance(module, ReviewModule)
    assert not module.training
    info = loaded.checkpoint.info
    data = ReviewDataModule(info.data, loaded.tokenizer, mask_padding=True, cache=tmp_path / "cache", seed=0)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    [measured] = trainer.test(module, data, verbose=False)
    assert measured["test/accuracy"] == pytest.approx(float(metrics["test/accuracy"]))
    assert measured["test/loss"] == pytest.approx(float(metrics["test/loss"]), abs=1e-5)
    texts = data.reviews["test"]["text"][:20]
    rows, _, probabilities = module.test_result
    expected = probabilities[rows.argsort()][:20]
    found = [list(prediction.probabilities.values()) for prediction in loaded.predict(texts)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    assert bertlens.load(tmp_path / "again.ckpt").predict(texts[0]).probabilities == pytest.approx(
        loaded.predict(texts[0]).probabilities
    )


def test_the_version_is_the_packages_and_the_import_is_fast():
    assert bertlens.__version__ == version("bertlens")
    code = "import bertlens, sys; bertlens.load, bertlens.explain; print({'torch', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
