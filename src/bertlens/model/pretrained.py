"""Verify a published model's files, and load them into `bert.py` by name, strictly.

Reading them runs no code, and a pinned SHA-256 is checked before a file is parsed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from bertlens.data.tokenizer import read_vocabulary
from bertlens.errors import InputError
from bertlens.model.bert import BertConfig, num_parameters
from bertlens.model.published import TOKENIZER_FILE, WEIGHT_FILES, find_folder, find_weights
from bertlens.model.settings import ModelSettings
from bertlens.system.archive import load_archive

# what published checkpoints hold besides the encoder, and a classifier does not need
IGNORED_PREFIXES = ("cls.", "pooler.")
IGNORED_NAMES = ("embeddings.position_ids",)
ARCHITECTURE = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

MAX_SIZE = 2**24  # of any size in config.json


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A published model whose files were found and verified."""

    weights_path: Path
    config: BertConfig
    vocabulary: list[str]
    lowercase: bool
    sha256: dict[str, str]  # file name: digest of what was found


def find_pretrained(model: ModelSettings, *, sha256: Mapping[str, str] | None = None) -> Pretrained:
    """Find and verify the files of `model.pretrained`.

    sha256: expected digests by file name, instead of the pins in `model.published`. Raises `InputError` if a file is
    missing, is not the expected one, or does not describe a BERT model.
    """
    folder, pins = find_folder(model)
    weights_path = find_weights(folder)
    if weights_path is None:
        raise InputError(f"model.pretrained={folder}: no {' or '.join(WEIGHT_FILES)} in this folder")
    found = _verify(weights_path, pins if sha256 is None else sha256)
    config = read_config(folder / "config.json")
    _check_size(config, weights_path)
    vocabulary = read_vocabulary(folder / "vocab.txt")
    if len(vocabulary) > config.vocab_size:
        raise InputError(
            f"{folder / 'vocab.txt'}: {len(vocabulary)} word pieces, but config.json has vocab_size "
            f"{config.vocab_size}: the two files belong to different models"
        )
    tokenizer_config = _read_json(folder / TOKENIZER_FILE) if TOKENIZER_FILE in found else {}
    lowercase = bool(tokenizer_config.get("do_lower_case", True))
    return Pretrained(
        weights_path=weights_path, config=config, vocabulary=vocabulary, lowercase=lowercase, sha256=found
    )


def _verify(weights_path: Path, pins: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each file that is read. Raises `InputError` if one is missing or differs from its pin.

    Pins may leave out the smaller files, but not the weights.
    """
    folder = weights_path.parent
    names = [weights_path.name, "config.json", "vocab.txt"]
    if TOKENIZER_FILE in pins or (folder / TOKENIZER_FILE).is_file():
        names.append(TOKENIZER_FILE)
    found = {name: _hash_file(folder / name) for name in names}
    for name, digest in found.items():
        expected = pins.get(name, "no such file" if name in WEIGHT_FILES else digest)
        if pins and expected != digest:
            raise InputError(
                f"{folder / name}: its SHA-256 is {digest}, but the model was pinned with {expected}: "
                "fetch the file again"
            )
    return found


def _hash_file(path: Path) -> str:
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
    """Read a published `config.json`. Raises `InputError` for another architecture, or a value out of range."""
    content = _read_json(path)
    for key, expected in ARCHITECTURE.items():
        if content.get(key, expected) != expected:
            raise InputError(f"{path}: {key} is {content[key]!r}; this encoder is BERT's, with {key} {expected!r}")
    values = {field.name: content.get(field.name, field.default) for field in fields(BertConfig)}
    wrong = [f"{key}={content.get(key)!r}" for key, value in values.items() if not _is_valid(key, value)]
    if not wrong and values["pad_token_id"] >= values["vocab_size"]:
        wrong = [f"pad_token_id={values['pad_token_id']!r}"]
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)}: missing or out of range for a BERT model")
    return BertConfig(**values)


def _is_valid(key: str, value: Any) -> bool:
    """Return whether a value of config.json has its key's type and lies in its range."""
    if key.endswith("_prob"):
        return isinstance(value, int | float) and 0 <= value < 1
    if key in ("layer_norm_eps", "initializer_range"):
        return isinstance(value, float) and 0 < value < 1
    return type(value) is int and (0 if key == "pad_token_id" else 1) <= value < MAX_SIZE


def _check_size(config: BertConfig, weights_path: Path) -> None:
    """Raise `InputError` if config.json describes a larger model than the weights: it could fill the memory."""
    wanted, found = num_parameters(config), weights_path.stat().st_size
    if wanted > found:  # every published format takes at least one byte per parameter
        raise InputError(
            f"{weights_path.parent / 'config.json'}: describes a model of {wanted:,} parameters, but "
            f"{weights_path} has {found:,} bytes: one of the two is damaged, or belongs to another model"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a weights file under today's names, in fp32. Raises `InputError` if it is damaged."""
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else load_archive(path, or_legacy=True)
    except Exception as error:  # a damaged pickle can raise anything: IndexError, struct.error, AssertionError
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"{path}: not readable as weights ({reason}): cut short or damaged; fetch the file again"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise InputError(f"{path}: holds something other than named tensors; is it the weights file of a model?")
    weights = {_rename(name): tensor.float() for name, tensor in tensors.items()}
    if broken := sorted(name for name, tensor in weights.items() if not tensor.isfinite().all()):
        raise InputError(f"{path}: NaN or infinity in {_list_few(broken)}; fetch the file again")
    return weights


def _rename(name: str) -> str:
    """Return a parameter's name in `bert.py`."""
    name = name.removeprefix("bert.")
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `weights` into `module`. Every name must match, with its shape, except those ignored on purpose.

    Raises `InputError` that lists the names that are missing, are unexpected, or have another shape.
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
        listed = "; ".join(f"{kind}: {_list_few(names)}" for kind, names in problems.items() if names)
        raise InputError(f"{source}: the weights do not fit the model: {listed}")
    module.load_state_dict(offered)


def _list_few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
