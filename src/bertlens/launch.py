"""From a command line to a task: Hydra composes, the schema checks, a user's mistake becomes one line."""

import argparse
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bertlens.config import SCHEMAS, keys_of, nearest_key, typed
from bertlens.errors import InputError
from bertlens.escape import VisibleLines, one_line_of, visible
from bertlens.memory import keep_freed_memory

CONF = Path(__file__).resolve().parents[2] / "conf"
FULL_ERROR = "HYDRA_FULL_ERROR"
ERROR_FILE = "error.txt"
USERS_ERRORS = (InputError, HydraException, OmegaConfBaseException, MisconfigurationException)
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
            known = _is_users(error)
            if full_error == "1" or not (known or is_sweep()):
                raise
            if not known:
                print(visible(traceback.format_exc()), file=sys.stderr)
            line = one_line(error)
            print(f"error: {line}", file=sys.stderr)
            if not is_sweep():
                raise SystemExit(1) from error
            # the other jobs go on; the table at the end names this one and the exit status tells
            (run_folder / ERROR_FILE).write_text(line + "\n", encoding="utf-8")

    try:
        _check_flags(sys.argv[1:])
        sys.argv[1:] = _shared_store([_spelt_out(argument, schema) for argument in sys.argv[1:]])
        os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors instead of printing them over several lines
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)()
    except Exception as error:
        if full_error == "1" or not _is_users(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from error


def is_sweep() -> bool:
    """Whether this run is one job of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _is_users(error: Exception) -> bool:
    """Whether it is for the user to mend: a setting, or a file that cannot be made or read, such as on a full disk."""
    if isinstance(error, USERS_ERRORS):
        return True
    return isinstance(error, OSError) and error.filename is not None


def _check_flags(arguments: list[str]) -> None:
    """Raises `InputError` for an option that Hydra does not have; argparse itself would print its usage first."""

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message} (--hydra-help lists the options; a key is set as KEY=VALUE)")

    parser: argparse.ArgumentParser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's notes on what is meant here, left out; its warnings on anything else come through."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(VisibleLines("%(message)s"))
    logging.basicConfig(handlers=[terminal], level=logging.WARNING)
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
    if argument.startswith("="):
        raise InputError(f"{argument}: a value without a key; write KEY=VALUE")
    known = keys_of(schema)
    if argument.startswith("checkpoint=") and "checkpoint.path" in known:
        argument = argument.replace("checkpoint=", "checkpoint.path=", 1)
    name, value = argument.split("=", 1)
    if name in FREE_TEXT and name in known and value[:1] not in ("[", "'", '"', ""):
        # what a person writes is no value of Hydra's grammar: quote it for them
        # there a backslash is one of two only before a quote, and ${ would begin an interpolation
        escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value)
        return f"{name}='" + escaped.replace("${", "\\${") + "'"
    override = _parsed(argument)
    key = override.key_or_group.split("@")[0]
    is_group = (CONF / key).is_dir()
    inside_free_section = any(key.startswith(f"{free}.") for free in ("hydra", "callbacks", "model.published"))
    is_section = any(name.startswith(f"{key}.") for name in known)
    if is_section and not is_group and not isinstance(override.value(), dict):
        raise InputError(f"{argument}: {key} is a section of keys (--help lists them); set one, as {key}.KEY=VALUE")
    if key in known or is_group or is_section or inside_free_section or key.startswith("hydra/"):
        return argument
    nearest = nearest_key(key, schema)
    hint = f"; did you mean {nearest}?" if nearest else ""
    raise InputError(f"{key}: no such key{hint} (--help lists all)")


def _parsed(argument: str) -> Override:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise InputError(f"{argument}: not KEY=VALUE as Hydra reads it ({error}); quote what is special") from error


def _shared_store(arguments: list[str]) -> list[str]:
    """A sweep over `model.trainable_layers` told to build one store that serves all its jobs."""
    for argument in arguments:
        if argument.startswith("model.trainable_layers="):
            override = _parsed(argument)
            if override.is_sweep_override():
                layers = [value for value in override.sweep_iterator() if isinstance(value, int)]
                if layers and not any(a.startswith("features.max_trainable_layers=") for a in arguments):
                    return [*arguments, f"features.max_trainable_layers={max(layers)}"]
    return arguments


def one_line(error: BaseException) -> str:
    """An error as a single line, with control characters spelt out."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename!r}: {error.strerror}"
    elif not isinstance(error, USERS_ERRORS):
        text = f"{type(error).__name__}: {text}"
    return one_line_of(text)


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
