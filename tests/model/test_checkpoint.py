"""What a checkpoint holds, how it is read back, and that the format of 0.1.0 is still read."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from bertlens.data.settings import DataSettings
from bertlens.errors import InputError
from bertlens.model.checkpoint import (
    FORMAT_KEY,
    FROZEN_KEY,
    CheckpointInfo,
    build_classifier,
    check_resumable,
    find_checkpoint,
    load_published,
    read_checkpoint,
    read_raw,
    restore,
)
from bertlens.model.pretrained import find_pretrained
from bertlens.model.settings import ModelSettings, PublishedSettings

STEPS = {"optimizer.lr": 1e-3, "model.trainable_layers": 1, "training reviews": "a" * 32}


@pytest.fixture
def info(tiny_model) -> CheckpointInfo:
    model = ModelSettings(pretrained=str(tiny_model))
    found = find_pretrained(model)
    return CheckpointInfo(
        model=model,
        data=DataSettings(max_length=48, lowercase=True, cleaning="none"),
        frozen_dtype="bfloat16",
        precision="bf16-mixed",
        sha256=found.sha256,
        config=found.config,
        label_names=["negative", "positive"],
        settings=dict(STEPS),
        vocabulary=found.vocabulary,
    )


def trained_classifier(info: CheckpointInfo):
    torch.manual_seed(0)
    classifier = build_classifier(info)
    load_published(classifier, find_pretrained(info.model))
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return classifier.eval()


def write(path: Path, info: CheckpointInfo, *, whole_model: bool = False) -> Path:
    classifier = trained_classifier(info)
    own = classifier.suffix.state_dict()
    raw = {
        FORMAT_KEY: info.to_dict(whole_model=whole_model),
        "state_dict": {f"classifier.{name}": tensor for name, tensor in own.items()},
    }
    if whole_model:
        raw[FROZEN_KEY] = {name: tensor for name, tensor in classifier.state_dict().items() if name not in own}
    torch.save(raw, path)
    return path


def write_format_1(path: Path, info: CheckpointInfo, *, whole_model: bool = False) -> Path:
    """As 0.1.0 wrote it: all saved parameters in state_dict, the settings in other groups."""
    classifier = trained_classifier(info)
    saved = {name for name, parameter in classifier.named_parameters() if whole_model or parameter.requires_grad}
    data = dataclasses.asdict(info.data)
    tokenizer = ("cleaning", "truncation", "max_length", "lowercase")
    batches = ("batch_size", "tokens_per_batch", "padding")
    record = {
        "pretrained": {"name": info.model.pretrained, "revision": None, "package": None, "sha256": {}},
        "sha256": info.sha256,
        "config": info.config.to_dict(),
        "model": {
            "trainable_layers": 1, "attention_mask": True, "frozen_dropout": False, "frozen_dtype": "bfloat16",
        },
        "tokenizer": {name: data[name] for name in tokenizer},
        "batches": {name: data[name] for name in batches},
        "reviews": {name: value for name, value in data.items() if name not in (*tokenizer, *batches)},
        "label_names": info.label_names,
        "settings": {"optimizer.lr": 1e-3, "trainer.precision": "bf16-mixed"},
        "vocabulary": info.vocabulary if whole_model else [],
        "format_version": 1,
    }  # fmt: skip
    state_dict = {f"classifier.{name}": t for name, t in classifier.state_dict().items() if name in saved}
    torch.save({FORMAT_KEY: record, "state_dict": state_dict}, path)
    return path


@pytest.mark.parametrize("writer", [write, write_format_1])
@pytest.mark.parametrize("whole_model", [False, True])
@pytest.mark.parametrize("trainable_layers", [1, "all"])
def test_a_classifier_is_restored_bit_for_bit(tmp_path, info, tiny_model, writer, whole_model, trainable_layers):
    if writer is write:
        info.model.trainable_layers = trainable_layers
    if whole_model:  # the published files are not needed
        info.model.pretrained = str(shutil.copytree(tiny_model, tmp_path / "model"))
    path = writer(tmp_path / "best.ckpt", info, whole_model=whole_model)
    expected = trained_classifier(info)
    if whole_model:
        shutil.rmtree(tmp_path / "model")
    checkpoint = read_checkpoint(path)
    classifier, tokenizer = restore(checkpoint)
    found = classifier.state_dict()
    assert found.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert not any(module.training for module in classifier.modules() if not list(module.children()))
    assert tokenizer.vocabulary == info.vocabulary
    assert tokenizer.settings == info.data


@pytest.mark.parametrize(
    ("given", "hidden", "attention"),
    [({}, 0.1, 0.1), ({"hidden_dropout": 0}, 0, 0.1), ({"attention_dropout": 0.2}, 0.1, 0.2)],
)
def test_dropout_is_as_published_or_as_given(info, given, hidden, attention):
    vars(info.model).update(given)
    layer = build_classifier(info).bert.encoder.layer[-1]
    assert layer.output.dropout.p == layer.attention.output.dropout.p == hidden
    assert layer.attention.self.dropout.p == attention


def test_the_format_of_0_1_0_is_read_as_todays(tmp_path, info):
    found = read_checkpoint(write_format_1(tmp_path / "old.ckpt", info)).info
    published = PublishedSettings(name=info.model.pretrained)
    expected = dataclasses.replace(
        info,
        model=ModelSettings(pretrained=info.model.pretrained, published=published),
        settings={"optimizer.lr": 1e-3, "trainer.precision": "bf16-mixed"},
        vocabulary=[],
    )
    assert found == expected


def test_todays_format_is_plain_and_comes_back(info):
    plain = info.to_dict(whole_model=True)
    assert CheckpointInfo.from_dict(plain) == info
    assert CheckpointInfo.from_dict(info.to_dict(whole_model=False)) == dataclasses.replace(info, vocabulary=[])
    assert plain["format_version"] == 2


def test_parameters_beside_the_state_dict_of_an_averaged_model_are_ignored(tmp_path, info):
    path = write(tmp_path / "ema.ckpt", info)
    raw = torch.load(path, weights_only=True)
    torch.save(raw | {"n_averaged": torch.tensor(7)}, path)
    restore(read_checkpoint(path))


def test_published_files_that_have_changed_are_refused(tmp_path, info, tiny_model):
    info.model.pretrained = str(shutil.copytree(tiny_model, tmp_path / "model"))
    checkpoint = read_checkpoint(write(tmp_path / "best.ckpt", info))
    with (tmp_path / "model" / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(InputError, match=r"vocab\.txt: its SHA-256 is"):
        restore(checkpoint)


def test_a_parameter_that_is_missing_is_named(tmp_path, info):
    path = write(tmp_path / "best.ckpt", info)
    raw = torch.load(path, weights_only=True)
    del raw["state_dict"]["classifier.head.bias"]
    torch.save(raw, path)
    with pytest.raises(InputError, match=r"best\.ckpt: the weights do not fit the model: missing: head\.bias"):
        restore(read_checkpoint(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["model"].update(more=1), "its settings are damaged"),
        (lambda record: record.pop("config"), "its settings are damaged"),
        (lambda record: record["data"].update(padding="wide"), "data.padding=wide: choose one of"),
        (lambda record: record.update(frozen_dtype="load"), "frozen_dtype='load': choose one of"),
        (lambda record: record["config"].update(num_attention_heads=5), "num_attention_heads 5"),
        (lambda record: record.update(format_version=3), "format 3; this version reads formats 1 to 2"),
        (lambda record: record["model"].update(_target_="os.system"), "bertlens.model._target_='os.system'"),
    ],
    ids=["unknown", "missing", "range", "dtype", "config", "future", "object"],
)
def test_settings_that_cannot_be_right_are_refused(tmp_path, info, change, words):
    path = write(tmp_path / "best.ckpt", info)
    raw = torch.load(path, weights_only=True)
    change(raw[FORMAT_KEY])
    torch.save(raw, path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint={path}: ")
    assert words in message
    assert len(message.splitlines()) == 1


def test_what_is_no_checkpoint_is_refused(tmp_path):
    for name, content in {"cut.ckpt": b"PK\x03\x04 and no more", "other.txt": b"text"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: not readable"):
            read_raw(tmp_path / name)
    with pytest.raises(InputError, match=r"none\.ckpt: No such file or directory"):
        read_raw(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="Is a directory"):
        read_raw(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match=r"foreign\.ckpt: not written by this project"):
        read_raw(tmp_path / "foreign.ckpt")


def test_the_same_settings_can_be_resumed(tmp_path, info):
    check_resumable(write(tmp_path / "last.ckpt", info), info)


def test_other_settings_cannot_be_resumed_and_are_listed(tmp_path, info):
    path = write(tmp_path / "last.ckpt", info)
    now = dataclasses.replace(
        info,
        settings=STEPS | {"optimizer.lr": 5e-4, "training reviews": "b" * 32},
        sha256=info.sha256 | {"vocab.txt": "0" * 64},
        label_names=["neg", "pos"],
    )
    with pytest.raises(InputError) as caught:
        check_resumable(path, now)
    assert str(caught.value) == (
        f"checkpoint={path}: written by a run with other settings: optimizer.lr was 0.001 and is 0.0005; "
        "the training reviews are others: the files have changed; the published files are others; "
        "labels was ['negative', 'positive'] and is ['neg', 'pos']: set them back, or start a new run "
        "(in the same folder with overwrite=true)"
    )


def test_a_checkpoint_of_0_1_0_cannot_be_resumed(tmp_path, info):
    with pytest.raises(InputError, match=r"written by another version .* cannot be resumed from it"):
        check_resumable(write_format_1(tmp_path / "last.ckpt", info), info)


def test_checkpoints_are_found_by_file_run_and_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="checkpoint=latest: outputs/latest leads to no run; train first"):
        find_checkpoint("latest")
    folder = tmp_path / "outputs" / "train" / "1" / "2" / "checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "outputs" / "latest").symlink_to("train/1/2")
    with pytest.raises(InputError, match=r"checkpoint=latest: outputs/train/1/2/checkpoints has no best\.ckpt; give"):
        find_checkpoint("latest")
    (folder / "last.ckpt").touch()
    assert find_checkpoint("latest") == folder / "last.ckpt"
    (folder / "best.ckpt").touch()
    assert find_checkpoint("latest") == find_checkpoint(folder) == folder / "best.ckpt"
    assert find_checkpoint(str(folder.parent)) == folder / "best.ckpt"
    (folder.parent / "metrics.json").write_text('{"settings": {"checkpoint.keep": "last"}}')
    assert find_checkpoint(folder.parent) == folder / "last.ckpt"
    (folder.parent / "metrics.json").write_text("[1]")
    assert find_checkpoint(folder.parent) == folder / "best.ckpt"
    assert find_checkpoint("some.ckpt") == find_checkpoint(Path("some.ckpt")) == Path("some.ckpt")
    (tmp_path / "outputs" / "latest").unlink()
    (tmp_path / "outputs" / "latest").symlink_to("train/removed")
    with pytest.raises(InputError, match="outputs/latest leads to no run"):
        find_checkpoint("latest")


def test_facts_are_the_model_the_rate_the_epoch_and_what_the_run_measured(tmp_path, info):
    (tmp_path / "checkpoints").mkdir()
    path = write(tmp_path / "checkpoints" / "best.ckpt", info)
    known = {"model": "tiny", "learning rate": "0.001", "checkpoint": str(path)}
    assert read_checkpoint(path).facts() == known
    raw = torch.load(path)
    raw["loops"] = {"fit_loop": {"epoch_progress": {"current": {"started": 2, "completed": 1}}}}
    torch.save(raw, path)
    written = {"metrics": {"test/accuracy": 0.8754}, "settings": {"checkpoint.keep": "best"}}
    (tmp_path / "metrics.json").write_text(json.dumps(written))
    assert read_checkpoint(path).facts() == known | {"epoch": "2", "test accuracy": "87.5 %"}
    other = shutil.copy(path, path.with_name("last.ckpt"))
    assert "test accuracy" not in read_checkpoint(other).facts(), "it is the kept checkpoint's"
    raw["loops"]["fit_loop"] = [1]
    torch.save(raw, path)
    (tmp_path / "metrics.json").write_text('{"metrics": {"test/accuracy": "high"}}')
    assert read_checkpoint(path).facts() == known
