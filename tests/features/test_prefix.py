"""Batches through the frozen prefix without a store."""

import threading
import time

import numpy as np
import pytest
import torch

from bertlens.data.batching import TokenRows
from bertlens.data.tokenizer import WordPieces
from bertlens.features import prefix as features
from bertlens.features.prefix import ComputedBatches, in_order
from bertlens.model.classifier import ReviewClassifier


@pytest.fixture
def tokens(tiny_config) -> TokenRows:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 30, 12)
    ids = random.integers(5, tiny_config.vocab_size, lengths.sum()).astype(np.int32)
    pieces = WordPieces(ids, np.concatenate([[0], np.cumsum(lengths)]), pad_id=0)
    return TokenRows(pieces, list(random.integers(0, 2, 12)))


def test_computed_batches_are_the_prefix_of_the_word_pieces(tiny_config, tokens):
    torch.manual_seed(0)
    prefix = ReviewClassifier(tiny_config, num_classes=2).eval().prefix
    batches = [[3, 0, 7], [11], [5, 4]]
    computed = ComputedBatches(tokens, batches, prefix=prefix)
    assert len(computed) == 3
    for batch, rows in zip(computed, batches, strict=True):
        direct = tokens[rows]
        expected = prefix(direct.inputs, direct.attention_mask)
        torch.testing.assert_close(batch.inputs, expected, atol=1e-5, rtol=0)
        assert batch.rows.tolist() == rows
        assert batch.depth == 2
        assert (batch.attention_mask is None) == bool(direct.attention_mask.all())
        assert not batch.inputs.requires_grad


def test_one_worker_per_core_on_a_cpu_and_one_on_a_gpu(tiny_config):
    prefix = ReviewClassifier(tiny_config, num_classes=2).prefix
    assert features.num_workers(prefix) == torch.get_num_threads()
    assert features.num_workers(prefix.to(torch.device("meta"))) == 1


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_order(num_workers):
    def compute(item: int) -> tuple[int, int]:
        time.sleep(0.02 / (item + 1))
        return item * item, torch.get_num_threads()

    before = torch.get_num_threads()
    found = list(in_order(compute, range(10), num_workers=num_workers))
    assert [square for square, _ in found] == [item * item for item in range(10)]
    if num_workers > 1:
        assert {threads for _, threads in found} == {1}
    assert torch.get_num_threads() == before
    new = []
    thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert new == [before]


def test_an_error_in_a_worker_is_raised():
    def compute(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        list(in_order(compute, [1, 0, 1, 1], num_workers=2))
