"""The one place where configuration becomes objects, and where a model moves to a device."""

import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import hydra.utils
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import Logger
from rich.filesize import decimal
from torch import Tensor

from bertlens.config import EvaluateConfig, ExportConfig, TrainConfig, VisualizeConfig
from bertlens.data.datamodule import ReviewDataModule
from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError
from bertlens.explanations.explainer import Explainer
from bertlens.explanations.selection import Predictions
from bertlens.features.prefix import ComputedBatches
from bertlens.features.rows import FeatureRows
from bertlens.features.settings import FeatureSettings
from bertlens.features.shards import SUFFIX
from bertlens.features.store import FeatureStore, older_stores
from bertlens.model.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    build_classifier,
    find_checkpoint,
    load_published,
    read_checkpoint,
    restore,
)
from bertlens.model.classifier import FrozenPrefix, ReviewClassifier
from bertlens.model.pretrained import Pretrained
from bertlens.model.settings import ModelSettings
from bertlens.run.folder import Run, read_predictions, settings_of_the_steps
from bertlens.run.summary import print_features, say, say_once
from bertlens.system import stopping
from bertlens.system.files import relative, remove_folder
from bertlens.training.callbacks import (
    BestCheckpoint,
    EpochLines,
    LastCheckpoint,
    OneLineBar,
    StopOnRequest,
    check_monitors,
    kept_checkpoint,
    load_weights,
)
from bertlens.training.checkpoint_io import AtomicCheckpointIO
from bertlens.training.module import ReviewModule

log = logging.getLogger(__name__)

PATHS = ("path", "train_file", "validation_file", "test_file")
DEFAULT_PRECISION = "32-true"
FEW_REVIEWS = 1000  # whose predictions take seconds also without stored features


def make_paths_absolute(data: DataSettings) -> DataSettings:
    """Return the settings with whole paths: a checkpoint may be evaluated from another folder."""
    paths = {name: getattr(data, name) for name in PATHS if getattr(data, name) is not None}
    absolute: dict[str, Any] = {name: _absolute(path) for name, path in paths.items()}
    return dataclasses.replace(data, **absolute)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def locate_model(model: ModelSettings) -> ModelSettings:
    """Return the settings with the whole path of a local model."""
    is_local = Path(model.pretrained).expanduser().is_dir()
    return dataclasses.replace(model, pretrained=_absolute(model.pretrained)) if is_local else model


def build_data(config: TrainConfig, pretrained: Pretrained) -> ReviewDataModule:
    """Return the reviews' data module with the tokenizer of a published model."""
    positions = pretrained.config.max_position_embeddings
    if config.data.max_length > positions:
        raise InputError(f"data.max_length={config.data.max_length}: the model has positions for {positions} pieces")
    lowercase = pretrained.lowercase if config.data.lowercase is None else config.data.lowercase
    settings = dataclasses.replace(make_paths_absolute(config.data), lowercase=lowercase)
    if not config.uses_test_reviews:
        settings = dataclasses.replace(settings, test_fraction=0.0)  # nothing reads test reviews, so train keeps all
    return ReviewDataModule(
        settings,
        ReviewTokenizer(pretrained.vocabulary, settings),
        mask_padding=config.model.attention_mask,
        cache=cache_folder(config.cache_dir),
        seed=config.seed,
        fixed_order=bool(config.trainer.overfit_batches),
    )


def cache_folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cache_dir={path!r}: a file, not a folder")
    return folder


def describe_checkpoint(config: TrainConfig, data: ReviewDataModule, pretrained: Pretrained) -> CheckpointInfo:
    """Return what a checkpoint of this run holds besides parameters."""
    return CheckpointInfo(
        model=locate_model(config.model),
        data=data.settings,
        frozen_dtype=config.features.dtype,
        precision=str(config.trainer.precision or DEFAULT_PRECISION),
        sha256=pretrained.sha256,
        config=pretrained.config,
        label_names=data.label_names,
        settings=settings_of_the_steps(config) | {"training reviews": data.digest("train")},
        vocabulary=pretrained.vocabulary,
    )


def build_published_classifier(info: CheckpointInfo, pretrained: Pretrained) -> ReviewClassifier:
    """Return the classifier with its published weights, on the CPU. Seed before: the head is drawn here."""
    classifier = build_classifier(info)
    load_published(classifier, pretrained)
    return classifier


def build_module(config: TrainConfig, classifier: ReviewClassifier, info: CheckpointInfo) -> ReviewModule:
    whole = config.checkpoint.whole_model
    return ReviewModule(
        classifier,
        label_names=info.label_names,
        optimizer=config.optimizer,
        record=info.to_dict(whole_model=whole),
        whole_model=whole,
    )


def use_features(
    config: TrainConfig, data: ReviewDataModule, prefix: FrozenPrefix | None, run: Run, trainer: pl.Trainer
) -> None:
    """Give the data module the stored features of each split, found or built, or the way to compute them per batch.

    With several processes they are built in the data module's `setup`, where all of them are there.
    """
    if prefix is None:
        say_once(run, "features", "not stored: no layer is frozen, or the frozen ones have dropout")
        return
    data.compute = functools.partial(ComputedBatches, prefix=prefix)
    splits = [split for split in data.pieces if split != "test" or config.test]
    num_reviews = sum(len(data.pieces[split]) for split in splits)
    data.num_features = {"found": 0, "computed": num_reviews}
    features, build_only = config.features, config.features.build_only
    if features.cache == "off" and not build_only:
        say_once(run, "features", "not stored: features.cache=off")
        return
    store = build_store(config.cache_dir, prefix, features, tokens_per_batch=config.data.tokens_per_batch)
    if older := older_stores(store.folder):
        log.info("features: not read, because version 0.1.0 wrote them: %s (features.clear=true removes all)", older)
    found = {split: store.find(data.token_rows(split)) for split in splits}
    missing = {split: rows.num_missing for split, rows in found.items() if rows.num_missing}
    is_read_once = config.trainer.max_epochs == 1 and not run.in_sweep and sum(missing.values()) == num_reviews
    if is_read_once and features.cache == "auto" and not build_only:
        say_once(run, "features", "not stored: each review is read once (features.cache=on stores them)")
        return
    say_once(run, "features", _describe_features(found, where=config.cache_dir))
    if missing and prefix.dtype == torch.bfloat16 and prefix.device.type == "cpu" and not _cpu_has_bfloat16():
        log.info("features.dtype=float32 is much faster here: this processor has no bfloat16")

    def build() -> None:
        stopping.pass_on_to(process.pid for process in getattr(trainer.strategy.launcher, "procs", ()))
        num_computed = 0
        try:
            for split in missing:
                num_computed += store.build(found[split], name=split)
        except InputError as error:
            if features.cache == "on" or build_only:
                raise
            log.warning("features: not stored (%s)", error)
        computed = trainer.strategy.reduce(torch.tensor(num_computed, device=prefix.device), reduce_op="sum")
        data.num_features = {"found": num_reviews - sum(missing.values()), "computed": int(computed)}
        data.stored = {split: store.place(rows) for split, rows in found.items() if not rows.num_missing}

    if trainer.world_size > 1 and not build_only:
        data.build = build
    else:
        build()


def _describe_features(found: Mapping[str, FeatureRows], *, where: str) -> str:
    """Return which splits are stored, and which are to be computed."""
    size = sum(rows.num_bytes(rows.missing) for rows in found.values())
    shown: dict[str, list[str]] = {"stored": [], f"to compute ({decimal(size)} in {where})": []}
    stored, to_compute = shown.values()
    for split, rows in found.items():
        some = f" ({rows.num_missing:,} of {len(rows):,})" if rows.num_missing < len(rows) else ""
        (to_compute if rows.num_missing else stored).append(split + some * bool(rows.num_missing))
    return "; ".join(f"{what}: {', '.join(splits)}" for what, splits in shown.items() if splits)


def _cpu_has_bfloat16() -> bool:
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")


def build_store(
    cache_dir: str, prefix: FrozenPrefix, settings: FeatureSettings, *, tokens_per_batch: int
) -> FeatureStore:
    return FeatureStore(features_folder(cache_dir), prefix, settings=settings, tokens_per_batch=tokens_per_batch)


def features_folder(cache_dir: str) -> Path:
    return cache_folder(cache_dir) / "features"


def show_or_clear_features(config: TrainConfig) -> dict[str, Any]:
    """Show what is stored, or remove it; a run that does so does nothing else."""
    folder = features_folder(config.cache_dir)
    if config.features.list:
        print_features(folder)
    if config.features.clear:
        print(f"{remove_folder(folder) / 1e9:.2f} GB of features removed")
    return {}


def find_resumed(config: TrainConfig, run: Run) -> Path | None:
    """Return the checkpoint to go on from: the last one of an unfinished run in the folder, else the one that is named.

    A finished run goes on only if `resume` names its folder.
    """
    is_replaced = config.overwrite and "SLURM_RESTART_COUNT" not in os.environ  # what a requeued job finds is its own
    is_unfinished = not (run.folder / "metrics.json").is_file()
    is_wanted = config.resume is not None and not is_replaced and (is_unfinished or config.resume != "auto")
    if is_wanted and run.last_checkpoint.is_file():
        say("resumed", f"the run in {relative(run.folder)}, from its last.ckpt")
        return run.last_checkpoint
    return None if config.checkpoint.path is None else Path(config.checkpoint.path).expanduser()


def keeps_checkpoints(trainer: Any) -> bool:
    """Return whether a run writes checkpoints: not when Lightning only tries it out, or was told not to."""
    return not (trainer.fast_dev_run or trainer.barebones or trainer.enable_checkpointing is False)


def load_kept(
    config: TrainConfig, run: Run, trainer: pl.Trainer, module: ReviewModule, *, resumed: Path | None
) -> None:
    """Put the weights to test into the module. Raise `InputError` if no step was trained."""
    kept = kept_checkpoint(trainer, config.checkpoint.keep)
    if kept is None:  # fast_dev_run and the like write none: the weights in memory are tested
        return
    if not run.last_checkpoint.is_file():
        limits = ", ".join(f"trainer.{name}={vars(config.trainer)[name]}" for name in ("max_epochs", "max_steps"))
        cause = f"checkpoint={resumed} is that far already" if resumed is not None else "trainer.limit_train_batches?"
        raise InputError(f"{limits}: no step was trained ({cause}); raise the limits")
    load_weights(module, kept)


def build_trainer(config: TrainConfig, run: Run, *, resumed: Path | None) -> pl.Trainer:
    """Return the Trainer of a training run, with its callbacks and loggers."""
    options = vars(config.trainer) | {"default_root_dir": config.trainer.default_root_dir or str(run.folder)}
    callbacks = [_make(f"callbacks.{name}", node, pl.Callback) for name, node in config.callbacks.items()]
    loggers = [_make(f"logger.{name}", node, Logger) for name, node in config.logger.items()]
    if config.trainer.overfit_batches:  # Lightning's own way needs samplers that it can replace
        options |= dict.fromkeys(("limit_train_batches", "limit_val_batches"), config.trainer.overfit_batches)
        options["overfit_batches"] = 0.0
    if not config.data.has_validation_reviews:
        options["limit_val_batches"] = 0
    if config.trainer.barebones:  # Lightning then refuses all that takes time besides the steps
        loggers = []
        unset = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
        options |= dict.fromkeys((*unset, "num_sanity_val_steps"))
    check_monitors(callbacks)
    if not loggers:  # it has nowhere to write to, and Lightning refuses it
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    if keeps_checkpoints(config.trainer):
        if config.data.has_validation_reviews:
            callbacks.append(BestCheckpoint(run.checkpoints, resumed=resumed))
        callbacks.append(LastCheckpoint(run.checkpoints, every_n_steps=config.checkpoint.every_n_steps))
    else:
        options["enable_checkpointing"] = False
    callbacks.append(EpochLines(every=config.print_every))
    if config.print_every is not None:
        options["enable_progress_bar"] = False
    trainer = make_trainer(options, callbacks, loggers)
    if run.in_sweep and trainer.world_size > 1 and trainer.strategy.launcher and not SLURMEnvironment.detect():
        raise InputError(
            f"trainer.devices={config.trainer.devices}: a job of a sweep runs in one process, because Lightning would "
            "start the whole sweep again; set trainer.devices=1, or run the jobs under SLURM"
        )
    return trainer


def _make(key: str, node: Any, kind: type) -> Any:
    """Return the object that a part of the configuration names by its _target_."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise InputError(f"{key}: needs a _target_, such as {kind.__module__}.{kind.__name__}")
    try:
        made = hydra.utils.instantiate(node)
    except (InstantiationException, ModuleNotFoundError) as error:
        # a missing package's own message names its `pip install`
        raise InputError(f"{key}: {' '.join(str(error.__cause__ or error).split())}") from error
    if not isinstance(made, kind):
        raise InputError(f"{key}: {node['_target_']} is no {kind.__name__} of Lightning's")
    return made


def make_trainer(options: Mapping[str, Any], callbacks: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    """Return a Trainer. Raise `InputError` for whatever Lightning refuses."""
    has_bar = options.get("enable_progress_bar")
    if has_bar is None:  # in a log file, a bar would be a line per change
        has_bar = sys.stdout.isatty() and not options.get("barebones")
    if has_bar:
        callbacks = [*callbacks, OneLineBar(refresh_rate=5)]
    plugins: list[Any] = [AtomicCheckpointIO()]
    try:
        if SLURMEnvironment.detect():
            plugins.append(SLURMEnvironment(auto_requeue=False))  # whatever has submitted the job does it
        return pl.Trainer(
            **{**options, "enable_progress_bar": has_bar},
            callbacks=[*callbacks, StopOnRequest()],
            logger=loggers or False,
            plugins=plugins,
            use_distributed_sampler=False,  # the samplers divide the reviews themselves
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        named = [f"trainer.{name}={value}" for name, value in options.items() if name in line]
        hardware = [f"trainer.{name}={options[name]}" for name in ("accelerator", "devices", "strategy", "precision")]
        raise InputError(f"{', '.join(named or hardware)}: {line}") from error


def move(classifier: ReviewClassifier, device: torch.device) -> None:
    """Move a model to the device of a Trainer: the one place where this is done for the frozen part."""
    classifier.to(device)
    if classifier.prefix is not None:
        classifier.prefix.to(device)


def evaluation_data(
    config: EvaluateConfig | VisualizeConfig | ExportConfig,
    info: CheckpointInfo,
    tokenizer: ReviewTokenizer,
    reviews: datasets.DatasetDict | None = None,
) -> ReviewDataModule:
    """Return the test reviews of a checkpoint's run, or others where they are given or the configuration names them."""
    defaults = vars(type(config.data)())
    given: dict[str, Any] = {name: value for name, value in vars(config.data).items() if value != defaults[name]}
    if "test_file" in given:
        given |= {"source": "files", "path": None}
    elif "path" in given:
        given |= {"source": "local"}
    return ReviewDataModule(
        dataclasses.replace(info.data, **given),
        tokenizer,
        mask_padding=info.model.attention_mask,
        cache=cache_folder(config.cache_dir),
        seed=info.data.seed,
        known_labels=info.label_names,
        reviews=reviews,
    )


def build_other(config: EvaluateConfig, data: ReviewDataModule) -> tuple[Callable[[], Tensor], Explainer | None]:
    """Return what gives the probabilities [R, C] of `config.against`, and its explainer if it is a checkpoint.

    Raises `InputError` for a checkpoint or predictions of other labels, and for predictions of other reviews.
    """
    assert config.against is not None
    path = Path(config.against).expanduser()
    if path.suffix == ".parquet":
        probabilities = read_predictions(path, data.reviews["test"]["text"][:], data.label_names)
        return lambda: probabilities, None
    checkpoint = read_checkpoint(find_checkpoint(config.against))
    classifier, tokenizer = restore(checkpoint)
    other = evaluation_data(config, checkpoint.info, tokenizer, reviews=data.reviews)
    other.setup("test")
    explainer = Explainer(classifier, tokenizer, checkpoint.info, methods=config.faithfulness.methods)
    return lambda: measure(config, classifier, checkpoint, other).test_result[2], explainer


def measure(
    config: EvaluateConfig | VisualizeConfig,
    classifier: ReviewClassifier,
    checkpoint: Checkpoint,
    data: ReviewDataModule,
) -> ReviewModule:
    """Return the module after it has measured the test split, from stored features where a run left some."""
    info = checkpoint.info
    module = ReviewModule(classifier, label_names=info.label_names)
    module.temperature, module.is_calibrated = checkpoint.temperature, config.calibrate
    options = vars(config.trainer) | {"precision": config.trainer.precision or info.precision}
    # not the current folder, from which Lightning would take a stray hpc_ckpt within a SLURM job
    options["default_root_dir"] = config.trainer.default_root_dir or config.cache_dir
    trainer = make_trainer(options | {"enable_checkpointing": False}, [], [])
    move(classifier, trainer.strategy.root_device)
    prefix = classifier.prefix
    if prefix is not None:
        data.compute = functools.partial(ComputedBatches, prefix=prefix)
        store, found = _find_test(config, prefix, data)
        data.stored = {} if found.num_missing else {"test": store.place(found)}
        num_found = 0 if found.num_missing else len(found)
        data.num_features = {"found": num_found, "computed": len(found) - num_found}
    trainer.test(module, data, verbose=False)
    move(classifier, trainer.strategy.root_device)  # Lightning moves the module, and so the suffix, to the CPU
    return module


def _find_test(
    config: EvaluateConfig | VisualizeConfig, prefix: FrozenPrefix, data: ReviewDataModule
) -> tuple[FeatureStore, FeatureRows]:
    """Return the test reviews as a run has stored them, at any depth, and where."""
    data.setup("test")
    tokens_per_batch = data.settings.tokens_per_batch
    store = build_store(config.cache_dir, prefix, FeatureSettings(), tokens_per_batch=tokens_per_batch)
    return store, store.find(data.token_rows("test"), lowest=0)


def predict_split(
    config: VisualizeConfig, classifier: ReviewClassifier, checkpoint: Checkpoint, data: ReviewDataModule
) -> Callable[[], Predictions] | None:
    """Return what measures the test split; None if a sample would gain by it but would have to wait for it."""
    if config.reviews == "sample" and config.indices is None and len(data.reviews["test"]) > FEW_REVIEWS:
        prefix, shards = classifier.prefix, features_folder(config.cache_dir).glob(f"*/*{SUFFIX}")
        if prefix is None or not any(shards) or _find_test(config, prefix, data)[1].num_missing:
            return None
    return lambda: measure(config, classifier, checkpoint, data).test_result
