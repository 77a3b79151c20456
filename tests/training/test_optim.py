import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from bertlens.errors import InputError
from bertlens.model.classifier import ReviewClassifier
from bertlens.system.settings import check, keys
from bertlens.training.optim import SCHEDULES, build_optimizer, build_schedule
from bertlens.training.settings import OptimizerSettings


@pytest.fixture
def classifier_with(tiny_config):
    """Classifiers that differ in what is trained, their parameters and dropout alike."""

    def make(trainable_layers=1) -> ReviewClassifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return ReviewClassifier(tiny_config, num_classes=2, trainable_layers=trainable_layers).eval()

    return make


def groups_of(optimizer) -> dict[str, dict]:
    return {group["name"]: group for group in optimizer.param_groups}


@pytest.mark.parametrize("trainable_layers", [0, 1, 3, "all"])
def test_every_trained_parameter_is_in_the_group_of_its_part(classifier_with, trainable_layers):
    classifier = classifier_with(trainable_layers)
    groups = groups_of(build_optimizer(classifier, OptimizerSettings()))
    in_groups = {name: {id(parameter) for parameter in group["params"]} for name, group in groups.items()}
    trained = {name: parameter for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    expected = {
        "encoder": {id(parameter) for name, parameter in trained.items() if name.startswith("bert.")},
        "head": {id(parameter) for name, parameter in trained.items() if name.startswith("head.")},
    }
    assert in_groups == {name: members for name, members in expected.items() if members}


@pytest.mark.parametrize(("head_lr", "expected"), [(None, 3e-4), (2e-3, 2e-3), (0.0, 0.0)])
def test_the_head_learns_at_its_own_rate_or_at_the_common_one(classifier_with, head_lr, expected):
    groups = groups_of(build_optimizer(classifier_with(), OptimizerSettings(lr=3e-4, head_lr=head_lr)))
    assert (groups["encoder"]["lr"], groups["head"]["lr"]) == (3e-4, expected)


def train(classifier, optimizer, num_steps=4) -> dict[str, torch.Tensor]:
    """The trained parameters after some steps on fixed batches."""
    random = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        ids = torch.randint(5, 90, (6, 8), generator=random)
        optimizer.zero_grad()
        F.cross_entropy(classifier(ids), ids[:, 1] % 2).backward()
        optimizer.step()
    return {name: p.detach() for name, p in classifier.named_parameters() if p.requires_grad}


def test_without_weight_decay_it_is_adam(classifier_with):
    ours, theirs = classifier_with(2), classifier_with(2)
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    result = train(ours, build_optimizer(ours, OptimizerSettings(lr=1e-3, head_lr=1e-2)))
    adam = torch.optim.Adam(
        [
            {"params": [p for p in theirs.bert.parameters() if p.requires_grad]},
            {"params": theirs.head.parameters(), "lr": 1e-2},
        ],
        lr=1e-3,
    )
    for name, expected in train(theirs, adam).items():
        if name.endswith("key.bias"):  # its gradient is rounding noise around 0, which Adam blows up to full steps
            continue
        assert_close(result[name], expected, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
        assert (result[name] - before[name]).abs().max() > 5e-4, name


def test_weight_decay_shrinks_by_the_rate_times_the_decay(classifier_with):
    classifier = classifier_with()
    before = classifier.head.weight.detach().clone()
    optimizer = build_optimizer(classifier, OptimizerSettings(lr=0.1, weight_decay=0.5))
    for parameter in classifier.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert_close(classifier.head.weight, before * 0.95)


@pytest.mark.parametrize(
    ("schedule", "warmup", "end_factor", "factors"),
    [
        ("constant", 0.0, 0, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("constant", 0.3, 0, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", 0.0, 0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]),
        ("linear", 0.2, 0, [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ("cosine", 0.0, 0, [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]),
        ("cosine", 0.2, 0, [1 / 3, 2 / 3, 1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060, 0]),
        ("linear", 0.2, 0.2, [1 / 3, 2 / 3, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]),
        ("cosine", 0.0, 0.5, [(3 + math.cos(math.pi * step / 10)) / 4 for step in range(11)]),
    ],
)
def test_schedules_are_those_worked_by_hand(classifier_with, schedule, warmup, end_factor, factors):
    settings = OptimizerSettings(lr=1e-3, head_lr=1e-2, schedule=schedule, warmup=warmup, end_factor=end_factor)
    optimizer = build_optimizer(classifier_with(), settings)
    scheduler = build_schedule(optimizer, settings, num_steps=10)
    seen = []
    for _ in factors:
        groups = groups_of(optimizer)
        seen.append((groups["encoder"]["lr"], groups["head"]["lr"]))
        optimizer.step()
        scheduler.step()
    assert seen == [pytest.approx((1e-3 * factor, 1e-2 * factor), abs=1e-8) for factor in factors]


@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_run_of_a_step_or_two_has_a_schedule_too(classifier_with, num_steps):
    settings = OptimizerSettings(lr=1e-3, schedule="linear", warmup=0.9)
    optimizer = build_optimizer(classifier_with(), settings)
    build_schedule(optimizer, settings, num_steps=num_steps)
    assert 0 < optimizer.param_groups[0]["lr"] <= 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1e-5},
        {"lr": 1.0},
        {"lr": math.nan},
        {"head_lr": 5.0},
        {"weight_decay": -0.1},
        {"weight_decay": math.nan},
        {"schedule": "polynomial"},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"end_factor": 1.1},
        {"end_factor": 0.1},
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_with_its_value(wrong):
    [(key, value)] = wrong.items()
    with pytest.raises(InputError) as caught:
        check(OptimizerSettings(**wrong), "optimizer.")
    assert str(caught.value).startswith(f"optimizer.{key}={value}: ")


def test_every_schedule_can_be_chosen():
    assert keys(OptimizerSettings)["schedule"].choices == tuple(SCHEDULES)
