"""What a run tells its user: in the terminal what is trained and what came out, in TensorBoard the rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bertlens.config import TrainConfig
from bertlens.data.datamodule import ReviewDataModule
from bertlens.explanations.explainer import Explainer
from bertlens.model.checkpoint import CheckpointInfo
from bertlens.model.classifier import ReviewClassifier
from bertlens.report.figures import figures
from bertlens.report.write import write_run_report
from bertlens.run.folder import Run, settings_that_matter
from bertlens.system.escape import one_line_of, terminal_text
from bertlens.system.files import relative
from bertlens.training.module import ReviewModule


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard in the run's folder, in one event file: fitting, testing and what is logged after both.

    The run is then named by its folder, which in a sweep is named by what varies.
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **options)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush instead of closing the file, which Lightning does after fitting: testing would open another one."""
        self.experiment.flush()

    @rank_zero_only
    def save(self) -> None:
        """Do not write hparams.yaml beside .hydra/config.yaml, which has every setting."""


def write_run(
    run: Run,
    config: TrainConfig,
    info: CheckpointInfo,
    classifier: ReviewClassifier,
    data: ReviewDataModule,
    module: ReviewModule,
    metrics: Mapping[str, Any],
) -> None:
    """Log, write and print what came out of a training run."""
    loggers, step = module.trainer.loggers, module.trainer.global_step
    if config.test:
        _, labels, probabilities = module.test_result
        log_test(loggers, labels, probabilities, info.label_names, step=step)
    log_hyperparameters(loggers, run.overrides, metrics, step=step)
    if config.report:
        write_sample_report(run, info, classifier, data, module, facts={"run": str(run.folder)})
    settings = settings_that_matter(config)
    print_result(run.write_metrics(metrics, seed=config.seed, settings=settings), run.folder)


def write_sample_report(
    run: Run,
    info: CheckpointInfo,
    classifier: ReviewClassifier,
    data: ReviewDataModule,
    module: ReviewModule,
    *,
    facts: dict[str, str],
) -> None:
    """Write `report.html` about a sample of the test reviews, drawn by their predictions if they were measured."""
    predictions = getattr(module, "test_result", None)
    explainer = Explainer(classifier, data.tokenizer, info)
    write_run_report(run.folder, explainer, data.reviews["test"], predictions, facts=facts)


@rank_zero_only
def print_parts(classifier: ReviewClassifier) -> None:
    """Print what is trained: N of M parameters, by part."""
    parts = list(classifier.parts())
    trained = sum(part.num_parameters for part in parts if part.trained)
    table = Table()
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("trained")
    for part in parts:
        table.add_row(part.name, f"{part.num_parameters:,}", "yes" if part.trained else "frozen")
    console = Console()
    console.print(f"{trained:,} of {sum(part.num_parameters for part in parts):,} parameters are trained")
    console.print(table)


@rank_zero_only
def print_result(written: Mapping[str, Any], run_folder: Path) -> None:
    """Print the metrics and the seconds of each stage."""
    table = Table(title="result")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in written["metrics"].items():
        table.add_row(name, f"{value:.4f}")
    for stage, seconds in written["seconds"].items():
        speed = written["reviews_per_second"].get(stage)
        table.add_row(f"{stage}, seconds", f"{seconds:.1f}" + (f" ({speed:,.0f} reviews/s)" if speed else ""))
    console = Console()
    console.print(table)
    console.print(terminal_text(relative(run_folder)), soft_wrap=True)


@rank_zero_only
def log_hyperparameters(
    loggers: Sequence[Logger], overrides: Sequence[str], metrics: Mapping[str, Any], *, step: int
) -> None:
    """Log what was typed for this run beside its metrics: in TensorBoard, the HPARAMS tab.

    Only what was typed: the tab shows a column per key, and what all runs have in common would hide the rest.
    """
    typed = {}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        typed[one_line_of(key)] = _number_or_text(value)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(typed, {name: float(value) for name, value in metrics.items()}, step=step)
            logger.experiment.flush()
        else:
            logger.log_hyperparams(typed)


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return one_line_of(value)


@rank_zero_only
def log_test(
    loggers: Sequence[Logger], labels: Tensor, probabilities: Tensor, label_names: Sequence[str], *, step: int
) -> None:
    """Log PR curves and the figures of the test split to TensorBoard. labels [R], probabilities [R, C]."""
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        writer = logger.experiment
        for index, name in enumerate(label_names):
            if len(label_names) > 2 or index == 1:
                # a folder of its own: a class may be named like a metric
                writer.add_pr_curve(f"test_pr/{one_line_of(name)}", labels == index, probabilities[:, index], step)
        for name, figure in figures(labels, probabilities, label_names).items():
            writer.add_figure(f"test_figures/{name}", figure, step)
        writer.flush()
