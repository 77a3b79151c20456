"""Fine-tune BERT on reviews: `python train.py trainer.devices=1`; see `python train.py --help`."""

from pathlib import Path
from typing import Any

from bertlens.cli.launch import launch
from bertlens.config import TrainConfig
from bertlens.run.folder import Run


def train(config: TrainConfig, run: Run) -> dict[str, Any]:
    """Fit, measure the kept epoch on the test reviews, and write all that a run leaves. Return the metrics."""
    import pytorch_lightning as pl

    from bertlens import build
    from bertlens.model.checkpoint import check_resumable
    from bertlens.model.pretrained import find_pretrained
    from bertlens.run import summary
    from bertlens.run.labels import read_soft_labels, write_fold
    from bertlens.training.callbacks import kept_accuracy

    if config.features.clear or config.features.list:
        return build.show_or_clear_features(config)
    if run.in_sweep and run.is_finished(config):
        return run.keep()
    with run.stage("data"):
        pretrained = find_pretrained(build.locate_model(config.model))
        data = build.build_data(config, pretrained)
        data.setup()
    with run.stage("model"):
        pl.seed_everything(config.seed, verbose=False)
        info = build.describe_checkpoint(config, data, pretrained)
        classifier = build.build_published_classifier(info, pretrained)
        module = build.build_module(config, classifier, info)
        if config.distill is not None:
            module.soft_labels = read_soft_labels(config.distill, data.reviews["train"])
        resumed = build.find_resumed(config, run)
        if resumed is not None:
            check_resumable(resumed, info)
        trainer = build.build_trainer(config, run, resumed=resumed)
        build.move(classifier, trainer.strategy.root_device)
    run.begin(config, resumed=resumed)
    summary.print_opening(run, config, classifier, data)
    with run.stage("features"):
        build.use_features(config, data, classifier.prefix, run, trainer)
    if config.features.build_only:
        run.write_metrics({}, features=data.num_features)
        return {}
    with run.stage("fit") as stage:
        trainer.fit(module, data, ckpt_path=resumed)
        stage.num_reviews = module.num_reviews["train"]
    metrics: dict[str, Any] = kept_accuracy(trainer, config.checkpoint.keep)
    if config.test or config.data.fold is not None:
        build.load_kept(config, run, trainer, module, resumed=resumed)
    if config.data.fold is not None:
        with run.stage("fold"):
            trainer.validate(module, data, verbose=False)
        metrics = {name: value for name, value in module.measured.items() if name.startswith("val/")}
        if trainer.is_global_zero:
            write_fold(run.folder, data.reviews["validation"], module.validation_result, fold=config.data.fold)
    if config.test:
        with run.stage("test") as stage:
            trainer.test(module, data, verbose=False)
            stage.num_reviews = module.num_reviews["test"]
        metrics |= {name: value for name, value in module.measured.items() if not name.startswith(("train/", "val/"))}
    if trainer.is_global_zero:
        build.move(classifier, trainer.strategy.root_device)  # after a test Lightning leaves the suffix on the CPU
        summary.write_run(run, config, info, classifier, data, module, metrics)
    return metrics


if __name__ == "__main__":
    launch("train", train, conf=Path(__file__).parent / "conf")
