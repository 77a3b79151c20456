"""A checkpoint of a head with random weights, made on the spot."""

import pytest
import torch

from bertlens.data.settings import DataSettings
from bertlens.model.checkpoint import FORMAT_KEY, CheckpointInfo, build_classifier
from bertlens.model.pretrained import find_pretrained
from bertlens.model.settings import ModelSettings


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tmp_path_factory):
    """A checkpoint of a head with random weights, which is not as good as sure of everything."""
    model = ModelSettings(pretrained=str(tiny_model))
    pretrained = find_pretrained(model)
    info = CheckpointInfo(
        model=model,
        data=DataSettings(max_length=48, lowercase=True, tokens_per_batch=64),
        frozen_dtype="float32",
        sha256=pretrained.sha256,
        config=pretrained.config,
        label_names=["negative", "positive"],
        settings={"optimizer.lr": 5e-5},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build_classifier(info)
        torch.nn.init.normal_(classifier.head.weight)
    trained = {f"classifier.{name}": tensor for name, tensor in classifier.suffix.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    torch.save({FORMAT_KEY: info.to_dict(whole_model=False), "state_dict": trained}, path)
    return path
