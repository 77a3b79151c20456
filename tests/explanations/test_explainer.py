"""The classic view's numbers are BERT's own, whatever the way they came."""

import sys

import numpy as np
import psutil
import pytest
import torch
import transformers
from hydra import compose, initialize_config_dir

import bertlens
from bertlens.config import CONF, SCHEMAS, typed
from bertlens.data.batching import BatchSettings
from bertlens.data.reviews import ReviewSettings
from bertlens.data.tokenizer import ReviewTokenizer, TokenizerSettings
from bertlens.errors import InputError
from bertlens.explanations.explainer import Explainer, ReviewToExplain
from bertlens.explanations.selection import own_texts, select
from bertlens.explanations.words import attention_rollout, classic_scale
from bertlens.model.checkpoint import CheckpointInfo, ModelSettings, build_classifier, load_published
from bertlens.model.pretrained import PretrainedSettings, find_pretrained

sys.path.insert(0, str(CONF.parent))
from train import train
from visualize import visualize

TEXTS = [
    "I loved every minute of it.<br /><br />The acting (all of it!) is superb, and the score isn't bad either.",
    "Dull.",
    "Two hours of my life that I'll never get back; a film for nobody, by nobody, about nothing at all. " * 3,
    "   ",
]


def make_explainer(folder, **options) -> Explainer:
    torch.manual_seed(0)
    pretrained = find_pretrained(PretrainedSettings(name=str(folder)))
    max_length = min(256, pretrained.config.max_position_embeddings)
    info = CheckpointInfo(
        pretrained=PretrainedSettings(name=str(folder)),
        sha256={},
        config=pretrained.config,
        model=ModelSettings(frozen_dtype="float32"),
        tokenizer=TokenizerSettings(max_length=max_length),
        reviews=ReviewSettings(),
        batches=BatchSettings(),
        label_names=["negative", "positive"],
    )
    classifier = build_classifier(info)
    load_published(classifier, pretrained)
    return Explainer(classifier, ReviewTokenizer(pretrained.vocabulary, info.tokenizer), info, **options)


def to_explain(texts):
    return [ReviewToExplain(index=index, text=text) for index, text in enumerate(texts)]


@pytest.mark.parametrize("every_layer", [False, True])
def test_the_classic_view_is_what_transformers_computes(minilm_folder, every_layer):
    explainer = make_explainer(minilm_folder, tokens_per_batch=800)
    peer = transformers.BertModel.from_pretrained(minilm_folder, attn_implementation="eager").eval()
    explained = list(explainer.explain(to_explain(TEXTS), every_layer=every_layer))
    assert [review.text for review in explained] == TEXTS
    for review in explained:
        ids = torch.tensor([explainer.tokenizer.ids([review.text])[0]])
        with torch.no_grad():
            attentions = [layer[0].numpy() for layer in peer(ids, output_attentions=True).attentions]
        expected = np.stack([layer[:, 0] for layer in (attentions if every_layer else attentions[-1:])])
        np.testing.assert_allclose(review.weights, expected, atol=1e-5)
        np.testing.assert_allclose(review.weights.mean(axis=1), expected.mean(axis=1), atol=1e-5)
        np.testing.assert_allclose(classic_scale(review.weights), classic_scale(expected), atol=1e-4)
        if every_layer:
            np.testing.assert_allclose(review.rollout, attention_rollout(np.stack(attentions))[0], atol=1e-5)


def test_probabilities_are_those_of_the_classifier(tiny_model):
    explainer = make_explainer(tiny_model)
    for review in explainer.explain(to_explain(TEXTS[:2]), every_layer=True):
        ids = torch.tensor(explainer.tokenizer.ids([review.text]))
        expected = explainer.classifier(ids).softmax(dim=1)[0].detach().numpy()
        np.testing.assert_allclose(review.probabilities, expected, atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_reviews(tiny_model):
    explainer = make_explainer(tiny_model)
    process = psutil.Process()

    def most(num_reviews: int) -> int:
        """Most bytes this process holds while the reviews come out."""
        reviews = explainer.explain(to_explain([TEXTS[2]] * num_reviews), every_layer=True)
        return max(process.memory_info().rss for _ in reviews)

    few, many = 64, 640
    config = explainer.classifier.bert.config
    length = len(explainer.tokenizer.ids([TEXTS[2]])[0])
    maps = 4 * config.num_hidden_layers * config.num_attention_heads * length**2  # of one review, in fp32
    most(few)
    assert most(many) - most(few) < 0.2 * (many - few) * maps


def test_select():
    labels = torch.tensor([0, 1, 1, 0])
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55], [0.3, 0.7]])

    def chosen(how, indices=None, count=2):
        return select(
            how, count=count, indices=indices, num_reviews=4, seed=0, predictions=lambda: (labels, probabilities)
        )

    assert chosen("first") == [0, 1]
    assert chosen("wrong") == [1, 3]
    assert chosen("right", count=1) == [0]
    assert chosen("uncertain") == [2, 3]
    assert chosen("first", indices=[3, 0]) == [3, 0]
    assert len(set(chosen("random", count=3))) == 3
    with pytest.raises(InputError, match=r"indices=\[4\]"):
        chosen("first", indices=[0, 4])


def test_own_texts(tmp_path):
    (tmp_path / "some.txt").write_text("one\n\n two  \r\n")
    assert own_texts(None, str(tmp_path / "some.txt")) == ["one", " two  "]
    assert own_texts("one", None) == ["one"]
    assert own_texts(["a", "b"], None) == ["a", "b"]
    assert own_texts(None, None) is None


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tiny_reviews, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = [
        f"model.pretrained={tiny_model}",
        f"data.path={tiny_reviews}",
        f"cache_dir={folder / 'cache'}",
        "data.max_length=48",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "report=true",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train(typed(compose("train", options), SCHEMAS["train"]), folder)
    return folder / "checkpoints" / "best.ckpt"


def page(checkpoint, folder, *options):
    options = [f"checkpoint={checkpoint}", f"cache_dir={folder / 'cache'}", "trainer.accelerator=cpu", *options]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return visualize(typed(compose("visualize", options), SCHEMAS["visualize"]), folder)


def test_a_run_writes_a_report_where_asked(checkpoint):
    assert (checkpoint.parents[1] / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["reviews=random", "count=3"],
        ["reviews=uncertain", "count=2", "report.layers=all"],
        ["indices=[0,3]"],
        ["text=a great film"],
        ["text=[a great film, a dull plot]"],
    ],
)
def test_visualize_writes_a_page(checkpoint, tmp_path, capsys, options):
    written = page(checkpoint, tmp_path, *options)
    assert written == tmp_path / "report.html"
    assert "strongest words" in capsys.readouterr().out
    assert "Content-Security-Policy" in written.read_text()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["indices=[80]"], "indices=[80]"),
        (["text=''"], "text 0"),
        (["text='   '"], "text 0"),
        (["text='\u4f60\u597d'"], "no word piece"),
        (["file=/nowhere"], "file='/nowhere'"),
        (["reviews=best"], "reviews='best'"),
        (["report.layers=some"], "report.layers"),
        (["count=0"], "count=0"),
        (["text=a", "indices=[1]"], "give one of them"),
    ],
)
def test_bad_input_is_named(checkpoint, tmp_path, options, named):
    with pytest.raises(InputError) as caught:
        page(checkpoint, tmp_path, *options)
    assert named in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_or_nothing_instead_of_a_checkpoint(checkpoint, tmp_path):
    with pytest.raises(InputError, match="a folder"):
        page(checkpoint.parent, tmp_path)
    with pytest.raises(InputError, match="no such file"):
        page(tmp_path / "no.ckpt", tmp_path)


def test_explain_in_a_notebook(checkpoint):
    explanation = bertlens.explain("a great film, not a dull plot.", checkpoint=checkpoint)
    assert explanation.tokens[:4] == ["[CLS]", "a", "great", "film"]
    assert explanation.weights.shape == (4, len(explanation.tokens))
    np.testing.assert_allclose(explanation.weights.sum(axis=1), 1, atol=1e-6)
    assert explanation.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert explanation.verdict in ("negative", "positive")
    assert "great" in explanation._repr_html_()
    with pytest.raises(InputError, match="empty"):
        bertlens.explain(" ", checkpoint=checkpoint)
