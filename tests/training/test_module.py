"""One step for all stages: it fits, it counts every review once, and it stops where the numbers end."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from bertlens.data.batching import Batch, BatchSettings
from bertlens.data.reviews import ReviewSettings
from bertlens.data.tokenizer import TokenizerSettings
from bertlens.model.checkpoint import CheckpointInfo, ModelSettings, build_classifier
from bertlens.model.pretrained import PretrainedSettings
from bertlens.training.module import ReviewModule, TrainingDiverged
from bertlens.training.optim import OptimizerSettings


def make_module(config, *, lr=1e-3, trainable_layers=1) -> ReviewModule:
    torch.manual_seed(0)
    info = CheckpointInfo(
        pretrained=PretrainedSettings(name="tiny"),
        sha256={},
        config=config,
        model=ModelSettings(frozen_dtype="float32", trainable_layers=trainable_layers),
        tokenizer=TokenizerSettings(),
        reviews=ReviewSettings(),
        batches=BatchSettings(),
        label_names=["negative", "positive"],
    )
    return ReviewModule(build_classifier(info), info=info, optimizer=OptimizerSettings(lr=lr))


def make_batch(config, num_reviews: int, *, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, config.vocab_size, (num_reviews, 12), generator=random)
    labels = torch.randint(0, 2, (num_reviews,), generator=random)
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), labels, torch.arange(num_reviews))


def loader(*batches: Batch) -> DataLoader:
    return DataLoader(list(batches), batch_size=None)


def make_trainer(**options) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **options)


def test_one_batch_of_16_overfits_to_zero_error(tiny_config):
    module = make_module(tiny_config, lr=3e-3)
    batch = make_batch(tiny_config, 16)
    make_trainer(max_epochs=150).fit(module, loader(batch))
    module.eval()
    with torch.no_grad():
        logits = module(batch)
    assert torch.equal(logits.argmax(dim=1), batch.labels)
    assert torch.nn.functional.cross_entropy(logits, batch.labels) < 0.05


def test_frozen_parameters_stay_bit_for_bit(tiny_config):
    module = make_module(tiny_config)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    make_trainer(max_epochs=3).fit(module, loader(make_batch(tiny_config, 16)))
    for name, parameter in module.named_parameters():
        # the key bias cancels in the softmax: it is trained, and its gradient is 0
        unchanged = not parameter.requires_grad or name.endswith("key.bias")
        assert torch.equal(parameter, before[name]) == unchanged, name


def test_a_short_batch_weighs_less_than_a_full_one(tiny_config):
    module = make_module(tiny_config)
    batches = [make_batch(tiny_config, 8), make_batch(tiny_config, 3, seed=1)]
    trainer = make_trainer()
    trainer.test(module, loader(*batches), verbose=False)
    module.eval()  # the Trainer leaves it as it was: with dropout
    with torch.no_grad():
        logits = torch.cat([module(batch) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    found = trainer.callback_metrics
    torch.testing.assert_close(found["test/loss"], torch.nn.functional.cross_entropy(logits, labels))
    assert found["test/accuracy"] == (logits.argmax(dim=1) == labels).float().mean()


def test_predictions_come_in_the_splits_order(tiny_config):
    module = make_module(tiny_config)
    one, two = make_batch(tiny_config, 4), make_batch(tiny_config, 2, seed=1)
    one, two = one._replace(rows=torch.tensor([5, 0, 3, 1])), two._replace(rows=torch.tensor([2, 4]))
    make_trainer().test(module, loader(one, two), verbose=False)
    rows, labels, probabilities = module.test_result
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert labels[5] == one.labels[0]
    assert labels[2] == two.labels[0]
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(probabilities[0], module(one)[1].softmax(dim=0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tiny_config, bad):
    module = make_module(tiny_config, lr=0.5)
    with torch.no_grad():
        module.classifier.head.bias[0] = bad
    with pytest.raises(TrainingDiverged, match=r"at step 0 with a learning rate of 0\.5"):
        make_trainer(max_epochs=1).fit(module, loader(make_batch(tiny_config, 4)))
