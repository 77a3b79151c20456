"""Which objects a configuration may name: few, each by its whole name, wherever the configuration comes from."""

import re
from collections.abc import Iterator
from typing import Any

import pytorch_lightning.callbacks
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bertlens.errors import InputError

# What a configuration may name, by the key that names it. Whole names: behind a prefix such as
# pytorch_lightning.callbacks. there are also the modules that those modules import.
ALLOWED_NAMES: dict[str, frozenset[str]] = {
    "_target_": frozenset(f"pytorch_lightning.callbacks.{name}" for name in pytorch_lightning.callbacks.__all__)
    | {
        "bertlens.run.sweep.SweepTable",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    },
    # in hydra.job_logging and hydra.hydra_logging, which Python's logging makes objects of
    "class": frozenset(f"logging.{name}" for name in ("StreamHandler", "FileHandler", "NullHandler", "Formatter"))
    | {"logging.handlers.RotatingFileHandler", "logging.handlers.TimedRotatingFileHandler"},
    "()": frozenset({"colorlog.ColoredFormatter"}),
    "ext://": frozenset({"ext://sys.stdout", "ext://sys.stderr"}),
}
ALLOWED_IN_WORDS = {
    "_target_": "only pytorch_lightning.callbacks.NAME, with a callback's own name,",
    "class": "only handlers of logging",
    "()": "only colorlog.ColoredFormatter",
    "ext://": "only ext://sys.stdout and ext://sys.stderr",
}
# an interpolation that has no value before the run, and that gives a string or a part of what is checked anyway
HARMLESS_INTERPOLATION = re.compile(r"\$\{(?:(?:hydra|now|oc\.env):[^${}]*|[^:${}]*)\}")


def check_names(composed: DictConfig) -> None:
    """Refuse whatever would make an object that conf/ has no need of. Raises one `InputError` with all of it.

    Hydra makes objects of its own section before a task begins, so this is for a configuration as composed.
    """
    try:
        problems = list(forbidden_names(_plain(composed, "")))
    except RecursionError as error:
        raise InputError("configuration: refers to itself without end") from error
    if OmegaConf.select(composed, "hydra.job.env_set"):
        # PATH among them would choose the programs that a run starts
        problems.append("hydra.job.env_set: set environment variables where you start the run")
    if problems:
        raise InputError("; ".join(problems))


def forbidden_names(node: Any, key: str = "") -> Iterator[str]:
    """A problem for each object that is named anywhere in plain dictionaries and lists, but for those allowed."""
    for last, value in _items(node):
        here = f"{key}.{last}" if key else str(last)
        kind = "ext://" if isinstance(value, str) and value.startswith("ext://") else last
        if kind in ALLOWED_NAMES and not (isinstance(value, str) and value in ALLOWED_NAMES[kind]):
            yield f"{here}={value}: {ALLOWED_IN_WORDS[kind]} may be named"
        else:
            yield from forbidden_names(value, here)


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def _plain(node: DictConfig | ListConfig, key: str) -> dict[Any, Any] | list[Any]:
    """A composed configuration as dictionaries and lists; an interpolation as what it stands for, if it does yet."""
    raw = OmegaConf.to_container(node, resolve=False)
    found = {}
    for last, value in _items(raw):
        here = f"{key}.{last}" if key else str(last)
        if OmegaConf.is_missing(node, last):
            continue
        if OmegaConf.is_interpolation(node, last):
            found[last] = _interpolated(node, last, here, value)
        else:
            found[last] = node[last]
        if OmegaConf.is_config(found[last]):
            found[last] = _plain(found[last], here)
    return found if isinstance(raw, dict) else list(found.values())


def _interpolated(node: DictConfig | ListConfig, last: Any, here: str, written: Any) -> Any:
    if last in ALLOWED_NAMES:
        return written  # what names an object stands there in full: no interpolation is in the list of those allowed
    try:
        return node[last]
    except OmegaConfBaseException as error:
        if "${" in HARMLESS_INTERPOLATION.sub("", str(written)):
            raise InputError(f"{here}={written}: has no value before the run, and might then name an object") from error
        return written
