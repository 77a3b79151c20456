"""The explainer's numbers are BERT's own, however reviews are batched, and it leaves the classifier as it was."""

from itertools import groupby

import numpy as np
import psutil
import pytest
import torch
import transformers

from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError
from bertlens.explanations.explainer import Explainer, ReviewToExplain
from bertlens.explanations.methods import attention_rollout
from bertlens.model.bert import run_layers
from bertlens.model.checkpoint import CheckpointInfo, build_classifier, load_published
from bertlens.model.pretrained import find_pretrained
from bertlens.model.settings import ModelSettings

TEXTS = [
    "I loved every minute of it.<br /><br />The acting (all of it!) is superb, and the score isn't bad either.",
    "Dull.",
    "Two hours of my life that I'll never get back; a film for nobody, by nobody, about nothing at all. " * 3,
    "   ",
]


def make_explainer(
    folder, *, padding="longest", labels=("negative", "positive"), frozen_dtype="float32", model=None, **options
) -> Explainer:
    model = ModelSettings(pretrained=str(folder), **(model or {}))
    pretrained = find_pretrained(model)
    max_length = min(256, pretrained.config.max_position_embeddings)
    info = CheckpointInfo(
        model=model,
        data=DataSettings(max_length=max_length, lowercase=True, padding=padding),
        frozen_dtype=frozen_dtype,
        sha256={},
        config=pretrained.config,
        label_names=list(labels),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build_classifier(info)
    load_published(classifier, pretrained)
    return Explainer(classifier, ReviewTokenizer(pretrained.vocabulary, info.data), info, **options)


def draw_head(explainer) -> None:
    """Give the head weights that tell the classes apart, and reviews too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.nn.init.normal_(explainer.classifier.head.weight, std=0.3)


def to_explain(texts):
    return [ReviewToExplain(index=index, text=text) for index, text in enumerate(texts)]


@pytest.mark.parametrize("every_layer", [False, True])
def test_the_weights_are_what_transformers_computes(minilm_folder, every_layer):
    explainer = make_explainer(minilm_folder, tokens_per_batch=800, methods=["attention"])
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


@pytest.mark.parametrize("frozen_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("every_layer", [False, True])
@pytest.mark.parametrize("trainable_layers", [0, 1, 3, "all"])
def test_attention_is_that_of_one_pass(tiny_model, trainable_layers, every_layer, frozen_dtype):
    """A pass in two parts, frozen and trained. The probabilities are those of a prediction to the last bit."""
    rounding = 2e-6 if frozen_dtype == "float32" else 0.02
    explainer = make_explainer(
        tiny_model, methods=["attention"], model={"trainable_layers": trainable_layers}, frozen_dtype=frozen_dtype
    )
    classifier = explainer.classifier.eval()
    depth, layers = classifier.frozen_depth or 0, classifier.bert.encoder.layer
    ids, mask = explainer._pad(explainer.tokenizer.ids(TEXTS))
    expected = []
    with torch.inference_mode():
        hidden = classifier.bert.embeddings(ids)
        for part in (layers[:depth], layers[depth:]):
            cls_only = not every_layer and len(part) > 0 and part[-1] is layers[-1]
            hidden, probs = run_layers(part, hidden, mask, cls_only=cls_only, return_probs=every_layer)
            hidden = hidden.to(classifier.head.weight.dtype)
            expected += probs
        probabilities = classifier.head(hidden[:, 0]).softmax(dim=1)
    assert explainer.reviews_per_batch >= len(TEXTS)
    for place, review in enumerate(explainer.explain(to_explain(TEXTS), every_layer=every_layer)):
        np.testing.assert_array_equal(review.probabilities, explainer.run([review.ids])[0])
        np.testing.assert_allclose(review.probabilities, probabilities[place], atol=rounding)
        rows = [row for row in review.rows if row.method.name.startswith("Attention")]
        assert len(rows) == len(expected) * 5
        for layer, (mean, *heads) in zip(
            reversed(expected), [rows[start : start + 5] for start in range(0, len(rows), 5)], strict=True
        ):
            paid = layer[place, :, 0, : len(review.ids)].numpy()
            np.testing.assert_allclose([head.values for head in heads], paid, atol=rounding)
            np.testing.assert_allclose(mean.values, paid.mean(axis=0), atol=rounding)


def test_the_first_method_leads_and_rollout_records_every_layer(tiny_model):
    explainer = make_explainer(tiny_model, methods=["rollout", "mask_gradient", "attention", "rollout"])
    [review] = explainer.explain(to_explain(TEXTS[:1]))
    methods = [row.method.name for row in review.rows]
    assert methods == ["Rollout of all layers", "Gradient by the attention mask", *["Attention, layer 3"] * 5]
    [review] = make_explainer(tiny_model).explain(to_explain(TEXTS[:1]), every_layer=True)
    methods = list(dict.fromkeys(row.method.name for row in review.rows))
    assert methods == [
        "Contribution to the prediction",
        *(f"Attention, layer {number}" for number in (3, 2, 1)),
        "Rollout of all layers",
    ]


LABELS = ("bad", "good", "mixed")


def test_predictions_are_set_against_the_runner_up(tiny_model):
    for review in make_explainer(tiny_model, labels=LABELS).explain(to_explain(TEXTS)):
        assert sorted(range(3), key=lambda index: -review.probabilities[index])[:2] == [
            review.predicted,
            review.contrast,
        ]
        assert review.ids[0] != review.ids[-1]
        assert len(review.ids) == len(review.tokens)
        assert review.check is None


def test_a_contrast_is_a_label_and_where_it_is_the_prediction_a_line_says_so(tiny_model, caplog):
    usual = list(make_explainer(tiny_model, labels=LABELS).explain(to_explain(TEXTS)))
    predicted = usual[0].predicted
    other = 3 - predicted - usual[0].contrast
    caplog.set_level("WARNING")
    found = list(make_explainer(tiny_model, labels=LABELS, contrast=LABELS[other]).explain(to_explain(TEXTS[:1])))
    assert [review.contrast for review in found] == [other]
    assert not caplog.messages
    assert np.abs(found[0].rows[0].values - usual[0].rows[0].values).max() > 0
    found = list(make_explainer(tiny_model, labels=LABELS, contrast=LABELS[predicted]).explain(to_explain(TEXTS)))
    num_same = sum(review.predicted == predicted for review in found)
    assert [review.contrast for review in found] == [
        review.contrast if review.predicted == predicted else predicted for review in usual
    ]
    assert caplog.messages == [
        f"contrast={LABELS[predicted]}: the prediction for {num_same} of 4 reviews, set against the runner-up there"
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"methods": ["atention"]}, "methods=atention: no such method, only aumann_shapley, attention, "),
        ({"methods": []}, "methods=: no such method, only aumann_shapley, attention, "),
        ({"contrast": "neutral"}, "contrast=neutral: no such label; choose one of negative, positive"),
    ],
)
def test_what_is_no_method_or_label_is_named(tiny_model, options, line):
    with pytest.raises(InputError) as caught:
        make_explainer(tiny_model, **options)
    assert str(caught.value).startswith(line)


def test_a_missing_captum_is_one_line(tiny_model, monkeypatch):
    monkeypatch.setattr("bertlens.explanations.methods.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        make_explainer(tiny_model, methods=["integrated_gradients"])
    assert str(caught.value) == ('methods=integrated_gradients: needs captum; pip install "bertlens[explain]"')


def test_padding_that_is_attended_to_is_a_player(tiny_model):
    explainer = make_explainer(tiny_model, padding="max_length", model={"attention_mask": False})
    draw_head(explainer)
    for text in ("dull", TEXTS[0]):
        [review] = explainer.explain(to_explain([text]))
        logits = np.log(review.probabilities)
        row = review.rows[0]
        assert len(row.values) == len(review.tokens) < explainer.pad_to
        assert abs(row.padding) > 1e-4
        expected = logits[review.predicted] - logits[review.contrast]
        assert row.values.sum() + row.padding + row.nothing == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("padding", "attention_mask"), [("longest", True), ("max_length", True), ("max_length", False)]
)
def test_edited_pieces_run_as_the_texts_they_spell(tiny_model, padding, attention_mask):
    explainer = make_explainer(
        tiny_model, padding=padding, model={"attention_mask": attention_mask}, tokens_per_batch=99
    )
    draw_head(explainer)
    texts = ["a dull film", "", "a great film with a good cast", "great"] * 5
    expected = [review.probabilities for review in explainer.explain(to_explain(texts))]
    explainer.classifier.train()
    found = explainer.run(explainer.tokenizer.ids(texts))
    assert explainer.classifier.training
    assert (found.shape, found.dtype) == ((20, 2), np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found[:4, 0]) > 1e-4
    assert explainer.run([]).shape == (0, 2)


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
