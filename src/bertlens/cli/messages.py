"""Errors as one line each, for the person who can mend them."""

import difflib

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bertlens.errors import InputError
from bertlens.system.escape import one_line_of
from bertlens.system.settings import keys

USERS_ERRORS = (InputError, HydraException, OmegaConfBaseException, yaml.YAMLError)
LIGHTNINGS_ERROR = "MisconfigurationException"  # by name: importing it would take seconds


def is_for_the_user(error: BaseException) -> bool:
    """Return whether a line says all: a wrong setting, or a file that could not be read or written, with its path."""
    if isinstance(error, USERS_ERRORS) or type(error).__name__ == LIGHTNINGS_ERROR:
        return True
    return isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror is not None


def one_line(error: BaseException, schema: type | None = None) -> str:
    """Return an error as one line, with control characters spelt out; an unknown key with the nearest known one."""
    text = str(error) or type(error).__name__
    wrong = next((each for each in (error, error.__cause__) if getattr(each, "full_key", None)), None)
    if wrong is not None and isinstance(wrong, OmegaConfBaseException):
        key = str(wrong.full_key)
        known = keys(schema) if schema is not None else {}
        if type(wrong).__name__ in ("ConfigAttributeError", "ConfigKeyError") and key not in known:
            text = f"{key}: no such key{_nearest(key, list(known))} (--help lists the keys)"
        else:
            text = f"{key}: {(str(wrong) or text).splitlines()[0]}"
    elif not is_for_the_user(error):
        text = f"{type(error).__name__}: {text}"
    elif isinstance(error, OSError) and not isinstance(error, HydraException):
        text = f"{error.filename}: {error.strerror}"
    return one_line_of(text.partition("Config search path:")[0])


def _nearest(key: str, known: list[str]) -> str:
    last = key.rsplit(".", 1)[-1]
    near = [name for name in known if name.rsplit(".", 1)[-1] == last] or difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
