"""The typed schema of conf/: what each key means, what type it has, and the checks across keys.

The values live in conf/ alone, the meanings here alone. A key that is in one and not in the other is an error.
"""

import dataclasses
import difflib
import math
import os
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bertlens.errors import InputError
from bertlens.explanations.selection import CHOICES
from bertlens.targets import forbidden_names

CONF = Path(__file__).resolve().parents[2] / "conf"


def key(meaning: str) -> Any:
    """A setting: its value comes from conf/, its meaning is shown by --help."""
    return field(default=MISSING, metadata={"meaning": meaning})


def section(kind: type) -> Any:
    return field(default_factory=kind)


@dataclass
class DataConfig:
    source: str = key("where reviews come from: hub, local, files or demo")
    path: str | None = key(
        "local reviews instead of the source: a folder of Parquet files, the aclImdb folder, or aclImdb_v1.tar.gz"
    )
    hub_name: str = key("the data set's name on the hub")
    hub_revision: str = key("the commit of the data set that is read")
    train_file: str | None = key("own reviews (data=files): .tsv, .csv, .jsonl or .parquet")
    validation_file: str | None = key("own validation reviews; null: a part of the training reviews")
    test_file: str | None = key("own test reviews")
    text_column: str = key("the column with the text")
    label_column: str = key("the column with the label")
    header: bool = key("whether the first line of a .tsv or .csv names the columns; if not, they are named 0, 1, ...")
    max_reviews: int | None = key("at most so many reviews of each split, every class in its share; null: all")
    validation_fraction: float = key("share of the training reviews kept for validation where the source has none")
    seed: int = key("decides the validation split, max_reviews and the demo's reviews")
    num_demo_reviews: int = key("how many reviews the demo writes")
    cleaning: str = key("notebook: drop <br />, replace punctuation but . and , by spaces; none: as BERT does")
    lowercase: bool | None = key("null: as the published model says")
    truncation: str = key("which part of a long review is kept: head, tail or head_tail")
    max_length: int = key("word pieces a review, [CLS] and [SEP] included")
    batch_size: int = key("reviews a training step and process")
    tokens_per_batch: int = key("word pieces a batch where no gradient is needed: validation, test, features")
    padding: str = key("longest: a batch is as long as its longest review; max_length: always max_length")


@dataclass
class PublishedConfig:
    name: str = key("the model these pins are of; they apply while model.pretrained is this name")
    revision: str = key("the commit of the model on the hub")
    package: str | None = key("an installed package that carries the same files")
    sha256: dict[str, str] = key("file name: SHA-256, checked before the file is read")


@dataclass
class ModelConfig:
    pretrained: str = key("a hub name, or a folder with config.json, vocab.txt and model.safetensors")
    published: PublishedConfig = section(PublishedConfig)
    trainable_layers: Any = key("encoder layers trained, from the top: 0 (head only) to all of them, or all")
    attention_mask: bool = key("false: padding is attended to as if it were text (the notebook's way)")
    frozen_dropout: bool = key("true: dropout also in layers that are not trained (the notebook's way)")
    compile: bool = key("let torch.compile fuse the frozen layers: faster, after a start-up of about a minute")


@dataclass
class OptimizerConfig:
    lr: float = key("Adam's learning rate")
    head_lr: float | None = key("the linear head's own learning rate; null: lr")
    weight_decay: float = key("decoupled weight decay (AdamW); 0 is Adam")
    schedule: str = key("constant, or linear: down to 0 at the last step")
    warmup: float = key("share of all steps over which the learning rate rises from 0")


@dataclass
class HardwareConfig:
    accelerator: str = key("auto, cpu, gpu or mps")
    devices: Any = key("how many devices, which (a list), or auto")
    strategy: str = key("auto, ddp, ...: see Lightning's Trainer")
    num_nodes: int = key("machines")
    precision: str = key("of the trained part: 32-true, bf16-mixed, 16-mixed")


@dataclass
class TrainerConfig(HardwareConfig):
    max_epochs: int = key("passes over the training reviews")
    max_steps: int = key("stop after so many steps; -1: no limit")
    accumulate_grad_batches: int = key("batches a step")
    gradient_clip_val: float | None = key("largest norm of the gradient; null: no limit")
    limit_train_batches: float | None = key("train on this share of the batches; null: all")
    log_every_n_steps: int = key("steps between two points of the training loss in TensorBoard")
    deterministic: bool = key("only algorithms that give the same bits every time (slower on a GPU)")
    enable_progress_bar: bool = key("show progress")


@dataclass
class CheckpointConfig:
    path: str | None = key("go on from this checkpoint; checkpoint=PATH is short for it")
    keep: str = key("which epoch's weights are tested and reported: best (by validation accuracy) or last")
    every_n_steps: int | None = key("save last.ckpt also every so many steps, not only after each epoch; null: no")
    whole_model: bool = key("save all parameters and the vocabulary, not only what was trained")


@dataclass
class FeaturesConfig:
    cache: str = key("keep what the frozen layers compute: auto (where it saves time), on or off")
    dtype: str = key("number format of the frozen layers and of what is stored: bfloat16, or float32 for the exact one")
    max_trainable_layers: int | None = key("let runs that train up to so many layers share the store; sweeps set it")
    max_gb: float | None = key("largest size of all stores together, least recently used removed first; null: no limit")
    device: str = key("auto: in the GPU's memory where they fit; cpu: always from the file")
    clear: bool = key("remove all stores and stop")


@dataclass
class TrainConfig:
    data: DataConfig = section(DataConfig)
    model: ModelConfig = section(ModelConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    trainer: TrainerConfig = section(TrainerConfig)
    features: FeaturesConfig = section(FeaturesConfig)
    checkpoint: CheckpointConfig = section(CheckpointConfig)
    callbacks: dict[str, Any] = key("Lightning callbacks by name, each with its _target_")
    resume: str | None = key("auto: go on from the last.ckpt of the run's folder (see hydra.run.dir), if there is one")
    seed: int = key("decides the head's first weights, the order of reviews and dropout")
    test: bool = key("measure the test reviews at the end")
    report: bool = key("write report.html at the end: the first 64 test reviews and what their verdicts rest on")
    print_every: int | None = key("print loss, seconds and batch accuracy every so many iterations; null: never")
    cache_dir: str = key("where word pieces and features are kept between runs")


@dataclass
class EvaluateDataConfig:
    path: str | None = key("other reviews than the checkpoint's: a local folder; null: the checkpoint's")
    test_file: str | None = key("other reviews than the checkpoint's: a file of one's own")
    text_column: str | None = key("the column with the text; null: the checkpoint's")
    label_column: str | None = key("the column with the label; null: the checkpoint's")
    max_reviews: int | None = key("at most so many reviews; null: as many as the checkpoint's run")
    tokens_per_batch: int | None = key("word pieces a batch; null: the checkpoint's")


@dataclass
class EvaluateConfig:
    checkpoint: str = key("the checkpoint to evaluate, such as outputs/train/<date>/<time>/checkpoints/best.ckpt")
    data: EvaluateDataConfig = section(EvaluateDataConfig)
    trainer: HardwareConfig = section(HardwareConfig)
    report: bool = key("write report.html: the first 64 test reviews and what their verdicts rest on")
    cache_dir: str = key("where word pieces and features are kept between runs")


@dataclass
class ReportConfig:
    layers: str = key("last: attention of the last layer; all: of every layer, and rollout")


@dataclass
class VisualizeConfig:
    checkpoint: str = key("the checkpoint to explain, such as outputs/train/<date>/<time>/checkpoints/best.ckpt")
    reviews: str = key("which test reviews: first, wrong, right, uncertain or random")
    indices: list[int] | None = key("these test reviews instead, by their place: indices=[0,3]")
    text: Any = key("a text of your own instead, or a list of them")
    file: str | None = key("a file of your own instead, a review a line")
    count: int = key("how many reviews")
    seed: int = key("decides which reviews reviews=random draws")
    report: ReportConfig = section(ReportConfig)
    data: EvaluateDataConfig = section(EvaluateDataConfig)
    trainer: HardwareConfig = section(HardwareConfig)
    cache_dir: str = key("where word pieces and features are kept between runs")


SCHEMAS: dict[str, type] = {"train": TrainConfig, "evaluate": EvaluateConfig, "visualize": VisualizeConfig}

# fmt: off
# what decides every step of a run: a checkpoint is resumed only under the same. Where reviews and weights lie is not
# here, because a checkpoint knows what they are
DECISIVE = (
    "data.validation_fraction", "data.seed", "data.cleaning", "data.lowercase", "data.truncation", "data.max_length",
    "data.batch_size", "data.padding", "model.trainable_layers", "model.attention_mask", "model.frozen_dropout",
    "optimizer.lr", "optimizer.head_lr", "optimizer.weight_decay", "optimizer.schedule", "optimizer.warmup",
    "trainer.devices", "trainer.num_nodes", "trainer.precision", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val", "trainer.limit_train_batches", "features.dtype", "seed",
)
# what changes nothing that a run leaves behind
WITHOUT_EFFECT = (
    "checkpoint.every_n_steps", "features.cache", "features.max_trainable_layers", "features.max_gb",
    "features.device", "features.clear", "trainer.enable_progress_bar", "print_every", "resume", "cache_dir",
)
# fmt: on

# numbers of a training run: the least that makes sense, and what else may stand there
LEAST = (
    ("seed", 0, ""),
    ("print_every", 1, ", or null for never"),
    ("trainer.max_epochs", 1, ""),
    ("trainer.accumulate_grad_batches", 1, ""),
    ("trainer.log_every_n_steps", 1, ""),
    ("trainer.num_nodes", 1, ""),
    ("checkpoint.every_n_steps", 1, ", or null for once an epoch"),
    ("features.max_trainable_layers", 0, ", or null"),
)
MAX_SEED = 2**32 - 1  # NumPy's

Settings = TypeVar("Settings")


def typed(composed: DictConfig, schema: type[Settings]) -> Settings:
    """The composed configuration as an object of the schema. Raises `InputError` naming the key that does not fit."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), composed)
        missing = OmegaConf.missing_keys(merged)
        if missing:
            names = ", ".join(sorted(missing))
            raise InputError(f"{names}: no value; give one on the command line, such as {min(missing)}=...")
        config: Settings = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise InputError("a value is an interpolation, ${...}, of itself: give it a value of its own") from error
    if problems := list(_no_values(config)):
        raise InputError("; ".join(problems))
    return config


def _no_values(settings: Any, prefix: str = "") -> Iterator[str]:
    """Values that fit the type and say nothing: empty texts, numbers that are none."""
    for part in dataclasses.fields(settings):
        name, value = prefix + part.name, getattr(settings, part.name)
        if dataclasses.is_dataclass(value):
            yield from _no_values(value, f"{name}.")
        elif part.type is not Any and isinstance(value, str) and not value.strip():
            yield f"{name}={value}: empty; give it a value or leave it out"
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{name}={value}: give a finite number"


def _out_of_range(config: TrainConfig) -> Iterator[str]:
    for name, least, otherwise in LEAST:
        value = attrgetter(name)(config)
        if value is not None and value < least:
            yield f"{name}={value}: at least {least}{otherwise}"
    if config.seed > MAX_SEED:
        yield f"seed={config.seed}: at most {MAX_SEED}"
    trainer = config.trainer
    if trainer.max_steps < 1 and trainer.max_steps != -1:
        yield f"trainer.max_steps={trainer.max_steps}: at least 1, or -1 for no limit"
    if trainer.gradient_clip_val is not None and trainer.gradient_clip_val <= 0:
        yield f"trainer.gradient_clip_val={trainer.gradient_clip_val}: must be positive, or null for no limit"
    share = trainer.limit_train_batches
    if share is not None and not 0 < share <= 1:
        yield f"trainer.limit_train_batches={share}: a share of the batches, over 0 and at most 1, or null for all"
    if isinstance(config.model.trainable_layers, bool):
        yield f"model.trainable_layers={config.model.trainable_layers}: give the number of layers, or all"


def hardware_problems(trainer: HardwareConfig) -> Iterator[str]:
    """What Lightning would take for a wish: it starts as many processes as it is told."""
    devices = trainer.devices
    most = max(2, os.cpu_count() or 1)
    if isinstance(devices, bool) or not isinstance(devices, int):
        return
    if devices < 1 and devices != -1:
        yield f"trainer.devices={devices}: at least 1, or auto"
    if devices > most and trainer.accelerator in ("auto", "cpu"):
        yield f"trainer.devices={devices}: this machine has {os.cpu_count()} processors, so {most} at most"


def check_train(config: TrainConfig) -> None:
    """What only several keys together can get wrong. Raises one `InputError` with all of it."""
    data, model, trainer = config.data, config.model, config.trainer
    problems = [*_out_of_range(config), *hardware_problems(trainer)]
    if not model.attention_mask and data.padding != "max_length":
        problems.append(
            "model.attention_mask=false needs data.padding=max_length, or a verdict depends on the batch's longest"
        )
    if config.features.dtype not in ("bfloat16", "float32"):
        problems.append(f"features.dtype={config.features.dtype!r}: choose bfloat16 or float32")
    if config.features.cache == "on" and (model.frozen_dropout or model.trainable_layers == "all"):
        problems.append(
            "features.cache=on needs frozen layers without dropout: what they compute must be the same always"
        )
    if config.resume not in (None, "auto"):
        problems.append(f"resume={config.resume!r}: choose auto or null; checkpoint=PATH names a checkpoint")
    if config.checkpoint.keep not in ("best", "last"):
        problems.append(f"checkpoint.keep={config.checkpoint.keep!r}: choose best or last")
    problems += [
        f"callbacks.{name}: needs a _target_, such as pytorch_lightning.callbacks.Timer"
        for name, settings in config.callbacks.items()
        if not isinstance(settings, dict) or "_target_" not in settings
    ]
    problems += forbidden_names(config.callbacks, "callbacks")
    if problems:
        raise InputError("; ".join(problems))


def check_evaluate(config: EvaluateConfig) -> None:
    """Raises one `InputError` with all that the configuration alone has wrong."""
    if problems := list(hardware_problems(config.trainer)):
        raise InputError("; ".join(problems))


def check_visualize(config: VisualizeConfig) -> None:
    """What only several keys together can get wrong. Raises one `InputError` with all of it."""
    problems = list(hardware_problems(config.trainer))
    if config.reviews not in CHOICES:
        problems.append(f"reviews={config.reviews!r}: choose one of {', '.join(CHOICES)}")
    given = [name for name in ("indices", "text", "file") if getattr(config, name) is not None]
    if len(given) > 1:
        problems.append(f"{' and '.join(given)}: give one of them")
    if config.count < 1:
        problems.append(f"count={config.count}: at least 1")
    if config.seed < 0:
        problems.append(f"seed={config.seed}: at least 0")
    if config.report.layers not in ("last", "all"):
        problems.append(f"report.layers={config.report.layers!r}: choose last or all")
    if problems:
        raise InputError("; ".join(problems))


def keys_of(schema: type, prefix: str = "") -> dict[str, str]:
    """Every key of a schema, dotted, with its meaning."""
    found: dict[str, str] = {}
    for part in dataclasses.fields(schema):
        kind = typing.get_type_hints(schema)[part.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            found |= keys_of(kind, f"{prefix}{part.name}.")
        else:
            found[prefix + part.name] = part.metadata["meaning"]
    return found


def values_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every key of a configuration, dotted, with its value."""
    found: dict[str, Any] = {}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            found |= values_of(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def nearest_key(name: str, schema: type) -> str | None:
    """The key a misspelt one was probably meant to be."""
    known = list(keys_of(schema))
    by_last = {k.rsplit(".", 1)[-1]: k for k in known}
    if name in by_last:
        return by_last[name]
    close = difflib.get_close_matches(name, known, n=1)
    return close[0] if close else None
