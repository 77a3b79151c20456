"""What runs and sweeps leave in TensorBoard besides Lightning's curves; other loggers get what was typed."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from bertlens.report.figures import figures
from bertlens.system.escape import one_line_of
from bertlens.training.uncertainty import Interval

EVENT_FILES = "events.out.tfevents.*"
# CUSTOM SCALARS; the plugin reads a tag as the beginning of a pattern, and there is a train/loss_step
LAYOUT = {"training": {name: ["Multiline", [f"train/{name}$", f"val/{name}$"]] for name in ("loss", "accuracy")}}
BOUNDS = ("low", "high")  # of an interval
LAYOUT["test, with 95 % interval"] = {
    name: ["Margin", [f"test/{name}", *(f"test_interval/{name}_{bound}" for bound in BOUNDS)]]
    for name in ("accuracy", "f1", "auroc")
}
# the metrics of a sweep in HPARAMS, which shows the first five
SHOWN = (
    "val/kept_accuracy",
    *(f"test/{name}" for name in ("accuracy", "loss", "f1", "auroc", "calibration_error")),
)


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard in the run's folder, in one event file: fitting, testing and what is logged after both.

    The run is then named by its folder, which in a sweep is named by what varies.
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **options)

    @rank_zero_only
    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """Log the layout of the charts, as a fit begins, instead of the model's graph."""
        self.experiment.add_custom_scalars(LAYOUT)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None) -> None:
        """Log hyperparameters beside the metrics of the kept epoch.

        Left out is Lightning's list of columns: TensorBoard reads that of one run only, and the other runs' keys would
        not be shown. The kept epoch's validation metric has a tag of its own: its curve may have later points.
        """
        validation = {
            f"val/kept_{name.removeprefix('val/')}": value
            for name, value in (metrics or {}).items()
            if name.startswith("val/")
        }
        self.log_metrics(validation, step)
        _, *start_and_end = hparams(params, {})  # type: ignore[no-untyped-call]
        for summary in start_and_end:
            self.experiment.file_writer.add_summary(summary, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush instead of closing the file, which Lightning does after fitting: testing would open another one."""
        self.experiment.flush()

    @rank_zero_only
    def save(self) -> None:
        """Do not write hparams.yaml beside .hydra/config.yaml, which has every setting."""


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
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return one_line_of(value)


@rank_zero_only
def log_test(
    loggers: Sequence[Logger],
    labels: Tensor,
    probabilities: Tensor,
    label_names: Sequence[str],
    intervals: Mapping[str, Interval],
    *,
    step: int,
) -> None:
    """Log intervals, PR curves and the figures of the test split to TensorBoard. labels [R], probabilities [R, C]."""
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        writer = logger.experiment
        for name, interval in intervals.items():
            for bound, value in zip(BOUNDS, interval, strict=True):
                writer.add_scalar(f"test_interval/{name}_{bound}", value, step)
        for index, name in enumerate(label_names):
            if len(label_names) > 2 or index == 1:
                # a folder of its own: a class may be named like a metric
                tag = f"test: precision over recall/{one_line_of(name)}"
                writer.add_pr_curve(tag, labels == index, probabilities[:, index], step)
        for name, figure in figures(labels, probabilities, label_names).items():
            writer.add_figure(f"test_figures/{name}", figure, step)
        writer.flush()


def log_sweep_table(
    folder: Path,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    keys: Sequence[str],
    figure: Figure | None = None,
) -> None:
    """Log a sweep's table and figure into its folder, and the columns of HPARAMS: the keys that vary, and the metrics.

    Log nothing if no job has logged to TensorBoard.
    """
    for earlier in folder.glob(EVENT_FILES):
        earlier.unlink()
    if not any(folder.rglob(EVENT_FILES)):
        return
    lines = [map(_markdown, columns), ["---"] * len(columns), *(map(_markdown, row) for row in rows)]
    shown = hparams_config_pb([HParam(one_line_of(key)) for key in keys], [Metric(tag) for tag in SHOWN])
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("sweep", "\n".join(f"| {' | '.join(line)} |" for line in lines))
        writer.file_writer.add_summary(shown)
        if figure is not None:
            writer.add_figure("sweep_figure", figure)


def _markdown(text: str) -> str:
    """Return a text that Markdown and HTML show as it is."""
    return re.sub(r"[^0-9A-Za-z ]", lambda found: f"&#{ord(found[0])};", one_line_of(text))
