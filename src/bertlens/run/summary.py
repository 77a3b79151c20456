"""What a run tells its user: in the terminal what is trained and what came out, in TensorBoard the rest."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from bertlens.model.classifier import ReviewClassifier
from bertlens.run.folder import relative
from bertlens.system.escape import one_line_of, terminal_text
from bertlens.training.metrics import figures
from bertlens.training.module import ReviewModule


@rank_zero_only
def print_parts(classifier: ReviewClassifier) -> None:
    """What is trained: N of M parameters, by part."""
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
def log_settings(logger: Logger | None, config: Any, metrics: Mapping[str, Any]) -> None:
    """The hparams tab: the run's settings beside its final metrics."""
    assert isinstance(logger, TensorBoardLogger)
    logger.log_hyperparams(_flat(dataclasses.asdict(config)), {name: float(value) for name, value in metrics.items()})
    # .hydra/config.yaml has them too; Lightning would write its copy by OmegaConf, where ${ in a path begins something
    logger.hparams.clear()
    logger.save()


@rank_zero_only
def log_test(logger: Logger | None, module: ReviewModule) -> None:
    """PR curves and the figures of the test split."""
    assert isinstance(logger, TensorBoardLogger)
    _, labels, probabilities = module.test_result
    names = module.info.label_names
    writer = logger.experiment
    for index, name in enumerate(names):
        if len(names) > 2 or index == 1:
            writer.add_pr_curve(f"test/{one_line_of(name)}", labels == index, probabilities[:, index])
    for name, figure in figures(labels, probabilities, names).items():
        writer.add_figure(f"test/{name}", figure)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[one_line_of(prefix + name)] = (
                value if isinstance(value, int | float | bool) else one_line_of(str(value))
            )
    return flat
