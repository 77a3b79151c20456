"""export.py: what `transformers` and onnxruntime compute is what the checkpoint computes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from bertlens.deploy import export
from bertlens.deploy.export import check_packages, exact, export_model, pooler_scale
from bertlens.deploy.settings import ExportSettings
from bertlens.errors import InputError
from bertlens.model.checkpoint import read_checkpoint
from bertlens.system.files import atomic_folder

TEXTS = [
    "a dull film.",
    "it was<br />great & moving, [SEP] and the cast was superb. " * 9,
    "weak [CLS] [MASK]",
    "Great!",
]


def settings(output, format="huggingface"):
    return ExportSettings(checkpoint="", output=str(output), format=format, reviews=12)


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return exact(read_checkpoint(checkpoint))


@pytest.mark.parametrize("side", ["head", "tail", "head_tail"])
def test_transformers_opens_the_folder_and_says_the_same(loaded, tmp_path, monkeypatch, side):
    monkeypatch.setattr(loaded.checkpoint.info.data, "truncation", side)
    export_model(settings(tmp_path / "out", "huggingface"), loaded, None)
    code = """
import json, sys
sys.modules["bertlens"] = None
from transformers import pipeline
classifier = pipeline("text-classification", model=sys.argv[1], top_k=None, truncation=True)
texts = json.loads(sys.argv[2])
print(json.dumps([classifier.tokenizer(texts, truncation=True)["input_ids"], classifier(texts)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out"), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        check=True,
    )
    ids, found = json.loads(done.stdout.splitlines()[-1])
    whole = [0, 2, 3] if side == "head_tail" else range(4)
    expected, own = loaded.classify(TEXTS), loaded.tokenizer.ids(TEXTS)
    for place in whole:
        assert ids[place] == own[place]
        scores = {each["label"]: each["score"] for each in found[place]}
        np.testing.assert_allclose([scores[name] for name in loaded.label_names], expected[place], atol=1e-5)
    assert "by at most **" in (tmp_path / "out" / "README.md").read_text().replace("\n", " ")


def test_the_pooler_is_the_identity_to_fp32_rounding(loaded):
    scale, norm = pooler_scale(loaded.classifier), loaded.classifier.bert.encoder.layer[-1].output.LayerNorm
    assert np.log2(scale) == round(np.log2(scale))
    # a vector that reaches the bound: all of the variance in one number
    vectors = torch.diag(torch.full((len(norm.weight),), 1e6))
    hidden = norm(vectors).detach().double()
    found = torch.tanh((scale * hidden).float()).double() / scale
    assert ((found - hidden).abs() <= hidden.abs() * 2.0**-23).all()
    coarse = torch.tanh((64 * scale * hidden).float()).double() / scale / 64  # and no larger one would do
    assert ((coarse - hidden).abs() > hidden.abs() * 2.0**-23).any()


def test_onnxruntime_says_the_same_without_torch(loaded, tmp_path):
    pytest.importorskip("onnxruntime")
    export_model(settings(tmp_path / "out", "onnx"), loaded, None)
    readme = (tmp_path / "out" / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0].replace('["I loved every minute.", "Dull."]', repr(TEXTS))
    code = 'import sys; sys.modules["torch"] = sys.modules["bertlens"] = None\n' + code + "\nprint(logits.tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    )
    labels, logits = map(json.loads, done.stdout.replace("'", '"').splitlines()[-2:])
    expected = loaded.classify(TEXTS)
    np.testing.assert_allclose(torch.tensor(logits).softmax(dim=1), expected, atol=1e-5)
    assert labels == [loaded.label_names[place] for place in expected.argmax(axis=1)]


def test_what_differs_is_not_written_and_names_the_texts(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "pooler_scale", lambda classifier: 0.1)
    with pytest.raises(InputError, match=r"the exported model differs from the checkpoint on \d+ of 12 texts: '"):
        export_model(settings(tmp_path / "out", "huggingface"), loaded, None)
    assert list(tmp_path.iterdir()) == []


def test_bad_input(loaded, checkpoint, tmp_path, monkeypatch, run_task):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"output=.*full: not empty; .*overwrite=true"):
        export_model(settings(tmp_path / "full", "huggingface"), loaded, None)
    with pytest.raises(InputError, match=r"mine.txt: a file"), atomic_folder(tmp_path / "full" / "mine.txt"):
        pass
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs onnx, onnxruntime, onnxscript; pip install "bertlens\[export\]"'):
        check_packages("onnx")
    monkeypatch.undo()
    padded = read_checkpoint(checkpoint)
    padded.info.model.attention_mask = False
    with pytest.raises(InputError, match="attends to padding"):
        exact(padded)
    lost = read_checkpoint(checkpoint)
    lost.info.model.pretrained = str(tmp_path / "gone")
    with pytest.raises(InputError, match=r"holds what was trained, not all: model\.pretrained='.*gone'"):
        exact(lost)


def test_a_folder_is_whole_or_as_it_was(tmp_path):
    folder = tmp_path / "out"
    with atomic_folder(folder) as new:
        (new / "a").write_text("1")
    with pytest.raises(FileNotFoundError), atomic_folder(folder, overwrite=True) as new:
        (new / "a").rename(new / "b")
    assert (folder / "a").read_text() == "1"
    with atomic_folder(folder, overwrite=True) as new:
        (new / "b").write_text("3")
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [folder]
