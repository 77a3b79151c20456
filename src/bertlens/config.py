"""The schema of each entry point: the rooms' settings classes, composed, and the conflicts between sections.

A key's name, type, default, meaning and range stand in its room's settings.py; conf/ holds groups and presets.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertlens.data.settings import DataSettings
from bertlens.deploy.settings import CALIBRATE, ExportSettings, PredictConfig
from bertlens.explanations.settings import ExplainSettings, FaithfulnessSettings, ReportSettings, SelectionSettings
from bertlens.features.settings import FeatureSettings
from bertlens.model.settings import ModelSettings
from bertlens.system.settings import overriding, section, setting
from bertlens.training.settings import CheckpointSettings, OptimizerSettings, TrainerSettings

MAX_SEED = 2**32 - 1  # NumPy's


@dataclass(kw_only=True)
class EveryConfig:
    """What each entry point is told about its files."""

    overwrite: bool = setting(False, "replace the run that the run's folder holds", affects="nothing")
    cache_dir: str = setting("outputs/cache", "where word pieces and features are kept between runs", affects="nothing")


@dataclass(kw_only=True)
class TrainConfig(EveryConfig):
    data: DataSettings = section(DataSettings)
    model: ModelSettings = section(ModelSettings)
    optimizer: OptimizerSettings = section(OptimizerSettings)
    trainer: TrainerSettings = section(TrainerSettings)
    features: FeatureSettings = section(FeatureSettings)
    checkpoint: CheckpointSettings = section(CheckpointSettings)
    callbacks: dict[str, Any] = setting({}, "Lightning callbacks, by a name each, with their _target_")
    logger: dict[str, Any] = setting({}, "Lightning loggers, by a name each, with their _target_", affects="nothing")
    seed: int = setting(
        1234,
        "decides the head's first weights, the order of reviews and dropout",
        at_least=0,
        at_most=MAX_SEED,
        affects="steps",
    )
    test: bool = setting(True, "measure the test reviews at the end")
    report: bool = setting(
        False, "write report.html: 64 test reviews, or with data.folds doubtful labels, and what predictions rest on"
    )
    distill: str | None = setting(
        None, "the folder of a run with data.folds: learn the mean of label and prediction there", affects="steps"
    )
    resume: str | None = setting(
        "auto",
        "auto: go on with the unfinished run in this run's folder, if there is one; a run's folder: go on with that "
        "run, also a finished one; null: begin at step 0",
        affects="nothing",
    )
    print_every: int | None = setting(
        None, "print loss, seconds and accuracy every so many iterations", at_least=1, affects="nothing"
    )
    optimized_metric: str = setting("val/accuracy", "what a run returns to a Hydra sweeper", affects="nothing")

    @property
    def uses_test_reviews(self) -> bool:
        return self.test or (self.report and self.data.fold is None)

    def conflicts(self, prefix: str = "") -> Iterator[str]:
        data, model, trainer = self.data, self.model, self.trainer
        if not model.attention_mask and data.padding != "max_length":
            yield (
                "model.attention_mask=false: needs data.padding=max_length; otherwise a prediction depends on the "
                "longest review of its batch"
            )
        if self.features.cache == "on" and (model.frozen_dropout or model.trainable_layers == "all"):
            yield (
                "features.cache=on: needs frozen layers without dropout, which compute the same in each epoch; set "
                "features.cache=auto"
            )
        if trainer.overfit_batches and (trainer.limit_train_batches is not None or trainer.fast_dev_run):
            yield "trainer.overfit_batches: excludes trainer.limit_train_batches and trainer.fast_dev_run; give one"
        if not data.has_test_reviews and self.uses_test_reviews:
            yield "data.test_fraction=0: name data.test_file, or measure no test reviews (test=false report=false)"
        if not data.has_validation_reviews:
            wanting = ["checkpoint.keep=best"] if self.checkpoint.keep == "best" else []
            for name, node in self.callbacks.items():
                if isinstance(node, Mapping) and str(node.get("monitor")).startswith("val/"):
                    wanting.append(f"callbacks.{name}")
            if wanting:
                yield f"data.validation_fraction=0: {', '.join(wanting)}: needs validation reviews; leave one out"
        if self.resume not in (None, "auto") and self.overwrite:
            yield f"resume={self.resume} and overwrite=true exclude each other: go on with a run, or replace it"


REVIEWS_TO_MEASURE = ("path", "test_file", "text_column", "label_column", "header", "tokens_per_batch")


@dataclass(kw_only=True)
class _MaxReviews:
    """The key for which null has a meaning of its own, as in training."""

    max_reviews: int | str | None = setting(
        "checkpoint",
        "reviews at most, each class in its share; null: all; checkpoint: the checkpoint's",
        at_least=1,
    )

    def conflicts(self, prefix: str = "data.") -> Iterator[str]:
        if isinstance(self.max_reviews, str) and self.max_reviews != "checkpoint":
            yield f"{prefix}max_reviews={self.max_reviews}: give a number, or null for all reviews"


if TYPE_CHECKING:
    OtherReviews = Any  # generated: mypy knows none of its fields
else:
    OtherReviews = overriding(
        DataSettings,
        *REVIEWS_TO_MEASURE,
        otherwise="the checkpoint's",
        bases=(_MaxReviews,),
        name="OtherReviews",
        module=__name__,
    )


@dataclass(kw_only=True)
class EvaluateConfig(EveryConfig):
    checkpoint: str = setting("???", "what to evaluate: a checkpoint, a run's folder, or latest")
    data: OtherReviews = section(OtherReviews)
    trainer: TrainerSettings = section(TrainerSettings)
    report: bool = setting(False, "write report.html: 64 test reviews and what their predictions rest on")
    calibrate: bool = setting(False, CALIBRATE)
    against: str | None = setting(
        None, "compare with this: a checkpoint, a run's folder, latest, or a predictions.parquet of the same reviews"
    )
    checked_labels: str | None = setting(
        None, "a CSV of checked test labels (row, label, verdict: right, wrong, unclear): count the errors on them"
    )
    faithfulness: FaithfulnessSettings = section(FaithfulnessSettings)

    def conflicts(self, prefix: str = "") -> Iterator[str]:
        if self.data.test_file is not None and self.data.path is not None:
            yield f"data.path={self.data.path} and data.test_file exclude each other: leave one out"


@dataclass(kw_only=True)
class VisualizeConfig(SelectionSettings, EveryConfig):
    checkpoint: str = setting("???", "what to explain: a checkpoint, a run's folder, or latest")
    calibrate: bool = setting(False, CALIBRATE)
    explain: ExplainSettings = section(ExplainSettings)
    report: ReportSettings = section(ReportSettings)
    data: OtherReviews = section(OtherReviews)
    trainer: TrainerSettings = section(TrainerSettings)


@dataclass(kw_only=True)
class ExportConfig(ExportSettings, EveryConfig):
    data: OtherReviews = section(OtherReviews)


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "visualize": VisualizeConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
}
