"""Published weights into `bert.py`: found, verified, read and matched by name, strictly.

A model is a folder with `config.json`, `vocab.txt` and `model.safetensors` (or `pytorch_model.bin`): one on this
machine, one inside an installed package, or one fetched from the hub at a pinned revision. Nothing that is read can
run code, and a configured SHA-256 is checked before a byte is parsed.
"""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from bertlens.data.tokenizer import read_vocabulary
from bertlens.errors import InputError
from bertlens.model.bert import BertConfig, num_parameters
from bertlens.system.archive import load_archive

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILE = "tokenizer_config.json"  # the one file that not every model has
# what published checkpoints hold beside the encoder, and what a classifier has no use for
IGNORED_PREFIXES = ("cls.", "pooler.")
IGNORED_NAMES = ("embeddings.position_ids",)
# settings between 0 and 1, both left out
NUMBERS = ("layer_norm_eps", "initializer_range")
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """Where a model comes from. Part of every checkpoint: plain types only."""

    name: str  # a hub name or a folder
    revision: str | None = None  # of the hub's repository
    package: str | None = None  # an installed package that carries the same files
    sha256: Mapping[str, str] = field(default_factory=dict)  # file name -> expected digest; empty: not pinned


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model's folder after its files were found, verified and its shape read."""

    folder: Path
    weights_path: Path
    config: BertConfig
    vocabulary: list[str]
    lowercase: bool
    sha256: dict[str, str]  # file name -> digest of what was found


def find_pretrained(settings: PretrainedSettings) -> Pretrained:
    """Locate, verify and describe a model. Raises `InputError` if it is not there or not what it should be."""
    folder = _folder(settings)
    weights_path = _weights_in(folder)
    if weights_path is None:
        raise InputError(f"model.pretrained={folder}: no {' or '.join(WEIGHT_FILES)} in this folder")
    sha256 = _digests(weights_path, settings.sha256)
    for name, digest in sha256.items():
        # a pin list may leave out the smaller files, but not the weights
        expected = settings.sha256.get(name, "no such file" if name in WEIGHT_FILES else digest)
        if settings.sha256 and expected != digest:
            raise InputError(
                f"{folder / name}: its SHA-256 is {digest}, but {settings.name} was pinned with "
                f"{expected}: fetch the file again"
            )
    config = read_config(folder / "config.json")
    check_size(config, weights_path)
    vocabulary = read_vocabulary(folder / "vocab.txt")
    if len(vocabulary) > config.vocab_size:
        raise InputError(
            f"{folder / 'vocab.txt'}: {len(vocabulary)} word pieces, but config.json has vocab_size "
            f"{config.vocab_size}: the two files are of different models"
        )
    tokenizer_path = folder / TOKENIZER_FILE
    tokenizer_config = _read_json(tokenizer_path) if tokenizer_path.is_file() else {}
    return Pretrained(
        folder=folder,
        weights_path=weights_path,
        config=config,
        vocabulary=vocabulary,
        lowercase=bool(tokenizer_config.get("do_lower_case", True)),
        sha256=sha256,
    )


def _weights_in(folder: Path) -> Path | None:
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def _folder(settings: PretrainedSettings) -> Path:
    local = Path(settings.name).expanduser()
    if local.is_dir():
        return local
    if settings.package is not None:
        spec = importlib.util.find_spec(settings.package)
        if spec is not None and spec.origin is not None:
            inside = Path(spec.origin).parent / "model"
            if inside.is_dir():
                return inside
    if local.exists() or settings.name.startswith((".", "/", "~")):
        raise InputError(f"model.pretrained={settings.name!r}: not a folder on this machine, and not a hub name")
    try:
        # the cache first: a revision pinned to a commit never changes, so no request is made where the files are there
        cached = _snapshot(settings, local_files_only=True)
        # what another tool or an interrupted download left there may be a part only
        if (cached / "config.json").is_file() and (cached / "vocab.txt").is_file() and _weights_in(cached):
            return cached
    except Exception as error:
        log.debug("%s is not in the hub's cache: %s", settings.name, error)
    try:
        return _snapshot(settings, local_files_only=False)
    except Exception as error:  # of the hub or its HTTP client, whose errors share no closer base
        remedy = f", pip install {settings.package.replace('_', '-')}" if settings.package else ""
        raise InputError(
            f"model.pretrained={settings.name!r}: neither on this machine nor to be had from the hub "
            f"({type(error).__name__}). Without a network, set model.pretrained to a folder with config.json, "
            f"vocab.txt and model.safetensors{remedy} and data.path to a folder of reviews, or run experiment=demo"
        ) from error


def _snapshot(settings: PretrainedSettings, *, local_files_only: bool) -> Path:
    names = ["config.json", "vocab.txt", TOKENIZER_FILE]
    folder = Path(
        snapshot_download(
            settings.name,
            revision=settings.revision,
            allow_patterns=[*names, WEIGHT_FILES[0]],
            local_files_only=local_files_only,
        )
    )
    if not (folder / WEIGHT_FILES[0]).is_file():  # the old format only where the new one is not offered
        snapshot_download(
            settings.name,
            revision=settings.revision,
            allow_patterns=[*names, WEIGHT_FILES[1]],
            local_files_only=local_files_only,
        )
    return folder


def _digests(weights_path: Path, pinned: Mapping[str, str]) -> dict[str, str]:
    """The SHA-256 of every file that is read, the weights first."""
    folder = weights_path.parent
    paths = [weights_path, folder / "config.json", folder / "vocab.txt"]
    if TOKENIZER_FILE in pinned or (folder / TOKENIZER_FILE).is_file():
        paths.append(folder / TOKENIZER_FILE)
    return {path.name: _digest(path) for path in paths}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; model.pretrained needs this file") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not an object with the model's settings")
    return content


def read_config(path: Path) -> BertConfig:
    """The shape in a published `config.json`. Raises `InputError` for another architecture, naming it."""
    content = _read_json(path)
    expected = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    for key, value in expected.items():
        if content.get(key, value) != value:
            raise InputError(f"{path}: {key} is {content[key]!r}; this encoder is BERT's, with {key} {value!r}")
    sizes = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
    )
    probabilities = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    wrong = [
        f"{key}={content.get(key)!r}"
        for key in sizes
        if type(content.get(key)) is not int or not 1 <= content[key] < 2**24
    ]
    wrong += [
        f"{key}={content[key]!r}"
        for key in probabilities
        if key in content and not (isinstance(content[key], int | float) and 0 <= content[key] < 1)
    ]
    wrong += [
        f"{key}={content[key]!r}"
        for key in NUMBERS
        if key in content and not (isinstance(content[key], int | float) and 0 < content[key] < 1)
    ]
    padding = content.get("pad_token_id", 0)
    if not wrong and not (type(padding) is int and 0 <= padding < content["vocab_size"]):
        wrong.append(f"pad_token_id={padding!r}")
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)}: missing or out of range for a BERT model")
    fields = {*sizes, *probabilities, *NUMBERS, "pad_token_id"}
    return BertConfig(**{key: value for key, value in content.items() if key in fields})


def check_size(config: BertConfig, weights_path: Path) -> None:
    """Raises `InputError` for a config.json of a larger model than the weights: building it might take all memory."""
    wanted, found = num_parameters(config), weights_path.stat().st_size
    if wanted > found:  # no published format takes less than a byte a parameter
        raise InputError(
            f"{weights_path.parent / 'config.json'}: describes a model of {wanted:,} parameters, and "
            f"{weights_path} has {found:,} bytes: one of the two is damaged or of another model"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file under today's names, in fp32. Raises `InputError` if it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            tensors = load_safetensors(path.read_bytes())
        else:
            tensors = load_archive(path, or_legacy=True)
    except Exception as error:  # a damaged pickle can fail in any way: IndexError, struct.error, AssertionError ...
        raise InputError(
            f"{path}: not readable as weights ({_first_line(error)}): cut short or damaged; fetch the file again"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise InputError(f"{path}: holds something other than named tensors; is it a model's weights file?")
    weights = {_today(name): tensor.float() for name, tensor in tensors.items()}
    if broken := sorted(name for name, tensor in weights.items() if not tensor.isfinite().all()):
        raise InputError(f"{path}: values that are no numbers in {_few(broken)}; fetch the file again")
    return weights


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _today(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `weights` into `module`; every name must match, with its shape, but for the few ignored on purpose.

    Raises `InputError` that lists what is missing, what is unexpected and what has another shape.
    """
    own = module.state_dict()
    offered = {
        name: tensor
        for name, tensor in weights.items()
        if name in own or not (name.startswith(IGNORED_PREFIXES) or name in IGNORED_NAMES)
    }
    problems = {
        "missing": sorted(own.keys() - offered.keys()),
        "unexpected": sorted(offered.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
            for name, tensor in sorted(offered.items())
            if name in own and tensor.shape != own[name].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_few(names)}" for kind, names in problems.items() if names)
        raise InputError(f"{source}: its weights do not fit the model: {listed}")
    module.load_state_dict(offered)


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
