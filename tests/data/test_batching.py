import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bertlens.data.batching import EvalSampler, TokenRows, TrainSampler, packed_batches, shuffled_batches
from bertlens.data.tokenizer import WordPieces
from bertlens.errors import InputError

SIZES = [3, 7, 8, 9, 63, 64, 65, 97, 100, 1_000]


def random_lengths(num_reviews: int) -> np.ndarray:
    return np.random.default_rng(0).integers(5, 257, num_reviews)


def epoch_of(num_reviews: int, **changes) -> list[list[int]]:
    settings = {"batch_size": 8, "num_ranks": 1, "similar_length": True, "seed": 1, "epoch": 0} | changes
    return [batch.tolist() for batch in shuffled_batches(random_lengths(num_reviews), **settings)]


def sampler_of(num_reviews: int, **changes) -> TrainSampler:
    return TrainSampler(random_lengths(num_reviews), **({"batch_size": 8, "similar_length": True, "seed": 1} | changes))


def evaluation_of(num_reviews: int, **changes) -> EvalSampler:
    return EvalSampler(random_lengths(num_reviews), **({"num_tokens": 2_000} | changes))


def flat(batches) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("similar_length", [True, False])
@pytest.mark.parametrize("num_reviews", SIZES)
def test_one_process_gets_each_review_once_in_full_batches(num_reviews, similar_length):
    batches = epoch_of(num_reviews, similar_length=similar_length)
    assert sorted(flat(batches)) == list(range(num_reviews))
    rest = [num_reviews % 8] if num_reviews % 8 else []
    assert sorted(len(batch) for batch in batches) == rest + [8] * (num_reviews // 8)


@pytest.mark.parametrize("similar_length", [True, False])
@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}, {"seed": 0, "epoch": 1}], ids=str)
def test_an_epoch_is_drawn_from_seed_and_number(similar_length, change):
    first = epoch_of(1_000, similar_length=similar_length)
    assert epoch_of(1_000, similar_length=similar_length) == first
    other = epoch_of(1_000, similar_length=similar_length, **change)
    common = {frozenset(batch) for batch in first} & {frozenset(batch) for batch in other}
    assert len(common) < 0.1 * len(first)  # grouped anew, and not merely handed out in another order


def padding_share(batches, lengths) -> float:
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    return 1 - lengths.sum() / padded


def test_similar_lengths_leave_little_padding():
    lengths = random_lengths(4_000)
    grouped, drawn = (padding_share(epoch_of(4_000, similar_length=one), lengths) for one in (True, False))
    assert grouped < 0.06  # buckets of 16 batches: a little more padding than larger ones, and better mixed batches
    assert drawn > 0.3


def test_grouping_by_length_does_not_order_the_epoch_by_length():
    lengths = random_lengths(4_000)
    longest = [lengths[batch].max() for batch in epoch_of(4_000)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.15


@pytest.mark.parametrize("similar_length", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("num_reviews", SIZES)
def test_ranks_share_an_epoch_without_overlap_in_equally_many_steps(num_reviews, num_ranks, batch_size, similar_length):
    settings = {"batch_size": batch_size, "similar_length": similar_length, "num_ranks": num_ranks}
    samplers = [sampler_of(num_reviews, rank=rank, **settings) for rank in range(num_ranks)]
    batches = [list(sampler) for sampler in samplers]
    assert sorted(flat(flat(batches))) == list(range(num_reviews))
    steps = [[len(batch) for batch in step] for step in zip(*batches, strict=True)]
    assert {len(sampler) for sampler in samplers} == {len(steps)}
    for sizes in steps:
        assert min(sizes) > 0  # a rank without a review would leave the others waiting
        assert max(sizes) - min(sizes) <= 1
        # a single review left over by batches of one has no batch to itself: its rank takes two
        assert max(sizes) <= batch_size + (batch_size == 1)


@pytest.mark.parametrize("use", [lambda: epoch_of(2, num_ranks=3), lambda: evaluation_of(2, num_ranks=3)])
def test_more_processes_than_reviews_are_refused(use):
    with pytest.raises(InputError, match=r"^trainer\.devices=3: .* 2 (training )?reviews"):
        use()


@pytest.mark.parametrize("done", [0, 1, 5, 12])
def test_an_interrupted_epoch_goes_on_where_it_stopped(done):
    whole, following = sampler_of(100), sampler_of(100)
    whole.set_epoch(4)
    following.set_epoch(5)
    expected, next_epoch = list(whole), list(following)
    assert len(expected) == 13

    stopped = sampler_of(100)
    stopped.set_epoch(4)
    begun = list(itertools.islice(iter(stopped), done))

    resumed = sampler_of(100)
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(4)
    assert begun + list(resumed) == expected
    resumed.set_epoch(5)
    assert list(resumed) == next_epoch


def test_a_finished_epoch_is_followed_by_a_whole_one():
    sampler = sampler_of(100)
    first = list(sampler)
    assert list(sampler) == first  # no set_epoch between: the same one again
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(flat(second)) == list(range(100))
    assert second != first


def test_a_fixed_order_is_that_of_epoch_0_in_every_epoch():
    fixed, usual = sampler_of(100, fixed_order=True), sampler_of(100)
    first = list(fixed)
    assert first == list(usual)
    for epoch in (1, 2):
        fixed.set_epoch(epoch)
        assert list(fixed) == first


@pytest.mark.parametrize("num_tokens", [1, 300, 1_000, 8_192])
def test_packed_batches_keep_to_their_budget_and_use_it(num_tokens):
    lengths = random_lengths(300)
    batches = packed_batches(lengths, num_tokens=num_tokens)
    assert sorted(flat(batches)) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= num_tokens
    for batch in batches[:-1]:  # one more row would not have fitted
        assert (len(batch) + 1) * lengths[batch].max() > num_tokens
    assert (np.diff([lengths[batch].max() for batch in batches]) <= 0).all()


def test_packed_batches_worked_by_hand():
    batches = packed_batches(np.array([2, 9, 4, 4, 1, 3]), num_tokens=8)
    assert [batch.tolist() for batch in batches] == [[1], [2, 3], [5, 0], [4]]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("num_reviews", [3, 4, 7, 300])
def test_evaluation_shows_every_review_to_one_rank_and_some_to_each(num_reviews, num_ranks):
    samplers = [evaluation_of(num_reviews, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(own) for own in batches]
    assert sorted(flat(flat(batches))) == list(range(num_reviews))
    assert all(flat(own) for own in batches)


@pytest.fixture
def pieces() -> WordPieces:
    """Four reviews of 3, 2, 5 and 2 pieces."""
    ids = np.array([1, 10, 2, 1, 2, 1, 20, 21, 22, 2, 1, 2], dtype=np.int32)
    return WordPieces(ids=ids, starts=np.array([0, 3, 5, 10, 12]), pad_id=7)


def test_rows_are_padded_to_the_longest_of_their_batch(pieces):
    batch = TokenRows(pieces, [0, 1, 1, 0])[[2, 0, 3]]
    assert batch.inputs.tolist() == [[1, 20, 21, 22, 2], [1, 10, 2, 7, 7], [1, 2, 7, 7, 7]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert (batch.labels.tolist(), batch.rows.tolist(), batch.depth) == ([1, 0, 0], [2, 0, 3], 0)
    assert (batch.inputs.dtype, batch.attention_mask.dtype) == (torch.int64, torch.bool)
    assert TokenRows(pieces, [0, 1, 1, 0])[[1]].inputs.tolist() == [[1, 2]]


def test_rows_may_be_padded_to_a_fixed_length_and_left_unmasked(pieces):
    batch = TokenRows(pieces, [0, 1, 1, 0], pad_to=6, mask_padding=False)[[1, 2]]
    assert batch.inputs.tolist() == [[1, 2, 7, 7, 7, 7], [1, 20, 21, 22, 2, 7]]
    assert batch.attention_mask is None


def test_a_loader_hands_out_the_samplers_batches(pieces):
    labels = [0, 1, 1, 0]
    rows = TokenRows(pieces, labels)
    settings = {"batch_size": 2, "similar_length": True, "seed": 1}
    loader = DataLoader(rows, batch_size=None, sampler=TrainSampler(pieces.lengths, **settings))
    expected = list(TrainSampler(pieces.lengths, **settings))
    seen = list(loader)
    assert len(loader) == 2
    assert [batch.rows.tolist() for batch in seen] == expected
    for batch, wanted in zip(seen, expected, strict=True):
        assert torch.equal(batch.inputs, rows[wanted].inputs)
        assert batch.labels.tolist() == [labels[row] for row in wanted]
