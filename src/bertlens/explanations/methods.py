"""The methods: each turns what the classifier computed for one review into rows of numbers, one per word piece.

A method is a function from `ReviewPass` to a list of `MethodRow`, listed in `METHODS`. A report shows rows and knows
nothing else about a method. The first row is the one that the terminal, the summary and the page show first.

The *difference* is the logit of the prediction minus that of the contrast, the class that it is set against.

Shapes: N heads, L word pieces, P positions (L, and the padding if the model attends to it), H hidden size, C classes.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError
from bertlens.explanations.words import Word
from bertlens.model.classifier import ReviewClassifier

# of the path integral: 16 points, for whose sum the median error is below 1e-3; twice as many where it is off by more
# than a reader of two decimals would see
NUM_POINTS, MAX_POINTS, TOLERANCE = 16, 64, 0.005
IG_STEPS, IG_ROWS = 50, 8  # steps of integrated gradients, and how many of them run at once
DIFFERENCE = "the logit of the prediction minus that of the contrast"


@dataclass(frozen=True, kw_only=True)
class Method:
    """What all rows of a method have in common."""

    name: str
    sentence: str
    """What a number means."""
    signed: bool = True
    """Whether a negative number means "against the prediction"."""
    summed: bool = False
    """Whether the numbers of a row add up to a total, so that a number is a share of it."""
    number: str = "weight"  # what a number is called


class MethodRow(NamedTuple):
    """One number per word piece.

    For `aumann_shapley`, values.sum() + padding + nothing is the difference.
    """

    method: Method
    name: str
    values: NDArray[np.float32]  # [L]
    nothing: float | None = None  # the difference when [CLS] reads nothing in the last layer
    nothing_probabilities: NDArray[np.float32] | None = None  # [C]: the prediction it comes from
    padding: float = 0.0  # what padding adds, where the model attends to it


class ReviewPass(NamedTuple):
    """What the classifier computed for one review."""

    classifier: ReviewClassifier
    tokenizer: ReviewTokenizer
    words: list[Word]
    input_ids: Tensor  # [P]
    hidden: Tensor  # [P, H], below the top layer
    # of the last layer alone, for the query [CLS]: [N, 1, L]; or of every layer, from the bottom up: [N, L, L]
    attentions: list[NDArray[np.float32]]
    every_layer: bool  # whether `attention` shows every layer that is there
    predicted: int
    contrast: int
    run: Callable[[Sequence[Sequence[int]]], Tensor]  # ids of B reviews to logits [B, C]

    @property
    def num_pieces(self) -> int:
        return int(self.attentions[-1].shape[-1])

    def difference(self, logits: Tensor) -> Tensor:
        """Map logits [..., C] to the prediction's minus the contrast's [...]."""
        return logits[..., self.predicted] - logits[..., self.contrast]

    def worth(self, factors: Tensor) -> Tensor:
        """Map factors [points, P] on the weights of the last layer's keys to the difference [points]; [CLS] has 1."""
        factors = torch.cat([torch.ones_like(factors[:, :1]), factors[:, 1:]], dim=1).to(self.hidden.device)
        hidden = self.hidden.expand(len(factors), -1, -1)
        return self.difference(self.classifier.read_states(hidden, factors)[0])

    def row(self, method: Method, values: Tensor | NDArray[np.floating[Any]]) -> MethodRow:
        """Return the row of a method that gives one number to each position [P]."""
        values = np.asarray(values, dtype=np.float32)
        padding = float(values[self.num_pieces :].sum())
        return MethodRow(method, method.name, values[: self.num_pieces].copy(), padding=padding)


def aumann_shapley(review: ReviewPass) -> list[MethodRow]:
    """Return what each piece adds when [CLS] reads it in the last layer: the Aumann-Shapley values of a game.

    Players are the positions other than [CLS], as keys of the last layer's attention for the query [CLS]. The worth of
    a coalition is the difference when attention is normalized over the coalition and [CLS]. Aumann & Shapley 1974.
    Near to it: Shapley values by masked attention (Covert, Kim & Lee 2023), attention as a game (Ethayarajh & Jurafsky
    2021), gradients along a path of attention weights (Hao et al. 2021, ATTATTR), values set to zero (Mohebbi et al.
    2023), additive surrogates (Leemann et al. 2024, SLALOM).
    """
    method = Method(
        name="Contribution to the prediction",
        sentence="Contribution (Aumann-Shapley): what [CLS], the position from which the class is predicted, gains by "
        f"reading a word piece in the last layer, in {DIFFERENCE}. All numbers and the value of nothing read add up to "
        "that difference. A piece stands for its position after the layers below, which have mixed in other words.",
        summed=True,
        number="contribution",
    )
    with torch.no_grad():
        none, whole = (
            review.classifier.read_states(hidden[None])[0][0] for hidden in (review.hidden[:1], review.hidden)
        )
    nothing, num_points, error = review.difference(none).item(), NUM_POINTS // 2, math.inf
    while error > TOLERANCE and num_points < MAX_POINTS:
        num_points *= 2
        values = weigh_gradients(review.worth, len(review.hidden), *path_points(num_points))
        error = abs(values.sum(dtype=np.float64) + nothing - review.difference(whole).item())
    probabilities = none.float().softmax(dim=0).cpu().numpy()
    return [review.row(method, values)._replace(nothing=nothing, nothing_probabilities=probabilities)]


def mask_gradient(review: ReviewPass) -> list[MethodRow]:
    """Return the gradient of the difference by a factor on each key's weight in the last layer, where all are 1."""
    method = Method(
        name="Gradient by the attention mask",
        sentence=f"Gradient: how fast {DIFFERENCE} rises with the weight that [CLS] gives a word piece in the last "
        "layer. It holds for small changes only; the numbers add up to nothing known.",
        number="gradient",
    )
    return [review.row(method, weigh_gradients(review.worth, len(review.hidden), np.ones(1), np.ones(1)))]


def path_points(num_points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return factors from 0 to 1 and their weights, which integrate over the factor.

    Gauss-Legendre points in u, where the factor is u ** 4: the difference changes fastest where little is read, because
    [CLS] pays itself so little that a small part of all other weights outweighs it.
    """
    roots, weights = np.polynomial.legendre.leggauss(num_points)
    points = (roots + 1) / 2  # from [-1, 1] to [0, 1], which halves the weights
    return points**4, 2 * points**3 * weights


def weigh_gradients(
    worth: Callable[[Tensor], Tensor], num_players: int, factors: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return each player's weighted sum of gradients [players] at points where all players take part by one factor.

    worth: the players' factors [points, players] to worths [points], without effects of one point on another.
    """
    with torch.enable_grad():
        points = torch.tensor(factors, dtype=torch.float32)[:, None].repeat(1, num_players).requires_grad_()
        worths = worth(points)
        [gradients] = torch.autograd.grad(worths, points, torch.tensor(weights).to(worths))
    summed: NDArray[np.float32] = gradients.sum(dim=0).numpy()
    return summed


def integrated_gradients(review: ReviewPass) -> list[MethodRow]:
    """Return integrated gradients from [MASK] in place of every word piece, by captum (Sundararajan et al. 2017).

    The path is that of the embeddings, positions included; a piece's number is the sum over their dimensions.
    """
    from captum.attr import IntegratedGradients

    method = Method(
        name="Integrated gradients",
        sentence=f"Integrated gradients: what a word piece adds to {DIFFERENCE} on the way from a text of [MASK] alone "
        "to the review, by gradients through all layers (Sundararajan, Taly & Yan 2017). The numbers add up to about "
        "the difference between the two.",
        summed=True,
        number="contribution",
    )
    classifier, masked = review.classifier, review.input_ids.clone()
    masked[1 : review.num_pieces - 1] = review.tokenizer.mask_id
    embedded = classifier.bert.embeddings(torch.stack([review.input_ids, masked])).detach()

    def difference(inputs: Tensor) -> Tensor:
        hidden, _ = classifier.states_to_read(inputs.to(embedded.dtype))
        return review.difference(classifier.read_states(hidden)[0])

    text, baseline = embedded.float().split(1)
    path = IntegratedGradients(difference)
    values = path.attribute(text, baselines=baseline, n_steps=IG_STEPS, internal_batch_size=IG_ROWS)
    return [review.row(method, values[0].sum(dim=-1).detach().cpu())]


def occlusion(review: ReviewPass) -> list[MethodRow]:
    """Return how much the difference falls without each word: a forward pass per word, its fall over its pieces."""
    method = Method(
        name="Occlusion",
        sentence=f"Occlusion: how much {DIFFERENCE} falls when a word is deleted from the text. It takes a forward "
        "pass for each word, and it optimizes what a test by deletion measures: a yardstick for the other methods.",
        number="effect",
    )
    ids = review.input_ids[: review.num_pieces].tolist()
    without = [ids[: word.first] + ids[word.last :] for word in review.words]
    whole, *others = review.difference(review.run([ids, *without])).tolist()
    values = np.zeros(len(ids))
    for word, other in zip(review.words, others, strict=True):
        values[word.first : word.last] = (whole - other) / (word.last - word.first)
    return [review.row(method, values)]


def attention(review: ReviewPass) -> list[MethodRow]:
    """Return what [CLS] pays each word piece, from the last recorded layer down."""
    numbers = range(review.classifier.num_layers, 0, -1)
    layers = zip(numbers, reversed(review.attentions if review.every_layer else review.attentions[-1:]), strict=False)
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
    """Return how much of each word piece reaches [CLS] through all layers, whose attention must be recorded."""
    method = Method(
        name="Rollout of all layers",
        sentence="Rollout: the attention of all layers multiplied, with half of each layer's weight on the position "
        "itself; an estimate of how much of a word piece reaches [CLS] (Abnar & Zuidema 2020).",
        signed=False,
        summed=True,
    )
    return [MethodRow(method, "Rollout", attention_rollout(np.stack(review.attentions))[0].copy())]


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


METHODS: dict[str, Callable[[ReviewPass], list[MethodRow]]] = {
    method.__name__: method
    for method in (aumann_shapley, attention, rollout, mask_gradient, integrated_gradients, occlusion)
}


def check_methods(names: Sequence[str]) -> None:
    """Raise `InputError` for no name, a name that is not in `METHODS`, or a method whose package is missing."""
    for name in names or [""]:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"methods={name}: no such method, only {', '.join(METHODS)}{hint}")
    if "integrated_gradients" in names and find_spec("captum") is None:
        raise InputError('methods=integrated_gradients: needs captum; pip install "bertlens[explain]"')
