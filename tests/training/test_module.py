"""One step for all stages: it fits, it counts every review once, and it stops at a loss that is NaN."""

import csv
import warnings

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.nn import functional as F
from torch.utils.data import DataLoader

from bertlens.training.metrics import StageMetrics
from bertlens.training.module import TrainingDiverged


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


def test_one_batch_of_16_overfits_to_zero_error(make_module, make_batch, make_trainer):
    module, batch = make_module(optimizer={"lr": 3e-3}), make_batch(16)
    make_trainer(max_epochs=150).fit(module, loader(batch))
    module.eval()
    with torch.no_grad():
        logits = module(batch)
    assert torch.equal(logits.argmax(dim=1), batch.labels)
    assert F.cross_entropy(logits, batch.labels) < 0.05


@pytest.mark.parametrize("trainable_layers", [0, 1, 3, "all"])
def test_the_module_holds_what_is_trained_and_all_of_it_changes(
    make_module, make_batch, make_trainer, trainable_layers
):
    module = make_module(trainable_layers=trainable_layers)
    assert all(parameter.requires_grad for parameter in module.parameters())
    layers = {name.split(".")[4] for name in module.state_dict() if ".layer." in name}
    num_trained = 3 if trainable_layers == "all" else trainable_layers
    assert layers == {"0", "1", "2"} - {str(index) for index in range(3 - num_trained)}
    assert ("classifier.bert.embeddings.word_embeddings.weight" in module.state_dict()) == (trainable_layers == "all")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    make_trainer(max_epochs=3).fit(module, loader(make_batch(16)))
    for name, tensor in module.state_dict().items():
        # the key bias cancels in the softmax: its gradient is 0, or rounding noise
        assert name.endswith("key.bias") or not torch.equal(tensor, before[name]), name


def test_frozen_parameters_stay_bit_for_bit(tiny_config, make_module, make_batch, make_trainer):
    module = make_module()
    digests, parameters = module.prefix.digests(), sum(parameter.numel() for parameter in module.parameters())
    make_trainer(max_epochs=3).fit(module, loader(make_batch(16)))
    assert module.prefix.digests() == digests
    layer = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 32 + 64 + 4 * 32
    assert parameters == layer + 2 * 32 + 2  # the prefix is not counted


def test_hidden_states_of_any_depth_give_the_logits_of_the_ids(make_module, make_batch):
    module, batch = make_module().eval(), make_batch(4)
    with torch.no_grad():
        expected = module(batch)
        for depth in range(3):
            hidden = module.prefix(batch.inputs, batch.attention_mask, stop=depth)
            assert torch.equal(module(batch._replace(inputs=hidden, depth=depth)), expected)


def test_a_short_batch_weighs_less_than_a_full_one(make_module, make_batch, make_trainer):
    module, batches = make_module(), [make_batch(8), make_batch(3, seed=1)]
    trainer = make_trainer()
    trainer.test(module, loader(*batches), verbose=False)
    module.eval()  # the Trainer leaves it as it was: with dropout
    with torch.no_grad():
        logits = torch.cat([module(batch) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    found = trainer.callback_metrics
    torch.testing.assert_close(found["test/loss"], F.cross_entropy(logits, labels))
    assert found["test/accuracy"] == (logits.argmax(dim=1) == labels).float().mean()
    assert module.num_reviews == {"train": 0, "test": 11}


def test_the_reviews_of_a_fit_are_counted(make_module, make_batch, make_trainer):
    module = make_module()
    make_trainer(max_epochs=3, max_steps=4).fit(module, loader(make_batch(8), make_batch(3)))
    assert module.num_reviews["train"] == 8 + 3 + 8 + 3


def test_predictions_come_in_the_splits_order(make_module, make_batch, make_trainer):
    module = make_module()
    one, two = make_batch(4), make_batch(2, seed=1)
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
def test_a_loss_that_is_nan_or_infinite_ends_the_run_with_step_and_rate(make_module, make_batch, make_trainer, bad):
    module = make_module(optimizer={"lr": 0.5})
    with torch.no_grad():
        module.classifier.head.bias[0] = bad
    with pytest.raises(TrainingDiverged, match=r"at step 0 with a learning rate of 0\.5.*lower optimizer\.lr"):
        make_trainer(max_epochs=1).fit(module, loader(make_batch(4)))


def test_a_loss_that_was_not_read_yet_is_read_before_saving(make_module, make_batch, make_trainer, tmp_path):
    """On a GPU losses are read only every few steps. The error names the step that had it."""
    module, trainer = make_module(), make_trainer(max_epochs=1)
    trainer.fit(module, loader(make_batch(4)))
    losses = [0.7, float("inf"), float("nan")]
    module._unchecked_losses = [(f"step {step}: lower", torch.tensor(loss)) for step, loss in enumerate(losses)]
    with pytest.raises(TrainingDiverged, match="the loss is inf at step 1: lower"):
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "16-true"])
@pytest.mark.parametrize("gradient_clip_val", [None, 0.5])
@pytest.mark.parametrize("frozen_dtype", [torch.float32, torch.bfloat16])
def test_every_precision_trains_and_tests(
    make_module, make_batch, make_trainer, precision, gradient_clip_val, frozen_dtype
):
    module, batch = make_module(frozen_dtype=frozen_dtype), make_batch(8)
    hidden = module.prefix(batch.inputs, batch.attention_mask, stop=1)
    stored = batch._replace(inputs=hidden, depth=1)  # as from a feature store
    trainer = make_trainer(max_epochs=3, precision=precision, gradient_clip_val=gradient_clip_val)
    trainer.fit(module, loader(batch, stored), loader(batch))
    trainer.test(module, loader(batch, stored), verbose=False)
    assert torch.isfinite(trainer.callback_metrics["test/loss"])
    assert trainer.callback_metrics["test/accuracy"] > 0


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_metrics_stay_exact_in_half_precision(make_module, make_batch, make_trainer, precision):
    module, batches = make_module(), [make_batch(301, seed=seed) for seed in range(5)]
    trainer = make_trainer(precision=precision)
    trainer.test(module, loader(*batches), verbose=False)
    _, labels, probabilities = module.test_result
    expected = F.nll_loss(probabilities.log(), labels)
    torch.testing.assert_close(trainer.callback_metrics["test/loss"], expected, rtol=1e-5, atol=0)


def test_without_clipping_under_mixed_precision_the_optimizer_is_fused(make_module, make_batch, make_trainer):
    for options, fused in [
        ({}, True),
        ({"gradient_clip_val": 0.5}, True),
        ({"precision": "bf16-mixed"}, True),
        ({"precision": "bf16-mixed", "gradient_clip_val": 0.5}, None),
    ]:
        module, trainer = make_module(), make_trainer(max_epochs=1, **options)
        trainer.fit(module, loader(make_batch(4)))
        assert trainer.optimizers[0].param_groups[0]["fused"] is fused, options


def test_metrics_go_on_where_they_were_saved_without_a_warning(make_module, make_batch):
    metrics = make_module()._metrics("train")
    batches = [make_batch(5), make_batch(3, seed=1)]
    for batch in batches:
        metrics.add(torch.tensor(0.7), torch.rand(len(batch.labels), 2).softmax(dim=1), batch.labels)
    states, expected = metrics.states(), metrics.compute()
    other = make_module()._metrics("train")
    other.load_states(states, torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = other.compute()
    assert found == expected


def test_a_metric_that_a_checkpoint_did_not_count_starts_anew():
    labels, probabilities = torch.tensor([0, 1]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    counted = StageMetrics(2, stage="train")
    counted.add(torch.tensor(0.5), probabilities, labels)
    states = {name: state for name, state in counted.states().items() if name != "train/accuracy"}
    resumed = StageMetrics(2, stage="train")
    resumed.load_states(states, torch.device("cpu"))
    assert resumed["train/loss"].compute() == 0.5
    resumed.add(torch.tensor(1.5), 1 - probabilities, labels)
    values = resumed.compute()
    assert values["train/loss"] == 1.0  # of both batches
    assert values["train/accuracy"] == 0.0  # of the second one


def test_one_review_is_a_test_split_too(make_module, make_batch, make_trainer):
    module = make_module()
    make_trainer().test(module, loader(make_batch(1)), verbose=False)
    rows, labels, probabilities = module.test_result
    assert (rows.tolist(), labels.shape, probabilities.shape) == ([0], (1,), (1, 2))


def test_metrics_of_a_test_are_logged_at_the_last_step_of_its_weights(make_module, make_batch, make_trainer, tmp_path):
    module, logger = make_module(), CSVLogger(tmp_path, name="", version="")
    trainer = make_trainer(max_epochs=2, logger=logger)
    trainer.fit(module, loader(make_batch(8), make_batch(8)))
    module.last_step = 1  # of the first epoch
    trainer.test(module, loader(make_batch(8)), verbose=False)
    with (tmp_path / "metrics.csv").open() as file:
        logged = [(int(row["step"]), bool(row["train/loss"]), bool(row["test/loss"])) for row in csv.DictReader(file)]
    assert logged == [(1, True, False), (3, True, False), (1, False, True)]
    assert "step" not in module.measured
