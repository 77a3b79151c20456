"""What TensorBoard finds after a run and after a sweep, read as TensorBoard reads it."""

import html
import re

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from bertlens.model.checkpoint import read_raw
from bertlens.run.tensorboard import RunTensorBoard, log_hyperparameters, log_sweep_table


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    events.Reload()
    return events


def hparams_of(events, name):
    return HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content)


def test_a_run_logs_its_test_at_the_step_of_the_kept_weights(tiny_run, run_task, tmp_path):
    metrics = run_task("train", tmp_path / "run", *tiny_run, "optimizer.lr=0", "trainer.max_epochs=3", "seed=7")
    events = read(tmp_path / "run")
    step = read_raw(tmp_path / "run" / "checkpoints" / "best.ckpt")["global_step"] - 1
    accuracies = {event.step: event.value for event in events.Scalars("val/accuracy")}
    assert len(accuracies) == len(events.Scalars("val/accuracy")) == 3
    assert accuracies[step] == max(accuracies.values()) == metrics["val/accuracy"]
    assert step < max(accuracies)  # no epoch is better than the first
    found = [events.Scalars(tag) for tag in ("test/accuracy", "test/loss", "val/kept_accuracy")]
    found += [events.Images("test_figures/confusion_matrix"), events.Tensors("test: precision over recall/positive")]
    assert [[event.step for event in each] for each in found] == [[step]] * 5
    assert events.Scalars("val/kept_accuracy")[0].value == metrics["val/accuracy"]
    kept_tags = [tag for tag in events.Tags()["scalars"] if "kept" in tag]
    assert kept_tags == ["val/kept_accuracy"]
    typed = hparams_of(events, "session_start_info").session_start_info.hparams
    assert (typed["optimizer.lr"].number_value, typed["seed"].number_value) == (0, 7)
    assert typed["trainer.accelerator"].string_value == "cpu"
    # a run's own list of columns would hide what was typed for the other runs in the same folder
    assert "_hparams_/experiment" not in events.summary_metadata
    assert not list((tmp_path / "run").rglob("hparams.yaml"))


def test_a_run_logs_a_layout_with_training_and_validation_in_one_chart(tiny_run, run_task, tmp_path):
    run_task("train", tmp_path / "run", *tiny_run, "trainer.max_epochs=1")
    [layout] = {
        tensor.tensor_proto.string_val[0] for tensor in read(tmp_path / "run").Tensors("custom_scalars__config__")
    }
    category, test = layout_pb2.Layout.FromString(layout).category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert charts == {"loss": ["train/loss$", "val/loss$"], "accuracy": ["train/accuracy$", "val/accuracy$"]}
    scalars = read(tmp_path / "run").Scalars
    for chart in test.chart:
        [margin] = chart.margin.series
        value, low, high = (scalars(tag)[0].value for tag in (margin.value, margin.lower, margin.upper))
        assert low < value < high
    assert [chart.title for chart in test.chart] == ["accuracy", "f1", "auroc"]


def test_other_loggers_get_whole_numbers_whole():
    class Noted:
        def log_hyperparams(self, params):
            self.params = params

    logger = Noted()
    log_hyperparameters([logger], ["seed=3", "optimizer.lr=5e-05", "+data.source=demo"], {}, step=1)
    assert repr(logger.params) == "{'seed': 3, 'optimizer.lr': 5e-05, 'data.source': 'demo'}"


def test_a_sweep_leaves_its_table_and_the_columns_that_vary(tmp_path):
    columns, rows = ["optimizer.lr", "test/accuracy"], [["5e-05", "0.91"], ["<b>1|2</b> [x](y) *z* `", ""]]
    log_sweep_table(tmp_path, columns, rows, keys=["optimizer.lr"])
    assert not list(tmp_path.iterdir())  # no job logged to TensorBoard
    logger = RunTensorBoard(str(tmp_path / "optimizer.lr-5e-05"))
    log_hyperparameters([logger], ["optimizer.lr=5e-05"], {"val/accuracy": 0.5}, step=1)
    for _ in range(2):  # a sweep that goes on replaces its table
        log_sweep_table(tmp_path, columns, rows, keys=["optimizer.lr"])
    events = read(tmp_path)
    assert "sweep_figure" not in events.Tags()["images"]
    log_sweep_table(tmp_path, columns, rows, keys=["optimizer.lr"], figure=Figure())
    assert "sweep_figure" in read(tmp_path).Tags()["images"]
    [table] = events.Tensors("sweep/text_summary")
    written = markdown_to_safe_html(table.tensor_proto.string_val[0].decode())
    assert set(re.findall("<([a-z]+)", written)) == {"table", "thead", "tbody", "tr", "th", "td"}
    shown = html.unescape(written)
    assert shown.count("<tr>") == 3
    for cell in ("optimizer.lr", "test/accuracy", "5e-05", "0.91", "<b>1|2</b> [x](y) *z* `"):
        assert f">{cell}</t" in shown
    named = hparams_of(events, "experiment").experiment
    assert [info.name for info in named.hparam_infos] == ["optimizer.lr"]
    tags = [info.name.tag for info in named.metric_infos]
    assert tags[:3] == ["val/kept_accuracy", "test/accuracy", "test/loss"]
