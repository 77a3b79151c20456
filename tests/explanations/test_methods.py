"""The methods' numbers: worked by hand, or found in another way."""

import dataclasses
from itertools import combinations, pairwise, permutations
from math import factorial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.explanations.methods import (
    METHODS,
    ReviewPass,
    attention,
    attention_rollout,
    aumann_shapley,
    integrated_gradients,
    mask_gradient,
    occlusion,
    path_points,
    rollout,
    weigh_gradients,
)
from bertlens.explanations.words import Word, find_words
from bertlens.model.bert import run_layers
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.pretrained import load_strictly, read_config, read_weights

# first layer: the mean of the heads is [[0, .5, .5], [.5, .5, 0], [0, 0, 1]],
# and half of it with half the identity is [[.5, .25, .25], [.25, .75, 0], [0, 0, 1]]
FIRST = [[[0, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [0, 0, 1]]]
# second layer: the same comes to [[.5, .5, 0], [0, .5, .5], [.5, 0, .5]]
SECOND = [[[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def read(classifier: ReviewClassifier, tokenizer: ReviewTokenizer, text: str) -> ReviewPass:
    """What the classifier computes for one text, alone and without padding."""
    [encoding] = tokenizer.encode([text])
    ids = torch.tensor(encoding.ids)
    with torch.no_grad():
        hidden, _ = classifier.states_to_read(ids[None])
        logits, probs = classifier.read_states(hidden)

    def run(reviews: Any) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([classifier(torch.tensor([ids])) for ids in reviews])

    return ReviewPass(
        classifier=classifier,
        tokenizer=tokenizer,
        words=find_words(encoding.tokens, encoding.offsets, text),
        input_ids=ids,
        hidden=hidden[0],
        attentions=[probs[0].numpy()],
        every_layer=False,
        predicted=int(logits.argmax()),
        contrast=int(logits.argsort()[0, -2]),
        run=run,
    )


@pytest.fixture
def tokenizer(tiny_vocabulary) -> ReviewTokenizer:
    return ReviewTokenizer(tiny_vocabulary, DataSettings(max_length=48, lowercase=True))


@pytest.fixture
def classifier(tiny_config) -> ReviewClassifier:
    """A classifier whose attention is far from uniform, and whose logits differ."""
    classifier = ReviewClassifier(tiny_config, num_classes=3).eval()
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            parameter.normal_(mean=float(name.endswith("LayerNorm.weight")), std=0.3)
        classifier.head.weight.mul_(4)
    return classifier


@pytest.fixture
def review(classifier, tokenizer) -> ReviewPass:
    """Five pieces after [CLS]: a great dull plot, and [SEP]."""
    review = read(classifier, tokenizer, "a great dull plot")
    assert review.num_pieces == 6
    return review


def difference_of(review: ReviewPass) -> float:
    with torch.no_grad():
        return review.difference(review.classifier.read_states(review.hidden[None])[0][0]).item()


def worths_of(review: ReviewPass, factors: torch.Tensor) -> torch.Tensor:
    """factors [points, players] to worths [points], as doubles."""
    with torch.no_grad():
        return review.worth(torch.cat([torch.ones(len(factors), 1), factors], dim=1)).double()


def coalitions_of(review: ReviewPass) -> dict[frozenset[int], float]:
    """Return the worth of each of the 32 coalitions of five players."""
    all_ = [frozenset(chosen) for size in range(6) for chosen in combinations(range(5), size)]
    members = torch.tensor([[float(player in chosen) for player in range(5)] for chosen in all_])
    return dict(zip(all_, worths_of(review, members).tolist(), strict=True))


def test_all_orders_of_five_players_equal_the_formula_over_coalitions(review) -> None:
    worth, players = coalitions_of(review), range(5)
    orders = list(permutations(players))
    gains = np.zeros(5)
    for order in orders:
        for size, player in enumerate(order):
            gains[player] += worth[frozenset(order[: size + 1])] - worth[frozenset(order[:size])]
    formula = [
        sum(
            factorial(len(chosen)) * factorial(4 - len(chosen)) / factorial(5) * (worth[chosen | {player}] - value)
            for chosen, value in worth.items()
            if player not in chosen
        )
        for player in players
    ]
    assert len(orders) == 120
    np.testing.assert_allclose(gains / 120, formula, atol=1e-6)
    assert np.ptp(formula) > 0.1
    # the game is not additive, so the two values are near to each other and not the same
    assert np.corrcoef(formula, aumann_shapley(review)[0].values[1:])[0, 1] > 0.9


def test_a_coalitions_worth_is_a_forward_pass_with_only_it_left_in_the_last_layers_mask(review) -> None:
    bert = review.classifier.bert
    for chosen, worth in coalitions_of(review).items():
        mask = torch.tensor([[True, *(player in chosen for player in range(5))]])
        with torch.no_grad():
            hidden, _ = run_layers(bert.encoder.layer[:-1], bert.embeddings(review.input_ids[None]))
            hidden, _ = run_layers(bert.encoder.layer[-1:], hidden, mask)
            logits = review.classifier.head(hidden[0, 0])
        assert worth == pytest.approx(review.difference(logits).item(), abs=1e-5)


def sampled_path(worth: Any, num_players: int, *, num_parts: int, num_orders: int) -> np.ndarray:
    """Return the Shapley values of a game in which each player is cut into parts, from random orders of the parts.

    With ever smaller parts they come to the Aumann-Shapley values.
    """
    random, gains = np.random.default_rng(0), np.zeros(num_players)
    parts = np.repeat(np.arange(num_players), num_parts)
    for _ in range(num_orders):
        order = random.permutation(parts)
        steps = np.cumsum(np.eye(num_players)[order], axis=0) / num_parts
        worths = worth(torch.tensor(np.vstack([np.zeros(num_players), steps]), dtype=torch.float32)).numpy()
        np.add.at(gains, order, np.diff(worths))
    return gains / num_orders


def test_the_path_integral_of_an_additive_game_is_the_sampled_paths() -> None:
    shares = torch.tensor([0.5, -1.25, 0.0, 3.0, 0.125], dtype=torch.float64)

    def worth(factors: torch.Tensor) -> torch.Tensor:
        return 0.75 + factors.double() @ shares

    sampled = sampled_path(worth, 5, num_parts=4, num_orders=10)
    np.testing.assert_allclose(sampled, shares, atol=1e-6)
    np.testing.assert_allclose(weigh_gradients(worth, 5, *path_points(16)), sampled, atol=1e-6)


def test_the_path_integral_of_a_review_is_the_limit_of_the_sampled_path(review) -> None:
    limit = sampled_path(lambda factors: worths_of(review, factors), 5, num_parts=50, num_orders=100)
    found = aumann_shapley(review)[0].values
    assert found[0] == 0.0
    np.testing.assert_allclose(found[1:], limit, atol=0.03 * np.ptp(limit))


TEXTS = (
    "great",
    "it was a great and moving story, and the cast was superb.",
    "a dull film.",
    "the plot was weak and the actor awful, but the music is good",
)


def error_of_sum(review: ReviewPass, num_points: int) -> float:
    """Return by how much the path integral misses the worth of all minus the worth of none."""
    values = weigh_gradients(review.worth, len(review.hidden), *path_points(num_points))
    [none] = worths_of(review, torch.zeros(1, len(review.hidden) - 1)).tolist()
    return abs(values.sum(dtype=np.float64) + none - difference_of(review))


@pytest.mark.parametrize(("num_points", "limit"), [(16, 1e-3), (32, 1e-4)])
def test_all_numbers_and_the_value_of_nothing_add_up(classifier, tokenizer, num_points, limit) -> None:
    errors = []
    for text in TEXTS:
        errors.append(error_of_sum(read(classifier, tokenizer, text), num_points))
    assert np.median(errors) < limit


@pytest.mark.slow
def test_all_numbers_and_the_value_of_nothing_add_up_on_real_reviews(minilm_folder, imdb_folder) -> None:
    """With a last layer that was trained, [CLS] pays itself little, and the path begins steeply."""
    config = read_config(minilm_folder / "config.json")
    classifier = ReviewClassifier(config, num_classes=2).eval()
    load_strictly(classifier.bert, read_weights(minilm_folder / "model.safetensors"), source="MiniLM")
    vocabulary = (minilm_folder / "vocab.txt").read_text(encoding="utf-8").split()
    tokenizer = ReviewTokenizer(vocabulary, DataSettings(lowercase=True))
    table = pq.read_table(imdb_folder / "train.parquet").take(np.arange(0, 25_000, 60))
    reviews = [read(classifier, tokenizer, text) for text in table["text"].to_pylist()]
    labels = torch.tensor(table["label"].to_pylist())
    optimizer = torch.optim.Adam([each for each in classifier.parameters() if each.requires_grad], lr=5e-4)
    padded = torch.nn.utils.rnn.pad_sequence([review.hidden for review in reviews], batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor([[len(review.hidden)] for review in reviews])
    for _ in range(4):
        for batch in torch.randperm(len(reviews)).split(16):
            optimizer.zero_grad()
            logits, _ = classifier.read_states(padded[batch], mask[batch])
            torch.nn.functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
    for num_points, limit in [(16, 1e-3), (32, 1e-4)]:
        assert np.median([error_of_sum(review, num_points) for review in reviews[::5]]) < limit
    for review in reviews[::5]:
        [row] = aumann_shapley(review)
        assert row.values.sum(dtype=np.float64) + row.nothing == pytest.approx(difference_of(review), abs=0.005)


@pytest.mark.parametrize(("tolerance", "expected"), [(None, [16]), (-1.0, [16, 32, 64])])
def test_where_sixteen_points_are_too_few_there_are_more(review, monkeypatch, tolerance, expected) -> None:
    nums, whole = [], path_points

    def record(num_points: int) -> Any:
        nums.append(num_points)
        return whole(num_points)

    monkeypatch.setattr("bertlens.explanations.methods.path_points", record)
    if tolerance is not None:
        monkeypatch.setattr("bertlens.explanations.methods.TOLERANCE", tolerance)
    [row] = aumann_shapley(review)
    assert nums == expected
    assert row.values.sum() + row.nothing == pytest.approx(difference_of(review), abs=1e-3)


def test_the_value_of_nothing_is_what_cls_says_when_it_reads_only_itself(review) -> None:
    [row] = aumann_shapley(review)
    only_cls = torch.tensor([[True] + [False] * 5])
    with torch.no_grad():
        logits, _ = review.classifier.read_states(review.hidden[None], only_cls)
    assert row.nothing == pytest.approx(review.difference(logits[0]).item(), abs=1e-5)
    np.testing.assert_allclose(row.nothing_probabilities, logits[0].softmax(dim=0), atol=1e-6)


def test_another_contrast_changes_the_numbers(review) -> None:
    [first] = aumann_shapley(review)
    other = review._replace(contrast=3 - review.predicted - review.contrast)
    [second] = aumann_shapley(other)
    assert second.values.sum() + second.nothing == pytest.approx(difference_of(other), abs=1e-3)
    assert np.abs(first.values - second.values).max() > 0.1


def test_the_mask_gradient_is_the_slope_at_full_attention(review) -> None:
    [row] = mask_gradient(review)
    step = 0.01
    slopes = []
    for player in range(5):
        ends = torch.ones(2, 5)
        ends[:, player] += torch.tensor([-step, step])
        slopes.append(worths_of(review, ends).diff().item() / (2 * step))
    assert row.values[0] == 0.0
    np.testing.assert_allclose(row.values[1:], slopes, atol=1e-3)


def test_integrated_gradients_lead_from_masks_to_the_review(review, monkeypatch) -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    rows_at_once = []
    whole = review.classifier.states_to_read

    def record(inputs: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        rows_at_once.append(len(inputs))
        return whole(inputs, *arguments, **options)

    monkeypatch.setattr(review.classifier, "states_to_read", record)
    [row] = integrated_gradients(review)
    assert max(rows_at_once) <= 8
    ids = review.input_ids.tolist()
    masked = [ids[0], *[review.tokenizer.mask_id] * 4, ids[-1]]
    ends = review.difference(review.run([ids, masked]))
    assert row.values.sum() == pytest.approx((ends[0] - ends[1]).item(), abs=0.05)
    assert row.values[0] == row.values[-1] == 0.0


def test_a_vocabulary_without_mask_is_named(review, tiny_vocabulary) -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    vocabulary = ["[NOT]" if token == "[MASK]" else token for token in tiny_vocabulary]
    tokenizer = ReviewTokenizer(vocabulary, DataSettings(lowercase=True))
    with pytest.raises(Exception, match=r"^the model's vocab\.txt has no \[MASK\]"):
        integrated_gradients(review._replace(tokenizer=tokenizer))


def test_occlusion_is_what_a_forward_pass_without_the_word_says(classifier, tokenizer) -> None:
    review = read(classifier, tokenizer, "a greatest plot")  # [CLS] a great ##e ##s ##t plot [SEP]
    assert review.words[1] == Word(2, 6, 2, 10)
    [row] = occlusion(review)
    ids = review.input_ids
    with torch.no_grad():
        without = classifier(torch.cat([ids[:2], ids[6:]])[None])[0]
    np.testing.assert_allclose(
        row.values[2:6], (difference_of(review) - review.difference(without).item()) / 4, atol=1e-5
    )
    assert row.values[0] == row.values[-1] == 0.0


@pytest.mark.parametrize("trainable_layers", [0, 1, 3, "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_depth_and_precision_of_the_frozen_layers(tiny_config, tokenizer, trainable_layers, dtype) -> None:
    classifier = ReviewClassifier(
        tiny_config, num_classes=2, trainable_layers=trainable_layers, frozen_dtype=dtype
    ).eval()
    torch.nn.init.normal_(classifier.head.weight)
    review = read(classifier, tokenizer, TEXTS[1])
    # without a trained layer, the last one rounds its sums to 8 bits
    rounding = 0.05 if trainable_layers == 0 and dtype == torch.bfloat16 else 1e-3
    [row] = aumann_shapley(review)
    assert row.values.sum() + row.nothing == pytest.approx(difference_of(review), abs=rounding)
    assert all(parameter.grad is None for parameter in classifier.parameters())
    for name in ("mask_gradient", "occlusion"):
        assert np.isfinite(METHODS[name](review)[0].values).all()


@pytest.mark.parametrize("text", ["   ", "great"])
def test_a_text_of_one_piece_and_of_none(classifier, tokenizer, text) -> None:
    review = read(classifier, tokenizer, text)
    for name in METHODS:
        if name == "integrated_gradients":
            pytest.importorskip("captum", reason="captum is not installed")
        if name != "rollout":
            assert np.isfinite(METHODS[name](review)[0].values).all()
    [row] = aumann_shapley(review)
    assert row.values.sum() + row.nothing == pytest.approx(difference_of(review), abs=1e-3)


def recorded(*layers: Any, every_layer: bool) -> ReviewPass:
    """A review of which only attention is known."""
    nothing: Any = None
    return ReviewPass(
        classifier=SimpleNamespace(num_layers=2),  # type: ignore[arg-type]
        tokenizer=nothing,
        words=[],
        input_ids=torch.arange(3),
        hidden=torch.zeros(3, 4),
        attentions=[np.array(layer, dtype=np.float32) for layer in layers],
        every_layer=every_layer,
        predicted=1,
        contrast=0,
        run=nothing,
    )


def test_rollout_of_two_layers_and_three_tokens_worked_by_hand() -> None:
    reached = attention_rollout(np.array([FIRST, SECOND], dtype=np.float32))
    # second times first; the first row: .5 * [.5, .25, .25] + .5 * [.25, .75, 0]
    np.testing.assert_allclose(reached, [[0.375, 0.5, 0.125], [0.125, 0.375, 0.5], [0.25, 0.125, 0.625]], atol=1e-7)


def test_rollout_normalizes_rows_that_do_not_sum_to_one() -> None:
    # of half the attention, half is .25; with half the identity the rows sum to .75: [[.5, .25], [.25, .5]] / .75
    np.testing.assert_allclose(attention_rollout(np.array([[[[0, 0.5], [0.5, 0]]]])), [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])


def test_attention_of_the_last_layer() -> None:
    rows = attention(recorded([[[0.5, 0.25, 0.25]], [[0.1, 0.2, 0.7]]], every_layer=False))
    assert {row.method.name for row in rows} == {"Attention, layer 2"}
    assert [row.name for row in rows] == ["Mean of the heads", "Head 1", "Head 2"]
    expected = [[0.3, 0.225, 0.475], [0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]
    np.testing.assert_allclose([row.values for row in rows], expected, atol=1e-7)
    assert all(row.method.summed and not row.method.signed for row in rows)


@pytest.mark.parametrize("every_layer", [True, False])
def test_attention_of_every_layer_begins_with_the_last(every_layer) -> None:
    rows = attention(recorded(FIRST, SECOND, every_layer=every_layer))
    assert [row.method.name for row in rows[::3]] == ["Attention, layer 2", "Attention, layer 1"][: 1 + every_layer]
    np.testing.assert_array_equal(rows[1].values, SECOND[0][0])
    if every_layer:
        np.testing.assert_array_equal(rows[5].values, FIRST[1][0])


def test_rollout_of_the_recorded_layers() -> None:
    [row] = rollout(recorded(FIRST, SECOND, every_layer=False))
    np.testing.assert_allclose(row.values, [0.375, 0.5, 0.125], atol=1e-7)


def test_each_method_says_what_its_numbers_mean(review) -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    with torch.no_grad():
        bert = review.classifier.bert
        _, probs = run_layers(bert.encoder.layer, bert.embeddings(review.input_ids[None]), return_probs=True)
    whole = review._replace(attentions=[layer[0].numpy() for layer in probs], every_layer=True)
    methods = []
    for name in METHODS:
        for row in METHODS[name](whole):
            methods.append(row.method)
            assert row.method.sentence.endswith(".")
            assert (row.values.shape, row.values.dtype) == ((6,), np.float32)
            assert row.values.base is None or row.values.base.size <= 4 * 6  # no view of a whole map
            assert (row.nothing is None) == (name != "aumann_shapley")
    names = [method.name for method, following in pairwise([*methods, None]) if method != following]
    assert len(set(names)) == len(names) == 3 + 5, "a page's menu has each of three layers and five other methods once"
    assert all(isinstance(value, str | bool) for method in methods for value in dataclasses.asdict(method).values())
