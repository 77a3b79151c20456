"""Measure a checkpoint on test reviews: `python evaluate.py checkpoint=PATH`; see `python evaluate.py --help`."""

from pathlib import Path
from typing import Any

from bertlens.cli.launch import launch
from bertlens.config import EvaluateConfig
from bertlens.run.folder import Run, write_predictions


def evaluate(config: EvaluateConfig, run: Run) -> dict[str, float]:
    """Write the metrics of a checkpoint on the test split, the figures and each review's probabilities."""
    from bertlens import build
    from bertlens.explanations.explainer import Explainer
    from bertlens.model.checkpoint import find_checkpoint, read_checkpoint, restore
    from bertlens.report.figures import figures
    from bertlens.run import summary
    from bertlens.run.labels import count_checked_errors, read_checked_labels
    from bertlens.system.files import relative
    from bertlens.training.uncertainty import intervals

    path = find_checkpoint(config.checkpoint)
    with run.stage("model"):
        checkpoint = read_checkpoint(path)
        classifier, tokenizer = restore(checkpoint, calibrate=config.calibrate)
    info = checkpoint.info
    explainer = Explainer(classifier, tokenizer, info, methods=config.faithfulness.methods)
    with run.stage("data"):
        data = build.evaluation_data(config, info, tokenizer)
        data.setup("test")
        other = None if config.against is None else build.build_other(config, data)
        checked = None
        if config.checked_labels is not None:
            checked = read_checked_labels(config.checked_labels, data.reviews["test"])
    run.begin(config)
    summary.say("model", relative(path))
    summary.say("reviews", f"{len(data.reviews['test']):,} test")
    with run.stage("test") as stage:
        module = build.measure(config, classifier, checkpoint, data)
        stage.num_reviews = module.num_reviews["test"]
    metrics = {name: float(value) for name, value in module.measured.items()}
    if module.trainer.is_global_zero:
        rows, labels, probabilities = module.test_result
        drawn = figures(labels, probabilities, info.label_names)
        run.write_figures(drawn)
        texts = data.reviews["test"].select(rows.tolist())["text"][:]
        write_predictions(run.folder / "predictions.parquet", texts, labels, probabilities, info.label_names)
        more: dict[str, Any] = {"intervals": intervals(labels, probabilities), "features": data.num_features}
        if other is not None:
            assert config.against is not None
            split = data.reviews["test"]
            names = relative(path), config.against
            more["against"] = summary.write_comparison(run, names, explainer, other, split, module.test_result)
        if config.faithfulness.reviews is not None:
            summary.write_faithfulness(run, config.faithfulness, explainer, data.reviews["test"], module.test_result)
        if config.report:
            summary.write_sample_report(run, info, classifier, data, module, facts=checkpoint.facts())
        if checked is not None:
            more["checked_labels"] = count_checked_errors(checked, module.test_result)
        summary.print_result(run.write_metrics(metrics, checkpoint=str(path), **more), run.folder)
        wrote = ["metrics.json", "predictions.parquet", *(["disagreements.html"] if other else [])]
        summary.say("wrote", ", ".join(wrote))
        summary.say("", ", ".join(f"{name}.png" for name in drawn))
    return metrics


if __name__ == "__main__":
    launch("evaluate", evaluate, conf=Path(__file__).parent / "conf")
