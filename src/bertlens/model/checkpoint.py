"""What a checkpoint holds and how it is read back.

Lightning's own entries (loops, optimizer, schedule, callbacks), the trained parameters only, and under one key what
rebuilds the rest: where the published weights came from with their SHA-256, and every setting that decides a verdict.
All plain types, so that reading one can run no code.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor

from bertlens.data.batching import BatchSettings
from bertlens.data.reviews import ReviewSettings
from bertlens.data.tokenizer import ReviewTokenizer, TokenizerSettings
from bertlens.errors import InputError
from bertlens.model.bert import BertConfig
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.pretrained import Pretrained, PretrainedSettings, find_pretrained, load_strictly, read_weights
from bertlens.system.archive import load_archive
from bertlens.system.files import atomic_write

FORMAT_KEY = "bertlens"
FORMAT_VERSION = 1
RANDOM_KEY = "random_state"
METRICS_KEY = "train_metrics"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How the classifier is cut and computed."""

    trainable_layers: int | str = 1
    attention_mask: bool = True
    frozen_dropout: bool = False
    frozen_dtype: str = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Everything but the trained parameters: enough to build the same model and to read the same reviews."""

    pretrained: PretrainedSettings
    sha256: dict[str, str]
    config: BertConfig
    model: ModelSettings
    tokenizer: TokenizerSettings
    reviews: ReviewSettings
    batches: BatchSettings
    label_names: list[str]
    settings: dict[str, Any] = field(default_factory=dict)  # what decides a run's steps, by key; only ever compared
    vocabulary: list[str] = field(default_factory=list)  # stored with a whole model only

    def to_dict(self, *, whole_model: bool) -> dict[str, Any]:
        plain = asdict(self) | {"format_version": FORMAT_VERSION}
        return plain if whole_model else plain | {"vocabulary": []}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "CheckpointInfo":
        parts: dict[str, Any] = {
            "pretrained": PretrainedSettings,
            "config": BertConfig,
            "model": ModelSettings,
            "tokenizer": TokenizerSettings,
            "reviews": ReviewSettings,
            "batches": BatchSettings,
        }
        return cls(
            **{name: make(**plain[name]) for name, make in parts.items()},
            sha256=dict(plain["sha256"]),
            label_names=list(plain["label_names"]),
            settings=dict(plain["settings"]),
            vocabulary=list(plain["vocabulary"]),
        )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from disk."""

    path: Path
    info: CheckpointInfo
    parameters: dict[str, Tensor]  # of the classifier, by name


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written beside their place and moved over it, and read without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        return read_raw(Path(path))


def random_state() -> dict[str, Any]:
    """Where the random numbers stand: dropout is all that draws on them, the order of reviews has its own."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def read_raw(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint file, on the CPU. Raises `InputError` if it is not one of ours."""
    if path.is_dir():
        raise InputError(f"checkpoint={path}: a folder; name the file in it, such as {path / 'best.ckpt'}")
    try:
        raw: dict[str, Any] = load_archive(path)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint={path}: no such file") from error
    except PermissionError as error:
        raise InputError(f"checkpoint={path}: {error.strerror}") from error
    except Exception as error:  # damaged archives and pickles fail in every way there is
        raise InputError(
            f"checkpoint={path}: not readable as a checkpoint; it is cut short, damaged or of another kind"
        ) from error
    info = raw.get(FORMAT_KEY) if isinstance(raw, dict) else None
    if not isinstance(info, dict) or "state_dict" not in raw:
        raise InputError(f"checkpoint={path}: not written by this project")
    if info.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"checkpoint={path}: format {info.get('format_version')!r}, and this version reads format {FORMAT_VERSION}"
        )
    if named := next(_named_objects(raw, ""), None):
        raise InputError(f"checkpoint={path}: {named}: a checkpoint holds values only; nothing may be named in it")
    return raw


def _named_objects(node: Any, key: str) -> Iterator[str]:
    """Each `_target_` in what was read. Nothing here would make the object; what reads the settings next might."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for last, value in items:
        here = f"{key}.{last}" if key else str(last)
        if last == "_target_":
            yield f"{here}={value!r}"
        yield from _named_objects(value, here)


def read_checkpoint(path: Path) -> Checkpoint:
    """The settings and trained parameters in a checkpoint file."""
    raw = read_raw(path)
    try:
        info = CheckpointInfo.from_dict(raw[FORMAT_KEY])
        parameters = {name.removeprefix("classifier."): tensor for name, tensor in raw["state_dict"].items()}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"checkpoint={path}: its settings are damaged ({error})") from error
    return Checkpoint(path=path, info=info, parameters=parameters)


def check_resumable(path: Path, info: CheckpointInfo) -> None:
    """Raise `InputError` where going on from a checkpoint would not give what the run, never stopped, would have."""
    earlier = read_checkpoint(path).info
    before, now = (
        each.settings | {"published files": each.sha256, "labels": each.label_names} for each in (earlier, info)
    )
    changed = [f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in now if before.get(name) != now[name]]
    if changed:
        raise InputError(f"{path}: written by a run with other settings: {'; '.join(changed)}: start a new run instead")


def build_classifier(info: CheckpointInfo) -> ReviewClassifier:
    """The classifier of these settings, its weights not yet loaded."""
    return ReviewClassifier(
        info.config,
        num_classes=len(info.label_names),
        trainable_layers=info.model.trainable_layers,
        frozen_dropout=info.model.frozen_dropout,
        frozen_dtype=getattr(torch, info.model.frozen_dtype),
    )


def load_published(classifier: ReviewClassifier, pretrained: Pretrained) -> None:
    """Put the published weights into the encoder."""
    load_strictly(classifier.bert, read_weights(pretrained.weights_path), source=str(pretrained.weights_path))


def restore(checkpoint: Checkpoint) -> tuple[ReviewClassifier, ReviewTokenizer]:
    """The classifier and tokenizer of a checkpoint, in eval mode.

    Raises `InputError` if the published weights it was trained on are not to be had, or are not the same any more.
    """
    info = checkpoint.info
    classifier = build_classifier(info)
    if info.vocabulary:  # a whole model
        vocabulary = info.vocabulary
        load_strictly(classifier, checkpoint.parameters, source=f"checkpoint={checkpoint.path}")
    else:
        pinned = PretrainedSettings(**asdict(info.pretrained) | {"sha256": info.sha256})
        pretrained = find_pretrained(pinned)
        vocabulary = pretrained.vocabulary
        load_published(classifier, pretrained)
        own = classifier.state_dict()
        trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
        frozen = {name: tensor for name, tensor in own.items() if name not in trained}
        load_strictly(classifier, frozen | checkpoint.parameters, source=f"checkpoint={checkpoint.path}")
    return classifier.eval(), ReviewTokenizer(vocabulary, info.tokenizer)
