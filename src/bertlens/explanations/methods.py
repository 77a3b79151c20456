"""The methods: each turns what the classifier computed for one review into rows of numbers, one per word piece.

A method is a function from `ReviewPass` to a list of `MethodRow`, listed in `METHODS`. A report shows rows and knows
nothing else about a method. The first row is the one that the terminal, the summary and the page show first.

Shapes: N heads, L word pieces, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bertlens.model.classifier import ReviewClassifier


@dataclass(frozen=True, kw_only=True)
class Method:
    """What all rows of a method have in common."""

    name: str
    sentence: str
    """What a number means."""
    signed: bool
    """Whether a negative number means "against the prediction"."""
    summed: bool
    """Whether the numbers of a row add up to a total, so that a number is a share of it."""
    number: str = "weight"  # what a number is called


class MethodRow(NamedTuple):
    """One number per word piece.

    For `aumann_shapley`, values.sum() + padding + nothing is the logit of the prediction minus that of the contrast.
    """

    method: Method
    name: str
    values: NDArray[np.float32]  # [L]
    nothing: float | None = None  # that difference when [CLS] reads nothing in the last layer
    nothing_probabilities: NDArray[np.float32] | None = None  # [C]: the prediction it comes from
    padding: float = 0.0  # what padding adds, where the model attends to it


class ReviewPass(NamedTuple):
    """What the classifier computed for one review."""

    classifier: ReviewClassifier
    input_ids: Tensor  # [L]
    probabilities: NDArray[np.float32]  # [C]
    # of the last layer alone, for the query [CLS]: [N, 1, L]; or of every layer, from the bottom up: [N, L, L]
    attentions: list[NDArray[np.float32]]
    every_layer: bool


def attention(review: ReviewPass) -> list[MethodRow]:
    """Return what [CLS] pays each word piece, from the last recorded layer down."""
    numbers = range(review.classifier.num_layers, 0, -1)
    layers = zip(numbers, reversed(review.attentions), strict=False)
    return [row for number, heads in layers for row in attention_rows(number, heads[:, 0])]


def attention_rows(layer: int, heads: NDArray[np.float32]) -> list[MethodRow]:
    """Return the rows of one layer: the mean of the heads, then each head. heads [N, L]: what each pays."""
    method = Method(
        name=f"Attention, layer {layer}",
        sentence="Attention: the share of its attention that [CLS], the position from which the class is predicted, "
        "pays to a word piece. It says where the model looked, not why it decided: a word with a large weight may have "
        "no influence on the prediction (Jain & Wallace 2019; Wiegreffe & Pinter 2019).",
        signed=False,
        summed=True,
        number="attention weight",
    )
    heads = heads.copy()  # a view would keep the whole map in memory
    names = [f"Head {index}" for index in range(1, len(heads) + 1)]
    named = zip(["Mean of the heads", *names], [heads.mean(axis=0), *heads], strict=True)
    return [MethodRow(method, name, values) for name, values in named]


def rollout(review: ReviewPass) -> list[MethodRow]:
    """Return how much of each word piece reaches [CLS] through all layers; empty unless every layer is recorded."""
    if not review.every_layer:
        return []
    method = Method(
        name="Rollout of all layers",
        sentence="Rollout: the attention of all layers multiplied, with half of each layer's weight on the position "
        "itself; an estimate of how much of a word piece reaches [CLS] (Abnar & Zuidema 2020).",
        signed=False,
        summed=True,
    )
    return [MethodRow(method, "Rollout", attention_rollout(np.stack(review.attentions))[0])]


METHODS: tuple[Callable[[ReviewPass], list[MethodRow]], ...] = (attention, rollout)


def attention_rollout(attentions: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return how much of each position's input reaches each position's output: [layers, N, L, L] to [L, L].

    Abnar & Zuidema 2020, section 3: take the mean over heads, add the identity for the residual connection, normalize
    the rows, and multiply the layers from the bottom up. Row 0 is what reaches [CLS].
    """
    identity = np.eye(attentions.shape[-1], dtype=attentions.dtype)
    rollout = identity
    for weights in attentions.mean(axis=1):
        mixed = 0.5 * weights + 0.5 * identity
        rollout = mixed / mixed.sum(axis=-1, keepdims=True) @ rollout
    return rollout
