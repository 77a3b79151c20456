"""From a command line to a task: Hydra composes, the schema checks, a user's mistake becomes one line."""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bertlens.config import SCHEMAS, keys_of, nearest_key, typed
from bertlens.errors import InputError
from bertlens.files import atomic_write
from bertlens.memory import keep_freed_memory

CONF = Path(__file__).resolve().parents[2] / "conf"
FULL_ERROR = "HYDRA_FULL_ERROR"
ERROR_FILE = "error.txt"
FREE_TEXT = ("text", "file")

HELP = """{purpose}

Keys, each set as KEY=VALUE (separate several values by commas and add -m to run them all):

{keys}

Groups: {groups}
A key that belongs to a group is best set after it: model=minilm model.trainable_layers=2.
Hydra's own options: python {name}.py --hydra-help
"""
PURPOSES = {
    "train": "Fine-tune BERT on reviews and measure the test reviews.",
    "evaluate": "Measure a checkpoint on test reviews: python evaluate.py checkpoint=PATH",
    "visualize": "Show which words a checkpoint's verdicts rest on: python visualize.py checkpoint=PATH",
}


def launch(name: str, task: Callable[[Any, Path], object]) -> None:
    """Run `task(config, run_folder)` under Hydra with conf/<name>.yaml; a sweep runs it once a job.

    Exits with status 1 after one line on stderr when the user can mend what went wrong. With HYDRA_FULL_ERROR=1 there
    is a traceback instead.
    """
    schema = SCHEMAS[name]
    full_error = os.environ.get(FULL_ERROR)
    keep_freed_memory()
    OmegaConf.register_new_resolver("bertlens_help", help_text, replace=True)

    def job(composed: DictConfig) -> None:
        if full_error is None:
            os.environ.pop(FULL_ERROR, None)
        run_folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            with _quiet():
                task(typed(composed, schema), run_folder)
        except Exception as error:
            known = is_for_the_user(error)
            if full_error == "1" or not (known or is_sweep()):
                raise
            if not known:
                traceback.print_exc()
            line = one_line(error)
            print(f"error: {line}", file=sys.stderr)
            if not is_sweep():
                raise SystemExit(1) from error
            # the other jobs go on; the table at the end names this one and the exit status tells
            with suppress(OSError):  # where nothing can be written the table says that it did not finish
                write_error(run_folder, line)

    try:
        sys.argv[1:] = _shared_store([_spelt_out(argument, schema) for argument in sys.argv[1:]])
        os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors instead of printing them over several lines
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)()
    except (InputError, HydraException, OmegaConfBaseException, OSError) as error:
        if full_error == "1" or not is_for_the_user(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from error


def is_for_the_user(error: BaseException) -> bool:
    """Whether a line says all: a wrong setting, or a file that could not be read or written, with its path."""
    if isinstance(error, InputError | HydraException | OmegaConfBaseException):  # some of Hydra's are OSErrors too
        return True
    return _names_a_file(error)


def _names_a_file(error: BaseException) -> bool:
    return isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror is not None


def write_error(folder: Path, line: str) -> None:
    """Why a job of a sweep failed, for the table at its end."""
    with atomic_write(folder / ERROR_FILE, "w") as file:
        file.write(line + "\n")


def is_sweep() -> bool:
    """Whether this run is one job of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's notes on what is meant here, left out; its warnings on anything else come through."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("bertlens").setLevel(logging.INFO)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # advertising, and which devices it sees
    with warnings.catch_warnings():
        # the frozen prefix is in eval mode on purpose; batches are one vectorised look-up and need no workers
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        yield


def _spelt_out(argument: str, schema: type) -> str:
    """An override with its short form written out. Raises `InputError` for a key that the schema does not have."""
    if argument.startswith("-") or "=" not in argument:
        return argument
    known = keys_of(schema)
    if argument.startswith("checkpoint=") and "checkpoint.path" in known:
        return argument.replace("checkpoint=", "checkpoint.path=", 1)
    name, value = argument.split("=", 1)
    if name in FREE_TEXT and name in known and value[:1] not in ("[", "'", '"', ""):
        # what a person writes is no value of Hydra's grammar: quote it for them
        # there a backslash is one of two only before a quote, and ${ would begin an interpolation
        escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value)
        return f"{name}='" + escaped.replace("${", "\\${") + "'"
    override = OverridesParser.create().parse_override(argument)
    key = override.key_or_group.split("@")[0]
    is_group = (CONF / key).is_dir()
    inside_free_section = any(key.startswith(f"{free}.") for free in ("hydra", "callbacks", "model.published"))
    is_section = any(name.startswith(f"{key}.") for name in known)
    if key in known or is_group or is_section or inside_free_section or key.startswith("hydra/"):
        return argument
    nearest = nearest_key(key, schema)
    hint = f"; did you mean {nearest}?" if nearest else ""
    raise InputError(f"{key}: no such key{hint} (--help lists all)")


def _shared_store(arguments: list[str]) -> list[str]:
    """A sweep over `model.trainable_layers` told to build one store that serves all its jobs."""
    for argument in arguments:
        if argument.startswith("model.trainable_layers="):
            override = OverridesParser.create().parse_override(argument)
            if override.is_sweep_override():
                layers = [value for value in override.sweep_iterator() if isinstance(value, int)]
                if layers and not any(a.startswith("features.max_trainable_layers=") for a in arguments):
                    return [*arguments, f"features.max_trainable_layers={max(layers)}"]
    return arguments


def one_line(error: BaseException) -> str:
    """An error as a single line without control characters."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and _names_a_file(error):
        text = f"{error.filename}: {error.strerror}"
    elif not is_for_the_user(error):
        text = f"{type(error).__name__}: {text}"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def help_text(name: str) -> str:
    """What --help prints: every key with its meaning."""
    keys = keys_of(SCHEMAS[name])
    width = max(map(len, keys))
    groups = [
        f"{folder.name}={'|'.join(sorted(path.stem for path in folder.glob('*.yaml')))}"
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and name == "train"
    ]
    text = HELP.format(
        purpose=PURPOSES[name],
        keys="\n".join(f"  {key:<{width}}  {meaning}" for key, meaning in keys.items()),
        groups=", ".join(groups) or "none",
        name=name,
    )
    return text.replace("$", "$$")  # Hydra takes this for a string.Template
