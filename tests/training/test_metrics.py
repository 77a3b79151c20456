"""Metrics where torchmetrics' own are not enough."""

import pytest
import torch
from torchmetrics.classification import MulticlassAUROC

from bertlens.training.metrics import StageMetrics


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_the_auroc_is_torchmetrics_where_every_class_has_reviews(num_classes):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (500,), generator=random)
    probabilities = torch.rand(500, num_classes, generator=random).softmax(dim=1)
    metrics, theirs = StageMetrics(num_classes, stage="val"), MulticlassAUROC(num_classes)
    for part in range(0, 500, 64):
        metrics.add(torch.zeros(()), probabilities[part : part + 64], labels[part : part + 64])
        theirs.update(probabilities[part : part + 64], labels[part : part + 64])
    assert metrics.compute()["val/auroc"] == theirs.compute()  # to the last bit


def test_the_auroc_is_that_of_the_classes_that_have_reviews(recwarn):
    metrics = StageMetrics(3, stage="val")
    metrics.add(torch.zeros(()), torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]), torch.tensor([0, 1]))
    assert metrics.compute()["val/auroc"] == 1
    assert not recwarn.list
