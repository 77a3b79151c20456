import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer, read_vocabulary
from bertlens.errors import InputError
from bertlens.model.bert import BertConfig, BertLayer, BertModel, Dropout, attention_probs, run_layers
from bertlens.model.pretrained import load_strictly, read_config, read_weights

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
SHAPES = {
    "four heads": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
    "one head": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 40},
    "heads of two": {
        "hidden_size": 16,
        "num_hidden_layers": 5,
        "num_attention_heads": 8,
        "intermediate_size": 8,
        "type_vocab_size": 3,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 11,
    },
}
SENTENCES = (
    "A great film. I laughed, I cried, and the ending stayed with me for days.",
    "Dull.",
    "The plot was thin and the acting, apart from Mr. Oldman's, worse; avoid!",
)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers, the parity oracle, is not installed")


def vary(module: nn.Module) -> None:
    """Move every parameter away from 0 and 1, so that each has an effect, and attention is far from uniform."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(mean=float(name.endswith("LayerNorm.weight")), std=0.3)


def make_layer(*, num_heads: int = 4, hidden_size: int = 32) -> BertLayer:
    config = BertConfig(
        vocab_size=9,
        hidden_size=hidden_size,
        num_hidden_layers=1,
        num_attention_heads=num_heads,
        intermediate_size=48,
        hidden_dropout_prob=0.0,
    )
    layer = BertLayer(config)
    vary(layer)
    return layer.eval()


def padded_hidden(hidden_size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return hidden states and mask of three reviews of 9, 5 and 4 pieces."""
    mask = torch.arange(9) < torch.tensor([[9], [5], [4]])
    return torch.randn(3, 9, hidden_size), mask


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_attention_probs_are_those_worked_by_hand():
    query = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    key = torch.tensor([[[[math.log(9.0), 0.0], [0.0, math.log(2.0)]]]])
    # scores: [ln 9, 0] and [0, 2 ln 2], halved: e to them is [3, 1] and [1, 2]
    assert_close(attention_probs(query, key, None, scale=0.5), torch.tensor([[[[3 / 4, 1 / 4], [1 / 3, 2 / 3]]]]))


def test_attention_probs_are_exactly_zero_where_masked_and_rows_sum_to_one():
    query, key = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8)
    mask = torch.tensor([[True] * 6, [True, False, True, False, False, False]])
    probs = attention_probs(query, key, mask, scale=1.0)
    assert (probs[1, ..., ~mask[1]] == 0.0).all()
    assert_close(probs.sum(dim=-1), torch.ones(2, 3, 4))
    two = attention_probs(query[1:], key[1:, :, [0, 2]], None, scale=1.0)
    assert_close(probs[1:, ..., [0, 2]], two)


def test_factors_scale_the_weights_before_they_are_normalized():
    query, key = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8)
    mask = torch.tensor([[True] * 6, [True, False, True, False, False, False]])
    expected = attention_probs(query, key, mask, scale=1.0)
    assert torch.equal(attention_probs(query, key, mask.float(), scale=1.0), expected)
    factors = torch.tensor([[1.0, 0.5, 0.25, 0.0, 1.0, 0.125]]).expand(2, -1)
    scaled = attention_probs(query, key, factors, scale=1.0)
    weighted = attention_probs(query, key, None, scale=1.0) * factors[:, None, None, :]
    assert_close(scaled, weighted / weighted.sum(dim=-1, keepdim=True))
    assert (scaled[..., 3] == 0.0).all()


@pytest.mark.parametrize("positions", [None, [0]])
def test_every_way_to_compute_a_layer_takes_factors(positions):
    layer = make_layer()
    hidden, mask = padded_hidden()
    factors = torch.rand(mask.shape).masked_fill(~mask, 0.0)
    explicit, _ = layer(hidden, factors, return_probs=True)
    other, _ = layer(hidden, factors, query_positions=None if positions is None else torch.tensor(positions))
    assert_close(other, explicit if positions is None else explicit[:, positions], **TOLERANCE)
    assert (explicit - layer(hidden, mask)[0]).abs().max() > 0.01


def assert_parity(model: BertModel, reference: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> None:
    """Compare the hidden states and the attention of every layer on a padded batch, elementwise."""
    assert not mask.all()
    with torch.inference_mode():
        theirs = reference(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, output_attentions=True)
        hidden = model.embeddings(ids)
        assert len(model.encoder.layer) == len(theirs.attentions) > 0
        for index in range(len(model.encoder.layer)):
            assert_close(hidden[mask], theirs.hidden_states[index][mask], **TOLERANCE)
            hidden, [probs] = run_layers(model.encoder.layer[index : index + 1], hidden, mask, return_probs=True)
            assert_close(probs.transpose(1, 2)[mask], theirs.attentions[index].transpose(1, 2)[mask], **TOLERANCE)
        assert_close(hidden[mask], theirs.last_hidden_state[mask], **TOLERANCE)
        assert_close(model(ids, mask)[mask], theirs.last_hidden_state[mask], **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_tiny_random_models_match_transformers(shape, transformers):
    theirs = transformers.BertConfig(vocab_size=50, attn_implementation="eager", **shape)
    reference = transformers.BertModel(theirs, add_pooling_layer=False).eval()
    vary(reference)
    model = BertModel(BertConfig(vocab_size=50, **shape)).eval()
    weights = {name: tensor for name, tensor in reference.state_dict().items() if "position_ids" not in name}
    model.load_state_dict(weights, strict=True)
    _, mask = padded_hidden()
    ids = torch.randint(5, 50, mask.shape)
    assert_parity(model, reference, ids, mask)


def test_minilm_matches_transformers(minilm_folder, transformers):
    reference = transformers.BertModel.from_pretrained(minilm_folder, attn_implementation="eager").eval()
    model = BertModel(read_config(minilm_folder / "config.json")).eval()
    load_strictly(model, read_weights(minilm_folder / "model.safetensors"), source="MiniLM")
    tokenizer = ReviewTokenizer(
        read_vocabulary(minilm_folder / "vocab.txt"), DataSettings(cleaning="none", lowercase=True)
    )
    rows = [torch.tensor(ids) for ids in tokenizer.ids(SENTENCES)]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
    assert_parity(model, reference, ids, mask)


def test_without_layers_the_hidden_states_are_returned_as_they_are():
    hidden, mask = padded_hidden()
    last, attentions = run_layers([], hidden, mask, cls_only=True, return_probs=True)
    assert last is hidden
    assert attentions == []


def test_only_the_last_of_the_layers_is_computed_for_cls_alone():
    layers = [make_layer(), make_layer()]
    hidden, mask = padded_hidden()
    full, full_probs = run_layers(layers, hidden, mask, return_probs=True)
    first, [first_probs] = run_layers(layers, hidden, mask, cls_only=True)
    assert [tuple(probs.shape) for probs in full_probs] == [(3, 4, 9, 9)] * 2
    assert_close(first, full[:, :1], **TOLERANCE)
    assert_close(first_probs, full_probs[1][:, :, :1], **TOLERANCE)


@pytest.mark.parametrize("masked", [True, False])
def test_fused_attention_equals_the_explicit_one(tiny_config, masked):
    model = BertModel(tiny_config).eval()
    vary(model)
    _, mask = padded_hidden()
    ids = torch.randint(5, tiny_config.vocab_size, mask.shape)
    chosen = mask if masked else None
    explicit, _ = run_layers(model.encoder.layer, model.embeddings(ids), chosen, return_probs=True)
    assert_close(model(ids, chosen)[mask], explicit[mask], **TOLERANCE)


@pytest.mark.parametrize("positions", [[0], [0, 3]])
@pytest.mark.parametrize("num_heads", [1, 4])
def test_chosen_query_positions_give_the_full_layers_rows(positions, num_heads):
    layer = make_layer(num_heads=num_heads)
    hidden, mask = padded_hidden()
    full, full_probs = layer(hidden, mask, return_probs=True)
    some, some_probs = layer(hidden, mask, query_positions=torch.tensor(positions))
    assert_close(some, full[:, positions], **TOLERANCE)
    assert_close(some_probs, full_probs[:, :, positions], **TOLERANCE)
    assert (some_probs[1, ..., 5:] == 0.0).all()


class FixedDropout(nn.Module):
    """Drop given weights, so that both ways to compute a layer drop the same."""

    def __init__(self, kept: torch.Tensor) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, probs: torch.Tensor) -> torch.Tensor:
        return probs * self.kept


@pytest.mark.parametrize("dropout", [False, True])
def test_gradients_at_the_first_position_are_the_full_layers(dropout):
    layer = make_layer()
    hidden, mask = padded_hidden()
    B, L, _ = hidden.shape
    N = layer.attention.self.num_heads
    kept = (torch.rand(B, N, L, L) > 0.4) / 0.6
    target = torch.randn(B, 32)
    results = {}
    for name, options, mask_of_dropout in (
        ("full", {"return_probs": True}, kept),
        ("folded", {"query_positions": torch.tensor([0])}, kept[:, :, 0]),
    ):
        layer.zero_grad()
        if dropout:
            layer.attention.self.dropout = FixedDropout(mask_of_dropout)
        inputs = hidden.clone().requires_grad_()
        out, _ = layer(inputs, mask, **options)
        (out[:, 0] * target).sum().backward()
        gradients = {key: parameter.grad.clone() for key, parameter in layer.named_parameters()}
        results[name] = {"output": out[:, 0].detach(), "inputs": inputs.grad, **gradients}
    for key, expected in results["full"].items():
        assert_close(results["folded"][key], expected, **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")
        if key == "attention.self.key.bias":
            assert_close(expected, torch.zeros(32), atol=1e-6, rtol=0)
        else:
            assert expected.abs().max() > 1e-3, key


def test_dropout_of_the_folded_form_keeps_the_expectation():
    layer = make_layer()
    hidden, mask = padded_hidden()
    attention = layer.attention.self
    expected, _ = attention(hidden[:1], mask[:1], torch.tensor([0]), return_probs=False)
    attention.dropout = nn.Dropout(0.3)
    attention.train()
    drawn, _ = attention(hidden[:1].expand(20_000, -1, -1), None, torch.tensor([0]), return_probs=False)
    assert drawn.std(dim=0).min() > 0.01
    assert_close(drawn.mean(dim=0), expected[0], atol=0.05, rtol=0)


def test_heads_that_do_not_divide_the_hidden_size_are_refused():
    with pytest.raises(InputError, match=r"hidden_size 10 .* num_attention_heads 4"):
        BertConfig(vocab_size=9, hidden_size=10, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8)


def test_a_new_model_begins_as_the_published_ones_did(tiny_config):
    model = BertModel(tiny_config)
    word = model.embeddings.word_embeddings.weight
    assert (word[tiny_config.pad_token_id] == 0.0).all()
    assert_close(word[1:].std().item(), tiny_config.initializer_range, rtol=0.1, atol=0)
    assert (model.encoder.layer[2].output.dense.bias == 0.0).all()
    assert (model.encoder.layer[2].output.LayerNorm.weight == 1.0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_that_share_scales_the_rest_and_follows_the_seed(dtype):
    dropout, inputs = Dropout(0.1), torch.ones(333, 301, dtype=dtype, requires_grad=True)
    torch.manual_seed(7)
    dropped = dropout(inputs)
    torch.manual_seed(7)
    assert torch.equal(dropped, dropout(inputs))
    assert not torch.equal(dropped, dropout(inputs))
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.9, dtype=dtype).item()}
    assert (dropped == 0).double().mean().item() == pytest.approx(0.1, abs=4 * (0.09 / inputs.numel()) ** 0.5)
    dropped.sum().backward()
    assert torch.equal(inputs.grad, dropped.detach())
    assert torch.equal(dropout.eval()(inputs), inputs)
