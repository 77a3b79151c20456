"""What a run tells its user in the terminal: what it is about to do, what came out, and what to type next."""

import json
import logging
import shlex
import textwrap
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import torch
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table
from torch import Tensor

from bertlens.config import TrainConfig
from bertlens.data.datamodule import ReviewDataModule
from bertlens.explanations.explainer import Explainer, reviews_to_explain
from bertlens.explanations.selection import Predictions, select
from bertlens.explanations.settings import FaithfulnessSettings, SelectionSettings
from bertlens.features.shards import SUFFIX, UNREADABLE, read_index
from bertlens.features.store import SPACE_FILE, older_stores
from bertlens.model.checkpoint import CheckpointInfo
from bertlens.model.classifier import ReviewClassifier
from bertlens.report.disagreements import write_disagreements
from bertlens.report.figures import draw_faithfulness
from bertlens.report.write import write_run_report
from bertlens.run.folder import Run, settings_that_matter, started_as
from bertlens.run.tensorboard import log_hyperparameters, log_test
from bertlens.system.escape import one_line_of
from bertlens.system.files import relative
from bertlens.system.wording import count_of, duration
from bertlens.training.callbacks import describe_kept, history
from bertlens.training.module import ReviewModule
from bertlens.training.uncertainty import Interval, compare, intervals

log = logging.getLogger(__name__)

LABEL_WIDTH = 10
FEW_STEPS = 300  # with fewer, more epochs are worth a try


def print_opening(run: Run, config: TrainConfig, classifier: ReviewClassifier, data: ReviewDataModule) -> None:
    """Print what a run is about to do; `build.use_features` adds what it finds in the store."""
    parts = list(classifier.parts())
    trained = [part for part in parts if part.trained]
    names = " to ".join(dict.fromkeys((trained[0].name, trained[-1].name)))
    num_trained, num_all = (sum(part.num_parameters for part in some) for some in (trained, parts))
    layers = f"{count_of(classifier.num_layers, 'layer')}, {classifier.head.in_features} wide"
    reviews = ", ".join(f"{len(pieces):,} {split}" for split, pieces in data.pieces.items())
    reviews += f" ({one_line_of(', '.join(data.label_names))})"
    say_once(run, "model", f"{Path(config.model.pretrained).name}: {layers}")
    say_once(run, "reviews", textwrap.shorten(reviews, 80 - LABEL_WIDTH, placeholder=" …"))
    say_once(run, "trained", f"{num_trained:,} of {num_all:,} parameters ({names})")
    say_once(run, "results", relative(run.folder.parent if run.in_sweep else run.folder))
    if log.isEnabledFor(logging.DEBUG):  # hydra.verbose=true
        print_table({p.name: {"parameters": f"{p.num_parameters:,}", "trained": str(p.trained)} for p in parts})


def say_once(run: Run, label: str, text: str) -> None:
    """Print a line that a run opens with; of a sweep's jobs only the first one prints it."""
    if run.number == 0:
        say(label, text)


@rank_zero_only
def say(label: str, text: str) -> None:
    """Print a line after its label. A long one is not broken: it may hold a path."""
    print(f"{label:<{LABEL_WIDTH}}{one_line_of(text)}", flush=True)


@rank_zero_only
def print_table(rows: Mapping[str, Mapping[str, str]]) -> None:
    """Print cells by row and column name."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table("", *(Column(name, justify="right") for name in columns), box=None, pad_edge=False)
    for name, row in rows.items():
        table.add_row(f"{name:<{LABEL_WIDTH}}", *(row.get(column, "") for column in columns))
    Console().print(table)


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
    trainer = module.trainer
    step = trainer.global_step if module.last_step is None else module.last_step
    found: dict[str, Interval] = {}
    if config.test:
        _, labels, probabilities = module.test_result
        found = intervals(labels, probabilities)
        log_test(trainer.loggers, labels, probabilities, info.label_names, found, step=step)
    log_hyperparameters(trainer.loggers, run.overrides, metrics, step=step)
    if config.report and config.uses_test_reviews:
        facts = info.facts(epoch=module.epoch or trainer.current_epoch) | {"run": str(run.folder)}
        write_sample_report(run, info, classifier, data, module, facts=facts)
    more = {
        "intervals": found,
        "features": data.num_features,
        "history": history(trainer),
        "seed": config.seed,
        "settings": settings_that_matter(config),
    }
    written = run.write_metrics(metrics, **more)
    if run.in_sweep:
        shown = [f"{name} {value:.3f}" for name, value in metrics.items() if name.endswith("/accuracy")]
        say("finished", ", ".join([*shown, duration(sum(written["seconds"].values()))]))
        return
    say("kept", describe_kept(trainer, config.checkpoint.keep))
    steps = trainer.global_step
    if steps < FEW_STEPS and trainer.current_epoch == trainer.max_epochs and not config.trainer.fast_dev_run:
        epochs = -(-FEW_STEPS * trainer.current_epoch // steps)
        say("better", f"with trainer.max_epochs={epochs}: {count_of(steps, 'step')} cannot teach much")
    elif not any(typed.startswith("experiment=") for typed in run.overrides):
        say("better", "with experiment=balanced: more layers, the end of long reviews too")
    print_result(written, run.folder)
    print_next(run, has_test_reviews=info.data.has_test_reviews)


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


def write_faithfulness(
    run: Run, settings: FaithfulnessSettings, explainer: Explainer, split: datasets.Dataset, predictions: Predictions
) -> None:
    """Measure methods on a sample of labelled reviews; write the findings and their figure, and print the table."""
    from bertlens.explanations.faithfulness import CURVE, RANDOM, measure, table, write_findings  # imports scipy

    assert settings.reviews is not None
    selection = select(SelectionSettings(count=settings.reviews), split["label"][:], lambda: predictions)
    reviews = reviews_to_explain(split, selection.indices)
    with run.stage("faithfulness"):
        findings, curves = measure(explainer, reviews)
    write_findings(run.folder / "faithfulness.csv", findings)
    run.write_figures({"faithfulness": draw_faithfulness(CURVE, curves, band=RANDOM)})
    say("reasons", "the loss of probability without the leading words (gone) and with")
    say("", f"them alone (kept), for 1 to 50 % of the words, on {len(reviews):,} reviews")
    print_table(table(findings))
    say("wrote", "faithfulness.csv, faithfulness.png")


def write_comparison(
    run: Run,
    names: tuple[str, str],
    explainer: Explainer,
    other: tuple[Callable[[], Tensor], Explainer | None],
    split: datasets.Dataset,
    predictions: Predictions,
) -> dict[str, Any]:
    """Compare the predictions of two classifiers, by name, and show the reviews on which they differ."""
    predict, other_explainer = other
    rows, labels, probabilities = predictions
    with run.stage("against"):
        both = torch.stack([probabilities, predict().to(probabilities)])
        sureness, verdicts = both.max(dim=2)
        found = compare(*(verdicts == labels))
        surest = sureness.sum(dim=0).argsort(descending=True, stable=True)
        differing = surest[verdicts[0, surest] != verdicts[1, surest]][: SelectionSettings().count]
        accuracies = " and ".join(f"{float((each == labels).double().mean()):.4f}" for each in verdicts)
        low, high = found.interval
        lines = (
            f"{names[1]}: accuracy {accuracies}, difference {found.difference:+.4f} (95 %: {low:+.4f} to {high:+.4f})",
            f"McNemar's p = {found.p:.2g}: {found.num_only_one:,} reviews only this one predicts right, "
            f"{found.num_only_other:,} only the other",
        )
        write_disagreements(
            run.folder / "disagreements.html",
            reviews_to_explain(split, rows[differing].tolist()),
            names,
            [each for each in (explainer, other_explainer) if each is not None],
            summary=f"{names[0]} against {'; '.join(lines)}",
            alone="the other verdict, from a file without reasons",
        )
    for label, line in zip(("against", ""), lines, strict=True):
        say(label, line)
    return found._asdict() | {"path": names[1]}


def print_features(folder: Path) -> None:
    """Print what the store holds: a line for each combination of things that features depend on."""
    rows = {}
    for path in sorted(folder.glob(f"*/{SPACE_FILE}")):
        with suppress(*UNREADABLE):  # removed meanwhile, or damaged
            space, found = json.loads(path.read_text(encoding="utf-8")), list(path.parent.glob(f"*{SUFFIX}"))
            device = " ".join(str(space["device"]).split()[:2])  # space.json has the rest
            shown = {"depth": space["depth"], "width": space["hidden_size"], "dtype": space["dtype"], "device": device}
            rows[path.parent.name[:8]] = {
                **{name: one_line_of(str(value)) for name, value in shown.items()},
                "reviews": f"{sum(len(read_index(shard).reviews) for shard in found):,}",
                "size": decimal(sum(shard.stat().st_size for shard in found)),
                "last used": f"{datetime.fromtimestamp(max(shard.stat().st_mtime for shard in found)):%Y-%m-%d}",
            }
    print_table(rows)
    if older := older_stores(folder):
        print(f"of version 0.1.0, not read: {older}")


def print_result(written: Mapping[str, Any], run_folder: Path) -> None:
    """Print the metrics by stage, the time and speed of each stage, and where the results are."""
    metrics: dict[str, dict[str, str]] = {}
    for name, value in written["metrics"].items():
        stage, _, metric = name.replace("val/", "validation/").replace("_", " ").rpartition("/")
        metrics.setdefault(stage, {})[metric] = f"{value:.4f}"
    ranges = {
        name: "-".join(f"{bound:.3f}".removeprefix("0") for bound in interval)  # short: 80 columns are few
        for name, interval in written.get("intervals", {}).items()
    }
    after = {stage: metrics.pop(f"test {stage}", {}) for stage in ("calibrated", "uncalibrated")}
    print_table({row: cells for row, cells in (metrics | {"95 %": ranges} | after).items() if cells})
    times = {stage: duration(seconds) for stage, seconds in written["seconds"].items()}
    times["total"] = duration(sum(written["seconds"].values()))
    print_table({"time": times, "reviews/s": {name: f"{n:,.0f}" for name, n in written["reviews_per_second"].items()}})
    say("results", relative(run_folder))


def print_next(run: Run, *, has_test_reviews: bool) -> None:
    """Print the commands that go on from a training run, as they can be typed in the current folder."""
    folder, given = relative(run.folder), [typed for typed in run.overrides if typed.startswith("cache_dir=")]
    evaluate, visualize = ([*started_as(name), f"checkpoint={folder}", *given] for name in ("evaluate", "visualize"))
    commands = [evaluate, visualize] if has_test_reviews else [[*visualize, "text=a text of your own"]]
    commands = commands if run.last_checkpoint.is_file() else []
    if any(run.folder.glob("events.*")):
        commands.append(["tensorboard", "--logdir", folder])
    for label, command in zip(("next", "", ""), commands, strict=False):
        say(label, shlex.join(command))
