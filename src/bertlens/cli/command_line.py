"""Between what a person types and what Hydra reads: short forms written out, misspelt keys named, in one line."""

import argparse
import re
import shlex
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bertlens.config import CONF, keys_of, nearest_key
from bertlens.errors import InputError
from bertlens.run.folder import relative

FREE_TEXT = ("text", "file")


def for_hydra(given: list[str], schema: type) -> list[str]:
    """A command line as Hydra reads it. Raises `InputError` for an option or a key that does not exist."""
    _check_flags(given)
    return _shared_store([spelt_out(argument, schema) for argument in given])


def _check_flags(arguments: list[str]) -> None:
    """Raises `InputError` for an option that Hydra does not have; argparse itself would print its usage first."""

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message} (--hydra-help lists the options; a key is set as KEY=VALUE)")

    parser: argparse.ArgumentParser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(arguments)


def spelt_out(argument: str, schema: type) -> str:
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


def resume_command(given: list[str], key: str, folder: Path) -> str:
    """What to type to go on with what was `given`, in the folder that `key` sets."""
    kept = [argument for argument in given if not argument.startswith((f"{key}=", "resume="))]
    path = relative(folder)
    quoted = path if re.fullmatch(r"[\w./-]+", path) else "'" + path.replace("'", "\\'") + "'"
    # beside the other settings: Hydra takes none after an option that follows one
    place = next((index for index, argument in enumerate(kept) if "=" in argument and argument[0] != "-"), len(kept))
    return shlex.join(["python", "train.py", *kept[:place], f"{key}={quoted}", "resume=auto", *kept[place:]])
