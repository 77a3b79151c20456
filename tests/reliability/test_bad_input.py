"""What people get wrong, one real run each: never a traceback, always one line that names the key or the file."""

import gzip
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

SECONDS = 60  # the longest that a run may take to say what is wrong
PLAIN = "trainer.accelerator=cpu trainer.devices=1 trainer.enable_progress_bar=false cache_dir={here}/cache"
FILES = "data=files data.train_file={data}/good.tsv data.test_file={data}/good.tsv"
# what a run is given before a row's own arguments: of two values for a key the later one counts
BASE = {
    "train": f"{PLAIN} {FILES} data.max_length=48 trainer.max_epochs=1 model.pretrained={{models}}/good",
    "bare": "",
    "evaluate": "trainer.accelerator=cpu cache_dir={here}/cache checkpoint={checkpoints}/good.ckpt",
    "visualize": "trainer.accelerator=cpu cache_dir={here}/cache checkpoint={checkpoints}/good.ckpt",
    "predict": "accelerator=cpu checkpoint={checkpoints}/good.ckpt file={data}/good.tsv output={here}/out.csv",
}


class Row(NamedTuple):
    name: str
    base: str
    arguments: str  # separated by spaces; {data}, {models}, {checkpoints} and {here} are folders
    named: str  # what the message must hold


class Outcome(NamedTuple):
    status: int
    output: str
    seconds: float


def train_file(name: str, file: str, named: str, more: str = "") -> Row:
    return Row(name, "train", f"data.train_file={{data}}/{file} {more}", named)


def local(name: str, folder: str, named: str) -> Row:
    no_files = "data.train_file=null data.test_file=null"
    return Row(name, "train", f"{no_files} data.source=local data.path={{data}}/{folder}", named)


def model(name: str, named: str) -> Row:
    return Row(f"weights: {name}", "train", f"model.pretrained={{models}}/{name.replace(' ', '_')}", named)


def setting(arguments: str, named: str | None = None, base: str = "train") -> Row:
    return Row(arguments, base, arguments, named or arguments.split("=")[0])


ROWS = [
    # reviews
    train_file("no such column", "other_columns.tsv", "data.text_column='text'"),
    train_file("nothing in the file", "nothing.tsv", "nothing.tsv'"),
    train_file("nothing in the JSON file", "nothing.jsonl", "nothing.jsonl' is empty"),
    train_file("nothing in the Parquet file", "nothing.parquet", "nothing.parquet"),
    train_file("a header and no reviews", "header.csv", "header.csv"),
    train_file("Latin-1", "latin.tsv", "latin.tsv', line 2, is not UTF-8"),
    train_file("UTF-16", "utf16.csv", "utf16.csv', line 1, is not UTF-8"),
    train_file("a compressed file under a plain name", "compressed.tsv", "is not UTF-8"),
    train_file("one class", "one_class.tsv", "data.label_column"),
    Row("a label in test only", "train", "data.test_file={data}/other_label.tsv", "'so so'"),
    Row("a label in validation only", "train", "data.validation_file={data}/other_label.tsv", "'so so'"),
    train_file("a row too short", "ragged.csv", "ragged.csv', line 3"),
    train_file("a quote that never ends", "unclosed.csv", "unclosed.csv', line"),
    train_file("a broken JSON line", "broken.jsonl", "broken.jsonl', line 2"),
    train_file("a JSON list", "list.json", "list.json', line 1"),
    train_file("texts that are numbers", "numbers.jsonl", "data.text_column='text'"),
    train_file("texts of several kinds", "mixed.jsonl", "mixed.jsonl"),
    train_file("half a character in JSON", "surrogate.jsonl", "surrogate.jsonl"),
    train_file("a damaged Parquet file", "damaged.parquet", "damaged.parquet"),
    train_file("a Parquet file cut short", "cut.parquet", "cut.parquet"),
    train_file("Parquet texts that are lists", "lists.parquet", "data.text_column='text'"),
    train_file("labels that are fractions", "fractions.parquet", "data.label_column='label'"),
    train_file("labels left out", "unlabelled.jsonl", "data.label_column='label'"),
    train_file("texts left out", "textless.jsonl", "data.text_column='text'"),
    train_file("texts of white space", "blank.tsv", "data.text_column='text'"),
    train_file("NUL bytes", "nul.tsv", "nul.tsv"),
    train_file("the same column twice", "twice.csv", "data.label_column='label'"),
    train_file("one review of each class", "two.tsv", "data.validation_fraction"),
    train_file("no such file", "nowhere.tsv", "nowhere.tsv"),
    train_file("a folder for a file", "folder.tsv", "folder.tsv"),
    train_file("another ending", "good.txt", "good.txt"),
    train_file("no header where one is said to be", "good.tsv", "data.text_column='text'", "data.header=false"),
    local("no such folder", "nowhere", "data.path="),
    local("a file for a folder", "good.tsv", "data.path="),
    local("a folder without reviews", "folder.tsv", "data.path="),
    local("a folder without test reviews", "untested", "'test'"),
    local("text files of one class", "one_sided", "one_sided/train/neg"),
    # weights
    model("cut short", "cut_short/model.safetensors"),
    model("garbage", "garbage/model.safetensors"),
    model("another architecture", "model_type"),
    model("missing names", "missing: "),
    model("unexpected names", "unexpected: "),
    model("wrong shapes", "of another shape"),
    model("not numbers", "not_numbers/model.safetensors"),
    model("no vocabulary", "vocab.txt"),
    model("a piece twice", "vocab.txt"),
    model("no special pieces", "[CLS]"),
    model("too many pieces", "vocab_size"),
    model("a vocabulary in Latin-1", "vocab.txt"),
    model("no configuration", "config.json"),
    model("a broken configuration", "config.json"),
    model("a size that is text", "hidden_size='32'"),
    model("heads that do not divide", "num_attention_heads"),
    model("no weights", "model.pretrained="),
    model("not a pickle", "not_a_pickle/pytorch_model.bin"),
    model("a pickle that runs a command", "pytorch_model.bin"),
    model("a pickled list", "a_pickled_list/pytorch_model.bin"),
    model("nowhere", "model.pretrained="),
    setting("model.pretrained={data}/good.tsv", "model.pretrained="),
    # values
    setting("optimizer.lrr=1", "did you mean optimizer.lr?"),
    setting("+optimizer.momentum=0.9", "optimizer.momentum"),
    setting("optimizer.lr=-1"),
    setting("optimizer.lr=nan"),
    setting("optimizer.lr=fast"),
    setting("optimizer.head_lr=3"),
    setting("optimizer.weight_decay=-0.1"),
    setting("optimizer.weight_decay=inf"),
    setting("optimizer.schedule=nonsense"),
    setting("optimizer.warmup=2"),
    setting("data.batch_size=0"),
    setting("data.batch_size=many"),
    setting("data.tokens_per_batch=-1"),
    setting("data.max_length=1"),
    setting("data.max_length=65"),
    setting("data.max_reviews=0"),
    setting("data.max_reviews=1"),
    setting("data.validation_fraction=1"),
    setting("data.validation_fraction=nan"),
    setting("data.seed=-1"),
    setting("data.source=nonsense"),
    setting("data.cleaning=nonsense"),
    setting("data.truncation=middle"),
    setting("data.padding=nonsense"),
    setting("data.text_column=label", "data.label_column"),
    setting("data.text_column="),
    setting("data.train_file=null"),
    setting("data.path={data}", "data.path="),
    setting("model.pretrained="),
    setting("model.trainable_layers=9"),
    setting("model.trainable_layers=-1"),
    setting("model.trainable_layers=half"),
    setting("model.trainable_layers=true"),
    setting("model.attention_mask=false", "data.padding"),
    setting("seed=-1", "seed=-1"),
    setting("seed=4294967296", "seed=4294967296"),
    setting("seed=1.5"),
    setting("print_every=0"),
    setting("cache_dir="),
    setting("cache_dir={data}/good.tsv", "good.tsv"),
    setting("trainer.max_epochs=0"),
    setting("trainer.max_epochs=2.5"),
    setting("trainer.max_steps=0"),
    setting("trainer.max_steps=-2"),
    setting("trainer.accumulate_grad_batches=0"),
    setting("trainer.gradient_clip_val=-1"),
    setting("trainer.limit_train_batches=0"),
    setting("trainer.limit_train_batches=1.5"),
    setting("trainer.log_every_n_steps=0"),
    setting("trainer.num_nodes=0"),
    setting("trainer.devices=99"),
    setting("trainer.devices=0"),
    setting("trainer.devices=many"),
    setting("trainer.precision=nonsense"),
    setting("trainer.strategy=nonsense"),
    setting("trainer.accelerator=abacus"),
    setting("features.cache=nonsense"),
    setting("features.dtype=int4"),
    setting("features.device=moon"),
    setting("features.max_gb=-1"),
    setting("features.max_trainable_layers=-1"),
    setting("features.cache=on model.trainable_layers=all", "features.cache=on"),
    setting("checkpoint.keep=nonsense"),
    setting("checkpoint.every_n_steps=0"),
    setting("+callbacks.gone._target_=pytorch_lightning.callbacks.Nowhere", "callbacks.gone"),
    setting("+callbacks.other._target_=pathlib.Path", "callbacks.other"),
    setting("+callbacks.bare.patience=2", "callbacks.bare"),
    setting("+logger.gone._target_=nowhere.Logger", "logger.gone"),
    setting("logger=nonsense", "logger=nonsense"),
    setting("logger=wandb", "pip install"),
    setting("trainer.precisio=32-true", "did you mean trainer.precision?"),
    setting("+trainer.nonsense=1", "trainer.nonsense"),
    setting("callbacks.learning_rate.logging_interval=never", "callbacks.learning_rate"),
    setting("hydra.run.dir={data}/good.tsv", "good.tsv"),
    setting("checkpoint={checkpoints}/good.ckpt", "trainer.max_epochs=1"),
    setting("checkpoint={checkpoints}/good.ckpt model.trainable_layers=2", "model.trainable_layers"),
    setting("optimizer.lr=-1 data.batch_size=0 seed=-1", "data.batch_size"),
    # the command line
    Row("no such key", "bare", "nonsense=1", "nonsense"),
    Row("a key without a value", "train", "optimizer.lr", "optimizer.lr"),
    Row("a value without a key", "train", "=3", "=3"),
    Row("a list that never ends", "train", "optimizer.lr=[1,", "optimizer.lr=[1,"),
    Row("two values without -m", "train", "optimizer.lr=1e-3,1e-4", "optimizer.lr"),
    Row("no such choice", "bare", "model=bert_huge", "bert_huge"),
    Row("no such experiment", "bare", "experiment=nonsense", "nonsense"),
    Row("a choice made twice", "bare", "model=minilm model=bert_base", "model"),
    Row("a section for a value", "train", "trainer=5", "trainer"),
    Row("a key taken away", "train", "~optimizer.lr", "optimizer.lr"),
    Row("an interpolation of nothing", "train", "seed=${nowhere}", "nowhere"),
    Row("an interpolation of itself", "train", "seed=${seed}", "seed"),
    Row("a variable that is not set", "train", "cache_dir=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
    Row("no checkpoint", "bare-evaluate", "", "checkpoint"),
    Row("no checkpoint to show", "bare-visualize", "", "checkpoint"),
    setting("checkpoint=", "checkpoint=", "evaluate"),
    setting("checkpoint=null", "checkpoint", "evaluate"),
    setting("checkpoint={data}/nowhere.ckpt", "nowhere.ckpt", "evaluate"),
    setting("checkpoint={data}", "checkpoint=", "evaluate"),
    setting("checkpoint={data}/good.tsv", "good.tsv", "evaluate"),
    setting("checkpoint={checkpoints}/cut.ckpt", "cut.ckpt", "evaluate"),
    setting("checkpoint={checkpoints}/other.ckpt", "other.ckpt", "evaluate"),
    setting("checkpoint={checkpoints}/evil.ckpt", "evil.ckpt", "evaluate"),
    setting("checkpoint={checkpoints}/future.ckpt", "format", "evaluate"),
    setting("checkpoint={checkpoints}/lacking.ckpt", "lacking.ckpt", "evaluate"),
    setting("checkpoint={checkpoints}/moved.ckpt", "model.pretrained=", "evaluate"),
    setting("checkpoint={checkpoints}/changed.ckpt", "SHA-256", "evaluate"),
    setting("data.test_file={data}/other_label.tsv", "'so so'", "evaluate"),
    setting("data.test_file={data}/other_columns.tsv", "data.text_column", "evaluate"),
    setting("data.test_file={data}/good.tsv data.path={data}", "data.path", "evaluate"),
    setting("data.max_reviews=0", None, "evaluate"),
    setting("data.tokens_per_batch=0", None, "evaluate"),
    setting("trainer.devices=99", None, "evaluate"),
    setting("indices=[999]", None, "visualize"),
    setting("indices=[-1]", None, "visualize"),
    setting("indices=[]", None, "visualize"),
    setting("indices=first", None, "visualize"),
    setting("reviews=nonsense", None, "visualize"),
    setting("reviews=random seed=-1", "seed=-1", "visualize"),
    setting("count=0", None, "visualize"),
    setting("text=", None, "visualize"),
    setting("text=[]", None, "visualize"),
    setting("text=[{a:1}]", None, "visualize"),
    setting("text=\udce9t\udce9", "text 0", "visualize"),
    setting("text=漢字", "text 0", "visualize"),
    setting("text=good file={data}/good.tsv", "text and file", "visualize"),
    setting("file={data}/nowhere.txt", "nowhere.txt", "visualize"),
    setting("file={data}/nothing.tsv", "nothing.tsv", "visualize"),
    setting("file={data}/latin.tsv", "latin.tsv", "visualize"),
    setting("report.layers=some", None, "visualize"),
    setting("output={data}/good.tsv", "overwrite=true", "predict"),
    setting("output=out.docx", "output=", "predict"),
    setting("text_column=txet", "did you mean 'text'", "predict"),
    setting("file={data}/latin.tsv", "latin.tsv', line 2, is not UTF-8", "predict"),
    setting("file={data}/nowhere.csv", "nowhere.csv", "predict"),
    setting("file={data}/folder.tsv", "folder.tsv", "predict"),
    setting("checkpoint={checkpoints}/future.ckpt", "format", "predict"),
    setting("accelerator=abacus", "accelerator=abacus", "predict"),
]


class Command:
    """What a pickle runs when it is loaded the careless way."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def write_reviews(folder: Path) -> None:
    """Files of reviews, each with one thing wrong; good.tsv has none."""
    folder.mkdir()
    rows = [(f"a {word} film {number}", word) for number in range(10) for word in ("good", "bad")]
    good = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    json_rows = [{"text": text, "label": label} for text, label in rows]
    contents = {
        "good.tsv": good,
        "good.txt": good,
        "other_columns.tsv": good.replace("text\tlabel", "body\tverdict"),
        "nothing.tsv": "",
        "nothing.jsonl": "",
        "nothing.parquet": "",
        "header.csv": "text,label\n",
        "one_class.tsv": good.replace("\tbad", "\tgood"),
        "other_label.tsv": good + "so so\tso so\n",
        "ragged.csv": "text,label\na,good\nb\n",
        "unclosed.csv": 'text,label\n"a,good\nb,bad\n',
        "broken.jsonl": '{"text": "a", "label": "good"}\n{"text": \n',
        "list.json": json.dumps(json_rows),
        "numbers.jsonl": '{"text": 1, "label": "good"}\n{"text": 2, "label": "bad"}\n',
        "mixed.jsonl": '{"text": "a", "label": "good"}\n{"text": 2, "label": "bad"}\n',
        "surrogate.jsonl": '{"text": "a", "label": "good"}\n{"text": "\\ud83d", "label": "bad"}\n',
        "unlabelled.jsonl": '{"text": "a", "label": null}\n{"text": "b", "label": "bad"}\n',
        "textless.jsonl": '{"text": null, "label": "good"}\n{"text": null, "label": "bad"}\n' * 10,
        "blank.tsv": "text\tlabel\n" + " \tgood\n\u3000\tbad\n" * 10,
        "nul.tsv": "\0" * 4096,
        "twice.csv": "text,label,label\na,good,bad\n",
        "two.tsv": "text\tlabel\na\tgood\nb\tbad\n",
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "latin.tsv").write_bytes("text\tlabel\ncafé\tgood\n".encode("latin-1"))
    (folder / "utf16.csv").write_bytes("text,label\na,good\n".encode("utf-16"))
    (folder / "compressed.tsv").write_bytes(gzip.compress(good.encode()))
    (folder / "folder.tsv").mkdir()
    tables: dict[str, dict[str, Any]] = {
        "good.parquet": {"text": [text for text, _ in rows], "label": [label for _, label in rows]},
        "lists.parquet": {"text": [["a"], ["b"]], "label": ["good", "bad"]},
        "fractions.parquet": {"text": ["a", "b"], "label": [0.5, 1.5]},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / name)
    parquet = (folder / "good.parquet").read_bytes()
    (folder / "damaged.parquet").write_bytes(parquet[:8] + bytes(len(parquet) - 16) + parquet[-8:])
    (folder / "cut.parquet").write_bytes(parquet[:-20])
    (folder / "untested").mkdir()
    shutil.copy(folder / "good.parquet", folder / "untested" / "train.parquet")
    for split in ("train", "test"):
        (folder / "one_sided" / split / "pos").mkdir(parents=True)
        (folder / "one_sided" / split / "pos" / "0_9.txt").write_text("good")


def write_models(folder: Path, good: Path) -> None:
    """Folders of weights, each with one thing wrong; the one called good has none."""
    tensors = load_file(good / "model.safetensors")
    config = json.loads((good / "config.json").read_text())
    pieces = (good / "vocab.txt").read_text().splitlines()
    norm = "embeddings.LayerNorm.weight"
    weights: dict[str, dict[str, torch.Tensor]] = {
        "missing_names": {name: tensor for name, tensor in tensors.items() if name != norm},
        "unexpected_names": tensors | {"encoder.layer.9.output.dense.weight": tensors[norm].clone()},
        "wrong_shapes": tensors | {norm: torch.ones(7)},
        "not_numbers": tensors | {norm: torch.full_like(tensors[norm], torch.nan)},
    }
    whole = (good / "model.safetensors").read_bytes()
    binary = {
        "cut_short": {"model.safetensors": whole[: len(whole) // 2]},
        "garbage": {"model.safetensors": b"\xff" * 1000},
        "a_vocabulary_in_Latin-1": {"vocab.txt": "\n".join([*pieces, "é"]).encode("latin-1")},
        "a_broken_configuration": {"config.json": b"{"},
        "another_architecture": {"config.json": json.dumps(config | {"model_type": "roberta"}).encode()},
        "a_size_that_is_text": {"config.json": json.dumps(config | {"hidden_size": "32"}).encode()},
        "heads_that_do_not_divide": {"config.json": json.dumps(config | {"num_attention_heads": 5}).encode()},
        "a_piece_twice": {"vocab.txt": "\n".join([*pieces[:-1], pieces[9]]).encode()},
        "no_special_pieces": {"vocab.txt": "\n".join(pieces[5:]).encode()},
        "too_many_pieces": {"vocab.txt": "\n".join([*pieces, "more", "than", "vectors"]).encode()},
        "not_a_pickle": {"pytorch_model.bin": b"not a pickle"},
        "a_pickle_that_runs_a_command": {"pytorch_model.bin": pickle.dumps(Command(folder / "trace"))},
        "a_pickled_list": {"pytorch_model.bin": pickle.dumps([1, 2, 3])},
    }
    gone = {"no_vocabulary": "vocab.txt", "no_configuration": "config.json", "no_weights": "model.safetensors"}
    for name in ["good", *weights, *binary, *gone]:
        shutil.copytree(good, folder / name)
        if name in weights:
            save_file(weights[name], folder / name / "model.safetensors")
        for file, content in binary.get(name, {}).items():
            if file == "pytorch_model.bin":
                (folder / name / "model.safetensors").unlink()
            (folder / name / file).write_bytes(content)
        if name in gone:
            (folder / name / gone[name]).unlink()


def write_checkpoints(folder: Path, here: dict[str, Path], run_task: Callable[..., Any]) -> None:
    """A run's checkpoint as good.ckpt, and copies of it with one thing wrong each."""
    folder.mkdir()
    arguments = [argument.format(**here) for argument in f"{BASE['train']} trainer.max_epochs=2 test=false".split()]
    run_task("train", folder / "run", *arguments)
    shutil.copy(folder / "run" / "checkpoints" / "last.ckpt", folder / "good.ckpt")
    whole = (folder / "good.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (folder / "evil.ckpt").write_bytes(pickle.dumps(Command(here["models"] / "trace")))
    torch.save({"state_dict": {}}, folder / "other.ckpt")

    def changed(name: str, change: Callable[[dict[str, Any]], object]) -> None:
        content = torch.load(folder / "good.ckpt", weights_only=True)
        change(content)
        torch.save(content, folder / f"{name}.ckpt")

    changed("future", lambda content: content["bertlens"].update(format_version=99))
    changed("lacking", lambda content: content["bertlens"].pop("data"))
    changed("moved", lambda content: content["bertlens"]["model"].update(pretrained=str(folder / "nowhere")))
    changed("changed", lambda content: content["bertlens"]["sha256"].update({"vocab.txt": "0" * 64}))


@pytest.fixture(scope="module")
def folders(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, run_task: Callable[..., Any]
) -> dict[str, Path]:
    """Where the rows' {data}, {models}, {checkpoints} and {here} are."""
    here = tmp_path_factory.mktemp("bad")
    found = {name: here / name for name in ("data", "models", "checkpoints")} | {"here": here}
    write_reviews(found["data"])
    write_models(found["models"], tiny_model)
    write_checkpoints(found["checkpoints"], found, run_task)
    return found


def command(row: Row, folders: dict[str, Path]) -> tuple[str, list[str]]:
    """The entry point of a row and what it is given."""
    base, _, name = row.base.rpartition("-")
    name = "train" if name == "bare" else name
    given = "" if base == "bare" or row.base == "bare" else BASE[name]
    arguments = f"{given} {row.arguments}".split()
    for placeholder, path in folders.items():
        arguments = [argument.replace(f"{{{placeholder}}}", str(path)) for argument in arguments]
    return name, arguments


def outcomes(
    rows: list[Row], folders: dict[str, Path], start: Callable[..., Any], *, at_once: int = 2
) -> Iterator[tuple[Row, Outcome]]:
    """Each row's run, a few of them at a time."""
    waiting: list[tuple[Row, Any, float]] = []
    for row in [*rows, *[None] * at_once]:
        if waiting and (row is None or len(waiting) == at_once):
            earlier, process, begun = waiting.pop(0)
            status = process.wait(SECONDS)
            yield earlier, Outcome(status, process.output, time.monotonic() - begun)
        if row is not None:
            name, arguments = command(row, folders)
            waiting.append((row, start(name, *arguments), time.monotonic()))


def faults(row: Row, outcome: Outcome) -> list[str]:
    """What is wrong with how a run ended."""
    lines = outcome.output.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    found = []
    if outcome.status == 0:
        found.append("accepted")
    if "Traceback" in outcome.output:
        found.append("traceback")
    if len(errors) != 1:
        found.append(f"{len(errors)} error lines")
    elif lines[-1] != errors[0]:
        found.append("goes on after its error line")
    elif row.named not in errors[0]:
        found.append(f"does not name {row.named}")
    return found


def test_each_mistake_is_one_line_that_names_it(folders, start, record, amount):
    names = [row.name for row in ROWS]
    assert len(set(zip(names, (row.base for row in ROWS), strict=True))) == len(ROWS)
    rows = ROWS[:: amount(6, 1)]
    wrong, tracebacks, longest = [], 0, 0.0
    for row, outcome in outcomes(rows, folders, start):
        tracebacks += "Traceback" in outcome.output
        longest = max(longest, outcome.seconds)
        if found := faults(row, outcome):
            wrong.append(f"{row.base}: {row.name}: {', '.join(found)}\n{outcome.output[-1500:]}")
    assert not wrong, f"{len(wrong)} of {len(rows)}\n" + "\n".join(wrong)
    assert not (folders["models"] / "trace").exists(), "a pickle ran its command"
    record(
        "bad input, each in a run of its own",
        rows=len(rows),
        one_line_messages=len(rows) - len(wrong),
        tracebacks=tracebacks,
        longest_seconds=round(longest, 1),
    )
