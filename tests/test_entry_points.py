"""train.py and evaluate.py as people use them: in this process where that will do, in one of their own where not."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bertlens
from bertlens.errors import InputError
from bertlens.features import shards
from bertlens.features.store import FeatureStore
from bertlens.model.checkpoint import read_checkpoint, restore
from bertlens.model.classifier import FrozenPrefix

REPOSITORY = Path(__file__).parents[1]


def command(name: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / f"{name}.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def written(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_a_run_writes_what_the_readme_says(tiny_run, tmp_path, run_task):
    run_task("train", tmp_path / "run", *tiny_run, "seed=7")
    content = written(tmp_path / "run")
    assert {"val/accuracy", "test/accuracy", "test/f1", "test/auroc", "test/loss"} <= set(content["metrics"])
    assert content["seed"] == 7
    assert content["versions"]["torch"] == torch.__version__
    assert content["seconds"]["fit"] > 0
    assert content["reviews_per_second"]["test"] > 0
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/accuracy", "val/accuracy", "val/f1", "val/auroc", "test/accuracy"} <= set(
        tags["scalars"]
    )
    assert any(tag.startswith("lr-") for tag in tags["scalars"])
    assert "test_figures/confusion_matrix" in tags["images"]
    assert any("positive" in tag for tag in tags["tensors"])
    assert "_hparams_/session_start_info" in {*events.summary_metadata} | {*tags.get("tensors", [])}


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_evaluate_gives_the_accuracy_the_run_reported(tiny_run, tmp_path, cache, run_task):
    reported = run_task("train", tmp_path / "run", *tiny_run, f"features.cache={cache}")
    again = run_task(
        "evaluate",
        tmp_path / "again",
        f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}",
        f"cache_dir={tmp_path / 'cache'}",
        "trainer.accelerator=cpu",
    )
    assert again["test/accuracy"] == reported["test/accuracy"].item()
    table = pq.read_table(tmp_path / "again" / "predictions.parquet").to_pydict()
    assert sum(table["correct"]) / len(table["correct"]) == pytest.approx(again["test/accuracy"])
    sums = [a + b for a, b in zip(table["probability of negative"], table["probability of positive"], strict=True)]
    assert sums == pytest.approx([1.0] * 80)
    for name in ("confusion_matrix", "roc", "calibration"):
        assert (tmp_path / "again" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_reads_a_store_and_builds_none(tiny_run, tmp_path, monkeypatch, run_task):
    run_task("train", tmp_path / "run", *tiny_run)
    checkpoint = f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    monkeypatch.setattr(FeatureStore, "build", lambda *args, **options: pytest.fail("built a store"))
    prefixes = []
    call = FrozenPrefix.__call__

    def note(self, inputs, *arguments, **options):
        prefixes.append(inputs.dtype)
        return call(self, inputs, *arguments, **options)

    monkeypatch.setattr(FrozenPrefix, "__call__", note)
    run_task("evaluate", tmp_path / "again", checkpoint, f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu")
    assert prefixes
    assert all(dtype.is_floating_point for dtype in prefixes)  # stored rows came, not word-piece ids
    monkeypatch.undo()
    monkeypatch.setattr(FeatureStore, "build", lambda *args, **options: pytest.fail("built a store"))
    run_task(
        "evaluate", tmp_path / "elsewhere", checkpoint, f"cache_dir={tmp_path / 'other'}", "trainer.accelerator=cpu"
    )


@pytest.mark.slow
def test_the_real_reviews_and_weights(imdb_folder, minilm_folder, tmp_path, run_task):
    """What the README's figure comes from, on 400 reviews of each split."""
    cache = f"cache_dir={tmp_path / 'cache'}"
    overrides = [
        "model=minilm",
        f"data.path={imdb_folder}",
        "data.max_reviews=400",
        "features.dtype=float32",  # much faster than bfloat16 on processors without its instructions
        cache,
        "optimizer.lr=5e-4",
        "trainer.max_epochs=6",
    ]
    reported = run_task("train", tmp_path / "run", *overrides, "trainer.accelerator=cpu", "trainer.devices=1")
    assert reported["test/accuracy"] > 0.65  # of 400 training reviews; all of them give 0.86
    checkpoint = f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    again = run_task("evaluate", tmp_path / "again", checkpoint, cache, "trainer.accelerator=cpu")
    assert again["test/accuracy"] == reported["test/accuracy"].item()


def test_without_validation_reviews_the_last_epoch_is_kept(tiny_run, tmp_path, run_task):
    run = tmp_path / "run"
    run_task("train", run, *tiny_run, "experiment=fast", "data.validation_fraction=0", "data.max_length=48")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    accuracy = written(run)["metrics"]["test/accuracy"]
    assert not any(name.startswith(("val/", "test_calibrated/")) for name in written(run)["metrics"])
    options = [f"checkpoint={run}", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu"]
    assert run_task("evaluate", tmp_path / "again", *options)["test/accuracy"] == accuracy  # of the averaged weights
    with pytest.raises(InputError, match=r"calibrate=true: the run of .* had no validation reviews"):
        run_task("evaluate", tmp_path / "calibrated", *options, "calibrate=true")


def test_two_classifiers_are_compared_on_the_same_reviews(tiny_run, tmp_path, run_task):
    cache = f"cache_dir={tmp_path / 'cache'}"
    for name, rate in (("one", "1e-2"), ("other", "1e-4")):
        run_task("train", tmp_path / name, *tiny_run, f"optimizer.lr={rate}", "logger=none")
    options = [f"checkpoint={tmp_path / 'one'}", cache, "trainer.accelerator=cpu"]
    run_task("evaluate", tmp_path / "a", *options, f"against={tmp_path / 'other'}")
    one, other = (written(tmp_path / name)["metrics"]["test/accuracy"] for name in ("one", "other"))
    found = written(tmp_path / "a")["against"]
    assert found["difference"] == pytest.approx(one - other)
    assert (found["num_only_one"] - found["num_only_other"]) / 80 == pytest.approx(found["difference"])
    page = (tmp_path / "a" / "disagreements.html").read_text()
    assert page.count("Predicted: <b>") == 2 * page.count("<caption>") > 0
    assert len(set(re.findall(r"\d+ more: [^<]*", page))) == 1  # both by the same methods
    assert str(tmp_path / "one" / "checkpoints" / "best.ckpt") in page
    assert "<b>Contribution to the prediction</b>" in page
    # the same from a file of predictions
    run_task("evaluate", tmp_path / "b", f"checkpoint={tmp_path / 'other'}", cache, "trainer.accelerator=cpu")
    run_task("evaluate", tmp_path / "c", *options, f"against={tmp_path / 'b' / 'predictions.parquet'}")
    assert written(tmp_path / "c")["against"] | {"path": ""} == found | {"path": ""}
    assert "from a file without reasons" in (tmp_path / "c" / "disagreements.html").read_text()
    fewer = [*options, "data.max_reviews=40", f"against={tmp_path / 'b' / 'predictions.parquet'}"]
    with pytest.raises(InputError, match=r"predictions\.parquet: predictions of other reviews"):
        run_task("evaluate", tmp_path / "d", *fewer)
    with pytest.raises(InputError, match=r"against=nothing\.parquet: no such file"):
        run_task("evaluate", tmp_path / "e", *options, "against=nothing.parquet")


def test_calibrated_probabilities_are_those_divided_by_the_temperature(tiny_run, tmp_path, run_task):
    run_task("train", tmp_path / "run", *tiny_run, "logger=none")
    options = [f"checkpoint={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu"]
    metrics = written(tmp_path / "run")["metrics"]
    found = run_task("evaluate", tmp_path / "a", *options, "calibrate=true")
    for name in ("loss", "brier", "calibration_error"):
        assert found[f"test/{name}"] == pytest.approx(metrics[f"test_calibrated/{name}"], abs=1e-5)
        assert found[f"test_uncalibrated/{name}"] == pytest.approx(metrics[f"test/{name}"], abs=1e-5)
    assert found["test/accuracy"] == metrics["test/accuracy"]
    table = pq.read_table(tmp_path / "a" / "predictions.parquet")
    text, share = table["text"][0].as_py(), table["probability of positive"][0].as_py()
    predicted = bertlens.load(tmp_path / "run", calibrate=True).predict(text)
    assert predicted.probabilities["positive"] == pytest.approx(share, abs=1e-5)


def test_evaluate_takes_a_test_file_of_ones_own(tiny_run, tmp_path, tiny_reviews, run_task):
    run_task("train", tmp_path / "run", *tiny_run, "trainer.max_epochs=1")
    rows = pq.read_table(tiny_reviews / "test.parquet").to_pydict()
    names = {"words.tsv": ["neg", "pos"], "numbers.tsv": ["0", "1"], "other.tsv": ["neg", "so so"]}
    for name, labels in names.items():
        lines = [f"{text}\t{labels[label]}" for text, label in zip(rows["text"], rows["label"], strict=True)]
        (tmp_path / name).write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    options = [
        f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}",
        f"cache_dir={tmp_path / 'cache'}",
        "trainer.accelerator=cpu",
    ]
    expected = run_task("evaluate", tmp_path / "parquet", *options)
    for name in ("words.tsv", "numbers.tsv"):
        found = run_task("evaluate", tmp_path / name.split(".")[0], *options, f"data.test_file={tmp_path / name}")
        assert found == expected
    with pytest.raises(InputError, match="'so so'"):
        run_task("evaluate", tmp_path / "other", *options, f"data.test_file={tmp_path / 'other.tsv'}")


def test_it_learns(tiny_run, tmp_path, run_task):
    metrics = run_task(
        "train", tmp_path / "run", *tiny_run, "trainer.max_epochs=10", "model.trainable_layers=all", "optimizer.lr=3e-3"
    )
    assert metrics["test/accuracy"] > 0.9


def parameters(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints" / f"{name}.ckpt").parameters


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny_run, tmp_path, run_task):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        run_task("train", tmp_path / name, *tiny_run, f"seed={seed}", "test=false")
    one, same, other = (parameters(tmp_path / name) for name in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_features_are_built_listed_found_and_cleared(tiny_run, tmp_path, run_task, capsys):
    old = tmp_path / "cache" / "features" / "old"
    old.mkdir(parents=True)
    (old / "features.bin").write_bytes(b"of 0.1.0")
    run_task("train", tmp_path / "build", *tiny_run, "features.build_only=true")
    built = written(tmp_path / "build")
    num_reviews = sum(built["features"].values())
    assert built["features"]["found"] == 0
    assert built["metrics"] == {}
    assert not (tmp_path / "build" / "checkpoints").exists()
    run_task("train", tmp_path / "other", *tiny_run, "data.seed=7")  # another split of the same reviews
    assert written(tmp_path / "other")["features"] == {"found": num_reviews, "computed": 0}
    best = f"checkpoint={tmp_path / 'other' / 'checkpoints' / 'best.ckpt'}"
    run_task("evaluate", tmp_path / "again", best, f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu")
    assert written(tmp_path / "again")["features"] == {"found": 80, "computed": 0}
    capsys.readouterr()
    run_task("train", tmp_path / "list", *tiny_run, "features.list=true")
    said = capsys.readouterr().out
    assert "reviews" in said
    assert f"{built['features']['computed']:,}" in said
    assert said.endswith("of version 0.1.0, not read: old\n")
    run_task("train", tmp_path / "clear", *tiny_run, "features.clear=true")
    assert "GB of features removed" in capsys.readouterr().out
    assert not old.parent.exists()


@torch.no_grad()
def test_a_probability_is_the_same_from_a_store_without_one_and_explained(tiny_run, tmp_path, run_task):
    run_task("train", tmp_path / "run", *tiny_run)
    best, found = tmp_path / "run" / "checkpoints" / "best.ckpt", []
    for cache, tokens in (("cache", 8192), ("other", 100), ("another", 1000)):
        more = [f"cache_dir={tmp_path / cache}", f"data.tokens_per_batch={tokens}", "trainer.accelerator=cpu"]
        run_task("evaluate", tmp_path / cache / "run", f"checkpoint={best}", *more)
        found.append(pq.read_table(tmp_path / cache / "run" / "predictions.parquet"))
    table = found[0].to_pydict()
    assert found[1].to_pydict() == found[2].to_pydict() == table
    loaded = bertlens.load(best)
    for text, probability in list(zip(table["text"], table["probability of positive"], strict=True))[:5]:
        assert loaded.predict(text).probabilities["positive"] == probability
        assert loaded.explain(text).probabilities[1] == probability


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_from_the_store_is_training_from_word_pieces(tiny_run, tmp_path, run_task, dtype):
    for cache in ("on", "off"):
        run_task(
            "train", tmp_path / cache, *tiny_run, f"features.cache={cache}", f"features.dtype={dtype}", "test=false"
        )
    stored, direct = parameters(tmp_path / "on"), parameters(tmp_path / "off")
    for name in stored:
        assert torch.equal(stored[name], direct[name])


def test_a_checkpoint_holds_the_trained_part_and_plain_types(tiny_run, tmp_path, run_task):
    run_task("train", tmp_path / "run", *tiny_run, "test=false")
    raw = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    names = {name.removeprefix("classifier.") for name in raw["state_dict"]}
    assert all(name.startswith(("bert.encoder.layer.2.", "head.")) for name in names)
    assert raw["bertlens"]["sha256"].keys() == {"model.safetensors", "config.json", "vocab.txt"}
    assert raw["bertlens"]["label_names"] == ["negative", "positive"]


def test_a_whole_model_needs_no_published_weights(tiny_run, tiny_model, tmp_path, run_task):
    reported = run_task("train", tmp_path / "run", *tiny_run, "checkpoint.whole_model=true")
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert {"bert.embeddings.word_embeddings.weight", "head.bias"} <= set(checkpoint.parameters)
    gone = dataclasses.replace(checkpoint.info.model, pretrained=str(tmp_path / "gone"))
    info = dataclasses.replace(checkpoint.info, model=gone)
    classifier, tokenizer = restore(dataclasses.replace(checkpoint, info=info))
    assert len(tokenizer.vocabulary) == classifier.bert.config.vocab_size
    assert reported["test/accuracy"] >= 0


def test_resuming_goes_on_from_the_epoch_it_stopped_at(tiny_run, tmp_path, run_task):
    run_task("train", tmp_path / "whole", *tiny_run, "trainer.max_epochs=4", "test=false")
    run_task("train", tmp_path / "half", *tiny_run, "trainer.max_epochs=2", "test=false")
    last = tmp_path / "half" / "checkpoints" / "last.ckpt"
    run_task("train", tmp_path / "rest", *tiny_run, "trainer.max_epochs=4", f"checkpoint.path={last}", "test=false")
    whole, rest = parameters(tmp_path / "whole"), parameters(tmp_path / "rest")
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_own_files_with_named_classes(tiny_run, tmp_path, tiny_reviews, run_task):
    table = pq.read_table(tiny_reviews / "train.parquet").to_pydict()
    names = ["so so", "dull $1", "great"]
    for split in ("train", "test"):
        with (tmp_path / f"{split}.tsv").open("w") as file:
            file.write("body\tverdict\n")
            for index, text in enumerate(table["text"]):
                file.write(f"{text}\t{names[0] if index % 5 == 0 else names[1 + table['label'][index]]}\n")
    overrides = [override for override in tiny_run if not override.startswith("data.path")]
    own = [f"data.{split}_file={tmp_path / split}.tsv" for split in ("train", "test")]
    metrics = run_task(
        "train", tmp_path / "run", "data=files", *overrides, *own, "data.text_column=body", "data.label_column=verdict"
    )
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt").info.label_names == sorted(names)
    assert 0 <= metrics["test/accuracy"] <= 1


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.trainable_layers=9"], "model.trainable_layers=9"),
        (["data.max_length=65"], "data.max_length=65"),
        (["data.max_length=2"], "data.max_length=2"),
        (["data.path=/nowhere"], "data.path"),
        (["data.text_column=body"], "data.text_column"),
        (["model.pretrained=/nowhere"], "model.pretrained"),
        (["optimizer.lr=-1"], "optimizer.lr"),
        (["optimizer.schedule=square"], "optimizer.schedule"),
        (["data.padding=some"], "data.padding"),
        (["checkpoint.path=/nowhere.ckpt"], "checkpoint=/nowhere.ckpt"),
        (["trainer.accelerator=abacus"], "trainer"),
        (["features.cache=maybe"], "features.cache"),
        (["optimizer.lr=1e-3", "optimizer.head_lr=2"], "optimizer.head_lr"),
    ],
)
def test_bad_input_is_named(tiny_run, tmp_path, overrides, named, run_task):
    with pytest.raises(InputError) as caught:
        run_task("train", tmp_path / "run", *tiny_run, *overrides)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_depth_is_refused(tiny_run, tmp_path, run_task):
    run_task("train", tmp_path / "one", *tiny_run, "test=false", "trainer.max_epochs=1")
    last = tmp_path / "one" / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match="trainable_layers was 1 and is 2"):
        run_task("train", tmp_path / "two", *tiny_run, f"checkpoint.path={last}", "model.trainable_layers=2")


def test_changed_published_weights_are_refused(tiny_run, tiny_model, tmp_path, run_task):
    import shutil

    copied = tmp_path / "model"
    shutil.copytree(tiny_model, copied)
    run_task("train", tmp_path / "run", *tiny_run, f"model.pretrained={copied}", "test=false", "trainer.max_epochs=1")
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (copied / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="SHA-256"):
        run_task("evaluate", tmp_path / "again", f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}")


@pytest.mark.integration
def test_a_sweep_ends_with_a_table_best_first(tiny_run, tmp_path):
    done = command("train", "-m", *tiny_run, "optimizer.lr=1e-5,3e-3", "trainer.max_epochs=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = next((tmp_path / "outputs" / "sweeps").glob("*/*"))
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    rates = [row["optimizer.lr"] for row in rows]
    assert sorted(rates) == ["0.003", "1e-05"]
    assert float(rows[0]["val/accuracy"]) >= float(rows[1]["val/accuracy"])
    assert done.stdout.count("features: computing") + done.stderr.count("features: computing") == 3  # once a split
    table = done.stdout[done.stdout.index("best validation accuracy first") :]
    assert table.index(rates[0]) < table.index(rates[1])


@pytest.mark.slow
@pytest.mark.integration
def test_jobs_side_by_side_build_one_store(tiny_run, tmp_path):
    arguments = ["-m", *tiny_run, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model.trainable_layers=1,2"]
    done = command("train", *arguments, "optimizer.lr=1e-4,1e-3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = next((tmp_path / "outputs" / "sweeps").glob("*/*"))
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert len(rows) == 4
    assert all(row["test/accuracy"] for row in rows)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1  # of the depth that serves all
    found = [json.loads(path.read_text())["features"] for path in folder.glob("*/metrics.json")]
    assert len(found) == 4
    assert sum(each["computed"] for each in found) == max(sum(each.values()) for each in found)  # each review once


@pytest.mark.integration
def test_jobs_side_by_side_share_the_cores(tiny_run, tmp_path):
    """joblib gives each of its processes cores // jobs threads, unless the environment says otherwise."""
    cores = len(os.sched_getaffinity(0))
    given = ["-m", *tiny_run, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={cores}", "trainer.max_epochs=1"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *given, "seed=1,2", "hydra.sweep.dir=sweep"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [written(tmp_path / "sweep" / name)["machine"]["threads"] for name in ("seed-1", "seed-2")] == [1, 1]


@pytest.mark.integration
def test_a_failed_job_is_in_the_table_and_in_the_exit_status(tiny_run, tmp_path):
    arguments = ["-m", *tiny_run, "model.trainable_layers=1,9", "trainer.max_epochs=1"]
    done = command("train", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    folder = next((tmp_path / "outputs" / "sweeps").glob("*/*"))
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert [bool(row["test/accuracy"]) for row in rows] == [True, False]
    assert "model.trainable_layers=9" in rows[1]["error"]
    assert "Traceback" not in done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("train", ["optimizer.lrr=1"], "did you mean optimizer.lr?"),
        ("train", ["model=bert_huge"], "bert_huge"),
        ("train", ["trainer.max_epochs=many"], "trainer.max_epochs"),
        ("train", ["model=minilm", "data.path=/nowhere"], "data.path='/nowhere'"),
        ("train", [], "data.path"),
        ("train", [], "experiment=demo"),
        ("train", ["optimizer.lr="], "optimizer.lr"),
        ("evaluate", [], "checkpoint"),
        ("evaluate", ["checkpoint=/nowhere"], "/nowhere"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, name, arguments, named):
    done = command(name, *arguments, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert named in errors[0]


@pytest.mark.integration
def test_help_lists_keys(tmp_path):
    done = command("train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "optimizer.lr=5e-05" in done.stdout
    assert "Adam's learning rate" in done.stdout


@pytest.mark.integration
@pytest.mark.parametrize("cache", ["auto", *(pytest.param(cache, marks=pytest.mark.slow) for cache in ("off", "on"))])
def test_two_processes_give_the_accuracy_of_one(tiny_run, tmp_path, cache, run_task):
    arguments = ["trainer.strategy=ddp", "trainer.devices=2", "trainer.max_epochs=1", "hydra.run.dir=two"]
    done = command("train", *tiny_run, f"features.cache={cache}", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reported = written(tmp_path / "two")["metrics"]["test/accuracy"]
    features = written(tmp_path / "two")["features"]
    assert features["found"] == 0
    if cache == "on":  # both processes have computed some of them, and none twice
        paths = (tmp_path / "cache" / "features").glob("*/*.safetensors")
        assert features["computed"] == sum(len(shards.read_index(path).reviews) for path in paths)
    alone = run_task(
        "evaluate",
        tmp_path / "again",
        f"checkpoint={tmp_path / 'two' / 'checkpoints' / 'best.ckpt'}",
        f"cache_dir={tmp_path / 'cache'}",
        "trainer.accelerator=cpu",
    )
    assert alone["test/accuracy"] == pytest.approx(reported, abs=1e-7)


@pytest.mark.integration
def test_the_notebooks_lines(tiny_run, tmp_path):
    done = command("train", "experiment=notebook", *tiny_run, "print_every=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("iteration ")]
    assert len(lines) == 4  # 10 batches an epoch, 2 epochs
    assert "loss:" in lines[0]
    assert "batch accuracy:" in lines[0]
