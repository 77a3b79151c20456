import numpy as np
import pytest

from bertlens.data.datamodule import ReviewDataModule
from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError


@pytest.fixture
def module_of(tiny_vocabulary, tiny_reviews, tmp_path):
    """Return a function that makes a data module of the tiny reviews, set up."""

    def make(known_labels=None, fixed_order=False, seed=0, **settings):
        settings = DataSettings(path=str(tiny_reviews), lowercase=True, **{"max_length": 48, **settings})
        module = ReviewDataModule(
            settings,
            ReviewTokenizer(tiny_vocabulary, settings),
            mask_padding=True,
            cache=tmp_path,
            seed=seed,
            known_labels=known_labels,
            fixed_order=fixed_order,
        )
        module.setup()
        return module

    return make


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [batch.rows.tolist() for batch in loader]


def flat(batches):
    return sorted(row for batch in batches for row in batch)


def test_every_review_comes_once_per_epoch_and_the_grouping_changes(module_of):
    module = module_of()
    loader = module.train_dataloader()
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    assert flat(first) == flat(second) == list(range(160))
    assert first != second
    assert len(loader) == len(first) == 5
    for dataloader, split, num_reviews in (
        (module.val_dataloader, "validation", 40),
        (module.test_dataloader, "test", 80),
    ):
        batches = list(dataloader())
        assert flat(batch.rows.tolist() for batch in batches) == list(range(num_reviews))
        labels = np.array(module.reviews[split]["label"])
        assert all((labels[batch.rows] == batch.labels.numpy()).all() for batch in batches)


def test_a_fixed_order_repeats_the_first_epoch(module_of):
    loader = module_of(fixed_order=True).train_dataloader()
    first = epoch_of(loader, 0)
    assert first == epoch_of(loader, 1) == epoch_of(loader, 2)
    assert first == epoch_of(module_of().train_dataloader(), 0)


def test_the_position_within_an_epoch_is_saved_and_restored(module_of):
    whole = epoch_of(module_of().train_dataloader(), 2)
    stopped = module_of()
    loader = stopped.train_dataloader()
    loader.sampler.set_epoch(2)
    batches = iter(loader)
    begun = [next(batches).rows.tolist() for _ in range(2)]
    resumed = module_of()
    resumed.load_state_dict(stopped.state_dict())
    assert begun + epoch_of(resumed.train_dataloader(), 2) == whole


def test_padding_to_the_maximum_counts_in_the_size_of_a_batch(module_of):
    module = module_of(padding="max_length", tokens_per_batch=480)
    assert {tuple(batch.inputs.shape) for batch in module.val_dataloader()} == {(10, 48)}


def test_stored_features_take_the_place_of_word_pieces_and_compute_of_the_rest(module_of):
    module = module_of()
    asked = []
    module.compute = lambda tokens, batches: asked.append((len(tokens), flat(batches))) or []
    assert module.val_dataloader() == []
    assert asked == [(40, list(range(40)))]
    stored = module.token_rows("validation")
    module.stored = {"validation": stored}
    assert module.val_dataloader().dataset is stored
    assert len(asked) == 1


def test_a_checkpoints_labels_are_compared_and_its_test_split_suffices(module_of):
    module = module_of(known_labels=["negative", "positive"])
    assert list(module.pieces) == ["test"]
    with pytest.raises(InputError, match="'negative', 'positive', but the checkpoint was trained on 'bad', 'good'"):
        module_of(known_labels=["bad", "good"])
