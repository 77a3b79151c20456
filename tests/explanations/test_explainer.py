"""The explainer's numbers are BERT's own, however reviews are batched, and it leaves the classifier as it was."""

from itertools import groupby

import numpy as np
import psutil
import pytest
import torch
import transformers

from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.explanations.explainer import Explainer, ReviewToExplain
from bertlens.explanations.methods import attention_rollout
from bertlens.model.checkpoint import CheckpointInfo, build_classifier, load_published
from bertlens.model.pretrained import find_pretrained
from bertlens.model.settings import ModelSettings

TEXTS = [
    "I loved every minute of it.<br /><br />The acting (all of it!) is superb, and the score isn't bad either.",
    "Dull.",
    "Two hours of my life that I'll never get back; a film for nobody, by nobody, about nothing at all. " * 3,
    "   ",
]


def make_explainer(folder, *, padding="longest", **options) -> Explainer:
    model = ModelSettings(pretrained=str(folder))
    pretrained = find_pretrained(model)
    max_length = min(256, pretrained.config.max_position_embeddings)
    info = CheckpointInfo(
        model=model,
        data=DataSettings(max_length=max_length, lowercase=True, padding=padding),
        frozen_dtype="float32",
        sha256={},
        config=pretrained.config,
        label_names=["negative", "positive"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build_classifier(info)
    load_published(classifier, pretrained)
    return Explainer(classifier, ReviewTokenizer(pretrained.vocabulary, info.data), info, **options)


def to_explain(texts):
    return [ReviewToExplain(index=index, text=text) for index, text in enumerate(texts)]


@pytest.mark.parametrize("every_layer", [False, True])
def test_the_weights_are_what_transformers_computes(minilm_folder, every_layer):
    explainer = make_explainer(minilm_folder, tokens_per_batch=800)
    peer = transformers.BertModel.from_pretrained(minilm_folder, attn_implementation="eager").eval()
    explained = list(explainer.explain(to_explain(TEXTS), every_layer=every_layer))
    assert [review.text for review in explained] == TEXTS
    for review in explained:
        ids = torch.tensor([explainer.tokenizer.ids([review.text])[0]])
        with torch.no_grad():
            attentions = [layer[0].numpy() for layer in peer(ids, output_attentions=True).attentions]
        found = [(method.name, list(rows)) for method, rows in groupby(review.rows, key=lambda row: row.method)]
        if every_layer:
            name, [row] = found.pop()
            assert name == "Rollout of all layers"
            np.testing.assert_allclose(row.values, attention_rollout(np.stack(attentions))[0], atol=1e-5)
        assert [name for name, _ in found] == [
            f"Attention, layer {n}" for n in ([6, 5, 4, 3, 2, 1] if every_layer else [6])
        ]
        for (_, (mean, *heads)), expected in zip(found, reversed(attentions), strict=False):
            np.testing.assert_allclose([head.values for head in heads], expected[:, 0], atol=1e-5)
            np.testing.assert_allclose(mean.values, expected[:, 0].mean(axis=0), atol=1e-5)


def test_probabilities_are_those_of_the_classifier(tiny_model):
    explainer = make_explainer(tiny_model)
    for review in explainer.explain(to_explain(TEXTS[:2]), every_layer=True):
        ids = torch.tensor(explainer.tokenizer.ids([review.text]))
        with torch.no_grad():
            expected = explainer.classifier.eval()(ids).softmax(dim=1)[0].numpy()
        np.testing.assert_allclose(review.probabilities, expected, atol=1e-5)
        assert review.predicted == expected.argmax()
        assert review.confidence == pytest.approx(expected.max(), abs=1e-5)


def test_padding_to_the_maximum_changes_nothing_but_rounding(tiny_model):
    short, long = (
        list(make_explainer(tiny_model, padding=padding).explain(to_explain(TEXTS)))
        for padding in ("longest", "max_length")
    )
    for one, other in zip(short, long, strict=True):
        np.testing.assert_allclose(one.rows[0].values, other.rows[0].values, atol=1e-6)


def test_the_classifier_keeps_its_device_and_its_modes(tiny_model):
    explainer = make_explainer(tiny_model)
    classifier = explainer.classifier
    classifier.train()
    classifier.bert.encoder.layer[2].eval()
    before = {name: module.training for name, module in classifier.named_modules()}
    assert len(set(before.values())) == 2
    parameters = {name: parameter.data_ptr() for name, parameter in classifier.named_parameters()}
    first, second = (list(explainer.explain(to_explain(TEXTS[:1]))) for _ in range(2))
    np.testing.assert_array_equal(first[0].rows[0].values, second[0].rows[0].values)  # no dropout
    assert {name: module.training for name, module in classifier.named_modules()} == before
    assert {name: parameter.data_ptr() for name, parameter in classifier.named_parameters()} == parameters
    moved = classifier.to("meta")  # stands for any other device
    Explainer(moved, explainer.tokenizer, make_info(explainer))
    assert {parameter.device.type for parameter in moved.parameters()} == {"meta"}
    assert {name: module.training for name, module in classifier.named_modules()} == before


def make_info(explainer):
    return CheckpointInfo(
        model=ModelSettings(),
        data=DataSettings(),
        frozen_dtype="float32",
        sha256={},
        config=explainer.classifier.bert.config,
        label_names=explainer.label_names,
    )


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
