"""Measure a checkpoint on test reviews: `python evaluate.py checkpoint=PATH`; see `python evaluate.py --help`."""

from pathlib import Path

from bertlens import build
from bertlens.cli.launch import launch
from bertlens.config import EvaluateConfig, check_evaluate
from bertlens.explanations.explainer import Explainer, write_first_reviews
from bertlens.model.checkpoint import read_checkpoint, restore
from bertlens.run.folder import Stages, write_figures, write_metrics, write_predictions
from bertlens.run.summary import print_result
from bertlens.training.metrics import figures


def evaluate(config: EvaluateConfig, run_folder: Path) -> dict[str, float]:
    """The metrics of a checkpoint on the test split; writes them, the figures and every review's probabilities."""
    check_evaluate(config)
    stages = Stages()
    with stages("model"):
        checkpoint = read_checkpoint(Path(config.checkpoint))
        classifier, tokenizer = restore(checkpoint)
    with stages("data"):
        data = build.evaluation_data(config, checkpoint.info, tokenizer)
        data.setup("test")
    with stages("test", num_reviews=len(data.pieces["test"])):
        module = build.measured(config, classifier, checkpoint.info, data)
    metrics = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
    if module.trainer.is_global_zero:
        _, labels, probabilities = module.test_result
        names = checkpoint.info.label_names
        write_figures(run_folder, figures(labels, probabilities, names))
        write_predictions(
            run_folder / "predictions.parquet", data.reviews["test"]["text"], labels, probabilities, names
        )
        if config.report:
            explainer = Explainer(classifier, tokenizer, checkpoint.info)
            write_first_reviews(run_folder, explainer, data.reviews["test"], facts={"checkpoint": config.checkpoint})
        print_result(write_metrics(run_folder, metrics, stages, checkpoint=config.checkpoint), run_folder)
    return metrics


if __name__ == "__main__":
    launch("evaluate", evaluate)
