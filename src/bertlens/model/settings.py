"""The `model` section: the published encoder, and where its frozen part ends."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bertlens.system.settings import section, setting


@dataclass(kw_only=True)
class PublishedSettings:
    """Pins of a published model. They apply while `model.pretrained` is this name."""

    name: str | None = setting(None, "the model that these pins belong to")
    revision: str | None = setting(None, "the model's commit on the hub")
    package: str | None = setting(None, "an installed package that carries the same files")
    sha256: dict[str, str] = setting({}, "file name: SHA-256, checked before the file is read; empty: not pinned")


@dataclass(kw_only=True)
class ModelSettings:
    """Part of every checkpoint: plain types only."""

    pretrained: str = setting(
        "google-bert/bert-base-uncased",
        "a hub name, or a folder with config.json, vocab.txt and model.safetensors",
    )
    published: PublishedSettings = section(PublishedSettings)
    trainable_layers: Any = setting(
        1, "encoder layers trained, from the top: 0 (head only) to all of them, or all", affects="steps"
    )
    attention_mask: bool = setting(
        True, "false: attend to padding as if it were text (the notebook's way)", affects="steps"
    )
    frozen_dropout: bool = setting(
        False, "true: dropout also in layers that are not trained (the notebook's way)", affects="steps"
    )
    hidden_dropout: float | None = setting(
        None, "dropout of the hidden states; null: as the published model says", at_least=0, below=1, affects="steps"
    )
    attention_dropout: float | None = setting(
        None,
        "dropout of the attention probabilities; 0 trains twice as fast on CPUs; null: as the published model says",
        at_least=0,
        below=1,
        affects="steps",
    )

    def conflicts(self, prefix: str = "model.") -> Iterator[str]:
        layers = self.trainable_layers
        if layers != "all" and (isinstance(layers, bool) or not isinstance(layers, int) or layers < 0):
            yield f"{prefix}trainable_layers={layers}: give the number of layers (0: head only), or all"
