"""--help: first the keys that people set, then any section by its name, in 80 columns."""

import json
import shlex
import textwrap
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from bertlens.config import SCHEMAS
from bertlens.errors import InputError
from bertlens.system.settings import keys, type_names

WIDTH = 80
PURPOSES = {
    "train": "Fine-tune BERT on reviews and measure the test reviews.",
    "evaluate": "Measure a checkpoint on test reviews.",
    "visualize": "Show which words a checkpoint's predictions rest on.",
    "predict": "Predict new texts: a file of rows in, the same rows with their predictions out.",
    "export": "Write a checkpoint as transformers or an ONNX runtime open it.",
}
FIRST = (
    "checkpoint", "reviews", "indices", "text", "file", "output", "format", "text_column", "explain", "quantize",
    "explain.methods", "data.path", "data.train_file", "data.test_file", "data.truncation", "model.trainable_layers",
    "optimizer.lr", "trainer.max_epochs", "trainer.devices", "checkpoint.path", "report",
)  # fmt: skip
GROUPS = ("model", "data", "experiment", "logger", "callbacks")  # of train


def show_help(name: str, given: list[str], conf: Path, program: list[str]) -> None:
    """Print the keys that people set first, or those of the named sections, with the values that `given` leads to."""
    schema = SCHEMAS[name]
    sections = [argument for argument in given if "=" not in argument and not argument.startswith("-")]
    known, types = keys(schema), type_names(schema)
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = compose(name, [argument for argument in given if "=" in argument])
    all_sections = list(dict.fromkeys(key.split(".")[0] for key in known if "." in key))
    if unknown := [section for section in sections if section not in [*all_sections, "all", "other"]]:
        raise InputError(f"--help {unknown[0]}: no such section; there are {', '.join(all_sections)}, other and all")
    print(f"{PURPOSES[name]}\n\nusage: {shlex.join(program)} [KEY=VALUE ...]\n")
    first = [key for key in FIRST if key in known and (name == "train" or key != "trainer.max_epochs")]
    for key in known if sections else first:
        section = key.split(".")[0] if "." in key else "other"
        if not sections or section in sections or "all" in sections:
            kind = "|".join(map(str, known[key].choices)) or types[key]
            shown = f"  {key}={_shown(OmegaConf.select(composed, key, default='PATH'))}"
            typed = f"{shown}  ({kind})"
            print(shown if kind == "any" or len(typed) > WIDTH else typed)
            print(textwrap.fill(known[key].meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    if sections:
        return
    print()
    if name == "train":
        for group in GROUPS:
            print(f"  {group}=" + "|".join(sorted(path.stem for path in (conf / group).glob("*.yaml"))))
        print()
    more = f"--help SECTION lists the keys of {', '.join(all_sections)} or other; --help all, every key."
    if not all_sections:
        more = "--help all lists every key."
    print(textwrap.fill(more, WIDTH))
    if name == "train":
        print("Separate several values by commas and add -m to run each: -m seed=1,2,3")
    print("Hydra's own options: --hydra-help")


def _shown(value: Any) -> str:
    """Return a value as one types it; of a section of one's own, the names in it."""
    if isinstance(value, DictConfig):
        return "{" + ", ".join(map(str, value)) + "}"
    return (
        value
        if isinstance(value, str)
        else json.dumps(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
    )
