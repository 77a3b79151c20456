"""Batches through the frozen prefix without a store."""

import numpy as np
import pytest
import torch

from bertlens.data.batching import TokenRows
from bertlens.data.tokenizer import WordPieces
from bertlens.features.prefix import ComputedBatches
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
