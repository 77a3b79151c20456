"""What a checkpoint of this project holds, and how a classifier is rebuilt from it.

Besides Lightning's own entries, a file holds under `FORMAT_KEY` what rebuilds the model: the name and SHA-256 of the
published files and every setting that decides a prediction. All are plain types, so reading a file runs no code.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError
from bertlens.model.bert import BertConfig
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.pretrained import Pretrained, find_pretrained, load_strictly, read_weights
from bertlens.model.settings import ModelSettings, PublishedSettings
from bertlens.system.archive import load_archive
from bertlens.system.files import relative
from bertlens.system.settings import check

FORMAT_KEY = "bertlens"
FORMAT_VERSION = 2
OLDEST_FORMAT_VERSION = 1  # of 0.1.0
FROZEN_KEY = "frozen_parameters"  # of a whole model: what the LightningModule's state_dict lacks
RANDOM_KEY = "random_state"
METRICS_KEY = "train_metrics"
TEMPERATURE_KEY = "temperature"  # absent if the run had no validation reviews
FROZEN_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
DIGESTS = ("training reviews", "published files")  # entries whose values say nothing to a reader


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What rebuilds a classifier and its tokenizer, and reads the same reviews; all but the trained parameters."""

    model: ModelSettings
    data: DataSettings  # with `lowercase` resolved
    frozen_dtype: str
    precision: str = "32-true"
    sha256: dict[str, str]  # of the published files
    config: BertConfig
    label_names: list[str]
    settings: dict[str, Any] = field(default_factory=dict)  # the keys that decide a run's steps; only compared
    vocabulary: list[str] = field(default_factory=list)  # stored only with a whole model

    def to_dict(self, *, whole_model: bool) -> dict[str, Any]:
        kept = self if whole_model else replace(self, vocabulary=[])
        return asdict(kept) | {"format_version": FORMAT_VERSION}

    def facts(self, *, epoch: int | None) -> dict[str, str]:
        """Return what a reader wants to know of a model first, by name."""
        rate = self.settings.get("optimizer.lr")
        facts = {"model": Path(self.model.pretrained).name, "learning rate": rate, "epoch": epoch}
        return {name: str(value) for name, value in facts.items() if value is not None}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "CheckpointInfo":
        """Read what `to_dict` made, or what 0.1.0 wrote."""
        if plain["format_version"] == OLDEST_FORMAT_VERSION:
            plain = _convert_oldest(plain)
        model = plain["model"] | {"published": PublishedSettings(**plain["model"]["published"])}
        info = cls(
            model=ModelSettings(**model),
            data=DataSettings(**plain["data"]),
            frozen_dtype=plain["frozen_dtype"],
            precision=plain["precision"],
            sha256=dict(plain["sha256"]),
            config=BertConfig(**plain["config"]),
            label_names=list(plain["label_names"]),
            settings=dict(plain["settings"]),
            vocabulary=list(plain["vocabulary"]),
        )
        if info.frozen_dtype not in FROZEN_DTYPES:
            raise InputError(f"frozen_dtype={info.frozen_dtype!r}: choose one of {', '.join(FROZEN_DTYPES)}")
        check(info.model, "model.")
        check(info.data, "data.")
        return info


def _convert_oldest(plain: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of format 1 as those of format 2."""
    settings = dict(plain["model"])
    frozen_dtype = settings.pop("frozen_dtype")
    published = plain["pretrained"]
    return plain | {
        "model": settings | {"pretrained": published["name"], "published": published},
        "data": plain["tokenizer"] | plain["reviews"] | plain["batches"],
        "frozen_dtype": frozen_dtype,
        "precision": plain["settings"].get("trainer.precision", "32-true"),
    }


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from disk."""

    path: Path
    info: CheckpointInfo
    parameters: dict[str, Tensor]  # by the classifier's names; all of them if it holds a whole model
    epoch: int | None = None  # counted from 1
    temperature: float | None = None  # dividing the logits by it calibrates them

    def facts(self) -> dict[str, str]:
        """Return what a reader wants to know of a model first, and the test accuracy that its run has measured."""
        facts, accuracy = self.info.facts(epoch=self.epoch), self.test_metrics().get("test/accuracy")
        if accuracy is not None:
            facts["test accuracy"] = f"{100 * accuracy:.1f} %"
        return facts | {"checkpoint": str(self.path)}

    def test_metrics(self) -> dict[str, float]:
        """Return what its run has measured on the test reviews with it, by name."""
        run = self.path.resolve().parents[1]
        found = _read_metrics(run, "metrics") if self.path.stem == _kept(run) else {}
        return {name: value for name, value in found.items() if name.startswith("test/") and isinstance(value, float)}


def find_checkpoint(given: str | Path) -> Path:
    """Return the checkpoint file that is meant by a file, a run's folder, or `latest`, the newest training run.

    Raise `InputError` for a folder without a checkpoint.
    """
    path = Path(given).expanduser()
    if str(given) == "latest":
        path = Path("outputs", "latest").resolve()  # a link to the folder of the newest training run
        if not path.is_dir():
            raise InputError("checkpoint=latest: outputs/latest leads to no run; train first, or give a path")
    if not path.is_dir():
        return path
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    for name in (_kept(folder.parent), "best", "last"):
        if (folder / f"{name}.ckpt").is_file():
            return folder / f"{name}.ckpt"
    raise InputError(f"checkpoint={given}: {relative(folder)} has no best.ckpt; give a run's folder or a .ckpt file")


def _kept(run: Path) -> str:
    """Return which checkpoint a run has tested: best, unless there is none or its metrics.json says last."""
    is_last = _read_metrics(run, "settings").get("checkpoint.keep") == "last"
    return "last" if is_last or not (run / "checkpoints" / "best.ckpt").is_file() else "best"


def _read_metrics(run: Path, section: str) -> dict[str, Any]:
    try:
        return dict(json.loads((run / "metrics.json").read_text(encoding="utf-8"))[section])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_raw(path: Path) -> dict[str, Any]:
    """Return everything in a checkpoint file, on the CPU. Raises `InputError` if this project did not write it."""
    try:
        raw: dict[str, Any] = load_archive(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"checkpoint={path}: {error.strerror}") from error
    except Exception as error:  # damaged archives and pickles can raise anything
        raise InputError(f"checkpoint={path}: not readable; it is cut short, damaged, or no checkpoint") from error
    info = raw.get(FORMAT_KEY) if isinstance(raw, dict) else None
    if not isinstance(info, dict) or "state_dict" not in raw:
        raise InputError(f"checkpoint={path}: not written by this project")
    if info.get("format_version") not in (OLDEST_FORMAT_VERSION, FORMAT_VERSION):
        raise InputError(
            f"checkpoint={path}: format {info.get('format_version')!r}; "
            f"this version reads formats {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}"
        )
    if named := next(_find_named_objects(raw, ""), None):
        raise InputError(f"checkpoint={path}: {named}: a checkpoint holds values and must not name objects")
    return raw


def _find_named_objects(node: Any, key: str) -> Iterator[str]:
    """Yield each `_target_`, Hydra's key for an object to make. No code here makes it; a callback's code might."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for last, value in items:
        name = f"{key}.{last}" if key else str(last)
        if last == "_target_":
            yield f"{name}={value!r}"
        yield from _find_named_objects(value, name)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the settings and parameters in a checkpoint file."""
    raw = read_raw(path)
    try:
        info = CheckpointInfo.from_dict(raw[FORMAT_KEY])
        named = {**raw["state_dict"], **raw.get(FROZEN_KEY, {})}
        parameters = {name.removeprefix("classifier."): tensor for name, tensor in named.items()}
        temperature = raw.get(TEMPERATURE_KEY)
        if temperature is not None and not 0 < float(temperature) < math.inf:
            raise ValueError(f"{TEMPERATURE_KEY}={temperature}")
    except (InputError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"checkpoint={path}: its settings are damaged ({error})") from error
    return Checkpoint(path, info, parameters, epoch=epoch_of(raw), temperature=temperature)


def epoch_of(raw: dict[str, Any]) -> int | None:
    """Return the epoch of the weights, counted from 1. Lightning's own `epoch` is one more after the last epoch."""
    try:
        return int(raw["loops"]["fit_loop"]["epoch_progress"]["current"]["started"])
    except (KeyError, TypeError, ValueError):
        return None


def check_resumable(path: Path, info: CheckpointInfo) -> None:
    """Raise `InputError` if a run with these settings, resumed from a checkpoint, would not compute the same steps."""
    earlier = read_checkpoint(path).info
    before, now = (
        each.settings | {"published files": each.sha256, "labels": each.label_names} for each in (earlier, info)
    )
    if before.keys() != now.keys():
        raise InputError(
            f"checkpoint={path}: written by another version of this project or of Lightning; "
            "it can be evaluated and explained, but a run cannot be resumed from it"
        )
    changed = _differences(before, now)  # also of 1 and 1.0, which mean one batch and all batches
    if DIGESTS[0] in changed:
        reviews = _differences(asdict(earlier.data), asdict(info.data))
        changed[DIGESTS[0]] += ": " + (
            ", ".join(f"data.{each}" for each in reviews.values()) or "the files have changed"
        )
    if changed:
        raise InputError(
            f"checkpoint={path}: written by a run with other settings: {'; '.join(changed.values())}: "
            "set them back, or start a new run (in the same folder with overwrite=true)"
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return how two dictionaries differ, by name, in words."""
    return {
        name: f"the {name} are others" if name in DIGESTS else f"{name} was {before[name]!r} and is {now[name]!r}"
        for name in now
        if repr(before[name]) != repr(now[name])
    }


def build_classifier(info: CheckpointInfo) -> ReviewClassifier:
    """Build the classifier of these settings. Its encoder's weights are still random."""
    hidden, attention = info.model.hidden_dropout, info.model.attention_dropout
    dropout: dict[str, Any] = {"hidden_dropout_prob": hidden, "attention_probs_dropout_prob": attention}
    return ReviewClassifier(
        replace(info.config, **{name: share for name, share in dropout.items() if share is not None}),
        num_classes=len(info.label_names),
        trainable_layers=info.model.trainable_layers,
        frozen_dropout=info.model.frozen_dropout,
        frozen_dtype=FROZEN_DTYPES[info.frozen_dtype],
    )


def load_published(classifier: ReviewClassifier, pretrained: Pretrained) -> None:
    """Copy the published weights into the encoder."""
    load_strictly(classifier.bert, read_weights(pretrained.weights_path), source=str(pretrained.weights_path))


def restore(checkpoint: Checkpoint, *, calibrate: bool = False) -> tuple[ReviewClassifier, ReviewTokenizer]:
    """Rebuild the classifier, on the CPU and in eval mode, and its tokenizer.

    `calibrate`: divide its head, and so its logits and what explains them, by the checkpoint's temperature.
    Raises `InputError` if there is no temperature, and if the published weights it was trained on cannot be found, or
    have changed.
    """
    info, parameters = checkpoint.info, checkpoint.parameters
    classifier, vocabulary = build_classifier(info), info.vocabulary
    if not vocabulary:  # not a whole model
        try:
            pretrained = find_pretrained(info.model, sha256=info.sha256)
        except InputError as error:
            raise InputError(f"checkpoint={checkpoint.path}: holds what was trained, not all: {error}") from error
        vocabulary = pretrained.vocabulary
        load_published(classifier, pretrained)
        trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
        frozen = {name: tensor for name, tensor in classifier.state_dict().items() if name not in trained}
        parameters = frozen | parameters
    load_strictly(classifier, parameters, source=f"checkpoint={checkpoint.path}")
    if calibrate:
        if checkpoint.temperature is None:
            raise InputError(f"calibrate=true: the run of {checkpoint.path} had no validation reviews to calibrate by")
        for parameter in classifier.head.parameters():
            parameter.data /= checkpoint.temperature
    return classifier.eval(), ReviewTokenizer(vocabulary, info.data)
