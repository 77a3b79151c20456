import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from bertlens.errors import InputError
from bertlens.model.bert import BertModel
from bertlens.model.classifier import ReviewClassifier

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
CHOICES = [0, 1, 2, 3, "all"]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def classifier_with(tiny_config):
    """Return a factory of classifiers that agree in every parameter, and none is at its neutral value."""
    weights: dict[str, torch.Tensor] = {}

    def make(trainable_layers=1, **options) -> ReviewClassifier:
        classifier = ReviewClassifier(tiny_config, num_classes=3, trainable_layers=trainable_layers, **options)
        if not weights:
            for name, parameter in classifier.named_parameters():
                weights[name] = torch.randn(parameter.shape) * 0.3 + name.endswith("LayerNorm.weight")
        classifier.load_state_dict(weights)
        return classifier

    return make


@pytest.fixture
def batch(tiny_config):
    """Return the ids of four reviews of 9, 9, 4 and 2 pieces, and their mask."""
    mask = torch.arange(9) < torch.tensor([[9], [9], [4], [2]])
    return torch.randint(5, tiny_config.vocab_size, mask.shape).masked_fill(~mask, 0), mask


def expected_trained(classifier: ReviewClassifier, trainable_layers) -> set[str]:
    """Return the names of the head and the top layers, or all."""
    first = 0 if trainable_layers == "all" else 3 - trainable_layers
    prefixes = ("head.", *(f"bert.encoder.layer.{index}." for index in range(first, 3)))
    if trainable_layers == "all":
        prefixes += ("bert.embeddings.",)
    return {name for name, _ in classifier.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize("trainable_layers", CHOICES)
def test_training_changes_the_trained_part_and_not_one_bit_of_the_rest(classifier_with, batch, trainable_layers):
    classifier = classifier_with(trainable_layers)
    expected = expected_trained(classifier, trainable_layers)
    assert {name for name, parameter in classifier.named_parameters() if parameter.requires_grad} == expected
    before = {name: parameter.detach().clone() for name, parameter in classifier.named_parameters()}
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2, weight_decay=0.1)
    ids, mask = batch
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(classifier(ids.roll(step, dims=0), mask), torch.tensor([0, 1, 2, 0])).backward()
        # one for every trained parameter: DistributedDataParallel waits for them all
        assert {name for name, parameter in classifier.named_parameters() if parameter.grad is not None} == expected
        optimizer.step()
    changed = {name for name, parameter in classifier.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == expected


@pytest.mark.parametrize("trainable_layers", CHOICES)
def test_the_frozen_prefix_stays_in_eval_mode(classifier_with, trainable_layers):
    classifier = classifier_with(trainable_layers)
    trained = expected_trained(classifier, trainable_layers)
    for mode in (True, False, True):
        classifier.train(mode)
        for name, module in classifier.named_modules():
            if isinstance(module, nn.Dropout | nn.LayerNorm | nn.Linear):
                owner = name.rsplit(".", 1)[0] + "." if isinstance(module, nn.Dropout) else f"{name}."
                assert module.training == (mode and any(one.startswith(owner) for one in trained)), name


def test_the_prefix_gives_the_same_numbers_in_training_and_no_gradient(classifier_with, batch):
    classifier = classifier_with(1)
    assert torch.equal(classifier.train().prefix(*batch), classifier.eval().prefix(*batch))
    assert not classifier.train().prefix(*batch).requires_grad


def test_frozen_dropout_is_live_in_training_and_only_there(classifier_with, batch):
    classifier = classifier_with(1, frozen_dropout=True)
    assert classifier.prefix is None
    assert classifier.bert.embeddings.dropout.training
    for layer in classifier.bert.encoder.layer[1:]:  # leave dropout only in the frozen part
        layer.eval()
    assert not torch.allclose(classifier(*batch), classifier(*batch), atol=1e-3)
    assert torch.equal(classifier.eval()(*batch), classifier_with(1).eval()(*batch))
    classifier.train()(*batch).sum().backward()
    assert {name for name, p in classifier.named_parameters() if p.grad is not None} == expected_trained(classifier, 1)


@pytest.mark.parametrize("trainable_layers", CHOICES)
@pytest.mark.parametrize("frozen_dropout", [False, True])
def test_the_suffix_holds_what_is_trained_under_its_published_names(classifier_with, trainable_layers, frozen_dropout):
    classifier = classifier_with(trainable_layers, frozen_dropout=frozen_dropout)
    own, shared = dict(classifier.suffix.named_parameters()), dict(classifier.named_parameters())
    expected = shared.keys() if frozen_dropout else expected_trained(classifier, trainable_layers)
    assert own.keys() == expected
    assert all(own[name] is shared[name] for name in own)
    assert list(own) == [name for name in shared if name in own]  # an optimizer's state goes by this order
    assert classifier.suffix.state_dict().keys() == own.keys()


@pytest.mark.parametrize("trainable_layers", [0, 1, 3])
def test_the_prefix_is_in_no_modules_tree_and_is_not_copied(classifier_with, batch, trainable_layers):
    classifier = classifier_with(trainable_layers)
    holder = nn.Module()
    holder.suffix, holder.prefix = classifier.suffix, classifier.prefix
    assert {name.removeprefix("suffix.") for name in holder.state_dict()} == expected_trained(
        classifier, trainable_layers
    )
    copied = copy.deepcopy(holder)
    assert copied.prefix is holder.prefix
    before = holder.suffix.eval()(holder.prefix(*batch), batch[1])
    with torch.no_grad():
        for parameter in holder.parameters():
            parameter.add_(1.0)
    assert torch.equal(copied.suffix.eval()(copied.prefix(*batch), batch[1]), before)


def test_the_prefix_describes_itself(classifier_with, tiny_config):
    prefix = classifier_with(1, frozen_dtype=torch.bfloat16).prefix
    assert (prefix.depth, prefix.num_layers, prefix.hidden_size) == (2, 3, tiny_config.hidden_size)
    assert (prefix.dtype, prefix.device.type) == (torch.bfloat16, "cpu")
    assert prefix.to(torch.device("meta")).device.type == "meta"


def test_a_digest_covers_the_parameters_up_to_its_depth(classifier_with):
    classifier = classifier_with(1)
    before = classifier.prefix.digests()
    assert len(set(before)) == 3  # depths 0, 1 and 2
    with torch.no_grad():
        classifier.bert.encoder.layer[1].output.dense.bias[3] += 1.0
        classifier.bert.encoder.layer[2].output.dense.bias[3] += 1.0
    after = classifier.prefix.digests()
    assert after[:2] == before[:2]
    assert after[2] != before[2]


@torch.no_grad()
@pytest.mark.parametrize("frozen_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trainable_layers", CHOICES)
def test_the_states_below_the_top_layer_are_read_as_in_a_forward_pass(
    classifier_with, batch, trainable_layers, frozen_dtype
):
    classifier = classifier_with(trainable_layers, frozen_dtype=frozen_dtype).eval()
    ids, mask = batch
    tolerance = TOLERANCE if frozen_dtype == torch.float32 else {"atol": 0.1, "rtol": 0.0}
    hidden, none = classifier.states_to_read(ids, mask)
    logits, last = classifier.read_states(hidden, mask)
    assert none == []
    assert hidden.shape == (4, 9, 32)
    assert torch.equal(logits, classifier(ids, mask))
    assert last.shape == (4, 4, 1, 9)
    assert (last[3, ..., 2:] == 0.0).all()
    hidden, below = classifier.states_to_read(ids, mask, return_probs=True)
    all_logits, top = classifier.read_states(hidden, mask, every_query=True)
    assert_close(all_logits, logits, **tolerance)
    assert [tuple(layer.shape) for layer in [*below, top]] == [(4, 4, 9, 9)] * 3
    assert_close(top[:, :, :1], last, **tolerance)


@torch.no_grad()
@pytest.mark.parametrize("trainable_layers", [1, 2, 3])
def test_stored_states_are_read_on(classifier_with, batch, trainable_layers):
    classifier = classifier_with(trainable_layers).eval()
    ids, mask = batch
    stored = classifier.prefix(ids, mask)
    hidden, _ = classifier.states_to_read(stored, mask, depth=classifier.prefix.depth)
    assert torch.equal(hidden, classifier.states_to_read(ids, mask)[0])


def test_more_layers_than_the_model_has_are_refused(tiny_config):
    with pytest.raises(InputError) as caught:
        ReviewClassifier(tiny_config, num_classes=2, trainable_layers=4)
    assert str(caught.value) == (
        "model.trainable_layers=4: this model has 3 layers; choose 0 (head only) to 3, or all (embeddings too)"
    )


@pytest.mark.parametrize("trainable_layers", CHOICES)
def test_logits_are_the_head_on_the_full_encoders_first_vector(classifier_with, tiny_config, batch, trainable_layers):
    classifier = classifier_with(trainable_layers).eval()
    encoder = BertModel(tiny_config).eval()
    encoder.load_state_dict(classifier.bert.state_dict())
    expected = classifier.head(encoder(*batch)[:, 0])
    assert expected.std() > 0.1
    assert_close(classifier(*batch), expected, **TOLERANCE)


@pytest.mark.parametrize("trainable_layers", [0, 1, 2, 3])
def test_prefix_then_suffix_is_the_whole(classifier_with, batch, trainable_layers):
    classifier = classifier_with(trainable_layers).eval()
    ids, mask = batch
    assert torch.equal(classifier.suffix(classifier.prefix(ids, mask), mask), classifier(ids, mask))


@pytest.mark.parametrize(
    ("trainable_layers", "depth"), [(layers, depth) for layers in range(4) for depth in range(4 - layers)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_of_any_frozen_depth_serve_as_input(classifier_with, batch, trainable_layers, depth, dtype):
    classifier = classifier_with(trainable_layers, frozen_dtype=dtype).eval()
    ids, mask = batch
    stored = classifier_with(3 - depth, frozen_dtype=dtype).eval().prefix(ids, mask)
    assert stored.dtype == dtype
    assert_close(classifier(stored, mask, depth=depth), classifier(ids, mask), **TOLERANCE)
    assert_close(classifier.prefix(ids, mask, stop=depth), stored, **TOLERANCE)


def test_of_a_model_that_is_all_frozen_the_prefix_gives_the_first_vector_only(classifier_with, tiny_config, batch):
    classifier = classifier_with(0).eval()
    encoder = BertModel(tiny_config).eval()
    encoder.load_state_dict(classifier.bert.state_dict())
    assert_close(classifier.prefix(*batch), encoder(*batch)[:, :1], **TOLERANCE)


@pytest.mark.parametrize("trainable_layers", CHOICES)
def test_padding_changes_no_logit(classifier_with, tiny_config, batch, trainable_layers):
    classifier = classifier_with(trainable_layers).eval()
    ids, mask = batch
    expected = classifier(ids, mask)
    others = torch.where(mask, ids, torch.randint_like(ids, tiny_config.vocab_size))
    assert_close(classifier(others, mask), expected, **TOLERANCE)
    assert_close(classifier(F.pad(ids, (0, 30)), F.pad(mask, (0, 30))), expected, **TOLERANCE)
    alone = classifier(ids[2:3, :4], None)
    assert_close(alone, expected[2:3], **TOLERANCE)


def test_without_a_mask_padding_is_attended_to(classifier_with, batch):
    classifier = classifier_with(1).eval()
    ids, mask = batch
    assert (classifier(ids, None) - classifier(ids, mask))[2:].abs().min() > 1e-3


def test_the_head_begins_small_and_without_bias(tiny_config):
    head = ReviewClassifier(tiny_config, num_classes=500).head
    assert (head.bias == 0.0).all()
    assert_close(head.weight.std().item(), 0.02, rtol=0.1, atol=0)
    assert abs(head.weight.mean().item()) < 0.001


@pytest.mark.parametrize("trainable_layers", [0, 1, 3])
def test_a_bfloat16_prefix_is_close_to_fp32(tiny_config, batch, trainable_layers):
    classifiers = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        classifier = ReviewClassifier(
            tiny_config, num_classes=3, trainable_layers=trainable_layers, frozen_dtype=dtype
        ).eval()
        nn.init.normal_(classifier.head.weight, std=0.1, generator=torch.Generator().manual_seed(2))
        assert all(p.dtype == (torch.float32 if p.requires_grad else dtype) for p in classifier.parameters())
        classifiers.append(classifier)
    exact, rounded = (classifier(*batch) for classifier in classifiers)
    assert rounded.dtype == torch.float32
    assert exact.std() > 0.1
    assert_close(rounded, exact, atol=0.05, rtol=0)
    assert not torch.equal(rounded, exact)


@pytest.mark.parametrize("trainable_layers", CHOICES)
def test_parts_sum_to_all_parameters(classifier_with, trainable_layers):
    classifier = classifier_with(trainable_layers)
    parts = list(classifier.parts())
    assert [part.name for part in parts] == ["embeddings", "layer 1", "layer 2", "layer 3", "head"]
    assert sum(part.num_parameters for part in parts) == sum(p.numel() for p in classifier.parameters())
    trained = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
    assert sum(part.num_parameters for part in parts if part.trained) == trained
