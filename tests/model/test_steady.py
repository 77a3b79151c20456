"""A review's numbers are the same to the last bit whatever is beside it: lengths, rows, padding, order, threads."""

import logging
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertlens.model import steady
from bertlens.model.bert import BertConfig
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.steady import compare_once, in_order, num_workers

# the shapes of MiniLM and of BERT-base, with few layers: what a product adds in what order depends on its shape
SHAPES = {
    "minilm": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert_base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
NUM_LAYERS = 3


@dataclass
class Company:
    """The lengths of the reviews beside one, its place among them, and to what they are padded."""

    lengths: list[int]
    place: int
    padding: int
    num_threads: int


@st.composite
def companies(draw, *, max_reviews: int) -> Company:
    lengths = draw(st.lists(st.integers(2, 256), max_size=max_reviews))
    return Company(
        lengths=lengths,
        place=draw(st.integers(0, len(lengths))),
        padding=draw(st.integers(0, 40)),
        num_threads=draw(st.sampled_from([1, 2, 3])),
    )


@pytest.fixture(autouse=True)
def _own_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_classifier(shape: str, dtype: torch.dtype, trainable_layers: int | str) -> ReviewClassifier:
    config = BertConfig(
        vocab_size=1000,
        num_hidden_layers=NUM_LAYERS,
        max_position_embeddings=512,
        initializer_range=0.05,
        **SHAPES[shape],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ReviewClassifier(config, num_classes=3, trainable_layers=trainable_layers, frozen_dtype=dtype).eval()


def ids_of(length: int, *, seed: int) -> torch.Tensor:
    return torch.randint(5, 1000, (length,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(classifier: ReviewClassifier, reviews: list[torch.Tensor], place: int, padding: int) -> list[torch.Tensor]:
    """Return a review's hidden states after the prefix, and its logits, from a padded batch."""
    lengths = torch.tensor([len(review) for review in reviews])
    mask = torch.arange(int(lengths.max()) + padding) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.cat(reviews)
    attention_mask = None if mask.all() else mask
    logits = classifier(ids, attention_mask)[place]
    if classifier.prefix is None:
        return [logits]
    return [classifier.prefix(ids, attention_mask)[place, : lengths[place]], logits]


def check(shape: str, dtype: torch.dtype, trainable_layers: int | str, *, num_examples: int, max_reviews: int) -> None:
    """Compare one review alone, in one thread, with itself among others, bit by bit."""
    classifier = make_classifier(shape, dtype, trainable_layers)

    @settings(
        max_examples=num_examples, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck
    )
    @given(length=st.integers(2, 256), company=companies(max_reviews=max_reviews), seed=st.integers(0, 1000))
    def same_bits(length: int, company: Company, seed: int) -> None:
        review = ids_of(length, seed=seed)
        torch.set_num_threads(1)
        alone = run(classifier, [review], 0, 0)
        others = [ids_of(other, seed=number) for number, other in enumerate(company.lengths)]
        torch.set_num_threads(company.num_threads)
        reviews = [*others[: company.place], review, *others[company.place :]]
        among = run(classifier, reviews, company.place, company.padding)
        for one, other in zip(alone, among, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)

    same_bits()


@pytest.mark.parametrize("trainable_layers", [0, 1, 2, "all"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_review_has_the_same_bits_in_any_company(dtype, trainable_layers):
    check("minilm", dtype, trainable_layers, num_examples=5, max_reviews=12)


def test_reviews_of_one_length_that_reach_over_32_rows_with_others_between():
    classifier = make_classifier("minilm", torch.bfloat16, 1)
    reviews = [ids_of(40 if place in (0, 31) else 10, seed=place) for place in range(32)]
    ids = torch.nn.utils.rnn.pad_sequence(reviews, batch_first=True)
    mask = torch.arange(40) < torch.tensor([[len(review)] for review in reviews])
    with torch.no_grad():
        assert torch.equal(classifier(ids, mask), torch.cat([classifier(review[None]) for review in reviews]))


@pytest.mark.slow
@pytest.mark.parametrize("trainable_layers", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_review_has_the_same_bits_in_much_company(shape, dtype, trainable_layers):
    check(shape, dtype, trainable_layers, num_examples=60, max_reviews=60)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_bits_are_those_of_a_whole_classifier_up_to_rounding(dtype):
    """Without padding and review by review: the same function as with it."""
    classifier = make_classifier("minilm", dtype, 1)
    mask = torch.arange(40) < torch.tensor([[40], [17], [3]])
    ids = torch.randint(5, 1000, (3, 40)).masked_fill(~mask, 0)
    with torch.no_grad():
        steady_logits = classifier(ids, mask)
        steady_states = classifier.prefix(ids, mask)
    for module in (classifier.bert.embeddings, *classifier.bert.encoder.layer):
        module.train()
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    assert torch.is_grad_enabled()  # and so as in training
    bound = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(classifier(ids, mask).detach(), steady_logits, atol=bound, rtol=0)
    torch.testing.assert_close(classifier.prefix(ids, mask)[mask], steady_states[mask], atol=bound, rtol=0)
    assert (steady_states[~mask] == 0).all()


def test_padding_that_is_attended_to_belongs_to_the_review():
    classifier = make_classifier("minilm", torch.bfloat16, 1)
    padded = [torch.cat([ids_of(n, seed=n), torch.zeros(37 - n, dtype=torch.long)]) for n in (9, 30, 37)]
    with torch.no_grad():
        together = classifier(torch.stack(padded), None)
        each = [classifier(ids[None], None)[0] for ids in padded]
    assert torch.equal(together, torch.stack(each))


def test_autocast_counts_in_every_thread():
    classifier = make_classifier("minilm", torch.bfloat16, 2)
    ids = torch.stack([ids_of(64, seed=seed) for seed in range(64)])
    found = []
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(classifier(ids))
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(*found)


def test_a_device_that_does_not_keep_the_bits_is_named_once(caplog, monkeypatch):
    monkeypatch.setattr(steady, "_compared", set())

    def depends_on_its_batch(rows: list[int]) -> torch.Tensor:
        return torch.ones(len(rows), 4, 8) + 0.25 * (len(rows) > 1)

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            compare_once(depends_on_its_batch, torch.device("cpu"), 9)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["on this device a review's numbers depend on its batch, by up to 2e-01"]


def test_one_worker_per_core_on_a_cpu_and_one_on_a_gpu():
    assert num_workers(torch.device("cpu")) == torch.get_num_threads()
    assert num_workers(torch.device("cuda")) == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    def compute(item: int) -> tuple[int, int]:
        time.sleep(0.02 / (item + 1))
        return item * item, torch.get_num_threads()

    before = torch.get_num_threads()
    found = list(in_order(compute, range(10), num_workers=workers))
    assert [square for square, _ in found] == [item * item for item in range(10)]
    if workers > 1:
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


def test_many_threads_of_one_core_are_not_many_cores():
    """A batch that is run in a worker is not divided again."""
    lengths = np.full(40, 100)
    seen = []
    torch.set_num_threads(2)
    list(in_order(lambda _: seen.append(num_workers(torch.device("cpu"))), lengths[:4], num_workers=2))
    assert seen == [1] * 4
