"""The one place where configuration becomes objects. Behind it nothing knows of Hydra."""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import hydra.utils
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from bertlens.config import DECISIVE, EvaluateConfig, ModelConfig, TrainConfig, VisualizeConfig, check_train, values_of
from bertlens.data.batching import BatchSettings, TokenRows
from bertlens.data.datamodule import SPLITS, ReviewDataModule
from bertlens.data.reviews import ReviewSettings, check_reviews
from bertlens.data.tokenizer import ReviewTokenizer, TokenizerSettings
from bertlens.errors import InputError
from bertlens.features.store import ComputedBatches, FeatureRows, FeatureSettings, FeatureStores
from bertlens.model.checkpoint import (
    AtomicCheckpointIO,
    CheckpointInfo,
    ModelSettings,
    build_classifier,
    load_published,
)
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.pretrained import Pretrained, PretrainedSettings
from bertlens.run.folder import relative
from bertlens.training.callbacks import BestCheckpoint, IterationLines, LastCheckpoint
from bertlens.training.module import ReviewModule
from bertlens.training.optim import OptimizerSettings

log = logging.getLogger(__name__)

Settings = TypeVar("Settings")

HARDWARE = ("accelerator", "devices", "strategy", "precision")
REVIEW_PATHS = ("path", "train_file", "validation_file", "test_file")


def settings(kind: type[Settings], config: Any, **given: Any) -> Settings:
    """The fields of `kind` as `config` has them under the same names; `given` ones as given."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in vars(config).items() if name in names} | given)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def pretrained_settings(config: ModelConfig) -> PretrainedSettings:
    """Where the weights come from; the pins apply to the model they were made for."""
    if Path(config.pretrained).expanduser().is_dir():
        return PretrainedSettings(name=str(_absolute(config.pretrained)))
    if config.pretrained != config.published.name:
        return PretrainedSettings(name=config.pretrained)
    return settings(PretrainedSettings, config.published)


def tokenizer(config: TrainConfig, pretrained: Pretrained) -> ReviewTokenizer:
    positions = pretrained.config.max_position_embeddings
    if config.data.max_length > positions:
        raise InputError(f"data.max_length={config.data.max_length}: the model has positions for {positions} pieces")
    lowercase = pretrained.lowercase if config.data.lowercase is None else config.data.lowercase
    return ReviewTokenizer(pretrained.vocabulary, settings(TokenizerSettings, config.data, lowercase=lowercase))


def check(config: TrainConfig) -> None:
    """Raises one `InputError` with all that the configuration alone has wrong, before anything is read."""
    problems = []
    for part in (
        lambda: check_train(config),
        lambda: check_reviews(_review_settings(config)),
        lambda: settings(TokenizerSettings, config.data, lowercase=True),
        lambda: settings(BatchSettings, config.data),
        lambda: settings(OptimizerSettings, config.optimizer),
        lambda: settings(FeatureSettings, config.features),
        lambda: _check_folder("cache_dir", config.cache_dir),
    ):
        try:
            part()
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))


def _check_folder(key: str, path: str) -> None:
    if Path(path).exists() and not Path(path).is_dir():
        raise InputError(f"{key}={path!r}: a file, not a folder")


def _review_settings(config: TrainConfig) -> ReviewSettings:
    # whole paths: a checkpoint may be evaluated from another folder
    paths = {name: _absolute(getattr(config.data, name)) for name in REVIEW_PATHS}
    return settings(ReviewSettings, config.data, **paths)


def datamodule(config: TrainConfig, tokenizer: ReviewTokenizer) -> ReviewDataModule:
    return ReviewDataModule(
        _review_settings(config),
        tokenizer,
        settings(BatchSettings, config.data),
        mask_padding=config.model.attention_mask,
        cache=Path(config.cache_dir),
        seed=config.seed,
    )


def module(config: TrainConfig, data: ReviewDataModule, pretrained: Pretrained) -> ReviewModule:
    """The classifier with its published weights, ready to train. Seed before: the head is drawn here."""
    values = values_of(config)
    info = CheckpointInfo(
        pretrained=pretrained_settings(config.model),
        sha256=pretrained.sha256,
        config=pretrained.config,
        model=settings(ModelSettings, config.model, frozen_dtype=config.features.dtype),
        tokenizer=data.tokenizer.settings,
        reviews=data.review_settings,
        batches=data.batches,
        label_names=data.label_names,
        settings={name: values[name] for name in DECISIVE} | {"training reviews": data.digest("train")},
        vocabulary=pretrained.vocabulary,
    )
    classifier = build_classifier(info)
    load_published(classifier, pretrained)
    if config.model.compile:
        classifier.compile_prefix()
    return ReviewModule(
        classifier,
        info=info,
        optimizer=settings(OptimizerSettings, config.optimizer),
        whole_model=config.checkpoint.whole_model,
    )


def features(
    config: TrainConfig, module: ReviewModule, data: ReviewDataModule, device: torch.device, *, sweeping: bool
) -> dict[str, FeatureRows]:
    """The stored features of each split, found or built; empty where the run computes them as it goes."""
    data.compute = computed_features(module, device)
    chosen = config.features.cache
    classifier = module.classifier
    if chosen == "off" or classifier.frozen_depth is None or classifier.frozen_dropout:
        reason = (
            "features.cache=off" if chosen == "off" else "no layer is frozen, or dropout is live in the frozen ones"
        )
        log.info("features: not stored (%s)", reason)
        return {}
    stores = _stores(config.cache_dir, module, data, device, settings(FeatureSettings, config.features))
    splits = [split for split in SPLITS if split != "test" or config.test]
    rows = {split: data.token_rows(split) for split in splits}
    found = {split: stores.find(rows[split]) for split in splits}
    if None not in found.values():
        log.info("features: read from the store, nothing to compute")
    elif chosen == "auto" and config.trainer.max_epochs == 1 and not sweeping:
        log.info("features: not stored (a single pass over the data; features.cache=on stores them for later runs)")
        return {}
    else:
        passes = "a sweep" if sweeping else f"{config.trainer.max_epochs} epochs"
        log.info("features: stored (features.cache=%s, %s)", chosen, passes)
    try:
        return {split: found[split] or stores.find_or_build(rows[split], name=split) for split in splits}
    except InputError as error:
        if chosen == "on":
            raise
        log.warning("features: not stored (%s)", error)
        return {}


def measured(
    config: EvaluateConfig | VisualizeConfig, classifier: ReviewClassifier, info: CheckpointInfo, data: ReviewDataModule
) -> ReviewModule:
    """The module after it has measured the test split, from stored features where a run left some."""
    module = ReviewModule(classifier, info=info)
    trainer = _trainer(dataclasses.asdict(config.trainer), [], logger=False)
    device = trainer.strategy.root_device
    data.stored = stored_features(config.cache_dir, module, data, device)
    data.compute = computed_features(module, device)
    trainer.test(module, data, verbose=False)
    return module


def computed_features(
    module: ReviewModule, device: torch.device
) -> Callable[[TokenRows, list[list[int]]], ComputedBatches] | None:
    """How a data module passes over reviews that are in no store; None where nothing is frozen, or not constant."""
    classifier = module.classifier.to(device)
    if classifier.frozen_depth is None or classifier.frozen_dropout:
        return None
    return partial(ComputedBatches, classifier=classifier, device=device)


def stored_features(
    cache_dir: str, module: ReviewModule, data: ReviewDataModule, device: torch.device
) -> dict[str, FeatureRows]:
    """The test split's features where a run left them; nothing is built for a single pass."""
    if module.classifier.frozen_depth is None or module.classifier.frozen_dropout:
        return {}
    found = _stores(cache_dir, module, data, device, FeatureSettings()).find(data.token_rows("test"))
    return {} if found is None else {"test": found}


def _stores(
    cache_dir: str, module: ReviewModule, data: ReviewDataModule, device: torch.device, chosen: FeatureSettings
) -> FeatureStores:
    return FeatureStores(
        features_folder(cache_dir),
        module.classifier.to(device),
        settings=chosen,
        device=device,
        tokens_per_batch=data.batches.tokens_per_batch,
    )


def features_folder(cache_dir: str) -> Path:
    return Path(cache_dir) / "features"


def resumed_checkpoint(config: TrainConfig, run_folder: Path) -> Path | None:
    """The checkpoint to go on from: with resume=auto the run folder's last, else the one that is named."""
    last = checkpoint_folder(run_folder) / "last.ckpt"
    if config.resume == "auto":
        if last.is_file():
            return last
        log.info(
            "resume=auto: there is no %s yet, so this run starts at %s",
            relative(last),
            config.checkpoint.path or "step 0",
        )
    return None if config.checkpoint.path is None else Path(config.checkpoint.path).expanduser()


def checkpoint_folder(run_folder: Path) -> Path:
    return run_folder / "checkpoints"


def trainer(config: TrainConfig, run_folder: Path, *, resumed: Path | None) -> pl.Trainer:
    folder = checkpoint_folder(run_folder)
    callbacks = [_callback(name, settings) for name, settings in config.callbacks.items()]
    callbacks += [
        BestCheckpoint(folder, resumed=resumed),
        LastCheckpoint(folder, every_n_steps=config.checkpoint.every_n_steps),
    ]
    if config.print_every is not None:
        callbacks.append(IterationLines(every=config.print_every))
    logger = TensorBoardLogger(run_folder, name="tensorboard", version="", default_hp_metric=False)
    options = dataclasses.asdict(config.trainer)
    options["enable_progress_bar"] &= config.print_every is None
    return _trainer(options, callbacks, logger=logger)


def _callback(name: str, settings: Any) -> pl.Callback:
    try:
        callback: pl.Callback = hydra.utils.instantiate(settings)
    except InstantiationException as error:
        raise InputError(f"callbacks.{name}: {error.__cause__ or error}") from error
    return callback


def _trainer(options: dict[str, Any], callbacks: list[pl.Callback], *, logger: Any) -> pl.Trainer:
    if options.get("enable_progress_bar", True):
        callbacks = [*callbacks, RichProgressBar(refresh_rate=10)]
    try:
        return pl.Trainer(
            **options,
            callbacks=callbacks,
            logger=logger,
            plugins=[AtomicCheckpointIO()],
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        chosen = ", ".join(f"trainer.{name}={options[name]}" for name in HARDWARE)
        raise InputError(f"{chosen}: {str(error).splitlines()[0]}") from error


def evaluation_data(
    config: EvaluateConfig | VisualizeConfig, info: CheckpointInfo, tokenizer: ReviewTokenizer
) -> ReviewDataModule:
    """The test reviews of a checkpoint's run, or others where the configuration names them."""
    given = {name: value for name, value in vars(config.data).items() if value is not None}
    _check_folder("cache_dir", config.cache_dir)
    if "test_file" in given and "path" in given:
        raise InputError(f"data.path={given['path']!r} and data.test_file exclude each other: leave one out")
    tokens_per_batch = given.pop("tokens_per_batch", info.batches.tokens_per_batch)
    if "test_file" in given:
        given |= {"source": "files", "path": None}
    elif "path" in given:
        given |= {"source": "local"}
    return ReviewDataModule(
        dataclasses.replace(info.reviews, **given),
        tokenizer,
        dataclasses.replace(info.batches, tokens_per_batch=tokens_per_batch),
        mask_padding=info.model.attention_mask,
        cache=Path(config.cache_dir),
        seed=info.reviews.seed,
        known_labels=info.label_names,
    )
