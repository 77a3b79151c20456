"""Fine-tune BERT on reviews: `python train.py trainer.devices=1`; see `python train.py --help`."""

from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor

from bertlens import build
from bertlens.cli.launch import is_sweep, launch
from bertlens.config import TrainConfig, values_of
from bertlens.errors import InputError
from bertlens.explanations.explainer import Explainer, write_first_reviews
from bertlens.features.store import clear
from bertlens.model.checkpoint import check_resumable
from bertlens.model.pretrained import find_pretrained
from bertlens.run.folder import Stages, is_finished, relative, write_metrics
from bertlens.run.summary import log_settings, log_test, print_parts, print_result
from bertlens.system import stopping
from bertlens.training.callbacks import best_accuracy


def train(config: TrainConfig, run_folder: Path) -> dict[str, Tensor]:
    """One run: fit, measure the kept epoch on the test reviews, write. Returns the metrics."""
    build.check(config)
    if config.features.clear:
        print(f"{clear(build.features_folder(config.cache_dir)) / 1e9:.2f} GB of features removed")
        return {}
    settings = values_of(config)
    finished = is_finished(run_folder, settings)
    if finished and is_sweep():
        print(f"{relative(run_folder)} is finished and left as it is")
        return {}
    if not finished:
        (run_folder / "metrics.json").unlink(missing_ok=True)  # of an earlier run with other settings
    stages = Stages()
    with stages("data"):
        pretrained = find_pretrained(build.pretrained_settings(config.model))
        data = build.datamodule(config, build.tokenizer(config, pretrained))
        data.setup()
    with stages("model"):
        pl.seed_everything(config.seed, verbose=False)
        module = build.module(config, data, pretrained)
        resumed = build.resumed_checkpoint(config, run_folder)
        if resumed is not None:
            check_resumable(resumed, module.info)
        trainer = build.trainer(config, run_folder, resumed=resumed)
    print_parts(module.classifier)
    with stages("features"):
        data.stored = build.features(config, module, data, trainer.strategy.root_device, sweeping=is_sweep())

    num_train = len(data.pieces["train"]) * config.trainer.max_epochs
    with stages("fit", num_reviews=num_train), stopping.deferred():
        trainer.fit(module, data, ckpt_path=resumed)
    if not (build.checkpoint_folder(run_folder) / "last.ckpt").is_file():
        raise InputError(
            f"trainer.max_epochs={config.trainer.max_epochs}: checkpoint={resumed} is that far already; "
            "give it more epochs to go on"
        )
    metrics = best_accuracy(trainer)
    if config.test:
        kept = config.checkpoint.keep if metrics else "last"
        with stages("test", num_reviews=len(data.pieces["test"])):
            trainer.test(module, data, ckpt_path=build.checkpoint_folder(run_folder) / f"{kept}.ckpt", verbose=False)
        metrics |= trainer.callback_metrics
        log_test(trainer.logger, module)
    log_settings(trainer.logger, config, metrics)
    if trainer.is_global_zero:
        if config.report:
            explainer = Explainer(module.classifier, data.tokenizer, module.info)
            write_first_reviews(run_folder, explainer, data.reviews["test"], facts={"run": str(run_folder)})
        written = write_metrics(run_folder, metrics, stages, seed=config.seed, settings=settings)
        print_result(written, run_folder)
    return metrics


if __name__ == "__main__":
    launch("train", train)
