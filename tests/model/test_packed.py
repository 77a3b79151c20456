"""Frozen products are those of `F.linear` but for rounding, follow their weights, and leave gradients alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bertlens.model.packed import linear, linear_each


def make_layer(inputs: int, outputs: int, *, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs).bfloat16().requires_grad_(False)


@pytest.mark.parametrize("gelu", [False, True])
def test_a_product_is_nearer_to_the_exact_one_than_one_rounded_in_between(gelu):
    layer, states = make_layer(384, 1536), torch.randn(1, 2000, 384).bfloat16()
    exact = F.linear(states.double(), layer.weight.double(), layer.bias.double())
    rounded = layer(states)
    exact, rounded = (F.gelu(exact), F.gelu(rounded)) if gelu else (exact, rounded)
    found = linear(layer, states, gelu=gelu)
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().mean() <= (rounded - exact).abs().mean()
    assert torch.allclose(found.double(), exact, rtol=2**-7, atol=2**-9)


def test_one_product_for_several_layers_is_that_of_each():
    layers = [make_layer(384, 384, seed=seed) for seed in range(3)]
    states = torch.randn(2, 1000, 384).bfloat16()
    for layer, found in zip(layers, linear_each(layers, states), strict=True):
        assert torch.equal(found, linear(layer, states))


def test_changed_weights_count():
    layer, states = make_layer(64, 64), torch.randn(1, 1000, 64).bfloat16()
    before = linear(layer, states)
    layer.weight.mul_(2)
    changed = linear(layer, states)
    layer.weight.data = layer.weight / 2
    assert not torch.equal(before, changed)
    assert torch.equal(before, linear(layer, states))


@pytest.mark.parametrize("is_trained", [False, True])
def test_gradients_reach_inputs_and_trained_weights(is_trained):
    layer, states = make_layer(64, 64).requires_grad_(is_trained), torch.randn(1, 1000, 64).bfloat16()
    states.requires_grad_(not is_trained)
    linear(layer, states, gelu=True).sum().backward()
    sum(each.sum() for each in linear_each([layer], states)).backward()
    assert (layer.weight if is_trained else states).grad.abs().sum() > 0
